//! Worker threads: each owns shards, drains its queue, steps what has work, sleeps until the next deadline.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;
use quorate_kv::StateMachine;

use super::Clock;
use crate::node::{Event, EventSink, Shard};

/// Events taken from the queue before the shards that they touched are flushed: enough to make large
/// batches, few enough that the first event of a pass does not wait long for the last.
const EVENTS_PER_PASS_MAX: usize = 4_096;

/// What travels to a worker.
enum Order<M: StateMachine> {
    Attach(u64, Box<Shard<M>>),
    Event(u64, Event<M>),
    /// Like an event, but counted against the queue's bound.
    Counted(u64, Event<M>),
    Detach {
        key: u64,
        in_order: bool,
        done: Sender<()>,
    },
    Stop,
}

/// The worker threads of a runtime.
pub(crate) struct Workers<M: StateMachine> {
    handles: Vec<WorkerHandle<M>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct WorkerHandle<M: StateMachine> {
    orders: Sender<Order<M>>,
    /// Counted events on the queue.
    load: Arc<AtomicUsize>,
    load_max: usize,
}

impl<M: StateMachine> Clone for WorkerHandle<M> {
    fn clone(&self) -> Self {
        Self {
            orders: self.orders.clone(),
            load: Arc::clone(&self.load),
            load_max: self.load_max,
        }
    }
}

impl<M: StateMachine> Workers<M> {
    pub(super) fn start(count: usize, load_max: usize, clock: Clock) -> io::Result<Self> {
        let mut handles = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let (orders, inbox) = unbounded();
            let load = Arc::new(AtomicUsize::new(0));
            let worker = Worker {
                inbox,
                load: Arc::clone(&load),
                clock,
                shards: BTreeMap::new(),
                touched: Vec::new(),
            };
            threads.push(
                std::thread::Builder::new()
                    .name(format!("quorate-work-{number}"))
                    .spawn(move || worker.run())?,
            );
            handles.push(WorkerHandle {
                orders,
                load,
                load_max,
            });
        }
        Ok(Self {
            handles,
            threads: Mutex::new(threads),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.handles.len()
    }

    /// A way to the shard `key` on worker `worker`, before the shard is there: what is sent
    /// earlier is dropped.
    pub(crate) fn handle(&self, worker: usize, key: u64) -> ShardHandle<M> {
        ShardHandle {
            key,
            worker: self.handles[worker].clone(),
            log_moved: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl<M: StateMachine> Drop for Workers<M> {
    fn drop(&mut self) {
        for handle in &self.handles {
            let _gone = handle.orders.send(Order::Stop);
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

/// A way to one shard.
pub(crate) struct ShardHandle<M: StateMachine> {
    key: u64,
    worker: WorkerHandle<M>,
    /// Whether a [`Event::LogMoved`] is on the queue already.
    log_moved: Arc<AtomicBool>,
}

impl<M: StateMachine> ShardHandle<M> {
    /// Set while an [`Event::LogMoved`] is on its way; the shard clears it.
    pub(crate) fn log_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.log_moved)
    }

    pub(crate) fn attach(&self, shard: Shard<M>) {
        let _stopped = self
            .worker
            .orders
            .send(Order::Attach(self.key, Box::new(shard)));
    }

    /// Takes the shard off its worker; when this returns it answers nobody any more.
    pub(crate) fn detach(&self, in_order: bool) {
        let (done, wait) = crossbeam::channel::bounded(1);
        if self
            .worker
            .orders
            .send(Order::Detach {
                key: self.key,
                in_order,
                done,
            })
            .is_ok()
        {
            let _stopped = wait.recv();
        }
    }
}

impl<M: StateMachine> Clone for ShardHandle<M> {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            worker: self.worker.clone(),
            log_moved: Arc::clone(&self.log_moved),
        }
    }
}

impl<M: StateMachine> EventSink<M> for ShardHandle<M> {
    fn offer(&self, event: Event<M>) -> bool {
        // The bound is soft by the number of senders that look at the same time.
        if self.worker.load.load(Ordering::Relaxed) >= self.worker.load_max {
            return false;
        }
        self.worker.load.fetch_add(1, Ordering::Relaxed);
        self.worker
            .orders
            .send(Order::Counted(self.key, event))
            .is_ok()
    }

    fn push(&self, event: Event<M>) {
        let _stopped = self.worker.orders.send(Order::Event(self.key, event));
    }
}

impl<M: StateMachine> quorate_wal::Observer for ShardHandle<M> {
    fn log_moved(&self) {
        if !self.log_moved.swap(true, Ordering::AcqRel) {
            self.push(Event::LogMoved);
        }
    }
}

struct Attached<M: StateMachine> {
    shard: Box<Shard<M>>,
    is_touched: bool,
}

struct Worker<M: StateMachine> {
    inbox: Receiver<Order<M>>,
    load: Arc<AtomicUsize>,
    clock: Clock,
    shards: BTreeMap<u64, Attached<M>>,
    touched: Vec<u64>,
}

impl<M: StateMachine> Worker<M> {
    fn run(mut self) {
        loop {
            if !self.wait() {
                return;
            }
            self.pass();
        }
    }

    /// Takes orders until there is something to flush or a deadline has come. `false`: the runtime ended.
    fn wait(&mut self) -> bool {
        if self.touched.is_empty() {
            let (now_ns, deadline_ns) = (self.clock.now_ns(), self.deadline_ns());
            if now_ns < deadline_ns {
                // Deadlines are far apart and few; a day is as good as for ever.
                let wait = Duration::from_nanos((deadline_ns - now_ns).min(86_400_000_000_000));
                match self.inbox.recv_timeout(wait) {
                    Ok(order) => {
                        if !self.take(order) {
                            return false;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            }
        }
        for _ in 0..EVENTS_PER_PASS_MAX {
            let Ok(order) = self.inbox.try_recv() else {
                break;
            };
            if !self.take(order) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, order: Order<M>) -> bool {
        // Read after the order was taken: a lease that a message renews counts from a time after it arrived.
        let now_ns = self.clock.now_ns();
        match order {
            Order::Attach(key, mut shard) => {
                shard.attached(now_ns);
                self.shards.insert(
                    key,
                    Attached {
                        shard,
                        is_touched: true,
                    },
                );
                self.touched.push(key);
            }
            Order::Counted(key, event) => {
                self.load.fetch_sub(1, Ordering::Relaxed);
                self.handle(now_ns, key, event);
            }
            Order::Event(key, event) => self.handle(now_ns, key, event),
            Order::Detach {
                key,
                in_order,
                done,
            } => {
                if let Some(mut attached) = self.shards.remove(&key) {
                    attached.shard.stop(in_order);
                }
                let _gave_up = done.send(());
            }
            Order::Stop => return false,
        }
        true
    }

    fn handle(&mut self, now_ns: u64, key: u64, event: Event<M>) {
        if let Some(attached) = self.shards.get_mut(&key) {
            attached.shard.handle(now_ns, event);
            if !attached.is_touched {
                attached.is_touched = true;
                self.touched.push(key);
            }
        }
    }

    fn pass(&mut self) {
        let now_ns = self.clock.now_ns();
        for (&key, attached) in &mut self.shards {
            if attached.shard.deadline_ns() <= now_ns {
                attached.shard.tick(now_ns);
                if !attached.is_touched {
                    attached.is_touched = true;
                    self.touched.push(key);
                }
            }
        }
        for key in std::mem::take(&mut self.touched) {
            let Some(attached) = self.shards.get_mut(&key) else {
                continue;
            };
            attached.shard.flush(now_ns);
            attached.is_touched = attached.shard.has_work();
            if attached.is_touched {
                self.touched.push(key);
            }
        }
    }

    fn deadline_ns(&self) -> u64 {
        self.shards
            .values()
            .map(|attached| attached.shard.deadline_ns())
            .min()
            .unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
