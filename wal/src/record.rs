//! The descriptors of a batch: what happened to which group. See `docs/format.md`.
//!
//! Invariants:
//! - Every record is a multiple of 8 bytes and says its own length, so that a reader can pass over
//!   one that it does not know if that one says that it may.
//! - The number of elements of a record is checked against its length before anything is allocated.

use bytes::Bytes;

use crate::batch::{GroupState, SnapshotRef};
use crate::codec::{Put, Take};
use crate::format::UNIT_BYTES;
use crate::ids::{GroupId, Lsn};

/// Bytes of a run before the slots of its entries.
pub(crate) const RUN_BYTES: usize = 40;
/// Bytes of the slot of one entry: its length and its CRC.
pub(crate) const SLOT_BYTES: usize = 8;
/// Bytes of a snapshot's context at most.
pub(crate) const CONTEXT_BYTES_MAX: usize = 4096;

const PREFIX_BYTES: usize = 8;
/// Where a run says how long it is, and how many entries it has.
const RUN_LENGTH_AT: usize = 4;
const RUN_COUNT_AT: usize = PREFIX_BYTES + 24;
/// Set in the flags of a record that a reader which does not know its kind may pass over.
const FLAG_OPTIONAL: u8 = 0x80;
const FLAG_SNAPSHOT_INSTALL: u8 = 0x01;

const KIND_RUN: u8 = 1;
const KIND_STATE: u8 = 2;
const KIND_COMPACT: u8 = 3;
const KIND_SNAPSHOT: u8 = 4;
const KIND_REMOVE: u8 = 5;
const KIND_CHECKPOINT: u8 = 6;
const KIND_GROUP: u8 = 7;
const KIND_MOVED: u8 = 8;

/// One descriptor, borrowed from the bytes of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// Entries of one group, one term and one kind, whose payloads follow in the payload area.
    Run(Run<'a>),
    /// Entries that are in the log already and stand here from now on.
    Moved(Run<'a>),
    State {
        group: GroupId,
        state: GroupState,
    },
    Compact {
        group: GroupId,
        first_index: u64,
    },
    Snapshot {
        group: GroupId,
        snapshot: SnapshotRef,
        keep: Keep,
    },
    Remove {
        group: GroupId,
    },
    /// Begins the checkpoint: as many `Group` records follow.
    Checkpoint {
        groups: u64,
    },
    Group(GroupMeta),
}

/// What becomes of the log of a group when its snapshot is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Everything stays.
    All,
    /// What is below the index goes.
    From(u64),
    /// Everything goes; the log continues behind the snapshot.
    Nothing,
}

/// Entries of one group, one term and one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    pub(crate) group: GroupId,
    pub(crate) term: u64,
    pub(crate) first_index: u64,
    pub(crate) kind: u8,
    slots: &'a [u8],
}

/// Length and CRC of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

/// A group as the checkpoint describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupMeta {
    pub(crate) group: GroupId,
    /// The lsn of the batch that made the group: tells it from an earlier one with the same id.
    pub(crate) born: Lsn,
    pub(crate) state: GroupState,
    pub(crate) first_index: u64,
    pub(crate) last_index: u64,
    pub(crate) previous_term: u64,
    /// First index and term of each run of entries of one term.
    pub(crate) terms: Vec<(u64, u64)>,
    pub(crate) snapshot: Option<SnapshotRef>,
}

impl<'a> Run<'a> {
    pub(crate) fn slots(&self) -> impl ExactSizeIterator<Item = Slot> + 'a {
        self.slots
            .chunks_exact(SLOT_BYTES)
            .map(|bytes| Slot::decode(bytes).expect("a whole slot"))
    }
}

impl Slot {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take::new(bytes);
        Some(Self {
            len: take.u32()?,
            crc: take.u32()?,
        })
    }
}

/// What a run says before its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunHead {
    pub(crate) group: GroupId,
    pub(crate) term: u64,
    pub(crate) first_index: u64,
    pub(crate) kind: u8,
    pub(crate) count: u32,
    /// Whether the entries are in the log already.
    pub(crate) moved: bool,
}

/// Begins a run; the caller appends as many slots as it says.
pub(crate) fn put_run(out: &mut Vec<u8>, head: RunHead) {
    let kind = if head.moved { KIND_MOVED } else { KIND_RUN };
    put_prefix(out, kind, 0, RUN_BYTES + head.count as usize * SLOT_BYTES);
    out.put_u64(head.group.0);
    out.put_u64(head.term);
    out.put_u64(head.first_index);
    out.put_u32(head.count);
    out.put_u8(head.kind);
    out.pad_to(UNIT_BYTES);
}

/// Has the run that stands at `offset`, behind which nothing stands yet, say that it has so many slots.
pub(crate) fn set_run_count(out: &mut [u8], offset: usize, count: u32) {
    let bytes = (RUN_BYTES + count as usize * SLOT_BYTES) as u32;
    set_u32(out, offset + RUN_LENGTH_AT, bytes);
    set_u32(out, offset + RUN_COUNT_AT, count);
}

pub(crate) fn put_slot(out: &mut Vec<u8>, slot: Slot) {
    out.put_u32(slot.len);
    out.put_u32(slot.crc);
}

pub(crate) fn put_state(out: &mut Vec<u8>, group: GroupId, state: GroupState) {
    put_prefix(out, KIND_STATE, 0, 40);
    out.put_u64(group.0);
    out.put_u64(state.term);
    out.put_u64(state.vote);
    out.put_u64(state.commit);
}

pub(crate) fn put_compact(out: &mut Vec<u8>, group: GroupId, first_index: u64) {
    put_prefix(out, KIND_COMPACT, 0, 24);
    out.put_u64(group.0);
    out.put_u64(first_index);
}

pub(crate) fn put_snapshot(out: &mut Vec<u8>, group: GroupId, snapshot: &SnapshotRef, keep: Keep) {
    let (flags, keep_from) = match keep {
        Keep::All => (0, 0),
        Keep::From(index) => (0, index),
        Keep::Nothing => (FLAG_SNAPSHOT_INSTALL, 0),
    };
    put_prefix(out, KIND_SNAPSHOT, flags, snapshot_bytes(snapshot));
    out.put_u64(group.0);
    out.put_u64(keep_from);
    put_snapshot_body(out, snapshot);
}

pub(crate) fn put_remove(out: &mut Vec<u8>, group: GroupId) {
    put_prefix(out, KIND_REMOVE, 0, 16);
    out.put_u64(group.0);
}

pub(crate) fn put_checkpoint(out: &mut Vec<u8>, groups: u64) {
    put_prefix(out, KIND_CHECKPOINT, 0, 16);
    out.put_u64(groups);
}

pub(crate) fn put_group(out: &mut Vec<u8>, meta: &GroupMeta) {
    let body = meta.snapshot.as_ref().map_or(0, snapshot_body_bytes);
    put_prefix(out, KIND_GROUP, 0, group_bytes(meta.terms.len()) + body);
    out.put_u64(meta.group.0);
    out.put_u64(meta.born.0);
    out.put_u64(meta.state.term);
    out.put_u64(meta.state.vote);
    out.put_u64(meta.state.commit);
    out.put_u64(meta.first_index);
    out.put_u64(meta.last_index);
    out.put_u64(meta.previous_term);
    out.put_u32(meta.terms.len() as u32);
    out.put_u32(u32::from(meta.snapshot.is_some()));
    for &(first_index, term) in &meta.terms {
        out.put_u64(first_index);
        out.put_u64(term);
    }
    if let Some(snapshot) = &meta.snapshot {
        put_snapshot_body(out, snapshot);
    }
}

/// Bytes of a group in the checkpoint, without its snapshot.
pub(crate) fn group_bytes(terms: usize) -> usize {
    PREFIX_BYTES + 72 + 16 * terms
}

/// Bytes that a snapshot adds to its group in the checkpoint.
pub(crate) fn snapshot_body_bytes(snapshot: &SnapshotRef) -> usize {
    40 + snapshot.context.len().next_multiple_of(UNIT_BYTES)
}

fn snapshot_bytes(snapshot: &SnapshotRef) -> usize {
    PREFIX_BYTES + 16 + snapshot_body_bytes(snapshot)
}

fn put_prefix(out: &mut Vec<u8>, kind: u8, flags: u8, bytes: usize) {
    debug_assert!(bytes.is_multiple_of(UNIT_BYTES) && out.len().is_multiple_of(UNIT_BYTES));
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16(0); // Reserved.
    out.put_u32(bytes as u32);
}

fn set_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_snapshot_body(out: &mut Vec<u8>, snapshot: &SnapshotRef) {
    out.put_u64(snapshot.index);
    out.put_u64(snapshot.term);
    out.put_u64(snapshot.id);
    out.put_u64(snapshot.bytes);
    out.put_u32(snapshot.crc);
    out.put_u32(snapshot.context.len() as u32);
    out.extend_from_slice(&snapshot.context);
    out.pad_to(UNIT_BYTES);
}

/// Reads the records of a batch one after the other, each with its offset from the start of the
/// descriptors. Ends with `Err` at the first that does not decode.
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
}

/// The descriptors have a record that does not decode, at this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord {
    pub(crate) offset: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, Record<'a>), BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.offset < self.bytes.len() {
            let offset = self.offset;
            let split = split_record(&self.bytes[offset..]);
            let record = split.map(|(len, kind, flags, body)| {
                self.offset += len;
                (decode(kind, flags, body), flags & FLAG_OPTIONAL != 0)
            });
            match record {
                Some((Some(record), _)) => return Some(Ok((offset, record))),
                Some((None, true)) => {}
                Some((None, false)) | None => {
                    self.offset = self.bytes.len();
                    return Some(Err(BadRecord { offset }));
                }
            }
        }
        None
    }
}

/// The length, kind, flags and body of the record that the bytes begin with.
fn split_record(bytes: &[u8]) -> Option<(usize, u8, u8, &[u8])> {
    let mut take = Take::new(bytes);
    let (kind, flags) = (take.u8()?, take.u8()?);
    take.u16()?;
    let len = take.u32()? as usize;
    let sound = len >= PREFIX_BYTES && len.is_multiple_of(UNIT_BYTES);
    let body = sound.then(|| take.bytes(len - PREFIX_BYTES)).flatten()?;
    Some((len, kind, flags, body))
}

fn decode(kind: u8, flags: u8, body: &[u8]) -> Option<Record<'_>> {
    let mut take = Take::new(body);
    let record = match kind {
        KIND_RUN => decode_run(&mut take).map(Record::Run),
        KIND_MOVED => decode_run(&mut take).map(Record::Moved),
        KIND_STATE => Some(Record::State {
            group: GroupId(take.u64()?),
            state: decode_state(&mut take)?,
        }),
        KIND_COMPACT => Some(Record::Compact {
            group: GroupId(take.u64()?),
            first_index: take.u64()?,
        }),
        KIND_SNAPSHOT => {
            let group = GroupId(take.u64()?);
            let keep = match (flags & FLAG_SNAPSHOT_INSTALL != 0, take.u64()?) {
                (true, 0) => Keep::Nothing,
                (true, _) => return None,
                (false, 0) => Keep::All,
                (false, index) => Keep::From(index),
            };
            Some(Record::Snapshot {
                group,
                snapshot: decode_snapshot(&mut take)?,
                keep,
            })
        }
        KIND_REMOVE => Some(Record::Remove {
            group: GroupId(take.u64()?),
        }),
        KIND_CHECKPOINT => Some(Record::Checkpoint {
            groups: take.u64()?,
        }),
        KIND_GROUP => decode_group(&mut take).map(Record::Group),
        _ => None,
    };
    record.filter(|_| take.is_empty())
}

fn decode_run<'a>(take: &mut Take<'a>) -> Option<Run<'a>> {
    let group = GroupId(take.u64()?);
    let term = take.u64()?;
    let first_index = take.u64()?;
    let count = take.u32()? as usize;
    let kind = take.u8()?;
    take.bytes(3)?;
    let slots = take.bytes(count.checked_mul(SLOT_BYTES)?)?;
    // An index that wraps around would break the order of the log.
    let sound = count > 0 && first_index > 0 && first_index.checked_add(count as u64).is_some();
    sound.then_some(Run {
        group,
        term,
        first_index,
        kind,
        slots,
    })
}

fn decode_state(take: &mut Take<'_>) -> Option<GroupState> {
    Some(GroupState {
        term: take.u64()?,
        vote: take.u64()?,
        commit: take.u64()?,
    })
}

fn decode_group(take: &mut Take<'_>) -> Option<GroupMeta> {
    let group = GroupId(take.u64()?);
    let born = Lsn(take.u64()?);
    let state = decode_state(take)?;
    let first_index = take.u64()?;
    let last_index = take.u64()?;
    let previous_term = take.u64()?;
    let count = take.u32()? as usize;
    let has_snapshot = take.u32()?;
    let mut runs = Take::new(take.bytes(count.checked_mul(16)?)?);
    let mut terms = Vec::with_capacity(count);
    while !runs.is_empty() {
        terms.push((runs.u64()?, runs.u64()?));
    }
    let snapshot = match has_snapshot {
        0 => None,
        1 => Some(decode_snapshot(take)?),
        _ => return None,
    };
    let sound = first_index > 0
        && last_index
            .checked_add(1)
            .is_some_and(|end| first_index <= end)
        && terms.is_sorted_by(|a, b| a.0 < b.0)
        && terms.first().map(|run| run.0) == (first_index <= last_index).then_some(first_index)
        && terms.last().is_none_or(|run| run.0 <= last_index);
    sound.then_some(GroupMeta {
        group,
        born,
        state,
        first_index,
        last_index,
        previous_term,
        terms,
        snapshot,
    })
}

fn decode_snapshot(take: &mut Take<'_>) -> Option<SnapshotRef> {
    let index = take.u64()?;
    let term = take.u64()?;
    let id = take.u64()?;
    let bytes = take.u64()?;
    let crc = take.u32()?;
    let len = take.u32()? as usize;
    if len > CONTEXT_BYTES_MAX || index == u64::MAX {
        return None;
    }
    let context = take.bytes(len.next_multiple_of(UNIT_BYTES))?.get(..len)?;
    Some(SnapshotRef {
        index,
        term,
        id,
        bytes,
        crc,
        context: Bytes::copy_from_slice(context),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> SnapshotRef {
        SnapshotRef {
            index: 9,
            term: 2,
            id: 77,
            bytes: 1000,
            crc: 5,
            context: Bytes::from_static(b"members"),
        }
    }

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        put_checkpoint(&mut out, 1);
        put_group(
            &mut out,
            &GroupMeta {
                group: GroupId(1),
                born: Lsn(5),
                state: GroupState {
                    term: 2,
                    vote: 3,
                    commit: 4,
                },
                first_index: 10,
                last_index: 12,
                previous_term: 2,
                terms: vec![(10, 2), (12, 3)],
                snapshot: Some(snapshot()),
            },
        );
        let head = RunHead {
            group: GroupId(1),
            term: 4,
            first_index: 13,
            kind: 7,
            count: 2,
            moved: false,
        };
        put_run(&mut out, head);
        put_slot(&mut out, Slot { len: 5, crc: 6 });
        put_slot(&mut out, Slot { len: 0, crc: 8 });
        put_state(
            &mut out,
            GroupId(1),
            GroupState {
                term: 4,
                vote: 0,
                commit: 12,
            },
        );
        put_compact(&mut out, GroupId(1), 11);
        put_snapshot(&mut out, GroupId(1), &snapshot(), Keep::From(10));
        put_snapshot(&mut out, GroupId(1), &snapshot(), Keep::Nothing);
        put_snapshot(&mut out, GroupId(1), &snapshot(), Keep::All);
        put_remove(&mut out, GroupId(2));
        let moved = RunHead {
            count: 1,
            moved: true,
            ..head
        };
        put_run(&mut out, moved);
        put_slot(&mut out, Slot { len: 5, crc: 6 });
        out
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let bytes = sample();
        let records: Vec<_> = Records::new(&bytes)
            .map(|record| record.expect("whole").1)
            .collect();
        assert_eq!(records.len(), 10);
        let Record::Run(run) = &records[2] else {
            panic!("{:?}", records[2])
        };
        assert_eq!(
            run.slots().collect::<Vec<_>>(),
            [Slot { len: 5, crc: 6 }, Slot { len: 0, crc: 8 }]
        );
        assert_eq!((run.term, run.first_index, run.kind), (4, 13, 7));
        let keeps: Vec<_> = records
            .iter()
            .filter_map(|record| match record {
                Record::Snapshot {
                    keep,
                    snapshot: found,
                    ..
                } => {
                    assert_eq!(*found, snapshot());
                    Some(*keep)
                }
                _ => None,
            })
            .collect();
        assert_eq!(keeps, [Keep::From(10), Keep::Nothing, Keep::All]);
        let Record::Moved(moved) = &records[9] else {
            panic!("{:?}", records[9])
        };
        assert_eq!((moved.first_index, moved.slots().len()), (13, 1));
    }

    #[test]
    fn no_damage_makes_the_reader_panic_or_run_on() {
        let bytes = sample();
        for end in 0..bytes.len() {
            assert!(Records::new(&bytes[..end]).count() <= 11);
        }
        for position in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] = value;
                assert!(Records::new(&damaged).count() <= bytes.len() / UNIT_BYTES);
            }
        }
    }

    #[test]
    fn an_unknown_record_is_passed_over_only_if_it_says_so() {
        let mut bytes = Vec::new();
        put_prefix(&mut bytes, 200, FLAG_OPTIONAL, 16);
        bytes.put_u64(1);
        put_remove(&mut bytes, GroupId(4));
        assert_eq!(
            Records::new(&bytes).collect::<Vec<_>>(),
            [Ok((16, Record::Remove { group: GroupId(4) }))]
        );
        bytes[1] = 0;
        assert_eq!(
            Records::new(&bytes).collect::<Vec<_>>(),
            [Err(BadRecord { offset: 0 })]
        );
    }
}
