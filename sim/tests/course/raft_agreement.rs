//! Agreement on commands (3B).

use quorate::{Bytes, LogIndex};

use crate::harness::raft::{Raft, Started};
use crate::harness::{ELECTION_MS, for_each_seed};

/// Bytes over the wire for so many commands of so many bytes on each of three nodes, and so much besides.
const COMMANDS: u64 = 10;
const COMMAND_BYTES: usize = 5_000;
const SPARE_BYTES: u64 = 50_000;

/// RPCs until a leader is elected, at most.
const ELECTION_RPCS_MAX: u64 = 30;

/// RPCs of an idle second, at most.
const IDLE_RPCS_MAX: u64 = 60;

/// How often a leader may fail to find at once what it shares with a follower, in the whole of `backup_3b`. The course only
/// notices by the clock; over virtual time each rejection would take less than a millisecond.
const REJECTIONS_MAX: u64 = 10;

/// Three commands, one after the other, none applied before it is given, get the first three indexes.
#[test]
fn basic_agree_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        let leader = raft.check_one_leader();
        let mut last = raft.view(leader).last_index;
        for number in 1..=3 {
            let (count, _) = raft.committed(LogIndex(last.0 + 1));
            assert_eq!(count, 0, "applied before it was given");
            let index = raft.one(3, false);
            assert_eq!(index.0, last.0 + 1);
            assert_eq!(raft.number_of(leader, index), number);
            last = index;
        }
    });
}

/// Each command goes to each node once: ten commands of 5,000 bytes cost at most 50,000 bytes more than what three nodes hold.
#[test]
fn rpc_bytes_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, false);
        let before = raft.traffic().bytes;
        for _ in 0..COMMANDS {
            let command: Vec<u8> = (0..COMMAND_BYTES).map(|_| raft.rng.draw() as u8).collect();
            raft.one_command(command.into(), 3, false);
        }
        let sent = raft.traffic().bytes - before;
        let limit = 3 * COMMANDS * COMMAND_BYTES as u64 + SPARE_BYTES;
        println!("rpc_bytes_3b: {sent} of {limit} bytes");
        assert!(sent <= limit, "{sent} bytes, expected at most {limit}");
    });
}

/// Agreement goes on with one follower less, and not with two less.
#[test]
fn follower_failure_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, false);
        let leader = raft.check_one_leader();
        raft.disconnect((leader + 1) % 3);
        raft.one(2, false);
        raft.run_ms(ELECTION_MS);
        raft.one(2, false);
        let leader = raft.check_one_leader();
        raft.disconnect((leader + 1) % 3);
        raft.disconnect((leader + 2) % 3);
        let started = raft.start(leader).expect("the leader takes it");
        raft.run_ms(100);
        assert_eq!(raft.number_of(leader, started.index), 4);
        raft.run_ms(2 * ELECTION_MS);
        assert_eq!(
            raft.committed(started.index).0,
            0,
            "committed without a quorum"
        );
    });
}

/// Agreement goes on with the leader cut off, and not with its successor cut off as well.
#[test]
fn leader_failure_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, false);
        let first = raft.check_one_leader();
        raft.disconnect(first);
        raft.one(2, false);
        raft.run_ms(ELECTION_MS);
        raft.one(2, false);
        let second = raft.check_one_leader();
        raft.disconnect(second);
        let started: Vec<Started> = (0..3).filter_map(|node| raft.start(node)).collect();
        assert!(!started.is_empty(), "the leader takes it");
        raft.run_ms(2 * ELECTION_MS);
        let is_applied =
            |node, command: &Bytes| raft.applied(node).iter().any(|it| it.1 == command);
        for started in started {
            let applied = (0..3).any(|node| is_applied(node, &started.command));
            assert!(!applied, "{} was committed without a quorum", started.index);
        }
    });
}

/// A follower that was cut off catches up, and agreement on all three goes on.
#[test]
fn fail_agree_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, false);
        let leader = raft.check_one_leader();
        raft.disconnect((leader + 1) % 3);
        raft.one(2, false);
        raft.one(2, false);
        raft.run_ms(ELECTION_MS);
        raft.one(2, false);
        raft.one(2, false);
        raft.connect((leader + 1) % 3);
        raft.one(3, true);
        raft.run_ms(ELECTION_MS);
        raft.one(3, true);
    });
}

/// Without three of five nothing is committed; when they are back, the disconnected majority may have chosen another leader.
#[test]
fn fail_no_agree_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 5);
        raft.one(5, false);
        let leader = raft.check_one_leader();
        let others = [1, 2, 3].map(|step| (leader + step) % 5);
        raft.disconnect_each(&others);
        let lonely = raft.start(leader).expect("the leader takes it");
        raft.run_ms(100);
        assert_eq!(raft.number_of(leader, lonely.index), 2);
        raft.run_ms(2 * ELECTION_MS);
        assert_eq!(
            raft.committed(lonely.index).0,
            0,
            "committed without a quorum"
        );
        raft.connect_each(&others);
        let leader = raft.check_one_leader();
        let second = raft.start(leader).expect("the leader takes it");
        raft.one(5, true);
        let number = raft.number_of(leader, second.index);
        assert!((2..=3).contains(&number), "command {number}");
    });
}

/// Five commands given at once, in one term, are all committed.
#[test]
fn concurrent_starts_3b() {
    const ATTEMPTS: u32 = 5;
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        let found = (0..ATTEMPTS).any(|attempt| {
            if attempt > 0 {
                raft.run_ms(3_000);
            }
            let leader = raft.check_one_leader();
            all_five_are_committed(&mut raft, leader)
        });
        assert!(found, "the term changed too often");
    });
}

/// `false`: the term changed meanwhile.
fn all_five_are_committed(raft: &mut Raft, leader: usize) -> bool {
    let started: Vec<Started> = (0..6).filter_map(|_| raft.start(leader)).collect();
    raft.run_ms(ELECTION_MS);
    if started.len() < 6 || raft.view(leader).term != started[0].term {
        return false;
    }
    for started in started {
        let (count, command) = raft.committed(started.index);
        assert_eq!((count, command), (3, Some(started.command)));
    }
    true
}

/// A leader that took commands while it was cut off gives way, and so does its successor; all come to agree.
#[test]
fn rejoin_3b() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, true);
        let first = raft.check_one_leader();
        raft.disconnect(first);
        for _ in 0..3 {
            raft.start(first).expect("it does not know yet");
        }
        raft.one(2, true);
        let second = raft.check_one_leader();
        raft.disconnect(second);
        raft.connect(first);
        raft.one(2, true);
        raft.connect(second);
        raft.one(3, true);
    });
}

/// Followers whose logs differ in long stretches of several terms are brought in line quickly.
#[test]
fn backup_3b() {
    const BACKLOG: usize = 50;
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 5);
        raft.one(5, true);
        let first = raft.check_one_leader();
        let pair = [first, (first + 1) % 5];
        let others = [2, 3, 4].map(|step| (first + step) % 5);
        raft.disconnect_each(&others);
        give(&mut raft, first, BACKLOG);
        raft.disconnect_each(&pair);
        raft.connect_each(&others);
        for _ in 0..BACKLOG {
            raft.one(3, true);
        }
        let second = raft.check_one_leader();
        let other = if second == others[0] {
            others[1]
        } else {
            others[0]
        };
        raft.disconnect(other);
        give(&mut raft, second, BACKLOG);
        raft.disconnect_each(&others);
        raft.connect_each(&[pair[0], pair[1], other]);
        for _ in 0..BACKLOG {
            raft.one(3, true);
        }
        raft.connect_each(&others);
        raft.one(5, true);
        let rejections = raft.traffic().rejections;
        println!("backup_3b: {rejections} of {REJECTIONS_MAX} rejections");
        assert!(rejections <= REJECTIONS_MAX, "{rejections} rejections");
    });
}

/// Commands that are not going to be committed.
fn give(raft: &mut Raft, leader: usize, count: usize) {
    for _ in 0..count {
        raft.start(leader).expect("it does not know yet");
    }
    raft.run_ms(ELECTION_MS / 2);
}

/// Few RPCs: 1 to 30 to elect a leader, `(10 + 1 + 3) * 3` for ten commands at once, 60 in an idle second.
#[test]
fn count_3b() {
    const ATTEMPTS: u32 = 5;
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.check_one_leader();
        let elected = raft.traffic().rpcs;
        assert!(
            (1..=ELECTION_RPCS_MAX).contains(&elected),
            "{elected} RPCs to elect a leader"
        );
        let agreed = (0..ATTEMPTS).find_map(|attempt| {
            if attempt > 0 {
                raft.run_ms(3_000);
            }
            rpcs_of_ten(&mut raft)
        });
        let (agreed, limit) = agreed.expect("the term changed too often");
        assert!(agreed <= limit, "{agreed} RPCs for ten commands");
        let before = raft.traffic().rpcs;
        raft.run_ms(ELECTION_MS);
        let idle = raft.traffic().rpcs - before;
        assert!(idle <= IDLE_RPCS_MAX, "{idle} RPCs in an idle second");
        println!(
            "count_3b: {elected} of {ELECTION_RPCS_MAX} to elect, {agreed} of {limit} to agree, \
             {idle} of {IDLE_RPCS_MAX} idle"
        );
    });
}

/// RPCs from the first of ten commands, and two more, to when all are applied everywhere, and how many there may be. `None`:
/// the term changed meanwhile.
fn rpcs_of_ten(raft: &mut Raft) -> Option<(u64, u64)> {
    const ITERATIONS: usize = 10;
    const RPCS_MAX: u64 = (ITERATIONS as u64 + 1 + 3) * 3;
    let leader = raft.check_one_leader();
    let before = raft.traffic().rpcs;
    let started: Vec<Started> = (0..ITERATIONS + 2)
        .filter_map(|_| raft.start(leader))
        .collect();
    let first = started.first()?;
    for (number, started) in started.iter().enumerate() {
        assert_eq!(started.index.0, first.index.0 + number as u64);
    }
    let last = started.last()?.index;
    // Back-off of the course's `wait`: it doubles from 10 ms.
    let mut pause_ms = 10;
    while raft.committed(last).0 < 3 {
        raft.run_ms(pause_ms);
        pause_ms = (pause_ms * 2).min(1_000);
        if raft.view(leader).term != first.term {
            return None;
        }
    }
    for started in &started {
        assert_eq!(
            raft.committed(started.index).1.as_ref(),
            Some(&started.command)
        );
    }
    (started.len() == ITERATIONS + 2).then_some((raft.traffic().rpcs - before, RPCS_MAX))
}
