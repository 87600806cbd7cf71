//! Segment files: what is in them is in `format.rs`, who uses them in `log`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::ids::{Lsn, SegmentId};

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Whether the file was another segment before it got this name.
    pub(crate) recycled: bool,
}

/// Where the batches of a segment end, and with what. Known from the moment when the next segment
/// goes into service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// The offset behind the last batch.
    pub(crate) end: u64,
    /// The chain of all its batches, see [`crate::format::chain`].
    pub(crate) chain: u32,
    /// The lsn of the last batch.
    pub(crate) lsn: Lsn,
}
