//! The node as a state machine: no threads, clocks or sockets in here.
//!
//! A [`Shard`] holds the replicas of the groups that one worker owns on one node. Its inputs are [`Event`]s and the
//! time; its outputs go through [`Ports`]: the transport, the log, the queue of jobs. None of these calls
//! blocks, so a worker thread, a simulator or a test may drive it.

mod event;
mod health;
mod inbox;
mod incoming;
mod install;
mod limits;
mod ports;
mod promise;
mod proposals;
mod published;
mod reads;
mod replica;
mod reports;
mod restore;
mod shard;
mod space;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod transfer;
mod writes;

pub(crate) use event::{Event, JobDone, Outlet, Received, Told};
pub(crate) use inbox::{EventSink, NodeInbox, shard_index};
pub(crate) use incoming::SnapshotImage;
pub(crate) use install::SnapshotState;
pub(crate) use limits::{Announced, Limits};
#[cfg(feature = "simulation")]
pub(crate) use ports::TRANSFER_JOBS_MAX;
pub(crate) use ports::{CHUNK_BYTES, Job, Jobs, LANES, Lane, Ports};
#[cfg(feature = "simulation")]
pub(crate) use published::LeasedRead;
pub(crate) use published::Published;
pub(crate) use replica::{Replica, ReplicaOptions};
pub(crate) use reports::Reports;
pub(crate) use restore::{Unrestored, is_rotten, restore};
pub(crate) use shard::Shard;
pub(crate) use space::{LogSpace, NodeSpace};
pub(crate) use status::{ShardStatus, StatusBoard};
#[cfg(feature = "simulation")]
pub(crate) use storage::GroupLog;
pub(crate) use storage::{lost_behind, restored};
pub(crate) use writes::MARGIN_BYTES;
