//! A replica that hands its leadership over and gets it back, and a reader on another thread.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::super::leased::Leased;
use super::super::sync::Bug;
use super::{PREEMPTIONS, holds_and_finds};

/// The view is the number of the last write that it includes. `acknowledged` is what the reader
/// knows to be acknowledged before it begins: its load stands for whatever told it. No lease ends
/// by time here.
fn hands_over_and_gets_back() {
    let leased = Arc::new(Leased::new(0, 0_u64));
    leased.set_lease(1, Some(100));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (theirs, told) = (Arc::clone(&leased), Arc::clone(&acknowledged));
    let worker = thread::spawn(move || {
        // Its own write: the view stands before the answer leaves.
        theirs.publish(1, 1);
        told.store(1, Ordering::Release);
        // The lease ends before the message that ends it leaves. From here on the other node leads,
        // and acknowledges.
        theirs.shorten_lease(None);
        told.store(2, Ordering::Release);
        // The leadership comes back; the view includes what was committed meanwhile before the
        // lease is granted.
        theirs.publish(2, 2);
        theirs.set_lease(3, Some(100));
    });
    for _ in 0..2 {
        let before = acknowledged.load(Ordering::Acquire);
        if let Some(view) = leased.load_leased(|| 50) {
            assert!(view >= before, "read {view}, {before} was acknowledged");
        }
    }
    worker.join().expect("the worker ends");
    assert_eq!(leased.load_leased(|| 50), Some(2), "a lease is there again");
    assert_eq!(leased.load_leased(|| 100), None, "and ends");
}

/// A lease that is extended within its term serves all the while.
fn extends() {
    let leased = Arc::new(Leased::new(0, 0_u64));
    leased.set_lease(1, Some(100));
    let theirs = Arc::clone(&leased);
    let worker = thread::spawn(move || {
        theirs.publish(1, 1);
        theirs.set_lease(1, Some(200));
    });
    assert!(leased.load_leased(|| 50).is_some(), "it never ended");
    worker.join().expect("the worker ends");
    assert_eq!(leased.load_leased(|| 150), Some(1));
}

#[test]
fn no_reader_sees_a_lease_after_the_message_that_ends_it() {
    holds_and_finds(
        PREEMPTIONS,
        hands_over_and_gets_back,
        &[
            Bug::LeaseReadOnce,
            Bug::LeaseNeverWithdrawn,
            Bug::WordBehindLease,
        ],
    );
}

#[test]
fn a_lease_that_is_extended_serves_all_the_while() {
    holds_and_finds(PREEMPTIONS, extends, &[]);
}
