//! A node of a cluster inside this program, and how it is opened.

use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{Map, MapView};
use quorate_raft::{LogIndex, NodeId, Role, Term};
use quorate_wal::{Disk, GroupId, LogStats, LogStatus, RealDisk, SubmitError};

use crate::clerk::Clerk;
use crate::client::{Client, ClientLife, Link, ReplyPort};
use crate::error::{Error, OpenError};
use crate::identity::Wanted;
use crate::membership::FoundingStatus;
use crate::node::{Event, Outlet, Replica, Told};
use crate::opening::{self, NodeSetup};
use crate::options::Options;
use crate::partition::{GROUPS_MAX, Partitioner};
use crate::pending::{Answer, Pending};
use crate::rejected::Rejected;
use crate::runtime::{Events, Node, Runtime, threads};
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
    /// Where its threads are.
    process: threads::Process,
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
        if self.inner.process.is_another() {
            return Err(Error::Closed);
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
        take.recv().map_err(|_| cause(&self.inner.node))
    }

    /// Hands the leadership of a group, if this node leads it, to another node, or to the one that can take over best.
    /// Returns who leads then; fails with [`TransferError`](crate::TransferError), at the latest two election timeouts later.
    pub fn transfer_leadership(&self, group: GroupId, to: Option<NodeId>) -> Result<NodeId, Error> {
        self.transfer_leadership_async(group, to).wait()
    }

    /// [`transfer_leadership`](Self::transfer_leadership) without waiting.
    pub fn transfer_leadership_async(&self, group: GroupId, to: Option<NodeId>) -> Pending<NodeId> {
        self.ask(group, |told| Event::Transfer { group, to, told })
    }

    /// Saves a snapshot of a group, which lets its log be cut. Returns up to which index: everything that was applied here
    /// when this was called. If there is one already nothing is saved. It takes as long as the state is large and the disk
    /// slow; it fails with [`Error::Snapshot`] if the snapshot cannot be saved.
    pub fn snapshot(&self, group: GroupId) -> Result<LogIndex, Error> {
        self.snapshot_async(group).wait()
    }

    /// [`snapshot`](Self::snapshot) without waiting.
    pub fn snapshot_async(&self, group: GroupId) -> Pending<LogIndex> {
        self.ask(group, |told| Event::Snapshot { group, told })
    }

    /// Asks the worker of a group for something that it answers with a number, now or later.
    fn ask<N: Numbered + Send + 'static>(
        &self,
        group: GroupId,
        event: impl FnOnce(Option<Told<Result<N, Error>>>) -> Event<Map>,
    ) -> Pending<N> {
        if group.0 >= u64::from(self.groups()) {
            return Pending::ready(Err(Error::NoSuchGroup { group }));
        }
        let node = Arc::downgrade(&self.inner.node);
        let finish = move |answer: Answer| match answer {
            Ok(number) => N::decode(&number).ok_or(Error::Incompatible),
            // The worker dropped the question: the node has stopped.
            Err(Error::Closed) => Err(node.upgrade().map_or(Error::Closed, |node| cause(&node))),
            Err(error) => Err(error),
        };
        let (pending, completer) = Pending::over(self.inner.client.wakers(), finish);
        let told = Box::new(move |result: Result<N, Error>| {
            completer.complete(result.map(N::encode));
        });
        self.inner.node.inbox.push(group, event(Some(told)));
        pending
    }

    /// Stops the node in order. First it hands over the groups that it leads, and waits for that for
    /// [`Options::hand_over_timeout`] at most; then calls that are outstanding fail with [`Error::Closed`]. When this
    /// returns, the directory may be opened again. The same holds for dropping the last handle. Both work from anywhere: in a
    /// waker or an observer, and while a thread unwinds from a panic.
    ///
    /// A `Db` does not survive a `fork`: the child has none of its threads, and calls there never end. To close or drop it in
    /// the child does nothing, and releases nothing of the parent's.
    pub fn close(&self) {
        self.inner.close(true);
    }

    /// Stops the node as a crash would: what was not yet written stays unwritten.
    pub(crate) fn crash(&self) {
        self.inner.close(false);
    }

    /// Says that nobody will be there to take over when this node stops.
    pub(crate) fn keep_leadership(&self) {
        self.inner.node.keep_leadership();
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
            ClientLife::draw(Some(id)),
        );
        port.bind(&client);
        node.fate.bind(farewell(&node, &client, observer));
        let clerk = Clerk::new(Arc::clone(&client), Some(node.published.clone()), timer);
        let db = Self {
            clerk,
            inner: Arc::new(Inner {
                node,
                client,
                process: threads::Process::present(),
            }),
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
        if self.process.is_another() {
            // Nothing of the node runs here, and what it holds is the parent's: these are never dropped.
            std::mem::forget((node, client));
            return;
        }
        // On a thread of the node this would wait for that very thread.
        threads::apart(move || {
            node.stop(in_order);
            client.close();
        });
    }
}

/// Why nothing is answered any more.
fn cause(node: &Node<Map>) -> Error {
    match node.fate.reason() {
        Some(reason) => Error::Failed {
            reason: reason.to_string(),
        },
        None => Error::Closed,
    }
}

/// Travels as the bytes of an answer.
trait Numbered: Sized {
    fn encode(self) -> Bytes;
    fn decode(bytes: &[u8]) -> Option<Self>;
}

impl Numbered for NodeId {
    fn encode(self) -> Bytes {
        self.0.to_le_bytes().to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u64::from_le_bytes).map(NodeId)
    }
}

impl Numbered for LogIndex {
    fn encode(self) -> Bytes {
        self.0.to_le_bytes().to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u64::from_le_bytes).map(LogIndex)
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
            observer(&TransportEvent::NodeFailed { reason });
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

    /// Whom to tell when peers come, go, or are turned away, and when the node fails ([`TransportEvent::NodeFailed`]) or
    /// refuses what a peer sent ([`TransportEvent::MessageRefused`]): on a thread of its own (`quorate-observe`), where it may block, close the node, or drop its last handle. Up to 1,024 events
    /// wait for it; how many more there were it is told in their place ([`TransportEvent::Missed`]). What panics in here is
    /// reported by the panic hook and otherwise ignored. It may still be told of what happened before the node was closed.
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

    fn open_disk(mut self, disk: Arc<dyn Disk>) -> Result<Db, OpenError> {
        self.observer = self.observer.map(Events::relay);
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
            Ok(TcpTransport::bind_relayed(options, socket, inbox)? as Arc<dyn Transport>)
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
