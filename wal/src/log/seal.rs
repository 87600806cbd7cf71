//! What becomes of a segment that is full: its batches are made durable, the index of its entries is
//! written behind them, and a manifest names it.
//!
//! Invariants:
//! - Nothing here is needed for what was acknowledged: a crash at any point costs the next open a
//!   scan of the segment, and no more.
//! - The header of an index is written when the rest of it is durable.
//! - A manifest names only segments whose batches are durable, in order and without leaving one out
//!   that holds a live entry.

use std::collections::Bound;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use crate::disk::is_shortage;
use crate::error::LogError;
use crate::footer::{Encoded, Footer, Range, footer_bytes};
use crate::format::BLOCK_BYTES;
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::index::{Index, Stage};
use crate::locations::{Piece, PiecePlace, SegmentSlot, Spot, Spots};
use crate::manifest::Manifest;
use crate::options::Durability;
use crate::segment::{Sealed, Segment};

use super::Log;
use super::prepare::Preparer;

/// An index is written and synced in steps of this size, so that no sync of the log waits for much
/// of it.
const STEP_BYTES: usize = 256 << 10;

/// So many groups or pieces are looked at before the lock on the index is given back.
const LOOKS_MAX: usize = 512;

/// Fewer entries than these stay in memory: one by one they take less than together.
const FROZEN_ENTRIES_MIN: u64 = 8;

/// A sealed segment that is not yet indexed.
struct Unindexed {
    slot: SegmentSlot,
    segment: Arc<Segment>,
    sealed: Sealed,
    stage: Stage,
}

impl Log {
    /// Makes the sealed segments durable, writes the index behind each, and then the manifest.
    pub(super) fn seal_segments(&self, preparer: &mut Preparer) -> Result<(), LogError> {
        while let Some(next) = self.next_unindexed() {
            if next.stage == Stage::Written {
                self.make_durable(&next)?;
            }
            // The manifest goes first: it says more than the index, and takes one write.
            self.write_manifest(preparer)?;
            self.index_segment(&next)
                .map_err(|error| self.fail(format!("cannot seal {}: {error}", next.segment.id)))?;
            self.set_stage(next.segment.id, Stage::Indexed);
        }
        self.write_manifest(preparer)
    }

    /// Writes the manifest, if it would say something new, and once more if a segment is dead that the
    /// other slot still needs: its file comes back when both slots do without it.
    pub(super) fn write_manifest(&self, preparer: &mut Preparer) -> Result<(), LogError> {
        for _ in 0..2 {
            let Some(manifest) = self.next_manifest(preparer) else {
                return Ok(());
            };
            // Without syncs, what was written is synced before the manifest that relies on it.
            if self.options.durability != Durability::PowerLoss {
                self.sync_written()?;
            }
            match preparer.manifests.write(manifest) {
                Ok(()) => {}
                // It has more segments than ever, and the disk is full: the old one is still right.
                Err(error) if is_shortage(&error) => return Ok(()),
                Err(error) => {
                    return Err(self.fail(format!("cannot write the manifest: {error}")));
                }
            }
            let generation = preparer.manifests.pair.newest().generation;
            self.manifest_generation
                .store(generation, Ordering::Release);
        }
        Ok(())
    }

    /// What a manifest should say now, if one is to be written.
    fn next_manifest(&self, preparer: &Preparer) -> Option<Manifest> {
        let relied_on = match self.options.durability {
            Durability::PowerLoss => Stage::Durable,
            Durability::ProcessCrash => Stage::Written,
        };
        let pair = &preparer.manifests.pair;
        let newest = pair.newest();
        let index = self.index.read();
        let manifest = Manifest {
            identity: self.options.identity,
            ..list(&index, relied_on)
        };
        let is_same = (manifest.settled, manifest.active, &manifest.sealed)
            == (newest.settled, newest.active, &newest.sealed);
        // What was given up stays so: until a segment behind it counts, the old manifest is right.
        if !is_same && manifest.settled >= newest.settled {
            return Some(manifest);
        }
        let dead = index.segments.dead().map(|it| it.segment.id);
        pair.is_due(dead).then(|| newest.clone())
    }

    fn next_unindexed(&self) -> Option<Unindexed> {
        let index = self.index.read();
        let mut all = index.segments.iter();
        let counted =
            all.find(|it| it.sealed.is_some() && it.stage < Stage::Indexed && it.live > 0)?;
        Some(Unindexed {
            slot: index.segments.slot_of(counted.segment.id)?,
            segment: Arc::clone(&counted.segment),
            sealed: counted.sealed?,
            stage: counted.stage,
        })
    }

    /// Syncs a segment that was written without syncs. Segments are sealed in order, so all before
    /// is durable then.
    fn make_durable(&self, next: &Unindexed) -> Result<(), LogError> {
        let synced = next.segment.file.sync_data();
        synced.map_err(|error| self.fail(format!("cannot sync {}: {error}", next.segment.id)))?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        // Where the chain is damaged, the header behind it may have named any lsn.
        let synced = next.sealed.lsn.min(self.durable());
        self.synced.fetch_max(synced.0, Ordering::AcqRel);
        self.set_stage(next.segment.id, Stage::Durable);
        Ok(())
    }

    /// Syncs what was written without syncs: a manifest must not do without a segment because of a
    /// record that a power cut may take.
    fn sync_written(&self) -> Result<(), LogError> {
        let index = self.index.read();
        let written = index
            .segments
            .iter()
            .filter(|it| it.stage == Stage::Written);
        let written: Vec<_> = written.map(|it| Arc::clone(&it.segment)).collect();
        drop(index);
        for segment in written {
            let synced = segment.file.sync_data();
            synced.map_err(|error| self.fail(format!("cannot sync {}: {error}", segment.id)))?;
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn set_stage(&self, id: SegmentId, stage: Stage) {
        if let Some((_, counted)) = self.index.write().segments.by_id(id) {
            counted.stage = stage;
        }
    }

    /// Writes the index behind a segment, and has memory follow it. Without room for it, which only
    /// a log of another make shows, the entries stay in memory.
    fn index_segment(&self, next: &Unindexed) -> io::Result<()> {
        let ranges = self.collect(next.slot);
        let entries = ranges.iter().map(|(range, _)| range.count).sum();
        let end = next.sealed.end + footer_bytes(ranges.len() as u64, entries);
        if end > next.segment.bytes {
            return Ok(());
        }
        let (footer, encoded) = Footer::encode(next.segment.id, next.sealed, ranges);
        write_footer(&next.segment, next.sealed.end, &encoded)?;
        for range in &footer.ranges {
            // As in `collect`.
            thread::yield_now();
            self.freeze(next.slot, range);
        }
        Ok(())
    }

    /// The entries that are in a segment and in the log of a group. Groups are looked at one after
    /// the other, so what is collected of one may be gone when the next is looked at: a later
    /// segment says so, and what a later segment says counts.
    fn collect(&self, slot: SegmentSlot) -> Vec<(Range, Vec<Spot>)> {
        let mut ranges = Vec::new();
        let mut at = Cursor::default();
        while self.collect_some(slot, &mut at, &mut ranges) {
            // Where processors are few, the log thread must not wait for a time slice to end when
            // its sync is done.
            thread::yield_now();
        }
        ranges
    }

    /// Goes on with collecting for a bounded time. False at the end.
    fn collect_some(
        &self,
        slot: SegmentSlot,
        at: &mut Cursor,
        ranges: &mut Vec<(Range, Vec<Spot>)>,
    ) -> bool {
        let index = self.index.read();
        let mut looks = 0;
        for (&group, log) in index.groups.range((at.lower(), Bound::Unbounded)) {
            let from = at.index_in(group).max(log.first_index());
            let end = log.last_index() + 1;
            for piece in log.pieces(from.min(end)..end) {
                if looks >= LOOKS_MAX {
                    *at = Cursor::in_group(group, piece.first);
                    return true;
                }
                looks += 1;
                if let PiecePlace::Hot(found, spots) = piece.place
                    && found == slot
                {
                    add_piece(ranges, group, log.born, &piece, spots);
                }
            }
            if looks >= LOOKS_MAX {
                *at = Cursor::behind(group);
                return true;
            }
            looks += 1;
        }
        false
    }

    /// Lets go of the spots in memory that the index behind the segment has.
    fn freeze(&self, slot: SegmentSlot, range: &Range) {
        if range.count < FROZEN_ENTRIES_MIN {
            return;
        }
        let mut index = self.index.write();
        let Some(log) = index
            .groups
            .get(&range.group)
            .filter(|it| it.born == range.born)
        else {
            return;
        };
        let from = range.first_index.max(log.first_index());
        let to = (range.first_index + range.count).min(log.last_index() + 1);
        if from >= to {
            return;
        }
        for (first, count, bytes) in stretches_in(log.pieces(from..to), slot) {
            let skipped = (first - range.first_index) * crate::locations::SPOT_BYTES as u64;
            let spots = Spots::Sealed(range.spots_offset + skipped);
            index.replace(range.group, (first, count, bytes), slot, spots);
        }
    }
}

/// Where collecting goes on.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    group: Option<GroupId>,
    /// The next index of the group; none if the group is done.
    index: Option<u64>,
}

impl Cursor {
    fn in_group(group: GroupId, index: u64) -> Self {
        Self {
            group: Some(group),
            index: Some(index),
        }
    }

    fn behind(group: GroupId) -> Self {
        Self {
            group: Some(group),
            index: None,
        }
    }

    fn lower(self) -> Bound<GroupId> {
        match (self.group, self.index) {
            (None, _) => Bound::Unbounded,
            (Some(group), Some(_)) => Bound::Included(group),
            (Some(group), None) => Bound::Excluded(group),
        }
    }

    fn index_in(self, group: GroupId) -> u64 {
        match (self.group, self.index) {
            (Some(found), Some(index)) if found == group => index,
            _ => 0,
        }
    }
}

/// What a manifest should say of the segments now, relying on those that are at least so far.
fn list(index: &Index, relied_on: Stage) -> Manifest {
    let mut manifest = Manifest::default();
    for counted in index.segments.iter() {
        let id = counted.segment.id;
        match counted.sealed {
            // A dead segment is given up when a durable one follows it, which has the states of all groups.
            Some(_) if counted.live == 0 => {}
            Some(sealed) if counted.stage >= relied_on => {
                manifest.settled = id;
                manifest.sealed.push((id, sealed));
            }
            // What was written without syncs may be gone after the loss of power.
            Some(_) => break,
            None if counted.stage >= relied_on => {
                manifest.settled = SegmentId(id.0 - 1);
                manifest.active = id;
            }
            None => {}
        }
    }
    manifest
}

fn add_piece(
    ranges: &mut Vec<(Range, Vec<Spot>)>,
    group: GroupId,
    born: Lsn,
    piece: &Piece<'_>,
    spots: &[Spot],
) {
    if let Some((range, before)) = ranges.last_mut()
        && (range.group, range.born) == (group, born)
        && range.first_index + range.count == piece.first
    {
        range.count += piece.count;
        range.bytes += piece.bytes;
        before.extend_from_slice(spots);
        return;
    }
    let range = Range {
        group,
        born,
        first_index: piece.first,
        count: piece.count,
        bytes: piece.bytes,
        spots_offset: 0,
        spots_crc: 0,
    };
    ranges.push((range, spots.to_vec()));
}

/// First index, count and bytes of each stretch of pieces that are in memory and in this segment.
fn stretches_in<'a>(
    pieces: impl Iterator<Item = Piece<'a>>,
    slot: SegmentSlot,
) -> Vec<(u64, u64, u64)> {
    let mut stretches: Vec<(u64, u64, u64)> = Vec::new();
    for piece in pieces {
        if !matches!(piece.place, PiecePlace::Hot(found, _) if found == slot) {
            continue;
        }
        match stretches.last_mut() {
            Some((first, count, bytes)) if *first + *count == piece.first => {
                *count += piece.count;
                *bytes += piece.bytes;
            }
            _ => stretches.push((piece.first, piece.count, piece.bytes)),
        }
    }
    stretches
}

/// Writes all but the first block in steps, each synced, and then the first block.
fn write_footer(segment: &Segment, offset: u64, encoded: &Encoded) -> io::Result<()> {
    let mut at = offset + BLOCK_BYTES;
    for step in encoded.rest.chunks(STEP_BYTES) {
        segment.file.write_at(at, &[IoSlice::new(step)])?;
        segment.file.sync_data()?;
        at += step.len() as u64;
    }
    segment
        .file
        .write_at(offset, &[IoSlice::new(&encoded.head)])?;
    segment.file.sync_data()
}
