//! What recovery makes of what a crash left.

use std::path::Path;
use std::sync::Arc;

use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind, PendingChange, Survivors};
use quorate_wal::{Drove, GroupId, GroupState, Log, ReadError, WriteBatch};

use crate::common::{BLOCK, DIR, appended, commit, entries};
use crate::model::{STEPS, Step};
use crate::world::{OLD, World, check, check_once, open, options};

/// The header of a new segment reaches the disk and its first batch does not; the log is opened,
/// prepared, and opened again. The manifest that is written meanwhile must not say that the segment
/// was begun.
#[test]
fn a_segment_of_which_only_the_header_survived_is_empty_also_after_a_manifest_was_written() {
    let mut world = World::after(&[Step::Large]);
    let crashes = world.crashes_in(Step::Large);
    let header_only = |whats: &[PendingChange]| {
        whats.first() == Some(&PendingChange::Block(0)) && whats.len() > 1
    };
    let crash = crashes.iter().find(|crash| {
        let whats: Vec<_> = crash.disk.pending().iter().map(|it| it.what).collect();
        header_only(&whats)
    });
    let crash = crash.expect("a batch that begins a segment waits for its sync");
    crash.disk.power_cut(&Survivors::Prefix(1));
    let (log, recovered) = open(&crash.disk);
    assert_eq!(recovered.groups, world.moments[1].recovered);
    log.prepare().unwrap();
    drop(log);
    check(&crash.disk, &world.moments, &(1..=1), &"prepared");
}

/// The process dies between the write of a batch and its sync, and the cache still has the batch.
/// What the next open returns of it is there after a power cut.
#[test]
fn what_recovery_returned_from_the_cache_is_there_after_the_next_power_cut() {
    let mut returned = 0;
    for begin in [&[][..], &[Step::Small], &[Step::Large], &OLD] {
        for step in STEPS {
            let mut world = World::after(begin);
            for (change, crash) in world.crashes_in(step).into_iter().enumerate() {
                let what = format!("{begin:?}, {step:?} before change {change}");
                let disk = crash.disk.fork();
                disk.process_crash();
                let shown = check_once(&disk, &world.moments, &crash.expected, &what);
                returned += usize::from(shown > *crash.expected.start());
                // The process dies again, so that nothing is synced that was not synced by the
                // open.
                for survivors in [Survivors::None, Survivors::All] {
                    let disk = disk.fork();
                    disk.power_cut(&survivors);
                    check(&disk, &world.moments, &(shown..=shown), &what);
                }
            }
        }
    }
    assert!(returned > 20, "{returned}");
}

/// A failed sync leaves pages in the cache that count as clean, and the process starts again
/// without a reboot. What the cache shows is not on the disk: the next open must not return it.
#[test]
fn what_only_the_cache_holds_after_a_failed_sync_is_not_returned() {
    for begin in [&[][..], &[Step::Small], &[Step::Large], &OLD] {
        let mut world = World::after(begin);
        let before = world.last();
        let fault = Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device));
        world.disk.inject(fault.on(".seg").times(1));
        world.submit(Step::Pair);
        while let Ok(drove) = world.log.drive() {
            assert!(drove == Drove::NeedsSegment, "{drove:?}");
            let _ = world.log.prepare();
        }
        let shown = world.disk.pending();
        world.disk.process_crash();
        let what = format!("{begin:?} {shown:?}");
        let disk = world.disk.fork();
        check(&disk, &world.moments, &(before..=before), &what);
    }
}

/// The entries up to the commit index are lost with a batch that rotted: the state says what it
/// said, the loss is named, and the log does not fail on an index that it does not have.
#[test]
fn a_commit_index_behind_the_last_entry_is_kept_and_the_loss_is_named() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=3, 1, 10));
    commit(&log, appended(1, 4..=6, 1, 10));
    let state = GroupState {
        term: 1,
        vote: 2,
        commit: 6,
    };
    let mut batch = WriteBatch::new();
    batch.set_state(GroupId(1), state);
    batch.append(GroupId(2), entries(2, 1..=1, 1, 5000));
    commit(&log, batch);
    drop(log);
    disk.power_cut(&Survivors::None);
    let path = Path::new(DIR).join("0000000000000001.seg");
    assert!(disk.overwrite(&path, 2 * BLOCK as u64, &[0; BLOCK]));
    let mut accepting = options();
    accepting.accept_damage = true;
    let (log, recovered) = Log::open(Arc::new(disk.clone()), Path::new(DIR), accepting).unwrap();
    let group = &recovered.groups[&GroupId(1)];
    assert_eq!(group.state, state);
    assert_eq!(
        (group.last_index, group.lost.as_slice()),
        (6, &[(4, 6)][..])
    );
    assert_eq!(log.read(GroupId(1), 1, 4, usize::MAX).unwrap().len(), 3);
    let error = log.read(GroupId(1), 4, 7, usize::MAX).unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { index: 4, .. }),
        "{error}"
    );
    // A state whose commit index was never written is no business of the log's either.
    let beyond = GroupState {
        commit: 99,
        ..state
    };
    let mut batch = WriteBatch::new();
    batch.set_state(GroupId(3), beyond);
    commit(&log, batch);
    assert_eq!(log.bounds(GroupId(3)), Some((1, 0)));
}
