//! The door before an inbox.
//!
//! Invariant: after [`Gate::close`] has returned, nothing runs in [`Gate::while_open`] or ever
//! will.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RecursiveRwLock;

/// Open at first; closed once and for ever.
pub(super) struct Gate {
    open: AtomicBool,
    /// Held shared by whoever is inside. Recursive, so that a visit may lead to another visit while
    /// somebody waits to close.
    visits: RecursiveRwLock<()>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            open: AtomicBool::new(true),
            visits: RecursiveRwLock::new(()),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Runs `visit` unless the gate is closed. Returns whether it ran.
    pub(super) fn while_open(&self, visit: impl FnOnce()) -> bool {
        // The first look keeps visitors from starving the one who closes: a recursive lock lets
        // readers in before a waiting writer.
        if !self.is_open() {
            return false;
        }
        let _inside = self.visits.read();
        let open = self.is_open();
        if open {
            visit();
        }
        open
    }

    /// Closes, and returns when nobody is inside any more. Must not be called from inside.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Release);
        drop(self.visits.write());
    }
}
