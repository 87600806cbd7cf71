//! The threads that drive a log in production: one writes and syncs, one prepares segments.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::{Drove, Log, LogStatus};

/// How often the preparer looks whether space returned.
const RETRY: Duration = Duration::from_millis(250);

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
        log.queue.lock().stopping = None;
        let mut threads = Self {
            log,
            driver: None,
            preparer: None,
        };
        let log = Arc::clone(&threads.log);
        threads.driver = Some(
            Builder::new()
                .name(name.to_owned())
                .spawn(move || log.drive_loop())?,
        );
        let log = Arc::clone(&threads.log);
        let preparer = Builder::new().name(format!("{name}-prepare"));
        threads.preparer = Some(preparer.spawn(move || log.prepare_loop())?);
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

/// How the threads end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Now,
    AfterFlush,
}

impl Log {
    fn drive_loop(&self) {
        while self.wait_for_work() {
            match self.drive() {
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

    /// Waits until there is something to write. False if the thread should end.
    fn wait_for_work(&self) -> bool {
        let mut queue = self.queue.lock();
        loop {
            let has_work = !queue.waiting.is_empty();
            match queue.stopping {
                Some(Stop::Now) => return false,
                Some(Stop::AfterFlush) => return has_work && queue.failure().is_none(),
                None if queue.failure().is_some() => return false,
                None if has_work && queue.blocked_bytes == 0 => return true,
                None => self.work.wait(&mut queue),
            }
        }
    }

    fn prepare_loop(&self) {
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
            *wanted = false;
            drop(wanted);
            // A shortage shows in the status, a failure ends the log, and what could not be deleted
            // is tried again.
            if self.prepare().is_err() && self.queue.lock().failure().is_some() {
                return;
            }
        }
    }
}
