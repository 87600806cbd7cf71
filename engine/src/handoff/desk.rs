//! A worker's queue: actors come to it, are given events, and go.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::flag::LogFlag;
use super::sync::{
    AtomicUsize, Bug, Ordering, Receiver, RecvTimeoutError, Sender, is_built_in, unbounded,
};
use crate::mutants;

/// What a worker does its work with; owned by one worker at a time.
pub(crate) trait Actor {
    type Event;

    /// The log that the actor writes to moved: the actor looks, through its flag.
    fn log_moved() -> Self::Event;

    fn handle(&mut self, now_ns: u64, event: Self::Event);

    /// The last call: answers whoever waits.
    fn stop(&mut self, in_order: bool);

    /// It panicked, and is called no more: says so, and shows nobody anything that may be wrong.
    fn failed(&mut self, reason: String);

    /// An event for an actor that is not here, or not yet: answers it if nobody would ask again.
    fn turn_away(event: Self::Event);
}

/// What travels to a worker.
enum Order<A: Actor> {
    Attach(u64, Box<A>),
    Event(u64, A::Event),
    /// Like an event, but counted against the queue's bound.
    Counted(u64, A::Event),
    Detach {
        key: u64,
        in_order: bool,
        /// Dropped when the actor has stopped.
        done: Sender<()>,
    },
    Stop,
}

/// A way to a worker.
pub(crate) struct Line<A: Actor> {
    orders: Sender<Order<A>>,
    /// Counted events on the queue.
    load: Arc<AtomicUsize>,
    load_max: usize,
}

impl<A: Actor> Clone for Line<A> {
    fn clone(&self) -> Self {
        Self {
            orders: self.orders.clone(),
            load: Arc::clone(&self.load),
            load_max: self.load_max,
        }
    }
}

impl<A: Actor> Line<A> {
    /// Ends the worker. Actors that are still there are dropped.
    pub(crate) fn stop(&self) {
        let _gone = self.orders.send(Order::Stop);
    }

    /// A way to the actor `key`, before the actor is there.
    pub(crate) fn seat(&self, key: u64) -> Seat<A> {
        Seat {
            key,
            line: self.clone(),
            flag: Arc::default(),
        }
    }
}

/// A way to one actor of a worker.
pub(crate) struct Seat<A: Actor> {
    key: u64,
    line: Line<A>,
    flag: Arc<LogFlag>,
}

impl<A: Actor> Clone for Seat<A> {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            line: self.line.clone(),
            flag: Arc::clone(&self.flag),
        }
    }
}

impl<A: Actor> Seat<A> {
    /// Up while the actor is to be told that the log moved; the actor looks through it.
    pub(crate) fn flag(&self) -> Arc<LogFlag> {
        Arc::clone(&self.flag)
    }

    /// Hands the actor to its worker. What was sent to it before is lost, but for moves of the log.
    pub(crate) fn attach(&self, actor: A) {
        let _stopped = self
            .line
            .orders
            .send(Order::Attach(self.key, Box::new(actor)));
    }

    /// Takes the actor off its worker; when this returns it answers nobody any more. With `waits`
    /// false it returns earlier: for the worker's own thread, which would wait for itself.
    pub(crate) fn detach(&self, in_order: bool, waits: bool) {
        let (done, stopped) = unbounded();
        let order = Order::Detach {
            key: self.key,
            in_order,
            done,
        };
        if self.line.orders.send(order).is_ok() && waits {
            let _disconnected = stopped.recv();
        }
    }

    /// Puts an event on the queue. `false`: the queue is at its bound, or its worker has ended.
    pub(crate) fn offer(&self, event: A::Event) -> bool {
        // The bound is soft by the number of senders that look at the same time.
        if self.line.load.load(Ordering::Relaxed) >= self.line.load_max {
            return false;
        }
        self.line.load.fetch_add(1, Ordering::Relaxed);
        self.line
            .orders
            .send(Order::Counted(self.key, event))
            .is_ok()
    }

    /// Puts an event on the queue regardless of its bound.
    pub(crate) fn push(&self, event: A::Event) {
        let _stopped = self.line.orders.send(Order::Event(self.key, event));
    }

    /// The log moved.
    pub(crate) fn log_moved(&self) {
        if self.flag.raise() {
            self.push(A::log_moved());
        }
    }
}

/// What a worker's thread owns.
///
/// Invariants:
/// - An actor that is attached hears of every move of the log: of those before by a look when it is
///   attached, of those after by an event.
/// - An actor that panics is gone, and the others are not harmed.
pub(crate) struct Desk<A: Actor> {
    orders: Receiver<Order<A>>,
    load: Arc<AtomicUsize>,
    actors: BTreeMap<u64, Box<A>>,
    /// Actors that were given something since they were last flushed, in order, each once.
    touched: Vec<u64>,
    name: String,
}

impl<A: Actor> Desk<A> {
    /// A queue that takes `load_max` counted events, and the way to it.
    pub(crate) fn new(name: String, load_max: usize) -> (Line<A>, Self) {
        let (sender, orders) = unbounded();
        let load = Arc::new(AtomicUsize::new(0));
        let line = Line {
            orders: sender,
            load: Arc::clone(&load),
            load_max,
        };
        let desk = Self {
            orders,
            load,
            actors: BTreeMap::new(),
            touched: Vec::new(),
            name,
        };
        (line, desk)
    }

    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    pub(crate) fn actors(&self) -> impl Iterator<Item = (u64, &A)> {
        self.actors.iter().map(|(&key, actor)| (key, &**actor))
    }

    /// Waits for an order, and takes it. `false`: the worker is to end.
    pub(crate) fn wait(&mut self, time: Duration, now_ns: impl FnOnce() -> u64) -> bool {
        match self.orders.recv_timeout(time) {
            Ok(order) => self.take(order, now_ns()),
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    /// Takes what is on the queue, up to a number of orders. `false`: the worker is to end.
    pub(crate) fn drain(&mut self, orders_max: usize, now_ns: impl Fn() -> u64) -> bool {
        for _ in 0..orders_max {
            let Ok(order) = self.orders.try_recv() else {
                break;
            };
            if !self.take(order, now_ns()) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, order: Order<A>, now_ns: u64) -> bool {
        match order {
            Order::Attach(key, actor) => {
                self.actors.insert(key, actor);
                // A move of the log that was told before now was turned away, and the flag still
                // says that it will be told.
                if !is_built_in(Bug::AttachedWithoutLook) && !mutants::ATTACHES_WITHOUT_LOOKING {
                    self.handle(now_ns, key, A::log_moved());
                }
                self.touch(key);
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
                let is_gone = !self.actors.contains_key(&key);
                self.with(key, |actor| actor.stop(in_order));
                self.dismiss(key);
                if is_gone && is_built_in(Bug::DoneSignalLost) {
                    std::mem::forget(done);
                }
            }
            Order::Stop => return false,
        }
        true
    }

    fn handle(&mut self, now_ns: u64, key: u64, event: A::Event) {
        if self.actors.contains_key(&key) {
            self.with(key, |actor| actor.handle(now_ns, event));
            self.touch(key);
        } else {
            let _panicked = catch_unwind(AssertUnwindSafe(|| A::turn_away(event)));
        }
    }

    fn touch(&mut self, key: u64) {
        // As many as the process has nodes on this runtime: a look at all of them is cheap.
        if !self.touched.contains(&key) {
            self.touched.push(key);
        }
    }

    pub(crate) fn take_touched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.touched)
    }

    /// Has an actor do something, and touches it if that says so. An actor that panics is
    /// dismissed.
    pub(crate) fn run(&mut self, key: u64, step: impl FnOnce(&mut A) -> bool) {
        if self.with(key, step) == Some(true) {
            self.touch(key);
        }
    }

    /// The worker itself panicked: all that are here fail.
    pub(crate) fn fail_all(&mut self, reason: &str) {
        for actor in self.actors.values_mut() {
            let _again = catch_unwind(AssertUnwindSafe(|| actor.failed(reason.to_owned())));
        }
    }

    /// Calls an actor, if it is here and does not panic.
    fn with<R>(&mut self, key: u64, call: impl FnOnce(&mut A) -> R) -> Option<R> {
        let actor = self.actors.get_mut(&key)?;
        match catch_unwind(AssertUnwindSafe(|| call(actor))) {
            Ok(value) => Some(value),
            Err(panic) => {
                let reason = format!("the thread {} panicked: {}", self.name, told(&*panic));
                // What it says now is the last that is heard of it; it may panic again.
                let _again = catch_unwind(AssertUnwindSafe(|| actor.failed(reason)));
                self.dismiss(key);
                None
            }
        }
    }

    fn dismiss(&mut self, key: u64) {
        let actor = self.actors.remove(&key);
        // Its parts may be in any state.
        let _again = catch_unwind(AssertUnwindSafe(|| drop(actor)));
    }
}

/// What a panic said.
pub(crate) fn told(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
