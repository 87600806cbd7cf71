//! A node of a cluster inside this program, and how it is opened.

use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_kv::{Map, MapView};
use quorate_raft::{LogIndex, NodeId, Role, Term};
use quorate_wal::{Disk, GroupId, LogStats, LogStatus, RealDisk, SubmitError};

use crate::clerk::Clerk;
use crate::client::{Client, ClientLife, Link, ReplyPort};
use crate::error::{Error, OpenError};
use crate::identity::Wanted;
use crate::membership::FoundingStatus;
use crate::node::{Event, Outlet, Replica};
use crate::opening::{self, NodeSetup};
use crate::options::Options;
use crate::partition::{GROUPS_MAX, Partitioner};
use crate::rejected::Rejected;
use crate::runtime::{Node, Runtime, threads};
use crate::transport::tcp::{TcpError, TcpOptions, TcpTransport, TransportEvent};
use crate::transport::{
    ClerkInbox, Consistency, Frame, Inbox, LogHealth, NoTransport, NodeStatus, Origin, ReplySink,
    Request, RequestId, Transport,
};

/// A node of a replicated store, in this process.
///
/// It offers all calls of a [`Clerk`], to which it dereferences; reads are answered from the replica here. Clones share the
/// node; when the last one is dropped, the node stops in order.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let db = quorate::Db::open(dir.path().join("data"))?; // one durable node, one group
/// db.put("motto", "quorate")?; // on disk when it returns
/// db.append("motto", "!")?;
/// assert_eq!(db.get("motto")?.as_deref(), Some(&b"quorate!"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Db {
    clerk: Clerk,
    inner: Arc<Inner>,
}

struct Inner {
    node: Arc<Node<Map>>,
    client: Arc<Client>,
}

/// How a group stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This replica's part in it.
    pub role: Role,
    /// The term it is in.
    pub term: Term,
    /// Who leads, as far as known here.
    pub leader: Option<NodeId>,
    /// What is known here to be committed.
    pub commit: LogIndex,
    /// What reads see here.
    pub applied: LogIndex,
}

/// How a replica's state compares with another's: equal at equal indexes, or something is badly wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The last entry it includes.
    pub applied: LogIndex,
    /// Over all keys, values and sessions.
    pub digest: u64,
}

/// Figures of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The counters and sizes of its log.
    pub log: LogStats,
    /// What the node refused, by reason.
    pub rejected: Rejected,
    /// Whether the log takes writes, and syncs them in time. What was worse within the last election timeout still counts.
    pub health: LogHealth,
    /// How long the oldest write that is not durable has waited; zero if all are.
    pub oldest_unsynced: Duration,
    /// Why the log failed, if it did.
    pub log_failure: Option<String>,
    /// Why the node stopped by itself, if it did: one of its threads failed.
    pub failure: Option<String>,
    /// What each other node said of itself; `None` of one that said nothing for two election timeouts.
    pub peers: Vec<(NodeId, Option<NodeStatus>)>,
}

impl Db {
    /// Opens a durable store of one node with one group, making the directory if needed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder(dir).open()
    }

    /// Describes a node before opening it.
    pub fn builder(dir: impl AsRef<Path>) -> Builder {
        Builder::new(dir.as_ref())
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.inner.node.id
    }

    /// How every group stands here.
    pub fn status(&self) -> Vec<GroupStatus> {
        let published = self.inner.node.published.iter();
        published
            .enumerate()
            .map(|(group, published)| GroupStatus {
                group: GroupId(group as u64),
                role: published.role(),
                term: published.term(),
                leader: published.leader(),
                commit: published.commit(),
                applied: published.applied(),
            })
            .collect()
    }

    /// Whether the cluster is founded, whom this node waits for if not, and who refuses it. A cluster is founded once each
    /// node of its list has started once and they have met; before that, nodes promise nothing and calls wait.
    pub fn founding(&self) -> FoundingStatus {
        self.inner.node.inbox.membership.status()
    }

    /// Figures of this node: its log, and what it refused.
    pub fn stats(&self) -> Stats {
        let mut rejected = self.inner.node.rejections.read();
        rejected.replies += self.inner.client.rejected_replies();
        let node = &self.inner.node;
        let now_ns = node.runtime.clock.now_ns();
        let oldest_ns = node.board.oldest_age_ns(now_ns, node.log.durable());
        Stats {
            log: node.log.stats(),
            rejected,
            health: node.board.health(now_ns, &node.log),
            oldest_unsynced: Duration::from_nanos(oldest_ns),
            peers: node.board.heard(now_ns),
            log_failure: match node.log.status() {
                LogStatus::Failed { reason } => Some(reason),
                _ => None,
            },
            failure: node.fate.reason().map(ToString::to_string),
        }
    }

    /// An immutable view of one group's keys, as fresh as asked for. It holds its keys and values as they were, whatever is
    /// written later, and blocks nobody.
    ///
    /// It is a view of the replica in this process, so nobody else can give it: if that replica does not catch up with the
    /// leader within `Options::call_timeout`, the call fails with [`Obstacle::Lagging`](crate::Obstacle::Lagging).
    pub fn view(&self, group: GroupId, consistency: Consistency) -> Result<MapView, Error> {
        if group.0 >= u64::from(self.groups()) {
            return Err(Error::NoSuchGroup { group });
        }
        self.clerk
            .read_local(group, consistency, MapView::clone)
            .wait()
    }

    /// What last kept a group's replica here from its work (an entry that cannot be read, a snapshot that cannot
    /// be written), or what keeps the log of the node from taking writes for now; `None` if nothing did. If the node failed as a whole, that is the trouble of all its groups.
    pub fn trouble(&self, group: GroupId) -> Result<Option<String>, Error> {
        if let Some(reason) = self.inner.node.fate.reason() {
            return Ok(Some(reason.to_string()));
        }
        let fault = self.inspect(group, |replica| replica.fault().map(str::to_owned))?;
        Ok(fault.or_else(|| shortage(self.inner.node.log.status())))
    }

    /// A digest of a group's whole state on this node, taken between two batches. Reads everything: for tests and audits.
    pub fn digest(&self, group: GroupId) -> Result<Digest, Error> {
        let digest = self.inspect(group, |replica| {
            replica.published().has_state().then(|| Digest {
                applied: replica.applied(),
                digest: replica.sessions().digest(),
            })
        })?;
        digest.ok_or(Error::Quarantined { group })
    }

    /// Looks at a replica on the thread that owns it.
    pub(crate) fn inspect<T: Send + 'static>(
        &self,
        group: GroupId,
        look: impl FnOnce(&Replica<Map>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        if group.0 >= u64::from(self.groups()) {
            return Err(Error::NoSuchGroup { group });
        }
        if !threads::may_wait() {
            return Err(Error::OwnThread);
        }
        let (give, take) = crossbeam::channel::bounded(1);
        let with = Box::new(move |replica: &Replica<Map>| {
            let _gave_up = give.send(look(replica));
        });
        self.inner
            .node
            .inbox
            .push(group, Event::Inspect { group, with });
        // A stopped node drops the question, and with it the sender.
        take.recv().map_err(|_| self.inner.cause())
    }

    /// Asks a group's leader, if it is this node, to hand its office to another node, or to the one that is furthest.
    /// Returns at once; [`status`](Self::status) tells.
    pub fn transfer_leadership(&self, group: GroupId, to: Option<NodeId>) {
        self.inner
            .node
            .inbox
            .push(group, Event::Transfer { group, to });
    }

    /// Starts a snapshot of a group now, which lets its log be cut. Returns at once. While one is being saved this does
    /// nothing, and the one that is saved may lack what was applied last.
    pub fn snapshot(&self, group: GroupId) {
        self.inner.node.inbox.push(group, Event::Snapshot { group });
    }

    /// Stops the node in order. Calls that are outstanding fail with [`Error::Closed`]. When this returns, the directory may be
    /// opened again; but not if it is called by a waker or an observer, on a thread of the node: then it returns at once, and
    /// the node stops as soon as that thread goes on. The same holds for dropping the last handle.
    pub fn close(&self) {
        self.inner.close(true);
    }

    /// Stops the node as a crash would: what was not yet written stays unwritten.
    pub(crate) fn crash(&self) {
        self.inner.close(false);
    }

    /// Lets replicas that are to lead at first ask for it at once instead of waiting out a timeout.
    pub(crate) fn campaign(&self, group: GroupId) {
        self.inner.node.inbox.push(group, Event::Campaign { group });
    }

    pub(crate) fn leads(&self, group: GroupId) -> bool {
        self.inner.node.leads(group)
    }

    pub(crate) fn start(
        setup: &NodeSetup,
        members: &[NodeId],
        runtime: &Arc<Runtime<Map>>,
        observer: Option<TransportObserver>,
        connect: impl FnOnce(Arc<dyn Inbox>) -> Result<Arc<dyn Transport>, OpenError>,
    ) -> Result<Self, OpenError> {
        let id = NodeId(setup.identity.node);
        let port = ReplyPort::new(id);
        let replies = Arc::clone(&port) as Arc<dyn ClerkInbox>;
        let node = Arc::new(Node::open(setup, runtime, replies, connect)?);
        // The own node first: it knows who leads.
        let others = members.iter().copied().filter(|&member| member != id);
        let nodes: Vec<NodeId> = std::iter::once(id).chain(others).collect();
        let link = Arc::new(LocalLink {
            node: Arc::clone(&node),
            port: Arc::clone(&port),
        });
        let timer = Arc::clone(&runtime.timer);
        let partitioner = Partitioner::hashed(setup.identity.groups);
        let client = Client::new(
            link,
            &nodes,
            partitioner,
            &setup.options,
            runtime.clock,
            Arc::clone(&timer),
            ClientLife::draw(),
        );
        port.bind(&client);
        node.fate.bind(farewell(&node, &client, observer));
        let clerk = Clerk::new(Arc::clone(&client), Some(node.published.clone()), timer);
        let db = Self {
            clerk,
            inner: Arc::new(Inner { node, client }),
        };
        if members.len() == 1 {
            for group in partitioner.groups() {
                db.campaign(group);
            }
        }
        Ok(db)
    }
}

impl Deref for Db {
    type Target = Clerk;

    fn deref(&self) -> &Clerk {
        &self.clerk
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("node", &self.node())
            .field("groups", &self.groups())
            .finish()
    }
}

impl Inner {
    fn close(&self, in_order: bool) {
        let (node, client) = (Arc::clone(&self.node), Arc::clone(&self.client));
        // On a thread of the node this would wait for that very thread.
        threads::apart(move || {
            node.stop(in_order);
            client.close();
        });
    }

    /// Why nothing is answered any more.
    fn cause(&self) -> Error {
        match self.node.fate.reason() {
            Some(reason) => Error::Failed {
                reason: reason.to_string(),
            },
            None => Error::Closed,
        }
    }
}

/// What a log is short of, and what to do.
fn shortage(status: LogStatus) -> Option<String> {
    let refusal = match status {
        LogStatus::Full => SubmitError::Full,
        LogStatus::NoHandles { reason } => SubmitError::NoHandles { reason },
        _ => return None,
    };
    Some(refusal.to_string())
}

/// What is done when a node fails: its callers hear first, then its peers, which hear nothing more and elect.
fn farewell(
    node: &Arc<Node<Map>>,
    client: &Arc<Client>,
    observer: Option<TransportObserver>,
) -> impl FnOnce(&Arc<str>) + Send + 'static {
    let (node, client) = (Arc::downgrade(node), Arc::downgrade(client));
    move |reason| {
        if let Some(client) = client.upgrade() {
            client.fail(reason);
        }
        if let Some(observer) = observer {
            let reason = reason.to_string();
            let event = TransportEvent::NodeFailed { reason };
            let _panicked = threads::shielded(|| observer(&event));
        }
        if let Some(node) = node.upgrade() {
            node.stop(false);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close(true);
    }
}

/// A `Db`'s way to the nodes: straight to the workers here, and over the node's transport to the others.
struct LocalLink {
    node: Arc<Node<Map>>,
    port: Arc<ReplyPort>,
}

impl Link for LocalLink {
    fn send(&self, to: NodeId, request: Request) -> bool {
        if to == self.node.id {
            let origin = Origin::Clerk(Arc::clone(&self.port) as Arc<dyn ReplySink>);
            let shard = self.node.inbox.shard_of(request.group);
            self.node.is_running() && shard.offer(Event::Frame(origin, Frame::Request(request)))
        } else {
            self.node.transport.send(to, Frame::Request(request))
        }
    }

    fn wait_applied(&self, group: GroupId, index: LogIndex, id: RequestId) {
        let outlet = Outlet::sink(id, Arc::clone(&self.port) as Arc<dyn ReplySink>);
        self.node.inbox.push(
            group,
            Event::WaitApplied {
                group,
                index,
                outlet,
            },
        );
    }

    fn stop(&self) {}

    fn failed(&self, reason: &str) {
        self.node.fate.fail(reason);
    }
}

/// Describes a node before it is opened.
///
/// ```no_run
/// # fn main() -> Result<(), quorate::OpenError> {
/// let db = quorate::Db::builder("data/1")
///     .node(1)
///     .cluster([(1, "10.0.0.1:7400"), (2, "10.0.0.2:7400"), (3, "10.0.0.3:7400")])
///     .groups(16)
///     .open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "describes a node; `open` opens it"]
pub struct Builder {
    dir: PathBuf,
    node: NodeId,
    members: Vec<(NodeId, String)>,
    groups: u32,
    cluster_id: Option<u64>,
    listen: Option<String>,
    advertise: Option<String>,
    without: Vec<NodeId>,
    options: Options,
    observer: Option<TransportObserver>,
}

/// Told when peers come, go, or are turned away, and when the node fails.
pub type TransportObserver = Arc<dyn Fn(&TransportEvent) + Send + Sync>;

impl Builder {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            node: NodeId(1),
            members: Vec::new(),
            groups: 1,
            cluster_id: None,
            listen: None,
            advertise: None,
            without: Vec::new(),
            options: Options::default(),
            observer: None,
        }
    }

    /// This node's id, above zero; 1 unless told.
    pub fn node(mut self, id: u64) -> Self {
        self.node = NodeId(id);
        self
    }

    /// All nodes of the cluster with the addresses at which they are reached, this one included; the same ids on every
    /// node. Without it the node is alone and listens nowhere.
    ///
    /// A new cluster begins when each of them has started once and they have met; until then this node waits, and
    /// [`Db::founding`] says for whom. Afterwards a majority is enough.
    pub fn cluster<A: Into<String>>(mut self, nodes: impl IntoIterator<Item = (u64, A)>) -> Self {
        self.members = nodes
            .into_iter()
            .map(|(id, address)| (NodeId(id), address.into()))
            .collect();
        self
    }

    /// How many groups the keys are spread over; 1 unless told. Fixed when the directory is made.
    pub fn groups(mut self, groups: u32) -> Self {
        self.groups = groups;
        self
    }

    /// Where this node listens, if not at its address in the list: behind a port mapping, or on all interfaces.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Where clerks reach this node, if not at its address in the list.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Nodes of the list that will never come: a new cluster begins without them, and they are turned away for good. The
    /// same ones on every node; a majority must be left. Once all nodes have met, nobody else can be left out.
    pub fn without_founders(mut self, nodes: impl IntoIterator<Item = u64>) -> Self {
        self.without = nodes.into_iter().map(NodeId).collect();
        self
    }

    /// Tells clusters apart, above zero: nodes with another one are turned away. Unless told, what the directory says, and for a new
    /// one a number that follows from the ids in the list.
    pub fn cluster_id(mut self, id: u64) -> Self {
        self.cluster_id = Some(id);
        self
    }

    /// Everything that may be tuned.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Whom to tell when peers come, go, or are turned away, on the transport's threads; and when the node fails
    /// ([`TransportEvent::NodeFailed`]), or refuses what a peer sent ([`TransportEvent::MessageRefused`]), on the thread
    /// that reads and writes snapshots. What panics in here is reported by the panic hook and otherwise ignored.
    pub fn observer(mut self, observer: impl Fn(&TransportEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Opens the node: takes its address, locks the directory, checks whose it is, recovers the log, starts.
    pub fn open(self) -> Result<Db, OpenError> {
        self.open_disk(Arc::new(RealDisk))
    }

    /// The same on a disk of the caller's, which may misbehave.
    #[cfg(feature = "simulation")]
    pub fn open_on(self, disk: Arc<dyn Disk>) -> Result<Db, OpenError> {
        self.open_disk(disk)
    }

    fn open_disk(self, disk: Arc<dyn Disk>) -> Result<Db, OpenError> {
        let setup = self.setup(disk, random_seed())?;
        // First, so that a wrong address leaves no directory behind.
        let is_alone = self.members.is_empty();
        let socket = (!is_alone).then(|| listen(&setup)).transpose()?;
        let members: Vec<NodeId> = setup.identity.members.iter().copied().map(NodeId).collect();
        let runtime = Runtime::start(&setup.options).map_err(OpenError::Thread)?;
        let observer = self.observer.clone();
        let Some(socket) = socket else {
            return Db::start(&setup, &members, &runtime, observer, |_inbox| {
                Ok(Arc::new(NoTransport))
            });
        };
        Db::start(&setup, &members, &runtime, observer, |inbox| {
            let options = self.tcp_options(inbox.card().map(|card| card.cluster_id));
            Ok(TcpTransport::bind_socket(options, socket, inbox)? as Arc<dyn Transport>)
        })
    }

    /// This node's address in the list.
    fn own_address(&self) -> String {
        let own = self.members.iter().find(|(id, _)| *id == self.node);
        own.map(|(_, address)| address.clone()).unwrap_or_default()
    }

    /// What the transport is told. `cluster_id` is what the directory says.
    pub(crate) fn tcp_options(&self, cluster_id: Option<u64>) -> TcpOptions {
        let listen = self.listen.clone().unwrap_or_else(|| self.own_address());
        let mut peers = self.members.clone();
        if let Some(advertise) = &self.advertise {
            let own = peers.iter_mut().filter(|(id, _)| *id == self.node);
            own.for_each(|(_, address)| address.clone_from(advertise));
        }
        let mut options = TcpOptions::new(self.node, cluster_id.unwrap_or(0), listen, peers);
        options.groups = self.groups;
        options.observer.clone_from(&self.observer);
        options
    }

    /// Checks everything that can be checked without touching the disk, and names the directory for good.
    pub(crate) fn setup(&self, disk: Arc<dyn Disk>, seed: u64) -> Result<NodeSetup, OpenError> {
        self.options.validate()?;
        if self.cluster_id == Some(0) {
            return Err(OpenError::ClusterIdZero);
        }
        if self.groups == 0 || self.groups > GROUPS_MAX {
            return Err(OpenError::Groups {
                groups: self.groups,
                limit: GROUPS_MAX,
            });
        }
        let mut members: Vec<u64> = self.members.iter().map(|(id, _)| id.0).collect();
        if members.is_empty() {
            members.push(self.node.0);
        }
        members.sort_unstable();
        if let Some(twice) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(OpenError::DuplicateNode {
                id: NodeId(twice[0]),
            });
        }
        if members[0] == 0 {
            return Err(OpenError::Options {
                reason: "node ids must be above zero".to_owned(),
            });
        }
        if !members.contains(&self.node.0) {
            return Err(OpenError::OwnIdMissing { id: self.node });
        }
        if self.options.log.accept_damage && members.len() > 1 {
            return Err(OpenError::AcceptsDamage {
                node: self.node,
                members: members.len(),
            });
        }
        // Once: files are looked for again later, and the process may have changed its working directory by then.
        let dir = std::path::absolute(&self.dir).map_err(|source| OpenError::Io {
            path: self.dir.clone(),
            source,
        })?;
        let identity = Wanted {
            cluster_id: self.cluster_id,
            node: self.node.0,
            groups: self.groups,
            members,
        };
        Ok(NodeSetup {
            dir,
            disk,
            identity,
            without: self.without.clone(),
            listen: self.listen.clone().unwrap_or_else(|| self.own_address()),
            advertise: self.advertise.clone().unwrap_or_else(|| self.own_address()),
            observer: self.observer.clone(),
            options: self.options.clone(),
            seed,
        })
    }
}

/// A socket that listens, before anything else of the node is made.
fn listen(setup: &NodeSetup) -> Result<TcpListener, OpenError> {
    TcpListener::bind(&setup.listen).map_err(|source| {
        let address = setup.listen.clone();
        // The process that has the address may be the one that has the directory: that says more.
        opening::held(setup).unwrap_or_else(|| TcpError::Listen { address, source }.into())
    })
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("dir", &self.dir)
            .field("node", &self.node)
            .field("members", &self.members)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// A number that no other node and no other run draws. A directory's incarnation, the nonce of a start and the owner of a
/// session are made of it: two that were equal would hide that a directory was wiped or copied. So are election jitter,
/// names and the numbers of requests. From the randomness of the operating system, by way of the keys of a hash map.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests;
