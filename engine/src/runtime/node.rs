//! A running node: its files, its shards on their workers, its transport, and the order in which they start and stop.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quorate_kv::StateMachine;
use quorate_raft::{NodeId, Role};
use quorate_wal::{DirLock, GroupId, Log, LogThread};

use super::{NodeJobs, Runtime, ShardHandle};
use crate::db::TransportObserver;
use crate::error::OpenError;
use crate::membership::{Change, FoundingStatus, Membership};
use crate::node::{
    Event, EventSink, LogSpace, NodeInbox, NodeSpace, Ports, Published, Replica, Shard,
    ShardStatus, StatusBoard, shard_index,
};
use crate::opening::{self, NodeSetup};
use crate::rejected::Rejections;
use crate::transport::tcp::TransportEvent;
use crate::transport::{ClerkInbox, Frame, Inbox, NodeStatus, Transport};

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
    handles: Vec<ShardHandle<M>>,
    parts: Mutex<Option<Parts>>,
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
        let inbox = Arc::new(NodeInbox {
            shards,
            replies,
            membership: Arc::clone(&membership),
        });
        let transport = connect(Arc::clone(&inbox) as Arc<dyn Inbox>)?;
        let log_thread = LogThread::spawn(Arc::clone(&log), &format!("quorate-log-{}", id.0))
            .map_err(OpenError::Thread)?;
        let space = Arc::new(NodeSpace::default());
        let board = Arc::new(setup.status_board(handles.len()));
        for (shard, (handle, replicas)) in handles.iter().zip(by_worker).enumerate() {
            let jobs: NodeJobs<M> = runtime.jobs.for_node(
                Arc::clone(&snapshots),
                Arc::clone(&transport),
                Arc::clone(&inbox),
            );
            let ports = Ports {
                log: Arc::clone(&log),
                transport: Arc::clone(&transport),
                jobs: Arc::new(jobs),
                limits: Arc::clone(&opened.limits),
                rejections: Arc::clone(&opened.rejections),
                membership: Arc::clone(&membership),
                status: ShardStatus {
                    board: Arc::clone(&board),
                    shard,
                },
            };
            log.add_observer(Arc::new(handle.clone()));
            handle.attach(Shard::new(
                id,
                replicas,
                ports,
                LogSpace::new(opened.base_log_bytes, Arc::clone(&space)),
                runtime.clock.now_ns(),
                handle.log_flag(),
            ));
        }
        introduce(&inbox, &transport, &log, setup.observer.clone());
        Ok(Self {
            id,
            runtime: Arc::clone(runtime),
            inbox,
            transport,
            log,
            rejections: opened.rejections,
            published,
            board,
            handles,
            parts: Mutex::new(Some(Parts {
                log_thread,
                lock: opened.lock,
            })),
        })
    }

    /// Stops; in order, it finishes what it was asked to write. Afterwards nothing of it runs, and
    /// the directory may be opened again.
    pub(crate) fn stop(&self, in_order: bool) {
        let Some(parts) = self.parts.lock().take() else {
            return;
        };
        for handle in &self.handles {
            handle.detach(in_order);
        }
        self.transport.stop();
        parts.log_thread.stop(in_order);
        // Jobs of this node still hold its files.
        self.runtime.jobs.settle();
        // Handles to the node may live on; the directory is free nevertheless.
        self.log.close();
        drop(parts.lock);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.parts.lock().is_some()
    }

    /// Whether this node leads a group, as far as it knows.
    pub(crate) fn leads(&self, group: GroupId) -> bool {
        self.published
            .get(group.0 as usize)
            .is_some_and(|published| published.role() == Role::Leader)
    }
}

/// Has the peers told how this node stands with founding, now and whenever that changes.
pub(crate) fn introduce<M: StateMachine>(
    inbox: &Arc<NodeInbox<M>>,
    transport: &Arc<dyn Transport>,
    log: &Arc<Log>,
    observer: Option<TransportObserver>,
) {
    let membership = &inbox.membership;
    let announcer = Announcer {
        inbox: Arc::downgrade(inbox),
        transport: Arc::downgrade(transport),
        log: Arc::downgrade(log),
        observer,
        told: Mutex::new(None),
    };
    announcer.tell_observer(membership);
    for peer in membership.peers() {
        announcer.say_status(membership, peer);
    }
    membership.watch(move |change| announcer.hear(change));
}

/// Tells others what became of founding. Weak throughout: the book outlives none of these by it.
struct Announcer<M: StateMachine> {
    inbox: Weak<NodeInbox<M>>,
    transport: Weak<dyn Transport>,
    log: Weak<Log>,
    observer: Option<TransportObserver>,
    told: Mutex<Option<FoundingStatus>>,
}

impl<M: StateMachine> Announcer<M> {
    fn hear(&self, change: Change) {
        let Some(inbox) = self.inbox.upgrade() else {
            return;
        };
        let membership = &inbox.membership;
        match change {
            Change::Met(peer) => self.say_status(membership, peer),
            Change::Stage => {
                // Before the shards ask for anything, so that peers hear of it first.
                for peer in membership.peers() {
                    self.say_status(membership, peer);
                }
                if membership.is_founded() {
                    inbox.push_to_all(|| Event::Founded);
                }
            }
            Change::Refused => {}
        }
        self.tell_observer(membership);
    }

    fn say_status(&self, membership: &Membership, peer: NodeId) {
        let (Some(transport), Some(log)) = (self.transport.upgrade(), self.log.upgrade()) else {
            return;
        };
        let status = NodeStatus {
            founding: membership.founding(),
            durable_lsn: log.durable().0,
            ..NodeStatus::default()
        };
        transport.send(peer, Frame::Status(status));
    }

    fn tell_observer(&self, membership: &Membership) {
        let Some(observer) = &self.observer else {
            return;
        };
        let status = membership.status();
        let is_news = self.told.lock().replace(status.clone()).as_ref() != Some(&status);
        if is_news {
            observer(&TransportEvent::Founding { status });
        }
    }
}

impl<M: StateMachine> Drop for Node<M> {
    fn drop(&mut self) {
        self.stop(true);
    }
}
