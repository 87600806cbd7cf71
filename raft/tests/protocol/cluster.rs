//! A cluster in virtual time: seeded network, disks and clocks, judged after each step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_raft::{
    Body, Config, EntryKind, LogIndex, Message, NodeId, Options, Output, Raft, Role, SnapshotMeta,
};

use crate::disk::Disk;
use crate::judge::{Judge, Seen};
use crate::solo::{MS, config, options};

/// How the network and the disks behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) drop_percent: u64,
    pub(crate) duplicate_percent: u64,
    /// Messages take 1 to this many microseconds.
    pub(crate) delay_us_max: u64,
    /// Writes take 1 to this many microseconds.
    pub(crate) disk_us_max: u64,
    /// Clocks run up to this much fast or slow.
    pub(crate) drift_percent: u64,
}

pub(crate) const CALM: Faults = Faults {
    drop_percent: 0,
    duplicate_percent: 0,
    delay_us_max: 500,
    disk_us_max: 500,
    drift_percent: 0,
};

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    /// When the oldest write is done, if any is under way.
    disk_due_ns: Option<u64>,
    /// No write gets done while this is set.
    pub(crate) is_disk_stuck: bool,
    /// This node's clock, in thousandths of true time.
    rate: u64,
    pub(crate) applied: LogIndex,
    pub(crate) reads: Vec<(u64, LogIndex)>,
    pub(crate) reads_failed: Vec<u64>,
}

impl Node {
    fn clock_ns(&self, now_ns: u64) -> u64 {
        now_ns / 1000 * self.rate
    }

    pub(crate) fn raft(&self) -> &Raft {
        self.raft.as_ref().expect("is up")
    }
}

pub(crate) struct Cluster {
    pub(crate) now_ns: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) judge: Judge,
    pub(crate) faults: Faults,
    pub(crate) config: Config,
    options: Options,
    wire: BTreeMap<(u64, u64), Message>,
    wire_seq: u64,
    cuts: BTreeSet<(NodeId, NodeId)>,
    rng: u64,
    pub(crate) messages_sent: usize,
    /// What the judge had as committed when a read was asked, by token.
    read_floors: BTreeMap<u64, LogIndex>,
    steps: u64,
    leased_steps: u64,
    installs: u64,
    suffixes_kept: u64,
}

/// How often things happened that a storm is there to make happen.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) committed: u64,
    pub(crate) leaders: u64,
    pub(crate) overwrites: u64,
    pub(crate) installs: u64,
    pub(crate) suffixes_kept: u64,
    pub(crate) reads_answered: u64,
    pub(crate) reads_failed: u64,
    pub(crate) leased_steps: u64,
    pub(crate) writes_lost: u64,
    pub(crate) entries_read_back: u64,
}

impl Marks {
    pub(crate) fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.leaders += other.leaders;
        self.overwrites += other.overwrites;
        self.installs += other.installs;
        self.suffixes_kept += other.suffixes_kept;
        self.reads_answered += other.reads_answered;
        self.reads_failed += other.reads_failed;
        self.leased_steps += other.leased_steps;
        self.writes_lost += other.writes_lost;
        self.entries_read_back += other.entries_read_back;
    }
}

impl Cluster {
    pub(crate) fn new(count: u64) -> Self {
        Self::with(count, 1, CALM, &options())
    }

    pub(crate) fn with(count: u64, seed: u64, faults: Faults, options: &Options) -> Self {
        let mut cluster = Self {
            now_ns: 0,
            nodes: Vec::new(),
            judge: Judge::default(),
            faults,
            config: config(count),
            options: Options {
                seed,
                ..options.clone()
            },
            wire: BTreeMap::new(),
            wire_seq: 0,
            cuts: BTreeSet::new(),
            rng: seed ^ 0x5851_f42d_4c95_7f2d,
            messages_sent: 0,
            read_floors: BTreeMap::new(),
            steps: 0,
            leased_steps: 0,
            installs: 0,
            suffixes_kept: 0,
        };
        for id in (1..=count).map(NodeId) {
            let drift = cluster.below(faults.drift_percent * 20 + 1);
            cluster.nodes.push(Node {
                id,
                raft: None,
                disk: Disk::default(),
                disk_due_ns: None,
                is_disk_stuck: false,
                rate: 1000 + drift - faults.drift_percent * 10,
                applied: LogIndex(0),
                reads: Vec::new(),
                reads_failed: Vec::new(),
            });
            cluster.restart(id);
        }
        cluster
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize - 1]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize - 1]
    }

    pub(crate) fn raft(&self, id: NodeId) -> &Raft {
        self.node(id).raft()
    }

    pub(crate) fn marks(&self) -> Marks {
        let sum = |of: fn(&Node) -> usize| self.nodes.iter().map(|node| of(node) as u64).sum();
        Marks {
            committed: self.judge.committed_to().0,
            leaders: self.judge.leaders.len() as u64,
            overwrites: sum(|node| node.disk.overwrites),
            installs: self.installs,
            suffixes_kept: self.suffixes_kept,
            reads_answered: sum(|node| node.reads.len()),
            reads_failed: sum(|node| node.reads_failed.len()),
            leased_steps: self.leased_steps,
            writes_lost: sum(|node| node.disk.writes_lost),
            entries_read_back: sum(|node| node.disk.entries_read),
        }
    }

    /// A number below `bound`, from the seed.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.rng = self
            .rng
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.rng >> 33) % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    // What the test does to the cluster.

    pub(crate) fn crash(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.raft = None;
        node.disk.crash();
        node.disk_due_ns = None;
    }

    pub(crate) fn restart(&mut self, id: NodeId) {
        let (options, config, now_ns) = (self.options.clone(), self.config.clone(), self.now_ns);
        let node = self.node_mut(id);
        let restored = node.disk.restored(id, &config);
        node.applied = restored.snapshot.index;
        let raft = Raft::new(options, restored, node.clock_ns(now_ns));
        node.raft = Some(raft.expect("a crash leaves what a replica can start from"));
        self.judge.restarted(id);
        self.flush(id);
    }

    /// Cuts one direction.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn isolate(&mut self, id: NodeId) {
        for other in self.config.voters.clone() {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Leaves only the links inside `side` and inside the rest.
    pub(crate) fn partition(&mut self, side: &[NodeId]) {
        self.heal();
        for one in self.config.voters.clone() {
            for other in self.config.voters.clone() {
                if side.contains(&one) != side.contains(&other) {
                    self.cut(one, other);
                }
            }
        }
    }

    /// Does something with a replica that is up, then what comes of it.
    pub(crate) fn with_raft<T>(&mut self, id: NodeId, act: impl FnOnce(&mut Raft, u64) -> T) -> T {
        let now_ns = self.now_ns;
        let node = self.node_mut(id);
        let clock_ns = node.clock_ns(now_ns);
        let result = act(node.raft.as_mut().expect("is up"), clock_ns);
        self.flush(id);
        result
    }

    pub(crate) fn propose(&mut self, id: NodeId, text: &str) -> Option<LogIndex> {
        let command = (EntryKind::Command, Bytes::copy_from_slice(text.as_bytes()));
        self.with_raft(id, |raft, now_ns| raft.propose(now_ns, [command]).ok())
    }

    pub(crate) fn read(&mut self, id: NodeId, token: u64) -> bool {
        self.read_floors.insert(token, self.judge.committed_to());
        self.with_raft(id, |raft, now_ns| raft.read(now_ns, token).is_ok())
    }

    /// Saves a snapshot of what is applied, keeping `trailing` entries, if everything it covers is
    /// durable.
    pub(crate) fn snapshot(&mut self, id: NodeId, trailing: u64) {
        let config = self.config.clone();
        let node = self.node_mut(id);
        let index = node.applied;
        let raft = node.raft.as_mut().expect("is up");
        if index <= raft.snapshot().index || index > raft.durable_index() || !node.disk.is_idle() {
            return;
        }
        let term = raft.term_at(index).expect("applied and not cut off");
        let meta = SnapshotMeta {
            index,
            term,
            config,
        };
        let first = LogIndex((index.0 + 1).saturating_sub(trailing)).max(raft.first_index());
        node.disk.save_snapshot(&meta, first);
        raft.on_snapshot_saved(meta, first);
        assert_eq!(raft.snapshot().index, index);
        assert_eq!(raft.first_index(), first);
        self.flush(id);
    }

    // Time.

    /// Runs for `ns`.
    pub(crate) fn run(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        while self.step_until(end_ns) {}
        self.now_ns = end_ns;
    }

    /// Runs until `done`; panics if it takes more than 20 virtual seconds.
    pub(crate) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end_ns = self.now_ns + 20_000 * MS;
        while !done(self) {
            assert!(self.step_until(end_ns), "{what} did not happen");
        }
    }

    /// A leader that a majority follows.
    pub(crate) fn elect(&mut self) -> NodeId {
        self.run_until("an election", |cluster| cluster.settled_leader().is_some());
        self.settled_leader().expect("just found")
    }

    pub(crate) fn settled_leader(&self) -> Option<NodeId> {
        let leader = self.leaders().max_by_key(|&id| self.raft(id).term())?;
        let follows = |node: &&Node| {
            node.raft.as_ref().is_some_and(|raft| {
                raft.leader() == Some(leader) && raft.term() == self.raft(leader).term()
            })
        };
        (self.nodes.iter().filter(follows).count() * 2 > self.nodes.len()).then_some(leader)
    }

    pub(crate) fn leaders(&self) -> impl Iterator<Item = NodeId> + '_ {
        let leads = |node: &&Node| {
            node.raft
                .as_ref()
                .is_some_and(|raft| raft.role() == Role::Leader)
        };
        self.nodes.iter().filter(leads).map(|node| node.id)
    }

    /// Proposes and waits until everybody who is up and reachable in `ids` has applied it.
    pub(crate) fn commit(&mut self, text: &str, ids: &[NodeId]) -> LogIndex {
        loop {
            let leader = self.elect();
            let Some(index) = self.propose(leader, text) else {
                self.run(10 * MS);
                continue;
            };
            let wanted = Bytes::copy_from_slice(text.as_bytes());
            let end_ns = self.now_ns + 2_000 * MS;
            while self.now_ns < end_ns {
                let is_it = self
                    .judge
                    .committed
                    .get(index.0 as usize - 1)
                    .map(|it| it.1 == wanted);
                let is_applied = ids.iter().all(|&id| self.node(id).applied >= index);
                match is_it {
                    Some(true) if is_applied => return index,
                    Some(false) => break,
                    _ => {}
                }
                if !self.step_until(end_ns) {
                    break;
                }
            }
            assert!(self.now_ns < 600_000 * MS, "{text} is not committed");
        }
    }

    /// Lets the earliest event before `end_ns` happen. Returns false if there is none.
    pub(crate) fn step_until(&mut self, end_ns: u64) -> bool {
        let wire = self.wire.keys().next().map_or(u64::MAX, |key| key.0);
        let disk = self.nodes.iter().filter(|node| !node.is_disk_stuck);
        let disk = disk
            .filter_map(|node| Some((node.disk_due_ns?, node.id)))
            .min();
        let timer = self.nodes.iter().filter_map(|node| {
            let deadline_ns = node.raft.as_ref()?.deadline_ns();
            (deadline_ns < u64::MAX).then(|| ((deadline_ns / node.rate + 1) * 1000, node.id))
        });
        let timer = timer.min();
        let (disk_ns, timer_ns) = (
            disk.map_or(u64::MAX, |it| it.0),
            timer.map_or(u64::MAX, |it| it.0),
        );
        let next_ns = wire.min(disk_ns).min(timer_ns);
        if next_ns > end_ns {
            return false;
        }
        self.now_ns = self.now_ns.max(next_ns);
        if next_ns == wire {
            self.deliver();
        } else if next_ns == disk_ns {
            self.disk_done(disk.expect("it is next").1);
        } else {
            self.with_raft(timer.expect("it is next").1, Raft::tick);
        }
        true
    }

    fn deliver(&mut self) {
        let Some((_, message)) = self.wire.pop_first() else {
            return;
        };
        let is_cut = self.cuts.contains(&(message.from, message.to));
        if is_cut || self.node(message.to).raft.is_none() {
            return;
        }
        self.with_raft(message.to, |raft, now_ns| raft.step(now_ns, message));
    }

    fn disk_done(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let seq = node.disk.complete_one().expect("a write is under way");
        node.disk_due_ns = None;
        if !node.disk.is_idle() {
            self.start_disk(id);
        }
        self.with_raft(id, |raft, now_ns| raft.on_persisted(now_ns, seq));
    }

    fn start_disk(&mut self, id: NodeId) {
        let us = 1 + self.below(self.faults.disk_us_max);
        let due_ns = self.now_ns + us * 1000;
        let node = self.node_mut(id);
        if node.disk_due_ns.is_none() {
            node.disk_due_ns = Some(due_ns);
        }
    }

    /// Takes outputs until there are none, and judges.
    fn flush(&mut self, id: NodeId) {
        loop {
            let now_ns = self.now_ns;
            let node = self.node_mut(id);
            let clock_ns = node.clock_ns(now_ns);
            let Some(raft) = &mut node.raft else { return };
            let output = raft.output(clock_ns, &mut node.disk);
            let is_last = !raft.has_output();
            self.carry_out(id, output);
            if is_last {
                break;
            }
        }
        self.check(id);
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        assert_eq!(output.fault, None);
        let node = &mut self.nodes[id.0 as usize - 1];
        if let Some(persist) = output.persist {
            if let Some((meta, keeps_suffix)) = &persist.install {
                self.installs += 1;
                self.suffixes_kept += u64::from(*keeps_suffix);
                assert!(meta.index > node.applied, "a snapshot never goes back");
            }
            node.disk.submit(persist);
        }
        if let Some(meta) = output.install {
            node.applied = meta.index;
        }
        for entry in &output.committed {
            assert_eq!(
                entry.index,
                node.applied.next(),
                "entries are applied in order"
            );
            node.applied = entry.index;
            self.judge.applied(id, entry.index, entry.term, &entry.data);
        }
        assert_eq!(node.applied, node.raft().applied());
        for read in output.reads {
            assert!(
                read.index <= node.applied,
                "a read is answered before its entries are applied"
            );
            let floor = self.read_floors[&read.token];
            assert!(
                read.index >= floor,
                "{id} reads at {} what began when {floor} was committed",
                read.index
            );
            node.reads.push((read.token, read.index));
        }
        node.reads_failed.extend(output.reads_failed);
        if !node.disk.is_idle() {
            self.start_disk(id);
        }
        for message in output.messages {
            self.post(&message);
        }
        for to in output.snapshots {
            self.send_snapshot(id, to);
        }
    }

    fn post(&mut self, message: &Message) {
        let seen = seen(&self.nodes);
        self.judge.sent(message, &seen);
        self.messages_sent += 1;
        let copies = 1 + u64::from(self.chance(self.faults.duplicate_percent));
        for _ in 0..copies {
            if self.chance(self.faults.drop_percent) {
                continue;
            }
            let at_ns = self.now_ns + (1 + self.below(self.faults.delay_us_max)) * 1000;
            self.wire_seq += 1;
            self.wire.insert((at_ns, self.wire_seq), message.clone());
        }
    }

    /// The snapshot travels as one message, and may be lost like one.
    fn send_snapshot(&mut self, from: NodeId, to: NodeId) {
        let is_sent = !self.cuts.contains(&(from, to)) && !self.chance(self.faults.drop_percent);
        if is_sent {
            self.push_snapshot(from, to);
        }
        let now_ns = self.now_ns;
        let node = self.node_mut(from);
        let clock_ns = node.clock_ns(now_ns);
        node.raft
            .as_mut()
            .expect("it just asked")
            .on_snapshot_sent(clock_ns, to, is_sent);
    }

    /// Sends the latest snapshot, asked or not.
    pub(crate) fn push_snapshot(&mut self, from: NodeId, to: NodeId) {
        let leader = self.raft(from);
        let meta = leader.snapshot().clone();
        if meta.index > LogIndex(0) {
            let message = Message {
                from,
                to,
                term: leader.term(),
                body: Body::SnapshotReceived { meta },
            };
            self.post(&message);
        }
    }

    fn check(&mut self, id: NodeId) {
        self.steps += 1;
        let seen = seen(&self.nodes);
        self.judge.check(id, &seen);
        if self.steps.is_multiple_of(16) {
            Judge::check_logs(&seen);
        }
        for node in &self.nodes {
            let Some(raft) = &node.raft else { continue };
            let leased = raft
                .lease_until_ns()
                .is_some_and(|until_ns| node.clock_ns(self.now_ns) < until_ns);
            self.leased_steps += u64::from(leased);
            let has_all = raft.applied() >= self.judge.committed_to();
            assert!(
                !leased || has_all,
                "{} answers from a lease without what is committed",
                node.id
            );
        }
    }
}

fn seen(nodes: &[Node]) -> Vec<Seen<'_>> {
    nodes
        .iter()
        .map(|node| Seen {
            raft: node.raft.as_ref(),
            disk: &node.disk,
            id: node.id,
        })
        .collect()
}
