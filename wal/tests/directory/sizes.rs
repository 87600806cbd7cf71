//! Many groups, small entries and large ones.

use quorate_wal::*;

use crate::common::*;
use crate::*;

#[test]
fn a_hundred_thousand_groups_are_all_there() {
    const GROUPS: u64 = 100_000;
    let disk = MemoryDisk::new();
    let open = || Log::open(disk.as_disk(), Path::new(DIR), LogOptions::default()).unwrap();
    let (log, _) = open();
    for first in (1..=GROUPS).step_by(5000) {
        let mut batch = WriteBatch::new();
        for group in first..first + 5000 {
            batch.append(GroupId(group), vec![entry(group, 1, 1, 20)]);
            batch.set_state(GroupId(group), state());
        }
        commit(&log, batch);
    }
    drop(log);
    let (log, recovered) = open();
    assert_eq!(recovered.groups.len() as u64, GROUPS);
    assert!(
        recovered
            .groups
            .values()
            .all(|it| it.state == state() && it.last_index == 1)
    );
    // The next segment begins with the states of all of them.
    commit(&log, appended(7, 2..=2, 1, 20));
    log.prepare().unwrap();
    settle(&log);
    drop(log);
    let (log, recovered) = open();
    assert_eq!(recovered.groups.len() as u64, GROUPS);
    for group in [1, 7, 5000, 5001, GROUPS] {
        let read = log.read(GroupId(group), 1, 2, 0).unwrap();
        assert_eq!(read, [entry(group, 1, 1, 20)]);
    }
    assert_eq!(log.bounds(GroupId(7)), Some((1, 2)));
    drop(log);
    assert_eq!(
        inspect(&disk, Path::new(DIR)).unwrap().groups.len() as u64,
        GROUPS
    );
    assert!(
        verify(&disk, Path::new(DIR), None, &mut |_| ())
            .unwrap()
            .is_sound()
    );
}

#[test]
fn entries_of_every_size_up_to_the_largest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open_real(dir.path()).unwrap();
    let max = options().entry_bytes_max as usize;
    let smallest = options().segment_bytes_min as usize;
    let sizes = [
        0,
        1,
        7,
        8,
        9,
        4095,
        4096,
        4097,
        smallest,
        smallest + 1,
        max - 1,
        max,
    ];
    for (index, &len) in (1..).zip(&sizes) {
        commit(&log, appended(1, index..=index, 1, len));
    }
    // Many that are as small as can be, in one submission and in many.
    commit(&log, appended(2, 1..=20_000, 1, 1));
    for index in 20_001..=20_050 {
        commit(&log, appended(2, index..=index, 1, 1));
    }
    let mut batch = WriteBatch::new();
    batch.append(GroupId(1), vec![entry(1, 13, 1, max + 1)]);
    let error = log.submit(batch).unwrap_err();
    let too_large = SubmitError::TooLarge {
        what: "an entry",
        bytes: max as u64 + 1,
        bytes_max: max as u64,
    };
    assert_eq!(error, too_large);
    rest(&log);
    for is_reopened in [false, true] {
        let log = if is_reopened {
            log.close();
            open_real(dir.path()).unwrap().0
        } else {
            Arc::clone(&log)
        };
        for (index, &len) in (1..).zip(&sizes) {
            let read = log.read(GroupId(1), index, index + 1, 0).unwrap();
            assert_eq!(read, [entry(1, index, 1, len)], "{len} bytes");
        }
        let read = log.read(GroupId(2), 1, 16_385, usize::MAX).unwrap();
        assert_eq!(read, entries(2, 1..=16_384, 1, 1));
        let read = log.read(GroupId(2), 20_049, 20_051, usize::MAX).unwrap();
        assert_eq!(read, entries(2, 20_049..=20_050, 1, 1));
    }
}

/// A replica whose limits were lowered takes what its group agreed on, and reads what it has.
#[test]
fn a_submission_whose_limits_are_lifted_is_taken_up_to_the_limits_of_the_format() {
    let disk = MemoryDisk::new();
    let mut options = options();
    options.entry_bytes_max = 4 << 10;
    options.batch_bytes_max = 40 << 10;
    options.queue_bytes_max = 64 << 10;
    let open = |options: &LogOptions| {
        Log::open(Arc::new(disk.clone()), Path::new(DIR), options.clone()).unwrap()
    };
    let limit = ENTRY_BYTES_LIMIT as usize;
    let (log, _) = open(&options);
    let sizes = [100, (4 << 10) + 1, 1 << 20, limit, 100];
    for (index, &len) in (1..).zip(&sizes) {
        let mut batch = appended(1, index..=index, 1, len);
        batch.lift_limits();
        log.submit(batch).unwrap();
        // The larger ones are beyond the queue, but for one that is alone in it.
        let mut second = appended(2, 1..=1, 1, 5 << 10);
        second.lift_limits();
        assert_eq!(
            log.enqueue(&mut second).is_err(),
            len > 64 << 10,
            "beside {len} bytes"
        );
        settle(&log);
    }
    let mut batch = appended(1, 6..=6, 1, limit + 1);
    batch.lift_limits();
    let error = log.submit(batch).unwrap_err();
    assert!(matches!(error, SubmitError::TooLarge { .. }), "{error}");
    // The next one in the same buffers is like any other again.
    let error = log
        .submit(appended(1, 6..=6, 1, (4 << 10) + 1))
        .unwrap_err();
    assert!(matches!(error, SubmitError::TooLarge { .. }), "{error}");
    log.close();
    drop(log);
    let (log, recovered) = open(&options);
    assert_eq!(recovered.groups[&GroupId(1)].last_index, 5);
    for (index, &len) in (1..).zip(&sizes) {
        let read = log.read(GroupId(1), index, index + 1, usize::MAX).unwrap();
        assert_eq!(read, [entry(1, index, 1, len)]);
    }
}
