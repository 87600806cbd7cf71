//! A replicated, durable, exactly-once key-value store that lives inside your Rust program.
#![forbid(unsafe_code)]

const _: () = assert!(usize::BITS == 64, "lengths and counts cross between usize and u64");

mod clerk;
mod client;
mod cluster;
mod db;
mod error;
mod identity;
mod node;
mod options;
mod partition;
mod pending;
mod runtime;
pub mod transport;

pub use bytes::Bytes;
pub use clerk::{Clerk, Conflict, WriteBatch};
pub use cluster::{Cluster, ClusterBuilder, TransportKind};
pub use db::{Builder, Db, Digest, GroupStatus, Stats, TransportObserver};
pub use error::{Error, Obstacle, OpenError};
pub use options::Options;
pub use partition::GROUPS_MAX;
pub use pending::Pending;
pub use quorate_kv::{KEY_BYTES_MAX, MapView, VALUE_BYTES_MAX};
pub use quorate_raft::{LogIndex, NodeId, Role, Term};
pub use quorate_wal::{GroupId, LogOptions};
pub use transport::Consistency;
