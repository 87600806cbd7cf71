//! Crashes and unreliable networks (3C). A crash is a power cut: what was not synced is lost.

use quorate::{Bytes, LogIndex};
use quorate_sim::network::Unreliability;
use quorate_sim::seed::Rng;

use crate::harness::raft::{Attempt, Raft};
use crate::harness::{ELECTION_MS, LONG_REORDERING, MS, UNRELIABLE, for_each_seed};

/// Rounds of the tests of Figure 8 of the Raft paper, and from which one on answers are reordered.
const FIGURE_8_ROUNDS: u32 = 1_000;
const REORDERING_FROM: u32 = 200;

/// What was committed is there after all crash, after the leader does, and after a follower does.
#[test]
fn persist1_3c() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, true);
        for node in 0..3 {
            raft.crash(node);
        }
        for node in 0..3 {
            raft.start_node(node);
        }
        raft.one(3, true);
        let first = raft.check_one_leader();
        raft.restart(first);
        raft.one(3, true);
        let second = raft.check_one_leader();
        raft.crash(second);
        let index = raft.one(2, true);
        raft.start_node(second);
        // The one that was down must come to hold it too, before anything new is asked of it.
        raft.run_ms(ELECTION_MS);
        assert_eq!(
            raft.committed(index).0,
            3,
            "the fourth command is everywhere"
        );
        assert_eq!(raft.number_of(second, index), 4);
        let third = (raft.check_one_leader() + 1) % 3;
        raft.crash(third);
        raft.one(2, true);
        raft.start_node(third);
        raft.one(3, true);
    });
}

/// The nodes of a quorum crash and come back in turns.
#[test]
fn persist2_3c() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 5);
        for _ in 0..5 {
            raft.one(5, true);
            let leader = raft.check_one_leader();
            let [a, b, c, d] = [1, 2, 3, 4].map(|step| (leader + step) % 5);
            raft.crash(a);
            raft.crash(b);
            raft.one(3, true);
            raft.crash(leader);
            raft.crash(c);
            raft.crash(d);
            raft.start_node(a);
            raft.start_node(b);
            raft.run_ms(ELECTION_MS);
            raft.start_node(c);
            raft.one(3, true);
            raft.start_node(d);
            raft.start_node(leader);
        }
        raft.one(5, true);
    });
}

/// A follower that was cut off and an old leader that crashed go on without the third node.
#[test]
fn persist3_3c() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.one(3, true);
        let leader = raft.check_one_leader();
        let [other, stale] = [1, 2].map(|step| (leader + step) % 3);
        raft.disconnect(stale);
        raft.one(2, true);
        raft.crash(leader);
        raft.crash(other);
        raft.connect(stale);
        raft.start_node(leader);
        raft.one(2, true);
        raft.start_node(other);
        raft.one(3, true);
    });
}

/// Leaders crash right after they took a command, a thousand times, with a bare quorum left (Raft paper, Figure 8).
#[test]
fn figure8_3c() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 5);
        raft.one(1, true);
        for _ in 0..FIGURE_8_ROUNDS {
            let leader = start_on_all(&mut raft);
            pause_as_in_figure_8(&mut raft);
            if let Some(leader) = leader {
                raft.crash(leader);
            }
            let running = (0..5).filter(|&node| raft.is_running(node)).count();
            let node = raft.any_node();
            if running < 3 && !raft.is_running(node) {
                raft.start_node(node);
            }
        }
        for node in 0..5 {
            if !raft.is_running(node) {
                raft.start_node(node);
            }
        }
        raft.one(5, true);
    });
}

/// The same with leaders that are cut off instead, on an unreliable network which reorders answers in the end.
#[test]
fn figure8_unreliable_3c() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 5);
        raft.set_unreliable(UNRELIABLE);
        raft.one(1, true);
        for round in 0..FIGURE_8_ROUNDS {
            if round == REORDERING_FROM {
                raft.set_unreliable(LONG_REORDERING);
            }
            let leader = start_on_all(&mut raft);
            pause_as_in_figure_8(&mut raft);
            if let Some(leader) = leader
                && raft.rng.permille(500)
            {
                raft.disconnect(leader);
            }
            let connected = (0..5).filter(|&node| raft.is_connected(node)).count();
            let node = raft.any_node();
            if connected < 3 {
                raft.connect(node);
            }
        }
        raft.connect_each(&[0, 1, 2, 3, 4]);
        raft.one(5, true);
    });
}

/// Gives each running node a command. Returns the last of those that took it.
fn start_on_all(raft: &mut Raft) -> Option<usize> {
    let nodes = 0..raft.nodes();
    nodes.filter(|&node| raft.start(node).is_some()).last()
}

/// One in ten pauses is up to half an election timeout, the others are up to 12 ms.
fn pause_as_in_figure_8(raft: &mut Raft) {
    let pause_ms = if raft.rng.permille(100) {
        raft.rng.below(ELECTION_MS / 2)
    } else {
        raft.rng.below(13)
    };
    raft.run_ms(pause_ms);
}

/// Five commands at a time are agreed on over an unreliable network.
#[test]
fn unreliable_agree_3c() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 5);
        raft.set_unreliable(UNRELIABLE);
        let mut background: Vec<Attempt> = Vec::new();
        for _ in 1..50 {
            for _ in 0..4 {
                let command = raft.new_command();
                background.push(Attempt::new(&raft, command, 1, true));
            }
            let command = raft.new_command();
            let mut foreground = Attempt::new(&raft, command, 1, true);
            while foreground.poll(&mut raft).is_none() {
                background.retain_mut(|attempt| attempt.poll(&mut raft).is_none());
                raft.run_ms(20);
            }
        }
        raft.set_reliable();
        while !background.is_empty() {
            background.retain_mut(|attempt| attempt.poll(&mut raft).is_none());
            raft.run_ms(20);
        }
        raft.one(5, true);
    });
}

/// What a client saw committed stays committed while nodes crash and are cut off.
#[test]
fn reliable_churn_3c() {
    for_each_seed(|seed| churn(seed, None));
}

/// The same over an unreliable network.
#[test]
fn unreliable_churn_3c() {
    for_each_seed(|seed| churn(seed, Some(UNRELIABLE)));
}

fn churn(seed: u64, network: Option<Unreliability>) {
    const ROUNDS: u32 = 20;
    let mut raft = Raft::new(seed, 5);
    // A cluster that has not been founded commits nothing, and is not founded while one of its nodes is cut off.
    raft.one(5, true);
    if let Some(how) = network {
        raft.set_unreliable(how);
    }
    let mut clients: Vec<Client> = (0..3)
        .map(|place| Client::new(place, raft.rng.fork()))
        .collect();
    for _ in 0..ROUNDS {
        if raft.rng.permille(200) {
            let node = raft.any_node();
            raft.disconnect(node);
        }
        if raft.rng.permille(500) {
            let node = raft.any_node();
            if !raft.is_running(node) {
                raft.start_node(node);
            }
            raft.connect(node);
        }
        if raft.rng.permille(200) {
            let node = raft.any_node();
            if raft.is_running(node) {
                raft.crash(node);
            }
        }
        // Short enough that the nodes do not settle, long enough that there may be a leader.
        run_clients(&mut raft, &mut clients, ELECTION_MS * 7 / 10);
    }
    run_clients(&mut raft, &mut clients, ELECTION_MS);
    raft.set_reliable();
    for node in 0..5 {
        if !raft.is_running(node) {
            raft.start_node(node);
        }
        raft.connect(node);
    }
    let seen: Vec<Bytes> = clients.into_iter().flat_map(|client| client.seen).collect();
    raft.run_ms(ELECTION_MS);
    let last = raft.one(5, true);
    let applied = raft.applied(0);
    assert_eq!(applied.last().map(|it| it.0), Some(last.0));
    assert!(
        seen.len() >= 20,
        "{} values were seen committed",
        seen.len()
    );
    for value in seen {
        let is_there = applied.iter().any(|it| it.1 == value);
        assert!(is_there, "{value:?} was seen committed and is gone");
    }
}

fn run_clients(raft: &mut Raft, clients: &mut [Client], ms: u64) {
    let end_ns = raft.world.now_ns + ms * MS;
    while raft.world.now_ns < end_ns {
        for client in clients.iter_mut() {
            client.go_on(raft);
        }
        let wakes = clients.iter().map(|client| client.wakes_at_ns);
        let next_ns = wakes.min().unwrap_or(end_ns);
        raft.run_until(next_ns.min(end_ns));
    }
}

/// Gives random values to whoever leads, and waits a little for each of them.
struct Client {
    place: u64,
    rng: Rng,
    wakes_at_ns: u64,
    /// The value that it waits for, where that is to be, and how often it has looked.
    waits_for: Option<(Bytes, LogIndex, usize)>,
    /// Values that it saw committed.
    seen: Vec<Bytes>,
}

impl Client {
    /// How long it waits between looks at its value.
    const LOOKS_MS: [u64; 5] = [10, 20, 50, 100, 200];

    fn new(place: u64, rng: Rng) -> Self {
        Self {
            place,
            rng,
            wakes_at_ns: 0,
            waits_for: None,
            seen: Vec::new(),
        }
    }

    fn go_on(&mut self, raft: &mut Raft) {
        if self.wakes_at_ns > raft.world.now_ns {
            return;
        }
        let wait_ms = match self.waits_for.take() {
            None => self.give(raft),
            Some((value, index, looks)) => self.look(raft, value, index, looks),
        };
        self.wakes_at_ns = raft.world.now_ns + wait_ms * MS;
    }

    /// Offers a value to each node; the last one that takes it counts.
    fn give(&mut self, raft: &mut Raft) -> u64 {
        let value = Bytes::copy_from_slice(&self.rng.draw().to_le_bytes());
        for node in 0..raft.nodes() {
            if let Some(started) = raft.start_command(node, value.clone()) {
                self.waits_for = Some((value.clone(), started.index, 0));
            }
        }
        match self.waits_for {
            Some(_) => Self::LOOKS_MS[0],
            None => 79 + self.place * 17,
        }
    }

    fn look(&mut self, raft: &Raft, value: Bytes, index: LogIndex, looks: usize) -> u64 {
        let (count, committed) = raft.committed(index);
        if count > 0 {
            if committed.as_ref() == Some(&value) {
                self.seen.push(value);
            }
            return 0;
        }
        let looks = looks + 1;
        let Some(wait_ms) = Self::LOOKS_MS.get(looks) else {
            return 0;
        };
        self.waits_for = Some((value, index, looks));
        *wait_ms
    }
}
