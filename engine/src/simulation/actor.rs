//! One worker of a simulated node: the queue and the shard that a thread of its own would drive.
//!
//! A node opens its workers one after the other, while those that run already write to the log. So the log may move between
//! the moment at which a worker's queue is told of it and the one at which its shard is there; what arrives in between is
//! dropped, as a worker drops what is for a shard that it does not have.

use std::sync::Arc;

use quorate_kv::StateMachine;
use quorate_raft::NodeId;
use quorate_wal::GroupId;

use super::deed::Deed;
use super::queue::EventQueue;
use crate::mutants;
use crate::node::{Event, LogSpace, Ports, Replica, Shard};

/// Events that one pass takes before it flushes.
const EVENTS_PER_PASS_MAX: usize = 4_096;

/// A worker's share of a node.
pub(super) struct Actor<M: StateMachine> {
    pub(super) events: Arc<EventQueue<M>>,
    share: Share<M>,
}

/// The groups of a worker, before and after they are attached to it.
enum Share<M: StateMachine> {
    Apart(Box<Apart<M>>),
    Attached(Box<Shard<M>>),
}

/// What a shard is made of.
pub(super) struct Apart<M: StateMachine> {
    pub(super) node: NodeId,
    pub(super) replicas: Vec<Replica<M>>,
    pub(super) ports: Ports<M>,
    pub(super) space: LogSpace,
    /// Whether the log tells the queue that it moved.
    pub(super) is_told: bool,
}

impl<M: StateMachine> Actor<M> {
    pub(super) fn new(events: Arc<EventQueue<M>>, apart: Apart<M>) -> Self {
        Self {
            events,
            share: Share::Apart(Box::new(apart)),
        }
    }

    /// The next step of opening: first the log is told of the queue, then the shard is attached. `false`: all are taken.
    pub(super) fn open_step(self, now_ns: u64) -> (Self, bool) {
        let Self { events, share } = self;
        match share {
            Share::Apart(mut apart) if !apart.is_told => {
                apart.ports.log.add_observer(events.clone());
                apart.is_told = true;
                let share = Share::Apart(apart);
                (Self { events, share }, true)
            }
            Share::Apart(apart) => {
                let told = events.log_flag();
                let mut shard = Shard::new(
                    apart.node,
                    apart.replicas,
                    apart.ports,
                    apart.space,
                    now_ns,
                    told,
                );
                shard.watch();
                // As the desk of a worker does when it takes an actor in.
                if !mutants::ATTACHES_WITHOUT_LOOKING {
                    shard.handle(now_ns, Event::LogMoved);
                }
                let share = Share::Attached(Box::new(shard));
                (Self { events, share }, true)
            }
            Share::Attached(_) => (Self { events, share }, false),
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.share, Share::Attached(_))
    }

    /// Takes what is on the queue, fires what is due, flushes.
    pub(super) fn pass(&mut self, now_ns: u64) {
        let Share::Attached(shard) = &mut self.share else {
            // A worker drops what is for a shard that it does not have.
            while self.events.pop().is_some() {}
            return;
        };
        // Nobody asked what the last one did: what is kept is bounded by what one pass does.
        drop(shard.take_deeds());
        for _ in 0..EVENTS_PER_PASS_MAX {
            let Some(event) = self.events.pop() else {
                break;
            };
            shard.handle(now_ns, event);
        }
        if shard.deadline_ns() <= now_ns {
            shard.tick(now_ns);
        }
        shard.flush(now_ns);
    }

    pub(super) fn has_work(&self) -> bool {
        self.events.len() > 0 || self.shard().is_some_and(Shard::has_work)
    }

    pub(super) fn deadline_ns(&self) -> u64 {
        self.shard().map_or(u64::MAX, Shard::deadline_ns)
    }

    pub(super) fn take_deeds(&mut self) -> Vec<(GroupId, Deed)> {
        match &mut self.share {
            Share::Attached(shard) => shard.take_deeds(),
            Share::Apart(_) => Vec::new(),
        }
    }

    pub(super) fn stop(&mut self) {
        if let Share::Attached(shard) = &mut self.share {
            shard.stop(true);
        }
    }

    pub(super) fn replica(&self, group: GroupId) -> Option<&Replica<M>> {
        match &self.share {
            Share::Attached(shard) => shard.replica(group),
            Share::Apart(apart) => apart.replicas.iter().find(|it| it.group() == group),
        }
    }

    fn shard(&self) -> Option<&Shard<M>> {
        match &self.share {
            Share::Attached(shard) => Some(shard),
            Share::Apart(_) => None,
        }
    }
}
