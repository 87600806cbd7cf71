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

use crate::disk::{Disk, is_shortage, shortage};
use crate::error::{LogError, OpenError};
use crate::format::{BLOCK_BYTES, SEGMENT_BYTES_LIMIT, segment_name};
use crate::ids::SegmentId;
use crate::segment::Segment;

use super::prepare::Preparer;
use super::{Log, LogStatus};

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
            match self.make_reserve(preparer, wanted) {
                Ok(()) => {}
                // It is tried again with the next preparation.
                Err(error) if is_shortage(&error) || error.kind() == io::ErrorKind::NotFound => {}
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
        if let Err(error) = self.name_reserve(preparer, &mut reserve) {
            if let Some(short) = shortage(&error) {
                // It is there, and waits for what is missing.
                self.set_short(LogStatus::of(short, &error));
                preparer.reserve = Some(reserve);
                return Ok(());
            }
            // Somebody deleted it. Nothing was in it: the log goes on as one that never had one.
            if error.kind() != io::ErrorKind::NotFound {
                return Err(self.fail(format!("cannot use the reserve: {error}")));
            }
            self.queue.lock().reserve_bytes = 0;
            return Ok(());
        }
        self.queue.lock().reserve_bytes = 0;
        self.hand_over(Some(reserve));
        Ok(())
    }

    /// Gives the reserve the name of a segment, and makes that durable. It may have the name already, from a
    /// time when it could not be made durable.
    fn name_reserve(&self, preparer: &mut Preparer, reserve: &mut Segment) -> io::Result<()> {
        if reserve.id.0 == 0 {
            let id = preparer.take_id();
            let path = self.dir.join(segment_name(id));
            self.disk.rename(&reserve.path, &path)?;
            (reserve.id, reserve.path) = (id, path);
        }
        self.disk.sync_dir(&self.dir)
    }

    fn reserve_bytes_wanted(&self) -> u64 {
        let checkpoint_bytes = self.queue.lock().checkpoint_bytes;
        let bytes = (4 * BLOCK_BYTES + 2 * checkpoint_bytes).next_power_of_two();
        bytes
            .max(self.options.segment_bytes_min)
            .min(SEGMENT_BYTES_LIMIT)
    }

    fn make_reserve(&self, preparer: &mut Preparer, bytes: u64) -> io::Result<()> {
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
        // From here on the name leads to the new file, also if that is not durable yet: the old one must
        // not go into service any more.
        let before = preparer.reserve.replace(Segment {
            id: SegmentId(0),
            path,
            file,
            bytes,
            recycled: false,
        });
        if let Some(before) = before.filter(|before| before.id.0 > 0) {
            // It has a name of its own. If this fails, the next open finds it and removes it.
            let _ = self.disk.remove(&before.path);
        }
        self.disk.sync_dir(&self.dir)
    }
}
