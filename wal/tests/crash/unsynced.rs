//! A log that does not sync its batches: a power cut takes the end of it, in any pieces, and what
//! is left is a log that was once acknowledged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind, Survivors};
use quorate_wal::{Drove, Durability, Log, LogOptions, LogStatus, Recovered};

use crate::common::{DIR, Random};
use crate::model::{STEPS, Step};
use crate::world::{Crash, World, check, check_entries, options, seeds, settle, survivors};

fn unsynced() -> LogOptions {
    let mut options = options();
    options.durability = Durability::ProcessCrash;
    options
}

fn reopen(disk: &CrashDisk) -> (Arc<Log>, Recovered) {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), unsynced()).expect("the log opens")
}

/// Several batches wait, and any subset of their blocks survives: a later batch that is whole
/// behind one that is not is cut with it, and does not come back when the log goes on.
#[test]
fn a_later_batch_that_survived_behind_a_lost_one_is_cut_and_stays_dead() {
    let mut options = unsynced();
    // Of a size that all of them fit: with the next segment, what was written would be synced.
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 64 << 10;
    let mut world = World::with(options);
    for step in [
        Step::Small,
        Step::State,
        Step::Pair,
        Step::Large,
        Step::Conflict,
    ] {
        world.step(step);
    }
    let pending = world.disk.pending().len();
    assert!((6..=12).contains(&pending), "{:?}", world.disk.pending());
    let expected = 0..=world.last();
    let mut seen = BTreeSet::new();
    for mask in 0..1 << pending {
        let disk = world.disk.fork();
        disk.power_cut(&Survivors::of_mask(mask));
        let shown = check(&disk, &world.moments, &expected, &format!("{mask:b}"));
        seen.insert(shown);
    }
    assert_eq!(seen.len(), world.moments.len(), "{seen:?}");
}

#[test]
fn every_power_cut_of_a_log_without_syncs_leaves_a_log_that_was_once_acknowledged() {
    for seed in seeds(1..60) {
        let mut random = Random::new(seed);
        let mut world = World::with(unsynced());
        let mut steps = Vec::new();
        for _ in 0..=random.below(20) {
            let step = STEPS[random.below(STEPS.len() as u64 - 1) as usize];
            assert_ne!(step, Step::Reopen, "it is the last one");
            steps.push(step);
            world.step(step);
        }
        let what = format!("QUORATE_SEED={seed} {steps:?}");
        for survivors in survivors(&world.disk, seed) {
            let disk = world.disk.fork();
            disk.power_cut(&survivors);
            let expected = 0..=world.last();
            check(
                &disk,
                &world.moments,
                &expected,
                &format!("{what} {survivors:?}"),
            );
        }
        // The process alone may end as often as it likes.
        world.disk.process_crash();
        let all = world.last();
        let crash = Crash {
            disk: world.disk.clone(),
            expected: all..=all,
        };
        let after = World::resume(&crash, &world.moments, &Survivors::All, &what);
        check_entries(&after.log, &world.moments[all].groups, &what);
    }
}

/// Found by fuzzing: a sync of a full segment failed, which leaves in the cache what the disk does not have, and the process was
/// started again. What was found in the cache was vouched for by the next manifest, and gone with the power.
#[test]
fn what_only_the_cache_holds_of_a_full_segment_is_not_vouched_for() {
    let mut wide = unsynced();
    (wide.segment_bytes_min, wide.segment_bytes_max) = (64 << 10, 64 << 10);
    let mut failed = 0;
    for id in 1..=6 {
        let fault = Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device));
        // The first sync fills it, one makes its first batches durable for a manifest, one seals it.
        for skipped in 0..4 {
            let mut world = World::with(wide.clone());
            let name = format!("{id:016x}.seg");
            world
                .disk
                .inject(fault.clone().on(&name).after(skipped).times(1));
            for submitted in 1..=100 {
                if world.log.status() != LogStatus::Healthy {
                    break;
                }
                // Several batches in each segment, of which a manifest has synced the first.
                world.submit(Step::Pair);
                while let Ok(drove @ (Drove::Wrote { .. } | Drove::NeedsSegment)) =
                    world.log.drive()
                {
                    if drove == Drove::NeedsSegment {
                        let _ = world.log.prepare();
                    }
                }
                if submitted % 5 == 0 {
                    let _ = world.log.prepare();
                }
            }
            failed += usize::from(world.log.status() != LogStatus::Healthy);
            world.disk.process_crash();
            let (log, recovered) = reopen(&world.disk);
            // The next manifest vouches for what was found.
            settle(&log);
            log.prepare().unwrap();
            drop(log);
            world.disk.power_cut(&Survivors::None);
            let (log, again) = reopen(&world.disk);
            assert_eq!(again.report.damage, [], "{name} {skipped}");
            assert_eq!(again.groups, recovered.groups, "{name} {skipped}");
            for (&group, found) in &again.groups {
                let read = log.read(group, found.first_index, found.last_index + 1, usize::MAX);
                assert!(read.is_ok(), "{name} {skipped}: {read:?}");
            }
        }
    }
    assert!(failed > 6, "{failed}");
}
