//! How the timer sleeps while nobody has anything outstanding, and is woken.

use std::time::Duration;

use super::sync::{AtomicBool, Bug, Condvar, Mutex, Ordering, is_built_in};

/// What the timer waits at.
///
/// Invariant: after [`ring`](Self::ring) there is another [`wait`](Self::wait) that returns the
/// clients, whatever the timer was doing.
#[derive(Debug)]
pub(crate) struct Bell<C> {
    state: Mutex<State<C>>,
    rung: Condvar,
}

#[derive(Debug)]
struct State<C> {
    clients: Vec<C>,
    is_busy: bool,
    is_stopped: bool,
    /// Whether the timer is in [`Bell::wait`].
    is_asleep: bool,
}

impl<C: Clone> Bell<C> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                clients: Vec::new(),
                is_busy: false,
                is_stopped: false,
                is_asleep: false,
            }),
            rung: Condvar::new(),
        }
    }

    /// Adds a client to those that are looked after.
    pub(crate) fn add(&self, client: C) {
        self.state.lock().clients.push(client);
        self.ring();
    }

    /// Something became outstanding after a time of nothing.
    pub(crate) fn ring(&self) {
        let mut state = self.state.lock();
        if is_built_in(Bug::WakeLostWhileBusy) && !state.is_asleep {
            return;
        }
        // Busy already, it looks again by itself: to wake it earlier would help nobody.
        if !std::mem::replace(&mut state.is_busy, true) {
            self.rung.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.rung.notify_one();
    }

    /// Sleeps until something is outstanding, and a tick longer. Returns the clients that are still
    /// `wanted`; `None`: stopped.
    pub(crate) fn wait(&self, tick: Duration, wanted: impl Fn(&C) -> bool) -> Option<Vec<C>> {
        let mut state = self.state.lock();
        state.is_asleep = true;
        while !state.is_busy && !state.is_stopped {
            self.rung.wait(&mut state);
        }
        if !state.is_stopped {
            self.rung.wait_for(&mut state, tick);
        }
        state.is_asleep = false;
        if state.is_stopped {
            return None;
        }
        state.is_busy = false;
        state.clients.retain(wanted);
        Some(state.clients.clone())
    }

    /// Says, after all clients were looked at, whether anything is still outstanding.
    pub(crate) fn looked(&self, is_busy: bool) {
        self.state.lock().is_busy |= is_busy;
    }
}

/// A client's side: whether the timer looks after it already, so that not every call rings.
///
/// Invariant: while it says so, a look at the client's calls is still to come.
#[derive(Debug)]
pub(crate) struct Watched(AtomicBool);

impl Default for Watched {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl Watched {
    /// After a call was put among those outstanding: whether the bell must be rung for it.
    #[must_use]
    pub(crate) fn needs_ring(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::AcqRel)
    }

    /// Does the timer's look; `look` says whether anything is still outstanding.
    pub(crate) fn look(&self, look: impl FnOnce() -> bool) -> bool {
        if is_built_in(Bug::UntimedBehindTick) {
            let is_busy = look();
            self.0.store(is_busy, Ordering::Release);
            return is_busy;
        }
        // In front of the look: whoever calls from here on rings again. All changes are swaps, and
        // so have one order.
        self.0.swap(false, Ordering::AcqRel);
        let is_busy = look();
        if is_busy {
            self.0.swap(true, Ordering::AcqRel);
        }
        is_busy
    }
}
