//! What a sealed segment holds: read from the index behind it, or found by reading its batches.
//!
//! Invariants:
//! - Segments are summed up each by itself, so that several threads can do it at once. What a newer
//!   segment holds counts before what an older one holds.
//! - A summary names entries that are in the segment, and in the log of the group as far as the
//!   segment knows.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Damage, OpenError};
use crate::footer::Footer;
use crate::ids::{GroupId, Lsn};
use crate::index::{Index, Stage};
use crate::locations::{PiecePlace, SPOT_BYTES, SegmentSlot, Spots};
use crate::segment::Sealed;

use super::replay::Replay;
use super::sort::InService;

/// What a sealed segment holds.
#[derive(Debug)]
pub(crate) struct Summary {
    ranges: Vec<Held>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) scanned_bytes: u64,
    /// Whether there is an index behind the segment.
    pub(crate) stage: Stage,
    /// Where its batches end.
    pub(crate) sealed: Sealed,
}

/// Consecutive entries of a group.
#[derive(Debug)]
struct Held {
    group: GroupId,
    born: Lsn,
    first: u64,
    count: u64,
    bytes: u64,
    spots: Spots,
}

/// Sums up segments, with so many threads at most.
pub(crate) fn sum_up(parts: &[InService], threads_max: usize) -> Result<Vec<Summary>, OpenError> {
    let threads = threads_max.min(parts.len());
    if threads <= 1 {
        return parts.iter().map(Summary::new).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(parts.len()));
    let work = || {
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(position) else {
                return;
            };
            let summary = Summary::new(part);
            done.lock().push((position, summary));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, summary)| summary).collect()
}

impl Summary {
    fn new(part: &InService) -> Result<Self, OpenError> {
        if let Some(sealed) = part.sealed {
            let path = &part.segment.path;
            let footer = match Footer::read(&part.segment, sealed) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
                other => other.map_err(|source| OpenError::io("read", path, source))?,
            };
            if let Some(footer) = footer {
                return Ok(Self::of_footer(footer));
            }
        }
        Self::of_batches(part)
    }

    fn of_footer(footer: Footer) -> Self {
        let held = |range: crate::footer::Range| Held {
            group: range.group,
            born: range.born,
            first: range.first_index,
            count: range.count,
            bytes: range.bytes,
            spots: Spots::Sealed(range.spots_offset),
        };
        Self {
            ranges: footer.ranges.into_iter().map(held).collect(),
            damage: Vec::new(),
            scanned_bytes: 0,
            stage: Stage::Indexed,
            sealed: footer.sealed,
        }
    }

    fn of_batches(part: &InService) -> Result<Self, OpenError> {
        let mut replay = Replay::new(Index::default());
        replay.run(std::slice::from_ref(part))?;
        let mut ranges = Vec::new();
        for (&group, log) in &replay.index.groups {
            for piece in log.pieces(log.first_index()..log.last_index() + 1) {
                if let PiecePlace::Hot(_, spots) = piece.place {
                    ranges.push(Held {
                        group,
                        born: log.born,
                        first: piece.first,
                        count: piece.count,
                        bytes: piece.bytes,
                        spots: Spots::Hot(spots.to_vec()),
                    });
                }
            }
        }
        Ok(Self {
            ranges,
            damage: replay.damage,
            scanned_bytes: replay.scanned_bytes,
            stage: Stage::Durable,
            sealed: part.sealed.unwrap_or(replay.tail.at),
        })
    }

    /// Adds to the index what no newer segment has said.
    pub(crate) fn fill(self, index: &mut Index, slot: SegmentSlot) {
        for held in self.ranges {
            held.fill(index, slot);
        }
    }
}

impl Held {
    fn fill(&self, index: &mut Index, slot: SegmentSlot) {
        let end = self.first + self.count;
        let mut from = self.first;
        loop {
            let log = index
                .groups
                .get(&self.group)
                .filter(|log| log.born == self.born);
            let nowhere = log.and_then(|log| log.locations().next_nowhere(from..end));
            let Some(nowhere) = nowhere else { return };
            let count = nowhere.end - nowhere.start;
            let skipped = nowhere.start - self.first;
            let bytes =
                (u128::from(self.bytes) * u128::from(count) / u128::from(self.count)) as u64;
            let spots = match &self.spots {
                Spots::Hot(spots) => {
                    Spots::Hot(spots[skipped as usize..(skipped + count) as usize].to_vec())
                }
                Spots::Sealed(offset) => Spots::Sealed(offset + skipped * SPOT_BYTES as u64),
            };
            index.replace(self.group, (nowhere.start, count, bytes), slot, spots);
            from = nowhere.end;
        }
    }
}
