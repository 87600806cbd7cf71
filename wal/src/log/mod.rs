//! The log of a node: all groups, one file at a time, one sync for all that waits.
//!
//! Invariants:
//! - Submissions become durable in the order of their lsns. `durable` never decreases, and covers
//!   only what a sync that succeeded covered.
//! - A batch is never written where something that was acknowledged stands, and never into a
//!   segment whose space is not durable yet.
//! - After the first failed write or sync nothing is acknowledged any more.
//! - What [`Log::read`] returns is durable.
//!
//! Locks, each taken after those before it: `preparer` or `writer`, `spare`, `index`, `recent`,
//! `queue`, `line`.
//! Observers are called outside of all of them.

mod commit;
mod drive;
mod due;
mod prepare;
mod queue;
mod read;
mod recent;
mod reclaim;
pub(crate) mod recover;
mod replay;
pub(crate) mod reserve;
pub(crate) mod scan;
mod seal;
pub(crate) mod sort;
mod stage;
mod stats;
mod summary;
mod thread;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::batch::{GroupState, SnapshotRef};
use crate::disk::{DirLock, Disk, absolute};
use crate::error::{Damage, LogError, OpenError};
use crate::ids::{GroupId, Lsn};
use crate::index::Index;
use crate::options::LogOptions;
use crate::segment::Segment;

pub use drive::Drove;
pub use due::Due;
pub use prepare::Prepared;
pub use stats::LogStats;
pub use thread::LogThread;

use recover::IfNone;

/// A log that many groups share. See the [crate documentation](crate) for how its steps fit
/// together.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    queue: Mutex<queue::Queue>,
    /// Signalled when there is work for the log thread: submissions, a segment that it waited for,
    /// or the end.
    work: Condvar,
    writer: Mutex<drive::Writer>,
    index: RwLock<Index>,
    recent: RwLock<recent::Recent>,
    /// The next segment, ready to be written to.
    spare: Mutex<Option<Segment>>,
    preparer: Mutex<prepare::Preparer>,
    /// Signalled when there is work for the preparer. Its mutex says whether there is.
    prepare_work: Condvar,
    prepare_wanted: Mutex<bool>,
    pace: prepare::Pace,
    /// Bytes of the files that wait: the segment that is being made ready, and the reserve.
    waiting_bytes: AtomicU64,
    durable: AtomicU64,
    /// The lsn up to which a sync was seen to succeed.
    synced: AtomicU64,
    /// The generation of the manifest that is durable.
    manifest_generation: AtomicU64,
    /// Whether the last batch holds something that no later one says to be durable.
    is_uncovered: AtomicBool,
    line: commit::Line,
    observers: RwLock<Vec<Arc<dyn Observer>>>,
    counters: Counters,
    /// Gone once the log is closed.
    lock: Mutex<Option<DirLock>>,
}

/// Is told when a log moved.
pub trait Observer: Send + Sync {
    /// The durable lsn or the status of the log changed. Called by the thread that drove the log,
    /// outside of its locks: must return soon, and must not drive. If it panics on the log thread, the log
    /// has failed, since nobody writes any more.
    fn log_moved(&self);
}

/// How a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogStatus {
    /// It takes writes.
    Healthy,
    /// There is no space for the next segment. Entries are refused, reads and compaction go on; it
    /// takes writes again by itself after a preparation that succeeds.
    Full,
    /// A write or a sync failed. Nothing more is acknowledged; reads of what was durable go on.
    Failed {
        /// The first failure.
        reason: String,
    },
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Each group that the log knows.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// How the recovery went.
    pub report: RecoveryReport,
}

/// What the log held of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Its last hard state.
    pub state: GroupState,
    /// The first index in the log; one behind `last_index` if the log is empty.
    pub first_index: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// The term of the entry before `first_index`; zero if there was none.
    pub previous_term: u64,
    /// First index and term of each run of entries of one term. The first run starts at
    /// `first_index`.
    pub terms: Vec<(u64, u64)>,
    /// Its last snapshot.
    pub snapshot: Option<SnapshotRef>,
    /// First and last index of entries that were acknowledged and cannot be read any more. The
    /// report says where they were. A group with any must not be served from this log.
    pub lost: Vec<(u64, u64)>,
}

/// How a recovery went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Segments in service.
    pub segments: u64,
    /// Segments of which only the index was read.
    pub indexed_segments: u64,
    /// Bytes of batches that were read.
    pub scanned_bytes: u64,
    /// Bytes behind the last whole batch that were never acknowledged, and were cut.
    pub torn_tail_bytes: u64,
    /// What was lost of some groups, see [`RecoveredGroup::lost`]; with
    /// [`LogOptions::accept_damage`] also what cost the states of groups.
    pub damage: Vec<Damage>,
}

#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    syncs: AtomicU64,
    bytes_written: AtomicU64,
    moved_bytes: AtomicU64,
    /// Bytes that may be moved: those of the log when it was opened, and twice what was written
    /// since, moves left out.
    movable_bytes: AtomicU64,
    recycled: AtomicU64,
    last_sync_ns: AtomicU64,
    /// Submissions in the last batch.
    last_submissions: AtomicU64,
}

impl Counters {
    fn count_batch(&self, bytes: u64, moved: u64, given: u64) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
        self.moved_bytes.fetch_add(moved, Ordering::Relaxed);
        self.movable_bytes.fetch_add(2 * given, Ordering::Relaxed);
    }
}

impl Log {
    /// Opens the log in a directory, which is created if there is none, and says what it holds.
    /// What was durable is there; what was not acknowledged may be. Takes the lock of the directory
    /// until the log is dropped. Repairs nothing in place, so that a crash while it runs is
    /// harmless.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(Arc<Self>, Recovered), OpenError> {
        recover::open(disk, &absolute(dir), options, IfNone::Make)
    }

    /// Opens the log in a directory that held one before, like [`open`](Self::open), and makes none:
    /// [`OpenError::NoLog`] if it is gone. For who keeps a note elsewhere that there is one, and must
    /// not take an emptied directory for a log that is new.
    pub fn open_existing(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(Arc<Self>, Recovered), OpenError> {
        recover::open(disk, &absolute(dir), options, IfNone::Refuse)
    }

    /// Everything up to this lsn is durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Whether the log takes writes.
    pub fn status(&self) -> LogStatus {
        self.queue.lock().status.clone()
    }

    /// What it was opened with.
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Adds someone who is told after each sync, and when the status changes.
    pub fn add_observer(&self, observer: Arc<dyn Observer>) {
        self.observers.write().push(observer);
    }

    /// First and last index of the durable entries of a group; none if the log does not know the
    /// group. The last is one before the first if there are no entries.
    pub fn bounds(&self, group: GroupId) -> Option<(u64, u64)> {
        let index = self.index.read();
        index
            .groups
            .get(&group)
            .map(|log| (log.first_index(), log.last_index()))
    }

    /// Ends the log: it takes no more writes, and the directory may be opened again, by this process or another. Call it
    /// when its [`LogThread`] has stopped. What was read before stays valid.
    pub fn close(&self) {
        self.fail("it was closed".to_owned());
        // A thread that still writes or prepares finishes before another opener may begin.
        let writer = self.writer.lock();
        let preparer = self.preparer.lock();
        drop(self.lock.lock().take());
        drop((writer, preparer));
    }

    /// Stops the log for good: nothing is acknowledged from here on.
    fn fail(&self, reason: String) -> LogError {
        let mut queue = self.queue.lock();
        if !matches!(queue.status, LogStatus::Failed { .. }) {
            queue.status = LogStatus::Failed { reason };
        }
        queue.forget_waiting();
        let error = queue.failure().expect("the status was just set");
        drop(queue);
        self.work.notify_all();
        self.wake_line(true);
        error
    }

    fn tell_observers(&self) {
        self.wake_line(false);
        // Called on a copy: an observer may add another one.
        let observers = self.observers.read().clone();
        for observer in observers {
            observer.log_moved();
        }
    }

    fn want_prepare(&self) {
        *self.prepare_wanted.lock() = true;
        self.prepare_work.notify_one();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.dir)
            .field("durable", &self.durable())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
