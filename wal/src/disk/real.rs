//! The files of the operating system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::{DirLock, Disk, DiskFile, Inside, system};
use crate::map::{Forgotten, Mapped};

/// Slices that one system call takes at most (`IOV_MAX` of Linux and of macOS).
const SLICES_MAX: usize = 1024;

/// Zeros are written in pieces of this size: the page cache then keeps small folios, and a segment
/// that is being prepared takes little memory. A sync walks all blocks of each folio that was written to: in
/// folios of 2 MiB, which reads through the map would like, that of 4 KiB took a tenth longer.
const ZERO_BYTES: usize = 64 << 10;

/// The name of the file in a directory that carries its lock.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// Keys and values are readable in the files: nobody but their owner may open what is made here. A directory that is there
/// already keeps its mode.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The files of the operating system. The log reads through a shared read-only map, all others by
/// copying; writes go through `pwritev`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// So much is filled with zeros at once, between two syncs.
const FILL_BYTES: u64 = 1 << 20;

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The whole file, mapped by the first read that shares. Only files that never shrink while the
    /// directory is locked are read this way.
    map: OnceLock<Mapped>,
    /// Held while the file is mapped, and while it is cut.
    sizing: Mutex<()>,
    /// How far the file was filled with zeros by this handle, which made it; beyond any end if it was there
    /// before.
    filled: AtomicU64,
    /// Maps of before of which somebody may still hold bytes.
    forgotten: Vec<Forgotten>,
    /// Where the last hint of what will be read began.
    hinted: AtomicU64,
}

/// No hint begins so far into a file.
const NO_HINT: u64 = u64::MAX;

/// The lock of a directory, for as long as this lives.
///
/// A process that was forked while it was held has the same open file, and with it the lock: to
/// close the file would release nothing while such a child lives. So whoever took the lock releases
/// it by name, and a child, which took nothing, must not: its parent still counts on it.
#[derive(Debug)]
struct HeldLock {
    file: File,
    /// The process that took it.
    process: u32,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        if std::process::id() == self.process {
            // If this fails, the lock goes with the last copy of the file.
            let _closes = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl Disk for RealDisk {
    fn may_share(&self, _: Inside) -> bool {
        true
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(RealFile::new(file, 0)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        open_regular(OpenOptions::new().read(true).write(true), path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        // A pipe with the name of a file must not hold up who only looks.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        open_regular(OpenOptions::new().read(true).custom_flags(flags), path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(DIR_MODE).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => other?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let path = dir.join(LOCK_NAME);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        // The lock belongs to the open file, so that it holds against other opens in this process
        // too, and the kernel releases it when the process dies.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(DirLock::new(HeldLock {
            file,
            process: std::process::id(),
        }))
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        let file = match File::open(dir.join(LOCK_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        // A shared lock needs no right to write, and is gone when the file is closed.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_regular(options: &OpenOptions, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(Arc::new(RealFile::new(file, u64::MAX)))
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn share(&self, _: Inside, offset: u64, len: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let shared = self.mapped()?.share(start..start.saturating_add(len));
        shared.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn peek(&self, _: Inside, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.mapped()?.copy(start, buffer) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        write_all(offset, slices, |offset, slices| {
            rustix::io::pwritev(&self.file, slices, offset).map_err(io::Error::from)
        })
    }

    fn zero_fill(&self, bytes: u64) -> io::Result<()> {
        // The file grows with what is written, so that one that was left half filled is never taken
        // for a whole one.
        self.fill(0, bytes)?;
        self.filled.fetch_max(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn zero_fill_part(&self, done: u64, bytes: u64) -> io::Result<u64> {
        if done == 0 {
            system::take_space(&self.file, bytes)?;
        }
        let end = (done + FILL_BYTES).min(bytes);
        self.fill(done, end)?;
        self.filled.fetch_max(end, Ordering::Relaxed);
        Ok(end)
    }

    fn give_back_rest(&self, bytes: u64) {
        let _sizing = self.sizing.lock();
        let Ok(len) = self.len() else { return };
        let filled = self.filled.load(Ordering::Relaxed).min(len);
        let mapped = self.map.get().map_or(0, Mapped::len) as u64;
        let is_held = !self.forgotten.is_empty();
        if bytes < filled.max(mapped) || bytes > len || is_held && bytes < len {
            return;
        }
        // A file that is cut where it ends loses what was taken beyond.
        let _ = self.file.set_len(bytes);
    }

    fn prefetch(&self, offset: u64, len: u64) {
        // A hint walks the page cache: one for every few entries took as long as reading them.
        let hinted = self.hinted.load(Ordering::Relaxed);
        if (hinted..hinted.saturating_add(len / 2)).contains(&offset) {
            return;
        }
        self.hinted.store(offset, Ordering::Relaxed);
        system::will_read(&self.file, offset, len);
    }

    fn release(&self, offset: u64, len: u64) {
        let _ = system::forget(&self.file, offset, len);
    }

    fn forget_reads(&mut self, _: Inside) -> bool {
        self.forgotten.extend(self.map.take().map(Mapped::forget));
        self.forgotten.retain(|map| !map.is_gone());
        self.forgotten.is_empty()
    }

    fn sync_data(&self) -> io::Result<()> {
        // `fdatasync`. On Apple's systems, where that leaves bytes in the cache of the drive, the
        // standard library asks for `F_FULLFSYNC`, here and for directories.
        self.file.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        system::forget(&self.file, 0, 0)
    }
}

impl RealFile {
    fn new(file: File, filled: u64) -> Self {
        Self {
            file,
            map: OnceLock::new(),
            sizing: Mutex::new(()),
            filled: AtomicU64::new(filled),
            forgotten: Vec::new(),
            hinted: AtomicU64::new(NO_HINT),
        }
    }

    /// The map of the whole file.
    fn mapped(&self) -> io::Result<&Mapped> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let _sizing = self.sizing.lock();
        let map = Mapped::whole(&self.file)?;
        // Two threads may map one after the other; the first map stays.
        Ok(self.map.get_or_init(|| map))
    }

    fn fill(&self, mut offset: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; ZERO_BYTES];
        while offset < end {
            let len = (end - offset).min(ZERO_BYTES as u64);
            self.file.write_all_at(&zeros[..len as usize], offset)?;
            offset += len;
        }
        Ok(())
    }
}

/// Calls `write` until all slices are written: a system call may write less than it was given, and
/// may be interrupted.
fn write_all(
    mut offset: u64,
    slices: &[IoSlice<'_>],
    write: impl Fn(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut copies: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut left = &mut copies[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let window = &left[..left.len().min(SLICES_MAX)];
        match write(offset, window) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Writes `parts` through a system call that writes `step` bytes at a time and is interrupted
    /// every other time.
    fn write_in_steps(parts: &[&[u8]], step: usize) -> (Vec<u8>, usize) {
        let file = RefCell::new(Vec::new());
        let calls = Cell::new(0_usize);
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        write_all(100, &slices, |offset, slices| {
            calls.set(calls.get() + 1);
            if calls.get().is_multiple_of(2) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let mut file = file.borrow_mut();
            assert_eq!(offset, 100 + file.len() as u64);
            assert!(slices.len() <= SLICES_MAX);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let written = bytes.len().min(step);
            file.extend_from_slice(&bytes[..written]);
            Ok(written)
        })
        .unwrap();
        (file.into_inner(), calls.get())
    }

    #[test]
    fn short_and_interrupted_writes_are_completed() {
        let parts: [&[u8]; 5] = [b"one", b"", b"three", b"4", b""];
        for step in 1..12 {
            let (written, calls) = write_in_steps(&parts, step);
            assert_eq!(written, b"onethree4", "step {step}");
            assert!(calls >= 9_usize.div_ceil(step));
        }
    }

    #[test]
    fn more_slices_than_a_call_takes_are_written_in_order() {
        let bytes: Vec<u8> = (0..3000_u32).map(|number| number as u8).collect();
        let parts: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(write_in_steps(&parts, usize::MAX).0, bytes);
    }

    #[test]
    fn a_few_bytes_are_copied_from_where_they_would_be_shared() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("file")).unwrap();
        file.write_at(0, &[IoSlice::new(b"quorate")]).unwrap();
        let mut some = [0; 3];
        file.peek(Inside(()), 4, &mut some).unwrap();
        assert_eq!(&some, b"ate");
        assert_eq!(file.share(Inside(()), 4, 3).unwrap(), &b"ate"[..]);
        for offset in [5, 7, u64::MAX] {
            let errors = [
                file.peek(Inside(()), offset, &mut some).unwrap_err(),
                file.share(Inside(()), offset, 3).unwrap_err(),
                file.read_bytes(offset, 3).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
            }
        }
    }

    /// Who is not the log gets a copy: what is written later does not change under its holder.
    #[test]
    fn bytes_that_another_crate_reads_are_not_those_that_it_writes() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("file")).unwrap();
        file.write_at(0, &[IoSlice::new(b"quorate")]).unwrap();
        let held = file.read_bytes(0, 7).unwrap();
        file.write_at(0, &[IoSlice::new(b"changed")]).unwrap();
        assert_eq!(held, &b"quorate"[..]);
        assert_eq!(file.read_bytes(0, 7).unwrap(), &b"changed"[..]);
    }

    #[test]
    fn nothing_that_was_filled_written_or_mapped_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = RealDisk.create(&path).unwrap();
        file.zero_fill_part(0, 4096).unwrap();
        // What a part that failed has left behind what is filled goes.
        file.write_at(4096, &[IoSlice::new(&[0; 100])]).unwrap();
        for bytes in [0, 4095, 5000] {
            file.give_back_rest(bytes);
            assert_eq!(file.len().unwrap(), 4196, "{bytes}");
        }
        file.give_back_rest(4096);
        assert_eq!(file.len().unwrap(), 4096);
        file.write_at(4096, &[IoSlice::new(&[1; 100])]).unwrap();
        let held = file.share(Inside(()), 4190, 4).unwrap();
        file.give_back_rest(4096);
        assert_eq!((file.len().unwrap(), &held[..]), (4196, &[1; 4][..]));
        let opened = RealDisk.open(&path).unwrap();
        opened.give_back_rest(100);
        assert_eq!(opened.len().unwrap(), 4196);
    }

    /// The test of the tool does the same without a mask of the process, and sees each file of a node.
    #[test]
    fn nobody_else_may_open_what_is_made() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (outer, inner) = (dir.path().join("outer"), dir.path().join("outer/inner"));
        RealDisk.create_dir_all(&inner).unwrap();
        assert_eq!((mode(&outer), mode(&inner)), (0o700, 0o700));
        RealDisk.create(&inner.join("file")).unwrap();
        let _lock = RealDisk.lock(&inner).unwrap();
        for name in ["file", LOCK_NAME] {
            assert_eq!(mode(&inner.join(name)), 0o600, "{name}");
        }
        // One that is there is its owner's business.
        fs::set_permissions(&outer, fs::Permissions::from_mode(0o755)).unwrap();
        RealDisk.create_dir_all(&inner).unwrap();
        assert_eq!(mode(&outer), 0o755);
    }

    #[test]
    fn a_call_that_writes_nothing_is_an_error() {
        let error = write_all(0, &[IoSlice::new(b"x")], |_, _| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }

    /// A child between `fork` and `exec`, or one that never executes anything, has the same open
    /// file: the lock stayed until it ended.
    #[test]
    fn a_lock_is_released_though_a_child_still_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(dir.path().join(LOCK_NAME))
            .unwrap();
        let copy = file.try_clone().unwrap();
        let mut sleeps = std::process::Command::new("sleep");
        let mut child = Ended(sleeps.arg("60").stdin(copy).spawn().unwrap());
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let lock = DirLock::new(HeldLock {
            file,
            process: std::process::id(),
        });
        assert!(RealDisk.is_locked(dir.path()).unwrap());
        drop(lock);
        assert!(child.0.try_wait().unwrap().is_none(), "the child lives");
        drop(RealDisk.lock(dir.path()).expect("it was released"));
    }

    #[test]
    fn a_copy_that_another_process_has_releases_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(dir.path().join(LOCK_NAME))
            .unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let process = std::process::id();
        let copy = file.try_clone().unwrap();
        let lock = DirLock::new(HeldLock { file, process });
        // As a forked child has it: with the number of its parent.
        let process = process.wrapping_add(1);
        drop(HeldLock {
            file: copy,
            process,
        });
        assert!(RealDisk.lock(dir.path()).is_err(), "it is held still");
        drop(lock);
        drop(RealDisk.lock(dir.path()).expect("it was released"));
    }

    /// Ends a child also if the test fails.
    struct Ended(std::process::Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _gone = self.0.kill();
            let _reaped = self.0.wait();
        }
    }
}
