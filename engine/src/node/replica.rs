//! One group on one node: the protocol core, the machine behind its sessions, and who waits for what.
//!
//! Invariants:
//! - The published view never goes back, and includes every command whose answer was sent.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::{Command, Outcome, Position, Sessions, StateMachine};
use quorate_raft::{
    Counters, Entry, EntryKind, HardState, LogIndex, LogReadError, Message, NodeId, Output,
    ProposeError, Raft, Rejection, Role, Soft, Term,
};
use quorate_wal::{GroupId, Log};

use super::event::Outlet;
use super::health::HandOver;
use super::install::SnapshotState;
use super::limits::as_all_members_read;
use super::ports::{Job, Ports};
use super::proposals::{Proposals, Standing};
use super::published::Published;
use super::reads::{Reads, Wants};
use super::reports::Told;
use super::shard::Outbox;
use super::storage::{GroupLog, Rotten, add_persist, lost_reason, to_state};
use super::writes::{After, Writes};
use crate::mutants;
#[cfg(feature = "simulation")]
use crate::simulation::Deed;
use crate::transport::{Consistency, Refusal, ReplyBody, Request, RequestBody};

/// What a replica needs to know of the node's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaOptions {
    pub(crate) snapshot_log_bytes: u64,
    pub(crate) trailing_entries: u64,
    pub(crate) snapshot_bytes_max: u64,
    pub(crate) transfer_timeout_ns: u64,
    /// How long a read may wait for an index to be applied.
    pub(crate) read_wait_ns: u64,
}

/// One group on one node.
pub(crate) struct Replica<M: StateMachine> {
    pub(super) group: GroupId,
    pub(super) raft: Raft,
    pub(super) sessions: Sessions<M>,
    pub(super) published: Arc<Published<M::View>>,
    pub(super) options: ReplicaOptions,
    pub(super) snapshots: SnapshotState<M>,
    /// The last applied entry.
    pub(super) applied: LogIndex,
    /// The term of the last applied entry, which a snapshot of the present state needs.
    pub(super) applied_term: Term,
    /// Bytes and entries applied since the last snapshot.
    pub(super) log_bytes: u64,
    pub(super) log_entries: u64,
    /// Whether the shard has this replica on its ready list.
    pub(super) is_ready: bool,
    /// When the shard's live timer for this replica fires.
    pub(super) timer_at_ns: u64,
    pub(super) reads: Reads,
    pub(super) hand_over: HandOver,
    proposals: Proposals,
    /// A commit index that may be written along with the next entries, and need not be.
    lazy_state: Option<HardState>,
    fault: Option<String>,
    /// What it refused that keeps it from following its peers, or is forged. A fault of its own is told of first.
    refused: Option<String>,
    /// What the core had refused when it was last looked at.
    counted: Counters,
    rejection: Option<Rejection>,
    told: Told,
    /// This build cannot apply the next entry.
    is_halted: bool,
    /// Why it stands aside, if it does or did.
    lost: Option<String>,
    /// An entry that was found to have rotted on disk, and about which nothing was done yet.
    rotten: Option<Rotten>,
    taken: Option<Output>,
    /// What it did since the last pass began, if somebody watches; on threads nobody does.
    #[cfg(feature = "simulation")]
    pub(super) deeds: Option<Vec<Deed>>,
}

/// Whether the node can take writes at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// The log has no room for another segment.
    DiskFull,
    /// There is no file handle for another segment of the log.
    OutOfHandles,
    /// The log's queue is at its bound, or the log is too large and groups are letting go of a part of it.
    Behind,
    /// The log failed for good.
    LogFailed,
}

impl Health {
    /// What a write is refused with.
    fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Good => None,
            Self::DiskFull => Some(Refusal::DiskFull),
            Self::OutOfHandles => Some(Refusal::OutOfHandles),
            Self::Behind => Some(Refusal::Busy),
            Self::LogFailed => Some(Refusal::LogFailed),
        }
    }
}

impl<M: StateMachine> Replica<M> {
    pub(crate) fn new(
        group: GroupId,
        raft: Raft,
        sessions: Sessions<M>,
        snapshots: SnapshotState<M>,
        options: ReplicaOptions,
    ) -> Self {
        let applied = raft.applied();
        let applied_term = raft.snapshot().term;
        let published = Published::new(applied, sessions.view());
        published.set_soft(raft.role(), raft.term(), raft.leader());
        Self {
            group,
            raft,
            sessions,
            published,
            options,
            snapshots,
            applied,
            applied_term,
            log_bytes: 0,
            log_entries: 0,
            is_ready: false,
            timer_at_ns: u64::MAX,
            hand_over: HandOver::default(),
            proposals: Proposals::default(),
            reads: Reads::default(),
            lazy_state: None,
            fault: None,
            refused: None,
            counted: Counters::default(),
            rejection: None,
            told: Told::default(),
            is_halted: false,
            lost: None,
            rotten: None,
            taken: None,
            #[cfg(feature = "simulation")]
            deeds: None,
        }
    }

    /// Entries of the log were lost, the last of them at `last`: the replica is quarantined, see [`Raft::set_aside`].
    pub(crate) fn set_aside(&mut self, now_ns: u64, last: LogIndex, reason: String) {
        let was_aside = self.raft.is_aside();
        self.raft.set_aside(now_ns, last);
        self.quarantined(was_aside, reason);
    }

    /// The snapshot cannot be restored, and with it the state is lost: the replica is quarantined, see
    /// [`Raft::lose_snapshot`]. What it had applied is not known until a snapshot of its leader is here, so nobody reads from
    /// it. The file stays until then.
    pub(crate) fn lose_snapshot(&mut self, now_ns: u64, reason: &str) {
        let was_aside = self.raft.is_aside();
        self.raft.lose_snapshot(now_ns);
        self.published.withhold();
        let reason = format!(
            "{reason}; this replica is quarantined until a snapshot of its leader replaces that one"
        );
        self.quarantined(was_aside, reason);
    }

    fn quarantined(&mut self, was_aside: bool, reason: String) {
        if self.raft.config().voters == [self.raft.id()] {
            self.published.set_out();
        }
        self.lost = Some(match self.lost.take() {
            Some(before) if was_aside => format!("{before}; {reason}"),
            _ => reason,
        });
        self.fault = None;
    }

    /// Third part of a pass: deals with an entry that has rotted. One that was applied is only wanted by followers that lag:
    /// a snapshot serves them as well, and lets go of it. Without one that was not, this replica cannot go on. Returns
    /// whether there was one.
    pub(super) fn heal(&mut self, now_ns: u64, writes: &mut Writes, ports: &Ports<M>) -> bool {
        let Some(Rotten { index, place }) = self.rotten.take() else {
            return false;
        };
        if index <= self.applied {
            let _lets_go = self.let_go(writes, ports);
        } else {
            self.set_aside(now_ns, index, lost_reason(index, index, &place));
        }
        true
    }

    pub(crate) fn published(&self) -> &Arc<Published<M::View>> {
        &self.published
    }

    /// The group.
    #[cfg(feature = "simulation")]
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// The protocol core.
    #[cfg(feature = "simulation")]
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The last applied entry.
    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(crate) fn sessions(&self) -> &Sessions<M> {
        &self.sessions
    }

    pub(super) fn step(&mut self, now_ns: u64, message: Message, ports: &Ports<M>) {
        if !self.is_halted {
            self.raft.step(now_ns, message);
            self.note_rejections(now_ns, ports);
        }
    }

    /// Counts what the core refused, reports it, and says so where this replica cannot follow its peers any more.
    pub(super) fn note_rejections(&mut self, now_ns: u64, ports: &Ports<M>) {
        let counters = self.raft.counters();
        if counters == self.counted {
            return;
        }
        ports.rejections.add(&self.counted, &counters);
        // What is merely dropped for want of room is no news of what was refused last.
        self.counted.backlogged = counters.backlogged;
        let has_refused = self.counted != counters;
        self.counted = counters;
        let last = self.raft.last_rejection().copied();
        if let Some(rejection) = last.filter(|_| has_refused)
            && let Some(ticket) = self.told.ticket(now_ns, &rejection, &ports.reports)
        {
            ports.jobs.submit(Job::Report {
                group: self.group,
                rejection,
                ticket,
            });
        }
        if last == self.rejection {
            return;
        }
        self.rejection = last;
        if let Some(rejection) = last.filter(|it| it.reason.is_serious()) {
            self.refused = Some(format!("refused what a peer sent: {rejection}"));
        }
    }

    pub(super) fn tick(&mut self, now_ns: u64) {
        if !self.is_halted {
            self.raft.tick(now_ns);
        }
    }

    /// Takes a request of a client; answers now or later.
    pub(super) fn request(
        &mut self,
        now_ns: u64,
        outlet: Outlet,
        request: Request,
        health: Health,
        ports: &Ports<M>,
    ) {
        let refused = match request.body {
            RequestBody::Propose { command } => {
                self.propose(now_ns, &outlet, command, health, ports)
            }
            RequestBody::ReadIndex => self.read(now_ns, &outlet, Wants::Index),
            RequestBody::Query { consistency, query } => {
                if self.may_answer_now(consistency, now_ns) {
                    #[cfg(feature = "simulation")]
                    if consistency == Consistency::Lease {
                        let index = self.published.applied();
                        self.note(|| Deed::Read {
                            id: outlet.id,
                            index,
                            by_lease: true,
                        });
                    }
                    let Some(view) = self.published.load() else {
                        outlet.answer(ports, Err(self.not_here()));
                        return;
                    };
                    outlet.answer(ports, Ok(ReplyBody::Answer(M::query(&view, &query))));
                    return;
                }
                self.read(now_ns, &outlet, Wants::Answer(query))
            }
        };
        if let Err(refusal) = refused {
            outlet.answer(ports, Err(refusal));
        }
    }

    /// What somebody is told who must ask the leader instead.
    pub(super) fn not_here(&self) -> Refusal {
        Refusal::NotLeader {
            leader: self.raft.leader(),
        }
    }

    fn may_answer_now(&self, consistency: Consistency, now_ns: u64) -> bool {
        match consistency {
            Consistency::Stale => true,
            Consistency::Lease => self
                .raft
                .lease_until_ns()
                .is_some_and(|until_ns| now_ns < until_ns || mutants::LEASE_NEVER_ENDS),
            Consistency::Linearizable => false,
        }
    }

    /// Takes the next command of a session into the log; see [`Proposals`] for what becomes of others.
    fn propose(
        &mut self,
        now_ns: u64,
        outlet: &Outlet,
        command: Bytes,
        health: Health,
        ports: &Ports<M>,
    ) -> Result<(), Refusal> {
        if self.is_halted || self.raft.role() != Role::Leader {
            return Err(Refusal::NotLeader {
                leader: self.raft.leader(),
            });
        }
        let limit_bytes = ports.limits.entry_bytes_max();
        if command.len() as u64 > limit_bytes {
            ports.rejections.commands_too_large.add(1);
            return Err(Refusal::TooLarge { limit_bytes });
        }
        // What a replica cannot apply must never enter the log: it would stop the whole group.
        let Ok(checked) = Sessions::<M>::check(&command) else {
            ports.rejections.commands.add(1);
            return Err(Refusal::NotUnderstood);
        };
        let position = match checked {
            Command::Apply(position) | Command::Skip(position) => Some(position),
            _ => None,
        };
        let agreed_features = || ports.membership.agreed_features();
        let command = as_all_members_read(command, &checked, agreed_features);
        self.proposals.enter(self.raft.term());
        let applied = position.and_then(|position| self.last_applied_of(position));
        let standing = position.map(|position| self.proposals.standing(position, applied));
        match standing {
            Some(Standing::Taken(index)) => {
                self.proposals.replace(index, outlet.clone());
                return Ok(());
            }
            Some(Standing::OutOfTurn { expected }) => {
                #[cfg(feature = "simulation")]
                {
                    let index = self.applied;
                    self.note(|| Deed::Acknowledged {
                        id: outlet.id,
                        index,
                    });
                }
                // At once what it would be told when the command is applied.
                let outcome = Outcome::OutOfOrder { expected };
                let outlet = outlet.clone();
                outlet.answer(ports, Ok(ReplyBody::Outcome(outcome)));
                return Ok(());
            }
            Some(Standing::Due | Standing::BehindRefused) | None => {}
        }
        let taken = match (health.refusal(), standing) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(Standing::BehindRefused)) => Err(Refusal::Busy),
            (None, _) => self.append(now_ns, command),
        };
        match (taken, position) {
            (Ok(index), _) => {
                self.proposals
                    .push(index, outlet.clone(), position, applied);
                Ok(())
            }
            (Err(refusal), Some(position)) => {
                self.proposals.refused(position);
                Err(refusal)
            }
            (Err(refusal), None) => Err(refusal),
        }
    }

    /// The last command of a session that took effect, where nothing of an earlier term is left to be applied: what is in the
    /// log behind it was taken by this leader.
    fn last_applied_of(&self, position: Position) -> Option<u64> {
        let is_known = self.applied_term == self.raft.term();
        is_known.then(|| self.sessions.last_sequence(position.session))?
    }

    fn append(&mut self, now_ns: u64, command: Bytes) -> Result<LogIndex, Refusal> {
        let proposed = self.raft.propose(now_ns, [(EntryKind::Command, command)]);
        proposed.map_err(|error| match error {
            ProposeError::NotLeader { leader } => Refusal::NotLeader { leader },
            // Soon another one leads. Whoever looks for it asks again after the same short time; one
            // that is busy would be asked less and less often.
            ProposeError::Transferring => Refusal::NotLeader { leader: None },
            _ => Refusal::Busy,
        })
    }

    /// First half of a pass: what is to be sent and written. Nothing is applied yet, so that messages and the write
    /// leave as early as they can.
    pub(super) fn collect(
        &mut self,
        now_ns: u64,
        log: &Log,
        writes: &mut Writes,
        outbox: &mut Outbox,
        slot: usize,
    ) {
        debug_assert!(self.taken.is_none(), "a pass collects once, then applies");
        if self.is_halted {
            return;
        }
        let mut entries = GroupLog::new(log, self.group);
        let mut output = self.raft.output(now_ns, &mut entries);
        self.rotten = entries.rotten.or(self.rotten.take());
        if let Some(fault) = output.fault.take() {
            self.note_fault(now_ns, &fault);
        }
        if let Some(persist) = &mut output.persist {
            if let Some((meta, keep_suffix)) = persist.install.take() {
                self.install(&meta, keep_suffix, writes, slot);
            }
            if persist.must_sync {
                if persist.hard_state.is_none() {
                    persist.hard_state = self.lazy_state.take();
                } else {
                    self.lazy_state = None;
                }
                #[cfg(feature = "simulation")]
                if !persist.entries.is_empty() {
                    // By its field: the persist is a part of what the replica owns.
                    if let Some(deeds) = &mut self.deeds {
                        deeds.push(Deed::Wrote(persist.entries.clone()));
                    }
                }
                add_persist(writes, self.group, persist);
                writes.after.push(After::Persisted {
                    slot,
                    seq: persist.seq,
                });
            } else if let Some(state) = persist.hard_state.take() {
                self.lazy_state = Some(state);
            }
        }
        // A lease that ends must be seen to end before the message that ends it leaves; one that begins waits for the view.
        self.published.shorten_lease(self.raft.lease_until_ns());
        for message in output.messages.drain(..) {
            outbox.add(self.group, message);
        }
        self.taken = Some(output);
    }

    /// Second half of a pass: applies, publishes, answers. Returns whether the core has more to say.
    pub(super) fn finish(&mut self, now_ns: u64, ports: &Ports<M>) -> bool {
        self.discard_unwanted(ports);
        let Some(mut output) = self.taken.take() else {
            return false;
        };
        if let Some(soft) = output.soft.take() {
            self.note_soft(&soft, ports);
        }
        let outcomes = self.apply(std::mem::take(&mut output.committed));
        // The view stands before any answer leaves: see `Published`.
        self.published.set_commit(self.raft.commit());
        for (outlet, result) in outcomes {
            outlet.answer(ports, result);
        }
        self.answer_reads(now_ns, &mut output, ports);
        if self.is_halted {
            self.refuse_reads(ports);
            return false;
        }
        self.published
            .set_lease(self.raft.term(), self.raft.lease_until_ns());
        for to in output.snapshots.drain(..) {
            self.begin_send(now_ns, to, ports);
        }
        self.save_if_due(ports);
        self.raft.has_output()
    }

    fn apply(&mut self, committed: Vec<Entry>) -> Vec<(Outlet, Result<ReplyBody, Refusal>)> {
        let mut answers = Vec::new();
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            self.log_bytes += entry.weight_bytes() as u64;
            self.log_entries += 1;
            let outcome = match entry.kind {
                EntryKind::Command => self.sessions.apply(index.0, &entry.data),
                EntryKind::Noop => Outcome::Malformed,
                EntryKind::Config => Outcome::Unsupported,
            };
            if outcome == Outcome::Unsupported {
                self.halt(format!(
                    "the entry at {index} is of a version not known here: use a newer build"
                ));
                break;
            }
            self.applied = index;
            self.applied_term = term;
            #[cfg(feature = "simulation")]
            self.note(|| Deed::Applied {
                entry: entry.clone(),
                outcome: outcome.clone(),
            });
            while let Some(first) = self.proposals.pop(index) {
                let is_this_one =
                    first.index == index && (first.term == term || mutants::ANSWERS_BY_INDEX_ALONE);
                let had_effect = is_this_one && matches!(outcome, Outcome::Applied(_));
                self.proposals.applied(&first, had_effect);
                #[cfg(feature = "simulation")]
                if is_this_one {
                    self.note(|| Deed::Acknowledged {
                        id: first.outlet.id,
                        index,
                    });
                }
                let result = if is_this_one {
                    Ok(ReplyBody::Outcome(outcome.clone()))
                } else {
                    Err(Refusal::LeadershipLost)
                };
                answers.push((first.outlet, result));
            }
        }
        if self.published.has_state() && self.applied > self.published.applied() {
            self.published.publish(self.applied, self.sessions.view());
        }
        answers
    }

    fn note_soft(&mut self, soft: &Soft, ports: &Ports<M>) {
        self.published.set_soft(soft.role, soft.term, soft.leader);
        self.abandon_stale(ports);
        if mutants::ANSWERS_BY_INDEX_ALONE {
            return;
        }
        let kept = (soft.role == Role::Leader).then_some(soft.term);
        for proposal in self.proposals.take_others(kept) {
            proposal.outlet.answer(ports, Err(Refusal::LeadershipLost));
        }
    }

    /// Tells whoever watches.
    #[cfg(feature = "simulation")]
    pub(super) fn note(&mut self, deed: impl FnOnce() -> Deed) {
        if let Some(deeds) = &mut self.deeds {
            deeds.push(deed());
        }
    }

    /// The log as a whole failed: give leadership away, to `successor` if there is one, and promise nothing more.
    pub(super) fn log_failed(&mut self, now_ns: u64, reason: &str, successor: Option<NodeId>) {
        self.fault = Some(format!("the log failed: {reason}"));
        self.raft.resign(now_ns, successor);
        self.raft.set_can_lead(false);
    }

    /// An entry cannot be read. The core tries again at its next tick; until then another replica should lead.
    fn note_fault(&mut self, now_ns: u64, fault: &LogReadError) {
        self.fault = Some(fault.to_string());
        self.raft.step_down(now_ns);
    }

    /// An entry cannot be applied by this build. Skipping it would make this replica differ from the others for good, so
    /// the group stops here, and goes on where a newer build runs.
    fn halt(&mut self, reason: String) {
        self.is_halted = true;
        self.fault = Some(reason);
        self.published.withdraw(self.raft.term());
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.is_halted
    }

    /// Why this replica is stuck or was, if it ever was.
    pub(crate) fn fault(&self) -> Option<&str> {
        let lost = self.lost.as_deref().filter(|_| self.raft.is_aside());
        lost.or(self.fault.as_deref())
            .or(self.refused.as_deref())
            .or(self.snapshots.trouble.as_deref())
    }

    /// Writes what was left for later, when the node stops in order.
    pub(super) fn settle(&mut self, writes: &mut Writes) {
        if let Some(state) = self.lazy_state.take() {
            writes.record().set_state(self.group, to_state(state));
        }
    }

    /// Refuses everybody who still waits, when the node stops.
    pub(super) fn dismiss(&mut self, ports: &Ports<M>) {
        for proposal in self.proposals.take_others(None) {
            proposal.outlet.answer(ports, Err(Refusal::LeadershipLost));
        }
        self.dismiss_reads(ports);
        self.published.withdraw(self.raft.term());
    }

    pub(super) fn is_self(&self, node: NodeId) -> bool {
        self.raft.id() == node
    }
}
