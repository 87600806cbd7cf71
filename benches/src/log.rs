//! Appends through the log: by one call after the other, each returning when it is durable, or with
//! several on their way.

use std::path::Path;
use std::sync::{Arc, Weak};

use quorate_wal::{
    Durability, Entry, GroupId, Log, LogOptions, LogStatus, LogThread, Lsn, Observer, RealDisk,
    WriteBatch,
};
use tempfile::TempDir;

use crate::Failure;
use crate::payload::Payloads;
use crate::place::Place;
use crate::probe::Tickets;
use crate::sample::{
    Budget, Call, Pipeline, Sample, Writer, run_pipelines, run_writers, run_writers_traced,
};

/// What is appended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendShape {
    /// Threads that append at once, each to a group of its own.
    pub writers: usize,
    /// Entries in one call.
    pub entries: usize,
    /// Bytes of each entry.
    pub entry_bytes: usize,
    /// What must have happened when a call returns.
    pub durability: Durability,
}

impl AppendShape {
    /// One entry a call, synced.
    pub fn single(writers: usize, entry_bytes: usize) -> Self {
        Self {
            writers,
            entries: 1,
            entry_bytes,
            durability: Durability::PowerLoss,
        }
    }

    /// Bytes of the entries of one call.
    pub fn call_bytes(&self) -> usize {
        self.entries * self.entry_bytes
    }

    /// After so many calls a writer drops what it wrote, as it would behind a snapshot: what all of
    /// them keep takes about 64 MiB, so that a run of any length fits the disk.
    pub fn calls_kept(&self) -> u64 {
        let per_writer = KEPT_BYTES / self.writers as u64;
        (per_writer / (self.call_bytes() as u64).max(BLOCK_BYTES)).max(64)
    }
}

/// A log with several writers, each of which appends to a group of its own.
pub struct LogAppend {
    writers: Vec<LogWriter>,
    log: Arc<Log>,
    durable: Arc<Tickets>,
    is_observed: bool,
    _thread: LogThread,
    _dir: TempDir,
}

/// Writes on its own thread where it can.
struct LogWriter {
    log: Arc<Log>,
    durable: Arc<Tickets>,
    group: GroupId,
    next_index: u64,
    calls: u64,
    /// Filled again and again where calls are pipelined.
    batch: WriteBatch,
    payloads: Payloads,
    shape: AppendShape,
}

/// Leaves the writing to the thread of the log, as the store does.
struct HandingWriter<'a>(&'a mut LogWriter);

/// A log and the threads that drive it.
pub struct DrivenLog {
    /// The log.
    pub log: Arc<Log>,
    thread: LogThread,
}

/// Lets go of writers whose entries are durable.
struct Wake {
    log: Weak<Log>,
    durable: Arc<Tickets>,
}

const KEPT_BYTES: u64 = 64 << 20;

/// What the smallest batch takes on disk.
const BLOCK_BYTES: u64 = 4096;

impl LogAppend {
    /// Opens a fresh log for writers of this shape.
    pub fn open(place: &Place, shape: AppendShape) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let mut options = LogOptions::default();
        options.durability = shape.durability;
        let DrivenLog { log, thread } = DrivenLog::open(dir.path(), options)?;
        let durable = Arc::new(Tickets::default());
        let payloads = Payloads::new(shape.entry_bytes, 1);
        let writer = |group| LogWriter {
            log: Arc::clone(&log),
            durable: Arc::clone(&durable),
            group: GroupId(group),
            next_index: 1,
            calls: 0,
            batch: WriteBatch::new(),
            payloads: payloads.of_thread(group),
            shape,
        };
        Ok(Self {
            writers: (0..shape.writers as u64).map(writer).collect(),
            log,
            durable,
            is_observed: false,
            _thread: thread,
            _dir: dir,
        })
    }

    /// Appends by [`Log::commit`] until the budget, of calls, is used up.
    pub fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        self.counting_syncs(|writers| run_writers(budget, writers))
    }

    /// Appends by [`Log::submit`], each call waiting until it is told that its entries are durable.
    pub fn run_handing(&mut self, budget: Budget) -> Result<Sample, Failure> {
        self.observe();
        self.counting_syncs(|writers| {
            let mut writers: Vec<_> = writers.iter_mut().map(HandingWriter).collect();
            run_writers(budget, &mut writers)
        })
    }

    /// Appends by [`Log::enqueue`] with so many calls of each writer on their way.
    pub fn run_pipelined(&mut self, budget: Budget, depth: usize) -> Result<Sample, Failure> {
        self.observe();
        self.counting_syncs(|writers| run_pipelines(budget, depth, writers))
    }

    /// Like [`run`](Self::run), and keeps when each call was made.
    pub fn run_traced(&mut self, budget: Budget) -> Result<Vec<Call>, Failure> {
        Ok(run_writers_traced(budget, &mut self.writers)?.1)
    }

    /// The log, for its figures.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// How many bytes the log writes for a call that is alone in its batch.
    pub fn batch_bytes(&mut self) -> Result<usize, Failure> {
        // The first batch of a segment is larger: it begins with the state of all groups.
        self.writers[0].write()?;
        let before = self.log.stats().bytes_written;
        self.writers[0].write()?;
        Ok((self.log.stats().bytes_written - before) as usize)
    }

    /// Has those told that wait, from now on. It costs those a little who do not.
    fn observe(&mut self) {
        if !self.is_observed {
            self.is_observed = true;
            let log = Arc::downgrade(&self.log);
            let durable = Arc::clone(&self.durable);
            self.log.add_observer(Arc::new(Wake { log, durable }));
        }
    }

    fn counting_syncs(
        &mut self,
        run: impl FnOnce(&mut [LogWriter]) -> Result<Sample, Failure>,
    ) -> Result<Sample, Failure> {
        let before = self.log.stats().syncs;
        let mut sample = run(&mut self.writers)?;
        sample.syncs = self.log.stats().syncs - before;
        Ok(sample)
    }
}

impl LogWriter {
    fn next_batch(&mut self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        self.fill(&mut batch);
        batch
    }

    fn fill(&mut self, batch: &mut WriteBatch) {
        let first = self.next_index;
        self.next_index += self.shape.entries as u64;
        let entry = |index| Entry {
            index,
            term: 1,
            kind: 0,
            payload: self.payloads.draw(),
        };
        self.calls += 1;
        batch.append(self.group, (first..self.next_index).map(entry).collect());
        if self.calls.is_multiple_of(self.shape.calls_kept()) {
            batch.compact(self.group, self.next_index);
        }
    }
}

impl Writer for LogWriter {
    fn write(&mut self) -> Result<(), Failure> {
        let batch = self.next_batch();
        self.log.commit(batch)?;
        Ok(())
    }
}

impl Writer for HandingWriter<'_> {
    fn write(&mut self) -> Result<(), Failure> {
        let batch = self.0.next_batch();
        let lsn = self.0.log.submit(batch)?;
        self.0.wait(lsn.0)
    }
}

impl Pipeline for LogWriter {
    fn issue(&mut self) -> Result<u64, Failure> {
        let mut batch = std::mem::take(&mut self.batch);
        self.fill(&mut batch);
        let lsn = self.log.enqueue(&mut batch)?;
        self.batch = batch;
        Ok(lsn.0)
    }

    fn flush(&mut self) {
        self.log.nudge();
    }

    fn wait(&mut self, number: u64) -> Result<(), Failure> {
        self.durable.wait(number);
        // A log that failed lets everybody go.
        if self.is_done(number) {
            Ok(())
        } else {
            Err(format!("the log stands still: {:?}", self.log.status()).into())
        }
    }

    fn is_done(&self, number: u64) -> bool {
        self.log.durable() >= Lsn(number)
    }
}

impl DrivenLog {
    /// Opens the log in a directory and starts its threads.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, Failure> {
        let (log, _recovered) = Log::open(Arc::new(RealDisk), dir, options)?;
        let thread = LogThread::spawn(Arc::clone(&log), "bench-log")?;
        Ok(Self { log, thread })
    }

    /// Ends the threads and closes the log.
    pub fn close(self) {
        self.thread.stop(true);
        self.log.close();
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
