//! Files in memory, for tests, simulations and clusters without a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{DirLock, Disk, DiskFile, Inside};

/// Files in memory. Clones share them, and they live as long as one clone does: a node that is
/// dropped finds its data when it is opened again on a clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<MemoryFile>>,
    locked: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct MemoryFile {
    bytes: RwLock<Vec<u8>>,
}

/// Unlocks when dropped.
struct Held {
    disk: MemoryDisk,
    dir: PathBuf,
}

impl MemoryDisk {
    /// A disk without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk of its own with the same files: what a backup taken now would hold.
    pub fn deep_clone(&self) -> Self {
        let names = self.shared.lock();
        let copy = |file: &Arc<MemoryFile>| {
            Arc::new(MemoryFile {
                bytes: RwLock::new(file.bytes.read().clone()),
            })
        };
        let files = names
            .files
            .iter()
            .map(|(path, file)| (path.clone(), copy(file)))
            .collect();
        let copy = Names {
            dirs: names.dirs.clone(),
            files,
            locked: BTreeSet::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(copy)),
        }
    }
}

impl Disk for MemoryDisk {
    fn may_share(&self, _: Inside) -> bool {
        true
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.shared.lock();
        if names.files.contains_key(path) || names.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_none_or(|dir| !names.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(MemoryFile::default());
        names.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let names = self.shared.lock();
        if names.dirs.contains(path) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let file = names.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn DiskFile>)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.shared.lock();
        let file = names.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared
            .lock()
            .files
            .remove(path)
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.shared.lock();
        if !names.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = names
            .files
            .keys()
            .chain(&names.dirs)
            .filter(|path| path.parent() == Some(dir));
        let mut found: Vec<String> = paths
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut names = self.shared.lock();
        if dir.ancestors().any(|path| names.files.contains_key(path)) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        names.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let names = self.shared.lock();
        if names.dirs.contains(dir) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        if !self.shared.lock().locked.insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DirLock::new(Held {
            disk: self.clone(),
            dir: dir.to_owned(),
        }))
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        Ok(self.shared.lock().locked.contains(dir))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.shared.lock().locked.remove(&self.dir);
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.read().len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.read();
        buffer.copy_from_slice(range(&bytes, offset, buffer.len())?);
        Ok(())
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        // Under one lock: a copy is of one moment.
        let bytes = self.bytes.read();
        Ok(Bytes::copy_from_slice(range(&bytes, offset, len)?))
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = self.bytes.write();
        let mut offset = offset as usize;
        for slice in slices {
            let end = offset + slice.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset..end].copy_from_slice(slice);
            offset = end;
        }
        Ok(())
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        // Fresh zeros cost nothing until they are written to.
        *self.bytes.write() = vec![0; bytes as usize];
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

fn range(bytes: &[u8], offset: u64, len: usize) -> io::Result<&[u8]> {
    usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(len)?))
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::write_atomically;

    #[test]
    fn files_outlive_the_handle_and_a_lock_ends_with_its_holder() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/node/log");
        disk.create_dir_all(dir).unwrap();
        write_atomically(&disk, &dir.join("name"), b"old").unwrap();
        write_atomically(&disk, &dir.join("name"), b"new").unwrap();
        let held = disk.lock(dir).unwrap();
        assert_eq!(
            disk.clone().lock(dir).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(held);
        disk.lock(dir).unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["name"]);
        let file = disk.clone().open(&dir.join("name")).unwrap();
        assert_eq!(file.read_bytes(0, 3).unwrap(), &b"new"[..]);
        assert_eq!(
            file.read_bytes(1, 3).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
