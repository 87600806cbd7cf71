//! Every crash of every short program: before each change of the disk, with every subset of what
//! was not synced.
//!
//! Only crashes in the last step of a program are tried: those in the steps before are the crashes
//! of a shorter program.

use std::collections::BTreeSet;
use std::fmt;

use quorate_wal::testing::Survivors;

use crate::common::Random;
use crate::model::{FULL_STEPS, STEPS, Step};
use crate::world::{OLD, World, check, seeds, survivors};

/// A crash of a program, for messages.
struct Case<'a> {
    base: &'a str,
    program: &'a [Step],
    change: usize,
    survivors: &'a Survivors,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            base,
            program,
            change,
            survivors,
        } = self;
        write!(
            f,
            "{base} log, {program:?}, crash before change {change}, {survivors:?}"
        )
    }
}

/// Runs a program and checks every crash in its last step. Returns how many were checked.
fn crash_everywhere(base: &str, begin: &[Step], program: &[Step], seed: u64) -> usize {
    let (&last, steps) = program.split_last().expect("a program has a step");
    let mut world = World::after(begin);
    for &step in steps {
        world.step(step);
    }
    let mut tried = BTreeSet::new();
    for (change, crash) in world.crashes_in(last).into_iter().enumerate() {
        for survivors in survivors(&crash.disk, seed) {
            let disk = crash.disk.fork();
            disk.power_cut(&survivors);
            if !tried.insert((disk.fingerprint(), crash.expected.clone().count())) {
                continue;
            }
            let case = Case {
                base,
                program,
                change,
                survivors: &survivors,
            };
            check(&disk, &world.moments, &crash.expected, &case);
        }
    }
    tried.len()
}

/// Runs all programs up to so many steps. Returns how many crashes were checked.
fn run_all(base: &str, begin: &[Step], steps: &[Step], len_max: usize) -> usize {
    let run = |program: &Vec<Step>| crash_everywhere(base, begin, program, 0);
    (1..=len_max)
        .map(|len| programs(steps, len).iter().map(run).sum::<usize>())
        .sum()
}

/// All programs of so many steps.
fn programs(steps: &[Step], len: usize) -> Vec<Vec<Step>> {
    let mut programs = vec![Vec::new()];
    for _ in 0..len {
        let longer = |program: &Vec<Step>| {
            let program = program.clone();
            let with = move |step: &Step| [program.as_slice(), &[*step]].concat();
            steps.iter().map(with).collect::<Vec<_>>()
        };
        programs = programs.iter().flat_map(longer).collect();
    }
    programs
}

#[test]
fn every_crash_of_programs_up_to_three_steps_on_a_new_log_keeps_what_was_acknowledged() {
    let checked = run_all("a new", &[], &STEPS, 3);
    assert!(checked > 20_000, "{checked}");
}

#[test]
fn every_crash_of_programs_up_to_two_steps_on_an_old_log_keeps_what_was_acknowledged() {
    let checked = run_all("an old", &OLD, &STEPS, 2);
    assert!(checked > 3000, "{checked}");
}

#[test]
fn every_crash_of_programs_on_a_disk_that_fills_up_keeps_what_was_acknowledged() {
    let checked = run_all("a new", &[], &FULL_STEPS, 4) + run_all("an old", &OLD, &FULL_STEPS, 3);
    assert!(checked > 10_000, "{checked}");
}

#[test]
fn every_crash_of_a_sample_of_longer_programs_keeps_what_was_acknowledged() {
    for seed in seeds(1..2) {
        println!("QUORATE_SEED={seed}");
        let mut random = Random::new(seed);
        for (len, count) in [(4, 300), (6, 200), (9, 100)] {
            for _ in 0..count {
                let any = |_| STEPS[random.below(STEPS.len() as u64) as usize];
                let program: Vec<Step> = (0..len).map(any).collect();
                crash_everywhere("a new", &[], &program, seed);
                crash_everywhere("an old", &OLD, &program, seed);
            }
        }
    }
}

#[test]
fn the_old_log_has_everything_that_a_log_can_have() {
    let world = World::after(&OLD);
    let stats = world.log.stats();
    let has_all = stats.segments >= 3 && stats.recycled > 0 && stats.moved_bytes > 0;
    assert!(has_all, "{stats:?}");
}
