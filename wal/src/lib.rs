//! A segmented log that many Raft groups share, and files for their snapshots.
//!
//! One [`Log`] serves all groups of a node, so that one write and one sync make the entries of all
//! of them durable. It knows groups, indexes, terms and bytes, and nothing of Raft: only that
//! appending at an index that is taken cuts the log of the group there.
//!
//! # The steps of a log
//!
//! The log has no thread of its own. [`Log::submit`] puts a [`WriteBatch`] in line, from any
//! thread; [`Log::drive`] writes all that is in line as one batch, syncs it, and moves
//! [`Log::durable`]; [`Log::prepare`] makes the next segment ready and deletes dead ones, off the
//! commit path. A [`LogThread`] takes the last two steps in production; a simulator takes them one
//! at a time.
//!
//! ```
//! use std::sync::Arc;
//! use quorate_wal::{Entry, GroupId, Log, LogOptions, LogThread, RealDisk, WriteBatch};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let (log, recovered) = Log::open(Arc::new(RealDisk), dir, LogOptions::default())?;
//! assert!(recovered.groups.is_empty());
//! let threads = LogThread::spawn(Arc::clone(&log), "log")?;
//!
//! let mut batch = WriteBatch::new();
//! let entry = Entry { index: 1, term: 1, kind: 0, payload: "quorate".into() };
//! batch.append(GroupId(1), vec![entry.clone()]);
//! let lsn = log.submit(batch)?;
//! threads.stop(true); // Or wait for the observer that `Log::add_observer` takes.
//! assert!(log.durable() >= lsn);
//! assert_eq!(log.read(GroupId(1), 1, 2, usize::MAX)?, [entry]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - What [`Log::durable`] covers survives the loss of power. What it does not may be there after a
//!   reopen or not, but each submission is there whole or not at all, and none without those before
//!   it.
//! - Damage to what was durable is named, by file, offset, group and index, and neither served nor
//!   silently cut.
//! - After a failed write or sync nothing is acknowledged any more, see [`LogStatus::Failed`]. A
//!   full disk refuses entries and passes, see [`LogStatus::Full`]; so does
//!   one without file handles, see [`LogStatus::NoHandles`].
//!
//! The files are described in `docs/format.md`. They are reached through the [`Disk`] trait;
//! [`RealDisk`] writes with `pwritev` and reads through a map, [`MemoryDisk`] keeps files in
//! memory.

#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!(
    "Quorate runs on Linux and macOS: its log locks directories, syncs them and writes at offsets \
     with calls of Unix"
);

mod batch;
mod codec;
mod disk;
mod error;
mod footer;
mod format;
mod group;
mod ids;
mod index;
mod locations;
mod log;
mod manifest;
#[allow(
    unsafe_code,
    reason = "a map is unsafe; the file says what makes this one sound"
)]
mod map;
mod mutants;
mod options;
mod record;
mod segment;
mod slots;
mod snapshot;
mod tools;

pub use batch::{Entry, GroupState, SnapshotRef, WriteBatch};
pub use disk::{DirLock, Disk, DiskFile, MemoryDisk, RealDisk, write_atomically};
pub use error::{
    CommitError, Damage, DamageKind, LogError, OpenError, ReadError, SnapshotError, SubmitError,
};
pub use ids::{GroupId, Lsn, SegmentId};
pub use log::{
    Drove, Due, Log, LogStats, LogStatus, LogThread, Observer, Prepared, Recovered, RecoveredGroup,
    RecoveryReport,
};
pub use options::{Durability, ENTRY_BYTES_LIMIT, LogOptions};
pub use snapshot::{SnapshotReader, SnapshotWriter, Snapshots};
pub use tools::{
    BatchInspection, Cost, GroupInspection, GroupLoss, GroupShare, Inspection, ManifestSlot, Note,
    Problem, RepairPlan, RepairStep, SegmentInspection, SegmentShare, SegmentState, SlotState,
    Verdict, Verification, VerifyProgress, inspect, list_batches, plan_repair, verify,
};

/// Disks that fail, for tests and simulations.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::disk::crash::{
        CrashDisk, DiskError, Effect, Fault, Op, OpKind, Pending, PendingChange, Survivors, Watcher,
    };
}
