//! The course's raft harness: nodes that a script cuts off, crashes and starts, and commands given to one of them.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use quorate::simulation::{EntryKind, ReplicaView, StateMachine};
use quorate::{Bytes, Error, LogIndex, Options, Role, Term};
use quorate_sim::config::Config;
use quorate_sim::network::Unreliability;
use quorate_sim::seed::{Rng, Stream};
use quorate_sim::workload::{Call, Ticket, Workload};
use quorate_sim::world::{End, World};

use super::commands::{Applied, Commands, sealed};
use super::watch::{Agreement, Meter, Traffic, log_bytes, log_entries, snapshot_bytes};
use super::{GROUP, MS, options};

/// How long the course looks for a leader, at most: so many rounds of 450 to 549 ms.
const LEADER_ROUNDS: u64 = 10;

/// How long `one` tries, and how long it waits for one leader that took its command.
const ONE_MS: u64 = 10_000;
const ONE_LEADER_MS: u64 = 2_000;
const ONE_POLL_MS: u64 = 20;
const ONE_PAUSE_MS: u64 = 50;

/// With snapshots, each node takes one whenever it has applied so many entries.
const SNAPSHOT_EVERY: u64 = 10;

/// A cluster under a script.
pub(crate) struct Raft {
    pub(crate) world: World<Nobody<Commands>>,
    /// Choices of the script.
    pub(crate) rng: Rng,
    traffic: Rc<RefCell<Traffic>>,
    is_connected: Vec<bool>,
    takes_snapshots: bool,
    /// For each node, in this life: how many times [`SNAPSHOT_EVERY`] it had applied when it was last asked for a snapshot, and
    /// the index of the one that it had then.
    snapshots_asked: Vec<Option<(u64, u64)>>,
    next_command: u64,
    /// Where `one` begins to look for a leader.
    first_asked: usize,
}

/// A command that a node took into its log.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) command: Bytes,
}

impl Raft {
    /// A cluster that has just been started, without snapshots.
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        Self::with(seed, nodes, options(), false)
    }

    /// A cluster whose nodes take a snapshot every ten entries and keep nothing behind it.
    pub(crate) fn with_snapshots(seed: u64, nodes: usize) -> Self {
        let mut options = options();
        options.trailing_entries = 0;
        Self::with(seed, nodes, options, true)
    }

    /// A cluster with these options, which takes snapshots or does not.
    pub(crate) fn with(seed: u64, nodes: usize, options: Options, takes_snapshots: bool) -> Self {
        let config = Config::calm(seed, nodes, 0, options);
        let mut world = World::new(seed, config, false);
        let traffic = Rc::<RefCell<Traffic>>::default();
        world.add_judge(Box::new(Meter(Rc::clone(&traffic))));
        world.add_judge(Box::<Agreement>::default());
        must(world.start_nodes());
        Self {
            world,
            rng: Rng::of(seed, Stream::Workload),
            traffic,
            is_connected: vec![true; nodes],
            takes_snapshots,
            snapshots_asked: vec![None; nodes],
            next_command: 1_000,
            first_asked: 0,
        }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.world.nodes.len()
    }

    pub(crate) fn any_node(&mut self) -> usize {
        self.rng.index(self.world.nodes.len())
    }

    pub(crate) fn traffic(&self) -> Traffic {
        *self.traffic.borrow()
    }

    /// Lets time pass.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.run_until(self.world.now_ns + ms * MS);
    }

    pub(crate) fn run_until(&mut self, until_ns: u64) {
        while must(self.world.step(until_ns)) {
            if self.takes_snapshots {
                self.take_snapshots();
            }
        }
    }

    /// The course's service snapshots when it has applied an index whose successor is divisible by ten. A node that is saving
    /// one takes no other, so it is asked again when that one is there.
    fn take_snapshots(&mut self) {
        let tens = |index: u64| (index + 1) / SNAPSHOT_EVERY;
        for node in 0..self.nodes() {
            let Some(process) = &self.world.nodes[node].process else {
                continue;
            };
            let has = process.stand(GROUP).snapshot.0;
            let applied = self.applied(node).last().map_or(0, |it| it.0);
            let asked = (tens(applied), has);
            if tens(applied) > tens(has) && self.snapshots_asked[node] != Some(asked) {
                self.snapshots_asked[node] = Some(asked);
                self.world.snapshot(node, GROUP);
            }
        }
    }

    // Faults.

    pub(crate) fn set_unreliable(&mut self, how: Unreliability) {
        self.world.network.set_unreliable(Some(how));
    }

    pub(crate) fn set_reliable(&mut self) {
        self.world.network.set_unreliable(None);
    }

    pub(crate) fn disconnect(&mut self, node: usize) {
        self.set_connected(node, false);
    }

    pub(crate) fn connect(&mut self, node: usize) {
        self.set_connected(node, true);
    }

    pub(crate) fn disconnect_each(&mut self, nodes: &[usize]) {
        for &node in nodes {
            self.disconnect(node);
        }
    }

    pub(crate) fn connect_each(&mut self, nodes: &[usize]) {
        for &node in nodes {
            self.connect(node);
        }
    }

    pub(crate) fn is_connected(&self, node: usize) -> bool {
        self.is_connected[node]
    }

    fn set_connected(&mut self, node: usize, is_connected: bool) {
        self.is_connected[node] = is_connected;
        let connected = self.is_connected.clone();
        let reaches = |from: usize, to: usize| connected[from] && connected[to];
        self.world.network.set_reach(reaches);
    }

    /// The power of a node goes off.
    pub(crate) fn crash(&mut self, node: usize) {
        self.disconnect(node);
        must(self.world.kill(node, End::Power));
    }

    /// Starts a node that was crashed, and connects it.
    pub(crate) fn start_node(&mut self, node: usize) {
        must(self.world.start_node(node));
        self.snapshots_asked[node] = None;
        self.connect(node);
    }

    pub(crate) fn restart(&mut self, node: usize) {
        self.crash(node);
        self.start_node(node);
    }

    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.world.nodes[node].process.is_some()
    }

    // What nodes are like.

    pub(crate) fn view(&self, node: usize) -> ReplicaView {
        let process = self.world.nodes[node].process.as_ref();
        process.expect("the node runs").view(GROUP)
    }

    /// What a node has applied; nothing if it is down.
    pub(crate) fn applied(&self, node: usize) -> Applied {
        let process = self.world.nodes[node].process.as_ref();
        process
            .map(|process| process.state(GROUP))
            .unwrap_or_default()
    }

    /// How many nodes have applied something at an index, and what.
    pub(crate) fn committed(&self, index: LogIndex) -> (usize, Option<Bytes>) {
        let mut count = 0;
        let mut command = None;
        for node in 0..self.nodes() {
            let applied = self.applied(node);
            if let Ok(place) = applied.binary_search_by_key(&index.0, |it| it.0) {
                count += 1;
                // That all hold the same is judged after every step.
                command = Some(applied[place].1.clone());
            }
        }
        (count, command)
    }

    /// Which of all commands in a node's log stands at an index: the course's index, which counts from 1.
    pub(crate) fn number_of(&self, node: usize, index: LogIndex) -> usize {
        let entries = log_entries(&self.world.nodes[node]);
        let last = entries.last().map_or(0, |entry| entry.index.0);
        assert!(
            last >= index.0,
            "entry {index} is not durable on node {}",
            node + 1
        );
        let commands = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Command);
        commands.take_while(|entry| entry.index <= index).count()
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        log_bytes(&self.world.nodes)
    }

    pub(crate) fn snapshot_bytes(&self) -> u64 {
        snapshot_bytes(&self.world.nodes)
    }

    /// The nodes that run and are connected.
    fn reachable(&self) -> Vec<usize> {
        let nodes = 0..self.nodes();
        let reachable = nodes.filter(|&node| self.is_running(node) && self.is_connected[node]);
        reachable.collect()
    }

    // The course's checks.

    /// The one leader of the highest term among connected nodes, within ten rounds of about half a second.
    pub(crate) fn check_one_leader(&mut self) -> usize {
        for _ in 0..LEADER_ROUNDS {
            let round_ms = 450 + self.rng.below(100);
            self.run_ms(round_ms);
            let views = self
                .reachable()
                .into_iter()
                .map(|node| (node, self.view(node)));
            let mut leaders: Vec<_> = views
                .filter(|(_, view)| view.role == Role::Leader)
                .map(|(node, view)| (view.term, node))
                .collect();
            leaders.sort_unstable();
            let twice = leaders.windows(2).find(|pair| pair[0].0 == pair[1].0);
            assert_eq!(twice, None, "two leaders in one term");
            if let Some((_, leader)) = leaders.last() {
                return *leader;
            }
        }
        panic!("expected one leader, got none");
    }

    /// All connected nodes are in this term.
    pub(crate) fn check_terms(&self) -> Term {
        let terms: Vec<Term> = self
            .reachable()
            .into_iter()
            .map(|node| self.view(node).term)
            .collect();
        assert!(terms.windows(2).all(|pair| pair[0] == pair[1]), "{terms:?}");
        terms[0]
    }

    /// No connected node believes that it leads.
    pub(crate) fn check_no_leader(&self) {
        for node in self.reachable() {
            assert_ne!(
                self.view(node).role,
                Role::Leader,
                "node {} leads",
                node + 1
            );
        }
    }

    // Commands.

    /// A command that no other one equals.
    pub(crate) fn new_command(&mut self) -> Bytes {
        self.next_command += 1;
        Bytes::copy_from_slice(&self.next_command.to_le_bytes())
    }

    /// Gives a node a new command.
    pub(crate) fn start(&mut self, node: usize) -> Option<Started> {
        let command = self.new_command();
        self.start_command(node, command)
    }

    /// Gives a node a command. `None`: it is down or does not lead.
    pub(crate) fn start_command(&mut self, node: usize, command: Bytes) -> Option<Started> {
        let submission = must(self.world.submit(node, GROUP, sealed(&command)));
        let (index, term) = submission.position?;
        Some(Started {
            index,
            term,
            command,
        })
    }

    /// Agrees on a new command, on so many nodes at least, within ten seconds.
    pub(crate) fn one(&mut self, wanted: usize, retries: bool) -> LogIndex {
        let command = self.new_command();
        self.one_command(command, wanted, retries)
    }

    pub(crate) fn one_command(&mut self, command: Bytes, wanted: usize, retries: bool) -> LogIndex {
        let mut attempt = Attempt::new(self, command, wanted, retries);
        loop {
            if let Some(index) = attempt.poll(self) {
                return index;
            }
            self.run_ms(ONE_POLL_MS);
        }
    }
}

/// A call of the course's `one` that is under way.
pub(crate) struct Attempt {
    command: Bytes,
    wanted: usize,
    retries: bool,
    ends_ns: u64,
    /// Who took it where, and until when that is waited for.
    taken: Option<(LogIndex, u64)>,
    /// Not asked again before.
    asks_at_ns: u64,
}

impl Attempt {
    pub(crate) fn new(raft: &Raft, command: Bytes, wanted: usize, retries: bool) -> Self {
        Self {
            command,
            wanted,
            retries,
            ends_ns: raft.world.now_ns + ONE_MS * MS,
            taken: None,
            asks_at_ns: 0,
        }
    }

    /// Goes on with it: call it every 20 ms. `Some` when enough nodes have applied the command.
    pub(crate) fn poll(&mut self, raft: &mut Raft) -> Option<LogIndex> {
        let now_ns = raft.world.now_ns;
        if let Some((index, until_ns)) = self.taken {
            let (count, command) = raft.committed(index);
            if count >= self.wanted && command.as_ref() == Some(&self.command) {
                return Some(index);
            }
            if now_ns < until_ns {
                return None;
            }
            assert!(
                self.retries,
                "no agreement on {:?} at {index}",
                self.command
            );
            self.taken = None;
        }
        assert!(
            now_ns < self.ends_ns,
            "no agreement on {:?} in ten seconds",
            self.command
        );
        if now_ns < self.asks_at_ns {
            return None;
        }
        self.taken = self
            .ask(raft)
            .map(|index| (index, now_ns + ONE_LEADER_MS * MS));
        self.asks_at_ns = now_ns + ONE_PAUSE_MS * MS;
        None
    }

    fn ask(&self, raft: &mut Raft) -> Option<LogIndex> {
        for _ in 0..raft.nodes() {
            raft.first_asked = (raft.first_asked + 1) % raft.nodes();
            let node = raft.first_asked;
            if raft.is_connected[node]
                && let Some(started) = raft.start_command(node, self.command.clone())
            {
                return Some(started.index);
            }
        }
        None
    }
}

/// An error of the world is a violation that a judge of every step has found.
pub(crate) fn must<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|violation| panic!("{violation}"))
}

/// No clerks: commands are given to nodes.
pub(crate) struct Nobody<M>(PhantomData<M>);

impl<M: StateMachine> Workload for Nobody<M> {
    type Machine = M;

    fn new(_config: &Config) -> Self {
        Self(PhantomData)
    }

    fn call(&mut self, _clerk: usize, _rng: &mut Rng, _now_ns: u64) -> (Ticket, Call) {
        unreachable!("there are no clerks")
    }

    fn last_calls(&mut self, _clerk: usize, _now_ns: u64) -> Vec<(Ticket, Call)> {
        Vec::new()
    }

    fn answered(
        &mut self,
        _ticket: Ticket,
        _answer: Result<Bytes, Error>,
        _now_ns: u64,
    ) -> Result<(), String> {
        unreachable!("there are no clerks")
    }

    fn judge(&self) -> Result<(), String> {
        Ok(())
    }

    fn calls(&self) -> u64 {
        0
    }
}
