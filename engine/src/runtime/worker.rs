//! Worker threads: each owns shards, drains its queue, steps what has work, sleeps until the next
//! deadline.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_kv::StateMachine;

use super::Clock;
use super::fate::Fate;
use super::threads::{self, Kind};
use crate::handoff::desk::{Actor, Desk, Line, Seat, told};
use crate::node::{Event, EventSink, Shard};

/// Events taken from the queue before the shards that they touched are flushed: enough to make
/// large batches, few enough that the first event of a pass does not wait long for the last.
const EVENTS_PER_PASS_MAX: usize = 4_096;

/// A shard on a worker, and how its node is told if it panics.
pub(crate) struct Resident<M: StateMachine> {
    shard: Shard<M>,
    fate: Arc<Fate>,
}

/// A way to one shard.
pub(crate) type ShardHandle<M> = Seat<Resident<M>>;

impl<M: StateMachine> Resident<M> {
    pub(crate) fn new(shard: Shard<M>, fate: Arc<Fate>) -> Self {
        Self { shard, fate }
    }
}

impl<M: StateMachine> Actor for Resident<M> {
    type Event = Event<M>;

    fn log_moved() -> Event<M> {
        Event::LogMoved
    }

    fn handle(&mut self, now_ns: u64, event: Event<M>) {
        self.shard.handle(now_ns, event);
    }

    fn stop(&mut self, in_order: bool) {
        self.shard.stop(in_order);
    }

    fn failed(&mut self, reason: String) {
        self.shard.withdraw();
        self.fate.fail(reason);
    }

    fn turn_away(event: Event<M>) {
        event.turn_away();
    }
}

impl<M: StateMachine> EventSink<M> for ShardHandle<M> {
    fn offer(&self, event: Event<M>) -> bool {
        Seat::offer(self, event)
    }

    fn push(&self, event: Event<M>) {
        Seat::push(self, event);
    }
}

impl<M: StateMachine> quorate_wal::Observer for ShardHandle<M> {
    fn log_moved(&self) {
        Seat::log_moved(self);
    }
}

/// The worker threads of a runtime.
pub(crate) struct Workers<M: StateMachine> {
    lines: Vec<Line<Resident<M>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<M: StateMachine> Workers<M> {
    pub(super) fn start(count: usize, load_max: usize, clock: Clock) -> io::Result<Self> {
        let mut workers = Self {
            lines: Vec::with_capacity(count),
            threads: Mutex::default(),
        };
        for number in 0..count {
            let name = format!("quorate-work-{number}");
            let (line, desk) = Desk::new(name.clone(), load_max);
            let worker = Worker { desk, clock };
            let thread = threads::spawn(name, Kind::Worker, move || worker.run())?;
            workers.threads.get_mut().push(thread);
            workers.lines.push(line);
        }
        Ok(workers)
    }

    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// A way to the shard `key` on worker `worker`, before the shard is there.
    pub(crate) fn handle(&self, worker: usize, key: u64) -> ShardHandle<M> {
        self.lines[worker].seat(key)
    }
}

impl<M: StateMachine> Drop for Workers<M> {
    fn drop(&mut self) {
        for line in &self.lines {
            line.stop();
        }
        let current = std::thread::current().id();
        for thread in self.threads.get_mut().drain(..) {
            // The last handle may be dropped by a worker itself, which cannot wait for its own end.
            if thread.thread().id() != current {
                let _panicked = thread.join();
            }
        }
    }
}

struct Worker<M: StateMachine> {
    desk: Desk<Resident<M>>,
    clock: Clock,
}

impl<M: StateMachine> Worker<M> {
    fn run(mut self) {
        let ended = threads::shielded(|| {
            while self.wait() {
                self.pass();
            }
        });
        // Not in a shard, whose panics end that shard alone. What is on the queue is turned away
        // with it.
        if let Err(panic) = ended {
            let reason = format!("a worker panicked: {}", told(&*panic));
            self.desk.fail_all(&reason);
        }
    }

    /// Takes orders until there is something to flush or a deadline has come. `false`: the runtime
    /// ended.
    fn wait(&mut self) -> bool {
        let clock = self.clock;
        // Read after the order was taken: a lease that a message renews counts from a time after it
        // arrived.
        let now_ns = move || clock.now_ns();
        if !self.desk.has_touched() {
            let (present_ns, deadline_ns) = (now_ns(), self.deadline_ns());
            if present_ns < deadline_ns {
                // Deadlines are far apart and few; a day is as good as for ever.
                let wait_ns = (deadline_ns - present_ns).min(86_400_000_000_000);
                if !self.desk.wait(Duration::from_nanos(wait_ns), now_ns) {
                    return false;
                }
            }
        }
        self.desk.drain(EVENTS_PER_PASS_MAX, now_ns)
    }

    fn pass(&mut self) {
        let now_ns = self.clock.now_ns();
        let is_due = |actor: &Resident<M>| actor.shard.deadline_ns() <= now_ns;
        let due = self.desk.actors().filter(|(_, actor)| is_due(actor));
        let due: Vec<u64> = due.map(|(key, _)| key).collect();
        for key in due {
            self.desk.run(key, |actor| {
                actor.shard.tick(now_ns);
                true
            });
        }
        for key in self.desk.take_touched() {
            self.desk.run(key, |actor| {
                actor.shard.flush(now_ns);
                actor.shard.has_work()
            });
        }
    }

    fn deadline_ns(&self) -> u64 {
        let deadlines = self.desk.actors();
        deadlines
            .map(|(_, actor)| actor.shard.deadline_ns())
            .min()
            .unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
