//! All groups of one node that one worker owns, stepped together so that a pass has one frame for each peer
//! and one submission for the log.
//!
//! Invariants:
//! - A replica is on the ready list exactly when its `is_ready` is set.
//! - `unacked` ascends by lsn: what waits in front becomes durable first.
//! - While `stalled` holds a batch the log refused, later batches queue behind it: the order of
//!   [`quorate_raft::Persist`]s is the order of the log.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use quorate_kv::StateMachine;
use quorate_raft::{Message, NodeId};
use quorate_wal::{GroupId, LogStatus, Lsn, SubmitError};

use super::event::{Event, JobDone, Outlet};
use super::health::Care;
use super::ports::{Job, Ports};
use super::promise::Outliving;
use super::replica::{Health, Replica};
use super::space::{LogSpace, Pressure};
use super::transfer::Moves;
use super::writes::{After, Closed, Writes};
use crate::handoff::flag::LogFlag;
use crate::mutants;
use crate::transport::{Frame, GroupMessage, Origin, Refusal};

/// Commands in the output of one replica that a pass goes on to finish before others get their turn.
const ROUNDS_PER_FLUSH_MAX: usize = 16;

/// How often the log's size is looked at while the log rests.
const SPACE_CHECK_NS: u64 = 1_000_000_000;

/// The time between two rounds of letting go: the first should have had an effect.
const LET_GO_GAP_NS: u64 = 20_000_000;

/// So long groups count as letting go after a look that found some: until the next look of their shard, and a while longer, as
/// it may be late.
const LET_GO_COUNTS_NS: u64 = 2 * LET_GO_GAP_NS;

/// The groups of one node that one worker owns.
pub(crate) struct Shard<M: StateMachine> {
    node: NodeId,
    /// Ascending by group.
    pub(super) replicas: Vec<Replica<M>>,
    pub(super) ports: Ports<M>,
    health: Health,
    ready: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    writes: Writes,
    unacked: VecDeque<Unacked>,
    /// Each with when it was to be written first.
    stalled: VecDeque<(u64, Closed)>,
    pub(super) care: Care,
    pub(super) outliving: Outliving,
    pub(super) moves: Moves,
    outbox: Outbox,
    space: LogSpace,
    space_check_at_ns: u64,
    let_go_at_ns: u64,
    /// What the replicas were told last of how long all members wait before they vote for another.
    promise_ns: Option<u64>,
    /// Groups for which an election was asked before the cluster was founded.
    campaigns: Vec<GroupId>,
    /// Set while an [`Event::LogMoved`] is on its way.
    log_moved: Arc<LogFlag>,
}

/// A batch that the log took and that is not durable yet.
struct Unacked {
    lsn: Lsn,
    /// When it was to be written first.
    since_ns: u64,
    after: Vec<After>,
}

/// Messages of a pass, by receiver. A cluster has few nodes: a short list beats a map.
#[derive(Default)]
pub(crate) struct Outbox {
    peers: Vec<(NodeId, Vec<GroupMessage>)>,
}

impl Outbox {
    pub(super) fn add(&mut self, group: GroupId, message: Message) {
        let to = message.to;
        let message = GroupMessage { group, message };
        match self.peers.iter_mut().find(|(node, _)| *node == to) {
            Some((_, messages)) => messages.push(message),
            None => self.peers.push((to, vec![message])),
        }
    }
}

impl<M: StateMachine> Shard<M> {
    /// Takes the replicas over.
    pub(crate) fn new(
        node: NodeId,
        mut replicas: Vec<Replica<M>>,
        ports: Ports<M>,
        space: LogSpace,
        now_ns: u64,
        log_moved: Arc<LogFlag>,
    ) -> Self {
        replicas.sort_by_key(|replica| replica.group);
        let election_timeout_ns = ports.status.board.election_timeout_ns();
        let care = Care::new(now_ns, election_timeout_ns);
        let mut shard = Self {
            node,
            ready: Vec::with_capacity(replicas.len()),
            timers: BinaryHeap::new(),
            replicas,
            writes: Writes::new(ports.log.options()),
            ports,
            health: Health::Good,
            unacked: VecDeque::new(),
            stalled: VecDeque::new(),
            care,
            outliving: Outliving::default(),
            moves: Moves::default(),
            outbox: Outbox::default(),
            space,
            space_check_at_ns: now_ns.saturating_add(SPACE_CHECK_NS),
            let_go_at_ns: 0,
            promise_ns: Some(election_timeout_ns),
            campaigns: Vec::new(),
            log_moved,
        };
        shard.note_promise();
        for slot in 0..shard.replicas.len() {
            assert!(
                shard.replicas[slot].is_self(node),
                "a shard holds the replicas of one node"
            );
            shard.mark_ready(slot);
        }
        shard
    }

    /// Takes one input. Call [`flush`](Self::flush) after a bunch of them.
    pub(crate) fn handle(&mut self, now_ns: u64, event: Event<M>) {
        match event {
            Event::Frame(origin, frame) => self.handle_frame(now_ns, origin, frame),
            Event::WaitApplied {
                group,
                index,
                outlet,
            } => match self.slot(group) {
                Some(slot) => {
                    self.replicas[slot].wait_applied(now_ns, index, outlet, &self.ports);
                    self.arm(slot);
                }
                None => outlet.answer(&self.ports, Err(Refusal::NoSuchGroup)),
            },
            Event::LogMoved => {
                let flag = Arc::clone(&self.log_moved);
                flag.look(|| {
                    self.log_moved(now_ns);
                    self.check_space(now_ns);
                });
            }
            Event::Job(done) => self.job_done(now_ns, done),
            Event::Inspect { group, with } => {
                if let Some(slot) = self.slot(group) {
                    with(&self.replicas[slot]);
                }
            }
            Event::Founded => {
                for group in std::mem::take(&mut self.campaigns) {
                    self.handle(now_ns, Event::Campaign { group });
                }
            }
            Event::Campaign { group } if !self.takes_part() => {
                if !self.campaigns.contains(&group) && self.slot(group).is_some() {
                    self.campaigns.push(group);
                }
            }
            Event::Campaign { group } => {
                if let Some(slot) = self.slot(group) {
                    self.replicas[slot].raft.campaign(now_ns);
                    self.mark_ready(slot);
                }
            }
            Event::Transfer { group, to, told } => {
                if let Some(slot) = self.slot(group) {
                    self.transfer(now_ns, slot, to, told);
                }
            }
            Event::Snapshot { group, told } => {
                if let Some(slot) = self.slot(group) {
                    self.replicas[slot].save_for(told, &self.ports);
                }
            }
            Event::Leave { told } => self.leave(now_ns, told),
        }
    }

    fn handle_frame(&mut self, now_ns: u64, origin: Origin, frame: Frame) {
        // In front of what a member says: it may have announced a shorter election timeout before.
        self.note_promise();
        match (origin, frame) {
            (Origin::Node(from), Frame::Raft(messages)) => {
                for GroupMessage { group, message } in messages {
                    let Some(slot) = self.slot(group) else {
                        self.ports.rejections.no_such_group.add(1);
                        continue;
                    };
                    if message.from != from || message.to != self.node {
                        self.ports.rejections.messages.add(1);
                        continue;
                    }
                    if self.must_drop(&message) {
                        continue;
                    }
                    self.replicas[slot].step(now_ns, message, &self.ports);
                    self.mark_ready(slot);
                }
            }
            (origin, Frame::Request(request)) => {
                let outlet = Outlet {
                    id: request.id,
                    origin,
                };
                let Some(slot) = self.slot(request.group) else {
                    self.ports.rejections.no_such_group.add(1);
                    outlet.answer(&self.ports, Err(Refusal::NoSuchGroup));
                    return;
                };
                if !self.takes_part() {
                    let refusal = if self.ports.membership.is_founded() {
                        Refusal::NotLeader { leader: None }
                    } else {
                        let waits_for = self.ports.membership.waits_for();
                        Refusal::Unfounded { waits_for }
                    };
                    outlet.answer(&self.ports, Err(refusal));
                    return;
                }
                self.replicas[slot].request(now_ns, outlet, request, self.health, &self.ports);
                self.mark_ready(slot);
            }
            (Origin::Node(from), Frame::SnapshotChunk(chunk)) => {
                if let Some(slot) = self.slot(chunk.transfer.group) {
                    self.replicas[slot].snapshot_chunk(now_ns, from, chunk, &self.ports);
                    self.mark_ready(slot);
                }
            }
            (Origin::Node(from), Frame::SnapshotAck(ack)) => {
                if let Some(slot) = self.slot(ack.transfer.group) {
                    self.replicas[slot].snapshot_ack(now_ns, from, &ack, &self.ports);
                    self.mark_ready(slot);
                }
            }
            // A clerk speaks in requests only; replies go to the node's clients, and the status of
            // a node to the board.
            (Origin::Clerk(_), _) | (Origin::Node(_), Frame::Reply(_) | Frame::Status(_)) => {}
        }
    }

    /// Tells the replicas for how long the members wait before they vote for another leader.
    fn note_promise(&mut self) {
        let promise_ns = self.ports.limits.promise_ns();
        if self.promise_ns != promise_ns {
            self.promise_ns = promise_ns;
            for slot in 0..self.replicas.len() {
                self.replicas[slot].raft.set_promise_ns(promise_ns);
                // What is published of its lease changes in its next pass.
                self.mark_ready(slot);
            }
        }
    }

    /// What the log cannot take must not reach the core: to the sender it looks lost, and comes again.
    fn must_drop(&self, message: &Message) -> bool {
        let carries_entries = matches!(&message.body, quorate_raft::Body::Append { entries, .. } if !entries.is_empty());
        match self.health {
            Health::Good => false,
            Health::DiskFull | Health::OutOfHandles | Health::Behind => carries_entries,
            Health::LogFailed => true,
        }
    }

    /// Sends, writes, applies and answers all that the inputs since the last flush led to.
    pub(crate) fn flush(&mut self, now_ns: u64) {
        let mut rounds = 0;
        while !self.ready.is_empty() && rounds < ROUNDS_PER_FLUSH_MAX {
            rounds += 1;
            let ready = std::mem::take(&mut self.ready);
            for &slot in &ready {
                self.replicas[slot].is_ready = false;
                self.replicas[slot].collect(
                    now_ns,
                    &self.ports.log,
                    &mut self.writes,
                    &mut self.outbox,
                    slot,
                );
            }
            // The followers' disks work while this node's does (thesis 10.2.1).
            self.send_outbox();
            self.submit(now_ns);
            for slot in ready {
                let replica = &mut self.replicas[slot];
                let has_more = replica.finish(now_ns, &self.ports);
                if replica.heal(now_ns, &mut self.writes, &self.ports) || has_more {
                    self.mark_ready(slot);
                }
                self.arm(slot);
            }
            self.look_at_moves(now_ns);
        }
        self.submit(now_ns);
    }

    /// Whether a flush would have something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub(crate) fn deadline_ns(&self) -> u64 {
        let timer = self
            .timers
            .peek()
            .map_or(u64::MAX, |Reverse((at_ns, _))| *at_ns);
        let next_ns = timer.min(self.space_check_at_ns).min(self.tend_at_ns());
        next_ns.min(self.moves.due_ns())
    }

    /// Fires what is due.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        while let Some(&Reverse((at_ns, slot))) = self.timers.peek() {
            if at_ns > now_ns {
                break;
            }
            self.timers.pop();
            let replica = &mut self.replicas[slot];
            replica.timer_at_ns = u64::MAX;
            replica.tick(now_ns);
            replica.tick_transfers(now_ns, &self.ports);
            replica.expire_reads(now_ns, &self.ports);
            self.mark_ready(slot);
            self.arm(slot);
        }
        if now_ns >= self.space_check_at_ns {
            self.check_space(now_ns);
            if !self.stalled.is_empty() {
                self.log_moved(now_ns);
            }
        }
        if now_ns >= self.tend_at_ns() {
            self.tend(now_ns);
            self.outlive_promise(now_ns);
        }
        if now_ns >= self.moves.due_ns() {
            self.look_at_moves(now_ns);
        }
    }

    /// Stops: writes what was left for later (when in order), refuses everybody who waits.
    pub(crate) fn stop(&mut self, in_order: bool) {
        if in_order && self.health != Health::LogFailed {
            for replica in &mut self.replicas {
                replica.settle(&mut self.writes);
            }
            // Only hints are in it: losing it loses nothing.
            self.submit(0);
        }
        for replica in &mut self.replicas {
            replica.dismiss(&self.ports);
        }
    }

    /// Shows other threads no leader and no lease any more. For a shard that panicked: nothing else of it is looked at.
    pub(crate) fn withdraw(&self) {
        for replica in &self.replicas {
            let published = replica.published();
            published.withdraw(published.term());
        }
    }

    /// Has the replicas note what they do, for [`take_deeds`](Self::take_deeds), which must be called after each pass.
    #[cfg(feature = "simulation")]
    pub(crate) fn watch(&mut self) {
        for replica in &mut self.replicas {
            replica.deeds = Some(Vec::new());
        }
    }

    /// What the replicas did since this was last asked; nothing if nobody [watches](Self::watch).
    #[cfg(feature = "simulation")]
    pub(crate) fn take_deeds(&mut self) -> Vec<(GroupId, crate::simulation::Deed)> {
        let mut taken = Vec::new();
        for replica in &mut self.replicas {
            let group = replica.group;
            let deeds = replica.deeds.iter_mut().flat_map(|deeds| deeds.drain(..));
            taken.extend(deeds.map(|deed| (group, deed)));
        }
        taken
    }

    /// The replica of a group.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn replica(&self, group: GroupId) -> Option<&Replica<M>> {
        self.slot(group).map(|slot| &self.replicas[slot])
    }

    fn slot(&self, group: GroupId) -> Option<usize> {
        self.replicas
            .binary_search_by_key(&group, |replica| replica.group)
            .ok()
    }

    pub(super) fn mark_ready(&mut self, slot: usize) {
        let replica = &mut self.replicas[slot];
        if !replica.is_ready {
            replica.is_ready = true;
            self.ready.push(slot);
        }
    }

    /// Keeps one live timer a replica. A deadline that moved later is found out when the timer fires.
    fn arm(&mut self, slot: usize) {
        let replica = &mut self.replicas[slot];
        let at_ns = replica.deadline_ns();
        if at_ns < replica.timer_at_ns {
            replica.timer_at_ns = at_ns;
            self.timers.push(Reverse((at_ns, slot)));
        }
    }

    /// Whether this node asks for anything, or promises it.
    fn takes_part(&self) -> bool {
        self.ports.membership.takes_part() || mutants::VOTES_UNFOUNDED
    }

    fn send_outbox(&mut self) {
        if !self.takes_part() {
            self.outbox.peers.clear();
            return;
        }
        for (node, messages) in self.outbox.peers.drain(..) {
            // A frame that is not taken is a lost one: the protocol sends again.
            self.ports.transport.send(node, Frame::Raft(messages));
        }
    }

    fn submit(&mut self, now_ns: u64) {
        let closed = self.writes.take().map(|closed| (now_ns, closed));
        self.stalled.extend(closed);
        let mut has_submitted = false;
        while let Some((since_ns, (mut batch, after))) = self.stalled.pop_front() {
            // What is in it was agreed on, or was taken from whoever was agreed with: this node's own limits
            // count where commands are proposed, and no message may bring the log to refuse a batch.
            if !mutants::OWN_LIMITS_FAIL_LOG {
                batch.lift_limits();
            }
            match self.ports.log.enqueue(&mut batch) {
                Ok(lsn) => {
                    self.unacked.push_back(Unacked {
                        lsn,
                        since_ns,
                        after,
                    });
                    self.writes.give_back(batch);
                    has_submitted = true;
                }
                Err(error) => {
                    self.stalled.push_front((since_ns, (batch, after)));
                    match error {
                        SubmitError::QueueFull => self.health = Health::Behind,
                        SubmitError::NoHandles { .. } => self.note_short(Health::OutOfHandles),
                        // No space, or something else that passes.
                        error if error.is_retryable() => self.note_short(Health::DiskFull),
                        // The rest are refusals of what this node promised to write: it cannot go on.
                        error => self.log_failed(now_ns, &error.to_string()),
                    }
                    break;
                }
            }
        }
        if has_submitted {
            self.ports.log.nudge();
        }
        if mutants::ACKNOWLEDGES_UNSYNCED {
            self.release(now_ns, Lsn(u64::MAX));
        }
        self.note_oldest();
    }

    /// The log takes no writes for now: others should lead, at once.
    fn note_short(&mut self, of: Health) {
        if self.health != of {
            self.health = of;
            self.care.due_ns = 0;
        }
    }

    /// Since when the oldest write waits that is not durable, and where it is in the log.
    pub(super) fn oldest(&self) -> Option<(u64, Lsn)> {
        let unacked = self
            .unacked
            .front()
            .map(|front| (front.since_ns, front.lsn));
        let stalled = || {
            self.stalled
                .front()
                .map(|(since_ns, _)| (*since_ns, Lsn(u64::MAX)))
        };
        unacked.or_else(stalled)
    }

    fn note_oldest(&self) {
        let status = &self.ports.status;
        status.board.note_oldest(status.shard, self.oldest());
    }

    fn log_moved(&mut self, now_ns: u64) {
        match self.ports.log.status() {
            LogStatus::Healthy => self.health = Health::Good,
            LogStatus::Failed { reason } => {
                self.log_failed(now_ns, &reason);
                return;
            }
            LogStatus::NoHandles { .. } => self.note_short(Health::OutOfHandles),
            // Full, or something else that passes.
            _ => self.note_short(Health::DiskFull),
        }
        self.release(now_ns, self.ports.log.durable());
        self.submit(now_ns);
    }

    /// Does what waited for everything up to an lsn to be durable.
    pub(super) fn release(&mut self, now_ns: u64, durable: Lsn) {
        while self.unacked.front().is_some_and(|it| it.lsn <= durable) {
            let Some(durable) = self.unacked.pop_front() else {
                break;
            };
            for action in durable.after {
                match action {
                    After::Persisted { slot, seq } => {
                        self.replicas[slot].raft.on_persisted(now_ns, seq);
                        self.mark_ready(slot);
                    }
                    After::Superseded { slot, file } => {
                        self.replicas[slot].superseded(file, &self.ports);
                    }
                }
            }
        }
        self.note_oldest();
    }

    fn log_failed(&mut self, now_ns: u64, reason: &str) {
        if self.health == Health::LogFailed {
            return;
        }
        self.health = Health::LogFailed;
        self.stalled.clear();
        self.unacked.clear();
        self.note_oldest();
        self.care.due_ns = 0;
        for slot in 0..self.replicas.len() {
            let successor = self.successor(now_ns, slot);
            self.replicas[slot].log_failed(now_ns, reason, successor);
            self.mark_ready(slot);
        }
    }

    fn job_done(&mut self, now_ns: u64, done: JobDone<M>) {
        let group = match &done {
            JobDone::Saved { group, .. } => *group,
            JobDone::Received(received) => received.transfer.group,
            JobDone::ReceiveFailed { transfer, .. } | JobDone::SendFailed { transfer, .. } => {
                transfer.group
            }
        };
        let Some(slot) = self.slot(group) else { return };
        let replica = &mut self.replicas[slot];
        match done {
            JobDone::Saved { meta, result, .. } => {
                replica.saved(&meta, result, &mut self.writes, slot, &self.ports);
            }
            JobDone::Received(received) => replica.received(now_ns, *received, &self.ports),
            JobDone::ReceiveFailed { transfer, reason } => {
                replica.receive_failed(transfer, reason, &self.ports);
            }
            JobDone::SendFailed {
                transfer,
                reason,
                rotten,
            } => replica.send_failed(now_ns, transfer, reason, rotten, &self.ports),
        }
        self.mark_ready(slot);
    }

    /// Looks at how much log there is. Groups that wrote a little long ago hold old segments: a snapshot of their state lets go of
    /// them. They go a segment at a time, and quickly, since a busy neighbour may fill segments by the dozen every second.
    fn check_space(&mut self, now_ns: u64) {
        let replicas = &self.replicas;
        let own_bytes = || replicas.iter().map(Replica::snapshot_bytes).sum();
        let pressure = self.space.pressure(self.ports.log.disk_bytes(), own_bytes);
        // Before it is due the answer of the last look stands: this is called with every sync, and looking takes all groups.
        let is_due = now_ns.saturating_sub(self.let_go_at_ns) >= LET_GO_GAP_NS;
        if pressure != Pressure::None && is_due {
            self.let_go(now_ns);
        }
        // Refusing waits for groups to let go of the oldest segment. Where none can, the log gets smaller by moving what
        // lives, and may move no more than is written: refusing that would last for ever.
        let refuses = pressure == Pressure::Refuse && self.space.is_let_go_of(now_ns);
        match self.health {
            Health::Good if refuses => self.health = Health::Behind,
            Health::Behind if !refuses && self.stalled.is_empty() => {
                self.health = Health::Good;
            }
            _ => {}
        }
        let next_ns = if pressure == Pressure::None {
            SPACE_CHECK_NS
        } else {
            LET_GO_GAP_NS
        };
        self.space_check_at_ns = now_ns.saturating_add(next_ns);
    }

    /// Has those groups that hold the oldest segment let go of it, as far as they can.
    fn let_go(&mut self, now_ns: u64) {
        self.let_go_at_ns = now_ns;
        let mut lets_go = false;
        for group in self.ports.log.stats().pinned_by {
            if let Some(slot) = self.slot(group) {
                lets_go |= self.replicas[slot].let_go(&mut self.writes, &self.ports);
            }
        }
        if lets_go {
            self.space
                .note_let_go(now_ns.saturating_add(LET_GO_COUNTS_NS));
        }
    }
}

/// A snapshot job on behalf of a replica.
pub(super) fn submit_job<M: StateMachine>(ports: &Ports<M>, job: Job<M>) {
    ports.jobs.submit(job);
}
