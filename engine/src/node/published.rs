//! What a replica shows to other threads: its view, its lease, its role.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::RwLock;
use quorate_raft::{LogIndex, NodeId, Role, Term};

/// Written by the worker that owns the replica, read by everybody.
///
/// Invariant: an answer to a write leaves only after the view that includes it was published; so whoever loads
/// the view and *then* finds the lease valid has seen every write acknowledged before the load.
pub(crate) struct Published<V> {
    state: RwLock<Applied<V>>,
    lease_until_ns: AtomicU64,
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    role: AtomicU8,
}

/// A view and the index that it includes.
#[derive(Clone)]
pub(crate) struct Applied<V> {
    pub(crate) index: LogIndex,
    pub(crate) view: V,
}

/// A read under the lease, between two loads.
pub(crate) enum LeasedRead<V> {
    /// Nothing was loaded.
    Begun,
    /// The view was loaded.
    HasView(Applied<V>),
    /// The lease was loaded behind it.
    HasLease(Applied<V>, u64),
    /// What came of it; none if there is no lease.
    Over(Option<Applied<V>>),
}

impl<V: Clone> Published<V> {
    pub(crate) fn new(index: LogIndex, view: V) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(Applied { index, view }),
            lease_until_ns: AtomicU64::new(0),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            role: AtomicU8::new(0),
        })
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.state.read().index
    }

    pub(crate) fn load(&self) -> Applied<V> {
        self.state.read().clone()
    }

    /// The view, if this replica is the leader and its lease outlasts `now`, read after the view was taken.
    pub(crate) fn load_leased(&self, now_ns: impl Fn() -> u64) -> Option<V> {
        let mut read = LeasedRead::Begun;
        loop {
            read = match self.step_leased(read, &now_ns) {
                LeasedRead::Over(found) => return found.map(|it| it.view),
                more => more,
            };
        }
    }

    /// The next load of a read under the lease: the thread may sleep before each of them, for however long.
    pub(crate) fn step_leased(
        &self,
        read: LeasedRead<V>,
        now_ns: impl FnOnce() -> u64,
    ) -> LeasedRead<V> {
        match read {
            LeasedRead::Begun => LeasedRead::HasView(self.load()),
            LeasedRead::HasView(applied) => {
                // `Acquire` and the lock order the load of the view before the check of the lease.
                let until_ns = self.lease_until_ns.load(Ordering::Acquire);
                LeasedRead::HasLease(applied, until_ns)
            }
            LeasedRead::HasLease(applied, until_ns) => {
                let holds = until_ns > 0 && now_ns() < until_ns;
                LeasedRead::Over(holds.then_some(applied))
            }
            LeasedRead::Over(found) => LeasedRead::Over(found),
        }
    }

    pub(crate) fn publish(&self, index: LogIndex, view: V) {
        let mut state = self.state.write();
        assert!(
            state.index <= index,
            "the published view goes back from {} to {index}",
            state.index
        );
        *state = Applied { index, view };
    }

    pub(crate) fn set_lease(&self, until_ns: Option<u64>) {
        self.lease_until_ns
            .store(until_ns.unwrap_or(0), Ordering::Release);
    }

    /// Lets the lease end earlier, never later.
    pub(crate) fn shorten_lease(&self, until_ns: Option<u64>) {
        let until_ns = until_ns.unwrap_or(0);
        if until_ns < self.lease_until_ns.load(Ordering::Relaxed) {
            self.lease_until_ns.store(until_ns, Ordering::Release);
        }
    }

    pub(crate) fn set_soft(&self, role: Role, term: Term, leader: Option<NodeId>) {
        self.role.store(role_to_byte(role), Ordering::Relaxed);
        self.term.store(term.0, Ordering::Relaxed);
        self.leader
            .store(leader.map_or(0, |node| node.0), Ordering::Release);
    }

    pub(crate) fn set_commit(&self, commit: LogIndex) {
        self.commit.store(commit.0, Ordering::Relaxed);
    }

    pub(crate) fn commit(&self) -> LogIndex {
        LogIndex(self.commit.load(Ordering::Relaxed))
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Relaxed))
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        match self.leader.load(Ordering::Acquire) {
            0 => None,
            node => Some(NodeId(node)),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self.role.load(Ordering::Relaxed) {
            1 => Role::PreCandidate,
            2 => Role::Candidate,
            3 => Role::Leader,
            _ => Role::Follower,
        }
    }
}

const fn role_to_byte(role: Role) -> u8 {
    match role {
        Role::Follower => 0,
        Role::PreCandidate => 1,
        Role::Candidate => 2,
        Role::Leader => 3,
    }
}
