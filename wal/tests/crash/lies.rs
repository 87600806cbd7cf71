//! A device that acknowledges what it does not keep.

use quorate_wal::OpenError;
use quorate_wal::testing::{Effect, Fault, OpKind, Survivors};

use crate::common::BLOCK;
use crate::model::Step;
use crate::world::{World, check, options, try_open};

/// The write of a batch was acknowledged and never reached the device, and something later did: a
/// later batch, or an empty one, says that it was durable, and so does the header of the next
/// segment.
#[test]
fn a_lost_write_is_named_where_anything_later_survived() {
    let mut options = options();
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 64 << 10;
    for later in [
        &[Step::Small][..],
        &[Step::Cover],
        &[Step::Huge],
        &[Step::Huge, Step::Huge],
    ] {
        for effect in [Effect::Lost, Effect::Misdirected(10)] {
            let mut world = World::with(options.clone());
            world.step(Step::Large);
            world
                .disk
                .inject(Fault::new(OpKind::Write, effect).on(".seg").times(1));
            world.step(Step::Pair);
            for &step in later {
                world.step(step);
            }
            world.disk.power_cut(&Survivors::None);
            let what = format!("{effect:?}, then {later:?}");
            let damage = match try_open(&world.disk) {
                Err(OpenError::Damaged { damage }) => damage,
                Ok((_, recovered)) => {
                    // In a sealed segment it costs the two entries, and nothing else.
                    let lost = recovered
                        .groups
                        .iter()
                        .map(|(id, it)| (id.0, it.lost.clone()));
                    let expected = [(1, vec![(2, 2)]), (2, vec![(1, 1)])];
                    assert_eq!(lost.collect::<Vec<_>>(), expected, "{what}");
                    recovered.report.damage
                }
                Err(error) => panic!("{what}: {error}"),
            };
            assert!(
                damage[0].file.ends_with("0000000000000001.seg"),
                "{what}: {damage:?}"
            );
            assert_eq!(damage[0].offset, 3 * BLOCK as u64, "{what}: {damage:?}");
        }
    }
}

/// The same for the very last batch, or for syncs that do nothing: nobody can tell. The log is then
/// one that was acknowledged before.
#[test]
fn a_lost_write_that_nothing_follows_leaves_the_log_before_it() {
    for lies in [OpKind::Write, OpKind::Sync] {
        for begin in [&[Step::Small][..], &[Step::Large]] {
            let mut world = World::after(begin);
            let before = world.last();
            world.disk.inject(Fault::new(lies, Effect::Lost).on(".seg"));
            world.step(Step::Pair);
            world.disk.power_cut(&Survivors::None);
            world.disk.heal();
            check(
                &world.disk,
                &world.moments,
                &(before..=before),
                &format!("{lies:?}"),
            );
        }
    }
}

/// All syncs lie from some time on, and the power cut leaves any part of what was written since:
/// the log is one that was acknowledged once, or names what is missing. It never invents anything.
#[test]
fn syncs_that_lie_never_make_a_log_that_was_never_written() {
    let mut world = World::after(&[Step::Small, Step::Large]);
    world.disk.inject(Fault::new(OpKind::Sync, Effect::Lost));
    for step in [Step::Pair, Step::Conflict, Step::Small, Step::State] {
        world.step(step);
    }
    let (mut named, mut opened) = (0, 0);
    for seed in 0..300 {
        let disk = world.disk.fork();
        disk.power_cut(&Survivors::Random {
            seed,
            survive_percent: 60,
            torn_percent: 20,
        });
        match try_open(&disk) {
            Ok((log, recovered)) => {
                opened += 1;
                let is_known = world
                    .moments
                    .iter()
                    .any(|it| it.recovered == recovered.groups);
                let is_lost = recovered.groups.values().any(|it| !it.lost.is_empty());
                assert!(is_known || is_lost, "seed {seed}: {:?}", recovered.groups);
                drop(log);
            }
            Err(OpenError::Damaged { .. } | OpenError::MissingSegment { .. }) => named += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(named > 0 && opened > 0, "{named} named, {opened} opened");
}
