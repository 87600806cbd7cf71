//! A replicated, durable, exactly-once key-value store that lives inside your Rust program.
//!
//! Open a [`Db`] in each process of a cluster, or a whole [`Cluster`] in one; call it through a [`Clerk`] from anywhere.
//! When a write returns, it is on the disks of a majority; when it is repeated because an answer got lost, it still takes
//! effect once.
//!
//! ```
//! use quorate::Cluster;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::in_memory(3)?; // three replicas in this process, zero-copy transport
//! let clerk = cluster.clerk();
//! clerk.put("motto", "quorate")?; // committed by a majority when it returns
//! cluster.crash(cluster.leader()?); // the clerk finds the new leader by itself
//! clerk.append("motto", "!")?;
//! assert_eq!(clerk.get("motto")?.as_deref(), Some(&b"quorate!"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! What survives what is in `docs/guarantees.md` of the repository, how it is put together in `ARCHITECTURE.md`.
#![forbid(unsafe_code)]

const _: () = assert!(
    usize::BITS == 64,
    "lengths and counts cross between usize and u64"
);

mod clerk;
mod client;
mod cluster;
mod db;
mod error;
mod files;
mod handoff;
mod identity;
mod membership;
mod mutants;
mod node;
mod opening;
mod options;
mod partition;
mod pending;
mod rejected;
mod runtime;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod transport;
#[cfg(test)]
mod trouble;

pub use bytes::Bytes;
pub use clerk::{Clerk, Conflict, WriteBatch};
pub use cluster::{Cluster, ClusterBuilder, TransportKind};
pub use db::{Builder, Db, Digest, GroupStatus, Stats, TransportObserver};
pub use error::{Error, Obstacle, OpenError, SnapshotError, TransferError};
pub use membership::FoundingStatus;
pub use options::Options;
pub use partition::GROUPS_MAX;
pub use pending::Pending;
pub use quorate_kv::{KEY_BYTES_MAX, MapView, TooLarge, VALUE_BYTES_MAX};
pub use quorate_raft::{LogIndex, NodeId, Role, Term};
pub use quorate_wal::{
    Durability, GroupId, LogOptions, LogStats, LogStatus, OpenError as LogOpenError,
};
pub use rejected::Rejected;
pub use transport::{Consistency, Founding, LogHealth, NodeStatus};

/// The README's examples are tests. (Those of the project's README are tested in `benches`.)
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
