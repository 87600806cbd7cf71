//! A node, driven by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_kv::StateMachine;
use quorate_raft::{
    Entry, LogIndex, LogReadError, LogReader, NodeId, Observation, PeerStatus, Role, Term,
    Violation,
};
use quorate_wal::{DirLock, Disk, Drove, Due, GroupId, Log, LogError, Prepared};

use super::deed::Deed;
use super::queue::{EventQueue, JobQueue};
use super::view::{self, ReplicaView, Stand};
use crate::db::Db;
use crate::error::OpenError;
use crate::files::NodeFiles;
use crate::membership::{FoundingStatus, NodeCard, Refused};
use crate::node::{
    Event, EventSink, GroupLog, Jobs, LogSpace, NodeInbox, Outlet, Ports, Replica, Shard,
    ShardStatus, StatusBoard,
};
use crate::opening;
use crate::options::Options;
use crate::runtime::introduce;
use crate::transport::{
    ClerkInbox, Frame, Inbox, LogHealth, Origin, ReplySink, RequestId, Transport,
};

/// Events that one [`SimNode::pass`] takes before it flushes.
const EVENTS_PER_PASS_MAX: usize = 4_096;

/// What a [`SimNode`] is opened with.
#[derive(Clone, Debug)]
pub struct SimSetup {
    /// Where its files are.
    pub dir: PathBuf,
    /// The disk that they are on.
    pub disk: Arc<dyn Disk>,
    /// Which of the members it is.
    pub node: NodeId,
    /// All members of the cluster.
    pub members: Vec<NodeId>,
    /// How many groups the cluster has.
    pub groups: u32,
    /// Its tunables. `workers` and `snapshot_bytes_per_s` have no meaning here; of `log`, `recovery_threads` is taken for
    /// 1 and `inline_writes` for false, so that nothing happens but in steps.
    pub options: Options,
    /// Where its random choices come from.
    pub seed: u64,
}

/// A node without threads and without a clock. Each step that its threads would take is a method, and takes the time of
/// the node's own clock, which must not go back.
///
/// ```
/// use std::sync::Arc;
/// use quorate::simulation::{Map, SimNode, SimSetup};
/// use quorate::transport::memory::MemoryNetwork;
/// use quorate::{GroupId, NodeId, Options, Role};
/// use quorate_wal::MemoryDisk;
///
/// # use quorate::transport::{ClerkInbox, Reply, Transport};
/// # struct NoClients;
/// # impl ClerkInbox for NoClients {
/// #     fn reply(&self, _from: NodeId, _reply: Reply) {}
/// #     fn disconnected(&self, _node: NodeId) {}
/// # }
/// let setup = SimSetup {
///     dir: "/node".into(),
///     disk: Arc::new(MemoryDisk::new()),
///     node: NodeId(1),
///     members: vec![NodeId(1)],
///     groups: 1,
///     options: Options::default(),
///     seed: 7,
/// };
/// let network = MemoryNetwork::new();
/// let mut node = SimNode::<Map>::open(&setup, 0, Arc::new(NoClients), |inbox| {
///     network.attach(NodeId(1), inbox)
/// })?;
/// // An election, step by step: the timer fires, the vote is written, the node hears that it is durable.
/// let deadline_ns = node.deadline_ns();
/// node.pass(deadline_ns);
/// while node.due().drive || node.due().prepare {
///     node.prepare_step()?;
///     node.log_step()?;
///     node.pass(deadline_ns);
/// }
/// assert_eq!(node.view(GroupId(0)).role, Role::Leader);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SimNode<M: StateMachine> {
    id: NodeId,
    groups: u32,
    log: Arc<Log>,
    shard: Shard<M>,
    events: Arc<EventQueue<M>>,
    inbox: Arc<NodeInbox<M>>,
    transport: Arc<dyn Transport>,
    jobs: Arc<JobQueue<M>>,
    files: NodeFiles<M>,
    board: Arc<StatusBoard>,
    /// The time of the last pass.
    now: Arc<AtomicU64>,
    _lock: DirLock,
}

impl<M: StateMachine> SimNode<M> {
    /// Opens the files and restores every group. `replies` is told what comes back for this node's own clients;
    /// `connect` makes the transport that delivers to the inbox.
    pub fn open<T: Transport>(
        setup: &SimSetup,
        now_ns: u64,
        replies: Arc<dyn ClerkInbox>,
        connect: impl FnOnce(Arc<dyn Inbox>) -> Arc<T>,
    ) -> Result<Self, OpenError> {
        let mut options = setup.options.clone();
        options.log.recovery_threads = 1;
        options.log.inline_writes = false;
        let queue_max = options.queue_max;
        let members = setup.members.iter().map(|member| (member.0, ""));
        let setup = Db::builder(&setup.dir)
            .node(setup.node.0)
            .cluster(members)
            .groups(setup.groups)
            .options(options)
            .setup(Arc::clone(&setup.disk), setup.seed)?;
        let opened = opening::open(&setup, || now_ns)?;

        let events = Arc::new(EventQueue::new(queue_max));
        let inbox = Arc::new(NodeInbox {
            shards: vec![Arc::clone(&events) as Arc<dyn EventSink<M>>],
            replies,
            membership: Arc::clone(&opened.membership),
        });
        let transport: Arc<dyn Transport> = connect(Arc::clone(&inbox) as Arc<dyn Inbox>);
        let jobs = Arc::new(JobQueue::new());
        let files = NodeFiles::new(
            opened.snapshots,
            Arc::clone(&transport),
            Arc::clone(&inbox),
            Arc::new(|_bytes| {}),
        );
        let board = Arc::new(setup.status_board(1));
        let ports = Ports {
            log: Arc::clone(&opened.log),
            transport: Arc::clone(&transport),
            jobs: Arc::clone(&jobs) as Arc<dyn Jobs<M>>,
            membership: opened.membership,
            status: ShardStatus {
                board: Arc::clone(&board),
                shard: 0,
            },
        };
        opened.log.add_observer(events.clone());
        let id = NodeId(setup.identity.node);
        let space = LogSpace::new(opened.base_log_bytes, Arc::default());
        let groups = setup.identity.groups;
        let told = events.log_flag();
        let mut shard = Shard::new(id, opened.replicas, ports, space, now_ns, told);
        shard.watch();
        let now = Arc::new(AtomicU64::new(now_ns));
        let (clock, own_log, own_board) = (
            Arc::clone(&now),
            Arc::downgrade(&opened.log),
            Arc::clone(&board),
        );
        let status = move |founding| {
            let log = own_log.upgrade()?;
            let now_ns = clock.load(Ordering::Relaxed);
            let health = own_board.health(now_ns, &log);
            Some(own_board.own(now_ns, health, log.durable(), founding))
        };
        introduce(&inbox, &transport, status, None);
        Ok(Self {
            id,
            groups,
            log: opened.log,
            shard,
            events,
            inbox,
            transport,
            jobs,
            files,
            board,
            now,
            _lock: opened.lock,
        })
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The groups of the cluster.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<M> {
        (0..u64::from(self.groups)).map(GroupId)
    }

    /// What this node shows to those it meets.
    pub fn card(&self) -> &NodeCard {
        self.inbox.membership.card()
    }

    /// Judges the card of a node that it meets. To be called before the first frame between the two is delivered, and both
    /// ways: whoever is refused is not listened to.
    pub fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        self.inbox.admit(card)
    }

    /// Tells the node that another one deals with it, or refuses it.
    pub fn judged(&self, by: NodeId, judged: Result<(), &Refused>) {
        self.inbox.judged(by, judged);
    }

    /// Has two nodes show each other their cards, as transports do before the first frame between them. An error if one
    /// refuses the other: then no frame is delivered between them. After [`Refused::NotWritten`] they may try again.
    pub fn meet(&self, other: &Self) -> Result<(), Refused> {
        let (by_self, by_other) = (self.admit(other.card()), other.admit(self.card()));
        self.judged(other.id, by_other.as_ref().copied());
        other.judged(self.id, by_self.as_ref().copied());
        by_self.and(by_other)
    }

    /// How far founding is: before it is done the node takes no part.
    pub fn founding(&self) -> FoundingStatus {
        self.inbox.membership.status()
    }

    /// Puts a frame on the node's queue, as its transport does.
    pub fn deliver(&self, from: Origin, frame: Frame) {
        self.inbox.deliver(from, frame);
    }

    /// Has `sink` told, with [`ReplyBody::ReadIndex`](crate::transport::ReplyBody::ReadIndex), once this node has
    /// applied an index of a group.
    pub fn wait_applied(
        &self,
        group: GroupId,
        index: LogIndex,
        id: RequestId,
        sink: Arc<dyn ReplySink>,
    ) {
        let outlet = Outlet::sink(id, sink);
        self.events.push(Event::WaitApplied {
            group,
            index,
            outlet,
        });
    }

    /// Asks for an election of a group.
    pub fn campaign(&self, group: GroupId) {
        self.events.push(Event::Campaign { group });
    }

    /// Hands the leadership of a group over, to a given node or to the best one.
    pub fn transfer(&self, group: GroupId, to: Option<NodeId>) {
        self.events.push(Event::Transfer { group, to });
    }

    /// Takes a snapshot of a group.
    pub fn snapshot(&self, group: GroupId) {
        self.events.push(Event::Snapshot { group });
    }

    /// One pass of the worker: takes what is on the queue, fires what is due, and sends, writes, applies and answers all
    /// that this led to.
    pub fn pass(&mut self, now_ns: u64) {
        self.now.store(now_ns, Ordering::Relaxed);
        // Nobody asked what the last one did: what is kept is bounded by what one pass does.
        drop(self.shard.take_deeds());
        for _ in 0..EVENTS_PER_PASS_MAX {
            let Some(event) = self.events.pop() else {
                break;
            };
            self.shard.handle(now_ns, event);
        }
        if self.shard.deadline_ns() <= now_ns {
            self.shard.tick(now_ns);
        }
        self.shard.flush(now_ns);
    }

    /// What the replicas did in the last pass, in order for each group. Each deed is told once.
    pub fn take_deeds(&mut self) -> Vec<(GroupId, Deed)> {
        self.shard.take_deeds()
    }

    /// Whether a pass has something to do before [`deadline_ns`](Self::deadline_ns).
    pub fn has_work(&self) -> bool {
        self.events.len() > 0 || self.shard.has_work()
    }

    /// When the next pass is due, if nothing comes before.
    pub fn deadline_ns(&self) -> u64 {
        self.shard.deadline_ns()
    }

    /// Which steps of the log have something to do.
    pub fn due(&self) -> Due {
        self.log.due()
    }

    /// [`Log::drive`]: writes and syncs what is in line. The shard hears of it in the next pass.
    pub fn log_step(&self) -> Result<Drove, LogError> {
        self.log.drive()
    }

    /// [`Log::prepare`]: the next segment, what is to be given back, a space that returned.
    pub fn prepare_step(&self) -> Result<Prepared, LogError> {
        self.log.prepare()
    }

    /// [`Log::cover`], which the log's thread does when the log has rested for 20 ms.
    pub fn cover_step(&self) -> Result<Drove, LogError> {
        self.log.cover()
    }

    /// How many jobs wait.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Does the oldest job: writes, sends, takes in or deletes a snapshot. Whether there was one.
    pub fn job_step(&self) -> bool {
        let job = self.jobs.pop();
        job.map(|job| self.files.run(job)).is_some()
    }

    /// Stops in order: refuses who waits and writes what was left for later.
    pub fn stop(mut self) {
        self.shard.stop(true);
        self.transport.stop();
        while matches!(self.log.drive(), Ok(Drove::Wrote { .. })) {}
        while self.job_step() {}
        self.log.close();
    }

    /// How a replica stands.
    ///
    /// # Panics
    ///
    /// If there is no such group; the same holds of all other looks.
    pub fn view(&self, group: GroupId) -> ReplicaView {
        ReplicaView::of(group, self.replica(group))
    }

    /// How a replica stands, in numbers; cheaper than [`view`](Self::view).
    pub fn stand(&self, group: GroupId) -> Stand {
        Stand::of(self.replica(group))
    }

    /// What a leader knows of its peers; nothing in other roles.
    pub fn peers(&self, group: GroupId) -> impl Iterator<Item = PeerStatus> + '_ {
        self.replica(group).raft().peers()
    }

    /// Bytes, and appends, that a peer owes a leader an answer to.
    pub fn inflight(&self, group: GroupId, peer: NodeId) -> Option<(usize, usize)> {
        self.replica(group).raft().inflight(peer)
    }

    /// How many events wait for the next pass.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// The machine of a group, without its sessions.
    pub fn machine(&self, group: GroupId) -> &M {
        self.replica(group).sessions().machine()
    }

    /// What a replica is, and in which term; cheaper than [`view`](Self::view).
    pub fn role(&self, group: GroupId) -> (Role, Term) {
        let raft = self.replica(group).raft();
        (raft.role(), raft.term())
    }

    /// The term of an entry in the log of a group, if the replica knows it.
    pub fn term_at(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.replica(group).raft().term_at(index)
    }

    /// What queries of a group see.
    pub fn state(&self, group: GroupId) -> M::View {
        self.replica(group).published().load().view
    }

    /// A digest of machine and sessions: equal where equal commands were applied. Takes time in proportion to the state.
    pub fn digest(&self, group: GroupId) -> u64 {
        self.replica(group).sessions().digest()
    }

    /// Entries of a group that are durable on this node, from `from` up to `to` included.
    pub fn entries(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
    ) -> Result<Vec<Entry>, LogReadError> {
        GroupLog::new(&self.log, group).entries(from, to, usize::MAX)
    }

    /// Checks what must hold of a replica at any time, and since an earlier look at it in this life of the node.
    pub fn check(
        &self,
        group: GroupId,
        before: Option<&Observation>,
    ) -> Result<Observation, Violation> {
        view::check(before, self.replica(group))
    }

    /// How the node's log is at this time: what it tells its peers.
    pub fn health(&self, now_ns: u64) -> LogHealth {
        self.board.health(now_ns, &self.log)
    }

    /// The node's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    fn replica(&self, group: GroupId) -> &Replica<M> {
        let replica = self.shard.replica(group);
        replica.expect("a node has a replica of each group of its cluster")
    }
}

impl SimSetup {
    /// The same for another member, on another disk.
    pub fn for_node(&self, node: NodeId, dir: &Path, disk: Arc<dyn Disk>) -> Self {
        Self {
            dir: dir.to_path_buf(),
            disk,
            node,
            ..self.clone()
        }
    }
}
