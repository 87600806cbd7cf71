//! A log that does not sync its batches: a power cut takes the end of it, in any pieces, and what
//! is left is a log that was once acknowledged.

use std::collections::BTreeSet;

use quorate_wal::testing::Survivors;
use quorate_wal::{Durability, LogOptions};

use crate::common::Random;
use crate::model::{STEPS, Step};
use crate::world::{Crash, World, check, check_entries, options, seeds, survivors};

fn unsynced() -> LogOptions {
    let mut options = options();
    options.durability = Durability::ProcessCrash;
    options
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
