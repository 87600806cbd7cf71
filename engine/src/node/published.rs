//! What a replica shows to other threads: its view, its lease, its role.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::RwLock;
use quorate_raft::{LogIndex, NodeId, Role, Term};

/// Written by the worker that owns the replica, read by everybody.
///
/// Invariant: an answer to a write leaves only after the view that includes it was published; so whoever loads
/// the view and *then* finds the lease valid has seen every write acknowledged before the load.
pub(crate) struct Published<V> {
    state: RwLock<Applied<V>>,
    is_out: AtomicBool,
    lease_until_ns: AtomicU64,
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    role: AtomicU8,
}

/// A view and the index that it includes. There is none while the state is lost, until a snapshot of the leader is here.
struct Applied<V> {
    index: LogIndex,
    view: Option<V>,
}

impl<V: Clone> Published<V> {
    pub(crate) fn new(index: LogIndex, view: V) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(Applied {
                index,
                view: Some(view),
            }),
            is_out: AtomicBool::new(false),
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

    /// What was applied; none while it is lost.
    pub(crate) fn load(&self) -> Option<V> {
        self.state.read().view.clone()
    }

    /// Whether there is anything to read from.
    pub(crate) fn has_state(&self) -> bool {
        self.state.read().view.is_some()
    }

    /// The state is lost: nobody reads from it any more, whatever consistency is asked for. The next view that is published
    /// is that of a leader's snapshot.
    pub(crate) fn withhold(&self) {
        let mut state = self.state.write();
        state.index = LogIndex::ZERO;
        state.view = None;
    }

    /// This replica is quarantined, and there is no other one that could lead or send a snapshot.
    pub(crate) fn set_out(&self) {
        self.is_out.store(true, Ordering::Relaxed);
    }

    /// Whether the group can do nothing any more, see [`set_out`](Self::set_out).
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// The view, if this replica is the leader and its lease outlasts `now`, read after the view was taken.
    pub(crate) fn load_leased(&self, now_ns: impl FnOnce() -> u64) -> Option<V> {
        let view = self.state.read().view.clone();
        // `Acquire` and the lock order the load of the view before the check of the lease.
        let until = self.lease_until_ns.load(Ordering::Acquire);
        view.filter(|_| until > 0 && now_ns() < until)
    }

    pub(crate) fn publish(&self, index: LogIndex, view: V) {
        let mut state = self.state.write();
        assert!(
            state.index <= index,
            "the published view goes back from {} to {index}",
            state.index
        );
        *state = Applied {
            index,
            view: Some(view),
        };
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
