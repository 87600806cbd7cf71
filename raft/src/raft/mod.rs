//! One replica of one group: its state, and what the caller may do with it.
//!
//! Invariants (checked by [`crate::check_basic`] and [`crate::check_delta`]):
//! - term and commit index never go back; in one term at most one vote is given;
//! - log anchor <= snapshot index <= applied <= commit <= last entry, and applied <= entries handed
//!   out;
//! - entries up to the commit index are never cut off;
//! - there are a leader's books exactly in the leader's role.

mod checks;
mod election;
mod follower;
mod leader;
mod outgoing;
mod restore;
mod successor;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::durability::Durability;
use crate::error::{ProposeError, ReadError, TransferError};
use crate::ids::{LogIndex, NodeId, PersistSeq, Term};
use crate::log::{Log, release_idle};
use crate::message::{Body, Config, Entry, EntryKind, HardState, Message, SnapshotMeta};
use crate::mutants;
use crate::options::Options;
use crate::output::{ReadReady, Role, Soft};
use crate::progress::{PeerStatus, Progress};
use crate::quorum::Quorum;
use crate::rejection::{Counters, Rejection};
use crate::rng::SplitMix64;

use self::election::{Preference, Votes};
use self::leader::Leadership;
pub use self::restore::Restored;

/// The highest term, index or round that a message may carry. Whatever lies beyond cannot have been
/// reached by counting and is refused, so that one above it never overflows.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// One replica of one group.
///
/// Each method that takes `now_ns` takes the time on a clock that never goes back, in nanoseconds.
/// For [`step`](Self::step) it must be read after the message arrived, and messages must be sent
/// after the time given to [`output`](Self::output): leases are measured between the two.
#[derive(Debug)]
pub struct Raft {
    id: NodeId,
    options: Options,
    quorum: Quorum,
    rng: SplitMix64,
    now_ns: u64,
    /// False once the replica's log failed: it promises nothing any more.
    can_lead: bool,
    preference: Preference,
    /// The last entry that its disk has lost; zero if it has all.
    lost_until: LogIndex,
    /// What the leader says is here and is not, in the heartbeats since it last said nothing of the kind.
    claim: Option<follower::Claim>,

    term: Term,
    vote: Option<NodeId>,
    standing: Standing,
    leader: Option<NodeId>,
    election_deadline_ns: u64,
    /// Until then no vote and no candidacy: a leader that was heard may hold a lease that rests on
    /// this replica.
    leader_heard_until_ns: u64,
    /// How long each member waits before it votes for another; not known of all while `None`.
    promise_ns: Option<u64>,

    log: Log,
    snapshot: SnapshotMeta,
    commit: LogIndex,
    applied: LogIndex,
    durability: Durability,
    /// The state last handed out to be written.
    hard_handed: HardState,
    /// The commit index alone is to be written when it moved.
    must_flush_commit: bool,
    install: Option<Install>,

    outbox: Vec<Message>,
    reads_ready: VecDeque<ReadReady>,
    reads_failed: Vec<u64>,
    soft_told: Soft,
    /// Committed entries could not be read: wait for the next tick before trying again.
    is_apply_blocked: bool,
    counters: Counters,
    last_rejection: Option<Rejection>,
}

/// What a replica is, with the books that the role needs.
#[derive(Debug)]
enum Standing {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leadership>),
}

/// A snapshot taken in and not handed out yet.
#[derive(Debug)]
struct Install {
    meta: SnapshotMeta,
    keeps_suffix_on_disk: bool,
}

impl Raft {
    /// Takes in a message of a peer.
    ///
    /// Never panics, whatever the message says; what makes no sense is counted and ignored.
    pub fn step(&mut self, now_ns: u64, message: Message) {
        self.advance_clock(now_ns);
        if let Err(reason) = self.check_message(&message) {
            self.note_rejected(message.from, reason);
            return;
        }
        let Message {
            from, term, body, ..
        } = message;
        let is_of_leader = matches!(
            body,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::SnapshotReceived { .. }
        );
        if self.is_aside() && !is_of_leader {
            return;
        }
        match body {
            Body::PreVote {
                last_index,
                last_term,
            } => self.on_pre_vote(from, term, last_index, last_term),
            Body::PreVoteReply { granted } => self.on_pre_vote_reply(from, term, granted),
            Body::Vote {
                last_index,
                last_term,
                transfer,
            } => {
                self.on_vote(from, term, last_index, last_term, transfer);
            }
            Body::VoteReply { granted } => self.on_vote_reply(from, term, granted),
            Body::TimeoutNow => self.on_timeout_now(from, term),
            Body::Append { .. } | Body::Heartbeat { .. } | Body::SnapshotReceived { .. } => {
                self.on_leader_message(from, term, body);
            }
            Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatReply { .. } => {
                self.on_follower_message(from, term, &body);
            }
        }
    }

    /// Fires the timers that are due.
    pub fn tick(&mut self, now_ns: u64) {
        self.advance_clock(now_ns);
        self.is_apply_blocked = false;
        self.release_idle_memory();
        self.must_flush_commit = true;
        if matches!(self.standing, Standing::Leader(_)) {
            self.tick_leader();
        } else if self.now_ns >= self.election_deadline_ns {
            self.draw_election_deadline();
            if !self.abstains() {
                self.begin_election(false);
            }
        }
    }

    /// When [`tick`](Self::tick) should be called next; `u64::MAX` if nothing is to come.
    pub fn deadline_ns(&self) -> u64 {
        match &self.standing {
            Standing::Leader(lead) => self.leader_deadline_ns(lead),
            _ if self.may_campaign() => self.election_deadline_ns,
            _ => u64::MAX,
        }
    }

    /// Appends commands to the log, at consecutive indexes from the one returned, in this replica's
    /// present [`term`](Self::term).
    ///
    /// Success promises nothing yet: the entries are committed when they come out of an output, and
    /// may be overwritten if leadership is lost first. An error means that none of them entered the
    /// log.
    pub fn propose(
        &mut self,
        now_ns: u64,
        commands: impl IntoIterator<Item = (EntryKind, Bytes)>,
    ) -> Result<LogIndex, ProposeError> {
        self.advance_clock(now_ns);
        let Standing::Leader(lead) = &mut self.standing else {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        };
        if lead.is_transferring() {
            return Err(ProposeError::Transferring);
        }
        if self.log.cache_bytes() >= self.options.backlog_bytes_max() {
            return Err(ProposeError::Busy);
        }
        let first = self.log.last().next();
        let was_empty = lead.uncommitted_bytes == 0;
        let mut bytes = 0_usize;
        for (kind, data) in commands {
            let entry = Entry {
                index: self.log.last().next(),
                term: self.term,
                kind,
                data,
            };
            bytes += entry.weight_bytes();
            self.log.push(entry);
        }
        if bytes == 0 {
            return Ok(first);
        }
        let total = lead.uncommitted_bytes.saturating_add(bytes);
        if total > self.options.uncommitted_bytes_max && !was_empty {
            // Nobody has seen these entries yet: they can go without a trace.
            self.log.truncate(first);
            return Err(ProposeError::Busy);
        }
        lead.uncommitted_bytes = total;
        lead.must_send = true;
        Ok(first)
    }

    /// Asks for a linearizable read. It is answered through [`crate::Output::reads`] once a quorum
    /// has confirmed that this replica still led after the read was asked, or fails through
    /// [`crate::Output::reads_failed`] when it leads no more. All reads asked between two outputs
    /// share one round of heartbeats.
    pub fn read(&mut self, now_ns: u64, token: u64) -> Result<(), ReadError> {
        self.advance_clock(now_ns);
        let Standing::Leader(lead) = &mut self.standing else {
            return Err(ReadError::NotLeader {
                leader: self.leader,
            });
        };
        if lead.reads.count() + self.reads_ready.len() >= self.options.pending_reads_max {
            return Err(ReadError::Busy);
        }
        lead.reads.push(token);
        Ok(())
    }

    /// Until when this replica may answer linearizable reads from what it has applied, without
    /// asking anybody. Check it against the clock *after* taking the view to read from.
    ///
    /// `None` unless it leads, has applied an entry of its own term (so that it has applied all
    /// that earlier leaders acknowledged), and is not giving its office away.
    pub fn lease_until_ns(&self) -> Option<u64> {
        let Standing::Leader(lead) = &self.standing else {
            return None;
        };
        if self.applied < lead.term_start || !lead.may_lease() {
            return None;
        }
        if self.quorum.is_only(self.id) {
            return Some(u64::MAX);
        }
        let lease_ns = self.options.lease_ns(self.promise_ns?);
        lead.lease_start_ns
            .map(|start_ns| start_ns.saturating_add(lease_ns))
    }

    /// Says for how long every member of the group waits, at least, before it votes for another
    /// after it heard a leader: the shortest election timeout that any of them announced. `None`:
    /// some member announced nothing yet, so no lease is held. Unless told, the own election
    /// timeout.
    ///
    /// Call it before the first message of a member that announced another timeout is taken in. A
    /// member that restarts with a shorter timeout keeps the longer promise that it gave before: see
    /// [`Options::restart_wait_ns`](crate::Options::restart_wait_ns).
    pub fn set_promise_ns(&mut self, promise_ns: Option<u64>) {
        // A longer promise of others does not outlast the own one: this replica may vote as well.
        let own_ns = self.options.election_timeout_ns;
        if mutants::LEASE_IGNORES_SHORTER_PROMISE {
            return;
        }
        self.promise_ns = promise_ns.map(|promise_ns| promise_ns.min(own_ns));
    }

    /// Hands leadership to `to`, or to its [`successor`](Self::successor), disfavoured peers last.
    /// Proposals are refused and the lease is over until the new leader shows up or an election
    /// timeout has passed.
    pub fn transfer(&mut self, now_ns: u64, to: Option<NodeId>) -> Result<(), TransferError> {
        self.advance_clock(now_ns);
        self.begin_transfer(to)
    }

    /// Whom leadership is being handed to, as long as that may still succeed.
    pub fn transferring_to(&self) -> Option<NodeId> {
        match &self.standing {
            Standing::Leader(lead) => lead.transfer.as_ref().map(|transfer| transfer.to),
            _ => None,
        }
    }

    /// Begins an election now instead of at the election timeout. Ignored if this replica may not or
    /// should not lead, or if a leader was heard within the election timeout: that leader's lease may rest on
    /// this replica.
    pub fn campaign(&mut self, now_ns: u64) {
        self.advance_clock(now_ns);
        if self.preference.may_lead && !self.hears_leader() {
            self.draw_election_deadline();
            self.begin_election(false);
        }
    }

    /// Everything up to `seq` is durable.
    pub fn on_persisted(&mut self, now_ns: u64, seq: PersistSeq) {
        self.advance_clock(now_ns);
        self.durability.complete(seq, &mut self.outbox);
        match &self.standing {
            Standing::Candidate(_) => self.count_votes(),
            Standing::Leader(_) => self.advance_commit(),
            Standing::Follower | Standing::PreCandidate(_) => {}
        }
    }

    /// The caller saved a durable snapshot of what was applied up to `meta.index`, and cuts its log
    /// so that it begins at `first_index`, at most one behind the snapshot. The latest snapshot may be
    /// named again, to cut the log further. One that is older, or of what was not applied, is
    /// ignored.
    pub fn on_snapshot_saved(&mut self, meta: SnapshotMeta, first_index: LogIndex) {
        let is_sound = meta.index >= self.snapshot.index
            && meta.index > LogIndex::ZERO
            && meta.index <= self.applied
            && self.log.term_at(meta.index) == Some(meta.term)
            && first_index <= meta.index.next();
        if !is_sound {
            return;
        }
        self.log
            .compact(first_index.previous().max(self.log.anchor()));
        self.snapshot = meta;
    }

    /// The transfer of a snapshot to `to` ended; `sent` if it arrived whole.
    pub fn on_snapshot_sent(&mut self, now_ns: u64, to: NodeId, sent: bool) {
        self.advance_clock(now_ns);
        let now_ns = self.now_ns;
        if let Standing::Leader(lead) = &mut self.standing
            && let Some(peer) = lead.peer_mut(to)
        {
            peer.snapshot_ended(sent, now_ns, &self.options);
            lead.must_send = true;
        }
    }

    /// Stops leading, or trying to.
    pub fn step_down(&mut self, now_ns: u64) {
        self.advance_clock(now_ns);
        if !matches!(self.standing, Standing::Follower) {
            self.become_follower(self.term, None);
        }
    }

    /// Whether this replica may lead, vote and accept entries. One whose log failed may not: it
    /// stops leading at once, and makes no promise that needs its disk.
    pub fn set_can_lead(&mut self, can_lead: bool) {
        self.can_lead = can_lead;
        if !can_lead {
            self.step_down(self.now_ns);
        }
    }

    /// Whether this replica should lead. One that should not, since others are in a better
    /// condition to, ignores a leader that hands over to it, and lets elections pass to them; not
    /// for ever, as they may be unable to win. It votes and accepts entries as ever, and goes on
    /// leading if it does.
    pub fn set_may_lead(&mut self, may_lead: bool) {
        self.preference.may_lead = may_lead;
        if may_lead {
            self.preference.abstained = 0;
        }
    }

    /// Peers that should not lead if this replica can: to one of them that has the same log as this
    /// replica it refuses a few pre-votes, and stands itself.
    pub fn set_disfavoured(&mut self, peers: &[NodeId]) {
        if self.preference.disfavoured != peers {
            self.preference.disfavoured = peers.to_vec();
        }
    }

    /// Stops leading at once, and asks `to` to stand for election, whether it has the whole log or
    /// not: for a leader that cannot wait. Without `to` the others wait for their timeouts.
    pub fn resign(&mut self, now_ns: u64, to: Option<NodeId>) {
        self.advance_clock(now_ns);
        if let Standing::Leader(lead) = &self.standing
            && let Some(to) = to
            && lead.peer(to).is_some()
        {
            // No lease outlives this: it ends with the leadership, before the message leaves.
            self.send(to, self.term, Body::TimeoutNow);
        }
        self.step_down(now_ns);
    }
}

/// Entries that were lost.
impl Raft {
    /// Sets the replica aside: entries that it told others it has are gone from its disk, the last
    /// of them at `lost`. It neither votes nor leads, takes no entries and applies none, as if it
    /// were down, until a leader's snapshot that covers what is gone was taken in. It does answer a
    /// leader, that it vouches for no entry at all: so the leader sees that it lives, and sends a
    /// snapshot if it has one.
    ///
    /// Dropping what is gone and fetching it again would not do: this replica would have forgotten
    /// what it once acknowledged, and could help to elect a leader that lacks it.
    pub fn set_aside(&mut self, now_ns: u64, lost: LogIndex) {
        if lost <= self.snapshot.index {
            return;
        }
        self.step_down(now_ns);
        self.lost_until = self.lost_until.max(lost);
        // What it was about to acknowledge stands behind what is gone.
        self.durability.forget_held();
    }

    /// The state up to the snapshot is lost: its file cannot be read back. The replica is set aside as
    /// by [`set_aside`](Self::set_aside), until a leader's snapshot that covers as much was taken in.
    /// Its term, its vote and its entries are in the log, and stay.
    pub fn lose_snapshot(&mut self, now_ns: u64) {
        self.step_down(now_ns);
        self.lost_until = self.lost_until.max(self.snapshot.index);
        self.durability.forget_held();
    }

    /// Whether a snapshot that covers everything up to `index` is of use: it covers more than is
    /// committed here, or all that was lost.
    pub fn wants_snapshot(&self, index: LogIndex) -> bool {
        if self.is_aside() {
            index >= self.lost_until.max(self.applied)
        } else {
            index > self.commit
        }
    }

    /// Whether it is set aside.
    pub fn is_aside(&self) -> bool {
        self.lost_until > LogIndex::ZERO
    }
}

/// What a replica shows.
impl Raft {
    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The latest term it has seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Its role.
    pub fn role(&self) -> Role {
        match self.standing {
            Standing::Follower => Role::Follower,
            Standing::PreCandidate(_) => Role::PreCandidate,
            Standing::Candidate(_) => Role::Candidate,
            Standing::Leader(_) => Role::Leader,
        }
    }

    /// The leader of its term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The last entry known to be committed.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// The last entry handed out to be applied, or covered by an installed snapshot.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The last entry of its log, durable or not.
    pub fn last_index(&self) -> LogIndex {
        self.log.last()
    }

    /// The first entry of its log; one beyond the last if there is none.
    pub fn first_index(&self) -> LogIndex {
        self.log.anchor().next()
    }

    /// The last entry such that it and all before it are durable here.
    pub fn durable_index(&self) -> LogIndex {
        self.durability.index()
    }

    /// The term of the entry at `index`, if the log has it (or it is the one before the first).
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The members.
    pub fn config(&self) -> &Config {
        self.quorum.config()
    }

    /// The latest snapshot; at index 0 there is none.
    pub fn snapshot(&self) -> &SnapshotMeta {
        &self.snapshot
    }

    /// What must survive a crash, as of now.
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
        }
    }

    /// What it refused so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last message that it refused, if any; [`counters`](Self::counters) tells whether there
    /// was another one.
    pub fn last_rejection(&self) -> Option<&Rejection> {
        self.last_rejection.as_ref()
    }

    /// What a leader knows of its peers, ascending by id; empty in other roles.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        let peers = match &self.standing {
            Standing::Leader(lead) => lead.peers.as_slice(),
            _ => &[],
        };
        peers
            .iter()
            .map(|peer| peer.status(self.now_ns, &self.options))
    }

    /// Bytes and number of appends that `peer` owes an answer to.
    pub fn inflight(&self, peer: NodeId) -> Option<(usize, usize)> {
        let Standing::Leader(lead) = &self.standing else {
            return None;
        };
        lead.peer(peer).map(|peer| {
            let (messages, bytes) = peer.inflight();
            (bytes, messages)
        })
    }

    /// Entries and bytes held in memory.
    pub fn cached(&self) -> (usize, usize) {
        (self.log.cached(), self.log.cache_bytes())
    }
}

impl Raft {
    fn advance_clock(&mut self, now_ns: u64) {
        // A caller's clock that goes back must not make leases longer or timers wrong.
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// A group at rest keeps no queue that a burst has made long.
    fn release_idle_memory(&mut self) {
        self.log.release();
        release_idle(&mut self.reads_ready);
        if let Standing::Leader(lead) = &mut self.standing {
            lead.reads.release();
            lead.rounds.release();
            lead.peers.iter_mut().for_each(Progress::release);
        }
    }

    fn may_campaign(&self) -> bool {
        self.can_lead
            && !self.is_aside()
            && self.quorum.contains(self.id)
            && self.term.0 < NUMBER_MAX
    }

    fn hears_leader(&self) -> bool {
        matches!(self.standing, Standing::Leader(_)) || self.now_ns < self.leader_heard_until_ns
    }

    fn draw_election_deadline(&mut self) {
        let timeout_ns = self.options.election_timeout_ns;
        let wait_ns = timeout_ns + self.rng.below(timeout_ns);
        self.election_deadline_ns = self.now_ns.saturating_add(wait_ns);
    }

    fn send(&mut self, to: NodeId, term: Term, body: Body) {
        self.outbox.push(Message {
            from: self.id,
            to,
            term,
            body,
        });
    }

    /// Sends a message that promises what is in memory now: it leaves when that is durable.
    fn promise(&mut self, to: NodeId, body: Body) {
        let is_dirty = self.must_sync();
        let seq = self.durability.barrier(is_dirty);
        let message = Message {
            from: self.id,
            to,
            term: self.term,
            body,
        };
        self.durability.hold(seq, message, &mut self.outbox);
    }

    /// Whether something that a promise rests on was not handed out yet.
    fn must_sync(&self) -> bool {
        self.log.has_unhanded()
            || self.install.is_some()
            || self.term != self.hard_handed.term
            || self.vote != self.hard_handed.vote
    }
}
