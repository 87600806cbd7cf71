//! Reads from the replicas in this process.

use quorate::{Cluster, Consistency, Db};
use tempfile::TempDir;

use crate::Failure;
use crate::place::Place;
use crate::puts::{Keys, Setup, fill, start_cluster};
use crate::sample::{Budget, Sample, run_cheap, run_pipelined};

/// What is read how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Read {
    /// On the leader, under its lease, one after the other.
    Lease,
    /// On the leader, each confirmed by a majority, with so many on their way.
    Linearizable {
        /// How many.
        outstanding: usize,
    },
    /// On a follower, whatever it has applied, one after the other.
    Stale,
}

impl Read {
    /// All that are measured.
    pub const ALL: [Self; 5] = [
        Self::Lease,
        Self::Linearizable { outstanding: 1 },
        Self::Linearizable { outstanding: 64 },
        Self::Linearizable { outstanding: 1_024 },
        Self::Stale,
    ];

    /// A short name for tables.
    pub fn name(self) -> String {
        match self {
            Self::Lease => "lease".to_owned(),
            Self::Linearizable { outstanding } => {
                format!("linearizable, {outstanding} outstanding")
            }
            Self::Stale => "stale".to_owned(),
        }
    }
}

/// A cluster of three with all keys in it, durable, over the memory transport.
pub struct Reads {
    leader: Db,
    follower: Db,
    keys: Keys,
    _cluster: Cluster,
    _dir: TempDir,
}

impl Reads {
    /// Starts the cluster and puts every key once.
    pub fn start(place: &Place) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let cluster = start_cluster(Setup::MemoryTransport, Some(dir.path().to_owned()))?;
        fill(&cluster.clerk())?;
        let leads = cluster.leader()?;
        let leader = cluster.db(leads).ok_or("the leader stopped")?;
        let follows = cluster.nodes().into_iter().find(|&node| node != leads);
        let follower = follows
            .and_then(|node| cluster.db(node))
            .ok_or("there is no follower")?;
        // A read that sees everything waits until the follower has it.
        follower.count()?;
        Ok(Self {
            leader,
            follower,
            keys: Keys::default(),
            _cluster: cluster,
            _dir: dir,
        })
    }

    /// Reads until the budget is used up.
    pub fn run(&mut self, read: Read, budget: Budget) -> Result<Sample, Failure> {
        let (leader, follower, keys) = (&self.leader, &self.follower, &mut self.keys);
        match read {
            Read::Lease => run_cheap(budget, || {
                found(leader.get_with(keys.next_key(), Consistency::Lease)?)
            }),
            Read::Stale => run_cheap(budget, || {
                found(follower.get_with(keys.next_key(), Consistency::Stale)?)
            }),
            Read::Linearizable { outstanding } => {
                let issue = || leader.get_async(keys.next_key(), Consistency::Linearizable);
                run_pipelined(budget, outstanding, issue, |get| found(get.wait()?))
            }
        }
    }

    /// Linearizable reads at a follower, which answers from its own replica, with so many on their way.
    pub fn run_at_follower(
        &mut self,
        outstanding: usize,
        budget: Budget,
    ) -> Result<Sample, Failure> {
        let (follower, keys) = (&self.follower, &mut self.keys);
        let issue = || follower.get_async(keys.next_key(), Consistency::Linearizable);
        run_pipelined(budget, outstanding, issue, |get| found(get.wait()?))
    }
}

/// Every key was put.
fn found<T>(value: Option<T>) -> Result<(), Failure> {
    value
        .map(drop)
        .ok_or_else(|| "a key that was put is not there".into())
}
