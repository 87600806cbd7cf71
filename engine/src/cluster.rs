//! A whole cluster in this process: for trying, testing, and for programs that want replicas on several disks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_kv::Map;
use quorate_raft::NodeId;
use quorate_wal::{Disk, GroupId, MemoryDisk, RealDisk};

use crate::clerk::Clerk;
use crate::client::ReplyPort;
use crate::db::{Builder, Db, random_seed};
use crate::error::{Error, Obstacle, OpenError};
use crate::membership::FoundingStatus;
use crate::options::Options;
use crate::runtime::{Runtime, threads};
use crate::transport::memory::MemoryNetwork;
use crate::transport::tcp::{TcpClerkLink, TcpClerkOptions, TcpTransport};
use crate::transport::{ClerkInbox, ClerkLink, Transport};

/// Several nodes in this process, which may be crashed and restarted one by one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::Cluster;
///
/// let cluster = Cluster::in_memory(3)?; // three replicas in this process, zero-copy transport
/// let clerk = cluster.clerk();
/// clerk.put("k", "v")?;
/// cluster.crash(cluster.leader()?); // the clerk finds the new leader by itself
/// assert_eq!(clerk.get("k")?.as_deref(), Some(&b"v"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    runtime: Arc<Runtime<Map>>,
    net: Net,
    members: Vec<Member>,
    groups: u32,
    options: Options,
    process: threads::Process,
}

/// How the nodes of a [`Cluster`] reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportKind {
    /// By handing messages over; nothing is copied.
    #[default]
    Memory,
    /// Over TCP on the loopback interface.
    Tcp,
}

enum Net {
    Memory(Arc<MemoryNetwork>),
    Tcp(Vec<(NodeId, String)>),
}

struct Member {
    id: NodeId,
    builder: Builder,
    disk: Arc<dyn Disk>,
    /// The port that was found free, held until the node's first start takes it over.
    socket: Mutex<Option<TcpListener>>,
    db: Mutex<Option<Db>>,
}

impl Member {
    fn founding(&self) -> Option<FoundingStatus> {
        self.db.lock().as_ref().map(Db::founding)
    }
}

impl Cluster {
    /// Starts nodes `1..=nodes` without files: their logs live in memory and survive [`crash`](Self::crash), not the process.
    pub fn in_memory(nodes: u64) -> Result<Self, OpenError> {
        Self::builder().nodes(nodes).start()
    }

    /// Describes a cluster before starting it.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// A client that reaches all nodes by the cluster's own transport.
    pub fn clerk(&self) -> Clerk {
        let port = ReplyPort::new(NodeId(0));
        let inbox = Arc::clone(&port) as Arc<dyn ClerkInbox>;
        let link: Arc<dyn ClerkLink> = match &self.net {
            Net::Memory(network) => network.clerk(inbox),
            Net::Tcp(nodes) => TcpClerkLink::to_nodes(
                nodes.clone(),
                self.groups,
                TcpClerkOptions::default(),
                inbox,
            ),
        };
        Clerk::over(
            link,
            &port,
            self.groups,
            &self.options,
            self.runtime.clock,
            &self.runtime.timer,
        )
    }

    /// A running node, for calls that only a node has; `None` if it is down or there is none of this id.
    pub fn db(&self, node: NodeId) -> Option<Db> {
        self.member(node)?.db.lock().clone()
    }

    /// The ids of all nodes, running or not.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.id).collect()
    }

    /// How many groups there are.
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// Who leads the first group, once somebody does.
    pub fn leader(&self) -> Result<NodeId, Error> {
        self.leader_of(GroupId(0))
    }

    /// Who leads a group, once somebody does; fails at the call timeout.
    pub fn leader_of(&self, group: GroupId) -> Result<NodeId, Error> {
        let timeout = self.options.call_timeout;
        let began = Instant::now();
        loop {
            let leaders = self
                .members
                .iter()
                .filter(|member| member.db.lock().as_ref().is_some_and(|db| db.leads(group)));
            // A deposed leader that has not heard yet has the lower term.
            let term = |member: &&Member| {
                member
                    .db
                    .lock()
                    .as_ref()
                    .map(|db| db.status()[group.0 as usize].term)
            };
            if let Some(leader) = leaders.max_by_key(term) {
                return Ok(leader.id);
            }
            if began.elapsed() >= timeout {
                return Err(Error::Timeout {
                    after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                    maybe_applied: false,
                    cause: Obstacle::NoLeader,
                    leader: None,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops a node as a crash would: at once, without writing anything more. Returns whether it ran.
    pub fn crash(&self, node: NodeId) -> bool {
        let Some(db) = self.member(node).and_then(|member| member.db.lock().take()) else {
            return false;
        };
        db.crash();
        true
    }

    /// Starts a node again from its files. Does nothing if it runs.
    pub fn restart(&self, node: NodeId) -> Result<(), OpenError> {
        let Some(member) = self.member(node) else {
            return Err(OpenError::OwnIdMissing { id: node });
        };
        let mut db = member.db.lock();
        if db.is_none() {
            *db = Some(self.open(member)?);
        }
        Ok(())
    }

    /// The switchboard of the memory transport, for cutting and healing links; `None` over TCP.
    pub fn network(&self) -> Option<&Arc<MemoryNetwork>> {
        match &self.net {
            Net::Memory(network) => Some(network),
            Net::Tcp(_) => None,
        }
    }

    /// Waits until each node has begun: until then a cluster needs all of them, and whoever stops one waits for it.
    fn await_founding(&self) -> Result<(), OpenError> {
        let timeout = self.options.call_timeout;
        let began = Instant::now();
        for member in &self.members {
            while let Some(status) = member.founding().filter(|status| !status.is_founded) {
                if began.elapsed() >= timeout {
                    return Err(OpenError::Unfounded {
                        after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                        node: member.id,
                        status: Box::new(status),
                    });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == node)
    }

    fn open(&self, member: &Member) -> Result<Db, OpenError> {
        let setup = member
            .builder
            .setup(Arc::clone(&member.disk), random_seed())?;
        let members = self.nodes();
        Db::start(&setup, &members, &self.runtime, None, |inbox| {
            match &self.net {
                Net::Memory(network) => Ok(network.attach(member.id, inbox) as Arc<dyn Transport>),
                Net::Tcp(_) => {
                    let options = member
                        .builder
                        .tcp_options(inbox.card().map(|card| card.cluster_id));
                    let transport = match member.socket.lock().take() {
                        Some(socket) => TcpTransport::bind_socket(options, socket, inbox)?,
                        None => TcpTransport::bind(options, inbox)?,
                    };
                    Ok(transport as Arc<dyn Transport>)
                }
            }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.process.is_another() {
            std::mem::forget(Arc::clone(&self.runtime));
            return;
        }
        // All of them are about to stop, unless the caller keeps some: each would wait for the others in turn.
        for member in &self.members {
            if let Some(db) = member.db.lock().as_ref() {
                db.keep_leadership();
            }
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("nodes", &self.nodes())
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// Describes a [`Cluster`] before it is started.
#[derive(Clone, Debug)]
#[must_use = "describes a cluster; `start` starts it"]
pub struct ClusterBuilder {
    nodes: u64,
    groups: u32,
    dir: Option<PathBuf>,
    transport: TransportKind,
    options: Options,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            nodes: 3,
            groups: 1,
            dir: None,
            transport: TransportKind::default(),
            options: Options::default(),
        }
    }
}

/// More nodes than any sensible cluster has.
const NODES_MAX: u64 = 15;

impl ClusterBuilder {
    /// How many nodes, from 1 to 15; 3 unless told.
    pub fn nodes(mut self, nodes: u64) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many groups the keys are spread over; 1 unless told.
    pub fn groups(mut self, groups: u32) -> Self {
        self.groups = groups;
        self
    }

    /// Keeps the nodes' files in folders `1`, `2`, … of this one. Without it they live in memory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_path_buf());
        self
    }

    /// How the nodes reach each other.
    pub fn transport(mut self, transport: TransportKind) -> Self {
        self.transport = transport;
        self
    }

    /// Everything that may be tuned.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Starts all nodes, and waits until the cluster has begun: from then on a majority is enough. Fails with
    /// [`OpenError::Unfounded`] if that takes longer than [`Options::call_timeout`].
    pub fn start(self) -> Result<Cluster, OpenError> {
        let has_dir = self.dir.is_some();
        self.start_on(|_| {
            let disk: Arc<dyn Disk> = if has_dir {
                Arc::new(RealDisk)
            } else {
                Arc::new(MemoryDisk::new())
            };
            disk
        })
    }

    /// Starts all nodes, each on the disk that it is given: for tests that cut the power of disks of their own.
    #[cfg(feature = "simulation")]
    pub fn start_on_disks(
        self,
        disk_of: impl Fn(NodeId) -> Arc<dyn Disk>,
    ) -> Result<Cluster, OpenError> {
        self.start_on(disk_of)
    }

    /// Starts all nodes, each on the disk that it is given.
    fn start_on(mut self, disk_of: impl Fn(NodeId) -> Arc<dyn Disk>) -> Result<Cluster, OpenError> {
        if self.nodes == 0 || self.nodes > NODES_MAX {
            let reason = format!(
                "{} nodes asked for; choose from 1 to {NODES_MAX}",
                self.nodes
            );
            return Err(OpenError::Options { reason });
        }
        self.options.validate()?;
        // Once, also for nodes that are restarted later.
        if let Some(dir) = &mut self.dir {
            *dir = std::path::absolute(&*dir).map_err(|source| OpenError::Io {
                path: dir.clone(),
                source,
            })?;
        }
        let sockets = self.sockets()?;
        let addresses: Vec<(u64, String)> = sockets
            .iter()
            .map(|(id, socket)| Ok((*id, address_of(*id, socket.as_ref())?)))
            .collect::<Result<_, OpenError>>()?;
        let net = match self.transport {
            TransportKind::Memory => Net::Memory(MemoryNetwork::new()),
            TransportKind::Tcp => Net::Tcp(
                addresses
                    .iter()
                    .map(|(id, address)| (NodeId(*id), address.clone()))
                    .collect(),
            ),
        };
        let runtime = Runtime::start(&self.options).map_err(OpenError::Thread)?;
        let members = sockets
            .into_iter()
            .map(|(id, socket)| self.member(id, socket, disk_of(NodeId(id)), &addresses))
            .collect();
        let cluster = Cluster {
            runtime,
            net,
            members,
            groups: self.groups,
            options: self.options,
            process: threads::Process::present(),
        };
        for member in &cluster.members {
            *member.db.lock() = Some(cluster.open(member)?);
        }
        cluster.await_founding()?;
        cluster.spread_leaders();
        Ok(cluster)
    }

    fn member(
        &self,
        id: u64,
        socket: Option<TcpListener>,
        disk: Arc<dyn Disk>,
        addresses: &[(u64, String)],
    ) -> Member {
        let node = NodeId(id);
        let root = self.dir.clone().unwrap_or_else(|| PathBuf::from("/"));
        let dir = root.join(id.to_string());
        let builder = Db::builder(dir)
            .node(id)
            .cluster(addresses.iter().cloned())
            .cluster_id(LOCAL_CLUSTER_ID)
            .groups(self.groups)
            .options(self.options.clone());
        Member {
            id: node,
            builder,
            disk,
            socket: Mutex::new(socket),
            db: Mutex::new(None),
        }
    }

    /// Every node's id, and over TCP a free port of the loopback interface. All are held until their nodes take them, so
    /// that nobody else gets one in between.
    fn sockets(&self) -> Result<Vec<(u64, Option<TcpListener>)>, OpenError> {
        let is_tcp = self.transport == TransportKind::Tcp;
        let socket = || is_tcp.then(|| TcpListener::bind(LOOPBACK)).transpose();
        (1..=self.nodes)
            .map(|id| Ok((id, socket().map_err(bind_error)?)))
            .collect()
    }
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn bind_error(source: io::Error) -> OpenError {
    OpenError::Bind {
        address: LOOPBACK,
        source,
    }
}

/// Where a node listens; without a socket it has just a name.
fn address_of(id: u64, socket: Option<&TcpListener>) -> Result<String, OpenError> {
    match socket {
        None => Ok(format!("memory:{id}")),
        Some(socket) => Ok(socket.local_addr().map_err(bind_error)?.to_string()),
    }
}

/// Addresses of a local cluster change from run to run, so its id does not depend on them.
const LOCAL_CLUSTER_ID: u64 = 0x6C6F_6361_6C00_0001;

impl Cluster {
    /// Lets a different node lead each group at first, and at once.
    fn spread_leaders(&self) {
        for group in 0..u64::from(self.groups) {
            let member = &self.members[(group % self.members.len() as u64) as usize];
            if let Some(db) = member.db.lock().as_ref() {
                db.campaign(GroupId(group));
            }
        }
    }
}

#[cfg(test)]
mod tests;
