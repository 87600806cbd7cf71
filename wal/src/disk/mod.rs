//! The file operations that the log needs, as a trait, so that they can be real, in memory, or made
//! to fail.
//!
//! What an implementation promises, and the log relies on:
//! - Written bytes are read back by every handle at once, durable or not.
//! - After [`DiskFile::sync_data`], what was written to the file before is durable. Until then any
//!   subset of its blocks may be.
//! - After [`Disk::sync_dir`], the names in the directory are durable. Until then any of them may
//!   be missing or old.
//! - A failed sync makes nothing durable, and says nothing about a later one.

mod copying;
#[cfg(feature = "testing")]
pub(crate) mod crash;
mod memory;
mod real;
mod system;

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use copying::copying;
pub use memory::MemoryDisk;
pub(crate) use real::LOCK_NAME;
pub use real::RealDisk;

/// The directory that a path names now. Files are looked for again long after the open, and the process
/// may have changed its working directory by then. Where the system cannot tell, the path itself,
/// which the system then refuses.
pub(crate) fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

/// Directories and the names in them.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates an empty file. Fails with [`io::ErrorKind::AlreadyExists`] if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading only, also where nothing may be written. The provided form is for
    /// disks that do not tell the two apart.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    /// Gives a file another name, in place of what had it. Durable after [`Disk::sync_dir`] of the
    /// directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name. Open handles and mapped bytes stay valid.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in order. Names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and those above it. No error if it exists;
    /// [`io::ErrorKind::NotADirectory`] or [`io::ErrorKind::AlreadyExists`] if something else has
    /// the name. The names of new directories are durable.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a directory against every other opener, in this process or another, until the result
    /// is dropped or the process ends. Fails with [`io::ErrorKind::WouldBlock`] if it is locked.
    fn lock(&self, dir: &Path) -> io::Result<DirLock>;

    /// Whether somebody holds the lock of a directory. Changes nothing and creates nothing; an opener
    /// that comes in this very moment may be refused. The provided form is for disks whose locks
    /// leave no trace: it takes the lock and gives it back.
    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        match self.lock(dir) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the bytes of its files may be shared, see [`DiskFile::share`]: other names are other files, and
    /// nobody else has a handle that writes. Only this crate vouches for that, of its own disks.
    #[doc(hidden)]
    fn may_share(&self, _: Inside) -> bool {
        false
    }
}

/// One open file. All methods may be called from any thread.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its size in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Fills the buffer, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// A copy of bytes of the file.
    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        // A length that no file has costs no memory.
        let file_bytes = self.len()?;
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > file_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer.into())
    }

    /// Bytes of the file, without a copy where that is possible: they must never be written again while anybody holds
    /// them, which only the log can know of its files. So only this crate can call this, and no other one
    /// can implement it. The bytes stay valid when the file is removed, and then hold its space until
    /// they are dropped.
    #[doc(hidden)]
    fn share(&self, _: Inside, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read_bytes(offset, len)
    }

    /// Writes all bytes, one slice behind the other. After an error any part of them may have been
    /// written.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;

    /// Makes the file `bytes` long and all of it zeros, in blocks that are written and not only
    /// reserved, so that overwriting them later needs neither space nor a change of metadata. Fails
    /// with [`io::ErrorKind::StorageFull`] if there is no space.
    fn zero_fill(&self, bytes: u64) -> io::Result<()>;

    /// Does a part of [`zero_fill`](Self::zero_fill): goes on from `done`, and says how far it is. The
    /// space for all of it is taken with the first part, where the file system can do that. The
    /// provided form does all at once.
    fn zero_fill_part(&self, done: u64, bytes: u64) -> io::Result<u64> {
        debug_assert!(done < bytes);
        self.zero_fill(bytes)?;
        Ok(bytes)
    }

    /// Gives back the space that [`zero_fill_part`](Self::zero_fill_part) took beyond so many bytes, which were filled; no
    /// more will be. Only a hint: what was filled or written before, or is shared, is never cut off.
    fn give_back_rest(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Copies a few bytes that [`share`](Self::share) would share.
    #[doc(hidden)]
    fn peek(&self, _: Inside, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.read_bytes(offset, buffer.len())?);
        Ok(())
    }

    /// Has bytes that will be read soon brought into the cache, if there is one. Only a hint, which may be
    /// dropped if it begins in the first half of the one before: who reads forward may give it each time.
    fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Gives back the room that durable bytes take in the cache, if there is one: they will not be
    /// read soon. Only a hint.
    fn release(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Forgets what [`share`](Self::share) keeps for the next call. Whether nobody holds bytes that it
    /// ever returned, so that the file may be written anew; the provided form is for files whose bytes
    /// are copied.
    #[doc(hidden)]
    fn forget_reads(&mut self, _: Inside) -> bool {
        true
    }

    /// Makes everything written so far durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Forgets clean cached bytes, so that the next read asks the device.
    fn drop_cache(&self) -> io::Result<()>;
}

mod sealed {
    /// Shows that it is this crate that calls: others can neither name nor make one.
    #[derive(Clone, Copy, Debug)]
    pub struct Inside(pub(crate) ());
}

pub(crate) use sealed::Inside;

/// Keeps a directory locked while it lives.
pub struct DirLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl DirLock {
    /// A lock that is released by dropping `held`.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl fmt::Debug for DirLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirLock")
    }
}

/// Writes a small file so that after a crash there is the old content or the new one, whole. The
/// content is durable when this returns. Uses the name with `.tmp` added for a moment; whatever has
/// that name is lost.
pub fn write_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names no file",
        ));
    };
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = dir.join(temporary);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(dir)
}

/// What ran out. It passes, and says nothing of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Space on the disk.
    Space,
    /// File handles of the process or of the system, or memory for them.
    Handles,
}

/// Whether an error says that something ran out, and not that the device is broken.
pub(crate) fn shortage(error: &io::Error) -> Option<Shortage> {
    use rustix::io::Errno;
    let is = |errnos: &[Errno]| {
        let mut errnos = errnos.iter();
        errnos.any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    };
    let is_full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    if is_full || is(&[Errno::NOSPC, Errno::DQUOT, Errno::FBIG]) {
        Some(Shortage::Space)
    } else if is(&[Errno::MFILE, Errno::NFILE, Errno::NOMEM]) {
        Some(Shortage::Handles)
    } else {
        None
    }
}

pub(crate) fn is_shortage(error: &io::Error) -> bool {
    shortage(error).is_some()
}
