//! What a shard does about the health of logs: tells the peers how this node is, hands leadership
//! over when its log is sick, and leaves elections to healthier nodes.
//!
//! Only decides; the core knows nothing of health, and is told whom to hand over to and whether it
//! should lead. Nothing here needs this node's disk.

use quorate_kv::StateMachine;
use quorate_raft::{NodeId, Role};

use super::replica::Replica;
use super::shard::Shard;
use crate::mutants;
use crate::transport::{Frame, LogHealth};

/// Looks at the health, and frames to each peer, in the shortest election timeout of all members:
/// what a peer said counts for two of the listener's.
const LOOKS_PER_TIMEOUT: u64 = 2;

/// However short an election timeout a peer announces, for its sake nobody looks and tells more
/// often than this.
pub(super) const TELL_GAP_NS_MIN: u64 = 20_000_000;

/// The same while this node is sick and may have to hand over.
const LOOKS_PER_TIMEOUT_SICK: u64 = 8;

/// A hand-over that failed is tried again after two election timeouts, twice as long each time, up to
/// so many doublings.
const DOUBLINGS_MAX: u32 = 4;

/// What a shard remembers of its looks at the health.
#[derive(Debug)]
pub(super) struct Care {
    /// When the last look was.
    looked_ns: u64,
    /// When to look next, if not earlier for the sake of the peers.
    pub(super) due_ns: u64,
    /// Replicas were told not to lead.
    is_held_back: bool,
    /// The peers that replicas were told not to vote for.
    disfavoured: Vec<NodeId>,
    was_sick: bool,
}

impl Care {
    pub(super) fn new(now_ns: u64, timeout_ns: u64) -> Self {
        Self {
            looked_ns: now_ns,
            due_ns: now_ns.saturating_add(timeout_ns / LOOKS_PER_TIMEOUT),
            is_held_back: false,
            disfavoured: Vec::new(),
            was_sick: false,
        }
    }
}

/// How a leader's attempts to hand over went.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    /// The peer of the last attempt.
    tried: Option<NodeId>,
    failures: u32,
    next_ns: u64,
}

impl<M: StateMachine> Shard<M> {
    /// When [`tend`](Self::tend) wants to be called; a node without peers has nobody to tell.
    pub(super) fn tend_at_ns(&self) -> u64 {
        if self.ports.status.board.peers().is_empty() {
            return u64::MAX;
        }
        // A peer that is met later may announce a shorter election timeout.
        let tell_at_ns = self.care.looked_ns.saturating_add(self.tell_gap_ns());
        self.care.due_ns.min(tell_at_ns)
    }

    /// How long the peers go without being told anything.
    fn tell_gap_ns(&self) -> u64 {
        let own_ns = self.ports.status.board.election_timeout_ns();
        tell_gap_ns(own_ns, self.ports.limits.shortest_timeout_ns())
    }

    /// Looks at this node's health and does what follows from it.
    pub(super) fn tend(&mut self, now_ns: u64) {
        let board = self.ports.status.board.clone();
        let timeout_ns = board.election_timeout_ns();
        // The log may be further than this shard was told.
        self.release(now_ns, self.ports.log.durable());
        let health = board.health(now_ns, &self.ports.log);
        self.tell_peers(now_ns, health);
        self.hold_back(!board.healthier(now_ns, health).is_empty() || self.moves.is_leaving());
        self.disfavour(board.sicker(now_ns, health));
        if health.is_sick() {
            self.hand_over(now_ns, health);
        } else if self.care.was_sick {
            for replica in &mut self.replicas {
                replica.hand_over = HandOver::default();
            }
        }
        self.care.was_sick = health.is_sick();

        let looks = if health.is_sick() {
            LOOKS_PER_TIMEOUT_SICK
        } else {
            LOOKS_PER_TIMEOUT
        };
        self.care.looked_ns = now_ns;
        let mut due_ns = now_ns.saturating_add((timeout_ns / looks).max(1));
        if let (Some((since_ns, _)), false) = (self.oldest(), health.is_sick()) {
            due_ns = due_ns.min(since_ns.saturating_add(timeout_ns + 1));
        }
        self.care.due_ns = due_ns;
    }

    /// Speaks for the node, if no other shard has just done so: when something changes, and every
    /// now and then.
    fn tell_peers(&self, now_ns: u64, health: LogHealth) {
        let board = &self.ports.status.board;
        let founding = self.ports.membership.founding();
        let durable = self.ports.log.durable();
        let own = board.own(now_ns, health, durable, founding);
        if !board.must_tell(now_ns, own, self.tell_gap_ns()) {
            return;
        }
        for &peer in board.peers() {
            // One that is lost is told again.
            self.ports.transport.send(peer, Frame::Status(own));
        }
    }

    /// While others are healthier, or this node is about to stop, they should lead.
    pub(super) fn hold_back(&mut self, is_held_back: bool) {
        if is_held_back == self.care.is_held_back {
            return;
        }
        self.care.is_held_back = is_held_back;
        for replica in &mut self.replicas {
            replica.raft.set_may_lead(!is_held_back);
        }
    }

    /// Peers that are sicker should not lead.
    fn disfavour(&mut self, sicker: Vec<NodeId>) {
        if sicker == self.care.disfavoured {
            return;
        }
        for replica in &mut self.replicas {
            replica.raft.set_disfavoured(&sicker);
        }
        self.care.disfavoured = sicker;
    }

    /// Hands the groups that this node leads to healthier peers, if so many may be healthier that they
    /// need no other disk; else the leader stays, as no other one could do more.
    fn hand_over(&mut self, now_ns: u64, health: LogHealth) {
        let board = self.ports.status.board.clone();
        let healthier = board.healthier(now_ns, health);
        // Who was started again while this node's disk takes no news cannot speak to this node, but to the others.
        let is_unheard =
            |peer: &&NodeId| !healthier.contains(*peer) && board.turns_away(now_ns, **peer);
        let unheard = board.peers().iter().filter(is_unheard).count();
        if healthier.len() + unheard < board.majority() || mutants::SICK_LEADER_STAYS {
            return;
        }
        let wait_ns = board.election_timeout_ns().saturating_mul(2);
        let healthier: Vec<(NodeId, u8)> = healthier
            .into_iter()
            .map(|peer| (peer, board.severity_of(now_ns, peer).unwrap_or(0)))
            .collect();
        for slot in 0..self.replicas.len() {
            if self.replicas[slot].hand_over(now_ns, wait_ns, &healthier) {
                self.mark_ready(slot);
            }
        }
    }

    /// Whom to hand a group over to; one that says nothing of its health is taken for healthy.
    pub(super) fn successor(&self, now_ns: u64, slot: usize) -> Option<NodeId> {
        let board = &self.ports.status.board;
        let is_there = |peer: &NodeId| !board.is_gone(*peer);
        let severity = |peer| {
            Some(peer)
                .filter(is_there)
                .map(|peer| board.severity_of(now_ns, peer).unwrap_or(0))
        };
        let best = self.replicas[slot].raft.successor(severity);
        best.map(|peer| peer.id)
    }

    pub(super) fn own_health(&self, now_ns: u64) -> LogHealth {
        self.ports.status.board.health(now_ns, &self.ports.log)
    }
}

/// How often peers are told: as often as they believe what they are told. No more than that for a
/// peer's sake, though.
fn tell_gap_ns(own_timeout_ns: u64, shortest_timeout_ns: u64) -> u64 {
    let asked_ns = (shortest_timeout_ns / LOOKS_PER_TIMEOUT).max(TELL_GAP_NS_MIN);
    (own_timeout_ns / LOOKS_PER_TIMEOUT).min(asked_ns).max(1)
}

impl<M: StateMachine> Replica<M> {
    /// Tries to hand over to one of these, of which the severity is known, if it leads and the last
    /// attempt is long enough ago. Returns whether something was begun.
    fn hand_over(&mut self, now_ns: u64, wait_ns: u64, healthier: &[(NodeId, u8)]) -> bool {
        if self.raft.role() != Role::Leader {
            self.hand_over = HandOver::default();
            return false;
        }
        if now_ns < self.hand_over.next_ns {
            return false;
        }
        let Some(to) = self.best_of(healthier) else {
            return false;
        };
        if self.raft.transfer(now_ns, Some(to)).is_err() {
            return false;
        }
        let HandOver {
            tried,
            failures,
            next_ns,
        } = &mut self.hand_over;
        *next_ns = now_ns.saturating_add(wait_ns << (*failures).min(DOUBLINGS_MAX));
        *failures = failures.saturating_add(1);
        *tried = Some(to);
        true
    }

    /// Whom of these to hand over to: one that has what is committed. One that was tried in vain
    /// comes last. A peer that knows of a healthier one does not stand.
    fn best_of(&self, healthier: &[(NodeId, u8)]) -> Option<NodeId> {
        let rank = |peer| {
            let (_, severity) = healthier.iter().find(|(id, _)| *id == peer)?;
            Some((Some(peer) == self.hand_over.tried, *severity))
        };
        let best = self.raft.successor(rank);
        let best = best.filter(|peer| peer.match_index >= self.raft.commit());
        best.map(|peer| peer.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A member that announces next to nothing must not have the others do nothing but tell it how
    /// they are.
    #[test]
    fn peers_are_told_as_often_as_the_most_impatient_one_forgets_within_bounds() {
        assert_eq!(tell_gap_ns(500 * MS, 500 * MS), 250 * MS);
        assert_eq!(tell_gap_ns(5_000 * MS, 500 * MS), 250 * MS);
        assert_eq!(tell_gap_ns(500 * MS, u64::MAX), 250 * MS);
        assert_eq!(tell_gap_ns(5_000 * MS, 1), TELL_GAP_NS_MIN);
        assert_eq!(tell_gap_ns(10 * MS, 10 * MS), 5 * MS, "its own affair");
        assert_eq!(tell_gap_ns(0, 0), 1);
    }
}
