//! The threads of one transport, so that stopping it can wait for them.
//!
//! Invariants:
//! - `live` holds every thread that was spawned and has not left its body; it leaves under the
//!   lock.
//! - After [`Threads::join`] has begun no thread is spawned. After it has returned on a thread that
//!   is not one of these, none is live.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

use crate::runtime::threads::{Kind, mark};

#[derive(Default)]
pub(super) struct Threads {
    state: Mutex<State>,
    left: Condvar,
    /// Told when a body panics, on its thread.
    failed: Option<Failed>,
}

/// Is told what failed.
type Failed = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct State {
    live: HashSet<ThreadId>,
    closed: bool,
}

impl Threads {
    /// Threads whose panics are told.
    pub(super) fn watched(failed: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            failed: Some(Box::new(failed)),
            ..Self::default()
        })
    }

    /// Spawns a thread. Fails when stopping, or when the operating system has none to give.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let threads = Arc::clone(self);
        // The thread cannot leave before it is entered: leaving takes the lock held here.
        let handle = thread::Builder::new().name(name).spawn(move || {
            mark(Kind::Service);
            let _leave = Leave(threads);
            body();
        })?;
        state.live.insert(handle.thread().id());
        Ok(())
    }

    /// Waits until all have left their bodies. On one of these threads it returns at once, for it
    /// would wait for itself.
    pub(super) fn join(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        if state.live.contains(&thread::current().id()) {
            return;
        }
        while !state.live.is_empty() {
            self.left.wait(&mut state);
        }
    }
}

/// Leaves also when the body panics.
struct Leave(Arc<Threads>);

impl Drop for Leave {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(failed) = &self.0.failed
        {
            let present = thread::current();
            let name = present.name().unwrap_or("of a transport");
            failed(&format!("the thread {name} panicked"));
        }
        self.0.state.lock().live.remove(&thread::current().id());
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn join_waits_for_the_bodies_and_closes() {
        let threads = Arc::new(Threads::default());
        let (release, released) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        threads
            .spawn("waits".into(), move || {
                released.recv().unwrap_err();
                done.send(()).unwrap();
            })
            .unwrap();
        assert_eq!(threads.state.lock().live.len(), 1);
        drop(release);
        threads.join();
        finished.try_recv().expect("join returned after the body");
        assert!(threads.spawn("late".into(), || {}).is_err());
    }

    #[test]
    fn one_of_the_threads_may_call_join() {
        let threads = Arc::new(Threads::default());
        let (inner, (done, finished)) = (Arc::clone(&threads), mpsc::channel());
        threads
            .spawn("joins".into(), move || {
                inner.join();
                done.send(()).unwrap();
            })
            .unwrap();
        finished.recv().unwrap();
        threads.join();
    }
}
