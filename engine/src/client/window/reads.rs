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

use bytes::Bytes;
use quorate_raft::{LogIndex, NodeId};

use super::outstanding::{Here, Part, Stage};
use super::{Send, UNSENT, Window};
use crate::error::Error;
use crate::mutants;
use crate::pending::{Answer, Completer};
use crate::transport::{Consistency, Refusal, Reply, ReplyBody, Request, RequestId};

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
    /// That replica cannot serve: the leader's answer to this query, which is not [`READ_HERE`].
    LeaderInstead(Bytes),
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
            self.reads.leave(now_ns, number, to, id);
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
        let is_of_here = self.beside == Some(from) || mutants::ANYBODY_SPEAKS_FOR_LOCAL_REPLICA;
        if let Here::Behind { index, probe, .. } = self.reads.here
            && probe == reply.id
        {
            if !is_of_here {
                self.rejected += 1;
                return;
            }
            self.reads.here = match reply.result {
                Ok(_) => Here::Current,
                Err(_) => behind(now_ns, index),
            };
            return;
        }
        match self.reads.part_of(reply.id) {
            Some((_, Part::Local(_))) if !is_of_here => self.rejected += 1,
            Some((number, Part::Local(index))) => {
                self.local_answered(now_ns, number, index, reply.result);
            }
            Some((number, Part::Latest(to))) if to == from => {
                if let Some(refusal) = self.node_answered(now_ns, from, number, reply) {
                    self.reads.enter(number, Stage::Unsent);
                    self.reads.unsent.push_back(number);
                    if to == self.target {
                        self.refused(now_ns, from, refusal, None);
                    }
                }
            }
            Some((number, Part::Earlier(to))) if to == from => {
                let id = reply.id;
                if self.node_answered(now_ns, from, number, reply).is_some() {
                    self.reads.forget_copy(number, id);
                }
            }
            Some(_) | None => {}
        }
    }

    /// A node answered a copy of a read. Gives the refusal back if it was one that leaves the read as it is.
    fn node_answered(
        &mut self,
        now_ns: u64,
        from: NodeId,
        number: u64,
        reply: Reply,
    ) -> Option<Refusal> {
        let read = self.reads.look(number)?;
        let has_other_copies = !read.earlier.is_empty();
        match (reply.result, &read.wants) {
            (Ok(ReplyBody::Answer(answer)), ReadWants::LeaderInstead(_)) if answer == READ_HERE => {
                self.complete_read(number, Err(Error::Incompatible));
            }
            (
                Ok(ReplyBody::Answer(answer)),
                ReadWants::Answer(..) | ReadWants::LeaderInstead(_),
            ) => {
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
                let until_ns = now_ns.saturating_add(self.options.read_wait_ns());
                let stage = Stage::AwaitsLocal {
                    index,
                    id,
                    until_ns,
                };
                self.reads.enter(number, stage);
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
        match result {
            Ok(ReplyBody::ReadIndex(_)) => self.complete_read(number, Ok(READ_HERE)),
            // It lags, cannot go on, or has too much to do.
            _ => self.local_cannot(now_ns, number, index),
        }
    }

    /// The replica here does not serve a read.
    fn local_cannot(&mut self, now_ns: u64, number: u64, index: LogIndex) {
        // Others must not wait for the same.
        if matches!(self.reads.here, Here::Current) {
            self.reads.here = behind(now_ns, index);
        }
        let Some(read) = self.reads.look(number) else {
            return;
        };
        read.is_behind = true;
        if !mutants::WAITS_FOR_LAGGING_REPLICA && read.turn_to_leader() {
            self.reads.enter(number, Stage::Unsent);
            self.reads.unsent.push_back(number);
        } else {
            self.reads.enter(number, Stage::Rests);
            let until_ns = now_ns.saturating_add(LOCAL_BACKOFF_NS);
            self.reads.resting.push_back((until_ns, number));
        }
    }

    fn complete_read(&mut self, number: u64, answer: Answer) {
        if let Some(read) = self.reads.remove(number) {
            self.effects.completions.push((read.completer, answer));
        }
    }

    /// Has sent again what was sent to a node that may not answer.
    pub(super) fn resend_reads_of(&mut self, node: NodeId) {
        for number in self.reads.sent_to(node) {
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

    /// Fails the reads that are over their deadline, and gives up waiting for a replica here that does not even say that it
    /// lags: its worker may stand still, as on a disk that does.
    pub(super) fn expire_reads(&mut self, now_ns: u64) {
        while let Some((number, index)) = self.reads.pop_waited(now_ns) {
            self.local_cannot(now_ns, number, index);
        }
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
