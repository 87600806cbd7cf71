//! From frames to bytes.

use bytes::Bytes;
use quorate_kv::Outcome;
use quorate_raft::{Body, Entry, Message};
use thiserror::Error;

use super::status::write_status;
use super::{Batch, kind, tag};
use crate::transport::{
    Frame, GroupMessage, Refusal, Reply, ReplyBody, Request, RequestBody, SnapshotAck,
    SnapshotAckStatus, SnapshotChunk, SnapshotTransfer,
};

/// Why a frame cannot be sent over a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Over the limit, which the receiver would close the connection for.
    #[error("the body of the frame has {bytes} bytes and the limit is {max}: send less at once")]
    TooLong {
        /// The length of the body.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Holds something that this version of the protocol has no bytes for.
    #[error("the frame holds a value that this protocol version cannot carry")]
    NoEncoding,
}

/// Encodes a frame with its header into one buffer.
pub fn encode_frame(frame: &Frame, body_bytes_max: usize) -> Result<Vec<u8>, EncodeError> {
    let bytes = body_bytes(frame)?;
    if bytes > body_bytes_max {
        return Err(EncodeError::TooLong {
            bytes,
            max: body_bytes_max,
        });
    }
    let mut batch = Batch::new();
    batch.push(frame)?;
    Ok(batch.to_vec())
}

/// The length of a frame's body on the wire.
pub(crate) fn body_bytes(frame: &Frame) -> Result<usize, EncodeError> {
    let mut count = Count(0);
    write_body(frame, &mut count)?;
    Ok(count.0)
}

/// Makes of a frame frames that each keep to the limit, with the length of each body.
///
/// Only [`Frame::Raft`] can be taken apart, between messages: these are independent, and a peer
/// that is far behind in many groups at once would otherwise never be served. `Err` if one piece
/// alone is too long.
pub(crate) fn split(
    frame: Frame,
    body_bytes_max: usize,
) -> Result<Vec<(Frame, usize)>, EncodeError> {
    let bytes = body_bytes(&frame)?;
    if bytes <= body_bytes_max {
        return Ok(vec![(frame, bytes)]);
    }
    let Frame::Raft(messages) = frame else {
        return Err(EncodeError::TooLong {
            bytes,
            max: body_bytes_max,
        });
    };
    let mut frames = Vec::new();
    let mut part = Vec::new();
    let mut part_bytes = RAFT_FIXED_BYTES;
    for message in messages.into_iter().filter(is_sent) {
        let mut count = Count(0);
        write_message(&message, &mut count);
        let alone = RAFT_FIXED_BYTES + count.0;
        if alone > body_bytes_max {
            return Err(EncodeError::TooLong {
                bytes: alone,
                max: body_bytes_max,
            });
        }
        if part_bytes + count.0 > body_bytes_max {
            frames.push((Frame::Raft(std::mem::take(&mut part)), part_bytes));
            part_bytes = RAFT_FIXED_BYTES;
        }
        part_bytes += count.0;
        part.push(message);
    }
    frames.push((Frame::Raft(part), part_bytes));
    Ok(frames)
}

/// From, to, count: what a Raft body has before its messages.
const RAFT_FIXED_BYTES: usize = 8 + 8 + 4;

/// Where a body is written to.
pub(super) trait Sink {
    /// Bytes that are copied.
    fn put(&mut self, bytes: &[u8]);

    /// The bytes of a payload, which may be shared instead.
    fn shared(&mut self, bytes: &Bytes);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// A number of things. Saturates: a body with so many is over every limit, and is refused by
    /// its length before it is written.
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn payload(&mut self, bytes: &Bytes) {
        self.count(bytes.len());
        self.shared(bytes);
    }
}

/// The sink that only counts.
struct Count(usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn shared(&mut self, bytes: &Bytes) {
        self.0 += bytes.len();
    }
}

pub(super) fn kind_of(frame: &Frame) -> u8 {
    match frame {
        Frame::Raft(_) => kind::RAFT,
        Frame::SnapshotChunk(_) => kind::SNAPSHOT_CHUNK,
        Frame::SnapshotAck(_) => kind::SNAPSHOT_ACK,
        Frame::Request(_) => kind::REQUEST,
        Frame::Reply(_) => kind::REPLY,
        Frame::Status(_) => kind::STATUS,
    }
}

pub(super) fn write_body(frame: &Frame, sink: &mut impl Sink) -> Result<(), EncodeError> {
    match frame {
        Frame::Raft(messages) => write_raft(messages, sink),
        Frame::SnapshotChunk(chunk) => write_chunk(chunk, sink),
        Frame::SnapshotAck(ack) => write_ack(ack, sink),
        Frame::Request(request) => write_request(request, sink),
        Frame::Reply(reply) => write_reply(reply, sink)?,
        Frame::Status(status) => write_status(status, sink),
    }
    Ok(())
}

/// One sender and one receiver stand for all messages: a frame is what one node has for another.
fn write_raft(messages: &[GroupMessage], sink: &mut impl Sink) {
    let ends = messages
        .first()
        .map_or((0, 0), |m| (m.message.from.0, m.message.to.0));
    let addressed = |m: &&GroupMessage| {
        let same = (m.message.from.0, m.message.to.0) == ends;
        debug_assert!(
            same,
            "all messages of a frame have one sender and one receiver"
        );
        same && is_sent(m)
    };
    sink.u64(ends.0);
    sink.u64(ends.1);
    sink.count(messages.iter().filter(addressed).count());
    for message in messages.iter().filter(addressed) {
        write_message(message, sink);
    }
}

/// Whether a message is one that travels. A core that lets the other kind out is wrong; on the wire
/// it is left out, for the receiver would believe that it has a snapshot.
fn is_sent(message: &GroupMessage) -> bool {
    let sent = !matches!(message.message.body, Body::SnapshotReceived { .. });
    debug_assert!(
        sent,
        "snapshot-received is handed to the own core, never sent"
    );
    sent
}

fn write_message(message: &GroupMessage, sink: &mut impl Sink) {
    let GroupMessage {
        group,
        message: Message { term, body, .. },
    } = message;
    sink.u64(group.0);
    sink.u64(term.0);
    match body {
        Body::PreVote {
            last_index,
            last_term,
        } => {
            sink.u8(tag::PRE_VOTE);
            sink.u64(last_index.0);
            sink.u64(last_term.0);
        }
        Body::PreVoteReply { granted } => {
            sink.u8(tag::PRE_VOTE_REPLY);
            sink.u8(u8::from(*granted));
        }
        Body::Vote {
            last_index,
            last_term,
            transfer,
        } => {
            sink.u8(tag::VOTE);
            sink.u64(last_index.0);
            sink.u64(last_term.0);
            sink.u8(u8::from(*transfer));
        }
        Body::VoteReply { granted } => {
            sink.u8(tag::VOTE_REPLY);
            sink.u8(u8::from(*granted));
        }
        Body::Append {
            prev_index,
            prev_term,
            commit,
            round,
            entries,
        } => {
            sink.u8(tag::APPEND);
            sink.u64(prev_index.0);
            sink.u64(prev_term.0);
            sink.u64(commit.0);
            sink.u64(round.0);
            write_entries(entries, sink);
        }
        Body::AppendAccepted { match_index, round } => {
            sink.u8(tag::APPEND_ACCEPTED);
            sink.u64(match_index.0);
            sink.u64(round.0);
        }
        Body::AppendRejected {
            prev_index,
            hint_index,
            hint_term,
            round,
        } => {
            sink.u8(tag::APPEND_REJECTED);
            sink.u64(prev_index.0);
            sink.u64(hint_index.0);
            sink.u64(hint_term.0);
            sink.u64(round.0);
        }
        Body::Heartbeat { commit, round } => {
            sink.u8(tag::HEARTBEAT);
            sink.u64(commit.0);
            sink.u64(round.0);
        }
        Body::HeartbeatReply { round } => {
            sink.u8(tag::HEARTBEAT_REPLY);
            sink.u64(round.0);
        }
        Body::TimeoutNow => sink.u8(tag::TIMEOUT_NOW),
        Body::SnapshotReceived { .. } => unreachable!("is_sent has left these out"),
    }
}

/// Each entry carries its index although it follows from the place: a sender that broke the order
/// is found out by the receiver instead of filling a log with entries under wrong indexes.
fn write_entries(entries: &[Entry], sink: &mut impl Sink) {
    sink.count(entries.len());
    for entry in entries {
        sink.u64(entry.index.0);
        sink.u64(entry.term.0);
        sink.u8(entry.kind as u8);
        sink.payload(&entry.data);
    }
}

fn write_transfer(transfer: &SnapshotTransfer, sink: &mut impl Sink) {
    sink.u64(transfer.group.0);
    sink.u64(transfer.term.0);
    sink.u64(transfer.attempt);
}

fn write_chunk(chunk: &SnapshotChunk, sink: &mut impl Sink) {
    write_transfer(&chunk.transfer, sink);
    sink.u64(chunk.meta.index.0);
    sink.u64(chunk.meta.term.0);
    sink.count(chunk.meta.config.voters.len());
    for voter in &chunk.meta.config.voters {
        sink.u64(voter.0);
    }
    sink.u64(chunk.total_bytes);
    sink.u64(chunk.offset_bytes);
    sink.u32(chunk.content_crc);
    sink.payload(&chunk.data);
}

fn write_ack(ack: &SnapshotAck, sink: &mut impl Sink) {
    write_transfer(&ack.transfer, sink);
    match ack.status {
        SnapshotAckStatus::Next { offset_bytes } => {
            sink.u8(tag::ACK_NEXT);
            sink.u64(offset_bytes);
        }
        SnapshotAckStatus::Done => sink.u8(tag::ACK_DONE),
        SnapshotAckStatus::Refused => sink.u8(tag::ACK_REFUSED),
    }
}

fn write_request(request: &Request, sink: &mut impl Sink) {
    sink.u64(request.id.0);
    sink.u64(request.group.0);
    match &request.body {
        RequestBody::Propose { command } => {
            sink.u8(tag::PROPOSE);
            sink.payload(command);
        }
        RequestBody::Query { consistency, query } => {
            sink.u8(tag::QUERY);
            sink.u8(*consistency as u8);
            sink.payload(query);
        }
        RequestBody::ReadIndex => sink.u8(tag::READ_INDEX),
    }
}

fn write_reply(reply: &Reply, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.u64(reply.id.0);
    match &reply.result {
        Ok(ReplyBody::Outcome(outcome)) => {
            sink.u8(tag::OUTCOME);
            write_outcome(outcome, sink)?;
        }
        Ok(ReplyBody::Answer(answer)) => {
            sink.u8(tag::ANSWER);
            sink.payload(answer);
        }
        Ok(ReplyBody::ReadIndex(index)) => {
            sink.u8(tag::READ_INDEX_REPLY);
            sink.u64(index.0);
        }
        Err(refusal) => write_refusal(*refusal, sink),
    }
    Ok(())
}

fn write_outcome(outcome: &Outcome, sink: &mut impl Sink) -> Result<(), EncodeError> {
    match outcome {
        Outcome::Applied(answer) => {
            sink.u8(tag::APPLIED);
            sink.payload(answer);
        }
        Outcome::Registered(session) => {
            sink.u8(tag::REGISTERED);
            sink.u64(session.0);
        }
        Outcome::SessionExpired => sink.u8(tag::SESSION_EXPIRED),
        Outcome::OutOfOrder { expected } => {
            sink.u8(tag::OUT_OF_ORDER);
            sink.u64(*expected);
        }
        Outcome::AlreadyAcknowledged => sink.u8(tag::ALREADY_ACKNOWLEDGED),
        Outcome::Unsupported => sink.u8(tag::UNSUPPORTED),
        Outcome::WindowFull => sink.u8(tag::WINDOW_FULL),
        Outcome::Malformed => sink.u8(tag::MALFORMED),
        // The type may grow; a new outcome needs a tag of its own, and must not pass for another.
        _ => return Err(EncodeError::NoEncoding),
    }
    Ok(())
}

fn write_refusal(refusal: Refusal, sink: &mut impl Sink) {
    match refusal {
        Refusal::NotLeader { leader } => {
            sink.u8(tag::NOT_LEADER);
            sink.u8(u8::from(leader.is_some()));
            if let Some(node) = leader {
                sink.u64(node.0);
            }
        }
        Refusal::Busy | Refusal::Lagging => sink.u8(tag::BUSY),
        Refusal::DiskFull => sink.u8(tag::DISK_FULL),
        Refusal::OutOfHandles => sink.u8(tag::OUT_OF_HANDLES),
        Refusal::LogFailed => sink.u8(tag::LOG_FAILED),
        Refusal::TooLarge { limit_bytes } => {
            sink.u8(tag::TOO_LARGE);
            sink.u64(limit_bytes);
        }
        Refusal::NoSuchGroup => sink.u8(tag::NO_SUCH_GROUP),
        Refusal::Stopping => sink.u8(tag::STOPPING),
        Refusal::LeadershipLost => sink.u8(tag::LEADERSHIP_LOST),
        Refusal::NotUnderstood => sink.u8(tag::NOT_UNDERSTOOD),
        Refusal::Unfounded { waits_for } => {
            sink.u8(tag::UNFOUNDED);
            sink.u32(waits_for.count());
            for node in waits_for.places() {
                sink.u64(node);
            }
        }
    }
}
