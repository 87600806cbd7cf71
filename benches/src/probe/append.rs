//! Probes for synced appends: one writer alone, and several that share syncs.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use quorate_wal::Durability;
use tempfile::TempDir;

use super::file::{BLOCK_BYTES, ProbeFile, ProbeSync};
use crate::Failure;
use crate::place::Place;
use crate::sample::{Budget, Sample, Writer, run_writers};

/// One writer: the same blocks by `pwrite` and `fdatasync`, nothing else.
pub struct RawAppend {
    writer: RawWriter,
    _dir: TempDir,
}

struct RawWriter {
    file: ProbeFile,
    blocks: Vec<u8>,
}

impl RawAppend {
    /// Makes the file.
    pub fn open(
        place: &Place,
        batch_bytes: usize,
        durability: Durability,
    ) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let file = ProbeFile::create(&dir.path().join("probe"), durability)?;
        let blocks = vec![0xA5; batch_bytes.next_multiple_of(BLOCK_BYTES)];
        Ok(Self {
            writer: RawWriter { file, blocks },
            _dir: dir,
        })
    }

    /// Writes until the budget is used up.
    pub fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        let before = self.writer.file.syncs();
        let mut sample = run_writers(budget, std::slice::from_mut(&mut self.writer))?;
        sample.syncs = self.writer.file.syncs() - before;
        Ok(sample)
    }
}

impl Writer for RawWriter {
    fn write(&mut self) -> Result<(), Failure> {
        Ok(self.file.append(&self.blocks)?)
    }
}

/// Several writers with the least that group commit needs: whoever finds nobody leading writes and syncs for all that
/// wait, then hands over to one of those who came meanwhile. No format, no checksums, no index.
pub struct GroupCommit {
    writers: Vec<GroupWriter>,
    shared: Arc<Shared>,
    _dir: TempDir,
}

/// How many batches are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderWay {
    /// The next one is written when the one before it is durable.
    One,
    /// A second one is written while the first is synced, as soon as half of the writers are in line for it.
    Two,
}

struct GroupWriter {
    shared: Arc<Shared>,
    payload: Vec<u8>,
}

struct Shared {
    /// Held by a leader while it writes.
    file: Mutex<ProbeFile>,
    line: Mutex<Line>,
    under_way: UnderWay,
    /// So many payloads in line are enough for a second batch.
    second_from: usize,
}

/// Invariant: somebody leads, or is about to be woken to, as long as `buffer` holds anything.
#[derive(Default)]
struct Line {
    buffer: Vec<u8>,
    /// Payloads in the buffer.
    payloads: usize,
    /// The number of the last payload in the buffer or before it.
    last: u64,
    durable: u64,
    /// Batches that are written or synced, the oldest first: the number of the last payload of each, and whether it is
    /// durable. What is behind one that is not durable is not acknowledged.
    batches: VecDeque<(u64, bool)>,
    syncs: u64,
    waiting: Vec<(u64, Thread)>,
    failure: Option<String>,
}

impl GroupCommit {
    /// Makes the file, and `writers` writers of `call_bytes` a call each.
    pub fn open(
        place: &Place,
        writers: usize,
        call_bytes: usize,
        durability: Durability,
        under_way: UnderWay,
    ) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let file = ProbeFile::create(&dir.path().join("probe"), durability)?;
        let shared = Arc::new(Shared {
            file: Mutex::new(file),
            line: Mutex::default(),
            under_way,
            second_from: writers.div_ceil(2),
        });
        let writer = |_| GroupWriter {
            shared: Arc::clone(&shared),
            payload: vec![0xA5; call_bytes],
        };
        Ok(Self {
            writers: (0..writers).map(writer).collect(),
            shared,
            _dir: dir,
        })
    }

    /// Writes until the budget is used up.
    pub fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        let before = lock(&self.shared.line).syncs;
        let mut sample = run_writers(budget, &mut self.writers)?;
        sample.syncs = lock(&self.shared.line).syncs - before;
        Ok(sample)
    }
}

impl Writer for GroupWriter {
    fn write(&mut self) -> Result<(), Failure> {
        self.shared.append(&self.payload)
    }
}

impl Shared {
    fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        let mut line = lock(&self.line);
        line.buffer.extend_from_slice(payload);
        line.payloads += 1;
        line.last += 1;
        let ticket = line.last;
        let mut is_waiting = false;
        loop {
            if let Some(failure) = &line.failure {
                return Err(failure.clone().into());
            }
            if line.durable >= ticket {
                return Ok(());
            }
            if self.may_lead(&line) {
                line = self.lead(line);
            } else {
                if !is_waiting {
                    line.waiting.push((ticket, std::thread::current()));
                    is_waiting = true;
                }
                drop(line);
                std::thread::park();
                line = lock(&self.line);
            }
        }
    }

    fn may_lead(&self, line: &Line) -> bool {
        match (line.batches.len(), self.under_way) {
            (0, _) => true,
            (1, UnderWay::Two) => line.payloads >= self.second_from,
            _ => false,
        }
    }

    /// Writes everything in line, and wakes those whose payloads are durable now, and the next leader.
    fn lead<'a>(&'a self, mut line: MutexGuard<'a, Line>) -> MutexGuard<'a, Line> {
        let last = line.last;
        line.batches.push_back((last, false));
        line.payloads = 0;
        let mut batch = std::mem::take(&mut line.buffer);
        // Nobody stands in line for the file: two batches may change places there, but not in `batches`.
        drop(line);
        batch.resize(batch.len().next_multiple_of(BLOCK_BYTES), 0);
        let mut file = lock(&self.file);
        let written = file.write(&batch);
        drop(file);
        let synced = written.and_then(ProbeSync::sync);
        batch.clear();

        let mut line = lock(&self.line);
        if line.buffer.is_empty() {
            // Its memory is used again.
            line.buffer = batch;
        }
        line.note_synced(last, synced);
        line.wake();
        line
    }
}

impl Line {
    fn note_synced(&mut self, last: u64, synced: io::Result<bool>) {
        match synced {
            Ok(synced) => self.syncs += u64::from(synced),
            Err(error) => self.failure = Some(error.to_string()),
        }
        for batch in &mut self.batches {
            batch.1 |= batch.0 == last;
        }
        while let Some(&(last, true)) = self.batches.front() {
            self.batches.pop_front();
            self.durable = last;
        }
    }

    /// Wakes those who are done, and first of all one of the others, to lead.
    fn wake(&mut self) {
        let everybody = self.failure.is_some();
        let (woken, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(ticket, _)| everybody || *ticket <= self.durable);
        let in_line = self.last - self.payloads as u64;
        let next_leader = waiting.iter().find(|(ticket, _)| *ticket > in_line);
        let next_leader = next_leader.map(|(_, thread)| thread.clone());
        self.waiting = waiting;
        for thread in next_leader
            .into_iter()
            .chain(woken.into_iter().map(|(_, thread)| thread))
        {
            thread.unpark();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
