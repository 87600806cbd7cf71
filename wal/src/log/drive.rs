//! The commit path: everything in line becomes one batch, one write, one sync.
//!
//! Invariants:
//! - A batch begins where the one before it ended, on a block boundary.
//! - The header of a segment is written together with its first batch, which begins with the
//!   checkpoint. So a segment whose header is missing holds nothing that was acknowledged, and
//!   every segment tells the whole state of all groups.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::batch::COPY_BYTES_MAX;
use crate::error::LogError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, SegmentHeader, batch_bytes, chain, desc_crc,
};
use crate::ids::{Lsn, SegmentId};
use crate::index::Place;
use crate::locations::SegmentSlot;
use crate::segment::Segment;

use super::Log;
use super::queue::Submission;

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
        submissions: usize,
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
    pub(crate) end: u64,
    pub(crate) chain: u32,
}

/// A batch to be written.
struct Work {
    /// The segment that it begins, if the one before is full.
    rotation: Option<Rotation>,
    submissions: Vec<Submission>,
    /// The lsn of the last submission.
    last: Lsn,
}

/// The step to the next segment.
struct Rotation {
    segment: Segment,
    oldest: SegmentId,
    checkpoint: Vec<u8>,
    records: u32,
}

/// A part of what is written, in order: staged bytes, or a large chunk where it is.
enum Part<'a> {
    Staged(Range<usize>),
    Shared(&'a [u8]),
}

/// What was written and is durable.
struct Written {
    offset: u64,
    bytes: u64,
    desc_bytes: u64,
}

impl Writer {
    pub(crate) fn new(tail: Tail, epoch: u32) -> Self {
        Self {
            active: None,
            tail,
            epoch,
            staging: Vec::new(),
        }
    }

    /// Bytes left in the active segment.
    fn room_bytes(&self) -> u64 {
        self.active
            .as_ref()
            .map_or(0, |active| active.segment.bytes - self.tail.end)
    }
}

impl Log {
    /// Writes everything in line that fits one batch and the segment, syncs it, and tells the
    /// observers. Returns at once if another thread is at it. A write or sync that fails stops the
    /// log for good.
    pub fn drive(&self) -> Result<Drove, LogError> {
        let Some(mut writer) = self.writer.try_lock() else {
            return Ok(Drove::Busy);
        };
        let was_failed = self.queue.lock().failure();
        let drove = match was_failed {
            Some(error) => return Err(error),
            None => self.drive_locked(&mut writer),
        };
        drop(writer);
        if matches!(drove, Ok(Drove::Wrote { .. }) | Err(_)) {
            self.tell_observers();
        }
        drove
    }

    fn drive_locked(&self, writer: &mut Writer) -> Result<Drove, LogError> {
        let (desc, payload) = match self.queue.lock().waiting.front() {
            Some(first) => (first.batch.desc.len() as u64, first.batch.payload_bytes),
            None => return Ok(Drove::Idle),
        };
        let mut rotation = None;
        if writer.room_bytes() < batch_bytes(desc, payload) {
            rotation = self.take_spare(desc, payload);
            if rotation.is_none() {
                return Ok(Drove::NeedsSegment);
            }
        }
        let room = match &rotation {
            Some(rotation) => rotation.segment.bytes - BLOCK_BYTES,
            None => writer.room_bytes(),
        };
        let checkpoint = rotation
            .as_ref()
            .map_or(0, |rotation| rotation.checkpoint.len() as u64);
        let submissions = self.take_submissions(checkpoint, room)?;
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
        let written = written.map_err(|error| self.fail(error.to_string()))?;
        Ok(self.publish(writer, work, &written))
    }

    /// Takes the prepared segment, if it has room for the checkpoint and a submission of this size.
    /// If not, leaves word of what is needed.
    fn take_spare(&self, desc: u64, payload: u64) -> Option<Rotation> {
        let mut spare = self.spare.lock();
        let index = self.index.read();
        let mut checkpoint = Vec::new();
        let spare_id = spare.as_ref().map_or(SegmentId(0), |spare| spare.id);
        let oldest = index.oldest().unwrap_or(spare_id);
        let records = index.put_checkpoint(&mut checkpoint, oldest);
        drop(index);
        let needed = BLOCK_BYTES + batch_bytes(checkpoint.len() as u64 + desc, payload);
        let segment = spare.take_if(|spare| spare.bytes >= needed);
        if segment.is_none() {
            self.queue.lock().blocked_bytes = needed;
        }
        drop(spare);
        self.want_prepare();
        segment.map(|segment| Rotation {
            segment,
            oldest,
            checkpoint,
            records,
        })
    }

    /// Takes what is in line as far as it fits behind `checkpoint` bytes of descriptors in `room`
    /// bytes.
    fn take_submissions(&self, checkpoint: u64, room: u64) -> Result<Vec<Submission>, LogError> {
        let mut queue = self.queue.lock();
        if let Some(error) = queue.failure() {
            return Err(error);
        }
        let mut taken = Vec::with_capacity(queue.waiting.len());
        let (mut desc, mut payload) = (checkpoint, 0);
        while let Some(next) = queue.waiting.front() {
            desc += next.batch.desc.len() as u64;
            payload += next.batch.payload_bytes;
            let bytes = batch_bytes(desc, payload);
            let enough = !taken.is_empty() && bytes - checkpoint > self.options.batch_bytes_max;
            if bytes > room || enough {
                break;
            }
            taken.extend(queue.pop());
        }
        Ok(taken)
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
                end: BLOCK_BYTES,
                chain,
            };
        }
        let head = staging.len();
        let (parts, mut header) = stage(staging, work);
        header.epoch = writer.epoch;
        header.segment = tail.segment;
        header.offset = tail.end;
        header.durable_lsn = self.durable();
        let crc = finish_header(&mut staging[head..], &mut header);
        let slices: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Staged(range) => IoSlice::new(&staging[range.clone()]),
                Part::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect();
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        assert_eq!(bytes, head as u64 + header.batch_bytes());
        let segment = match (&work.rotation, &writer.active) {
            (Some(rotation), _) => &rotation.segment,
            (None, Some(active)) => &active.segment,
            (None, None) => unreachable!("without a segment there is a rotation"),
        };
        let offset = tail.end - head as u64;
        assert!(offset + bytes <= segment.bytes);
        segment.file.write_at(offset, &slices)?;
        let sync_begin = Instant::now();
        segment.file.sync_data()?;
        let sync_ns = sync_begin.elapsed().as_nanos() as u64;
        self.counters.last_sync_ns.store(sync_ns, Ordering::Relaxed);
        let written = Written {
            offset: tail.end,
            bytes,
            desc_bytes: u64::from(header.desc_bytes),
        };
        let end = tail.end + header.batch_bytes();
        writer.tail = Tail {
            end,
            chain: chain(tail.chain, crc),
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
            prev: writer.tail.segment,
            prev_end: writer.tail.end,
            prev_chain: writer.tail.chain,
            first_lsn: first.lsn,
            oldest: rotation.oldest,
        }
    }

    /// Makes what is durable known: to readers, to the queue, and as the durable lsn.
    fn publish(&self, writer: &mut Writer, work: Work, written: &Written) -> Drove {
        let mut index = self.index.write();
        let checkpoint = work
            .rotation
            .as_ref()
            .map_or(0, |rotation| rotation.checkpoint.len() as u64);
        if let Some(rotation) = work.rotation {
            let segment = Arc::new(rotation.segment);
            index.begin(rotation.oldest);
            let slot = index.segments.add(Arc::clone(&segment));
            let slot = slot.expect("no segment is prepared when there is no slot for it");
            writer.active = Some(Active { segment, slot });
        }
        let slot = writer
            .active
            .as_ref()
            .expect("a batch was written to it")
            .slot;
        let desc_offset = written.offset + BATCH_HEADER_BYTES as u64;
        let mut place = Place {
            segment: slot,
            desc_offset: desc_offset + checkpoint,
            payload_offset: desc_offset + written.desc_bytes,
        };
        let mut faults = Vec::new();
        for submission in &work.submissions {
            place.payload_offset = index.apply(place, &submission.batch.desc, &mut faults);
            place.desc_offset += submission.batch.desc.len() as u64;
        }
        assert_eq!(faults, [], "a submission is checked before it is taken");
        assert_eq!(place.desc_offset, desc_offset + written.desc_bytes);
        let has_dead = index.has_dead_segments();
        let checkpoint_bytes = index.checkpoint_bytes_max();
        drop(index);
        let mut queue = self.queue.lock();
        queue.room_bytes = writer.room_bytes();
        queue.checkpoint_bytes = checkpoint_bytes;
        drop(queue);
        self.durable.store(work.last.0, Ordering::Release);
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.counters
            .bytes_written
            .fetch_add(written.bytes, Ordering::Relaxed);
        if has_dead {
            self.want_prepare();
        }
        Drove::Wrote {
            lsn: work.last,
            submissions: work.submissions.len(),
            entries: work
                .submissions
                .iter()
                .map(|submission| submission.batch.entries)
                .sum(),
            bytes: written.bytes,
        }
    }
}

/// Puts a batch together behind what is staged: room for its header, all descriptors, all payloads,
/// and the padding. The header that is returned lacks what depends on the place.
fn stage<'a>(staging: &mut Vec<u8>, work: &'a Work) -> (Vec<Part<'a>>, BatchHeader) {
    let head = staging.len();
    staging.resize(head + BATCH_HEADER_BYTES, 0);
    let mut records = 0;
    if let Some(rotation) = &work.rotation {
        staging.extend_from_slice(&rotation.checkpoint);
        records += rotation.records;
    }
    let mut payload_bytes = 0;
    for Submission { batch, .. } in &work.submissions {
        staging.extend_from_slice(&batch.desc);
        payload_bytes += batch.payload_bytes;
        records += batch.records;
    }
    let header = BatchHeader {
        epoch: 0,
        segment: SegmentId(0),
        offset: 0,
        lsn: work.last,
        durable_lsn: Lsn(0),
        desc_bytes: (staging.len() - head - BATCH_HEADER_BYTES) as u32,
        desc_crc: 0,
        payload_bytes: payload_bytes as u32,
        records,
    };
    let mut parts = Vec::new();
    let mut staged = 0;
    for chunk in work
        .submissions
        .iter()
        .flat_map(|submission| &submission.batch.chunks)
    {
        let bytes = chunk.bytes();
        if bytes.len() <= COPY_BYTES_MAX {
            staging.extend_from_slice(bytes);
        } else {
            parts.push(Part::Staged(staged..staging.len()));
            parts.push(Part::Shared(bytes));
            staged = staging.len();
        }
    }
    let used = BATCH_HEADER_BYTES as u64 + u64::from(header.desc_bytes) + payload_bytes;
    staging.resize(staging.len() + (header.batch_bytes() - used) as usize, 0);
    parts.push(Part::Staged(staged..staging.len()));
    (parts, header)
}

/// Completes the header of the batch that is staged, now that its place is known. Returns the CRC
/// of the header.
fn finish_header(staged: &mut [u8], header: &mut BatchHeader) -> u32 {
    let desc = BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + header.desc_bytes as usize;
    header.desc_crc = desc_crc(header.segment, header.offset, &staged[desc]);
    let (bytes, crc) = header.encode();
    staged[..BATCH_HEADER_BYTES].copy_from_slice(&bytes);
    crc
}
