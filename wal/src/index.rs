//! All groups of a log and all its segments, as the durable records say.
//!
//! The log applies what it wrote through the same function by which recovery applies what it read,
//! so that a recovered index is the one that was lost.
//!
//! Invariants:
//! - `live` of a segment is the number of locations in all groups that name its slot.
//! - A segment is removed only when nothing names its slot.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::padded;
use crate::group::GroupLog;
use crate::ids::{GroupId, SegmentId};
use crate::locations::{Location, SEGMENT_SLOTS_MAX, SegmentSlot};
use crate::record::{self, GroupMeta, Keep, RUN_BYTES, Record, Records, Run, SLOT_BYTES};
use crate::segment::Segment;

/// Groups and segments.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) segments: Segments,
    /// Segments before this one are dead by a durable record; zero while there is none.
    pub(crate) oldest: SegmentId,
    /// Whether a checkpoint was applied, which begins every log.
    begun: bool,
    meta_bytes_max: u64,
}

/// The segments in service, by slot and by id.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    slots: Vec<Option<Counted>>,
    by_id: BTreeMap<SegmentId, SegmentSlot>,
}

/// A segment and what it holds.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) segment: Arc<Segment>,
    /// Entries that were written to it.
    pub(crate) entries: u64,
    /// Entries in it that are still in the log of a group.
    pub(crate) live: u64,
    /// Bytes of payloads that were written to it.
    pub(crate) payload_bytes: u64,
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
    /// Applies the records of a batch, or of one submission, that stand at `place`. Returns the end
    /// of the payloads.
    pub(crate) fn apply(&mut self, place: Place, desc: &[u8], faults: &mut Vec<Fault>) -> u64 {
        let mut payload_offset = place.payload_offset;
        let mut pending: Option<PendingCheckpoint> = None;
        for record in Records::new(desc) {
            match record {
                Ok((_, Record::Checkpoint { groups, oldest })) => {
                    self.oldest = oldest;
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
                    self.apply_run(place.segment, &run, slots, &mut payload_offset, faults);
                }
                Ok((_, record)) => self.apply_small(record),
                Err(bad) => {
                    faults.push(Fault::Record {
                        offset: bad.offset as u64,
                    });
                    return payload_offset;
                }
            }
            if let Some(whole) = pending.take_if(|it| it.metas.len() as u64 == it.groups) {
                self.adopt_checkpoint(whole.metas, faults);
            }
        }
        if pending.is_some() {
            faults.push(Fault::Record {
                offset: desc.len() as u64,
            });
        }
        payload_offset
    }

    /// The oldest segment of the log, dead ones aside; none if there is no segment.
    pub(crate) fn oldest(&self) -> Option<SegmentId> {
        let first = || Some(self.segments.iter().next()?.segment.id);
        Some(self.oldest)
            .filter(|oldest| oldest.0 > 0)
            .or_else(first)
    }

    /// Notes the checkpoint that this log wrote itself.
    pub(crate) fn begin(&mut self, oldest: SegmentId) {
        self.begun = true;
        self.oldest = oldest;
    }

    /// The records that begin a segment: everything but the entries.
    pub(crate) fn put_checkpoint(&self, out: &mut Vec<u8>, oldest: SegmentId) -> u32 {
        record::put_checkpoint(out, self.groups.len() as u64, oldest);
        for (&group, log) in &self.groups {
            record::put_group(out, &log.meta(group));
        }
        self.groups.len() as u32 + 1
    }

    /// Bytes that a checkpoint takes at most.
    pub(crate) fn checkpoint_bytes_max(&self) -> u64 {
        self.meta_bytes_max
    }

    /// Whether there are segments that nothing needs.
    pub(crate) fn has_dead_segments(&self) -> bool {
        let oldest = self
            .segments
            .iter()
            .next()
            .map(|counted| counted.segment.id);
        self.segments.oldest_needed() != oldest
    }

    /// The groups whose oldest entry is in this segment.
    pub(crate) fn pinned_by(&self, segment: SegmentId) -> Vec<GroupId> {
        let slot = self.segments.by_id.get(&segment);
        let pins = |log: &GroupLog| log.first_location().map(Location::segment).as_ref() == slot;
        if slot.is_none() {
            return Vec::new();
        }
        self.groups
            .iter()
            .filter(|(_, log)| pins(log))
            .map(|(&group, _)| group)
            .collect()
    }

    /// Bytes of memory that the entries of all groups take in the index.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.groups
            .values()
            .map(|log| log.memory_bytes() as u64)
            .sum()
    }

    fn apply_run(
        &mut self,
        segment: SegmentSlot,
        run: &Run<'_>,
        slots_offset: u64,
        payload_offset: &mut u64,
        faults: &mut Vec<Fault>,
    ) {
        let Self {
            groups,
            segments,
            meta_bytes_max,
            ..
        } = self;
        let log = groups.entry(run.group).or_insert_with(|| {
            let log = GroupLog::default();
            *meta_bytes_max += log.meta_bytes_max();
            log
        });
        let before = log.meta_bytes_max();
        let gap = log.prepare_append(run.first_index, |location| segments.drop_live(location));
        if let Some((first, last)) = gap {
            faults.push(Fault::Gap {
                group: run.group,
                first,
                last,
            });
        }
        let payloads_begin = *payload_offset;
        for (position, slot) in run.slots().enumerate() {
            let slot_offset = slots_offset + (position * SLOT_BYTES) as u64;
            log.push(
                run.term,
                run.kind,
                Location::new(segment, slot_offset, *payload_offset),
            );
            *payload_offset += padded(u64::from(slot.len));
        }
        *meta_bytes_max = *meta_bytes_max + log.meta_bytes_max() - before;
        segments.add_live(
            segment,
            run.slots().len() as u64,
            *payload_offset - payloads_begin,
        );
    }

    fn apply_small(&mut self, record: Record<'_>) {
        match record {
            Record::State { group, state } => self.change(group, |log, _| log.state = state),
            Record::Compact { group, first_index } => self.change(group, |log, segments| {
                log.compact(first_index, |location| segments.drop_live(location));
            }),
            Record::Snapshot {
                group,
                snapshot,
                keep,
            } => self.change(group, |log, segments| {
                let dropped = |location| segments.drop_live(location);
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
                    log.clear(1, 0, |location| self.segments.drop_live(location));
                }
            }
            Record::Trim { oldest } => self.oldest = self.oldest.max(oldest),
            Record::Run(_) | Record::Checkpoint { .. } | Record::Group(_) => {
                unreachable!("the caller applies these itself")
            }
        }
    }

    /// The first checkpoint that is read begins the log; each later one must say what the log
    /// before it said.
    fn adopt_checkpoint(&mut self, metas: Vec<GroupMeta>, faults: &mut Vec<Fault>) {
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
            self.apply_small(Record::Remove { group });
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
            self.change(group, |log, segments| {
                log.reconcile(meta, |location| segments.drop_live(location));
            });
        }
    }

    /// Changes a group, which is made if it does not exist.
    fn change(&mut self, group: GroupId, change: impl FnOnce(&mut GroupLog, &mut Segments)) {
        let fresh = !self.groups.contains_key(&group);
        let log = self.groups.entry(group).or_default();
        let before = if fresh { 0 } else { log.meta_bytes_max() };
        change(log, &mut self.segments);
        self.meta_bytes_max = self.meta_bytes_max + log.meta_bytes_max() - before;
    }
}

impl Segments {
    /// Takes a segment into service. None if there are too many.
    pub(crate) fn add(&mut self, segment: Arc<Segment>) -> Option<SegmentSlot> {
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
            entries: 0,
            live: 0,
            payload_bytes: 0,
        });
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

    pub(crate) fn get(&self, slot: SegmentSlot) -> Option<&Arc<Segment>> {
        self.slots
            .get(usize::from(slot.0))?
            .as_ref()
            .map(|counted| &counted.segment)
    }

    /// All segments, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Counted> + '_ {
        self.by_id.values().map(|slot| {
            self.slots[usize::from(slot.0)]
                .as_ref()
                .expect("every id has a segment")
        })
    }

    /// The oldest segment that is needed: what is before it holds no live entry, and a later one
    /// holds the checkpoint.
    pub(crate) fn oldest_needed(&self) -> Option<SegmentId> {
        let newest = self.by_id.keys().next_back().copied();
        let needed = |counted: &&Counted| counted.live > 0 || Some(counted.segment.id) == newest;
        self.iter().find(needed).map(|counted| counted.segment.id)
    }

    fn add_live(&mut self, slot: SegmentSlot, entries: u64, payload_bytes: u64) {
        let counted = self.slots[usize::from(slot.0)]
            .as_mut()
            .expect("the segment is written to");
        counted.entries += entries;
        counted.live += entries;
        counted.payload_bytes += payload_bytes;
    }

    fn drop_live(&mut self, location: Location) {
        let counted = self.slots[usize::from(location.segment().0)].as_mut();
        let counted = counted.expect("a segment stays while entries are in it");
        assert!(counted.live > 0);
        counted.live -= 1;
    }
}
