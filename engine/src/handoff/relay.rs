//! A client's window behind a lock, and who does outside of the lock what the window asked for.

use std::collections::VecDeque;

use super::sync::{Bug, Mutex, TryMutex, is_built_in};

/// A state that asks for things to be done outside.
pub(crate) trait Effects {
    /// An answer for a caller; in no order.
    type Completion;
    /// Something to be handed over; in order.
    type Send;

    fn take_completions(&mut self) -> Vec<Self::Completion>;
    fn take_sends(&mut self) -> VecDeque<Self::Send>;
    /// Whether something was asked for and not taken.
    fn has_effects(&self) -> bool;
}

/// What a relay does for its state. Runs on whichever thread has the right to, without the lock of
/// the state.
pub(crate) trait Outside<W: Effects> {
    fn complete(&self, completion: W::Completion);
    /// May call into the relay again, on this thread too.
    fn send(&self, send: W::Send);
}

/// A window, and the right to hand over what it sends. The two are apart so that a link may answer
/// from within `send`, and so that sends keep their order nevertheless.
///
/// Invariant: when the last [`act`](Self::act) has returned, everything that was asked for before
/// it has been done, once, sends in order.
#[derive(Debug)]
pub(crate) struct Relay<W> {
    state: Mutex<State<W>>,
    sending: TryMutex<()>,
}

#[derive(Debug)]
struct State<W> {
    window: W,
    is_closed: bool,
}

impl<W: Effects> Relay<W> {
    pub(crate) fn new(window: W) -> Self {
        Self {
            state: Mutex::new(State {
                window,
                is_closed: false,
            }),
            sending: TryMutex::new(()),
        }
    }

    /// Changes the window. Call [`act`](Self::act) afterwards.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut W) -> R) -> R {
        change(&mut self.state.lock().window)
    }

    /// Takes something in that has to be answered, unless the window was closed: then `call` is not
    /// called, and nobody would answer it.
    pub(crate) fn enter<C>(&self, input: C, call: impl FnOnce(&mut W, C)) -> Result<(), C> {
        let mut state = self.state.lock();
        if state.is_closed && !is_built_in(Bug::CallIntoClosedWindow) {
            return Err(input);
        }
        call(&mut state.window, input);
        Ok(())
    }

    /// From now on nothing enters; `close` answers all that did.
    pub(crate) fn close(&self, close: impl FnOnce(&mut W)) {
        let mut state = self.state.lock();
        state.is_closed = true;
        close(&mut state.window);
    }

    /// Does what the window asked for. Whoever finds another thread sending leaves its sends to
    /// that one.
    pub(crate) fn act(&self, outside: &impl Outside<W>) {
        loop {
            let completions = self.with(W::take_completions);
            for completion in completions {
                outside.complete(completion);
            }
            let Some(right) = self.sending.try_lock() else {
                return;
            };
            loop {
                let sends = self.with(W::take_sends);
                if sends.is_empty() {
                    break;
                }
                for send in sends {
                    outside.send(send);
                }
            }
            drop(right);
            if is_built_in(Bug::NoLookAfterRelease) {
                return;
            }
            // What another thread left between the last look and the release.
            if !self.with(|window| window.has_effects()) {
                return;
            }
        }
    }
}
