//! What clusters cost: passes, messages and bytes of groups that have nothing to do, and bytes sent for each byte proposed.
//!
//! Virtual time, so that a busy machine changes nothing: what is counted is the same in each run.

use std::time::Duration;

use quorate::Options;
use quorate_sim::budget::Budget;
use quorate_sim::config::Config;
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::{Counts, World};

const MS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * MS;

/// A cluster without faults, with frames that are encoded.
fn world(nodes: usize, groups: u32, workers: usize, clerks: usize) -> World<KvWorkload> {
    let mut options = Options::default();
    options.workers = workers;
    options.call_timeout = Duration::from_secs(4);
    options.log.segment_bytes_min = 1 << 20;
    let mut config = Config::calm(7, nodes, clerks, options);
    config.groups = groups;
    config.is_encoded = true;
    config.has_memory_transport = false;
    config.sync_ns = MS;
    config.think_ns = 5 * MS;
    let mut world = World::new(7, config, false);
    world.start_nodes().expect("fresh disks");
    let groups = groups as usize;
    let has_leaders = world.run_until_holds(30 * SECOND_NS, |world| {
        world
            .groups()
            .filter(|&group| world.leader(group).is_some())
            .count()
            == groups
    });
    assert!(has_leaders.expect("it is sound"), "each group has a leader");
    world
}

fn spent_in(world: &mut World<KvWorkload>, during_ns: u64) -> Counts {
    let before = world.counts();
    let until_ns = world.now_ns + during_ns;
    world.run_until(until_ns).expect("it is sound");
    world.counts() - before
}

#[test]
fn groups_with_nothing_to_do_cost_their_heartbeats_and_no_more() {
    for (nodes, groups, workers) in [(1, 8, 1), (3, 1, 1), (3, 8, 1), (3, 8, 4), (5, 4, 2)] {
        let mut world = world(nodes, groups, workers, 1);
        spent_in(&mut world, SECOND_NS);
        let spent = spent_in(&mut world, 10 * SECOND_NS);
        println!("{nodes} nodes, {groups} groups, {workers} workers, 10 s: {spent:?}");
        let budget = Budget::idle(&world.config, 10 * SECOND_NS);
        budget.check(&spent).expect("it is at rest");
        let half = Budget::idle(&world.config, 5 * SECOND_NS);
        assert!(
            nodes == 1 || half.check(&spent).is_err(),
            "the budget is a tight one"
        );
    }
}

/// Bytes of entries that the leader of three sent for each byte that it took, two peers having been sent each, with a follower
/// whose disk takes so long for each sync.
fn sent_for_each_byte(sync_ms: u64) -> f64 {
    let mut world = world(3, 1, 1, 6);
    let leader = world.groups().find_map(|group| world.leader(group));
    let slow = (leader.expect("there is one") + 1) % 3;
    world.slow_disk(slow, sync_ms * MS);
    world.start_clerks();
    spent_in(&mut world, SECOND_NS);
    let spent = spent_in(&mut world, 20 * SECOND_NS);
    assert!(spent.proposed_bytes > 10_000, "{spent:?}");
    let ratio = spent.appended_bytes as f64 / spent.proposed_bytes as f64 / 2.0;
    println!(
        "a follower with syncs of {sync_ms} ms: {ratio:.2} bytes sent for each byte: {spent:?}"
    );
    ratio
}

#[test]
fn each_byte_is_sent_once_to_each_peer_with_a_quick_disk() {
    for sync_ms in [0, 1, 20] {
        let ratio = sent_for_each_byte(sync_ms);
        assert!(ratio < 1.05, "{ratio} at {sync_ms} ms");
    }
}

#[test]
fn a_peer_with_a_slow_disk_is_not_sent_everything_again_and_again() {
    for sync_ms in [40, 55, 80, 150, 200, 300] {
        let ratio = sent_for_each_byte(sync_ms);
        assert!(ratio < 1.05, "{ratio} at {sync_ms} ms");
    }
}
