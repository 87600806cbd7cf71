//! Nodes that an operator started from a wrong directory: an empty one, or an older copy of their
//! own. Invariant 20 of `docs/testing.md`.
//!
//! What such a node had promised stands in the books all the same, and is asked of it again when
//! its own directory is back. So nothing that it does meanwhile may count: each peer knows better,
//! refuses it, and it neither votes nor acknowledges.

use std::collections::BTreeMap;

use quorate::simulation::{Body, Message, Stand};
use quorate::transport::{Refused, Reply};
use quorate::{NodeId, Role};

use super::books::{Books, Directory, Event, Place, Rule};

/// Whoever runs from a wrong directory is refused for that by each peer that it meets, and takes no
/// part.
#[derive(Debug, Default)]
pub struct Directories {
    /// Where nodes run that do not run from their own directory.
    wrong: BTreeMap<NodeId, Directory>,
    /// How a replica in there stood when it was opened.
    opened: BTreeMap<Place, Stand>,
}

impl Rule for Directories {
    fn judge(&mut self, _books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Exchanged { node, directory } => {
                self.wrong.remove(&node);
                if directory != Directory::Own {
                    self.wrong.insert(node, directory);
                }
                Ok(())
            }
            Event::Met {
                node,
                other,
                refusal,
            } => {
                self.check_refused(node, other, refusal)?;
                self.check_refused(other, node, refusal)
            }
            Event::MisplacedOpened { at, stand, .. } => {
                self.opened.insert(at, *stand);
                Ok(())
            }
            Event::MisplacedMoved { at, now } => self.check_still(at, now),
            Event::MisplacedSent { at, message } => check_said(at, message),
            Event::MisplacedReplied { node, reply } => check_answered(node, reply),
            _ => Ok(()),
        }
    }
}

impl Directories {
    /// A peer says why it does not deal with a node: because of the directory, and for no reason
    /// that may pass.
    fn check_refused(
        &self,
        node: NodeId,
        peer: NodeId,
        refusal: Option<&Refused>,
    ) -> Result<(), String> {
        let Some(directory) = self.wrong.get(&node) else {
            return Ok(());
        };
        let is_known = match refusal {
            Some(Refused::OtherDirectory { node: named, .. }) => {
                *named == node && *directory == Directory::Empty
            }
            Some(
                Refused::OlderCopy { node: named, .. } | Refused::SecondCopy { node: named, .. },
            ) => *named == node && *directory == Directory::Older,
            _ => false,
        };
        if is_known {
            return Ok(());
        }
        Err(format!(
            "invariant 20, a wrong directory is refused: {peer} met {node} in a directory that is {directory:?}, and said {refusal:?}"
        ))
    }

    /// A replica that is refused by all learns nothing, and promises nothing.
    fn check_still(&self, at: Place, now: &Stand) -> Result<(), String> {
        let Some(opened) = self.opened.get(&at) else {
            return Ok(());
        };
        let is_still = now.role != Role::Leader
            && (now.term, now.vote) == (opened.term, opened.vote)
            && (now.last, now.commit) == (opened.last, opened.commit);
        if is_still {
            return Ok(());
        }
        Err(format!(
            "invariant 20, a wrong directory takes no part: {} of group {} was opened as {opened:?}, and is {now:?}",
            at.node, at.group.0
        ))
    }
}

fn check_said(at: Place, message: &Message) -> Result<(), String> {
    let may_say = match message.body {
        // It asks whether there would be votes for it; nobody hears it.
        Body::PreVote { .. } => true,
        Body::VoteReply { granted } | Body::PreVoteReply { granted } => !granted,
        _ => false,
    };
    if may_say {
        return Ok(());
    }
    Err(format!(
        "invariant 20, a wrong directory takes no part: {} of group {} sends {} in {}",
        at.node,
        at.group.0,
        crate::trace::name_of(&message.body),
        message.term
    ))
}

fn check_answered(node: NodeId, reply: &Reply) -> Result<(), String> {
    if reply.result.is_err() {
        return Ok(());
    }
    Err(format!(
        "invariant 20, a wrong directory takes no part: {node} answers {:?}",
        reply.result
    ))
}
