//! Probes for synced appends: one writer alone, and several that share syncs.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use quorate_wal::Durability;
use tempfile::TempDir;

use super::file::{BLOCK_BYTES, ProbeFile};
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

struct GroupWriter {
    shared: Arc<Shared>,
    payload: Vec<u8>,
}

struct Shared {
    /// Held by the leader while it writes; nobody else wants it then.
    file: Mutex<ProbeFile>,
    line: Mutex<Line>,
}

/// Invariant: somebody leads, or is about to be woken to, as long as `buffer` holds anything.
#[derive(Default)]
struct Line {
    buffer: Vec<u8>,
    /// The number of the last payload in the buffer or before it.
    last: u64,
    durable: u64,
    is_led: bool,
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
    ) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let shared = Arc::new(Shared::create(&dir.path().join("probe"), durability)?);
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
        let before = lock(&self.shared.file).syncs();
        let mut sample = run_writers(budget, &mut self.writers)?;
        sample.syncs = lock(&self.shared.file).syncs() - before;
        Ok(sample)
    }
}

impl Writer for GroupWriter {
    fn write(&mut self) -> Result<(), Failure> {
        self.shared.append(&self.payload)
    }
}

impl Shared {
    fn create(path: &Path, durability: Durability) -> Result<Self, Failure> {
        Ok(Self {
            file: Mutex::new(ProbeFile::create(path, durability)?),
            line: Mutex::default(),
        })
    }

    fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        let mut line = lock(&self.line);
        line.buffer.extend_from_slice(payload);
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
            if line.is_led {
                if !is_waiting {
                    line.waiting.push((ticket, std::thread::current()));
                    is_waiting = true;
                }
                drop(line);
                std::thread::park();
                line = lock(&self.line);
            } else {
                line = self.lead(line);
            }
        }
    }

    /// Writes everything in line, and wakes those whose payloads that were, and the next leader.
    fn lead<'a>(&'a self, mut line: MutexGuard<'a, Line>) -> MutexGuard<'a, Line> {
        line.is_led = true;
        let last = line.last;
        let mut batch = std::mem::take(&mut line.buffer);
        drop(line);
        batch.resize(batch.len().next_multiple_of(BLOCK_BYTES), 0);
        let written = lock(&self.file).append(&batch);
        batch.clear();

        let mut line = lock(&self.line);
        line.is_led = false;
        line.durable = last;
        line.failure = written.err().map(|error| error.to_string());
        if line.buffer.is_empty() {
            // Its memory is used again.
            line.buffer = batch;
        }
        let everybody = line.failure.is_some();
        let (woken, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut line.waiting)
            .into_iter()
            .partition(|(ticket, _)| everybody || *ticket <= last);
        let next_leader = waiting.first().map(|(_, thread)| thread.clone());
        line.waiting = waiting;
        for thread in next_leader
            .into_iter()
            .chain(woken.into_iter().map(|(_, thread)| thread))
        {
            thread.unpark();
        }
        line
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
