//! What can be done to a [`CrashDisk`](super::CrashDisk), and what it tells of what was done with
//! it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OpKind {
    /// A file was created.
    Create,
    /// A file was opened.
    Open,
    /// A file got another name. The path is the old one.
    Rename,
    /// A name was removed.
    Remove,
    /// The names in a directory were read.
    List,
    /// A directory was created. Asking for one that is there is not counted.
    CreateDir,
    /// The names in a directory were made durable.
    SyncDir,
    /// A directory was locked.
    Lock,
    /// The size of a file was read.
    Len,
    /// Bytes were read.
    Read,
    /// Bytes were written.
    Write,
    /// A part of a file was filled with zeros.
    ZeroFill,
    /// What was written to a file was made durable.
    Sync,
    /// The cache of a file was dropped.
    DropCache,
}

impl OpKind {
    /// Whether it changes what is on the disk, or what of it is durable: a place where a crash
    /// makes a difference.
    pub fn is_change(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::Rename
                | Self::Remove
                | Self::CreateDir
                | Self::SyncDir
                | Self::Write
                | Self::ZeroFill
                | Self::Sync
        )
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What was asked for.
    pub kind: OpKind,
    /// Of which file or directory.
    pub path: PathBuf,
    /// Where in the file, in bytes; zero if that means nothing.
    pub offset: u64,
    /// How many bytes; zero if that means nothing.
    pub bytes: u64,
}

/// What a system says when it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskError {
    /// The device failed (`EIO`).
    Device,
    /// There is no space (`ENOSPC`).
    NoSpace,
    /// The user has no more space (`EDQUOT`).
    Quota,
    /// The file would be too large (`EFBIG`).
    TooLarge,
    /// The file system cannot be written to (`EROFS`).
    ReadOnly,
    /// The process has too many files open (`EMFILE`).
    FilesOfProcess,
    /// The system has too many files open (`ENFILE`).
    FilesOfSystem,
    /// It is not allowed (`EACCES`).
    Denied,
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        let errno = match error {
            DiskError::Device => Errno::IO,
            DiskError::NoSpace => Errno::NOSPC,
            DiskError::Quota => Errno::DQUOT,
            DiskError::TooLarge => Errno::FBIG,
            DiskError::ReadOnly => Errno::ROFS,
            DiskError::FilesOfProcess => Errno::MFILE,
            DiskError::FilesOfSystem => Errno::NFILE,
            DiskError::Denied => Errno::ACCESS,
        };
        errno.into()
    }
}

/// What happens instead of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// It fails, and nothing of it was done. A sync that fails does more: what waited to be written
    /// to the file is given up and taken for clean, as Linux does, so that it never becomes
    /// durable, while reads return it until the cache is dropped, and the next sync succeeds.
    Fail(DiskError),
    /// A write stops after so many bytes, and fails. Another operation fails as a whole.
    Short(u64, DiskError),
    /// It claims success and nothing becomes of it on the device: a write never becomes durable,
    /// so that what stood there before stays; a sync makes nothing durable, and what waited goes on
    /// waiting; a read is stale, and returns the zeros that stood there before anything was written.
    /// For another operation, as if there were no fault.
    Lost,
    /// A write claims success and goes to another block of the file, so many behind its own; a read
    /// returns what stands there, unless that is outside of the file. For another operation, as if
    /// there were no fault.
    Misdirected(i64),
}

/// An effect, and the operations that it happens to: by default each of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: OpKind,
    path_part: String,
    effect: Effect,
    skip: u64,
    left: u64,
}

impl Fault {
    /// Has the effect on each operation of this kind from now on.
    pub fn new(kind: OpKind, effect: Effect) -> Self {
        Self {
            kind,
            path_part: String::new(),
            effect,
            skip: 0,
            left: u64::MAX,
        }
    }

    /// Only where this is a part of the path.
    pub fn on(mut self, path_part: &str) -> Self {
        path_part.clone_into(&mut self.path_part);
        self
    }

    /// Only after so many such operations.
    pub fn after(mut self, operations: u64) -> Self {
        self.skip = operations;
        self
    }

    /// Only on so many operations.
    pub fn times(mut self, operations: u64) -> Self {
        self.left = operations;
        self
    }

    /// The effect on this operation, if there is one.
    pub(super) fn strike(&mut self, kind: OpKind, path: &Path) -> Option<Effect> {
        if self.kind != kind || !path.to_string_lossy().contains(&self.path_part) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        Some(self.effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Shortage;

    #[test]
    fn a_fault_strikes_its_kind_its_path_and_its_turns() {
        let effect = Effect::Fail(DiskError::Device);
        let mut fault = Fault::new(OpKind::Sync, effect).on("seg").after(1).times(2);
        let path = Path::new("/log/1.seg");
        assert_eq!(fault.strike(OpKind::Write, path), None);
        assert_eq!(fault.strike(OpKind::Sync, Path::new("/log/LOCK")), None);
        let struck: Vec<_> = (0..5).map(|_| fault.strike(OpKind::Sync, path)).collect();
        assert_eq!(struck, [None, Some(effect), Some(effect), None, None]);
    }

    #[test]
    fn errors_are_those_of_the_system() {
        let full = io::Error::from(DiskError::NoSpace);
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let shortage = |error: DiskError| crate::disk::shortage(&error.into());
        for space in [DiskError::NoSpace, DiskError::Quota, DiskError::TooLarge] {
            assert_eq!(shortage(space), Some(Shortage::Space));
        }
        for handles in [DiskError::FilesOfProcess, DiskError::FilesOfSystem] {
            assert_eq!(shortage(handles), Some(Shortage::Handles));
        }
        assert_eq!(shortage(DiskError::Device), None);
    }
}
