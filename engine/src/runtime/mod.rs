//! Threads for nodes: workers that own shards, one thread for files, one for clients' timers.
//!
//! A runtime may serve several nodes of one process; their replicas of a group then share a worker, so that they exchange
//! messages without waking anybody.

mod change_reports;
mod fate;
mod jobs;
mod node;
mod pace;
pub(crate) mod threads;
mod timer;
mod wakers;
mod worker;

#[cfg(test)]
mod failures;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use quorate_kv::StateMachine;

use crate::options::Options;

pub(crate) use fate::Fate;
pub(crate) use jobs::NodeJobs;
pub(crate) use node::Node;
#[cfg(feature = "simulation")]
pub(crate) use node::introduce;
pub(crate) use timer::{Timed, Timer};
pub(crate) use wakers::{Events, Wakers};
pub(crate) use worker::{Resident, ShardHandle, Workers};

/// Time since the runtime began, as everything below it counts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    pub(crate) fn now_ns(self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The threads that nodes run on. Dropped with its last user, it joins them.
pub(crate) struct Runtime<M: StateMachine> {
    pub(crate) clock: Clock,
    pub(crate) workers: Workers<M>,
    pub(crate) jobs: jobs::JobThreads<M>,
    pub(crate) timer: Arc<Timer>,
    next_shard: Mutex<u64>,
}

impl<M: StateMachine> Runtime<M> {
    /// Starts the threads.
    pub(crate) fn start(options: &Options) -> io::Result<Arc<Self>> {
        let clock = Clock::start();
        let pacer = pace::Pacer::new(clock, options.snapshot_bytes_per_s);
        Ok(Arc::new(Self {
            clock,
            workers: Workers::start(options.workers, options.queue_max, clock)?,
            jobs: jobs::JobThreads::start(pacer)?,
            timer: Timer::start(clock, options.inline_wakers)?,
            next_shard: Mutex::new(0),
        }))
    }

    /// A number that no shard of this runtime had before, so that what was meant for a crashed
    /// node never reaches its successor.
    pub(crate) fn shard_key(&self) -> u64 {
        let mut next = self.next_shard.lock();
        *next += 1;
        *next
    }
}
