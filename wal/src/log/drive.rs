//! The commit path: everything in line becomes one batch, one write, one sync.
//!
//! Invariants:
//! - A batch begins where the one before it ended, on a block boundary.
//! - The header of a segment is written together with its first batch, which begins with the
//!   checkpoint. So a segment whose header is missing holds nothing that was acknowledged, and
//!   every segment tells the whole state of all groups.

use std::collections::HashMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use parking_lot::MutexGuard;

use crate::batch::{Move, Op, WriteBatch};
use crate::error::LogError;
use crate::footer::footer_bytes;
use crate::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, SegmentHeader, batch_bytes, chain};
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::index::{Index, Place, Stage};
use crate::locations::SegmentSlot;
use crate::mutants;
use crate::options::Durability;
use crate::segment::{Sealed, Segment};

use super::Log;
use super::queue::Submission;
use super::stage::{finish_header, stage};

/// The staging buffer keeps at most so much between two batches.
const STAGING_BYTES_KEPT: usize = 4 << 20;

/// What one call of [`Log::drive`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Drove {
    /// Nothing waits.
    Idle,
    /// Another thread drives the log.
    Busy,
    /// What waits needs a new segment: call [`Log::prepare`] first.
    NeedsSegment,
    /// A batch was written and synced.
    Wrote {
        /// Everything up to this lsn is durable now.
        lsn: Lsn,
        /// Submissions in the batch.
        submissions: u64,
        /// Entries in the batch.
        entries: u64,
        /// Bytes written, padding included.
        bytes: u64,
    },
}

/// What the driving thread owns.
#[derive(Debug)]
pub(crate) struct Writer {
    /// The segment that is written to; none until the first batch after an open.
    pub(crate) active: Option<Active>,
    /// What the next segment will name as its predecessor.
    pub(crate) tail: Tail,
    /// The epoch of everything written since the log was opened.
    pub(crate) epoch: u32,
    /// What the index of the active segment takes as of now: ranges and entries.
    indexed: (u64, u64),
    staging: Vec<u8>,
}

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Active {
    segment: Arc<Segment>,
    slot: SegmentSlot,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) segment: SegmentId,
    pub(crate) at: Sealed,
}

/// What submissions need of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    desc: u64,
    payload: u64,
    /// For the index behind the segment.
    ranges: u64,
    entries: u64,
}

impl Need {
    fn with(mut self, batch: &WriteBatch) -> Self {
        self.desc += batch.desc.len() as u64;
        self.payload += batch.payload_bytes;
        self.ranges += batch.runs;
        self.entries += batch.slots;
        self
    }

    fn batch_bytes(self) -> u64 {
        batch_bytes(self.desc, self.payload)
    }

    /// Bytes of the batch, and of the index of the segment if it ends with this batch.
    fn bytes(self) -> u64 {
        self.batch_bytes() + footer_bytes(self.ranges, self.entries)
    }
}

/// A batch to be written.
struct Work {
    /// The segment that it begins, if the one before is full.
    rotation: Option<Rotation>,
    submissions: Vec<Submission>,
    /// The lsn of the last submission.
    last: Lsn,
}

impl Work {
    /// Whether files outside of the log may go once this is durable: a snapshot is superseded, or a group is
    /// removed. The log must not come back from a power cut naming what is gone.
    fn lets_files_go(&self) -> bool {
        let mut ops = self.submissions.iter().flat_map(|it| &it.batch.ops);
        ops.any(|op| matches!(op, Op::Snapshot { .. } | Op::Remove { .. }))
    }
}

/// The step to the next segment.
struct Rotation {
    segment: Segment,
    /// Where the log ended before.
    before: Tail,
    checkpoint: Vec<u8>,
    records: u32,
    generation: u64,
}

/// What was written and is durable.
struct Written {
    offset: u64,
    bytes: u64,
    desc_bytes: u64,
    /// Whether it, and all before it, survives the loss of power.
    is_synced: bool,
}

/// Fails the log if it is dropped by a panic: what was taken out of the line will not be written, nothing behind it may
/// be, and whoever waits is told instead of waiting for ever.
pub(super) struct FailsInPanic<'a>(pub(super) &'a Log);

impl Drop for FailsInPanic<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.0.fail(
            "a bug: a panic while it was written, see standard error; open it again".to_owned(),
        );
        let observers = self.0.observers.read().clone();
        for observer in observers {
            // It may be this one that panicked; the others are told all the same.
            drop(panic::catch_unwind(AssertUnwindSafe(|| {
                observer.log_moved();
            })));
        }
    }
}

impl Writer {
    pub(crate) fn new(tail: Tail, epoch: u32) -> Self {
        Self {
            active: None,
            tail,
            epoch,
            indexed: (0, 0),
            staging: Vec::new(),
        }
    }

    /// Bytes left in the active segment, for batches and the index.
    fn room_bytes(&self) -> u64 {
        self.active
            .as_ref()
            .map_or(0, |active| active.segment.bytes - self.tail.at.end)
    }

    /// What the active segment needs for its index, whatever else is written to it.
    fn need(&self) -> Need {
        let (ranges, entries) = self.indexed;
        Need {
            ranges,
            entries,
            ..Need::default()
        }
    }
}

impl Log {
    /// Writes everything in line that fits one batch and the segment, syncs it, and tells the
    /// observers. Returns at once if another thread is at it. A write or sync that fails stops the
    /// log for good.
    pub fn drive(&self) -> Result<Drove, LogError> {
        match self.writer.try_lock() {
            Some(writer) => self.drive_with(writer),
            None => Ok(Drove::Busy),
        }
    }

    /// Like [`drive`](Self::drive), but waits for another thread that drives.
    pub(super) fn drive_next(&self) -> Result<Drove, LogError> {
        self.drive_with(self.writer.lock())
    }

    fn drive_with(&self, mut writer: MutexGuard<'_, Writer>) -> Result<Drove, LogError> {
        let was_failed = self.queue.lock().failure();
        if let Some(error) = was_failed {
            return Err(error);
        }
        let fails = FailsInPanic(self);
        let drove = self.drive_locked(&mut writer);
        // Not dropped: a caller that writes while it unwinds from a panic of its own has written.
        std::mem::forget(fails);
        drop(writer);
        if matches!(drove, Ok(Drove::Wrote { .. }) | Err(_)) {
            self.tell_observers();
        }
        drove
    }

    /// Has the last batch covered, if there is nothing else to do: an empty batch says that all
    /// before it is durable, so that rot of the last entries is never taken for a torn tail. Does
    /// nothing if that was said already, or if there is no segment with room for it.
    pub fn cover(&self) -> Result<Drove, LogError> {
        let Some(writer) = self.writer.try_lock() else {
            return Ok(Drove::Busy);
        };
        let fits = writer.room_bytes() >= writer.need().with(&WriteBatch::new()).bytes();
        drop(writer);
        // What is left of a segment without room for an empty batch is no loss.
        let has_room = fits || self.spare.lock().is_some();
        if !has_room || !self.is_uncovered.load(Ordering::Relaxed) {
            return Ok(Drove::Idle);
        }
        self.queue.lock().push_cover();
        self.drive()
    }

    fn drive_locked(&self, writer: &mut Writer) -> Result<Drove, LogError> {
        let first = match self.queue.lock().measure_first() {
            Some(first) => Need::default().with(first),
            None => return Ok(Drove::Idle),
        };
        let mut rotation = None;
        let together = Need {
            ranges: first.ranges + writer.indexed.0,
            entries: first.entries + writer.indexed.1,
            ..first
        };
        if writer.room_bytes() < together.bytes() {
            rotation = self.take_spare(writer, first);
            if rotation.is_none() {
                return Ok(Drove::NeedsSegment);
            }
        }
        let (need, room) = match &rotation {
            Some(rotation) => {
                let checkpoint = Need {
                    desc: rotation.checkpoint.len() as u64,
                    ..Need::default()
                };
                (checkpoint, rotation.segment.bytes - BLOCK_BYTES)
            }
            None => (writer.need(), writer.room_bytes()),
        };
        let submissions = self.take_submissions(need, room)?;
        let last = submissions.last().expect("at least the first one fits").lsn;
        let work = Work {
            rotation,
            submissions,
            last,
        };
        let mut staging = std::mem::take(&mut writer.staging);
        let written = self.write(writer, &mut staging, &work);
        staging.clear();
        staging.shrink_to(STAGING_BYTES_KEPT);
        writer.staging = staging;
        if mutants::GOES_ON_AFTER_FAILURE
            && let Err(error) = &written
        {
            let reason = error.to_string();
            return Err(LogError::Failed { reason });
        }
        let written = written.map_err(|error| self.fail(error.to_string()))?;
        Ok(self.publish(writer, work, &written))
    }

    /// Takes the prepared segment, if it has room for the checkpoint and a submission of this size.
    /// If not, leaves word of what is needed.
    fn take_spare(&self, writer: &Writer, first: Need) -> Option<Rotation> {
        let mut checkpoint = Vec::new();
        let mut spare = self.spare.lock();
        let records = self.index.read().put_checkpoint(&mut checkpoint);
        let need = Need {
            desc: first.desc + checkpoint.len() as u64,
            ..first
        };
        let needed = BLOCK_BYTES + need.bytes();
        let segment = spare.take_if(|spare| spare.bytes >= needed);
        if segment.is_none() {
            self.queue.lock().blocked_bytes = needed;
            self.want_prepare();
        }
        drop(spare);
        segment.map(|segment| Rotation {
            segment,
            before: writer.tail,
            checkpoint,
            records,
            generation: self.manifest_generation.load(Ordering::Acquire),
        })
    }

    /// Takes what is in line as far as it fits beside `need` in `room` bytes.
    fn take_submissions(&self, mut need: Need, room: u64) -> Result<Vec<Submission>, LogError> {
        let mut queue = self.queue.lock();
        if let Some(error) = queue.failure() {
            return Err(error);
        }
        let alone = need.desc;
        let mut taken = Vec::with_capacity(queue.waiting.len());
        while let Some(next) = queue.waiting.front() {
            need = need.with(&next.batch);
            let enough =
                !taken.is_empty() && need.batch_bytes() - alone > self.options.batch_bytes_max;
            if need.bytes() > room || enough {
                break;
            }
            taken.extend(queue.pop());
        }
        drop(queue);
        if !mutants::MOVES_OVER_NEWER_ENTRIES {
            self.drop_stale_moves(&mut taken);
        }
        Ok(taken)
    }

    /// Entries that were to be moved may have been cut or written anew since they were read. Whoever
    /// drives decides, because nothing changes the index but what is driven: a move that is written
    /// is right where it stands in the log, and recovery need not ask again.
    fn drop_stale_moves(&self, taken: &mut [Submission]) {
        if taken
            .iter()
            .all(|submission| submission.batch.moves.is_empty())
        {
            return;
        }
        let index = self.index.read();
        let mut earlier: HashMap<GroupId, Vec<Op>> = HashMap::new();
        for Submission { batch, .. } in taken {
            let is_spared = |moved: &Move| {
                let mut ops = earlier.get(&moved.group).into_iter().flatten();
                ops.all(|op| op.spares(&moved.indexes))
            };
            let is_fresh = |moved: &Move| is_spared(moved) && can_move(&index, moved);
            if !batch.moves.iter().all(is_fresh) {
                *batch = WriteBatch::new();
            }
            for &op in &batch.ops {
                earlier.entry(op.group()).or_default().push(op);
            }
        }
    }

    /// Writes a batch, behind the header of its segment if it begins one, and syncs it.
    fn write(
        &self,
        writer: &mut Writer,
        staging: &mut Vec<u8>,
        work: &Work,
    ) -> io::Result<Written> {
        assert!(staging.is_empty());
        let mut tail = writer.tail;
        if let Some(rotation) = &work.rotation {
            let header = self.segment_header(writer, rotation, work);
            staging.extend_from_slice(&header.encode());
            let chain = header.chain_start();
            tail = Tail {
                segment: rotation.segment.id,
                at: Sealed {
                    end: BLOCK_BYTES,
                    chain,
                    ..tail.at
                },
            };
        }
        let head = staging.len();
        let checkpoint = work.rotation.as_ref();
        let checkpoint = checkpoint.map(|it| (&it.checkpoint[..], it.records));
        let (parts, mut header) = stage(staging, checkpoint, &work.submissions);
        assert_eq!(header.lsn, work.last);
        header.epoch = writer.epoch;
        header.segment = tail.segment;
        header.offset = tail.at.end;
        header.durable_lsn = Lsn(self.synced.load(Ordering::Acquire));
        let crc = finish_header(&mut staging[head..], &mut header);
        let slices: Vec<_> = parts.iter().map(|part| part.slice(staging)).collect();
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        assert_eq!(bytes, head as u64 + header.batch_bytes());
        let segment = match (&work.rotation, &writer.active) {
            (Some(rotation), _) => &rotation.segment,
            (None, Some(active)) => &active.segment,
            (None, None) => unreachable!("without a segment there is a rotation"),
        };
        let offset = tail.at.end - head as u64;
        assert!(offset + bytes <= segment.bytes);
        segment.file.write_at(offset, &slices)?;
        let is_synced = self.options.durability == Durability::PowerLoss;
        let is_forced = !is_synced && work.lets_files_go();
        if is_forced {
            self.sync_all_written()?;
            segment.file.sync_data()?;
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        } else if is_synced && !mutants::SKIPS_SYNC {
            let sync_begin = Instant::now();
            let mut synced = segment.file.sync_data();
            if mutants::RETRIES_FAILED_SYNC && synced.is_err() {
                synced = segment.file.sync_data();
            }
            synced?;
            let sync_ns = sync_begin.elapsed().as_nanos() as u64;
            self.counters.last_sync_ns.store(sync_ns, Ordering::Relaxed);
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        let written = Written {
            offset: tail.at.end,
            bytes,
            desc_bytes: u64::from(header.desc_bytes),
            is_synced: is_synced || is_forced,
        };
        writer.tail = Tail {
            at: Sealed {
                end: tail.at.end + header.batch_bytes(),
                chain: chain(tail.at.chain, crc),
                lsn: work.last,
            },
            ..tail
        };
        Ok(written)
    }

    fn segment_header(&self, writer: &Writer, rotation: &Rotation, work: &Work) -> SegmentHeader {
        let first = work
            .submissions
            .first()
            .expect("a batch has at least one submission");
        let id = rotation.segment.id;
        SegmentHeader {
            segment: id,
            identity: self.options.identity,
            epoch: writer.epoch,
            segment_bytes: rotation.segment.bytes,
            prev: rotation.before.segment,
            prev_end: rotation.before.at.end,
            prev_chain: rotation.before.at.chain,
            recycled: rotation.segment.recycled,
            first_lsn: first.first_lsn(),
            generation: rotation.generation,
            unsynced: self.options.durability != Durability::PowerLoss,
        }
    }

    /// Makes what is durable known: to readers, to the queue, and as the durable lsn.
    fn publish(&self, writer: &mut Writer, work: Work, written: &Written) -> Drove {
        let submissions: u64 = work.submissions.iter().map(|it| it.count).sum();
        let drove = Drove::Wrote {
            lsn: work.last,
            submissions,
            entries: work.submissions.iter().map(|it| it.batch.entries).sum(),
            bytes: written.bytes,
        };
        let moved: u64 = work
            .submissions
            .iter()
            .map(|it| it.batch.moved_bytes())
            .sum();
        let given: u64 = work
            .submissions
            .iter()
            .map(|it| it.batch.given_bytes())
            .sum();
        let mut index = self.index.write();
        let mut checkpoint = 0;
        let is_rotated = work.rotation.is_some();
        if let Some(rotation) = work.rotation {
            checkpoint = rotation.checkpoint.len() as u64;
            writer.active = Some(begin_segment(&mut index, rotation, self.stage_of_sealed()));
        }
        let active = writer.active.as_ref().expect("a batch was written to it");
        let (segment, slot) = (active.segment.id, active.slot);
        let active_bytes = active.segment.bytes;
        let desc_offset = written.offset + BATCH_HEADER_BYTES as u64;
        let mut place = Place {
            segment: slot,
            desc_offset: desc_offset + checkpoint,
            payload_offset: desc_offset + written.desc_bytes,
        };
        let mut faults = Vec::new();
        let mut recent = self.recent.write();
        let mut emptied = Vec::new();
        let mut is_uncovered = false;
        for Submission { batch, .. } in work.submissions {
            let payload_end = index.apply(place, work.last, &batch.desc, &mut faults);
            is_uncovered |= batch.records > 0;
            let desc_end = place.desc_offset + batch.desc.len() as u64;
            let (desc_offset, payload_offset) = (place.desc_offset, place.payload_offset);
            recent.push(segment, desc_offset, payload_offset, batch, &mut emptied);
            place.payload_offset = payload_end;
            place.desc_offset = desc_end;
        }
        drop(recent);
        assert_eq!(faults, [], "a submission is checked before it is taken");
        assert_eq!(place.desc_offset, desc_offset + written.desc_bytes);
        writer.indexed = index.segments.indexed();
        let has_dead = index.segments.dead().next().is_some();
        let checkpoint_bytes = index.checkpoint_bytes_max();
        drop(index);
        let mut queue = self.queue.lock();
        queue.room_bytes = writer
            .room_bytes()
            .saturating_sub(footer_bytes(writer.indexed.0, writer.indexed.1));
        queue.checkpoint_bytes = checkpoint_bytes;
        queue.give_back(emptied);
        drop(queue);
        if written.is_synced {
            self.synced.fetch_max(work.last.0, Ordering::AcqRel);
        }
        // Before the line is looked at: see `commit`.
        self.durable.store(work.last.0, Ordering::SeqCst);
        self.counters.count_batch(written.bytes, moved, given);
        self.counters
            .last_submissions
            .store(submissions, Ordering::Relaxed);
        let was_uncovered = self.is_uncovered.swap(is_uncovered, Ordering::Relaxed);
        if is_uncovered && !was_uncovered {
            // The log thread begins to wait for the time when this may be covered.
            self.work.notify_one();
        }
        let is_due = self.pace.note(writer.tail.at.end, active_bytes);
        // At rest the preparer gives back what it kept.
        if is_rotated || has_dead || moved > 0 || is_due || !is_uncovered {
            self.want_prepare();
        }
        drove
    }

    /// How far a segment is when the next one goes into service.
    fn stage_of_sealed(&self) -> Stage {
        match self.options.durability {
            Durability::PowerLoss => Stage::Durable,
            Durability::ProcessCrash => Stage::Written,
        }
    }
}

/// Takes the segment of a rotation into service, and its predecessor as sealed.
fn begin_segment(index: &mut Index, rotation: Rotation, stage: Stage) -> Active {
    let Rotation {
        segment, before, ..
    } = rotation;
    index.begin();
    if before.segment.0 > 0 {
        index.segments.seal(before.segment, before.at, stage);
    }
    let segment = Arc::new(segment);
    let slot = index.segments.add(Arc::clone(&segment), stage);
    let slot = slot.expect("no segment is prepared when there is no slot for it");
    Active { segment, slot }
}

/// Whether entries still are where they were when they were read to be moved.
fn can_move(index: &Index, moved: &Move) -> bool {
    let Some(slot) = index.segments.slot_of(moved.from) else {
        return false;
    };
    index.groups.get(&moved.group).is_some_and(|log| {
        log.born == moved.born
            && log.first_index() <= moved.indexes.start
            && moved.indexes.end <= log.last_index() + 1
            && log.locations().are_in(moved.indexes.clone(), slot)
    })
}
