//! Leadership that is handed over because somebody asked for it, or because the node is about to stop.
//!
//! Invariants:
//! - Whoever asked hears exactly once how it ended, at the latest two election timeouts later, unless the
//!   shard stops before.
//! - A node that is about to stop waits for a group only while a majority of the others may have a leader
//!   without it.

use quorate_kv::StateMachine;
use quorate_raft::{NodeId, Role, TransferError as Refused};

use super::event::Told;
use super::shard::Shard;
use crate::error::{Error, TransferError};

/// How many callers may wait for hand-overs of the groups of one shard.
pub(super) const MOVES_MAX: usize = 64;

/// A hand-over that was asked for is over after so many election timeouts: one until the core gives it
/// up, and one for whoever was elected to be heard of.
const TIMEOUTS_MAX: u64 = 2;

/// Hand-overs that are under way.
#[derive(Default)]
pub(super) struct Moves {
    asked: Vec<Asked>,
    leaving: Option<Leaving>,
}

/// Somebody waits to hear who leads.
struct Asked {
    slot: usize,
    to: NodeId,
    /// The caller named that node, and wants no other.
    is_named: bool,
    since_ns: u64,
    until_ns: u64,
    told: Told<Result<NodeId, Error>>,
}

/// The node is about to stop.
struct Leaving {
    /// Groups that it led and that have no other leader yet, as far as known here.
    slots: Vec<usize>,
    told: Option<Told<()>>,
}

impl Moves {
    /// When to look at the latest.
    pub(super) fn due_ns(&self) -> u64 {
        let due = self.asked.iter().map(|asked| asked.until_ns);
        due.min().unwrap_or(u64::MAX)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}

impl<M: StateMachine> Shard<M> {
    /// Hands a group over because somebody asked for it: to the peer named, or to the best one.
    pub(super) fn transfer(
        &mut self,
        now_ns: u64,
        slot: usize,
        to: Option<NodeId>,
        told: Option<Told<Result<NodeId, Error>>>,
    ) {
        let begun = match self.moves.asked.len() {
            outstanding @ MOVES_MAX.. => Err(Error::Busy { outstanding }),
            _ => self
                .begin_transfer(now_ns, slot, to)
                .map_err(Error::Transfer),
        };
        match (begun, told) {
            // It leads already.
            (Ok(None), Some(told)) => told(Ok(self.replicas[slot].raft.id())),
            (Ok(Some(taker)), Some(told)) => {
                let timeout_ns = self.ports.status.board.election_timeout_ns();
                let wait_ns = timeout_ns.saturating_mul(TIMEOUTS_MAX);
                self.moves.asked.push(Asked {
                    slot,
                    to: taker,
                    is_named: to.is_some(),
                    since_ns: now_ns,
                    until_ns: now_ns.saturating_add(wait_ns),
                    told,
                });
            }
            (Err(error), Some(told)) => told(Err(error)),
            (_, None) => {}
        }
    }

    /// Who is to take over; `None`: this node, which leads already.
    fn begin_transfer(
        &mut self,
        now_ns: u64,
        slot: usize,
        to: Option<NodeId>,
    ) -> Result<Option<NodeId>, TransferError> {
        let raft = &self.replicas[slot].raft;
        if raft.role() != Role::Leader {
            let leader = raft.leader();
            return Err(TransferError::NotLeader { leader });
        }
        if to == Some(raft.id()) {
            return Ok(None);
        }
        if let Some(to) = to
            && !raft.peers().any(|peer| peer.id == to)
        {
            return Err(TransferError::UnknownNode { to });
        }
        let to = to.or_else(|| self.successor(now_ns, slot));
        let to = to.ok_or(TransferError::NobodyThere)?;
        let own = self.own_health(now_ns).severity();
        let theirs = self.ports.status.board.severity_of(now_ns, to);
        if theirs.is_some_and(|theirs| theirs > own) {
            return Err(TransferError::Sick { to });
        }
        let begun = self.replicas[slot].raft.transfer(now_ns, Some(to));
        self.mark_ready(slot);
        begun.map_err(|refused| match refused {
            Refused::NotLeader { leader } => TransferError::NotLeader { leader },
            Refused::InProgress { to } => TransferError::InProgress { to },
            Refused::NotAVoter { to } => TransferError::UnknownNode { to },
            _ => TransferError::NobodyThere,
        })?;
        Ok(Some(to))
    }

    /// The node is about to stop: hands over all groups that it leads, and tells when there is nothing
    /// to wait for any more.
    pub(super) fn leave(&mut self, now_ns: u64, told: Told<()>) {
        let leads = |&slot: &usize| self.replicas[slot].raft.role() == Role::Leader;
        let slots = (0..self.replicas.len()).filter(leads).collect();
        self.moves.leaving = Some(Leaving {
            slots,
            told: Some(told),
        });
        // It must not be handed back what it gives away.
        self.hold_back(true);
        self.look_at_moves(now_ns);
    }

    /// Looks how hand-overs stand: after each pass, and when one is over its time.
    pub(super) fn look_at_moves(&mut self, now_ns: u64) {
        if !self.moves.asked.is_empty() {
            self.answer_asked(now_ns);
        }
        if self.moves.leaving.is_some() {
            self.go_on_leaving(now_ns);
        }
    }

    fn answer_asked(&mut self, now_ns: u64) {
        let mut waiting = Vec::new();
        for asked in std::mem::take(&mut self.moves.asked) {
            match self.outcome(now_ns, &asked) {
                Some(outcome) => (asked.told)(outcome.map_err(Error::Transfer)),
                None => waiting.push(asked),
            }
        }
        self.moves.asked = waiting;
    }

    /// How a hand-over ended, if it did.
    fn outcome(&self, now_ns: u64, asked: &Asked) -> Option<Result<NodeId, TransferError>> {
        let raft = &self.replicas[asked.slot].raft;
        let is_under_way = raft.role() != Role::Leader || raft.transferring_to() == Some(asked.to);
        match raft.leader().filter(|&leader| leader != raft.id()) {
            Some(leader) if leader == asked.to || !asked.is_named => Some(Ok(leader)),
            Some(leader) => Some(Err(TransferError::TakenByOther { leader })),
            None if is_under_way && now_ns < asked.until_ns => None,
            None => Some(Err(TransferError::NotTaken {
                to: asked.to,
                after_ms: now_ns.saturating_sub(asked.since_ns) / 1_000_000,
            })),
        }
    }

    fn go_on_leaving(&mut self, now_ns: u64) {
        let Some(mut leaving) = self.moves.leaving.take() else {
            return;
        };
        leaving
            .slots
            .retain(|&slot| self.is_to_be_left(now_ns, slot));
        if leaving.slots.is_empty()
            && let Some(told) = leaving.told.take()
        {
            told(());
        }
        self.moves.leaving = Some(leaving);
    }

    /// Whether it is worth waiting for another leader of a group; has it elected if nothing was done about
    /// that yet.
    fn is_to_be_left(&mut self, now_ns: u64, slot: usize) -> bool {
        let raft = &self.replicas[slot].raft;
        if raft.role() != Role::Leader {
            return raft.leader().is_none();
        }
        if raft.transferring_to().is_some() {
            return true;
        }
        let board = &self.ports.status.board;
        let is_there = |peer: &quorate_raft::PeerStatus| peer.is_active && !board.is_gone(peer.id);
        let there = raft.peers().filter(is_there).count();
        // The others must be a majority without this node, or nothing is served after it has stopped.
        if there < board.majority() {
            return false;
        }
        let Some(to) = self.successor(now_ns, slot) else {
            return false;
        };
        let begun = self.replicas[slot].raft.transfer(now_ns, Some(to));
        self.mark_ready(slot);
        begun.is_ok()
    }
}
