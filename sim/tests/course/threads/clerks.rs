//! Scenarios with clerks, played as over virtual time, but once instead of three times.

use super::stage::Threads;
use crate::harness::generic::Generic;
use crate::kv::speed_with;

/// The course's `maxraftstate`.
const LOG_BYTES: u64 = 1_000;

fn play(scenario: Generic, seed: u64) {
    let clerks = Threads::clerks(
        seed,
        scenario.nodes,
        scenario.clients + 1,
        scenario.log_bytes_max,
    );
    scenario.play_with(clerks, 1);
}

#[test]
fn persist_concurrent_3a() {
    play(Generic::new(5, 5).crashes(), 1);
}

#[test]
fn persist_partition_unreliable_linearizable_3a() {
    let scenario = Generic::new(15, 7).unreliable().crashes().partitions();
    play(scenario.random_keys(), 2);
}

#[test]
fn speed_3b() {
    speed_with(Threads::clerks(3, 3, 1, Some(LOG_BYTES)));
}

#[test]
fn snapshot_recover_many_clients_3b() {
    play(Generic::new(20, 5).snapshots(LOG_BYTES).crashes(), 4);
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition_linearizable_3b() {
    let scenario = Generic::new(15, 7).snapshots(LOG_BYTES).unreliable();
    play(scenario.crashes().partitions().random_keys(), 5);
}
