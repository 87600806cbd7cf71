//! Calls that return when what they wrote is durable.
//!
//! A caller that is alone writes and syncs itself: nobody has to be woken, and nobody has to wake it.
//! Where there are several, the log thread writes.
//!
//! Invariants:
//! - Whoever waits is in line before it looks at the durable lsn for the last time, and everybody
//!   who moves that lsn looks at the line afterwards. So nobody sleeps through its turn.
//! - Each caller stands in line at most once; the line is as long as there are threads in a call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};

use parking_lot::Mutex;

use crate::batch::WriteBatch;
use crate::error::CommitError;
use crate::ids::Lsn;

use super::Log;

/// Threads that wait for an lsn to be durable.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: Mutex<Vec<(Lsn, Thread)>>,
    /// How many wait, so that a log without them takes no lock.
    count: AtomicUsize,
}

impl Log {
    /// Writes a batch, and returns when it is durable: [`submit`](Self::submit) for those who have
    /// nothing else to do meanwhile. Calls of many threads share syncs. Only for logs that a
    /// [`LogThread`](super::LogThread) drives.
    pub fn commit(&self, mut batch: WriteBatch) -> Result<Lsn, CommitError> {
        let lsn = self.queue.lock().push(&mut batch, &self.options)?;
        if !self.is_shared() {
            // A failure shows when the durable lsn is looked at.
            drop(self.drive());
        }
        if self.durable() < lsn {
            self.work.notify_one();
            self.wait_durable(lsn)?;
        }
        Ok(lsn)
    }

    /// Whether the last batch served more than one caller. Then the time that it takes to wake the
    /// log thread is well spent: the others, which that batch let go of, hand theirs in meanwhile.
    fn is_shared(&self) -> bool {
        self.counters.last_submissions.load(Ordering::Relaxed) > 1
    }

    fn wait_durable(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.line.join(lsn);
        loop {
            // In one order with joining the line, for each thread: see the invariants.
            if self.durable.load(Ordering::SeqCst) >= lsn.0 {
                return Ok(());
            }
            if let Some(error) = self.queue.lock().failure() {
                return Err(CommitError::Unknown {
                    reason: error.to_string(),
                });
            }
            thread::park();
        }
    }

    /// Lets go of those whose lsn is durable, or of everybody if the log failed.
    pub(super) fn wake_line(&self, is_failed: bool) {
        if self.line.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let durable = if is_failed {
            Lsn(u64::MAX)
        } else {
            self.durable()
        };
        for thread in self.line.leave(durable) {
            thread.unpark();
        }
    }
}

impl Line {
    fn join(&self, lsn: Lsn) {
        let mut waiting = self.waiting.lock();
        waiting.push((lsn, thread::current()));
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    fn leave(&self, durable: Lsn) -> Vec<Thread> {
        let mut waiting = self.waiting.lock();
        let gone = waiting.extract_if(.., |(lsn, _)| *lsn <= durable);
        let threads = gone.map(|(_, thread)| thread).collect();
        self.count.store(waiting.len(), Ordering::SeqCst);
        threads
    }
}
