//! A small segment that is kept for a full disk, so that what gives space back can always be
//! written, also right after an open with no byte free.
//!
//! Invariants:
//! - It goes into service only while there is no space for another one, and entries are refused
//!   then.
//! - It holds the checkpoint of all groups twice over: one to begin with, and room for what comes
//!   behind it.

use std::io;
use std::path::Path;

use crate::disk::{Disk, is_shortage};
use crate::error::{LogError, OpenError};
use crate::format::{BLOCK_BYTES, SEGMENT_BYTES_LIMIT, segment_name};
use crate::ids::SegmentId;
use crate::segment::Segment;

use super::Log;
use super::prepare::Preparer;

pub(crate) const NAME: &str = "RESERVE";
/// The name while it is being made.
pub(crate) const TEMPORARY: &str = "RESERVE.tmp";

/// Finds the reserve of a directory. A file of that name which cannot be one is deleted, and so is
/// one as large as the segment that is ready: a crash may have left the reserve under its old name
/// while it went into service, and one file must not be written to as two segments.
pub(super) fn find(
    disk: &dyn Disk,
    dir: &Path,
    spare: Option<&Segment>,
) -> Result<Option<Segment>, OpenError> {
    let path = dir.join(NAME);
    let failed = |action, source| OpenError::io(action, &path, source);
    let file = match disk.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| failed("open", error))?,
    };
    let bytes = file.len().map_err(|error| failed("measure", error))?;
    let mut block = vec![0; bytes.min(BLOCK_BYTES) as usize];
    file.read_at(0, &mut block)
        .map_err(|error| failed("read", error))?;
    let is_blank = bytes >= BLOCK_BYTES && block.iter().all(|&byte| byte == 0);
    let is_sound = is_blank && bytes.is_multiple_of(BLOCK_BYTES) && bytes <= SEGMENT_BYTES_LIMIT;
    if !is_sound || spare.is_some_and(|spare| spare.bytes == bytes) {
        disk.remove(&path)
            .map_err(|error| failed("delete", error))?;
        return Ok(None);
    }
    Ok(Some(Segment {
        id: SegmentId(0),
        path,
        file,
        bytes,
        recycled: false,
    }))
}

impl Log {
    /// Makes the reserve, if there is none or it has become too small. Without space for it
    /// everything stays as it is.
    pub(super) fn ready_reserve(&self, preparer: &mut Preparer) -> Result<(), LogError> {
        let wanted = self.reserve_bytes_wanted();
        let bytes = preparer.reserve_bytes();
        if bytes < wanted {
            match self.make_reserve(wanted) {
                Ok(reserve) => preparer.reserve = Some(reserve),
                Err(error) if is_shortage(&error) => {}
                Err(error) => {
                    return Err(self.fail(format!("cannot prepare the reserve: {error}")));
                }
            }
        }
        self.queue.lock().reserve_bytes = preparer.reserve_bytes();
        Ok(())
    }

    /// Hands the reserve to the writer, if it waits for a segment that there is no space for, and
    /// the reserve is large enough.
    pub(super) fn use_reserve(&self, preparer: &mut Preparer) -> Result<(), LogError> {
        let needed = self.queue.lock().blocked_bytes;
        let fits = |reserve: &mut Segment| needed > 0 && reserve.bytes >= needed;
        let Some(mut reserve) = preparer.reserve.take_if(fits) else {
            return Ok(());
        };
        self.queue.lock().reserve_bytes = 0;
        reserve.id = preparer.take_id();
        let path = self.dir.join(segment_name(reserve.id));
        let renamed = self.disk.rename(&reserve.path, &path);
        renamed
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|error| self.fail(format!("cannot use the reserve: {error}")))?;
        reserve.path = path;
        self.hand_over(Some(reserve));
        Ok(())
    }

    fn reserve_bytes_wanted(&self) -> u64 {
        let checkpoint_bytes = self.queue.lock().checkpoint_bytes;
        let bytes = (4 * BLOCK_BYTES + 2 * checkpoint_bytes).next_power_of_two();
        bytes
            .max(self.options.segment_bytes_min)
            .min(SEGMENT_BYTES_LIMIT)
    }

    fn make_reserve(&self, bytes: u64) -> io::Result<Segment> {
        let temporary = self.dir.join(TEMPORARY);
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&temporary)?;
        let path = self.dir.join(NAME);
        let mut filled = 0;
        while filled < bytes {
            let step = file.zero_fill_part(filled, bytes);
            match step.and_then(|end| file.sync_data().map(|()| end)) {
                Ok(end) => filled = end,
                Err(error) => {
                    // If this fails, the file is removed before the next is made.
                    let _ = self.disk.remove(&temporary);
                    return Err(error);
                }
            }
        }
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(Segment {
            id: SegmentId(0),
            path,
            file,
            bytes,
            recycled: false,
        })
    }
}
