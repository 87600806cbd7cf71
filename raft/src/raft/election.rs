//! Elections (section 5.2), with a question beforehand (thesis 9.6) and by request of the old
//! leader (thesis 3.10).
//!
//! Invariants:
//! - the vote is cleared only when the term rises;
//! - a vote counts, the candidate's own included, and a request for one leaves, only when the term
//!   and vote are durable;
//! - no vote is given, and no candidacy begun, within an election timeout of hearing a leader,
//!   unless that leader asked for it: this is what leases rest on.

use super::{NUMBER_MAX, Raft, Standing};
use crate::ids::{LogIndex, NodeId, PersistSeq, Term};
use crate::message::Body;
use crate::mutants;
use crate::quorum::Tally;

/// The answers to one candidacy.
#[derive(Debug, Default)]
pub(super) struct Votes {
    /// Each voter's first answer, the candidate's own included; at most one for each voter.
    answers: Vec<(NodeId, bool)>,
    /// The write that makes the candidate's vote for itself durable; only then does it count.
    own_vote_seq: Option<PersistSeq>,
}

impl Votes {
    /// The first answer counts; a voter does not change its mind in a term.
    fn record(&mut self, from: NodeId, granted: bool) {
        if self.answers.iter().all(|&(node, _)| node != from) {
            self.answers.push((from, granted));
        }
    }

    fn of(&self, node: NodeId) -> Option<bool> {
        self.answers
            .iter()
            .find(|&&(answered, _)| answered == node)
            .map(|&(_, granted)| granted)
    }
}

/// Elections in a row that a replica leaves to others that should lead rather than it: enough that
/// one of them wins if any can, few enough that a group is not without a leader for long if none
/// can.
const ABSTENTIONS_MAX: u32 = 4;

impl Raft {
    /// Lets an election pass to others that should lead, if this replica should not. The leader is
    /// gone all the same.
    pub(super) fn abstains(&mut self) -> bool {
        if self.may_lead || self.abstained >= ABSTENTIONS_MAX {
            return false;
        }
        self.abstained += 1;
        self.become_follower(self.term, None);
        true
    }

    /// Whether this replica should lead rather than a candidate, and can: with the same log it wins
    /// where that one would. Not for ever: something else may keep it from winning.
    fn stands_rather_than(
        &mut self,
        candidate: NodeId,
        last_index: LogIndex,
        last_term: Term,
    ) -> bool {
        let is_better = self.disfavoured.contains(&candidate)
            && self.may_lead
            && self.may_campaign()
            && (last_index, last_term) == (self.log.last(), self.log.last_term());
        if !is_better || self.disfavours >= ABSTENTIONS_MAX {
            return false;
        }
        self.disfavours += 1;
        true
    }

    /// Becomes a follower. Who led or stood gives up; reads that a leader has not confirmed fail.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "terms never go back");
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.durability.forget_held();
        } else if mutants::FORGETS_VOTE_IN_TERM {
            self.vote = None;
        }
        let was = std::mem::replace(&mut self.standing, Standing::Follower);
        if let Standing::Leader(mut lead) = was {
            lead.reads.fail(&mut self.reads_failed);
            self.draw_election_deadline();
        }
        self.leader = leader;
    }

    /// Stands for election: first asks whether it could be won, unless the old leader asked for the
    /// election or there is nobody to ask.
    pub(super) fn begin_election(&mut self, transfer: bool) {
        if !self.may_campaign() || matches!(self.standing, Standing::Leader(_)) {
            return;
        }
        if transfer || self.quorum.is_only(self.id) || mutants::SKIPS_PRE_VOTE {
            self.become_candidate(transfer);
            return;
        }
        let mut votes = Votes::default();
        votes.record(self.id, true);
        self.standing = Standing::PreCandidate(votes);
        self.leader = None;
        // Asking promises nothing, so it waits for no disk, not even for a term just learnt:
        // whoever hears of that term learns what is true.
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        for voter in self.other_voters() {
            self.send(
                voter,
                self.term.next(),
                Body::PreVote {
                    last_index,
                    last_term,
                },
            );
        }
    }

    fn become_candidate(&mut self, transfer: bool) {
        self.become_follower(self.term.next(), None);
        self.vote = Some(self.id);
        let own_vote_seq = Some(self.durability.barrier(true));
        self.standing = Standing::Candidate(Votes {
            answers: Vec::new(),
            own_vote_seq,
        });
        // A candidate that asked before its own vote is durable could, after a crash, vote for
        // another in the same term, and both could win.
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        for voter in self.other_voters() {
            self.promise(
                voter,
                Body::Vote {
                    last_index,
                    last_term,
                    transfer,
                },
            );
        }
    }

    pub(super) fn on_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
    ) {
        if !self.can_lead {
            return;
        }
        let is_covered = self.log.is_covered_by(last_index, last_term);
        if !self.may_lead && !is_covered && !self.hears_leader() {
            // It is left the election, and lacks what it takes to win.
            self.abstained = self.abstained.saturating_add(1);
        }
        let may_be_granted = term > self.term && !self.hears_leader() && is_covered;
        let granted = may_be_granted && !self.stands_rather_than(from, last_index, last_term);
        // A granted reply names the term asked about. A refusal names the present one, for a
        // candidate that is behind; that this term may not be durable here yet harms nobody, as no
        // vote is tied to it.
        let reply_term = if granted { term } else { self.term };
        self.send(from, reply_term, Body::PreVoteReply { granted });
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        if !granted && term > self.term {
            self.become_follower(term, None);
            return;
        }
        let expected = if granted { self.term.next() } else { self.term };
        if let Standing::PreCandidate(votes) = &mut self.standing
            && term == expected
        {
            votes.record(from, granted);
            self.count_votes();
        }
    }

    pub(super) fn on_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
        transfer: bool,
    ) {
        if !self.can_lead {
            return;
        }
        if term < self.term {
            self.send(from, self.term, Body::VoteReply { granted: false });
            return;
        }
        // Not even the term is taken over: a node cut off for a while must not depose a leader that
        // a quorum hears (thesis 4.2.3).
        if !transfer && self.hears_leader() && !mutants::VOTES_WHILE_HEARING_LEADER {
            return;
        }
        if term > self.term {
            self.become_follower(term, None);
        }
        let is_free = self.vote.is_none() && self.leader.is_none();
        let may_grant = self.vote == Some(from) || is_free;
        if may_grant && self.log.is_covered_by(last_index, last_term) {
            self.vote = Some(from);
            self.draw_election_deadline();
            let reply = Body::VoteReply { granted: true };
            if mutants::VOTES_BEFORE_DURABLE {
                self.send(from, self.term, reply);
            } else {
                self.promise(from, reply);
            }
        } else {
            self.send(from, self.term, Body::VoteReply { granted: false });
        }
    }

    pub(super) fn on_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        if term > self.term {
            self.become_follower(term, None);
            return;
        }
        if let Standing::Candidate(votes) = &mut self.standing
            && term == self.term
        {
            votes.record(from, granted);
            self.count_votes();
        }
    }

    /// The leader of this term asks for an election. It has given up its lease for good, so that
    /// nothing rests on the wait that other candidacies keep.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, term: Term) {
        if term == self.term && self.leader == Some(from) && self.may_lead {
            self.draw_election_deadline();
            self.begin_election(true);
        }
    }

    /// Sees how the candidacy stands.
    pub(super) fn count_votes(&mut self) {
        let (votes, is_real) = match &mut self.standing {
            Standing::PreCandidate(votes) => (votes, false),
            Standing::Candidate(votes) => (votes, true),
            Standing::Follower | Standing::Leader(_) => return,
        };
        if let Some(seq) = votes.own_vote_seq {
            if !self.durability.has_persisted(seq) {
                return;
            }
            votes.own_vote_seq = None;
            votes.record(self.id, true);
        }
        match self.quorum.tally(|node| votes.of(node)) {
            Tally::Won if is_real => self.become_leader(),
            Tally::Won => self.become_candidate(false),
            Tally::Lost => self.become_follower(self.term, None),
            Tally::Open => {}
        }
    }

    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        debug_assert!(self.term.0 <= NUMBER_MAX);
        self.quorum
            .voters()
            .iter()
            .copied()
            .filter(|&voter| voter != self.id)
            .collect()
    }
}
