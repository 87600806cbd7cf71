//! A node, driven by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_kv::StateMachine;
use quorate_raft::{
    Entry, LogIndex, LogReadError, LogReader, NodeId, Observation, PeerStatus, Role, Term,
    Violation,
};
use quorate_wal::{DirLock, Disk, Drove, Due, GroupId, Log, LogError, Prepared};

use super::actor::{Actor, Apart};
use super::deed::Deed;
use super::queue::{EventQueue, JobQueue};
use super::reader::SimReader;
use super::view::{self, ReplicaView, Stand};
use crate::db::Db;
use crate::error::OpenError;
use crate::files::NodeFiles;
use crate::membership::{FoundingStatus, NodeCard, Refused};
use crate::node::{
    Event, EventSink, GroupLog, Jobs, LogSpace, NodeInbox, NodeSpace, Outlet, Ports, Replica,
    Reports, ShardStatus, StatusBoard, shard_index,
};
use crate::opening;
use crate::options::Options;
use crate::rejected::{Rejected, Rejections};
use crate::runtime::introduce;
use crate::transport::{
    ClerkInbox, Frame, Inbox, LogHealth, Origin, ReplySink, Request, RequestId, Transport,
};

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
    /// Its tunables. So many `workers` share its groups, each of which is driven by itself. `snapshot_bytes_per_s` has no
    /// meaning here; of `log`, `recovery_threads` is taken for 1 and `inline_writes` for false, so that nothing happens but
    /// in steps.
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
    /// By worker.
    actors: Vec<Actor<M>>,
    inbox: Arc<NodeInbox<M>>,
    transport: Arc<dyn Transport>,
    jobs: Arc<JobQueue<M>>,
    files: NodeFiles<M>,
    rejections: Arc<Rejections>,
    board: Arc<StatusBoard>,
    /// The time of the last pass.
    now: Arc<AtomicU64>,
    _lock: DirLock,
}

impl<M: StateMachine> SimNode<M> {
    /// Opens the files, restores every group, and attaches all of them to their workers. `replies` is told what comes back
    /// for this node's own clients; `connect` makes the transport that delivers to the inbox.
    pub fn open<T: Transport>(
        setup: &SimSetup,
        now_ns: u64,
        replies: Arc<dyn ClerkInbox>,
        connect: impl FnOnce(Arc<dyn Inbox>) -> Arc<T>,
    ) -> Result<Self, OpenError> {
        let mut node = Self::open_apart(setup, now_ns, replies, connect)?;
        for worker in 0..node.workers() {
            while node.open_step(worker, now_ns) {}
        }
        Ok(node)
    }

    /// Opens the files and restores every group; nothing is attached to a worker yet, see [`open_step`](Self::open_step).
    pub fn open_apart<T: Transport>(
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

        let workers = setup.options.workers;
        let queues: Vec<_> = (0..workers)
            .map(|_| Arc::new(EventQueue::<M>::new(queue_max)))
            .collect();
        let sinks = queues.iter();
        let board = Arc::new(setup.status_board(workers));
        let now = Arc::new(AtomicU64::new(now_ns));
        let clock = Arc::clone(&now);
        let inbox = Arc::new(NodeInbox {
            shards: sinks
                .map(|queue| Arc::clone(queue) as Arc<dyn EventSink<M>>)
                .collect(),
            replies,
            membership: Arc::clone(&opened.membership),
            board: Arc::clone(&board),
            now_ns: Box::new(move || clock.load(Ordering::Relaxed)),
        });
        let transport: Arc<dyn Transport> = connect(Arc::clone(&inbox) as Arc<dyn Inbox>);
        let jobs = Arc::new(JobQueue::new());
        let files = NodeFiles::new(
            opened.snapshots,
            Arc::clone(&transport),
            Arc::clone(&inbox),
            Arc::new(|_bytes| {}),
            Arc::new(|_bytes| {}),
            None,
        );
        let id = NodeId(setup.identity.node);
        let mut shares: Vec<Vec<Replica<M>>> = (0..workers).map(|_| Vec::new()).collect();
        for (group, replica) in (0..).map(GroupId).zip(opened.replicas) {
            shares[shard_index(group, workers)].push(replica);
        }
        let space = Arc::<NodeSpace>::default();
        let queues = queues.into_iter().zip(shares).enumerate();
        let actors = queues.map(|(shard, (events, replicas))| {
            let ports = Ports {
                log: Arc::clone(&opened.log),
                transport: Arc::clone(&transport),
                jobs: Arc::clone(&jobs) as Arc<dyn Jobs<M>>,
                limits: Arc::clone(&opened.limits),
                rejections: Arc::clone(&opened.rejections),
                reports: Reports::default(),
                membership: Arc::clone(&opened.membership),
                status: ShardStatus {
                    board: Arc::clone(&board),
                    shard,
                },
            };
            let apart = Apart {
                node: id,
                replicas,
                ports,
                space: LogSpace::new(opened.base_log_bytes, Arc::clone(&space)),
                is_told: false,
            };
            Actor::new(events, apart)
        });
        let actors = actors.collect();
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
            groups: setup.identity.groups,
            actors,
            log: opened.log,
            inbox,
            transport,
            jobs,
            files,
            rejections: opened.rejections,
            board,
            now,
            _lock: opened.lock,
        })
    }

    /// How many workers share the groups.
    pub fn workers(&self) -> usize {
        self.actors.len()
    }

    /// The worker of a group.
    pub fn worker_of(&self, group: GroupId) -> usize {
        shard_index(group, self.actors.len())
    }

    /// Takes the next step of opening a worker: the log is told of its queue, then its groups are attached to it. A node takes
    /// them in the order of its workers, and what else happens may happen in between. `false`: there is none left.
    pub fn open_step(&mut self, worker: usize, now_ns: u64) -> bool {
        let actor = self.actors.remove(worker);
        let (actor, was_left) = actor.open_step(now_ns);
        self.actors.insert(worker, actor);
        was_left
    }

    /// Whether the groups of a worker are attached to it.
    pub fn is_attached(&self, worker: usize) -> bool {
        self.actors[worker].is_attached()
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

    /// How long this node would wait, at least, before it votes, if it were started again.
    pub fn promised(&self) -> Duration {
        Duration::from_millis(self.inbox.membership.promised_ms())
    }

    /// Puts a frame on the node's queue, as its transport does.
    pub fn deliver(&self, from: Origin, frame: Frame) {
        self.inbox.deliver(from, frame);
    }

    /// Has `sink` told, with [`ReplyBody::ReadIndex`](crate::transport::ReplyBody::ReadIndex), once this node has
    /// applied an index of a group; with a [`Refusal`](crate::transport::Refusal) if it has not within `Options::retry_after`, and
    /// at once if it cannot.
    pub fn wait_applied(
        &self,
        group: GroupId,
        index: LogIndex,
        id: RequestId,
        sink: Arc<dyn ReplySink>,
    ) {
        let outlet = Outlet::sink(id, sink);
        let event = Event::WaitApplied {
            group,
            index,
            outlet,
        };
        self.inbox.push(group, event);
    }

    /// Hands over what a client in this node sends, as [`Db`] does: to this node's own queue, whose answer goes to `sink`, or
    /// over the transport. `false`: dropped here and now.
    pub fn ask(&self, to: NodeId, request: Request, sink: Arc<dyn ReplySink>) -> bool {
        if to != self.id {
            return self.transport.send(to, Frame::Request(request));
        }
        let queue = self.inbox.shard_of(request.group);
        queue.offer(Event::Frame(Origin::Clerk(sink), Frame::Request(request)))
    }

    /// A thread that reads what this node shows of a group.
    pub fn reader(&self, group: GroupId) -> SimReader<M::View> {
        SimReader::new(Arc::clone(self.replica(group).published()))
    }

    /// Asks for an election of a group.
    pub fn campaign(&self, group: GroupId) {
        self.inbox.push(group, Event::Campaign { group });
    }

    /// Hands the leadership of a group over, to a given node or to the best one.
    pub fn transfer(&self, group: GroupId, to: Option<NodeId>) {
        let told = None;
        self.inbox.push(group, Event::Transfer { group, to, told });
    }

    /// Takes a snapshot of a group.
    pub fn snapshot(&self, group: GroupId) {
        let told = None;
        self.inbox.push(group, Event::Snapshot { group, told });
    }

    /// One pass of each worker: takes what is on its queue, fires what is due, and sends, writes, applies and answers all
    /// that this led to.
    pub fn pass(&mut self, now_ns: u64) {
        self.now.store(now_ns, Ordering::Relaxed);
        for actor in &mut self.actors {
            actor.pass(now_ns);
        }
    }

    /// One pass of one worker. One whose groups are not attached yet drops what is on its queue.
    pub fn pass_worker(&mut self, worker: usize, now_ns: u64) {
        self.now.store(now_ns, Ordering::Relaxed);
        self.actors[worker].pass(now_ns);
    }

    /// What the replicas did in the last pass, in order for each group. Each deed is told once.
    pub fn take_deeds(&mut self) -> Vec<(GroupId, Deed)> {
        self.actors.iter_mut().flat_map(Actor::take_deeds).collect()
    }

    /// Whether a pass has something to do before [`deadline_ns`](Self::deadline_ns).
    pub fn has_work(&self) -> bool {
        self.actors.iter().any(Actor::has_work)
    }

    /// When the next pass is due, if nothing comes before.
    pub fn deadline_ns(&self) -> u64 {
        let deadlines = self.actors.iter().map(Actor::deadline_ns);
        deadlines.min().unwrap_or(u64::MAX)
    }

    /// Whether a pass of one worker has something to do before its deadline, and that deadline.
    pub fn work_of(&self, worker: usize) -> (bool, u64) {
        let actor = &self.actors[worker];
        (actor.has_work(), actor.deadline_ns())
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

    /// Does a job, the oldest of its lane: writes, sends, takes in or deletes a snapshot. Whether there was one.
    pub fn job_step(&self) -> bool {
        let job = self.jobs.pop();
        job.map(|job| self.files.run(job)).is_some()
    }

    /// Stops in order: refuses who waits and writes what was left for later.
    pub fn stop(mut self) {
        for actor in &mut self.actors {
            actor.stop();
        }
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
        self.actors.iter().map(|actor| actor.events.len()).sum()
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

    /// What queries of a group see; of a replica that lost its state, and answers none, a machine without any.
    pub fn state(&self, group: GroupId) -> M::View {
        let replica = self.replica(group);
        let view = replica.published().load();
        view.unwrap_or_else(|| replica.sessions().view())
    }

    /// What queries of a group see, and everything up to which index it includes.
    pub fn state_at(&self, group: GroupId) -> (LogIndex, M::View) {
        (self.replica(group).published().applied(), self.state(group))
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

    /// What the node refused so far.
    pub fn rejected(&self) -> Rejected {
        self.rejections.read()
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
        let actor = &self.actors[self.worker_of(group)];
        let replica = actor.replica(group);
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
