//! What can go wrong, and what to do then.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{GroupId, SegmentId};

/// Why a log or a directory of snapshots could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of range.
    #[error("the log options do not fit together: {reason}")]
    Options {
        /// Which one, and what it must be.
        reason: String,
    },
    /// Another process, or another log of this process, has the directory open.
    #[error(
        "{path} is in use by another process, or by another handle of this one: stop that one first",
        path = .path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The path names something that is not a directory.
    #[error(
        "{path} is not a directory: give the log a directory of its own",
        path = .path.display()
    )]
    NotADirectory {
        /// What stands there.
        path: PathBuf,
    },
    /// There is no log to look at.
    #[error("{path} {what}: name the directory of a node or of its log", path = .path.display())]
    NoLog {
        /// What was named.
        path: PathBuf,
        /// What is there instead.
        what: &'static str,
    },
    /// A file was written in a format that this build does not read.
    #[error(
        "{path} has format version {found}, but this build reads up to {supported}: \
         use a newer build",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its major version, or the one that a reader of it needs.
        found: u16,
        /// The newest major version that this build reads.
        supported: u16,
    },
    /// A segment belongs to the log of another node.
    #[error(
        "{path} belongs to the log with identity {found:#x}, not {expected:#x}: \
         open the directory of this node",
        path = .path.display()
    )]
    Identity {
        /// The file.
        path: PathBuf,
        /// The identity in the file.
        found: u64,
        /// The identity in the options.
        expected: u64,
    },
    /// A segment that the log still needs is not there.
    #[error(
        "{path} is missing, and the log needs it: put the file back from where it went",
        path = .path.display()
    )]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
        /// Its id.
        segment: SegmentId,
    },
    /// A number that only grows has no next one. No log comes so far: the files were tampered with.
    #[error(
        "{what} {found:#x} in {path} has no next one: \
         remove files that do not belong there, or leave this node out",
        path = .path.display()
    )]
    Exhausted {
        /// The directory.
        path: PathBuf,
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u64,
    },
    /// Acknowledged data was damaged. Nothing was changed on disk.
    #[error(
        "the log holds {count} damaged parts, first {first}: \
         restore these very files, and no older ones, or leave this node out",
        count = .damage.len(),
        first = .damage.first().map(ToString::to_string).unwrap_or_default()
    )]
    Damaged {
        /// Each damaged part.
        damage: Vec<Damage>,
    },
    /// The process that has the log open gave back segments faster than they could be looked at. Only
    /// those who look into a log in use meet this.
    #[error(
        "{path} changed during each of {looks} looks: look again when less is written, \
         or when the process that has it open has stopped",
        path = .path.display()
    )]
    Moving {
        /// The directory.
        path: PathBuf,
        /// How often it was looked at.
        looks: usize,
    },
    /// The operating system refused. An error while reading is never taken for the end of the log.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Why a submission was refused. Nothing of it entered the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// A write or a sync failed earlier. The log never acknowledges again; reopen it.
    #[error("the log failed and takes no more writes, reopen it: {reason}")]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// There is no space for the next segment. Retry: the log resumes by itself when space returns.
    #[error("the disk is full: retry when there is space, compact or delete files")]
    Full,
    /// There is no file handle for the next segment. Retry: the log resumes by itself when some are
    /// closed.
    #[error(
        "no file handles are left ({reason}): \
         retry when some are closed, or raise the limit of open files"
    )]
    NoHandles {
        /// What the system said.
        reason: String,
    },
    /// An entry or the whole batch is larger than the options allow.
    #[error("{what} takes {bytes} bytes, but at most {bytes_max} are allowed: split it")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// Too many bytes wait to be written. Retry after the durable lsn moved.
    #[error("too much waits to be written: retry after the log has caught up")]
    QueueFull,
    /// The states of all groups together would not fit the checkpoint at the start of a segment.
    #[error("the states of all groups take more than {bytes_max} bytes: use fewer groups")]
    TooManyGroups {
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// The batch does not continue the log of a group.
    #[error("the batch does not fit the log of {group}: {reason}")]
    Invalid {
        /// The group.
        group: GroupId,
        /// What does not fit.
        reason: &'static str,
    },
}

impl SubmitError {
    /// Whether the same submission may succeed later on this log.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::NoHandles { .. } | Self::QueueFull)
    }
}

/// Why a batch is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// It was refused. Nothing of it entered the log.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The log failed, or was closed, while it was written. It may be there after a reopen, or not.
    #[error("it is not known whether the batch is durable, reopen the log: {reason}")]
    Unknown {
        /// What failed.
        reason: String,
    },
}

impl CommitError {
    /// Whether the same batch may succeed later on this log.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.is_retryable())
    }
}

/// Why a step of the log failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A write or a sync failed, now or earlier. The log never acknowledges again; reopen it.
    #[error("the log failed and takes no more writes, reopen it: {reason}")]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// A dead segment could not be deleted. It is tried again with the next preparation.
    #[error("cannot delete the dead segment {path}: {reason}", path = .path.display())]
    Delete {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log of the group begins later: these entries are behind a snapshot.
    #[error(
        "entry {index} of {group} was compacted, the log begins at {first_index}: use the snapshot"
    )]
    Compacted {
        /// The group.
        group: GroupId,
        /// The first index asked for.
        index: u64,
        /// The first index that is there.
        first_index: u64,
    },
    /// The entries are not in the log, or not yet durable.
    #[error("entry {index} of {group} is not written, the log ends at {last_index}")]
    NotWritten {
        /// The group.
        group: GroupId,
        /// The first index that is not there.
        index: u64,
        /// The last index that is there.
        last_index: u64,
    },
    /// The bytes on disk are not those that were written. They were not returned.
    #[error(
        "entry {index} of {group} is damaged ({kind}) in {file} at {offset}: \
         fetch it from a peer",
        file = .file.display()
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// What is wrong.
        kind: DamageKind,
    },
    /// The operating system refused.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A part of the log that was acknowledged and is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The group, where it is known.
    pub group: Option<GroupId>,
    /// First and last index of the entries that are lost, where they are known.
    pub indexes: Option<(u64, u64)>,
    /// What is wrong.
    pub kind: DamageKind,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {} at {}",
            self.kind,
            self.file.display(),
            self.offset
        )?;
        if let Some(group) = self.group {
            write!(f, ", {group}")?;
        }
        if let Some((first, last)) = self.indexes {
            write!(f, ", entries {first} to {last}")?;
        }
        Ok(())
    }
}

/// What is wrong with damaged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// The header of a segment.
    SegmentHeader,
    /// The header of a batch.
    BatchHeader,
    /// The descriptors of a batch.
    Descriptors,
    /// The payload of an entry.
    Payload,
    /// A segment does not end where its successor says, or with other batches.
    Chain,
    /// A checkpoint disagrees with what the log before it says.
    Checkpoint,
    /// Entries that should be in the log are nowhere in it.
    MissingEntries,
    /// A segment that the log needs is not there.
    MissingSegment,
    /// The file is shorter than what was written to it.
    Truncated,
    /// The header, a chunk or the footer of a snapshot file.
    Snapshot,
    /// A snapshot that the log names is not there.
    MissingSnapshot,
    /// The list of the segments in service.
    Manifest,
    /// The index behind a sealed segment. No entry is lost: the batches tell the same.
    Footer,
    /// Bytes between the parts of a file that should be zero. Nothing is lost.
    Padding,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SegmentHeader => "damaged segment header",
            Self::BatchHeader => "damaged batch header",
            Self::Descriptors => "damaged descriptors",
            Self::Payload => "damaged payload",
            Self::Chain => "broken chain of segments",
            Self::Checkpoint => "checkpoint that disagrees with the log",
            Self::MissingEntries => "missing entries",
            Self::MissingSegment => "missing segment",
            Self::Truncated => "truncated file",
            Self::Snapshot => "damaged snapshot",
            Self::MissingSnapshot => "missing snapshot",
            Self::Manifest => "damaged manifest",
            Self::Footer => "damaged index of a segment",
            Self::Padding => "padding that is not zero",
        })
    }
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no such file.
    #[error(
        "{path} does not exist: a node with peers gets the snapshot from its leader, \
         one that is alone needs a copy of the file",
        path = .path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what the reference names, or its bytes are not those that were written.
    #[error(
        "{path} is damaged at {offset} ({what}): a node with peers gets the snapshot from its leader, \
         one that is alone needs a copy of the file",
        path = .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file was written in a format that this build does not read.
    #[error(
        "{path} has format version {found}, but this build reads up to {supported}: \
         use a newer build",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its major version.
        found: u16,
        /// The newest major version that this build reads.
        supported: u16,
    },
    /// A range that was asked for lies outside of the snapshot.
    #[error("bytes {offset} to {end} lie outside of a snapshot of {bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Byte after the last one asked for.
        end: u64,
        /// Size of the snapshot.
        bytes: u64,
    },
    /// Space ran out. Nothing of the snapshot was published, and what was written of it is deleted; the
    /// log and the snapshots that are there are as they were.
    #[error(
        "cannot {action} {path}, there is no room for it ({source}): \
         free some, and take the snapshot again",
        path = .path.display()
    )]
    Full {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// File handles ran out. Nothing of a snapshot that was being written was published, and what was
    /// written of it is deleted; the log and the snapshots that are there are as they were.
    #[error(
        "cannot {action} {path}, no file handles are left ({source}): \
         close some or raise the limit of open files, and try again",
        path = .path.display()
    )]
    NoHandles {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system refused. An error while reading is never taken for damage.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SnapshotError {
    /// For those who know only of [`io::Error`]: of the kind that the system named, or
    /// [`io::ErrorKind::InvalidData`].
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Full { source, .. }
            | Self::NoHandles { source, .. }
            | Self::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}
