//! The seeds of the corpora, made by the code that they test: they are written again when a format changes, by
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use bytes::Bytes;
use quorate::transport::codec::encode_frame;
use quorate::transport::{
    Consistency, Frame, GroupMessage, NodeStatus, Refusal, Reply, ReplyBody, Request, RequestBody, RequestId,
    SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer,
};
use quorate_kv::{
    Batch, Command, CommandBuffer, Map, Outcome, Query, Scan, SessionId, Sessions, TooLarge,
};
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Round, SnapshotMeta, Term,
};
use quorate_wal::GroupId;

use crate::command_apply::image;
use crate::files::{Files, MANIFESTS, write_files};
use crate::footer::inputs;
use crate::frame_decode::framed;
use crate::manifest::input;
use crate::snapshot_read::right_input;
use crate::sound::SHAPES;

/// A seed: its name, and the input.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of a target.
pub fn seeds(target: &str) -> Vec<Seed> {
    match target {
        "log_recover" | "log_recover_fixed" => log_recover(),
        "manifest" => manifest(),
        "footer" => footer(),
        "log_ops" => log_ops(),
        "snapshot_read" => snapshot_read(),
        "frame_decode" => frame_decode(),
        "command_apply" => command_apply().expect("the seeds are small"),
        _ => Vec::new(),
    }
}

/// Numbers that look random and are the same in every run (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Numbers from a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below a limit, which is above zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next_u64() % limit as u64) as usize
    }
}

/// Sound logs of every shape, and some with a torn tail or rot.
fn log_recover() -> Vec<Seed> {
    let written = |flags: u8, files: &Files| {
        let mut input = vec![flags];
        write_files(files, &mut input);
        input
    };
    let mut seeds = Vec::new();
    for (name, shape) in SHAPES {
        seeds.push((name, written(0, &shape())));
    }
    let (name, shape) = SHAPES[2];
    assert_eq!(name, "sealed");
    let mut damaged = shape();
    let newest = damaged.iter_mut().rev().find_map(|(_, content)| {
        content
            .as_mut()
            .filter(|it| it.iter().any(|&byte| byte != 0))
    });
    let newest = newest.expect("the log has segments");
    let last = newest
        .iter()
        .rposition(|&byte| byte != 0)
        .expect("it was used");
    newest[last] ^= 1;
    seeds.push(("torn", written(0, &damaged)));
    damaged.remove(MANIFESTS[0]);
    damaged.remove(MANIFESTS[1]);
    seeds.push(("no_manifest_accepted", written(1, &damaged)));
    seeds
}

fn manifest() -> Vec<Seed> {
    let [older, newer] = MANIFESTS.map(|name| {
        let slot = crate::sound::sealed().remove(name).flatten();
        slot.expect("a log has a manifest")
    });
    vec![
        ("right", input(0, [&older, &newer])),
        ("swapped", input(0, [&newer, &older])),
        ("one_torn", input(0, [&older, &newer[..90]])),
        ("blank", input(8, [&[], &[]])),
        ("fixed", input(1, [&older, &newer])),
        ("fixed_chains", input(3, [&older, &newer])),
    ]
}

/// The footer of each segment, raw and to be made right.
fn footer() -> Vec<Seed> {
    let names = [
        ["sealed_0", "sealed_1", "sealed_2", "sealed_3"],
        [
            "sealed_fixed_0",
            "sealed_fixed_1",
            "sealed_fixed_2",
            "sealed_fixed_3",
        ],
        ["moved_0", "moved_1", "moved_2", "moved_3"],
        [
            "moved_fixed_0",
            "moved_fixed_1",
            "moved_fixed_2",
            "moved_fixed_3",
        ],
    ];
    let mut seeds = Vec::new();
    for (flags, names) in (0..).zip(names) {
        seeds.extend(names.into_iter().zip(inputs(flags)));
    }
    seeds
}

/// Every input is a program; these are three.
fn log_ops() -> Vec<Seed> {
    let program = |seed, len| {
        let mut random = Random::new(seed);
        (0..len).map(|_| random.next_u64() as u8).collect()
    };
    vec![
        ("short", program(1, 300)),
        ("medium", program(2, 1_500)),
        ("long", program(3, 4_000)),
    ]
}

fn snapshot_read() -> Vec<Seed> {
    let content: Vec<u8> = (0..1_000_u32).flat_map(u32::to_le_bytes).collect();
    let right = right_input(&content);
    let cut = right[..right.len() - 1].to_vec();
    let mut rotten = right.clone();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    let flagged = |flags| [&[flags][..], &rotten[1..]].concat();
    vec![
        ("empty", right_input(b"")),
        ("fixed", flagged(1)),
        ("fixed_claims", flagged(3)),
        ("right", right),
        ("cut", cut),
        ("rotten", rotten),
    ]
}

fn frame_decode() -> Vec<Seed> {
    let wires: Vec<Vec<u8>> = frames()
        .iter()
        .map(|frame| encode_frame(frame, 1 << 16).expect("the seeds are small"))
        .collect();
    let mut seeds: Vec<Seed> = vec![("stream", [vec![0, 7], wires.concat()].concat())];
    seeds.push(("keep_alive", [vec![0, 1], framed(KEEP_ALIVE, b"")].concat()));
    let names = [
        "raft",
        "snapshot_chunk",
        "snapshot_ack",
        "query",
        "propose",
        "outcome",
        "refusal",
        "status",
    ];
    for (name, wire) in names.into_iter().zip(wires) {
        // The kind, and the body without its header of twelve bytes.
        seeds.push((name, [&wire[4..5], &wire[12..]].concat()));
    }
    seeds
}

const KEEP_ALIVE: u8 = 6;

fn frames() -> Vec<Frame> {
    let group = GroupId(3);
    let transfer = SnapshotTransfer {
        group,
        term: Term(4),
        attempt: 1,
    };
    let config = Config {
        voters: vec![NodeId(1), NodeId(2), NodeId(3)],
    };
    let meta = SnapshotMeta {
        index: LogIndex(9),
        term: Term(4),
        config,
    };
    let chunk = SnapshotChunk {
        transfer,
        meta,
        total_bytes: 4,
        offset_bytes: 0,
        data: Bytes::from_static(b"data"),
        content_crc: crc32fast::hash(b"data"),
    };
    let id = RequestId(12);
    let query = RequestBody::Query {
        consistency: Consistency::Lease,
        query: Query::get(b"key"),
    };
    let propose = RequestBody::Propose {
        command: Command::register(9),
    };
    let outcome = ReplyBody::Outcome(Outcome::Registered(SessionId(5)));
    vec![
        Frame::Raft(raft_messages(group)),
        Frame::SnapshotChunk(chunk),
        Frame::SnapshotAck(SnapshotAck {
            transfer,
            status: SnapshotAckStatus::Next { offset_bytes: 4 },
        }),
        Frame::Request(Request {
            id,
            group,
            body: query,
        }),
        Frame::Request(Request {
            id,
            group,
            body: propose,
        }),
        Frame::Reply(Reply {
            id,
            result: Ok(outcome),
        }),
        Frame::Reply(Reply {
            id,
            result: Err(Refusal::NotLeader {
                leader: Some(NodeId(2)),
            }),
        }),
        Frame::Status(NodeStatus::default()),
    ]
}

fn raft_messages(group: GroupId) -> Vec<GroupMessage> {
    let entry = Entry {
        index: LogIndex(9),
        term: Term(4),
        kind: EntryKind::Command,
        data: Bytes::from_static(b"payload"),
    };
    let append = Body::Append {
        prev_index: LogIndex(8),
        prev_term: Term(4),
        commit: LogIndex(8),
        round: Round(6),
        entries: vec![entry],
    };
    let heartbeat = Body::Heartbeat {
        commit: LogIndex(8),
        round: Round(7),
    };
    let message = |body| GroupMessage {
        group,
        message: Message {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(4),
            body,
        },
    };
    vec![message(append), message(heartbeat)]
}

fn command_apply() -> Result<Vec<Seed>, TooLarge> {
    let session = SessionId(1);
    let batch = Batch::new()
        .expect(b"k", Some(b"vw"))
        .put(b"l", b"x")
        .append(b"k", b"y")
        .delete(b"m");
    let commands = [
        Command::register(2),
        CommandBuffer::put(b"k", b"v")?.seal(session, 1, 0),
        CommandBuffer::append(b"k", b"w")?.seal(session, 2, 1),
        CommandBuffer::append(b"k", b"w")?.seal(session, 2, 1),
        CommandBuffer::compare_and_swap(b"k", Some(b"other"), b"z")?.seal(session, 3, 1),
        CommandBuffer::batch(batch)?.seal(session, 4, 1),
        Command::skip(session, 5, 1),
        Command::acknowledge(session, 3),
        CommandBuffer::delete(b"l")?.seal_plain(),
        Query::get(b"k"),
        Query::scan(&Scan::prefix(b"k").limit(3)),
        Query::count(),
        Command::register(2),
        Command::register(2),
        Command::close(session),
    ];
    let mut program = vec![1];
    let mut sessions = Sessions::<Map>::default();
    let mut images = Vec::new();
    for (index, command) in (1..).zip(&commands) {
        program.extend((command.len() as u16).to_le_bytes());
        program.extend(command);
        sessions.apply(index, command);
        images.push([vec![0], image(&sessions)].concat());
    }
    let empty = [vec![0], image(&Sessions::default())].concat();
    Ok(vec![
        ("program", program),
        ("image", images.swap_remove(8)),
        ("empty_image", empty),
    ])
}
