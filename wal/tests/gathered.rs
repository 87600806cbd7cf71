//! Small submissions that wait together are written as one: what each of them said holds, and costs less.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use quorate_wal::testing::{CrashDisk, Survivors};
use quorate_wal::*;

const GROUPS: u64 = 3;
const CALLS: u64 = 600;

/// Segments that are large enough for many small submissions in one piece.
fn open_large(disk: &MemoryDisk) -> Arc<Log> {
    let mut options = options();
    options.segment_bytes_min = 4 << 20;
    options.segment_bytes_max = 4 << 20;
    let opened = Log::open(disk.as_disk(), Path::new(DIR), options);
    opened.unwrap().0
}

/// Has `CALLS` appends of one entry wait, of each group in turn.
fn enqueue(log: &Log, from: u64) {
    let mut batch = WriteBatch::new();
    for call in 0..CALLS {
        let (group, index) = (call % GROUPS, from + call / GROUPS);
        batch.append(
            GroupId(group),
            entries(group, index..=index, 1, call as usize % 90),
        );
        log.enqueue(&mut batch).unwrap();
        assert!(batch.is_empty(), "what was taken is gone from the batch");
    }
}

fn assert_holds(log: &Log, from: u64) {
    for call in 0..CALLS {
        let (group, index) = (call % GROUPS, from + call / GROUPS);
        let read = log.read(GroupId(group), index, index + 1, usize::MAX);
        assert_eq!(read.unwrap(), [entry(group, index, 1, call as usize % 90)]);
    }
}

#[test]
fn each_submission_counts_and_comes_back() {
    let disk = MemoryDisk::new();
    let log = open_large(&disk);
    commit(&log, appended(9, 1..=1, 1, 1));
    let before = log.durable().0;
    enqueue(&log, 1);
    let Drove::Wrote {
        lsn,
        submissions,
        entries,
        ..
    } = log.drive().unwrap()
    else {
        panic!("everything fits one batch");
    };
    assert_eq!((submissions, entries), (CALLS, CALLS));
    assert_eq!(lsn, Lsn(before + CALLS));
    assert_holds(&log, 1);
    drop(log);
    let log = open_large(&disk);
    assert_holds(&log, 1);
    assert_eq!(log.durable(), lsn);
}

#[test]
fn entries_that_follow_each_other_share_what_is_said_of_them() {
    let bytes_of = |groups: u64| {
        let log = open_large(&MemoryDisk::new());
        let mut batch = WriteBatch::new();
        for call in 0..CALLS {
            let (group, index) = (call % groups, 1 + call / groups);
            batch.append(
                GroupId(group),
                vec![Entry {
                    kind: 0,
                    ..entry(group, index, 1, 8)
                }],
            );
            log.enqueue(&mut batch).unwrap();
        }
        log.drive().unwrap();
        log.stats().bytes_written
    };
    let (alone, in_turn) = (bytes_of(1), bytes_of(2));
    let run_bytes = 40 * (CALLS - 1);
    assert!(
        in_turn - alone > run_bytes - 2 * BLOCK as u64,
        "{alone} and {in_turn} bytes"
    );
}

#[test]
fn a_refused_submission_leaves_those_around_it() {
    let disk = MemoryDisk::new();
    let log = open_large(&disk);
    enqueue(&log, 1);
    let mut gap = appended(0, 5_000..=5_000, 1, 8);
    let refused = log.enqueue(&mut gap);
    assert!(matches!(refused, Err(SubmitError::Invalid { .. })));
    assert!(!gap.is_empty(), "what was refused is still in the batch");
    enqueue(&log, 1 + CALLS / GROUPS);
    settle(&log);
    assert_holds(&log, 1);
    assert_holds(&log, 1 + CALLS / GROUPS);
}

/// Whoever drives looks how much room the first in line needs, lets go of the line, and takes what fits. What others submitted
/// meanwhile was once gathered into the first one: at the end of a segment there was no room for it then, and nothing to write.
#[test]
fn what_is_submitted_while_room_is_looked_for_takes_none_of_it() {
    const SUBMISSIONS: u64 = 20_000;
    let mut options = options();
    options.segment_bytes_min = 256 << 10;
    options.segment_bytes_max = 256 << 10;
    let opened = Log::open(MemoryDisk::new().as_disk(), Path::new(DIR), options);
    let log = opened.unwrap().0;
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    let submit_all = &|group: u64| {
        let mut last = Lsn(0);
        for index in 1..=SUBMISSIONS {
            let mut batch = appended(group, index..=index, 1, 900);
            wait_until("there is room in the queue", || {
                match log.enqueue(&mut batch) {
                    Ok(lsn) => last = lsn,
                    Err(SubmitError::QueueFull) => return false,
                    Err(error) => panic!("{error}"),
                }
                true
            });
            log.nudge();
        }
        last
    };
    let last = std::thread::scope(|scope| {
        let submitters = [1, 2].map(|group| scope.spawn(move || submit_all(group)));
        let lasts = submitters.map(|it| it.join().unwrap());
        lasts.into_iter().max().unwrap()
    });
    threads.stop(true);
    assert_eq!(log.status(), LogStatus::Healthy);
    assert!(log.durable() >= last);
    for group in [1, 2] {
        let bounds = log.bounds(GroupId(group));
        assert_eq!(bounds, Some((1, SUBMISSIONS)));
    }
}

#[test]
fn what_is_written_over_while_it_waits_is_gone() {
    let disk = MemoryDisk::new();
    let log = open_large(&disk);
    enqueue(&log, 1);
    log.submit(appended(0, 7..=7, 2, 30)).unwrap();
    log.submit(appended(0, 8..=8, 2, 30)).unwrap();
    settle(&log);
    let read = |log: &Log| log.read(GroupId(0), 6, 9, usize::MAX).unwrap();
    let expected = [entry(0, 6, 1, 15), entry(0, 7, 2, 30), entry(0, 8, 2, 30)];
    assert_eq!(read(&log), expected);
    assert_eq!(log.bounds(GroupId(0)), Some((1, 8)));
    drop(log);
    let log = open_large(&disk);
    assert_eq!(read(&log), expected);
    assert_eq!(log.bounds(GroupId(0)), Some((1, 8)));
}

#[test]
fn what_is_read_outlives_the_buffer_it_was_gathered_in() {
    let disk = MemoryDisk::new();
    let log = open_large(&disk);
    enqueue(&log, 1);
    settle(&log);
    let read = log.read(GroupId(1), 1, 100, usize::MAX).unwrap();
    let expected = read.clone();
    // The ring of what was written last is filled anew several times, and buffers are used again.
    for round in 1..100 {
        enqueue(&log, 1 + round * CALLS / GROUPS);
        settle(&log);
    }
    assert_eq!(read, expected);
    assert_holds(&log, 1);
}

#[test]
fn a_segment_that_begins_with_several_names_the_first_of_them() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    let mut next = 1;
    let enqueue_pair = |log: &Log, next: &mut u64| {
        for _ in 0..2 {
            log.enqueue(&mut appended(1, *next..=*next, 1, 30)).unwrap();
            *next += 1;
        }
    };
    loop {
        enqueue_pair(&log, &mut next);
        if log.drive().unwrap() == Drove::NeedsSegment && log.stats().segments > 0 {
            break;
        }
        settle(&log);
    }
    // The header of the next segment survives, and nothing of its first batch.
    while !log.prepare().unwrap().segment_ready {}
    let durable = log.durable();
    disk.stop_after(1);
    assert!(log.drive().is_err());
    drop(log);
    disk.power_cut(&Survivors::Prefix(1));
    disk.heal();
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.report.damage, [], "nothing durable was lost");
    assert_eq!(log.durable(), durable);
    assert_eq!(log.bounds(GroupId(1)), Some((1, next - 3)));
}
