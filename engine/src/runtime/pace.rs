//! Keeps the writing of snapshots to a rate, so that the log finds the device free in between.
//!
//! Invariants:
//! - Over any time in which nobody hurries, the bytes that were let through are at most the rate times that time, and one
//!   step. What was let through in a hurry counts, and is waited for later.
//! - The thread that saves snapshots does not rest while somebody hurries: who stops a node. Those that send and receive them
//!   never rest, as other nodes wait for them; what they write counts.

use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::Clock;

/// What the thread that saves waits with behind each step.
pub(super) struct Pacer {
    clock: Clock,
    rate: Option<Mutex<Rate>>,
    /// How many hurry.
    hurrying: AtomicUsize,
    /// The thread that rests.
    thread: OnceLock<Thread>,
}

/// A rate in bytes per second.
struct Rate {
    bytes_per_s: NonZeroU64,
    /// Until then what was let through keeps to the rate.
    busy_until_ns: u64,
}

impl Pacer {
    /// Without a rate nobody waits.
    pub(super) fn new(clock: Clock, bytes_per_s: Option<u64>) -> Self {
        let bytes_per_s = bytes_per_s.and_then(NonZeroU64::new);
        let rate = bytes_per_s.map(|bytes_per_s| {
            Mutex::new(Rate {
                bytes_per_s,
                busy_until_ns: 0,
            })
        });
        Self {
            clock,
            rate,
            hurrying: AtomicUsize::new(0),
            thread: OnceLock::new(),
        }
    }

    /// Says which thread rests, before it does.
    pub(super) fn attach(&self, thread: &Thread) {
        self.thread.get_or_init(|| thread.clone());
    }

    /// Waits, after a step of so many bytes, until the next one may begin.
    pub(super) fn rest(&self, bytes: u64) {
        let Some(rate) = &self.rate else { return };
        let now_ns = self.clock.now_ns();
        let until_ns = rate.lock().take(now_ns, bytes);
        loop {
            let left_ns = until_ns.saturating_sub(self.clock.now_ns());
            if left_ns == 0 || self.hurrying.load(Ordering::SeqCst) > 0 {
                return;
            }
            std::thread::park_timeout(Duration::from_nanos(left_ns));
        }
    }

    /// So many bytes were written that nobody rests for.
    pub(super) fn count(&self, bytes: u64) {
        if let Some(rate) = &self.rate {
            rate.lock().take(self.clock.now_ns(), bytes);
        }
    }

    /// From now on the thread does not rest, until [`relax`](Self::relax) was called as often.
    pub(super) fn hurry(&self) {
        self.hurrying.fetch_add(1, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn relax(&self) {
        self.hurrying.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Rate {
    /// Lets bytes through, at `now_ns`, that took until now to be moved. Returns when the next may
    /// follow. Time that nobody used is not saved up beyond these bytes.
    fn take(&mut self, now_ns: u64, bytes: u64) -> u64 {
        let cost_ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.get());
        let cost_ns = u64::try_from(cost_ns).unwrap_or(u64::MAX);
        let from_ns = self.busy_until_ns.max(now_ns.saturating_sub(cost_ns));
        self.busy_until_ns = from_ns.saturating_add(cost_ns);
        self.busy_until_ns
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn bytes_keep_to_the_rate_and_idle_time_is_not_saved_up() {
        let mut rate = Rate {
            bytes_per_s: NonZeroU64::new(1_000).expect("not zero"),
            busy_until_ns: 0,
        };
        // A step that took as long to write as the rate allows for need not wait.
        assert_eq!(rate.take(100 * MS, 100), 100 * MS);
        // One that took 10 ms of its 100 waits for the rest.
        assert_eq!(rate.take(110 * MS, 100), 200 * MS);
        // One that comes late does not wait, and neither gets what was missed before.
        assert_eq!(rate.take(5_000 * MS, 100), 5_000 * MS);
        assert_eq!(rate.take(5_000 * MS, 100), 5_100 * MS);
        assert_eq!(rate.take(5_000 * MS, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_step_rests_for_as_long_as_it_must() {
        let pacer = Pacer::new(Clock::start(), Some(1_000_000));
        pacer.attach(&std::thread::current());
        pacer.rest(20_000);
        // Whoever unparks a thread without hurrying ends no rest.
        std::thread::current().unpark();
        pacer.rest(20_000);
        let now_ns = pacer.clock.now_ns();
        assert!(now_ns >= 2 * 20 * MS, "{now_ns} ns since the clock began");
    }

    #[test]
    fn who_hurries_ends_a_rest() {
        // At this rate a single step takes longer than anybody waits for a test.
        let pacer = Arc::new(Pacer::new(Clock::start(), Some(1)));
        let resting = Arc::clone(&pacer);
        let (ready, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (is_ready, may_go) = (Arc::clone(&ready), Arc::clone(&go));
        let thread = std::thread::spawn(move || {
            is_ready.wait();
            may_go.wait();
            resting.rest(1 << 40);
            resting.rest(1 << 40);
        });
        ready.wait();
        pacer.attach(thread.thread());
        go.wait();
        pacer.hurry();
        thread.join().expect("it does not panic");
        pacer.relax();
        assert_eq!(pacer.hurrying.load(Ordering::SeqCst), 0);
    }
}
