//! Logs in which nothing is wrong: what seeds are made of, and what other targets damage.

use std::sync::Arc;

use bytes::Bytes;
use quorate_wal::testing::CrashDisk;
use quorate_wal::{
    Durability, Entry, GroupId, GroupState, Log, LogOptions, SnapshotRef, WriteBatch,
};

use crate::content::{drive, open, options};
use crate::files::{Files, files_of};

/// A log that is being written.
pub(crate) struct Sound {
    disk: CrashDisk,
    log: Arc<Log>,
}

/// So large an entry that segments are mostly full, and nothing is moved out of them.
const LARGE: usize = 8_000;

/// What a log looks like: a name, and the files.
pub(crate) type Shape = (&'static str, fn() -> Files);

/// The shapes of a log.
pub(crate) const SHAPES: [Shape; 7] = [
    ("empty", empty),
    ("one_segment", one_segment),
    ("sealed", sealed),
    ("recycled", recycled),
    ("moved", moved),
    ("unsynced", unsynced),
    ("reopened", reopened),
];

fn empty() -> Files {
    Sound::new(&options()).files()
}

/// Every kind of record, in one batch.
fn one_segment() -> Files {
    let sound = Sound::new(&options());
    sound.commit(one_of_each());
    sound.files()
}

/// Several sealed segments with an index behind each.
pub(crate) fn sealed() -> Files {
    let sound = Sound::new(&options());
    sound.commit(one_of_each());
    for index in 3..=12 {
        let mut batch = append(1, index, 1 + index / 5, LARGE);
        batch.append(GroupId(2), vec![entry(index - 1, 1, 20)]);
        sound.commit(batch);
    }
    let stats = sound.log.stats();
    assert!(stats.segments >= 4, "{stats:?}");
    sound.files()
}

/// Segments that were others before, whose batches stand behind the new ones.
fn recycled() -> Files {
    let sound = Sound::new(&options());
    for index in 1..=16 {
        let mut batch = append(1, index, 1, LARGE);
        batch.compact(GroupId(1), index);
        sound.commit(batch);
    }
    let stats = sound.log.stats();
    assert!(stats.recycled > 0, "{stats:?}");
    sound.files()
}

/// A group that sleeps, whose entries were moved out of the oldest segment.
pub(crate) fn moved() -> Files {
    let sound = Sound::new(&options());
    sound.commit(append(7, 1, 1, 30));
    sound.commit(append(7, 2, 2, 30));
    for index in 1..=14 {
        let mut batch = append(1, index, 1 + index / 8, LARGE);
        batch.compact(GroupId(1), index.saturating_sub(8).max(1));
        sound.commit(batch);
    }
    let stats = sound.log.stats();
    assert!(stats.moved_bytes > 0 && stats.segments >= 4, "{stats:?}");
    sound.files()
}

/// Segments that a power cut may have taken the end of.
fn unsynced() -> Files {
    let mut options = options();
    options.durability = Durability::ProcessCrash;
    let sound = Sound::new(&options);
    for index in 1..=8 {
        // Nothing is prepared before it must be, so that segments stay unsynced.
        sound.log.submit(append(1, index, 1, 20)).expect("it fits");
        while sound.log.drive().expect("memory does not fail") != quorate_wal::Drove::Idle {
            let _ = sound.log.drive();
            if sound.log.drive().expect("memory does not fail") == quorate_wal::Drove::NeedsSegment
            {
                let _ = sound.log.prepare();
            }
        }
    }
    sound.files()
}

/// A log that was opened several times, each time with a torn tail.
fn reopened() -> Files {
    let sound = Sound::new(&options());
    sound.commit(append(1, 1, 1, 20));
    let Sound { disk, log } = sound;
    drop(log);
    let mut sound = Sound::on(disk, &options());
    for index in 2..=4 {
        sound.commit(append(1, index, index, 20));
        let Sound { disk, log } = sound;
        drop(log);
        sound = Sound::on(disk, &options());
    }
    sound.commit(append(1, 3, 9, 20));
    sound.files()
}

impl Sound {
    fn new(options: &LogOptions) -> Self {
        Self::on(CrashDisk::new(), options)
    }

    fn on(disk: CrashDisk, options: &LogOptions) -> Self {
        let (log, _) = open(&disk, options).expect("a sound log opens");
        Self { disk, log }
    }

    fn commit(&self, batch: WriteBatch) {
        self.log.submit(batch).expect("it fits the log");
        assert!(drive(&self.log), "memory is never full");
    }

    fn files(self) -> Files {
        files_of(&self.disk)
    }
}

fn one_of_each() -> WriteBatch {
    let snapshot = SnapshotRef {
        index: 1,
        term: 1,
        id: 7,
        bytes: 3,
        crc: 5,
        context: Bytes::from_static(b"members"),
    };
    let state = GroupState {
        term: 2,
        vote: 3,
        commit: 1,
    };
    let mut batch = append(1, 1, 1, 3);
    batch.append(GroupId(1), vec![entry(2, 1, 9)]);
    batch.set_state(GroupId(1), state);
    batch.set_snapshot(GroupId(1), snapshot.clone());
    batch.compact(GroupId(1), 2);
    batch.install(GroupId(2), snapshot, None);
    batch.set_state(GroupId(3), state);
    batch.remove(GroupId(3));
    batch
}

fn append(group: u64, index: u64, term: u64, len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.append(GroupId(group), vec![entry(index, term, len)]);
    batch
}

/// An entry that is zero but for its begin, so that it takes little of an input.
fn entry(index: u64, term: u64, len: usize) -> Entry {
    let mut payload = vec![0; len];
    payload[..len.min(16)].fill(index as u8);
    Entry {
        index,
        term,
        kind: (index % 2) as u8,
        payload: Bytes::from(payload),
    }
}
