//! Snapshots (3D): each node takes one every ten entries.

use quorate_sim::network::Unreliability;

use crate::harness::raft::Raft;
use crate::harness::{UNRELIABLE, for_each_seed};

/// The raft state may never be larger than this.
const LOG_BYTES_MAX: u64 = 2_000;

/// How many entries lie between two snapshots.
const SNAPSHOT_INTERVAL: u64 = 10;

const ROUNDS: usize = 30;

/// What happens to a node in each round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    Nothing,
    Disconnects,
    Crashes,
}

/// The log stays short, and nobody who was there all the time is sent a snapshot.
#[test]
fn snapshot_basic_3d() {
    for_each_seed(|seed| {
        let chunks = snapshots(seed, Harm::Nothing, None);
        assert_eq!(chunks, 0, "everybody could be sent entries");
    });
}

/// A follower, or the leader itself, that was cut off catches up by a snapshot.
#[test]
fn snapshot_install_3d() {
    for_each_seed(|seed| {
        let chunks = snapshots(seed, Harm::Disconnects, None);
        assert!(chunks > 0, "nobody was sent a snapshot");
    });
}

/// The same over an unreliable network.
#[test]
fn snapshot_install_unreliable_3d() {
    for_each_seed(|seed| {
        let chunks = snapshots(seed, Harm::Disconnects, Some(UNRELIABLE));
        assert!(chunks > 0, "nobody was sent a snapshot");
    });
}

/// One that crashed catches up.
#[test]
fn snapshot_install_crash_3d() {
    for_each_seed(|seed| {
        let chunks = snapshots(seed, Harm::Crashes, None);
        assert!(chunks > 0, "nobody was sent a snapshot");
    });
}

/// The same over an unreliable network.
#[test]
fn snapshot_install_un_crash_3d() {
    for_each_seed(|seed| {
        let chunks = snapshots(seed, Harm::Crashes, Some(UNRELIABLE));
        assert!(chunks > 0, "nobody was sent a snapshot");
    });
}

/// Thirty rounds of enough commands for a snapshot. Returns how many pieces of snapshots were sent.
fn snapshots(seed: u64, harm: Harm, network: Option<Unreliability>) -> u64 {
    let mut raft = Raft::with_snapshots(seed, 3);
    if let Some(how) = network {
        raft.set_unreliable(how);
    }
    raft.one(3, true);
    let mut leader = raft.check_one_leader();
    let mut largest = 0;
    for round in 0..ROUNDS {
        let (mut sender, mut victim) = (leader, (leader + 1) % 3);
        if round % 3 == 1 {
            std::mem::swap(&mut sender, &mut victim);
        }
        match harm {
            Harm::Nothing => {}
            Harm::Disconnects => raft.disconnect(victim),
            Harm::Crashes => raft.crash(victim),
        }
        let present = if harm == Harm::Nothing { 3 } else { 2 };
        raft.one(present, true);
        let commands = SNAPSHOT_INTERVAL / 2 + raft.rng.below(SNAPSHOT_INTERVAL);
        for _ in 0..commands {
            raft.start(sender);
        }
        raft.one(present, true);
        largest = largest.max(raft.log_bytes());
        assert!(largest < LOG_BYTES_MAX, "{largest} bytes of log");
        match harm {
            Harm::Nothing => continue,
            Harm::Disconnects => raft.connect(victim),
            Harm::Crashes => raft.start_node(victim),
        }
        raft.one(3, true);
        leader = raft.check_one_leader();
    }
    println!("snapshots: {largest} of {LOG_BYTES_MAX} bytes of log");
    raft.traffic().chunks
}

/// All crash and come back, five times, and nothing is lost.
#[test]
fn snapshot_all_crash_3d() {
    const ROUNDS: usize = 5;
    for_each_seed(|seed| {
        let mut raft = Raft::with_snapshots(seed, 3);
        raft.set_unreliable(UNRELIABLE);
        raft.one(3, true);
        for _ in 0..ROUNDS {
            let commands = SNAPSHOT_INTERVAL / 2 + raft.rng.below(SNAPSHOT_INTERVAL);
            for _ in 0..commands {
                raft.one(3, true);
            }
            let before = raft.one(3, true);
            restart_all(&mut raft);
            let after = raft.one(3, true);
            assert!(after > before, "{after} is not behind {before}");
        }
        assert!(raft.snapshot_bytes() > 0, "snapshots were taken");
    });
}

/// After a crash, what is written next does not lose the snapshot.
#[test]
fn snapshot_init_3d() {
    for_each_seed(|seed| {
        let mut raft = Raft::with_snapshots(seed, 3);
        raft.set_unreliable(UNRELIABLE);
        raft.one(3, true);
        for _ in 0..=SNAPSHOT_INTERVAL {
            raft.one(3, true);
        }
        assert!(raft.snapshot_bytes() > 0, "a snapshot was taken");
        restart_all(&mut raft);
        raft.one(3, true);
        restart_all(&mut raft);
        raft.one(3, true);
        // That all fourteen commands are there, in order, is judged after every step; here, that none is missing.
        assert!((0..3).all(|node| raft.applied(node).len() >= 14));
    });
}

fn restart_all(raft: &mut Raft) {
    for node in 0..3 {
        raft.crash(node);
    }
    for node in 0..3 {
        raft.start_node(node);
    }
}
