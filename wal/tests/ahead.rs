//! Segments are filled ahead of their use. Who comes too early for one waits for half of it at most.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::*;
use quorate_wal::*;

const MIB: u64 = 1 << 20;
const SEGMENT_BYTES: u64 = 16 * MIB;

/// File systems count what they need to find the blocks of a file as its own.
const SLACK_BYTES: u64 = 256 << 10;

/// An entry so large that a few fill a segment.
const ENTRY_BYTES: usize = 1 << 20;

#[test]
fn who_waits_for_a_segment_gets_half_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_on(&Watched::default(), dir.path());
    let mut last = 0;
    while log.drive().unwrap() != Drove::NeedsSegment {
        last += 1;
        log.submit(appended(1, last..=last, 1, ENTRY_BYTES))
            .unwrap();
    }
    assert!(log.prepare().unwrap().segment_ready);
    let half = SEGMENT_BYTES / 2;
    let (len, taken) = files(dir.path())[1];
    assert_eq!(len, half);
    assert!(taken <= half + SLACK_BYTES, "{taken} bytes on disk");
    settle(&log);
    drop(log);
    assert_holds(dir.path(), 1..=last, ENTRY_BYTES);
}

#[test]
fn who_begins_to_wait_while_a_segment_is_filled_gets_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let log = open_on(&disk, dir.path());
    commit(&log, appended(1, 1..=1, 1, ENTRY_BYTES));
    // Nobody waits while the next one is begun, until a part of it is there.
    let waits = Arc::clone(&log);
    let mut next = 2;
    disk.when_filling(Box::new(move |done| {
        if done < SEGMENT_BYTES / 2 + 2 * MIB {
            return false;
        }
        while waits.drive().unwrap() != Drove::NeedsSegment {
            waits
                .submit(appended(1, next..=next, 1, ENTRY_BYTES))
                .unwrap();
            next += 1;
        }
        true
    }));
    let mut index = 1;
    while !log.prepare().unwrap().segment_ready {
        commit(&log, appended(2, index..=index, 1, ENTRY_BYTES));
        index += 1;
    }
    settle(&log);
    let lens: Vec<u64> = files(dir.path()).iter().map(|file| file.0).collect();
    // The part that was being filled when the wait began is filled to its end.
    assert_eq!(lens, [SEGMENT_BYTES, SEGMENT_BYTES / 2 + 3 * MIB]);
}

#[test]
fn a_segment_that_nobody_waits_for_is_filled_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_on(&Watched::default(), dir.path());
    for index in 1..=40 {
        commit(&log, appended(1, index..=index, 1, ENTRY_BYTES));
        log.prepare().unwrap();
    }
    let lens: Vec<u64> = files(dir.path()).iter().map(|file| file.0).collect();
    let (_being_filled, whole) = lens.split_last().unwrap();
    assert_eq!(whole, [SEGMENT_BYTES; 3]);
    drop(log);
    assert_holds(dir.path(), 1..=40, ENTRY_BYTES);
}

#[test]
fn a_segment_that_a_crash_left_half_filled_takes_no_more_than_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_on(&Watched::default(), dir.path());
    let mut last = 0;
    while files(dir.path()).len() < 2 {
        last += 1;
        commit(&log, appended(1, last..=last, 1, ENTRY_BYTES));
        log.prepare().unwrap();
    }
    let (len, _taken) = files(dir.path())[1];
    assert!(len < SEGMENT_BYTES);
    drop(log);
    let log = open_sized(&Watched::default(), dir.path(), MIB);
    let (kept, taken) = files(dir.path())[1];
    assert_eq!(kept, len);
    assert!(taken <= len + SLACK_BYTES, "{taken} bytes on disk");
    drop(log);
    assert_holds(dir.path(), 1..=last, ENTRY_BYTES);
}

#[test]
fn half_a_segment_is_used_again_like_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_on(&Watched::default(), dir.path());
    let mut held = Vec::new();
    for index in 1..=40 {
        let mut batch = appended(1, index..=index, 1, ENTRY_BYTES);
        batch.compact(GroupId(1), index);
        // Without a look at what comes next in between, so that each segment is waited for.
        commit(&log, batch);
        if held.is_empty() {
            // The first one, which is whole, is not used again while somebody reads it.
            held = log.read(GroupId(1), index, index + 1, usize::MAX).unwrap();
        }
    }
    assert!(log.stats().recycled > 0, "{:?}", log.stats());
    assert_eq!(held, [entry(1, 1, 1, ENTRY_BYTES)]);
    drop(log);
    assert_holds(dir.path(), 40..=40, ENTRY_BYTES);
}

#[test]
fn half_a_segment_is_made_whole_when_it_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_on(&Watched::default(), dir.path());
    let mut index = 0;
    let mut next = |is_early: bool| {
        index += 1;
        let mut batch = appended(1, index..=index, 1, ENTRY_BYTES);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
        if is_early {
            log.prepare().unwrap();
        }
        let lens: Vec<u64> = files(dir.path()).iter().map(|file| file.0).collect();
        lens.contains(&(SEGMENT_BYTES / 2))
    };
    while !next(false) {}
    let recycled = log.stats().recycled;
    // From now on each segment is prepared before it is needed.
    let mut calls = 0;
    while next(true) {
        calls += 1;
        assert!(calls < 100, "{:?}", files(dir.path()));
    }
    assert!(log.stats().recycled > recycled);
    for _ in 0..40 {
        assert!(!next(true), "{:?}", files(dir.path()));
    }
    drop(log);
    assert_holds(dir.path(), index..=index, ENTRY_BYTES);
}

#[test]
fn a_segment_that_is_being_made_whole_is_not_given_up_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_on(&Watched::default(), dir.path());
    // The first segment is whole, and lives as long as these entries do: too many to be moved.
    for index in 1..=13 {
        commit(&log, appended(2, index..=index, 1, ENTRY_BYTES));
    }
    let mut index = 0;
    while files(dir.path()).len() < 3 {
        index += 1;
        let mut batch = appended(1, index..=index, 1, ENTRY_BYTES);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
    }
    // The second one, half of one, is dead.
    log.prepare().unwrap();
    assert_eq!(log.stats().recycled, 1);
    let lens = || -> Vec<u64> { files(dir.path()).iter().map(|file| file.0).collect() };
    let half = SEGMENT_BYTES / 2;
    assert_eq!(lens(), [SEGMENT_BYTES, half, half]);
    let mut batch = WriteBatch::new();
    batch.compact(GroupId(2), 14);
    commit(&log, batch);
    // Now the first one is dead as well, and waits for its turn.
    for _ in 0..3 {
        log.prepare().unwrap();
    }
    assert_eq!(lens(), [SEGMENT_BYTES, half, half]);
    assert_eq!(log.stats().recycled, 1);
    drop(log);
    assert_holds(dir.path(), index..=index, ENTRY_BYTES);
}

#[test]
fn a_disk_that_is_full_behind_half_a_segment_ends_the_segment_there() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let log = open_on(&disk, dir.path());
    disk.full_from.store(11 * MIB, Ordering::SeqCst);
    for index in 1..=20 {
        commit(&log, appended(1, index..=index, 1, ENTRY_BYTES));
        log.prepare().unwrap();
        assert_eq!(log.status(), LogStatus::Healthy, "{index}");
    }
    assert_eq!(files(dir.path())[1].0, 11 * MIB);
    drop(log);
    assert_holds(dir.path(), 1..=20, ENTRY_BYTES);
}

fn open_on(disk: &Watched, dir: &Path) -> Arc<Log> {
    open_sized(disk, dir, SEGMENT_BYTES)
}

fn open_sized(disk: &Watched, dir: &Path, segment_bytes_min: u64) -> Arc<Log> {
    let mut options = options();
    options.segment_bytes_min = segment_bytes_min;
    options.segment_bytes_max = SEGMENT_BYTES;
    options.recent_bytes_max = 0;
    Log::open(Arc::new(disk.clone()), dir, options).unwrap().0
}

/// Opens the log again, and compares what is in it.
fn assert_holds(dir: &Path, indexes: std::ops::RangeInclusive<u64>, len: usize) {
    let log = open_on(&Watched::default(), dir);
    let read = log.read(GroupId(1), *indexes.start(), indexes.end() + 1, usize::MAX);
    assert_eq!(read.unwrap(), entries(1, indexes, 1, len));
}

/// Length of each segment, and the bytes that it takes on disk, the oldest first.
fn files(dir: &Path) -> Vec<(u64, u64)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort_unstable();
    let size = |path: &PathBuf| {
        let metadata = path.metadata().unwrap();
        (metadata.len(), metadata.blocks() * 512)
    };
    paths.iter().map(size).collect()
}

/// Called with how far a segment is filled, before it is filled further, until it says that it is done.
type Watch = Box<dyn FnMut(u64) -> bool + Send>;

/// The files of the operating system, and somebody who looks on while they are filled.
#[derive(Clone)]
struct Watched {
    watch: Arc<Mutex<Option<Watch>>>,
    /// From where on no file can be filled.
    full_from: Arc<AtomicU64>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            watch: Arc::default(),
            full_from: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }
}

impl Watched {
    fn when_filling(&self, watch: Watch) {
        *self.watch.lock().unwrap() = Some(watch);
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Watched")
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn DiskFile>,
    disk: Watched,
}

impl Watched {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let disk = self.clone();
        Arc::new(WatchedFile { file, disk })
    }
}

impl Disk for Watched {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        RealDisk.lock(dir)
    }
}

impl DiskFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.file.read_bytes(offset, len)
    }
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(offset, slices)
    }
    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.file.zero_fill(bytes)
    }
    fn zero_fill_part(&self, done: u64, bytes: u64) -> io::Result<u64> {
        let mut watch = self.disk.watch.lock().unwrap();
        if watch.as_mut().is_some_and(|watch| watch(done)) {
            *watch = None;
        }
        drop(watch);
        if done >= self.disk.full_from.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.zero_fill_part(done, bytes)
    }
    fn give_back_rest(&self, bytes: u64) {
        self.file.give_back_rest(bytes);
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}
