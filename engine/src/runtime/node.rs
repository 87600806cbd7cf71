//! A running node: its files, its shards on their workers, its transport, and the order in which they start and stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use quorate_kv::StateMachine;
use quorate_raft::{NodeId, Role};
use quorate_wal::{DirLock, GroupId, Log, LogThread};

use super::change_reports::ChangeReports;
use super::threads::{is_own, shielded};
use super::{Fate, NodeJobs, Resident, Runtime, ShardHandle};
use crate::db::TransportObserver;
use crate::error::OpenError;
use crate::membership::{Change, FoundingStatus, Membership, NodeCard, Refused};
use crate::node::{
    Event, EventSink, LogSpace, NodeInbox, NodeSpace, Ports, Published, Replica, Reports, Shard,
    ShardStatus, StatusBoard, shard_index,
};
use crate::opening::{self, NodeSetup};
use crate::rejected::Rejections;
use crate::transport::tcp::TransportEvent;
use crate::transport::{ClerkInbox, Founding, Frame, Inbox, NodeStatus, Origin, Transport};

/// A running node.
pub(crate) struct Node<M: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) runtime: Arc<Runtime<M>>,
    pub(crate) inbox: Arc<NodeInbox<M>>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) log: Arc<Log>,
    pub(crate) rejections: Arc<Rejections>,
    /// By group.
    pub(crate) published: Vec<Arc<Published<M::View>>>,
    /// How this node and its peers are.
    pub(crate) board: Arc<StatusBoard>,
    /// Whether it failed, and why.
    pub(crate) fate: Arc<Fate>,
    handles: Vec<ShardHandle<M>>,
    /// How long it waits for others to take over when it stops.
    hand_over_timeout: Duration,
    /// Whether there may be somebody to take over.
    hands_over: AtomicBool,
    standing: Mutex<Standing>,
    stopped: Condvar,
}

/// How far a node is on its way out.
enum Standing {
    Running(Parts),
    Stopping,
    Stopped,
}

/// What is taken down when the node stops.
struct Parts {
    log_thread: LogThread,
    lock: DirLock,
}

impl<M: StateMachine> Node<M> {
    /// Opens the files, restores every group, and starts. `connect` makes the transport that delivers to the inbox.
    pub(crate) fn open(
        setup: &NodeSetup,
        runtime: &Arc<Runtime<M>>,
        replies: Arc<dyn ClerkInbox>,
        connect: impl FnOnce(Arc<dyn Inbox>) -> Result<Arc<dyn Transport>, OpenError>,
    ) -> Result<Self, OpenError> {
        let id = NodeId(setup.identity.node);
        let opened = opening::open(setup, || runtime.clock.now_ns())?;
        let (log, snapshots) = (opened.log, opened.snapshots);
        let published = opened.replicas.iter().map(|it| Arc::clone(it.published()));
        let published = published.collect();
        let mut by_worker: Vec<Vec<Replica<M>>> =
            (0..runtime.workers.count()).map(|_| Vec::new()).collect();
        for (group, replica) in (0..).map(GroupId).zip(opened.replicas) {
            by_worker[shard_index(group, runtime.workers.count())].push(replica);
        }

        let key = runtime.shard_key();
        let handles: Vec<ShardHandle<M>> = (0..runtime.workers.count())
            .map(|worker| runtime.workers.handle(worker, key))
            .collect();
        let shards = handles
            .iter()
            .map(|handle| Arc::new(handle.clone()) as Arc<dyn EventSink<M>>)
            .collect();
        let membership = opened.membership;
        let board = Arc::new(setup.status_board(handles.len()));
        let clock = runtime.clock;
        let inbox = Arc::new(NodeInbox {
            shards,
            replies,
            membership: Arc::clone(&membership),
            board: Arc::clone(&board),
            now_ns: Box::new(move || clock.now_ns()),
        });
        let fate = Arc::new(Fate::default());
        let transport = connect(Arc::new(WatchedInbox {
            inbox: Arc::clone(&inbox),
            fate: Arc::clone(&fate),
            board: Arc::clone(&board),
        }))?;
        let told = Arc::clone(&fate);
        let name = format!("quorate-log-{}", id.0);
        let log_thread = LogThread::spawn_watched(Arc::clone(&log), &name, move |thread| {
            told.fail(format!("the thread {thread} panicked"));
        })
        .map_err(OpenError::Thread)?;
        let space = Arc::new(NodeSpace::default());
        for (shard, (handle, replicas)) in handles.iter().zip(by_worker).enumerate() {
            let jobs: NodeJobs<M> = runtime.jobs.for_node(
                Arc::clone(&snapshots),
                Arc::clone(&transport),
                Arc::clone(&inbox),
                Arc::clone(&fate),
                setup.observer.clone(),
            );
            let ports = Ports {
                log: Arc::clone(&log),
                transport: Arc::clone(&transport),
                jobs: Arc::new(jobs),
                limits: Arc::clone(&opened.limits),
                rejections: Arc::clone(&opened.rejections),
                reports: Reports::new(setup.observer.is_some()),
                membership: Arc::clone(&membership),
                status: ShardStatus {
                    board: Arc::clone(&board),
                    shard,
                },
            };
            log.add_observer(Arc::new(handle.clone()));
            let shard = Shard::new(
                id,
                replicas,
                ports,
                LogSpace::new(opened.base_log_bytes, Arc::clone(&space)),
                runtime.clock.now_ns(),
                handle.flag(),
            );
            handle.attach(Resident::new(shard, Arc::clone(&fate)));
        }
        let (own_log, own_board) = (Arc::downgrade(&log), Arc::clone(&board));
        let status = move |founding| {
            let log = own_log.upgrade()?;
            let now_ns = clock.now_ns();
            let health = own_board.health(now_ns, &log);
            Some(own_board.own(now_ns, health, log.durable(), founding))
        };
        introduce(&inbox, &transport, status, setup.observer.clone());
        Ok(Self {
            id,
            runtime: Arc::clone(runtime),
            inbox,
            transport,
            log,
            rejections: opened.rejections,
            published,
            board,
            fate,
            handles,
            hand_over_timeout: setup.options.hand_over_timeout,
            hands_over: AtomicBool::new(true),
            standing: Mutex::new(Standing::Running(Parts {
                log_thread,
                lock: opened.lock,
            })),
            stopped: Condvar::new(),
        })
    }

    /// Says that nobody will be there to take over when this node stops.
    pub(crate) fn keep_leadership(&self) {
        self.hands_over.store(false, Ordering::SeqCst);
    }

    /// Has others take over the groups that this node leads, and waits for that: not for long, and not
    /// where nobody can.
    fn hand_over(&self) {
        let is_wanted = self.hands_over.load(Ordering::SeqCst) && self.fate.reason().is_none();
        let until = Instant::now() + self.hand_over_timeout;
        // On a worker it would wait for itself.
        if !is_wanted || self.hand_over_timeout.is_zero() || is_own() {
            return;
        }
        let (done, wait) = crossbeam::channel::bounded::<()>(0);
        for handle in &self.handles {
            let done = done.clone();
            let told = Box::new(move |()| drop(done));
            handle.push(Event::Leave { told });
        }
        drop(done);
        // Disconnected when all shards have called, or have lost, what they were to call.
        let _late = wait.recv_deadline(until);
    }

    /// Stops; in order, it first hands over what it leads, and finishes what it was asked to write. When this returns nothing of it runs, and the directory
    /// may be opened again; but not on a thread of this crate: there it returns at once if another thread stops the node.
    pub(crate) fn stop(&self, in_order: bool) {
        let Some(parts) = self.begin_stop() else {
            return;
        };
        let _stopped = Stopped(self);
        // A node that failed must not look alive for as long as the rest takes; one that stops in order has last words.
        if self.fate.reason().is_some() {
            self.transport.stop();
        }
        if in_order {
            self.hand_over();
        }
        for handle in &self.handles {
            handle.detach(in_order, !is_own());
        }
        self.transport.stop();
        parts.log_thread.stop(in_order);
        // Jobs of this node still hold its files.
        self.runtime.jobs.settle();
        // Handles to the node may live on; the directory is free nevertheless.
        self.log.close();
        drop(parts.lock);
    }

    /// The parts to take down, for the first who comes; the others wait for that one.
    fn begin_stop(&self) -> Option<Parts> {
        let mut standing = self.standing.lock();
        match std::mem::replace(&mut *standing, Standing::Stopping) {
            Standing::Running(parts) => return Some(parts),
            Standing::Stopped => *standing = Standing::Stopped,
            Standing::Stopping => {
                while !is_own() && !matches!(*standing, Standing::Stopped) {
                    self.stopped.wait(&mut standing);
                }
            }
        }
        None
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.standing.lock(), Standing::Running(_))
    }

    /// Whether this node leads a group, as far as it knows.
    pub(crate) fn leads(&self, group: GroupId) -> bool {
        self.published
            .get(group.0 as usize)
            .is_some_and(|published| published.role() == Role::Leader)
    }
}

/// Has the peers told how this node stands with founding, now and whenever that changes. `status` completes what they are
/// told, unless the node is gone.
pub(crate) fn introduce<M: StateMachine>(
    inbox: &Arc<NodeInbox<M>>,
    transport: &Arc<dyn Transport>,
    status: impl Fn(Founding) -> Option<NodeStatus> + Send + Sync + 'static,
    observer: Option<TransportObserver>,
) {
    let membership = &inbox.membership;
    let announcer = Arc::new(Announcer {
        inbox: Arc::downgrade(inbox),
        transport: Arc::downgrade(transport),
        status: Box::new(status),
        observer,
        reports: ChangeReports::default(),
    });
    let watcher = Arc::clone(&announcer);
    membership.watch(move |change| watcher.hear(change));
    announcer.say_status_to_all(membership);
    announcer.tell_observer(membership);
}

/// Tells others what became of founding. The book holds it, and it holds only weak references, so that it keeps none of them
/// alive.
struct Announcer<M: StateMachine> {
    inbox: Weak<NodeInbox<M>>,
    transport: Weak<dyn Transport>,
    status: Box<dyn Fn(Founding) -> Option<NodeStatus> + Send + Sync>,
    observer: Option<TransportObserver>,
    reports: ChangeReports<FoundingStatus>,
}

impl<M: StateMachine> Announcer<M> {
    fn hear(&self, change: Change) {
        let Some(inbox) = self.inbox.upgrade() else {
            return;
        };
        let membership = &inbox.membership;
        match change {
            Change::Met(peer) if membership.is_founded() => self.say_status(membership, peer),
            // Those who were met before may wait to hear that this one was met too.
            Change::Met(_) => self.say_status_to_all(membership),
            Change::Stage => {
                // Before the shards ask for anything, so that peers hear of it first.
                self.say_status_to_all(membership);
                if membership.is_founded() {
                    inbox.push_to_all(|| Event::Founded);
                }
            }
            Change::Refused | Change::Written => {}
        }
        self.tell_observer(membership);
    }

    fn say_status_to_all(&self, membership: &Membership) {
        for peer in membership.peers() {
            self.say_status(membership, peer);
        }
    }

    fn say_status(&self, membership: &Membership, peer: NodeId) {
        let status = (self.status)(membership.founding());
        if let (Some(transport), Some(status)) = (self.transport.upgrade(), status) {
            transport.send(peer, Frame::Status(status));
        }
    }

    fn tell_observer(&self, membership: &Membership) {
        let Some(observer) = &self.observer else {
            return;
        };
        self.reports.report(
            || membership.status(),
            |status| {
                let status = status.clone();
                // The caller's code, on a thread that has more to do: the panic hook has reported its panic.
                let _panicked = shielded(|| observer(&TransportEvent::Founding { status }));
            },
        );
    }
}

/// Says that a node has stopped, also if that panicked half way.
struct Stopped<'a, M: StateMachine>(&'a Node<M>);

impl<M: StateMachine> Drop for Stopped<'_, M> {
    fn drop(&mut self) {
        *self.0.standing.lock() = Standing::Stopped;
        self.0.stopped.notify_all();
    }
}

/// A node's inbox, and how the node is told if its transport fails.
struct WatchedInbox<M: StateMachine> {
    inbox: Arc<NodeInbox<M>>,
    fate: Arc<Fate>,
    board: Arc<StatusBoard>,
}

impl<M: StateMachine> Inbox for WatchedInbox<M> {
    fn deliver(&self, from: Origin, frame: Frame) {
        self.inbox.deliver(from, frame);
    }

    fn card(&self) -> Option<NodeCard> {
        self.inbox.card()
    }

    fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        self.inbox.admit(card)
    }

    fn stands(&self, card: &NodeCard) -> bool {
        self.inbox.stands(card)
    }

    fn judged(&self, by: NodeId, judged: Result<(), &Refused>) {
        self.inbox.judged(by, judged);
    }

    fn disconnected(&self, node: NodeId) {
        self.board.note_gone(node);
        self.inbox.disconnected(node);
    }

    fn failed(&self, reason: &str) {
        self.fate.fail(reason);
    }
}

impl<M: StateMachine> Drop for Node<M> {
    fn drop(&mut self) {
        self.stop(true);
    }
}
