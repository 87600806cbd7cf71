//! The threads that drive a log in production: one writes and syncs, one prepares segments.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use super::drive::FailsInPanic;
use super::{Drove, Log, LogStatus};

/// How often the preparer looks whether space returned.
const RETRY: Duration = Duration::from_millis(250);

/// After so long without a write, the last batch is covered by an empty one.
const IDLE: Duration = Duration::from_millis(20);

/// The threads of one log. They wait without a timer while there is nothing to do, and batch what
/// arrives while one sync runs into the next. They end when this is dropped, without writing what
/// still waits.
#[derive(Debug)]
pub struct LogThread {
    log: Arc<Log>,
    driver: Option<JoinHandle<()>>,
    preparer: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts the threads, named `name` and `name-prepare`. Fails if the system gives none. A log
    /// is driven by one `LogThread` at a time.
    pub fn spawn(log: Arc<Log>, name: &str) -> io::Result<Self> {
        Self::spawn_watched(log, name, |_name| {})
    }

    /// The same, and tells whose thread it was, on that thread, if one of them panics. The log has failed then.
    pub fn spawn_watched(
        log: Arc<Log>,
        name: &str,
        panicked: impl Fn(&str) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let panicked: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(panicked);
        log.queue.lock().stopping = None;
        let mut threads = Self {
            log,
            driver: None,
            preparer: None,
        };
        let (log, told) = (Arc::clone(&threads.log), Arc::clone(&panicked));
        let driver = Builder::new().name(name.to_owned());
        threads.driver = Some(driver.spawn(move || {
            let _told = TellsPanic(&*told);
            log.drive_loop();
        })?);
        let log = Arc::clone(&threads.log);
        let preparer = Builder::new().name(format!("{name}-prepare"));
        threads.preparer = Some(preparer.spawn(move || {
            let _told = TellsPanic(&*panicked);
            log.prepare_loop();
        })?);
        Ok(threads)
    }

    /// Ends the threads and waits for them. With `flush`, what was submitted before is written
    /// first, as far as there is space.
    pub fn stop(mut self, flush: bool) {
        self.join(flush);
    }

    fn join(&mut self, flush: bool) {
        self.log.queue.lock().stopping = Some(if flush { Stop::AfterFlush } else { Stop::Now });
        self.log.work.notify_all();
        self.log.want_prepare();
        for thread in [self.driver.take(), self.preparer.take()]
            .into_iter()
            .flatten()
        {
            // A panic of the thread was reported when it happened; a drop must not panic on top of
            // it.
            let _ = thread.join();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        if self.driver.is_some() || self.preparer.is_some() {
            self.join(false);
        }
    }
}

/// Tells whose thread it is if it is dropped by a panic.
struct TellsPanic<'a>(&'a (dyn Fn(&str) + Send + Sync));

impl Drop for TellsPanic<'_> {
    fn drop(&mut self) {
        let present = thread::current();
        if thread::panicking() {
            (self.0)(present.name().unwrap_or("of a log"));
        }
    }
}

/// What the log thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Write,
    /// See [`Log::cover`].
    Cover,
}

/// How the threads end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Now,
    AfterFlush,
}

impl Log {
    fn drive_loop(&self) {
        // An observer may panic when all is written; nobody would write what comes after.
        let _fails = FailsInPanic(self);
        while let Some(work) = self.wait_for_work() {
            let drove = match work {
                Work::Write => self.drive_next(),
                Work::Cover => self.cover(),
            };
            match drove {
                Ok(Drove::NeedsSegment) if self.queue.lock().stopping.is_some() => {
                    // The preparer may have ended already.
                    if !self.prepare().is_ok_and(|prepared| prepared.segment_ready) {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits until there is something to write. None if the thread should end.
    fn wait_for_work(&self) -> Option<Work> {
        let mut queue = self.queue.lock();
        let mut batches = self.counters.batches.load(Ordering::Relaxed);
        loop {
            let has_work = !queue.waiting.is_empty();
            match queue.stopping {
                Some(Stop::Now) => return None,
                Some(Stop::AfterFlush) => {
                    return (has_work && queue.failure().is_none()).then_some(Work::Write);
                }
                None if queue.failure().is_some() => return None,
                None if has_work && queue.blocked_bytes == 0 => return Some(Work::Write),
                None if has_work || !self.is_uncovered.load(Ordering::Relaxed) => {
                    self.work.wait(&mut queue);
                }
                None => {
                    let waited = self.work.wait_for(&mut queue, IDLE);
                    let written = self.counters.batches.load(Ordering::Relaxed);
                    if waited.timed_out() && written == batches {
                        return Some(Work::Cover);
                    }
                    batches = written;
                }
            }
        }
    }

    fn prepare_loop(&self) {
        // Without it no segment would be made any more, and writers would wait for one for ever.
        let _fails = FailsInPanic(self);
        loop {
            let queue = self.queue.lock();
            let (is_stopping, is_full) =
                (queue.stopping.is_some(), queue.status == LogStatus::Full);
            drop(queue);
            if is_stopping {
                return;
            }
            let mut wanted = self.prepare_wanted.lock();
            if !*wanted {
                if is_full {
                    self.prepare_work.wait_for(&mut wanted, RETRY);
                } else {
                    self.prepare_work.wait(&mut wanted);
                }
            }
            drop(wanted);
            // A shortage shows in the status, a failure ends the log, and what could not be deleted
            // is tried again.
            if self.prepare().is_err() && self.queue.lock().failure().is_some() {
                return;
            }
        }
    }
}
