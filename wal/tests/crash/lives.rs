//! Logs that crash over and over: each life begins with what the crash before it left, takes some
//! steps, and ends at any change, with any part of what was not synced.

use quorate_wal::testing::Survivors;

use crate::common::Random;
use crate::model::{FULL_STEPS, STEPS, Step};
use crate::world::{World, check_entries, seeds};

/// After so many preparations at most, a log has what it needs: each does a bounded part.
const PREPARATIONS_MAX: usize = 4;

/// Runs one log through many lives.
fn live(seed: u64, lives: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new();
    for life in 0..lives {
        let mut steps = Vec::new();
        for _ in 0..random.below(12) {
            let all = if random.below(3) == 0 {
                &FULL_STEPS[..]
            } else {
                &STEPS
            };
            steps.push(all[random.below(all.len() as u64) as usize]);
        }
        let what = format!("QUORATE_SEED={seed} life {life}: {steps:?}");
        for &step in &steps {
            world.step(step);
        }
        let last = STEPS[random.below(STEPS.len() as u64) as usize];
        let mut crashes = world.crashes_in(last);
        let crash = crashes.swap_remove(random.below(crashes.len() as u64) as usize);
        let survivors = Survivors::Random {
            seed: random.next(),
            survive_percent: random.below(101) as u8,
            torn_percent: random.below(50) as u8,
        };
        println!(
            "{what}, then {last:?}, {survivors:?}, {:?}",
            crash.disk.pending()
        );
        world = World::resume(&crash, &world.moments, &survivors, &what);
        let groups = &world
            .moments
            .last()
            .expect("there is a first moment")
            .groups;
        check_entries(&world.log, groups, &what);
        if life % 8 == 7 && world.moments.len() > 100 {
            world = World::new();
        }
    }
}

#[test]
fn a_log_that_crashes_all_its_lives_keeps_what_was_acknowledged_in_each() {
    for seed in seeds(1..150) {
        live(seed, 40);
    }
}

#[test]
fn a_log_that_only_fills_up_and_crashes_goes_on_when_there_is_space() {
    for seed in seeds(1..60) {
        let mut random = Random::new(seed);
        let mut world = World::new();
        for _ in 0..200 {
            let step = FULL_STEPS[random.below(FULL_STEPS.len() as u64) as usize];
            world.step(step);
        }
        world.step(Step::Space);
        for _ in 0..PREPARATIONS_MAX {
            world.step(Step::Prepare);
        }
        let count = world.moments.len();
        world.step(Step::Large);
        assert_eq!(world.moments.len(), count + 1, "QUORATE_SEED={seed}");
        world.step(Step::Reopen);
        assert_eq!(world.moments.len(), count + 1, "QUORATE_SEED={seed}");
    }
}
