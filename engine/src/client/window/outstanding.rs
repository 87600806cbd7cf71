//! The reads of a window that have no answer yet, and how each is found.
//!
//! Invariants:
//! - `by_request` holds the ids whose answers may still be used, each with the one read in whose present stage it may be.
//! - `deadlines` has every read of `calls`, in the order of issue, and `waits` every one in [`Stage::AwaitsLocal`]. All calls
//!   have the same timeout, and all waits, so both ascend. Of reads that are gone they have as many at most as of others, and
//!   a few.
//! - `sent` counts the reads in [`Stage::Sent`] by node. What is done for each read or each answer looks at that read alone,
//!   in a time that does not depend on how many there are.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use quorate_raft::{LogIndex, NodeId};

use super::{EARLIER_MAX, ReadWants, UNSENT};
use crate::error::Obstacle;
use crate::pending::Completer;
use crate::transport::{Consistency, RequestBody, RequestId};

/// A map by numbers that this client counts up itself.
type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// Spreads numbers that follow each other. Nobody else chooses them, so it need not keep secrets, and runs repeat.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Entries of reads that are gone are kept up to so many, however few others there are.
const GONE_MIN: usize = 64;

/// All reads that are outstanding.
#[derive(Default)]
pub(super) struct Reads {
    calls: Numbered<u64, Read>,
    by_request: Numbered<RequestId, u64>,
    deadlines: VecDeque<(u64, u64)>,
    /// Until when the replica here is waited for.
    waits: VecDeque<(u64, u64)>,
    pub(super) unsent: VecDeque<u64>,
    /// Reads in [`Stage::Rests`], by when each is asked again.
    pub(super) resting: VecDeque<(u64, u64)>,
    /// When copies left, each with its read: it ascends, and has entries of copies that are answered as `deadlines` has.
    left: VecDeque<(u64, u64, RequestId)>,
    sent: Vec<(NodeId, usize)>,
    issued: u64,
    pub(super) here: Here,
    /// How often a read was looked at.
    #[cfg(test)]
    pub(super) looks: u64,
}

/// A read that is on its way.
pub(super) struct Read {
    pub(super) wants: ReadWants,
    pub(super) completer: Completer,
    pub(super) stage: Stage,
    /// Copies sent before the one of [`Stage::Sent`], the oldest first, [`EARLIER_MAX`] at most.
    pub(super) earlier: VecDeque<(RequestId, NodeId)>,
    /// The replica here could not serve it when it was last asked.
    pub(super) is_behind: bool,
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits to be sent, or sent again.
    Unsent,
    /// A node was asked.
    Sent { to: NodeId, id: RequestId },
    /// A leader named the index, and the replica here was asked to say when it has applied it.
    AwaitsLocal {
        index: LogIndex,
        id: RequestId,
        until_ns: u64,
    },
    /// The replica here could not serve it, and nobody else can: it is asked again in a moment.
    Rests,
}

/// What is known of the replica in this process.
#[derive(Clone, Copy, Default)]
pub(super) enum Here {
    /// It keeps up, as far as known.
    #[default]
    Current,
    /// It could not serve a read at this index. Until it can, reads that may go to the leader go there at once.
    Behind {
        index: LogIndex,
        /// The last time that it was asked whether it can by now.
        probe: RequestId,
        /// When it may be asked again.
        probe_at_ns: u64,
    },
}

/// The part of a read to which an answer belongs.
pub(super) enum Part {
    Latest(NodeId),
    Earlier(NodeId),
    Local(LogIndex),
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many reads wait for a node's answer.
    pub(super) fn owed_by(&self, node: NodeId) -> usize {
        let of_node = self.sent.iter().find(|(of, _)| *of == node);
        of_node.map_or(0, |(_, count)| *count)
    }

    /// The reads that wait for a node's answer, in the order of issue. Looks at all reads, if there are any.
    pub(super) fn sent_to(&self, node: NodeId) -> Vec<u64> {
        if self.owed_by(node) == 0 {
            return Vec::new();
        }
        let is_there = |read: &Read| matches!(read.stage, Stage::Sent { to, .. } if to == node);
        let there = self.calls.iter().filter(|(_, read)| is_there(read));
        let mut there: Vec<u64> = there.map(|(&number, _)| number).collect();
        there.sort_unstable();
        there
    }

    /// Whether an answer under this id may be of use.
    pub(super) fn expects(&self, id: RequestId) -> bool {
        let is_probe =
            matches!(self.here, Here::Behind { probe, .. } if probe == id && id != UNSENT);
        is_probe || self.by_request.contains_key(&id)
    }

    /// Takes all reads out.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Completer> + use<> {
        let mut calls = std::mem::take(&mut self.calls);
        let numbers = std::mem::take(&mut self.deadlines).into_iter();
        self.by_request.clear();
        self.waits.clear();
        self.unsent.clear();
        self.resting.clear();
        self.left.clear();
        self.sent.clear();
        numbers.filter_map(move |(_, number)| Some(calls.remove(&number)?.completer))
    }

    /// How many entries of any kind there are, of reads that are gone too.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let timed = self.deadlines.len() + self.waits.len() + self.resting.len();
        timed + self.left.len() + self.unsent.len() + self.by_request.len() + self.calls.len()
    }

    pub(super) fn insert(&mut self, wants: ReadWants, deadline_ns: u64, completer: Completer) {
        self.issued += 1;
        let read = Read {
            wants,
            completer,
            stage: Stage::Unsent,
            earlier: VecDeque::new(),
            is_behind: false,
        };
        self.calls.insert(self.issued, read);
        self.unsent.push_back(self.issued);
        self.deadlines.push_back((deadline_ns, self.issued));
        self.make_room();
    }

    /// Drops entries of reads that are gone, or wait no more, before they are more than those of others.
    fn make_room(&mut self) {
        let calls = &self.calls;
        let bound = 2 * calls.len() + GONE_MIN;
        if self.deadlines.len() > bound {
            self.deadlines
                .retain(|(_, number)| calls.contains_key(number));
        }
        if self.waits.len() > bound {
            self.waits
                .retain(|(until_ns, number)| match calls.get(number) {
                    Some(read) => read.waits_until(*until_ns).is_some(),
                    None => false,
                });
        }
    }

    /// A copy of a read leaves.
    pub(super) fn leave(&mut self, now_ns: u64, number: u64, to: NodeId, id: RequestId) {
        self.enter(number, Stage::Sent { to, id });
        self.left.push_back((now_ns, number, id));
        let bound = 2 * self.calls.len() + GONE_MIN;
        if self.left.len() > bound {
            let by_request = &self.by_request;
            self.left.retain(|(_, _, id)| by_request.contains_key(id));
        }
    }

    /// Has reads sent again whose latest copy left so long ago, and before its node was heard last.
    pub(super) fn resend_lost(&mut self, now_ns: u64, after_ns: u64, heard_at_ns: u64) {
        while let Some(&(left_ns, number, id)) = self.left.front() {
            let stage = self.look(number).map(|read| read.stage);
            let is_out = matches!(stage, Some(Stage::Sent { id: latest, .. }) if latest == id);
            let is_lost = left_ns < heard_at_ns && now_ns.saturating_sub(left_ns) >= after_ns;
            if is_out && !is_lost {
                return;
            }
            self.left.pop_front();
            if is_out {
                self.send_again(number);
            }
        }
    }

    /// The oldest read, if it is over its deadline.
    pub(super) fn pop_expired(&mut self, now_ns: u64) -> Option<u64> {
        while let Some(&(deadline_ns, number)) = self.deadlines.front() {
            if deadline_ns > now_ns {
                return None;
            }
            self.deadlines.pop_front();
            if self.calls.contains_key(&number) {
                return Some(number);
            }
        }
        None
    }

    /// The next read for which the replica here was waited too long, and the index.
    pub(super) fn pop_waited(&mut self, now_ns: u64) -> Option<(u64, LogIndex)> {
        while let Some(&(until_ns, number)) = self.waits.front() {
            if until_ns > now_ns {
                return None;
            }
            self.waits.pop_front();
            // One that turned to the leader waits no more; one that waits anew does so until later.
            let index = self.look(number).and_then(|it| it.waits_until(until_ns));
            if let Some(index) = index {
                return Some((number, index));
            }
        }
        None
    }

    pub(super) fn look(&mut self, number: u64) -> Option<&mut Read> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        self.calls.get_mut(&number)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Read> {
        self.enter(number, Stage::Unsent);
        self.forget_earlier(number);
        self.calls.remove(&number)
    }

    /// Moves a read to another stage. The id of the one that it leaves is forgotten.
    pub(super) fn enter(&mut self, number: u64, stage: Stage) {
        let Some(read) = self.look(number) else {
            return;
        };
        match std::mem::replace(&mut read.stage, stage) {
            Stage::Sent { to, id } => {
                self.by_request.remove(&id);
                self.count_sent(to, false);
            }
            Stage::AwaitsLocal { id, .. } => {
                self.by_request.remove(&id);
            }
            Stage::Unsent | Stage::Rests => {}
        }
        match stage {
            Stage::Sent { to, id } => {
                self.by_request.insert(id, number);
                self.count_sent(to, true);
            }
            Stage::AwaitsLocal { id, until_ns, .. } => {
                self.by_request.insert(id, number);
                self.waits.push_back((until_ns, number));
                self.make_room();
            }
            Stage::Unsent | Stage::Rests => {}
        }
    }

    fn count_sent(&mut self, node: NodeId, is_more: bool) {
        match self.sent.iter_mut().find(|(of, _)| *of == node) {
            Some((_, count)) if is_more => *count += 1,
            Some((_, count)) => *count -= 1,
            None => self.sent.push((node, usize::from(is_more))),
        }
    }

    /// Has a read sent again, while the copy that is out may still be answered.
    pub(super) fn send_again(&mut self, number: u64) {
        let Some(Stage::Sent { to, id }) = self.look(number).map(|read| read.stage) else {
            return;
        };
        self.enter(number, Stage::Unsent);
        self.by_request.insert(id, number);
        let Some(read) = self.look(number) else {
            return;
        };
        read.earlier.push_back((id, to));
        let oldest = (read.earlier.len() > EARLIER_MAX)
            .then(|| read.earlier.pop_front())
            .flatten();
        if let Some((oldest, _)) = oldest {
            self.by_request.remove(&oldest);
        }
        self.unsent.push_back(number);
    }

    pub(super) fn forget_earlier(&mut self, number: u64) {
        if let Some(read) = self.calls.get_mut(&number) {
            for (id, _) in read.earlier.drain(..) {
                self.by_request.remove(&id);
            }
        }
    }

    pub(super) fn forget_copy(&mut self, number: u64, id: RequestId) {
        self.by_request.remove(&id);
        if let Some(read) = self.look(number) {
            read.earlier.retain(|&(earlier, _)| earlier != id);
        }
    }

    /// The read that waits for an answer under this id, and in which part of it.
    pub(super) fn part_of(&mut self, id: RequestId) -> Option<(u64, Part)> {
        let number = *self.by_request.get(&id)?;
        let read = self.look(number)?;
        let part = match read.stage {
            Stage::AwaitsLocal { index, id: own, .. } if own == id => Part::Local(index),
            Stage::Sent { to, id: own } if own == id => Part::Latest(to),
            _ => {
                let (_, to) = read.earlier.iter().find(|(earlier, _)| *earlier == id)?;
                Part::Earlier(*to)
            }
        };
        Some((number, part))
    }

    /// Those whose rest is over wait to be sent.
    pub(super) fn wake(&mut self, now_ns: u64) {
        while let Some(&(at_ns, number)) = self.resting.front() {
            if at_ns > now_ns {
                break;
            }
            self.resting.pop_front();
            if self.look(number).is_some_and(|it| it.stage == Stage::Rests) {
                self.enter(number, Stage::Unsent);
                self.unsent.push_back(number);
            }
        }
    }
}

impl Read {
    /// What is asked next. `is_behind`: the replica here is known not to keep up.
    pub(super) fn asks(&mut self, is_behind: bool) -> RequestBody {
        if is_behind {
            self.turn_to_leader();
        }
        match &self.wants {
            ReadWants::Answer(consistency, query) => RequestBody::Query {
                consistency: *consistency,
                query: query.clone(),
            },
            ReadWants::LeaderInstead(query) => RequestBody::Query {
                consistency: Consistency::Linearizable,
                query: query.clone(),
            },
            ReadWants::LocalIndex | ReadWants::LocalOr(_) => RequestBody::ReadIndex,
        }
    }

    /// Lets the leader answer instead of the replica here, if that will do. No copy that asked for an index may be answered
    /// any more.
    pub(super) fn turn_to_leader(&mut self) -> bool {
        if let ReadWants::LocalOr(query) = &self.wants
            && self.earlier.is_empty()
        {
            self.wants = ReadWants::LeaderInstead(query.clone());
            self.is_behind = false;
            return true;
        }
        false
    }

    /// The index that it waits for, if it waits for the replica here until then.
    fn waits_until(&self, until_ns: u64) -> Option<LogIndex> {
        match self.stage {
            Stage::AwaitsLocal {
                index,
                until_ns: own,
                ..
            } if own == until_ns => Some(index),
            _ => None,
        }
    }

    /// Why it is not answered yet, if that is not the window's obstacle.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        let waits_here = matches!(self.stage, Stage::AwaitsLocal { .. } | Stage::Rests);
        (waits_here || self.is_behind).then_some(Obstacle::Lagging)
    }
}
