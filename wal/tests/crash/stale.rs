//! Bytes of an earlier time that stand where the log goes on: they are never taken for a batch.

use std::path::{Path, PathBuf};

use quorate_wal::testing::{CrashDisk, Survivors};
use quorate_wal::{Disk, GroupId};

use crate::common::{BLOCK, DIR, appended, commit, settle};
use crate::model::Step;
use crate::world::{Crash, World, before_sync, check, check_once, in_flight, open};

fn segment(id: u64) -> PathBuf {
    Path::new(DIR).join(format!("{id:016x}.seg"))
}

fn block(disk: &CrashDisk, id: u64, number: usize) -> Vec<u8> {
    let bytes = disk.contents(&segment(id)).expect("the segment is there");
    bytes[number * BLOCK..(number + 1) * BLOCK].to_vec()
}

fn is_batch(block: &[u8]) -> bool {
    block.starts_with(b"QBAT")
}

/// A log whose newest segment was another one before, with the same layout: behind its only batch
/// stands the second batch of that other one, whole, at the offset where the next one will stand.
fn recycled() -> (World, u64) {
    use Step::{Compact, Large, Pair, Prepare, Small};
    let mut world = World::after(&[Small, Pair, Large, Compact, Prepare]);
    assert_eq!(world.log.stats().recycled, 1);
    while !is_batch(&block(&world.disk, newest(&world.disk), 1)) {
        world.step(Large);
    }
    let id = newest(&world.disk);
    assert!(is_batch(&block(&world.disk, id, 1)));
    (world, id)
}

/// The newest segment that is in service.
fn newest(disk: &CrashDisk) -> u64 {
    let names = disk.list(Path::new(DIR)).unwrap();
    let ids = names.iter().filter_map(|name| name.strip_suffix(".seg"));
    let ids = ids.map(|id| u64::from_str_radix(id, 16).unwrap());
    ids.filter(|&id| !block(disk, id, 0).iter().all(|&byte| byte == 0))
        .max()
        .expect("a segment is in service")
}

#[test]
fn a_whole_batch_that_another_segment_left_at_the_same_offset_ends_the_log() {
    // The first segment holds two batches of one block; used again, it holds one.
    let mut found = false;
    let mut world = World::after(&[Step::Small, Step::Pair, Step::Large, Step::Snapshot]);
    for _ in 0..12 {
        world.step(Step::Prepare);
        world.step(Step::Small);
        let id = newest(&world.disk);
        let (first, second) = (block(&world.disk, id, 1), block(&world.disk, id, 2));
        found |= is_batch(&first) && is_batch(&second) && first[8..16] != second[8..16];
        world.disk.sync_dir(Path::new(DIR)).unwrap();
        let all = world.last();
        let disk = world.disk.fork();
        disk.power_cut(&Survivors::None);
        check(&disk, &world.moments, &(all..=all), &id);
        // A write over it that the power cut took leaves it there again.
        let mut world = World::resume(
            &Crash {
                disk: world.disk.fork(),
                expected: all..=all,
            },
            &world.moments,
            &Survivors::None,
            &id,
        );
        let crash = before_sync(&mut world, Step::Pair);
        crash.disk.power_cut(&Survivors::None);
        check(&crash.disk, &world.moments, &crash.expected, &id);
    }
    assert!(found, "no batch of another segment ever stood there");
}

/// A torn write into a file that was another segment before: header and descriptors of the new
/// batch over payloads of the old one, or the other way round, in any mixture of sectors.
#[test]
fn a_mixture_of_a_new_batch_and_a_stale_one_is_no_batch() {
    let (mut world, _) = recycled();
    for step in [Step::Small, Step::Large, Step::Together] {
        let crash = before_sync(&mut world, step);
        let blocks = crash.disk.pending().len();
        for sectors in 0..=u8::MAX {
            for rest in [0, u8::MAX] {
                let mut chosen = vec![rest; blocks];
                for first in 0..blocks {
                    chosen[first] = sectors;
                    let disk = crash.disk.fork();
                    disk.power_cut(&Survivors::Sectors(chosen.clone()));
                    let what = format!("{step:?} {chosen:?}");
                    check_once(&disk, &world.moments, &crash.expected, &what);
                    chosen[first] = rest;
                }
            }
        }
    }
}

/// Recovery cut a batch that was never acknowledged; the log goes on, and then the device gives the
/// cut bytes after all: as a whole, or behind other bytes that lead to them.
#[test]
fn a_batch_that_recovery_cut_stays_dead_when_its_bytes_come_back() {
    for begin in [
        &[Step::Small][..],
        &[Step::Large],
        &[Step::Large, Step::Pair],
    ] {
        let mut world = World::after(begin);
        let crash = before_sync(&mut world, Step::Pair);
        let (path, offset, bytes) = in_flight(&crash);
        let mut cut = World::resume(&crash, &world.moments, &Survivors::None, &"cut");
        for step in [
            Step::Conflict,
            Step::State,
            Step::Large,
            Step::Reopen,
            Step::Small,
        ] {
            cut.step(step);
            let disk = cut.disk.fork();
            disk.power_cut(&Survivors::None);
            if disk.overwrite(&path, offset, &bytes) {
                let all = cut.last();
                check(
                    &disk,
                    &cut.moments,
                    &(all..=all),
                    &format!("{begin:?} {step:?}"),
                );
            }
        }
    }
}

/// Two lines of the same log that never met, in which a segment has the same id: a process wrote to
/// it, and after a crash that took all of it another process did.
///
/// The batch that is left of the first one is whole, bound to this segment and to this offset, and
/// has the very lsn that would be next. Only its epoch is an earlier one.
#[test]
fn a_batch_of_an_earlier_epoch_ends_the_log() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 5000));
    commit(&log, appended(1, 2..=2, 1, 5000));
    let other = disk.fork();
    commit(&log, appended(1, 3..=3, 1, 10));
    commit(&log, appended(2, 1..=1, 1, 10));
    drop(log);
    let (log, _) = open(&other);
    commit(&log, appended(1, 3..=3, 2, 10));
    drop(log);
    assert_eq!((newest(&disk), newest(&other)), (3, 3));
    let whole = open(&other.fork()).1.groups;
    assert!(!whole.contains_key(&GroupId(2)));
    let stale = block(&disk, 3, 2);
    assert!(is_batch(&stale));
    assert!(other.overwrite(&segment(3), 2 * BLOCK as u64, &stale));
    assert_eq!(open(&other).1.groups, whole);
}

/// A batch of the next segment stands at its own offset in the segment before, where that one ends,
/// with the very lsn that would be next: only the segment that it is bound to is another one.
#[test]
fn a_batch_of_another_segment_ends_the_log() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    // Two batches fill a segment, so that the fourth is the second one of the second segment.
    for index in 1..=3 {
        commit(&log, appended(1, index..=index, 1, 10));
    }
    commit(&log, appended(2, 1..=1, 1, 10));
    assert_eq!(newest(&disk), 2);
    let astray = block(&disk, 2, 2);
    assert!(is_batch(&astray));
    let other = CrashDisk::new();
    let (log, _) = open(&other);
    // Three submissions in one batch: the next one is the fourth here too.
    for index in 1..=3 {
        log.submit(appended(1, index..=index, 1, 10)).unwrap();
    }
    settle(&log);
    drop(log);
    let whole = open(&other.fork()).1.groups;
    assert!(other.overwrite(&segment(1), 2 * BLOCK as u64, &astray));
    assert_eq!(open(&other).1.groups, whole);
}
