//! A disk in memory that loses power, fails, fills up and rots on demand.
//!
//! Invariants:
//! - Only what a sync that succeeded covered is sure to be there after a power cut; of everything
//!   else, any part.
//! - All that happens follows from the calls and the seeds in them: no clock, no thread, no order of
//!   hashes.

mod fault;
mod image;
mod state;
mod survivors;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::{DirLock, Disk, DiskFile};

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
/// - Each write of a 4 KiB block, each new size of a file and each name that is added or removed may
///   become durable by itself, at any time and in any order, or may not.
/// - [`DiskFile::sync_data`] makes the content and the size of a file durable, [`Disk::sync_dir`] the
///   names in a directory. The names of directories are durable at once.
///
/// [`power_cut`](Self::power_cut) leaves what was durable and those of the other changes that one
/// chooses; [`process_crash`](Self::process_crash) leaves the cache. After either, the handles and the
/// locks of before are dead, and files are opened anew, as by a process that starts again.
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

    /// Bytes that the files take, in whole blocks. A removed file takes its space until nobody has it
    /// open.
    pub fn used_bytes(&self) -> u64 {
        self.shared.state.lock().used_bytes()
    }

    /// The same for two disks with the same names and the same durable content, and almost surely
    /// another one for any other: to pass over what was tried already.
    pub fn fingerprint(&self) -> u64 {
        self.shared.state.lock().fingerprint()
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

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        self.begin_whole(OpKind::Len, 0, 0)?;
        Ok(self.state()?.inode(self.ino).live.bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.begin_whole(OpKind::Read, offset, buffer.len() as u64)?;
        if self.state()?.inode(self.ino).live.read(offset, buffer) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.state()?.inode(self.ino).live.bytes;
        if offset.checked_add(len as u64).is_none_or(|end| end > bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer.into())
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
        self.state()?.inode(self.ino).cut(0);
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
mod tests {
    use super::*;

    const DIR: &str = "/log";

    fn disk() -> CrashDisk {
        let disk = CrashDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk
    }

    fn path(name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    fn write(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_at(offset, &[IoSlice::new(bytes)])
    }

    /// A file with a durable name and content.
    fn durable(disk: &CrashDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = disk.create(&path(name)).unwrap();
        write(file.as_ref(), 0, bytes).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file
    }

    fn after_cut(disk: &CrashDisk, survivors: &Survivors) -> CrashDisk {
        let disk = disk.fork();
        disk.power_cut(survivors);
        assert_eq!(disk.pending(), []);
        disk
    }

    #[test]
    fn a_file_is_lost_with_its_name_however_well_it_was_synced() {
        let disk = disk();
        let file = disk.create(&path("a")).unwrap();
        write(file.as_ref(), 0, b"content").unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.pending().len(), 1);
        assert_eq!(
            after_cut(&disk, &Survivors::None).files(),
            [] as [PathBuf; 0]
        );
        disk.sync_dir(Path::new(DIR)).unwrap();
        let cut = after_cut(&disk, &Survivors::None);
        assert_eq!(cut.contents(&path("a")).unwrap(), b"content");
    }

    #[test]
    fn each_subset_of_what_is_pending_can_survive() {
        let disk = disk();
        durable(&disk, "a", &[1; 4096]);
        let file = disk.open(&path("a")).unwrap();
        write(file.as_ref(), 0, &[2; 8192]).unwrap();
        let whats: Vec<_> = disk.pending().into_iter().map(|it| it.what).collect();
        let expected = [
            PendingChange::Block(0),
            PendingChange::Block(4096),
            PendingChange::Size(8192),
        ];
        assert_eq!(whats, expected);
        let found = |mask| {
            let cut = after_cut(&disk, &Survivors::of_mask(mask));
            let bytes = cut.contents(&path("a")).unwrap();
            bytes.chunks(4096).map(|block| block[0]).collect::<Vec<_>>()
        };
        assert_eq!(found(0), [1]);
        assert_eq!(found(0b011), [2]);
        assert_eq!(found(0b100), [1, 0]);
        assert_eq!(found(0b110), [1, 2]);
        assert_eq!(found(0b111), [2, 2]);
    }

    #[test]
    fn a_renamed_file_has_its_old_name_or_its_new_one_or_both() {
        let disk = disk();
        durable(&disk, "old", b"new content");
        durable(&disk, "new", b"old content");
        disk.rename(&path("old"), &path("new")).unwrap();
        assert_eq!(disk.files(), [path("new")]);
        let found = |mask| after_cut(&disk, &Survivors::of_mask(mask));
        assert_eq!(found(0b11).files(), [path("new")]);
        assert_eq!(found(0b01).files(), [path("new"), path("old")]);
        for undone in [0b00, 0b10] {
            assert_eq!(found(undone).files(), [path("new"), path("old")]);
            let content = found(undone).contents(&path("new")).unwrap();
            assert_eq!(content, b"old content");
        }
        assert_eq!(found(0b01).contents(&path("new")).unwrap(), b"new content");
        assert_eq!(found(0b01).contents(&path("old")).unwrap(), b"new content");
    }

    #[test]
    fn a_removed_file_may_come_back_and_its_handles_go_on() {
        let disk = disk();
        let file = durable(&disk, "a", b"content");
        disk.remove(&path("a")).unwrap();
        assert_eq!(file.read_bytes(0, 7).unwrap(), &b"content"[..]);
        assert_eq!(disk.used_bytes(), 4096);
        drop(file);
        assert_eq!(disk.used_bytes(), 0);
        let cut = after_cut(&disk, &Survivors::None);
        assert_eq!(cut.contents(&path("a")).unwrap(), b"content");
        assert_eq!(
            after_cut(&disk, &Survivors::All).files(),
            [] as [PathBuf; 0]
        );
    }

    #[test]
    fn handles_and_locks_die_with_the_process_and_the_cache_stays() {
        let disk = disk();
        let file = durable(&disk, "a", &[1; 4096]);
        let lock = disk.lock(Path::new(DIR)).unwrap();
        write(file.as_ref(), 0, &[2; 4096]).unwrap();
        disk.process_crash();
        assert!(
            file.len().is_err()
                && file.sync_data().is_err()
                && write(file.as_ref(), 0, b"x").is_err()
        );
        let held = disk.lock(Path::new(DIR)).unwrap();
        drop(lock);
        let error = disk.lock(Path::new(DIR)).unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::WouldBlock,
            "the old lock releases nothing"
        );
        drop((held, file));
        assert_eq!(disk.contents(&path("a")).unwrap(), [2; 4096]);
        assert_eq!(disk.durable_contents(&path("a")).unwrap(), [1; 4096]);
        disk.open(&path("a")).unwrap().drop_cache().unwrap();
        assert_eq!(
            disk.contents(&path("a")).unwrap(),
            [2; 4096],
            "it still waits"
        );
        disk.power_cut(&Survivors::None);
        assert_eq!(disk.contents(&path("a")).unwrap(), [1; 4096]);
    }

    #[test]
    fn a_failed_sync_loses_what_waited_and_the_next_one_succeeds() {
        let disk = disk();
        let file = durable(&disk, "a", &[1; 4096]);
        disk.inject(Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device)).times(1));
        write(file.as_ref(), 0, &[2; 4096]).unwrap();
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        file.sync_data().unwrap();
        assert_eq!(disk.contents(&path("a")).unwrap(), [2; 4096]);
        assert_eq!(disk.durable_contents(&path("a")).unwrap(), [1; 4096]);
        file.drop_cache().unwrap();
        assert_eq!(disk.contents(&path("a")).unwrap(), [1; 4096]);
    }

    #[test]
    fn writes_are_lost_go_astray_or_stop_half_way_as_asked() {
        let disk = disk();
        let file = durable(&disk, "a", &[1; 3 * 4096]);
        for effect in [Effect::Lost, Effect::Misdirected(1)] {
            disk.inject(Fault::new(OpKind::Write, effect).times(1));
        }
        write(file.as_ref(), 0, &[2; 4096]).unwrap();
        write(file.as_ref(), 4096, &[3; 4096]).unwrap();
        file.sync_data().unwrap();
        let firsts = |bytes: Vec<u8>| bytes.chunks(4096).map(|it| it[0]).collect::<Vec<_>>();
        assert_eq!(firsts(disk.contents(&path("a")).unwrap()), [2, 3, 1]);
        assert_eq!(
            firsts(disk.durable_contents(&path("a")).unwrap()),
            [1, 1, 3]
        );
        let short = Effect::Short(4096, DiskError::Quota);
        disk.inject(Fault::new(OpKind::Write, short));
        let error = write(file.as_ref(), 0, &[4; 8192]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(firsts(disk.contents(&path("a")).unwrap()), [4, 3, 1]);
        disk.heal();
        write(file.as_ref(), 0, &[4; 8192]).unwrap();
    }

    #[test]
    fn a_sync_that_lies_leaves_everything_pending() {
        let disk = disk();
        let file = durable(&disk, "a", b"old");
        disk.inject(Fault::new(OpKind::Sync, Effect::Lost));
        write(file.as_ref(), 0, b"new").unwrap();
        file.sync_data().unwrap();
        let cut = after_cut(&disk, &Survivors::None);
        assert_eq!(cut.contents(&path("a")).unwrap(), b"old");
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_what_is_written_over() {
        let disk = disk();
        let file = durable(&disk, "a", &[1; 4096]);
        disk.set_capacity(Some(2 * 4096 + 100));
        let error = write(file.as_ref(), 0, &[2; 3 * 4096]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.contents(&path("a")).unwrap(), [2; 2 * 4096]);
        write(file.as_ref(), 100, &[3; 4096]).unwrap();
        let other = disk.create(&path("b")).unwrap();
        assert_eq!(
            other.zero_fill_part(0, 4096).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        disk.remove(&path("a")).unwrap();
        drop(file);
        assert_eq!(other.zero_fill_part(0, 8192).unwrap(), 8192);
        assert_eq!(disk.contents(&path("b")).unwrap(), [0; 8192]);
    }

    #[test]
    fn the_power_goes_off_after_so_many_changes() {
        let disk = disk();
        let file = durable(&disk, "a", b"old");
        disk.stop_after(1);
        disk.start_trace();
        write(file.as_ref(), 0, b"new").unwrap();
        assert!(file.sync_data().is_err() && disk.remove(&path("a")).is_err());
        assert_eq!(
            file.read_bytes(0, 3).unwrap(),
            &b"new"[..],
            "reads change nothing"
        );
        let kinds: Vec<_> = disk.trace().into_iter().map(|op| op.kind).collect();
        assert_eq!(kinds, [OpKind::Write, OpKind::Read]);
        disk.power_cut(&Survivors::None);
        disk.remove(&path("a")).unwrap();
    }

    #[test]
    fn a_watcher_sees_the_disk_before_each_operation() {
        let disk = disk();
        let file = durable(&disk, "a", b"old");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (watched, log) = (disk.clone(), Arc::clone(&seen));
        let watcher: Watcher = Arc::new(move |op| {
            let content = watched.fork().contents(&path("a"));
            log.lock().push((op.kind, op.bytes, content));
        });
        disk.watch(Some(watcher));
        write(file.as_ref(), 0, b"new").unwrap();
        disk.watch(None);
        file.sync_data().unwrap();
        let expected = (OpKind::Write, 3, Some(b"old".to_vec()));
        assert_eq!(*seen.lock(), [expected]);
    }

    #[test]
    fn rot_is_on_the_device_and_in_the_cache() {
        let disk = disk();
        let file = durable(&disk, "a", &[0; 8192]);
        assert!(disk.flip(&path("a"), 4096, 3) && disk.overwrite(&path("a"), 1, &[7]));
        assert!(!disk.flip(&path("a"), 8192, 3) && !disk.flip(&path("b"), 0, 0));
        file.drop_cache().unwrap();
        let content = disk.contents(&path("a")).unwrap();
        assert_eq!((content[0], content[1], content[4096]), (0, 7, 8));
        assert!(disk.truncate(&path("a"), 100));
        assert_eq!(file.len().unwrap(), 100);
    }
}
