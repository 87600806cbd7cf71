//! The threads that call wakers, and those that call observers.
//!
//! An answer wakes a caller that blocks at once: that is a condition variable, and none of the
//! caller's code. A future leaves a waker, and what that does is up to the program: it may sleep,
//! panic, drop the last `Db`, or call back into it. So no thread of a node calls one. Whoever gives
//! an answer puts the waker on a queue, and `quorate-call` calls it. These threads are nobody's:
//! no group and no call depends on them, and nobody waits for their end, so they may wait for
//! whatever they like, also for the end of the node.
//!
//! One such thread is there from the first time that a future has to wait. One that does not come
//! back would keep all other wakers waiting, so the timer looks while wakers wait: if none was taken
//! between two looks, it adds a thread, up to [`CALL_THREADS_MAX`]. So many wakers may block for ever
//! without delay for the others. With as many stuck, further wakers wait until one of them comes
//! back; calls that block are not concerned. Once [`WAKERS_MAX`] wait, a future that would have to
//! leave another waker fails instead, with [`Error::CannotWake`](crate::Error).
//!
//! A call that is awaited alone costs one wake-up more than with its waker called where the answer is
//! given (1.92 voluntary context switches for a put on a lone node, in place of 1.03; a put that blocks
//! has 1.02). Of many that are outstanding it costs fewer (0.15 in place of 0.55 with 64), as one thread
//! calls the wakers of all that were answered together. `Options::inline_wakers` is for programs that
//! know their executor.
//!
//! Observers are told of events by a thread each, `quorate-observe`, from the first event on, over a
//! queue of [`EVENTS_MAX`]. What does not fit is counted, and told in its place.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::Mutex;

use super::threads;
use super::timer::{Timed, TimerBell};
use crate::handoff::calls::Calls;
use crate::transport::tcp::{Observer, TransportEvent};

/// Threads that call wakers, of one runtime or remote clerk, at most: so many wakers may block.
pub(crate) const CALL_THREADS_MAX: usize = 16;

/// Wakers that may wait to be called before no future may leave another one.
pub(crate) const WAKERS_MAX: usize = 65_536;

/// Events that may wait for one observer.
pub(crate) const EVENTS_MAX: usize = 1_024;

/// Calls wakers, where they delay nobody.
pub(crate) struct Wakers {
    calls: Arc<Calls<Waker>>,
    /// Has the timer look while wakers wait; none where nothing has threads.
    bell: Option<TimerBell>,
    /// The program says that its wakers return at once: they are called where the answer is given.
    is_inline: bool,
}

impl Wakers {
    /// With nobody who looks: for nodes that are driven by hand, and their tests.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn unwatched() -> Arc<Self> {
        Self::over(None, false)
    }

    pub(super) fn watched(bell: TimerBell, is_inline: bool) -> Arc<Self> {
        let wakers = Self::over(Some(Arc::clone(&bell)), is_inline);
        let watched: Arc<dyn Timed> = wakers.clone();
        let watched: Weak<dyn Timed> = Arc::downgrade(&watched);
        bell.add(watched);
        wakers
    }

    fn over(bell: Option<TimerBell>, is_inline: bool) -> Arc<Self> {
        Arc::new(Self {
            calls: Arc::new(Calls::new(CALL_THREADS_MAX)),
            bell,
            is_inline,
        })
    }

    /// Before a future leaves a waker: whether somebody will call it. Starts the first thread.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        if self.is_inline {
            return Ok(());
        }
        match self.calls.wants_first(WAKERS_MAX) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let started = self.start();
                started.map_err(|error| format!("no thread can be started: {error}"))
            }
            Err(waiting) => Err(format!(
                "{waiting} wakers of this program wait behind some that do not return"
            )),
        }
    }

    /// Has a waker called.
    pub(crate) fn call(&self, waker: Waker) {
        if self.is_inline {
            contained(|| waker.wake());
            return;
        }
        let must_look = self.calls.push(waker);
        if let (true, Some(bell)) = (must_look, &self.bell) {
            bell.ring();
        }
    }

    /// Starts a thread that was counted.
    fn start(&self) -> io::Result<()> {
        let calls = Arc::clone(&self.calls);
        let thread = std::thread::Builder::new().name("quorate-call".to_owned());
        let started = thread.spawn(move || {
            while let Some(waker) = calls.next() {
                contained(|| waker.wake());
            }
        });
        if started.is_err() {
            self.calls.not_started();
        }
        started.map(drop)
    }
}

impl Timed for Wakers {
    fn tick(&self, _now_ns: u64) -> bool {
        let look = self.calls.look();
        if look.wants_thread {
            // If there is none to be had now, the next look wants it again.
            let _next_time = self.start();
        }
        look.is_busy
    }

    /// Nobody looks any more: wakers that wait behind one that is stuck stay there.
    fn failed(&self, _reason: String) {}
}

impl std::fmt::Debug for Wakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.calls.len();
        f.debug_struct("Wakers")
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

impl Drop for Wakers {
    fn drop(&mut self) {
        self.calls.end();
    }
}

/// What waits for an observer.
enum Told {
    Event(TransportEvent),
    /// So many events did not fit here.
    Missed(u64),
}

/// Tells an observer of events, where it delays nobody.
pub(crate) struct Events {
    calls: Arc<Calls<Told>>,
    /// Until its thread has it.
    observer: Mutex<Option<Observer>>,
}

impl Events {
    /// An observer that returns at once, and has `observer` told on a thread of its own, which is started
    /// with the first event.
    pub(crate) fn relay(observer: Observer) -> Observer {
        let events = Self {
            calls: Arc::new(Calls::new(1)),
            observer: Mutex::new(Some(observer)),
        };
        Arc::new(move |event| events.tell(event))
    }

    fn tell(&self, event: &TransportEvent) {
        // There is one thread, which cannot be replaced: nothing is to be looked after.
        let _nobody_looks = self.calls.change(|waiting| note(waiting, event));
        if self.calls.wants_first(usize::MAX) == Ok(true) {
            self.start();
        }
    }

    fn start(&self) {
        let mut kept = self.observer.lock();
        let Some(observer) = kept.clone() else {
            return;
        };
        let calls = Arc::clone(&self.calls);
        let thread = std::thread::Builder::new().name("quorate-observe".to_owned());
        let started = thread.spawn(move || {
            while let Some(told) = calls.next() {
                let event = match told {
                    Told::Event(event) => event,
                    Told::Missed(events) => TransportEvent::Missed { events },
                };
                contained(|| observer(&event));
            }
            // It may hold anything of the program's.
            contained(move || drop(observer));
        });
        match started {
            Ok(_) => *kept = None,
            // The next event finds one, or waits, or is counted.
            Err(_) => self.calls.not_started(),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.calls.end();
        // It was told nothing. What it holds is the program's, and must not be dropped just anywhere.
        if let Some(observer) = self.observer.get_mut().take() {
            let _apart = threads::apart(move || contained(move || drop(observer)));
        }
    }
}

/// Puts an event behind the others, or counts it where it would be.
fn note(waiting: &mut VecDeque<Told>, event: &TransportEvent) {
    // Each place where some were missed has an event in front of it, so these are bounded as well.
    let events = waiting.iter().filter(|told| matches!(told, Told::Event(_)));
    if waiting.len() < EVENTS_MAX || events.count() < EVENTS_MAX {
        waiting.push_back(Told::Event(event.clone()));
    } else if let Some(Told::Missed(events)) = waiting.back_mut() {
        *events += 1;
    } else {
        waiting.push_back(Told::Missed(1));
    }
}

#[cfg(test)]
mod tests;

/// Calls the program's code. The panic hook has reported its panic; what it panicked with may panic again
/// when it is dropped.
fn contained(call: impl FnOnce()) {
    if let Err(panic) = threads::shielded(call)
        && let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic)))
    {
        mem::forget(again);
    }
}
