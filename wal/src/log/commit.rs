//! Calls that return when what they wrote is durable.
//!
//! A caller that is alone writes and syncs itself: nobody has to be woken, and nobody has to wake it.
//! Where there are several, the log thread writes.
//!
//! Invariants:
//! - Whoever waits is in line before it looks at the durable lsn and at the status for the last time,
//!   and everybody who moves either looks at the line afterwards. So nobody sleeps through its turn.
//! - Each caller stands in line at most once; the line is as long as there are threads in a call.
//! - While somebody is to be let go of, there is one who was let go of and has not yet gone: it lets go
//!   of the next ones. So the log thread, whose time is the disk's, wakes two threads and not all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use parking_lot::Mutex;

use crate::batch::WriteBatch;
use crate::error::CommitError;
use crate::ids::Lsn;

use super::Log;

/// So many threads are woken by the log thread, and by each that was woken.
const WAKES: usize = 2;

/// Threads that wait for an lsn to be durable.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiters: Mutex<Waiters>,
    /// How many wait, so that a log without them takes no lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Not yet durable.
    waiting: Vec<Arc<Waiter>>,
    /// To be let go of.
    leaving: VecDeque<Arc<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    lsn: Lsn,
    thread: Thread,
    /// Whether it was let go of.
    may_go: AtomicBool,
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
        let waiter = self.line.join(lsn);
        let failure = self.queue.lock().failure();
        if self.is_durable(lsn) || failure.is_some() {
            self.line.step_out(&waiter);
        } else {
            waiter.wait();
        }
        self.line.let_go();
        if self.is_durable(lsn) {
            return Ok(());
        }
        let failure = self.queue.lock().failure();
        let failure = failure.expect("who is let go of has its lsn, or the log failed");
        Err(CommitError::Unknown {
            reason: failure.to_string(),
        })
    }

    /// In the same order as what joining the line does, see the invariants.
    fn is_durable(&self, lsn: Lsn) -> bool {
        self.durable.load(Ordering::SeqCst) >= lsn.0
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
        self.line.leave(durable);
        self.line.let_go();
    }
}

impl Waiter {
    fn wait(&self) {
        while !self.may_go.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Line {
    fn join(&self, lsn: Lsn) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            lsn,
            thread: thread::current(),
            may_go: AtomicBool::new(false),
        });
        let mut waiters = self.waiters.lock();
        waiters.waiting.push(Arc::clone(&waiter));
        self.count.store(waiters.waiting.len(), Ordering::SeqCst);
        waiter
    }

    /// Takes out of the line who found that it need not wait, unless it was let go of already.
    fn step_out(&self, waiter: &Arc<Waiter>) {
        let mut waiters = self.waiters.lock();
        let is_other = |it: &Arc<Waiter>| !Arc::ptr_eq(it, waiter);
        waiters.waiting.retain(is_other);
        waiters.leaving.retain(is_other);
        self.count.store(waiters.waiting.len(), Ordering::SeqCst);
    }

    fn leave(&self, durable: Lsn) {
        let mut waiters = self.waiters.lock();
        let Waiters { waiting, leaving } = &mut *waiters;
        leaving.extend(waiting.extract_if(.., |waiter| waiter.lsn <= durable));
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    fn let_go(&self) {
        let mut waiters = self.waiters.lock();
        let next: [_; WAKES] = std::array::from_fn(|_| waiters.leaving.pop_front());
        drop(waiters);
        for waiter in next.into_iter().flatten() {
            waiter.may_go.store(true, Ordering::Release);
            waiter.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Threads wait for lsns from 1 on. They say which they waited for when they are let go of.
    fn waiting(line: &Arc<Line>, threads: u64) -> mpsc::Receiver<u64> {
        let (left, leaves) = mpsc::channel();
        let all = line.count.load(Ordering::SeqCst) + threads as usize;
        for lsn in 1..=threads {
            let (line, left) = (Arc::clone(line), left.clone());
            thread::spawn(move || {
                let waiter = line.join(Lsn(lsn));
                waiter.wait();
                line.let_go();
                // Whoever asks has gone if the test failed.
                let _ = left.send(lsn);
            });
        }
        while line.count.load(Ordering::SeqCst) < all {
            thread::yield_now();
        }
        leaves
    }

    #[test]
    fn each_that_is_let_go_of_lets_go_of_the_next_ones() {
        let line = Arc::new(Line::default());
        let leaves = waiting(&line, 40);
        for (durable, expected) in [(1, 1..=1), (3, 2..=3), (30, 4..=30), (40, 31..=40)] {
            line.leave(Lsn(durable));
            line.let_go();
            let gone = expected.clone().map(|_| leaves.recv_timeout(LONG));
            let mut gone: Vec<u64> = gone.map(|it| it.expect("it may go")).collect();
            gone.sort_unstable();
            assert_eq!(gone, expected.collect::<Vec<_>>());
        }
        assert_eq!(line.count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn who_steps_out_is_not_counted_on() {
        let line = Arc::new(Line::default());
        // They came to be let go of, and saw by themselves that they may go.
        let early: Vec<_> = (0..WAKES).map(|_| line.join(Lsn(1))).collect();
        let leaves = waiting(&line, 5);
        line.leave(Lsn(5));
        for waiter in &early {
            line.step_out(waiter);
        }
        line.let_go();
        for _ in 1..=5 {
            leaves.recv_timeout(LONG).expect("it may go");
        }
    }
}
