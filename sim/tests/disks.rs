//! Disks that lose what was durable: what nodes make of it, and that a node which goes on in silence is found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use quorate::GroupId;
use quorate_sim::config::Config;
use quorate_sim::faults::{FAULT_CLASSES, FaultClass, SwarmPlan};
use quorate_sim::marks::{Mark, MarkCounts};
use quorate_sim::node::DIR;
use quorate_sim::run;
use quorate_sim::story::{Happening, What};
use quorate_sim::trials::Trials;
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::{End, World};
use quorate_wal::testing::CrashDisk;
use quorate_wal::{Damage, DamageKind, inspect};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A cluster with one group, which keeps its log so long that what it loses is missed.
fn config(seed: u64, nodes: usize, classes: &[FaultClass]) -> Config {
    let mut config = Config::draw(seed);
    config.nodes = nodes;
    // Where disks are damaged a run meets no trials.
    config.trials = Trials::default();
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
/// their disks; and what rare things happened.
fn steps_of(
    class: FaultClass,
    nodes: usize,
    seeds: Range<u64>,
) -> (BTreeMap<&'static str, usize>, MarkCounts) {
    let mut steps = BTreeMap::new();
    let mut marks = MarkCounts::default();
    for seed in seeds {
        let config = config(seed, nodes, &[FaultClass::PowerCut, class]);
        let report = run::<KvWorkload>(seed, config, true);
        let failure = report.failure.map(|failure| failure.what);
        assert_eq!(failure, None, "{class:?}, {nodes} nodes, seed {seed}");
        marks += &report.marks;
        for what in ["damaged", "wiped", "refused", "aside", "back", "stopped"] {
            let is_what = |line: &&String| line.split_whitespace().nth(2) == Some(what);
            *steps.entry(what).or_default() += report.lines.iter().filter(is_what).count();
        }
        let story = report.story.expect("it was kept");
        for Happening { what, .. } in &story.happenings {
            let told = match what {
                What::Unopened(_) => "told unopened",
                What::PutBack => "told put back",
                What::Aside { .. } => "told aside",
                What::Back { .. } => "told back",
                _ => continue,
            };
            *steps.entry(told).or_default() += 1;
        }
    }
    println!("{class:?}, {nodes} nodes: {steps:?}");
    (steps, marks)
}

fn damaging() -> impl Iterator<Item = FaultClass> {
    FAULT_CLASSES.into_iter().filter(|class| class.is_damage())
}

#[test]
fn what_a_disk_loses_is_named_or_brought_back_by_a_snapshot() {
    for class in damaging() {
        let (steps, marks) = steps_of(class, 3, 0..60);
        let has = |what| steps.get(what).is_some_and(|&count| count > 0);
        match class {
            FaultClass::Wipe => {
                assert!(has("wiped") && has("refused"), "{steps:?}");
                assert!(has("told unopened") && has("told put back"), "{steps:?}");
                assert!(marks.of(Mark::WipedAndBack) > 0, "{class:?}");
            }
            FaultClass::Misread => {
                assert!(has("damaged") && !has("refused"), "{steps:?}");
                assert!(marks.of(Mark::MisreadNamed) > 0, "{class:?}");
            }
            _ => {
                assert!(has("damaged") && has("refused"), "{class:?}: {steps:?}");
                assert!(has("told unopened"), "{class:?}: {steps:?}");
                assert!(
                    has("told aside") && has("told back"),
                    "{class:?}: {steps:?}"
                );
                assert!(marks.of(Mark::Quarantined) > 0, "{class:?}");
                assert!(marks.of(Mark::QuarantineOver) > 0, "{class:?}");
            }
        }
        assert_eq!(steps["aside"], steps["back"], "{class:?}: {steps:?}");
        assert_eq!(steps["stopped"], 0, "two of three are enough");
    }
}

/// Nobody has a copy, so what is lost is lost: by name, and with all that is answered still being right.
#[test]
fn one_or_two_nodes_stand_still_rather_than_go_on_without_what_they_lost() {
    let mut stopped = 0;
    for class in damaging() {
        for nodes in [1, 2] {
            let (steps, _) = steps_of(class, nodes, 0..30);
            assert!(steps["damaged"] + steps["wiped"] > 0, "{class:?}");
            stopped += steps["stopped"];
        }
    }
    assert!(stopped > 20, "{stopped}");
}

/// Three nodes that have worked for a while without faults.
fn settled(seed: u64) -> World<KvWorkload> {
    settled_as(seed, config(seed, 3, &[FaultClass::BitRot]))
}

fn settled_as(seed: u64, config: Config) -> World<KvWorkload> {
    let mut world = World::<KvWorkload>::new(seed, config, false);
    world.start_nodes().expect("disks are sound");
    world.start_clerks();
    world.run_until(5 * SECOND_NS).expect("nothing is wrong");
    world
}

#[test]
fn a_disk_that_is_older_than_what_its_node_said_is_found() {
    let mut world = settled(7);
    let older = world.nodes[0].disk.fork();
    world.run_until(10 * SECOND_NS).expect("nothing is wrong");
    world.kill(0, End::Power).expect("it dies");
    world.nodes[0].disk = older;
    // Even if something else was done to it.
    let told = world.set_damaged(0, FaultClass::BitRot);
    told.expect("nothing is wrong");
    let opened = world.heal();
    let what = opened.expect_err("a node that forgot what it said is found");
    assert!(what.contains("n1 of group 0 comes back with"), "{what}");
}

#[test]
fn entries_that_the_log_names_as_lost_set_their_replica_aside() {
    let mut world = settled(7);
    world.kill(0, End::Power).expect("it dies");
    let (file, offset) = rotten_payload(&world.nodes[0].disk);
    assert!(world.nodes[0].disk.flip(&file, offset, 3), "it is there");
    let told = world.set_damaged(0, FaultClass::BitRot);
    told.expect("nothing is wrong");
    world.heal().expect("it says what it lost");
    let process = world.nodes[0].process.as_ref().expect("it runs");
    assert!(process.stand(GroupId(0)).is_aside);
    assert!(world.has_aside());
}

#[test]
fn a_replica_whose_snapshot_rotted_is_quarantined() {
    let mut config = config(7, 3, &[FaultClass::BitRot]);
    config.options.snapshot_log_bytes = 512;
    let mut world = settled_as(7, config);
    world.kill(0, End::Power).expect("it dies");
    let disk = &world.nodes[0].disk;
    let mut files = disk.files().into_iter();
    let file = files.find(|path| path.extension().is_some_and(|it| it == "snap"));
    let file = file.expect("it has a snapshot");
    let content = disk.contents(&file).expect("it is there");
    assert!(disk.flip(&file, content.len() as u64 / 2, 3));
    let told = world.set_damaged(0, FaultClass::BitRot);
    told.expect("nothing is wrong");
    world
        .heal()
        .expect("one group does not keep it from opening");
    let process = world.nodes[0].process.as_ref().expect("it opens");
    let folder = file
        .parent()
        .and_then(Path::file_name)
        .expect("of its group");
    let group = u64::from_str_radix(&folder.to_string_lossy(), 16).expect("a number");
    let view = process.view(GroupId(group));
    assert!(view.is_aside);
    let trouble = view.trouble.unwrap_or_default();
    assert!(trouble.contains(&*file.to_string_lossy()), "{trouble}");
    assert!(
        world.nodes[0].disk.files().contains(&file),
        "it stays until another one is here"
    );
}

#[test]
fn a_node_that_stands_aside_on_a_sound_disk_is_found() {
    let mut world = settled(7);
    world.kill(0, End::Power).expect("it dies");
    let (file, offset) = rotten_payload(&world.nodes[0].disk);
    world.nodes[0].disk.flip(&file, offset, 3);
    let what = world.heal().expect_err("nobody knows of damage");
    assert!(what.contains("invariant 17"), "{what}");
}

/// Whether a payload is missed, and nothing that the log itself could not do without.
fn is_payload(damage: &[Damage]) -> bool {
    !damage.is_empty() && damage.iter().all(|it| it.kind == DamageKind::Payload)
}

/// A byte on a disk without which its log names an entry as lost.
fn rotten_payload(disk: &CrashDisk) -> (PathBuf, u64) {
    let dir = Path::new(DIR).join("wal");
    let files = disk.files().into_iter().rev();
    for file in files.filter(|path| path.extension().is_some_and(|it| it == "seg")) {
        let len = disk.contents(&file).unwrap_or_default().len() as u64;
        for offset in (0..len).step_by(64) {
            let copy = disk.fork();
            copy.flip(&file, offset, 3);
            let found = inspect(&copy, &dir);
            if found.is_ok_and(|found| is_payload(&found.damage)) {
                return (file, offset);
            }
        }
    }
    panic!("whatever byte is flipped, no entry is named as lost");
}
