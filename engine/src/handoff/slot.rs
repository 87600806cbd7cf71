//! Where one answer waits for one caller, who blocks, polls, or has left.

use std::task::Waker;
use std::time::Instant;

use super::sync::{Bug, Condvar, Mutex, is_built_in};

/// A place for one value between the thread that gives it and the one that waits for it.
///
/// Invariant: whoever waits when the value comes is woken; whoever left a waker has it called by whoever
/// the giver hands it to; whoever comes later finds the value. None of the caller's code (its
/// waker's `clone`, `wake` and `drop`) runs in here on the giver's thread, nor with the lock held.
#[derive(Debug)]
pub(crate) struct Slot<V> {
    inner: Mutex<Inner<V>>,
    filled: Condvar,
}

#[derive(Debug)]
struct Inner<V> {
    value: Option<V>,
    waker: Option<Waker>,
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                value: None,
                waker: None,
            }),
            filled: Condvar::new(),
        }
    }
}

impl<V> Slot<V> {
    /// Gives the value, and wakes who blocks. Returns the waker that was left, to be called elsewhere.
    #[must_use = "a future waits to be woken"]
    pub(crate) fn fill(&self, value: V) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.value = Some(value);
        if !is_built_in(Bug::AnswerWithoutWake) {
            self.filled.notify_one();
        }
        inner.waker.take()
    }

    /// Blocks until the value is there; `None`: it was not by then.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Option<V> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(value) = inner.value.take() {
                return Some(value);
            }
            match until {
                None => self.filled.wait(&mut inner),
                Some(until) => {
                    if self.filled.wait_until(&mut inner, until).timed_out() {
                        return inner.value.take();
                    }
                }
            }
        }
    }

    /// Takes the value, or leaves a waker that is called when it comes.
    pub(crate) fn poll(&self, waker: &Waker) -> Option<V> {
        if is_built_in(Bug::WakerBehindAnswer) {
            let value = self.inner.lock().value.take();
            if value.is_none() {
                self.inner.lock().waker = Some(waker.clone());
            }
            return value;
        }
        let mine = waker.clone();
        let mut inner = self.inner.lock();
        let value = inner.value.take();
        let unused = if value.is_none() {
            inner.waker.replace(mine)
        } else {
            Some(mine)
        };
        drop(inner);
        drop(unused);
        value
    }

    /// The caller has left: its waker is given back, to be dropped on its own thread.
    pub(crate) fn leave(&self) -> Option<Waker> {
        self.inner.lock().waker.take()
    }

    /// Whether the value is there.
    pub(crate) fn is_filled(&self) -> bool {
        self.inner.lock().value.is_some()
    }
}
