//! The window against scripted nodes.

mod doubt;
mod lost;
mod reads;
mod timer;

use bytes::Bytes;
use quorate_kv::{Command, CommandBuffer, Map, Outcome, Position, SessionId, Sessions};
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

use super::window::{Send, Window, WindowOptions};
use crate::error::{Error, Obstacle};
use crate::pending::{Answer, Pending};
use crate::transport::{Refusal, Reply, ReplyBody, Request, RequestBody, RequestId};

const MS: u64 = 1_000_000;

struct Script {
    window: Window,
    now_ns: u64,
    /// What the replica in this process was asked to wait for and has not answered, the oldest first.
    waits: Vec<(LogIndex, RequestId)>,
}

impl Script {
    fn new() -> Self {
        Self::with_outstanding(8)
    }

    fn with_outstanding(outstanding_max: usize) -> Self {
        let options = WindowOptions {
            retry_after_ns: 500 * MS,
            call_timeout_ns: 10_000 * MS,
            outstanding_max,
            sessions_max: 4,
        };
        let nodes = vec![NodeId(1), NodeId(2), NodeId(3)];
        Self {
            window: Window::new(GroupId(0), nodes, options).beside(Some(NodeId(3))),
            now_ns: 0,
            waits: Vec::new(),
        }
    }

    /// A window whose session is open at node 1.
    fn open() -> (Self, Pending<Bytes>) {
        let mut script = Self::new();
        let first = script.put("first");
        let register = script.sent();
        assert_eq!(
            register.len(),
            1,
            "nothing but the registration leaves without a session"
        );
        script.answer(&register[0], Ok(Outcome::Registered(SessionId(9))));
        (script, first)
    }

    fn put(&mut self, value: &str) -> Pending<Bytes> {
        let (pending, completer) = Pending::new(|answer: Answer| answer);
        let command = CommandBuffer::put(b"key", value.as_bytes()).expect("small");
        self.window.write(self.now_ns, command, completer);
        self.complete();
        pending
    }

    fn complete(&mut self) {
        for (completer, answer) in self.window.take_completions() {
            completer.complete(answer);
        }
    }

    fn sent(&mut self) -> Vec<(NodeId, Request)> {
        let mut sent = Vec::new();
        for send in self.window.take_sends() {
            match send {
                Send::Request(node, request) => sent.push((node, request)),
                Send::WaitApplied(_, index, id) => self.waits.push((index, id)),
            }
        }
        sent
    }

    fn answer(&mut self, sent: &(NodeId, Request), result: Result<Outcome, Refusal>) {
        self.reply(sent.0, sent.1.id, result.map(ReplyBody::Outcome));
    }

    fn reply(&mut self, from: NodeId, id: RequestId, result: Result<ReplyBody, Refusal>) {
        self.window.reply(self.now_ns, from, Reply { id, result });
        self.complete();
    }

    fn pass(&mut self, time_ns: u64) {
        self.now_ns += time_ns;
        self.window.tick(self.now_ns);
        self.complete();
    }
}

fn position(sent: &(NodeId, Request)) -> Position {
    match Command::decode(&command(sent)) {
        Ok(Command::Apply(position) | Command::Skip(position)) => position,
        other => panic!("{other:?} has no position"),
    }
}

fn command(sent: &(NodeId, Request)) -> Bytes {
    match &sent.1.body {
        RequestBody::Propose { command } => command.clone(),
        other => panic!("{other:?} is no proposal"),
    }
}

fn sequences(sent: &[(NodeId, Request)]) -> Vec<u64> {
    sent.iter().map(|sent| position(sent).sequence).collect()
}

#[test]
fn writes_leave_in_order_with_a_floor_below_the_first_unanswered() {
    let (mut script, first) = Script::open();
    let (_b, _c) = (script.put("b"), script.put("c"));
    let sent = script.sent();
    assert_eq!(sequences(&sent), [1, 2, 3]);
    script.answer(&sent[0], Ok(Outcome::Applied(Bytes::from_static(b"done"))));
    assert_eq!(first.wait(), Ok(Bytes::from_static(b"done")));
    let _d = script.put("d");
    let next = script.sent();
    assert_eq!(
        position(&next[0]),
        Position {
            session: SessionId(9),
            sequence: 4,
            floor: 1
        }
    );
}

#[test]
fn a_hint_moves_the_whole_window_to_the_leader_in_order() {
    let (mut script, _first) = Script::open();
    let _b = script.put("b");
    let sent = script.sent();
    script.answer(
        &sent[0],
        Err(Refusal::NotLeader {
            leader: Some(NodeId(3)),
        }),
    );
    let again = script.sent();
    assert!(again.iter().all(|(node, _)| *node == NodeId(3)));
    assert_eq!(sequences(&again), [1, 2]);
    // The second refusal belongs to the burst that is given up: nothing is sent a third time.
    script.answer(
        &sent[1],
        Err(Refusal::NotLeader {
            leader: Some(NodeId(2)),
        }),
    );
    assert!(script.sent().is_empty());
}

#[test]
fn a_lost_write_is_sent_again_with_all_behind_it_when_the_gap_is_reported() {
    let (mut script, _first) = Script::open();
    let _b = script.put("b");
    let sent = script.sent();
    script.answer(&sent[1], Ok(Outcome::OutOfOrder { expected: 1 }));
    assert_eq!(sequences(&script.sent()), [1, 2]);
}

#[test]
fn an_answer_to_an_earlier_copy_counts() {
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.pass(600 * MS);
    script.pass(20 * MS);
    let again = script.sent();
    assert_eq!(again.len(), 1, "silence sends it elsewhere");
    assert_eq!(
        command(&sent[0]),
        command(&again[0]),
        "the very same command"
    );
    script.answer(&again[0], Ok(Outcome::Applied(Bytes::new())));
    assert_eq!(first.wait(), Ok(Bytes::new()));
}

/// Every answer went to a copy that had been replaced by the time it came, and what was taken was sent again with what was not:
/// the leader's log filled with copies, and no write was ever answered. Found by the simulator.
#[test]
fn a_busy_leader_is_sent_again_only_what_it_refused() {
    let (mut script, first) = Script::open();
    let (_b, _c) = (script.put("b"), script.put("c"));
    let sent = script.sent();
    script.answer(&sent[1], Err(Refusal::Busy));
    script.answer(&sent[2], Err(Refusal::Busy));
    script.pass(10 * MS);
    let again = script.sent();
    assert_eq!(sequences(&again), [2, 3]);
    // A second time, from another place.
    script.answer(&again[1], Err(Refusal::Busy));
    script.pass(10 * MS);
    let third = script.sent();
    assert_eq!(sequences(&third), [3]);
    for copy in [&sent[0], &again[0], &third[0]] {
        script.answer(copy, Ok(Outcome::Applied(Bytes::from_static(b"done"))));
    }
    assert_eq!(first.wait(), Ok(Bytes::from_static(b"done")));
    assert!(!script.window.is_busy(), "all are answered");
}

#[test]
fn the_answer_to_a_copy_that_was_sent_again_is_the_answer() {
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.pass(600 * MS);
    script.pass(20 * MS);
    let again = script.sent();
    assert_eq!(sequences(&again), [1], "it is asked elsewhere");
    script.answer(&sent[0], Ok(Outcome::Applied(Bytes::from_static(b"done"))));
    assert!(first.is_ready());
    assert_eq!(first.wait(), Ok(Bytes::from_static(b"done")));
    script.answer(&again[0], Ok(Outcome::Applied(Bytes::from_static(b"done"))));
    assert!(!script.window.is_busy());
}

/// What is sent again while a leader works off what it has adds to that. Yet one that lost it, and leads on, has to be sent it.
#[test]
fn whoever_is_silent_is_asked_less_and_less_often_and_often_again_after_an_answer() {
    let (mut script, first) = Script::open();
    // All are silent, and each time it is sent to the next one.
    let mut sent_at_ms: Vec<u64> = vec![0];
    let mut last = script.sent();
    while script.now_ns < 60_000 * MS {
        script.pass(5 * MS);
        let sent = script.sent();
        if !sent.is_empty() {
            sent_at_ms.push(script.now_ns / MS);
            last = sent;
        }
    }
    let waits_ms: Vec<u64> = sent_at_ms.windows(2).map(|it| it[1] - it[0]).collect();
    let rounds: Vec<u64> = waits_ms.chunks(3).map(|round| round[0]).collect();
    assert!(waits_ms[0] <= 520 && waits_ms[1] <= 520, "{waits_ms:?}");
    assert!(rounds.is_sorted(), "{waits_ms:?}");
    assert!(rounds[2] >= 2_000, "{waits_ms:?}");
    assert!(
        waits_ms.iter().all(|&it| it <= 10_000 / 4 + 20),
        "each call asks all three nodes: {waits_ms:?}"
    );
    assert!(
        first.is_ready(),
        "its caller was told that it may have been applied"
    );
    script.answer(&last[0], Ok(Outcome::Applied(Bytes::new())));
    let _b = script.put("b");
    assert_eq!(script.sent().len(), 1);
    script.pass(510 * MS);
    script.pass(20 * MS);
    assert_eq!(script.sent().len(), 1, "half a second is long again");
}

#[test]
fn a_busy_leader_is_asked_less_and_less_often_until_it_answers() {
    let (mut script, _first) = Script::open();
    let wait_ms = |script: &mut Script| {
        let sent = script.sent();
        for sent in &sent {
            script.answer(sent, Err(Refusal::Busy));
        }
        let from_ns = script.now_ns;
        while !script.window.has_effects() {
            script.pass(MS);
        }
        (script.now_ns - from_ns) / MS
    };
    let waits: Vec<u64> = (0..8).map(|_| wait_ms(&mut script)).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
    let _b = script.put("b");
    let sent = script.sent();
    script.answer(&sent[0], Ok(Outcome::Applied(Bytes::new())));
    script.answer(&sent[1], Err(Refusal::Busy));
    script.pass(2 * MS);
    assert_eq!(sequences(&script.sent()), [2]);
}

/// A new leader had 5 to 7 in its log of its predecessor's term, took 5 once more and had no room for 6 and 7; the predecessor's
/// answers to 5 to 7 were late, and the client's first was 8. Until the leader had applied something of its term it waited for 6, said
/// so at once, and was sent the whole window at once.
#[test]
fn a_leader_that_waits_for_what_was_answered_long_ago_is_not_sent_the_window_at_once() {
    let (mut script, _first) = Script::open();
    let _b = script.put("b");
    for sent in script.sent() {
        script.answer(&sent, Ok(Outcome::Applied(Bytes::new())));
    }
    let last = [script.put("c"), script.put("d")];
    let mut bursts = 0;
    while script.now_ns < 100 * MS {
        let sent = script.sent();
        bursts += u32::from(!sent.is_empty());
        for sent in &sent {
            script.answer(sent, Ok(Outcome::OutOfOrder { expected: 2 }));
        }
        script.pass(MS);
    }
    assert_eq!(bursts, 6, "at 0, 2, 6, 14, 30 and 62 ms");
    while !script.window.has_effects() {
        script.pass(MS);
    }
    let sent = script.sent();
    assert_eq!(sequences(&sent), [3, 4]);
    for sent in &sent {
        script.answer(sent, Ok(Outcome::Applied(Bytes::new())));
    }
    assert!(last.iter().all(Pending::is_ready));
}

/// Each answer came when the registration had been given up for another one: no session was ever opened, and each attempt
/// left one that nobody used.
#[test]
fn the_answer_to_a_registration_that_was_sent_again_opens_the_session() {
    let mut script = Script::new();
    let first = script.put("first");
    let register = script.sent();
    script.pass(510 * MS);
    script.pass(20 * MS);
    let again = script.sent();
    assert_eq!(again.len(), 1);
    script.answer(&register[0], Ok(Outcome::Registered(SessionId(9))));
    let sent = script.sent();
    assert_eq!(position(&sent[0]).session, SessionId(9));
    // The copy makes a session that is of no use.
    script.answer(&again[0], Ok(Outcome::Registered(SessionId(10))));
    assert!(script.sent().is_empty());
    script.answer(&sent[0], Ok(Outcome::Applied(Bytes::new())));
    assert_eq!(first.wait(), Ok(Bytes::new()));
}

#[test]
fn a_write_that_was_only_refused_ends_without_effect_and_leaves_a_skip() {
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.answer(&sent[0], Err(Refusal::DiskFull));
    let _b = script.put("b");
    while script.now_ns < 9_900 * MS {
        script.pass(40 * MS);
        for sent in script.sent() {
            script.answer(&sent, Err(Refusal::DiskFull));
        }
    }
    script.pass(200 * MS);
    let error = first.wait().expect_err("the disk stayed full");
    let expected = Error::Timeout {
        after_ms: 10_000,
        maybe_applied: false,
        cause: Obstacle::DiskFull,
        leader: Some(NodeId(1)),
    };
    assert_eq!(error, expected);
    assert!(error.is_retryable());
    script.pass(60 * MS);
    let sent = script.sent();
    assert!(matches!(
        Command::decode(&command(&sent[0])),
        Ok(Command::Skip(_))
    ));
}

#[test]
fn a_write_whose_copy_is_out_ends_in_doubt_and_is_still_carried_through() {
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.answer(&sent[0], Err(Refusal::LeadershipLost));
    for _ in 0..220 {
        script.pass(50 * MS);
    }
    let error = first.wait().expect_err("nobody answered");
    assert!(
        matches!(
            error,
            Error::Timeout {
                maybe_applied: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!error.is_retryable());
    let again = script.sent();
    assert_eq!(
        command(&sent[0]),
        command(again.last().expect("still tried"))
    );
}

#[test]
fn an_expired_session_fails_only_what_may_have_taken_effect() {
    let (mut script, first) = Script::open();
    let second = script.put("b");
    let sent = script.sent();
    // The first is sent twice and its first copy never heard of; the second is answered each time.
    script.answer(&sent[1], Ok(Outcome::OutOfOrder { expected: 1 }));
    let again = script.sent();
    script.answer(&again[1], Ok(Outcome::SessionExpired));
    assert_eq!(first.wait(), Err(Error::SessionExpired));
    let register = script.sent();
    assert!(matches!(
        Command::decode(&command(&register[0])),
        Ok(Command::Register { .. })
    ));
    script.answer(&register[0], Ok(Outcome::Registered(SessionId(77))));
    let moved = script.sent();
    assert_eq!(
        position(&moved[0]),
        Position {
            session: SessionId(77),
            sequence: 1,
            floor: 0
        }
    );
    script.answer(&moved[0], Ok(Outcome::Applied(Bytes::new())));
    assert_eq!(second.wait(), Ok(Bytes::new()));
}

#[test]
fn a_full_window_of_answers_is_acknowledged_before_the_rest_is_sent_again() {
    let (mut script, first) = Script::open();
    let _b = script.put("b");
    let sent = script.sent();
    script.answer(&sent[0], Ok(Outcome::Applied(Bytes::new())));
    script.answer(&sent[1], Ok(Outcome::WindowFull));
    assert_eq!(first.wait(), Ok(Bytes::new()));
    script.pass(5 * MS);
    let again = script.sent();
    let acknowledge = Command::Acknowledge {
        session: SessionId(9),
        floor: 1,
    };
    assert_eq!(Command::decode(&command(&again[0])), Ok(acknowledge));
    assert_eq!(sequences(&again[1..]), [2]);
}

#[test]
fn over_the_bound_a_write_is_refused_at_once() {
    let (mut script, _first) = Script::open();
    let _held: Vec<_> = (0..7).map(|_| script.put("x")).collect();
    assert_eq!(script.put("y").wait(), Err(Error::Busy { outstanding: 8 }));
}

/// Answers, refusals and losses in random order, against a real session table: each write takes effect once, and in
/// the order of issue.
#[test]
fn whatever_is_lost_writes_take_effect_once_and_in_order() {
    for seed in 1..=300_u64 {
        let mut random = seed;
        let mut draw = move |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut script = Script::new();
        let mut replica = Sessions::<Map>::default();
        let mut index = 0;
        let mut calls = Vec::new();
        let mut flying: Vec<(NodeId, Request)> = Vec::new();
        for issued in 0..40_u64 {
            let (pending, completer) = Pending::new(|answer: Answer| answer);
            let command =
                CommandBuffer::append(b"key", format!("{issued},").as_bytes()).expect("small");
            script.window.write(script.now_ns, command, completer);
            calls.push(pending);
            let is_last = issued == 39;
            for _ in 0..if is_last { 4_000 } else { draw(6) } {
                flying.extend(script.sent());
                if flying.is_empty() || draw(4) == 0 {
                    script.pass(7 * MS);
                    continue;
                }
                // A node's requests arrive in order; what is lost is lost before or after it took effect.
                let sent = flying.remove(0);
                match if is_last { 9 } else { draw(10) } {
                    0 => {}
                    1 => script.answer(&sent, Err(Refusal::NotLeader { leader: None })),
                    2 => script.answer(&sent, Err(Refusal::Busy)),
                    fate => {
                        index += 1;
                        let outcome = replica.apply(index, &command_of(&sent));
                        match fate {
                            3 => {}
                            4 => script.answer(&sent, Err(Refusal::LeadershipLost)),
                            _ => script.answer(&sent, Ok(outcome)),
                        }
                    }
                }
            }
        }
        let refused = calls
            .into_iter()
            .filter_map(|call| call.wait().err())
            .collect::<Vec<_>>();
        assert!(
            refused
                .iter()
                .all(|error| matches!(error, Error::Busy { .. })),
            "seed {seed}: {refused:?}"
        );
        let value = replica.view().get(b"key").expect("something was appended");
        let text = String::from_utf8(value.to_vec()).expect("digits and commas");
        let got: Vec<u64> = text
            .split_terminator(',')
            .map(|n| n.parse().expect("a number"))
            .collect();
        assert!(got.is_sorted_by(|a, b| a < b), "seed {seed}: {got:?}");
        assert_eq!(got.len(), 40 - refused.len(), "seed {seed}");
    }
}

fn command_of(sent: &(NodeId, Request)) -> Bytes {
    command(sent)
}
