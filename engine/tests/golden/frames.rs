//! One frame of every kind and every tag of `docs/wire.md`, in the file of the version of the protocol that added it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use bytes::Bytes;
use quorate::transport::codec::{Arrived, DecodeError, FrameBuffer, decode_body, encode_frame};
use quorate::transport::{
    Consistency, FewNodes, Founding, Frame, GroupMessage, LogHealth, NodeStatus, Refusal, Reply,
    ReplyBody, Request, RequestBody, RequestId, SnapshotAck, SnapshotAckStatus, SnapshotChunk,
    SnapshotTransfer,
};
use quorate_kv::{Outcome, SessionId};
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Round, SnapshotMeta, Term,
};
use quorate_wal::GroupId;

use crate::{path_of, write_new};

const FILE: &str = "frames.hex";
const BODY_BYTES_MAX: usize = 1 << 20;
pub(crate) const HEADER_BYTES: usize = 12;

/// It has no value of its own: a header without a body.
const KEEP_ALIVE: &str = "keep_alive";
pub(crate) const KEEP_ALIVE_KIND: u8 = 6;

#[test]
fn every_frame_of_version_1_decodes_and_encodes_to_the_same_bytes() {
    let golden = read(1);
    compare(&golden, &frames());
    assert_eq!(decode(&golden[KEEP_ALIVE]), Arrived::KeepAlive);
    assert_eq!(golden.len(), frames().len() + 1, "no name but these");
}

#[test]
fn every_frame_that_version_2_added_decodes_and_encodes_to_the_same_bytes() {
    let golden = read(2);
    compare(&golden, &added_by_version_2());
    let known = added_by_version_2().len();
    assert_eq!(golden.len(), known, "no name but these");
}

/// Whoever adds a kind or a tag adds it here too: the decoder is asked which ones it knows.
#[test]
fn every_kind_and_every_tag_that_is_understood_has_a_golden_frame() {
    let golden: Vec<Vec<u8>> = (1..=2)
        .flat_map(|version| read(version).into_values())
        .collect();
    let kept: BTreeSet<u8> = golden.iter().map(|frame| frame[4]).collect();
    for kind in 0..=u8::MAX {
        let is_known = decode_body(kind, &[]) != Err(DecodeError::UnknownKind { kind });
        // A keep-alive ends before its body.
        let is_known = is_known || kind == KEEP_ALIVE_KIND;
        assert_eq!(kept.contains(&kind), is_known, "kind {kind}");
    }
    for (what, kind, before) in places_of_tags() {
        let at = HEADER_BYTES + before.len();
        let has_tag = |frame: &&Vec<u8>| {
            let outer = before.last().filter(|_| what.is_nested());
            frame[4] == kind && frame.len() > at && outer.is_none_or(|it| frame[at - 1] == *it)
        };
        let kept: BTreeSet<u8> = golden.iter().filter(has_tag).map(|it| it[at]).collect();
        for tag in 0..=u8::MAX {
            let decoded = decode_body(kind, &[&before[..], &[tag]].concat());
            let is_unknown =
                matches!(decoded, Err(DecodeError::UnknownTag { tag: told, .. }) if told == tag);
            assert_eq!(kept.contains(&tag), !is_unknown, "{what:?} {tag}");
        }
    }
}

/// What a tag tells apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tag {
    Message,
    SnapshotAnswer,
    Request,
    Consistency,
    Reply,
    Outcome,
}

impl Tag {
    /// Whether it follows another tag, which decides what it means.
    fn is_nested(self) -> bool {
        matches!(self, Self::Consistency | Self::Outcome)
    }
}

/// Each tag, the kind of frame that it is in, and a body up to it.
pub(crate) fn places_of_tags() -> [(Tag, u8, Vec<u8>); 6] {
    let (id, id_and_group, transfer) = ([0; 8], [0; 16], [0; 24]);
    // From, to, and one message with its group and term.
    let message = [&[0; 16][..], &1_u32.to_le_bytes(), &[0; 16]].concat();
    [
        (Tag::Message, 1, message),
        (Tag::SnapshotAnswer, 3, transfer.to_vec()),
        (Tag::Request, 4, id_and_group.to_vec()),
        (Tag::Consistency, 4, [&id_and_group[..], &[2]].concat()),
        (Tag::Reply, 5, id.to_vec()),
        (Tag::Outcome, 5, [&id[..], &[1]].concat()),
    ]
}

fn compare(golden: &BTreeMap<String, Vec<u8>>, frames: &[(&'static str, Frame)]) {
    for (name, frame) in frames {
        let bytes = golden
            .get(*name)
            .unwrap_or_else(|| panic!("{name} is kept"));
        assert_eq!(decode(bytes), Arrived::Frame(frame.clone()), "{name}");
        let encoded = encode_frame(frame, BODY_BYTES_MAX).expect("it is small");
        assert_eq!(&encoded, bytes, "{name}");
    }
}

#[test]
#[ignore = "writes the golden files of a new version"]
fn write_frames() {
    write_new(2, FILE, || {
        lines_of(&added_by_version_2()).concat().into_bytes()
    });
    write_new(1, FILE, || {
        let mut lines = lines_of(&frames());
        let header = [0, 0, 0, 0, KEEP_ALIVE_KIND, 0, 0, 0];
        let crc = crc32fast::hash(&header).to_le_bytes();
        let keep_alive = hex(&[&header[..], &crc].concat());
        lines.push(format!("{KEEP_ALIVE}: {keep_alive}\n"));
        lines.concat().into_bytes()
    });
}

fn lines_of(frames: &[(&'static str, Frame)]) -> Vec<String> {
    let mut lines =
        vec!["# One frame a line: its name, and its bytes in hexadecimal.\n".to_owned()];
    lines.extend(frames.iter().map(|(name, frame)| {
        let bytes = encode_frame(frame, BODY_BYTES_MAX).expect("it is small");
        format!("{name}: {}\n", hex(&bytes))
    }));
    lines
}

pub(crate) fn read(version: u32) -> BTreeMap<String, Vec<u8>> {
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

/// Every kind and every tag of version 1, under the names of its golden file.
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

/// What version 2 of the protocol added: the status of a node, with each health of a log, and the refusals of a cluster
/// that is not founded and of a node without file handles.
fn added_by_version_2() -> Vec<(&'static str, Frame)> {
    let founding = Founding {
        is_complete: true,
        is_closed: false,
        digest: 0x2122_2324_2526_2728,
        is_founded: false,
    };
    let closed = Founding {
        is_closed: true,
        ..founding
    };
    let founded = Founding {
        is_founded: true,
        ..closed
    };
    let apart = Founding {
        is_complete: false,
        digest: 0,
        ..founding
    };
    let unfounded = |nodes: std::ops::RangeInclusive<u64>| {
        let nodes: Vec<NodeId> = nodes.map(NodeId).collect();
        let waits_for = FewNodes::of(&nodes);
        let result = Err(Refusal::Unfounded { waits_for });
        let id = RequestId(0x0102_0304);
        Frame::Reply(Reply { id, result })
    };
    let status = |(name, health, founding)| {
        let status = NodeStatus {
            health,
            oldest_unsynced_ms: 0x0102_0304,
            durable_lsn: 0x1112_1314_1516_1718,
            founding,
            feature_version: 2,
        };
        (name, Frame::Status(status))
    };
    let healths = [
        ("status_healthy", LogHealth::Healthy, founded),
        ("status_stalled", LogHealth::Stalled, closed),
        ("status_full", LogHealth::Full, founding),
        ("status_out_of_handles", LogHealth::OutOfHandles, apart),
        ("status_failed", LogHealth::Failed, founded),
    ];
    let mut frames: Vec<_> = healths.into_iter().map(status).collect();
    frames.push(("reply_unfounded", unfounded(2..=3)));
    frames.push(("reply_unfounded_many", unfounded(2..=300)));
    let out_of_handles = Reply {
        id: RequestId(0x0102_0304),
        result: Err(Refusal::OutOfHandles),
    };
    frames.push(("reply_out_of_handles", Frame::Reply(out_of_handles)));
    frames
}
