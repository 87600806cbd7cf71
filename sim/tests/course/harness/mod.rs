//! What the scenarios are written in: a raft cluster, clerks, a counter; each a world that a script drives.

pub(crate) mod clerks;
pub(crate) mod commands;
pub(crate) mod generic;
pub(crate) mod raft;
pub(crate) mod stage;
pub(crate) mod watch;

use std::time::Duration;

use quorate::{GroupId, Options};
use quorate_sim::network::Unreliability;

/// A millisecond of virtual time.
pub(crate) const MS: u64 = 1_000_000;

/// The one group of all scenarios.
pub(crate) const GROUP: GroupId = GroupId(0);

/// Within this time the course expects a new leader.
pub(crate) const ELECTION_MS: u64 = 1_000;

/// The course's unreliable network: a tenth of the requests and a tenth of the answers is lost, and each takes up to 26 ms.
pub(crate) const UNRELIABLE: Unreliability = Unreliability {
    drop_permille: 100,
    delay_max_ns: 26 * MS,
    late_permille: 0,
    late_min_ns: 0,
    late_spread_ns: 0,
};

/// The same, and two thirds of the answers take 200 ms to 2.2 s more, short times being more likely.
pub(crate) const LONG_REORDERING: Unreliability = Unreliability {
    late_permille: 667,
    late_min_ns: 200 * MS,
    late_spread_ns: 2_000 * MS,
    ..UNRELIABLE
};

/// Seeds that each scenario is played with.
const SEEDS: u64 = 10;

/// Plays a scenario with each seed, or with the one in `QUORATE_SEED`, and says which one failed.
pub(crate) fn for_each_seed(scenario: impl Fn(u64)) {
    let given = std::env::var("QUORATE_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("QUORATE_SEED is a number"));
    let seeds = given.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let _told = Told(seed);
        scenario(seed);
    }
}

/// Tells the seed if its scenario panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with QUORATE_SEED={}", self.0);
        }
    }
}

/// What users get, save for the course's ten heartbeats a second.
pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.heartbeat_interval = Duration::from_millis(100);
    options.workers = 1;
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 1 << 20;
    options
}
