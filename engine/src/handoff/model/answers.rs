//! One thread that answers, one that waits.

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::thread;

use super::super::slot::Slot;
use super::super::sync::{Bug, Condvar, Mutex};
use super::holds_and_finds;

/// Few threads and few steps: all interleavings.
const PREEMPTIONS: usize = 5;

fn blocks() {
    let slot = Arc::new(Slot::default());
    let theirs = Arc::clone(&slot);
    let giver = thread::spawn(move || {
        let nobody = theirs.fill(7);
        assert!(nobody.is_none());
    });
    assert_eq!(slot.wait(None), Some(7));
    giver.join().expect("the giver ends");
}

/// An executor with one task.
struct Executor {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Wake for Executor {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock() = true;
        self.woken.notify_one();
    }
}

fn polls() {
    let slot = Arc::new(Slot::default());
    let theirs = Arc::clone(&slot);
    let giver = thread::spawn(move || {
        if let Some(waker) = theirs.fill(7) {
            waker.wake();
        }
    });
    let executor = Arc::new(Executor {
        is_woken: Mutex::new(false),
        woken: Condvar::new(),
    });
    let waker = Waker::from(Arc::clone(&executor));
    let value = loop {
        if let Some(value) = slot.poll(&waker) {
            break value;
        }
        let mut is_woken = executor.is_woken.lock();
        while !*is_woken {
            executor.woken.wait(&mut is_woken);
        }
        *is_woken = false;
    };
    assert_eq!(value, 7);
    giver.join().expect("the giver ends");
}

#[test]
fn a_caller_that_blocks_gets_its_answer() {
    holds_and_finds(PREEMPTIONS, blocks, &[Bug::AnswerWithoutWake]);
}

#[test]
fn a_future_is_woken_by_its_answer_or_finds_it() {
    holds_and_finds(PREEMPTIONS, polls, &[Bug::WakerBehindAnswer]);
}
