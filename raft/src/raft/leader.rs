//! What a leader does: learns how far its followers are, commits, confirms reads, keeps its lease,
//! hands over.
//!
//! Invariants:
//! - the leader counts its own entries only as far as they are durable;
//! - only an entry of its own term is committed by counting (section 5.4.2);
//! - once `TimeoutNow` has left, no lease is held for the rest of the term: that message may arrive
//!   at any time later, and the election it starts does not wait for anybody's lease.

use super::{NUMBER_MAX, Raft, Standing};
use crate::error::TransferError;
use crate::ids::{LogIndex, NodeId, Round, Term};
use crate::message::{Body, Entry, EntryKind};
use crate::mutants;
use crate::progress::Progress;
use crate::reads::Reads;
use crate::rejection::RejectionReason;
use crate::rounds::RoundClock;

/// A commit index that no append carries to the followers is told to them after this part of a
/// heartbeat interval.
const COMMIT_NOTICE_DIVISOR: u64 = 4;

/// A leader's books, for one term.
#[derive(Debug)]
pub(super) struct Leadership {
    /// All other voters, ascending by id.
    pub(super) peers: Vec<Progress>,
    pub(super) rounds: RoundClock,
    pub(super) reads: Reads,
    /// This term's first entry: once it is committed, all inherited entries are.
    pub(super) term_start: LogIndex,
    /// Bytes of this term's entries that have not come out of an output as committed.
    pub(super) uncommitted_bytes: usize,
    /// When the newest round that a quorum answered was sent.
    pub(super) lease_start_ns: Option<u64>,
    pub(super) transfer: Option<Transfer>,
    /// `TimeoutNow` left in this term.
    is_lease_lost: bool,
    /// Something may be sent to some peer.
    pub(super) must_send: bool,
    heartbeat_due_ns: u64,
    notice_due_ns: u64,
    quorum_check_due_ns: u64,
}

/// Leadership being handed over.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) deadline_ns: u64,
    pub(super) is_asked: bool,
}

impl Leadership {
    pub(super) fn peer(&self, id: NodeId) -> Option<&Progress> {
        self.peers
            .binary_search_by_key(&id, |peer| peer.id)
            .ok()
            .map(|at| &self.peers[at])
    }

    pub(super) fn peer_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.peers
            .binary_search_by_key(&id, |peer| peer.id)
            .ok()
            .map(|at| &mut self.peers[at])
    }

    pub(super) fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    pub(super) fn may_lease(&self) -> bool {
        mutants::LEASE_SURVIVES_TRANSFER || (self.transfer.is_none() && !self.is_lease_lost)
    }

    /// What a peer has of some number; the leader itself has `own`.
    fn value_of(&self, node: NodeId, own: u64, of_peer: impl Fn(&Progress) -> u64) -> u64 {
        self.peer(node).map_or(own, of_peer)
    }
}

impl Raft {
    pub(super) fn become_leader(&mut self) {
        assert!(
            matches!(self.standing, Standing::Candidate(_)),
            "only who was elected leads"
        );
        assert_eq!(
            self.durability.term(),
            self.term,
            "a leader's own vote is durable"
        );
        let term_start = self.log.last().next();
        let others = self.other_voters().into_iter();
        let mut lead = Leadership {
            peers: others
                .map(|voter| Progress::new(voter, term_start, self.now_ns))
                .collect(),
            rounds: RoundClock::default(),
            reads: Reads::default(),
            term_start,
            uncommitted_bytes: Entry::OVERHEAD_BYTES,
            lease_start_ns: None,
            transfer: None,
            is_lease_lost: false,
            must_send: true,
            heartbeat_due_ns: self
                .now_ns
                .saturating_add(self.options.heartbeat_interval_ns),
            notice_due_ns: u64::MAX,
            quorum_check_due_ns: self.now_ns.saturating_add(self.options.election_timeout_ns),
        };
        // The first appends carry round 1, so that the first answers earn a lease.
        lead.rounds.begin(self.now_ns);
        self.standing = Standing::Leader(Box::new(lead));
        self.leader = Some(self.id);
        let noop = Entry {
            index: term_start,
            term: self.term,
            kind: EntryKind::Noop,
            data: bytes::Bytes::new(),
        };
        self.log.push(noop);
    }

    /// An answer of a follower.
    pub(super) fn on_follower_message(&mut self, from: NodeId, term: Term, body: &Body) {
        if term > self.term {
            self.become_follower(term, None);
            return;
        }
        // An answer to an earlier term says nothing about this one.
        let is_old = term < self.term && !mutants::COUNTS_OLD_ANSWERS;
        if is_old || !matches!(self.standing, Standing::Leader(_)) {
            return;
        }
        match *body {
            Body::AppendAccepted { match_index, round } => {
                self.on_accepted(from, match_index, round);
            }
            Body::AppendRejected {
                prev_index,
                hint_index,
                hint_term,
                round,
            } => {
                self.on_rejected(from, prev_index, hint_index, hint_term, round);
            }
            Body::HeartbeatReply { round } => self.on_heartbeat_reply(from, round),
            _ => unreachable!("only followers' messages are handed here"),
        }
    }

    fn on_accepted(&mut self, from: NodeId, match_index: LogIndex, round: Round) {
        if !self.note_heard(from, round) {
            return;
        }
        let last = self.log.last();
        if match_index > last {
            let accepted = match_index;
            self.note_rejected(from, RejectionReason::AcceptedBeyondLog { accepted, last });
            return;
        }
        let (anchor, now_ns) = (self.log.anchor(), self.now_ns);
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        lead.must_send = true;
        let Some(peer) = lead.peer_mut(from) else {
            return;
        };
        let is_news = peer.accepted(match_index, anchor, now_ns);
        if is_news {
            self.advance_commit();
        }
        self.note_round(round);
    }

    fn on_rejected(
        &mut self,
        from: NodeId,
        prev_index: LogIndex,
        hint_index: LogIndex,
        hint_term: Term,
        round: Round,
    ) {
        if !self.note_heard(from, round) {
            return;
        }
        let vouches_for_nothing = hint_index == LogIndex::ZERO && hint_term == Term::ZERO;
        // The last place at which this log is not beyond the follower's hint in index or term:
        // nothing behind it can agree (end of section 5.3).
        let hint_index = hint_index.min(self.log.last());
        let (anchor, now_ns) = (self.log.anchor(), self.now_ns);
        let agree = self
            .log
            .last_at_most(hint_index, hint_term)
            .unwrap_or(hint_index.min(anchor.previous()));
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        let Some(peer) = lead.peer_mut(from) else {
            return;
        };
        // It has accepted this, and vouches for nothing now.
        peer.is_aside |= vouches_for_nothing && prev_index <= peer.match_index;
        let must_send = if vouches_for_nothing && peer.has_known(prev_index) {
            peer.vouches_for_nothing()
        } else {
            peer.rejected(prev_index, agree, anchor, &self.options, now_ns)
        };
        lead.must_send |= must_send;
        self.note_round(round);
    }

    fn on_heartbeat_reply(&mut self, from: NodeId, round: Round) {
        if !self.note_heard(from, round) {
            return;
        }
        let now_ns = self.now_ns;
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        let Some(peer) = lead.peer_mut(from) else {
            return;
        };
        if peer.heartbeat_answered(now_ns, &self.options) {
            lead.must_send = true;
        }
        self.note_round(round);
    }

    /// A follower lives and answered `round`. Returns false if that round was never begun.
    fn note_heard(&mut self, from: NodeId, round: Round) -> bool {
        let now_ns = self.now_ns;
        let Standing::Leader(lead) = &mut self.standing else {
            return false;
        };
        if round > lead.rounds.newest() {
            self.note_rejected(from, RejectionReason::UnknownRound);
            return false;
        }
        let mut round = round;
        if mutants::OLD_ANSWERS_CONFIRM_READS {
            round = lead.rounds.newest();
        }
        let mut sent_ns = lead.rounds.sent_ns(round).unwrap_or(0);
        if mutants::LEASE_FROM_ANSWER && sent_ns > 0 {
            sent_ns = now_ns;
        }
        let Some(peer) = lead.peer_mut(from) else {
            return false;
        };
        peer.heard_ns = now_ns;
        peer.acked_round = peer.acked_round.max(round);
        peer.acked_sent_ns = peer.acked_sent_ns.max(sent_ns);
        true
    }

    /// Sees which round a quorum has answered by now: that confirms the reads that came before it
    /// was sent, and renews the lease from when it was sent.
    fn note_round(&mut self, answered: Round) {
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        if answered == Round::ZERO {
            return;
        }
        let newest = lead.rounds.newest();
        let confirmed = Round(
            self.quorum
                .reached(|node| lead.value_of(node, newest.0, |peer| peer.acked_round.0)),
        );
        lead.reads.confirm(confirmed, &mut self.reads_ready);
        let start_ns = self
            .quorum
            .reached(|node| lead.value_of(node, u64::MAX, |peer| peer.acked_sent_ns));
        if start_ns > 0 && start_ns < u64::MAX {
            lead.lease_start_ns = lead.lease_start_ns.max(Some(start_ns));
        }
        lead.rounds.forget_before(confirmed);
    }

    /// Commits what a quorum has on disk, if that includes an entry of this term: an older entry
    /// could still be overwritten although a majority has it (figure 3.7 of the thesis).
    pub(super) fn advance_commit(&mut self) {
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        let own = if mutants::COUNTS_ITSELF_EARLY {
            self.log.last().0
        } else {
            self.durability.index().0
        };
        let reached = LogIndex(
            self.quorum
                .reached(|node| lead.value_of(node, own, |peer| peer.match_index.0)),
        );
        if reached <= self.commit || (reached < lead.term_start && !mutants::COMMITS_OLD_TERMS) {
            return;
        }
        assert!(
            reached <= self.log.last(),
            "only entries of this log are counted"
        );
        debug_assert_eq!(self.log.term_at(reached), Some(self.term));
        self.commit = reached;
        let notice_ns = self.options.heartbeat_interval_ns / COMMIT_NOTICE_DIVISOR;
        lead.notice_due_ns = lead
            .notice_due_ns
            .min(self.now_ns.saturating_add(notice_ns));
    }

    pub(super) fn leader_deadline_ns(&self, lead: &Leadership) -> u64 {
        if lead.peers.is_empty() {
            // Alone there is nobody to tell; only a commit index may have to be written.
            return if self.commit > self.hard_handed.commit {
                lead.heartbeat_due_ns
            } else {
                u64::MAX
            };
        }
        let transfer_ns = lead
            .transfer
            .as_ref()
            .map_or(u64::MAX, |transfer| transfer.deadline_ns);
        lead.heartbeat_due_ns
            .min(lead.notice_due_ns)
            .min(lead.quorum_check_due_ns)
            .min(transfer_ns)
    }

    pub(super) fn tick_leader(&mut self) {
        let now_ns = self.now_ns;
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        if now_ns >= lead.quorum_check_due_ns {
            let mut heard_ns = self
                .quorum
                .reached(|node| lead.value_of(node, now_ns, |peer| peer.heard_ns));
            if mutants::LEADS_WITHOUT_QUORUM {
                heard_ns = now_ns;
            }
            let due_ns = heard_ns.saturating_add(self.options.election_timeout_ns);
            if now_ns >= due_ns {
                // CheckQuorum: clients should look for the leader that the others may have by now.
                self.become_follower(self.term, None);
                return;
            }
            lead.quorum_check_due_ns = due_ns;
        }
        if let Some(transfer) = &mut lead.transfer {
            if now_ns >= transfer.deadline_ns {
                lead.transfer = None;
            } else if now_ns >= lead.heartbeat_due_ns {
                // The request may have got lost.
                transfer.is_asked = false;
                lead.must_send = true;
            }
        }
        if now_ns >= lead.heartbeat_due_ns {
            lead.heartbeat_due_ns = now_ns.saturating_add(self.options.heartbeat_interval_ns);
            self.begin_round();
        } else if now_ns >= lead.notice_due_ns {
            self.tell_commit();
        }
    }

    /// Begins a round of heartbeats to all.
    pub(super) fn begin_round(&mut self) -> Round {
        let Standing::Leader(lead) = &mut self.standing else {
            return Round::ZERO;
        };
        lead.notice_due_ns = u64::MAX;
        let round = lead.rounds.begin(self.now_ns);
        debug_assert!(round.0 <= NUMBER_MAX);
        for peer in &mut lead.peers {
            // No further than what the follower is known to hold: its log behind that may not be
            // this one.
            let mut commit = self.commit.min(peer.match_index);
            if mutants::HEARTBEAT_COMMITS_UNMATCHED {
                commit = self.commit;
            }
            peer.commit_told = peer.commit_told.max(commit);
            let body = Body::Heartbeat { commit, round };
            self.outbox.push(crate::Message {
                from: self.id,
                to: peer.id,
                term: self.term,
                body,
            });
        }
        round
    }

    /// Tells the commit index to those who do not know it yet.
    fn tell_commit(&mut self) {
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        lead.notice_due_ns = u64::MAX;
        let round = lead.rounds.newest();
        for peer in &mut lead.peers {
            let commit = self.commit.min(peer.match_index);
            if commit > peer.commit_told {
                peer.commit_told = commit;
                let body = Body::Heartbeat { commit, round };
                self.outbox.push(crate::Message {
                    from: self.id,
                    to: peer.id,
                    term: self.term,
                    body,
                });
            }
        }
    }

    pub(super) fn begin_transfer(&mut self, to: Option<NodeId>) -> Result<(), TransferError> {
        let now_ns = self.now_ns;
        let disfavoured = &self.preference.disfavoured;
        let best = self.successor(|peer| Some(disfavoured.contains(&peer)));
        let Standing::Leader(lead) = &mut self.standing else {
            return Err(TransferError::NotLeader {
                leader: self.leader,
            });
        };
        if let Some(transfer) = &lead.transfer {
            return if to.is_none_or(|to| to == transfer.to) {
                Ok(())
            } else {
                Err(TransferError::InProgress { to: transfer.to })
            };
        }
        let to = if let Some(to) = to {
            lead.peer(to).ok_or(TransferError::NotAVoter { to })?.id
        } else {
            best.ok_or(TransferError::NobodyThere)?.id
        };
        let deadline_ns = now_ns.saturating_add(self.options.election_timeout_ns);
        lead.transfer = Some(Transfer {
            to,
            deadline_ns,
            is_asked: false,
        });
        lead.must_send = true;
        Ok(())
    }

    /// Asks the target of a transfer to stand once it has the whole log.
    pub(super) fn ask_successor(&mut self) {
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        let Some(transfer) = &mut lead.transfer else {
            return;
        };
        let to = transfer.to;
        let has_all = lead
            .peers
            .iter()
            .any(|peer| peer.id == to && peer.match_index == self.log.last());
        if has_all && !transfer.is_asked {
            transfer.is_asked = true;
            lead.is_lease_lost = true;
            self.send(to, self.term, Body::TimeoutNow);
        }
    }
}
