//! Snapshot files: written under a temporary name, synced, read back and verified, and only then
//! given their name.
//!
//! Invariants:
//! - A file with its final name was whole and durable when it got it. It is never written again.
//! - Which of the files count is not decided here: a snapshot is in force when the log names it.
//! - No more than one step of a snapshot waits to be written to the device, so that a sync of the
//!   log, on the same device, never waits for more.
//! - A writer and a reader hold one chunk in memory each. Of the cache, a file that is written or
//!   streamed takes two steps.

mod format;
mod reader;
mod writer;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::SnapshotRef;
use crate::disk::{Disk, absolute, is_shortage};
use crate::error::{OpenError, SnapshotError};
use crate::ids::GroupId;

use format::{CHUNK_BYTES, Identity};

pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;

const PUBLISHED: &str = ".snap";
const TEMPORARY: &str = ".tmp";

/// Written in steps of this size, unless [`Snapshots::with_step`] says otherwise.
const STEP_BYTES: u64 = 1 << 20;

/// The snapshot files of a node, a directory for each group. Whoever opens it must hold the
/// directory for itself: by the lock of the log that names the snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    step_chunks: u64,
}

impl Snapshots {
    /// Opens the snapshots in a directory, which is created if there is none, and deletes files
    /// that were being written when a process died.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        let failed = |action, path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                OpenError::NotADirectory {
                    path: path.to_owned(),
                }
            }
            _ => OpenError::Io {
                action,
                path: path.to_owned(),
                source,
            },
        };
        let dir = &absolute(dir);
        disk.create_dir_all(dir)
            .map_err(|error| failed("create", dir, error))?;
        let names = disk.list(dir).map_err(|error| failed("list", dir, error))?;
        for name in names.iter().filter(|name| parse_hex(name).is_some()) {
            let group = dir.join(name);
            let names = disk
                .list(&group)
                .map_err(|error| failed("list", &group, error))?;
            for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
                let path = group.join(name);
                disk.remove(&path)
                    .map_err(|error| failed("delete", &path, error))?;
            }
        }
        // Who made a directory for a group may have died before the name of it was durable.
        disk.sync_dir(dir)
            .map_err(|error| failed("sync", dir, error))?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            step_chunks: STEP_BYTES / CHUNK_BYTES,
        })
    }

    /// Has snapshots written in steps of so many bytes, rounded up to whole chunks of 256 KiB: each
    /// is made durable before the next one begins. Default 1 MiB. Larger steps are faster, smaller
    /// ones leave the device sooner to others, as the log.
    pub fn with_step(mut self, step_bytes: u64) -> Self {
        self.step_chunks = step_bytes.div_ceil(CHUNK_BYTES).max(1);
        self
    }

    /// Begins a snapshot of a group that covers the log up to `index`, whose entry has `term`. `id`
    /// tells it from others of the same index. There is one writer for the same four numbers at a
    /// time.
    pub fn create(
        &self,
        group: GroupId,
        index: u64,
        term: u64,
        id: u64,
    ) -> Result<SnapshotWriter, SnapshotError> {
        let dir = self.group_dir(group);
        self.disk
            .create_dir_all(&dir)
            .map_err(|error| failed_to_write("create", &dir, error))?;
        let identity = Identity {
            group,
            index,
            term,
            id,
        };
        SnapshotWriter::create(Arc::clone(&self.disk), dir, identity, self.step_chunks)
    }

    /// Opens a snapshot and checks that it is the one that the reference names. Chunks are checked
    /// as they are read.
    pub fn open_reader(
        &self,
        group: GroupId,
        snapshot: &SnapshotRef,
    ) -> Result<SnapshotReader, SnapshotError> {
        open_in(self.disk.as_ref(), &self.dir, group, snapshot)
    }

    /// Where the file of a snapshot is, or would be.
    pub fn path(&self, group: GroupId, snapshot: &SnapshotRef) -> PathBuf {
        self.group_dir(group)
            .join(file_name(identity(group, snapshot)))
    }

    /// Whether there is a file for the reference, with a header and footer that fit it. Its content
    /// is not read.
    pub fn exists(&self, group: GroupId, snapshot: &SnapshotRef) -> bool {
        self.open_reader(group, snapshot).is_ok()
    }

    /// Reads a whole snapshot and checks every chunk.
    pub fn verify(&self, group: GroupId, snapshot: &SnapshotRef) -> Result<(), SnapshotError> {
        self.open_reader(group, snapshot)?.verify(|_| ())
    }

    /// Deletes a snapshot. No error if there is none. The bytes that open readers hold stay.
    pub fn remove(&self, group: GroupId, snapshot: &SnapshotRef) -> Result<(), SnapshotError> {
        let path = self.path(group, snapshot);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("delete", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the snapshots of a group except these, also one that was published a moment ago: for
    /// when nobody else is at work here. What is being written stays, and so do the bytes that open
    /// readers hold.
    pub fn retain(&self, group: GroupId, keep: &[SnapshotRef]) -> Result<(), SnapshotError> {
        let dir = self.group_dir(group);
        let names = match self.disk.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(|error| failed("list", &dir, error))?,
        };
        let keep: Vec<_> = keep
            .iter()
            .map(|it| file_name(identity(group, it)))
            .collect();
        for name in names
            .iter()
            .filter(|name| name.ends_with(PUBLISHED) && !keep.contains(name))
        {
            let path = dir.join(name);
            self.disk
                .remove(&path)
                .map_err(|error| failed("delete", &path, error))?;
        }
        Ok(())
    }

    fn group_dir(&self, group: GroupId) -> PathBuf {
        group_dir(&self.dir, group)
    }
}

/// Opens a snapshot in a directory of snapshots as [`Snapshots::open_reader`] does, for who does not
/// have the directory for itself.
pub(crate) fn open_in(
    disk: &dyn Disk,
    dir: &Path,
    group: GroupId,
    snapshot: &SnapshotRef,
) -> Result<SnapshotReader, SnapshotError> {
    let identity = identity(group, snapshot);
    let path = group_dir(dir, group).join(file_name(identity));
    SnapshotReader::open(disk, path, identity, snapshot.bytes, snapshot.crc)
}

/// The files in a directory of snapshots that these references do not name, in order.
pub(crate) fn unnamed(
    disk: &dyn Disk,
    dir: &Path,
    named: &[(GroupId, SnapshotRef)],
) -> io::Result<Vec<PathBuf>> {
    let named: BTreeSet<PathBuf> = named
        .iter()
        .map(|(group, it)| group_dir(dir, *group).join(file_name(identity(*group, it))))
        .collect();
    let mut unnamed = Vec::new();
    for name in disk.list(dir)?.iter().filter(|it| parse_hex(it).is_some()) {
        let group = dir.join(name);
        let files = disk.list(&group)?;
        let files = files
            .iter()
            .filter(|name| name.ends_with(PUBLISHED) || name.ends_with(TEMPORARY))
            .map(|name| group.join(name));
        unnamed.extend(files.filter(|path| !named.contains(path)));
    }
    Ok(unnamed)
}

fn group_dir(dir: &Path, group: GroupId) -> PathBuf {
    dir.join(format!("{:016x}", group.0))
}

fn identity(group: GroupId, snapshot: &SnapshotRef) -> Identity {
    Identity {
        group,
        index: snapshot.index,
        term: snapshot.term,
        id: snapshot.id,
    }
}

fn file_name(identity: Identity) -> String {
    format!(
        "{:016x}-{:016x}-{:016x}.snap",
        identity.index, identity.term, identity.id
    )
}

fn parse_hex(name: &str) -> Option<u64> {
    (name.len() == 16)
        .then(|| u64::from_str_radix(name, 16).ok())
        .flatten()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    let path = path.to_owned();
    SnapshotError::Io {
        action,
        path,
        source,
    }
}

/// Like [`failed`], for steps that take room.
fn failed_to_write(action: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    if !is_shortage(&source) {
        return failed(action, path, source);
    }
    let path = path.to_owned();
    SnapshotError::Full {
        action,
        path,
        source,
    }
}
