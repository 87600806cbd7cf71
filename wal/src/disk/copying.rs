//! A disk of another crate: what the log reads from it is copied.
//!
//! A map of a file is sound only while nobody writes there, and that other names are other files. The disks of this crate see
//! to both. One of another crate may hand out a file of [`RealDisk`](super::RealDisk) under two names, or keep a
//! handle of it, all in safe code: so nothing of its files is shared.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{DirLock, Disk, DiskFile, Inside};

#[derive(Debug)]
struct CopyingDisk(Arc<dyn Disk>);

#[derive(Debug)]
struct CopyingFile(Arc<dyn DiskFile>);

/// The disk, or one that copies in its place.
pub(crate) fn copying(disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
    if disk.may_share(Inside(())) {
        disk
    } else {
        Arc::new(CopyingDisk(disk))
    }
}

fn wrapped(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
    Arc::new(CopyingFile(file))
}

impl Disk for CopyingDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path).map(wrapped)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path).map(wrapped)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open_read(path).map(wrapped)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.0.lock(dir)
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        self.0.is_locked(dir)
    }
}

// Sharing is left to the provided forms, which copy.
impl DiskFile for CopyingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.0.read_bytes(offset, len)
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.write_at(offset, slices)
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.0.zero_fill(bytes)
    }

    fn zero_fill_part(&self, done: u64, bytes: u64) -> io::Result<u64> {
        self.0.zero_fill_part(done, bytes)
    }

    fn give_back_rest(&self, bytes: u64) {
        self.0.give_back_rest(bytes);
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.0.prefetch(offset, len);
    }

    fn release(&self, offset: u64, len: u64) {
        self.0.release(offset, len);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }
}
