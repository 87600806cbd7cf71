//! Key-value service with exactly-once clerks (3A of 2023). A crash is a power cut of all nodes.

use quorate_sim::judge::Response;

use crate::harness::clerks::{Clerks, append, check_client_appends, get, put, token};
use crate::harness::generic::Generic;
use crate::harness::stage::Stage;
use crate::harness::{ELECTION_MS, MS, for_each_seed};

/// Three operations in a heartbeat of 100 ms, at least.
pub(crate) const SPEED_NS_MAX: u64 = 33_333_333;

/// One client.
#[test]
fn basic_3a() {
    for_each_seed(|seed| Generic::new(1, 5).play(seed));
}

/// A thousand appends, one after the other, take less than 33.3 ms each, and all are there once and in order.
#[test]
fn speed_3a() {
    for_each_seed(|seed| speed(seed, None));
}

pub(crate) fn speed(seed: u64, log_bytes_max: Option<u64>) {
    speed_with(Clerks::new(seed, 3, 1, log_bytes_max));
}

/// The same with a clerk, wherever it is.
pub(crate) fn speed_with<S: Stage>(mut clerks: Clerks<S>) {
    const OPERATIONS: usize = 1_000;
    clerks.wait_leader();
    clerks.get(0, "x");
    let began_ns = clerks.world.now_ns();
    for number in 0..OPERATIONS {
        clerks.append(0, "x", &token(0, number));
    }
    let each_ns = (clerks.world.now_ns() - began_ns) / OPERATIONS as u64;
    println!(
        "speed: {} us of {} us an operation",
        each_ns / 1_000,
        SPEED_NS_MAX / 1_000
    );
    check_client_appends(0, &clerks.get(0, "x"), OPERATIONS);
    assert!(each_ns < SPEED_NS_MAX, "{each_ns} ns an operation");
    clerks.judge();
}

/// Five clients.
#[test]
fn concurrent_3a() {
    for_each_seed(|seed| Generic::new(5, 5).play(seed));
}

/// An unreliable network.
#[test]
fn unreliable_3a() {
    for_each_seed(|seed| Generic::new(5, 5).unreliable().play(seed));
}

/// Five clients append ten values each to one key over an unreliable network: all fifty are there, once, each client's in
/// order.
#[test]
fn unreliable_one_key_3a() {
    const CLIENTS: usize = 5;
    const APPENDS: usize = 10;
    for_each_seed(|seed| {
        let mut clerks = Clerks::new(seed, 3, CLIENTS + 1, None);
        clerks.set_unreliable();
        clerks.put(CLIENTS, "k", "");
        let recorded = clerks.recorded();
        for number in 0..APPENDS {
            // The clients take turns in calling, and none waits for another one's answer before its own next call.
            let tickets: Vec<_> = (0..CLIENTS)
                .map(|client| clerks.call(client, append("k", &token(client, number))))
                .collect();
            for ticket in tickets {
                clerks.wait(ticket);
            }
        }
        let value = clerks.get(CLIENTS, "k");
        for client in 0..CLIENTS {
            check_client_appends(client, &value, APPENDS);
        }
        let length: usize = (0..CLIENTS)
            .flat_map(|client| (0..APPENDS).map(move |number| token(client, number).len()))
            .sum();
        assert_eq!(value.len(), length, "and nothing else is in {value:?}");
        clerks.judge_appends_since(recorded);
        clerks.judge();
    });
}

/// Calls to a minority with the leader do not complete while the majority goes on, and complete when the partition heals.
#[test]
fn one_partition_3a() {
    let [all, major, minor_puts, minor_gets] = [0, 1, 2, 3];
    for_each_seed(|seed| {
        let mut clerks = Clerks::new(seed, 5, 4, None);
        clerks.put(all, "1", "13");
        let leader = clerks.wait_leader();
        let is_minor = |node: usize| node == leader || node == (leader + 1) % 5;
        clerks.partition(is_minor);
        clerks
            .world
            .network
            .set_clerk_reach(major, |node| !is_minor(node));
        clerks.world.network.set_clerk_reach(minor_puts, is_minor);
        clerks.world.network.set_clerk_reach(minor_gets, is_minor);
        clerks.put(major, "1", "14");
        clerks.check(major, "1", "14");

        let putting = clerks.call(minor_puts, put("1", "15"));
        let getting = clerks.call(minor_gets, get("1"));
        clerks.run_ms(ELECTION_MS);
        assert_eq!(
            clerks.response(putting),
            None,
            "a put in the minority completed"
        );
        assert_eq!(
            clerks.response(getting),
            None,
            "a get in the minority completed"
        );
        clerks.check(major, "1", "14");
        clerks.put(major, "1", "16");
        clerks.check(major, "1", "16");

        clerks.heal();
        let healed_ns = clerks.world.now_ns;
        assert_eq!(clerks.wait(putting), Response::Done);
        clerks.wait(getting);
        let took_ms = (clerks.world.now_ns - healed_ns) / MS;
        println!("one_partition_3a: {took_ms} of {} ms", ELECTION_MS + 3_000);
        assert!(
            took_ms < ELECTION_MS + 3_000,
            "{took_ms} ms after the partition"
        );
        clerks.check(all, "1", "15");
        clerks.judge();
    });
}

/// Partitions that come and go, one client.
#[test]
fn many_partitions_one_client_3a() {
    for_each_seed(|seed| Generic::new(1, 5).partitions().play(seed));
}

/// The same with five clients.
#[test]
fn many_partitions_many_clients_3a() {
    for_each_seed(|seed| Generic::new(5, 5).partitions().play(seed));
}

/// All nodes crash, one client.
#[test]
fn persist_one_client_3a() {
    for_each_seed(|seed| Generic::new(1, 5).crashes().play(seed));
}

/// The same with five clients.
#[test]
fn persist_concurrent_3a() {
    for_each_seed(|seed| Generic::new(5, 5).crashes().play(seed));
}

/// The same over an unreliable network.
#[test]
fn persist_concurrent_unreliable_3a() {
    for_each_seed(|seed| Generic::new(5, 5).unreliable().crashes().play(seed));
}

/// Crashes and partitions.
#[test]
fn persist_partition_3a() {
    for_each_seed(|seed| Generic::new(5, 5).crashes().partitions().play(seed));
}

/// Crashes and partitions over an unreliable network.
#[test]
fn persist_partition_unreliable_3a() {
    let scenario = Generic::new(5, 5).unreliable().crashes().partitions();
    for_each_seed(|seed| scenario.play(seed));
}

/// The same with fifteen clients that share their keys, on seven nodes.
#[test]
fn persist_partition_unreliable_linearizable_3a() {
    let scenario = Generic::new(15, 7).unreliable().crashes().partitions();
    for_each_seed(|seed| scenario.random_keys().play(seed));
}
