//! Names that a crash took, brought back, or left double.

use std::io::IoSlice;
use std::path::Path;

use quorate_wal::Disk;
use quorate_wal::testing::{Pending, PendingChange, Survivors};

use crate::common::{BLOCK, DIR};
use crate::model::{FULL_STEPS, STEPS, Step};
use crate::world::{OLD, World, check, check_entries};

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
                let name = format!("{} to {}", pair[1].path.display(), pair[0].path.display());
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
    is_found("RESERVE.tmp to", "RESERVE");
    is_found("RESERVE to", ".seg");
    is_found(".seg to", ".seg");
}

/// Everything that waits survives a power cut except a name: a segment whose name is lost was not
/// in use, because its directory is synced before anything is written to it.
#[test]
fn a_lost_name_costs_nothing_that_was_acknowledged() {
    let mut lost = 0;
    for begin in [&[][..], &[Step::Large], &OLD] {
        for step in STEPS {
            let mut world = World::after(begin);
            for (change, crash) in world.crashes_in(step).into_iter().enumerate() {
                let pending = crash.disk.pending();
                for (position, it) in pending.iter().enumerate() {
                    if !matches!(
                        it.what,
                        PendingChange::NameAdded | PendingChange::NameRemoved
                    ) {
                        continue;
                    }
                    let mut sectors = vec![u8::MAX; pending.len()];
                    sectors[position] = 0;
                    let disk = crash.disk.fork();
                    disk.power_cut(&Survivors::Sectors(sectors));
                    let what =
                        format!("{begin:?}, {step:?} before change {change}, without {it:?}");
                    check(&disk, &world.moments, &crash.expected, &what);
                    lost += 1;
                }
            }
        }
    }
    assert!(lost > 50, "{lost}");
}

/// Files that a crash left half made: of any size, of zeros or of the beginning of a header. Those
/// that were never in service are given up or made ready, and the log goes on.
#[test]
fn a_file_that_was_never_in_service_is_reclaimed_whatever_its_size_and_content() {
    let world = World::after(&[Step::Large, Step::Pair]);
    world.disk.power_cut(&Survivors::None);
    let all = world.last();
    let dir = Path::new(DIR);
    let header = world
        .disk
        .contents(&dir.join("0000000000000001.seg"))
        .unwrap();
    for (name, id) in [("0000000000000003.seg", 3), ("0000000000000009.seg", 9)] {
        for len in [0, 1, 63, 2048, 4095, 4096, 4097, 8192, 16 << 10, 64 << 10] {
            for half in [0, 8, 100, 2000, 4000] {
                let disk = world.disk.fork();
                if disk.contents(&dir.join(name)).is_some() {
                    disk.remove(&dir.join(name)).unwrap();
                }
                let file = disk.create(&dir.join(name)).unwrap();
                let mut bytes = vec![0; len];
                let half = half.min(len);
                bytes[..half].copy_from_slice(&header[..half]);
                file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
                file.sync_data().unwrap();
                disk.sync_dir(dir).unwrap();
                drop(file);
                disk.power_cut(&Survivors::None);
                let what = format!("{id}: {half} bytes of a header in {len}");
                check(&disk, &world.moments, &(all..=all), &what);
            }
        }
    }
}

/// A file that is not in service begins with the header of the name that recovery would give it. It
/// is not used again: under that name it would pass for a segment in service.
#[test]
fn a_file_that_begins_with_the_header_of_the_next_segment_is_not_used_again() {
    let world = World::after(&[Step::Large, Step::Pair]);
    let dir = Path::new(DIR);
    let mut ahead = World::after(&[Step::Large, Step::Pair]);
    let fourth = dir.join("0000000000000004.seg");
    let is_begun = |world: &World| {
        let bytes = world.disk.contents(&fourth);
        bytes.is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0))
    };
    while !is_begun(&ahead) {
        ahead.step(Step::Large);
    }
    let header = ahead.disk.contents(&fourth).unwrap();
    let disk = &world.disk;
    disk.power_cut(&Survivors::None);
    let third = dir.join("0000000000000003.seg");
    if disk.contents(&third).is_some() {
        disk.remove(&third).unwrap();
    }
    let file = disk.create(&third).unwrap();
    file.zero_fill(16 << 10).unwrap();
    file.write_at(0, &[IoSlice::new(&header[..BLOCK])]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(dir).unwrap();
    drop(file);
    disk.power_cut(&Survivors::None);
    let all = world.last();
    check(
        disk,
        &world.moments,
        &(all..=all),
        &"a header that is not its own",
    );
}
