//! One client's calls to one group, as a state machine: what was sent, what is unanswered, what to send again and where.
//!
//! A leader that is silent or busy may have more to do than it can, and what is sent again only adds to it. It must be sent
//! again nevertheless: whatever lies between may have lost it, and nobody would ever know. So the waits grow twofold as long as
//! nothing is answered, up to a bound, and are short again with the first answer.

mod outstanding;
mod reads;
mod writes;

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_kv::{Command, Outcome, SessionId, SessionOwner};
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

use self::outstanding::Reads;
pub(crate) use self::reads::{READ_HERE, ReadWants};
use self::writes::Write;

use crate::error::{Error, Obstacle};
use crate::mutants;
use crate::options::{Options, nanos};
use crate::pending::{Answer, Completer};
use crate::transport::{Refusal, Reply, ReplyBody, Request, RequestBody, RequestId};

/// The wait before another node is asked, when the last one knew of no leader.
const ROTATE_BACKOFF_NS: u64 = 10_000_000;

/// The wait before an overloaded leader is asked again, and how often it is doubled at most while nothing is answered: 64 ms.
const BUSY_BACKOFF_NS: u64 = 2_000_000;
const BUSY_DOUBLINGS_MAX: u32 = 5;

/// The wait before a leader with a full disk is asked again.
const FULL_BACKOFF_NS: u64 = 50_000_000;

/// Copies of a write, or of a registration, besides the latest whose answers are still known for what they are.
const EARLIER_MAX: usize = 8;

/// The highest index that any log reaches: to wait for one beyond it would be in vain.
const INDEX_MAX: u64 = u64::MAX / 2;

/// The request id of a write that was never sent; real ones count from 1.
const UNSENT: RequestId = RequestId(0);

/// Bits of a request id that count requests; the ones above name the group.
pub(crate) const REQUEST_COUNT_BITS: u32 = 40;

/// What a window needs to know of the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowOptions {
    pub(crate) retry_after_ns: u64,
    pub(crate) call_timeout_ns: u64,
    pub(crate) outstanding_max: usize,
    pub(crate) sessions_max: u32,
}

impl WindowOptions {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            retry_after_ns: nanos(options.retry_after),
            call_timeout_ns: nanos(options.call_timeout),
            outstanding_max: options.outstanding_max,
            sessions_max: options.sessions_max,
        }
    }

    /// How long a read waits for the replica in its process before the leader is asked instead: half of the call's time at
    /// most, so that there is time for the leader.
    pub(crate) fn read_wait_ns(&self) -> u64 {
        self.retry_after_ns.min(self.call_timeout_ns / 2)
    }
}

/// One client's calls to one group.
pub(crate) struct Window {
    group: GroupId,
    options: WindowOptions,
    nodes: Vec<NodeId>,
    target: NodeId,
    leader: Option<NodeId>,
    owner: Option<SessionOwner>,
    session: Session,
    /// Registrations that were sent and may be answered, the oldest first, `1 + EARLIER_MAX` at most. Whichever is
    /// answered opens the session; those behind it make sessions that nobody uses, which expire.
    registrations: VecDeque<SentCopy>,
    writes: VecDeque<Write>,
    next_sequence: u64,
    sent: usize,
    burst: RequestId,
    reads: Reads,
    /// Counts the requests of this life of the client, all calls and copies alike.
    next_request: u64,
    /// The replicas keep more answers for this client than they may.
    must_acknowledge: bool,
    retry_at_ns: u64,
    /// When the target was last heard, or last given something while it owed nothing.
    heard_at_ns: u64,
    /// Since the last answer: nodes that were silent for too long, one after the other.
    silences: u32,
    /// Since the last answer: waits for a busy leader.
    busy_waits: u32,
    obstacle: Obstacle,
    /// Replies that no correct node sends.
    rejected: u64,
    effects: Effects,
    /// How often it was ticked.
    #[cfg(test)]
    pub(crate) ticks: u64,
}

/// What is to be done outside: sends in order, then completions.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) sends: VecDeque<Send>,
    pub(crate) completions: Vec<(Completer, Answer)>,
}

/// One thing to hand over.
pub(crate) enum Send {
    /// To a node.
    Request(NodeId, Request),
    /// To the replica in this process: answer once this index is applied.
    WaitApplied(GroupId, LogIndex, RequestId),
}

enum Session {
    Absent,
    /// The last of `registrations` is on its way.
    Registering,
    Open(SessionId),
}

/// A request, and the node that it was sent to: nobody else may answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SentCopy {
    request: RequestId,
    asked: NodeId,
}

impl Window {
    pub(crate) fn new(group: GroupId, nodes: Vec<NodeId>, options: WindowOptions) -> Self {
        let target = nodes.first().copied().unwrap_or_default();
        Self {
            group,
            options,
            nodes,
            target,
            leader: None,
            owner: None,
            session: Session::Absent,
            registrations: VecDeque::new(),
            writes: VecDeque::new(),
            next_sequence: 1,
            sent: 0,
            burst: RequestId(0),
            reads: Reads::default(),
            next_request: 0,
            must_acknowledge: false,
            retry_at_ns: 0,
            heard_at_ns: 0,
            silences: 0,
            busy_waits: 0,
            obstacle: Obstacle::Unreachable,
            rejected: 0,
            effects: Effects::default(),
            #[cfg(test)]
            ticks: 0,
        }
    }

    /// Numbers its requests from here on, instead of from 1. A node's client begins each life elsewhere: what was asked in an
    /// earlier one may be answered in this one, since nodes answer a node and not a process.
    pub(crate) fn numbered_from(mut self, seed: u64) -> Self {
        // The lower half of what there is: numbers ascend, and must not come round while anybody waits.
        if !mutants::LIVES_SHARE_REQUEST_IDS {
            self.next_request = seed >> (64 - REQUEST_COUNT_BITS + 1);
        }
        self
    }

    /// Has its sessions remember whose they are.
    pub(crate) fn owned_by(mut self, owner: Option<SessionOwner>) -> Self {
        self.owner = owner;
        self
    }

    fn registration(&self) -> Bytes {
        let sessions_max = self.options.sessions_max;
        self.owner.map_or_else(
            || Command::register(sessions_max),
            |owner| Command::register_owned(sessions_max, owner),
        )
    }

    /// Whether a tick may be needed.
    pub(crate) fn is_busy(&self) -> bool {
        !self.writes.is_empty() || !self.reads.is_empty()
    }

    pub(crate) fn take_sends(&mut self) -> VecDeque<Send> {
        std::mem::take(&mut self.effects.sends)
    }

    pub(crate) fn take_completions(&mut self) -> Vec<(Completer, Answer)> {
        std::mem::take(&mut self.effects.completions)
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.effects.sends.is_empty() || !self.effects.completions.is_empty()
    }

    /// Takes a node's answer.
    pub(crate) fn reply(&mut self, now_ns: u64, from: NodeId, reply: Reply) {
        if from == self.target {
            self.heard_at_ns = now_ns;
        }
        let copy = SentCopy {
            request: reply.id,
            asked: from,
        };
        let is_sound =
            !matches!(&reply.result, Ok(ReplyBody::ReadIndex(index)) if index.0 > INDEX_MAX);
        if !is_sound || !self.was_sent(reply.id) {
            self.rejected += 1;
        } else if self.registrations.contains(&copy) {
            self.registered(now_ns, from, reply);
        } else if self.reads.expects(reply.id) {
            self.read_answered(now_ns, from, reply);
        } else if let Some(place) = self.place_of(reply.id) {
            if self.was_asked(place, from) {
                self.write_answered(now_ns, from, place, reply);
            } else {
                self.rejected += 1;
            }
        } else if let Ok(ReplyBody::Outcome(Outcome::Applied(answer))) = reply.result
            && let Some(place) = self.place_of_earlier(copy)
        {
            // Whichever copy was first in the log: it took effect, and this is its answer.
            self.leader = Some(from);
            self.settle(place, Ok(answer));
        }
        self.pump(now_ns);
    }

    /// A node's connection is gone.
    pub(crate) fn disconnected(&mut self, now_ns: u64, node: NodeId) {
        if node == self.target {
            self.note_unreachable();
            self.look_elsewhere(now_ns, None);
        }
        self.resend_reads_of(node);
        self.pump(now_ns);
    }

    /// Sends what waits, fails what is over its deadline. Returns whether anything is outstanding.
    pub(crate) fn tick(&mut self, now_ns: u64) -> bool {
        #[cfg(test)]
        {
            self.ticks += 1;
        }
        self.expire(now_ns);
        let silent_ns = now_ns.saturating_sub(self.heard_at_ns);
        if self.owes_answer() && silent_ns >= self.patience_ns() {
            self.silences = self.silences.saturating_add(1);
            let is_told = matches!(
                self.obstacle,
                Obstacle::DiskFull | Obstacle::OutOfHandles | Obstacle::Overloaded
            );
            if !is_told {
                self.obstacle = Obstacle::NotCommitted;
            }
            self.look_elsewhere(now_ns, None);
        }
        self.pump(now_ns);
        self.is_busy()
    }

    /// Fails everything: the client is being closed.
    pub(crate) fn close(&mut self, error: &Error) {
        for write in self.writes.drain(..) {
            if let Some(completer) = write.completer {
                self.effects
                    .completions
                    .push((completer, Err(error.clone())));
            }
        }
        for completer in self.reads.take_all() {
            self.effects
                .completions
                .push((completer, Err(error.clone())));
        }
        self.sent = 0;
    }

    /// How long a node may be silent. Twice as long each time all nodes, or as many of them as hear and send back to
    /// the same leader, were silent in vain; but each call has time for all nodes, however long they were silent before it.
    fn patience_ns(&self) -> u64 {
        let nodes = self.nodes.len() as u64;
        let rounds = self.silences / (nodes.max(1) as u32);
        let factor = 1_u64.checked_shl(rounds).unwrap_or(u64::MAX);
        let longest_ns = self.options.call_timeout_ns / (nodes + 1);
        let wanted_ns = self.options.retry_after_ns.saturating_mul(factor);
        wanted_ns.min(longest_ns.max(self.options.retry_after_ns))
    }

    /// Something was answered: whoever has to wait need not wait for long.
    fn note_progress(&mut self) {
        self.silences = 0;
        self.busy_waits = 0;
    }

    fn owes_answer(&self) -> bool {
        self.sent > 0
            || matches!(self.session, Session::Registering)
            || self.reads.owed_by(self.target) > 0
    }

    fn request_id(&mut self) -> RequestId {
        self.next_request += 1;
        let count = self.next_request & ((1 << REQUEST_COUNT_BITS) - 1);
        RequestId((self.group.0 << REQUEST_COUNT_BITS) | count)
    }

    /// Sends all that may be sent now.
    fn pump(&mut self, now_ns: u64) {
        if now_ns < self.retry_at_ns || (!self.is_busy()) {
            return;
        }
        if !self.owes_answer() {
            self.heard_at_ns = now_ns;
        }
        self.send_reads(now_ns);
        match self.session {
            _ if self.writes.is_empty() => {}
            Session::Registering => {}
            Session::Absent => {
                let id = self.request_id();
                self.session = Session::Registering;
                if self.registrations.len() > EARLIER_MAX {
                    self.registrations.pop_front();
                }
                self.registrations.push_back(SentCopy {
                    request: id,
                    asked: self.target,
                });
                let command = self.registration();
                self.send(id, command);
            }
            Session::Open(session) => self.send_writes(session),
        }
    }

    fn send(&mut self, id: RequestId, command: Bytes) {
        let request = Request {
            id,
            group: self.group,
            body: RequestBody::Propose { command },
        };
        self.effects
            .sends
            .push_back(Send::Request(self.target, request));
    }

    /// A node cannot be reached. While a cluster has not begun it waits for a node that is likely down: those that run say for
    /// which, and that tells the caller more.
    fn note_unreachable(&mut self) {
        if !matches!(self.obstacle, Obstacle::Unfounded { .. }) {
            self.obstacle = Obstacle::Unreachable;
        }
    }

    /// A request could not be handed to its node.
    pub(crate) fn not_sent(&mut self, now_ns: u64, node: NodeId, id: RequestId) {
        if let Some(place) = self.place_of(id) {
            self.copy_refused(place);
        }
        self.read_not_sent(id);
        if node == self.target {
            self.note_unreachable();
            self.look_elsewhere(now_ns, None);
        }
    }

    /// Whether a request with this id was ever sent.
    fn was_sent(&self, id: RequestId) -> bool {
        let count = id.0 & ((1 << REQUEST_COUNT_BITS) - 1);
        // Once the numbers have come round, any may have been.
        let is_drawn = count <= self.next_request || self.next_request >> REQUEST_COUNT_BITS > 0;
        id.0 >> REQUEST_COUNT_BITS == self.group.0 && count > 0 && is_drawn
    }

    /// Replies that no correct node sends, so far.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }

    fn registered(&mut self, now_ns: u64, from: NodeId, reply: Reply) {
        let latest = self.registrations.back();
        let is_latest = latest.is_some_and(|latest| latest.request == reply.id);
        self.registrations.retain(|copy| copy.request != reply.id);
        if is_latest {
            self.session = Session::Absent;
        }
        match reply.result {
            Ok(ReplyBody::Outcome(Outcome::Registered(session))) if session.0 > 0 => {
                self.leader = Some(from);
                self.session = Session::Open(session);
                self.registrations.clear();
                self.note_progress();
            }
            Ok(_) => self.not_understood(now_ns),
            Err(refusal) if is_latest => self.refused(now_ns, from, refusal, None),
            Err(_) => {}
        }
    }

    /// What to do about a refusal, of the write at `place` if it was one.
    fn refused(&mut self, now_ns: u64, from: NodeId, refusal: Refusal, place: Option<usize>) {
        if from != self.target {
            self.rewind();
            return;
        }
        match refusal {
            Refusal::NotLeader { leader } => {
                self.obstacle = Obstacle::NoLeader;
                self.look_elsewhere(now_ns, leader.filter(|&leader| leader != from));
            }
            // Lagging: only a replica in this process says so, to a read that waits for it.
            Refusal::Busy | Refusal::Lagging => {
                self.obstacle = Obstacle::Overloaded;
                // Many are refused at once: the first of them begins a wait, and is counted.
                if now_ns >= self.retry_at_ns {
                    let doublings = self.busy_waits.min(BUSY_DOUBLINGS_MAX);
                    self.retry_at_ns = now_ns + (BUSY_BACKOFF_NS << doublings);
                    self.busy_waits = self.busy_waits.saturating_add(1);
                }
                self.rewind_to(place);
            }
            short @ (Refusal::DiskFull | Refusal::OutOfHandles) => {
                self.obstacle = match short {
                    Refusal::OutOfHandles => Obstacle::OutOfHandles,
                    _ => Obstacle::DiskFull,
                };
                self.retry_at_ns = now_ns + FULL_BACKOFF_NS;
                self.rewind_to(place);
            }
            Refusal::LogFailed => {
                self.obstacle = Obstacle::LogFailed;
                self.look_elsewhere(now_ns, None);
            }
            Refusal::Unfounded { waits_for } => {
                self.obstacle = Obstacle::Unfounded { waits_for };
                self.look_elsewhere(now_ns, None);
            }
            Refusal::Stopping | Refusal::LeadershipLost => {
                self.obstacle = Obstacle::NoLeader;
                self.look_elsewhere(now_ns, None);
            }
            Refusal::NoSuchGroup | Refusal::NotUnderstood | Refusal::TooLarge { .. } => {
                self.not_understood(now_ns);
            }
        }
    }

    /// Turns to the leader that was named, or to the next node after a moment.
    fn look_elsewhere(&mut self, now_ns: u64, named: Option<NodeId>) {
        self.rewind();
        if matches!(self.session, Session::Registering) {
            // The registration may be answered yet; if not, it makes an idle session, which expires.
            self.session = Session::Absent;
        }
        self.heard_at_ns = now_ns;
        // Only the target's silence is noticed: a read left behind at another node might never be sent again.
        self.resend_reads_of(self.target);
        if let Some(leader) = named {
            self.target = leader;
            self.leader = named;
            self.retry_at_ns = now_ns;
            return;
        }
        self.leader = None;
        self.retry_at_ns = now_ns + ROTATE_BACKOFF_NS;
        let present = self.nodes.iter().position(|&node| node == self.target);
        let next = present.map_or(0, |place| (place + 1) % self.nodes.len().max(1));
        if let Some(&node) = self.nodes.get(next) {
            self.target = node;
        }
    }

    /// A node answers what no node of this version does. What is asked next waits a moment: it may go on doing so.
    fn not_understood(&mut self, now_ns: u64) {
        self.rejected += 1;
        self.fail_all(&Error::Incompatible);
        self.retry_at_ns = now_ns.saturating_add(ROTATE_BACKOFF_NS);
    }

    fn fail_all(&mut self, error: &Error) {
        self.fail_writes(error);
        for completer in self.reads.take_all() {
            self.effects
                .completions
                .push((completer, Err(error.clone())));
        }
    }

    /// Fails what is over its deadline.
    fn expire(&mut self, now_ns: u64) {
        self.expire_writes(now_ns);
        self.expire_reads(now_ns);
    }
}
