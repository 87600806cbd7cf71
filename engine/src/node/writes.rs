//! What a pass of a shard writes: batches in order, each with what to do once it is durable.
//!
//! Invariants:
//! - No batch is larger than what the log takes at once, as long as no single record is.
//! - What is to be done when something is durable stands with the batch that holds it, or with one behind it.

use quorate_raft::PersistSeq;
use quorate_wal::{Entry, GroupId, LogOptions, SnapshotRef, WriteBatch};

/// What to do once a batch is durable.
pub(crate) enum After {
    /// Tell the core.
    Persisted { slot: usize, seq: PersistSeq },
    /// The log names a newer snapshot now: this one may go.
    Superseded { slot: usize, file: SnapshotRef },
}

/// A batch, and what to do once it is durable.
pub(super) type Closed = (WriteBatch, Vec<After>);

/// What a pass writes.
pub(crate) struct Writes {
    batch: WriteBatch,
    pub(super) after: Vec<After>,
    closed: Vec<Closed>,
    /// Empty, with buffers that the log gave back.
    spare: WriteBatch,
    batch_bytes_max: u64,
}

/// A pass's writes are cut into batches of about this size, so that what is in the first does not wait for the last.
const BATCH_BYTES_SOFT: u64 = 4 << 20;

/// A batch takes this beside its records: a header, and what fills its last block.
const BATCH_OVERHEAD_BYTES: u64 = 2 * 4096;

/// An entry takes this beside its payload at most: it may begin a run of its own, and be padded.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// A record that is no entry takes so much at most: one that names a snapshot, with its context.
pub(super) const RECORD_BYTES_MAX: u64 = 8 << 10;

/// What the log must take at once beyond its largest entry, so that every entry fits.
pub(crate) const MARGIN_BYTES: u64 = 32 << 10;
const _: () = assert!(
    BATCH_OVERHEAD_BYTES + RECORD_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= MARGIN_BYTES,
    "an entry of any size fits beside a record"
);

impl Writes {
    pub(super) fn new(options: &LogOptions) -> Self {
        let batch_bytes_max = options.batch_bytes_max.min(BATCH_BYTES_SOFT);
        Self {
            batch: WriteBatch::new(),
            after: Vec::new(),
            closed: Vec::new(),
            spare: WriteBatch::new(),
            batch_bytes_max: batch_bytes_max - BATCH_OVERHEAD_BYTES,
        }
    }

    /// Whether these entries, and a record in front of them, go into the present batch whole.
    pub(super) fn has_room_for(&self, entries: &[Entry]) -> bool {
        let bytes: u64 = entries.iter().map(entry_bytes).sum();
        self.batch.bytes() + RECORD_BYTES_MAX + bytes <= self.batch_bytes_max
    }

    /// Adds entries, cutting where a batch is large enough. What is to be done when all are durable must be added to
    /// `after` afterwards.
    pub(super) fn append(&mut self, group: GroupId, entries: Vec<Entry>) {
        let mut part = Vec::with_capacity(entries.len());
        let mut part_bytes = self.batch.bytes();
        for entry in entries {
            let bytes = entry_bytes(&entry);
            if part_bytes + bytes > self.batch_bytes_max && part_bytes > 0 {
                self.batch.append(group, std::mem::take(&mut part));
                self.close();
                part_bytes = 0;
            }
            part_bytes += bytes;
            part.push(entry);
        }
        self.batch.append(group, part);
    }

    /// The batch to add one record to that is no entry.
    pub(super) fn record(&mut self) -> &mut WriteBatch {
        if self.batch.bytes() + RECORD_BYTES_MAX > self.batch_bytes_max {
            self.close();
        }
        &mut self.batch
    }

    /// All batches, in order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Closed> + '_ {
        self.close();
        self.closed.drain(..)
    }

    /// Takes back a batch that the log has emptied, to be filled again.
    pub(super) fn give_back(&mut self, emptied: WriteBatch) {
        self.spare = emptied;
    }

    fn close(&mut self) {
        if !self.batch.is_empty() {
            let next = std::mem::take(&mut self.spare);
            self.closed.push((
                std::mem::replace(&mut self.batch, next),
                std::mem::take(&mut self.after),
            ));
        } else if let Some((_, after)) = self.closed.last_mut() {
            after.append(&mut self.after);
        }
        assert!(
            self.after.is_empty(),
            "what waits for the disk stands beside what is written"
        );
    }
}

/// What an entry takes of a batch at most.
fn entry_bytes(entry: &Entry) -> u64 {
    entry.payload.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use quorate_wal::GroupState;

    use super::*;

    fn entries(lens: impl Iterator<Item = usize>) -> Vec<Entry> {
        let entry = |(index, len)| Entry {
            index,
            term: 1,
            kind: 0,
            payload: vec![7; len].into(),
        };
        (1..).zip(lens).map(entry).collect()
    }

    #[test]
    fn no_batch_is_larger_than_the_log_takes() {
        let mut options = LogOptions::default();
        options.entry_bytes_max = 48 << 10;
        options.batch_bytes_max = options.entry_bytes_max + MARGIN_BYTES;
        let mut writes = Writes::new(&options);
        for group in 0..300 {
            writes
                .record()
                .set_state(GroupId(group), GroupState::default());
            writes.append(GroupId(group), entries((0..40).map(|it| it * it)));
        }
        writes.append(GroupId(300), entries([48 << 10; 3].into_iter()));
        let mut batches = 0;
        for (batch, _) in writes.take() {
            let bytes = batch.bytes() + BATCH_OVERHEAD_BYTES;
            assert!(bytes <= options.batch_bytes_max, "{bytes}");
            batches += 1;
        }
        assert!(batches > 50, "{batches}");
    }

    #[test]
    fn what_waits_for_the_last_part_stands_with_it() {
        let mut options = LogOptions::default();
        options.entry_bytes_max = 4096;
        options.batch_bytes_max = 4096 + MARGIN_BYTES;
        let mut writes = Writes::new(&options);
        writes.append(GroupId(1), entries([4000; 30].into_iter()));
        let seq = PersistSeq::default();
        writes.after.push(After::Persisted { slot: 0, seq });
        let waiting: Vec<usize> = writes.take().map(|(_, after)| after.len()).collect();
        let (last, before) = waiting.split_last().expect("there are batches");
        assert!(before.len() > 1 && before.iter().all(|&waiting| waiting == 0));
        assert_eq!(*last, 1);
    }
}
