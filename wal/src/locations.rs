//! Where the entries of a group are: 8 bytes each while their segment is written to, and a few
//! dozen bytes for all that are in a sealed segment together.
//!
//! Invariants:
//! - The extents stand side by side: each begins where the one before it ends, the first at
//!   `start`, the last ends at `end`. None is empty.
//! - The entries of an extent are all in one segment, or all nowhere.
//! - A hot extent has at most [`HOT_ENTRIES_MAX`] entries, so that the memory of dropped entries is
//!   given back in pieces.

use std::collections::VecDeque;
use std::ops::Range;

use crate::codec::{Put, Take};
use crate::format::{SEGMENT_BYTES_LIMIT, UNIT_BYTES};

/// Entries of a hot extent at most.
pub(crate) const HOT_ENTRIES_MAX: usize = 512;

/// Bytes of one spot in the index behind a sealed segment.
pub(crate) const SPOT_BYTES: usize = 8;

/// A number for a segment that is in use, used again when that segment is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentSlot(pub(crate) u16);

/// Slots beyond this one are none.
pub(crate) const SEGMENT_SLOTS_MAX: usize = u16::MAX as usize;

/// Where an entry stands in its segment: its slot in the descriptors and its payload, both in units
/// of 8 bytes from the start of the segment; and its kind, which its slot does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The unit of the slot in the lower 24 bits, the kind above.
    slot_and_kind: u32,
    payload_unit: u32,
}

const UNIT_BITS: u32 = 24;
const UNIT_MASK: u32 = (1 << UNIT_BITS) - 1;
const _: () = assert!(
    SEGMENT_BYTES_LIMIT / UNIT_BYTES as u64 <= 1 << UNIT_BITS,
    "every slot of a segment has a unit that fits"
);

impl Spot {
    pub(crate) fn new(kind: u8, slot_offset: u64, payload_offset: u64) -> Self {
        let unit = |offset: u64| {
            assert!(offset.is_multiple_of(UNIT_BYTES as u64) && offset <= SEGMENT_BYTES_LIMIT);
            (offset / UNIT_BYTES as u64) as u32
        };
        let slot_unit = unit(slot_offset);
        assert!(slot_unit <= UNIT_MASK);
        Self {
            slot_and_kind: slot_unit | u32::from(kind) << UNIT_BITS,
            payload_unit: unit(payload_offset),
        }
    }

    pub(crate) fn kind(self) -> u8 {
        (self.slot_and_kind >> UNIT_BITS) as u8
    }

    pub(crate) fn slot_offset(self) -> u64 {
        u64::from(self.slot_and_kind & UNIT_MASK) * UNIT_BYTES as u64
    }

    pub(crate) fn payload_offset(self) -> u64 {
        u64::from(self.payload_unit) * UNIT_BYTES as u64
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.put_u32(self.slot_and_kind);
        out.put_u32(self.payload_unit);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take::new(bytes);
        Some(Self {
            slot_and_kind: take.u32()?,
            payload_unit: take.u32()?,
        })
    }
}

/// Where consecutive entries of one segment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spots {
    /// Here, in memory.
    Hot(Vec<Spot>),
    /// In the index behind the sealed segment: the first of them is at this offset of the file.
    Sealed(u64),
}

/// Entries of one segment that leave the index: how many, and the bytes that they took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) segment: SegmentSlot,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// Consecutive entries, as a caller sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Bytes that they take.
    pub(crate) bytes: u64,
    pub(crate) place: PiecePlace<'a>,
}

/// Where the entries of a piece are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PiecePlace<'a> {
    Nowhere,
    Hot(SegmentSlot, &'a [Spot]),
    /// Their spots begin at this offset of the segment.
    Sealed(SegmentSlot, u64),
}

impl PiecePlace<'_> {
    pub(crate) fn segment(self) -> Option<SegmentSlot> {
        match self {
            Self::Nowhere => None,
            Self::Hot(segment, _) | Self::Sealed(segment, _) => Some(segment),
        }
    }
}

#[derive(Debug)]
struct Extent {
    first: u64,
    count: u64,
    /// Bytes that the entries take; where a part of an extent was dropped, an estimate.
    bytes: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Nowhere,
    /// The entries before `skipped` were dropped already.
    Hot {
        segment: SegmentSlot,
        skipped: u32,
        spots: Vec<Spot>,
    },
    Sealed {
        segment: SegmentSlot,
        offset: u64,
    },
}

/// The locations of the consecutive entries of a group.
#[derive(Debug)]
pub(crate) struct Locations {
    start: u64,
    end: u64,
    extents: VecDeque<Extent>,
}

impl Locations {
    /// No entries; the next one has this index.
    pub(crate) fn new(start: u64) -> Self {
        Self {
            start,
            end: start,
            extents: VecDeque::new(),
        }
    }

    /// The index of the first entry.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The index behind the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The entries of a range, piece by piece. The range must lie within the log.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece<'_>> + '_ {
        assert!(self.start <= range.start && range.end <= self.end);
        let begin = if range.is_empty() {
            self.extents.len()
        } else {
            self.extent_of(range.start)
        };
        let within = move |extent: &&Extent| extent.first < range.end;
        self.extents
            .range(begin..)
            .take_while(within)
            .map(move |extent| extent.piece(range.start, range.end))
    }

    /// Adds an entry behind the last.
    pub(crate) fn push(&mut self, segment: SegmentSlot, spot: Spot, bytes: u64) {
        let end = self.end;
        self.end += 1;
        if let Some(extent) = self.extents.back_mut()
            && let Place::Hot {
                segment: last,
                spots,
                ..
            } = &mut extent.place
            && *last == segment
            && spots.len() < HOT_ENTRIES_MAX
        {
            grow(spots);
            spots.push(spot);
            extent.count += 1;
            extent.bytes += bytes;
            return;
        }
        let place = Place::Hot {
            segment,
            skipped: 0,
            spots: vec![spot],
        };
        self.extents.push_back(Extent {
            first: end,
            count: 1,
            bytes,
            place,
        });
    }

    /// Adds entries that are nowhere.
    pub(crate) fn push_nowhere(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        let first = self.end;
        self.end += count;
        match self.extents.back_mut() {
            Some(extent) if matches!(extent.place, Place::Nowhere) => extent.count += count,
            _ => self.extents.push_back(Extent::nowhere(first, count)),
        }
    }

    /// Drops the entries before `start`.
    pub(crate) fn drop_front(&mut self, start: u64, mut dropped: impl FnMut(Dropped)) {
        assert!(self.start <= start && start <= self.end);
        while let Some(extent) = self.extents.front_mut() {
            if extent.first >= start {
                break;
            }
            if extent.end() <= start {
                let gone = self.extents.pop_front().expect("it was just looked at");
                gone.report(&mut dropped);
            } else {
                extent.cut_front(start - extent.first, &mut dropped);
                break;
            }
        }
        self.start = start;
    }

    /// Drops the entries from `end` on.
    pub(crate) fn truncate(&mut self, end: u64, mut dropped: impl FnMut(Dropped)) {
        assert!(self.start <= end);
        while let Some(extent) = self.extents.back_mut() {
            if extent.end() <= end {
                break;
            }
            if extent.first >= end {
                let gone = self.extents.pop_back().expect("it was just looked at");
                gone.report(&mut dropped);
            } else {
                extent.cut_back(end - extent.first, &mut dropped);
                break;
            }
        }
        self.end = self.end.min(end);
    }

    /// Drops all; the next entry has this index.
    pub(crate) fn restart(&mut self, start: u64, dropped: impl FnMut(Dropped)) {
        self.truncate(self.start, dropped);
        *self = Self::new(start);
    }

    /// Puts consecutive entries, which are in the log, somewhere else.
    pub(crate) fn replace(
        &mut self,
        first: u64,
        count: u64,
        bytes: u64,
        segment: SegmentSlot,
        spots: Spots,
        mut dropped: impl FnMut(Dropped),
    ) {
        let end = first + count;
        assert!(self.start <= first && end <= self.end && count > 0);
        let begin = self.split_at(first);
        let until = self.split_at(end);
        for gone in self.extents.drain(begin..until) {
            gone.report(&mut dropped);
        }
        let place = match spots {
            Spots::Hot(spots) => {
                assert_eq!(spots.len() as u64, count);
                Place::Hot {
                    segment,
                    skipped: 0,
                    spots,
                }
            }
            Spots::Sealed(offset) => Place::Sealed { segment, offset },
        };
        let extent = Extent {
            first,
            count,
            bytes,
            place,
        };
        self.extents.insert(begin, extent);
    }

    /// Whether all entries of a range, which must lie within the log, are in this segment.
    pub(crate) fn are_in(&self, range: Range<u64>, segment: SegmentSlot) -> bool {
        self.pieces(range)
            .all(|piece| piece.place.segment() == Some(segment))
    }

    /// The first stretch of entries that are nowhere in a range, of which only what lies within the
    /// log counts.
    pub(crate) fn next_nowhere(&self, range: Range<u64>) -> Option<Range<u64>> {
        let (from, to) = (range.start.max(self.start), range.end.min(self.end));
        if from >= to {
            return None;
        }
        self.pieces(from..to)
            .find(|piece| piece.place == PiecePlace::Nowhere)
            .map(|piece| piece.first..piece.first + piece.count)
    }

    /// Whether any entry is in this segment. The oldest ones need not be: they may have been moved on.
    pub(crate) fn has_any_in(&self, segment: SegmentSlot) -> bool {
        let mut extents = self.extents.iter();
        extents.any(|extent| extent.segment() == Some(segment))
    }

    /// Bytes of memory taken.
    pub(crate) fn memory_bytes(&self) -> usize {
        let spots = |extent: &Extent| match &extent.place {
            Place::Hot { spots, .. } => spots.capacity() * size_of::<Spot>(),
            _ => 0,
        };
        let hot: usize = self.extents.iter().map(spots).sum();
        hot + self.extents.capacity() * size_of::<Extent>()
    }

    /// The position of the extent that holds `index`; one behind the last if none does.
    fn extent_of(&self, index: u64) -> usize {
        let behind = self.extents.partition_point(|extent| extent.first <= index);
        match behind.checked_sub(1) {
            Some(before) if index < self.extents[before].end() => before,
            _ => behind,
        }
    }

    /// Makes an extent begin at `index`, and returns its position.
    fn split_at(&mut self, index: u64) -> usize {
        let position = self.extent_of(index);
        let Some(extent) = self.extents.get_mut(position) else {
            return position;
        };
        if extent.first == index {
            return position;
        }
        let tail = extent.split_off(index - extent.first);
        self.extents.insert(position + 1, tail);
        position + 1
    }
}

impl Extent {
    fn nowhere(first: u64, count: u64) -> Self {
        Self {
            first,
            count,
            bytes: 0,
            place: Place::Nowhere,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.count
    }

    fn segment(&self) -> Option<SegmentSlot> {
        match self.place {
            Place::Nowhere => None,
            Place::Hot { segment, .. } | Place::Sealed { segment, .. } => Some(segment),
        }
    }

    /// The part of the extent between two indexes.
    fn piece(&self, from: u64, to: u64) -> Piece<'_> {
        let first = self.first.max(from);
        let count = self.end().min(to).saturating_sub(first);
        let skip = first - self.first;
        let place = match &self.place {
            Place::Nowhere => PiecePlace::Nowhere,
            Place::Hot {
                segment,
                skipped,
                spots,
            } => {
                let begin = *skipped as usize + skip as usize;
                PiecePlace::Hot(*segment, &spots[begin..begin + count as usize])
            }
            Place::Sealed { segment, offset } => {
                PiecePlace::Sealed(*segment, offset + skip * SPOT_BYTES as u64)
            }
        };
        Piece {
            first,
            count,
            bytes: self.share(count),
            place,
        }
    }

    /// The share of the bytes that so many of the entries take.
    fn share(&self, count: u64) -> u64 {
        (u128::from(self.bytes) * u128::from(count) / u128::from(self.count)) as u64
    }

    fn report(&self, dropped: &mut impl FnMut(Dropped)) {
        self.report_part(self.count, self.bytes, dropped);
    }

    fn report_part(&self, entries: u64, bytes: u64, dropped: &mut impl FnMut(Dropped)) {
        if let Some(segment) = self.segment() {
            dropped(Dropped {
                segment,
                entries,
                bytes,
            });
        }
    }

    fn cut_front(&mut self, count: u64, dropped: &mut impl FnMut(Dropped)) {
        let bytes = self.share(count);
        self.report_part(count, bytes, dropped);
        self.advance(count, bytes);
    }

    fn cut_back(&mut self, kept: u64, dropped: &mut impl FnMut(Dropped)) {
        let gone = self.count - kept;
        let bytes = self.share(gone);
        self.report_part(gone, bytes, dropped);
        self.count = kept;
        self.bytes -= bytes;
        if let Place::Hot { skipped, spots, .. } = &mut self.place {
            spots.truncate(*skipped as usize + kept as usize);
        }
    }

    fn advance(&mut self, count: u64, bytes: u64) {
        self.first += count;
        self.count -= count;
        self.bytes -= bytes;
        match &mut self.place {
            Place::Nowhere => {}
            Place::Hot { skipped, .. } => *skipped += count as u32,
            Place::Sealed { offset, .. } => *offset += count * SPOT_BYTES as u64,
        }
    }

    fn split_off(&mut self, kept: u64) -> Self {
        let bytes = self.share(self.count - kept);
        let place = match &mut self.place {
            Place::Nowhere => Place::Nowhere,
            Place::Hot {
                segment,
                skipped,
                spots,
            } => Place::Hot {
                segment: *segment,
                skipped: 0,
                spots: spots.split_off(*skipped as usize + kept as usize),
            },
            Place::Sealed { segment, offset } => Place::Sealed {
                segment: *segment,
                offset: *offset + kept * SPOT_BYTES as u64,
            },
        };
        let tail = Self {
            first: self.first + kept,
            count: self.count - kept,
            bytes,
            place,
        };
        self.count = kept;
        self.bytes -= bytes;
        tail
    }
}

/// Makes room for one more: by doubling, but never beyond a full extent.
fn grow(spots: &mut Vec<Spot>) {
    if spots.len() == spots.capacity() {
        let wanted = (spots.len() * 2).clamp(4, HOT_ENTRIES_MAX);
        spots.reserve_exact(wanted.saturating_sub(spots.len()).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(number: u64) -> Spot {
        Spot::new(number as u8, number * 8, number * 16)
    }

    /// What the model says of one entry.
    type Known = Option<(SegmentSlot, Spot)>;

    fn seen(locations: &Locations) -> Vec<Known> {
        let mut seen = Vec::new();
        for piece in locations.pieces(locations.start()..locations.end()) {
            assert_eq!(piece.first, locations.start() + seen.len() as u64);
            match piece.place {
                PiecePlace::Nowhere => seen.extend(std::iter::repeat_n(None, piece.count as usize)),
                PiecePlace::Hot(segment, spots) => {
                    assert_eq!(spots.len() as u64, piece.count);
                    seen.extend(spots.iter().map(|&spot| Some((segment, spot))));
                }
                PiecePlace::Sealed(segment, offset) => {
                    // In this test a sealed spot is the number that its offset stands for.
                    let first = offset / SPOT_BYTES as u64;
                    let numbers = first..first + piece.count;
                    seen.extend(numbers.map(|number| Some((segment, spot(number)))));
                }
            }
        }
        seen
    }

    #[test]
    fn a_spot_keeps_its_parts() {
        let spot = Spot::new(255, (128 << 20) - 8, 128 << 20);
        assert_eq!(
            (spot.kind(), spot.slot_offset(), spot.payload_offset()),
            (255, (128 << 20) - 8, 128 << 20)
        );
        let mut bytes = Vec::new();
        spot.put(&mut bytes);
        assert_eq!(bytes.len(), SPOT_BYTES);
        assert_eq!(Spot::decode(&bytes), Some(spot));
    }

    #[test]
    fn a_range_without_entries_has_no_pieces() {
        let mut locations = Locations::new(5);
        assert_eq!(locations.pieces(5..5).count(), 0, "of no entries at all");
        for unit in 0..3 {
            locations.push(SegmentSlot(1), Spot::new(0, unit * 8, 0), 8);
        }
        for at in 5..=8 {
            assert_eq!(locations.pieces(at..at).count(), 0, "at {at}");
        }
        assert_eq!(
            locations.pieces(6..7).map(|piece| piece.count).sum::<u64>(),
            1
        );
    }

    /// A node that keeps too much log asks whom to let go of the oldest segment. If nobody were named, it would take
    /// no writes for ever.
    #[test]
    fn who_keeps_a_segment_is_known_also_when_its_older_entries_were_moved_on() {
        let mut locations = Locations::new(1);
        for number in 1..=4 {
            locations.push(SegmentSlot(number / 3), spot(0), 9);
        }
        let moved = Spots::Hot([spot(1)].into());
        locations.replace(1, 1, 9, SegmentSlot(2), moved, |_| {});
        let keeps = |slot| locations.has_any_in(SegmentSlot(slot));
        assert!(keeps(0) && keeps(1) && keeps(2) && !keeps(3));
        locations.drop_front(3, |_| {});
        assert!(!locations.has_any_in(SegmentSlot(0)));
    }

    #[test]
    fn behaves_like_a_deque() {
        let mut random = 7_u64;
        let mut next = |bound: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % bound
        };
        let mut model: VecDeque<Known> = VecDeque::from(vec![None; 10]);
        let mut start = 5;
        let mut locations = Locations::new(start);
        locations.push_nowhere(10);
        for step in 0..4000 {
            let mut gone = [0_u64; 7];
            let mut gone_expected = [0_u64; 7];
            let mut expect = |known: Known| {
                if let Some((segment, _)) = known {
                    gone_expected[usize::from(segment.0)] += 1;
                }
            };
            let drop = |dropped: Dropped| gone[usize::from(dropped.segment.0)] += dropped.entries;
            match next(6) {
                0 => {
                    let count = next(model.len() as u64 + 1).min(900);
                    model.drain(..count as usize).for_each(&mut expect);
                    start += count;
                    locations.drop_front(start, drop);
                }
                1 => {
                    let len = model.len() as u64 - next(model.len() as u64 + 1).min(300);
                    model.drain(len as usize..).for_each(&mut expect);
                    locations.truncate(start + len, drop);
                }
                2 if next(5) == 0 => {
                    let count = next(4);
                    model.extend(vec![None; count as usize]);
                    locations.push_nowhere(count);
                }
                3 if !model.is_empty() => {
                    let from = next(model.len() as u64);
                    let count = (1 + next(700)).min(model.len() as u64 - from);
                    let (segment, base) = (SegmentSlot(next(7) as u16), next(1000));
                    for number in 0..count {
                        let place = &mut model[(from + number) as usize];
                        expect(place.replace((segment, spot(base + number))));
                    }
                    let spots = if next(2) == 0 {
                        Spots::Hot((base..base + count).map(spot).collect())
                    } else {
                        Spots::Sealed(base * SPOT_BYTES as u64)
                    };
                    locations.replace(start + from, count, count * 9, segment, spots, drop);
                }
                _ => {
                    let segment = SegmentSlot(next(7) as u16);
                    for number in 0..next(1500) {
                        model.push_back(Some((segment, spot(number))));
                        locations.push(segment, spot(number), 9);
                    }
                }
            }
            assert_eq!(gone, gone_expected, "step {step}");
            assert_eq!(
                (locations.start(), locations.end()),
                (start, start + model.len() as u64)
            );
            if step % 8 == 0 {
                assert!(model.iter().copied().eq(seen(&locations)), "step {step}");
                let nowhere = model.iter().position(Option::is_none);
                let found = locations
                    .next_nowhere(0..u64::MAX)
                    .map(|range| (range.start - start) as usize);
                assert_eq!(found, nowhere, "step {step}");
            }
        }
    }

    #[test]
    fn takes_under_ten_bytes_an_entry_and_little_when_small() {
        let mut locations = Locations::new(1);
        locations.push(SegmentSlot(1), spot(1), 8);
        assert!(
            locations.memory_bytes() <= 512,
            "{}",
            locations.memory_bytes()
        );
        for number in 0..100_000 {
            locations.push(SegmentSlot(1), spot(number), 8);
        }
        assert!(
            locations.memory_bytes() < 100_000 * 10,
            "{}",
            locations.memory_bytes()
        );
        locations.replace(1, 100_001, 8, SegmentSlot(1), Spots::Sealed(4096), |_| {});
        assert!(
            locations.memory_bytes() < 32 << 10,
            "{}",
            locations.memory_bytes()
        );
    }

    #[test]
    fn all_bytes_of_an_extent_are_given_back_whatever_the_pieces() {
        let mut locations = Locations::new(1);
        for number in 0..100 {
            locations.push(SegmentSlot(1), spot(number), number);
        }
        let mut bytes = 0;
        for start in [2, 3, 50, 51, 101] {
            locations.drop_front(start, |dropped| bytes += dropped.bytes);
        }
        assert_eq!(bytes, (0..100).sum::<u64>());
    }

    #[test]
    fn a_gap_of_any_size_takes_bounded_memory() {
        let mut locations = Locations::new(1);
        locations.push(SegmentSlot(1), spot(1), 8);
        locations.push_nowhere(1 << 60);
        locations.push(SegmentSlot(1), spot(2), 8);
        assert_eq!(locations.end(), (1 << 60) + 3);
        assert_eq!(locations.next_nowhere(0..u64::MAX), Some(2..(1 << 60) + 2));
        assert!(locations.memory_bytes() < 1024);
    }
}
