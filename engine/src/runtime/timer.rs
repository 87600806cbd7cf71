//! One thread that looks after clients whose calls wait: deadlines, and asking again.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::Clock;
use super::threads::{self, Kind};
use super::wakers::Wakers;
use crate::handoff::bell::Bell;
use crate::handoff::desk::told;

/// How often clients with calls outstanding are looked at.
const TICK: Duration = Duration::from_millis(5);

/// Somebody with deadlines.
pub(crate) trait Timed: Send + Sync {
    /// Fires what is due. Returns whether anything is still outstanding.
    fn tick(&self, now_ns: u64) -> bool;

    /// It panicked in [`tick`](Self::tick), and is not looked after any more.
    fn failed(&self, reason: String);
}

/// How the timer is woken.
pub(super) type TimerBell = Arc<Bell<Weak<dyn Timed>>>;

/// The timer thread. It sleeps for good while nobody has anything outstanding.
pub(crate) struct Timer {
    bell: TimerBell,
    wakers: Arc<Wakers>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Timer {
    pub(crate) fn start(clock: Clock, inline_wakers: bool) -> io::Result<Arc<Self>> {
        let bell = Arc::new(Bell::new());
        let theirs = Arc::clone(&bell);
        let name = "quorate-timer".to_owned();
        let thread = threads::spawn(name, Kind::Timer, move || run(&theirs, clock))?;
        let wakers = Wakers::watched(Arc::clone(&bell), inline_wakers);
        Ok(Arc::new(Self {
            bell,
            wakers,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Who calls the wakers of its clients' callers.
    pub(crate) fn wakers(&self) -> &Arc<Wakers> {
        &self.wakers
    }

    /// Looks after a client for as long as it lives.
    pub(crate) fn add(&self, client: Weak<dyn Timed>) {
        self.bell.add(client);
    }

    /// Something became outstanding after a time of nothing.
    pub(crate) fn wake(&self) {
        self.bell.ring();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.get_mut().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

fn run(bell: &Bell<Weak<dyn Timed>>, clock: Clock) {
    while let Some(clients) = bell.wait(TICK, |client| client.strong_count() > 0) {
        // Outside the lock: a tick may complete a call whose waiter drops the client.
        let mut is_busy = false;
        for client in clients {
            let Some(client) = client.upgrade() else {
                continue;
            };
            let looked = threads::shielded(|| is_busy |= client.tick(clock.now_ns()));
            // It has failed then, and is busy no more; the other clients of the process are not to blame.
            let failed = looked
                .err()
                .map(|panic| format!("the thread quorate-timer panicked: {}", told(&*panic)));
            // The last of a client may go here, with its link and its callers' wakers.
            let _again = threads::shielded(move || {
                if let Some(reason) = failed {
                    client.failed(reason);
                }
            });
        }
        bell.looked(is_busy);
    }
}
