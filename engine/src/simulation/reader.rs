//! A thread that reads what a node shows to other threads, one load at a time.

use std::sync::Arc;

use quorate_raft::LogIndex;

use crate::node::{LeasedRead, Published};

/// Reads the view and the lease of one replica as a thread of its own process does, which may sleep between any two loads.
pub struct SimReader<V> {
    published: Arc<Published<V>>,
    read: LeasedRead<Option<V>>,
}

impl<V: Clone> SimReader<V> {
    pub(super) fn new(published: Arc<Published<V>>) -> Self {
        Self {
            published,
            read: LeasedRead::Begun,
        }
    }

    /// The next load of a read under the lease. `now_ns` reads the clock of the node, if this load does. `Some`: the read is
    /// over, and has the view and its index if the lease holds.
    pub fn step(&mut self, now_ns: impl FnOnce() -> u64) -> Option<Option<(LogIndex, V)>> {
        let begun = std::mem::replace(&mut self.read, LeasedRead::Begun);
        match self.published.step_leased(begun, now_ns) {
            LeasedRead::Over(found) => {
                Some(found.and_then(|(index, view)| Some((LogIndex(index), view?))))
            }
            more => {
                self.read = more;
                None
            }
        }
    }
}
