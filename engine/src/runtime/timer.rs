//! One thread that looks after clients whose calls wait: deadlines, and asking again.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Clock;

/// How often clients with calls outstanding are looked at.
const TICK: Duration = Duration::from_millis(5);

/// Somebody with deadlines.
pub(crate) trait Timed: Send + Sync {
    /// Fires what is due. Returns whether anything is still outstanding.
    fn tick(&self, now_ns: u64) -> bool;
}

/// The timer thread. It sleeps for good while nobody has anything outstanding.
pub(crate) struct Timer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

struct State {
    clients: Vec<Weak<dyn Timed>>,
    is_busy: bool,
    is_stopped: bool,
}

impl Timer {
    pub(crate) fn start(clock: Clock) -> io::Result<Arc<Self>> {
        let state = State {
            clients: Vec::new(),
            is_busy: false,
            is_stopped: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            woken: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("quorate-timer".to_owned())
            .spawn(move || theirs.run(clock))?;
        Ok(Arc::new(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Looks after a client for as long as it lives.
    pub(crate) fn add(&self, client: Weak<dyn Timed>) {
        self.shared.state.lock().clients.push(client);
        self.wake();
    }

    /// Something became outstanding after a time of nothing.
    pub(crate) fn wake(&self) {
        let mut state = self.shared.state.lock();
        state.is_busy = true;
        self.shared.woken.notify_one();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.state.lock().is_stopped = true;
        self.shared.woken.notify_one();
        if let Some(thread) = self.thread.get_mut().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, clock: Clock) {
        loop {
            let clients = {
                let mut state = self.state.lock();
                while !state.is_busy && !state.is_stopped {
                    self.woken.wait(&mut state);
                }
                if state.is_stopped {
                    return;
                }
                self.woken.wait_for(&mut state, TICK);
                if state.is_stopped {
                    return;
                }
                state.is_busy = false;
                state.clients.retain(|client| client.strong_count() > 0);
                state.clients.clone()
            };
            // Outside the lock: a tick may complete a call whose waiter drops the client.
            let mut is_busy = false;
            for client in clients {
                if let Some(client) = client.upgrade() {
                    is_busy |= client.tick(clock.now_ns());
                }
            }
            self.state.lock().is_busy |= is_busy;
        }
    }
}
