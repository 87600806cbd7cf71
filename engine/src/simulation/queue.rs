//! What comes to a node and what its shard hands on, kept until the caller takes the step.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_kv::StateMachine;
use quorate_wal::Observer;

use crate::handoff::flag::LogFlag;
use crate::node::{Event, EventSink, Job, Jobs, LANES};

/// The events of a node that its shard did not take yet.
pub(super) struct EventQueue<M: StateMachine> {
    events: Mutex<VecDeque<Event<M>>>,
    /// Frames over this bound are dropped, as a worker's queue drops them.
    events_max: usize,
    /// Whether an [`Event::LogMoved`] is on the queue already; the shard clears it.
    log_moved: Arc<LogFlag>,
}

impl<M: StateMachine> EventQueue<M> {
    pub(super) fn new(events_max: usize) -> Self {
        Self {
            events: Mutex::default(),
            events_max,
            log_moved: Arc::default(),
        }
    }

    pub(super) fn log_flag(&self) -> Arc<LogFlag> {
        Arc::clone(&self.log_moved)
    }

    pub(super) fn pop(&self) -> Option<Event<M>> {
        self.events.lock().pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.events.lock().len()
    }
}

impl<M: StateMachine> EventSink<M> for EventQueue<M> {
    fn offer(&self, event: Event<M>) -> bool {
        let mut events = self.events.lock();
        let has_room = events.len() < self.events_max;
        if has_room {
            events.push_back(event);
        }
        has_room
    }

    fn push(&self, event: Event<M>) {
        self.events.lock().push_back(event);
    }
}

impl<M: StateMachine> Observer for EventQueue<M> {
    fn log_moved(&self) {
        if self.log_moved.raise() {
            self.push(Event::LogMoved);
        }
    }
}

/// The jobs of a node that were not done yet. Those of one lane wait for each other; the lanes take turns.
pub(super) struct JobQueue<M: StateMachine>(Mutex<Lanes<M>>);

struct Lanes<M: StateMachine> {
    jobs: [VecDeque<Job<M>>; LANES.len()],
    turn: usize,
}

impl<M: StateMachine> JobQueue<M> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Lanes {
            jobs: LANES.map(|_| VecDeque::new()),
            turn: 0,
        }))
    }

    pub(super) fn pop(&self) -> Option<Job<M>> {
        let mut lanes = self.0.lock();
        for _ in LANES {
            lanes.turn = (lanes.turn + 1) % LANES.len();
            let turn = lanes.turn;
            if let Some(job) = lanes.jobs[turn].pop_front() {
                return Some(job);
            }
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().jobs.iter().map(VecDeque::len).sum()
    }
}

impl<M: StateMachine> Jobs<M> for JobQueue<M> {
    fn submit(&self, job: Job<M>) {
        let lane = job.lane() as usize;
        self.0.lock().jobs[lane].push_back(job);
    }
}
