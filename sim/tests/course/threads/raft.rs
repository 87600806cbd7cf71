//! Scenarios of Raft, written again for servers on threads.

use quorate::GroupId;

use super::servers::Servers;
use crate::harness::{ELECTION_MS, LONG_REORDERING, MS, UNRELIABLE, options};

/// Rounds of the tests of Figure 8, of the thousand that the course has, and from which one on answers are late.
const FIGURE_8_ROUNDS: u32 = 600;
const LATE_FROM: u32 = 120;

/// How many entries lie between two snapshots, about.
const INTERVAL: u64 = 10;

/// Leaders lose power right after they took a command, with a bare quorum left.
#[test]
fn figure8_3c() {
    let mut servers = Servers::start(11, 5);
    servers.one(1);
    for _ in 0..FIGURE_8_ROUNDS {
        let leader = give_to_all(&mut servers);
        pause_as_in_figure_8(&mut servers);
        if let Some(leader) = leader {
            servers.crash(leader);
        }
        let node = servers.rng.index(5);
        if servers.connected() < 3 && !servers.is_running(node) {
            servers.restart(node);
        }
    }
    for node in 0..5 {
        servers.restart(node);
    }
    servers.one(5);
    servers.judge();
}

/// The same with leaders that are cut off instead, on an unreliable network on which answers are late in the end.
#[test]
fn figure8_unreliable_3c() {
    let mut servers = Servers::start(12, 5);
    servers.nodes.set_unreliable(UNRELIABLE);
    servers.one(1);
    for round in 0..FIGURE_8_ROUNDS {
        if round == LATE_FROM {
            servers.nodes.set_unreliable(LONG_REORDERING);
        }
        let leader = give_to_all(&mut servers);
        pause_as_in_figure_8(&mut servers);
        if let Some(leader) = leader
            && servers.rng.permille(500)
        {
            servers.disconnect(leader);
        }
        let node = servers.rng.index(5);
        if servers.connected() < 3 {
            servers.connect(node);
        }
    }
    // How long an election takes while answers are late is a matter of luck, on real time also of the machine.
    servers.nodes.set_unreliable(UNRELIABLE);
    for node in 0..5 {
        servers.connect(node);
    }
    servers.one(5);
    servers.judge();
}

/// Gives each server a command. Returns the last of those that took it.
fn give_to_all(servers: &mut Servers) -> Option<usize> {
    (0..5).filter(|&node| servers.give(node).is_some()).last()
}

/// One in ten pauses is up to half an election timeout, the others are up to 12 ms.
fn pause_as_in_figure_8(servers: &mut Servers) {
    let pause_ms = if servers.rng.permille(100) {
        servers.rng.below(ELECTION_MS / 2)
    } else {
        servers.rng.below(13)
    };
    servers.run_ms(pause_ms);
}

/// What was seen applied stays applied while nodes crash and are cut off, over an unreliable network.
#[test]
fn unreliable_churn_3c() {
    const ROUNDS: u32 = 20;
    const ROUND_MS: u64 = 700;
    let mut servers = Servers::start(13, 5);
    servers.nodes.set_unreliable(UNRELIABLE);
    for _ in 0..ROUNDS {
        if servers.rng.permille(200) {
            let node = servers.rng.index(5);
            servers.disconnect(node);
        }
        if servers.rng.permille(500) {
            let node = servers.rng.index(5);
            servers.restart(node);
        }
        if servers.rng.permille(200) {
            let node = servers.rng.index(5);
            servers.crash(node);
        }
        let until_ns = servers.nodes.now_ns() + ROUND_MS * MS;
        while servers.nodes.now_ns() < until_ns {
            // Three clients, each of which offers its command to all and looks for it now and then.
            let given: Vec<u64> = (0..15).filter_map(|it| servers.give(it % 5)).collect();
            for wait_ms in [10, 20, 50] {
                servers.run_ms(wait_ms);
                if given.iter().all(|&command| servers.holders(command) > 0) {
                    break;
                }
            }
        }
    }
    for node in 0..5 {
        servers.restart(node);
    }
    servers.one(5);
    servers.judge();
}

/// Followers whose logs differ in long stretches of several terms are brought in line quickly.
#[test]
fn backup_3b() {
    const BACKLOG: usize = 50;
    let mut servers = Servers::start(14, 5);
    servers.one(5);
    let first = servers.check_one_leader();
    let pair = [first, (first + 1) % 5];
    let others = [2, 3, 4].map(|step| (first + step) % 5);
    servers.disconnect_each(&others);
    give_many(&mut servers, first, BACKLOG);
    servers.disconnect_each(&pair);
    servers.connect_each(&others);
    for _ in 0..BACKLOG {
        servers.one(3);
    }
    let second = servers.check_one_leader();
    let other = if second == others[0] {
        others[1]
    } else {
        others[0]
    };
    servers.disconnect(other);
    give_many(&mut servers, second, BACKLOG);
    servers.disconnect_each(&others);
    servers.connect_each(&[pair[0], pair[1], other]);
    for _ in 0..BACKLOG {
        servers.one(3);
    }
    servers.connect_each(&others);
    servers.one(5);
    servers.judge();
}

/// Commands that are not going to be committed there.
fn give_many(servers: &mut Servers, leader: usize, count: usize) {
    for _ in 0..count {
        servers.give(leader).expect("it does not know yet");
    }
    servers.run_ms(ELECTION_MS / 2);
}

/// One that lost power catches up by a snapshot over an unreliable network, and logs stay short.
#[test]
fn snapshot_install_un_crash_3d() {
    const ROUNDS: usize = 15;
    const LOG_BYTES_MAX: u64 = 2_000;
    let mut options = options();
    options.trailing_entries = 0;
    options.snapshot_bytes_per_s = None;
    let mut servers = Servers::start_with(15, 3, options);
    servers.nodes.set_unreliable(UNRELIABLE);
    servers.one(3);
    let mut leader = servers.check_one_leader();
    for round in 0..ROUNDS {
        let (mut sender, mut victim) = (leader, (leader + 1) % 3);
        if round % 3 == 1 {
            std::mem::swap(&mut sender, &mut victim);
        }
        servers.crash(victim);
        servers.one(2);
        for _ in 0..INTERVAL / 2 + servers.rng.below(INTERVAL) {
            servers.give(sender);
        }
        servers.one(2);
        cut_logs(&mut servers, [1, 2].map(|step| (victim + step) % 3));
        let log = servers.nodes.log_bytes();
        assert!(log < LOG_BYTES_MAX, "{log} bytes of log");
        servers.restart(victim);
        servers.one(3);
        leader = servers.check_one_leader();
    }
    servers.judge();
}

/// Has servers take snapshots until their logs begin behind what somebody who missed a round has to be told.
fn cut_logs(servers: &mut Servers, nodes: [usize; 2]) {
    let end_ns = servers.nodes.now_ns() + 10 * ELECTION_MS * MS;
    loop {
        let dbs = nodes.map(|node| servers.nodes.db(node).expect("it runs"));
        if dbs.iter().all(|db| db.stats().log.entries < INTERVAL / 2) {
            return;
        }
        assert!(servers.nodes.now_ns() < end_ns, "logs are not cut");
        for db in dbs {
            drop(db.snapshot_async(GroupId(0)));
        }
        servers.run_ms(50);
    }
}
