//! What is done off the commit path, one step after the other: sealed segments get their index, the
//! manifest is written, dead segments are given back, old ones are emptied, the next one is made
//! ready.
//!
//! Invariants:
//! - A segment is handed to the writer only when its space and its name are durable.
//! - Running out of space is met here and nowhere else. What is left of the segment that is written
//!   to is then there for the records that free space.
//! - The next segment is filled in step with what is written to the one before, so that filling it
//!   never takes more than a share of the disk.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Shortage, is_shortage, shortage};
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, SEGMENT_BYTES_LIMIT, segment_name};
use crate::ids::SegmentId;
use crate::mutants;
use crate::options::LogOptions;
use crate::segment::Segment;
use crate::slots::Manifests;

use super::reclaim::Reclaim;
use super::{Log, LogStatus};

/// No segment is handed over with less than this while it could have more: that takes milliseconds to fill.
const SHORT_BYTES_MIN: u64 = 4 << 20;

/// So many names that somebody else took are passed over at a time.
const STRAYS_MAX: usize = 16;

/// What one call of [`Log::prepare`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// Whether the next segment is ready. If not, it is being filled in step with the one that is
    /// written to, or there was no space: call again later.
    pub segment_ready: bool,
    /// Dead segments that were deleted, or are used again.
    pub deleted: usize,
}

/// What the preparing thread owns.
#[derive(Debug)]
pub(crate) struct Preparer {
    next_id: SegmentId,
    /// The first segment of this life of the log.
    pub(super) first_own: SegmentId,
    next_bytes: u64,
    /// How large that becomes.
    bytes_max: u64,
    /// The next segment, while it is not ready.
    filling: Option<Filling>,
    pub(super) manifests: Manifests,
    pub(super) reclaim: Reclaim,
    /// See [`super::reserve`].
    pub(super) reserve: Option<Segment>,
}

/// A segment that is being filled with zeros.
#[derive(Debug)]
struct Filling {
    segment: Segment,
    filled: u64,
}

impl Filling {
    /// Fills a part, or as much as it takes to have so many bytes, and syncs it: so no sync of the log ever waits for much of
    /// it. When the log waits for the segment itself, one sync at the end takes less.
    fn fill_part(&mut self, wanted: u64) -> io::Result<()> {
        let Segment { file, bytes, .. } = &self.segment;
        let mut end = file.zero_fill_part(self.filled, *bytes)?;
        while end < wanted.min(*bytes) {
            end = file.zero_fill_part(end, *bytes)?;
        }
        file.sync_data()?;
        self.filled = end;
        Ok(())
    }

    fn end_here(&mut self) {
        self.segment.bytes = self.filled;
        self.segment.file.give_back_rest(self.filled);
    }
}

/// How far the segment that is written to is, and when the next one must be filled further.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    used_bytes: AtomicU64,
    active_bytes: AtomicU64,
    due_bytes: AtomicU64,
}

impl Pace {
    /// Notes how far the segment is. Whether the next one should be filled further.
    pub(super) fn note(&self, used_bytes: u64, active_bytes: u64) -> bool {
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        self.active_bytes.store(active_bytes, Ordering::Relaxed);
        used_bytes >= self.due_bytes.load(Ordering::Relaxed)
    }

    /// Whether so much of the segment is used, a quarter, that the next one is on the way. What can
    /// wait until then does: other segments die meanwhile, and what is done when a segment was just
    /// sealed does not come at once with it.
    fn is_begun(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) >= self.begin_bytes()
    }

    fn begin_bytes(&self) -> u64 {
        self.active_bytes.load(Ordering::Relaxed) / 4
    }

    /// Has [`note`](Self::note) tell when it is begun.
    fn wake_at_begin(&self) {
        self.due_bytes
            .fetch_min(self.begin_bytes(), Ordering::Relaxed);
    }

    /// Whether more than half of the segment is used, or none is written to.
    fn is_pressing(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) >= self.active_bytes.load(Ordering::Relaxed) / 2
    }

    /// Whether a segment of which so much is filled must be filled further now. That begins when a
    /// quarter of the one before is used, since until then another one may die, whose file need not
    /// be filled; and goes on twice as fast as that one is used. If not, sets when it will.
    fn wants_more(&self, filled: u64, bytes: u64) -> bool {
        let active = self.active_bytes.load(Ordering::Relaxed);
        let share = u128::from(filled) * u128::from(active) / (2 * u128::from(bytes));
        let due = u128::from(self.begin_bytes()) + share;
        let wants = u128::from(self.used_bytes.load(Ordering::Relaxed)) >= due;
        self.due_bytes
            .store(if wants { u64::MAX } else { due as u64 }, Ordering::Relaxed);
        wants
    }

    fn rest(&self) {
        self.due_bytes.store(u64::MAX, Ordering::Relaxed);
    }
}

impl Preparer {
    pub(crate) fn new(
        next_id: SegmentId,
        options: &LogOptions,
        manifests: Manifests,
        reserve: Option<Segment>,
    ) -> Self {
        Self {
            next_id,
            first_own: next_id,
            next_bytes: options.segment_bytes_min,
            bytes_max: options.segment_bytes_max,
            filling: None,
            manifests,
            reclaim: Reclaim::default(),
            reserve,
        }
    }

    /// Bytes of the files that wait: the segment that is being filled, the reserve, and a dead one.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.filling_bytes() + self.reserve_bytes() + self.reclaim.kept_bytes()
    }

    /// Bytes of the reserve.
    pub(super) fn reserve_bytes(&self) -> u64 {
        self.reserve.as_ref().map_or(0, |reserve| reserve.bytes)
    }

    pub(super) fn filling_bytes(&self) -> u64 {
        self.filling
            .as_ref()
            .map_or(0, |filling| filling.segment.bytes)
    }

    /// Whether a segment of this size should be used again as the next one: one that will not do for a log that is still
    /// growing its segments may do afterwards, as those do that were handed over half filled.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        let is_grown = self.next_bytes == self.bytes_max;
        bytes >= self.next_bytes || is_grown && bytes >= short_bytes(self.next_bytes)
    }

    /// Whether the next segment is one that is used again, and is being made whole.
    pub(super) fn is_using_again(&self) -> bool {
        let filling = self.filling.as_ref();
        filling.is_some_and(|filling| filling.segment.recycled)
    }

    /// Takes a segment that ended early, and is to be used again, for one that is being filled: it is made whole, unless
    /// somebody waits for it. Gives back one that is whole.
    pub(super) fn fill_rest(&mut self, mut segment: Segment) -> Option<Segment> {
        if segment.bytes >= self.next_bytes {
            return Some(segment);
        }
        let filled = std::mem::replace(&mut segment.bytes, self.next_bytes);
        self.filling = Some(Filling { segment, filled });
        None
    }

    /// How large a segment that is filled is, if nobody waits for it.
    pub(super) fn next_bytes(&self) -> u64 {
        self.next_bytes
    }

    /// Gives out the id of the next segment.
    pub(super) fn take_id(&mut self) -> SegmentId {
        let id = self.next_id;
        self.next_id = SegmentId(id.0 + 1);
        id
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

/// What a segment of this size has at least when it is handed over before all of it is filled.
fn short_bytes(bytes: u64) -> u64 {
    let half = (bytes / 2).next_multiple_of(BLOCK_BYTES);
    half.max(SHORT_BYTES_MIN).min(bytes)
}

impl Log {
    /// Does what is to be done off the commit path: makes the next segment ready, writes the index
    /// behind sealed ones, gives back those that nothing needs, and moves what lives out of those
    /// that are mostly dead. Called from any thread, as often as one likes; each call does a bounded
    /// part. Without space the status becomes [`LogStatus::Full`], and without file handles
    /// [`LogStatus::NoHandles`], until a later call succeeds; any other failure stops the log for good.
    pub fn prepare(&self) -> Result<Prepared, LogError> {
        let mut preparer = self.preparer.lock();
        // What is asked for from here on may come too late for this call.
        *self.prepare_wanted.lock() = false;
        let status = self.status();
        if let Some(error) = self.queue.lock().failure() {
            return Err(error);
        }
        let prepared = self.prepare_locked(&mut preparer);
        self.waiting_bytes
            .store(preparer.waiting_bytes(), Ordering::Relaxed);
        drop(preparer);
        if self.status() != status {
            self.tell_observers();
        }
        prepared
    }

    fn prepare_locked(&self, preparer: &mut Preparer) -> Result<Prepared, LogError> {
        if self.queue.lock().blocked_bytes > 0 {
            // Somebody waits for the segment; the rest can wait.
            self.ready_segment(preparer)?;
        }
        self.seal_segments(preparer)?;
        // Giving back first may give the space that the next segment needs.
        let deleted = self.reclaim(preparer);
        let is_resting = !self.is_uncovered.load(Ordering::Relaxed);
        // A move makes the log uncovered: what was begun at rest goes on.
        let may_move = is_resting || self.pace.is_begun() || preparer.reclaim.is_moving();
        let moving = may_move && self.move_entries(preparer);
        let segment_ready = if moving && !self.pace.is_pressing() {
            // The segment that is being emptied is the next one, if it is empty in time.
            self.spare.lock().is_some()
        } else {
            self.ready_segment(preparer)?
        };
        if !self.pace.is_begun() {
            self.pace.wake_at_begin();
        }
        self.drop_kept(preparer);
        self.ready_reserve(preparer)?;
        Ok(Prepared {
            segment_ready,
            deleted: deleted?,
        })
    }

    /// Makes the next segment ready, or goes on with it as far as is due.
    pub(super) fn ready_segment(&self, preparer: &mut Preparer) -> Result<bool, LogError> {
        let spare_bytes = self.spare.lock().as_ref().map_or(0, |spare| spare.bytes);
        let needed = self.queue.lock().blocked_bytes;
        let is_short = self.queue.lock().status.is_short();
        if spare_bytes > 0 && spare_bytes >= needed && !is_short {
            self.pace.rest();
            self.hand_over(None);
            return Ok(true);
        }
        if spare_bytes == 0 && !preparer.is_using_again() {
            self.use_kept(preparer)?;
            if self
                .spare
                .lock()
                .as_ref()
                .is_some_and(|spare| spare.bytes >= needed)
            {
                return Ok(true);
            }
        }
        if self.index.read().segments.is_full() {
            self.set_short(LogStatus::Full);
            return Ok(false);
        }
        // While entries are refused nothing is written that the filling could keep in step with.
        let is_urgent = needed > 0 || is_short;
        match self.fill(preparer, needed, is_urgent) {
            Ok(None) => Ok(false),
            Ok(Some(segment)) => {
                preparer.next_bytes = (preparer.next_bytes * 2).min(preparer.bytes_max);
                self.pace.rest();
                self.segment_is_ready(segment);
                Ok(true)
            }
            Err(error) => {
                let Some(short) = shortage(&error) else {
                    return Err(self.fail(format!("cannot prepare the next segment: {error}")));
                };
                if short == Shortage::Space {
                    self.drop_filling(preparer);
                }
                self.set_short(LogStatus::of(short, &error));
                self.use_reserve(preparer)?;
                let spare = self.spare.lock();
                Ok(spare.as_ref().is_some_and(|spare| spare.bytes >= needed))
            }
        }
    }

    /// Fills the next segment further, as far as is due. None while it is not ready.
    fn fill(
        &self,
        preparer: &mut Preparer,
        needed: u64,
        is_urgent: bool,
    ) -> io::Result<Option<Segment>> {
        if preparer.filling_bytes() < needed {
            self.drop_filling(preparer);
        }
        let mut filling = match preparer.filling.take() {
            Some(filling) => filling,
            None if is_urgent || self.pace.wants_more(0, preparer.segment_bytes(needed)) => {
                self.begin_filling(preparer, needed)?
            }
            None => return Ok(None),
        };
        match self.fill_as_due(&mut filling, is_urgent) {
            Ok(true) => {}
            kept => {
                preparer.filling = Some(filling);
                return kept.map(|_| None);
            }
        }
        // One that is used again has a durable name already.
        if !filling.segment.recycled
            && !mutants::SKIPS_DIRECTORY_SYNC
            && let Err(error) = self.disk.sync_dir(&self.dir)
        {
            // All that is missing is its name, which is tried again.
            preparer.filling = Some(filling);
            return Err(error);
        }
        Ok(Some(filling.segment))
    }

    /// Goes on with a segment until it is ready, or nothing more is due: whether it is ready. If somebody waits for it, or
    /// there is no space for more, half of it is enough: the segment ends there.
    fn fill_as_due(&self, filling: &mut Filling, is_urgent: bool) -> io::Result<bool> {
        while filling.filled < filling.segment.bytes {
            // Looked at again each time, since a wait may begin while a part is filled.
            let needed = self.queue.lock().blocked_bytes;
            let half = short_bytes(filling.segment.bytes).max(needed);
            let is_awaited = needed > 0;
            if is_awaited && filling.filled >= half {
                filling.end_here();
                break;
            }
            if !is_urgent
                && !is_awaited
                && !self.pace.wants_more(filling.filled, filling.segment.bytes)
            {
                return Ok(false);
            }
            match filling.fill_part(if is_awaited { half } else { 0 }) {
                Err(error) if is_shortage(&error) && filling.filled >= half => filling.end_here(),
                part => part?,
            }
        }
        Ok(true)
    }

    fn begin_filling(&self, preparer: &mut Preparer, needed: u64) -> io::Result<Filling> {
        let bytes = preparer.segment_bytes(needed);
        assert!(
            bytes >= needed && bytes.is_multiple_of(BLOCK_BYTES),
            "no submission is taken that fits no segment"
        );
        let mut id = preparer.next_id;
        let mut path = self.dir.join(segment_name(id));
        let mut created = self.disk.create(&path);
        for _ in 0..STRAYS_MAX {
            if !matches!(&created, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
                break;
            }
            // Somebody else put a file there, which is not touched.
            preparer.take_id();
            id = preparer.next_id;
            path = self.dir.join(segment_name(id));
            created = self.disk.create(&path);
        }
        let file = created?;
        preparer.take_id();
        let segment = Segment {
            id,
            path,
            file,
            bytes,
            recycled: false,
        };
        Ok(Filling { segment, filled: 0 })
    }

    /// Gives up a segment that is not ready: there is no space for it, or another one to use.
    pub(super) fn drop_filling(&self, preparer: &mut Preparer) {
        if let Some(filling) = preparer.filling.take() {
            // If this fails, the next open finds a file without a header and removes it.
            let _ = self.disk.remove(&filling.segment.path);
        }
    }

    /// Hands a segment to the writer, and takes entries again if they were refused.
    pub(super) fn segment_is_ready(&self, segment: Segment) {
        let mut queue = self.queue.lock();
        if queue.status.is_short() {
            queue.status = LogStatus::Healthy;
        }
        drop(queue);
        self.hand_over(Some(segment));
    }

    /// Hands a segment to the writer, or the one that is there already. One that was ready but is
    /// not needed is deleted: it was never in service.
    pub(super) fn hand_over(&self, segment: Option<Segment>) {
        let mut spare = self.spare.lock();
        let small = segment.and_then(|segment| spare.replace(segment));
        let spare_bytes = spare.as_ref().map_or(0, |spare| spare.bytes);
        let mut queue = self.queue.lock();
        if queue.blocked_bytes <= spare_bytes {
            queue.blocked_bytes = 0;
        }
        drop(queue);
        drop(spare);
        self.work.notify_all();
        if let Some(small) = small {
            // If this fails, the next open finds a file without a header and removes it.
            let _ = self.disk.remove(&small.path);
        }
    }

    /// Notes that something ran out.
    pub(super) fn set_short(&self, short: LogStatus) {
        let mut queue = self.queue.lock();
        if !matches!(queue.status, LogStatus::Failed { .. }) {
            queue.status = short;
        }
    }
}

impl LogStatus {
    pub(super) fn of(short: Shortage, error: &io::Error) -> Self {
        match short {
            Shortage::Space => Self::Full,
            Shortage::Handles => Self::NoHandles {
                reason: error.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_segment_is_filled_before_the_one_that_is_written_to_is_full() {
        let pace = Pace::default();
        let (bytes, active) = (64_u64, 100_u64);
        let mut filled = 0;
        for used in 0..=active {
            pace.note(used, active);
            while filled < bytes && pace.wants_more(filled, bytes) {
                filled += 1;
            }
            let share = filled * active;
            let begun = (4 * used).saturating_sub(active) / 2;
            assert!(
                share >= (begun * bytes).min(bytes * active),
                "{used}: {filled}"
            );
            assert!(
                filled <= (begun + 2) * bytes / active + 1,
                "{used}: {filled}"
            );
        }
        assert_eq!(filled, bytes);
    }

    #[test]
    fn without_a_segment_that_is_written_to_the_next_one_is_filled_at_once() {
        let pace = Pace::default();
        assert!((0..64).all(|filled| pace.wants_more(filled, 64)));
    }
}
