//! What a caller hands to the log: entries and the states of groups, encoded on the caller's
//! thread.
//!
//! Invariants:
//! - The descriptors are complete when the batch is submitted; only the header of the batch that it
//!   becomes a part of depends on where it will stand.
//! - The payloads stand in the payload area in the order of the slots, each on a multiple of 8
//!   bytes.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::footer::footer_growth;
use crate::format::{UNIT_BYTES, batch_bytes, entry_crc, padded};
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::record::{self, Keep, RUN_BYTES, RunHead, SLOT_BYTES, Slot};

/// Payloads up to this size are copied into one buffer; larger ones are written from where they
/// are.
pub(crate) const COPY_BYTES_MAX: usize = 2048;

/// Batches up to this size are copied behind each other while they wait.
const GATHERED_BYTES_MAX: u64 = 4 << 10;

/// One entry of the log of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log of its group, from 1.
    pub index: u64,
    /// The term that it was proposed in.
    pub term: u64,
    /// What the caller uses it for; the log only stores it.
    pub kind: u8,
    /// What it says. Read from a real disk, it is a view of the mapped segment, which stays on disk
    /// while it lives.
    pub payload: Bytes,
}

/// The hard state of a group. Zero is "none" or "never" for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The latest term that the group knows of.
    pub term: u64,
    /// Whom it voted for in that term; zero for nobody.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// Names a snapshot file and what it covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRef {
    /// The last index that the snapshot covers.
    pub index: u64,
    /// The term of the entry at that index.
    pub term: u64,
    /// Tells it from other snapshots of the same index.
    pub id: u64,
    /// Bytes of the content.
    pub bytes: u64,
    /// CRC-32 of the content.
    pub crc: u32,
    /// What the caller wants to keep beside it, at most 4 KiB.
    pub context: Bytes,
}

/// Changes to any number of groups that become durable together or not at all.
#[derive(Debug, Default)]
pub struct WriteBatch {
    pub(crate) desc: Vec<u8>,
    pub(crate) chunks: SmallVec<[Chunk; 1]>,
    pub(crate) payload_bytes: u64,
    pub(crate) records: u32,
    pub(crate) entries: u64,
    pub(crate) runs: u64,
    /// Entries, with those that are moved.
    pub(crate) slots: u64,
    pub(crate) entry_bytes_max: u64,
    /// Only the format's limits apply.
    pub(crate) is_lifted: bool,
    /// By how much the checkpoint of all groups may grow.
    pub(crate) growth: u64,
    pub(crate) ops: SmallVec<[Op; 1]>,
    /// The run that the descriptors end with.
    last_run: Option<LastRun>,
    /// Entries that this batch moves out of an old segment.
    pub(crate) moves: Vec<Move>,
    pub(crate) invalid: Option<(GroupId, &'static str)>,
}

/// A run that the next entry of the group continues, so that it needs no run of its own.
#[derive(Clone, Copy, Debug)]
struct LastRun {
    /// Where it begins in the descriptors; it ends where they do.
    offset: usize,
    head: RunHead,
}

/// A part of the payload area.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// Small payloads and padding, copied together.
    Packed(Vec<u8>),
    /// One large payload, where it is.
    Shared(Bytes),
}

/// What a batch does to the bounds of a group's log, to be checked against those when it is
/// submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Append {
        group: GroupId,
        first: u64,
        last: u64,
    },
    Compact {
        group: GroupId,
        first_index: u64,
    },
    Snapshot {
        group: GroupId,
        index: u64,
        keep: Keep,
    },
    Remove {
        group: GroupId,
    },
}

/// Entries that stand elsewhere once the batch is written, if nothing else has become of them
/// until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) group: GroupId,
    /// Tells the group from a later one with the same id.
    pub(crate) born: Lsn,
    pub(crate) indexes: Range<u64>,
    /// The segment that they are moved out of.
    pub(crate) from: SegmentId,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets this submission be as large as the format allows
    /// ([`ENTRY_BYTES_LIMIT`](crate::ENTRY_BYTES_LIMIT)), whatever
    /// [`LogOptions`](crate::LogOptions) say: for entries that others have stored already. A
    /// replica whose options are lower must be able to take what its group agreed on.
    pub fn lift_limits(&mut self) {
        self.is_lifted = true;
    }

    /// An empty batch in the buffers of one that was written.
    pub(crate) fn from_buffers(mut desc: Vec<u8>, packed: Option<Vec<u8>>) -> Self {
        desc.clear();
        let mut batch = Self {
            desc,
            ..Self::default()
        };
        if let Some(mut packed) = packed {
            packed.clear();
            batch.chunks.push(Chunk::Packed(packed));
        }
        batch
    }

    /// Adds entries with consecutive indexes to the log of a group. If the first index is not
    /// behind the last one of the log, the log is cut there first. The CRCs of the payloads are
    /// computed here. Entries that do not fit together, or to the log, are refused when the batch
    /// is submitted.
    pub fn append(&mut self, group: GroupId, entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let (first, last) = (first.index, last.index);
        if first == 0 || last == u64::MAX {
            self.refuse(
                group,
                "indexes must be above zero and below the largest number",
            );
            return;
        }
        if entries
            .windows(2)
            .any(|pair| pair[0].index.checked_add(1) != Some(pair[1].index))
        {
            self.refuse(group, "the indexes of appended entries must be consecutive");
            return;
        }
        self.reserve(&entries);
        for run in entries.chunk_by(|a, b| (a.term, a.kind) == (b.term, b.kind)) {
            self.put_run(group, run, false);
        }
        self.entries += entries.len() as u64;
        self.push_op(Op::Append { group, first, last });
        for entry in entries {
            self.put_payload(entry.payload);
        }
    }

    /// Replaces the hard state of a group.
    pub fn set_state(&mut self, group: GroupId, state: GroupState) {
        record::put_state(&mut self.desc, group, state);
        self.count_record(0);
    }

    /// Drops the entries of a group below `first_index`, which may be at most one behind the last
    /// entry. Does nothing if the log begins there or later.
    pub fn compact(&mut self, group: GroupId, first_index: u64) {
        record::put_compact(&mut self.desc, group, first_index);
        self.count_record(0);
        self.ops.push(Op::Compact { group, first_index });
    }

    /// Replaces the snapshot of a group by one that came from elsewhere. With `keep_from`, entries
    /// from there on stay, and it may be at most one behind the snapshot and one behind the last
    /// entry; without, the whole log goes and continues behind the snapshot.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a reference is made to be handed over here"
    )]
    pub fn install(&mut self, group: GroupId, snapshot: SnapshotRef, keep_from: Option<u64>) {
        self.put_snapshot(
            group,
            &snapshot,
            keep_from.map_or(Keep::Nothing, Keep::From),
        );
    }

    /// Replaces the snapshot of a group and leaves its entries as they are.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a reference is made to be handed over here"
    )]
    pub fn set_snapshot(&mut self, group: GroupId, snapshot: SnapshotRef) {
        self.put_snapshot(group, &snapshot, Keep::All);
    }

    /// Forgets a group: its state, entries and snapshot. The id may be used again.
    pub fn remove(&mut self, group: GroupId) {
        record::put_remove(&mut self.desc, group);
        self.count_record(0);
        self.ops.push(Op::Remove { group });
    }

    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.records == 0 && self.invalid.is_none()
    }

    /// Bytes that the batch takes in the log, without what it shares with others.
    pub fn bytes(&self) -> u64 {
        self.desc.len() as u64 + self.payload_bytes
    }

    /// Bytes of memory that its buffers take.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let packed = |chunk: &Chunk| match chunk {
            Chunk::Packed(bytes) => bytes.capacity(),
            Chunk::Shared(_) => 0,
        };
        self.desc.capacity() + self.chunks.iter().map(packed).sum::<usize>()
    }

    /// Bytes that it takes if it is written alone.
    pub(crate) fn bytes_alone(&self) -> u64 {
        batch_bytes(self.desc.len() as u64, self.payload_bytes)
    }

    /// Bytes that it takes together with another one.
    pub(crate) fn bytes_with(&self, other: &Self) -> u64 {
        let desc_bytes = self.desc.len() + other.desc.len();
        batch_bytes(desc_bytes as u64, self.payload_bytes + other.payload_bytes)
    }

    /// Bytes that it takes of a segment at most: itself, and its part of the index behind it.
    pub(crate) fn bytes_in_segment(&self) -> u64 {
        self.bytes_alone() + footer_growth(self.runs, self.slots)
    }

    /// Bytes of payloads that are moved.
    pub(crate) fn moved_bytes(&self) -> u64 {
        if self.moves.is_empty() {
            0
        } else {
            self.payload_bytes
        }
    }

    /// Bytes of what is not moved.
    pub(crate) fn given_bytes(&self) -> u64 {
        if self.moves.is_empty() {
            self.bytes()
        } else {
            0
        }
    }

    /// Adds entries that are in the log already and are moved out of a segment.
    pub(crate) fn move_entries(&mut self, moved: Move, entries: Vec<Entry>) {
        for run in entries.chunk_by(|a, b| (a.term, a.kind) == (b.term, b.kind)) {
            self.put_run(moved.group, run, true);
        }
        self.moves.push(moved);
        for entry in entries {
            self.put_payload(entry.payload);
        }
    }

    /// Whether it is so small and plain that copying it behind another one costs less than keeping it apart.
    pub(crate) fn can_be_gathered(&self) -> bool {
        self.bytes() <= GATHERED_BYTES_MAX && self.is_plain()
    }

    /// Whether it appends entries, which are all in one buffer, and moves none.
    pub(crate) fn is_plain(&self) -> bool {
        self.entries > 0
            && self.moves.is_empty()
            && matches!(self.chunks[..], [] | [Chunk::Packed(_)])
    }

    /// Takes over what is in another batch, which is empty afterwards and keeps its buffers. Both must be
    /// [plain](Self::is_plain); this one may be empty.
    pub(crate) fn gather(&mut self, other: &mut Self) {
        match other.last_run {
            Some(LastRun { offset: 0, head }) => {
                self.begin_run(head);
                self.desc.extend_from_slice(&other.desc[RUN_BYTES..]);
            }
            last_run => {
                let base = self.desc.len();
                self.desc.extend_from_slice(&other.desc);
                self.records += other.records;
                self.runs += other.runs;
                self.growth += other.growth;
                self.last_run = last_run.map(|run| LastRun {
                    offset: base + run.offset,
                    ..run
                });
            }
        }
        if let Some(chunk) = other.chunks.first() {
            self.packed().extend_from_slice(chunk.bytes());
        }
        self.payload_bytes += other.payload_bytes;
        self.entries += other.entries;
        self.slots += other.slots;
        self.entry_bytes_max = self.entry_bytes_max.max(other.entry_bytes_max);
        for &op in &other.ops {
            self.push_op(op);
        }
        other.clear();
    }

    /// Forgets what is in it, and keeps the buffers.
    fn clear(&mut self) {
        let packed = match self.chunks.pop() {
            Some(Chunk::Packed(packed)) => Some(packed),
            _ => None,
        };
        *self = Self::from_buffers(std::mem::take(&mut self.desc), packed);
    }

    /// Adds what is to be checked; appends that follow each other are one.
    fn push_op(&mut self, op: Op) {
        if let (
            Some(Op::Append {
                group: before,
                last: end,
                ..
            }),
            Op::Append { group, first, last },
        ) = (self.ops.last_mut(), op)
            && (*before, *end + 1) == (group, first)
        {
            *end = last;
            return;
        }
        self.ops.push(op);
    }

    /// Makes room for entries, so that a batch of a few small ones takes two allocations.
    fn reserve(&mut self, entries: &[Entry]) {
        self.desc.reserve(RUN_BYTES + entries.len() * SLOT_BYTES);
        let small = entries.iter().map(|entry| entry.payload.len());
        let small = small.filter(|len| (1..=COPY_BYTES_MAX).contains(len));
        let packed_bytes: usize = small.map(|len| len.next_multiple_of(UNIT_BYTES)).sum();
        if packed_bytes > 0 {
            self.packed().reserve(packed_bytes);
        }
    }

    fn put_run(&mut self, group: GroupId, run: &[Entry], moved: bool) {
        let Entry {
            term, index, kind, ..
        } = run[0];
        self.begin_run(RunHead {
            group,
            term,
            first_index: index,
            kind,
            count: run.len() as u32,
            moved,
        });
        for entry in run {
            let len = entry.payload.len() as u64;
            let crc = entry_crc(group.0, entry.index, term, kind, &entry.payload);
            // A length that does not fit is above any limit, so that such a batch is refused.
            record::put_slot(
                &mut self.desc,
                Slot {
                    len: len as u32,
                    crc,
                },
            );
            self.entry_bytes_max = self.entry_bytes_max.max(len);
        }
        self.slots += run.len() as u64;
    }

    /// Puts the head of a run, or has the last one go on where this one follows it. The slots are put by the caller.
    fn begin_run(&mut self, head: RunHead) {
        if let Some(last) = &mut self.last_run
            && last.is_followed_by(&head)
        {
            last.head.count += head.count;
            record::set_run_count(&mut self.desc, last.offset, last.head.count);
            return;
        }
        let offset = self.desc.len();
        record::put_run(&mut self.desc, head);
        self.runs += 1;
        self.count_record(0);
        self.last_run = Some(LastRun { offset, head });
    }

    fn put_payload(&mut self, payload: Bytes) {
        let len = payload.len();
        self.payload_bytes += padded(len as u64);
        if len > COPY_BYTES_MAX {
            self.chunks.push(Chunk::Shared(payload));
            if !len.is_multiple_of(UNIT_BYTES) {
                self.packed()
                    .resize(len.next_multiple_of(UNIT_BYTES) - len, 0);
            }
        } else if len > 0 {
            let packed = self.packed();
            packed.extend_from_slice(&payload);
            // The chunk began on a unit or with the padding that leads to one, so the payload is
            // padded by its length.
            packed.resize(packed.len() + len.next_multiple_of(UNIT_BYTES) - len, 0);
        }
    }

    /// The buffer that small payloads go to now.
    fn packed(&mut self) -> &mut Vec<u8> {
        if !matches!(self.chunks.last(), Some(Chunk::Packed(_))) {
            self.chunks.push(Chunk::Packed(Vec::new()));
        }
        match self.chunks.last_mut() {
            Some(Chunk::Packed(packed)) => packed,
            _ => unreachable!("a packed chunk was just pushed"),
        }
    }

    fn put_snapshot(&mut self, group: GroupId, snapshot: &SnapshotRef, keep: Keep) {
        if snapshot.context.len() > record::CONTEXT_BYTES_MAX {
            self.refuse(group, "the context of a snapshot may take at most 4 KiB");
            return;
        }
        if snapshot.index == u64::MAX || keep == Keep::From(0) {
            self.refuse(
                group,
                "indexes must be above zero and below the largest number",
            );
            return;
        }
        record::put_snapshot(&mut self.desc, group, snapshot, keep);
        self.count_record(record::snapshot_body_bytes(snapshot) as u64);
        self.ops.push(Op::Snapshot {
            group,
            index: snapshot.index,
            keep,
        });
    }

    fn count_record(&mut self, growth: u64) {
        self.records += 1;
        self.last_run = None;
        self.growth += record::group_bytes(1) as u64 + growth;
    }

    fn refuse(&mut self, group: GroupId, reason: &'static str) {
        self.invalid.get_or_insert((group, reason));
    }
}

impl LastRun {
    /// Whether entries under this head may stand behind those of the run without one.
    fn is_followed_by(&self, next: &RunHead) -> bool {
        let head = &self.head;
        let follows = head.first_index.checked_add(u64::from(head.count)) == Some(next.first_index);
        follows
            && (head.group, head.term, head.kind, head.moved)
                == (next.group, next.term, next.kind, next.moved)
    }
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Packed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, len: usize) -> Entry {
        Entry {
            index,
            term: 1,
            kind: 0,
            payload: Bytes::from(vec![index as u8; len]),
        }
    }

    #[test]
    fn every_payload_begins_on_a_unit_whatever_stands_before_it() {
        let lens = [0, 1, 8, 2048, 2049, 5000, 7, 2056, 3, 0, 2050];
        let mut batch = WriteBatch::new();
        let entries = (1..)
            .zip(lens)
            .map(|(index, len)| entry(index, len))
            .collect();
        batch.append(GroupId(1), entries);
        let area: Vec<u8> = batch
            .chunks
            .iter()
            .flat_map(|chunk| chunk.bytes().to_vec())
            .collect();
        assert_eq!(area.len() as u64, batch.payload_bytes);
        let mut offset = 0;
        for (index, len) in (1_u8..).zip(lens) {
            assert!(
                area[offset..offset + len].iter().all(|&byte| byte == index),
                "entry {index}"
            );
            offset += len.next_multiple_of(UNIT_BYTES);
        }
        assert_eq!(offset, area.len());
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let large = entry(1, COPY_BYTES_MAX + 1);
        let mut batch = WriteBatch::new();
        batch.append(GroupId(1), vec![large.clone()]);
        let Chunk::Shared(kept) = &batch.chunks[0] else {
            panic!("the payload was copied")
        };
        assert_eq!(kept.as_ptr(), large.payload.as_ptr());
    }

    /// What the records and the payload area of a batch say: each entry with its group and term, and what is no entry by its
    /// name.
    fn contents(batch: &WriteBatch) -> Vec<String> {
        let area: Vec<u8> = batch
            .chunks
            .iter()
            .flat_map(|chunk| chunk.bytes().to_vec())
            .collect();
        assert_eq!(area.len() as u64, batch.payload_bytes);
        let mut said = Vec::new();
        let mut offset = 0;
        for record in record::Records::new(&batch.desc) {
            let (_, record) = record.expect("what was put decodes");
            let record::Record::Run(run) = record else {
                said.push(format!("{record:?}"));
                continue;
            };
            for (index, slot) in (run.first_index..).zip(run.slots()) {
                let len = slot.len as usize;
                let payload = &area[offset..offset + len];
                let crc = entry_crc(run.group.0, index, run.term, run.kind, payload);
                assert_eq!(crc, slot.crc);
                said.push(format!("{} {} {index}: {payload:?}", run.group, run.term));
                offset += len.next_multiple_of(UNIT_BYTES);
            }
        }
        said
    }

    #[test]
    fn what_is_gathered_says_what_its_parts_said() {
        let mut ends = [0; 3];
        let mut gathered = WriteBatch::new();
        let (mut said, mut sums, mut numbers, mut parts) = (Vec::new(), [0; 3], 1_u64, 0);
        for call in 0..400_u64 {
            numbers = numbers
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(call);
            let group = (numbers >> 60) as usize % 3;
            let mut part = WriteBatch::new();
            if (numbers >> 40).is_multiple_of(8) {
                part.set_state(GroupId(group as u64), GroupState::default());
            }
            let count = 1 + (numbers >> 50) % 3;
            let term = 1 + call / 100;
            let entry = |index| Entry {
                term,
                ..entry(index, (numbers >> 33) as usize % 40)
            };
            let first = ends[group] + 1;
            ends[group] += count;
            part.append(
                GroupId(group as u64),
                (first..first + count).map(entry).collect(),
            );
            if (numbers >> 43).is_multiple_of(8) {
                part.compact(GroupId(group as u64), first);
            }
            said.extend(contents(&part));
            for (sum, more) in sums
                .iter_mut()
                .zip([part.entries, part.slots, part.payload_bytes])
            {
                *sum += more;
            }
            parts += part.runs;
            gathered.gather(&mut part);
            assert!(part.is_empty() && part.bytes() == 0 && part.ops.is_empty());
        }
        assert_eq!(contents(&gathered), said);
        assert_eq!(
            [gathered.entries, gathered.slots, gathered.payload_bytes],
            sums
        );
        let records = record::Records::new(&gathered.desc).count();
        assert_eq!(records, gathered.records as usize);
        let is_run = |record: &Result<_, _>| matches!(record, Ok((_, record::Record::Run(_))));
        let runs = record::Records::new(&gathered.desc).filter(is_run).count();
        assert_eq!(runs as u64, gathered.runs);
        assert!(gathered.runs < parts, "some continue the one before them");
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_remembered_as_invalid() {
        let mut batch = WriteBatch::new();
        batch.append(GroupId(1), vec![entry(1, 1), entry(3, 1)]);
        assert!(batch.invalid.is_some());
        assert!(!batch.is_empty(), "submitting it reports the mistake");
    }
}
