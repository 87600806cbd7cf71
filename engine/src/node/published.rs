//! What a replica shows to other threads: its view, its lease, its role.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use quorate_raft::{LogIndex, NodeId, Role, Term};

use crate::handoff::leased::Leased;
#[cfg(feature = "simulation")]
pub(crate) use crate::handoff::leased::LeasedRead;

/// Written by the worker that owns the replica, read by everybody. What [`Leased`] promises of view and lease holds here.
pub(crate) struct Published<V> {
    /// There is no view while the state is lost, until a snapshot of the leader is here.
    leased: Leased<Option<V>>,
    is_out: AtomicBool,
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    role: AtomicU8,
}

impl<V: Clone> Published<V> {
    pub(crate) fn new(index: LogIndex, view: V) -> Arc<Self> {
        Arc::new(Self {
            leased: Leased::new(index.0, Some(view)),
            is_out: AtomicBool::new(false),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            role: AtomicU8::new(0),
        })
    }

    pub(crate) fn applied(&self) -> LogIndex {
        LogIndex(self.leased.index())
    }

    /// What was applied; none while it is lost.
    pub(crate) fn load(&self) -> Option<V> {
        self.leased.load()
    }

    /// Whether there is anything to read from.
    pub(crate) fn has_state(&self) -> bool {
        self.leased.look(Option::is_some)
    }

    /// The state is lost: nobody reads from it any more, whatever consistency is asked for. The next view that is published
    /// is that of a leader's snapshot.
    pub(crate) fn withhold(&self) {
        self.leased.restart(None);
    }

    /// This replica is quarantined, and there is no other one that could lead or send a snapshot.
    pub(crate) fn set_out(&self) {
        self.is_out.store(true, Ordering::Relaxed);
    }

    /// Whether the group can do nothing any more, see [`set_out`](Self::set_out).
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// The view, if this replica is the leader, and was all the time from the load of the view to `now`, which is read
    /// after it, and its lease outlasts that.
    pub(crate) fn load_leased(&self, now_ns: impl Fn() -> u64) -> Option<V> {
        self.leased.load_leased(now_ns)?
    }

    /// The next load of such a read: the thread may sleep before each of them, for however long.
    #[cfg(feature = "simulation")]
    pub(crate) fn step_leased(
        &self,
        read: LeasedRead<Option<V>>,
        now_ns: impl FnOnce() -> u64,
    ) -> LeasedRead<Option<V>> {
        self.leased.step(read, now_ns)
    }

    pub(crate) fn publish(&self, index: LogIndex, view: V) {
        self.leased.publish(index.0, Some(view));
    }

    /// The lease of the leader of a term. The view that it covers is published.
    pub(crate) fn set_lease(&self, term: Term, until_ns: Option<u64>) {
        self.leased.set_lease(term.0, until_ns);
    }

    /// Lets the lease end earlier, never later.
    pub(crate) fn shorten_lease(&self, until_ns: Option<u64>) {
        self.leased.shorten_lease(until_ns);
    }

    /// Shows a replica that takes no part any more: no lease, no role, nobody who leads.
    pub(crate) fn withdraw(&self, term: Term) {
        self.leased.set_lease(term.0, None);
        self.set_soft(Role::Follower, term, None);
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
