//! What must hold across a whole cluster, checked after each step. The judge remembers everything,
//! crashes included.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_raft::{
    Body, LogIndex, Message, NodeId, Observation, PeerStatus, Raft, Role, Term, check_basic,
    check_delta,
};

use crate::disk::Disk;

/// The memory of what ever happened.
#[derive(Default)]
pub(crate) struct Judge {
    pub(crate) leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    observations: BTreeMap<NodeId, Observation>,
    /// What is applied at each index from 1.
    pub(crate) committed: Vec<(Term, Bytes)>,
}

/// One replica as the judge sees it.
pub(crate) struct Seen<'a> {
    pub(crate) raft: Option<&'a Raft>,
    pub(crate) disk: &'a Disk,
    pub(crate) id: NodeId,
}

impl Judge {
    pub(crate) fn committed_to(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// State machine safety: an index is applied with one entry only, everywhere and forever.
    pub(crate) fn applied(&mut self, node: NodeId, index: LogIndex, term: Term, data: &Bytes) {
        let place = index.0 as usize - 1;
        if let Some(known) = self.committed.get(place) {
            assert_eq!(
                (known.0, &known.1),
                (term, data),
                "{node} applies another {index}"
            );
        } else {
            assert_eq!(
                self.committed.len(),
                place,
                "{node} applies {index} before those below"
            );
            self.committed.push((term, data.clone()));
        }
    }

    pub(crate) fn restarted(&mut self, node: NodeId) {
        self.observations.remove(&node);
    }

    /// What a message promises must be durable at its sender when it leaves.
    pub(crate) fn sent(&mut self, message: &Message, all: &[Seen<'_>]) {
        let sender = find(all, message.from);
        let durable = &sender.disk.durable;
        let vote = match message.body {
            Body::Vote { .. } => Some(message.from),
            Body::VoteReply { granted: true } => Some(message.to),
            _ => None,
        };
        if let Some(candidate) = vote {
            let before = self.votes.insert((message.from, message.term), candidate);
            assert!(
                before.is_none_or(|before| before == candidate),
                "two votes in one term: {message:?}"
            );
            assert_eq!(
                durable.hard_state.term, message.term,
                "a vote leaves before its term is durable"
            );
            assert_eq!(
                durable.hard_state.vote,
                Some(candidate),
                "a vote leaves before it is durable"
            );
        }
        if let Body::AppendAccepted { match_index, .. } = message.body {
            assert!(
                durable.last() >= match_index,
                "{message:?} leaves before it is true"
            );
            assert!(
                durable.hard_state.term >= message.term,
                "accepted before the term is durable"
            );
            let receiver = find(all, message.to);
            if let Some(leader) = receiver.raft.filter(|raft| raft.term() == message.term)
                && let Some(term) = leader.term_at(match_index)
            {
                assert!(
                    durable.holds(match_index, term),
                    "{message:?} speaks of another entry"
                );
            }
        }
    }

    /// All that can be seen of `node` after it moved.
    pub(crate) fn check(&mut self, node: NodeId, all: &[Seen<'_>]) {
        let Some(raft) = find(all, node).raft else {
            return;
        };
        check_basic(raft).unwrap_or_else(|violation| panic!("{violation}"));
        let now = Observation::of(raft);
        let before = self.observations.insert(node, now);
        if let Some(before) = &before {
            check_delta(before, &now).unwrap_or_else(|violation| panic!("{violation}"));
        }
        assert_eq!(
            raft.counters().violations,
            0,
            "{node} saw what no correct peer sends"
        );
        if raft.role() == Role::Leader {
            self.check_leader(raft, all);
        }
        Self::check_committed(raft, all);
    }

    fn check_leader(&mut self, raft: &Raft, all: &[Seen<'_>]) {
        let known = self.leaders.insert(raft.term(), raft.id());
        assert!(
            known.is_none_or(|known| known == raft.id()),
            "two leaders in {}",
            raft.term()
        );
        if known.is_none() {
            // Leader completeness, at the moment of the election.
            for (place, (term, _)) in self.committed.iter().enumerate() {
                let index = LogIndex(place as u64 + 1);
                let found = raft.term_at(index);
                let is_there = found == Some(*term) || index < raft.first_index().previous();
                assert!(
                    is_there,
                    "the leader of {} lacks committed {index}: {found:?}",
                    raft.term()
                );
            }
        }
        for PeerStatus {
            id, match_index, ..
        } in raft.peers()
        {
            let peer = find(all, id);
            if peer.disk.durable.hard_state.term <= raft.term()
                && let Some(term) = raft.term_at(match_index)
            {
                assert!(
                    peer.disk.durable.holds(match_index, term),
                    "{id} is counted for {match_index}"
                );
            }
        }
    }

    /// What a replica takes for committed is on a majority of disks.
    fn check_committed(raft: &Raft, all: &[Seen<'_>]) {
        let index = raft.commit();
        let Some(term) = raft.term_at(index).filter(|_| index > LogIndex::ZERO) else {
            return;
        };
        let holders = all
            .iter()
            .filter(|seen| seen.disk.durable.holds(index, term))
            .count();
        assert!(
            holders * 2 > all.len(),
            "{} takes {index} of {term} for committed, but only {holders} have it",
            raft.id()
        );
    }

    /// Log matching: where two logs have an entry of the same index and term, they are equal up to
    /// there.
    pub(crate) fn check_logs(all: &[Seen<'_>]) {
        for (place, one) in all.iter().enumerate() {
            for other in &all[place + 1..] {
                let (one, other) = (&one.disk.live, &other.disk.live);
                let from = one.anchor.0.max(other.anchor.0).0 + 1;
                let to = one.last().min(other.last()).0;
                let same =
                    |index: &u64| one.term_at(LogIndex(*index)) == other.term_at(LogIndex(*index));
                let Some(agree) = (from..=to).rev().find(same) else {
                    continue;
                };
                for index in from..=agree {
                    assert_eq!(
                        one.entry(LogIndex(index)),
                        other.entry(LogIndex(index)),
                        "logs that agreed differ"
                    );
                }
            }
        }
    }
}

fn find<'a, 'b>(all: &'b [Seen<'a>], id: NodeId) -> &'b Seen<'a> {
    all.iter().find(|seen| seen.id == id).expect("a member")
}
