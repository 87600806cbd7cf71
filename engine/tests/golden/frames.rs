//! One frame of every kind and every tag of `docs/wire.md`.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use quorate::transport::codec::{Arrived, FrameBuffer, encode_frame};
use quorate::transport::{
    Consistency, Frame, GroupMessage, Refusal, Reply, ReplyBody, Request, RequestBody, RequestId,
    SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer,
};
use quorate_kv::{Outcome, SessionId};
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Round, SnapshotMeta, Term,
};
use quorate_wal::GroupId;

use crate::{path_of, write_new};

const FILE: &str = "frames.hex";
const BODY_BYTES_MAX: usize = 1 << 20;

/// Kind 6 has no value of its own: a header without a body.
const KEEP_ALIVE: &str = "keep_alive";

#[test]
fn every_frame_of_version_1_decodes_and_encodes_to_the_same_bytes() {
    let golden = read(1);
    for (name, frame) in frames() {
        let bytes = golden.get(name).unwrap_or_else(|| panic!("{name} is kept"));
        assert_eq!(decode(bytes), Arrived::Frame(frame.clone()), "{name}");
        let encoded = encode_frame(&frame, BODY_BYTES_MAX).expect("it is small");
        assert_eq!(&encoded, bytes, "{name}");
    }
    assert_eq!(decode(&golden[KEEP_ALIVE]), Arrived::KeepAlive);
    assert_eq!(golden.len(), frames().len() + 1, "no name but these");
}

#[test]
#[ignore = "writes the golden file of a new version"]
fn write_frames() {
    write_new(FILE, || {
        let mut lines =
            vec!["# One frame a line: its name, and its bytes in hexadecimal.\n".to_owned()];
        lines.extend(frames().iter().map(|(name, frame)| {
            let bytes = encode_frame(frame, BODY_BYTES_MAX).expect("it is small");
            format!("{name}: {}\n", hex(&bytes))
        }));
        let header = [0, 0, 0, 0, 6, 0, 0, 0];
        let crc = crc32fast::hash(&header).to_le_bytes();
        let keep_alive = hex(&[&header[..], &crc].concat());
        lines.push(format!("{KEEP_ALIVE}: {keep_alive}\n"));
        lines.concat().into_bytes()
    });
}

fn read(version: u32) -> BTreeMap<String, Vec<u8>> {
    let text = fs::read_to_string(path_of(version, FILE)).expect("it is kept");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, digits) = line.split_once(": ").expect("name and bytes");
            (name.to_owned(), unhex(digits))
        })
        .collect()
}

fn decode(bytes: &[u8]) -> Arrived {
    let mut buffer = FrameBuffer::new(BODY_BYTES_MAX);
    buffer.room()[..bytes.len()].copy_from_slice(bytes);
    buffer.advance(bytes.len());
    buffer.next_frame().expect("a frame").expect("a whole one")
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal")
        })
        .collect()
}

/// Every kind and every tag, under the names of the golden file.
fn frames() -> Vec<(&'static str, Frame)> {
    let mut frames = messages();
    frames.extend(snapshots());
    frames.extend(requests());
    frames.extend(replies());
    frames
}

fn message(group: u64, body: Body) -> GroupMessage {
    let message = Message {
        from: NodeId(1),
        to: NodeId(2),
        term: Term(5),
        body,
    };
    GroupMessage {
        group: GroupId(group),
        message,
    }
}

fn entry(index: u64, kind: EntryKind, data: &'static [u8]) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(4),
        kind,
        data: Bytes::from_static(data),
    }
}

fn messages() -> Vec<(&'static str, Frame)> {
    let (last_index, last_term) = (LogIndex(77), Term(4));
    let bodies = vec![
        (
            "raft_pre_vote",
            Body::PreVote {
                last_index,
                last_term,
            },
        ),
        ("raft_pre_vote_reply", Body::PreVoteReply { granted: true }),
        (
            "raft_vote",
            Body::Vote {
                last_index,
                last_term,
                transfer: true,
            },
        ),
        ("raft_vote_reply", Body::VoteReply { granted: false }),
        (
            "raft_append",
            Body::Append {
                prev_index: LogIndex(8),
                prev_term: Term(4),
                commit: LogIndex(7),
                round: Round(6),
                entries: vec![
                    entry(9, EntryKind::Noop, b""),
                    entry(10, EntryKind::Command, b"hi"),
                    entry(11, EntryKind::Config, b"\x01\x02"),
                ],
            },
        ),
        (
            "raft_append_accepted",
            Body::AppendAccepted {
                match_index: LogIndex(11),
                round: Round(6),
            },
        ),
        (
            "raft_append_rejected",
            Body::AppendRejected {
                prev_index: LogIndex(8),
                hint_index: LogIndex(5),
                hint_term: Term(3),
                round: Round(6),
            },
        ),
        (
            "raft_heartbeat",
            Body::Heartbeat {
                commit: LogIndex(11),
                round: Round(7),
            },
        ),
        (
            "raft_heartbeat_reply",
            Body::HeartbeatReply { round: Round(7) },
        ),
        ("raft_timeout_now", Body::TimeoutNow),
    ];
    let mut frames: Vec<_> = bodies
        .into_iter()
        .map(|(name, body)| (name, Frame::Raft(vec![message(3, body)])))
        .collect();
    let heartbeats = (0..3).map(|group| {
        let body = Body::Heartbeat {
            commit: LogIndex(group),
            round: Round(7),
        };
        message(group, body)
    });
    frames.push(("raft_three_groups", Frame::Raft(heartbeats.collect())));
    frames
}

fn snapshots() -> Vec<(&'static str, Frame)> {
    let transfer = SnapshotTransfer {
        group: GroupId(3),
        term: Term(5),
        attempt: 9,
    };
    let chunk = SnapshotChunk {
        transfer,
        meta: SnapshotMeta {
            index: LogIndex(77),
            term: Term(4),
            config: Config {
                voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            },
        },
        total_bytes: 100,
        offset_bytes: 40,
        data: Bytes::from_static(b"0123456789"),
        content_crc: 0x1234_5678,
    };
    let ack = |status| Frame::SnapshotAck(SnapshotAck { transfer, status });
    let next = SnapshotAckStatus::Next { offset_bytes: 50 };
    vec![
        ("snapshot_chunk", Frame::SnapshotChunk(chunk)),
        ("snapshot_answer_next", ack(next)),
        ("snapshot_answer_done", ack(SnapshotAckStatus::Done)),
        ("snapshot_answer_refused", ack(SnapshotAckStatus::Refused)),
    ]
}

fn requests() -> Vec<(&'static str, Frame)> {
    let request = |body| {
        Frame::Request(Request {
            id: RequestId(0x0102_0304),
            group: GroupId(3),
            body,
        })
    };
    let query = |consistency| {
        request(RequestBody::Query {
            consistency,
            query: Bytes::from_static(b"query"),
        })
    };
    let command = Bytes::from_static(b"command");
    vec![
        ("request_propose", request(RequestBody::Propose { command })),
        (
            "request_query_linearizable",
            query(Consistency::Linearizable),
        ),
        ("request_query_lease", query(Consistency::Lease)),
        ("request_query_stale", query(Consistency::Stale)),
        ("request_read_index", request(RequestBody::ReadIndex)),
    ]
}

fn replies() -> Vec<(&'static str, Frame)> {
    let outcome = |outcome| Ok(ReplyBody::Outcome(outcome));
    let results: Vec<(&'static str, Result<ReplyBody, Refusal>)> = vec![
        (
            "reply_applied",
            outcome(Outcome::Applied(Bytes::from_static(b"answer"))),
        ),
        (
            "reply_registered",
            outcome(Outcome::Registered(SessionId(12))),
        ),
        ("reply_session_expired", outcome(Outcome::SessionExpired)),
        (
            "reply_out_of_order",
            outcome(Outcome::OutOfOrder { expected: 4 }),
        ),
        (
            "reply_already_acknowledged",
            outcome(Outcome::AlreadyAcknowledged),
        ),
        ("reply_unsupported", outcome(Outcome::Unsupported)),
        ("reply_window_full", outcome(Outcome::WindowFull)),
        ("reply_malformed", outcome(Outcome::Malformed)),
        (
            "reply_answer",
            Ok(ReplyBody::Answer(Bytes::from_static(b"answer"))),
        ),
        ("reply_read_index", Ok(ReplyBody::ReadIndex(LogIndex(77)))),
        ("reply_not_leader", Err(Refusal::NotLeader { leader: None })),
        (
            "reply_not_leader_hint",
            Err(Refusal::NotLeader {
                leader: Some(NodeId(2)),
            }),
        ),
        ("reply_busy", Err(Refusal::Busy)),
        ("reply_disk_full", Err(Refusal::DiskFull)),
        ("reply_log_failed", Err(Refusal::LogFailed)),
        (
            "reply_too_large",
            Err(Refusal::TooLarge {
                limit_bytes: 1 << 20,
            }),
        ),
        ("reply_no_such_group", Err(Refusal::NoSuchGroup)),
        ("reply_stopping", Err(Refusal::Stopping)),
        ("reply_leadership_lost", Err(Refusal::LeadershipLost)),
        ("reply_not_understood", Err(Refusal::NotUnderstood)),
    ];
    let reply = |(name, result)| {
        let id = RequestId(0x0102_0304);
        (name, Frame::Reply(Reply { id, result }))
    };
    results.into_iter().map(reply).collect()
}
