//! The course's key-value harness: clerks that a script tells what to call, and a cluster under partitions and crashes.

use std::cell::RefCell;
use std::rc::Rc;

use quorate::simulation::Map;
use quorate::{Bytes, Error, Options};
use quorate_sim::config::Config;
use quorate_sim::judge::{
    ClientId, ClientOrder, History, Op, OpId, Operation, Response, check_appends,
    check_linearizable,
};
use quorate_sim::seed::{Rng, Stream};
use quorate_sim::workload::{Call, Ticket, Workload, response_of};
use quorate_sim::world::World;

use super::raft::must;
use super::stage::Stage;
use super::watch::{Meter, Traffic};
use super::{ELECTION_MS, MS, options};

/// How long a call may take once nothing is wrong any more.
const CALL_MS: u64 = 10_000;

/// How often somebody looks for a leader.
const LOOK_MS: u64 = 5;

/// Calls are never given up, as in the course.
const CALL_TIMEOUT_S: u64 = 600;

/// More than any history of these sizes takes; a search that is not over by then has failed.
const STEPS_MAX: u64 = 5_000_000;

/// A cluster and its clerks.
pub(crate) struct Clerks<S = World<Script>> {
    pub(crate) world: S,
    pub(crate) rng: Rng,
    /// Nobody counts on threads.
    traffic: Rc<RefCell<Traffic>>,
}

/// What nodes and clerks are started with. `log_bytes_max` is the course's `maxraftstate`: snapshots are taken when there is so
/// much log; none without it.
pub(crate) fn clerk_options(log_bytes_max: Option<u64>) -> Options {
    let mut options = options();
    options.call_timeout = std::time::Duration::from_secs(CALL_TIMEOUT_S);
    options.retry_after = std::time::Duration::from_millis(200);
    if let Some(bytes) = log_bytes_max {
        options.snapshot_log_bytes = bytes;
    }
    options
}

impl Clerks {
    /// A cluster over virtual time that has just been started.
    pub(crate) fn new(seed: u64, nodes: usize, clerks: usize, log_bytes_max: Option<u64>) -> Self {
        let config = Config::calm(seed, nodes, clerks, clerk_options(log_bytes_max));
        let mut world = World::new(seed, config, false);
        let traffic = Rc::<RefCell<Traffic>>::default();
        world.add_judge(Box::new(Meter(Rc::clone(&traffic))));
        must(world.start_nodes());
        Self {
            world,
            rng: Rng::of(seed, Stream::Workload),
            traffic,
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        *self.traffic.borrow()
    }
}

impl<S: Stage> Clerks<S> {
    /// A cluster elsewhere.
    pub(crate) fn on(world: S, seed: u64) -> Self {
        Self {
            world,
            rng: Rng::of(seed, Stream::Workload),
            traffic: Rc::default(),
        }
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        let until_ns = self.world.now_ns() + ms * MS;
        while self.world.step(until_ns) {}
    }

    // Faults.

    pub(crate) fn set_unreliable(&mut self) {
        self.world.set_unreliable();
    }

    /// Nodes reach each other if this says the same of both. Clerks reach all.
    pub(crate) fn partition<T: PartialEq>(&mut self, side: impl Fn(usize) -> T) {
        self.world.set_reach(|from, to| side(from) == side(to));
    }

    pub(crate) fn heal(&mut self) {
        self.partition(|_| ());
    }

    // Calls.

    /// Has a clerk make a call.
    pub(crate) fn call(&mut self, clerk: usize, op: Op) -> Ticket {
        self.world.call(clerk, op)
    }

    /// What a call was answered, if it was.
    pub(crate) fn response(&self, ticket: Ticket) -> Option<Response> {
        self.world.response(ticket)
    }

    /// Waits for an answer.
    pub(crate) fn wait(&mut self, ticket: Ticket) -> Response {
        let end_ns = self.world.now_ns() + CALL_MS * MS;
        loop {
            if let Some(response) = self.response(ticket) {
                return response;
            }
            assert!(self.world.step(end_ns), "call {ticket:?} is not answered");
        }
    }

    pub(crate) fn put(&mut self, clerk: usize, key: &str, value: &str) {
        let ticket = self.call(clerk, put(key, value));
        assert_eq!(self.wait(ticket), Response::Done);
    }

    pub(crate) fn append(&mut self, clerk: usize, key: &str, suffix: &str) {
        let ticket = self.call(clerk, append(key, suffix));
        assert!(matches!(self.wait(ticket), Response::Length(_)));
    }

    /// The value of a key; empty if there is none.
    pub(crate) fn get(&mut self, clerk: usize, key: &str) -> String {
        let ticket = self.call(clerk, get(key));
        text_of(&self.wait(ticket))
    }

    pub(crate) fn check(&mut self, clerk: usize, key: &str, value: &str) {
        assert_eq!(self.get(clerk, key), value, "value of {key}");
    }

    // What nodes are like.

    /// Whoever leads, once there is somebody.
    pub(crate) fn wait_leader(&mut self) -> usize {
        let end_ns = self.world.now_ns() + 10 * ELECTION_MS * MS;
        loop {
            if let Some(leader) = self.world.leader() {
                return leader;
            }
            assert!(self.world.now_ns() < end_ns, "nobody leads");
            self.run_ms(LOOK_MS);
        }
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.world.log_bytes()
    }

    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.world.snapshot_bytes()
    }

    // Judging.

    /// The operations recorded up to now, to say later from where on.
    pub(crate) fn recorded(&self) -> usize {
        self.world.operations().len()
    }

    /// The appends and reads recorded since then must show each append once and in order.
    pub(crate) fn judge_appends_since(&self, recorded: usize) {
        let operations = self.world.operations().split_off(recorded);
        if let Err(wrong) = check_appends(&operations, ClientOrder::Kept) {
            panic!("{wrong}");
        }
    }

    /// All of it must be linearizable, and every call answered.
    pub(crate) fn judge(&self) {
        if let Err(wrong) = self.world.judge() {
            panic!("{wrong}");
        }
    }
}

pub(crate) fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

pub(crate) fn append(key: &str, suffix: &str) -> Op {
    Op::Append {
        key: Bytes::copy_from_slice(key.as_bytes()),
        suffix: Bytes::copy_from_slice(suffix.as_bytes()),
    }
}

pub(crate) fn get(key: &str) -> Op {
    Op::Get {
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

/// The value that a read was answered.
pub(crate) fn text_of(response: &Response) -> String {
    let Response::Value(value) = response else {
        panic!("a read was answered {response:?}");
    };
    let value = value.as_deref().unwrap_or_default();
    String::from_utf8(value.to_vec()).expect("scenarios write text")
}

/// What one append of a client adds.
pub(crate) fn token(client: usize, number: usize) -> String {
    format!("x {client} {number} y")
}

/// All appends of a client up to a number stand in the value, each once, and in their order.
pub(crate) fn check_client_appends(client: usize, value: &str, count: usize) {
    let mut last = None;
    for number in 0..count {
        let wanted = token(client, number);
        let place = value.find(&wanted);
        assert!(place.is_some(), "{wanted:?} is missing in {value:?}");
        assert_eq!(
            place,
            value.rfind(&wanted),
            "{wanted:?} is twice in {value:?}"
        );
        assert!(place > last, "{wanted:?} is out of order in {value:?}");
        last = place;
    }
}

/// Calls that a script makes, and their answers.
pub(crate) struct Script {
    history: History,
    calls: Vec<Called>,
    /// Answers came since the script looked last.
    has_news: bool,
}

struct Called {
    id: OpId,
    response: Option<Response>,
}

impl Script {
    pub(crate) fn invoke(&mut self, clerk: usize, op: Op, now_ns: u64) -> Ticket {
        let id = self.history.invoke(ClientId(clerk as u64), op, now_ns);
        let response = None;
        self.calls.push(Called { id, response });
        Ticket(self.calls.len() as u64 - 1)
    }

    pub(crate) fn response(&self, ticket: Ticket) -> Option<Response> {
        self.calls[ticket.0 as usize].response.clone()
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.history.operations()
    }

    /// Whether an answer came since this was asked last.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }
}

impl Workload for Script {
    type Machine = Map;

    fn new(_config: &Config) -> Self {
        Self {
            history: History::new(),
            calls: Vec::new(),
            has_news: false,
        }
    }

    fn call(&mut self, _clerk: usize, _rng: &mut Rng, _now_ns: u64) -> (Ticket, Call) {
        unreachable!("clerks call what the script says")
    }

    fn last_calls(&mut self, _clerk: usize, _now_ns: u64) -> Vec<(Ticket, Call)> {
        Vec::new()
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
        now_ns: u64,
    ) -> Result<(), String> {
        let answer = answer.map_err(|error| format!("a call failed: {error}"))?;
        let response = response_of(&answer)?;
        let called = &mut self.calls[ticket.0 as usize];
        called.response = Some(response.clone());
        self.history.complete(called.id, response, now_ns);
        self.has_news = true;
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        judge_all(&self.history.operations())
    }

    fn calls(&self) -> u64 {
        self.calls.len() as u64
    }
}

/// All calls have an answer, and their history is linearizable. A checker that cannot decide has failed.
pub(crate) fn judge_all(operations: &[Operation]) -> Result<(), String> {
    let open = operations
        .iter()
        .filter(|it| it.completed.is_none())
        .count();
    if open > 0 {
        return Err(format!("{open} calls have no answer"));
    }
    let verdict = check_linearizable(operations, STEPS_MAX);
    if verdict.is_linearizable() {
        Ok(())
    } else {
        Err(verdict.to_string())
    }
}
