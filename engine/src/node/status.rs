//! How this node and its peers are: what the shards of a node share about the health of logs.
//!
//! Invariants:
//! - A log that holds an unsynced write for longer than an election timeout is never healthy.
//! - What a peer said counts for two election timeouts, and for nothing afterwards: nobody waits for
//!   a node that says no more.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_raft::NodeId;
use quorate_wal::{LogStatus, Lsn};

use crate::transport::{Founding, LogHealth, NodeStatus};

/// The newest feature version that this build reads and writes.
const FEATURE_VERSION: u32 = 1;

/// No write waits.
const NONE: u64 = u64::MAX;

/// How a node and its peers are.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    election_timeout_ns: u64,
    /// By shard: when its oldest unsynced write was handed to the log, or would have been.
    oldest_ns: Box<[AtomicU64]>,
    peers: Box<[NodeId]>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// By peer: what it said last, and when.
    heard: Box<[Option<(NodeStatus, u64)>]>,
    /// The worst health of late, and until when it counts: one that comes and goes is not healthy.
    held: (LogHealth, u64),
}

impl StatusBoard {
    /// The board of a node with these peers, whose groups so many shards own.
    pub(crate) fn new(
        peers: impl IntoIterator<Item = NodeId>,
        shards: usize,
        election_timeout_ns: u64,
    ) -> Self {
        let peers: Box<[NodeId]> = peers.into_iter().collect();
        let known = Known {
            heard: vec![None; peers.len()].into(),
            held: (LogHealth::Healthy, 0),
        };
        Self {
            election_timeout_ns,
            oldest_ns: (0..shards).map(|_| AtomicU64::new(NONE)).collect(),
            peers,
            known: Mutex::new(known),
        }
    }

    pub(crate) fn peers(&self) -> &[NodeId] {
        &self.peers
    }

    pub(super) fn election_timeout_ns(&self) -> u64 {
        self.election_timeout_ns
    }

    /// How many nodes a group needs to agree on anything.
    pub(super) fn majority(&self) -> usize {
        let nodes = self.peers.len() + 1;
        nodes / 2 + 1
    }

    /// A shard tells since when its oldest unsynced write waits.
    pub(super) fn note_oldest(&self, shard: usize, since_ns: Option<u64>) {
        // Nothing else is read on its account: each shard's number stands for itself.
        self.oldest_ns[shard].store(since_ns.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// How long the oldest unsynced write of all shards has waited.
    pub(crate) fn oldest_age_ns(&self, now_ns: u64) -> u64 {
        let since = self.oldest_ns.iter().map(|it| it.load(Ordering::Relaxed));
        match since.min() {
            None | Some(NONE) => 0,
            Some(since_ns) => now_ns.saturating_sub(since_ns),
        }
    }

    /// How this node's log is, given what it says of itself: it knows nothing of time. A health that
    /// was worse counts for an election timeout more.
    pub(crate) fn health(&self, now_ns: u64, log: &LogStatus) -> LogHealth {
        let is_stalled = self.oldest_age_ns(now_ns) > self.election_timeout_ns;
        let now = match log {
            LogStatus::Healthy if is_stalled => LogHealth::Stalled,
            LogStatus::Healthy => LogHealth::Healthy,
            LogStatus::Full => LogHealth::Full,
            LogStatus::Failed { .. } => LogHealth::Failed,
            // What else keeps a log from taking writes, and passes.
            _ => LogHealth::OutOfHandles,
        };
        let held = &mut self.known.lock().held;
        if now.severity() >= held.0.severity() || now_ns >= held.1 {
            *held = (now, now_ns.saturating_add(self.election_timeout_ns));
        }
        held.0
    }

    /// What this node tells its peers.
    pub(super) fn own(&self, now_ns: u64, health: LogHealth, durable: Lsn) -> NodeStatus {
        NodeStatus {
            health,
            oldest_unsynced_ms: self.oldest_age_ns(now_ns) / 1_000_000,
            durable_lsn: durable.0,
            founding: Founding::default(),
            feature_version: FEATURE_VERSION,
        }
    }

    /// A peer says how it is. What a stranger says is of no interest.
    pub(super) fn note_status(&self, now_ns: u64, from: NodeId, status: NodeStatus) {
        if let Some(place) = self.peers.iter().position(|peer| *peer == from) {
            self.known.lock().heard[place] = Some((status, now_ns));
        }
    }

    /// What each peer said lately; `None` of one that said nothing for two election timeouts.
    pub(crate) fn heard(&self, now_ns: u64) -> Vec<(NodeId, Option<NodeStatus>)> {
        let known = self.known.lock();
        let lately = known.heard.iter().map(|heard| {
            let patience_ns = self.election_timeout_ns.saturating_mul(2);
            heard.and_then(|(status, at_ns)| {
                (now_ns < at_ns.saturating_add(patience_ns)).then_some(status)
            })
        });
        self.peers.iter().copied().zip(lately).collect()
    }

    /// The peers that said lately that they are healthier than this, each with how it is.
    pub(super) fn healthier(&self, now_ns: u64, than: LogHealth) -> Vec<NodeId> {
        let heard = self.heard(now_ns).into_iter();
        heard
            .filter(|(_, status)| {
                status.is_some_and(|status| status.health.severity() < than.severity())
            })
            .map(|(peer, _)| peer)
            .collect()
    }

    /// How severely a peer is sick, by what it said lately; `None` if it said nothing.
    pub(super) fn severity_of(&self, now_ns: u64, node: NodeId) -> Option<u8> {
        let heard = self.heard(now_ns).into_iter();
        let status = heard.filter(|(peer, _)| *peer == node);
        status
            .filter_map(|(_, status)| status)
            .map(|status| status.health.severity())
            .next()
    }
}

/// A shard's place on its node's board.
#[derive(Clone, Debug)]
pub(crate) struct ShardStatus {
    pub(crate) board: std::sync::Arc<StatusBoard>,
    /// Which of the node's shards it is: the one with number 0 speaks for the node.
    pub(crate) shard: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: u64 = 500;

    fn board() -> StatusBoard {
        StatusBoard::new([NodeId(2), NodeId(3)], 2, TIMEOUT)
    }

    fn says(health: LogHealth) -> NodeStatus {
        NodeStatus {
            health,
            ..NodeStatus::default()
        }
    }

    #[test]
    fn the_oldest_write_of_all_shards_counts_and_only_beyond_an_election_timeout() {
        let board = board();
        assert_eq!(board.oldest_age_ns(1_000), 0);
        board.note_oldest(0, Some(900));
        board.note_oldest(1, Some(100));
        assert_eq!(board.oldest_age_ns(1_000), 900);
        assert_eq!(board.health(600, &LogStatus::Healthy), LogHealth::Healthy);
        assert_eq!(board.health(601, &LogStatus::Healthy), LogHealth::Stalled);
        board.note_oldest(1, None);
        assert_eq!(board.oldest_age_ns(1_000), 100);
    }

    #[test]
    fn a_health_that_comes_and_goes_is_held_for_an_election_timeout() {
        let board = board();
        assert_eq!(board.health(0, &LogStatus::Full), LogHealth::Full);
        assert_eq!(board.health(499, &LogStatus::Healthy), LogHealth::Full);
        // What is worse counts at once.
        let failed = LogStatus::Failed {
            reason: String::new(),
        };
        assert_eq!(board.health(499, &failed), LogHealth::Failed);
        assert_eq!(board.health(998, &LogStatus::Full), LogHealth::Failed);
        assert_eq!(board.health(999, &LogStatus::Healthy), LogHealth::Healthy);
    }

    #[test]
    fn what_a_peer_said_counts_for_two_election_timeouts() {
        let board = board();
        assert_eq!(board.healthier(0, LogHealth::Failed), []);
        board.note_status(0, NodeId(2), says(LogHealth::Stalled));
        board.note_status(10, NodeId(3), says(LogHealth::Healthy));
        board.note_status(10, NodeId(4), says(LogHealth::Healthy));
        assert_eq!(board.healthier(999, LogHealth::Healthy), []);
        assert_eq!(board.healthier(999, LogHealth::Stalled), [NodeId(3)]);
        assert_eq!(
            board.healthier(999, LogHealth::Full),
            [NodeId(2), NodeId(3)]
        );
        assert_eq!(board.severity_of(999, NodeId(2)), Some(1));
        assert_eq!(board.healthier(1_000, LogHealth::Full), [NodeId(3)]);
        assert_eq!(board.severity_of(1_000, NodeId(2)), None);
        assert_eq!(board.healthier(1_010, LogHealth::Full), []);
    }

    #[test]
    fn a_majority_is_more_than_half_of_all_nodes() {
        for (nodes, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let board = StatusBoard::new((2..=nodes).map(NodeId), 1, TIMEOUT);
            assert_eq!(board.majority(), majority, "{nodes}");
        }
    }
}
