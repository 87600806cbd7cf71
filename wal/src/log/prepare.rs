//! What is done off the commit path: the next segment is made ready, dead ones are deleted.
//!
//! Invariants:
//! - A segment is handed to the writer only when its space and its name are durable.
//! - A dead segment is deleted only when a durable record says that the log does without it, so
//!   that a missing file is never mistaken for a deleted one.
//! - Running out of space is met here and nowhere else.

use std::path::PathBuf;

use crate::batch::WriteBatch;
use crate::disk::is_shortage;
use crate::error::LogError;
use crate::format::SEGMENT_BYTES_LIMIT;
use crate::ids::{Lsn, SegmentId};
use crate::options::LogOptions;
use crate::segment::Segment;

use super::{Log, LogStatus};

/// What one call of [`Log::prepare`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// Whether the next segment is ready. If not, there was no space: try again later.
    pub segment_ready: bool,
    /// Dead segments that were deleted.
    pub deleted: usize,
}

/// What the preparing thread owns.
#[derive(Debug)]
pub(crate) struct Preparer {
    next_id: SegmentId,
    next_bytes: u64,
    /// The record that lets segments before this one go, and its place in the log.
    trim: Option<(Lsn, SegmentId)>,
}

impl Preparer {
    pub(crate) fn new(next_id: SegmentId, options: &LogOptions) -> Self {
        Self {
            next_id,
            next_bytes: options.segment_bytes_min,
            trim: None,
        }
    }

    /// The size of the next segment, which must have at least `needed` bytes.
    fn segment_bytes(&self, needed: u64) -> u64 {
        let bytes = if needed > self.next_bytes {
            needed.next_power_of_two()
        } else {
            self.next_bytes
        };
        bytes.min(SEGMENT_BYTES_LIMIT)
    }
}

impl Log {
    /// Makes the next segment ready if there is none, and deletes segments that nothing needs any
    /// more. Called off the commit path, from any thread, as often as one likes. Without space the
    /// status becomes [`LogStatus::Full`] until a later call succeeds; any other failure to make a
    /// segment stops the log for good.
    pub fn prepare(&self) -> Result<Prepared, LogError> {
        let mut preparer = self.preparer.lock();
        let status = self.status();
        if let Some(error) = self.queue.lock().failure() {
            return Err(error);
        }
        // Deleting first may give the space that the next segment needs.
        let deleted = self.delete_dead(&mut preparer);
        let segment_ready = self.prepare_segment(&mut preparer);
        drop(preparer);
        if self.status() != status {
            self.tell_observers();
        }
        Ok(Prepared {
            segment_ready: segment_ready?,
            deleted: deleted?,
        })
    }

    pub(super) fn prepare_segment(&self, preparer: &mut Preparer) -> Result<bool, LogError> {
        let spare_bytes = self.spare.lock().as_ref().map_or(0, |spare| spare.bytes);
        let needed = self.queue.lock().blocked_bytes;
        if spare_bytes > 0 && spare_bytes >= needed {
            self.segment_is_ready(None);
            return Ok(true);
        }
        if self.index.read().segments.is_full() {
            self.set_full();
            return Ok(false);
        }
        let bytes = preparer.segment_bytes(needed);
        assert!(
            bytes >= needed,
            "no submission is taken that fits no segment"
        );
        match Segment::prepare(self.disk.as_ref(), &self.dir, preparer.next_id, bytes) {
            Ok(segment) => {
                preparer.next_id = SegmentId(segment.id.0 + 1);
                preparer.next_bytes = (preparer.next_bytes * 2).min(self.options.segment_bytes_max);
                self.segment_is_ready(Some(segment));
                Ok(true)
            }
            Err(error) if is_shortage(&error) => {
                self.set_full();
                Ok(false)
            }
            Err(error) => Err(self.fail(format!("cannot prepare the next segment: {error}"))),
        }
    }

    /// Hands a segment to the writer. One that was ready but too small is deleted: it was never in
    /// service.
    fn segment_is_ready(&self, segment: Option<Segment>) {
        let mut spare = self.spare.lock();
        let small = segment.and_then(|segment| spare.replace(segment));
        let mut queue = self.queue.lock();
        queue.blocked_bytes = 0;
        if queue.status == LogStatus::Full {
            queue.status = LogStatus::Healthy;
        }
        drop(queue);
        drop(spare);
        self.work.notify_all();
        if let Some(small) = small {
            // If this fails, the next open finds a file without a header and removes it.
            let _ = self.disk.remove(&small.path);
        }
    }

    fn set_full(&self) {
        let mut queue = self.queue.lock();
        if queue.status == LogStatus::Healthy {
            queue.status = LogStatus::Full;
        }
    }

    /// Deletes what a durable record gave up; else writes such a record if there is something to
    /// give up.
    fn delete_dead(&self, preparer: &mut Preparer) -> Result<usize, LogError> {
        let mut deleted = 0;
        if let Some((lsn, oldest)) = preparer.trim {
            if self.durable() < lsn {
                return Ok(0);
            }
            deleted = self.delete_before(oldest)?;
            preparer.trim = None;
        }
        let index = self.index.read();
        if let Some(oldest) = index.segments.oldest_needed()
            && index.has_dead_segments()
        {
            drop(index);
            // A refusal passes: the queue empties, and a full disk leaves what remains of the
            // segment for this.
            preparer.trim = self
                .submit(WriteBatch::trim(oldest))
                .ok()
                .map(|lsn| (lsn, oldest));
        }
        Ok(deleted)
    }

    fn delete_before(&self, oldest: SegmentId) -> Result<usize, LogError> {
        let index = self.index.read();
        let dead: Vec<(SegmentId, PathBuf)> = index
            .segments
            .iter()
            .map(|counted| (counted.segment.id, counted.segment.path.clone()))
            .take_while(|(id, _)| *id < oldest)
            .collect();
        drop(index);
        for (id, path) in &dead {
            match self.disk.remove(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::Delete {
                        path: path.clone(),
                        reason: error.to_string(),
                    });
                }
                _ => drop(self.index.write().segments.remove(*id)),
            }
        }
        // Not synced: a name that comes back after a crash is removed by the next open.
        Ok(dead.len())
    }
}
