//! What proves that something was acknowledged, or that something is not what it was: each proof by
//! itself, where nothing else would notice.

use std::path::{Path, PathBuf};

use quorate_wal::testing::{
    CrashDisk, DiskError, Effect, Fault, Op, OpKind, PendingChange, Survivors,
};
use quorate_wal::{DamageKind, Entry, GroupId, OpenError, WriteBatch};

use crate::common::{BLOCK, DIR, appended, commit};
use crate::model::Step;
use crate::world::{World, check, open, options, survivors, try_open};

fn segment(id: u64) -> PathBuf {
    Path::new(DIR).join(format!("{id:016x}.seg"))
}

/// A batch of a sealed segment is another one, whole in itself, with the same lsn: the header of
/// the next segment names the batches before it.
#[test]
fn another_batch_in_place_of_a_sealed_one_is_named() {
    let line = |payload_bytes| {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk);
        commit(&log, appended(1, 1..=1, 1, payload_bytes));
        commit(&log, appended(1, 2..=2, 1, 10));
        commit(&log, appended(1, 3..=3, 1, 10));
        drop(log);
        disk.power_cut(&Survivors::None);
        disk
    };
    let (disk, other) = (line(10), line(11));
    let batch = &other.contents(&segment(1)).unwrap()[BLOCK..2 * BLOCK];
    assert!(disk.overwrite(&segment(1), BLOCK as u64, batch));
    let damage = match try_open(&disk) {
        Ok((_, recovered)) => recovered.report.damage,
        Err(OpenError::Damaged { damage }) => damage,
        Err(error) => panic!("{error}"),
    };
    let is_named = |it: &quorate_wal::Damage| it.file == segment(1) && it.kind == DamageKind::Chain;
    assert!(damage.iter().any(is_named), "{damage:?}");
}

/// The last batch rots after an empty one covered it: that is damage, and no torn tail.
#[test]
fn rot_of_the_last_batch_is_named_once_it_was_covered() {
    for is_covered in [true, false] {
        let mut world = World::after(&[Step::Large, Step::Large, Step::State]);
        if is_covered {
            world.step(Step::Cover);
        }
        world.disk.power_cut(&Survivors::None);
        let at = BLOCK as u64 + 70;
        assert!(world.disk.flip(&segment(3), at, 1));
        match try_open(&world.disk) {
            Err(OpenError::Damaged { damage }) if is_covered => {
                assert_eq!(
                    (&damage[0].file, damage[0].offset),
                    (&segment(3), BLOCK as u64)
                );
            }
            Ok((_, recovered)) if !is_covered => {
                assert_eq!(recovered.groups, world.moments[2].recovered);
            }
            other => panic!("{is_covered}: {other:?}"),
        }
    }
}

/// A write of the manifest is torn: the slot before it is whole.
#[test]
fn a_torn_manifest_leaves_the_one_in_the_other_slot() {
    let mut torn = 0;
    let mut world = World::after(&[Step::Large, Step::Large, Step::Pair]);
    for step in [
        Step::Prepare,
        Step::Large,
        Step::Prepare,
        Step::Compact,
        Step::Prepare,
    ] {
        for crash in world.crashes_in(step) {
            let pending = crash.disk.pending();
            let is_manifest = |it: &&quorate_wal::testing::Pending| {
                it.path.to_string_lossy().contains("MANIFEST")
                    && matches!(it.what, PendingChange::Block(_))
            };
            if pending.iter().filter(is_manifest).count() == 0 {
                continue;
            }
            torn += 1;
            let path = &pending.iter().find(is_manifest).unwrap().path;
            let disk = crash.disk.fork();
            disk.power_cut(&Survivors::None);
            // Its first sector is half of one manifest and half of another.
            assert!(disk.overwrite(path, 30, &[0xff; 100]));
            check(&disk, &world.moments, &crash.expected, &format!("{step:?}"));
        }
    }
    assert!(torn >= 2, "{torn}");
}

/// Both slots were lost, and an older manifest was put back: it names segments that were given up since,
/// and does not name others. It is not believed.
#[test]
fn a_manifest_that_is_older_than_a_segment_says_is_not_believed() {
    let mut world = World::after(&[Step::Large, Step::Large, Step::Prepare, Step::Pair]);
    let slots = ["MANIFEST-a", "MANIFEST-b"].map(|name| Path::new(DIR).join(name));
    let before = world.disk.fork();
    for step in [
        Step::Prepare,
        Step::Compact,
        Step::Prepare,
        Step::Large,
        Step::Large,
    ] {
        world.step(step);
    }
    world.disk.power_cut(&Survivors::None);
    for slot in slots {
        let bytes = before.contents(&slot).unwrap();
        assert!(world.disk.overwrite(&slot, 0, &bytes));
    }
    let Err(OpenError::Damaged { damage }) = try_open(&world.disk) else {
        panic!("an older manifest was believed")
    };
    assert_eq!(damage[0].kind, DamageKind::Manifest, "{damage:?}");
}

/// The index behind a sealed segment has more than one block: when its first block is on the disk,
/// so is the rest of it, whatever a power cut leaves.
#[test]
fn the_first_block_of_an_index_is_never_there_without_the_rest() {
    let mut options = options();
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 64 << 10;
    let mut world = World::with(options);
    let small = |index| Entry {
        index,
        term: 1,
        ..Entry::default()
    };
    let mut batch = WriteBatch::new();
    batch.append(GroupId(1), (1..=700).map(small).collect());
    commit(&world.log, batch);
    commit(&world.log, appended(2, 1..=5, 1, 8000));
    commit(&world.log, appended(3, 1..=2, 1, 8000));
    let crashes = world.crashes_in(Step::Prepare);
    let whole = world.disk.contents(&segment(1)).unwrap();
    let at = whole
        .chunks(BLOCK)
        .position(|block| block.starts_with(b"QIDX"));
    let at = at.expect("there is an index") * BLOCK;
    assert!(
        whole[at + BLOCK..at + 2 * BLOCK]
            .iter()
            .any(|&byte| byte != 0)
    );
    let (mut with, mut without) = (0, 0);
    for (change, crash) in crashes.into_iter().enumerate() {
        for survivors in survivors(&crash.disk, change as u64) {
            let disk = crash.disk.fork();
            disk.power_cut(&survivors);
            let found = disk.contents(&segment(1)).unwrap();
            if found[at..at + BLOCK] == whole[at..at + BLOCK] {
                assert_eq!(found[at..], whole[at..], "change {change}, {survivors:?}");
                with += 1;
            } else {
                without += 1;
            }
        }
    }
    assert!(with > 0 && without > 0, "{with} {without}");
}

/// Behind the batches of a sealed segment, which has no index yet, stands the index of another one
/// whose batches ended at the same place. It says nothing of this segment.
#[test]
fn an_index_that_another_segment_left_is_not_believed() {
    const END: usize = 3 * BLOCK;
    let mut stale = Vec::new();
    let mut tried = 0;
    let mut world = World::after(&[Step::Pair, Step::Large, Step::Small]);
    for turn in 0..6 {
        for step in [Step::Compact, Step::Prepare, Step::Large, Step::Small] {
            for crash in world.crashes_in(step) {
                let disk = crash.disk.fork();
                disk.power_cut(&Survivors::None);
                for (path, bytes) in sealed(&disk) {
                    let (batches, index) = bytes.split_at(END);
                    let is_full = batches
                        .chunks(BLOCK)
                        .all(|it| it.iter().any(|&byte| byte != 0));
                    if index.starts_with(b"QIDX") {
                        stale = index.to_vec();
                    } else if is_full && !stale.is_empty() {
                        let disk = disk.fork();
                        assert!(disk.overwrite(&path, END as u64, &stale));
                        let what = format!("turn {turn}, {step:?}, {}", path.display());
                        check(&disk, &world.moments, &crash.expected, &what);
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 3, "{tried}");
}

/// The segments in service but the newest, with their content.
fn sealed(disk: &CrashDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter();
    let files = files.map(|path| (path.clone(), disk.contents(&path).expect("it has a name")));
    let mut begun: Vec<_> = files
        .filter(|(_, bytes)| bytes.starts_with(b"QRTSEG"))
        .collect();
    begun.pop();
    begun.retain(|(_, bytes)| bytes.len() == 4 * BLOCK);
    begun
}

/// A dead segment is deleted only when a durable manifest does without it: whenever the power goes,
/// the files that the log needs are there, also while no manifest can be written.
#[test]
fn no_segment_goes_before_a_manifest_does_without_it() {
    for is_refused in [false, true] {
        let mut removed = 0;
        let mut world = World::after(&[Step::Large, Step::Large, Step::Pair, Step::Prepare]);
        if is_refused {
            let full = Effect::Fail(DiskError::NoSpace);
            world
                .disk
                .inject(Fault::new(OpKind::Write, full).on("MANIFEST"));
        }
        for step in [Step::Snapshot, Step::Prepare, Step::Large, Step::Prepare] {
            world.disk.start_trace();
            for crash in world.crashes_in(step) {
                // All names that were removed are gone, and of the rest nothing is there that
                // waits.
                let pending = crash.disk.pending();
                let removals = pending.iter().map(|it| match it.what {
                    PendingChange::NameRemoved => u8::MAX,
                    _ => 0,
                });
                let disk = crash.disk.fork();
                disk.power_cut(&Survivors::Sectors(removals.collect()));
                check(&disk, &world.moments, &crash.expected, &step);
            }
            let trace = world.disk.trace();
            let is_removal = |op: &&Op| {
                let is_segment = op.path.extension().is_some_and(|it| it == "seg");
                is_segment && matches!(op.kind, OpKind::Remove | OpKind::Rename)
            };
            removed += trace.iter().filter(is_removal).count();
        }
        assert_eq!(removed == 0, is_refused, "{removed}");
    }
}
