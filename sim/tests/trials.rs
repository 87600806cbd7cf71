//! What runs meet beside faults: that a lack of progress is noticed, and what operators get wrong.

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
