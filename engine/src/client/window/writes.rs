//! The writes of a window, and what may be said of each.
//!
//! Writes form a window like that of a byte stream: they carry ascending sequence numbers of one session, are sent in
//! that order, and when one is refused or lost everything from the first unanswered one is sent again. The replicated session
//! makes repetitions harmless and gaps impossible (`quorate_kv::Sessions`), so a client's writes take effect in the
//! order in which they were issued, each once.
//!
//! Invariants:
//! - `writes` has consecutive sequence numbers; the first is the oldest whose fate is not known.
//! - `writes[..sent]` were sent in the present burst, with ascending request ids from `burst` on; a refusal from before the
//!   present burst moves nothing.
//! - A write fails with an error that denies [`Error::maybe_applied`] only if every copy of it that was sent was refused, and no
//!   copy will be sent any more. [`Write::fail`] looks at `doubtful`; an expired session and a closed client, which fail
//!   writes by themselves, have errors that deny nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_kv::{Command, CommandBuffer, Outcome, SessionId};
use quorate_raft::NodeId;

use super::{EARLIER_MAX, ROTATE_BACKOFF_NS, SentCopy, Session, UNSENT, Window};
use crate::error::Error;
use crate::mutants;
use crate::pending::{Answer, Completer};
use crate::transport::{Refusal, Reply, ReplyBody, RequestId};

pub(super) struct Write {
    sequence: u64,
    body: Body,
    /// The latest copy sent.
    request: RequestId,
    /// Whom it was sent to; meaningless while nothing was.
    asked: NodeId,
    /// Copies sent before, the oldest first, [`EARLIER_MAX`] at most.
    earlier: VecDeque<SentCopy>,
    /// Whether that copy was refused.
    is_refused: bool,
    /// Copies sent whose fate is not known.
    doubtful: u32,
    deadline_ns: u64,
    /// Gone once the caller has an answer.
    pub(super) completer: Option<Completer>,
    is_settled: bool,
}

enum Body {
    Unsealed(CommandBuffer),
    Sealed(Bytes),
    /// In place of a write that its caller was told had no effect.
    Skip,
}

impl Write {
    /// Ends the call. If no copy may be in a log, none will ever be: a skip takes its place. If one may be, the caller is
    /// told so, and `keeps` says whether the write is carried through nevertheless.
    pub(super) fn fail(&mut self, error: Error, keeps: bool) -> Option<(Completer, Answer)> {
        let is_doubtful = self.doubtful > 0;
        if !(is_doubtful && keeps) {
            self.body = Body::Skip;
        }
        let error = match error {
            Error::Timeout {
                after_ms,
                cause,
                leader,
                ..
            } => Error::Timeout {
                after_ms,
                maybe_applied: is_doubtful,
                cause,
                leader,
            },
            error if is_doubtful => error.in_doubt(),
            error => error,
        };
        Some((self.completer.take()?, Err(error)))
    }
}

impl Window {
    /// Issues a write. Over the bound it fails at once, without effect.
    pub(crate) fn write(&mut self, now_ns: u64, command: CommandBuffer, completer: Completer) {
        if self.writes.len() >= self.options.outstanding_max {
            let busy = Error::Busy {
                outstanding: self.writes.len(),
            };
            self.effects.completions.push((completer, Err(busy)));
            return;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.writes.push_back(Write {
            sequence,
            body: Body::Unsealed(command),
            request: UNSENT,
            asked: NodeId::ZERO,
            earlier: VecDeque::new(),
            is_refused: false,
            doubtful: 0,
            deadline_ns: now_ns.saturating_add(self.options.call_timeout_ns),
            completer: Some(completer),
            is_settled: false,
        });
        self.pump(now_ns);
    }

    pub(super) fn send_writes(&mut self, session: SessionId) {
        // Everything before the first unsettled write has been answered to its caller.
        let Some(first) = self.writes.front() else {
            return;
        };
        let floor = first.sequence - 1;
        if std::mem::take(&mut self.must_acknowledge) {
            // The floors in sealed commands are old; this one lets the replicas drop the answers that have come since.
            let id = self.request_id();
            self.send(id, Command::acknowledge(session, floor));
        }
        while self.sent < self.writes.len() {
            let id = self.request_id();
            if self.sent == 0 {
                self.burst = id;
            }
            let write = &mut self.writes[self.sent];
            if matches!(write.body, Body::Unsealed(_))
                && let Body::Unsealed(command) = std::mem::replace(&mut write.body, Body::Skip)
            {
                write.body = Body::Sealed(command.seal(session, write.sequence, floor));
            }
            let command = match &write.body {
                Body::Sealed(command) => command.clone(),
                Body::Unsealed(_) | Body::Skip => Command::skip(session, write.sequence, floor),
            };
            if write.request != UNSENT {
                if write.earlier.len() >= EARLIER_MAX {
                    write.earlier.pop_front();
                }
                write.earlier.push_back(SentCopy {
                    request: write.request,
                    asked: write.asked,
                });
            }
            write.request = id;
            write.asked = self.target;
            write.is_refused = false;
            write.doubtful += 1;
            self.sent += 1;
            self.send(id, command);
        }
    }

    /// The write whose latest copy carries `id`, unless that copy was refused already or another one was answered.
    pub(super) fn place_of(&self, id: RequestId) -> Option<usize> {
        // Each time, everything from some write on is sent, so the ids of the latest copies ascend; the unsent ones are last.
        let is_before = |write: &Write| write.request != UNSENT && write.request < id;
        let place = self.writes.partition_point(is_before);
        let write = self.writes.get(place)?;
        let is_it = id != UNSENT && write.request == id && !write.is_refused && !write.is_settled;
        is_it.then_some(place)
    }

    /// The number and the latest copy of the first write, which is on its way while any is.
    pub(super) fn sent_front(&self) -> Option<(u64, RequestId)> {
        let front = self.writes.front()?;
        Some((front.sequence, front.request))
    }

    /// Whether the latest copy of a write was sent to this node.
    pub(super) fn was_asked(&self, place: usize, node: NodeId) -> bool {
        self.writes[place].asked == node
    }

    /// The write of which this is an earlier copy.
    pub(super) fn place_of_earlier(&self, copy: SentCopy) -> Option<usize> {
        self.writes
            .iter()
            .position(|write| !write.is_settled && write.earlier.contains(&copy))
    }

    pub(super) fn write_answered(&mut self, now_ns: u64, from: NodeId, place: usize, reply: Reply) {
        let is_present = reply.id >= self.burst;
        match reply.result {
            Ok(ReplyBody::Outcome(Outcome::Applied(answer))) => {
                self.leader = Some(from);
                self.settle(place, Ok(answer));
            }
            Ok(ReplyBody::Outcome(Outcome::OutOfOrder { expected })) => {
                self.copy_refused(place);
                let is_behind = self.is_answered(expected);
                if is_present && is_behind {
                    self.refused(now_ns, from, Refusal::Busy, Some(place));
                } else if is_present {
                    self.rewind();
                }
            }
            Ok(ReplyBody::Outcome(Outcome::WindowFull)) => {
                self.copy_refused(place);
                if is_present {
                    self.must_acknowledge = true;
                    self.refused(now_ns, from, Refusal::Busy, Some(place));
                }
            }
            Ok(ReplyBody::Outcome(Outcome::SessionExpired)) => {
                self.copy_refused(place);
                self.session_expired();
            }
            Ok(ReplyBody::Outcome(Outcome::Malformed)) => {
                self.copy_refused(place);
                self.give_up(place, Error::Incompatible);
            }
            // An answer of another kind says nothing about the command. What is asked next waits a
            // moment: the node may go on like that.
            Ok(_) => {
                self.rejected += 1;
                self.give_up(place, Error::Incompatible);
                self.retry_at_ns = now_ns.saturating_add(ROTATE_BACKOFF_NS);
            }
            Err(refusal) => {
                if !matches!(refusal, Refusal::LeadershipLost) || mutants::UNKNOWN_IS_REFUSED {
                    self.copy_refused(place);
                }
                if let Refusal::TooLarge { limit_bytes } = refusal {
                    let len = self.command_bytes(place);
                    if matches!(self.writes[place].body, Body::Skip) {
                        // Nothing is smaller than what goes again: a node that refuses it may go on like that.
                        self.retry_at_ns = now_ns.saturating_add(ROTATE_BACKOFF_NS);
                    }
                    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
                    let error = quorate_kv::TooLarge {
                        what: "command bytes",
                        len,
                        limit,
                    };
                    self.give_up(place, Error::TooLarge(error));
                } else if is_present {
                    self.refused(now_ns, from, refusal, Some(place));
                }
            }
        }
    }

    /// The latest copy of a write certainly has no effect.
    pub(super) fn copy_refused(&mut self, place: usize) {
        let write = &mut self.writes[place];
        debug_assert!(
            write.doubtful > 0,
            "a refused copy was sent and not refused before"
        );
        write.doubtful = write.doubtful.saturating_sub(1);
        write.is_refused = true;
    }

    /// Whether the write with this sequence number was answered, and all before it. A leader that nevertheless waits for it did
    /// not apply yet what was taken before it led, and will: to send it all again would change nothing until then.
    fn is_answered(&self, sequence: u64) -> bool {
        let first = self.writes.front();
        first.is_some_and(|first| sequence < first.sequence)
    }

    fn command_bytes(&self, place: usize) -> usize {
        match &self.writes[place].body {
            Body::Unsealed(command) => command.len_bytes(),
            Body::Sealed(command) => command.len(),
            Body::Skip => 0,
        }
    }

    /// Gives a write its answer and lets the window move on.
    pub(super) fn settle(&mut self, place: usize, answer: Answer) {
        self.note_progress();
        let write = &mut self.writes[place];
        write.is_settled = true;
        write.doubtful = 0;
        if let Some(completer) = write.completer.take() {
            self.effects.completions.push((completer, answer));
        }
        while self.writes.front().is_some_and(|write| write.is_settled) {
            self.writes.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }

    /// Fails a write that would be refused each time; its place in the session is taken by a skip, or by a copy of it that is
    /// in a log already, or the ones behind it could never follow.
    fn give_up(&mut self, place: usize, error: Error) {
        let failed = self.writes[place].fail(error, false);
        self.effects.completions.extend(failed);
        self.rewind();
    }

    /// Sends everything unsettled again, from the first.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Sends again from a write on that its leader refused for now. Those before it were taken: sent again, they would only
    /// fill the log of a leader that has too much to do already.
    pub(super) fn rewind_to(&mut self, place: Option<usize>) {
        if mutants::RESENDS_WHOLE_WINDOW {
            self.rewind();
        }
        self.sent = self.sent.min(place.unwrap_or(self.sent));
    }

    /// The session is gone: what may have taken effect fails, the rest moves to a new session.
    pub(super) fn session_expired(&mut self) {
        if !matches!(self.session, Session::Open(_)) {
            return;
        }
        self.session = Session::Absent;
        self.rewind();
        self.next_sequence = 1;
        for mut write in std::mem::take(&mut self.writes) {
            if write.is_settled || write.completer.is_none() {
                continue;
            }
            if write.doubtful > 0 {
                if let Some(completer) = write.completer.take() {
                    self.effects
                        .completions
                        .push((completer, Err(Error::SessionExpired)));
                }
                continue;
            }
            if let Body::Sealed(command) = &write.body {
                write.body = Body::Unsealed(CommandBuffer::new(&Command::operation(command)));
            }
            write.sequence = self.next_sequence;
            write.request = UNSENT;
            write.earlier.clear();
            self.next_sequence += 1;
            self.writes.push_back(write);
        }
    }

    pub(super) fn drop_given_up(&mut self) {
        self.writes.retain(|write| write.completer.is_some());
        self.next_sequence = 1;
        for write in &mut self.writes {
            write.sequence = self.next_sequence;
            self.next_sequence += 1;
        }
    }

    /// Fails the writes that are over their deadline. Deadlines ascend, as all calls have the same timeout.
    pub(super) fn expire_writes(&mut self, now_ns: u64) {
        let after_ms = self.options.call_timeout_ns / 1_000_000;
        let (cause, leader) = (self.obstacle, self.leader);
        for write in &mut self.writes {
            if write.deadline_ns > now_ns {
                break;
            }
            if write.completer.is_some() {
                let error = Error::Timeout {
                    after_ms,
                    maybe_applied: false,
                    cause,
                    leader,
                };
                self.effects.completions.extend(write.fail(error, true));
            }
        }
        if matches!(self.session, Session::Absent | Session::Registering) {
            // Without a session nothing was ever sent: what was given up need not keep its place.
            self.drop_given_up();
        }
    }

    /// Fails all writes, since no node would take them.
    pub(super) fn fail_writes(&mut self, error: &Error) {
        for write in &mut self.writes {
            let failed = write.fail(error.clone(), false);
            self.effects.completions.extend(failed);
        }
        self.rewind();
    }
}
