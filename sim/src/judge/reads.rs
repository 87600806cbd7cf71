//! What linearizable reads see. Invariant 13 of `docs/testing.md`; how long leases last is for [`Offices`](super::Offices).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use quorate::simulation::Deed;
use quorate::transport::{Consistency, Reply, ReplyBody, Request, RequestBody, RequestId};
use quorate::{GroupId, LogIndex, NodeId};

use super::books::{Books, Event, Rule};

/// Of so many calls it is known what they have to see. An answer to an earlier one is not looked at: all clerks of a run together
/// have far fewer calls open.
const WANTED_MAX: usize = 4_096;

/// A read sees everything that any client was told before the read was called.
#[derive(Debug, Default)]
pub struct Reads {
    /// The last entry of each group that a client was told of.
    told: BTreeMap<GroupId, LogIndex>,
    /// What each linearizable read has to see: what was told of when it was first sent.
    wanted: BTreeMap<(usize, RequestId), (GroupId, LogIndex)>,
    /// The calls in `wanted`, in their order; the last [`WANTED_MAX`] of them.
    calls: VecDeque<(usize, RequestId)>,
    /// What each read of a client in a node has to see: what was told of when it began.
    local: BTreeMap<u64, LogIndex>,
    /// What nodes say that they answered, and did not send yet: where they stand in the log.
    answers: BTreeMap<(NodeId, RequestId), Vec<LogIndex>>,
}

impl Rule for Reads {
    fn judge(&mut self, _books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Asked { clerk, request } => self.note_call(clerk, request),
            Event::Did {
                at,
                deed: Deed::Read { id, index, .. } | Deed::Acknowledged { id, index },
            } if !is_wait(*id) => {
                let answers = self.answers.entry((at.node, *id)).or_default();
                answers.push(*index);
            }
            Event::ReadLocally { read, group, seen } => {
                return self.check_local(read, group, seen);
            }
            Event::Replied { node, clerk, reply } => return self.check(node, clerk, reply),
            Event::Ended { node } => self.answers.retain(|(from, _), _| *from != node),
            _ => {}
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.wanted.len()
    }
}

/// Whether an id is that of a client that waits for its own replica, see `world/locals.rs`: what it is told is no answer yet.
pub(crate) fn is_wait(id: RequestId) -> bool {
    id.0 >> 63 == 1
}

impl Reads {
    fn note_call(&mut self, clerk: usize, request: &Request) {
        let told = self.told.get(&request.group).copied().unwrap_or_default();
        let is_read = matches!(
            request.body,
            RequestBody::Query {
                consistency: Consistency::Linearizable | Consistency::Lease,
                ..
            } | RequestBody::ReadIndex
        );
        // Of one that is sent again, the first time counts.
        let wanted = if is_read { told } else { LogIndex::ZERO };
        let call = (clerk, request.id);
        if let Entry::Vacant(vacant) = self.wanted.entry(call) {
            vacant.insert((request.group, wanted));
            self.calls.push_back(call);
        }
        if self.calls.len() > WANTED_MAX
            && let Some(oldest) = self.calls.pop_front()
        {
            self.wanted.remove(&oldest);
        }
    }

    fn check_local(
        &mut self,
        read: (usize, u64),
        group: GroupId,
        seen: Option<LogIndex>,
    ) -> Result<(), String> {
        let Some(seen) = seen else {
            let told = self.told.get(&group).copied().unwrap_or_default();
            if self.local.len() >= WANTED_MAX {
                self.local.pop_first();
            }
            self.local.insert(read.1, told);
            return Ok(());
        };
        match self.local.remove(&read.1) {
            Some(wanted) if seen < wanted => Err(format!(
                "invariant 13, reads see what was acknowledged: the client c{} of a node reads group {} at {seen}, and {wanted} was acknowledged to a client when it called",
                read.0, group.0
            )),
            _ => Ok(()),
        }
    }

    fn check(&mut self, node: NodeId, clerk: usize, reply: &Reply) -> Result<(), String> {
        let key = (node, reply.id);
        let is_told = matches!(reply.result, Ok(ReplyBody::Outcome(_)));
        let is_read = matches!(
            reply.result,
            Ok(ReplyBody::Answer(_) | ReplyBody::ReadIndex(_))
        );
        if !is_told && !is_read {
            return Ok(());
        }
        // Clerks number their requests alike: the answers of a node leave in the order in which it gave them.
        let Some(answers) = self.answers.get_mut(&key) else {
            return Ok(());
        };
        let index = answers.remove(0);
        if answers.is_empty() {
            self.answers.remove(&key);
        }
        let Some(&(group, wanted)) = self.wanted.get(&(clerk, reply.id)) else {
            return Ok(());
        };
        if is_told {
            let told = self.told.entry(group).or_default();
            *told = (*told).max(index);
        } else if index < wanted {
            return Err(format!(
                "invariant 13, reads see what was acknowledged: {node} answers a read of group {} at {index}, and {wanted} was acknowledged to a client when it was called",
                group.0
            ));
        }
        Ok(())
    }
}
