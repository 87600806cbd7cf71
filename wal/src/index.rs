//! All groups of a log and all its segments, as the durable records say.
//!
//! The log applies what it wrote through the same function by which recovery applies what it read,
//! so that a recovered index is the one that was lost.
//!
//! Invariants:
//! - `live` of a segment is the number of locations in all groups that name its slot.
//! - A segment is removed only when nothing names its slot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::format::padded;
use crate::group::GroupLog;
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::locations::{Dropped, SEGMENT_SLOTS_MAX, SegmentSlot, Spot, Spots};
use crate::record::{self, GroupMeta, Keep, RUN_BYTES, Record, Records, Run, SLOT_BYTES};
use crate::segment::{Sealed, Segment};

/// Groups and segments.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) segments: Segments,
    /// Whether a checkpoint was applied, which begins every log.
    begun: bool,
    meta_bytes_max: u64,
}

/// The segments in service, by slot and by id.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    slots: Vec<Option<Counted>>,
    by_id: BTreeMap<SegmentId, SegmentSlot>,
    /// What the index behind the newest segment takes at most.
    indexed: Indexed,
}

/// Counts the ranges of a segment that is written to.
#[derive(Debug, Default)]
struct Indexed {
    ranges: u64,
    entries: u64,
    /// The index behind the last one, for each group in the segment.
    ends: HashMap<GroupId, u64>,
}

/// A segment and what it holds.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) segment: Arc<Segment>,
    /// Entries in it that are still in the log of a group.
    pub(crate) live: u64,
    /// Bytes that those take, with their slots.
    pub(crate) live_bytes: u64,
    /// Where its batches end, once it is not written to any more.
    pub(crate) sealed: Option<Sealed>,
    /// What has become of a sealed segment.
    pub(crate) stage: Stage,
}

/// How far a segment is on its way from being written to being given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// A power cut left its header and took its first batch: nothing in it counts.
    Empty,
    /// Its batches may not all be durable yet, and there is no index behind them.
    Written,
    /// Its batches are durable; a manifest may name it.
    Durable,
    /// The index behind it is durable as well.
    Indexed,
}

/// Where descriptors and their payloads stand in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) segment: SegmentSlot,
    pub(crate) desc_offset: u64,
    pub(crate) payload_offset: u64,
}

/// Something that only a damaged log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The entries of a group between these indexes are nowhere.
    Gap {
        group: GroupId,
        first: u64,
        last: u64,
    },
    /// The checkpoint says something else of a group than the log before it.
    Checkpoint { group: GroupId },
    /// A record does not decode, at this offset of the descriptors; the rest of the batch was not
    /// applied.
    Record { offset: u64 },
}

/// The groups of a checkpoint, until all of them were read.
struct PendingCheckpoint {
    groups: u64,
    metas: Vec<GroupMeta>,
}

impl Index {
    /// Applies the records of a batch with this lsn, or of one of its submissions, that stand at
    /// `place`. Returns the end of the payloads.
    pub(crate) fn apply(
        &mut self,
        place: Place,
        lsn: Lsn,
        desc: &[u8],
        faults: &mut Vec<Fault>,
    ) -> u64 {
        let mut payload_offset = place.payload_offset;
        let mut pending: Option<PendingCheckpoint> = None;
        for record in Records::new(desc) {
            match record {
                Ok((_, Record::Checkpoint { groups })) => {
                    pending = Some(PendingCheckpoint {
                        groups,
                        metas: Vec::new(),
                    });
                }
                Ok((offset, Record::Group(meta))) => match &mut pending {
                    Some(pending) => pending.metas.push(meta),
                    None => faults.push(Fault::Record {
                        offset: offset as u64,
                    }),
                },
                Ok((offset, Record::Run(run))) => {
                    let slots = place.desc_offset + (offset + RUN_BYTES) as u64;
                    let spots = RunSpots::new(place.segment, slots, payload_offset);
                    payload_offset = self.apply_run(spots, lsn, &run, faults);
                }
                Ok((offset, Record::Moved(run))) => {
                    let slots = place.desc_offset + (offset + RUN_BYTES) as u64;
                    let spots = RunSpots::new(place.segment, slots, payload_offset);
                    let applied = self.apply_moved(spots, &run);
                    payload_offset = applied.unwrap_or_else(|end| {
                        faults.push(Fault::Record {
                            offset: offset as u64,
                        });
                        end
                    });
                }
                Ok((_, record)) => self.apply_small(lsn, record),
                Err(bad) => {
                    faults.push(Fault::Record {
                        offset: bad.offset as u64,
                    });
                    return payload_offset;
                }
            }
            if let Some(whole) = pending.take_if(|it| it.metas.len() as u64 == it.groups) {
                self.adopt_checkpoint(lsn, whole.metas, faults);
            }
        }
        if pending.is_some() {
            faults.push(Fault::Record {
                offset: desc.len() as u64,
            });
        }
        payload_offset
    }

    /// Whether the states of groups are known from a checkpoint.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Notes that the checkpoint that begins a segment was written.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }

    /// The records that begin a segment: everything but the entries.
    pub(crate) fn put_checkpoint(&self, out: &mut Vec<u8>) -> u32 {
        record::put_checkpoint(out, self.groups.len() as u64);
        for (&group, log) in &self.groups {
            record::put_group(out, &log.meta(group));
        }
        self.groups.len() as u32 + 1
    }

    /// Bytes that a checkpoint takes at most.
    pub(crate) fn checkpoint_bytes_max(&self) -> u64 {
        self.meta_bytes_max
    }

    /// Puts consecutive entries of a group, which are in its log, somewhere else.
    pub(crate) fn replace(
        &mut self,
        group: GroupId,
        (first, count, bytes): (u64, u64, u64),
        segment: SegmentSlot,
        spots: Spots,
    ) {
        let Self {
            groups, segments, ..
        } = self;
        let log = groups.get_mut(&group).expect("the caller looked at it");
        log.replace(first, count, bytes, segment, spots, |dropped| {
            segments.drop_live(dropped);
        });
        segments.add_live(segment, count, bytes);
    }

    fn apply_run(
        &mut self,
        mut spots: RunSpots,
        lsn: Lsn,
        run: &Run<'_>,
        faults: &mut Vec<Fault>,
    ) -> u64 {
        let Self {
            groups,
            segments,
            meta_bytes_max,
            ..
        } = self;
        let log = groups.entry(run.group).or_insert_with(|| {
            let log = GroupLog::new(lsn);
            *meta_bytes_max += log.meta_bytes_max();
            log
        });
        let before = log.meta_bytes_max();
        let gap = log.prepare_append(run.first_index, |dropped| segments.drop_live(dropped));
        if let Some((first, last)) = gap {
            faults.push(Fault::Gap {
                group: run.group,
                first,
                last,
            });
        }
        let mut bytes = 0;
        for slot in run.slots() {
            let entry_bytes = SLOT_BYTES as u64 + padded(u64::from(slot.len));
            log.push(
                run.term,
                spots.segment,
                spots.next(run.kind, slot.len),
                entry_bytes,
            );
            bytes += entry_bytes;
        }
        *meta_bytes_max = *meta_bytes_max + log.meta_bytes_max() - before;
        segments.add_live(spots.segment, run.slots().len() as u64, bytes);
        segments.note_run(run);
        spots.payload_offset
    }

    /// Entries that are in the log stand elsewhere from now on. If they are not in the log, which
    /// only a damaged one shows, nothing changes.
    fn apply_moved(&mut self, mut spots: RunSpots, run: &Run<'_>) -> Result<u64, u64> {
        let count = run.slots().len() as u64;
        let mut bytes = 0;
        let moved: Vec<Spot> = run
            .slots()
            .map(|slot| {
                bytes += SLOT_BYTES as u64 + padded(u64::from(slot.len));
                spots.next(run.kind, slot.len)
            })
            .collect();
        let end = run.first_index + count;
        let fits = self
            .groups
            .get(&run.group)
            .is_some_and(|log| log.first_index() <= run.first_index && end <= log.last_index() + 1);
        if !fits {
            return Err(spots.payload_offset);
        }
        let entries = (run.first_index, count, bytes);
        self.replace(run.group, entries, spots.segment, Spots::Hot(moved));
        self.segments.note_run(run);
        Ok(spots.payload_offset)
    }

    fn apply_small(&mut self, lsn: Lsn, record: Record<'_>) {
        match record {
            Record::State { group, state } => self.change(lsn, group, |log, _| log.state = state),
            Record::Compact { group, first_index } => self.change(lsn, group, |log, segments| {
                log.compact(first_index, |dropped| segments.drop_live(dropped));
            }),
            Record::Snapshot {
                group,
                snapshot,
                keep,
            } => self.change(lsn, group, |log, segments| {
                let dropped = |dropped| segments.drop_live(dropped);
                match keep {
                    Keep::All => {}
                    Keep::From(first_index) => log.compact(first_index, dropped),
                    Keep::Nothing => log.clear(snapshot.index + 1, snapshot.term, dropped),
                }
                log.snapshot = Some(snapshot);
            }),
            Record::Remove { group } => {
                if let Some(mut log) = self.groups.remove(&group) {
                    self.meta_bytes_max -= log.meta_bytes_max();
                    log.clear(1, 0, |dropped| self.segments.drop_live(dropped));
                }
            }
            Record::Run(_) | Record::Moved(_) | Record::Checkpoint { .. } | Record::Group(_) => {
                unreachable!("the caller applies these itself")
            }
        }
    }

    /// The first checkpoint that is read begins the log; each later one must say what the log
    /// before it said.
    fn adopt_checkpoint(&mut self, lsn: Lsn, metas: Vec<GroupMeta>, faults: &mut Vec<Fault>) {
        let begins = !std::mem::replace(&mut self.begun, true);
        let unnamed = |group: &GroupId| {
            metas
                .binary_search_by_key(group, |meta| meta.group)
                .is_err()
        };
        let gone: Vec<GroupId> = self
            .groups
            .keys()
            .copied()
            .filter(|group| unnamed(group))
            .collect();
        for group in gone {
            faults.push(Fault::Checkpoint { group });
            self.apply_small(lsn, Record::Remove { group });
        }
        for meta in metas {
            let group = meta.group;
            let known = self.groups.get(&group).map(|log| log.meta(group));
            if known.as_ref() == Some(&meta) {
                continue;
            }
            if !begins {
                faults.push(Fault::Checkpoint { group });
            }
            self.change(lsn, group, |log, segments| {
                log.reconcile(meta, |dropped| segments.drop_live(dropped));
            });
        }
    }

    /// Changes a group, which is made if it does not exist.
    fn change(
        &mut self,
        lsn: Lsn,
        group: GroupId,
        change: impl FnOnce(&mut GroupLog, &mut Segments),
    ) {
        let fresh = !self.groups.contains_key(&group);
        let log = self
            .groups
            .entry(group)
            .or_insert_with(|| GroupLog::new(lsn));
        let before = if fresh { 0 } else { log.meta_bytes_max() };
        change(log, &mut self.segments);
        self.meta_bytes_max = self.meta_bytes_max + log.meta_bytes_max() - before;
    }
}

impl Segments {
    /// Takes a segment into service. None if there are too many.
    pub(crate) fn add(&mut self, segment: Arc<Segment>, stage: Stage) -> Option<SegmentSlot> {
        let free = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        if free >= SEGMENT_SLOTS_MAX {
            return None;
        }
        if free == self.slots.len() {
            self.slots.push(None);
        }
        let slot = SegmentSlot(free as u16);
        let taken = self.by_id.insert(segment.id, slot);
        assert!(taken.is_none(), "{} is in service already", segment.id);
        self.slots[free] = Some(Counted {
            segment,
            live: 0,
            live_bytes: 0,
            sealed: None,
            stage,
        });
        self.indexed = Indexed::default();
        Some(slot)
    }

    /// Whether one more can be taken into service.
    pub(crate) fn is_full(&self) -> bool {
        self.by_id.len() >= SEGMENT_SLOTS_MAX
    }

    /// Takes a segment out of service.
    pub(crate) fn remove(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        let slot = self.by_id.remove(&id)?;
        let counted = self.slots[usize::from(slot.0)]
            .take()
            .expect("every id has a segment");
        assert_eq!(counted.live, 0, "{id} is removed, but entries are in it");
        Some(counted.segment)
    }

    pub(crate) fn get(&self, slot: SegmentSlot) -> Option<&Counted> {
        self.slots.get(usize::from(slot.0))?.as_ref()
    }

    /// All segments, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Counted> + '_ {
        self.by_id.values().map(|slot| {
            self.slots[usize::from(slot.0)]
                .as_ref()
                .expect("every id has a segment")
        })
    }

    /// Ranges and entries of the newest segment, at most.
    pub(crate) fn indexed(&self) -> (u64, u64) {
        (self.indexed.ranges, self.indexed.entries)
    }

    pub(crate) fn slot_of(&self, id: SegmentId) -> Option<SegmentSlot> {
        self.by_id.get(&id).copied()
    }

    /// The slot and the entry of a segment.
    pub(crate) fn by_id(&mut self, id: SegmentId) -> Option<(SegmentSlot, &mut Counted)> {
        let slot = *self.by_id.get(&id)?;
        let counted = self.slots[usize::from(slot.0)].as_mut();
        Some((slot, counted.expect("every id has a segment")))
    }

    /// A segment is not written to any more.
    pub(crate) fn seal(&mut self, id: SegmentId, sealed: Sealed, stage: Stage) {
        let (_, counted) = self.by_id(id).expect("it was written to");
        counted.sealed = Some(sealed);
        counted.stage = stage;
    }

    /// Sealed segments that nothing is in any more.
    pub(crate) fn dead(&self) -> impl Iterator<Item = &Counted> + '_ {
        let dead = |counted: &&Counted| counted.sealed.is_some() && counted.live == 0;
        self.iter().filter(dead)
    }

    /// Entries that came to be in a segment, and the bytes that they take.
    pub(crate) fn add_live(&mut self, slot: SegmentSlot, entries: u64, bytes: u64) {
        let counted = self.slots[usize::from(slot.0)]
            .as_mut()
            .expect("the segment is in service");
        counted.live += entries;
        counted.live_bytes += bytes;
    }

    /// A run that continues the one before of its group needs no range of its own. Each other one may.
    fn note_run(&mut self, run: &Run<'_>) {
        let count = run.slots().len() as u64;
        let end = self.indexed.ends.insert(run.group, run.first_index + count);
        self.indexed.ranges += u64::from(end != Some(run.first_index));
        self.indexed.entries += count;
    }

    fn drop_live(&mut self, dropped: Dropped) {
        let counted = self.slots[usize::from(dropped.segment.0)].as_mut();
        let counted = counted.expect("a segment stays while entries are in it");
        assert!(counted.live >= dropped.entries && counted.live_bytes >= dropped.bytes);
        counted.live -= dropped.entries;
        counted.live_bytes -= dropped.bytes;
    }
}

/// Where the entries of a run stand, one after the other.
struct RunSpots {
    segment: SegmentSlot,
    slot_offset: u64,
    payload_offset: u64,
}

impl RunSpots {
    fn new(segment: SegmentSlot, slot_offset: u64, payload_offset: u64) -> Self {
        Self {
            segment,
            slot_offset,
            payload_offset,
        }
    }

    fn next(&mut self, kind: u8, len: u32) -> Spot {
        let spot = Spot::new(kind, self.slot_offset, self.payload_offset);
        self.slot_offset += SLOT_BYTES as u64;
        self.payload_offset += padded(u64::from(len));
        spot
    }
}
