//! Opening a node's files: its identity, its log and its snapshots, and every group's replica out of them.
//!
//! No thread is started here, so that a node with threads and one that is driven by hand come out of the same code.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_kv::{Sessions, StateMachine};
use quorate_raft::{Config, NodeId, Raft};
use quorate_wal::{
    Damage, DirLock, Disk, Durability, GroupId, Log, Recovered, RecoveredGroup, Snapshots,
};

use crate::client::WindowOptions;
use crate::db::TransportObserver;
use crate::error::OpenError;
use crate::identity::{Claim, Identity, LOG_DIR, SNAPSHOT_DIR, Wanted};
use crate::membership::{self, Book, Membership, NodeCard, NodeLimits, Opening};
use crate::mutants;
use crate::node::{
    Limits, Replica, ReplicaOptions, SnapshotState, StatusBoard, Unrestored, lost_behind, restore,
    restored,
};
use crate::options::{Options, nanos};
use crate::rejected::Rejections;

/// What a node is opened with.
pub(crate) struct NodeSetup {
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Wanted,
    /// Founders that will not come, by the operator's word.
    pub(crate) without: Vec<NodeId>,
    /// Where the node listens and is reached; empty if nowhere.
    pub(crate) listen: String,
    pub(crate) advertise: String,
    /// Told of what becomes of founding.
    pub(crate) observer: Option<TransportObserver>,
    pub(crate) options: Options,
    /// Distinguishes the random choices of one node from another's.
    pub(crate) seed: u64,
}

impl NodeSetup {
    /// Where the shards of the node, so many, note how it and its peers are.
    pub(crate) fn status_board(&self, shards: usize) -> StatusBoard {
        let (own, members) = (self.identity.node, self.identity.members.iter().copied());
        let peers = members.filter(|&member| member != own).map(NodeId);
        StatusBoard::new(peers, shards, nanos(self.options.election_timeout))
    }
}

/// What the files of a node gave.
pub(crate) struct Opened<M: StateMachine> {
    /// Keeps others out of the directory.
    pub(crate) lock: DirLock,
    pub(crate) log: Arc<Log>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// By group.
    pub(crate) replicas: Vec<Replica<M>>,
    /// What the node may keep of log beside as much as its snapshots are long.
    pub(crate) base_log_bytes: u64,
    pub(crate) limits: Arc<Limits>,
    pub(crate) rejections: Arc<Rejections>,
}

/// Opens the files and restores every group. `now_ns` reads the clock that the replicas will be driven by.
pub(crate) fn open<M: StateMachine>(
    setup: &NodeSetup,
    now_ns: impl Fn() -> u64,
) -> Result<Opened<M>, OpenError> {
    let identity = &setup.identity;
    membership::check_without(&setup.without, identity.node, &identity.members)?;
    let lock = lock(setup)?;
    let (membership, log, recovered) = open_node(setup)?;
    let snapshots = Snapshots::open(Arc::clone(&setup.disk), &setup.dir.join(SNAPSHOT_DIR))
        .map_err(|error| OpenError::Snapshot {
            group: 0,
            index: 0,
            reason: error.to_string(),
        })?
        .with_step(setup.options.snapshot_step_bytes);
    let config = Config {
        voters: identity.members.iter().copied().map(NodeId).collect(),
    };
    // A lease may rest on a longer promise than what the options say now.
    let restart_wait_ns = membership.promised_ms().saturating_mul(1_000_000);
    let groups = (0..u64::from(identity.groups)).map(GroupId);
    let replicas = groups.map(|group| {
        let found = recovered.groups.get(&group);
        let found = found.map(|found| (found, &recovered.report.damage[..]));
        open_replica(
            setup,
            now_ns(),
            restart_wait_ns,
            group,
            &config,
            found,
            &snapshots,
        )
    });
    Ok(Opened {
        replicas: replicas.collect::<Result<_, _>>()?,
        lock,
        log,
        limits: Arc::clone(membership.limits()),
        membership,
        snapshots: Arc::new(snapshots),
        base_log_bytes: base_log_bytes(&setup.options, identity.groups),
        rejections: Arc::default(),
    })
}

/// Why the directory cannot be opened now, if it is a node's and somebody has it. Makes nothing.
pub(crate) fn held(setup: &NodeSetup) -> Option<OpenError> {
    let names = setup.disk.list(&setup.dir).ok()?;
    let is_node = names.iter().any(|name| name == crate::identity::FILE_NAME);
    is_node.then(|| lock(setup).err()).flatten()
}

fn lock(setup: &NodeSetup) -> Result<DirLock, OpenError> {
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
    setup
        .disk
        .lock(&setup.dir)
        .map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => quorate_wal::OpenError::Locked { path: path() }.into(),
            _ => OpenError::Io {
                path: path(),
                source,
            },
        })
}

/// Opens the log and the book of the node, or makes the node: first its log, then its book, then its identity. When this
/// returns, the start that it shows its peers is durable.
fn open_node(setup: &NodeSetup) -> Result<(Arc<Membership>, Arc<Log>, Recovered), OpenError> {
    let (wanted, disk, dir) = (&setup.identity, setup.disk.as_ref(), &setup.dir);
    let claim = wanted.find(disk, dir)?;
    let cluster_id = match &claim {
        Claim::Fresh => wanted.cluster_id(),
        Claim::Old { cluster_id } => *cluster_id,
        Claim::Known(identity) => identity.cluster_id,
    };
    let (log, recovered) = open_log(setup, cluster_id, claim == Claim::Fresh)?;
    let random = |salt| mix(setup.seed ^ mix(wanted.node ^ salt)).max(1);
    let start = Opening {
        nonce: random(NONCE_SALT),
        election_timeout_ms: millis(setup.options.election_timeout),
        without: &setup.without,
    };
    let book = match claim {
        Claim::Known(found) => reopen_book(setup, &found, &start)?,
        Claim::Fresh | Claim::Old { .. } => {
            let identity = Identity {
                cluster_id,
                node: wanted.node,
                groups: wanted.groups,
                incarnation: random(INCARNATION_SALT),
            };
            let book = Book::new(
                identity.node,
                cluster_id,
                identity.groups,
                identity.incarnation,
                &wanted.members,
            );
            let book = membership::create(disk, dir, book, &start)?;
            identity.claim(disk, dir)?;
            book
        }
    };
    let card = NodeCard {
        durable_lsn: log.durable().0,
        syncs: setup.options.log.durability == Durability::PowerLoss,
        limits: NodeLimits {
            entry_bytes_max: setup.options.log.entry_bytes_max,
            frame_bytes_max: 0,
            election_timeout_ms: start.election_timeout_ms,
        },
        listen: setup.listen.clone(),
        advertise: setup.advertise.clone(),
        ..NodeCard::bare(NodeId(wanted.node), cluster_id, wanted.groups)
    };
    let membership = Membership::new(Arc::clone(&setup.disk), dir, book, card);
    Ok((Arc::new(membership), log, recovered))
}

const INCARNATION_SALT: u64 = 0x1D3A_0001;
const NONCE_SALT: u64 = 0x1D3A_0002;

fn reopen_book(
    setup: &NodeSetup,
    found: &Identity,
    start: &Opening<'_>,
) -> Result<Book, OpenError> {
    let wanted = &setup.identity;
    let disk = setup.disk.as_ref();
    let book = membership::read(disk, &setup.dir)?;
    if !book.belongs_to(found.node, found.cluster_id, found.incarnation) {
        return Err(OpenError::Damaged {
            path: setup.dir.join(membership::FILE_NAME),
            what: "the book of peers is of another directory than the identity beside it"
                .to_owned(),
        });
    }
    wanted.compare_shape(&setup.dir, found.groups, &book.members())?;
    membership::reopen(disk, &setup.dir, book, start)
}

fn open_log(
    setup: &NodeSetup,
    cluster_id: u64,
    is_fresh: bool,
) -> Result<(Arc<Log>, Recovered), OpenError> {
    let disk = Arc::clone(&setup.disk);
    let path = setup.dir.join(LOG_DIR);
    let mut options = setup.options.log.clone();
    options.identity = cluster_id ^ mix(setup.identity.node);
    // Whoever sends heartbeats must not wait for a disk: one that stands still would take the groups of the node with it
    // that others could lead.
    options.inline_writes &= setup.identity.members.len() == 1;
    if is_fresh || mutants::TAKES_LOST_LOG_FOR_NEW {
        return Ok(Log::open(disk, &path, options)?);
    }
    let opened = Log::open_existing(disk, &path, options);
    opened.map_err(|error| match error {
        quorate_wal::OpenError::NoLog { path, what } => OpenError::LogMissing { path, what },
        error => error.into(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn open_replica<M: StateMachine>(
    setup: &NodeSetup,
    now_ns: u64,
    restart_wait_ns: u64,
    group: GroupId,
    config: &Config,
    found: Option<(&RecoveredGroup, &[Damage])>,
    snapshots: &Snapshots,
) -> Result<Replica<M>, OpenError> {
    let id = NodeId(setup.identity.node);
    let bad_group = |reason: String| OpenError::Group {
        group: group.0,
        reason,
    };
    let restored = restored(id, config, found.map(|found| found.0)).map_err(bad_group)?;
    let file = found.and_then(|(found, _)| found.snapshot.clone());
    let bad_snapshot = |unrestored: &Unrestored| OpenError::Snapshot {
        group: group.0,
        index: file.as_ref().map_or(0, |file| file.index),
        reason: unrestored.to_string(),
    };
    let read = file.as_ref().map(|file| restore(snapshots, group, file));
    let (sessions, rotten) = match read.transpose() {
        Ok(sessions) => (sessions.unwrap_or_default(), None),
        // It costs this group on this node, and no other one.
        Err(unrestored) if unrestored.is_rotten => {
            let reason = bad_snapshot(&unrestored).to_string();
            (Sessions::default(), Some(reason))
        }
        Err(unrestored) => return Err(bad_snapshot(&unrestored)),
    };
    let keep: Vec<_> = file.iter().cloned().collect();
    // What cannot be deleted now goes with the next snapshot.
    let _left = snapshots.retain(group, &keep);
    let seed = mix(setup.seed ^ mix(id.0) ^ group.0);
    let raft_options = quorate_raft::Options {
        restart_wait_ns,
        ..setup.options.raft(seed)
    };
    let raft =
        Raft::new(raft_options, restored, now_ns).map_err(|error| bad_group(error.to_string()))?;
    let options = ReplicaOptions {
        snapshot_log_bytes: setup.options.snapshot_log_bytes,
        trailing_entries: setup.options.trailing_entries,
        snapshot_bytes_max: setup.options.snapshot_bytes_max,
        transfer_timeout_ns: nanos(setup.options.election_timeout).saturating_mul(4),
        // As long as a client waits: neither keeps what the other has given up.
        read_wait_ns: WindowOptions::of(&setup.options).read_wait_ns(),
    };
    let snapshot = raft.snapshot().index;
    let mut replica = Replica::new(
        group,
        raft,
        sessions,
        SnapshotState::new(file.clone(), seed >> 1),
        options,
    );
    let lost = found.and_then(|(found, damage)| lost_behind(found, group, damage, snapshot));
    if let Some((last, reason)) = lost.filter(|_| !mutants::IGNORES_LOST_ENTRIES) {
        replica.set_aside(now_ns, last, reason);
    }
    if let Some(reason) = rotten.filter(|_| !mutants::ROTTEN_SNAPSHOT_IS_EMPTY) {
        replica.lose_snapshot(now_ns, &reason);
    }
    Ok(replica)
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
