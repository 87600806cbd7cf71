//! What the tests share: conditions to wait for, seeds, quick options, whole clusters.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::{Cluster, ClusterBuilder, GroupId, Options, TransportKind};

/// How long anything may take before a test calls it hung.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Both ways in which the nodes of a cluster reach each other.
pub(crate) const TRANSPORTS: [TransportKind; 2] = [TransportKind::Memory, TransportKind::Tcp];

/// The only group of most clusters here.
pub(crate) const GROUP: GroupId = GroupId(0);

/// Waits until a condition holds, and panics if it does not by the deadline.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A seed of this run, or the one in `QUORATE_SEED`; printed, so that a failure can be repeated.
pub(crate) fn seed(test: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let given = std::env::var("QUORATE_SEED").ok();
    let seed = match given {
        Some(given) => given.parse().expect("QUORATE_SEED is a number"),
        None => std::hash::RandomState::new().build_hasher().finish(),
    };
    eprintln!("{test}: QUORATE_SEED={seed}");
    seed
}

/// `SplitMix64`.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `low..high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// The defaults, with as many workers as `QUORATE_TEST_WORKERS` says: on a small machine there is one unless told, and what
/// several do to each other is seen nowhere.
pub(crate) fn defaults() -> Options {
    let mut options = Options::default();
    if let Ok(workers) = std::env::var("QUORATE_TEST_WORKERS") {
        options.workers = workers.parse().expect("QUORATE_TEST_WORKERS is a number");
    }
    options
}

/// Options that notice a lost leader fast.
pub(crate) fn quick() -> Options {
    let mut options = defaults();
    options.election_timeout = Duration::from_millis(200);
    options.heartbeat_interval = Duration::from_millis(20);
    options.retry_after = Duration::from_millis(150);
    options.call_timeout = DEADLINE;
    options
}

/// Quick options with a log in small segments and snapshots after little log.
pub(crate) fn small(snapshot_log_bytes: u64) -> Options {
    let mut options = quick();
    options.snapshot_log_bytes = snapshot_log_bytes;
    options.trailing_entries = 16;
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 256 << 10;
    options.log.entry_bytes_max = 64 << 10;
    options.log.batch_bytes_max = 256 << 10;
    options
}

/// Three nodes without files.
pub(crate) fn in_memory(transport: TransportKind, options: Options) -> Cluster {
    start(Cluster::builder().transport(transport).options(options))
}

/// Three nodes with files in a directory.
pub(crate) fn durable(dir: &Path, transport: TransportKind, options: Options) -> Cluster {
    start(
        Cluster::builder()
            .dir(dir)
            .transport(transport)
            .options(options),
    )
}

fn start(builder: ClusterBuilder) -> Cluster {
    builder.start().expect("a cluster starts")
}

/// Addresses of the loopback interface that are free now. They are below the range from which the system gives ports to
/// connections, so that no connection takes one before its node listens.
pub(crate) fn free_addresses<const N: usize>() -> [String; N] {
    // Tests of one process run at once: each call draws from a sequence of its own.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    // Another odd constant than the generator's own step, or the sequences would be one, shifted.
    let own = call.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mut rng = Rng((u64::from(std::process::id()) << 32) ^ own);
    let mut held: Vec<TcpListener> = Vec::new();
    while held.len() < N {
        let port = rng.range(12_000, 32_000) as u16;
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    std::array::from_fn(|place| held[place].local_addr().expect("it listens").to_string())
}

/// Waits until every running node has applied what the furthest has.
pub(crate) fn settled(cluster: &Cluster) {
    eventually("all replicas are equally far", || {
        let applied: Vec<Vec<u64>> = cluster
            .nodes()
            .into_iter()
            .filter_map(|node| cluster.db(node))
            .map(|db| db.status().iter().map(|group| group.applied.0).collect())
            .collect();
        applied.windows(2).all(|pair| pair[0] == pair[1])
    });
}
