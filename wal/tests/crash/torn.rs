//! A write that a power cut tore: the batch is there whole or not at all.

use std::path::Path;

use quorate_wal::Disk;
use quorate_wal::testing::{CrashDisk, Survivors};

use crate::common::{BLOCK, DIR};
use crate::model::Step;
use crate::rot::{Outcome, sample};
use crate::world::{Crash, OLD, World, before_sync, check, check_once, in_flight};

const SECTOR: usize = 512;

/// Batches that wait for their sync: in a segment that is in use, in a new one together with its
/// header, and in files that were other segments before.
fn waiting() -> Vec<(World, Crash)> {
    let begins: [&[Step]; 4] = [
        &[Step::Small],
        &[Step::Large],
        &OLD,
        &[&OLD[..], &[Step::Small, Step::Compact, Step::Prepare]].concat(),
    ];
    let mut all = Vec::new();
    for begin in begins {
        for step in [Step::Together, Step::Pair] {
            let mut world = World::after(begin);
            let crash = before_sync(&mut world, step);
            all.push((world, crash));
        }
    }
    all
}

/// What is there of the write is whatever was there before, up to a place.
#[test]
fn a_batch_torn_at_any_byte_is_cut_whole() {
    let mut whole = 0;
    for (world, crash) in waiting() {
        let (path, offset, bytes) = in_flight(&crash);
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        for len in 0..=bytes.len() {
            let within = len % BLOCK;
            if within > 300 && len % 37 != 0 && len + 16 < used {
                continue; // Inside of a payload one place is like another.
            }
            let disk = crash.disk.fork();
            disk.power_cut(&Survivors::None);
            assert!(disk.overwrite(&path, offset, &bytes[..len]));
            let what = format!("{len} bytes of {}", bytes.len());
            let shown = check_once(&disk, &world.moments, &crash.expected, &what);
            let is_whole = shown == *crash.expected.end();
            assert!(
                is_whole || shown == *crash.expected.start(),
                "{what}: half of it"
            );
            assert!(is_whole || len < used, "{what}: all of it, and it was cut");
            whole += usize::from(is_whole);
        }
    }
    assert!(whole > 0);
}

/// Ten blocks and more, each on the disk or not, in all combinations.
#[test]
fn a_batch_that_lost_any_subset_of_its_blocks_is_cut_whole() {
    for begin in [&[Step::Large][..], &OLD] {
        let mut world = World::after(begin);
        let crash = before_sync(&mut world, Step::Huge);
        crash.disk.sync_dir(Path::new(DIR)).unwrap();
        let blocks = crash.disk.pending().len();
        assert!((10..=13).contains(&blocks), "{:?}", crash.disk.pending());
        for mask in 0..1 << blocks {
            let disk = crash.disk.fork();
            disk.power_cut(&Survivors::of_mask(mask));
            let what = format!("blocks {mask:b}");
            let shown = check_once(&disk, &world.moments, &crash.expected, &what);
            let is_whole = mask == (1 << blocks) - 1;
            assert_eq!(shown == *crash.expected.end(), is_whole, "{what}");
        }
    }
}

/// One sector of the write is missing, or only one is there.
#[test]
fn a_batch_that_lost_any_sector_is_cut_whole() {
    for (world, crash) in waiting() {
        let blocks = crash.disk.pending().len();
        for sector in 0..blocks * 8 {
            for is_kept in [true, false] {
                let mut sectors = vec![if is_kept { 0 } else { u8::MAX }; blocks];
                sectors[sector / 8] ^= 1 << (sector % 8);
                let disk = crash.disk.fork();
                disk.power_cut(&Survivors::Sectors(sectors.clone()));
                check(
                    &disk,
                    &world.moments,
                    &crash.expected,
                    &format!("{sectors:?}"),
                );
            }
        }
    }
}

/// A device that had written a sector may still give zeros for it.
#[test]
fn a_batch_with_a_zeroed_sector_is_cut_whole_if_it_was_not_acknowledged() {
    for (world, crash) in waiting() {
        let (path, offset, bytes) = in_flight(&crash);
        for at in (0..bytes.len()).step_by(SECTOR) {
            let disk = crash.disk.fork();
            disk.power_cut(&Survivors::All);
            assert!(disk.overwrite(&path, offset + at as u64, &[0; SECTOR]));
            let what = format!("sector at {at}");
            let shown = check_once(&disk, &world.moments, &crash.expected, &what);
            let is_needed = bytes[at..at + SECTOR].iter().any(|&byte| byte != 0);
            assert_eq!(shown == *crash.expected.start(), is_needed, "{what}");
        }
    }
}

/// Sectors of what was acknowledged, and covered by what came after, are zeros.
#[test]
fn a_zeroed_sector_of_acknowledged_data_is_named() {
    let sample = sample(true, true);
    let mut named = 0;
    for (path, bytes) in sample.files() {
        for at in (0..bytes.len()).step_by(SECTOR) {
            let disk: CrashDisk = sample.damaged();
            assert!(disk.overwrite(&path, at as u64, &[0; SECTOR]));
            let what = format!("{} sector at {at}", path.display());
            let outcome = sample.verdict(&disk, &path, at as u64, &what);
            let is_segment = path.extension().is_some_and(|it| it == "seg");
            let was_zero = bytes[at..at + SECTOR].iter().all(|&byte| byte == 0);
            // A manifest has a second slot, and an index can be made anew.
            assert!(!was_zero || outcome == Outcome::Whole, "{what}");
            named += usize::from(is_segment && outcome == Outcome::Named);
        }
    }
    assert!(named > 20, "{named}");
}

/// The term and the vote are in a batch like everything else: a torn one leaves those before it,
/// and only if they were never acknowledged.
#[test]
fn a_torn_hard_state_leaves_the_one_before_it_and_never_a_mixture() {
    for begin in [&[Step::State][..], &[Step::Large, Step::State], &OLD] {
        let mut world = World::after(begin);
        let crash = before_sync(&mut world, Step::State);
        let blocks = crash.disk.pending().len();
        for seed in 0..200 {
            let disk = crash.disk.fork();
            disk.power_cut(&Survivors::Random {
                seed,
                survive_percent: 90,
                torn_percent: 90,
            });
            check_once(
                &disk,
                &world.moments,
                &crash.expected,
                &format!("seed {seed}, {blocks} blocks"),
            );
        }
        // Once it was acknowledged it is there, whatever else is lost.
        world.disk.power_cut(&Survivors::None);
        let all = world.last();
        check(&world.disk, &world.moments, &(all..=all), &"acknowledged");
    }
}
