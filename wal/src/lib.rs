//! A segmented log that many Raft groups share, and files for their snapshots.

mod batch;
mod codec;
mod disk;
mod error;
mod format;
mod group;
mod ids;
mod index;
mod locations;
mod log;
mod map;
mod options;
mod record;
mod segment;
mod snapshot;

pub use batch::{Entry, GroupState, SnapshotRef, WriteBatch};
pub use disk::{DirLock, Disk, DiskFile, MemoryDisk, RealDisk, write_atomically};
pub use error::{Damage, DamageKind, LogError, OpenError, ReadError, SnapshotError, SubmitError};
pub use ids::{GroupId, Lsn, SegmentId};
pub use log::{
    Drove, Log, LogStats, LogStatus, LogThread, Observer, Prepared, Recovered, RecoveredGroup,
    RecoveryReport,
};
pub use options::LogOptions;
pub use snapshot::{SnapshotReader, SnapshotWriter, Snapshots};
