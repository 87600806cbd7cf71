//! The log's threads, a worker, and whoever attaches and detaches an actor.

use std::sync::Arc;
use std::time::Duration;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::super::desk::{Actor, Desk, Seat};
use super::super::flag::LogFlag;
use super::super::sync::Bug;
use super::{PREEMPTIONS, holds_and_finds};

/// Looks at a log, as a shard does, and tells what it saw last when it is stopped.
struct Watcher {
    log: Arc<AtomicU64>,
    flag: Arc<LogFlag>,
    seen: u64,
    told: Arc<AtomicU64>,
}

impl Actor for Watcher {
    type Event = ();

    fn log_moved() {}

    fn handle(&mut self, _now_ns: u64, (): ()) {
        let log = &self.log;
        // No more than what the flag itself orders.
        self.seen = self.flag.look(|| log.load(Ordering::Relaxed));
    }

    fn stop(&mut self, _in_order: bool) {
        self.told.store(self.seen, Ordering::Relaxed);
    }

    fn failed(&mut self, reason: String) {
        panic!("{reason}");
    }

    fn turn_away((): ()) {}
}

struct Bench {
    seat: Seat<Watcher>,
    log: Arc<AtomicU64>,
    told: Arc<AtomicU64>,
}

/// A worker on a thread of its own, and `scenario` beside it.
fn with_worker(scenario: impl FnOnce(&Bench)) {
    let (line, mut desk) = Desk::new("worker".to_owned(), 8);
    let worker = thread::spawn(move || while desk.wait(Duration::MAX, || 0) {});
    let bench = Bench {
        seat: line.seat(7),
        log: Arc::new(AtomicU64::new(0)),
        told: Arc::new(AtomicU64::new(u64::MAX)),
    };
    scenario(&bench);
    line.stop();
    worker.join().expect("the worker ends");
}

impl Bench {
    fn attach(&self) {
        self.seat.attach(Watcher {
            log: Arc::clone(&self.log),
            flag: self.seat.flag(),
            seen: 0,
            told: Arc::clone(&self.told),
        });
    }

    /// The log's thread: moves it twice, and tells.
    fn move_log(&self) -> thread::JoinHandle<()> {
        let (log, seat) = (Arc::clone(&self.log), self.seat.clone());
        thread::spawn(move || {
            for lsn in 1..=2 {
                log.store(lsn, Ordering::Relaxed);
                seat.log_moved();
            }
        })
    }
}

fn attach_while_the_log_moves() {
    with_worker(|bench| {
        let log = bench.move_log();
        bench.attach();
        log.join().expect("the log's thread ends");
        // Behind all that the log told on the actor's queue.
        bench.seat.detach(true, true);
        assert_eq!(
            bench.told.load(Ordering::Relaxed),
            2,
            "the last move was seen"
        );
    });
}

fn detach_twice_while_the_log_moves() {
    with_worker(|bench| {
        bench.attach();
        let log = bench.move_log();
        bench.seat.detach(true, true);
        let told = bench.told.load(Ordering::Relaxed);
        assert!(told <= 2, "the actor has stopped");
        bench.seat.detach(true, true);
        log.join().expect("the log's thread ends");
    });
}

#[test]
fn an_actor_that_is_attached_while_the_log_moves_sees_the_last_move() {
    holds_and_finds(
        PREEMPTIONS,
        attach_while_the_log_moves,
        &[
            Bug::AttachedWithoutLook,
            Bug::FlagLoweredAfterLook,
            Bug::FlagLoweredByStore,
        ],
    );
}

#[test]
fn whoever_detaches_hears_when_it_is_done_and_again_if_it_was_done_before() {
    holds_and_finds(
        PREEMPTIONS,
        detach_twice_while_the_log_moves,
        &[Bug::DoneSignalLost],
    );
}
