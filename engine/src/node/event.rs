//! What can happen to a shard.

use std::sync::Arc;

use quorate_kv::{Sessions, StateMachine};
use quorate_raft::{LogIndex, NodeId, SnapshotMeta};
use quorate_wal::{GroupId, SnapshotRef};

use crate::error::Error;
use crate::transport::{
    Frame, Origin, Refusal, Reply, ReplyBody, ReplySink, RequestId, SnapshotTransfer,
};

/// What can happen to a shard.
pub(crate) enum Event<M: StateMachine> {
    /// The transport delivered a frame; all groups that it concerns belong to this shard.
    Frame(Origin, Frame),
    /// A caller in this process wants to read the local view once it includes an index.
    WaitApplied {
        group: GroupId,
        index: LogIndex,
        outlet: Outlet,
    },
    /// The log's durable lsn moved, or the log failed or recovered.
    LogMoved,
    /// A job ended.
    Job(JobDone<M>),
    /// Somebody wants to know how a replica stands; called on the shard's thread between two passes.
    Inspect { group: GroupId, with: Look<M> },
    /// The cluster is founded: this node takes part from now on.
    Founded,
    /// Ask for an election now.
    Campaign { group: GroupId },
    /// Hand leadership of a group over, to a given node or to the best one.
    Transfer {
        group: GroupId,
        to: Option<NodeId>,
        /// Hears who leads then, or why not.
        told: Option<Told<Result<NodeId, Error>>>,
    },
    /// Take a snapshot of a group now.
    Snapshot {
        group: GroupId,
        /// Hears up to which index there is one then, or why not.
        told: Option<Told<Result<LogIndex, Error>>>,
    },
    /// The node is about to stop: hand over all groups that it leads.
    Leave {
        /// Hears when there is nothing to wait for any more.
        told: Told<()>,
    },
}

/// Is called with a result where it becomes known, and must return at once. Dropped without a call if
/// the shard stops before.
pub(crate) type Told<T> = Box<dyn FnOnce(T) + Send>;

impl<M: StateMachine> Event<M> {
    /// Answers whoever would wait in vain, as the shard is not here. What came from another node is lost, as on a
    /// wire, and comes again; whoever inspects hears that the question is gone.
    pub(crate) fn turn_away(self) {
        let (id, sink) = match self {
            Self::Frame(Origin::Clerk(sink), Frame::Request(request)) => (request.id, sink),
            Self::WaitApplied { outlet, .. } => match outlet.origin {
                Origin::Clerk(sink) => (outlet.id, sink),
                Origin::Node(_) => return,
            },
            _ => return,
        };
        sink.reply(Reply {
            id,
            result: Err(Refusal::Stopping),
        });
    }
}

/// Looks at a replica.
pub(crate) type Look<M> = Box<dyn FnOnce(&super::Replica<M>) + Send>;

/// How a job ended.
pub(crate) enum JobDone<M: StateMachine> {
    /// A snapshot of this replica's state is published, or could not be written.
    Saved {
        group: GroupId,
        meta: SnapshotMeta,
        result: Result<SnapshotRef, String>,
    },
    /// A leader's snapshot arrived whole, was verified and read into a machine.
    Received(Box<Received<M>>),
    /// A leader's snapshot was given up: refused by its checks or not storable.
    ReceiveFailed {
        transfer: SnapshotTransfer,
        reason: String,
    },
    /// The snapshot file that was being sent cannot be read.
    SendFailed {
        transfer: SnapshotTransfer,
        reason: String,
        /// The id of the file, if it is damaged or gone.
        rotten: Option<u64>,
    },
}

/// A snapshot that arrived from a leader.
pub(crate) struct Received<M: StateMachine> {
    pub(crate) from: NodeId,
    pub(crate) transfer: SnapshotTransfer,
    pub(crate) meta: SnapshotMeta,
    pub(crate) file: SnapshotRef,
    pub(crate) machine: Sessions<M>,
}

/// The way back to whoever asked.
#[derive(Clone)]
pub(crate) struct Outlet {
    pub(crate) id: RequestId,
    pub(crate) origin: Origin,
}

impl Outlet {
    pub(crate) fn sink(id: RequestId, sink: Arc<dyn ReplySink>) -> Self {
        Self {
            id,
            origin: Origin::Clerk(sink),
        }
    }

    /// Answers. A node that is gone loses the answer; its clients ask again.
    pub(crate) fn answer(self, ports: &dyn SendFrame, result: Result<ReplyBody, Refusal>) {
        let reply = Reply {
            id: self.id,
            result,
        };
        match self.origin {
            Origin::Clerk(sink) => sink.reply(reply),
            Origin::Node(node) => ports.send_frame(node, Frame::Reply(reply)),
        }
    }
}

/// Sends a frame to a node, or loses it.
pub(crate) trait SendFrame {
    fn send_frame(&self, to: NodeId, frame: Frame);
}
