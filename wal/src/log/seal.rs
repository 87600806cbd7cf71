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

/// So many ranges are given to the index behind a segment before the lock is given back.
const RANGES_FROZEN_MAX: usize = 16;

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
            self.index_segment(preparer, &next)?;
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
        self.sync_all_written()
            .map_err(|error| self.fail(format!("cannot sync a segment: {error}")))
    }

    /// Syncs every segment that was written to without syncs, also the one that is written to now.
    pub(super) fn sync_all_written(&self) -> io::Result<()> {
        let index = self.index.read();
        let written = index
            .segments
            .iter()
            .filter(|it| it.stage == Stage::Written);
        let written: Vec<_> = written.map(|it| Arc::clone(&it.segment)).collect();
        drop(index);
        for segment in written {
            segment.file.sync_data()?;
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
    fn index_segment(&self, preparer: &mut Preparer, next: &Unindexed) -> Result<(), LogError> {
        let ranges = self.collect(preparer, next.slot)?;
        let entries = ranges.iter().map(|(range, _)| range.count).sum();
        let end = next.sealed.end + footer_bytes(ranges.len() as u64, entries);
        if end > next.segment.bytes {
            return Ok(());
        }
        let (footer, encoded) = Footer::encode(next.segment.id, next.sealed, ranges);
        if !self.write_footer(preparer, next, &encoded)? {
            return Ok(());
        }
        let worth_it = footer.ranges.iter();
        let worth_it: Vec<_> = worth_it
            .filter(|range| range.count >= FROZEN_ENTRIES_MIN)
            .collect();
        for some in worth_it.chunks(RANGES_FROZEN_MAX) {
            self.serve_waiting(preparer)?;
            let mut index = self.index.write();
            for range in some {
                freeze(&mut index, next.slot, range);
            }
        }
        Ok(())
    }

    /// The entries that are in a segment and in the log of a group. Groups are looked at one after
    /// the other, so what is collected of one may be gone when the next is looked at: a later
    /// segment says so, and what a later segment says counts.
    fn collect(
        &self,
        preparer: &mut Preparer,
        slot: SegmentSlot,
    ) -> Result<Vec<(Range, Vec<Spot>)>, LogError> {
        let mut ranges = Vec::new();
        let mut at = Cursor::default();
        while self.collect_some(slot, &mut at, &mut ranges) {
            self.serve_waiting(preparer)?;
        }
        Ok(ranges)
    }

    /// Readies the next segment, if the log waits for it. Called between any two parts of what takes long, each
    /// of which is bounded by how much it does: a log with many groups is not held up by the index of
    /// a segment. (To give the processor away instead costs a time slice of whoever else is busy, each
    /// time.)
    fn serve_waiting(&self, preparer: &mut Preparer) -> Result<(), LogError> {
        if self.queue.lock().blocked_bytes > 0 {
            self.ready_segment(preparer)?;
        }
        Ok(())
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

    /// Writes all but the first block in steps, each synced, and then the first block. False if space ran out,
    /// which only a disk shows that does not keep what it gave: there is no index then, as in a log
    /// that was closed before, and the next open reads the batches.
    fn write_footer(
        &self,
        preparer: &mut Preparer,
        next: &Unindexed,
        encoded: &Encoded,
    ) -> Result<bool, LogError> {
        let begin = next.sealed.end;
        let rest = encoded.rest.chunks(STEP_BYTES);
        let offsets = (begin + BLOCK_BYTES..).step_by(STEP_BYTES);
        let steps = offsets.zip(rest).chain([(begin, &encoded.head[..])]);
        for (offset, step) in steps {
            self.serve_waiting(preparer)?;
            let file = &next.segment.file;
            let written = file.write_at(offset, &[IoSlice::new(step)]);
            match written.and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if is_shortage(&error) => return Ok(false),
                Err(error) => {
                    let reason = format!("cannot seal {}: {error}", next.segment.id);
                    return Err(self.fail(reason));
                }
            }
        }
        Ok(true)
    }
}

/// Releases the spots that memory holds and the index behind the segment has.
fn freeze(index: &mut Index, slot: SegmentSlot, range: &Range) {
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
