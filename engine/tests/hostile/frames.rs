//! Sound frames that say what no node says: every tag, with numbers from the edges of their range.
//!
//! Seeds are printed when a run fails; `QUORATE_SEED=7` runs one seed alone.

use quorate::simulation::{Command, CommandBuffer, Outcome, SessionId};
use quorate::transport::codec::{decode_body, encode_frame};
use quorate::transport::{
    Consistency, Frame, GroupMessage, Refusal, Reply, ReplyBody, Request, RequestBody, RequestId,
    SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer,
};
use quorate::{Bytes, GroupId, LogIndex, NodeId, Term};
use quorate_raft::{Body, Config, Entry, EntryKind, Message, Round, SnapshotMeta};

use crate::bench::{Bench, GROUP, options};

const EDGES: [u64; 8] = [
    0,
    1 << 31,
    1 << 32,
    1 << 62,
    u64::MAX / 2 - 1,
    u64::MAX / 2,
    u64::MAX / 2 + 1,
    u64::MAX,
];

struct Dice {
    state: u64,
    /// The group's term.
    term: u64,
}

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn edge(&mut self) -> u64 {
        EDGES[self.below(EDGES.len() as u64) as usize]
    }

    fn index(&mut self) -> LogIndex {
        LogIndex(self.edge())
    }

    /// At the edge, or near the group's own.
    fn term(&mut self) -> Term {
        match self.below(3) {
            0 => Term(self.edge()),
            _ => Term(self.term.saturating_add(self.below(3)).saturating_sub(1)),
        }
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn bytes(&mut self) -> Bytes {
        let len = [0, 1, 31, 32, 33, 2_000][self.below(6) as usize];
        let fill = self.below(256) as u8;
        vec![fill; len].into()
    }

    fn entries(&mut self, prev: u64) -> Vec<Entry> {
        let kinds = [EntryKind::Noop, EntryKind::Command, EntryKind::Config];
        let mut entries = Vec::new();
        for offset in 1..=self.below(4) {
            let Some(index) = prev.checked_add(offset) else {
                break;
            };
            entries.push(Entry {
                index: LogIndex(index),
                term: self.term(),
                kind: kinds[self.below(3) as usize],
                data: self.bytes(),
            });
        }
        entries
    }

    fn body(&mut self) -> Body {
        let (last_index, last_term) = (self.index(), self.term());
        let (round, granted) = (Round(self.edge()), self.flag());
        match self.below(10) {
            0 => Body::PreVote {
                last_index,
                last_term,
            },
            1 => Body::PreVoteReply { granted },
            2 => Body::Vote {
                last_index,
                last_term,
                transfer: granted,
            },
            3 => Body::VoteReply { granted },
            4 => Body::Append {
                prev_index: last_index,
                prev_term: last_term,
                commit: self.index(),
                round,
                entries: self.entries(last_index.0),
            },
            5 => Body::AppendAccepted {
                match_index: last_index,
                round,
            },
            6 => Body::AppendRejected {
                prev_index: last_index,
                hint_index: self.index(),
                hint_term: last_term,
                round,
            },
            7 => Body::Heartbeat {
                commit: last_index,
                round,
            },
            8 => Body::HeartbeatReply { round },
            _ => Body::TimeoutNow,
        }
    }

    fn command(&mut self) -> Bytes {
        let session = SessionId(self.edge().max(1));
        let sequence = self.edge().max(1);
        let floor = self.edge().min(sequence - 1);
        let put = CommandBuffer::put(b"k", b"v").expect("small");
        match self.below(6) {
            0 => Command::register(self.edge().clamp(1, u64::from(u32::MAX)) as u32),
            1 => Command::close(session),
            2 => Command::acknowledge(session, self.edge()),
            3 => put.seal(session, sequence, floor),
            4 => Command::skip(session, sequence, floor),
            _ => {
                // Known versions in front, so that it is not merely refused as newer.
                let mut bytes = self.bytes().to_vec();
                bytes.iter_mut().take(1).for_each(|it| *it = 1);
                bytes.into()
            }
        }
    }

    fn group(&mut self) -> GroupId {
        match self.below(4) {
            0 => GroupId(self.edge()),
            _ => GROUP,
        }
    }

    fn transfer(&mut self) -> SnapshotTransfer {
        SnapshotTransfer {
            group: self.group(),
            term: self.term(),
            attempt: self.edge(),
        }
    }

    fn chunk(&mut self) -> SnapshotChunk {
        let data = self.bytes();
        let offset_bytes = if self.flag() { 0 } else { self.edge() };
        let least = offset_bytes.saturating_add(data.len() as u64);
        let total_bytes = if self.flag() {
            least
        } else {
            self.edge().max(least)
        };
        let voters = [vec![1, 2, 3], vec![2], vec![], vec![1, 2, 3, 4]];
        let voters = &voters[self.below(6).saturating_sub(2) as usize];
        SnapshotChunk {
            transfer: self.transfer(),
            meta: SnapshotMeta {
                index: self.index(),
                term: self.term(),
                config: Config {
                    voters: voters.iter().map(|&id| NodeId(id)).collect(),
                },
            },
            total_bytes,
            offset_bytes,
            content_crc: crc32fast::hash(&data),
            data,
        }
    }

    fn reply(&mut self) -> Result<ReplyBody, Refusal> {
        let number = self.edge();
        let outcomes = [
            Outcome::Applied(self.bytes()),
            Outcome::Registered(SessionId(number)),
            Outcome::OutOfOrder { expected: number },
            Outcome::WindowFull,
        ];
        match self.below(4) {
            0 => Ok(ReplyBody::Outcome(outcomes[self.below(4) as usize].clone())),
            1 => Ok(ReplyBody::Answer(self.bytes())),
            2 => Ok(ReplyBody::ReadIndex(LogIndex(number))),
            _ => Err(Refusal::TooLarge {
                limit_bytes: number,
            }),
        }
    }

    fn frame(&mut self, from: u64, to: u64) -> Frame {
        match self.below(8) {
            0 => Frame::SnapshotChunk(self.chunk()),
            1 => {
                let offset_bytes = self.edge();
                let statuses = [
                    SnapshotAckStatus::Next { offset_bytes },
                    SnapshotAckStatus::Done,
                    SnapshotAckStatus::Refused,
                ];
                Frame::SnapshotAck(SnapshotAck {
                    transfer: self.transfer(),
                    status: statuses[self.below(3) as usize],
                })
            }
            2 => {
                let consistency = [
                    Consistency::Linearizable,
                    Consistency::Lease,
                    Consistency::Stale,
                ][self.below(3) as usize];
                let body = match self.below(3) {
                    0 => RequestBody::Propose {
                        command: self.command(),
                    },
                    1 => RequestBody::Query {
                        consistency,
                        query: self.bytes(),
                    },
                    _ => RequestBody::ReadIndex,
                };
                Frame::Request(Request {
                    id: RequestId(self.edge()),
                    group: self.group(),
                    body,
                })
            }
            3 => Frame::Reply(Reply {
                id: RequestId(self.edge()),
                result: self.reply(),
            }),
            _ => {
                let messages = (0..=self.below(3)).map(|_| GroupMessage {
                    group: self.group(),
                    message: Message {
                        from: NodeId(from),
                        to: NodeId(to),
                        term: self.term(),
                        body: self.body(),
                    },
                });
                Frame::Raft(messages.collect())
            }
        }
    }
}

/// What arrives: what a socket would have brought, if it can be decoded.
fn through_the_codec(frame: &Frame) -> (u8, Vec<u8>, Option<Frame>) {
    let bytes = encode_frame(frame, usize::MAX).expect("it has no limit");
    let (kind, body) = (bytes[4], bytes[12..].to_vec());
    let decoded = decode_body(kind, &body).ok();
    (kind, body, decoded)
}

#[test]
fn no_frame_stops_a_node_and_writes_succeed_afterwards() {
    let seeds: Vec<u64> = match std::env::var("QUORATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..12).collect(),
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut bench = Bench::led_by_first(options);
        bench.assert_healthy();
        let mut dice = Dice {
            state: seed,
            term: 1,
        };
        for _ in 0..300 {
            dice.term = bench.node(1).role(GROUP).1.0;
            for _ in 0..8 {
                let to = 1 + dice.below(3);
                let from = 1 + (to + dice.below(2)) % 3;
                let frame = dice.frame(from, to);
                let (kind, mut body, decoded) = through_the_codec(&frame);
                if let Some(frame) = decoded {
                    bench.forge(from, to, frame);
                }
                if body.is_empty() {
                    continue;
                }
                // The same with another byte somewhere: a tag, a flag, a count, a kind.
                let at = dice.below(body.len() as u64) as usize;
                body[at] = dice.below(256) as u8;
                let is_plausible = matches!(frame, Frame::Raft(_));
                if let Ok(frame) = decode_body(kind, &body)
                    && !is_plausible
                {
                    bench.forge(from, to, frame);
                }
            }
            bench.round();
            for id in 1..=3 {
                assert!(bench.node(id).jobs() <= 64, "seed {seed}: jobs pile up");
            }
        }
        for id in 1..=3 {
            let files = bench.members[id as usize - 1].snapshot_files().len();
            assert!(files <= 2, "seed {seed}: {files} files");
            let view = bench.node(id).view(GROUP);
            assert!(!view.is_halted, "seed {seed}: {:?}", view.trouble);
            assert!(view.last_index.0 < 10_000, "seed {seed}: {view:?}");
            let rejected = bench.rejected(id);
            assert!(rejected.messages > 0, "seed {seed}: {rejected:?}");
        }
        bench.assert_healthy();
    }
}
