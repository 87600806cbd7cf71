//! A view that one thread publishes, and until when others may answer from it without asking
//! anybody.

use super::sync::{AtomicU64, Bug, Ordering, RwLock, is_built_in};
use crate::mutants;

/// A view and the lease that covers it. Written by the worker that owns the replica, read by
/// everybody.
///
/// Invariants:
/// - An answer to a write leaves only after the view that includes it was published; so whoever
///   loads the view and *then* finds a lease of the same generation valid has seen every write
///   acknowledged before the load.
/// - `word` changes before a lease is withdrawn, and before one is granted that does not extend the
///   last one: while it stays the same, no other replica led. A reader that sleeps between its
///   loads, while the leadership goes away and comes back, finds another word.
#[derive(Debug)]
pub(crate) struct Leased<V> {
    state: RwLock<(u64, V)>,
    /// The generation of the lease.
    word: AtomicU64,
    /// Until when the lease holds, 0 for none.
    until_ns: AtomicU64,
    /// The last lease, and its term, as the writer remembers them. Nobody else reads these, and the
    /// writer reads nothing that others do: the model checker tells which orders matter by the last
    /// access to each.
    granted_ns: AtomicU64,
    term: AtomicU64,
}

/// A read under the lease, between two loads.
pub(crate) enum LeasedRead<V> {
    /// Nothing was loaded.
    Begun,
    /// The generation was loaded.
    HasWord(u64),
    /// The view was loaded behind it, and the index that it includes.
    HasView { word: u64, index: u64, view: V },
    /// The lease was loaded behind that, and it holds.
    HasLease { word: u64, index: u64, view: V },
    /// What came of it; none if there is no lease, or not the same all the time.
    Over(Option<(u64, V)>),
}

impl<V: Clone> Leased<V> {
    pub(crate) fn new(index: u64, view: V) -> Self {
        Self {
            state: RwLock::new((index, view)),
            word: AtomicU64::new(0),
            until_ns: AtomicU64::new(0),
            granted_ns: AtomicU64::new(0),
            term: AtomicU64::new(0),
        }
    }

    /// The index that the view includes.
    pub(crate) fn index(&self) -> u64 {
        self.state.read().0
    }

    /// Looks at the view where it is.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&V) -> R) -> R {
        look(&self.state.read().1)
    }

    /// The view.
    pub(crate) fn load(&self) -> V {
        self.state.read().1.clone()
    }

    /// The view, if a lease covers it from the load of the view until now. `now_ns` is read after the lease.
    pub(crate) fn load_leased(&self, now_ns: impl Fn() -> u64) -> Option<V> {
        let mut read = LeasedRead::Begun;
        loop {
            read = match self.step(read, &now_ns) {
                LeasedRead::Over(found) => return found.map(|(_, view)| view),
                more => more,
            };
        }
    }

    /// The next load of such a read. Each load is an acquire, so that they are made in this order; each store of the writer
    /// is a release, so that whoever sees a new lease sees the word that was changed before it.
    pub(crate) fn step(&self, read: LeasedRead<V>, now_ns: impl FnOnce() -> u64) -> LeasedRead<V> {
        match read {
            LeasedRead::Begun => LeasedRead::HasWord(self.word.load(Ordering::Acquire)),
            LeasedRead::HasWord(word) => {
                let (index, view) = self.state.read().clone();
                LeasedRead::HasView { word, index, view }
            }
            LeasedRead::HasView { word, index, view } => {
                let until_ns = self.until_ns.load(Ordering::Acquire);
                if until_ns > 0 && now_ns() < until_ns {
                    LeasedRead::HasLease { word, index, view }
                } else {
                    LeasedRead::Over(None)
                }
            }
            LeasedRead::HasLease { word, index, view } => {
                let is_same =
                    is_built_in(Bug::LeaseReadOnce) || self.word.load(Ordering::Acquire) == word;
                LeasedRead::Over(is_same.then_some((index, view)))
            }
            LeasedRead::Over(found) => LeasedRead::Over(found),
        }
    }

    /// Puts a view in the place of one that is lost: what follows may begin at any index.
    pub(crate) fn restart(&self, view: V) {
        let mut state = self.state.write();
        let old = std::mem::replace(&mut *state, (0, view));
        drop(state);
        drop(old);
    }

    pub(crate) fn publish(&self, index: u64, view: V) {
        let mut state = self.state.write();
        assert!(
            state.0 <= index,
            "the published view goes back from {} to {index}",
            state.0
        );
        let old = std::mem::replace(&mut *state, (index, view));
        drop(state);
        // A view may be the last of a large state.
        drop(old);
    }

    /// Grants a lease of the leader of a term, extends it, or withdraws it. The view that it covers
    /// is published.
    pub(crate) fn set_lease(&self, term: u64, until_ns: Option<u64>) {
        let until_ns = until_ns.unwrap_or(0);
        let present_ns = self.granted_ns.load(Ordering::Relaxed);
        if until_ns == 0
            && (is_built_in(Bug::LeaseNeverWithdrawn) || mutants::PUBLISHED_LEASE_STAYS)
        {
            return;
        }
        let is_extended =
            present_ns > 0 && until_ns >= present_ns && self.term.load(Ordering::Relaxed) == term;
        if until_ns == 0 && present_ns == 0 {
            return;
        }
        self.granted_ns.store(until_ns, Ordering::Relaxed);
        if !is_extended && !is_built_in(Bug::WordBehindLease) {
            self.turn(term);
        }
        self.until_ns.store(until_ns, Ordering::Release);
        if !is_extended && is_built_in(Bug::WordBehindLease) {
            self.turn(term);
        }
    }

    /// Lets the lease end earlier, never later.
    pub(crate) fn shorten_lease(&self, until_ns: Option<u64>) {
        let until_ns = until_ns.unwrap_or(0);
        if until_ns < self.granted_ns.load(Ordering::Relaxed) {
            let until_ns = (until_ns > 0).then_some(until_ns);
            self.set_lease(self.term.load(Ordering::Relaxed), until_ns);
        }
    }

    /// Begins another generation.
    fn turn(&self, term: u64) {
        self.word.fetch_add(1, Ordering::Release);
        self.term.store(term, Ordering::Relaxed);
    }
}
