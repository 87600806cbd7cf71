//! A disk in memory that loses power, fails, fills up and rots on demand.
//!
//! Invariants:
//! - Only what a sync that succeeded covered is sure to be there after a power cut; of everything
//!   else, any part.
//! - All that happens follows from the calls and the seeds in them: no clock, no thread, no order
//!   of hashes.

mod fault;
mod image;
mod lent;
mod state;
mod survivors;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::{DirLock, Disk, DiskFile, Inside};

pub use fault::{DiskError, Effect, Fault, Op, OpKind};
pub use survivors::{Pending, PendingChange, Survivors};

use image::Way;
use state::{Ino, State};

/// So much is filled with zeros at once, between two syncs.
const FILL_BYTES: u64 = 64 << 10;

/// Is shown each operation before it is done, outside of the locks of the disk: it may look at the
/// disk, copy it, count, or wait, which makes the disk slow. Operations that it makes itself are
/// shown to it as well.
pub type Watcher = Arc<dyn Fn(&Op) + Send + Sync>;

/// A disk in memory with a cache above it, as a kernel has one. Clones share it.
///
/// Every handle sees what was written; what of it is *durable* is kept apart:
/// - Each write of a 4 KiB block, each new size of a file and each name that is added or removed
///   may become durable by itself, at any time and in any order, or may not.
/// - [`DiskFile::sync_data`] makes the content and the size of a file durable, [`Disk::sync_dir`]
///   the names in a directory. The names of directories are durable at once.
///
/// [`power_cut`](Self::power_cut) leaves what was durable and those of the other changes that one
/// chooses; [`process_crash`](Self::process_crash) leaves the cache. After either, the handles and
/// the locks of before are dead, and files are opened anew, as by a process that starts again.
///
/// To try every crash of a program, run it once with a [watcher](Self::watch) that
/// [forks](Self::fork) the disk before each [change](OpKind::is_change), and cut the power of the
/// forks.
///
/// ```
/// use std::io::IoSlice;
/// use std::path::Path;
/// use quorate_wal::Disk;
/// use quorate_wal::testing::{CrashDisk, Survivors};
///
/// let disk = CrashDisk::new();
/// disk.create_dir_all(Path::new("/log"))?;
/// let file = disk.create(Path::new("/log/a"))?;
/// disk.sync_dir(Path::new("/log"))?;
/// file.write_at(0, &[IoSlice::new(b"safe")])?;
/// file.sync_data()?;
/// file.write_at(0, &[IoSlice::new(b"gone")])?;
/// disk.power_cut(&Survivors::None);
/// assert_eq!(disk.contents(Path::new("/log/a")).as_deref(), Some(&b"safe"[..]));
/// assert!(file.sync_data().is_err(), "who had it open died with the power");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct CrashDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    watcher: RwLock<Option<Watcher>>,
}

/// An open file. It is dead once the power was off or the process crashed.
struct CrashFile {
    disk: CrashDisk,
    ino: Ino,
    path: PathBuf,
    life: u64,
}

/// Unlocks when dropped, unless the lock ended with a crash.
struct Held {
    disk: CrashDisk,
    dir: PathBuf,
    life: u64,
}

impl CrashDisk {
    /// A disk without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk of its own in the same state: files, cache, and what is not durable yet. Nothing is
    /// open on it and nothing locked, and it has no faults, no limits and no watcher.
    pub fn fork(&self) -> Self {
        let state = self.shared.state.lock().fork();
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                watcher: RwLock::default(),
            }),
        }
    }

    /// The power goes off and on again: what was durable is there, and of the rest what survives.
    /// Handles and locks of before are dead.
    pub fn power_cut(&self, survivors: &Survivors) {
        self.shared.state.lock().cut_power(survivors);
    }

    /// The process dies and another one takes its place: handles and locks of before are dead, and
    /// the cache is as it was.
    pub fn process_crash(&self) {
        self.shared.state.lock().end_life();
    }

    /// What is not durable yet, in the order in which it was done.
    pub fn pending(&self) -> Vec<Pending> {
        self.shared.state.lock().pending()
    }

    /// From now on so many changes are made; all later ones fail, as if the power were off, until
    /// the disk is cut off or crashes.
    pub fn stop_after(&self, changes: u64) {
        self.shared.state.lock().changes_left = Some(changes);
    }

    /// How many [changes](OpKind::is_change) were asked for since the disk was made or forked.
    pub fn changes(&self) -> u64 {
        self.shared.state.lock().changes
    }

    /// Shows each operation to the watcher from now on; none, to nobody.
    pub fn watch(&self, watcher: Option<Watcher>) {
        *self.shared.watcher.write() = watcher;
    }

    /// Remembers the operations from now on, and forgets those of before: for
    /// [`trace`](Self::trace).
    pub fn start_trace(&self) {
        self.shared.state.lock().trace = Some(Vec::new());
    }

    /// The operations since the last [`start_trace`](Self::start_trace), at most 65,536.
    pub fn trace(&self) -> Vec<Op> {
        self.shared.state.lock().trace.clone().unwrap_or_default()
    }

    /// Adds a fault. If several strike one operation, the first that was added has its effect.
    pub fn inject(&self, fault: Fault) {
        self.shared.state.lock().faults.push(fault);
    }

    /// Takes away all faults and the end that [`stop_after`](Self::stop_after) set.
    pub fn heal(&self) {
        let mut state = self.shared.state.lock();
        state.faults.clear();
        state.changes_left = None;
    }

    /// Gives the disk so many bytes; none, no end of them. A write or a filling that makes a file
    /// longer than the rest allows is done as far as it goes and fails with
    /// [`io::ErrorKind::StorageFull`]. What is written over takes no space.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity_bytes = bytes;
    }

    /// Bytes that the files take, in whole blocks. A removed file takes its space until nobody has
    /// it open.
    pub fn used_bytes(&self) -> u64 {
        self.shared.state.lock().used_bytes()
    }

    /// The same for two disks with the same names and the same durable content, and almost surely
    /// another one for any other: to pass over what was tried already.
    pub fn fingerprint(&self) -> u64 {
        self.shared.state.lock().fingerprint()
    }

    /// The first write over bytes that the log had shared and somebody still held: on a real disk they would
    /// have changed under their holder. A process that ended may have given them to another one's memory, so that
    /// crashes change nothing here.
    pub fn trampled(&self) -> Option<Op> {
        self.shared.state.lock().trampled.clone()
    }

    /// Flips one bit of a file on the device, and in the cache: it rotted. False if the file is
    /// shorter or there is none.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut state = self.shared.state.lock();
        let mut byte = [0];
        let found = state.named(path);
        let is_there = found.is_some_and(|file| file.live.read(offset, &mut byte));
        is_there && state.overwrite(path, offset, &[byte[0] ^ 1 << (bit % 8)])
    }

    /// Puts bytes into a file on the device, and in the cache: rot, a stale block, or one that went
    /// astray. False if there is no such file.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> bool {
        self.shared.state.lock().overwrite(path, offset, bytes)
    }

    /// Cuts a file, on the device and in the cache. False if there is no such file.
    pub fn truncate(&self, path: &Path, bytes: u64) -> bool {
        let mut state = self.shared.state.lock();
        state
            .named_mut(path)
            .map(|file| file.cut(bytes.min(file.live.bytes)))
            .is_some()
    }

    /// What readers see of a file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        state.named(path).map(|file| file.live.to_vec())
    }

    /// What the device has of a file, whatever waits in the cache.
    pub fn durable_contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        state.named(path).map(|file| file.durable.to_vec())
    }

    /// The names of all files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.shared.state.lock().names.keys().cloned().collect()
    }

    /// Shows the operation, counts it, and says what fault strikes it.
    fn begin(&self, kind: OpKind, path: &Path, offset: u64, bytes: u64) -> io::Result<Strike> {
        let op = Op {
            kind,
            path: path.to_owned(),
            offset,
            bytes,
        };
        let watcher = self.shared.watcher.read().clone();
        if let Some(watcher) = watcher {
            watcher(&op);
        }
        match self.shared.state.lock().begin(op)? {
            Some(Effect::Fail(error)) => Ok(Strike::Fail(error)),
            Some(Effect::Short(bytes, error)) => Ok(Strike::Short(bytes, error)),
            Some(Effect::Lost) => Ok(Strike::Way(Way::Lost)),
            Some(Effect::Misdirected(by)) => Ok(Strike::Way(Way::Misdirected(by))),
            None => Ok(Strike::Way(Way::Pending)),
        }
    }

    /// Begins an operation that is done whole or not at all.
    fn begin_whole(&self, kind: OpKind, path: &Path, offset: u64, bytes: u64) -> io::Result<()> {
        match self.begin(kind, path, offset, bytes)? {
            Strike::Fail(error) | Strike::Short(_, error) => Err(error.into()),
            Strike::Way(_) => Ok(()),
        }
    }

    fn handle(&self, ino: Ino, path: &Path, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile {
            disk: self.clone(),
            ino,
            path: path.to_owned(),
            life,
        })
    }
}

/// How an operation goes.
enum Strike {
    Fail(DiskError),
    /// Only so many bytes are written.
    Short(u64, DiskError),
    Way(Way),
}

impl fmt::Debug for CrashDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashDisk")
            .field("files", &self.files())
            .finish_non_exhaustive()
    }
}

impl Disk for CrashDisk {
    fn may_share(&self, _: Inside) -> bool {
        true
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.begin_whole(OpKind::Create, path, 0, 0)?;
        let (ino, life) = self.shared.state.lock().create(path)?;
        Ok(self.handle(ino, path, life))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.begin_whole(OpKind::Open, path, 0, 0)?;
        let (ino, life) = self.shared.state.lock().open(path)?;
        Ok(self.handle(ino, path, life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin_whole(OpKind::Rename, from, 0, 0)?;
        self.shared.state.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin_whole(OpKind::Remove, path, 0, 0)?;
        self.shared.state.lock().remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.begin_whole(OpKind::List, dir, 0, 0)?;
        self.shared.state.lock().list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if self.shared.state.lock().dirs.contains(dir) {
            return Ok(());
        }
        self.begin_whole(OpKind::CreateDir, dir, 0, 0)?;
        self.shared.state.lock().create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.begin(OpKind::SyncDir, dir, 0, 0)? {
            Strike::Fail(error) | Strike::Short(_, error) => Err(error.into()),
            Strike::Way(Way::Lost) => Ok(()),
            Strike::Way(_) => self.shared.state.lock().sync_dir(dir),
        }
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.begin_whole(OpKind::Lock, dir, 0, 0)?;
        let life = self.shared.state.lock().lock(dir)?;
        Ok(DirLock::new(Held {
            disk: self.clone(),
            dir: dir.to_owned(),
            life,
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.shared.state.lock().unlock(&self.dir, self.life);
    }
}

impl CrashFile {
    /// The disk, while the process lives that has the file open.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.shared.state.lock();
        state.check_life(self.life)?;
        Ok(state)
    }

    fn begin(&self, kind: OpKind, offset: u64, bytes: u64) -> io::Result<Strike> {
        drop(self.state()?);
        self.disk.begin(kind, &self.path, offset, bytes)
    }

    fn begin_whole(&self, kind: OpKind, offset: u64, bytes: u64) -> io::Result<()> {
        drop(self.state()?);
        self.disk.begin_whole(kind, &self.path, offset, bytes)
    }

    /// Makes the file longer, as far as there is space.
    fn grow(&self, bytes: u64) -> io::Result<()> {
        let (end, error) = match self.begin(OpKind::ZeroFill, 0, bytes)? {
            Strike::Fail(error) => return Err(error.into()),
            Strike::Short(end, error) => (end.min(bytes), Some(error)),
            Strike::Way(_) => (bytes, None),
        };
        let grown = self.state()?.grow(self.ino, end);
        error.map_or(grown, |error| Err(error.into()))
    }
}

impl CrashFile {
    fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.state()?.inode(self.ino).live.bytes;
        if offset.checked_add(len as u64).is_none_or(|end| end > bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer)
    }
}

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        self.begin_whole(OpKind::Len, 0, 0)?;
        Ok(self.state()?.inode(self.ino).live.bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let strike = self.begin(OpKind::Read, offset, buffer.len() as u64)?;
        let mut state = self.state()?;
        let live = &state.inode(self.ino).live;
        if !live.read(offset, buffer) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match strike {
            Strike::Fail(error) | Strike::Short(_, error) => return Err(error.into()),
            Strike::Way(Way::Lost) => buffer.fill(0),
            Strike::Way(Way::Misdirected(by)) => live.read_elsewhere(offset, by, buffer),
            Strike::Way(Way::Pending) => {}
        }
        Ok(())
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        Ok(self.read_vec(offset, len)?.into())
    }

    fn share(&self, _: Inside, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.read_vec(offset, len)?;
        Ok(self.state()?.lend(self.ino, offset, bytes))
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = Vec::new();
        for slice in slices {
            bytes.extend_from_slice(slice);
        }
        let (way, error) = match self.begin(OpKind::Write, offset, bytes.len() as u64)? {
            Strike::Fail(error) => return Err(error.into()),
            Strike::Short(written, error) => {
                bytes.truncate(written as usize);
                (Way::Pending, Some(error))
            }
            Strike::Way(way) => (way, None),
        };
        let written = self.state()?.write(self.ino, offset, &bytes, way);
        error.map_or(written, |error| Err(error.into()))
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.note_trampled(self.ino, OpKind::ZeroFill, 0, u64::MAX);
        state.inode(self.ino).cut(0);
        drop(state);
        self.grow(bytes)
    }

    fn zero_fill_part(&self, done: u64, bytes: u64) -> io::Result<u64> {
        debug_assert!(done < bytes);
        if done == 0 {
            self.state()?.check_space(self.ino, bytes)?;
        }
        let end = (done + FILL_BYTES).min(bytes);
        self.grow(end)?;
        Ok(end)
    }

    fn forget_reads(&mut self, _: Inside) -> bool {
        let held = self.state().map(|mut state| state.is_held(self.ino));
        !held.unwrap_or(true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let strike = self.begin(OpKind::Sync, 0, 0)?;
        let mut state = self.state()?;
        let file = state.inode(self.ino);
        match strike {
            Strike::Fail(error) | Strike::Short(_, error) => {
                file.fail_sync();
                return Err(error.into());
            }
            Strike::Way(Way::Lost) => {}
            Strike::Way(_) => file.sync(),
        }
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.begin_whole(OpKind::DropCache, 0, 0)?;
        self.state()?.inode(self.ino).drop_cache();
        Ok(())
    }
}

impl Drop for CrashFile {
    fn drop(&mut self) {
        self.disk.shared.state.lock().close(self.ino, self.life);
    }
}

impl fmt::Debug for CrashFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrashFile").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests;
