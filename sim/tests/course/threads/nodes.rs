//! A cluster on threads that a script cuts off, crashes and starts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::transport::memory::{Endpoint, LinkFaults, MemoryNetwork};
use quorate::{Cluster, Db, GroupStatus, NodeId, Options, Role};
use quorate_sim::network::Unreliability;
use quorate_sim::seed::{Rng, Stream};
use quorate_wal::testing::{CrashDisk, Survivors};

/// Threads that run the nodes.
const WORKERS: usize = 2;

/// How long a script rests before it looks again, at most: frames that are delayed arrive so much later.
const LOOK: Duration = Duration::from_millis(1);

/// Nodes, their disks and the network between them. A node is named by its place.
pub(crate) struct Nodes {
    cluster: Cluster,
    disks: Vec<CrashDisk>,
    began: Instant,
    rng: Rng,
    quality: LinkFaults,
    reaches: Vec<Vec<bool>>,
}

impl Nodes {
    /// A cluster that has just been started.
    pub(crate) fn start(seed: u64, nodes: usize, mut options: Options) -> Self {
        options.workers = WORKERS;
        let disks: Vec<_> = (0..nodes).map(|_| CrashDisk::new()).collect();
        let cluster = Cluster::builder()
            .nodes(nodes as u64)
            .options(options)
            .start_on_disks(|node| Arc::new(disks[node.0 as usize - 1].clone()))
            .expect("empty disks");
        let nodes = Self {
            cluster,
            began: Instant::now(),
            rng: Rng::of(seed, Stream::Disk),
            quality: LinkFaults::default(),
            reaches: vec![vec![true; disks.len()]; disks.len()],
            disks,
        };
        nodes.network().seed(seed);
        nodes
    }

    pub(crate) fn count(&self) -> usize {
        self.disks.len()
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Lets time pass until this thread is woken up, or until then, but not for long.
    pub(crate) fn rest(&self, until_ns: u64) {
        self.network().advance(self.began.elapsed());
        let left = Duration::from_nanos(until_ns.saturating_sub(self.now_ns()));
        std::thread::park_timeout(left.min(LOOK));
        self.network().advance(self.began.elapsed());
    }

    // Faults.

    pub(crate) fn set_unreliable(&mut self, how: Unreliability) {
        self.quality = LinkFaults {
            drop_per_mille: how.drop_permille as u16,
            delay_max: Duration::from_nanos(how.delay_max_ns),
            late_per_mille: how.late_permille as u16,
            late_max: Duration::from_nanos(how.late_min_ns + how.late_spread_ns),
            ..LinkFaults::default()
        };
        self.set_links();
    }

    pub(crate) fn set_reliable(&mut self) {
        self.quality = LinkFaults::default();
        self.set_links();
    }

    /// Nodes reach each other if this says so, and not otherwise. Clerks reach all.
    pub(crate) fn set_reach(&mut self, reaches: impl Fn(usize, usize) -> bool) {
        for (from, to) in pairs(self.count()) {
            self.reaches[from][to] = reaches(from, to);
        }
        self.set_links();
    }

    fn set_links(&self) {
        for (from, to) in pairs(self.count()) {
            let faults = LinkFaults {
                cut: !self.reaches[from][to],
                ..self.quality
            };
            self.network().set_faults(id_of(from), id_of(to), faults);
        }
        for node in 0..self.count() {
            let network = self.network();
            network.set_faults(Endpoint::Clerks, id_of(node), self.quality);
            network.set_faults(id_of(node), Endpoint::Clerks, self.quality);
        }
    }

    /// The power of a node goes off: of what it had not synced, a part is left.
    pub(crate) fn kill(&mut self, node: usize) {
        self.cluster.crash(id_of(node));
        self.disks[node].power_cut(&Survivors::Random {
            seed: self.rng.draw(),
            survive_percent: 50,
            torn_percent: 30,
        });
    }

    /// Starts a node if it is down.
    pub(crate) fn start_node(&self, node: usize) {
        let started = self.cluster.restart(id_of(node));
        started.expect("what is left of its disk is sound");
    }

    // What nodes are like.

    /// A node, if it runs.
    pub(crate) fn db(&self, node: usize) -> Option<Db> {
        self.cluster.db(id_of(node))
    }

    /// Whether it believes that it leads.
    pub(crate) fn leads(&self, node: usize) -> bool {
        self.status(node).is_some_and(|it| it.role == Role::Leader)
    }

    /// Whoever leads in the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leaders = (0..self.count()).filter(|&node| self.leads(node));
        leaders.max_by_key(|&node| self.status(node).map(|it| it.term))
    }

    /// Bytes of the live entries of the largest log of any node.
    pub(crate) fn log_bytes(&self) -> u64 {
        let dbs = (0..self.count()).filter_map(|node| self.db(node));
        let sizes = dbs.map(|db| db.stats().log.live_bytes);
        sizes.max().unwrap_or_default()
    }

    /// Bytes of the largest snapshot file of any node.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        let sizes = self.disks.iter().flat_map(|disk| {
            let files = disk.files().into_iter();
            let snapshots = files.filter(|path| path.extension().is_some_and(|it| it == "snap"));
            let contents = snapshots.filter_map(|path| disk.contents(&path));
            contents.map(|content| content.len() as u64)
        });
        sizes.max().unwrap_or_default()
    }

    fn status(&self, node: usize) -> Option<GroupStatus> {
        self.db(node)?.status().into_iter().next()
    }

    fn network(&self) -> &MemoryNetwork {
        let network = self.cluster.network();
        network.expect("the nodes are linked by memory")
    }
}

fn id_of(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |from| {
        (0..nodes)
            .filter(move |&to| to != from)
            .map(move |to| (from, to))
    })
}
