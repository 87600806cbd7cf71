//! The reads of a window: each goes its own way, in no order, and is sent again until it is answered or over its deadline.

use bytes::Bytes;
use quorate_raft::NodeId;

use super::{Send, Window};
use crate::error::Error;
use crate::pending::Completer;
use crate::transport::{Consistency, Refusal, Reply, ReplyBody, Request, RequestBody};

/// A read that is on its way.
pub(super) struct Read {
    wants: ReadWants,
    pub(super) deadline_ns: u64,
    pub(super) completer: Completer,
    pub(super) sent_to: Option<NodeId>,
}

/// What a read asks for.
#[derive(Clone)]
pub(crate) enum ReadWants {
    /// The machine's answer, evaluated at the node asked.
    Answer(Consistency, Bytes),
    /// That the replica in this process may answer.
    LocalIndex,
}

impl Window {
    /// Issues a read.
    pub(crate) fn read(&mut self, now_ns: u64, wants: ReadWants, completer: Completer) {
        if self.reads.len() >= self.options.outstanding_max {
            let busy = Error::Busy {
                outstanding: self.reads.len(),
            };
            self.effects.completions.push((completer, Err(busy)));
            return;
        }
        let id = self.request_id();
        let deadline_ns = now_ns.saturating_add(self.options.call_timeout_ns);
        self.reads.insert(
            id,
            Read {
                wants,
                deadline_ns,
                completer,
                sent_to: None,
            },
        );
        self.unsent_reads.push_back(id);
        self.pump(now_ns);
    }

    /// Sends what waits to be sent.
    pub(super) fn send_reads(&mut self) {
        while let Some(id) = self.unsent_reads.pop_front() {
            let Some(read) = self.reads.get_mut(&id) else {
                continue;
            };
            let body = match read.wants.clone() {
                ReadWants::Answer(consistency, query) => RequestBody::Query { consistency, query },
                ReadWants::LocalIndex => RequestBody::ReadIndex,
            };
            read.sent_to = Some(self.target);
            let request = Request {
                id,
                group: self.group,
                body,
            };
            self.effects
                .sends
                .push_back(Send::Request(self.target, request));
        }
    }

    pub(super) fn read_answered(&mut self, now_ns: u64, from: NodeId, reply: Reply) {
        let Some(read) = self.reads.remove(&reply.id) else {
            return;
        };
        if reply.result.is_ok() {
            self.note_progress();
        }
        match (reply.result, &read.wants) {
            (Ok(ReplyBody::Answer(answer)), ReadWants::Answer(..)) => {
                self.effects.completions.push((read.completer, Ok(answer)));
            }
            (Ok(ReplyBody::ReadIndex(index)), ReadWants::LocalIndex) => {
                self.leader = Some(from);
                if read.sent_to.is_none() {
                    // The second answer, from the replica here: it has caught up.
                    self.effects
                        .completions
                        .push((read.completer, Ok(Bytes::new())));
                    return;
                }
                self.effects
                    .sends
                    .push_back(Send::WaitApplied(self.group, index, reply.id));
                self.reads.insert(
                    reply.id,
                    Read {
                        sent_to: None,
                        ..read
                    },
                );
            }
            (Ok(_), _) => self
                .effects
                .completions
                .push((read.completer, Err(Error::Incompatible))),
            (Err(Refusal::NoSuchGroup), _) => {
                self.effects
                    .completions
                    .push((read.completer, Err(Error::Incompatible)));
            }
            (Err(refusal), _) => {
                let was_target = read.sent_to == Some(self.target);
                self.reads.insert(
                    reply.id,
                    Read {
                        sent_to: None,
                        ..read
                    },
                );
                self.unsent_reads.push_back(reply.id);
                if was_target {
                    self.refused(now_ns, from, refusal, None);
                }
            }
        }
    }

    /// Takes back what was sent to a node that will not answer.
    pub(super) fn resend_reads_of(&mut self, node: NodeId) {
        for (&id, read) in &mut self.reads {
            if read.sent_to == Some(node) {
                read.sent_to = None;
                self.unsent_reads.push_back(id);
            }
        }
    }
}
