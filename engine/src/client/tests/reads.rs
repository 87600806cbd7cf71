//! Reads of a client that has a replica in its own process: when they may be answered, and by whom.

mod delayed;

use super::*;
use crate::client::{READ_HERE, ReadWants};
use crate::transport::Consistency;

/// The client's own node.
const HERE: NodeId = NodeId(3);
const LEADER: NodeId = NodeId(1);

impl Script {
    fn read(&mut self, wants: ReadWants) -> Pending<Bytes> {
        let (pending, completer) = Pending::new(|answer: Answer| answer);
        self.window.read(self.now_ns, wants, completer);
        self.complete();
        pending
    }

    /// A read that the leader may answer if the replica here cannot.
    fn get(&mut self) -> Pending<Bytes> {
        self.read(ReadWants::LocalOr(Bytes::from_static(b"query")))
    }

    fn index(&mut self, sent: &(NodeId, Request), index: u64) {
        let body = ReplyBody::ReadIndex(LogIndex(index));
        self.reply(sent.0, sent.1.id, Ok(body));
    }

    /// What the replica here is waited for, all of it taken.
    fn waits(&mut self) -> Vec<(LogIndex, RequestId)> {
        assert!(self.sent().is_empty(), "no request is lost on the way");
        std::mem::take(&mut self.waits)
    }

    fn applied(&mut self, (index, id): (LogIndex, RequestId)) {
        self.reply(HERE, id, Ok(ReplyBody::ReadIndex(index)));
    }

    fn cannot(&mut self, (_, id): (LogIndex, RequestId)) {
        self.reply(HERE, id, Err(Refusal::Lagging));
    }
}

fn only<T: Clone>(all: &[T]) -> T {
    assert_eq!(all.len(), 1, "exactly one");
    all[0].clone()
}

/// The read was complete, from a view of any age: between a time-out and the next copy any answer passed for the word of
/// the replica here.
#[test]
fn a_late_answer_of_a_leader_during_the_back_off_does_not_end_a_local_read() {
    let mut script = Script::new();
    let read = script.get();
    let first = only(&script.sent());
    script.pass(500 * MS);
    assert!(script.sent().is_empty(), "a moment passes before the next");
    script.index(&first, 100);
    assert!(!read.is_ready(), "the replica here was not asked yet");
    let wait = only(&script.waits());
    assert_eq!(wait.0, LogIndex(100));
    // Nor is it sent again when the moment is over: it has its index.
    script.pass(20 * MS);
    assert!(script.sent().is_empty());
    script.applied(wait);
    assert_eq!(read.wait(), Ok(READ_HERE));
    assert!(!script.window.is_busy());
}

/// A node that had answered once guessed the number of the next stage, and passed for the replica here.
#[test]
fn nobody_else_speaks_for_the_replica_here() {
    let mut script = Script::new();
    let read = script.get();
    let asked = only(&script.sent());
    script.index(&asked, 100);
    let wait = only(&script.waits());
    let rejected = script.window.rejected();
    for node in [LEADER, NodeId(2)] {
        script.reply(node, wait.1, Ok(ReplyBody::ReadIndex(LogIndex(100))));
        script.reply(node, wait.1, Err(Refusal::Lagging));
    }
    assert!(!read.is_ready(), "the replica here said nothing");
    assert_eq!(script.window.rejected(), rejected + 4);
    script.applied(wait);
    assert_eq!(read.wait(), Ok(READ_HERE));
}

/// The read was complete with the second copy's answer, from another leader, while the replica here had not applied either
/// index.
#[test]
fn the_answer_to_a_second_copy_does_not_end_a_local_read() {
    for first_comes_first in [true, false] {
        let mut script = Script::new();
        let read = script.get();
        let first = only(&script.sent());
        script.pass(500 * MS);
        script.pass(20 * MS);
        let second = only(&script.sent());
        assert_ne!(first.1.id, second.1.id, "each copy has its own id");
        let order = if first_comes_first {
            [(&first, 100), (&second, 101)]
        } else {
            [(&second, 101), (&first, 100)]
        };
        for (copy, index) in order {
            script.index(copy, index);
            script.index(copy, index);
        }
        assert!(!read.is_ready(), "both are answers of leaders");
        let wait = only(&script.waits());
        assert_eq!(wait.0, LogIndex(order[0].1), "the first one is enough");
        script.applied(wait);
        assert_eq!(read.wait(), Ok(READ_HERE));
    }
}

#[test]
fn an_answer_of_a_node_that_was_not_asked_is_ignored() {
    let mut script = Script::new();
    let read = script.get();
    let sent = only(&script.sent());
    let stranger = (NodeId(2), sent.1.clone());
    script.index(&stranger, 1);
    assert!(script.waits().is_empty());
    script.index(&sent, 5);
    assert_eq!(only(&script.waits()).0, LogIndex(5));
    assert!(!read.is_ready());
}

/// An empty answer of a server passed for the word of the replica here, from whose view the read was answered then.
#[test]
fn an_empty_answer_of_a_leader_is_not_the_word_of_the_replica_here() {
    let mut script = Script::new();
    let read = script.get();
    let first = only(&script.sent());
    script.index(&first, 5);
    let wait = only(&script.waits());
    script.cannot(wait);
    let instead = only(&script.sent());
    script.reply(instead.0, instead.1.id, Ok(ReplyBody::Answer(Bytes::new())));
    assert_eq!(read.wait(), Err(Error::Incompatible));
}

#[test]
fn a_refusal_of_an_earlier_copy_does_not_take_back_the_one_that_is_out() {
    let mut script = Script::new();
    let read = script.get();
    let first = only(&script.sent());
    script.pass(500 * MS);
    script.pass(20 * MS);
    let second = only(&script.sent());
    let refusal = Refusal::NotLeader { leader: None };
    script.reply(first.0, first.1.id, Err(refusal));
    script.pass(20 * MS);
    assert!(script.sent().is_empty(), "the second copy is still out");
    script.index(&second, 7);
    let wait = only(&script.waits());
    script.applied(wait);
    assert_eq!(read.wait(), Ok(READ_HERE));
}

#[test]
fn a_read_left_at_another_node_is_sent_to_the_new_target_at_once() {
    let mut script = Script::new();
    let _reads = [script.get(), script.get()];
    let sent = script.sent();
    let hint = Refusal::NotLeader {
        leader: Some(NodeId(2)),
    };
    script.reply(sent[0].0, sent[0].1.id, Err(hint));
    let again = script.sent();
    assert_eq!(again.len(), 2, "the other one would be refused as well");
    assert!(again.iter().all(|(node, _)| *node == NodeId(2)));
}

#[test]
fn where_the_replica_here_cannot_serve_the_leader_answers_until_it_has_caught_up() {
    let mut script = Script::new();
    let first = script.get();
    let sent = only(&script.sent());
    script.index(&sent, 100);
    let wait = only(&script.waits());
    script.cannot(wait);
    let query = only(&script.sent());
    assert_eq!(query.0, LEADER);
    let asked = RequestBody::Query {
        consistency: Consistency::Linearizable,
        query: Bytes::from_static(b"query"),
    };
    assert_eq!(query.1.body, asked);
    let answer = Bytes::from_static(b"the leader's");
    script.reply(LEADER, query.1.id, Ok(ReplyBody::Answer(answer.clone())));
    assert_eq!(first.wait(), Ok(answer.clone()));

    // The next one asks the leader at once; beside it, the replica here is asked how it stands.
    script.pass(60 * MS);
    let second = script.get();
    let query = only(&script.sent());
    assert_eq!(query.1.body, asked);
    script.reply(LEADER, query.1.id, Ok(ReplyBody::Answer(answer.clone())));
    assert_eq!(second.wait(), Ok(answer));
    let probe = only(&script.waits());
    assert_eq!(probe.0, LogIndex(100));
    script.applied(probe);

    let third = script.get();
    let sent = only(&script.sent());
    assert_eq!(sent.1.body, RequestBody::ReadIndex);
    script.index(&sent, 120);
    let wait = only(&script.waits());
    script.applied(wait);
    assert_eq!(third.wait(), Ok(READ_HERE));
}

#[test]
fn a_replica_that_cannot_serve_is_asked_how_it_stands_now_and_then() {
    let mut script = Script::new();
    let _first = script.get();
    let sent = only(&script.sent());
    script.index(&sent, 100);
    let wait = only(&script.waits());
    script.cannot(wait);
    let mut probes = 0;
    while script.now_ns < 1_000 * MS {
        script.pass(5 * MS);
        let _read = script.get();
        for sent in script.sent() {
            let answer = ReplyBody::Answer(Bytes::from_static(b"v"));
            script.reply(sent.0, sent.1.id, Ok(answer));
        }
        for probe in script.waits() {
            probes += 1;
            script.cannot(probe);
        }
    }
    assert!((15..=20).contains(&probes), "every 50 ms: {probes}");
}

#[test]
fn a_view_of_a_replica_that_cannot_serve_ends_at_its_deadline_as_lagging() {
    let mut script = Script::new();
    let view = script.read(ReadWants::LocalIndex);
    let mut asked = 0;
    while script.now_ns < 10_000 * MS {
        for sent in script.sent() {
            assert_eq!(sent.1.body, RequestBody::ReadIndex, "nobody else has it");
            asked += 1;
            script.index(&sent, 100);
        }
        for wait in script.waits() {
            script.cannot(wait);
        }
        script.pass(5 * MS);
    }
    assert_eq!(
        view.wait(),
        Err(Error::Timeout {
            after_ms: 10_000,
            maybe_applied: false,
            cause: Obstacle::Lagging,
            leader: Some(LEADER),
        })
    );
    assert!((100..=400).contains(&asked), "again and again: {asked}");
    assert!(!script.window.is_busy(), "nothing of it is left");
}

/// The worker of a node may stand still with its disk, and then answers nothing at all.
#[test]
fn where_the_replica_here_does_not_even_answer_the_leader_is_asked_in_time() {
    let mut script = Script::new();
    let read = script.get();
    let sent = only(&script.sent());
    script.index(&sent, 100);
    let wait = only(&script.waits());
    script.pass(499 * MS);
    assert!(script.sent().is_empty());
    script.pass(MS);
    let query = only(&script.sent());
    let answer = Bytes::from_static(b"the leader's");
    script.reply(LEADER, query.1.id, Ok(ReplyBody::Answer(answer.clone())));
    assert_eq!(read.wait(), Ok(answer));
    // Too late for it, and for whoever comes next.
    let next = script.get();
    script.applied(wait);
    assert!(!next.is_ready());
}

#[test]
fn a_view_whose_replica_never_answers_ends_at_its_deadline_and_is_forgotten() {
    let mut script = Script::new();
    let view = script.read(ReadWants::LocalIndex);
    let mut asked = 0;
    while script.now_ns < 10_000 * MS {
        for sent in script.sent() {
            script.index(&sent, 100);
        }
        asked += script.waits().len();
        script.pass(5 * MS);
    }
    let error = view.wait().expect_err("nobody answered");
    let is_lagging = matches!(
        error,
        Error::Timeout {
            cause: Obstacle::Lagging,
            maybe_applied: false,
            ..
        }
    );
    assert!(is_lagging, "{error:?}");
    assert!((15..=20).contains(&asked), "again and again: {asked}");
    assert!(!script.window.is_busy());
}

#[test]
fn closing_ends_reads_in_every_stage() {
    let mut script = Script::with_outstanding(16);
    let reads = [script.get(), script.get(), script.get(), script.get()];
    let view = script.read(ReadWants::LocalIndex);
    let sent = script.sent();
    script.index(&sent[0], 5);
    script.index(&sent[1], 5);
    script.index(&sent[4], 5);
    let waits = script.waits();
    script.cannot(waits[1]);
    script.cannot(waits[2]);
    assert_eq!(script.sent().len(), 1, "the leader is asked instead");
    script.window.close(&Error::Closed);
    script.complete();
    for read in reads {
        assert_eq!(read.wait(), Err(Error::Closed));
    }
    assert_eq!(view.wait(), Err(Error::Closed));
    assert!(!script.window.is_busy());
    // Whatever comes afterwards finds nobody.
    script.applied(waits[0]);
    script.index(&sent[2], 9);
    assert!(script.waits().is_empty());
}

/// A node answers a node, not a process: what a process asked that is gone may be answered to the one that took its place.
#[test]
fn what_an_earlier_life_of_a_node_asked_is_not_answered_to_a_later_one() {
    let life = |seed: u64| {
        let mut script = Script::new();
        let options = WindowOptions {
            retry_after_ns: 500 * MS,
            call_timeout_ns: 10_000 * MS,
            outstanding_max: 8,
            sessions_max: 4,
        };
        let window = Window::new(GroupId(0), vec![LEADER, HERE], options);
        script.window = window.numbered_from(seed).beside(Some(HERE));
        script
    };
    let (mut before, mut after) = (life(0x1234_5678_9ABC_DEF0), life(0xFEDC_BA98_7654_3210));
    let (_gone, read) = (before.get(), after.get());
    let (_lost, write) = (before.put("lost"), after.put("new"));
    let (asked_before, asked) = (before.sent(), after.sent());
    for sent in &asked_before {
        let index = Ok(ReplyBody::ReadIndex(LogIndex(1)));
        let registered = ReplyBody::Outcome(Outcome::Registered(SessionId(9)));
        after.reply(sent.0, sent.1.id, index);
        after.reply(sent.0, sent.1.id, Ok(registered));
    }
    assert!(after.waits().is_empty(), "neither of them is answered");
    assert!(!read.is_ready() && !write.is_ready());
    after.index(&asked[0], 5);
    assert_eq!(only(&after.waits()).0, LogIndex(5));
    // And what comes of the highest seed still ascends for longer than anybody asks.
    let mut last = life(u64::MAX);
    let _reads = [last.get(), last.get()];
    let sent = last.sent();
    assert!(sent[0].1.id < sent[1].1.id);
    assert_eq!(sent[1].1.id.0 >> crate::client::REQUEST_COUNT_BITS, 0);
}

/// One read after the other, with so many outstanding, each from the first copy to the replica's word. Returns how many reads
/// were looked at for each that was answered.
fn looks_per_read(outstanding: usize) -> f64 {
    let mut script = Script::with_outstanding(outstanding);
    let mut open: std::collections::VecDeque<_> = (0..outstanding).map(|_| script.get()).collect();
    let mut asked: std::collections::VecDeque<_> = script.sent().into();
    let rounds = 2 * outstanding;
    let before = script.window.looks_at_reads();
    for _ in 0..rounds {
        let sent = asked.pop_front().expect("each read is asked for once");
        script.index(&sent, 5);
        assert!(script.sent().is_empty());
        let wait = script.waits.pop().expect("the replica here is asked");
        script.applied(wait);
        let read = open.pop_front().expect("it is outstanding");
        assert_eq!(read.wait(), Ok(READ_HERE));
        open.push_back(script.get());
        asked.extend(script.sent());
        script.pass(0);
    }
    (script.window.looks_at_reads() - before) as f64 / rounds as f64
}

/// Each read looked at all others, several times: a rate of 24,767 a second with 16 outstanding was one of 910 with 4,000.
#[test]
fn a_read_costs_the_same_however_many_are_outstanding() {
    let (few, many) = (looks_per_read(16), looks_per_read(4_000));
    assert!((1.0..=12.0).contains(&few), "{few} looks for each read");
    assert!(many <= few, "{many} looks for each of 4,000, {few} of 16");
}

/// One read is never answered while others come and go. Of reads that are gone each of three lists has 66 entries at most.
#[test]
fn reads_that_are_gone_leave_nothing_behind_a_read_that_stays() {
    let mut script = Script::new();
    let stays = script.get();
    let _unanswered = script.sent();
    for _ in 0..10_000 {
        let read = script.get();
        let sent = only(&script.sent());
        script.index(&sent, 5);
        let wait = only(&script.waits());
        script.applied(wait);
        assert_eq!(read.wait(), Ok(READ_HERE));
        let entries = script.window.entries_of_reads();
        assert!(entries <= 216, "{entries} entries for one read");
    }
    script.pass(10_000 * MS);
    assert!(stays.wait().is_err(), "nobody answered");
    assert!(script.window.entries_of_reads() <= 216);
    assert!(!script.window.is_busy());
}
