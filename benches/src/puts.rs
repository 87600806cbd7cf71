//! Puts through a cluster of three, from one thread, with one or many on their way.

use std::path::PathBuf;

use quorate::{Clerk, Cluster, Options, TransportKind};
use tempfile::TempDir;

use crate::Failure;
use crate::place::Place;
use crate::sample::{Budget, Sample, run_pipelined};

/// The bytes of a key.
pub const KEY_BYTES: usize = 16;

/// The bytes of a value.
pub const VALUE_BYTES: usize = 128;

/// How many keys the puts are spread over.
pub const KEYS: u64 = 10_000;

/// How the cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setup {
    /// Replicas in this process that hand messages over, with their logs on one disk.
    MemoryTransport,
    /// The same over TCP on the loopback interface, the clerk too.
    Tcp,
    /// Messages handed over, logs in memory.
    NoDisk,
}

impl Setup {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MemoryTransport, Self::Tcp, Self::NoDisk];

    /// A short name for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryTransport => "durable, memory transport",
            Self::Tcp => "durable, TCP",
            Self::NoDisk => "no disk, memory transport",
        }
    }

    /// Whether a put is on disks when it returns, so that a probe that syncs does the same work.
    pub const fn is_durable(self) -> bool {
        !matches!(self, Self::NoDisk)
    }
}

/// A cluster of three with all keys in it, and a clerk.
pub struct CommittedPuts {
    // In the order in which they end: a clerk of a dead cluster would wait for its calls.
    clerk: Clerk,
    cluster: Cluster,
    keys: Keys,
    _dir: Option<TempDir>,
}

impl CommittedPuts {
    /// Starts the cluster and puts every key once.
    pub fn start(place: &Place, setup: Setup) -> Result<Self, Failure> {
        let dir = setup.is_durable().then(|| place.folder()).transpose()?;
        let cluster = start_cluster(setup, dir.as_ref().map(|dir| dir.path().to_owned()))?;
        let clerk = cluster.clerk();
        fill(&clerk)?;
        Ok(Self {
            clerk,
            cluster,
            keys: Keys::default(),
            _dir: dir,
        })
    }

    /// Keeps so many puts on their way until the budget is used up.
    pub fn run(&mut self, outstanding: usize, budget: Budget) -> Result<Sample, Failure> {
        let before = syncs(&self.cluster);
        let (clerk, keys) = (&self.clerk, &mut self.keys);
        let issue = || clerk.put_async(keys.next_key(), [0xA5; VALUE_BYTES]);
        let mut sample = run_pipelined(budget, outstanding, issue, |put| Ok(put.wait()?))?;
        sample.syncs = syncs(&self.cluster) - before;
        Ok(sample)
    }
}

/// Keys in an order that looks random and is the same in every run.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    count: u64,
}

impl Keys {
    pub(crate) fn next_key(&mut self) -> [u8; KEY_BYTES] {
        self.count += 1;
        // Fibonacci hashing: neighbours land far apart.
        let spread = self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        key(spread % KEYS)
    }
}

pub(crate) fn start_cluster(setup: Setup, dir: Option<PathBuf>) -> Result<Cluster, Failure> {
    let transport = match setup {
        Setup::Tcp => TransportKind::Tcp,
        Setup::MemoryTransport | Setup::NoDisk => TransportKind::Memory,
    };
    let builder = Cluster::builder()
        .nodes(3)
        .transport(transport)
        .options(Options::default());
    let builder = match dir {
        Some(dir) => builder.dir(dir),
        None => builder,
    };
    let cluster = builder.start()?;
    cluster.leader()?;
    Ok(cluster)
}

/// Puts every key once.
pub(crate) fn fill(clerk: &Clerk) -> Result<(), Failure> {
    const OUTSTANDING: usize = 512;
    let mut number = 0;
    let issue = || {
        number += 1;
        clerk.put_async(key(number - 1), [0xA5; VALUE_BYTES])
    };
    run_pipelined(Budget::Ops(KEYS), OUTSTANDING, issue, |put| Ok(put.wait()?)).map(drop)
}

fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key/000000000000";
    let digits = format!("{number:012}");
    key[KEY_BYTES - digits.len()..].copy_from_slice(digits.as_bytes());
    key
}

/// Syncs of all nodes' logs so far.
fn syncs(cluster: &Cluster) -> u64 {
    let nodes = cluster
        .nodes()
        .into_iter()
        .filter_map(|node| cluster.db(node));
    nodes.map(|db| db.stats().log.syncs).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_keys_are_all_there_is() {
        let all: BTreeSet<_> = (0..KEYS).map(key).collect();
        assert_eq!(all.len() as u64, KEYS);
        let mut keys = Keys::default();
        let met: BTreeSet<_> = (0..KEYS * 20).map(|_| keys.next_key()).collect();
        assert!(met.is_subset(&all));
        assert!(
            met.len() as u64 > KEYS * 9 / 10,
            "only {} of {KEYS} keys are met",
            met.len()
        );
    }
}
