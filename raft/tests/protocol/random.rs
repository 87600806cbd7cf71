//! Whole clusters under seeded faults, judged after each step by the rules in `judge.rs`.

use quorate_raft::{NodeId, Options, Raft, Role};

use crate::cluster::{CALM, Cluster, Faults, Marks};
use crate::solo::{MS, options};

const SEEDS: u64 = 600;

/// Prints the seed when a test panics.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: run it alone with QUORATE_SEED={}", self.0, self.0);
        }
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("QUORATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("QUORATE_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

#[test]
fn clusters_keep_their_invariants_under_random_faults() {
    let mut marks = Marks::default();
    let seeds = seeds();
    for &seed in &seeds {
        let guard = SeedOnPanic(seed);
        let mut storm = Storm::new(seed);
        for _ in 0..400 {
            storm.act();
        }
        marks.add(&storm.calm_down());
        drop(guard);
    }
    if seeds.len() as u64 == SEEDS {
        // A storm in which these do not happen proves nothing.
        assert!(marks.committed > 20 * SEEDS, "{marks:?}");
        assert!(marks.leaders > 4 * SEEDS, "{marks:?}");
        assert!(marks.overwrites > SEEDS / 4, "{marks:?}");
        assert!(marks.installs > SEEDS / 2, "{marks:?}");
        assert!(marks.suffixes_kept > 20, "{marks:?}");
        assert!(marks.reads_answered > SEEDS, "{marks:?}");
        assert!(marks.reads_failed > SEEDS / 2, "{marks:?}");
        assert!(marks.leased_steps > 100 * SEEDS, "{marks:?}");
        assert!(marks.writes_lost > SEEDS, "{marks:?}");
        assert!(marks.entries_read_back > SEEDS, "{marks:?}");
    }
}

/// The same seed leads to the same history: nothing in the core depends on anything but its inputs.
#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut storm = Storm::new(seed);
        for _ in 0..150 {
            storm.act();
        }
        (
            storm.cluster.messages_sent,
            storm.cluster.now_ns,
            storm.cluster.judge.committed,
        )
    };
    for seed in [3, 4, 5] {
        assert!(history(seed) == history(seed), "seed {seed}");
    }
}

struct Storm {
    cluster: Cluster,
    tokens: u64,
    proposals: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let count = [3, 5, 3, 1, 5, 4][seed as usize % 6];
        let is_lossy = !seed.is_multiple_of(4);
        let faults = Faults {
            drop_percent: if is_lossy { seed % 7 * 5 } else { 0 },
            duplicate_percent: if is_lossy { seed % 5 * 5 } else { 0 },
            delay_us_max: [500, 5_000, 60_000][seed as usize % 3],
            disk_us_max: [200, 10_000, 80_000][seed as usize / 3 % 3],
            drift_percent: 3,
        };
        let small = Options {
            inflight_messages_max: 4,
            inflight_bytes_max: 600,
            append_bytes_max: 200,
            uncommitted_bytes_max: 2_000,
            cache_bytes_max: 400,
            pending_reads_max: 50,
            ..options()
        };
        Self {
            cluster: Cluster::with(count, seed, faults, &small),
            tokens: 0,
            proposals: 0,
        }
    }

    fn act(&mut self) {
        let count = self.cluster.nodes.len() as u64;
        let id = NodeId(1 + self.cluster.below(count));
        let is_up = self.cluster.node(id).raft.is_some();
        match self.cluster.below(100) {
            0..=39 => self.propose_anywhere(),
            40..=54 => self.read_anywhere(),
            55..=59 if is_up => self.cluster.crash(id),
            60..=68 => self.restart_somebody(),
            69..=74 => self.partition_somehow(),
            75..=79 => self.cluster.heal(),
            80..=85 if is_up => {
                let trailing = self.cluster.below(6);
                self.cluster.snapshot(id, trailing);
            }
            86..=88 if is_up => self.cluster.with_raft(id, Raft::campaign),
            89..=91 if is_up => {
                let _may_not_lead = self
                    .cluster
                    .with_raft(id, |raft, now_ns| raft.transfer(now_ns, None));
            }
            92 if is_up => self.cluster.with_raft(id, Raft::step_down),
            93..=94 => {
                let node = self.cluster.node_mut(id);
                node.is_disk_stuck = !node.is_disk_stuck;
            }
            97..=98 => self.push_snapshot(id),
            _ => {}
        }
        let us = match self.cluster.below(10) {
            0 => 700_000,
            1..=3 => 60_000,
            _ => 4_000,
        };
        let wait_ns = self.cluster.below(us) * 1000;
        self.cluster.run(wait_ns);
    }

    /// Everybody who thinks of itself as the leader gets a command, so that logs diverge.
    fn propose_anywhere(&mut self) {
        let leaders: Vec<NodeId> = self.cluster.leaders().collect();
        for leader in leaders {
            for _ in 0..=self.cluster.below(6) {
                self.proposals += 1;
                let text = format!("command {} of {leader}", self.proposals);
                self.cluster.propose(leader, &text);
            }
        }
    }

    fn read_anywhere(&mut self) {
        let leaders: Vec<NodeId> = self.cluster.leaders().collect();
        for leader in leaders {
            self.tokens += 1;
            self.cluster.read(leader, self.tokens);
        }
    }

    /// A snapshot arrives that nobody needs any more, as after a slow transfer.
    fn push_snapshot(&mut self, to: NodeId) {
        let leader = self.cluster.leaders().find(|&leader| leader != to);
        if let Some(leader) = leader {
            self.cluster.snapshot(leader, 3);
            self.cluster.push_snapshot(leader, to);
        }
    }

    fn restart_somebody(&mut self) {
        let down = self
            .cluster
            .nodes
            .iter()
            .find(|node| node.raft.is_none())
            .map(|node| node.id);
        if let Some(id) = down {
            self.cluster.restart(id);
        }
    }

    fn partition_somehow(&mut self) {
        let voters = self.cluster.config.voters.clone();
        if self.cluster.chance(50) {
            let side: Vec<NodeId> = voters
                .into_iter()
                .filter(|_| self.cluster.chance(50))
                .collect();
            self.cluster.partition(&side);
            return;
        }
        for &one in &voters {
            for &other in &voters {
                if one != other && self.cluster.chance(25) {
                    self.cluster.cut(one, other);
                }
            }
        }
    }

    /// All faults end: the cluster must come together, and every read must have been answered or
    /// failed where its replica is still up.
    fn calm_down(mut self) -> Marks {
        self.cluster.faults = CALM;
        self.cluster.heal();
        for id in self.cluster.config.voters.clone() {
            self.cluster.node_mut(id).is_disk_stuck = false;
            if self.cluster.node(id).raft.is_none() {
                self.cluster.restart(id);
            }
        }
        self.cluster.run(options().election_timeout_ns * 4);
        let everybody = self.cluster.config.voters.clone();
        self.cluster.commit("the end", &everybody);
        let leader = self.cluster.settled_leader().expect("a leader");
        self.tokens += 1;
        let token = self.tokens;
        assert!(self.cluster.read(leader, token));
        self.cluster.run(200 * MS);
        assert_eq!(self.cluster.raft(leader).role(), Role::Leader);
        assert_eq!(
            self.cluster.node(leader).reads.last().map(|read| read.0),
            Some(token)
        );
        self.cluster.marks()
    }
}
