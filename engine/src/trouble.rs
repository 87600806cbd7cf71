//! A disk for tests that gets into trouble on demand.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorate_wal::{DirLock, Disk, DiskFile, MemoryDisk};

/// A memory disk whose syncs fail, or that is full or stands still, on demand.
#[derive(Debug, Default)]
pub(crate) struct TroubledDisk {
    pub(crate) disk: MemoryDisk,
    pub(crate) trouble: Arc<Trouble>,
}

#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) syncs_fail: AtomicBool,
    pub(crate) is_full: AtomicBool,
    /// Whatever takes a file handle fails as if the process had none left.
    pub(crate) has_no_handles: AtomicBool,
    stuck: Mutex<Stuck>,
    /// If it is set, only this thread is kept waiting, by its name.
    pub(crate) stuck_thread: Mutex<Option<&'static str>>,
    moved: Condvar,
    /// Whoever did what to the disk, by the names of the thread and of the operation.
    users: Mutex<BTreeSet<(String, &'static str)>>,
    /// The thread whose calls panic, by its name.
    pub(crate) panics_on: Mutex<Option<&'static str>>,
}

/// Nothing that changes the disk comes back while it stands still.
#[derive(Debug, Default)]
struct Stuck {
    is_stuck: bool,
    /// How many threads wait for it to go on.
    waiting: usize,
}

/// What Linux and its relatives say of a process that has too many files open.
const EMFILE: i32 = 24;

/// No test means to stay stuck for so long: one that failed meanwhile must still end.
const STUCK_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct TroubledFile {
    file: Arc<dyn DiskFile>,
    trouble: Arc<Trouble>,
}

impl Trouble {
    pub(crate) fn set(flag: &AtomicBool, value: bool) {
        flag.store(value, Ordering::SeqCst);
    }

    /// Panics if this is the thread to.
    fn look(&self) {
        let present = std::thread::current();
        let name = *self.panics_on.lock();
        assert!(
            name.is_none() || name != present.name(),
            "a panic that the test wants"
        );
    }

    /// Before a file handle is taken.
    fn take_handle(&self) -> io::Result<()> {
        if self.has_no_handles.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        Ok(())
    }

    /// Has the disk stand still, or go on.
    pub(crate) fn stick(&self, is_stuck: bool) {
        self.stuck.lock().is_stuck = is_stuck;
        self.moved.notify_all();
    }

    /// Whether a thread waits for the disk, which stands still.
    pub(crate) fn keeps_waiting(&self) -> bool {
        self.stuck.lock().waiting > 0
    }

    /// Whoever did what to the disk so far: names of threads, and of operations.
    pub(crate) fn users(&self) -> BTreeSet<(String, &'static str)> {
        self.users.lock().clone()
    }

    fn note(&self, operation: &'static str) {
        if let Some(name) = std::thread::current().name() {
            self.users.lock().insert((name.to_owned(), operation));
        }
    }

    /// Before anything is changed.
    fn pass(&self, operation: &'static str) {
        self.note(operation);
        let stuck_thread = *self.stuck_thread.lock();
        if stuck_thread.is_some() && stuck_thread != std::thread::current().name() {
            return;
        }
        let until = Instant::now() + STUCK_MAX;
        let mut stuck = self.stuck.lock();
        stuck.waiting += 1;
        while stuck.is_stuck && !self.moved.wait_until(&mut stuck, until).timed_out() {}
        stuck.waiting -= 1;
    }

    fn sync(&self) -> io::Result<()> {
        self.pass("sync_data");
        self.look();
        if self.syncs_fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("the device is gone"));
        }
        Ok(())
    }
}

impl TroubledDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(TroubledFile {
            file,
            trouble: Arc::clone(&self.trouble),
        })
    }
}

impl Disk for TroubledDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.trouble.pass("create");
        self.trouble.look();
        self.trouble.take_handle()?;
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.trouble.note("open");
        self.trouble.take_handle()?;
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.trouble.pass("rename");
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.trouble.pass("remove");
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.trouble.note("list");
        self.disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.trouble.pass("create_dir_all");
        self.disk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.trouble.pass("sync_dir");
        self.trouble.take_handle()?;
        self.disk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.trouble.note("lock");
        self.disk.lock(dir)
    }
}

impl DiskFile for TroubledFile {
    fn len(&self) -> io::Result<u64> {
        self.trouble.note("len");
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.trouble.note("read_at");
        self.file.read_at(offset, buffer)
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.trouble.note("read_bytes");
        self.file.read_bytes(offset, len)
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.trouble.pass("write_at");
        self.trouble.look();
        self.file.write_at(offset, slices)
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.trouble.pass("zero_fill");
        if self.trouble.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.zero_fill(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.trouble.sync()?;
        self.file.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.trouble.note("drop_cache");
        self.file.drop_cache()
    }
}
