//! A disk in memory that loses power, refuses calls, and rots, for the tests of snapshot files.
//!
//! - What was written and not synced, and names that were changed and whose directory was not
//!   synced, may be gone after [`PowerDisk::cut`].
//! - A call that a [`Fault`] names fails; after `changes_left` changes the power is off, and every
//!   further change fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_wal::{DirLock, Disk, DiskFile};

use crate::common::{BLOCK, Random};

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    CreateDir,
    Create,
    Open,
    Write,
    Sync,
    DropCache,
    Read,
    Rename,
    Remove,
    SyncDir,
}

/// A call that fails: the one of its kind after `spared` others, on a path with `under` in it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) spared: u64,
    pub(crate) under: &'static str,
    pub(crate) errno: i32,
}

/// What of the things that were not synced survives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Survives {
    /// All: a process died, and its machine lives.
    All,
    Nothing,
    /// Any blocks of any file, and any of the old and new names.
    Some(u64),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PowerDisk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    names: Mutex<Names>,
    locked: Arc<Mutex<BTreeSet<PathBuf>>>,
    changes: Changes,
    fault: Mutex<Option<Fault>>,
    /// Calls of each kind so far.
    calls: Mutex<BTreeMap<Call, u64>>,
    /// The most that any file below `/node/snap` held that was not synced.
    unsynced_bytes_max: AtomicU64,
    /// A byte that the device never keeps as it was written.
    rot_at: Mutex<Option<usize>>,
    released_bytes: AtomicU64,
}

#[derive(Debug)]
struct Changes {
    left: AtomicI64,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(i64::MAX),
        }
    }
}

#[derive(Debug, Default)]
struct Names {
    live: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    durable: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
    durable_dirs: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced_bytes: u64,
}

#[derive(Debug)]
struct PowerFile {
    shared: Arc<Shared>,
    path: PathBuf,
    content: Arc<Mutex<Content>>,
}

impl PowerDisk {
    /// Lets so many changes pass, and then cuts the power.
    pub(crate) fn allow_changes(&self, changes: i64) {
        self.0.changes.left.store(changes, Ordering::SeqCst);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.changes.left.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn fail(&self, fault: Fault) {
        *self.0.fault.lock() = Some(fault);
    }

    /// Whether the fault that was set last has happened. Takes it away.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.fault.lock().take().is_none()
    }

    pub(crate) fn rot(&self, at: usize) {
        *self.0.rot_at.lock() = Some(at);
    }

    pub(crate) fn unsynced_bytes_max(&self) -> u64 {
        self.0.unsynced_bytes_max.load(Ordering::SeqCst)
    }

    pub(crate) fn released_bytes(&self) -> u64 {
        self.0.released_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.0.calls.lock().get(&call).copied().unwrap_or(0)
    }

    /// The disk as it comes up again.
    pub(crate) fn cut(&self, survives: Survives) -> Self {
        let mut random = match survives {
            Survives::Some(seed) => Some(Random::new(seed)),
            Survives::All | Survives::Nothing => None,
        };
        let keeps_all = matches!(survives, Survives::All);
        let mut coin = || {
            random
                .as_mut()
                .map_or(keeps_all, |random| random.below(2) == 0)
        };
        let names = self.0.names.lock();
        let dirs: BTreeSet<_> = names
            .dirs
            .iter()
            .filter(|dir| names.durable_dirs.contains(*dir) || coin())
            .cloned()
            .collect();
        let paths: BTreeSet<_> = names.live.keys().chain(names.durable.keys()).collect();
        let mut files = BTreeMap::new();
        for path in paths {
            let (live, durable) = (names.live.get(path), names.durable.get(path));
            let is_same = match (live, durable) {
                (Some(live), Some(durable)) => Arc::ptr_eq(live, durable),
                _ => false,
            };
            let content = if is_same || coin() { live } else { durable };
            let has_dir = path.ancestors().skip(1).all(|dir| dirs.contains(dir));
            if let (Some(content), true) = (content, has_dir) {
                let bytes = content.lock().survivor(&mut coin);
                let content = Content {
                    live: bytes.clone(),
                    durable: bytes,
                    unsynced_bytes: 0,
                };
                files.insert(path.clone(), Arc::new(Mutex::new(content)));
            }
        }
        let names = Names {
            live: files.clone(),
            durable: files,
            dirs: dirs.clone(),
            durable_dirs: dirs,
        };
        Self(Arc::new(Shared {
            names: Mutex::new(names),
            ..Shared::default()
        }))
    }
}

impl Content {
    fn survivor(&self, mut coin: impl FnMut() -> bool) -> Vec<u8> {
        if self.unsynced_bytes == 0 {
            return self.durable.clone();
        }
        let mut bytes = if coin() {
            let mut bytes = self.durable.clone();
            bytes.resize(self.live.len(), 0);
            bytes
        } else {
            self.durable.clone()
        };
        for (block, live) in self.live.chunks(BLOCK).enumerate() {
            let start = block * BLOCK;
            let end = bytes.len().min(start + live.len());
            if start < end && coin() {
                bytes[start..end].copy_from_slice(&live[..end - start]);
            }
        }
        bytes
    }
}

impl Shared {
    fn call(&self, call: Call, path: &Path) -> io::Result<()> {
        *self.calls.lock().entry(call).or_default() += 1;
        let mut fault = self.fault.lock();
        if let Some(due) = fault.as_mut().filter(|fault| fault.call == call)
            && path.to_str().is_some_and(|path| path.contains(due.under))
        {
            if due.spared == 0 {
                let error = io::Error::from_raw_os_error(due.errno);
                *fault = None;
                return Err(error);
            }
            due.spared -= 1;
        }
        Ok(())
    }

    /// Counts a change.
    fn change(&self) -> io::Result<()> {
        let left = self.changes.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::other("the power is off"));
        }
        self.changes.left.store(left - 1, Ordering::SeqCst);
        Ok(())
    }

    fn file(self: &Arc<Self>, path: &Path, content: &Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(PowerFile {
            shared: Arc::clone(self),
            path: path.to_owned(),
            content: Arc::clone(content),
        })
    }
}

impl Disk for PowerDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.call(Call::Create, path)?;
        self.0.change()?;
        let mut names = self.0.names.lock();
        if names.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_none_or(|dir| !names.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        names.live.insert(path.to_owned(), Arc::clone(&content));
        Ok(self.0.file(path, &content))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.call(Call::Open, path)?;
        let names = self.0.names.lock();
        let content = names.live.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.0.file(path, content))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.call(Call::Rename, from)?;
        self.0.change()?;
        let mut names = self.0.names.lock();
        let content = names.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.live.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.call(Call::Remove, path)?;
        self.0.change()?;
        let removed = self.0.names.lock().live.remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.0.names.lock();
        if !names.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = names.live.keys().chain(&names.dirs);
        let inside = paths.filter(|path| path.parent() == Some(dir));
        let mut found: Vec<String> = inside
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Makes the names of new directories durable with a change of its own, so that the power may go
    /// in between.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.call(Call::CreateDir, dir)?;
        if self.0.names.lock().dirs.contains(dir) {
            return Ok(());
        }
        self.0.change()?;
        let above = dir.ancestors().map(Path::to_owned);
        self.0.names.lock().dirs.extend(above.clone());
        self.0.change()?;
        self.0.names.lock().durable_dirs.extend(above);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.call(Call::SyncDir, dir)?;
        self.0.change()?;
        let mut names = self.0.names.lock();
        let Names {
            live,
            durable,
            dirs,
            durable_dirs,
        } = &mut *names;
        durable.retain(|path, _| path.parent() != Some(dir));
        let inside = live.iter().filter(|(path, _)| path.parent() == Some(dir));
        durable.extend(inside.map(|(path, content)| (path.clone(), Arc::clone(content))));
        let inside = dirs.iter().filter(|path| path.parent() == Some(dir));
        durable_dirs.extend(inside.cloned());
        Ok(())
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        struct Held(Arc<Mutex<BTreeSet<PathBuf>>>, PathBuf);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.lock().remove(&self.1);
            }
        }
        if !self.0.locked.lock().insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let held = Held(Arc::clone(&self.0.locked), dir.to_owned());
        Ok(DirLock::new(held))
    }
}

impl DiskFile for PowerFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.shared.call(Call::Read, &self.path)?;
        let content = self.content.lock();
        let end = offset as usize + buffer.len();
        let bytes = content.live.get(offset as usize..end);
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes.into())
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.shared.call(Call::Write, &self.path)?;
        self.shared.change()?;
        let mut content = self.content.lock();
        let bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let len = content.live.len().max(end);
        content.live.resize(len, 0);
        content.live[start..end].copy_from_slice(&bytes);
        content.unsynced_bytes += bytes.len() as u64;
        if self.path.starts_with("/node/snap") {
            let most = &self.shared.unsynced_bytes_max;
            most.fetch_max(content.unsynced_bytes, Ordering::SeqCst);
        }
        Ok(())
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        self.shared.call(Call::Write, &self.path)?;
        self.shared.change()?;
        let mut content = self.content.lock();
        content.live = vec![0; bytes as usize];
        content.unsynced_bytes += bytes;
        Ok(())
    }

    fn release(&self, _offset: u64, len: u64) {
        self.shared.released_bytes.fetch_add(len, Ordering::SeqCst);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.call(Call::Sync, &self.path)?;
        self.shared.change()?;
        let mut content = self.content.lock();
        let Content { live, durable, .. } = &mut *content;
        durable.clone_from(live);
        content.unsynced_bytes = 0;
        let rot_at = *self.shared.rot_at.lock();
        if let Some(byte) = rot_at.and_then(|at| content.durable.get_mut(at)) {
            *byte ^= 1;
        }
        Ok(())
    }

    /// The cache shows what was written; behind it is what reached the device.
    fn drop_cache(&self) -> io::Result<()> {
        self.shared.call(Call::DropCache, &self.path)?;
        let mut content = self.content.lock();
        if content.unsynced_bytes == 0 {
            let Content { live, durable, .. } = &mut *content;
            live.clone_from(durable);
        }
        Ok(())
    }
}
