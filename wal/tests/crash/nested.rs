//! Crashes of the recovery itself, and of the recovery from that: whatever was half done, the next
//! recovery finds what the first one would have found.

use std::cell::RefCell;
use std::collections::BTreeSet;

use quorate_wal::testing::{CrashDisk, Survivors};

use crate::common::Random;
use crate::model::{STEPS, Step};
use crate::world::{Moment, OLD, World, check, check_once, crashes_in_open, seeds, survivors};

/// What was crashed, and where, for messages.
type Trail = Vec<String>;

/// A disk after a power cut, and what must be found on it.
struct Found<'a> {
    moments: &'a [Moment],
    shown: usize,
    /// The disks that were crashed and checked already, by depth and fingerprint.
    tried: RefCell<BTreeSet<(u32, u64)>>,
}

impl Found<'_> {
    /// Crashes the recovery at each of its changes, with each subset of what is pending then, and
    /// again in the recovery from each of these, `depth` times within each other. Returns how many
    /// recoveries were checked.
    fn crash_recovery(&self, disk: &CrashDisk, depth: u32, seed: u64, trail: &Trail) -> usize {
        let mut checked = 0;
        for (change, crashed) in crashes_in_open(&disk.fork()).into_iter().enumerate() {
            for survivors in survivors(&crashed, seed) {
                let disk = crashed.fork();
                disk.power_cut(&survivors);
                if !self.tried.borrow_mut().insert((depth, disk.fingerprint())) {
                    continue;
                }
                let mut trail = trail.clone();
                trail.push(format!(
                    "recovery crashed before change {change}, {survivors:?}"
                ));
                if depth > 1 {
                    checked += self.crash_recovery(&disk, depth - 1, seed, &trail);
                }
                let what = trail.join("; ");
                check_once(&disk, self.moments, &(self.shown..=self.shown), &what);
                checked += 1;
            }
        }
        checked
    }

    /// As [`crash_recovery`](Self::crash_recovery), at one change and with one subset each time, so
    /// many levels deep.
    fn crash_at_random(&self, disk: &CrashDisk, depth: u32, seed: u64, trail: &Trail) {
        let mut random = Random::new(seed);
        let mut disk = disk.fork();
        let mut trail = trail.clone();
        trail.push(format!("QUORATE_SEED={seed}"));
        for _ in 0..depth {
            let mut crashes = crashes_in_open(&disk);
            disk = crashes.swap_remove(random.below(crashes.len() as u64) as usize);
            disk.power_cut(&Survivors::Random {
                seed: random.next(),
                survive_percent: 50,
                torn_percent: 30,
            });
        }
        let what = trail.join("; ");
        check(&disk, self.moments, &(self.shown..=self.shown), &what);
    }
}

/// Crashes in a step, each with what must be found, and shows each to `visit`.
fn for_each_crash(
    begin: &[Step],
    step: Step,
    mut visit: impl FnMut(&Found<'_>, &CrashDisk, &Trail),
) {
    let mut world = World::after(begin);
    for (change, crash) in world.crashes_in(step).into_iter().enumerate() {
        for survivors in survivors(&crash.disk, 0) {
            let disk = crash.disk.fork();
            disk.power_cut(&survivors);
            let trail = vec![format!(
                "{} steps, {step:?} crashed before change {change}, {survivors:?}",
                begin.len()
            )];
            let shown = check_once(&disk.fork(), &world.moments, &crash.expected, &trail[0]);
            let moments = &world.moments;
            let tried = RefCell::default();
            let found = Found {
                moments,
                shown,
                tried,
            };
            visit(&found, &disk, &trail);
        }
    }
}

#[test]
fn a_recovery_that_crashes_at_any_change_is_done_again() {
    let mut checked = 0;
    for begin in [&[][..], &OLD, &[Step::Large, Step::Reopen]] {
        for step in STEPS {
            for_each_crash(begin, step, |found, disk, trail| {
                checked += found.crash_recovery(disk, 1, 0, trail);
            });
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn a_recovery_that_crashes_in_a_recovery_that_crashed_is_done_again() {
    let mut checked = 0;
    for step in [Step::Large, Step::Reopen] {
        for begin in [&[][..], &[Step::Large]] {
            for_each_crash(begin, step, |found, disk, trail| {
                checked += found.crash_recovery(disk, 2, 0, trail);
            });
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn many_recoveries_that_crash_within_each_other_are_done_again() {
    for seed in seeds(1..4) {
        for begin in [&[][..], &OLD] {
            for step in STEPS {
                for_each_crash(begin, step, |found, disk, trail| {
                    found.crash_at_random(disk, 3, seed, trail);
                    found.crash_at_random(disk, 6, seed, trail);
                });
            }
        }
    }
}
