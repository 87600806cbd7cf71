//! How this node and its peers are: what the shards of a node share about the health of logs.
//!
//! Invariants:
//! - A log that holds an unsynced write for longer than an election timeout is never healthy.
//! - What a peer said counts for two election timeouts, and for nothing afterwards: nobody waits for
//!   a node that says no more. Nor does one that was turned away count for long after it tried
//!   last.
//! - No worker is needed to take in what peers say, and any one of them tells the peers.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_raft::NodeId;
use quorate_wal::{Log, LogStatus, Lsn};

use super::health::TELL_GAP_NS_MIN;
use crate::membership::FEATURES;
use crate::transport::{Founding, LogHealth, NodeStatus};

const NS_PER_MS: u64 = 1_000_000;

/// A peer that was turned away counts for so long, at least, as one that lives: longer than a
/// transport waits between two attempts, if left as it comes.
const TURNED_AWAY_NS_MIN: u64 = 3_000_000_000;

/// No write waits.
const NONE: u64 = u64::MAX;

/// How a node and its peers are.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    election_timeout_ns: u64,
    oldest: Box<[Oldest]>,
    peers: Box<[NodeId]>,
    known: Mutex<Known>,
}

/// A shard's oldest write that it does not know to be durable.
#[derive(Debug)]
struct Oldest {
    /// When it was handed to the log, or would have been; [`NONE`] if there is none.
    since_ns: AtomicU64,
    /// Where it is in the log. A shard that stands still may not have heard that it is durable.
    lsn: AtomicU64,
}

impl Default for Oldest {
    fn default() -> Self {
        Self {
            since_ns: AtomicU64::new(NONE),
            lsn: AtomicU64::new(0),
        }
    }
}

#[derive(Debug)]
struct Known {
    /// By peer: what it said last, and when.
    heard: Box<[Option<(NodeStatus, u64)>]>,
    /// Those whose connections ended since they said how they are.
    gone: Vec<NodeId>,
    /// By peer: when it was turned away, if it was when it tried last.
    turned_away: Box<[Option<u64>]>,
    /// What the peers were told last, and when.
    told: Option<(NodeStatus, u64)>,
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
            gone: Vec::new(),
            turned_away: vec![None; peers.len()].into(),
            told: None,
            held: (LogHealth::Healthy, 0),
        };
        Self {
            election_timeout_ns,
            oldest: (0..shards).map(|_| Oldest::default()).collect(),
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

    /// A shard tells since when its oldest unsynced write waits, and where it is in the log; one
    /// that the log has not taken is behind everything.
    pub(super) fn note_oldest(&self, shard: usize, oldest: Option<(u64, Lsn)>) {
        let Oldest { since_ns, lsn } = &self.oldest[shard];
        let (since, at) = oldest.unwrap_or((NONE, Lsn(0)));
        since_ns.store(since, Ordering::Relaxed);
        // In this order: whoever sees the place of a write sees when that one began, or a later one.
        lsn.store(at.0, Ordering::Release);
    }

    /// How long the oldest write of all shards has waited that is not durable.
    pub(crate) fn oldest_age_ns(&self, now_ns: u64, durable: Lsn) -> u64 {
        let waiting = self.oldest.iter().filter_map(|oldest| {
            let is_waiting = oldest.lsn.load(Ordering::Acquire) > durable.0;
            is_waiting.then(|| oldest.since_ns.load(Ordering::Relaxed))
        });
        match waiting.min() {
            None | Some(NONE) => 0,
            Some(since_ns) => now_ns.saturating_sub(since_ns),
        }
    }

    /// How this node's log is. What it says of itself knows nothing of time. A health that was worse
    /// counts for an election timeout more.
    pub(crate) fn health(&self, now_ns: u64, log: &Log) -> LogHealth {
        self.judge(now_ns, &log.status(), log.durable())
    }

    fn judge(&self, now_ns: u64, status: &LogStatus, durable: Lsn) -> LogHealth {
        let is_stalled = self.oldest_age_ns(now_ns, durable) > self.election_timeout_ns;
        let now = match status {
            LogStatus::Healthy if is_stalled => LogHealth::Stalled,
            LogStatus::Healthy => LogHealth::Healthy,
            LogStatus::Failed { .. } => LogHealth::Failed,
            LogStatus::NoHandles { .. } => LogHealth::OutOfHandles,
            // Full, or something else that keeps it from taking writes, and passes.
            _ => LogHealth::Full,
        };
        let held = &mut self.known.lock().held;
        if now.severity() >= held.0.severity() || now_ns >= held.1 {
            *held = (now, now_ns.saturating_add(self.election_timeout_ns));
        }
        held.0
    }

    /// What this node tells its peers.
    pub(crate) fn own(
        &self,
        now_ns: u64,
        health: LogHealth,
        durable: Lsn,
        founding: Founding,
    ) -> NodeStatus {
        NodeStatus {
            health,
            oldest_unsynced_ms: self.oldest_age_ns(now_ns, durable) / NS_PER_MS,
            durable_lsn: durable.0,
            founding,
            feature_version: FEATURES.1,
        }
    }

    /// Whether the peers are to be told this now: it is news, or they were told so long ago.
    /// Whichever shard asks first tells them: one that is kept waiting does not keep the node
    /// silent.
    pub(super) fn must_tell(&self, now_ns: u64, own: NodeStatus, gap_ns: u64) -> bool {
        let told = &mut self.known.lock().told;
        let is_due = told.is_none_or(|(told, at_ns)| {
            let is_news = (told.health, told.founding) != (own.health, own.founding);
            is_news || now_ns >= at_ns.saturating_add(gap_ns)
        });
        if is_due {
            *told = Some((own, now_ns));
        }
        is_due
    }

    /// A peer says how it is. What a stranger says is of no interest.
    pub(super) fn note_status(&self, now_ns: u64, from: NodeId, status: NodeStatus) {
        if let Some(place) = self.place(from) {
            let mut known = self.known.lock();
            known.heard[place] = Some((status, now_ns));
            known.gone.retain(|gone| *gone != from);
        }
    }

    /// The connection to a peer ended.
    pub(crate) fn note_gone(&self, peer: NodeId) {
        let mut known = self.known.lock();
        if self.peers.contains(&peer) && !known.gone.contains(&peer) {
            known.gone.push(peer);
        }
    }

    /// Whether the connection to a peer ended and it has said nothing since: it need not be waited for.
    pub(super) fn is_gone(&self, peer: NodeId) -> bool {
        self.known.lock().gone.contains(&peer)
    }

    /// A peer wanted to deal with this node, and was turned away, as this node's disk does not take
    /// its news; or was not.
    pub(super) fn note_turned_away(&self, now_ns: u64, peer: NodeId, is_turned_away: bool) {
        if let Some(place) = self.place(peer) {
            self.known.lock().turned_away[place] = is_turned_away.then_some(now_ns);
        }
    }

    /// Whether a peer lives, as far as one knows, that this node cannot deal with for the time
    /// being, since its own disk does not take the peer's news.
    pub(super) fn turns_away(&self, now_ns: u64, peer: NodeId) -> bool {
        let counts_ns = self.patience_ns().max(TURNED_AWAY_NS_MIN);
        let place = self.place(peer);
        let at_ns = place.and_then(|place| self.known.lock().turned_away[place]);
        at_ns.is_some_and(|at_ns| now_ns < at_ns.saturating_add(counts_ns))
    }

    fn place(&self, peer: NodeId) -> Option<usize> {
        self.peers.iter().position(|it| *it == peer)
    }

    /// How long what a peer said counts. It tells again within half of that at the latest, however
    /// short this node's election timeout is.
    fn patience_ns(&self) -> u64 {
        let timeouts_ns = self.election_timeout_ns.saturating_mul(2);
        timeouts_ns.max(4 * TELL_GAP_NS_MIN)
    }

    /// What each peer said lately; `None` of one that said nothing for two election timeouts.
    pub(crate) fn heard(&self, now_ns: u64) -> Vec<(NodeId, Option<NodeStatus>)> {
        let known = self.known.lock();
        let patience_ns = self.patience_ns();
        let lately = known.heard.iter().map(|heard| {
            heard.and_then(|(status, at_ns)| {
                (now_ns < at_ns.saturating_add(patience_ns)).then_some(status)
            })
        });
        self.peers.iter().copied().zip(lately).collect()
    }

    /// The peers that said lately that they are healthier than this.
    pub(super) fn healthier(&self, now_ns: u64, than: LogHealth) -> Vec<NodeId> {
        let heard = self.heard(now_ns).into_iter();
        heard
            .filter(|(_, status)| status.is_some_and(|it| self.is_healthier(&it, than)))
            .map(|(peer, _)| peer)
            .collect()
    }

    /// The peers that said lately that they are sicker than this.
    pub(super) fn sicker(&self, now_ns: u64, than: LogHealth) -> Vec<NodeId> {
        let heard = self.heard(now_ns).into_iter();
        let is_sicker = |status: NodeStatus| status.health.severity() > than.severity();
        heard
            .filter(|(_, status)| status.is_some_and(is_sicker))
            .map(|(peer, _)| peer)
            .collect()
    }

    /// Where all disks stand still alike, the peers' news of it come a little later than one's own: a
    /// peer whose oldest write is old as well is no better. (What it said last, it said at most half an
    /// election timeout ago.)
    fn is_healthier(&self, status: &NodeStatus, than: LogHealth) -> bool {
        let age_ns = status.oldest_unsynced_ms.saturating_mul(NS_PER_MS);
        let is_prompt = age_ns < self.election_timeout_ns / 3;
        status.health.severity() < than.severity() && (than != LogHealth::Stalled || is_prompt)
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
    /// Which of the node's shards it is.
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
        let healthy = |now_ns, durable| board.judge(now_ns, &LogStatus::Healthy, Lsn(durable));
        assert_eq!(board.oldest_age_ns(1_000, Lsn(0)), 0);
        board.note_oldest(0, Some((900, Lsn(8))));
        board.note_oldest(1, Some((100, Lsn(5))));
        assert_eq!(board.oldest_age_ns(1_000, Lsn(4)), 900);
        assert_eq!(healthy(600, 4), LogHealth::Healthy);
        assert_eq!(healthy(601, 4), LogHealth::Stalled);
        board.note_oldest(1, None);
        assert_eq!(board.oldest_age_ns(1_000, Lsn(4)), 100);
    }

    /// A worker that is busy for long is no disk that stands still.
    #[test]
    fn a_write_that_is_durable_does_not_count_though_its_shard_has_not_heard_of_it() {
        let board = board();
        board.note_oldest(0, Some((100, Lsn(5))));
        assert_eq!(board.oldest_age_ns(1_000, Lsn(5)), 0);
        let health = board.judge(1_000, &LogStatus::Healthy, Lsn(5));
        assert_eq!(health, LogHealth::Healthy);
    }

    #[test]
    fn a_health_that_comes_and_goes_is_held_for_an_election_timeout() {
        let board = board();
        let judge = |now_ns, status| board.judge(now_ns, &status, Lsn(0));
        let failed = LogStatus::Failed {
            reason: String::new(),
        };
        assert_eq!(judge(0, LogStatus::Full), LogHealth::Full);
        assert_eq!(judge(499, LogStatus::Healthy), LogHealth::Full);
        // What is worse counts at once.
        assert_eq!(judge(499, failed), LogHealth::Failed);
        assert_eq!(judge(998, LogStatus::Full), LogHealth::Failed);
        assert_eq!(judge(999, LogStatus::Healthy), LogHealth::Healthy);
    }

    /// All disks stand still: the leader finds out first, and must not think that the others are better off.
    #[test]
    fn a_peer_whose_oldest_write_is_old_is_no_better_than_a_stalled_node() {
        let board = StatusBoard::new([NodeId(2), NodeId(3)], 1, 500 * NS_PER_MS);
        let says = |oldest_unsynced_ms| NodeStatus {
            oldest_unsynced_ms,
            ..NodeStatus::default()
        };
        board.note_status(0, NodeId(2), says(166));
        board.note_status(0, NodeId(3), says(167));
        assert_eq!(board.healthier(1, LogHealth::Stalled), [NodeId(2)]);
        assert_eq!(board.healthier(1, LogHealth::Full), [NodeId(2), NodeId(3)]);
    }

    #[test]
    fn what_a_peer_said_counts_for_two_election_timeouts() {
        let board = StatusBoard::new([NodeId(2), NodeId(3)], 2, TIMEOUT * NS_PER_MS);
        let healthier = |now_ms, than| board.healthier(now_ms * NS_PER_MS, than);
        let severity_of = |now_ms, node| board.severity_of(now_ms * NS_PER_MS, NodeId(node));
        assert_eq!(healthier(0, LogHealth::Failed), []);
        board.note_status(0, NodeId(2), says(LogHealth::Stalled));
        board.note_status(10 * NS_PER_MS, NodeId(3), says(LogHealth::Healthy));
        board.note_status(10 * NS_PER_MS, NodeId(4), says(LogHealth::Healthy));
        assert_eq!(healthier(999, LogHealth::Healthy), []);
        assert_eq!(healthier(999, LogHealth::Stalled), [NodeId(3)]);
        assert_eq!(healthier(999, LogHealth::Full), [NodeId(2), NodeId(3)]);
        assert_eq!(severity_of(999, 2), Some(1));
        assert_eq!(healthier(1_000, LogHealth::Full), [NodeId(3)]);
        assert_eq!(severity_of(1_000, 2), None);
        assert_eq!(healthier(1_010, LogHealth::Full), []);
    }

    /// Its peers tell it how they are no more often than they may.
    #[test]
    fn a_node_with_the_shortest_timeout_believes_its_peers_until_they_tell_again() {
        let board = StatusBoard::new([NodeId(2), NodeId(3)], 1, NS_PER_MS);
        board.note_status(0, NodeId(2), says(LogHealth::Healthy));
        let healthier = |now_ns| board.healthier(now_ns, LogHealth::Full);
        assert_eq!(healthier(2 * TELL_GAP_NS_MIN), [NodeId(2)]);
        assert_eq!(healthier(4 * TELL_GAP_NS_MIN), []);
    }

    #[test]
    fn the_shard_that_looks_first_tells_the_peers_for_all() {
        let board = board();
        let healthy = says(LogHealth::Healthy);
        assert!(board.must_tell(0, healthy, 250));
        assert!(!board.must_tell(249, healthy, 250));
        assert!(board.must_tell(250, healthy, 250));
        assert!(!board.must_tell(260, healthy, 250), "the other shard");
        assert!(board.must_tell(270, says(LogHealth::Full), 250), "news");
        assert!(!board.must_tell(280, says(LogHealth::Full), 250));
    }

    #[test]
    fn a_peer_counts_as_turned_away_until_it_is_dealt_with_or_has_not_tried_for_long() {
        let board = board();
        board.note_turned_away(10, NodeId(2), true);
        board.note_turned_away(10, NodeId(3), true);
        board.note_turned_away(10, NodeId(4), true);
        board.note_turned_away(20, NodeId(3), false);
        let turned_away = |now_ns| [2, 3, 4].map(|it| board.turns_away(now_ns, NodeId(it)));
        assert_eq!(turned_away(30), [true, false, false]);
        assert!(turned_away(TURNED_AWAY_NS_MIN + 9)[0]);
        assert!(!turned_away(TURNED_AWAY_NS_MIN + 10)[0]);
        board.note_turned_away(TURNED_AWAY_NS_MIN, NodeId(2), true);
        assert!(turned_away(TURNED_AWAY_NS_MIN + 10)[0]);
    }

    #[test]
    fn a_peer_whose_connection_ended_is_gone_until_it_says_something() {
        let board = board();
        assert!(!board.is_gone(NodeId(2)));
        board.note_gone(NodeId(2));
        board.note_gone(NodeId(2));
        board.note_gone(NodeId(9));
        assert!(board.is_gone(NodeId(2)) && !board.is_gone(NodeId(3)));
        assert!(!board.is_gone(NodeId(9)), "no peer");
        board.note_status(1, NodeId(2), says(LogHealth::Healthy));
        assert!(!board.is_gone(NodeId(2)));
    }

    #[test]
    fn a_majority_is_more_than_half_of_all_nodes() {
        for (nodes, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let board = StatusBoard::new((2..=nodes).map(NodeId), 1, TIMEOUT);
            assert_eq!(board.majority(), majority, "{nodes}");
        }
    }
}
