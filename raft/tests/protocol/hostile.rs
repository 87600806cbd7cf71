//! Nothing that a message says can bring a replica down.

use bytes::Bytes;
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, PersistSeq, Round, SnapshotMeta,
    Term, check_basic,
};

use crate::solo::{MS, Solo, options};

/// Numbers from nowhere: small, near the present, and at the edges of the type.
struct Dice {
    state: u64,
}

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn number(&mut self) -> u64 {
        match self.below(12) {
            0 => u64::MAX - self.below(3),
            1 => u64::MAX / 2 + self.below(3) - 1,
            2 => 1 << self.below(64),
            _ => self.below(8),
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.below(5))
    }

    fn entries(&mut self, prev: u64) -> Vec<Entry> {
        let count = self.below(4);
        let is_contiguous = self.below(4) > 0;
        (1..=count)
            .map(|offset| {
                let index = if is_contiguous {
                    prev.wrapping_add(offset)
                } else {
                    self.number()
                };
                let term = Term(1 + self.below(4));
                Entry {
                    index: LogIndex(index),
                    term,
                    kind: EntryKind::Command,
                    data: Bytes::new(),
                }
            })
            .collect()
    }

    fn body(&mut self) -> Body {
        let (a, b, c) = (
            LogIndex(self.number()),
            Term(self.number()),
            LogIndex(self.number()),
        );
        let (round, yes) = (Round(self.number()), self.below(2) == 0);
        match self.below(11) {
            0 => Body::PreVote {
                last_index: a,
                last_term: b,
            },
            1 => Body::PreVoteReply { granted: yes },
            2 => Body::Vote {
                last_index: a,
                last_term: b,
                transfer: yes,
            },
            3 => Body::VoteReply { granted: yes },
            4 | 5 => {
                let entries = self.entries(a.0);
                Body::Append {
                    prev_index: a,
                    prev_term: b,
                    commit: c,
                    round,
                    entries,
                }
            }
            6 => Body::AppendAccepted {
                match_index: a,
                round,
            },
            7 => Body::AppendRejected {
                prev_index: a,
                hint_index: c,
                hint_term: b,
                round,
            },
            8 => Body::Heartbeat { commit: a, round },
            9 => Body::HeartbeatReply { round },
            _ if yes => Body::TimeoutNow,
            _ => {
                let voters = (0..self.below(5)).map(|_| self.node()).collect();
                Body::SnapshotReceived {
                    meta: SnapshotMeta {
                        index: a,
                        term: b,
                        config: Config { voters },
                    },
                }
            }
        }
    }
}

#[test]
fn no_message_makes_a_replica_panic_or_breaks_its_invariants() {
    for seed in 0..1500 {
        let mut dice = Dice { state: seed };
        let mut solo = match seed % 3 {
            0 => Solo::new(3),
            1 => Solo::with_log(options(), 3, 3, &[1, 1, 2, 3]),
            _ => {
                let mut solo = Solo::new(3);
                solo.lead_committed();
                solo
            }
        };
        for _ in 0..80 {
            let near = solo.raft.term().0.saturating_add(dice.below(3));
            let term = if dice.below(4) == 0 {
                dice.number()
            } else {
                near
            };
            let (from, to) = (
                dice.node(),
                if dice.below(9) == 0 {
                    dice.node()
                } else {
                    NodeId(1)
                },
            );
            let message = Message {
                from,
                to,
                term: Term(term),
                body: dice.body(),
            };
            solo.raft.step(solo.now_ns, message);
            // The log reader of a solo replica must not be asked for what snapshots from nowhere
            // cover.
            let output = solo.output();
            if dice.below(3) > 0 {
                solo.sync();
            }
            if dice.below(5) == 0 {
                solo.wait(dice.below(700) * MS);
            }
            assert!(output.fault.is_none(), "seed {seed}");
            check_basic(&solo.raft).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        }
    }
}

#[test]
fn messages_of_strangers_and_for_others_are_refused() {
    let mut solo = Solo::new(3);
    let heartbeat = || Body::Heartbeat {
        commit: LogIndex(0),
        round: Round(0),
    };
    for (from, to, term) in [(9, 1, 1), (2, 3, 1), (1, 1, 1), (2, 1, 0), (2, 1, u64::MAX)] {
        let message = Message {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            body: heartbeat(),
        };
        solo.raft.step(0, message);
    }
    assert_eq!(solo.raft.counters().refused, 5);
    assert_eq!(solo.raft.term(), Term(0));
}

#[test]
fn inputs_that_make_no_sense_are_ignored() {
    let mut solo = Solo::new(3);
    solo.raft.on_persisted(0, PersistSeq(u64::MAX));
    solo.raft.on_snapshot_sent(0, NodeId(9), true);
    solo.raft.on_unreachable(NodeId(9));
    solo.raft.step_down(0);
    solo.lead_committed();
    solo.raft.on_snapshot_sent(0, NodeId(9), true);
    solo.raft.on_snapshot_sent(0, NodeId(2), true);
    solo.raft.on_persisted(0, PersistSeq(u64::MAX));
    solo.propose("x");
    assert!(solo.output().committed.is_empty());
    assert_eq!(
        solo.raft.durable_index(),
        LogIndex(1),
        "what is not handed out is not durable"
    );
}
