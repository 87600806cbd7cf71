//! One flag between the log and a shard, so that at most one "the log moved" is on the shard's
//! queue.

use super::sync::{AtomicBool, Bug, Ordering, is_built_in};

/// Whether a shard was told to look at the log, and did not yet.
///
/// Invariant: whatever moved before [`raise`](Self::raise) is seen by the next [`look`](Self::look)
/// that begins behind it.
#[derive(Debug)]
pub(crate) struct LogFlag(AtomicBool);

impl Default for LogFlag {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl LogFlag {
    /// Something moved. `true`: the shard must be told now; else it was told and will look.
    #[must_use]
    pub(crate) fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The shard looks. The flag is lowered before, so that a move after the look is told again; by
    /// a swap, not a store: that reads the flag, so that the look sees what moved before whoever
    /// found the flag up.
    pub(crate) fn look<R>(&self, look: impl FnOnce() -> R) -> R {
        if is_built_in(Bug::FlagLoweredAfterLook) {
            let looked = look();
            self.0.swap(false, Ordering::AcqRel);
            return looked;
        }
        if is_built_in(Bug::FlagLoweredByStore) {
            self.0.store(false, Ordering::Release);
        } else {
            self.0.swap(false, Ordering::AcqRel);
        }
        look()
    }

    #[cfg(test)]
    pub(crate) fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
