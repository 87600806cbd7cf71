//! What the tests of the log share: entries, runs of the log by hand, and disks that fail.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_wal::{
    DirLock, Disk, DiskFile, Drove, Entry, GroupId, Log, LogOptions, LogStatus, Lsn, MemoryDisk,
    OpenError, Recovered, WriteBatch,
};

pub(crate) const DIR: &str = "/node/log";
pub(crate) const BLOCK: usize = 4096;
pub(crate) const SEGMENT_BYTES_MAX: u64 = 64 << 10;

/// Small segments, so that a test sees many.
pub(crate) fn options() -> LogOptions {
    let mut options = LogOptions::default();
    options.segment_bytes_min = 16 << 10;
    options.segment_bytes_max = SEGMENT_BYTES_MAX;
    options.entry_bytes_max = 1 << 20;
    options.batch_bytes_max = 2 << 20;
    options.queue_bytes_max = 4 << 20;
    options
}

pub(crate) fn open(disk: &impl AsDisk) -> (Arc<Log>, Recovered) {
    try_open(disk).expect("the log opens")
}

pub(crate) fn try_open(disk: &impl AsDisk) -> Result<(Arc<Log>, Recovered), OpenError> {
    Log::open(disk.as_disk(), Path::new(DIR), options())
}

/// Anything that can be cloned into a disk.
pub(crate) trait AsDisk {
    fn as_disk(&self) -> Arc<dyn Disk>;
}

impl<D: Disk + Clone + 'static> AsDisk for D {
    fn as_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }
}

/// An entry whose payload tells which one it is.
pub(crate) fn entry(group: u64, index: u64, term: u64, len: usize) -> Entry {
    let seed = format!("{group}/{index}/{term}/");
    let payload: Vec<u8> = seed.bytes().cycle().take(len).collect();
    Entry {
        index,
        term,
        kind: (index % 3) as u8,
        payload: Bytes::from(payload),
    }
}

pub(crate) fn entries(
    group: u64,
    indexes: impl Iterator<Item = u64>,
    term: u64,
    len: usize,
) -> Vec<Entry> {
    indexes
        .map(|index| entry(group, index, term, len))
        .collect()
}

pub(crate) fn appended(
    group: u64,
    indexes: impl Iterator<Item = u64>,
    term: u64,
    len: usize,
) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.append(GroupId(group), entries(group, indexes, term, len));
    batch
}

/// Drives the log until nothing waits, preparing segments as it asks for them.
pub(crate) fn settle(log: &Log) {
    loop {
        match log.drive().expect("the log drives") {
            Drove::Idle => return,
            Drove::NeedsSegment => assert!(log.prepare().expect("prepares").segment_ready),
            _ => {}
        }
    }
}

/// Prepares and drives until nothing is left to do: all that can be moved and given back is.
pub(crate) fn rest(log: &Log) {
    loop {
        let before = log.stats();
        log.prepare().expect("prepares");
        settle(log);
        if log.stats() == before {
            return;
        }
    }
}

/// Submits a batch and makes it durable.
pub(crate) fn commit(log: &Log, batch: WriteBatch) -> Lsn {
    let lsn = log.submit(batch).expect("the batch is taken");
    settle(log);
    assert!(log.durable() >= lsn);
    lsn
}

/// The segment files of a log, oldest first, with their content.
pub(crate) fn segments(disk: &dyn Disk) -> Vec<(PathBuf, Vec<u8>)> {
    let names = disk.list(Path::new(DIR)).expect("the directory is there");
    let paths = names
        .iter()
        .map(|name| Path::new(DIR).join(name))
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths
        .map(|path| (path.clone(), read(disk, &path)))
        .collect()
}

/// Bytes of what the log keeps for a full disk.
pub(crate) fn reserve_bytes(disk: &dyn Disk) -> u64 {
    read(disk, &Path::new(DIR).join("RESERVE")).len() as u64
}

pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("has a length") as usize];
    file.read_at(0, &mut bytes).expect("reads");
    bytes
}

pub(crate) fn write(disk: &dyn Disk, path: &Path, offset: usize, bytes: &[u8]) {
    let file = disk.open(path).expect("the file is there");
    file.write_at(offset as u64, &[IoSlice::new(bytes)])
        .expect("writes");
}

/// No wait of a test takes so long, on however busy a machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Sets a flag when it is dropped, also by an assertion that fails: a thread that goes on until then ends, and
/// so does the scope that waits for it.
pub(crate) struct SetsAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until something holds, and fails if it never does.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "waited for {DEADLINE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Waits until a submission is durable, and fails if it never will be.
pub(crate) fn wait_for(log: &Log, lsn: Lsn) {
    wait_until("it is durable", || {
        let status = log.status();
        assert!(
            !matches!(status, LogStatus::Failed { .. }),
            "it never will be: {status:?}"
        );
        log.durable() >= lsn
    });
}

/// Does something on a thread of its own that may wait for ever, and fails if it does.
pub(crate) fn in_time<T: Send + 'static>(does: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (give, given) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody may wait for it any more.
        let _ = give.send(does());
    });
    given
}

/// What [`in_time`] does, when it is done.
pub(crate) fn done<T>(given: &Receiver<T>) -> T {
    given
        .recv_timeout(DEADLINE)
        .expect("it panicked, or waits for ever")
}

/// A seed of its own for each run, which is printed.
pub(crate) fn seed_from_time() -> u64 {
    let given = std::env::var("QUORATE_SEED").ok();
    let seed = given.map_or_else(
        || {
            let now = std::time::UNIX_EPOCH.elapsed();
            u64::from(now.expect("it is later than 1970").subsec_nanos())
        },
        |seed| seed.parse().expect("QUORATE_SEED is a number"),
    );
    println!("QUORATE_SEED={seed}");
    seed
}

/// Random numbers that depend on the seed alone.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A disk in memory that can be made to fail, and counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk {
    pub(crate) inner: MemoryDisk,
    pub(crate) faults: Arc<Faults>,
}

#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) fail_sync: AtomicBool,
    /// Whether a sync panics, as nothing of the log does that is known.
    pub(crate) panic_sync: AtomicBool,
    /// The same on a thread that makes segments alone.
    pub(crate) panic_prepare: AtomicBool,
    pub(crate) fail_write: AtomicBool,
    pub(crate) fail_read: AtomicBool,
    /// Whether files cannot grow.
    pub(crate) full: AtomicBool,
    /// Calls that change something which still succeed; then every one fails. Negative: no limit.
    pub(crate) changes_left: AtomicI64,
    pub(crate) syncs: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            fail_sync: AtomicBool::new(false),
            panic_sync: AtomicBool::new(false),
            panic_prepare: AtomicBool::new(false),
            fail_write: AtomicBool::new(false),
            fail_read: AtomicBool::new(false),
            full: AtomicBool::new(false),
            changes_left: AtomicI64::new(-1),
            syncs: AtomicU64::new(0),
        }
    }
}

impl Faults {
    fn change(&self) -> io::Result<()> {
        let left = self.changes_left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::other("the power is off"));
        }
        if left > 0 {
            self.changes_left.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    fn wrap(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            inner,
            faults: Arc::clone(&self.faults),
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.change()?;
        self.inner.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.change()?;
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.faults.change()?;
        self.inner.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.faults.change()?;
        self.inner.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.change()?;
        self.inner.sync_dir(dir)
    }
    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.inner.lock(dir)
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.faults.fail_read.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected read error"));
        }
        self.inner.read_at(offset, buffer)
    }
    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.faults.fail_read.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected read error"));
        }
        self.inner.read_bytes(offset, len)
    }
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.faults.change()?;
        if self.faults.fail_write.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected write error"));
        }
        self.inner.write_at(offset, slices)
    }
    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.faults.change()?;
        if self.faults.full.load(Ordering::SeqCst) {
            // As a real disk does: some of the file is there when the space runs out.
            self.inner.zero_fill(bytes / 2)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.zero_fill(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        self.faults.change()?;
        let present = std::thread::current();
        let prepares = present
            .name()
            .is_some_and(|name| name.ends_with("-prepare"));
        assert!(
            !prepares || !self.faults.panic_prepare.load(Ordering::SeqCst),
            "a bug in the disk of a test"
        );
        assert!(
            !self.faults.panic_sync.load(Ordering::SeqCst),
            "injected panic"
        );
        if self.faults.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected sync error"));
        }
        self.inner.sync_data()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.inner.drop_cache()
    }
}
