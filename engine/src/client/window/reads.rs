//! The reads of a window: each goes its own way, in no order, and is sent again until it is answered or over its deadline.
//!
//! Why an answer may be used. A linearizable read must include every write that was acknowledged before the read began.
//! Each copy of it leaves after it began, under a request id that no other copy, no other call of this client, and no call of
//! an earlier life of its node has. The node that is asked confirms that it leads after it got that copy. So the first good
//! answer to any copy may be used, in whatever order the copies are answered.
//!
//! An index that a leader gives is not the end of a read of the replica in this process: it says what that replica must have
//! applied, not that it has. So the wait for the replica is a stage of its own, under an id that no other node was ever sent.
//! When it begins, the ids of all copies are forgotten: late and repeated answers of leaders belong to nobody from then on.
//!
//! Invariants:
//! - `by_request` holds the ids whose answers may still be used, each with the one read in whose present stage it may be.
//! - `deadlines` has every read of `calls`, in the order of issue. All calls have the same timeout, so they ascend. Of reads
//!   that are gone it has as many at most as of others, and a few.
//! - `sent` counts the reads in [`Stage::Sent`] by node. What is done for each read or each answer looks at that read alone,
//!   in a time that does not depend on how many there are.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use quorate_raft::{LogIndex, NodeId};

use super::{EARLIER_MAX, Send, UNSENT, Window};
use crate::error::{Error, Obstacle};
use crate::mutants;
use crate::pending::Completer;
use crate::transport::{Consistency, Refusal, Reply, ReplyBody, Request, RequestBody, RequestId};

/// The wait before a replica in this process that could not serve is asked again.
const LOCAL_BACKOFF_NS: u64 = 50_000_000;

/// What a read of the replica in this process is answered with once that replica may be read. No answer of the map is empty.
pub(crate) const READ_HERE: Bytes = Bytes::new();

/// What a read asks for.
#[derive(Clone)]
pub(crate) enum ReadWants {
    /// The machine's answer, evaluated at the node asked.
    Answer(Consistency, Bytes),
    /// That the replica in this process may answer: [`READ_HERE`].
    LocalIndex,
    /// The same; if that replica cannot serve, the leader's answer to this query instead.
    LocalOr(Bytes),
}

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
    unsent: VecDeque<u64>,
    /// Reads in [`Stage::Rests`], by when each is asked again.
    resting: VecDeque<(u64, u64)>,
    sent: Vec<(NodeId, usize)>,
    issued: u64,
    here: Here,
    /// How often a read was looked at.
    #[cfg(test)]
    looks: u64,
}

/// A read that is on its way.
struct Read {
    wants: ReadWants,
    completer: Completer,
    stage: Stage,
    /// Copies sent before the one of [`Stage::Sent`], the oldest first, [`EARLIER_MAX`] at most.
    earlier: VecDeque<(RequestId, NodeId)>,
    /// The replica here could not serve it when it was last asked.
    is_behind: bool,
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits to be sent, or sent again.
    Unsent,
    /// A node was asked.
    Sent { to: NodeId, id: RequestId },
    /// A leader named the index, and the replica here was asked to say when it has applied it.
    AwaitsLocal { index: LogIndex, id: RequestId },
    /// The replica here could not serve it, and nobody else can: it is asked again in a moment.
    Rests,
}

/// What is known of the replica in this process.
#[derive(Clone, Copy, Default)]
enum Here {
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
enum Part {
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
        self.unsent.clear();
        self.resting.clear();
        self.sent.clear();
        numbers.filter_map(move |(_, number)| Some(calls.remove(&number)?.completer))
    }

    /// How many entries of any kind there are, of reads that are gone too.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let queued = self.deadlines.len() + self.unsent.len() + self.resting.len();
        queued + self.by_request.len() + self.calls.len()
    }

    fn insert(&mut self, wants: ReadWants, deadline_ns: u64, completer: Completer) {
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
        // Before it grows, room is made by those that are gone.
        if self.deadlines.len() >= 2 * self.calls.len() + GONE_MIN {
            let calls = &self.calls;
            self.deadlines
                .retain(|(_, number)| calls.contains_key(number));
        }
        self.deadlines.push_back((deadline_ns, self.issued));
    }

    /// The oldest read, if it is over its deadline.
    fn pop_expired(&mut self, now_ns: u64) -> Option<u64> {
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

    fn look(&mut self, number: u64) -> Option<&mut Read> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        self.calls.get_mut(&number)
    }

    fn remove(&mut self, number: u64) -> Option<Read> {
        self.enter(number, Stage::Unsent);
        self.forget_earlier(number);
        self.calls.remove(&number)
    }

    /// Moves a read to another stage. The id of the one that it leaves is forgotten.
    fn enter(&mut self, number: u64, stage: Stage) {
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
            Stage::AwaitsLocal { id, .. } => {
                self.by_request.insert(id, number);
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
    fn send_again(&mut self, number: u64) {
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

    fn forget_earlier(&mut self, number: u64) {
        if let Some(read) = self.calls.get_mut(&number) {
            for (id, _) in read.earlier.drain(..) {
                self.by_request.remove(&id);
            }
        }
    }

    fn forget_copy(&mut self, number: u64, id: RequestId) {
        self.by_request.remove(&id);
        if let Some(read) = self.look(number) {
            read.earlier.retain(|&(earlier, _)| earlier != id);
        }
    }

    /// The read that waits for an answer under this id, and in which part of it.
    fn part_of(&mut self, id: RequestId) -> Option<(u64, Part)> {
        let number = *self.by_request.get(&id)?;
        let read = self.look(number)?;
        let part = match read.stage {
            Stage::AwaitsLocal { index, id: own } if own == id => Part::Local(index),
            Stage::Sent { to, id: own } if own == id => Part::Latest(to),
            _ => {
                let (_, to) = read.earlier.iter().find(|(earlier, _)| *earlier == id)?;
                Part::Earlier(*to)
            }
        };
        Some((number, part))
    }

    /// Those whose rest is over wait to be sent.
    fn wake(&mut self, now_ns: u64) {
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
    fn asks(&mut self, is_behind: bool) -> RequestBody {
        if is_behind {
            self.turn_to_leader();
        }
        match &self.wants {
            ReadWants::Answer(consistency, query) => RequestBody::Query {
                consistency: *consistency,
                query: query.clone(),
            },
            ReadWants::LocalIndex | ReadWants::LocalOr(_) => RequestBody::ReadIndex,
        }
    }

    /// Lets the leader answer instead of the replica here, if that will do. No copy that asked for an index may be answered
    /// any more.
    fn turn_to_leader(&mut self) -> bool {
        if let ReadWants::LocalOr(query) = &self.wants
            && self.earlier.is_empty()
        {
            self.wants = ReadWants::Answer(Consistency::Linearizable, query.clone());
            self.is_behind = false;
            return true;
        }
        false
    }

    /// Why it is not answered yet, if that is not the window's obstacle.
    fn obstacle(&self) -> Option<Obstacle> {
        let waits_here = matches!(self.stage, Stage::AwaitsLocal { .. } | Stage::Rests);
        (waits_here || self.is_behind).then_some(Obstacle::Lagging)
    }
}

impl Window {
    /// How many entries the reads take.
    #[cfg(test)]
    pub(crate) fn entries_of_reads(&self) -> usize {
        self.reads.entries()
    }

    /// How often a read was looked at so far.
    #[cfg(test)]
    pub(crate) fn looks_at_reads(&self) -> u64 {
        self.reads.looks
    }

    /// Issues a read.
    pub(crate) fn read(&mut self, now_ns: u64, wants: ReadWants, completer: Completer) {
        if self.reads.len() >= self.options.outstanding_max {
            let busy = Error::Busy {
                outstanding: self.reads.len(),
            };
            self.effects.completions.push((completer, Err(busy)));
            return;
        }
        let deadline_ns = now_ns.saturating_add(self.options.call_timeout_ns);
        self.reads.insert(wants, deadline_ns, completer);
        self.pump(now_ns);
    }

    /// Sends what waits to be sent.
    pub(super) fn send_reads(&mut self, now_ns: u64) {
        self.reads.wake(now_ns);
        let is_behind = self.probe_local(now_ns);
        while let Some(number) = self.reads.unsent.pop_front() {
            let Some(read) = self.reads.look(number) else {
                continue;
            };
            // An earlier copy may have been answered meanwhile.
            if read.stage != Stage::Unsent {
                continue;
            }
            let body = read.asks(is_behind);
            let (to, id) = (self.target, self.request_id());
            self.reads.enter(number, Stage::Sent { to, id });
            let request = Request {
                id,
                group: self.group,
                body,
            };
            self.effects.sends.push_back(Send::Request(to, request));
        }
    }

    /// Asks a replica here that fell behind whether it has caught up. Whether it is behind, as far as known.
    fn probe_local(&mut self, now_ns: u64) -> bool {
        let Here::Behind {
            index, probe_at_ns, ..
        } = self.reads.here
        else {
            return false;
        };
        if now_ns >= probe_at_ns && !self.reads.is_empty() {
            let id = self.request_id();
            self.reads.here = Here::Behind {
                index,
                probe: id,
                // It always answers; this is for one that was lost with the node's queue.
                probe_at_ns: now_ns.saturating_add(self.options.call_timeout_ns),
            };
            self.effects
                .sends
                .push_back(Send::WaitApplied(self.group, index, id));
        }
        true
    }

    pub(super) fn read_answered(&mut self, now_ns: u64, from: NodeId, reply: Reply) {
        if let Here::Behind { index, probe, .. } = self.reads.here
            && probe == reply.id
        {
            self.reads.here = match reply.result {
                Ok(_) => Here::Current,
                Err(_) => behind(now_ns, index),
            };
            return;
        }
        match self.reads.part_of(reply.id) {
            Some((number, Part::Local(index))) => {
                self.local_answered(now_ns, number, index, reply.result);
            }
            Some((number, Part::Latest(to))) if to == from => {
                if let Some(refusal) = self.node_answered(from, number, reply) {
                    self.reads.enter(number, Stage::Unsent);
                    self.reads.unsent.push_back(number);
                    if to == self.target {
                        self.refused(now_ns, from, refusal, None);
                    }
                }
            }
            Some((number, Part::Earlier(to))) if to == from => {
                let id = reply.id;
                if self.node_answered(from, number, reply).is_some() {
                    self.reads.forget_copy(number, id);
                }
            }
            Some(_) | None => {}
        }
    }

    /// A node answered a copy of a read. Gives the refusal back if it was one that leaves the read as it is.
    fn node_answered(&mut self, from: NodeId, number: u64, reply: Reply) -> Option<Refusal> {
        let read = self.reads.look(number)?;
        let has_other_copies = !read.earlier.is_empty();
        match (reply.result, &read.wants) {
            (Ok(ReplyBody::Answer(answer)), ReadWants::Answer(..)) => {
                self.note_progress();
                self.complete_read(number, Ok(answer));
            }
            (Ok(ReplyBody::ReadIndex(index)), ReadWants::LocalIndex | ReadWants::LocalOr(_)) => {
                self.note_progress();
                self.leader = Some(from);
                if mutants::SECOND_COPY_ENDS_LOCAL_READ && has_other_copies {
                    self.complete_read(number, Ok(READ_HERE));
                    return None;
                }
                let id = self.request_id();
                self.reads.enter(number, Stage::AwaitsLocal { index, id });
                self.reads.forget_earlier(number);
                self.effects
                    .sends
                    .push_back(Send::WaitApplied(self.group, index, id));
            }
            (Ok(_) | Err(Refusal::NoSuchGroup), _) => {
                self.complete_read(number, Err(Error::Incompatible));
            }
            (Err(refusal), _) => {
                read.is_behind = false;
                return Some(refusal);
            }
        }
        None
    }

    /// The replica here answered a read that waits for it.
    fn local_answered(
        &mut self,
        now_ns: u64,
        number: u64,
        index: LogIndex,
        result: Result<ReplyBody, Refusal>,
    ) {
        if let Ok(ReplyBody::ReadIndex(_)) = result {
            self.complete_read(number, Ok(READ_HERE));
            return;
        }
        // It lags, cannot go on, or has too much to do: others must not wait for the same.
        if matches!(self.reads.here, Here::Current) {
            self.reads.here = behind(now_ns, index);
        }
        let Some(read) = self.reads.look(number) else {
            return;
        };
        read.is_behind = true;
        if read.turn_to_leader() {
            self.reads.enter(number, Stage::Unsent);
            self.reads.unsent.push_back(number);
        } else {
            self.reads.enter(number, Stage::Rests);
            let until_ns = now_ns.saturating_add(LOCAL_BACKOFF_NS);
            self.reads.resting.push_back((until_ns, number));
        }
    }

    fn complete_read(&mut self, number: u64, answer: crate::pending::Answer) {
        if let Some(read) = self.reads.remove(number) {
            self.effects.completions.push((read.completer, answer));
        }
    }

    /// Has sent again what was sent to a node that may not answer.
    pub(super) fn resend_reads_of(&mut self, node: NodeId) {
        if self.reads.owed_by(node) == 0 {
            return;
        }
        let is_there = |read: &Read| matches!(read.stage, Stage::Sent { to, .. } if to == node);
        let calls = self.reads.calls.iter();
        let mut there: Vec<u64> = calls
            .filter(|(_, read)| is_there(read))
            .map(|(&number, _)| number)
            .collect();
        // In the order of issue, so that the oldest is asked first.
        there.sort_unstable();
        for number in there {
            self.reads.send_again(number);
        }
    }

    /// A copy of a read could not be handed to its node.
    pub(super) fn read_not_sent(&mut self, id: RequestId) {
        if let Some((number, Part::Latest(_))) = self.reads.part_of(id) {
            self.reads.enter(number, Stage::Unsent);
            self.reads.unsent.push_back(number);
        }
    }

    /// Fails the reads that are over their deadline.
    pub(super) fn expire_reads(&mut self, now_ns: u64) {
        while let Some(number) = self.reads.pop_expired(now_ns) {
            let behind = self.reads.look(number).and_then(|read| read.obstacle());
            let error = Error::Timeout {
                after_ms: self.options.call_timeout_ns / 1_000_000,
                maybe_applied: false,
                cause: behind.unwrap_or(self.obstacle),
                leader: self.leader,
            };
            self.complete_read(number, Err(error));
        }
    }
}

/// A replica that could not serve a read at `index`, found out now.
fn behind(now_ns: u64, index: LogIndex) -> Here {
    Here::Behind {
        index,
        probe: UNSENT,
        probe_at_ns: now_ns.saturating_add(LOCAL_BACKOFF_NS),
    }
}
