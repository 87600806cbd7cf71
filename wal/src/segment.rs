//! Segment files: what is in them is in `format.rs`, who uses them in `log`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::format::segment_name;
use crate::ids::SegmentId;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Size of the file.
    pub(crate) bytes: u64,
}

impl Segment {
    /// Creates a segment of zeros that is durable under its name. Leaves nothing behind if it
    /// fails.
    pub(crate) fn prepare(
        disk: &dyn Disk,
        dir: &Path,
        id: SegmentId,
        bytes: u64,
    ) -> io::Result<Self> {
        let path = dir.join(segment_name(id));
        let file = disk.create(&path)?;
        let filled = file.zero_fill(bytes).and_then(|()| file.sync_data());
        if let Err(error) = filled.and_then(|()| disk.sync_dir(dir)) {
            // If this fails too, the next open finds a file without a header and removes it.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Ok(Self {
            id,
            path,
            file,
            bytes,
        })
    }
}
