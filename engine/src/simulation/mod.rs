//! A node and its clients without threads, clocks or sockets: every step is taken by the caller, who says what time it is.
//!
//! [`SimNode`] is the node that [`Db`](crate::Db) runs, opened by the same code on any [`Disk`]: its log, its shard, its
//! snapshot jobs. [`SimClient`] is the client half of a [`Clerk`](crate::Clerk). What a node sends goes to the
//! [`Transport`] it is opened with, what a client sends is taken from it; bringing it to the other side, or not, is up to the
//! caller. All of it happens on the caller's thread: two runs that take the same steps at the same times on equal disks do
//! the same.
//!
//! This is what the simulator of this repository is made of; use it to put a state machine of your own under faults.
//! See [`SimNode`] for an example.

mod actor;
mod client;
mod deed;
mod node;
mod queue;
mod reader;
mod view;

pub use client::{CallId, ClientSend, SimClient};
pub use deed::Deed;
pub use node::{SimNode, SimSetup};
pub use reader::SimReader;
pub use view::{ReplicaView, Stand};

pub use quorate_kv::{
    Answer, Command, CommandBuffer, Image, Map, MapImage, Outcome, Position, Query, RestoreError,
    SessionId, StateMachine,
};
pub use quorate_raft::{
    Body, Config, Entry, EntryKind, HardState, Message, Observation, PeerState, PeerStatus, Round,
    SnapshotMeta, Violation,
};
pub use quorate_wal::{Disk, Drove, Due, Log, LogError, LogStatus, Prepared};

#[cfg(doc)]
use crate::transport::Transport;

/// So many jobs of one replica that read or write snapshots for other nodes may wait, at most.
pub const TRANSFER_JOBS_MAX: usize = crate::node::TRANSFER_JOBS_MAX;
