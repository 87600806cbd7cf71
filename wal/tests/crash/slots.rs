//! One slot of the manifest rots, whichever it is: the log opens by the other, and the slot is named.

use std::path::{Path, PathBuf};

use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind, Survivors};
use quorate_wal::{
    Damage, DamageKind, Disk, Note, OpenError, RepairStep, SegmentState, SlotState, inspect,
    plan_repair, verify,
};

use crate::common::DIR;
use crate::model::Step;
use crate::world::{Crash, OLD, World, check, check_once, names, options, try_open};

/// Steps in which segments die, are emptied, deleted and used again.
const USING_AGAIN: [Step; 26] = {
    use Step::*;
    [
        Large, Compact, Prepare, Small, Large, Prepare, Snapshot, Large, Prepare, Pair, Compact,
        Prepare, Large, Large, Prepare, Remove, Prepare, Small, Large, Compact, Prepare, Cover,
        Prepare, Large, Snapshot, Prepare,
    ]
};

/// Where the newest slot and the other one are, if both are whole.
fn whole_slots(disk: &CrashDisk) -> Option<[PathBuf; 2]> {
    let [a, b] = inspect(disk, Path::new(DIR)).ok()?.manifest;
    match (a.state, b.state) {
        (SlotState::Whole { is_newest, .. }, SlotState::Whole { .. }) => Some(if is_newest {
            [a.file, b.file]
        } else {
            [b.file, a.file]
        }),
        _ => None,
    }
}

/// Takes the steps, and shows each disk that a power cut may leave before each change of them.
fn at_each_change(show: &mut dyn FnMut(&World, &Crash, &str)) -> World {
    let mut world = World::after(&OLD);
    for (number, step) in USING_AGAIN.into_iter().enumerate() {
        for (change, crash) in world.crashes_in(step).into_iter().enumerate() {
            crash.disk.power_cut(&Survivors::None);
            let what = format!("step {number}, {step:?}, before change {change}");
            show(&world, &crash, &what);
        }
    }
    world
}

#[test]
fn a_log_that_uses_segments_again_opens_whichever_slot_rots() {
    let (mut moments, mut newest_rotted) = (0, 0);
    let world = at_each_change(&mut |world, crash, what| {
        moments += 1;
        let Some(slots) = whole_slots(&crash.disk) else {
            return;
        };
        for (age, slot) in slots.iter().enumerate() {
            let disk = crash.disk.fork();
            assert!(disk.flip(slot, 29, 0));
            let what = format!("{what}, {}", slot.display());
            let dir = Path::new(DIR);
            let verification = verify(&disk, dir, None, &mut |_| ()).unwrap();
            assert!(verification.is_sound(), "{what}: {verification:#?}");
            let note = Note::TornManifest { file: slot.clone() };
            assert!(verification.notes.contains(&note), "{what}");
            let plan = plan_repair(&disk, dir, None, &options(), &mut |_| ()).unwrap();
            let file = slot.clone();
            let step = RepairStep::WriteManifest { file };
            assert!(plan.steps.contains(&step), "{what}");
            // Opened, it has two whole slots again: either may rot next.
            check(&disk, &world.moments, &crash.expected, &what);
            let again = whole_slots(&disk).unwrap_or_else(|| panic!("{what}"));
            for slot in &again {
                let disk = disk.fork();
                assert!(disk.flip(slot, 29, 0));
                try_open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            newest_rotted += usize::from(age == 0);
        }
    });
    let stats = world.log.stats();
    assert!(stats.recycled > 3 && stats.moved_bytes > 0, "{stats:?}");
    // But for the moments while a slot is being written, both are whole.
    assert!(
        4 * newest_rotted > 3 * moments,
        "{newest_rotted} of {moments}"
    );
}

#[test]
fn every_bit_of_either_slot_may_rot() {
    let (mut bits, mut moments) = (0, 0);
    at_each_change(&mut |world, crash, what| {
        moments += 1;
        let Some(slots) = whole_slots(&crash.disk).filter(|_| moments % 25 == 1) else {
            return;
        };
        for slot in slots {
            let bytes = crash.disk.contents(&slot).unwrap();
            let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            for bit in 0..used * 8 {
                let disk = crash.disk.fork();
                assert!(disk.flip(&slot, bit as u64 / 8, (bit % 8) as u8));
                let what = format!("{what}, bit {bit} of {}", slot.display());
                check_once(&disk, &world.moments, &crash.expected, &what);
                bits += 1;
            }
        }
    });
    assert!(bits > 5_000, "{bits}");
}

/// Where an open cannot write the manifest, it deletes nothing that the other slot needs.
#[test]
fn an_open_that_cannot_write_a_slot_keeps_what_that_slot_needs() {
    let mut kept = 0;
    at_each_change(&mut |world, crash, what| {
        let Some([newest, _]) = whole_slots(&crash.disk) else {
            return;
        };
        let full = Effect::Fail(DiskError::NoSpace);
        crash
            .disk
            .inject(Fault::new(OpKind::Write, full).on("MANIFEST"));
        drop(try_open(&crash.disk).unwrap_or_else(|error| panic!("{what}: {error}")));
        crash.disk.heal();
        let found = inspect(&crash.disk, Path::new(DIR)).unwrap();
        let mut states = found.segments.iter().map(|it| it.state);
        kept += usize::from(states.any(|state| state == SegmentState::Dead));
        assert!(crash.disk.flip(&newest, 29, 0));
        check(&crash.disk, &world.moments, &crash.expected, &what);
    });
    assert!(kept > 3, "{kept}");
}

#[test]
fn a_slot_that_is_gone_or_zero_is_written_anew() {
    let world = World::after(&OLD);
    world.disk.power_cut(&Survivors::None);
    let all = world.last();
    for number in 0..2 {
        let slot = &whole_slots(&world.disk).unwrap()[number];
        for way in ["gone", "zero", "cut"] {
            let disk = world.disk.fork();
            match way {
                "gone" => disk.remove(slot).unwrap(),
                "zero" => assert!(disk.overwrite(slot, 0, &[0; 512])),
                _ => assert!(disk.truncate(slot, 70)),
            }
            check(&disk, &world.moments, &(all..=all), &way);
            assert!(whole_slots(&disk).is_some(), "{way}");
        }
    }
}

/// Logs of earlier builds deleted a segment as soon as one slot did without it. Where the other one is
/// all that is left of the manifest, the damaged slot is the cause, and not the files that it missed.
#[test]
fn a_damaged_slot_is_named_and_not_the_segments_that_it_did_without() {
    let mut refused = 0;
    at_each_change(&mut |_, crash, what| {
        let Some([newest, _]) = whole_slots(&crash.disk) else {
            return;
        };
        let dir = Path::new(DIR);
        let dead = inspect(&crash.disk, dir).unwrap().segments.into_iter();
        let dead: Vec<_> = dead.filter(|it| it.state == SegmentState::Dead).collect();
        for segment in &dead {
            crash.disk.remove(&segment.file).unwrap();
        }
        assert!(crash.disk.flip(&newest, 29, 0));
        let verification = verify(&crash.disk, dir, None, &mut |_| ()).unwrap();
        match try_open(&crash.disk) {
            Ok(_) => assert!(verification.is_sound(), "{what}: {verification:#?}"),
            Err(OpenError::Damaged { damage }) => {
                refused += 1;
                let is_slot = |it: &Damage| {
                    (&it.file, it.kind) == (&newest, DamageKind::Manifest) && it.offset == 0
                };
                assert!(is_slot(&damage[0]), "{what}: {damage:?}");
                let mut problems = verification.problems.iter();
                assert!(problems.any(|it| is_slot(&it.damage)), "{what}");
                assert!(!verification.opens, "{what}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
    });
    assert!(refused > 3, "{refused}");
}

/// After one open by this build, such a log is as good as any.
#[test]
fn a_log_of_an_earlier_build_is_made_whole_by_the_first_open() {
    let mut healed = 0;
    at_each_change(&mut |world, crash, what| {
        if whole_slots(&crash.disk).is_none() {
            return;
        }
        let dir = Path::new(DIR);
        let dead = inspect(&crash.disk, dir).unwrap().segments.into_iter();
        let dead: Vec<_> = dead.filter(|it| it.state == SegmentState::Dead).collect();
        for segment in &dead {
            crash.disk.remove(&segment.file).unwrap();
        }
        healed += usize::from(!dead.is_empty());
        drop(try_open(&crash.disk).unwrap_or_else(|error| panic!("{what}: {error}")));
        for slot in whole_slots(&crash.disk).expect("both are whole again") {
            let disk = crash.disk.fork();
            assert!(disk.flip(&slot, 29, 0));
            check(&disk, &world.moments, &crash.expected, &what);
        }
    });
    assert!(healed > 3, "{healed}");
}

#[test]
fn a_fresh_log_has_both_slots() {
    let mut world = World::new();
    world.disk.power_cut(&Survivors::None);
    assert!(names(&world.disk).iter().any(|name| name == "MANIFEST-b"));
    for steps in [&[][..], &[Step::Small], &[Step::Large, Step::Large]] {
        world = World::after(steps);
        world.disk.power_cut(&Survivors::None);
        let all = world.last();
        for slot in whole_slots(&world.disk).expect("both are whole") {
            let disk = world.disk.fork();
            assert!(disk.flip(&slot, 29, 0));
            check(&disk, &world.moments, &(all..=all), &format!("{steps:?}"));
        }
    }
}
