//! Reading entries back.
//!
//! Invariants:
//! - Nothing is returned whose CRC was not checked on this read, and the CRC covers which entry it
//!   is. So a wrong location is noticed, wherever it comes from.
//! - No lock is held while the disk is asked.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::batch::Entry;
use crate::disk::Inside;
use crate::error::{DamageKind, OpenError, ReadError};
use crate::format::entry_crc;
use crate::group::{GroupLog, Stretch};
use crate::ids::GroupId;
use crate::index::Segments;
use crate::locations::{PiecePlace, SPOT_BYTES, Spot};
use crate::record::{SLOT_BYTES, Slot};
use crate::segment::Segment;

use super::Log;
use super::scan::find_spot;

/// One read returns at most so many entries.
const ENTRIES_MAX: u64 = 16_384;

/// A read of so many entries of a sealed segment is taken for one of many that go forward.
const SEQUENTIAL_ENTRIES_MIN: u64 = 32;

/// So much behind what is read is brought into the cache.
const AHEAD_BYTES: u64 = 1 << 20;

/// Entries to read, and where they are. A read of entries that stand together asks the allocator for nothing but what it
/// returns.
struct Plan {
    group: GroupId,
    stretches: SmallVec<[Stretch; 1]>,
    parts: SmallVec<[Part; 1]>,
}

/// Consecutive entries of one segment.
struct Part {
    first: u64,
    count: u64,
    place: PartPlace,
}

enum PartPlace {
    Nowhere,
    Hot(Arc<Segment>, Vec<Spot>),
    Sealed(SealedPlace),
}

/// Where entries of a sealed segment are.
struct SealedPlace {
    segment: Arc<Segment>,
    /// Where the spots of the entries begin.
    spots_offset: u64,
    /// Where the batches end.
    end: u64,
}

/// What an entry is, besides its payload.
#[derive(Clone, Copy)]
struct Wanted {
    group: GroupId,
    index: u64,
    term: u64,
}

/// What is gathered by one read.
struct Gathered {
    entries: Vec<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Gathered {
    /// Adds an entry. False if there is no more room.
    fn push(&mut self, entry: Entry) -> bool {
        self.bytes += entry.payload.len();
        if self.bytes > self.bytes_max && !self.entries.is_empty() {
            return false;
        }
        self.entries.push(entry);
        true
    }
}

impl Log {
    /// The durable entries of a group from `from` up to but without `to`. At least one, and no more
    /// than fit in `bytes_max` bytes of payload or 16,384; so there may be fewer than asked for.
    /// Empty if `from` is not below `to`. Payloads are what was written, where it is still in
    /// memory, and else, on a real disk, views of the mapped segment.
    pub fn read(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let plan = self.plan(group, from, to)?;
        let mut gathered = Gathered {
            entries: Vec::with_capacity((to - from).min(ENTRIES_MAX) as usize),
            bytes: 0,
            bytes_max,
        };
        for part in &plan.parts {
            if !self.read_part(&plan, part, &mut gathered)? {
                break;
            }
        }
        Ok(gathered.entries)
    }

    /// All entries of a range.
    pub(super) fn read_all(
        &self,
        group: GroupId,
        indexes: Range<u64>,
    ) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        let mut next = indexes.start;
        while next < indexes.end {
            entries.extend(self.read(group, next, indexes.end, usize::MAX)?);
            next = indexes.start + entries.len() as u64;
        }
        Ok(entries)
    }

    fn plan(&self, group: GroupId, from: u64, to: u64) -> Result<Plan, ReadError> {
        let index = self.index.read();
        let Some(log) = index.groups.get(&group) else {
            return Err(ReadError::NotWritten {
                group,
                index: from,
                last_index: 0,
            });
        };
        check_bounds(group, log, from, to)?;
        let range = from..to.min(from.saturating_add(ENTRIES_MAX));
        let mut parts = SmallVec::new();
        for piece in log.pieces(range.clone()) {
            parts.push(Part {
                first: piece.first,
                count: piece.count,
                place: PartPlace::new(piece.place, &index.segments),
            });
        }
        Ok(Plan {
            group,
            stretches: log.stretches(range).collect(),
            parts,
        })
    }

    /// Reads the entries of a part. False if there is no room for all of them.
    fn read_part(
        &self,
        plan: &Plan,
        part: &Part,
        gathered: &mut Gathered,
    ) -> Result<bool, ReadError> {
        match &part.place {
            PartPlace::Nowhere => Err(ReadError::Corrupt {
                file: self.dir.clone(),
                offset: 0,
                group: plan.group,
                index: part.first,
                kind: DamageKind::MissingEntries,
            }),
            PartPlace::Hot(segment, spots) => {
                for (&spot, index) in spots.iter().zip(part.first..) {
                    let entry = self.read_recent(segment, spot, plan.wanted(index))?;
                    if !gathered.push(entry) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            PartPlace::Sealed(place) => read_sealed(plan, part, place, gathered),
        }
    }

    /// Reads an entry from memory, if it was written not long ago, or from its segment.
    fn read_recent(
        &self,
        segment: &Segment,
        spot: Spot,
        wanted: Wanted,
    ) -> Result<Entry, ReadError> {
        let (slot_offset, payload_offset) = (spot.slot_offset(), spot.payload_offset());
        let recent = self.recent.read();
        let found = recent.find(segment.id, slot_offset, payload_offset);
        drop(recent);
        match found.and_then(|(slot, payload)| wanted.check(spot, slot, payload)) {
            Some(entry) => Ok(entry),
            None => read_entry(segment, spot, wanted),
        }
    }
}

impl PartPlace {
    fn new(place: PiecePlace<'_>, segments: &Segments) -> Self {
        let Some(slot) = place.segment() else {
            return Self::Nowhere;
        };
        let counted = segments
            .get(slot)
            .expect("a segment stays while entries are in it");
        let segment = Arc::clone(&counted.segment);
        match place {
            PiecePlace::Nowhere => Self::Nowhere,
            PiecePlace::Hot(_, spots) => Self::Hot(segment, spots.to_vec()),
            PiecePlace::Sealed(_, spots_offset) => {
                let sealed = counted.sealed.expect("only a sealed segment has an index");
                Self::Sealed(SealedPlace {
                    segment,
                    spots_offset,
                    end: sealed.end,
                })
            }
        }
    }
}

impl Plan {
    fn wanted(&self, index: u64) -> Wanted {
        let behind = self.stretches.partition_point(|it| it.first <= index);
        let stretch = self.stretches[behind - 1];
        Wanted {
            group: self.group,
            index,
            term: stretch.term,
        }
    }
}

impl Wanted {
    /// The entry, if the payload is what was written for it.
    fn check(self, spot: Spot, slot: Slot, payload: Bytes) -> Option<Entry> {
        let Self { group, index, term } = self;
        let kind = spot.kind();
        let is_right = entry_crc(group.0, index, term, kind, &payload) == slot.crc;
        is_right.then_some(Entry {
            index,
            term,
            kind,
            payload,
        })
    }

    fn corrupt(self, file: PathBuf, offset: u64, kind: DamageKind) -> ReadError {
        ReadError::Corrupt {
            file,
            offset,
            group: self.group,
            index: self.index,
            kind,
        }
    }
}

fn check_bounds(group: GroupId, log: &GroupLog, from: u64, to: u64) -> Result<(), ReadError> {
    if from < log.first_index() {
        return Err(ReadError::Compacted {
            group,
            index: from,
            first_index: log.first_index(),
        });
    }
    let last_index = log.last_index();
    if to - 1 > last_index {
        return Err(ReadError::NotWritten {
            group,
            index: from.max(last_index + 1),
            last_index,
        });
    }
    Ok(())
}

/// Reads entries whose spots are in the index behind their segment. False if there is no room for
/// all of them.
fn read_sealed(
    plan: &Plan,
    part: &Part,
    place: &SealedPlace,
    gathered: &mut Gathered,
) -> Result<bool, ReadError> {
    let (segment, offset) = (&place.segment, place.spots_offset);
    // To share the bytes of one spot would cost more than to copy them.
    let (mut single, shared) = ([0; SPOT_BYTES], Bytes::new());
    let read = match part.count {
        1 => segment
            .file
            .peek(Inside(()), offset, &mut single)
            .map(|()| shared),
        count => segment
            .file
            .share(Inside(()), offset, count as usize * SPOT_BYTES),
    };
    let shared = read.map_err(|error| failed(segment, offset, plan.wanted(part.first), error))?;
    let spots = if part.count == 1 {
        &single[..]
    } else {
        &shared
    };
    for (bytes, index) in spots.chunks_exact(SPOT_BYTES).zip(part.first..) {
        let wanted = plan.wanted(index);
        let spot = Spot::decode(bytes).expect("as many bytes as a spot has");
        if index == part.first && part.count >= SEQUENTIAL_ENTRIES_MIN {
            segment.file.prefetch(spot.payload_offset(), AHEAD_BYTES);
        }
        let entry = match read_entry(segment, spot, wanted) {
            Err(ReadError::Corrupt { .. }) => read_found(place, spot, wanted)?,
            other => other?,
        };
        if !gathered.push(entry) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The index led to nothing: it may be the index that rotted. The batches say where the entry is.
fn read_found(place: &SealedPlace, spot: Spot, wanted: Wanted) -> Result<Entry, ReadError> {
    let SealedPlace { segment, end, .. } = place;
    let found = find_spot(segment, *end, wanted.group, wanted.index);
    match found {
        Ok(Some(found)) => read_entry(segment, found, wanted),
        Ok(None) => {
            let path = segment.path.clone();
            Err(wanted.corrupt(path, spot.slot_offset(), DamageKind::Descriptors))
        }
        Err(OpenError::Io { path, source, .. }) => Err(ReadError::Io { path, source }),
        Err(error) => Err(ReadError::Io {
            path: segment.path.clone(),
            source: io::Error::other(error),
        }),
    }
}

fn read_entry(segment: &Segment, spot: Spot, wanted: Wanted) -> Result<Entry, ReadError> {
    let (slot_offset, payload_offset) = (spot.slot_offset(), spot.payload_offset());
    let corrupt = |offset, kind| wanted.corrupt(segment.path.clone(), offset, kind);
    let mut slot = [0; SLOT_BYTES];
    let peeked = segment.file.peek(Inside(()), slot_offset, &mut slot);
    peeked.map_err(|error| failed(segment, slot_offset, wanted, error))?;
    let slot = Slot::decode(&slot).expect("as many bytes as a slot has were read");
    // The slot is read again from the disk: its length is trusted no further than the segment goes.
    let payload = match slot.len {
        0 => Bytes::new(),
        len if payload_offset + u64::from(len) > segment.bytes => {
            return Err(corrupt(slot_offset, DamageKind::Descriptors));
        }
        len => segment
            .file
            .share(Inside(()), payload_offset, len as usize)
            .map_err(|error| failed(segment, payload_offset, wanted, error))?,
    };
    let entry = wanted.check(spot, slot, payload);
    entry.ok_or_else(|| corrupt(payload_offset, DamageKind::Payload))
}

fn failed(segment: &Segment, offset: u64, wanted: Wanted, error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return wanted.corrupt(segment.path.clone(), offset, DamageKind::Truncated);
    }
    ReadError::Io {
        path: segment.path.clone(),
        source: error,
    }
}
