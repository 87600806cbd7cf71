//! A disk without space: it passes, and costs nothing that was acknowledged.

use std::path::Path;
use std::sync::Arc;

use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind};
use quorate_wal::{Disk, GroupId, Log, LogStatus, Snapshots, SubmitError};

use crate::common::{DIR, appended, commit};
use crate::model::Step;
use crate::world::{Crash, OLD, World, check_entries, options, survivors};

/// Space comes back while little is due to be filled in step with the segment that is written to,
/// and nothing is written because entries are refused.
#[test]
fn a_large_segment_is_filled_at_once_when_space_returns() {
    const SEGMENT_BYTES: u64 = 1 << 20;
    let disk = CrashDisk::new();
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES;
    options.segment_bytes_max = SEGMENT_BYTES;
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    // The next one is begun when a quarter of this one is used.
    for index in 1..=40 {
        commit(&log, appended(1, index..=index, 1, 8000));
    }
    disk.set_capacity(Some(disk.used_bytes()));
    assert!(!log.prepare().unwrap().segment_ready);
    assert_eq!(log.status(), LogStatus::Full);
    disk.set_capacity(None);
    assert!(log.prepare().unwrap().segment_ready);
    assert_eq!(log.status(), LogStatus::Healthy);
    commit(&log, appended(1, 41..=41, 1, 100));
}

/// What the system says when it has nothing left to give: space, quota, size, open files.
const SHORTAGES: [DiskError; 5] = [
    DiskError::NoSpace,
    DiskError::Quota,
    DiskError::TooLarge,
    DiskError::FilesOfProcess,
    DiskError::FilesOfSystem,
];

/// Each shortage is met while the next segment is made, at any of the operations that make it. No
/// entry that was acknowledged suffers, reads go on, the refusal can be retried, and the log takes
/// entries again when the shortage is over.
#[test]
fn every_shortage_refuses_entries_until_it_passes() {
    for shortage in SHORTAGES {
        for kind in [
            OpKind::Create,
            OpKind::ZeroFill,
            OpKind::Sync,
            OpKind::SyncDir,
        ] {
            let mut world = World::after(&[Step::Large]);
            let what = format!("{shortage:?} of {kind:?}");
            let fault = Fault::new(kind, Effect::Fail(shortage)).on(if kind == OpKind::SyncDir {
                DIR
            } else {
                "0002.seg"
            });
            world.disk.inject(fault);
            assert!(!world.log.prepare().unwrap().segment_ready, "{what}");
            let refused = world.log.submit(appended(9, 1..=1, 1, 10)).unwrap_err();
            assert!(refused.is_retryable(), "{what}");
            let handles = [DiskError::FilesOfProcess, DiskError::FilesOfSystem];
            match (world.log.status(), refused) {
                (LogStatus::Full, SubmitError::Full) => assert!(!handles.contains(&shortage)),
                (LogStatus::NoHandles { reason }, SubmitError::NoHandles { reason: refused }) => {
                    assert!(handles.contains(&shortage) && reason.contains("open files"));
                    assert_eq!(reason, refused);
                }
                other => panic!("{what}: {other:?}"),
            }
            let groups = &world.moments.last().unwrap().groups;
            check_entries(&world.log, groups, &what);
            world.disk.heal();
            assert!(world.log.prepare().unwrap().segment_ready, "{what}");
            world.step(Step::Large);
            world.step(Step::Reopen);
            assert_eq!(world.moments.len(), 3, "{what}");
        }
    }
}

/// With no byte free at all the log opens, what is in it is read, and what gives space back can be
/// written; then there is space for entries again.
#[test]
fn a_log_on_a_disk_without_a_free_byte_opens_and_gives_space_back() {
    let mut options = options();
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 64 << 10;
    let mut world = World::with(options);
    // So full that nothing is worth moving.
    for _ in 0..4 {
        world.step(Step::Huge);
    }
    world.step(Step::Fill);
    world.step(Step::Prepare);
    assert_eq!(world.log.status(), LogStatus::Full);
    let (used, count) = (world.disk.used_bytes(), world.moments.len());
    world.step(Step::Reopen);
    assert_eq!(world.log.status(), LogStatus::Full);
    assert_eq!(world.moments.len(), count, "nothing that was taken is lost");
    world.step(Step::Large);
    assert_eq!(world.moments.len(), count, "entries are refused");
    world.step(Step::Compact);
    assert_eq!(
        world.moments.len(),
        count + 1,
        "what gives space back is taken"
    );
    world.step(Step::Reopen);
    for _ in 0..4 {
        world.step(Step::Prepare);
    }
    assert!(world.disk.used_bytes() <= used);
    assert_eq!(world.log.status(), LogStatus::Healthy);
    world.step(Step::Large);
    assert_eq!(world.moments.len(), count + 2, "entries are taken again");
}

/// The manifest is written over itself, so a full disk cannot refuse it; a shortage that strikes it
/// nevertheless leaves the one before it, which is right, and costs nothing.
#[test]
fn a_manifest_that_meets_a_shortage_leaves_the_one_before_it() {
    for shortage in SHORTAGES {
        for kind in [OpKind::Write, OpKind::Sync] {
            for effect in [Effect::Fail(shortage), Effect::Short(30, shortage)] {
                let mut world = World::after(&OLD);
                world
                    .disk
                    .inject(Fault::new(kind, effect).on("MANIFEST").times(2));
                for step in [
                    Step::Large,
                    Step::Compact,
                    Step::Large,
                    Step::Prepare,
                    Step::Pair,
                ] {
                    world.step(step);
                    let crash = Crash {
                        disk: world.disk.fork(),
                        expected: world.expected(),
                    };
                    let what = format!("{effect:?} of {kind:?}, {step:?}");
                    for survivors in survivors(&crash.disk, 0) {
                        World::resume(&crash, &world.moments, &survivors, &what);
                    }
                }
            }
        }
    }
}

/// A snapshot that there is no space for is an error of that snapshot, and leaves nothing behind
/// that takes space; the log goes on.
#[test]
fn a_snapshot_that_meets_a_full_disk_leaves_nothing_behind() {
    let mut world = World::after(&[Step::Large]);
    let dir = Path::new("/node/snap");
    let snapshots = Snapshots::open(Arc::new(world.disk.clone()), dir).unwrap();
    let content = vec![7; 100_000];
    world
        .disk
        .create_dir_all(&dir.join("0000000000000001"))
        .unwrap();
    let used = world.disk.used_bytes();
    world.disk.set_capacity(Some(used + 50_000));
    let written = snapshots
        .create(GroupId(1), 1, 1, 5)
        .and_then(|mut writer| {
            writer.write(&content)?;
            writer.finish()
        });
    let error = written.unwrap_err();
    assert!(
        error.to_string().contains("space") || error.to_string().contains("full"),
        "{error}"
    );
    assert_eq!(world.disk.used_bytes(), used);
    world.step(Step::Pair);
    world.disk.set_capacity(None);
    let mut writer = snapshots.create(GroupId(1), 1, 1, 5).unwrap();
    writer.write(&content).unwrap();
    let snapshot = writer.finish().unwrap();
    snapshots.verify(GroupId(1), &snapshot).unwrap();
}
