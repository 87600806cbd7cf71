//! What a judge may know of a replica.

use quorate_kv::StateMachine;
use quorate_raft::{LogIndex, NodeId, Observation, Role, SnapshotMeta, Term, Violation};
use quorate_wal::GroupId;

use crate::node::Replica;

/// How a replica stands between two steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// The group.
    pub group: GroupId,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in its term.
    pub vote: Option<NodeId>,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Everything up to here is committed, as far as it knows.
    pub commit: LogIndex,
    /// Everything up to here is applied.
    pub applied: LogIndex,
    /// The first entry in its log; one behind the last if there is none.
    pub first_index: LogIndex,
    /// The last entry in its log.
    pub last_index: LogIndex,
    /// Entries up to here are on its disk, as far as it was told.
    pub durable_index: LogIndex,
    /// The latest snapshot that its log names.
    pub snapshot: SnapshotMeta,
    /// Until when it may answer reads without asking anybody, on its own clock.
    pub lease_until_ns: Option<u64>,
    /// It cannot apply the next entry: a newer build wrote it.
    pub is_halted: bool,
    /// It has lost entries and takes no part until a snapshot covers them.
    pub is_aside: bool,
    /// Messages that a correct peer never sends, so far.
    pub violations: u64,
    /// What is or was wrong with it.
    pub trouble: Option<String>,
}

impl ReplicaView {
    pub(super) fn of<M: StateMachine>(group: GroupId, replica: &Replica<M>) -> Self {
        let raft = replica.raft();
        Self {
            group,
            role: raft.role(),
            term: raft.term(),
            vote: raft.hard_state().vote,
            leader: raft.leader(),
            commit: raft.commit(),
            applied: replica.applied(),
            first_index: raft.first_index(),
            last_index: raft.last_index(),
            durable_index: raft.durable_index(),
            snapshot: raft.snapshot().clone(),
            lease_until_ns: raft.lease_until_ns(),
            is_halted: replica.is_halted(),
            is_aside: raft.is_aside(),
            violations: raft.counters().violations,
            trouble: replica.fault().map(str::to_owned),
        }
    }
}

/// How a replica stands between two steps, in numbers alone: cheap enough to be compared after each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in its term.
    pub vote: Option<NodeId>,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Everything up to here is committed, as far as it knows.
    pub commit: LogIndex,
    /// Everything up to here is applied.
    pub applied: LogIndex,
    /// The first entry in its log; one behind the last if there is none.
    pub first: LogIndex,
    /// The last entry in its log.
    pub last: LogIndex,
    /// Entries up to here are on its disk, as far as it was told.
    pub durable: LogIndex,
    /// What its latest snapshot covers.
    pub snapshot: LogIndex,
    /// Until when it may answer reads without asking anybody, on its own clock.
    pub lease_until_ns: Option<u64>,
    /// It has lost entries and takes no part until a snapshot covers them.
    pub is_aside: bool,
    /// Messages that a correct peer never sends, so far.
    pub violations: u64,
}

impl Stand {
    pub(super) fn of<M: StateMachine>(replica: &Replica<M>) -> Self {
        let raft = replica.raft();
        Self {
            role: raft.role(),
            term: raft.term(),
            vote: raft.hard_state().vote,
            leader: raft.leader(),
            commit: raft.commit(),
            applied: replica.applied(),
            first: raft.first_index(),
            last: raft.last_index(),
            durable: raft.durable_index(),
            snapshot: raft.snapshot().index,
            lease_until_ns: raft.lease_until_ns(),
            is_aside: raft.is_aside(),
            violations: raft.counters().violations,
        }
    }
}

/// Checks what must hold of a replica at all times, and between two looks at it.
pub(super) fn check<M: StateMachine>(
    before: Option<&Observation>,
    replica: &Replica<M>,
) -> Result<Observation, Violation> {
    quorate_raft::check_basic(replica.raft())?;
    let now = Observation::of(replica.raft());
    if let Some(before) = before {
        quorate_raft::check_delta(before, &now)?;
    }
    Ok(now)
}
