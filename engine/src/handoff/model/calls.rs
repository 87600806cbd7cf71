//! Threads that call the program's code, one of which may not come back.

use std::sync::Arc;

use loom::thread;

use super::super::calls::Calls;
use super::super::sync::{Bug, Condvar, Mutex};
use super::{PREEMPTIONS, holds_and_finds};

/// What was done, and what waits for it.
#[derive(Default)]
struct Done {
    things: Mutex<Vec<u32>>,
    changed: Condvar,
}

impl Default for Mutex<Vec<u32>> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl Done {
    fn add(&self, thing: u32) {
        self.things.lock().push(thing);
        self.changed.notify_all();
    }

    /// Returns when the thing was done, in whatever order.
    fn wait_for(&self, thing: u32) {
        let mut things = self.things.lock();
        while !things.contains(&thing) {
            self.changed.wait(&mut things);
        }
    }
}

/// The first thing comes back only when the second one was done: as one that blocks until something
/// else of the program happens.
fn run(calls: &Calls<u32>, done: &Done) {
    while let Some(thing) = calls.next() {
        if thing == 1 {
            done.wait_for(2);
        }
        done.add(thing);
    }
}

/// Looks until nothing waits, as the timer does when it was told to.
fn watch(calls: &Arc<Calls<u32>>, done: &Arc<Done>, added: &mut Vec<thread::JoinHandle<()>>) {
    loop {
        let look = calls.look();
        if look.wants_thread {
            let (calls, done) = (Arc::clone(calls), Arc::clone(done));
            added.push(thread::spawn(move || run(&calls, &done)));
        }
        if !look.is_busy {
            return;
        }
        thread::yield_now();
    }
}

fn one_blocks_until_another_was_done() {
    let calls = Arc::new(Calls::new(2));
    let done = Arc::new(Done::default());
    assert_eq!(calls.wants_first(9), Ok(true));
    let (theirs, their_done) = (Arc::clone(&calls), Arc::clone(&done));
    let first = thread::spawn(move || run(&theirs, &their_done));
    let mut added = Vec::new();
    for thing in [1, 2] {
        if calls.push(thing) {
            watch(&calls, &done, &mut added);
        }
    }
    done.wait_for(1);
    calls.end();
    first.join().expect("it leaves");
    for thread in added {
        thread.join().expect("it leaves");
    }
}

fn two_push_and_each_is_done_once() {
    let calls = Arc::new(Calls::new(1));
    let done = Arc::new(Done::default());
    assert_eq!(calls.wants_first(9), Ok(true));
    let (theirs, their_done) = (Arc::clone(&calls), Arc::clone(&done));
    let first = thread::spawn(move || {
        while let Some(thing) = theirs.next() {
            their_done.add(thing);
        }
    });
    let theirs = Arc::clone(&calls);
    let other = thread::spawn(move || {
        let _nobody_looks = theirs.push(1);
    });
    let _nobody_looks = calls.push(2);
    other.join().expect("it ends");
    // Before the end, which wakes everybody.
    done.wait_for(1);
    done.wait_for(2);
    calls.end();
    first.join().expect("it leaves");
    let mut things = done.things.lock();
    things.sort_unstable();
    assert_eq!(*things, [1, 2]);
}

#[test]
fn what_waits_behind_a_call_that_does_not_return_is_done_by_another_thread() {
    holds_and_finds(2, one_blocks_until_another_was_done, &[Bug::NobodyLooks]);
}

#[test]
fn what_two_threads_hand_over_is_done_once_and_before_the_threads_leave() {
    holds_and_finds(
        PREEMPTIONS,
        two_push_and_each_is_done_once,
        &[Bug::PushWithoutWake],
    );
}
