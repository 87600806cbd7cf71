//! Threads that use one client's window.

use std::collections::VecDeque;
use std::sync::Arc;

use loom::thread;

use super::super::relay::{Effects, Outside, Relay};
use super::super::sync::Bug;
use super::{PREEMPTIONS, holds_and_finds};

#[derive(Default)]
struct Window {
    next: u32,
    sends: VecDeque<u32>,
    calls: Vec<u32>,
    completions: Vec<u32>,
}

impl Effects for Window {
    type Completion = u32;
    type Send = u32;

    fn take_completions(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.completions)
    }

    fn take_sends(&mut self) -> VecDeque<u32> {
        std::mem::take(&mut self.sends)
    }

    fn has_effects(&self) -> bool {
        !self.sends.is_empty() || !self.completions.is_empty()
    }
}

impl Window {
    fn call(&mut self) {
        self.sends.push_back(self.next);
        self.next += 1;
    }
}

/// What was done outside. Its lock is not of the model: it is never held while another thread may
/// come.
#[derive(Default)]
struct Done {
    sent: std::sync::Mutex<Vec<u32>>,
    completed: std::sync::Mutex<Vec<u32>>,
}

impl Outside<Window> for Done {
    fn complete(&self, completion: u32) {
        self.completed.lock().expect("no panic").push(completion);
    }

    fn send(&self, send: u32) {
        self.sent.lock().expect("no panic").push(send);
    }
}

fn two_send() {
    let relay = Arc::new(Relay::new(Window::default()));
    let done = Arc::new(Done::default());
    let (theirs, their_done) = (Arc::clone(&relay), Arc::clone(&done));
    let other = thread::spawn(move || {
        theirs.with(Window::call);
        theirs.act(&*their_done);
    });
    relay.with(Window::call);
    relay.act(&*done);
    other.join().expect("it ends");
    let sent = done.sent.lock().expect("no panic").clone();
    assert_eq!(sent, [0, 1], "each once, in order");
}

fn one_calls_and_one_closes() {
    let relay = Arc::new(Relay::new(Window::default()));
    let done = Arc::new(Done::default());
    let (theirs, their_done) = (Arc::clone(&relay), Arc::clone(&done));
    let caller = thread::spawn(move || {
        if theirs
            .enter(9, |window, call| window.calls.push(call))
            .is_err()
        {
            their_done.complete(9);
        }
        theirs.act(&*their_done);
    });
    relay.close(|window| window.completions.append(&mut window.calls));
    relay.act(&*done);
    caller.join().expect("it ends");
    let completed = done.completed.lock().expect("no panic").clone();
    assert_eq!(completed, [9], "answered, once");
}

#[test]
fn what_two_threads_send_leaves_once_and_in_order() {
    holds_and_finds(PREEMPTIONS, two_send, &[Bug::NoLookAfterRelease]);
}

#[test]
fn a_call_that_meets_a_close_is_answered() {
    holds_and_finds(
        PREEMPTIONS,
        one_calls_and_one_closes,
        &[Bug::CallIntoClosedWindow],
    );
}
