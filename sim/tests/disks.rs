//! Disks that lose what was durable: what nodes make of it, and that a node which goes on in silence is found.

use std::collections::BTreeMap;
use std::ops::Range;

use quorate_sim::config::Config;
use quorate_sim::faults::{FAULT_CLASSES, FaultClass, SwarmPlan};
use quorate_sim::run;
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::{End, World};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Three nodes with one group, which keep their log so long that what it loses is missed.
fn config(seed: u64, classes: &[FaultClass]) -> Config {
    let mut config = Config::draw(seed);
    config.nodes = 3;
    config.groups = 1;
    config.options.trailing_entries = 4;
    config.options.snapshot_log_bytes = 1 << 20;
    config.plan = SwarmPlan {
        classes: classes.to_vec(),
        gap_ns: SECOND_NS / 5,
    };
    config
}

/// How often each of these steps is in the traces of runs with one class of damage, and power cuts that have nodes read
/// their disks.
fn steps_of(class: FaultClass, seeds: Range<u64>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for seed in seeds {
        let config = config(seed, &[FaultClass::PowerCut, class]);
        let report = run::<KvWorkload>(seed, config, true);
        let failure = report.failure.map(|failure| failure.what);
        assert_eq!(failure, None, "{class:?}, seed {seed}");
        for what in ["damaged", "wiped", "refused", "aside", "back"] {
            let is_what = |line: &&String| line.split_whitespace().nth(2) == Some(what);
            *counts.entry(what).or_default() += report.lines.iter().filter(is_what).count();
        }
    }
    counts
}

#[test]
fn what_a_disk_loses_is_named_or_brought_back_by_a_snapshot() {
    let classes = FAULT_CLASSES.into_iter().filter(|class| class.is_damage());
    for class in classes {
        let steps = steps_of(class, 0..60);
        println!("{class:?}: {steps:?}");
        let has = |what| steps[what] > 0;
        match class {
            FaultClass::Wipe => assert!(has("wiped") && has("refused"), "{steps:?}"),
            FaultClass::Misread => assert!(has("damaged"), "{steps:?}"),
            _ => assert!(
                has("damaged") && has("refused") && has("aside"),
                "{class:?}: {steps:?}"
            ),
        }
        assert_eq!(steps["aside"], steps["back"], "{class:?}: {steps:?}");
    }
}

#[test]
fn a_disk_that_is_older_than_what_its_node_said_is_found() {
    let seed = 7;
    let mut world = World::<KvWorkload>::new(seed, config(seed, &[]), false);
    world.start_nodes().expect("disks are sound");
    world.start_clerks();
    world.run_until(5 * SECOND_NS).expect("nothing is wrong");
    let older = world.nodes[0].disk.fork();
    world.run_until(10 * SECOND_NS).expect("nothing is wrong");
    world.kill(0, End::Power).expect("it dies");
    world.nodes[0].disk = older;
    let opened = world.heal();
    let what = opened.expect_err("a node that forgot what it said is found");
    assert!(
        what.contains("node n1") && what.contains("lost in silence"),
        "{what}"
    );
}
