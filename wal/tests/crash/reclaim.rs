//! Space that comes back: a crash anywhere in it neither loses an entry nor brings one back that
//! was given up.

use std::path::Path;
use std::sync::Arc;

use quorate_wal::testing::{CrashDisk, OpKind, Survivors};
use quorate_wal::{GroupId, Log, ReadError, WriteBatch};

use crate::common::{BLOCK, DIR, appended, commit, entries};
use crate::model::{STEPS, Step};
use crate::world::{OLD, World, check, open, options, survivors};

/// Sealing, writing the manifest, moving, deleting and using again, one after the other for a
/// while, with a crash at each change of it. At least once each of these is in the part that was
/// crashed.
#[test]
fn a_crash_anywhere_in_giving_back_space_loses_nothing_and_brings_nothing_back() {
    let mut kinds = Vec::new();
    let mut world = World::after(&OLD);
    for step in [
        Step::Compact,
        Step::Prepare,
        Step::Pair,
        Step::Prepare,
        Step::Large,
        Step::Snapshot,
        Step::Prepare,
        Step::Remove,
        Step::Prepare,
        Step::Small,
        Step::Prepare,
    ] {
        world.disk.start_trace();
        for (change, crash) in world.crashes_in(step).into_iter().enumerate() {
            for survivors in survivors(&crash.disk, change as u64) {
                let disk = crash.disk.fork();
                disk.power_cut(&survivors);
                let what = format!("{step:?} before change {change}, {survivors:?}");
                check(&disk, &world.moments, &crash.expected, &what);
            }
        }
        kinds.extend(world.disk.trace().into_iter().map(|op| (op.kind, op.path)));
    }
    let has = |kind, part: &str| {
        let mut all = kinds.iter();
        all.any(|(found, path)| *found == kind && path.to_string_lossy().contains(part))
    };
    assert!(
        has(OpKind::Write, "MANIFEST")
            && has(OpKind::Rename, ".seg")
            && has(OpKind::Remove, ".seg")
    );
    assert!(world.log.stats().moved_bytes > 0 && world.log.stats().recycled > 1);
}

/// A group is removed and made anew with the same id, indexes and terms, and other entries.
/// Whatever crashes meanwhile, and whatever rots of the new group, an entry of the old one is never
/// returned.
#[test]
fn a_group_that_was_made_anew_never_shows_an_entry_of_the_old_one() {
    for begin in [
        &[Step::Large][..],
        &[Step::Pair, Step::Large, Step::Prepare],
        &OLD,
    ] {
        for between in STEPS {
            let mut world = World::after(begin);
            for step in [Step::Remove, between, Step::Small, Step::Large] {
                for crash in world.crashes_in(step) {
                    for survivors in survivors(&crash.disk, 1) {
                        let disk = crash.disk.fork();
                        disk.power_cut(&survivors);
                        let what = format!("{begin:?}, {between:?}, {step:?}, {survivors:?}");
                        check(&disk, &world.moments, &crash.expected, &what);
                    }
                }
            }
        }
    }
}

/// An old segment and the index behind it name entries of a group that was removed. The segment
/// with those of the new group, of the same indexes and terms, rots together with its index: they
/// are lost, and the old ones do not take their place.
#[test]
fn entries_that_rotted_are_not_replaced_by_those_of_an_earlier_group_with_the_same_id() {
    const SEGMENT_BYTES: u64 = 64 << 10;
    let disk = CrashDisk::new();
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES;
    options.segment_bytes_max = SEGMENT_BYTES;
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options.clone()).unwrap();
    // Each segment is full of another group, so that nothing is worth moving.
    let fill = |index| commit(&log, appended(2, index..=index + 5, 1, 8000));
    commit(&log, appended(1, 1..=2, 1, 100));
    fill(1);
    fill(7);
    // The index behind the first segment is written while the old group is there.
    log.prepare().unwrap();
    let mut batch = WriteBatch::new();
    batch.remove(GroupId(1));
    batch.append(GroupId(1), entries(1, 1..=2, 1, 50));
    commit(&log, batch);
    fill(13);
    log.prepare().unwrap();
    assert_eq!(log.stats().moved_bytes, 0);
    drop(log);
    disk.power_cut(&Survivors::None);
    let path = Path::new(DIR).join("0000000000000002.seg");
    let bytes = disk.contents(&path).unwrap();
    let zero = |disk: &CrashDisk, block: usize| {
        assert!(disk.overwrite(&path, (block * BLOCK) as u64, &[0; BLOCK]));
    };
    let mut blocks = bytes.chunks(BLOCK);
    let index = blocks.position(|block| block.starts_with(b"QIDX"));
    zero(&disk, index.expect("the segment has an index behind it"));
    let mut lost = 0;
    for block in 1..bytes.len() / BLOCK {
        let damaged = disk.fork();
        zero(&damaged, block);
        let (log, _) = Log::open(Arc::new(damaged), Path::new(DIR), options.clone()).unwrap();
        for index in 1..=2 {
            match log.read(GroupId(1), index, index + 1, usize::MAX) {
                Ok(read) => assert_eq!(read[0].payload.len(), 50, "block {block}"),
                Err(ReadError::Corrupt { group, .. }) => {
                    assert_eq!(group, GroupId(1));
                    lost += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(lost, 2, "their batch is one of the blocks");
}

/// Entries were read to be moved, and before the move is written they are cut and written anew: the
/// move is dropped, and the new ones stay.
#[test]
fn entries_that_were_written_anew_are_not_moved_over() {
    for conflict in [Step::Conflict, Step::Remove] {
        let mut world = World::after(&[Step::Pair, Step::State, Step::Large]);
        // What was submitted is in line before the move that the preparation puts there.
        world.submit(conflict);
        world.submit(Step::Small);
        world.log.prepare().unwrap();
        world.step(Step::Small);
        let all = world.last();
        crate::world::check_entries(&world.log, &world.moments[all].groups, &conflict);
        world.disk.power_cut(&Survivors::None);
        check(&world.disk, &world.moments, &(all..=all), &conflict);
        let (log, _) = open(&world.disk);
        assert!(log.stats().entries > 0);
    }
}
