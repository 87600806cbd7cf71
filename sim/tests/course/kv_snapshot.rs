//! The key-value service with snapshots whenever there are 1,000 bytes of log (3B of 2023).

use crate::harness::clerks::Clerks;
use crate::harness::generic::{Generic, LOG_FACTOR};
use crate::harness::{ELECTION_MS, for_each_seed};
use crate::kv::speed;

/// The course's `maxraftstate`.
const LOG_BYTES: u64 = 1_000;

/// A snapshot of one short key and one client's session is no larger than this.
const SNAPSHOT_BYTES_MAX: u64 = 500;

/// A node that lags behind more than there is log catches up by a snapshot.
#[test]
fn snapshot_rpc_3b() {
    let [all, first, second] = [0, 1, 2];
    for_each_seed(|seed| {
        let mut clerks = Clerks::new(seed, 3, 3, Some(LOG_BYTES));
        clerks.put(all, "a", "A");
        clerks.check(all, "a", "A");
        clerks.partition(|node| node == 2);
        clerks
            .world
            .network
            .set_clerk_reach(first, |node| node != 2);
        for number in 0..50 {
            let text = number.to_string();
            clerks.put(first, &text, &text);
        }
        clerks.run_ms(ELECTION_MS);
        clerks.put(first, "b", "B");
        let log = clerks.log_bytes();
        println!(
            "snapshot_rpc_3b: {log} of {} bytes of log",
            LOG_FACTOR * LOG_BYTES
        );
        assert!(log <= LOG_FACTOR * LOG_BYTES, "{log} bytes of log");

        clerks.partition(|node| node == 1);
        clerks
            .world
            .network
            .set_clerk_reach(second, |node| node != 1);
        clerks.put(second, "c", "C");
        clerks.put(second, "d", "D");
        for (key, value) in [("a", "A"), ("b", "B"), ("1", "1"), ("49", "49")] {
            clerks.check(second, key, value);
        }
        assert!(
            clerks.traffic().chunks > 0,
            "the third node was sent a snapshot"
        );

        clerks.heal();
        clerks.put(all, "e", "E");
        for (key, value) in [("c", "C"), ("e", "E"), ("1", "1")] {
            clerks.check(all, key, value);
        }
        clerks.judge();
    });
}

/// Neither log nor snapshot grow while one key is written over and over.
#[test]
fn snapshot_size_3b() {
    for_each_seed(|seed| {
        let mut clerks = Clerks::new(seed, 3, 1, Some(LOG_BYTES));
        for _ in 0..200 {
            for value in ["0", "1"] {
                clerks.put(0, "x", value);
                clerks.check(0, "x", value);
            }
        }
        let (log, snapshot) = (clerks.log_bytes(), clerks.snapshot_bytes());
        println!(
            "snapshot_size_3b: {log} of {} bytes of log, {snapshot} of {SNAPSHOT_BYTES_MAX} bytes of snapshot",
            LOG_FACTOR * LOG_BYTES
        );
        assert!(log <= LOG_FACTOR * LOG_BYTES, "{log} bytes of log");
        assert!(
            (1..=SNAPSHOT_BYTES_MAX).contains(&snapshot),
            "{snapshot} bytes of snapshot"
        );
        clerks.judge();
    });
}

/// As fast with snapshots as without.
#[test]
fn speed_3b() {
    for_each_seed(|seed| speed(seed, Some(LOG_BYTES)));
}

/// All nodes crash, one client.
#[test]
fn snapshot_recover_3b() {
    let scenario = Generic::new(1, 5).snapshots(LOG_BYTES);
    for_each_seed(|seed| scenario.crashes().play(seed));
}

/// The same with twenty clients.
#[test]
fn snapshot_recover_many_clients_3b() {
    let scenario = Generic::new(20, 5).snapshots(LOG_BYTES);
    for_each_seed(|seed| scenario.crashes().play(seed));
}

/// An unreliable network.
#[test]
fn snapshot_unreliable_3b() {
    let scenario = Generic::new(5, 5).snapshots(LOG_BYTES);
    for_each_seed(|seed| scenario.unreliable().play(seed));
}

/// Crashes over an unreliable network.
#[test]
fn snapshot_unreliable_recover_3b() {
    let scenario = Generic::new(5, 5).snapshots(LOG_BYTES);
    for_each_seed(|seed| scenario.unreliable().crashes().play(seed));
}

/// Crashes and partitions over an unreliable network.
#[test]
fn snapshot_unreliable_recover_concurrent_partition_3b() {
    let scenario = Generic::new(5, 5).snapshots(LOG_BYTES).unreliable();
    for_each_seed(|seed| scenario.crashes().partitions().play(seed));
}

/// The same with fifteen clients that share their keys, on seven nodes.
#[test]
fn snapshot_unreliable_recover_concurrent_partition_linearizable_3b() {
    let scenario = Generic::new(15, 7).snapshots(LOG_BYTES).unreliable();
    for_each_seed(|seed| scenario.crashes().partitions().random_keys().play(seed));
}
