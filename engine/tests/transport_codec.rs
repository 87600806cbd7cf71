//! The bytes of frames: every frame survives the way, and nothing else passes for one.
//!
//! Randomised tests take their seed from `QUORATE_SEED` and print it when they fail.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

use bytes::Bytes;
use quorate::transport::codec::{
    Arrived, DecodeError, EncodeError, FrameBuffer, FrameError, decode_body, encode_frame,
};
use quorate::transport::{
    Consistency, Founding, Frame, GroupMessage, LogHealth, NodeStatus, Refusal, Reply, ReplyBody,
    Request, RequestBody, RequestId, SnapshotAck, SnapshotAckStatus, SnapshotChunk,
    SnapshotTransfer,
};
use quorate_kv::{Outcome, SessionId};
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Round, SnapshotMeta, Term,
};
use quorate_wal::GroupId;

const BODY_BYTES_MAX: usize = 1 << 20;
const HEADER_BYTES: usize = 12;

#[test]
fn random_frames_survive_in_pieces_of_any_size() {
    let mut random = Random::from_environment();
    for _ in 0..200 {
        let frames: Vec<Frame> = (0..=random.below(8)).map(|_| random.frame()).collect();
        let mut wire = Vec::new();
        for frame in &frames {
            wire.extend(encode_frame(frame, BODY_BYTES_MAX).unwrap());
        }
        let scale = random.below(17);
        let piece_max = 1 + random.below(1 << scale);
        let mut buffer = FrameBuffer::new(BODY_BYTES_MAX);
        let mut arrived = Vec::new();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let room = buffer.room();
            let piece = rest.len().min(1 + random.below(piece_max)).min(room.len());
            room[..piece].copy_from_slice(&rest[..piece]);
            buffer.advance(piece);
            rest = &rest[piece..];
            while let Some(frame) = buffer.next_frame().unwrap() {
                arrived.push(frame);
            }
        }
        let expected: Vec<Arrived> = frames.into_iter().map(Arrived::Frame).collect();
        assert_eq!(arrived, expected);
    }
}

#[test]
fn no_truncation_passes() {
    let mut random = Random::from_environment();
    for _ in 0..100 {
        let frame = random.frame();
        let wire = encode_frame(&frame, BODY_BYTES_MAX).unwrap();
        for end in 0..wire.len().min(600) {
            assert_eq!(receive(&wire[..end]), Ok(None), "cut at {end}");
            if end >= HEADER_BYTES {
                let cut = decode_body(wire[4], &wire[HEADER_BYTES..end]);
                assert!(cut.is_err(), "body cut at {end} decodes to {cut:?}");
            }
        }
    }
}

#[test]
fn no_flipped_bit_passes_the_checksum_and_none_panics_behind_it() {
    let mut random = Random::from_environment();
    for _ in 0..60 {
        let wire = encode_frame(&random.frame(), BODY_BYTES_MAX).unwrap();
        for bit in 0..wire.len().min(400) * 8 {
            let mut flipped = wire.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let received = receive(&flipped);
            let caught = matches!(
                received,
                Ok(None) | Err(FrameError::Crc | FrameError::TooLong { .. })
            );
            assert!(caught, "bit {bit}: {received:?}");
            check_decoded(flipped[4], &flipped[HEADER_BYTES..]);
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random::from_environment();
    for _ in 0..20_000 {
        let kind = random.below(9) as u8;
        let bytes = random.bytes(200);
        check_decoded(kind, &bytes);
    }
}

#[test]
fn the_documented_frame_decodes() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```hex frame\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let hex = block
        .lines()
        .flat_map(|line| line.split("  ").next().unwrap().split(' '));
    let wire: Vec<u8> = hex
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();

    let append = Body::Append {
        prev_index: LogIndex(8),
        prev_term: Term(4),
        commit: LogIndex(8),
        round: Round(6),
        entries: vec![Entry {
            index: LogIndex(9),
            term: Term(5),
            kind: EntryKind::Command,
            data: Bytes::from_static(b"hi"),
        }],
    };
    let message = Message {
        from: NodeId(1),
        to: NodeId(2),
        term: Term(5),
        body: append,
    };
    let frame = Frame::Raft(vec![GroupMessage {
        group: GroupId(3),
        message,
    }]);
    assert_eq!(receive(&wire), Ok(Some(Arrived::Frame(frame.clone()))));
    assert_eq!(encode_frame(&frame, BODY_BYTES_MAX).unwrap(), wire);
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "never sent"))]
fn a_snapshot_received_is_left_out_and_is_a_bug() {
    let message = |body| {
        let message = Message {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(5),
            body,
        };
        GroupMessage {
            group: GroupId(3),
            message,
        }
    };
    let received = message(Body::SnapshotReceived {
        meta: SnapshotMeta::default(),
    });
    let frame = Frame::Raft(vec![message(Body::TimeoutNow), received]);
    let wire = encode_frame(&frame, BODY_BYTES_MAX).unwrap();
    let left = Arrived::Frame(Frame::Raft(vec![message(Body::TimeoutNow)]));
    assert_eq!(receive(&wire), Ok(Some(left)));
}

#[test]
fn the_tag_after_the_last_message_is_an_error() {
    let mut body = Vec::new();
    body.extend(1_u64.to_le_bytes());
    body.extend(2_u64.to_le_bytes());
    body.extend(1_u32.to_le_bytes());
    body.extend([0; 16]);
    body.push(11);
    let error = DecodeError::UnknownTag {
        what: "message",
        tag: 11,
    };
    assert_eq!(decode_body(1, &body), Err(error));
}

#[test]
fn a_count_beyond_the_body_is_refused_before_memory_is_reserved() {
    let mut body = vec![0; 16];
    body.extend(u32::MAX.to_le_bytes());
    body.extend([0; 17]);
    let error = DecodeError::Count {
        count: u32::MAX as usize,
        bytes: 17,
    };
    assert_eq!(decode_body(1, &body), Err(error));
}

#[test]
fn entries_out_of_order_are_refused() {
    let entry = |index| Entry {
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Command,
        data: Bytes::new(),
    };
    let append = |prev, indexes: &[u64]| {
        let body = Body::Append {
            prev_index: LogIndex(prev),
            prev_term: Term(1),
            commit: LogIndex(0),
            round: Round(1),
            entries: indexes.iter().map(|index| entry(*index)).collect(),
        };
        let message = Message {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(1),
            body,
        };
        let frame = Frame::Raft(vec![GroupMessage {
            group: GroupId(0),
            message,
        }]);
        receive(&encode_frame(&frame, BODY_BYTES_MAX).unwrap())
    };
    assert!(append(5, &[6, 7]).is_ok());
    let wrong = [
        (5, vec![7]),
        (5, vec![6, 6]),
        (5, vec![5]),
        (u64::MAX, vec![u64::MAX]),
    ];
    for (prev, indexes) in wrong {
        let error = append(prev, &indexes);
        assert!(
            matches!(
                error,
                Err(FrameError::Decode(DecodeError::NotContiguous { .. }))
            ),
            "{indexes:?} after {prev}: {error:?}"
        );
    }
}

#[test]
fn a_chunk_outside_its_snapshot_and_unsorted_voters_are_refused() {
    let chunk = |offset_bytes, voters: &[u64]| {
        let frame = Frame::SnapshotChunk(SnapshotChunk {
            transfer: SnapshotTransfer {
                group: GroupId(1),
                term: Term(1),
                attempt: 1,
            },
            meta: SnapshotMeta {
                index: LogIndex(1),
                term: Term(1),
                config: Config {
                    voters: voters.iter().copied().map(NodeId).collect(),
                },
            },
            total_bytes: 100,
            offset_bytes,
            data: Bytes::from_static(b"0123456789"),
            content_crc: 0,
        });
        receive(&encode_frame(&frame, BODY_BYTES_MAX).unwrap())
    };
    assert!(chunk(90, &[1, 2]).is_ok());
    for offset in [91, u64::MAX] {
        let error = Err(FrameError::Decode(DecodeError::ChunkRange {
            total_bytes: 100,
        }));
        assert_eq!(chunk(offset, &[1, 2]), error);
    }
    for voters in [[2, 1], [1, 1]] {
        assert_eq!(
            chunk(0, &voters),
            Err(FrameError::Decode(DecodeError::VotersUnsorted))
        );
    }
}

#[test]
fn a_frame_over_the_limit_is_refused_on_both_sides() {
    let command = Bytes::from(vec![1; 1000]);
    let frame = Frame::Request(Request {
        id: RequestId(1),
        group: GroupId(1),
        body: RequestBody::Propose { command },
    });
    let bytes = 8 + 8 + 1 + 4 + 1000;
    let wire = encode_frame(&frame, bytes).unwrap();
    assert_eq!(
        encode_frame(&frame, bytes - 1),
        Err(EncodeError::TooLong {
            bytes,
            max: bytes - 1
        })
    );
    let mut buffer = FrameBuffer::new(bytes - 1);
    buffer.room()[..HEADER_BYTES].copy_from_slice(&wire[..HEADER_BYTES]);
    buffer.advance(HEADER_BYTES);
    assert_eq!(
        buffer.next_frame(),
        Err(FrameError::TooLong {
            bytes,
            max: bytes - 1
        })
    );
}

/// The fields of a status, to be put together anew.
fn fields_of(status: NodeStatus) -> Vec<Vec<u8>> {
    let wire = encode_frame(&Frame::Status(status), BODY_BYTES_MAX).unwrap();
    let mut rest = &wire[HEADER_BYTES + 2..];
    let mut fields = Vec::new();
    while let [_, low, high, ..] = *rest {
        let (field, tail) = rest.split_at(3 + usize::from(u16::from_le_bytes([low, high])));
        fields.push(field.to_vec());
        rest = tail;
    }
    fields
}

fn status_of(fields: &[Vec<u8>]) -> Result<Frame, DecodeError> {
    let mut body = (fields.len() as u16).to_le_bytes().to_vec();
    body.extend(fields.concat());
    decode_body(7, &body)
}

#[test]
fn a_status_is_read_without_the_fields_that_are_not_known_and_in_any_order() {
    let mut random = Random::from_environment();
    for _ in 0..100 {
        let status = random.status();
        let mut fields = fields_of(status);
        assert_eq!(fields.len(), 5);
        for tag in [0, 6, 255] {
            let content = random.bytes(300);
            let mut field = vec![tag];
            field.extend((content.len() as u16).to_le_bytes());
            field.extend(content);
            fields.insert(random.below(fields.len() + 1), field);
        }
        fields.rotate_left(random.below(8));
        assert_eq!(status_of(&fields), Ok(Frame::Status(status)));
    }
}

#[test]
fn a_status_with_a_field_missing_doubled_or_of_another_length_is_refused() {
    let fields = fields_of(NodeStatus::default());
    for (place, field) in fields.iter().enumerate() {
        let tag = field[0];
        let mut fewer = fields.clone();
        fewer.remove(place);
        assert_eq!(status_of(&fewer), Err(DecodeError::MissingField { tag }));
        let mut more = fields.clone();
        more.push(field.clone());
        assert_eq!(status_of(&more), Err(DecodeError::DoubledField { tag }));
        let mut longer = fields.clone();
        longer[place].push(0);
        longer[place][1] += 1;
        let bytes = field.len() - 3 + 1;
        assert_eq!(
            status_of(&longer),
            Err(DecodeError::FieldLength { tag, bytes })
        );
    }
    assert!(matches!(
        decode_body(7, &[255, 255, 1, 0, 0]),
        Err(DecodeError::Count { .. })
    ));
}

#[test]
fn a_health_from_a_later_version_is_as_severe_as_it_says() {
    for byte in 0..=255 {
        let mut fields = fields_of(NodeStatus::default());
        fields[0][3] = byte;
        let Ok(Frame::Status(status)) = status_of(&fields) else {
            panic!("health {byte} is refused");
        };
        assert_eq!(status.health.severity(), (byte >> 4).min(3), "{byte}");
    }
}

/// What decodes, whatever it came from, is a frame like any other: it has no second encoding.
fn check_decoded(kind: u8, body: &[u8]) {
    match decode_body(kind, body) {
        // Without messages it does not matter between whom they are.
        Ok(Frame::Raft(messages)) if messages.is_empty() => assert_eq!(body.len(), 20),
        // It may have held fields that are not known here.
        Ok(frame @ Frame::Status(_)) => {
            let again = encode_frame(&frame, BODY_BYTES_MAX).unwrap();
            assert_eq!(decode_body(again[4], &again[HEADER_BYTES..]), Ok(frame));
        }
        Ok(frame) => {
            let again = encode_frame(&frame, BODY_BYTES_MAX).unwrap();
            assert_eq!((again[4], &again[HEADER_BYTES..]), (kind, body));
        }
        Err(_) => {}
    }
}

/// Gives bytes to a fresh connection at once.
fn receive(wire: &[u8]) -> Result<Option<Arrived>, FrameError> {
    let mut buffer = FrameBuffer::new(BODY_BYTES_MAX);
    let mut rest = wire;
    while !rest.is_empty() {
        let room = buffer.room();
        let piece = rest.len().min(room.len());
        room[..piece].copy_from_slice(&rest[..piece]);
        buffer.advance(piece);
        rest = &rest[piece..];
    }
    buffer.next_frame()
}

/// Random frames from a seed, which is printed should the test fail.
struct Random {
    state: u64,
    seed: u64,
}

impl Drop for Random {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with QUORATE_SEED={}", self.seed);
        }
    }
}

impl Random {
    fn from_environment() -> Self {
        let seed = std::env::var("QUORATE_SEED").map_or_else(
            |_| {
                let now = std::time::UNIX_EPOCH.elapsed().unwrap();
                now.as_nanos() as u64
            },
            |seed| seed.parse().unwrap(),
        );
        Self { state: seed, seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Small numbers and those at the ends of the range more often than others.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => u64::MAX - self.next() % 3,
            _ => self.next() % 100,
        }
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn index(&mut self) -> LogIndex {
        LogIndex(self.number())
    }

    fn term(&mut self) -> Term {
        Term(self.number())
    }

    fn round(&mut self) -> Round {
        Round(self.number())
    }

    fn bytes(&mut self, bytes_max: usize) -> Bytes {
        (0..self.below(bytes_max + 1))
            .map(|_| self.next() as u8)
            .collect()
    }

    /// Mostly short, sometimes long enough to be shared and not copied.
    fn payload(&mut self) -> Bytes {
        if self.below(5) == 0 {
            self.bytes(40_000)
        } else {
            self.bytes(40)
        }
    }

    fn frame(&mut self) -> Frame {
        match self.below(6) {
            0 => {
                let (from, to) = (NodeId(self.number()), NodeId(self.number()));
                let count = self.below(5);
                Frame::Raft((0..count).map(|_| self.message(from, to)).collect())
            }
            1 => Frame::SnapshotChunk(self.chunk()),
            2 => Frame::SnapshotAck(SnapshotAck {
                transfer: self.transfer(),
                status: match self.below(3) {
                    0 => SnapshotAckStatus::Next {
                        offset_bytes: self.number(),
                    },
                    1 => SnapshotAckStatus::Done,
                    _ => SnapshotAckStatus::Refused,
                },
            }),
            3 => Frame::Request(self.request()),
            4 => Frame::Status(self.status()),
            _ => Frame::Reply(Reply {
                id: RequestId(self.number()),
                result: self.result(),
            }),
        }
    }

    fn status(&mut self) -> NodeStatus {
        let health = [
            LogHealth::Healthy,
            LogHealth::Stalled,
            LogHealth::Full,
            LogHealth::OutOfHandles,
            LogHealth::Failed,
        ][self.below(5)];
        NodeStatus {
            health,
            oldest_unsynced_ms: self.number(),
            durable_lsn: self.number(),
            founding: Founding {
                is_complete: self.flag(),
                is_closed: self.flag(),
                digest: self.number(),
                is_founded: self.flag(),
            },
            feature_version: self.next() as u32,
        }
    }

    fn message(&mut self, from: NodeId, to: NodeId) -> GroupMessage {
        let body = match self.below(10) {
            0 => Body::PreVote {
                last_index: self.index(),
                last_term: self.term(),
            },
            1 => Body::PreVoteReply {
                granted: self.flag(),
            },
            2 => Body::Vote {
                last_index: self.index(),
                last_term: self.term(),
                transfer: self.flag(),
            },
            3 => Body::VoteReply {
                granted: self.flag(),
            },
            4 => self.append(),
            5 => Body::AppendAccepted {
                match_index: self.index(),
                round: self.round(),
            },
            6 => Body::AppendRejected {
                prev_index: self.index(),
                hint_index: self.index(),
                hint_term: self.term(),
                round: self.round(),
            },
            7 => Body::Heartbeat {
                commit: self.index(),
                round: self.round(),
            },
            8 => Body::HeartbeatReply {
                round: self.round(),
            },
            _ => Body::TimeoutNow,
        };
        let message = Message {
            from,
            to,
            term: self.term(),
            body,
        };
        GroupMessage {
            group: GroupId(self.number()),
            message,
        }
    }

    fn append(&mut self) -> Body {
        let prev = self.number().min(u64::MAX - 10);
        let entries = (0..self.below(6) as u64)
            .map(|at| Entry {
                index: LogIndex(prev + 1 + at),
                term: self.term(),
                kind: [EntryKind::Noop, EntryKind::Command, EntryKind::Config][self.below(3)],
                data: self.payload(),
            })
            .collect();
        Body::Append {
            prev_index: LogIndex(prev),
            prev_term: self.term(),
            commit: self.index(),
            round: self.round(),
            entries,
        }
    }

    fn transfer(&mut self) -> SnapshotTransfer {
        SnapshotTransfer {
            group: GroupId(self.number()),
            term: self.term(),
            attempt: self.number(),
        }
    }

    fn chunk(&mut self) -> SnapshotChunk {
        let data = self.payload();
        let offset_bytes = self.number().min(u64::MAX / 2);
        let mut voters: Vec<_> = (0..self.below(5)).map(|_| NodeId(self.number())).collect();
        voters.sort_unstable();
        voters.dedup();
        SnapshotChunk {
            transfer: self.transfer(),
            meta: SnapshotMeta {
                index: self.index(),
                term: self.term(),
                config: Config { voters },
            },
            total_bytes: offset_bytes + data.len() as u64 + self.next() % 3,
            offset_bytes,
            data,
            content_crc: self.next() as u32,
        }
    }

    fn request(&mut self) -> Request {
        let consistency = [
            Consistency::Linearizable,
            Consistency::Lease,
            Consistency::Stale,
        ][self.below(3)];
        let body = match self.below(3) {
            0 => RequestBody::Propose {
                command: self.payload(),
            },
            1 => RequestBody::Query {
                consistency,
                query: self.payload(),
            },
            _ => RequestBody::ReadIndex,
        };
        Request {
            id: RequestId(self.number()),
            group: GroupId(self.number()),
            body,
        }
    }

    fn result(&mut self) -> Result<ReplyBody, Refusal> {
        match self.below(19) {
            0 => Ok(ReplyBody::Outcome(Outcome::Applied(self.payload()))),
            1 => Ok(ReplyBody::Outcome(Outcome::Registered(SessionId(
                self.number(),
            )))),
            2 => Ok(ReplyBody::Outcome(Outcome::SessionExpired)),
            3 => Ok(ReplyBody::Outcome(Outcome::OutOfOrder {
                expected: self.number(),
            })),
            4 => Ok(ReplyBody::Outcome(Outcome::AlreadyAcknowledged)),
            5 => Ok(ReplyBody::Outcome(Outcome::Unsupported)),
            6 => Ok(ReplyBody::Answer(self.payload())),
            7 => Ok(ReplyBody::ReadIndex(self.index())),
            8 => {
                let leader = self.flag().then(|| NodeId(self.number()));
                Err(Refusal::NotLeader { leader })
            }
            9 => Err(Refusal::Busy),
            10 => Err(Refusal::DiskFull),
            11 => Err(Refusal::LogFailed),
            12 => Err(Refusal::TooLarge {
                limit_bytes: self.number(),
            }),
            13 => Err(Refusal::NoSuchGroup),
            14 => Err(Refusal::Stopping),
            15 => Ok(ReplyBody::Outcome(Outcome::WindowFull)),
            16 => Ok(ReplyBody::Outcome(Outcome::Malformed)),
            17 => Err(Refusal::OutOfHandles),
            _ => Err(Refusal::LeadershipLost),
        }
    }
}
