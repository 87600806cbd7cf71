//! raft-engine, driven as its users drive it: entries are those of raft-rs, each thread uses its
//! `LogBatch` again, groups are compacted by `compact_to`, and a thread calls
//! `purge_expired_files`.
//!
//! Its options are the defaults but for these, which are named in the report: files as large as the
//! segments of Quorate where both reclaim space, and a purge threshold low enough that files are
//! purged and used again within a run, as in a process that is up for long.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_benches::{
    AppendShape, Budget, Call, Failure, Numbers, Payloads, Place, Sample, StoredShape, Writer,
    run_cheap, run_writers, run_writers_traced,
};
use quorate_wal::Durability;
use raft_engine::internals::LogQueue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;
use tempfile::TempDir;

use crate::trace::Span;

/// Says which field of an entry is its index.
#[derive(Clone)]
struct RaftEntry;

impl MessageExt for RaftEntry {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// Where space is reclaimed: bytes of a file, bytes from which on files are purged, and how often
/// that is tried. (`TiKV` tries every ten seconds.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reclaim {
    pub(crate) file_bytes: u64,
    pub(crate) threshold_bytes: u64,
    pub(crate) every: Duration,
    /// Entries that a group keeps when it is told to compact.
    pub(crate) kept: u64,
}

/// For appends of which nothing is kept for long.
pub(crate) const RECLAIM_ALL: Reclaim = Reclaim {
    file_bytes: 64 << 20,
    threshold_bytes: 256 << 20,
    every: Duration::from_millis(100),
    kept: 0,
};

/// An engine with a thread that purges.
pub(crate) struct PeerLog {
    engine: Arc<Engine>,
    /// When it purged.
    purges: Arc<Mutex<Vec<Span>>>,
    /// None once it ends.
    stop: Option<Sender<()>>,
    purger: Option<JoinHandle<()>>,
}

/// One thread that appends.
pub(crate) struct PeerWriter {
    engine: Arc<Engine>,
    batch: LogBatch,
    entries: Vec<Entry>,
    payloads: Payloads,
    synced: bool,
}

/// Like [`quorate_benches::LogAppend`].
pub(crate) struct PeerAppend {
    writers: Vec<PeerAppender>,
    log: PeerLog,
    _dir: TempDir,
}

struct PeerAppender {
    writer: PeerWriter,
    group: u64,
    next_index: u64,
    calls: u64,
    shape: AppendShape,
}

/// Like [`quorate_benches::StoredLog`].
pub(crate) struct PeerStored {
    engine: Engine,
    shape: StoredShape,
    numbers: Numbers,
    next_index: u64,
    read: Vec<Entry>,
}

/// More purges than that in one run are not noted.
const PURGES_MAX: usize = 1 << 16;

impl PeerLog {
    pub(crate) fn open(dir: &Path, reclaim: Reclaim, compresses: bool) -> Result<Self, Failure> {
        let mut config = config(dir)?;
        if !compresses {
            config.batch_compression_threshold = ReadableSize(0);
        }
        config.target_file_size = ReadableSize(reclaim.file_bytes);
        config.purge_threshold = ReadableSize(reclaim.threshold_bytes);
        let engine = Arc::new(Engine::open(config)?);
        let purges = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = channel::<()>();
        let (purging, noted) = (Arc::clone(&engine), Arc::clone(&purges));
        let thread = std::thread::Builder::new()
            .name("peer-purge".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(reclaim.every) == Err(RecvTimeoutError::Timeout) {
                    let began = Instant::now();
                    if let Err(error) = purge(&purging, reclaim.kept) {
                        eprintln!("raft-engine cannot purge: {error}");
                        return;
                    }
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    if noted.len() < PURGES_MAX {
                        noted.push((began, Instant::now()));
                    }
                }
            })?;
        Ok(Self {
            engine,
            purges,
            stop: Some(stop),
            purger: Some(thread),
        })
    }

    pub(crate) fn writer(&self, payloads: Payloads, synced: bool) -> PeerWriter {
        PeerWriter {
            engine: Arc::clone(&self.engine),
            batch: LogBatch::default(),
            entries: Vec::new(),
            payloads,
            synced,
        }
    }

    /// When it purged, in order; attempts that found nothing to do take no time worth a word.
    pub(crate) fn purges(&self) -> Vec<Span> {
        const NOTHING: Duration = Duration::from_millis(1);
        let purges = self.purges.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = |span: &&Span| span.1 - span.0 > NOTHING;
        purges.iter().filter(lasting).copied().collect()
    }

    /// Tells the number of the file that is written to.
    pub(crate) fn file_number(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let engine = Arc::clone(&self.engine);
        move || engine.file_span(LogQueue::Append).1
    }
}

impl Drop for PeerLog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(purger) = self.purger.take() {
            // A panic of the thread was reported when it happened.
            let _ended = purger.join();
        }
    }
}

/// Purges, and compacts the groups that keep old files, as the engine asks for.
fn purge(engine: &Engine, kept: u64) -> Result<(), Failure> {
    for group in engine.purge_expired_files()? {
        let end = engine.last_index(group).map_or(0, |last| last + 1);
        engine.compact_to(group, end.saturating_sub(kept));
    }
    Ok(())
}

impl PeerWriter {
    /// Appends so many entries to a group in one call.
    pub(crate) fn append(&mut self, group: u64, from: u64, entries: u64) -> Result<(), Failure> {
        self.add(group, from, entries)?;
        self.write()
    }

    /// Adds entries to what the next write takes.
    pub(crate) fn add(&mut self, group: u64, from: u64, entries: u64) -> Result<(), Failure> {
        self.entries.resize_with(entries as usize, || Entry {
            term: 1,
            ..Entry::default()
        });
        for (entry, index) in self.entries.iter_mut().zip(from..) {
            entry.index = index;
            entry.data = self.payloads.draw();
        }
        Ok(self.batch.add_entries::<RaftEntry>(group, &self.entries)?)
    }

    pub(crate) fn write(&mut self) -> Result<(), Failure> {
        self.engine.write(&mut self.batch, self.synced)?;
        Ok(())
    }

    pub(crate) fn compact_to(&self, group: u64, index: u64) {
        self.engine.compact_to(group, index);
    }
}

impl PeerAppend {
    pub(crate) fn open(
        place: &Place,
        shape: AppendShape,
        compresses: bool,
    ) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let log = PeerLog::open(dir.path(), RECLAIM_ALL, compresses)?;
        let synced = shape.durability == Durability::PowerLoss;
        let payloads = Payloads::new(shape.entry_bytes, 1);
        let writer = |group| PeerAppender {
            writer: log.writer(payloads.of_thread(group), synced),
            group,
            next_index: 1,
            calls: 0,
            shape,
        };
        Ok(Self {
            writers: (0..shape.writers as u64).map(writer).collect(),
            log,
            _dir: dir,
        })
    }

    pub(crate) fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        run_writers(budget, &mut self.writers)
    }

    pub(crate) fn run_traced(&mut self, budget: Budget) -> Result<Vec<Call>, Failure> {
        Ok(run_writers_traced(budget, &mut self.writers)?.1)
    }

    pub(crate) fn log(&self) -> &PeerLog {
        &self.log
    }
}

impl Writer for PeerAppender {
    fn write(&mut self) -> Result<(), Failure> {
        let entries = self.shape.entries as u64;
        self.writer.append(self.group, self.next_index, entries)?;
        self.next_index += entries;
        self.calls += 1;
        if self.calls.is_multiple_of(self.shape.calls_kept()) {
            self.writer.compact_to(self.group, self.next_index);
        }
        Ok(())
    }
}

impl PeerStored {
    pub(crate) fn write(dir: &Path, shape: StoredShape) -> Result<(), Failure> {
        let engine = Arc::new(Engine::open(config(dir)?)?);
        let mut writer = PeerWriter {
            engine: Arc::clone(&engine),
            batch: LogBatch::default(),
            entries: Vec::new(),
            payloads: Payloads::new(shape.entry_bytes, 1),
            synced: false,
        };
        shape.for_each_append(|group, from, to| writer.append(group, from, to - from))?;
        Ok(engine.sync()?)
    }

    pub(crate) fn open(dir: &Path, shape: StoredShape, threads: usize) -> Result<Self, Failure> {
        let mut config = config(dir)?;
        config.recovery_threads = threads;
        Ok(Self {
            engine: Engine::open(config)?,
            shape,
            numbers: Numbers::new(1),
            next_index: 1,
            read: Vec::new(),
        })
    }

    /// How many entries it holds.
    pub(crate) fn entries(&self) -> u64 {
        let of = |group| {
            let bounds = (
                self.engine.first_index(group),
                self.engine.last_index(group),
            );
            match bounds {
                (Some(first), Some(last)) => last + 1 - first,
                _ => 0,
            }
        };
        self.engine.raft_groups().into_iter().map(of).sum()
    }

    pub(crate) fn read_random(&mut self, budget: Budget) -> Result<Sample, Failure> {
        let Self {
            engine,
            shape,
            numbers,
            ..
        } = self;
        run_cheap(budget, || {
            let group = numbers.below(shape.groups);
            let index = 1 + numbers.below(shape.entries_per_group);
            let entry = engine.get_entry::<RaftEntry>(group, index)?;
            match entry {
                Some(entry) if entry.data.len() == shape.entry_bytes => Ok(()),
                _ => Err(format!("entry {index} of group {group} is not there").into()),
            }
        })
    }

    pub(crate) fn read_forward(&mut self, budget: Budget, entries: u64) -> Result<Sample, Failure> {
        let Self {
            engine,
            shape,
            next_index,
            read,
            ..
        } = self;
        run_cheap(budget, || {
            if *next_index + entries > shape.entries_per_group + 1 {
                *next_index = 1;
            }
            let from = *next_index;
            *next_index += entries;
            read.clear();
            let count =
                engine.fetch_entries_to::<RaftEntry>(0, from, from + entries, None, read)?;
            if count as u64 == entries {
                Ok(())
            } else {
                Err(format!("{count} entries came instead of {entries}").into())
            }
        })
    }
}

fn config(dir: &Path) -> Result<Config, Failure> {
    let dir = dir.to_str().ok_or("raft-engine needs a path in UTF-8")?;
    Ok(Config {
        dir: dir.to_owned(),
        ..Config::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_there_after_an_open() -> Result<(), Failure> {
        let place = Place::from_environment()?;
        let dir = place.folder()?;
        let shape = StoredShape::of_bytes(1 << 20, 128, 32);
        PeerStored::write(dir.path(), shape)?;
        let mut stored = PeerStored::open(dir.path(), shape, 4)?;
        assert_eq!(stored.entries(), shape.entries());
        assert_eq!(stored.read_random(Budget::Ops(100))?.ops, 100);
        assert_eq!(stored.read_forward(Budget::Ops(100), 64)?.ops, 100);
        Ok(())
    }
}
