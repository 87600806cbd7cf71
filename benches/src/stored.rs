//! A log that is on disk already: to be opened, and to be read from.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use quorate_wal::{
    Drove, Durability, Entry, GroupId, Log, LogOptions, RealDisk, Recovered, WriteBatch,
};
use rustix::fs::{Advice, fadvise};

use crate::Failure;
use crate::log::DrivenLog;
use crate::payload::{Numbers, Payloads};
use crate::sample::{Budget, Sample, run_cheap};

/// What is in the log. The entries of all groups are as large, and as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredShape {
    /// Groups, which append in turn.
    pub groups: u64,
    /// Entries of each group.
    pub entries_per_group: u64,
    /// Bytes of each entry.
    pub entry_bytes: usize,
    /// Entries in one append.
    pub per_append: u64,
}

/// A log that was opened again, for readers.
pub struct StoredLog {
    log: Arc<Log>,
    shape: StoredShape,
    numbers: Numbers,
    next_index: u64,
}

/// So much is written at once.
const BATCH_BYTES: u64 = 1 << 20;

/// A footer begins with this, on a block boundary.
const FOOTER_MAGIC: &[u8; 4] = b"QIDX";
const BLOCK_BYTES: usize = 4096;

impl StoredShape {
    /// The same bytes of payload in 16 groups, rounded down to whole appends.
    pub fn of_bytes(bytes: u64, entry_bytes: usize, per_append: u64) -> Self {
        const GROUPS: u64 = 16;
        let appends = bytes / (GROUPS * per_append * entry_bytes as u64);
        Self {
            groups: GROUPS,
            entries_per_group: appends.max(1) * per_append,
            entry_bytes,
            per_append,
        }
    }

    /// All entries.
    pub fn entries(&self) -> u64 {
        self.groups * self.entries_per_group
    }

    /// Bytes of all payloads.
    pub fn bytes(&self) -> u64 {
        self.entries() * self.entry_bytes as u64
    }

    /// Calls the function with each append, in the order in which they are made: the group, the
    /// first index, and one behind the last.
    pub fn for_each_append(
        &self,
        mut append: impl FnMut(u64, u64, u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for begin in (1..=self.entries_per_group).step_by(self.per_append as usize) {
            for group in 0..self.groups {
                append(group, begin, begin + self.per_append)?;
            }
        }
        Ok(())
    }
}

impl StoredLog {
    /// Writes the log, as fast as it goes. Its last segment is left as it is; the files are synced.
    pub fn write(dir: &Path, shape: StoredShape) -> Result<(), Failure> {
        let mut options = LogOptions::default();
        options.durability = Durability::ProcessCrash;
        let log = DrivenLog::open(dir, options)?;
        let mut payloads = Payloads::new(shape.entry_bytes, 1);
        let mut unwritten_bytes = 0;
        shape.for_each_append(|group, from, to| {
            let entry = |index| Entry {
                index,
                term: 1,
                kind: 0,
                payload: payloads.draw(),
            };
            let mut batch = WriteBatch::new();
            batch.append(GroupId(group), (from..to).map(entry).collect());
            unwritten_bytes += batch.bytes();
            if unwritten_bytes < BATCH_BYTES {
                log.log.enqueue(&mut batch)?;
            } else {
                unwritten_bytes = 0;
                log.log.commit(batch)?;
            }
            Ok(())
        })?;
        log.close();
        sync_files(dir)
    }

    /// Begins a new segment, so that all that was written before stands in sealed ones, and has all
    /// of those indexed.
    pub fn seal(dir: &Path) -> Result<(), Failure> {
        let (log, recovered) = Log::open(Arc::new(RealDisk), dir, LogOptions::default())?;
        let (&group, found) = recovered
            .groups
            .iter()
            .next()
            .ok_or("the log holds nothing")?;
        let mut batch = WriteBatch::new();
        batch.set_state(group, found.state);
        let lsn = log.submit(batch)?;
        while log.durable() < lsn {
            if log.drive()? == Drove::NeedsSegment {
                log.prepare()?;
            }
        }
        log.prepare()?;
        log.cover()?;
        log.close();
        sync_files(dir)
    }

    /// Makes the index behind each segment invalid, so that the next open must read what stands
    /// before it. Returns how many there were.
    pub fn spoil_footers(dir: &Path) -> Result<usize, Failure> {
        let mut spoiled = 0;
        for path in files(dir)? {
            let file = File::options().read(true).write(true).open(&path)?;
            let blocks = file.metadata()?.len() / BLOCK_BYTES as u64;
            // It stands behind the batches, near the end.
            for block in (0..blocks).rev() {
                let offset = block * BLOCK_BYTES as u64;
                let mut magic = [0; 4];
                file.read_exact_at(&mut magic, offset)?;
                if &magic == FOOTER_MAGIC {
                    file.write_all_at(&[0; BLOCK_BYTES], offset)?;
                    spoiled += 1;
                    break;
                }
            }
        }
        sync_files(dir)?;
        Ok(spoiled)
    }

    /// Opens the log with so many threads. What it takes to be driven is not started.
    pub fn open(dir: &Path, threads: usize) -> Result<(Arc<Log>, Recovered), Failure> {
        let mut options = LogOptions::default();
        options.recovery_threads = threads;
        Ok(Log::open(Arc::new(RealDisk), dir, options)?)
    }

    /// Opens the log for readers.
    pub fn reader(dir: &Path, shape: StoredShape) -> Result<Self, Failure> {
        let (log, _recovered) = Self::open(dir, LogOptions::default().recovery_threads)?;
        Ok(Self {
            log,
            shape,
            numbers: Numbers::new(1),
            next_index: 1,
        })
    }

    /// Reads single entries anywhere until the budget is used up.
    pub fn read_random(&mut self, budget: Budget) -> Result<Sample, Failure> {
        let Self {
            log,
            shape,
            numbers,
            ..
        } = self;
        run_cheap(budget, || {
            let group = GroupId(numbers.below(shape.groups));
            let index = 1 + numbers.below(shape.entries_per_group);
            let entries = log.read(group, index, index + 1, usize::MAX)?;
            expect_entries(&entries, 1, shape.entry_bytes)
        })
    }

    /// Reads so many entries of one group after the other, forward, and again from its start.
    pub fn read_forward(&mut self, budget: Budget, entries: u64) -> Result<Sample, Failure> {
        let Self {
            log,
            shape,
            next_index,
            ..
        } = self;
        run_cheap(budget, || {
            if *next_index + entries > shape.entries_per_group + 1 {
                *next_index = 1;
            }
            let from = *next_index;
            *next_index += entries;
            let read = log.read(GroupId(0), from, from + entries, usize::MAX)?;
            expect_entries(&read, entries, shape.entry_bytes)
        })
    }
}

fn expect_entries(entries: &[Entry], count: u64, entry_bytes: usize) -> Result<(), Failure> {
    let is_right = entries.len() as u64 == count
        && entries
            .iter()
            .all(|entry| entry.payload.len() == entry_bytes);
    if is_right {
        Ok(())
    } else {
        Err(format!("{} entries came instead of {count}", entries.len()).into())
    }
}

/// Syncs every file in a folder.
pub fn sync_files(dir: &Path) -> Result<(), Failure> {
    for path in files(dir)? {
        File::open(&path)?.sync_all()?;
    }
    Ok(())
}

/// Has the kernel drop what it caches of the files in a folder. Syncs them first: only clean pages
/// can be dropped.
pub fn drop_file_caches(dir: &Path) -> Result<(), Failure> {
    for path in files(dir)? {
        let file = File::open(&path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Reads all files in a folder once, so that they are cached, but for those that another process renames or deletes
/// meanwhile. Returns how many bytes they have.
pub fn read_file_caches(dir: &Path) -> Result<u64, Failure> {
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    for path in files(dir)? {
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => bytes += read as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}

fn files(dir: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[test]
    fn a_stored_log_opens_by_its_footers_and_without_them() {
        let place = Place::from_environment().unwrap();
        let dir = place.folder().unwrap();
        let shape = StoredShape::of_bytes(8 << 20, 128, 64);
        StoredLog::write(dir.path(), shape).unwrap();
        StoredLog::seal(dir.path()).unwrap();
        let (log, sealed) = StoredLog::open(dir.path(), 1).unwrap();
        assert_eq!(log.stats().entries, shape.entries());
        assert!(sealed.report.indexed_segments >= 2, "{:?}", sealed.report);
        assert!(sealed.report.scanned_bytes < 1 << 16, "{:?}", sealed.report);
        drop(log);
        let spoiled = StoredLog::spoil_footers(dir.path()).unwrap();
        assert_eq!(spoiled as u64, sealed.report.indexed_segments);
        let (log, scanned) = StoredLog::open(dir.path(), 1).unwrap();
        assert_eq!(log.stats().entries, shape.entries());
        assert!(
            scanned.report.scanned_bytes >= shape.bytes(),
            "{:?}",
            scanned.report
        );
        drop(log);
        let mut reader = StoredLog::reader(dir.path(), shape).unwrap();
        assert_eq!(reader.read_random(Budget::Ops(100)).unwrap().ops, 100);
        assert_eq!(reader.read_forward(Budget::Ops(100), 64).unwrap().ops, 100);
    }
}
