//! A disk in memory whose handles are apart from its files, as those of a real one are, so that segments are used again.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_wal::{DirLock, Disk, DiskFile, MemoryDisk};

/// Files in memory.
#[derive(Clone, Debug)]
pub(crate) struct HandleDisk(pub(crate) MemoryDisk);

/// One of the handles of a file.
#[derive(Debug)]
struct Handle(Arc<dyn DiskFile>);

fn handle(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
    Arc::new(Handle(file))
}

impl Disk for HandleDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path).map(handle)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path).map(handle)
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
}

impl DiskFile for Handle {
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

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }
}
