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
    /// Nothing that changes the disk comes back while this is set.
    is_stuck: Mutex<bool>,
    moved: Condvar,
    /// Whoever wrote or synced, by the names of their threads.
    pub(crate) writers: Mutex<BTreeSet<String>>,
    /// The thread whose calls panic, by its name.
    pub(crate) panics_on: Mutex<Option<&'static str>>,
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
        *self.is_stuck.lock() = is_stuck;
        self.moved.notify_all();
    }

    /// Before anything is changed.
    fn pass(&self) {
        if let Some(name) = std::thread::current().name() {
            let mut writers = self.writers.lock();
            if !writers.contains(name) {
                writers.insert(name.to_owned());
            }
        }
        let until = Instant::now() + STUCK_MAX;
        let mut is_stuck = self.is_stuck.lock();
        while *is_stuck && !self.moved.wait_until(&mut is_stuck, until).timed_out() {}
    }

    fn sync(&self) -> io::Result<()> {
        self.pass();
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
        self.trouble.look();
        self.trouble.take_handle()?;
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.trouble.take_handle()?;
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.trouble.take_handle()?;
        self.disk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.disk.lock(dir)
    }
}

impl DiskFile for TroubledFile {
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
        self.trouble.pass();
        self.trouble.look();
        self.file.write_at(offset, slices)
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.trouble.pass();
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
        self.file.drop_cache()
    }
}
