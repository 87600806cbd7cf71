//! Where the entries of a group are, in 8 bytes each.
//!
//! Invariants:
//! - The first `absent` entries are nowhere: they were in segments that are deleted, and a later
//!   record drops them.
//! - All chunks but the first and the last are full; no chunk is empty; the last grows by doubling,
//!   so that a group with few entries takes little, and one with many wastes at most one chunk at
//!   each end.

use std::collections::VecDeque;

/// Entries in a full chunk.
const CHUNK_ENTRIES: usize = 512;

/// Entries that are nowhere but stand between entries that are somewhere take a location each; at
/// most so many.
const GAP_MAX: u64 = 1 << 20;

const SLOT_BITS: u32 = 16;
const OFFSET_BITS: u32 = 24;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const _: () = assert!(SLOT_BITS + 2 * OFFSET_BITS == u64::BITS);

/// A number for a segment that is in use, used again when that segment is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSlot(pub(crate) u16);

/// Slots beyond this one are none.
pub(crate) const SEGMENT_SLOTS_MAX: usize = u16::MAX as usize;

/// Where an entry is: its segment, where its slot is in the descriptors, and where its payload is,
/// both from the start of the segment and in units of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location(u64);

impl Location {
    const ABSENT: Self = Self(u64::MAX);

    pub(crate) fn new(segment: SegmentSlot, slot_offset: u64, payload_offset: u64) -> Self {
        assert!(usize::from(segment.0) < SEGMENT_SLOTS_MAX);
        assert!(slot_offset.is_multiple_of(8) && slot_offset / 8 <= OFFSET_MASK);
        assert!(payload_offset.is_multiple_of(8));
        // An empty payload may stand at the very end of a segment; nothing is read there.
        let payload_unit = (payload_offset / 8).min(OFFSET_MASK);
        Self(
            u64::from(segment.0) << (2 * OFFSET_BITS)
                | (slot_offset / 8) << OFFSET_BITS
                | payload_unit,
        )
    }

    pub(crate) fn segment(self) -> SegmentSlot {
        SegmentSlot((self.0 >> (2 * OFFSET_BITS)) as u16)
    }

    pub(crate) fn slot_offset(self) -> u64 {
        ((self.0 >> OFFSET_BITS) & OFFSET_MASK) * 8
    }

    pub(crate) fn payload_offset(self) -> u64 {
        (self.0 & OFFSET_MASK) * 8
    }
}

/// The locations of consecutive entries.
#[derive(Debug, Default)]
pub(crate) struct Locations {
    absent: u64,
    /// Entries of the first chunk that were dropped already.
    skipped: usize,
    present: usize,
    chunks: VecDeque<Vec<Location>>,
}

impl Locations {
    pub(crate) fn absent(count: u64) -> Self {
        Self {
            absent: count,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.absent + self.present as u64
    }

    /// The location of the entry at `position`; none if the entry is nowhere.
    pub(crate) fn get(&self, position: u64) -> Option<Location> {
        let present = position.checked_sub(self.absent)? as usize;
        if present >= self.present {
            return None;
        }
        let place = present + self.skipped;
        let location = self.chunks[place / CHUNK_ENTRIES][place % CHUNK_ENTRIES];
        (location != Location::ABSENT).then_some(location)
    }

    /// The location of the first entry that is somewhere.
    pub(crate) fn first(&self) -> Option<Location> {
        (self.absent..self.len()).find_map(|position| self.get(position))
    }

    /// First and last position of the first stretch of entries that are nowhere.
    pub(crate) fn first_absent(&self) -> Option<(u64, u64)> {
        if self.absent > 0 {
            return Some((0, self.absent - 1));
        }
        let mut absent = (0..self.len()).skip_while(|&position| self.get(position).is_some());
        let first = absent.next()?;
        let last = absent
            .take_while(|&position| self.get(position).is_none())
            .last();
        Some((first, last.unwrap_or(first)))
    }

    pub(crate) fn push(&mut self, location: Location) {
        if self
            .chunks
            .back()
            .is_none_or(|chunk| chunk.len() == CHUNK_ENTRIES)
        {
            let capacity = if self.chunks.is_empty() {
                4
            } else {
                CHUNK_ENTRIES
            };
            self.chunks.push_back(Vec::with_capacity(capacity));
        }
        self.chunks
            .back_mut()
            .expect("a chunk was just pushed")
            .push(location);
        self.present += 1;
    }

    /// Adds entries that are nowhere.
    pub(crate) fn push_absent(&mut self, count: u64, mut dropped: impl FnMut(Location)) {
        if self.present == 0 {
            self.absent += count;
        } else if count <= GAP_MAX {
            for _ in 0..count {
                self.push(Location::ABSENT);
            }
        } else {
            let len = self.len();
            self.truncate(0, &mut dropped);
            self.absent = len + count;
        }
    }

    /// Drops entries from the front, and says which locations go.
    pub(crate) fn drop_front(&mut self, count: u64, mut dropped: impl FnMut(Location)) {
        assert!(count <= self.len());
        let absent = count.min(self.absent);
        self.absent -= absent;
        let mut left = (count - absent) as usize;
        self.present -= left;
        while left > 0 {
            let chunk = self
                .chunks
                .front()
                .expect("as many entries as are dropped are present");
            let until = chunk.len().min(self.skipped + left);
            for &location in &chunk[self.skipped..until] {
                if location != Location::ABSENT {
                    dropped(location);
                }
            }
            left -= until - self.skipped;
            self.skipped = until;
            if until == chunk.len() {
                self.chunks.pop_front();
                self.skipped = 0;
            }
        }
    }

    /// Drops the entries from `len` on, and says which locations go.
    pub(crate) fn truncate(&mut self, len: u64, mut dropped: impl FnMut(Location)) {
        while self.len() > len && self.present > 0 {
            let chunk = self.chunks.back_mut().expect("entries are present");
            let location = chunk.pop().expect("no chunk is empty");
            if location != Location::ABSENT {
                dropped(location);
            }
            self.present -= 1;
            let kept = if self.chunks.len() == 1 {
                self.skipped
            } else {
                0
            };
            if self.chunks.back().is_some_and(|chunk| chunk.len() == kept) {
                self.chunks.pop_back();
            }
        }
        if self.present == 0 {
            self.chunks.clear();
            self.skipped = 0;
            self.absent = self.absent.min(len);
        }
    }

    /// Bytes of memory taken.
    pub(crate) fn memory_bytes(&self) -> usize {
        let entries: usize = self.chunks.iter().map(Vec::capacity).sum();
        entries * size_of::<Location>() + self.chunks.capacity() * size_of::<Vec<Location>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(number: u64) -> Location {
        Location::new(SegmentSlot((number % 7) as u16), number * 8, number * 16)
    }

    #[test]
    fn a_location_keeps_its_parts() {
        let slot = SegmentSlot(SEGMENT_SLOTS_MAX as u16 - 1);
        let location = Location::new(slot, OFFSET_MASK * 8, OFFSET_MASK * 8);
        assert_eq!(location.segment(), slot);
        assert_eq!(
            (location.slot_offset(), location.payload_offset()),
            (OFFSET_MASK * 8, OFFSET_MASK * 8)
        );
        assert_ne!(location, Location::ABSENT);
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
        let mut model: VecDeque<Option<u64>> = VecDeque::from(vec![None; 10]);
        let mut locations = Locations::absent(10);
        for step in 0..3000 {
            let mut gone = Vec::new();
            let mut expected = Vec::new();
            match next(4) {
                0 => {
                    let count = next(model.len() as u64 + 1).min(900);
                    expected.extend(model.drain(..count as usize).flatten());
                    locations.drop_front(count, |location| gone.push(location));
                }
                1 => {
                    let len = model.len() as u64 - next(model.len() as u64 + 1).min(300);
                    expected.extend(model.drain(len as usize..).rev().flatten());
                    locations.truncate(len, |location| gone.push(location));
                }
                2 if next(20) == 0 => {
                    model.extend([None; 3]);
                    locations.push_absent(3, |_| panic!("nothing is dropped"));
                }
                _ => {
                    for number in 0..next(1500) {
                        model.push_back(Some(number));
                        locations.push(location(number));
                    }
                }
            }
            assert_eq!(
                gone,
                expected.into_iter().map(location).collect::<Vec<_>>(),
                "step {step}"
            );
            assert_eq!(locations.len(), model.len() as u64);
            assert_eq!(
                locations.first(),
                model
                    .iter()
                    .flatten()
                    .next()
                    .map(|&number| location(number))
            );
            for (position, number) in (0..).zip(&model) {
                assert_eq!(
                    locations.get(position),
                    number.map(location),
                    "step {step} position {position}"
                );
            }
            assert_eq!(locations.get(model.len() as u64), None);
        }
    }

    #[test]
    fn takes_under_ten_bytes_an_entry_and_little_when_small() {
        let mut locations = Locations::default();
        locations.push(location(1));
        assert!(
            locations.memory_bytes() <= 256,
            "{}",
            locations.memory_bytes()
        );
        for number in 0..100_000 {
            locations.push(location(number));
        }
        assert!(
            locations.memory_bytes() < 100_000 * 10,
            "{}",
            locations.memory_bytes()
        );
    }

    #[test]
    fn a_gap_of_any_size_takes_bounded_memory() {
        let mut locations = Locations::default();
        locations.push(location(1));
        let mut gone = 0;
        locations.push_absent(1 << 60, |_| gone += 1);
        assert_eq!((locations.len(), gone), ((1 << 60) + 1, 1));
        locations.push(location(2));
        assert_eq!(locations.get((1 << 60) + 1), Some(location(2)));
        assert!(locations.memory_bytes() < 1024);
    }
}
