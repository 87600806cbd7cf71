//! Names that a crash took, brought back, or left double.

use quorate_wal::testing::{Pending, PendingChange, Survivors};

use crate::model::{FULL_STEPS, STEPS, Step};
use crate::world::{OLD, World, check_entries};

/// Logs that go on after a crash in a step that renamed a file, with both of its names on the disk;
/// each with the new name and what was done.
fn half_renamed(begin: &[Step], step: Step) -> Vec<(World, String, String)> {
    let mut world = World::after(begin);
    let mut halves = Vec::new();
    for (change, crash) in world.crashes_in(step).into_iter().enumerate() {
        let pending = crash.disk.pending();
        let is_renamed = |pair: &[Pending]| {
            pair[0].what == PendingChange::NameAdded
                && pair[1].what == PendingChange::NameRemoved
                && pair[0].path != pair[1].path
        };
        for (added, pair) in pending.windows(2).enumerate() {
            if is_renamed(pair) {
                let name = format!("{:?} to {:?}", pair[1].path, pair[0].path);
                let what = format!("{begin:?}, crash before change {change} of {step:?}: {name}");
                let survivors = Survivors::of_mask(1 << added);
                let world = World::resume(&crash, &world.moments, &survivors, &what);
                halves.push((world, name, what));
            }
        }
    }
    halves
}

/// A file that is renamed has its old name and its new one after a crash: when it is made ready to
/// be used again, when recovery keeps it, and when the reserve is made or goes into service. It is
/// used once, and nothing that is written later is written into it twice.
#[test]
fn a_file_that_a_crash_left_under_two_names_is_used_once() {
    use Step::{Fill, Large, Prepare, Small, State};
    let mut found = Vec::new();
    let full = [Small, Prepare, Fill, Large, Large, State, State];
    for begin in [
        &OLD[..],
        &[Large],
        &full[..3],
        &full[..4],
        &full[..5],
        &full[..6],
        &full,
    ] {
        for &step in STEPS.iter().chain(&FULL_STEPS) {
            for (mut world, name, what) in half_renamed(begin, step) {
                // What is ready is written to, and then the reserve, beside each other.
                world.step(Large);
                world.step(Fill);
                for _ in 0..8 {
                    world.step(State);
                }
                world.step(Step::Reopen);
                let groups = &world.moments.last().unwrap().groups;
                check_entries(&world.log, groups, &what);
                found.push(name);
            }
        }
    }
    let is_found = |from: &str, to: &str| {
        let mut names = found.iter();
        assert!(
            names.any(|it| it.contains(from) && it.contains(to)),
            "{found:?}"
        );
    };
    is_found("RESERVE.tmp\" to", "RESERVE\"");
    is_found("RESERVE\" to", ".seg\"");
    is_found(".seg\" to", ".seg\"");
}
