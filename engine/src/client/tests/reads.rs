//! Reads of a client that has a replica in its own process: when they may be answered, and by whom.

use std::collections::BTreeMap;

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

#[test]
fn a_read_whose_replica_never_answers_ends_at_its_deadline_and_is_forgotten() {
    for wants in [
        ReadWants::LocalIndex,
        ReadWants::LocalOr(Bytes::from_static(b"query")),
    ] {
        let mut script = Script::new();
        let read = script.read(wants);
        let sent = only(&script.sent());
        script.index(&sent, 100);
        let wait = only(&script.waits());
        script.pass(10_000 * MS);
        let error = read.wait().expect_err("nobody answered");
        let is_lagging = matches!(
            error,
            Error::Timeout {
                cause: Obstacle::Lagging,
                maybe_applied: false,
                ..
            }
        );
        assert!(is_lagging, "{error:?}");
        assert!(!script.window.is_busy());
        // Too late for it, and for whoever comes next.
        let next = script.get();
        script.applied(wait);
        assert!(!next.is_ready());
    }
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
        script.window = window.numbered_from(seed);
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

/// One read is never answered while others come and go.
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
        assert!(entries <= 80, "{entries} entries for one read");
    }
    script.pass(10_000 * MS);
    assert!(stays.wait().is_err(), "nobody answered");
    assert!(script.window.entries_of_reads() <= 80);
    assert!(!script.window.is_busy());
}

/// The truth of a script: what was acknowledged, how far each replica has come, and what is on its way.
struct World {
    script: Script,
    draw: Dice,
    /// The last write that was acknowledged to anyone.
    acknowledged: u64,
    /// What the replica here has applied.
    applied: u64,
    /// Whether the replica here can wait for anything at all.
    is_halted: bool,
    /// Answers on their way: when, from whom, to what. Many are doubled, and they overtake each other.
    flying: BTreeMap<(u64, u64), (NodeId, RequestId, Result<ReplyBody, Refusal>)>,
    flown: u64,
    /// Who waits here, and for how long at most.
    waiting: Vec<(LogIndex, RequestId, u64)>,
    open: Vec<(u64, Pending<Bytes>)>,
    answered_here: u64,
    answered_there: u64,
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            script: Script::with_outstanding(64),
            draw: Dice(seed),
            acknowledged: 0,
            applied: 0,
            is_halted: false,
            flying: BTreeMap::new(),
            flown: 0,
            waiting: Vec::new(),
            open: Vec::new(),
            answered_here: 0,
            answered_there: 0,
        }
    }

    fn fly(
        &mut self,
        delay_ms: u64,
        from: NodeId,
        id: RequestId,
        result: Result<ReplyBody, Refusal>,
    ) {
        self.flown += 1;
        let at_ns = self.script.now_ns + self.draw.below(delay_ms + 1) * MS;
        self.flying.insert((at_ns, self.flown), (from, id, result));
    }

    /// What a node says to a request that reaches it now. Node 1 leads; the answer holds what is acknowledged by now.
    fn ask(&mut self, (node, request): (NodeId, Request)) {
        let result = match (node, request.body) {
            (LEADER, _) if self.draw.below(20) == 0 => Err(Refusal::Busy),
            (LEADER, RequestBody::ReadIndex) => {
                Ok(ReplyBody::ReadIndex(LogIndex(self.acknowledged)))
            }
            (LEADER, RequestBody::Query { .. }) => {
                let seen = self.acknowledged.to_le_bytes();
                Ok(ReplyBody::Answer(Bytes::copy_from_slice(&seen)))
            }
            (LEADER, other @ RequestBody::Propose { .. }) => panic!("nobody writes: {other:?}"),
            _ => Err(Refusal::NotLeader {
                leader: (self.draw.below(4) > 0).then_some(LEADER),
            }),
        };
        // Longer than the client waits before it asks somebody else, at times.
        let delay_ms = if self.draw.below(3) == 0 { 2_000 } else { 20 };
        for _ in 0..[0, 1, 1, 1, 1, 2, 2, 3][self.draw.below(8) as usize] {
            self.fly(delay_ms, node, request.id, result.clone());
        }
    }

    /// The replica here waits for half a second, like a node.
    fn wait_here(&mut self, index: LogIndex, id: RequestId) {
        let until_ns = self.script.now_ns + 500 * MS;
        self.waiting.push((index, id, until_ns));
    }

    fn answer_here(&mut self) {
        let (applied, now_ns, halted) = (self.applied, self.script.now_ns, self.is_halted);
        for (index, id, until_ns) in std::mem::take(&mut self.waiting) {
            if index.0 <= applied {
                self.fly(0, HERE, id, Ok(ReplyBody::ReadIndex(index)));
            } else if halted || until_ns <= now_ns {
                self.fly(0, HERE, id, Err(Refusal::Lagging));
            } else {
                self.waiting.push((index, id, until_ns));
            }
        }
    }

    fn step(&mut self) {
        self.acknowledged += self.draw.below(3);
        match self.draw.below(200) {
            0 => self.is_halted = true,
            1..=10 => self.is_halted = false,
            _ => {}
        }
        if !self.is_halted && self.draw.below(40) > 0 {
            // It comes up in leaps, and lags for a while in between.
            let behind = self.acknowledged - self.applied;
            if self.draw.below(30) == 0 {
                self.applied += behind;
            } else {
                self.applied += self.draw.below(2).min(behind);
            }
        }
        if self.draw.below(2) == 0 {
            let wants = match self.draw.below(3) {
                0 => ReadWants::LocalIndex,
                _ => ReadWants::LocalOr(Bytes::from_static(b"query")),
            };
            let read = self.script.read(wants);
            self.open.push((self.acknowledged, read));
        }
        for sent in self.script.sent() {
            self.ask(sent);
        }
        for (index, id) in std::mem::take(&mut self.script.waits) {
            self.wait_here(index, id);
        }
        self.answer_here();
        while let Some(first) = self.flying.first_entry() {
            if first.key().0 > self.script.now_ns {
                break;
            }
            let (from, id, result) = first.remove();
            self.script.reply(from, id, result);
            self.judge();
        }
        if self.draw.below(50) == 0 {
            let node = NodeId(1 + self.draw.below(3));
            let now_ns = self.script.now_ns;
            self.script.window.disconnected(now_ns, node);
        }
        self.script.pass(5 * MS);
        self.judge();
    }

    /// Each read that is complete, of the view of this moment or of the leader's, held all that was acknowledged before it.
    fn judge(&mut self) {
        let open = std::mem::take(&mut self.open);
        for (needs, read) in open {
            if !read.is_ready() {
                self.open.push((needs, read));
                continue;
            }
            let seen = match read.wait() {
                Ok(answer) if answer == READ_HERE => {
                    self.answered_here += 1;
                    self.applied
                }
                Ok(answer) => {
                    self.answered_there += 1;
                    u64::from_le_bytes(answer[..].try_into().expect("eight bytes"))
                }
                Err(Error::Timeout { .. } | Error::Busy { .. }) => continue,
                Err(error) => panic!("{error:?}"),
            };
            assert!(
                seen >= needs,
                "a read saw {seen}, and {needs} was acknowledged before it"
            );
        }
    }
}

#[test]
fn whatever_is_delayed_doubled_or_overtaken_a_read_sees_what_was_acknowledged_before_it() {
    let (mut here, mut there) = (0, 0);
    for seed in 1..=200_u64 {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2_000 {
                world.step();
            }
        }));
        assert!(run.is_ok(), "seed {seed}");
        here += world.answered_here;
        there += world.answered_there;
    }
    assert!(
        here > 10_000 && there > 10_000,
        "both ways: {here} here, {there} there"
    );
}
