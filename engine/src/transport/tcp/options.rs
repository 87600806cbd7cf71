//! What a TCP transport is told, and the bounds it keeps.

use std::sync::Arc;
use std::time::Duration;

use quorate_raft::NodeId;

use super::TcpError;
use super::event::TransportEvent;

/// Told of what happens to connections, on a thread of its own.
pub type Observer = Arc<dyn Fn(&TransportEvent) + Send + Sync>;

/// How a node takes part in a cluster over TCP.
#[derive(Clone)]
pub struct TcpOptions {
    /// This node. Not zero.
    pub node: NodeId,
    /// The cluster. Connections from other clusters are refused.
    pub cluster_id: u64,
    /// How many groups the cluster has. Told to clerks; nodes that differ refuse each other.
    pub groups: u32,
    /// Where this node listens: a name or number and a port. Port 0 takes a free one.
    pub listen: String,
    /// The nodes of the cluster and where they are reached. An address for this node itself is
    /// what clerks are told; without one they are told where it listens.
    pub peers: Vec<(NodeId, String)>,
    /// Bounds in bytes, numbers and time.
    pub limits: TcpLimits,
    /// Told of what happens to connections.
    pub observer: Option<Observer>,
}

impl TcpOptions {
    /// Options for one group, with default limits and no observer.
    pub fn new(
        node: NodeId,
        cluster_id: u64,
        listen: impl Into<String>,
        peers: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Self {
        Self {
            node,
            cluster_id,
            groups: 1,
            listen: listen.into(),
            peers: peers.into_iter().collect(),
            limits: TcpLimits::default(),
            observer: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), TcpError> {
        let mut nodes: Vec<NodeId> = self.peers.iter().map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        let count = nodes.len();
        nodes.dedup();
        if self.node == NodeId::ZERO || nodes.first() == Some(&NodeId::ZERO) {
            return Err(TcpError::Options(
                "node ids begin with 1: give every node another one",
            ));
        }
        if nodes.len() != count {
            return Err(TcpError::Options(
                "two peers have the same id: give every node its own",
            ));
        }
        // One place is kept for this node, if it is not in the list.
        if count >= NODES_MAX {
            return Err(TcpError::Options(
                "too many peers: a cluster has at most 255 nodes",
            ));
        }
        let addresses = self.peers.iter().map(|(_, address)| address);
        if addresses
            .chain([&self.listen])
            .any(|address| address.len() > ADDRESS_BYTES_MAX)
        {
            return Err(TcpError::Options(
                "an address of a peer is longer than 255 bytes",
            ));
        }
        self.limits.check()
    }
}

/// How many nodes a cluster may name.
pub(super) const NODES_MAX: usize = 256;

/// How long an address may be: as long as a name may be in the domain name system.
pub(super) const ADDRESS_BYTES_MAX: usize = 255;

/// The bounds of connections. All nodes and clerks of a cluster should have the same
/// `frame_bytes_max`, `keep_alive_ms` and `silence_timeout_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// The longest body of a frame, in both directions. At most 1 GiB.
    pub frame_bytes_max: u32,
    /// The most frames that wait for one connection.
    pub queue_frames_max: usize,
    /// The most bytes that wait for one connection. One frame may always wait, whatever its size.
    pub queue_bytes_max: usize,
    /// A batch for one write is closed when it reaches this size.
    pub batch_bytes_max: usize,
    /// The most connections that may be accepted and not yet have introduced themselves.
    pub handshakes_max: usize,
    /// The most clerks that may be connected to one node.
    pub clerks_max: usize,
    /// How long a stranger may take to introduce itself, and a node to answer.
    pub handshake_timeout_ms: u64,
    /// How long the attempt to reach one address may take.
    pub connect_timeout_ms: u64,
    /// How long a write may make no progress.
    pub write_timeout_ms: u64,
    /// How long a connection may bring no byte.
    pub silence_timeout_ms: u64,
    /// After how long without anything else to say a connection says that it is alive. At most half
    /// of `silence_timeout_ms`.
    pub keep_alive_ms: u64,
    /// How long to wait after the first failure to connect. Doubles with each one.
    pub backoff_min_ms: u64,
    /// The longest such wait.
    pub backoff_max_ms: u64,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 64 << 20,
            queue_frames_max: 65_536,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 1 << 20,
            handshakes_max: 64,
            clerks_max: 1024,
            handshake_timeout_ms: 3000,
            connect_timeout_ms: 1000,
            write_timeout_ms: 5000,
            silence_timeout_ms: 5000,
            keep_alive_ms: 1000,
            backoff_min_ms: 20,
            backoff_max_ms: 1000,
        }
    }
}

impl TcpLimits {
    pub(super) fn check(&self) -> Result<(), TcpError> {
        let nonzero = [
            u64::from(self.frame_bytes_max),
            self.queue_frames_max as u64,
            self.queue_bytes_max as u64,
            self.batch_bytes_max as u64,
            self.handshakes_max as u64,
            self.handshake_timeout_ms,
            self.connect_timeout_ms,
            self.write_timeout_ms,
            self.silence_timeout_ms,
            self.keep_alive_ms,
            self.backoff_min_ms,
        ];
        if nonzero.contains(&0) {
            return Err(TcpError::Options(
                "a limit is zero: only `clerks_max` may be",
            ));
        }
        if self.frame_bytes_max > 1 << 30 {
            return Err(TcpError::Options("`frame_bytes_max` is over 1 GiB"));
        }
        if self.keep_alive_ms > self.silence_timeout_ms / 2 {
            return Err(TcpError::Options(
                "`keep_alive_ms` is over half of `silence_timeout_ms`",
            ));
        }
        if self.backoff_min_ms > self.backoff_max_ms {
            return Err(TcpError::Options(
                "`backoff_min_ms` is over `backoff_max_ms`",
            ));
        }
        Ok(())
    }

    pub(super) fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max as usize
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        millis(self.handshake_timeout_ms)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        millis(self.connect_timeout_ms)
    }

    pub(super) fn write_timeout(&self) -> Duration {
        millis(self.write_timeout_ms)
    }

    pub(super) fn silence_timeout(&self) -> Duration {
        millis(self.silence_timeout_ms)
    }

    pub(super) fn backoff_max(&self) -> Duration {
        millis(self.backoff_max_ms)
    }

    pub(super) fn keep_alive(&self) -> Duration {
        millis(self.keep_alive_ms)
    }
}

/// A configured time. No more than a day, so that adding it to the present never overflows.
pub(super) fn millis(time_ms: u64) -> Duration {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    Duration::from_millis(time_ms.min(DAY_MS))
}
