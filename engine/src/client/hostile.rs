//! A window whose nodes answer what they like, as late, as often and as wrongly as they like.
//!
//! Random numbers come from a seed that is printed when a run fails; `QUORATE_SEED=7` runs one seed alone.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_kv::{CommandBuffer, Map, Outcome, SessionId, Sessions, StateMachine};
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

use super::window::{READ_HERE, REQUEST_COUNT_BITS, ReadWants, Send, Window, WindowOptions};
use crate::error::Error;
use crate::pending::{Answer, Pending};
use crate::transport::{Consistency, Refusal, Reply, ReplyBody, Request, RequestBody, RequestId};

const MS: u64 = 1_000_000;
const GROUP: GroupId = GroupId(3);
const TIMEOUT_MS: u64 = 2_000;

/// The node of this client: the replica in its process answers under this name, and nobody else does for it.
const HERE: NodeId = NodeId(1);

/// What honest nodes answer to a query.
const HONEST: Bytes = Bytes::from_static(b"honest");

/// The number of a call that is a read.
const READ: u64 = 0;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn number(&mut self) -> u64 {
        let edges = [
            0,
            1 << 31,
            1 << 32,
            1 << 62,
            u64::MAX / 2,
            u64::MAX / 2 + 1,
            u64::MAX,
        ];
        match self.below(3) {
            0 => edges[self.below(7) as usize],
            _ => self.below(21),
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.below(5))
    }

    fn result(&mut self) -> Result<ReplyBody, Refusal> {
        let number = self.number();
        Ok(match self.below(20) {
            0 => ReplyBody::Outcome(Outcome::Applied(Bytes::from_static(b"forged"))),
            1 => ReplyBody::Outcome(Outcome::Registered(SessionId(number))),
            2 => ReplyBody::Outcome(Outcome::SessionExpired),
            3 => ReplyBody::Outcome(Outcome::OutOfOrder { expected: number }),
            4 => ReplyBody::Outcome(Outcome::AlreadyAcknowledged),
            5 => ReplyBody::Outcome(Outcome::WindowFull),
            6 => ReplyBody::Outcome(Outcome::Malformed),
            7 => ReplyBody::Outcome(Outcome::Unsupported),
            8 => ReplyBody::Answer(Bytes::from_static(b"forged")),
            9 => ReplyBody::ReadIndex(LogIndex(number)),
            10 => return Err(Refusal::NotLeader { leader: None }),
            11 => {
                let leader = Some(self.node());
                return Err(Refusal::NotLeader { leader });
            }
            12 => return Err(Refusal::Busy),
            13 => return Err(Refusal::DiskFull),
            14 => return Err(Refusal::LogFailed),
            15 => {
                return Err(Refusal::TooLarge {
                    limit_bytes: number,
                });
            }
            16 => return Err(Refusal::NotUnderstood),
            17 => return Err(Refusal::NoSuchGroup),
            18 => return Err(Refusal::Stopping),
            19 => return Err(Refusal::OutOfHandles),
            _ => return Err(Refusal::LeadershipLost),
        })
    }

    /// An id: one that was sent, one of the latest of those, one for the replica here, or any.
    fn id(&mut self, calls: &Calls) -> RequestId {
        let (sent, waits) = (&calls.sent, &calls.waits);
        let any = match self.below(6) {
            0 => self.number(),
            1 => (GROUP.0 << REQUEST_COUNT_BITS) | self.number(),
            2 if !waits.is_empty() => waits[self.late(waits.len())].1.0,
            3 if !sent.is_empty() => sent[self.late(sent.len())].1.id.0,
            _ if !sent.is_empty() => {
                let place = self.below(sent.len() as u64) as usize;
                sent[place].1.id.0
            }
            _ => GROUP.0 << REQUEST_COUNT_BITS,
        };
        RequestId(any)
    }

    /// One of the last places: what is there is most likely still waited for.
    fn late(&mut self, len: usize) -> usize {
        len - 1 - self.below(len.min(4) as u64) as usize
    }

    fn wants(&mut self) -> ReadWants {
        let query = Bytes::from_static(b"any");
        match self.below(3) {
            0 => ReadWants::Answer(Consistency::Linearizable, query),
            1 => ReadWants::LocalIndex,
            _ => ReadWants::LocalOr(query),
        }
    }
}

struct Calls {
    window: Window,
    now_ns: u64,
    pending: Vec<(u64, u64, Pending<Bytes>)>,
    ended: Vec<(u64, Result<Bytes, Error>)>,
    sent: Vec<(NodeId, Request)>,
    /// What the replica here was asked to say that it has applied.
    waits: Vec<(LogIndex, RequestId)>,
    issued: u64,
}

impl Calls {
    fn new() -> Self {
        let options = WindowOptions {
            retry_after_ns: 100 * MS,
            call_timeout_ns: TIMEOUT_MS * MS,
            outstanding_max: 16,
            sessions_max: 4,
        };
        let nodes = vec![NodeId(1), NodeId(2), NodeId(3)];
        Self {
            window: Window::new(GROUP, nodes, options).beside(Some(HERE)),
            now_ns: 0,
            pending: Vec::new(),
            ended: Vec::new(),
            sent: Vec::new(),
            waits: Vec::new(),
            issued: 0,
        }
    }

    /// Appends the number of the call to one key, so that what took effect, how often, and in which order can be seen.
    fn append(&mut self) {
        self.issued += 1;
        let (pending, completer) = Pending::new(|answer: Answer| answer);
        let text = format!("{}.", self.issued);
        let command = CommandBuffer::append(b"key", text.as_bytes()).expect("small");
        self.pending.push((self.issued, self.now_ns, pending));
        self.window.write(self.now_ns, command, completer);
        self.act();
    }

    fn read(&mut self, wants: ReadWants) {
        let (pending, completer) = Pending::new(|answer: Answer| answer);
        self.pending.push((READ, self.now_ns, pending));
        self.window.read(self.now_ns, wants, completer);
        self.act();
    }

    fn reply(&mut self, from: NodeId, id: RequestId, result: Result<ReplyBody, Refusal>) {
        self.window.reply(self.now_ns, from, Reply { id, result });
        self.act();
    }

    fn pass(&mut self, ns: u64) {
        self.now_ns += ns;
        self.window.tick(self.now_ns);
        self.act();
        let late_ns = self.now_ns.saturating_sub((TIMEOUT_MS + 100) * MS);
        assert!(
            self.pending.iter().all(|call| call.1 >= late_ns),
            "a call outlives its deadline"
        );
    }

    fn act(&mut self) {
        for (completer, answer) in self.window.take_completions() {
            completer.complete(answer);
        }
        for send in self.window.take_sends() {
            match send {
                Send::Request(node, request) if node.0 == 0 || node.0 > 3 => {
                    self.window.not_sent(self.now_ns, node, request.id);
                }
                Send::Request(node, request) => self.sent.push((node, request)),
                Send::WaitApplied(group, index, id) => {
                    assert_eq!(group, GROUP);
                    self.waits.push((index, id));
                }
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (number, since_ns, call) in pending {
            if call.is_ready() {
                self.ended.push((number, call.wait()));
            } else {
                self.pending.push((number, since_ns, call));
            }
        }
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("QUORATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..count).collect(),
    }
}

/// Names the seed if the run panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}: run it alone with QUORATE_SEED={}", self.0, self.0);
        }
    }
}

/// `Registered(0)` panicked the thread that read it, and then the timer: every call of that client had lost its
/// deadline. An answer to a request that was never sent settled a write that never left.
#[test]
fn whatever_nodes_answer_nothing_panics_and_every_call_ends() {
    let mut asked_here = 0;
    for seed in seeds(400) {
        let _named = Named(seed);
        let mut dice = Dice(seed);
        let mut calls = Calls::new();
        for _ in 0..300 {
            match dice.below(8) {
                0 | 1 => calls.append(),
                2 => calls.read(dice.wants()),
                3 => calls.pass(dice.below(60) * MS),
                4 if dice.below(8) == 0 => {
                    let node = dice.node();
                    calls.window.disconnected(calls.now_ns, node);
                    calls.act();
                }
                _ => {
                    let id = dice.id(&calls);
                    let (from, result) = (dice.node(), dice.result());
                    calls.reply(from, id, result);
                }
            }
            let asked = calls.sent.len() + calls.waits.len();
            assert!(asked < 100_000, "it sends without end");
        }
        asked_here += calls.waits.len();
        for _ in 0..300 {
            calls.pass(10 * MS);
        }
        assert!(
            calls.pending.is_empty(),
            "{} calls never end",
            calls.pending.len()
        );
    }
    assert!(asked_here > 0, "no read came to the replica here");
}

/// Beside honest nodes, whose network loses, doubles and delays, somebody answers for nodes that were not asked,
/// and to what was never asked. Nobody notices: each write that was acknowledged is there once and in order, and
/// what failed without effect is not there at all. No answer of theirs ends a call, a read that waits for the replica in this
/// process among them.
#[test]
fn answers_of_strangers_do_not_touch_what_honest_nodes_answer() {
    let (mut acknowledged, mut runs, mut read_here) = (0, 0, 0);
    for seed in seeds(400) {
        let _named = Named(seed);
        let mut dice = Dice(seed);
        let mut calls = Calls::new();
        let mut group = Sessions::<Map>::default();
        let mut index = 0;
        let (mut taken, mut taken_here) = (0, 0);
        let mut replies: VecDeque<(NodeId, Reply)> = VecDeque::new();
        for round in 0..600 {
            let is_last = round >= 400;
            match dice.below(8) {
                0 if !is_last => calls.append(),
                1 if !is_last => match dice.below(2) {
                    0 => calls.append(),
                    _ => calls.read(dice.wants()),
                },
                2 => calls.pass(dice.below(40) * MS),
                3 | 4 => {
                    // Whoever is asked leads, in turn: all of them apply to the same log.
                    while taken < calls.sent.len() {
                        let (node, request) = calls.sent[taken].clone();
                        taken += 1;
                        if !is_last && dice.below(10) == 0 {
                            continue;
                        }
                        for _ in 0..=dice.below(10) / 9 {
                            let result = Ok(honest(&request.body, &mut group, &mut index));
                            let id = request.id;
                            replies.push_back((node, Reply { id, result }));
                        }
                    }
                    while taken_here < calls.waits.len() {
                        let (index, id) = calls.waits[taken_here];
                        taken_here += 1;
                        // It may have too much to do, and be lost with the queue of its node.
                        let result = match dice.below(10) {
                            0 if !is_last => continue,
                            1 => Err(Refusal::Busy),
                            _ => Ok(ReplyBody::ReadIndex(index)),
                        };
                        replies.push_back((HERE, Reply { id, result }));
                    }
                }
                5 | 6 => {
                    for _ in 0..dice.below(6) {
                        let Some((from, reply)) = replies.pop_front() else {
                            break;
                        };
                        match dice.below(10) {
                            0 if !is_last => {}
                            1 => replies.push_back((from, reply)),
                            2 => {
                                replies.push_back((from, reply.clone()));
                                calls.reply(from, reply.id, reply.result);
                            }
                            _ => calls.reply(from, reply.id, reply.result),
                        }
                    }
                }
                _ => {
                    // A stranger: any id, but not for whoever was asked with it.
                    let id = dice.id(&calls);
                    let (from, result) = (dice.node(), dice.result());
                    let is_asked = |sent: &(NodeId, Request)| sent.0 == from && sent.1.id == id;
                    let is_for_here = calls.waits.iter().any(|&(_, wait)| wait == id);
                    let is_asked = calls.sent.iter().any(is_asked) || is_for_here && from == HERE;
                    if !is_asked {
                        let ended = calls.ended.len();
                        calls.reply(from, id, result);
                        assert_eq!(calls.ended.len(), ended, "{from:?} ended a call");
                    }
                }
            }
        }
        for _ in 0..300 {
            calls.pass(10 * MS);
        }
        assert!(calls.pending.is_empty());
        acknowledged += check(&calls.ended, &group);
        let of_here =
            |call: &&(u64, Result<Bytes, Error>)| call.0 == READ && call.1 == Ok(READ_HERE);
        read_here += calls.ended.iter().filter(of_here).count();
        assert!(calls.window.rejected() > 0, "strangers are counted");
        runs += 1;
    }
    assert!(acknowledged >= 5 * runs, "{acknowledged} in {runs} runs");
    assert!(read_here >= runs, "{read_here} reads here in {runs} runs");
}

/// What a node that leads answers.
fn honest(body: &RequestBody, group: &mut Sessions<Map>, index: &mut u64) -> ReplyBody {
    match body {
        RequestBody::Propose { command } => {
            *index += 1;
            ReplyBody::Outcome(group.apply(*index, command))
        }
        RequestBody::ReadIndex => ReplyBody::ReadIndex(LogIndex(*index)),
        RequestBody::Query { .. } => ReplyBody::Answer(HONEST),
    }
}

/// Whether what callers were told is what happened. Returns how many writes were acknowledged.
fn check(ended: &[(u64, Result<Bytes, Error>)], group: &Sessions<Map>) -> usize {
    let state = Map::query(&group.view(), &quorate_kv::Query::get(b"key"));
    let value = match quorate_kv::Answer::decode(&state) {
        Ok(quorate_kv::Answer::Value(Some(value))) => value,
        _ => Bytes::new(),
    };
    let text = String::from_utf8(value.to_vec()).expect("digits");
    let applied: Vec<u64> = text
        .split_terminator('.')
        .map(|number| number.parse().expect("a number"))
        .collect();
    assert!(
        applied.windows(2).all(|pair| pair[0] < pair[1]),
        "each once, and in order: {applied:?}"
    );
    for (number, answer) in ended {
        let is_there = applied.contains(number);
        match answer {
            Ok(answer) if *number == READ => {
                let is_honest = *answer == HONEST || *answer == READ_HERE;
                assert!(is_honest, "{answer:?} to a read");
            }
            Ok(answer) => {
                assert!(is_there, "{number} is acknowledged and gone");
                assert_ne!(answer, &Bytes::from_static(b"forged"), "{number}");
            }
            Err(error) if error.is_retryable() => {
                assert!(
                    !is_there,
                    "{number} failed without effect ({error}) and is there"
                );
            }
            Err(Error::Timeout { .. } | Error::SessionExpired) => {}
            Err(error) => panic!("{number}: an honest node never causes {error}"),
        }
    }
    let is_acknowledged = |call: &&(u64, Result<Bytes, Error>)| call.0 != READ && call.1.is_ok();
    ended.iter().filter(is_acknowledged).count()
}
