//! A real disk that gets full, or stands still, when it is told to: real file systems need privileges for that.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate::Bytes;
use quorate_wal::{DirLock, Disk, DiskFile, RealDisk};

/// The disk of one node.
#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    faults: Arc<Faults>,
}

/// What is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_full: bool,
    stuck_until: Option<Instant>,
}

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl Faults {
    pub(crate) fn fill(&self) {
        self.lock().is_full = true;
    }

    pub(crate) fn stall(&self, time: Duration) {
        self.lock().stuck_until = Some(Instant::now() + time);
    }

    pub(crate) fn heal(&self) {
        *self.lock() = State::default();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anything is changed: waits while the disk stands still.
    fn pass(&self) {
        let mut state = self.lock();
        while let Some(until) = state.stuck_until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Before a file gets longer.
    fn grow(&self) -> io::Result<()> {
        if self.lock().is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl FaultyDisk {
    pub(crate) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            file,
            faults: Arc::clone(&self.faults),
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.pass();
        Ok(self.wrap(RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.open_read(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.pass();
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.faults.pass();
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.faults.pass();
        RealDisk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.pass();
        RealDisk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        RealDisk.lock(dir)
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        RealDisk.is_locked(dir)
    }
}

impl DiskFile for FaultyFile {
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
        self.faults.pass();
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        if offset + bytes > self.file.len()? {
            self.faults.grow()?;
        }
        self.file.write_at(offset, slices)
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.faults.pass();
        self.faults.grow()?;
        self.file.zero_fill(bytes)
    }

    fn zero_fill_part(&self, done: u64, bytes: u64) -> io::Result<u64> {
        self.faults.pass();
        self.faults.grow()?;
        self.file.zero_fill_part(done, bytes)
    }

    fn give_back_rest(&self, bytes: u64) {
        self.file.give_back_rest(bytes);
    }

    fn peek(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.peek(offset, buffer)
    }

    fn forget_reads(&mut self) -> bool {
        // Where somebody else has the file, who knows what they hold.
        Arc::get_mut(&mut self.file).is_some_and(DiskFile::forget_reads)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.pass();
        self.file.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}
