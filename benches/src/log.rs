//! Synced appends through the log: one entry a call, each returning when it is durable.

use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use quorate_wal::{
    Entry, GroupId, Log, LogOptions, LogStatus, LogThread, Lsn, Observer, RealDisk, WriteBatch,
};
use tempfile::TempDir;

use crate::Failure;
use crate::place::Place;
use crate::probe::Tickets;
use crate::sample::{Budget, Sample, Writer, run_writers};

/// A log with several writers, each of which appends to a group of its own.
pub struct LogAppend {
    writers: Vec<LogWriter>,
    log: Arc<Log>,
    _thread: LogThread,
    _dir: TempDir,
}

struct LogWriter {
    log: Arc<Log>,
    durable: Arc<Tickets>,
    group: GroupId,
    next_index: u64,
    payload: Bytes,
    compact_after: u64,
}

/// Lets go of writers whose entries are durable.
struct Wake {
    log: Weak<Log>,
    durable: Arc<Tickets>,
}

/// The log keeps about so much, as it would behind snapshots, so that a run of any length fits the disk.
const KEPT_BYTES: u64 = 64 << 20;

/// What the smallest batch takes on disk.
const BLOCK_BYTES: u64 = 4096;

impl LogAppend {
    /// Opens a fresh log for `writers` writers of entries of `entry_bytes`.
    pub fn open(place: &Place, writers: usize, entry_bytes: usize) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let (log, thread, durable) = open_log(dir.path())?;
        let per_writer = KEPT_BYTES / writers as u64;
        let compact_after = (per_writer / (entry_bytes as u64).max(BLOCK_BYTES)).max(64);
        let writer = |group| LogWriter {
            log: Arc::clone(&log),
            durable: Arc::clone(&durable),
            group: GroupId(group),
            next_index: 1,
            payload: Bytes::from(vec![0xA5; entry_bytes]),
            compact_after,
        };
        let writers: Vec<_> = (0..writers as u64).map(writer).collect();
        Ok(Self {
            writers,
            log,
            _thread: thread,
            _dir: dir,
        })
    }

    /// Appends until the budget is used up.
    pub fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        let before = self.log.stats().syncs;
        let mut sample = run_writers(budget, &mut self.writers)?;
        sample.syncs = self.log.stats().syncs - before;
        Ok(sample)
    }

    /// How many bytes the log writes for one entry that is alone in its batch.
    pub fn batch_bytes(&mut self) -> Result<usize, Failure> {
        // The first batch of a segment is larger: it begins with the state of all groups.
        self.writers[0].write()?;
        let before = self.log.stats().bytes_written;
        self.writers[0].write()?;
        Ok((self.log.stats().bytes_written - before) as usize)
    }
}

impl Writer for LogWriter {
    fn write(&mut self) -> Result<(), Failure> {
        let index = self.next_index;
        self.next_index += 1;
        let mut batch = WriteBatch::new();
        batch.append(
            self.group,
            vec![Entry {
                index,
                term: 1,
                kind: 0,
                payload: self.payload.clone(),
            }],
        );
        if index.is_multiple_of(self.compact_after) {
            batch.compact(self.group, index + 1);
        }
        let lsn = self.log.submit(batch)?;
        self.durable.wait(lsn.0);
        // A log that failed lets everybody go.
        if self.log.durable() < lsn {
            return Err(format!("the log stands still: {:?}", self.log.status()).into());
        }
        Ok(())
    }
}

impl Observer for Wake {
    fn log_moved(&self) {
        let Some(log) = self.log.upgrade() else {
            return;
        };
        let durable = match log.status() {
            LogStatus::Failed { .. } => Lsn(u64::MAX),
            _ => log.durable(),
        };
        self.durable.reached(durable.0);
    }
}

fn open_log(dir: &Path) -> Result<(Arc<Log>, LogThread, Arc<Tickets>), Failure> {
    let (log, _recovered) = Log::open(Arc::new(RealDisk), dir, LogOptions::default())?;
    let durable = Arc::new(Tickets::default());
    log.add_observer(Arc::new(Wake {
        log: Arc::downgrade(&log),
        durable: Arc::clone(&durable),
    }));
    let thread = LogThread::spawn(Arc::clone(&log), "bench-log")?;
    Ok((log, thread, durable))
}
