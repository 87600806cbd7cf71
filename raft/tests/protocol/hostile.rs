//! Nothing that a message says can bring a replica down.

use bytes::Bytes;
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, PersistSeq, Raft, RejectionReason,
    Round, SnapshotMeta, Term, check_basic,
};

use crate::solo::{MS, Solo, config, entry, options};

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
                let term = Term(self.below(5));
                let kind = match self.below(16) {
                    0 => EntryKind::Config,
                    1 => EntryKind::Noop,
                    _ => EntryKind::Command,
                };
                let bytes = if self.below(16) == 0 { 100 } else { 0 };
                Entry {
                    index: LogIndex(index),
                    term,
                    kind,
                    data: Bytes::from(vec![0; bytes]),
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
            1 => {
                let mut options = options();
                options.entry_bytes_max = 50;
                Solo::with_log(options, 3, 3, &[1, 1, 2, 3])
            }
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

/// The bodies of all messages that two nodes exchange, sound in every other respect.
fn bodies(term: u64) -> Vec<Body> {
    let (last_index, last_term) = (LogIndex(9), Term(term - 1));
    let (prev_index, prev_term, round) = (LogIndex(4), Term(3), Round(0));
    vec![
        Body::PreVote {
            last_index,
            last_term,
        },
        Body::PreVoteReply { granted: false },
        Body::Vote {
            last_index,
            last_term,
            transfer: true,
        },
        Body::VoteReply { granted: false },
        Body::Append {
            prev_index,
            prev_term,
            commit: LogIndex(0),
            round,
            entries: vec![entry(5, term)],
        },
        Body::AppendAccepted {
            match_index: prev_index,
            round,
        },
        Body::AppendRejected {
            prev_index,
            hint_index: LogIndex(1),
            hint_term: Term(term),
            round,
        },
        Body::Heartbeat {
            commit: LogIndex(0),
            round,
        },
        Body::HeartbeatReply { round },
        Body::SnapshotReceived {
            meta: SnapshotMeta {
                index: LogIndex(9),
                term: Term(term),
                config: config(3),
            },
        },
        Body::TimeoutNow,
    ]
}

/// One message of term `2^63 - 1` made a group leaderless for good, on all nodes and through
/// restarts: nobody may stand beyond the last number, and the term spread and became durable.
#[test]
fn a_term_that_no_counting_leads_to_is_refused_in_every_kind_of_message() {
    const JUMP: u64 = 1 << 32;
    for term in [3 + JUMP + 1, 1 << 62, u64::MAX / 2] {
        for body in bodies(term) {
            for is_leader in [false, true] {
                let mut solo = Solo::with_log(options(), 3, 3, &[1, 1, 2, 3]);
                if is_leader {
                    solo.lead_committed();
                }
                let before = (solo.raft.term(), solo.raft.last_index(), solo.raft.role());
                let term = term + solo.raft.term().0 - 3;
                if term > u64::MAX / 2 {
                    continue;
                }
                solo.hears(2, term, body.clone());
                let after = (solo.raft.term(), solo.raft.last_index(), solo.raft.role());
                assert_eq!(before, after, "{body:?}");
                assert_eq!(solo.raft.counters().term_jumps, 1, "{body:?}");
                assert!(matches!(
                    solo.raft.last_rejection().map(|it| (it.from, it.reason)),
                    Some((NodeId(2), RejectionReason::TermJump { .. }))
                ));
                solo.sync();
                solo.output();
                assert_eq!(solo.disk.durable.hard_state.term, solo.raft.term());
            }
        }
    }
    // The farthest that is believed.
    let mut solo = Solo::with_log(options(), 3, 3, &[1, 1, 2, 3]);
    solo.hears(2, 3 + JUMP, bodies(3 + JUMP).swap_remove(7));
    assert_eq!(solo.raft.term(), Term(3 + JUMP));
    assert_eq!(solo.raft.counters().term_jumps, 0);
}

#[test]
fn a_replica_that_has_never_seen_a_term_joins_a_group_of_any_age() {
    let mut solo = Solo::new(3);
    solo.hears(2, 1 << 40, bodies(1 << 40).swap_remove(7));
    assert_eq!(solo.raft.term(), Term(1 << 40));
    // Even so the numbers do not come to their end.
    let mut solo = Solo::new(3);
    solo.hears(2, u64::MAX / 2, bodies(u64::MAX / 2).swap_remove(7));
    assert_eq!(solo.raft.term(), Term(0));
    // Now it has seen one.
    solo.hears(2, 1, bodies(1).swap_remove(7));
    solo.hears(2, 1 << 40, bodies(1 << 40).swap_remove(7));
    assert_eq!(solo.raft.term(), Term(1));
    assert_eq!(solo.raft.counters().term_jumps, 2);
    // And after a restart too, once it is durable.
    solo.output();
    solo.sync();
    let restored = solo.disk.restored(NodeId(1), &config(3));
    let mut again = Raft::new(options(), restored, 0).expect("sound");
    let message = Message {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(1 << 40),
        body: bodies(1 << 40).swap_remove(7),
    };
    again.step(0, message);
    assert_eq!(again.term(), Term(1));
}

/// A forged change of configuration, once committed, halted the replica for good.
#[test]
fn entries_that_cannot_be_applied_or_stored_never_enter_the_log() {
    let mut options = options();
    options.entry_bytes_max = 1000;
    let mut solo = Solo::with_log(options, 3, 3, &[1, 1, 2, 3]);
    let append = |entries| Body::Append {
        prev_index: LogIndex(4),
        prev_term: Term(3),
        commit: LogIndex(9),
        round: Round(0),
        entries,
    };
    let mut config_change = entry(6, 3);
    config_change.kind = EntryKind::Config;
    solo.hears(2, 3, append(vec![entry(5, 3), config_change]));
    assert_eq!(
        solo.raft.last_index(),
        LogIndex(4),
        "not even the entry before it"
    );
    assert_eq!(solo.raft.counters().entry_kinds, 1);
    let mut large = entry(5, 3);
    large.data = Bytes::from(vec![0; 1001]);
    solo.hears(2, 3, append(vec![large.clone()]));
    assert_eq!(solo.raft.last_index(), LogIndex(4));
    assert_eq!(solo.raft.counters().entries_too_large, 1);
    let told = solo
        .raft
        .last_rejection()
        .expect("it was refused")
        .to_string();
    assert!(
        told.contains("1001 bytes") && told.contains("takes 1000"),
        "{told}"
    );
    large.data.truncate(1000);
    solo.hears(2, 3, append(vec![large]));
    assert_eq!(solo.raft.last_index(), LogIndex(5));
}

/// A forged snapshot of a group of one made its victim a cluster of its own.
#[test]
fn a_snapshot_with_other_members_is_refused() {
    for voters in [vec![1], vec![1, 2], vec![1, 2, 4], vec![1, 2, 3, 4]] {
        let mut solo = Solo::with_log(options(), 3, 3, &[1, 1, 2, 3]);
        let meta = SnapshotMeta {
            index: LogIndex(9),
            term: Term(3),
            config: Config {
                voters: voters.into_iter().map(NodeId).collect(),
            },
        };
        assert!(!solo.raft.accepts_snapshot(NodeId(2), Term(3), &meta));
        solo.hears(2, 3, Body::SnapshotReceived { meta });
        assert_eq!(solo.raft.config(), &config(3));
        assert_eq!(solo.raft.commit(), LogIndex(0));
        assert_eq!(solo.raft.counters().foreign_snapshots, 2);
    }
}

#[test]
fn a_replica_that_contradicts_its_leader_says_so() {
    let mut solo = Solo::with_log(options(), 3, 3, &[1, 1, 2, 3]);
    solo.hears_append(2, 3, (4, 3), &[3], 5);
    assert_eq!(solo.raft.commit(), LogIndex(5));
    solo.hears_append(3, 4, (4, 3), &[4, 4], 6);
    assert_eq!(solo.raft.counters().violations, 1);
    let told = solo.raft.last_rejection().expect("refused");
    assert_eq!(told.from, NodeId(3));
    assert!(told.reason.is_serious());
    assert!(told.to_string().contains("contradicts"), "{told}");
    solo.hears(
        3,
        4,
        Body::Heartbeat {
            commit: LogIndex(70),
            round: Round(1),
        },
    );
    let told = solo.raft.last_rejection().expect("refused").to_string();
    assert!(told.contains("lost acknowledged entries"), "{told}");
}
