//! What replicas say is on their disks, as far as their logs told them. Invariants 7, 8, 9 and 18 of `docs/testing.md`.
//!
//! Whether the logs told the truth is for [`Disks`](super::Disks), who looks at the disks.

use std::collections::{BTreeMap, BTreeSet};

use quorate::simulation::{Body, Deed, Message};
use quorate::{GroupId, LogIndex, NodeId, Term};

use super::books::{Books, Event, Place, Rule};

/// Nothing is promised before it is durable, nothing is acknowledged to a client before a majority has it, a leader believes
/// no more than what was promised to it, and a log that failed promises nothing.
#[derive(Debug, Default)]
pub struct Promises {
    /// What was on the disk of a node, by group, when its log failed.
    failed: BTreeMap<Place, LogIndex>,
    broken: BTreeSet<NodeId>,
    /// The vote of each replica that left last, while its log was sound: it may be repeated after the log failed.
    voted: BTreeMap<Place, (Term, NodeId)>,
    /// Answers that were given, and did not leave yet.
    answered: Vec<(Place, LogIndex)>,
    /// The most that a replica promised to the leader of a term.
    promised: BTreeMap<(Place, Term), LogIndex>,
}

impl Rule for Promises {
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Sent { at, message } => self.check_promise(books, at, message),
            Event::Did {
                at,
                deed: Deed::Acknowledged { index, .. },
            } => {
                self.answered.push((at, *index));
                Ok(())
            }
            // By now the books know what the same step made durable.
            Event::Replied { .. } => {
                let mut answered = self.answered.drain(..);
                answered.try_for_each(|(at, index)| check_acknowledged(books, at, index))
            }
            Event::Matched { at, peer, index } => self.check_match(books, at, peer, index),
            Event::LogFailed { node } => {
                self.broken.insert(node);
                for group in books.groups() {
                    let at = Place { node, group };
                    self.failed.insert(at, books.replica(at).stand.durable);
                }
                Ok(())
            }
            Event::Ended { node } => {
                self.answered.clear();
                self.broken.remove(&node);
                self.failed.retain(|place, _| place.node != node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Promises {
    fn check_promise(&mut self, books: &Books, at: Place, message: &Message) -> Result<(), String> {
        let stand = &books.replica(at).stand;
        match message.body {
            Body::AppendAccepted { match_index, .. } => {
                let durable = self.failed.get(&at).copied().unwrap_or(stand.durable);
                // What was promised to an earlier leader may have been cut since, in the same pass.
                let is_present = message.term == stand.term;
                // What a snapshot covers that came in after the promise was durable, and was dropped for it: until the
                // snapshot is durable as well, the disk still has it.
                let is_dropped = stand.snapshot > durable && match_index < stand.snapshot;
                if is_present && match_index > durable && !is_dropped {
                    let rule = if self.broken.contains(&at.node) {
                        "invariant 18, a log that failed acknowledges nothing"
                    } else {
                        "invariant 7, durable before acknowledged"
                    };
                    return Err(format!(
                        "{rule}: {} of group {} accepts up to {match_index} in {}, and has {durable} on its disk",
                        at.node, at.group.0, message.term
                    ));
                }
                let most = self.promised.entry((at, message.term)).or_default();
                *most = (*most).max(match_index);
                Ok(())
            }
            Body::VoteReply { granted: true } => self.check_vote(at, message),
            _ => Ok(()),
        }
    }

    fn check_vote(&mut self, at: Place, message: &Message) -> Result<(), String> {
        let vote = (message.term, message.to);
        if !self.broken.contains(&at.node) {
            self.voted.insert(at, vote);
            return Ok(());
        }
        if self.voted.get(&at) == Some(&vote) {
            return Ok(());
        }
        Err(format!(
            "invariant 18, a log that failed acknowledges nothing: {} of group {} votes for {} in {}",
            at.node, at.group.0, message.to, message.term
        ))
    }

    /// A leader counts only what its follower promised to it, in its term: an answer to an earlier leader, about entries that
    /// were overwritten since, counts for nothing.
    fn check_match(
        &self,
        books: &Books,
        at: Place,
        peer: NodeId,
        index: LogIndex,
    ) -> Result<(), String> {
        let term = books.replica(at).stand.term;
        let follower = Place {
            node: peer,
            group: at.group,
        };
        let promised = self.promised.get(&(follower, term)).copied();
        let promised = promised.unwrap_or_default();
        if index <= promised {
            return Ok(());
        }
        Err(format!(
            "invariant 9, a match is what was promised: {} leads group {} in {term} and takes {index} for held by {peer}, which promised {promised}",
            at.node, at.group.0
        ))
    }
}

/// What a client hears was done survives the loss of any minority, and of the power of all.
fn check_acknowledged(books: &Books, at: Place, index: LogIndex) -> Result<(), String> {
    let group: GroupId = at.group;
    let Some(term) = books.replica(at).term_at(index) else {
        return Ok(());
    };
    let holders = books.group(group).holders(index, term);
    if holders >= books.quorum() {
        return Ok(());
    }
    Err(format!(
        "invariant 8, on a majority of disks before a client hears: {} answers for ({index}, {term}) of group {}, which {holders} disks of {} hold",
        at.node, group.0, books.nodes
    ))
}
