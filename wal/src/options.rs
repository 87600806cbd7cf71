//! What can be tuned, and the bounds that the format sets.

use crate::error::OpenError;
use crate::footer::RANGE_BYTES;
use crate::format::{BLOCK_BYTES, SEGMENT_BYTES_LIMIT};
use crate::locations::SPOT_BYTES;
use crate::record::{RUN_BYTES, SLOT_BYTES};

/// How a log is laid out and how much it may hold back. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    /// Size of the first segment after each open; each following one is twice as large, up to
    /// `segment_bytes_max`. A multiple of 4 KiB, at least 16 KiB. Default 1 MiB.
    pub segment_bytes_min: u64,
    /// Size of a segment at most, unless one submission needs a larger one. A multiple of 4 KiB, at
    /// most 128 MiB. Default 64 MiB.
    pub segment_bytes_max: u64,
    /// Size of the payload of one entry at most, in submissions whose limits are not
    /// [lifted](crate::WriteBatch::lift_limits). What is in the log already is read whatever its
    /// size. Default 16 MiB.
    pub entry_bytes_max: u64,
    /// Size of one submission at most, and of what one sync covers. At most 40 MiB, and at least
    /// `entry_bytes_max` and 4 KiB. Default 32 MiB.
    pub batch_bytes_max: u64,
    /// Bytes of submissions that wait to be written at most; at least `batch_bytes_max`. Default 64
    /// MiB.
    pub queue_bytes_max: u64,
    /// What survives of what [`crate::Log::durable`] covers. Default [`Durability::PowerLoss`].
    pub durability: Durability,
    /// Bytes of the batches written last that are kept in memory for readers; zero for none.
    /// Default 8 MiB.
    pub recent_bytes_max: u64,
    /// Threads that read sealed segments at once when the log is opened; with 1, no thread is
    /// started. Default 4.
    pub recovery_threads: usize,
    /// Names the log that the directory belongs to, so that the directory of another node is
    /// refused. Default 0.
    pub identity: u64,
    /// Whether [`crate::Log::nudge`] may write on the caller's thread where syncs are fast. Without it, only
    /// [`crate::Log::drive`] and [`crate::Log::cover`] write, so that whoever takes the steps of a log by hand
    /// decides when. Default true.
    pub inline_writes: bool,
    /// Opens a log whose acknowledged data is damaged, without what was lost. The terms and votes
    /// in it may be older than those that were promised: only for getting data out, never for a
    /// voting member. Default false.
    pub accept_damage: bool,
}

/// What must happen before a write counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Acknowledged data is synced, and survives the loss of power.
    #[default]
    PowerLoss,
    /// Acknowledged data is written to the operating system, and survives the end of the process.
    /// When the power is lost, or the system stops, the last of it is gone; what is left is a log
    /// that was once acknowledged, cut at some submission. Sealed segments are synced.
    ProcessCrash,
}

/// Bytes that the states of all groups may take in the checkpoint at the start of a segment.
pub(crate) const CHECKPOINT_BYTES_MAX: u64 = 32 << 20;

/// Submissions take at most so many bytes.
pub(crate) const BATCH_BYTES_LIMIT: u64 = 40 << 20;

/// The payload of one entry takes at most so much, whatever the options say: with a header, and a
/// record beside it, it fits the largest submission.
pub const ENTRY_BYTES_LIMIT: u64 = BATCH_BYTES_LIMIT - (32 << 10);
/// The index of one submission takes at most so much: its runs take [`RUN_BYTES`] and a slot at
/// least, which the index answers with a range and a spot.
const FOOTER_BYTES_LIMIT: u64 =
    BATCH_BYTES_LIMIT / (RUN_BYTES + SLOT_BYTES) as u64 * (RANGE_BYTES + SPOT_BYTES) as u64;
/// A segment of the largest size holds its header, a full checkpoint, a full submission, and the
/// index of it.
const _: () = assert!(
    4 * BLOCK_BYTES + CHECKPOINT_BYTES_MAX + BATCH_BYTES_LIMIT + FOOTER_BYTES_LIMIT
        <= SEGMENT_BYTES_LIMIT,
    "every submission that is accepted fits some segment"
);

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 64 << 20,
            entry_bytes_max: 16 << 20,
            batch_bytes_max: 32 << 20,
            queue_bytes_max: 64 << 20,
            durability: Durability::PowerLoss,
            recent_bytes_max: 8 << 20,
            recovery_threads: 4,
            identity: 0,
            inline_writes: true,
            accept_damage: false,
        }
    }
}

impl LogOptions {
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let refuse = |reason: &str| {
            Err(OpenError::Options {
                reason: reason.to_owned(),
            })
        };
        if self.segment_bytes_min < 4 * BLOCK_BYTES
            || !self.segment_bytes_min.is_multiple_of(BLOCK_BYTES)
            || !self.segment_bytes_max.is_multiple_of(BLOCK_BYTES)
        {
            return refuse("segment sizes must be multiples of 4 KiB, from 16 KiB");
        }
        if self.segment_bytes_max < self.segment_bytes_min
            || self.segment_bytes_max > SEGMENT_BYTES_LIMIT
        {
            return refuse("segment_bytes_max must be from segment_bytes_min to 128 MiB");
        }
        if self.batch_bytes_max < self.entry_bytes_max
            || self.batch_bytes_max < BLOCK_BYTES
            || self.batch_bytes_max > BATCH_BYTES_LIMIT
        {
            return refuse("batch_bytes_max must be from entry_bytes_max and 4 KiB to 40 MiB");
        }
        if self.queue_bytes_max < self.batch_bytes_max {
            return refuse("queue_bytes_max must be at least batch_bytes_max");
        }
        if self.recovery_threads == 0 {
            return refuse("recovery_threads must be at least 1");
        }
        Ok(())
    }
}
