//! Where the caller's own code waits to be run by threads that do nothing else.

use std::collections::VecDeque;

use super::sync::{Bug, Condvar, Mutex, is_built_in};

/// What waits to be done, and the threads that do it, each thing once and on one thread.
///
/// The threads belong to nobody who may be waited for: what they run may block for ever. So a thread
/// that does not come back must not keep the others' things waiting. [`look`](Self::look), called
/// again and again, says when another thread is needed.
///
/// Invariants:
/// - What was pushed is taken, as long as some thread comes back, or another one may be added.
/// - A thing that waits while no thread rests is looked after: [`push`](Self::push) has said so.
#[derive(Debug)]
pub(crate) struct Calls<T> {
    state: Mutex<State<T>>,
    pushed: Condvar,
    threads_max: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// Threads that were added and have not left.
    threads: usize,
    /// Those of them that wait for something to do.
    resting: usize,
    /// Things taken so far.
    taken: u64,
    /// How many that were at the last look, while something waits.
    looked_at: Option<u64>,
    /// Whether somebody looks.
    is_watched: bool,
    is_ended: bool,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Nothing was taken since the last look though something waits: another thread is to be added. It
    /// was counted already.
    pub(crate) wants_thread: bool,
    /// Something waits: look again.
    pub(crate) is_busy: bool,
}

impl<T> Calls<T> {
    pub(crate) fn new(threads_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                threads: 0,
                resting: 0,
                taken: 0,
                looked_at: None,
                is_watched: false,
                is_ended: false,
            }),
            pushed: Condvar::new(),
            threads_max,
        }
    }

    /// Counts the first thread, unless there is one. `true`: the caller is to start it. `Err`: so many
    /// things wait already, as many as `waiting_max` or more.
    pub(crate) fn wants_first(&self, waiting_max: usize) -> Result<bool, usize> {
        let mut state = self.state.lock();
        if state.waiting.len() >= waiting_max {
            return Err(state.waiting.len());
        }
        let is_first = state.threads == 0;
        state.threads += usize::from(is_first);
        Ok(is_first)
    }

    /// A thread that was counted could not be started.
    pub(crate) fn not_started(&self) {
        self.state.lock().threads -= 1;
    }

    /// How many threads were added and have not left.
    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        self.state.lock().threads
    }

    /// How many things wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Hands something over. `true`: somebody has to look from now on, until a look finds nothing.
    #[must_use]
    pub(crate) fn push(&self, thing: T) -> bool {
        self.change(|waiting| waiting.push_back(thing))
    }

    /// Changes what waits, with at most one thing more. The same is returned.
    pub(crate) fn change(&self, change: impl FnOnce(&mut VecDeque<T>)) -> bool {
        let mut state = self.state.lock();
        change(&mut state.waiting);
        if state.waiting.is_empty() {
            return false;
        }
        if state.resting > 0 && !is_built_in(Bug::PushWithoutWake) {
            self.pushed.notify_one();
        }
        // One that was woken and has not come yet counts as resting: it will take one thing.
        let is_behind = state.waiting.len() > state.resting;
        let is_behind = is_behind || is_built_in(Bug::NobodyLooks);
        let must_look = is_behind && !state.is_watched;
        if must_look {
            state.is_watched = true;
            state.looked_at = None;
        }
        must_look && !is_built_in(Bug::NobodyLooks)
    }

    /// Waits for something to do. `None`: the thread is to leave; it is not counted any more.
    pub(crate) fn next(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(thing) = state.waiting.pop_front() {
                state.taken += 1;
                return Some(thing);
            }
            // One thread rests; those that were added for a time are not needed any more.
            if state.is_ended || state.resting > 0 {
                state.threads -= 1;
                return None;
            }
            state.resting += 1;
            self.pushed.wait(&mut state);
            state.resting -= 1;
        }
    }

    /// Looks whether threads come back.
    pub(crate) fn look(&self) -> Look {
        let mut state = self.state.lock();
        let is_busy = state.waiting.len() > state.resting;
        if !is_busy {
            state.is_watched = false;
            return Look {
                wants_thread: false,
                is_busy: false,
            };
        }
        let taken = state.taken;
        let stands_still = state.looked_at.replace(taken) == Some(taken);
        let wants_thread = stands_still && state.threads < self.threads_max;
        state.threads += usize::from(wants_thread);
        Look {
            wants_thread,
            is_busy: true,
        }
    }

    /// Nothing more will be pushed: threads leave when nothing waits.
    pub(crate) fn end(&self) {
        self.state.lock().is_ended = true;
        self.pushed.notify_all();
    }
}
