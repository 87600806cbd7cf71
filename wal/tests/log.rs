//! What the log promises while nothing is broken: what was made durable is there, in order, after
//! every reopen.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::*;
use quorate_wal::testing::CrashDisk;
use quorate_wal::*;

#[test]
fn everything_comes_back_after_a_reopen() {
    let disk = MemoryDisk::new();
    let (log, recovered) = open(&disk);
    assert!(recovered.groups.is_empty());
    let lens = [0, 1, 100, 2048, 2049, 70_000, 3];
    let written: Vec<_> = (1..)
        .zip(lens)
        .map(|(index, len)| entry(1, index, 2, len))
        .collect();
    let mut batch = WriteBatch::new();
    batch.append(GroupId(1), written.clone());
    batch.set_state(
        GroupId(1),
        GroupState {
            term: 2,
            vote: 3,
            commit: 4,
        },
    );
    batch.set_state(
        GroupId(9),
        GroupState {
            term: 7,
            vote: 0,
            commit: 0,
        },
    );
    assert_eq!(commit(&log, batch), Lsn(1));
    assert_eq!(commit(&log, appended(9, 1..=3, 7, 10)), Lsn(2));
    let read = |log: &Log| log.read(GroupId(1), 1, 8, usize::MAX).unwrap();
    assert_eq!(read(&log), written);
    drop(log);

    let (log, recovered) = open(&disk);
    let group = &recovered.groups[&GroupId(1)];
    assert_eq!(
        group.state,
        GroupState {
            term: 2,
            vote: 3,
            commit: 4
        }
    );
    assert_eq!(
        (group.first_index, group.last_index, group.previous_term),
        (1, 7, 0)
    );
    assert_eq!(group.terms, [(1, 2)]);
    assert_eq!(recovered.groups[&GroupId(9)].state.term, 7);
    assert_eq!(recovered.report.torn_tail_bytes, 0);
    assert_eq!(read(&log), written);
    assert_eq!(log.durable(), Lsn(2));
    assert_eq!(commit(&log, appended(9, 4..=4, 7, 10)), Lsn(3));
}

#[test]
fn a_read_is_bounded_and_says_what_is_not_there() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let group = GroupId(1);
    commit(&log, appended(1, 1..=10, 1, 100));
    let indexes = |from, to, bytes_max| {
        let read = log.read(group, from, to, bytes_max).unwrap();
        read.iter().map(|entry| entry.index).collect::<Vec<_>>()
    };
    assert_eq!(indexes(2, 5, usize::MAX), [2, 3, 4]);
    assert_eq!(indexes(2, 11, 250), [2, 3]);
    assert_eq!(
        indexes(2, 11, 0),
        [2],
        "at least one entry, whatever its size"
    );
    assert_eq!(indexes(5, 5, 100), []);
    assert!(matches!(
        log.read(group, 9, 12, 1000),
        Err(ReadError::NotWritten {
            index: 11,
            last_index: 10,
            ..
        })
    ));
    assert!(matches!(
        log.read(GroupId(2), 1, 2, 1000),
        Err(ReadError::NotWritten { .. })
    ));
    let mut batch = WriteBatch::new();
    batch.compact(group, 4);
    commit(&log, batch);
    assert!(matches!(
        log.read(group, 3, 5, 100),
        Err(ReadError::Compacted { first_index: 4, .. })
    ));
    assert_eq!(log.bounds(group), Some((4, 10)));
    log.submit(appended(1, 11..=11, 1, 10)).unwrap();
    let unsynced = log.read(group, 11, 12, 1000);
    assert!(
        matches!(unsynced, Err(ReadError::NotWritten { .. })),
        "{unsynced:?}"
    );
}

#[test]
fn a_conflicting_append_cuts_the_log_for_good() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=10, 1, 50));
    commit(&log, appended(1, 5..=6, 2, 50));
    let check = |log: &Log, recovered: Option<&Recovered>| {
        let read = log.read(GroupId(1), 1, 7, usize::MAX).unwrap();
        let terms: Vec<_> = read.iter().map(|entry| entry.term).collect();
        assert_eq!(terms, [1, 1, 1, 1, 2, 2]);
        assert_eq!(read[4], entry(1, 5, 2, 50));
        assert_eq!(log.bounds(GroupId(1)), Some((1, 6)));
        if let Some(recovered) = recovered {
            assert_eq!(recovered.groups[&GroupId(1)].terms, [(1, 1), (5, 2)]);
        }
    };
    check(&log, None);
    drop(log);
    let (log, recovered) = open(&disk);
    check(&log, Some(&recovered));
}

#[test]
fn a_batch_that_does_not_fit_is_refused_whole() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let group = GroupId(1);
    commit(&log, appended(1, 1..=3, 1, 10));
    let refused = |change: &dyn Fn(&mut WriteBatch)| {
        let mut batch = appended(1, 4..=5, 1, 10);
        batch.append(GroupId(7), entries(7, 1..=1, 1, 1));
        change(&mut batch);
        let error = log.submit(batch).unwrap_err();
        assert!(matches!(error, SubmitError::Invalid { .. }), "{error}");
        assert!(!error.is_retryable());
    };
    refused(&|batch| batch.append(group, entries(1, 7..=7, 1, 1)));
    refused(&|batch| batch.append(group, vec![entry(1, 6, 1, 1), entry(1, 8, 1, 1)]));
    refused(&|batch| batch.append(group, vec![entry(1, 0, 1, 1)]));
    refused(&|batch| batch.append(group, vec![entry(1, u64::MAX, 1, 1)]));
    refused(&|batch| batch.compact(group, 7));
    refused(&|batch| batch.append(GroupId(8), entries(8, 2..=2, 1, 1)));
    let snapshot = SnapshotRef {
        index: 3,
        term: 1,
        ..SnapshotRef::default()
    };
    refused(&|batch| batch.install(group, snapshot.clone(), Some(5)));
    let large = SnapshotRef {
        context: Bytes::from(vec![0; 4097]),
        ..snapshot.clone()
    };
    refused(&|batch| batch.set_snapshot(group, large.clone()));
    // Nothing of the refused batches counts: 4 is still next, and group 7 still unknown.
    commit(&log, appended(1, 4..=4, 1, 10));
    assert_eq!(log.bounds(GroupId(7)), None);
    let mut compacted = WriteBatch::new();
    compacted.compact(group, 3);
    commit(&log, compacted);
    let error = log.submit(appended(1, 2..=2, 3, 1)).unwrap_err();
    assert!(
        matches!(error, SubmitError::Invalid { .. }),
        "the compacted part cannot be cut"
    );
}

#[test]
fn sizes_and_the_queue_are_bounded() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let error = log
        .submit(appended(1, 1..=1, 1, (1 << 20) + 1))
        .unwrap_err();
    assert!(
        matches!(
            error,
            SubmitError::TooLarge {
                what: "an entry",
                ..
            }
        ),
        "{error}"
    );
    let error = log.submit(appended(1, 1..=3, 1, 1 << 20)).unwrap_err();
    assert!(
        matches!(
            error,
            SubmitError::TooLarge {
                what: "the batch",
                ..
            }
        ),
        "{error}"
    );
    let mut taken = 0;
    let error = loop {
        match log.submit(appended(1, taken + 1..=taken + 1, 1, 1 << 20)) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, &error), (3, &SubmitError::QueueFull));
    assert!(error.is_retryable());
    settle(&log);
    commit(&log, appended(1, 4..=4, 1, 1 << 20));
    assert_eq!(
        log.read(GroupId(1), 3, 4, 0).unwrap(),
        [entry(1, 3, 1, 1 << 20)]
    );
}

#[test]
fn snapshots_and_removals_come_back() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let context = Bytes::from_static(b"members");
    let snapshot = |index| SnapshotRef {
        index,
        term: 5,
        id: 77,
        bytes: 1000,
        crc: 3,
        context: context.clone(),
    };
    for group in 1..=4 {
        commit(&log, appended(group, 1..=6, 2, 20));
    }
    let mut batch = WriteBatch::new();
    batch.set_snapshot(GroupId(1), snapshot(4));
    batch.compact(GroupId(1), 3);
    batch.install(GroupId(2), snapshot(50), None);
    batch.install(GroupId(3), snapshot(5), Some(6));
    batch.remove(GroupId(4));
    commit(&log, batch);
    commit(&log, appended(2, 51..=52, 6, 20));
    drop(log);
    let (log, recovered) = open(&disk);
    let group = |group| &recovered.groups[&GroupId(group)];
    let bounds = |number| (group(number).first_index, group(number).last_index);
    assert_eq!((bounds(1), group(1).previous_term), ((3, 6), 2));
    assert_eq!(group(1).snapshot, Some(snapshot(4)));
    assert_eq!((bounds(2), group(2).previous_term), ((51, 52), 5));
    assert_eq!(group(2).terms, [(51, 6)]);
    assert_eq!((bounds(3), group(3).previous_term), ((6, 6), 2));
    assert!(!recovered.groups.contains_key(&GroupId(4)));
    // The id may be used again, from the start.
    commit(&log, appended(4, 1..=1, 9, 5));
    drop(log);
    let (log, _) = open(&disk);
    assert_eq!(
        log.read(GroupId(4), 1, 2, 100).unwrap(),
        [entry(4, 1, 9, 5)]
    );
}

#[test]
fn dead_segments_are_deleted_and_disk_stays_bounded() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let mut disk_bytes_max = 0;
    for round in 0..300_u64 {
        let first = round * 10 + 1;
        commit(&log, appended(1, first..=first + 9, 1, 400));
        let mut batch = WriteBatch::new();
        batch.compact(GroupId(1), first);
        commit(&log, batch);
        log.prepare().unwrap();
        disk_bytes_max = disk_bytes_max.max(log.stats().disk_bytes);
        if round % 37 == 0 {
            drop(log);
            log = open(&disk).0;
        }
    }
    let written: u64 = 3000 * 400;
    assert!(
        disk_bytes_max < written / 3,
        "{disk_bytes_max} of {written}"
    );
    let in_segments: usize = segments(&disk).iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(
        log.stats().disk_bytes,
        in_segments as u64 + reserve_bytes(&disk)
    );
    let read = log.read(GroupId(1), 2991, 3001, usize::MAX).unwrap();
    assert_eq!(read, entries(1, 2991..=3000, 1, 400));
}

/// The next segment takes its space when a quarter of the one before is used. It was begun at once when
/// that one was taken into service, so that a busy log took one segment more than it needed, and what was
/// to be moved was moved while the index of the sealed one was written.
#[test]
fn what_can_wait_begins_when_a_quarter_of_a_segment_is_used() {
    let disk = MemoryDisk::new();
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES_MAX;
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    let waiting = |log: &Log| log.disk_bytes() - log.stats().segments * SEGMENT_BYTES_MAX;
    commit(&log, appended(7, 1..=1, 1, 10));
    let (mut index, mut rotations) = (0, 0);
    let mut used_bytes = 0;
    while rotations < 6 {
        let before = log.stats();
        index += 1;
        let mut batch = appended(1, index..=index, 1, 1000);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
        log.prepare().unwrap();
        let after = log.stats();
        used_bytes += after.bytes_written - before.bytes_written;
        if after.segments > before.segments || after.recycled > before.recycled {
            (used_bytes, rotations) = (0, rotations + 1);
        }
        let is_early = used_bytes > 0 && used_bytes < SEGMENT_BYTES_MAX / 4 - 2 * BLOCK as u64;
        if rotations > 0 && is_early {
            assert_eq!(waiting(&log), reserve_bytes(&disk), "{index}: {after:?}");
            assert_eq!(after.moved_bytes, before.moved_bytes, "{index}");
        }
    }
    assert!(log.stats().moved_bytes > 0);
}

/// Figures are taken from a few groups at a time.
#[test]
fn all_that_pin_the_oldest_segment_are_named_however_many() {
    let (log, _) = open(&MemoryDisk::new());
    let groups: Vec<u64> = (1..=1000).collect();
    let mut batch = WriteBatch::new();
    for &group in &groups {
        batch.append(GroupId(group), entries(group, 1..=1, 1, 5));
    }
    commit(&log, batch);
    let stats = log.stats();
    assert_eq!(stats.entries, 1000);
    assert_eq!(
        stats.pinned_by,
        groups.iter().map(|&id| GroupId(id)).collect::<Vec<_>>()
    );
}

#[test]
fn a_sleeping_group_is_named_as_what_pins_the_oldest_segment_until_it_is_moved() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(7, 1..=1, 1, 10));
    let turn = |index: u64| {
        let mut batch = appended(1, index..=index, 1, 1000);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
    };
    let mut index = 1;
    while log.stats().segments < 2 {
        turn(index);
        index += 1;
    }
    assert_eq!(log.stats().pinned_by, [GroupId(7)]);
    for index in index..=100 {
        turn(index);
    }
    rest(&log);
    let stats = log.stats();
    assert!(stats.segments <= 2, "{stats:?}");
    assert!(stats.moved_bytes > 0, "{stats:?}");
    drop(log);
    let (log, recovered) = open(&disk);
    let sleeping = &recovered.groups[&GroupId(7)];
    assert_eq!((sleeping.first_index, sleeping.last_index), (1, 1));
    let read = log.read(GroupId(7), 1, 2, usize::MAX).unwrap();
    assert_eq!(read, [entry(7, 1, 1, 10)]);
}

#[test]
fn bytes_read_from_a_real_disk_outlive_their_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    commit(&log, appended(1, 1..=1, 1, 3000));
    let held = log.read(GroupId(1), 1, 2, usize::MAX).unwrap();
    let again = log.read(GroupId(1), 1, 2, usize::MAX).unwrap();
    assert_eq!(
        held[0].payload.as_ptr(),
        again[0].payload.as_ptr(),
        "both are views of the map"
    );
    for round in 1..40_u64 {
        commit(&log, appended(1, round + 1..=round + 1, 1, 3000));
        let mut batch = WriteBatch::new();
        batch.compact(GroupId(1), round + 1);
        commit(&log, batch);
        log.prepare().unwrap();
    }
    assert!(!dir.path().join("0000000000000001.seg").exists());
    assert_eq!(held, [entry(1, 1, 1, 3000)]);
    drop(log);
    let (log, recovered) = Log::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    assert_eq!(recovered.groups[&GroupId(1)].first_index, 40);
    assert_eq!(
        log.read(GroupId(1), 40, 41, 0).unwrap(),
        [entry(1, 40, 1, 3000)]
    );
}

#[test]
fn moving_ends_where_it_gains_nothing() {
    let disk = MemoryDisk::new();
    let mut small = options();
    small.segment_bytes_max = 16 << 10;
    let (log, _) = Log::open(disk.as_disk(), std::path::Path::new(DIR), small).unwrap();
    // One of them takes more than half of what a segment has room for.
    for index in 1..=6 {
        commit(&log, appended(1, index..=index, 1, 5000));
    }
    rest(&log);
    let read = log.read(GroupId(1), 1, 7, usize::MAX).unwrap();
    assert_eq!(read, entries(1, 1..=6, 1, 5000));
}

#[test]
fn a_dead_segment_is_used_again_unless_somebody_holds_bytes_of_it() {
    for holds in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options();
        options.segment_bytes_min = SEGMENT_BYTES_MAX;
        options.recent_bytes_max = 0;
        let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
        let mut held = Vec::new();
        for index in 1..=300 {
            let mut batch = appended(1, index..=index, 1, 3000);
            batch.compact(GroupId(1), index);
            commit(&log, batch);
            let read = log.read(GroupId(1), index, index + 1, usize::MAX).unwrap();
            assert_eq!(read, [entry(1, index, 1, 3000)]);
            if holds {
                held.extend(read);
            }
            rest(&log);
        }
        let recycled = log.stats().recycled;
        assert_eq!(recycled == 0, holds, "{recycled} segments were used again");
        for held in held {
            assert_eq!(held, entry(1, held.index, 1, 3000));
        }
    }
}

/// The same on a disk that notes who writes over what is held: it is what simulated clusters run on.
#[test]
fn nothing_is_written_over_bytes_that_somebody_holds() {
    for holds in [false, true] {
        let disk = CrashDisk::new();
        let mut options = options();
        options.segment_bytes_min = SEGMENT_BYTES_MAX;
        options.recent_bytes_max = 0;
        let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
        let mut held = Vec::new();
        for index in 1..=300 {
            let mut batch = appended(1, index..=index, 1, 3000);
            batch.compact(GroupId(1), index);
            commit(&log, batch);
            let read = log.read(GroupId(1), index, index + 1, usize::MAX).unwrap();
            if holds {
                held.extend(read);
            }
            rest(&log);
        }
        assert_eq!(log.stats().recycled == 0, holds);
        assert_eq!(disk.trampled(), None);
    }
}

/// A node that is started again beside others of its program, which hold what it once sent them: its new log knew nothing of
/// the maps of the old one, used the segments again, and changed the bytes under their holders.
#[test]
fn a_log_that_is_opened_again_leaves_the_bytes_of_its_last_life_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES_MAX;
    options.recent_bytes_max = 0;
    let crash = CrashDisk::new();
    let disks: [(Arc<dyn Disk>, &Path); 2] = [
        (Arc::new(RealDisk), dir.path()),
        (Arc::new(crash.clone()), Path::new(DIR)),
    ];
    for (disk, dir) in disks {
        let (mut held, mut recycled) = (Vec::new(), 0);
        for life in 0..4 {
            let (log, _) = Log::open(Arc::clone(&disk), dir, options.clone()).unwrap();
            for index in life * 30 + 1..=life * 30 + 30 {
                let mut batch = appended(1, index..=index, 1, 3000);
                batch.compact(GroupId(1), index);
                commit(&log, batch);
                rest(&log);
            }
            let last = life * 30 + 30;
            held.extend(log.read(GroupId(1), last, last + 1, usize::MAX).unwrap());
            recycled += log.stats().recycled;
        }
        assert!(recycled > 0, "a log goes on using its own again");
        for held in held {
            let expected = entry(1, held.index, 1, 3000);
            assert!(held == expected, "entry {} changed", held.index);
        }
    }
    assert_eq!(crash.trampled(), None);
}

/// What was moved was kept in memory as bytes of the map of the segment that it came from, so that no
/// segment that had to be emptied was ever used again.
#[test]
fn a_segment_that_was_emptied_by_moving_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES_MAX;
    // Less than a segment, so that what is moved comes from a map.
    options.recent_bytes_max = 32 << 10;
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    let kept = entry(2, 1, 1, 5000);
    commit(&log, appended(2, 1..=1, 1, 5000));
    for index in 1..=300 {
        let mut batch = appended(1, index..=index, 1, 3000);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
        rest(&log);
    }
    let stats = log.stats();
    assert!(stats.moved_bytes > 2 * 5000, "{stats:?}");
    assert!(stats.recycled > 10, "{stats:?}");
    assert_eq!(log.read(GroupId(2), 1, 2, usize::MAX).unwrap(), [kept]);
}

#[test]
fn opening_again_and_again_takes_no_space_and_changes_nothing() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=20, 3, 500));
    drop(log);
    let (log, first) = open(&disk);
    drop(log);
    let bytes = |disk: &MemoryDisk| {
        segments(disk)
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>()
    };
    let before = bytes(&disk);
    for _ in 0..50 {
        let (log, recovered) = open(&disk);
        assert_eq!(recovered, first);
        drop(log);
        assert_eq!(bytes(&disk), before);
    }
}

struct Counting(AtomicUsize);

impl Observer for Counting {
    fn log_moved(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn concurrent_submitters_share_syncs() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), LogOptions::default()).unwrap();
    let counting = Arc::new(Counting(AtomicUsize::new(0)));
    log.add_observer(Arc::clone(&counting) as Arc<dyn Observer>);
    // Submitted before the thread starts, so that sharing does not depend on the scheduler.
    for group in 1..=THREADS {
        log.submit(appended(group, 1..=1, 1, 128)).unwrap();
    }
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    std::thread::scope(|scope| {
        for group in 1..=THREADS {
            let log = &log;
            scope.spawn(move || {
                for index in 2..=ROUNDS {
                    let lsn = log.submit(appended(group, index..=index, 1, 128)).unwrap();
                    wait_for(log, lsn);
                }
            });
        }
    });
    threads.stop(true);
    let stats = log.stats();
    assert_eq!(stats.entries, THREADS * ROUNDS);
    assert!(stats.syncs < THREADS * ROUNDS, "{} syncs", stats.syncs);
    assert_eq!(
        counting.0.load(Ordering::SeqCst) as u64,
        stats.syncs,
        "told once for each sync"
    );
    drop(log);
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), LogOptions::default()).unwrap();
    for group in 1..=THREADS {
        let read = log.read(GroupId(group), 1, ROUNDS + 1, usize::MAX).unwrap();
        assert_eq!(read, entries(group, 1..=ROUNDS, 1, 128));
    }
}

#[test]
fn stopping_with_a_flush_writes_everything_and_without_it_ends_at_once() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    let mut last = Lsn(0);
    for index in 1..=200 {
        last = log.submit(appended(1, index..=index, 1, 1000)).unwrap();
    }
    threads.stop(true);
    // If this thread stood still for a while, what was written is covered by an empty batch, which has the next lsn.
    assert!(log.durable() >= last);
    assert_eq!(log.bounds(GroupId(1)), Some((1, 200)));
    let waiting = log.submit(appended(1, 201..=201, 1, 1000)).unwrap();
    assert!(log.durable() < waiting, "nobody drives the log any more");
    drop(LogThread::spawn(Arc::clone(&log), "log").unwrap());
    drop(log);
    let (_, recovered) = open(&disk);
    assert!(recovered.groups[&GroupId(1)].last_index >= 200);
}
