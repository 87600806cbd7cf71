//! Threads that wait until a number is reached.
//!
//! Invariants:
//! - `reached` never decreases, and is raised before those who waited for it are woken.
//! - Whoever is in `waiting` is woken when its number is reached, and is in it once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

#[derive(Debug, Default)]
pub(crate) struct Tickets {
    reached: AtomicU64,
    waiting: Mutex<Vec<(u64, Thread)>>,
}

impl Tickets {
    /// Blocks until `ticket` is reached.
    pub(crate) fn wait(&self, ticket: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_reached(ticket) {
            return;
        }
        waiting.push((ticket, std::thread::current()));
        drop(waiting);
        // A thread may be unparked without a reason.
        while !self.is_reached(ticket) {
            std::thread::park();
        }
    }

    /// Lets everybody go who waits for this number or a lower one.
    pub(crate) fn reached(&self, ticket: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.reached.fetch_max(ticket, Ordering::Release);
        let done: Vec<_> = waiting
            .extract_if(.., |(wanted, _)| *wanted <= ticket)
            .collect();
        drop(waiting);
        for (_, thread) in done {
            thread.unpark();
        }
    }

    fn is_reached(&self, ticket: u64) -> bool {
        self.reached.load(Ordering::Acquire) >= ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets everybody go on, also when an assertion fails.
    struct ReachedWhenDropped<'a>(&'a Tickets);

    impl Drop for ReachedWhenDropped<'_> {
        fn drop(&mut self) {
            self.0.reached(u64::MAX);
        }
    }

    #[test]
    fn everybody_whose_number_is_reached_goes_on() {
        let tickets = Tickets::default();
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let waiter = |ticket| {
                let (tickets, passed) = (&tickets, &passed);
                scope.spawn(move || {
                    tickets.wait(ticket);
                    passed.fetch_add(ticket, Ordering::Relaxed);
                })
            };
            let _ends = ReachedWhenDropped(&tickets);
            let late = waiter(100);
            for early in [waiter(1), waiter(2), waiter(3)] {
                tickets.reached(3);
                early.join().unwrap();
            }
            assert_eq!(passed.load(Ordering::Relaxed), 6);
            assert!(!late.is_finished());
            tickets.reached(u64::MAX);
        });
        assert_eq!(passed.load(Ordering::Relaxed), 106);
    }
}
