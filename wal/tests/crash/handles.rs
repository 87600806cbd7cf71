//! No file handles: a shortage that passes, is named as what it is, and costs nothing, wherever it strikes.

use std::path::Path;
use std::sync::Arc;

use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind, Survivors};
use quorate_wal::{Disk, GroupId, LogStatus, SnapshotError, Snapshots, SubmitError};

use crate::common::DIR;
use crate::model::Step;
use crate::world::{OLD, World, check, options};

/// The operations that take a handle.
const TAKE_HANDLES: [OpKind; 4] = [OpKind::Create, OpKind::Open, OpKind::SyncDir, OpKind::List];

const STEPS: [Step; 16] = {
    use Step::*;
    [
        Large, Prepare, Compact, Prepare, Small, Large, Prepare, Snapshot, Large, Prepare, Pair,
        Large, Compact, Prepare, Large, Prepare,
    ]
};

fn no_handles(kind: OpKind) -> Fault {
    Fault::new(kind, Effect::Fail(DiskError::FilesOfProcess))
}

fn is_named(status: &LogStatus) -> bool {
    matches!(status, LogStatus::NoHandles { reason } if reason.contains("open files"))
}

/// Takes the steps while operations of a kind fail, some after the first ones, and goes on when there are
/// handles again. Whether anything failed.
fn strike(begin: &[Step], kind: OpKind, skipped: u64, times: u64) -> bool {
    let what = format!("{kind:?}, {times} after {skipped}");
    let mut world = World::after(begin);
    world
        .disk
        .inject(no_handles(kind).after(skipped).times(times));
    world.disk.start_trace();
    for step in STEPS {
        // It is never failed: the steps would say so.
        world.step(step);
        let status = world.log.status();
        assert!(
            status == LogStatus::Healthy || is_named(&status),
            "{what}: {status:?}"
        );
    }
    let asked = world.disk.trace();
    let asked = asked.iter().filter(|op| op.kind == kind).count() as u64;
    world.disk.heal();
    world.step(Step::Prepare);
    world.step(Step::Prepare);
    assert_eq!(world.log.status(), LogStatus::Healthy, "{what}");
    let before = world.last();
    for step in [Step::Large, Step::Large, Step::Prepare, Step::Small] {
        world.step(step);
    }
    assert_eq!(world.last(), before + 3, "{what}: entries are taken again");
    let all = world.last();
    world.disk.power_cut(&Survivors::None);
    check(&world.disk, &world.moments, &(all..=all), &what);
    asked > skipped
}

#[test]
fn running_out_of_handles_at_any_step_passes() {
    let mut struck = 0;
    for begin in [&[][..], &OLD] {
        for kind in TAKE_HANDLES {
            for times in [1, 3, u64::MAX] {
                let mut skipped = 0;
                while strike(begin, kind, skipped, times) {
                    skipped += 1;
                    struck += 1;
                }
            }
        }
    }
    assert!(struck > 100, "{struck}");
}

/// All but the directory is there, and the segment waits for a handle to make its name durable: it is not
/// made again and again.
#[test]
fn a_segment_that_waits_for_a_handle_takes_space_once() {
    let mut world = World::after(&[Step::Large]);
    world.disk.inject(no_handles(OpKind::SyncDir).on(DIR));
    world.step(Step::Prepare);
    let (files, used) = (world.disk.files().len(), world.disk.used_bytes());
    for _ in 0..10 {
        assert!(is_named(&world.log.status()));
        world.step(Step::Prepare);
    }
    assert_eq!(world.disk.files().len(), files);
    assert_eq!(world.disk.used_bytes(), used);
    let refused = world.log.submit(crate::common::appended(9, 1..=1, 1, 10));
    let error = refused.unwrap_err();
    assert!(matches!(error, SubmitError::NoHandles { .. }), "{error:?}");
    assert!(error.is_retryable() && error.to_string().contains("handles"));
    assert!(!error.to_string().contains("disk"), "{error}");
}

/// A disk so full that only the reserve takes what gives space back.
fn full() -> World {
    let mut options = options();
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 64 << 10;
    let mut world = World::with(options);
    for _ in 0..4 {
        world.step(Step::Huge);
    }
    world.step(Step::Fill);
    world.step(Step::Prepare);
    world.step(Step::Reopen);
    assert_eq!(world.log.status(), LogStatus::Full);
    world
}

#[test]
fn a_reserve_that_waits_for_a_handle_is_used_when_there_is_one() {
    for kind in [OpKind::Rename, OpKind::SyncDir] {
        let mut world = full();
        world.disk.inject(no_handles(kind));
        world.step(Step::Compact);
        let all = world.last();
        assert!(world.expected().start() < &all, "{kind:?}: it waits");
        for _ in 0..3 {
            assert!(is_named(&world.log.status()), "{kind:?}");
            world.step(Step::Prepare);
        }
        world.disk.heal();
        world.step(Step::Prepare);
        assert_eq!(*world.expected().start(), all, "{kind:?}: it is written");
        world.step(Step::Reopen);
        assert_eq!(world.last(), all, "{kind:?}: and there after a power cut");
    }
}

/// A larger reserve has taken the place of the old one, but for a handle to make that durable. What goes
/// into service then is the new one: the old one has no name any more.
#[test]
fn a_reserve_whose_name_is_not_durable_yet_is_the_one_that_goes_into_service() {
    let mut replaced = 0;
    for skipped in 0..4 {
        let mut world = World::new();
        world.step(Step::Small);
        world.disk.start_trace();
        world
            .disk
            .inject(no_handles(OpKind::SyncDir).on(DIR).after(skipped));
        world.step(Step::Prepare);
        let trace = world.disk.trace();
        let is_reserve = |path: &Path| path.ends_with("RESERVE.tmp");
        replaced += trace
            .iter()
            .filter(|op| op.kind == OpKind::Rename && is_reserve(&op.path))
            .count();
        world.disk.heal();
        world.step(Step::Fill);
        while world.log.status() == LogStatus::Healthy {
            world.step(Step::Large);
            world.step(Step::Prepare);
        }
        for _ in 0..6 {
            world.step(Step::Compact);
            world.step(Step::State);
        }
        // Everything that was acknowledged is there.
        world.step(Step::Reopen);
        world.step(Step::Space);
        world.step(Step::Prepare);
        world.step(Step::Large);
        world.step(Step::Reopen);
    }
    assert!(replaced > 0);
}

/// Somebody deleted a file that nothing is in, at the moment when it is to be used.
#[test]
fn a_file_that_somebody_deleted_and_nothing_was_in_costs_nothing() {
    let (mut reserves, mut segments) = (0, 0);
    for deleted in ["RESERVE", ".seg"] {
        let mut world = if deleted == "RESERVE" {
            full()
        } else {
            World::after(&OLD)
        };
        let gone = Arc::new(parking_lot::Mutex::new(0));
        let (disk, count) = (world.disk.clone(), Arc::clone(&gone));
        world.disk.watch(Some(Arc::new(move |op| {
            let is_it = op.path.to_string_lossy().ends_with(deleted);
            if op.kind == OpKind::Rename && is_it && disk.remove(&op.path).is_ok() {
                *count.lock() += 1;
            }
        })));
        for step in [Step::Compact, Step::Prepare].into_iter().chain(STEPS) {
            world.step(step);
        }
        world.disk.watch(None);
        world.step(Step::Space);
        world.step(Step::Prepare);
        let all = world.last();
        world.step(Step::Large);
        assert_eq!(world.last(), all + 1, "{deleted}");
        world.step(Step::Reopen);
        if deleted == "RESERVE" {
            reserves += *gone.lock();
        } else {
            segments += *gone.lock();
        }
    }
    assert!(reserves > 0 && segments > 0, "{reserves} {segments}");
}

#[test]
fn a_snapshot_without_a_handle_says_so() {
    for kind in TAKE_HANDLES.into_iter().chain([OpKind::CreateDir]) {
        let disk = CrashDisk::new();
        let snapshots = Snapshots::open(Arc::new(disk.clone()), Path::new("/node/snap")).unwrap();
        let save = |id: u64| {
            let mut writer = snapshots.create(GroupId(1), id, 1, id)?;
            writer.write(&[7; 1000])?;
            writer.finish()
        };
        if kind != OpKind::CreateDir {
            save(1).unwrap();
        }
        disk.inject(no_handles(kind));
        let failed = match kind {
            OpKind::List => snapshots.retain(GroupId(1), &[]),
            _ => save(2).map(drop),
        };
        let error = failed.unwrap_err();
        assert!(
            matches!(error, SnapshotError::NoHandles { .. }),
            "{kind:?}: {error}"
        );
        assert!(error.to_string().contains("open files"), "{error}");
        disk.heal();
        let saved = save(2).unwrap();
        snapshots.verify(GroupId(1), &saved).unwrap();
        disk.inject(no_handles(OpKind::Open));
        let read = snapshots.open_reader(GroupId(1), &saved);
        assert!(matches!(read, Err(SnapshotError::NoHandles { .. })));
    }
}
