//! How nodes and clerks reach each other: one trait, and what travels over it.
//!
//! A transport moves [`Frame`]s between nodes, and requests and replies between clerks and nodes.
//! It may lose, repeat, delay and reorder frames between two nodes; it may not alter them or invent
//! them. What it promises beyond that is speed: [`Transport::send`] never blocks and never waits
//! for a peer.

pub mod codec;
mod frame;
pub mod memory;
mod status;
pub mod tcp;

use std::sync::Arc;

pub use frame::{
    Consistency, FewNodes, Frame, GroupMessage, Refusal, Reply, ReplyBody, Request, RequestBody,
    RequestId, SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer,
};
use quorate_raft::NodeId;

pub use crate::membership::{NodeCard, NodeLimits, NodeRole, OlderBy, Refused, Start};
pub use status::{Founding, LogHealth, NodeStatus};

/// Moves frames between the nodes of a cluster.
pub trait Transport: Send + Sync + 'static {
    /// Hands a frame over for a node. Returns at once.
    ///
    /// `false` means that the frame was dropped here and now: the peer is not known, the transport
    /// is stopped, or the peer's bounded queue is full. `true` promises nothing.
    ///
    /// A [`Frame::Raft`] over the limit of a wire may arrive as several, each with some of the
    /// messages.
    fn send(&self, to: NodeId, frame: Frame) -> bool;

    /// Stops delivering and frees threads and sockets. Idempotent; returns when no more
    /// [`Inbox::deliver`] runs or will run.
    fn stop(&self);
}

/// Where a transport delivers what arrives for a node. Must not block.
pub trait Inbox: Send + Sync + 'static {
    /// Takes a frame. A frame over a bound of the receiver may be dropped; requests are then
    /// refused through their origin.
    fn deliver(&self, from: Origin, frame: Frame);

    /// What this node shows to those it meets. `None`: it has no directory, and the transport shows what it was told.
    fn card(&self) -> Option<NodeCard> {
        None
    }

    /// Judges the card of a node that this one meets, before the first frame between the two. May wait for the disk.
    fn admit(&self, _card: &NodeCard) -> Result<(), Refused> {
        Ok(())
    }

    /// Whether the start of an admitted card still counts: no other one of its node was admitted since. Must return at once,
    /// and not call the transport.
    fn stands(&self, _card: &NodeCard) -> bool {
        true
    }

    /// Told that another node refuses this one (`Err`), or deals with it.
    fn judged(&self, _by: NodeId, _judged: Result<(), &Refused>) {}

    /// A connection to or from a node was lost: what was asked there may never be answered. Told when it is noticed, and
    /// perhaps more than once; frames may still arrive, over another connection.
    fn disconnected(&self, _node: NodeId) {}

    /// A thread of the transport ended by a panic: what it did is not done any more. Must return at once.
    fn failed(&self, _reason: &str) {}
}

/// Who sent a frame.
#[derive(Clone)]
pub enum Origin {
    /// A node of this cluster; replies go back by [`Transport::send`].
    Node(NodeId),
    /// A clerk; replies go through its sink.
    Clerk(Arc<dyn ReplySink>),
}

/// The way back to a clerk.
pub trait ReplySink: Send + Sync + 'static {
    /// Sends a reply. Returns at once; a clerk that is gone or too slow loses it.
    fn reply(&self, reply: Reply);
}

/// A clerk's way to the nodes: the client half of a transport.
pub trait ClerkLink: Send + Sync + 'static {
    /// Hands over a request for a node. Returns at once; `false`: dropped here and now.
    fn send(&self, to: NodeId, request: Request) -> bool;

    /// The nodes that this link knows how to reach, in the order to try them.
    fn nodes(&self) -> Vec<NodeId>;

    /// How many groups the cluster has, once a node has said so.
    fn groups(&self) -> Option<u32>;

    /// Stops, and frees threads and sockets. Idempotent.
    fn stop(&self);
}

/// Where a [`ClerkLink`] delivers what comes back. Must not block.
pub trait ClerkInbox: Send + Sync + 'static {
    /// Takes a reply.
    fn reply(&self, from: NodeId, reply: Reply);

    /// The connection to a node was lost: what was outstanding there may never be answered.
    fn disconnected(&self, node: NodeId);

    /// A thread of the link ended by a panic: what it did is not done any more. Must return at once.
    fn failed(&self, _reason: &str) {}
}

/// For a node without peers: nothing can be sent.
pub(crate) struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, _to: NodeId, _frame: Frame) -> bool {
        false
    }

    fn stop(&self) {}
}
