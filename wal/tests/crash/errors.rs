//! Errors of the device: none is taken for something else, and none is forgotten.

use std::path::Path;

use quorate_wal::testing::{DiskError, Effect, Fault, OpKind, Survivors};
use quorate_wal::{GroupId, LogError, LogStatus, OpenError, ReadError, SubmitError, WriteBatch};

use crate::common::{DIR, appended, commit};
use crate::model::{STEPS, Step};
use crate::world::{Crash, OLD, World, check, open, try_open};

const FAIL: Effect = Effect::Fail(DiskError::Device);

/// Takes a step that may fail. Whether the log failed.
fn step_fails(world: &mut World, step: Step) -> bool {
    match step {
        Step::Prepare => drop(world.log.prepare()),
        Step::Cover => drop(world.log.cover()),
        _ => {}
    }
    if !matches!(world.log.status(), LogStatus::Failed { .. }) {
        world.submit(step);
    }
    while let Ok(drove) = world.log.drive() {
        match drove {
            quorate_wal::Drove::Idle => return false,
            quorate_wal::Drove::NeedsSegment => drop(world.log.prepare()),
            _ => {}
        }
    }
    true
}

/// Checks that a log that failed says so, acknowledges nothing, and serves what was durable.
fn stays_failed(world: &World, what: &str) {
    let durable = world.log.durable();
    let groups = &world.moments[*world.expected().start()].groups;
    for _ in 0..2 {
        assert!(
            matches!(world.log.drive(), Err(LogError::Failed { .. })),
            "{what}"
        );
        assert!(
            matches!(world.log.prepare(), Err(LogError::Failed { .. })),
            "{what}"
        );
        let refused = world.log.submit(WriteBatch::new());
        assert!(matches!(refused, Err(SubmitError::Failed { .. })), "{what}");
    }
    assert_eq!(
        world.log.durable(),
        durable,
        "{what}: acknowledged after a failure"
    );
    crate::world::check_entries(&world.log, groups, &what);
}

/// Every write and every sync that a step makes fails once, whichever file it is for. The log stops
/// for good: the next sync would succeed, because the kernel takes the pages for clean. Then either
/// the process alone starts again, and must not believe the cache, or the machine does.
#[test]
fn a_failed_write_or_sync_is_never_acknowledged_not_even_after_a_restart() {
    let mut failed = 0;
    for begin in [&[][..], &[Step::Large], &OLD] {
        for step in STEPS.into_iter().filter(|&step| step != Step::Reopen) {
            for (kind, effect) in [
                (OpKind::Write, FAIL),
                (OpKind::Write, Effect::Short(4096, DiskError::Device)),
                (OpKind::Sync, FAIL),
                (OpKind::Rename, FAIL),
                (OpKind::SyncDir, FAIL),
            ] {
                for turn in 0.. {
                    let mut world = World::after(begin);
                    world
                        .disk
                        .inject(Fault::new(kind, effect).after(turn).times(1));
                    world.disk.start_trace();
                    let what = format!("{begin:?}, {step:?}, {kind:?} {turn} {effect:?}");
                    let has_failed = step_fails(&mut world, step);
                    let made = world
                        .disk
                        .trace()
                        .iter()
                        .filter(|op| op.kind == kind)
                        .count();
                    if made as u64 <= turn {
                        break;
                    }
                    assert!(has_failed, "{what}: it was not noticed");
                    stays_failed(&world, &what);
                    failed += 1;
                    starts_again(&world, &what);
                }
            }
        }
    }
    assert!(failed > 100, "{failed}");
}

/// The process starts again without a reboot, and the power goes off after that: what was returned
/// before the power cut is there after it.
fn starts_again(world: &World, what: &str) {
    let expected = world.expected();
    let rebooted = world.disk.fork();
    rebooted.power_cut(&Survivors::None);
    check(
        &rebooted,
        &world.moments,
        &expected,
        &format!("{what}; reboot"),
    );
    let disk = world.disk.fork();
    disk.process_crash();
    let shown = crate::world::check_once(
        &disk,
        &world.moments,
        &expected,
        &format!("{what}; restart"),
    );
    disk.power_cut(&Survivors::None);
    check(
        &disk,
        &world.moments,
        &(shown..=shown),
        &format!("{what}; restart, reboot"),
    );
}

/// The device cannot read a block: that is an error, and neither the end of the log nor damage.
#[test]
fn an_error_of_any_read_of_recovery_is_an_error_and_changes_nothing() {
    let world = World::after(&[&OLD[..], &[Step::Pair]].concat());
    let disk = &world.disk;
    disk.power_cut(&Survivors::None);
    let before = disk.fingerprint();
    let all = world.last();
    let mut failed = 0;
    for kind in [
        OpKind::Read,
        OpKind::Open,
        OpKind::Len,
        OpKind::List,
        OpKind::DropCache,
    ] {
        for error in [
            DiskError::Device,
            DiskError::Denied,
            DiskError::FilesOfProcess,
        ] {
            for turn in 0.. {
                let disk = disk.fork();
                disk.inject(Fault::new(kind, Effect::Fail(error)).after(turn).times(1));
                disk.start_trace();
                let opened = try_open(&disk);
                let made = disk.trace().iter().filter(|op| op.kind == kind).count() as u64;
                match opened {
                    Err(OpenError::Io { source, .. }) => {
                        let expected = std::io::Error::from(error);
                        let is_it = source.raw_os_error() == expected.raw_os_error();
                        assert!(
                            is_it || source.to_string().contains(&expected.to_string()),
                            "{source}"
                        );
                    }
                    Err(error) => panic!("{kind:?} {turn}: {error}"),
                    Ok(_) => {
                        assert!(made <= turn, "{kind:?} {turn}: it was not noticed");
                        break;
                    }
                }
                failed += 1;
                disk.heal();
                if kind != OpKind::Open {
                    assert!(
                        disk.fingerprint() == before || kind == OpKind::Read || kind == OpKind::Len,
                        "{kind:?} {turn}"
                    );
                }
                check(
                    &disk,
                    &world.moments,
                    &(all..=all),
                    &format!("{kind:?} {turn}"),
                );
            }
        }
    }
    assert!(failed > 20, "{failed}");
}

/// A read of an entry fails: the error names the file, the entry is not returned, and it is there
/// when the device can read again.
#[test]
fn an_error_of_a_read_of_an_entry_is_an_error_of_that_read_alone() {
    let world = World::after(&[Step::Large, Step::Large, Step::Pair]);
    world
        .disk
        .inject(Fault::new(OpKind::Read, FAIL).on(".seg").times(1));
    let error = world.log.read(GroupId(1), 1, 2, usize::MAX).unwrap_err();
    let ReadError::Io { path, source } = &error else {
        panic!("{error}")
    };
    assert!(path.starts_with(DIR), "{error}");
    assert_eq!(source.raw_os_error(), Some(5));
    let groups = &world.moments.last().unwrap().groups;
    crate::world::check_entries(&world.log, groups, &"the device reads again");
    assert_eq!(world.log.status(), LogStatus::Healthy);
}

/// A failed sync of the tail, when recovery asks for it, is an error: what the cache shows then may
/// not be on the disk.
#[test]
fn a_failed_sync_of_the_tail_fails_the_open() {
    let mut world = World::after(&[Step::Large]);
    let crash = crate::world::before_sync(&mut world, Step::Pair);
    crash.disk.process_crash();
    crash
        .disk
        .inject(Fault::new(OpKind::Sync, FAIL).on(".seg").times(1));
    let error = try_open(&crash.disk).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    // The kernel took the pages for clean. The next open believes the disk, which does not have
    // them.
    let shown = check(&crash.disk, &world.moments, &crash.expected, &"again");
    assert_eq!(shown, *crash.expected.start());
}

/// What is opened read-only, or by somebody who may not, is refused with what the system said.
#[test]
fn a_refusal_of_the_system_is_said_and_the_log_opens_when_it_is_gone() {
    let world = World::after(&[Step::Large, Step::Pair]);
    world.disk.power_cut(&Survivors::None);
    for error in [DiskError::ReadOnly, DiskError::Denied] {
        let disk = world.disk.fork();
        disk.inject(Fault::new(OpKind::Create, Effect::Fail(error)));
        let refused = try_open(&disk).unwrap_err();
        let said = std::io::Error::from(error).to_string();
        assert!(refused.to_string().contains(&said), "{refused}");
        disk.heal();
        let (log, recovered) = open(&disk);
        assert_eq!(recovered.groups, world.moments.last().unwrap().recovered);
        commit(&log, appended(9, 1..=1, 1, 10));
        assert!(
            disk.files()
                .iter()
                .all(|path| path.starts_with(Path::new(DIR)))
        );
    }
    let crash = Crash {
        disk: world.disk.fork(),
        expected: world.moments.len() - 1..=world.moments.len() - 1,
    };
    World::resume(&crash, &world.moments, &Survivors::All, &"untouched");
}
