//! What can go wrong, by what the caller is doing: calling, or opening.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use quorate_kv::TooLarge;
use quorate_raft::NodeId;

use crate::membership::FoundingStatus;
use crate::transport::FewNodes;

/// Why a call on a [`Db`](crate::Db) or [`Clerk`](crate::Clerk) failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer within [`Options::call_timeout`](crate::Options).
    #[error(
        "no answer within {after_ms} ms ({}); {}", cause,
        if *maybe_applied { "the write may yet take effect, once: read before you repeat it" } else { "it had no effect: try again" }
    )]
    Timeout {
        /// How long the call waited.
        after_ms: u64,
        /// Whether the write may have taken effect or may yet take effect; never more than once.
        maybe_applied: bool,
        /// The last obstacle met.
        cause: Obstacle,
        /// Who led the group, as far as known.
        leader: Option<NodeId>,
    },
    /// Too many calls are outstanding. Nothing was done; wait for some of them.
    #[error(
        "{outstanding} writes of this client are outstanding, the most allowed; wait for some of them"
    )]
    Busy {
        /// How many are.
        outstanding: usize,
    },
    /// A key, value or batch is over its limit. Nothing was done.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The session was unused for so long that others took its place, and this write was sent before
    /// that was known. It took effect once or not at all; later calls use a new session.
    #[error(
        "the session expired while this write was on its way; it took effect once or not at all: read before you repeat it"
    )]
    SessionExpired,
    /// The write was refused for good, but a copy of it that was sent before may be in a log: it takes effect once or not
    /// at all, perhaps later.
    #[error(
        "{after}; a copy of the write that was sent before may yet take effect, once: read before you repeat it"
    )]
    MaybeApplied {
        /// What the last copy was refused with.
        after: Box<Error>,
    },
    /// The keys of a batch belong to different groups. Nothing was done.
    #[error(
        "the keys of one batch belong to different groups; batches are atomic within one group"
    )]
    BatchSpansGroups,
    /// The cluster has no such group. Nothing was done.
    #[error("there is no group {}; the cluster has fewer", group.0)]
    NoSuchGroup {
        /// The group asked for.
        group: quorate_wal::GroupId,
    },
    /// The replica on this node lost what it had applied, and no other one can answer for it. Nothing was done.
    /// [`Db::trouble`](crate::Db::trouble) names the file. A replica that is one of several comes back with a snapshot of its
    /// leader.
    #[error(
        "group {} is quarantined on this node, its data here was damaged: `Db::trouble` says which; ask another node, or restore the files", group.0
    )]
    Quarantined {
        /// The group.
        group: quorate_wal::GroupId,
    },
    /// The other side answered with something that this version does not understand. The call had no effect.
    #[error("an answer could not be understood; the nodes may run a newer version")]
    Incompatible,
    /// The node here, or the clerk, stopped because one of its threads failed: a bug, or code of the caller's that ran on
    /// it. Nothing is lost that was acknowledged; a write that was on its way took effect once or not at all.
    #[error("stopped, as a part of it failed ({reason}); close it and open it again")]
    Failed {
        /// What failed.
        reason: String,
    },
    /// A call blocks, on a thread of the node that its answer needs. Wakers and observers run on threads of their own, where
    /// they may block; so this should not be seen. What was asked for takes effect nevertheless.
    #[error(
        "this call would block one of the node's own threads, which its answer needs; make it on another thread"
    )]
    OwnThread,
    /// Leadership was not handed over as it was asked for.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A snapshot that was asked for was not taken.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Nobody can be told when the answer comes, so a future cannot wait for it. What was asked for takes
    /// effect nevertheless.
    #[error(
        "no waker can be called when the answer comes ({reason}); read before you repeat a write, and wait with `Pending::wait` \
         meanwhile"
    )]
    CannotWake {
        /// What is missing.
        reason: String,
    },
    /// This handle's node or clerk was closed. A call that came later did nothing. A write that was outstanding may have
    /// taken effect, or may yet do so, once; the handle that would have found out is gone.
    #[error("closed; open it again, and read before you repeat a write that was on its way")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed if made again, without harm: the failed one had no effect.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { maybe_applied, .. } => !*maybe_applied,
            Self::Transfer(error) => !matches!(error, TransferError::UnknownNode { .. }),
            Self::Busy { .. } | Self::Snapshot(_) => true,
            _ => false,
        }
    }

    /// Whether a write that failed with this may have taken effect, or may yet do so; never more than once. `false` is a
    /// promise: no copy of it has an effect or ever will.
    #[must_use]
    pub const fn maybe_applied(&self) -> bool {
        match self {
            Self::Timeout { maybe_applied, .. } => *maybe_applied,
            Self::SessionExpired
            | Self::MaybeApplied { .. }
            | Self::Failed { .. }
            | Self::OwnThread
            | Self::CannotWake { .. }
            | Self::Closed => true,
            Self::Busy { .. }
            | Self::TooLarge(_)
            | Self::BatchSpansGroups
            | Self::NoSuchGroup { .. }
            | Self::Quarantined { .. }
            | Self::Transfer(_)
            | Self::Snapshot(_)
            | Self::Incompatible => false,
        }
    }

    /// The error of a write that failed for this reason, of which a copy may be in a log.
    pub(crate) fn in_doubt(self) -> Self {
        match self {
            Self::MaybeApplied { .. } => self,
            after => Self::MaybeApplied {
                after: Box::new(after),
            },
        }
    }

    /// Who led the group when the call failed, as far as known.
    #[must_use]
    pub const fn leader_hint(&self) -> Option<NodeId> {
        match self {
            Self::Timeout { leader, .. } | Self::Transfer(TransferError::NotLeader { leader }) => {
                *leader
            }
            Self::Transfer(TransferError::TakenByOther { leader }) => Some(*leader),
            _ => None,
        }
    }
}

/// Why leadership of a group was not handed over as it was asked for. Nothing is lost by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This node does not lead the group.
    #[error("this node does not lead the group; ask the one that does ({})", named(*leader))]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<NodeId>,
    },
    /// The cluster has no such node.
    #[error("the cluster has no node {}; name one of its members", to.0)]
    UnknownNode {
        /// Who was named.
        to: NodeId,
    },
    /// No other node was heard of lately.
    #[error("no other node of the group can be reached; try again when one can")]
    NobodyThere,
    /// The log of the node that was to take over is in a worse condition than this node's.
    #[error(
        "the log of {to} is in a worse condition than this node's (`Stats::peers`); choose another one"
    )]
    Sick {
        /// Who was to take over.
        to: NodeId,
    },
    /// Leadership is being handed to another node already.
    #[error("leadership is already being handed to {to}; wait until that ends")]
    InProgress {
        /// To whom.
        to: NodeId,
    },
    /// The node did not take over in time: it is behind, or slow, or was lost. This node leads on, unless another one was
    /// elected.
    #[error("{to} did not take over within {after_ms} ms; is it behind?")]
    NotTaken {
        /// Who was to take over.
        to: NodeId,
        /// How long it was waited for.
        after_ms: u64,
    },
    /// Another node than the one that was named was elected.
    #[error("{leader} was elected instead")]
    TakenByOther {
        /// Who leads now.
        leader: NodeId,
    },
}

fn named(leader: Option<NodeId>) -> String {
    leader.map_or_else(|| "not known".to_owned(), |leader| leader.to_string())
}

/// Why a snapshot was not taken. The log keeps what it would have covered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot could not be saved: {reason}")]
#[non_exhaustive]
pub struct SnapshotError {
    /// What kept it from being saved.
    pub reason: String,
}

/// What stood in the way of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// No node could be reached.
    #[error("no node answered; is a majority alive and reachable?")]
    Unreachable,
    /// Nodes answered, but none leads.
    #[error("the group has no leader; is a majority alive?")]
    NoLeader,
    /// The leader took the call and could not finish it.
    #[error("the leader did not finish it; is a majority alive?")]
    NotCommitted,
    /// The leader has more to do than its bounds allow.
    #[error("the leader is overloaded")]
    Overloaded,
    /// The leader's disk is full.
    #[error("the leader's disk is full: free some space, it recovers by itself")]
    DiskFull,
    /// The leader's process, or its system, has no file handles left.
    #[error(
        "the leader has no file handles left: raise its limit of open files, or close connections, it recovers by itself"
    )]
    OutOfHandles,
    /// The node's log failed.
    #[error("the node's log failed: reopen it")]
    LogFailed,
    /// The read needs the replica in this process, which has not caught up or cannot.
    #[error("this replica has not caught up with the leader")]
    Lagging,
    /// The cluster is not founded: nodes of its list never started, or never met.
    #[error(
        "the cluster is not founded: it waits for {waits_for}; start each node of the list once and let them reach each \
         other, or name those that will never come as left out (without_founders; with the tool: --without-founders)"
    )]
    Unfounded {
        /// Whom the node that was asked waits for.
        waits_for: FewNodes,
    },
}

/// Why a node could not be opened. Nothing on disk was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of its range, or options contradict each other.
    #[error("options: {reason}")]
    Options {
        /// Which, and what it may be.
        reason: String,
    },
    /// `accept_damage` is set for a node that others count on.
    #[error("log.accept_damage is set, and node {} is one of {members}: the others count on the entries and votes that it would go on without; open it without that option, and damaged groups come back with snapshots of their leaders; if it does not open, leave the node out for good", node.0)]
    AcceptsDamage {
        /// The node.
        node: NodeId,
        /// How many members its cluster has.
        members: usize,
    },
    /// Two members of the list have the same id.
    #[error("node {} is listed twice; every node needs an id of its own", id.0)]
    DuplicateNode {
        /// The id.
        id: NodeId,
    },
    /// The node that is being opened is not in its own list.
    #[error("node {} is not in the list of nodes; add it with its own address", id.0)]
    OwnIdMissing {
        /// The id.
        id: NodeId,
    },
    /// The nodes of a [`Cluster`](crate::Cluster) run and it did not begin, so it was stopped again.
    #[error("the cluster did not begin within {after_ms} ms: node {} {status}", node.0)]
    Unfounded {
        /// How long it was waited for: `call_timeout`.
        after_ms: u64,
        /// A node that did not begin.
        node: NodeId,
        /// Whom it waits for, and who refuses it.
        status: Box<FoundingStatus>,
    },
    /// Zero as the id of a cluster, which is none: no node would be let in.
    #[error(
        "cluster id 0 was passed, and it is none; pass a number above zero, or none at all: then the directory says which it is, and a new one takes a number that follows from the list of nodes"
    )]
    ClusterIdZero,
    /// Zero groups, or more than a node takes.
    #[error("{groups} groups asked for; choose from 1 to {limit}")]
    Groups {
        /// How many.
        groups: u32,
        /// The limit.
        limit: u32,
    },
    /// The directory belongs to another node.
    #[error("{} belongs to node {}, not to node {}; open it under its own id or choose another directory", path.display(), found.0, expected.0)]
    WrongNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who opened it.
        expected: NodeId,
    },
    /// The directory belongs to another cluster.
    #[error("{} belongs to cluster {found:#018x}, not {expected:#018x}; choose another directory, or pass cluster_id({found:#018x}) (with the tool: --cluster-id), or none: the directory says which", path.display())]
    WrongCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who opened it.
        expected: u64,
    },
    /// The directory was made for other members or another number of groups.
    #[error("{} was made for {found}, not for {expected}; pass what it was made with", path.display())]
    WrongShape {
        /// The directory.
        path: PathBuf,
        /// What it was made for.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The directory's identity file is of a version not known here.
    #[error("{}: format version {found}, but this build reads up to {supported}; use a newer build", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// What is known here.
        supported: u16,
    },
    /// The directory's identity file is damaged.
    #[error("{}: {what}; restore it from a copy; without one leave the node out for good (it must not come back under its id with an empty directory while others rely on its vote)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The directory holds a log but no identity.
    #[error("{} holds data but no identity file; it is no directory of a node, or its identity was deleted", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The directory says whose it is, and its log is gone: with it what the node acknowledged, its terms and its votes. A
    /// node that goes on without may vote twice in one term.
    #[error("{} {what}, and the identity file beside it says that there was a log: what this node acknowledged and whom it voted for is lost; put the log back, or leave the node out for good (it must not come back under its id with an empty directory while others rely on its vote)", path.display())]
    LogMissing {
        /// Where the log should be.
        path: PathBuf,
        /// What is there instead.
        what: &'static str,
    },
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] quorate_wal::OpenError),
    /// A snapshot that the log names could not be read.
    #[error("group {group}: the snapshot at index {index} cannot be restored: {reason}")]
    Snapshot {
        /// The group.
        group: u64,
        /// The snapshot's index.
        index: u64,
        /// Why.
        reason: String,
    },
    /// What the log says of a group contradicts itself.
    #[error("group {group}: {reason}")]
    Group {
        /// The group.
        group: u64,
        /// What is wrong.
        reason: String,
    },
    /// The transport could not be started.
    #[error(transparent)]
    Transport(#[from] crate::transport::tcp::TcpError),
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}
