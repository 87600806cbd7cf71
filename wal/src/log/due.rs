//! Which steps of a log have something to do, for whoever takes them by hand.

use std::sync::atomic::Ordering;

use super::Log;

/// Which of the steps of a log have something to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// [`Log::drive`] would write something, as far as is known before it looks for room.
    pub drive: bool,
    /// [`Log::prepare`] was asked for, or space or handles ran out and may have returned.
    pub prepare: bool,
    /// The last batch is not covered yet, see [`Log::cover`].
    pub cover: bool,
}

impl Log {
    /// Which steps have something to do. None, once the log has failed.
    pub fn due(&self) -> Due {
        let queue = self.queue.lock();
        if queue.failure().is_some() {
            return Due::default();
        }
        let (has_waiting, is_blocked) = (!queue.waiting.is_empty(), queue.blocked_bytes > 0);
        let is_short = queue.status.is_short();
        drop(queue);
        Due {
            drive: has_waiting && !is_blocked,
            prepare: is_blocked || is_short || *self.prepare_wanted.lock(),
            cover: !has_waiting && self.is_uncovered.load(Ordering::Relaxed),
        }
    }
}
