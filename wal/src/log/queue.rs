//! What was submitted and waits to be written.
//!
//! Invariants:
//! - What is in the queue fits what was submitted before it: indexes follow each other, so writing
//!   it in order always gives a log without gaps.
//! - The queue holds at most `queue_bytes_max` bytes, or one batch whose limits were lifted.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::batch::{Op, WriteBatch};
use crate::error::{LogError, SubmitError};
use crate::format::BLOCK_BYTES;
use crate::ids::{GroupId, Lsn};
use crate::options::{BATCH_BYTES_LIMIT, CHECKPOINT_BYTES_MAX, ENTRY_BYTES_LIMIT, LogOptions};
use crate::record::Keep;

use super::thread::Stop;
use super::{Drove, Log, LogStatus};

/// A sync that takes less is done by the thread that submits: about what it takes to wake another
/// one.
const INLINE_SYNC_NS_MAX: u64 = 20_000;

/// So many empty batches are kept, to be filled again.
const POOL_MAX: usize = 32;

/// Larger buffers are given back to the allocator.
const POOLED_BYTES_MAX: usize = 256 << 10;

/// Small submissions are gathered to so many bytes, and to a part of the smallest segment: what is gathered is written whole,
/// so a segment may end so much earlier. One block is taken by the smallest batch, so that this much costs nothing.
const GATHERED_BYTES_MAX: u64 = 64 << 10;
const GATHERED_SEGMENT_PARTS: u64 = 16;

/// One submission in line, or several small ones that were gathered.
#[derive(Debug)]
pub(crate) struct Submission {
    /// The lsn of the last one.
    pub(crate) lsn: Lsn,
    pub(crate) batch: WriteBatch,
    /// How many there are.
    pub(crate) count: u64,
    /// Whether somebody sees to the room that it takes, so that nothing may be gathered into it any more.
    is_measured: bool,
}

/// The submissions in line, and what a log will be when all of them are written.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) status: LogStatus,
    pub(crate) waiting: VecDeque<Submission>,
    /// A segment of at least so many bytes is needed before the first in line can be written; zero
    /// if not.
    pub(crate) blocked_bytes: u64,
    /// Bytes left in the segment that is written to.
    pub(crate) room_bytes: u64,
    /// Bytes of the segment that is kept for a full disk; zero if there is none.
    pub(crate) reserve_bytes: u64,
    /// What the checkpoint of everything durable takes at most.
    pub(crate) checkpoint_bytes: u64,
    sums: Sums,
    next_lsn: Lsn,
    bounds: HashMap<GroupId, Bounds>,
    /// Empty batches with buffers, at most [`POOL_MAX`].
    pool: Vec<WriteBatch>,
    /// Set when the threads should end.
    pub(crate) stopping: Option<Stop>,
}

/// What everything in line takes.
#[derive(Debug, Default)]
struct Sums {
    bytes: u64,
    /// Of a segment, at most.
    segment_bytes: u64,
    growth: u64,
}

/// First and last index of a group when everything in line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Log {
    /// Puts a batch in line, from any thread. It is durable when [`Log::durable`] reaches the lsn
    /// that is returned. Batches of one group must come in order; an error means that nothing of
    /// the batch was taken.
    pub fn submit(&self, mut batch: WriteBatch) -> Result<Lsn, SubmitError> {
        let lsn = self.queue.lock().push(&mut batch, &self.options)?;
        self.work.notify_one();
        Ok(lsn)
    }

    /// Like [`submit`](Self::submit), but wakes nobody: call [`nudge`](Self::nudge) after the last
    /// of several. A batch that is refused stays as it was, so that it can be handed in again; one
    /// that is taken is empty afterwards, and has its own buffers or those of one that was written before:
    /// whoever fills it again saves what it costs to make new ones.
    pub fn enqueue(&self, batch: &mut WriteBatch) -> Result<Lsn, SubmitError> {
        let mut queue = self.queue.lock();
        queue.push(batch, &self.options)
    }

    /// Has written what was enqueued. Where a sync takes less time than waking a thread does, this
    /// thread writes it here and now; else the log thread is woken. (Handing a 30 µs sync to
    /// another thread costs more than it saves: cockroach#96800.)
    pub fn nudge(&self) {
        let is_fast = self.counters.last_sync_ns.load(Ordering::Relaxed) < INLINE_SYNC_NS_MAX;
        if is_fast && self.options.inline_writes {
            // A failure reaches everybody through the status and the observers.
            while matches!(self.drive(), Ok(Drove::Wrote { .. })) {}
            if self.queue.lock().waiting.is_empty() {
                return;
            }
        }
        self.work.notify_one();
    }
}

impl Queue {
    pub(crate) fn new(
        next_lsn: Lsn,
        bounds: HashMap<GroupId, Bounds>,
        checkpoint_bytes: u64,
    ) -> Self {
        Self {
            status: LogStatus::Healthy,
            waiting: VecDeque::new(),
            blocked_bytes: 0,
            room_bytes: 0,
            reserve_bytes: 0,
            checkpoint_bytes,
            sums: Sums::default(),
            next_lsn,
            bounds,
            pool: Vec::new(),
            stopping: None,
        }
    }

    /// The error of a log that failed.
    pub(crate) fn failure(&self) -> Option<LogError> {
        match &self.status {
            LogStatus::Failed { reason } => Some(LogError::Failed {
                reason: reason.clone(),
            }),
            _ => None,
        }
    }

    /// Takes empty batches back, to be filled again.
    pub(crate) fn give_back(&mut self, mut emptied: Vec<WriteBatch>) {
        emptied.truncate(POOL_MAX - self.pool.len());
        emptied.retain(|batch| batch.buffer_bytes() <= POOLED_BYTES_MAX);
        self.pool.append(&mut emptied);
    }

    /// The first in line, which stays as it is from now on: whoever makes room for it does so without this lock, and what
    /// others submit meanwhile must not make it larger.
    pub(crate) fn measure_first(&mut self) -> Option<&WriteBatch> {
        let first = self.waiting.front_mut()?;
        first.is_measured = true;
        Some(&first.batch)
    }

    /// Takes the first in line.
    pub(crate) fn pop(&mut self) -> Option<Submission> {
        let submission = self.waiting.pop_front()?;
        self.sums.sub(&submission.batch);
        Some(submission)
    }

    /// Drops everything in line: it will never be written.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
        self.sums = Sums::default();
    }

    /// Puts an empty batch in line, which says of what was written before that it is durable.
    pub(crate) fn push_cover(&mut self) {
        if self.waiting.is_empty() && self.failure().is_none() {
            self.stand_in_line(WriteBatch::new());
        }
    }

    pub(super) fn push(
        &mut self,
        batch: &mut WriteBatch,
        options: &LogOptions,
    ) -> Result<Lsn, SubmitError> {
        if let LogStatus::Failed { reason } = &self.status {
            return Err(SubmitError::Failed {
                reason: reason.clone(),
            });
        }
        check_sizes(batch, options)?;
        self.check_room(batch, options)?;
        self.check_order(&batch.ops)?;
        Ok(self.accept(batch, options))
    }

    /// Takes the batch, which is empty afterwards.
    fn accept(&mut self, batch: &mut WriteBatch, options: &LogOptions) -> Lsn {
        if !batch.can_be_gathered() {
            let emptied = self.pool.pop().unwrap_or_default();
            return self.stand_in_line(std::mem::replace(batch, emptied));
        }
        let lsn = self.draw_lsn();
        if let Some(last) = self.waiting.back_mut()
            && last.has_room_for(batch, options)
        {
            self.sums.sub(&last.batch);
            last.batch.gather(batch);
            self.sums.add(&last.batch);
            last.lsn = lsn;
            last.count += 1;
            return lsn;
        }
        let mut gathered = self.pool.pop().unwrap_or_default();
        gathered.gather(batch);
        self.push_back(lsn, gathered);
        lsn
    }

    fn stand_in_line(&mut self, batch: WriteBatch) -> Lsn {
        let lsn = self.draw_lsn();
        self.push_back(lsn, batch);
        lsn
    }

    fn draw_lsn(&mut self) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn = Lsn(lsn.0 + 1);
        lsn
    }

    fn push_back(&mut self, lsn: Lsn, batch: WriteBatch) {
        self.sums.add(&batch);
        self.waiting.push_back(Submission {
            lsn,
            batch,
            count: 1,
            is_measured: false,
        });
    }

    /// On a full disk, records that free space may still take what is left of the segment, or the
    /// reserve, and entries may not.
    fn check_room(&self, batch: &WriteBatch, options: &LogOptions) -> Result<(), SubmitError> {
        let bytes = self.sums.bytes + batch.bytes_alone();
        let may_be_alone = batch.is_lifted && self.sums.bytes == 0;
        if bytes > options.queue_bytes_max && !may_be_alone {
            return Err(SubmitError::QueueFull);
        }
        if self.checkpoint_bytes + self.sums.growth + batch.growth > CHECKPOINT_BYTES_MAX {
            return Err(SubmitError::TooManyGroups {
                bytes_max: CHECKPOINT_BYTES_MAX,
            });
        }
        let needed = self.sums.segment_bytes + batch.bytes_in_segment();
        // Of the reserve, its header, the checkpoint and the index are taken.
        let taken = 3 * BLOCK_BYTES + self.checkpoint_bytes + self.sums.growth + batch.growth;
        let room_bytes = self
            .room_bytes
            .max(self.reserve_bytes.saturating_sub(taken));
        if self.status == LogStatus::Full && (batch.entries > 0 || needed > room_bytes) {
            return Err(SubmitError::Full);
        }
        Ok(())
    }

    /// Checks that the batch continues the logs of its groups, and moves their ends. Moves nothing
    /// on an error.
    fn check_order(&mut self, ops: &[Op]) -> Result<(), SubmitError> {
        if let [op @ Op::Append { group, .. }] = *ops
            && let Some(bounds) = self.bounds.get_mut(&group)
            && let Ok(Some(after)) = op.apply(*bounds)
        {
            *bounds = after;
            return Ok(());
        }
        let mut undo: Vec<(GroupId, Option<Bounds>)> = Vec::new();
        for op in ops {
            let group = op.group();
            let before = self.bounds.get(&group).copied();
            match op.apply(before.unwrap_or(Bounds { first: 1, last: 0 })) {
                Ok(after) => {
                    undo.push((group, before));
                    self.set_bounds(group, after);
                }
                Err(reason) => {
                    for (group, bounds) in undo.into_iter().rev() {
                        self.set_bounds(group, bounds);
                    }
                    return Err(SubmitError::Invalid { group, reason });
                }
            }
        }
        Ok(())
    }

    fn set_bounds(&mut self, group: GroupId, bounds: Option<Bounds>) {
        match bounds {
            Some(bounds) => drop(self.bounds.insert(group, bounds)),
            None => drop(self.bounds.remove(&group)),
        }
    }
}

impl Submission {
    /// The lsn of the first one: those that were gathered followed each other.
    pub(super) fn first_lsn(&self) -> Lsn {
        Lsn(self.lsn.0 + 1 - self.count)
    }

    /// Whether a small batch may stand behind this one as a part of it. One without entries stays alone: on a full disk it
    /// may be written where entries may not.
    fn has_room_for(&self, batch: &WriteBatch, options: &LogOptions) -> bool {
        let bytes_max = GATHERED_BYTES_MAX
            .min(options.segment_bytes_min / GATHERED_SEGMENT_PARTS)
            .max(BLOCK_BYTES)
            .min(options.batch_bytes_max);
        !self.is_measured && self.batch.bytes_with(batch) <= bytes_max && self.batch.is_plain()
    }
}

impl Sums {
    fn add(&mut self, batch: &WriteBatch) {
        self.bytes += batch.bytes_alone();
        self.segment_bytes += batch.bytes_in_segment();
        self.growth += batch.growth;
    }

    fn sub(&mut self, batch: &WriteBatch) {
        self.bytes -= batch.bytes_alone();
        self.segment_bytes -= batch.bytes_in_segment();
        self.growth -= batch.growth;
    }
}

impl Op {
    pub(crate) fn group(self) -> GroupId {
        match self {
            Self::Append { group, .. }
            | Self::Compact { group, .. }
            | Self::Snapshot { group, .. }
            | Self::Remove { group } => group,
        }
    }

    /// Whether these entries of the group stay what they are.
    pub(crate) fn spares(self, indexes: &Range<u64>) -> bool {
        match self {
            Self::Append { first, .. } => first >= indexes.end,
            Self::Compact { first_index, .. } => first_index <= indexes.start,
            Self::Snapshot { keep, .. } => match keep {
                Keep::All => true,
                Keep::From(first_index) => first_index <= indexes.start,
                Keep::Nothing => false,
            },
            Self::Remove { .. } => false,
        }
    }

    /// The bounds of the group after this, or why it does not fit.
    fn apply(self, bounds: Bounds) -> Result<Option<Bounds>, &'static str> {
        let next = bounds.last + 1;
        match self {
            Self::Append { first, .. } if first > next => {
                Err("the first appended entry would leave a gap behind the last one")
            }
            Self::Append { first, .. } if first < bounds.first => {
                Err("the first appended entry was compacted already")
            }
            Self::Append { last, .. } => Ok(Some(Bounds { last, ..bounds })),
            Self::Compact { first_index, .. } if first_index > next => {
                Err("compaction would go beyond the last entry")
            }
            Self::Compact { first_index, .. } => Ok(Some(Bounds {
                first: bounds.first.max(first_index),
                ..bounds
            })),
            Self::Snapshot {
                keep: Keep::All, ..
            } => Ok(Some(bounds)),
            Self::Snapshot {
                index,
                keep: Keep::Nothing,
                ..
            } => Ok(Some(Bounds {
                first: index + 1,
                last: index,
            })),
            Self::Snapshot {
                index,
                keep: Keep::From(from),
                ..
            } => {
                if from > next || from > index + 1 {
                    return Err("the entries that stay must follow the snapshot and be in the log");
                }
                Ok(Some(Bounds {
                    first: bounds.first.max(from),
                    ..bounds
                }))
            }
            Self::Remove { .. } => Ok(None),
        }
    }
}

fn check_sizes(batch: &WriteBatch, options: &LogOptions) -> Result<(), SubmitError> {
    if let Some((group, reason)) = batch.invalid {
        return Err(SubmitError::Invalid { group, reason });
    }
    let (entry_limit, batch_limit) = if batch.is_lifted {
        (ENTRY_BYTES_LIMIT, BATCH_BYTES_LIMIT)
    } else {
        (options.entry_bytes_max, options.batch_bytes_max)
    };
    let (what, bytes, bytes_max) = if batch.entry_bytes_max > entry_limit {
        ("an entry", batch.entry_bytes_max, entry_limit)
    } else {
        ("the batch", batch.bytes_alone(), batch_limit)
    };
    if bytes > bytes_max {
        return Err(SubmitError::TooLarge {
            what,
            bytes,
            bytes_max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Entry;

    #[test]
    fn nothing_is_gathered_into_what_somebody_makes_room_for() {
        let mut queue = Queue::new(Lsn(1), HashMap::new(), 0);
        let append = |queue: &mut Queue, index| {
            let mut batch = WriteBatch::new();
            let entry = Entry {
                index,
                term: 1,
                kind: 0,
                payload: vec![7; 100].into(),
            };
            batch.append(GroupId(1), vec![entry]);
            let pushed = queue.push(&mut batch, &LogOptions::default());
            pushed.expect("it follows the one before");
        };
        append(&mut queue, 1);
        let measured = queue.measure_first().map(WriteBatch::bytes_in_segment);
        append(&mut queue, 2);
        append(&mut queue, 3);
        let first = queue.pop().expect("it waits");
        assert_eq!(Some(first.batch.bytes_in_segment()), measured);
        assert_eq!((first.lsn, first.count), (Lsn(1), 1));
        let second = queue.pop().expect("it waits");
        assert_eq!(
            (second.lsn, second.count),
            (Lsn(3), 2),
            "these wait together"
        );
    }
}
