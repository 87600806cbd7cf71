//! A running node: its files, its shards on their workers, its transport, and the order in which they start and stop.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use quorate_kv::{Sessions, StateMachine};
use quorate_raft::{Config, NodeId, Raft, Role};
use quorate_wal::{DirLock, Disk, GroupId, Log, LogThread, RecoveredGroup, Snapshots};

use super::{NodeJobs, Runtime, ShardHandle};
use crate::error::OpenError;
use crate::identity::{Identity, LOG_DIR, SNAPSHOT_DIR};
use crate::node::{
    EventSink, LogSpace, NodeInbox, Ports, Published, Replica, ReplicaOptions, Shard,
    SnapshotState, lost_behind, restore, restored, shard_index,
};
use crate::options::{Options, nanos};
use crate::transport::{ClerkInbox, Inbox, Transport};

/// What a node is opened with.
pub(crate) struct NodeSetup {
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    /// Distinguishes the random choices of one node from another's.
    pub(crate) seed: u64,
}

/// A running node.
pub(crate) struct Node<M: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) runtime: Arc<Runtime<M>>,
    pub(crate) inbox: Arc<NodeInbox<M>>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) log: Arc<Log>,
    /// By group.
    pub(crate) published: Vec<Arc<Published<M::View>>>,
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
        let identity = &setup.identity;
        let id = NodeId(identity.node);
        let lock = claim(setup)?;
        let mut log_options = setup.options.log.clone();
        log_options.identity = identity.cluster_id ^ mix(identity.node);
        let (log, recovered) = Log::open(
            Arc::clone(&setup.disk),
            &setup.dir.join(LOG_DIR),
            log_options,
        )?;
        let snapshots = Snapshots::open(Arc::clone(&setup.disk), &setup.dir.join(SNAPSHOT_DIR))
            .map_err(|error| OpenError::Snapshot {
                group: 0,
                index: 0,
                reason: error.to_string(),
            })?;
        let snapshots = Arc::new(snapshots.with_step(setup.options.snapshot_step_bytes));

        let mut by_worker: Vec<Vec<Replica<M>>> =
            (0..runtime.workers.count()).map(|_| Vec::new()).collect();
        let mut published = Vec::with_capacity(identity.groups as usize);
        let config = Config {
            voters: identity.members.iter().copied().map(NodeId).collect(),
        };
        for group in (0..u64::from(identity.groups)).map(GroupId) {
            let found = recovered.groups.get(&group);
            let replica = open_replica(
                setup,
                runtime.clock.now_ns(),
                group,
                &config,
                found,
                &snapshots,
            )?;
            published.push(Arc::clone(replica.published()));
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
        let inbox = Arc::new(NodeInbox { shards, replies });
        let transport = connect(Arc::clone(&inbox) as Arc<dyn Inbox>)?;
        let log_thread = LogThread::spawn(Arc::clone(&log), &format!("quorate-log-{}", id.0))
            .map_err(OpenError::Thread)?;
        let log_bytes = base_log_bytes(&setup.options, identity.groups);
        let snapshot_bytes = Arc::new(AtomicU64::new(0));
        for (handle, replicas) in handles.iter().zip(by_worker) {
            let jobs: NodeJobs<M> = runtime.jobs.for_node(
                Arc::clone(&snapshots),
                Arc::clone(&transport),
                Arc::clone(&inbox),
            );
            let ports = Ports {
                log: Arc::clone(&log),
                transport: Arc::clone(&transport),
                jobs: Arc::new(jobs),
            };
            log.add_observer(Arc::new(handle.clone()));
            handle.attach(Shard::new(
                id,
                replicas,
                ports,
                LogSpace::new(log_bytes, Arc::clone(&snapshot_bytes)),
                runtime.clock.now_ns(),
                handle.log_flag(),
            ));
        }
        Ok(Self {
            id,
            runtime: Arc::clone(runtime),
            inbox,
            transport,
            log,
            published,
            handles,
            parts: Mutex::new(Some(Parts { log_thread, lock })),
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

impl<M: StateMachine> Drop for Node<M> {
    fn drop(&mut self) {
        self.stop(true);
    }
}

fn claim(setup: &NodeSetup) -> Result<DirLock, OpenError> {
    let path = || setup.dir.clone();
    setup
        .disk
        .create_dir_all(&setup.dir)
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                quorate_wal::OpenError::NotADirectory { path: path() }.into()
            }
            _ => OpenError::Io {
                path: path(),
                source,
            },
        })?;
    let lock = setup
        .disk
        .lock(&setup.dir)
        .map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => quorate_wal::OpenError::Locked { path: path() }.into(),
            _ => OpenError::Io {
                path: path(),
                source,
            },
        })?;
    setup.identity.claim(&setup.disk, &setup.dir)?;
    Ok(lock)
}

fn open_replica<M: StateMachine>(
    setup: &NodeSetup,
    now_ns: u64,
    group: GroupId,
    config: &Config,
    found: Option<&RecoveredGroup>,
    snapshots: &Snapshots,
) -> Result<Replica<M>, OpenError> {
    let id = NodeId(setup.identity.node);
    let bad_group = |reason: String| OpenError::Group {
        group: group.0,
        reason,
    };
    let restored = restored(id, config, found).map_err(bad_group)?;
    let file = found.and_then(|found| found.snapshot.clone());
    let sessions = match &file {
        None => Sessions::default(),
        Some(file) => {
            read_snapshot(snapshots, group, file).map_err(|reason| OpenError::Snapshot {
                group: group.0,
                index: file.index,
                reason,
            })?
        }
    };
    let keep: Vec<_> = file.iter().cloned().collect();
    // What cannot be deleted now goes with the next snapshot.
    let _left = snapshots.retain(group, &keep);
    let seed = mix(setup.seed ^ mix(id.0) ^ group.0);
    let raft = Raft::new(setup.options.raft(seed), restored, now_ns)
        .map_err(|error| bad_group(error.to_string()))?;
    let options = ReplicaOptions {
        snapshot_log_bytes: setup.options.snapshot_log_bytes,
        trailing_entries: setup.options.trailing_entries,
        command_bytes_max: usize::try_from(setup.options.log.entry_bytes_max).unwrap_or(usize::MAX),
        transfer_timeout_ns: nanos(setup.options.election_timeout).saturating_mul(4),
    };
    let snapshot = raft.snapshot().index;
    let mut replica = Replica::new(
        group,
        raft,
        sessions,
        SnapshotState::new(file, seed >> 1),
        options,
    );
    if let Some((last, reason)) = found.and_then(|found| lost_behind(found, snapshot)) {
        replica.set_aside(now_ns, last, reason);
    }
    Ok(replica)
}

fn read_snapshot<M: StateMachine>(
    snapshots: &Snapshots,
    group: GroupId,
    file: &quorate_wal::SnapshotRef,
) -> Result<Sessions<M>, String> {
    let mut reader = snapshots
        .open_reader(group, file)
        .map_err(|error| error.to_string())?;
    restore(&mut reader, file.index)
}

/// How much log a node keeps, beside as much as its snapshots are long: what a few small groups keep by their own rule, and
/// the segments that are being filled.
fn base_log_bytes(options: &Options, groups: u32) -> u64 {
    let busy = options
        .snapshot_log_bytes
        .saturating_mul(u64::from(groups.min(BUSY_GROUPS)));
    busy.saturating_add(options.log.segment_bytes_max.saturating_mul(3))
}

/// More busy groups than this share what is allowed to them: fewer bytes of log each, and snapshots more often.
const BUSY_GROUPS: u32 = 4;

/// `SplitMix64`'s finaliser: spreads close seeds far apart.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
