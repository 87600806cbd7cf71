//! Who may lead, and in which term. Invariants 1, 6 and 14 of `docs/testing.md`.

use std::collections::{BTreeMap, BTreeSet};

use quorate::simulation::{Body, Message, Stand};
use quorate::{GroupId, NodeId, Role, Term};

use super::books::{Books, Directory, Event, Place, Rule};

/// A term has one leader, who was elected by a majority; a replica votes once in a term, whatever happens to its process; and
/// no term begins that a majority was not asked about.
#[derive(Debug, Default)]
pub struct Elections {
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    /// Votes that left, and who got them. A candidate's own is never sent: it stands in the list of its votes at once.
    votes: BTreeMap<(Place, Term), NodeId>,
    voters: BTreeMap<(GroupId, Term, NodeId), BTreeSet<NodeId>>,
    /// Who said that it would vote for a candidate in a term.
    willing: BTreeMap<(GroupId, Term, NodeId), BTreeSet<NodeId>>,
    /// Whom the old leader asked to begin an election, by the term that ends with it.
    asked: BTreeSet<(GroupId, Term, NodeId)>,
    /// The highest term in which a replica promised something, over all its lives.
    promised: BTreeMap<Place, Term>,
    /// The same, and votes, when the directory of a node was copied last.
    copied: BTreeMap<NodeId, Promised>,
}

/// What replicas of a node promised: the votes that left, and the highest term of each.
#[derive(Clone, Debug, Default)]
struct Promised {
    votes: BTreeMap<(Place, Term), NodeId>,
    terms: BTreeMap<Place, Term>,
}

impl Rule for Elections {
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Opened { at, stand, .. } => {
                let voted = self.votes.get(&(at, stand.term)).copied();
                let promised = self.promised.get(&at).copied();
                check_kept(at, stand, voted, promised.unwrap_or_default())
            }
            // A copy binds to what was promised when it was made.
            Event::MisplacedOpened { at, stand, .. } => {
                let copied = self.copied.entry(at.node).or_default();
                let voted = copied.votes.get(&(at, stand.term)).copied();
                let promised = copied.terms.get(&at).copied();
                check_kept(at, stand, voted, promised.unwrap_or_default())
            }
            Event::Copied { node } => {
                self.copy(node);
                Ok(())
            }
            Event::Exchanged {
                node,
                directory: Directory::Empty,
            } => {
                self.copied.remove(&node);
                Ok(())
            }
            Event::Moved {
                at, before, now, ..
            } => {
                if now.role == Role::Leader {
                    self.check_leader(books, at, now)?;
                }
                if now.term > before.term {
                    self.check_term(books, at, now)?;
                }
                Ok(())
            }
            Event::Sent { at, message } => self.note(at, message),
            _ => Ok(()),
        }
    }
}

impl Elections {
    fn note(&mut self, at: Place, message: &Message) -> Result<(), String> {
        let (term, to) = (message.term, message.to);
        let is_promise = match message.body {
            Body::VoteReply { granted: true } => {
                let voters = self.voters.entry((at.group, term, to)).or_default();
                voters.insert(at.node);
                self.vote(at, term, to)?;
                true
            }
            Body::PreVoteReply { granted: true } => {
                let willing = self.willing.entry((at.group, term, to)).or_default();
                willing.insert(at.node);
                false
            }
            Body::TimeoutNow => {
                self.asked.insert((at.group, term, to));
                false
            }
            // It leaves when the candidate's vote for itself is durable.
            Body::Vote { .. } => {
                self.vote(at, term, at.node)?;
                true
            }
            Body::AppendAccepted { .. } => true,
            _ => false,
        };
        if is_promise {
            let promised = self.promised.entry(at).or_default();
            *promised = (*promised).max(term);
        }
        Ok(())
    }

    fn vote(&mut self, at: Place, term: Term, to: NodeId) -> Result<(), String> {
        let first = *self.votes.entry((at, term)).or_insert(to);
        if first == to {
            return Ok(());
        }
        Err(format!(
            "invariant 6, one vote a term: {} of group {} votes for {first} and for {to} in {term}",
            at.node, at.group.0
        ))
    }

    fn copy(&mut self, node: NodeId) {
        let votes = self.votes.iter().filter(|((at, _), _)| at.node == node);
        let terms = self.promised.iter().filter(|(at, _)| at.node == node);
        let copied = Promised {
            votes: votes.map(|(&key, &to)| (key, to)).collect(),
            terms: terms.map(|(&at, &term)| (at, term)).collect(),
        };
        self.copied.insert(node, copied);
    }

    fn check_leader(&mut self, books: &Books, at: Place, now: &Stand) -> Result<(), String> {
        let key = (at.group, now.term);
        if let Some(&first) = self.leaders.get(&key) {
            if first == at.node {
                return Ok(());
            }
            return Err(format!(
                "invariant 1, election safety: {first} and {} both lead group {} in {}",
                at.node, at.group.0, now.term
            ));
        }
        self.leaders.insert(key, at.node);
        let voters = self.voters.get(&(at.group, now.term, at.node));
        let others = voters.map_or(0, BTreeSet::len);
        if others + 1 < books.quorum() {
            return Err(format!(
                "invariant 1, a majority elects: {} leads group {} in {} with the votes of {others} others of {}",
                at.node, at.group.0, now.term, books.nodes
            ));
        }
        Ok(())
    }

    /// A replica begins a term only if a majority said that it would vote for it, or the old leader asked it to. So one that
    /// is cut off stays in its term, and disturbs nobody when it comes back.
    fn check_term(&self, books: &Books, at: Place, now: &Stand) -> Result<(), String> {
        let began = now.vote == Some(at.node);
        let is_asked = self
            .asked
            .contains(&(at.group, now.term.previous(), at.node));
        if !began || is_asked {
            return Ok(());
        }
        let willing = self.willing.get(&(at.group, now.term, at.node));
        let others = willing.map_or(0, BTreeSet::len);
        if others + 1 < books.quorum() {
            return Err(format!(
                "invariant 14, no term without a majority: {} of group {} begins {} with {others} others of {} willing",
                at.node, at.group.0, now.term, books.nodes
            ));
        }
        Ok(())
    }
}

/// What a replica promised before it crashed binds it afterwards.
fn check_kept(
    at: Place,
    stand: &Stand,
    voted: Option<NodeId>,
    promised: Term,
) -> Result<(), String> {
    if stand.term < promised {
        return Err(format!(
            "invariant 6, terms never go back: {} of group {} comes back in {}, and promised something in {promised}",
            at.node, at.group.0, stand.term
        ));
    }
    if voted.is_some() && stand.vote != voted {
        return Err(format!(
            "invariant 6, votes are kept: {} of group {} comes back with the vote {:?} in {}, and voted for {voted:?}",
            at.node, at.group.0, stand.vote, stand.term
        ));
    }
    Ok(())
}
