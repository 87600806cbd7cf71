//! Why connections end, and what observers and counters are told.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_raft::NodeId;
use quorate_wal::GroupId;
use thiserror::Error;

use super::options::Observer;
use crate::membership::{FoundingStatus, Refused};
use crate::transport::codec::FrameError;

/// Connections between two nodes, told apart so that short frames do not wait behind snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Everything but snapshot chunks.
    Main = 0,
    /// Snapshot chunks.
    Snapshot = 1,
}

impl Lane {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Main),
            1 => Some(Self::Snapshot),
            _ => None,
        }
    }
}

/// What the operating system said, in its own words, which end with the number of the error if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{words}")]
pub struct SystemError {
    kind: io::ErrorKind,
    words: String,
}

impl SystemError {
    /// Which kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        self.kind
    }
}

impl From<io::Error> for SystemError {
    fn from(error: io::Error) -> Self {
        Self {
            kind: error.kind(),
            words: error.to_string(),
        }
    }
}

impl From<io::ErrorKind> for SystemError {
    fn from(kind: io::ErrorKind) -> Self {
        io::Error::from(kind).into()
    }
}

/// What to do about an address that does not resolve.
pub(super) fn hint_to_resolve(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::InvalidInput => "write it as host:port",
        _ => "check the name, and whether this machine can look up names",
    }
}

/// Why a connection was not made or was closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The other side closed it.
    #[error("the other side closed the connection")]
    PeerClosed,
    /// This side stopped.
    #[error("this side stopped")]
    Stopped,
    /// The same node has opened another connection on the same lane, or another start of it was admitted.
    #[error("replaced by a newer connection of the same node")]
    Replaced,
    /// The operating system reports an error.
    #[error("the connection failed: {0}")]
    Io(SystemError),
    /// The address names no host, or is none.
    #[error("the address cannot be resolved: {0}; {hint}", hint = hint_to_resolve(.0.kind()))]
    Resolve(SystemError),
    /// The name was not looked up in time. The system tries its name servers for as long as it is configured to.
    #[error("the name was not resolved within {timeout_ms} ms; is a name server reachable?")]
    ResolveTimeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// The other side did not take the connection in time.
    #[error("no connection within {timeout_ms} ms; is the machine up, and no firewall between?")]
    ConnectTimeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// Nothing arrived for too long.
    #[error("nothing arrived for {timeout_ms} ms")]
    Silent {
        /// The limit.
        timeout_ms: u64,
    },
    /// Nothing could be written for too long.
    #[error("nothing could be written for {timeout_ms} ms")]
    WriteTimeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// The other side did not introduce itself, or did not answer, in time.
    #[error("no handshake within {timeout_ms} ms")]
    HandshakeTimeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// The other side does not speak this protocol.
    #[error("the other side does not speak this protocol; check the address")]
    NotQuorate,
    /// The other side speaks another version of the protocol.
    #[error("protocol version {theirs} meets version {ours}; update the older side")]
    Version {
        /// The version of this side.
        ours: u16,
        /// The version of the other side.
        theirs: u16,
    },
    /// The handshake is damaged.
    #[error("the handshake is damaged")]
    BadHandshake,
    /// The other side belongs to another cluster.
    #[error("cluster {theirs:#x} meets cluster {ours:#x}; check the addresses and cluster ids")]
    WrongCluster {
        /// The cluster of this side.
        ours: u64,
        /// The cluster of the other side.
        theirs: u64,
    },
    /// Another node was expected at this address.
    #[error("node {expected} was expected where node {found} listens; check the peer list")]
    WrongNode {
        /// Whom the dialling side wanted.
        expected: NodeId,
        /// Who listens.
        found: NodeId,
    },
    /// One of the two refuses the other for what it shows: another directory, an older copy, a second node of one id.
    #[error(transparent)]
    Identity(Refused),
    /// The dialling node is not in the list of the listening one.
    #[error("node {node} is not in the peer list of the node it calls")]
    UnknownNode {
        /// The dialling node.
        node: NodeId,
    },
    /// The two nodes are configured with different numbers of groups.
    #[error("{theirs} groups meet {ours} groups; configure all nodes alike")]
    WrongGroups {
        /// The number of this side.
        ours: u32,
        /// The number of the other side.
        theirs: u32,
    },
    /// The listening node has as many connections as it may have.
    #[error("the node has as many connections as it may have")]
    TooMany,
    /// The listening node refused for a reason that this version does not know, and says so in its own words.
    #[error("refused with unknown code {code}: {words}")]
    Refused {
        /// The reason's code.
        code: u8,
        /// What the other side says; without control characters.
        words: String,
    },
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame of a kind that has no place on this connection.
    #[error("a frame of a kind that does not belong on this connection")]
    Unexpected,
    /// A Raft frame between other nodes than those of the connection.
    #[error("a frame between other nodes than those of the connection")]
    Misaddressed,
}

impl From<Refused> for CloseReason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::WrongCluster { ours, theirs } => Self::WrongCluster { ours, theirs },
            Refused::WrongGroups { ours, theirs } => Self::WrongGroups { ours, theirs },
            Refused::Unknown { node } => Self::UnknownNode { node },
            refused => Self::Identity(refused),
        }
    }
}

impl CloseReason {
    /// A short fixed name for counters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Stopped => "stopped",
            Self::Replaced => "replaced",
            Self::Io(_) | Self::ConnectTimeout { .. } => "io",
            Self::Resolve(_) | Self::ResolveTimeout { .. } => "resolve",
            Self::Silent { .. } => "silent",
            Self::WriteTimeout { .. } => "write_timeout",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::NotQuorate => "not_quorate",
            Self::Version { .. } => "version",
            Self::BadHandshake => "bad_handshake",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::WrongNode { .. } => "wrong_node",
            Self::Identity(refused) => refused.name(),
            Self::UnknownNode { .. } => "unknown_node",
            Self::WrongGroups { .. } => "wrong_groups",
            Self::TooMany => "too_many",
            Self::Refused { .. } => "refused",
            Self::Frame(FrameError::TooLong { .. }) => "frame_too_long",
            Self::Frame(FrameError::Crc) => "frame_crc",
            Self::Frame(FrameError::Reserved) => "frame_reserved",
            Self::Frame(FrameError::Decode(_)) => "frame_undecodable",
            Self::Unexpected => "unexpected",
            Self::Misaddressed => "misaddressed",
        }
    }

    /// Whether it is in the nature of connections, and no fault of the other side.
    pub(super) fn is_ordinary(&self) -> bool {
        matches!(
            self,
            Self::PeerClosed
                | Self::Stopped
                | Self::Replaced
                | Self::Io(_)
                | Self::ConnectTimeout { .. }
        )
    }
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportEvent {
    /// This node's connection to another one stands.
    Connected {
        /// The other node.
        node: NodeId,
        /// The lane.
        lane: Lane,
    },
    /// This node's connection to another one is lost, with what was queued for it.
    Disconnected {
        /// The other node.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Why.
        reason: CloseReason,
    },
    /// An attempt to reach another node failed. It is repeated.
    Unreachable {
        /// The other node.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Why.
        reason: CloseReason,
    },
    /// A connection from outside has introduced itself.
    Accepted {
        /// From where.
        address: SocketAddr,
        /// Which node; `None`: a clerk.
        node: Option<NodeId>,
    },
    /// A connection that was accepted has ended without anybody's fault.
    Closed {
        /// From where.
        address: SocketAddr,
        /// Which node; `None`: a clerk.
        node: Option<NodeId>,
        /// Why.
        reason: CloseReason,
    },
    /// A connection from outside was closed because of what it sent or did not send.
    Rejected {
        /// From where.
        address: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// What keeps the cluster from being founded has changed, or it is founded, or a peer refuses this node, or the node
    /// cannot write down whom it met.
    Founding {
        /// How it stands.
        status: FoundingStatus,
    },
    /// A replica refused what a peer sent: it contradicts what is here, or makes no sense. Told to the observer of a
    /// [`Db`](crate::Db), for one group, peer and kind of reason at most once a minute; what is refused has changed nothing.
    MessageRefused {
        /// The group.
        group: GroupId,
        /// Who sent it, or whoever claims so.
        node: NodeId,
        /// Why it was refused.
        reason: String,
    },
    /// The node itself stopped, since one of its threads failed: a bug, or code of the caller's that ran on it. Told to
    /// the observer of a [`Db`](crate::Db), also of one without peers, after its calls have failed.
    NodeFailed {
        /// What failed.
        reason: String,
    },
    /// The listening socket could not give a connection. It is tried again.
    AcceptFailed {
        /// What the operating system says.
        error: SystemError,
    },
    /// The observer took so long that events did not fit into its queue, here in their order: they are lost.
    Missed {
        /// How many.
        events: u64,
    },
}

/// What a transport has done since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpStats {
    /// Frames written, with keep-alives.
    pub frames_sent: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Writes of batches.
    pub batches_sent: u64,
    /// Frames delivered.
    pub frames_received: u64,
    /// Bytes read after handshakes.
    pub bytes_received: u64,
    /// Frames dropped: queue full, too long, or connection lost before they were written.
    pub frames_dropped: u64,
    /// How many connections ended or were not made, by [`CloseReason::name`].
    pub closes: BTreeMap<&'static str, u64>,
}

/// Counters and observer of one transport.
#[derive(Default)]
pub(super) struct Monitor {
    observer: Option<Observer>,
    pub(super) frames_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) batches_sent: AtomicU64,
    pub(super) frames_received: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) frames_dropped: AtomicU64,
    closes: Mutex<BTreeMap<&'static str, u64>>,
}

impl Monitor {
    /// `observer` must return at once.
    pub(super) fn new(observer: Option<Observer>) -> Self {
        Self {
            observer,
            ..Self::default()
        }
    }

    pub(super) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(number as u64, Ordering::Relaxed);
    }

    /// Counts the reason that an event carries, and tells the observer.
    pub(super) fn tell(&self, event: &TransportEvent) {
        if let TransportEvent::Disconnected { reason, .. }
        | TransportEvent::Unreachable { reason, .. }
        | TransportEvent::Closed { reason, .. }
        | TransportEvent::Rejected { reason, .. } = event
        {
            *self.closes.lock().entry(reason.name()).or_default() += 1;
        }
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    pub(super) fn stats(&self) -> TcpStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TcpStats {
            frames_sent: load(&self.frames_sent),
            bytes_sent: load(&self.bytes_sent),
            batches_sent: load(&self.batches_sent),
            frames_received: load(&self.frames_received),
            bytes_received: load(&self.bytes_received),
            frames_dropped: load(&self.frames_dropped),
            closes: self.closes.lock().clone(),
        }
    }
}
