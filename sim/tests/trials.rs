//! What runs meet beside faults: that a lack of progress is noticed, and what operators get wrong.

use quorate::simulation::Stand;
use quorate_sim::config::Config;
use quorate_sim::marks::Mark;
use quorate_sim::trials::{Mistake, Sickness, Trials};
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::World;
use quorate_sim::{Report, run};

const SECOND_NS: u64 = 1_000_000_000;

fn config(seed: u64) -> Config {
    let mut config = Config::plain(seed);
    config.nodes = 3;
    config.clerks = 4;
    config.plan = quorate_sim::faults::SwarmPlan::none();
    config
}

#[test]
fn a_group_that_takes_no_writes_is_found() {
    let mut world = World::<KvWorkload>::new(1, config(1), false);
    world.start_nodes().expect("fresh disks");
    let leads = world.run_until_holds(20 * SECOND_NS, |world| {
        world.groups().all(|group| world.leader(group).is_some())
    });
    assert!(leads.expect("it is sound"), "somebody leads");
    let until_ns = world.now_ns + 30 * SECOND_NS;
    world.sicken(Sickness::Slow, false, until_ns);
    world.start_clerks();
    let stalls = |world: &mut World<KvWorkload>| {
        world.run_until_holds(12 * SECOND_NS, |world| world.stalled().is_some())
    };
    assert!(
        !stalls(&mut world).expect("it is sound"),
        "two disks are quick"
    );
    let leader = world.groups().find_map(|group| world.leader(group));
    let leader = leader.expect("somebody leads");
    for other in (0..3).filter(|&node| node != leader) {
        world.abandon(other).expect("a process that ends");
    }
    assert!(
        stalls(&mut world).expect("it is sound"),
        "one node is no majority"
    );
}

/// Seed 22108 of scheme 10: a sync that was on its way when all was healed ended when the disk would have gone on by itself,
/// so that two of three disks stood still where one was to.
#[test]
fn a_disk_that_stands_still_goes_on_when_it_is_healed() {
    let mut world = World::<KvWorkload>::new(1, config(1), false);
    world.start_nodes().expect("fresh disks");
    let leads =
        |world: &World<KvWorkload>| world.groups().all(|group| world.leader(group).is_some());
    let has_leader = world.run_until_holds(20 * SECOND_NS, leads);
    assert!(has_leader.expect("it is sound"), "somebody leads");
    world.sicken(Sickness::Stuck, false, world.now_ns + 1_000 * SECOND_NS);
    world.end_progress();
    world.start_clerks();
    let (began_ns, before) = (world.now_ns, world.successes());
    world.run_until(began_ns + SECOND_NS).expect("it is sound");
    assert_ne!(world.successes(), before, "two disks are a majority");
    world.heal().expect("it is sound");
    world.stop_clerks();
    // Replicas apply what others have on their disks: what is on a disk of their own shows where it stands still.
    let all_durable = |world: &World<KvWorkload>| {
        let processes = world.nodes.iter().filter_map(|slot| slot.process.as_ref());
        let lags = |stand: Stand| stand.durable < stand.last;
        let stands = processes.map(|process| process.stand(quorate::GroupId(0)));
        world.outstanding() == 0 && !stands.into_iter().any(lags)
    };
    assert!(!all_durable(&world), "one disk stood still");
    let catches_up = world.run_until_holds(20 * SECOND_NS, all_durable);
    assert!(catches_up.expect("it is sound"), "its disk goes on");
}

/// The run of three nodes whose operator gets something wrong, which must not fail.
fn play(seed: u64, mistake: Mistake) -> Report {
    let mut config = config(seed);
    config.trials = Trials {
        mistake: Some(mistake),
        ..Trials::default()
    };
    let report = run::<KvWorkload>(seed, config, false);
    let failure = report.failure.as_ref().map(|failure| &failure.what);
    assert_eq!(failure, None, "{mistake:?}, seed {seed}");
    assert_eq!(
        report.marks.of(Mark::OperatorMistake),
        1,
        "{mistake:?}, seed {seed}"
    );
    report
}

#[test]
fn nodes_with_swapped_directories_are_refused_and_nothing_is_lost() {
    for seed in 0..8 {
        play(seed, Mistake::Swapped);
    }
}

#[test]
fn nodes_with_an_empty_directory_or_an_older_copy_are_refused_and_nothing_is_lost() {
    let refused = [
        (Mistake::Wiped, Mark::EmptyRefused),
        (Mistake::Older, Mark::OlderCopyRefused),
    ];
    for seed in 0..8 {
        for (mistake, mark) in refused {
            let report = play(seed, mistake);
            assert!(report.marks.of(mark) > 0, "{mistake:?}, seed {seed}");
        }
    }
}
