//! Servers on threads that are given commands one by one, and what each of them has applied.
//!
//! A command is a number that is appended to one key, so that the value of this key on a replica is what it has applied, in order.

use quorate::{Consistency, Error, Options, Pending};
use quorate_sim::judge::{ClientId, ClientOrder, History, Op, OpId, Response, check_appends};
use quorate_sim::seed::{Rng, Stream};

use super::nodes::Nodes;
use crate::harness::{MS, options};

/// How long `one` tries, and how long it waits for one leader that took its command, as over virtual time.
const ONE_MS: u64 = 10_000;
const ONE_LEADER_MS: u64 = 2_000;
const ONE_POLL_MS: u64 = 20;

/// How long the course looks for a leader.
const LEADER_MS: u64 = 5_000;

/// A call that nobody answers is given up then; its command may be applied all the same, once.
const CALL_MS: u64 = 2_000;

const KEY: &str = "applied";

/// What stands behind each command.
const END: char = ';';

/// Servers under a script.
pub(crate) struct Servers {
    pub(crate) nodes: Nodes,
    pub(crate) rng: Rng,
    is_connected: Vec<bool>,
    /// How many commands were given to a server.
    given: u64,
    history: History,
    /// Commands that were not answered yet.
    open: Vec<(OpId, Pending<u64>)>,
    /// How often each node was started: its handle is another session each time.
    lives: Vec<u64>,
    /// What is applied, as far as any server was seen to.
    agreed: String,
}

impl Servers {
    /// Servers that have just been started, without snapshots.
    pub(crate) fn start(seed: u64, nodes: usize) -> Self {
        Self::start_with(seed, nodes, options())
    }

    pub(crate) fn start_with(seed: u64, nodes: usize, mut options: Options) -> Self {
        options.call_timeout = std::time::Duration::from_millis(CALL_MS);
        options.retry_after = std::time::Duration::from_millis(200);
        Self {
            nodes: Nodes::start(seed, nodes, options),
            rng: Rng::of(seed, Stream::Workload),
            is_connected: vec![true; nodes],
            given: 0,
            history: History::new(),
            open: Vec::new(),
            lives: vec![0; nodes],
            agreed: String::new(),
        }
    }

    /// Lets time pass, and takes the answers that come.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        let until_ns = self.nodes.now_ns() + ms * MS;
        while self.nodes.now_ns() < until_ns {
            self.nodes.rest(until_ns);
            self.take_answers();
        }
    }

    fn take_answers(&mut self) {
        for (id, answer) in std::mem::take(&mut self.open) {
            if !answer.is_ready() {
                self.open.push((id, answer));
                continue;
            }
            let response = match answer.wait() {
                Ok(length) => Response::Length(length),
                Err(error) if error.is_retryable() => Response::Refused,
                Err(Error::Timeout { .. } | Error::Closed) => Response::Unknown,
                Err(error) => panic!("nothing here can fail so: {error}"),
            };
            self.history.complete(id, response, self.nodes.now_ns());
        }
    }

    /// Lets time pass until this holds.
    #[track_caller]
    pub(crate) fn wait(&mut self, holds: impl Fn(&Self) -> bool) {
        let end_ns = self.nodes.now_ns() + ONE_MS * MS;
        while !holds(self) {
            assert!(self.nodes.now_ns() < end_ns, "not in ten seconds");
            self.run_ms(1);
        }
    }

    // Faults.

    pub(crate) fn connect(&mut self, node: usize) {
        self.is_connected[node] = true;
        self.set_links();
    }

    pub(crate) fn disconnect(&mut self, node: usize) {
        self.is_connected[node] = false;
        self.set_links();
    }

    pub(crate) fn connect_each(&mut self, nodes: &[usize]) {
        for &node in nodes {
            self.connect(node);
        }
    }

    pub(crate) fn disconnect_each(&mut self, nodes: &[usize]) {
        for &node in nodes {
            self.disconnect(node);
        }
    }

    fn set_links(&mut self) {
        let connected = self.is_connected.clone();
        self.nodes
            .set_reach(|from, to| connected[from] && connected[to]);
    }

    /// The power of a node goes off.
    pub(crate) fn crash(&mut self, node: usize) {
        self.nodes.kill(node);
        self.lives[node] += 1;
        self.disconnect(node);
    }

    /// Starts a node that was crashed, and connects it.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes.start_node(node);
        self.connect(node);
    }

    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.nodes.db(node).is_some()
    }

    pub(crate) fn connected(&self) -> usize {
        self.is_connected.iter().filter(|it| **it).count()
    }

    // Commands.

    /// Gives a server a new command. `None`: it is down or does not lead.
    pub(crate) fn give(&mut self, node: usize) -> Option<u64> {
        let db = self.nodes.db(node).filter(|_| self.nodes.leads(node))?;
        let (command, now_ns) = (self.given, self.nodes.now_ns());
        self.given += 1;
        let (key, suffix) = (KEY.into(), format!("{command}{END}").into());
        let session = ClientId(self.lives[node] << 8 | node as u64);
        let op = Op::Append { key, suffix };
        let id = self.history.invoke(session, op, now_ns);
        let answer = db.append_async(KEY, format!("{command}{END}"));
        self.open.push((id, answer));
        Some(command)
    }

    /// How many connected servers have applied a command. All servers must have applied the same, as far as they are.
    pub(crate) fn holders(&mut self, command: u64) -> usize {
        let nodes = (0..self.nodes.count()).filter(|&node| self.is_connected[node]);
        let values: Vec<String> = nodes.filter_map(|node| self.applied(node)).collect();
        for value in &values {
            self.compare(value);
        }
        values.iter().filter(|it| has(it, command)).count()
    }

    /// Agrees on a new command, on so many servers at least, within ten seconds.
    pub(crate) fn one(&mut self, wanted: usize) {
        let end_ns = self.nodes.now_ns() + ONE_MS * MS;
        while self.nodes.now_ns() < end_ns {
            let nodes = 0..self.nodes.count();
            let connected = nodes
                .filter(|&node| self.is_connected[node])
                .collect::<Vec<_>>();
            let taken = connected.into_iter().find_map(|node| self.give(node));
            let until_ns = self.nodes.now_ns() + ONE_LEADER_MS * MS;
            while let Some(command) = taken
                && self.nodes.now_ns() < until_ns
            {
                if self.holders(command) >= wanted {
                    return;
                }
                self.run_ms(1);
            }
            self.run_ms(ONE_POLL_MS);
        }
        panic!("no agreement among {wanted} in ten seconds");
    }

    /// The one leader of the highest term, once there is one.
    pub(crate) fn check_one_leader(&mut self) -> usize {
        let end_ns = self.nodes.now_ns() + LEADER_MS * MS;
        loop {
            let leader = self.nodes.leader().filter(|&node| self.is_connected[node]);
            if let Some(leader) = leader {
                return leader;
            }
            assert!(
                self.nodes.now_ns() < end_ns,
                "expected one leader, got none"
            );
            self.run_ms(ONE_POLL_MS);
        }
    }

    /// Every command that was answered is applied, none twice, and in an order that is explained by when they were given and
    /// answered.
    pub(crate) fn judge(mut self) {
        self.nodes.set_reliable();
        let reader = ClientId(u64::MAX);
        let clerk = self.nodes.cluster().clerk();
        let end_ns = self.nodes.now_ns() + ONE_MS * MS;
        let (id, value) = loop {
            let read = Op::Get { key: KEY.into() };
            let id = self.history.invoke(reader, read, self.nodes.now_ns());
            let reading = clerk.get_async(KEY, Consistency::Linearizable);
            self.wait(|_| reading.is_ready());
            match reading.wait() {
                Ok(value) => break (id, value),
                Err(error) => assert!(self.nodes.now_ns() < end_ns, "{error}"),
            }
        };
        let now_ns = self.nodes.now_ns();
        self.history.complete(id, Response::Value(value), now_ns);
        self.take_answers();
        let operations = self.history.operations();
        let seen = check_appends(&operations, ClientOrder::Kept);
        let seen = seen.unwrap_or_else(|wrong| panic!("{wrong}"));
        let answered = operations
            .iter()
            .filter(|it| matches!(it.response, Response::Length(_)));
        let answered = answered.count();
        println!(
            "{} commands, {answered} answered, {} applied",
            self.given, seen.appends
        );
        assert!(answered > 0, "nothing was ever answered");
    }

    /// What a server has applied.
    fn applied(&self, node: usize) -> Option<String> {
        let value = self.nodes.db(node)?.get_with(KEY, Consistency::Stale);
        let value = value.expect("its own replica answers").unwrap_or_default();
        Some(String::from_utf8(value.to_vec()).expect("commands are text"))
    }

    fn compare(&mut self, value: &str) {
        let shared = value.len().min(self.agreed.len());
        assert_eq!(
            value[..shared],
            self.agreed[..shared],
            "servers applied different commands"
        );
        if value.len() > shared {
            value.clone_into(&mut self.agreed);
        }
    }
}

/// Whether a command is among what was applied.
fn has(applied: &str, command: u64) -> bool {
    let command = command.to_string();
    applied.rsplit(END).any(|it| it == command)
}
