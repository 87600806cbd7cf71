//! Where the files of a run go.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Failure;

/// A folder on a real file system, below which each load gets a folder of its own that is deleted after it.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
}

/// Names the folder to use.
const VARIABLE: &str = "QUORATE_BENCH_DIR";

/// `f_type` of file systems whose files are in memory only (statfs(2)).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58F6;

impl Place {
    /// The folder that `QUORATE_BENCH_DIR` names, else the one of the running program. Fails on a file system in memory.
    pub fn from_environment() -> Result<Self, Failure> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let root = match named {
            Some(root) => root,
            None => std::env::current_exe()?
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
        };
        Self::at(root)
    }

    /// This folder. Fails on a file system in memory.
    pub fn at(root: PathBuf) -> Result<Self, Failure> {
        std::fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let kind = rustix::fs::statfs(&root)?.f_type.cast_unsigned();
        if matches!(kind, TMPFS_MAGIC | RAMFS_MAGIC) {
            let root = root.display();
            return Err(format!("{root} is in memory, where a sync does nothing: name a folder on a disk, with {VARIABLE} if need be").into());
        }
        Ok(Self { root })
    }

    /// A fresh folder, deleted when the result is dropped.
    pub fn folder(&self) -> Result<TempDir, Failure> {
        Ok(tempfile::Builder::new()
            .prefix("quorate-bench-")
            .tempdir_in(&self.root)?)
    }

    /// The folder in which all others are made.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
