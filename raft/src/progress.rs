//! What a leader knows of one peer.
//!
//! Invariants:
//! - match < next;
//! - `inflight` ascends, lies in (match, next), and its bytes are counted;
//! - it is empty unless the state is [`PeerState::Replicate`];
//! - `vouches_for_nothing` implies `is_aside`. Not the other way round: a denial that comes late, or
//!   out of turn, is enough not to count on a peer, and too little to stop sending it entries.

use std::collections::VecDeque;

use crate::ids::{LogIndex, NodeId, Round};
use crate::log::release_idle;
use crate::mutants;
use crate::options::Options;

/// Heartbeats without an answer to what was sent, at most, before it is sent again. Each vain
/// attempt doubles the wait up to this: a peer whose disk is slow must not be flooded with what it
/// has.
const RETRY_HEARTBEATS_MAX: u64 = 4;

/// A snapshot that did not help has an election timeout to be installed before it is sent again,
/// twice as long each time, up to so many doublings.
const SNAPSHOT_DOUBLINGS_MAX: u32 = 6;

/// How entries go to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// One append at a time, until the place where the logs agree is found.
    Probe,
    /// Pipelined.
    Replicate,
    /// It needs entries that are gone: a snapshot is on its way.
    Snapshot,
}

/// What a leader knows of a peer, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who it is.
    pub id: NodeId,
    /// The last entry known to be on its disk.
    pub match_index: LogIndex,
    /// The next entry to send to it.
    pub next_index: LogIndex,
    /// How entries go to it.
    pub state: PeerState,
    /// Whether it was heard from within the last election timeout.
    pub is_active: bool,
    /// It has lost entries that it had, and waits for a snapshot that covers them: it said so last.
    pub is_aside: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) id: NodeId,
    pub(crate) match_index: LogIndex,
    pub(crate) next: LogIndex,
    pub(crate) state: PeerState,
    inflight: VecDeque<Sent>,
    inflight_bytes: usize,
    /// In [`PeerState::Probe`]: an append is out and nothing more goes until something comes back.
    pub(crate) is_paused: bool,
    /// Since when an answer has been owed; meaningful while something is out.
    waiting_since_ns: u64,
    retry_heartbeats: u64,
    /// When the oldest append left that was not accepted yet, whatever was given up since.
    owed_since_ns: Option<u64>,
    /// How long it takes from sending an append to its acceptance: up at once, down slowly. Most of
    /// it is the follower's disk.
    acceptance_ns: u64,
    /// It is aside, and denied the very entry that it was asked about: it takes none before a
    /// snapshot.
    vouches_for_nothing: bool,
    /// It denied something that it had accepted before, in whatever state, and accepted nothing
    /// since.
    pub(crate) is_aside: bool,
    pub(crate) heard_ns: u64,
    pub(crate) acked_round: Round,
    /// When the newest round it answered was sent.
    pub(crate) acked_sent_ns: u64,
    /// The commit index it was last told, as far as it can use it.
    pub(crate) commit_told: LogIndex,
    /// The caller was asked to send a snapshot that covers this, and has not said that this ended.
    snapshot_asked: Option<LogIndex>,
    /// A snapshot that covers this was sent at that time.
    snapshot_sent: Option<(LogIndex, u64)>,
    /// Snapshots that were sent since anything new was accepted.
    snapshots_in_vain: u32,
    /// Transfers that failed one after the other, and until when none is tried again.
    snapshots_failed: u32,
    snapshot_retry_at_ns: u64,
}

/// An append on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    last: LogIndex,
    bytes: usize,
    at_ns: u64,
}

impl Progress {
    /// A peer of which a new leader knows nothing.
    pub(crate) fn new(id: NodeId, next: LogIndex, now_ns: u64) -> Self {
        Self {
            id,
            match_index: LogIndex::ZERO,
            next,
            state: PeerState::Probe,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            is_paused: false,
            waiting_since_ns: now_ns,
            retry_heartbeats: 1,
            owed_since_ns: None,
            acceptance_ns: 0,
            vouches_for_nothing: false,
            is_aside: false,
            heard_ns: now_ns,
            acked_round: Round::ZERO,
            acked_sent_ns: 0,
            commit_told: LogIndex::ZERO,
            snapshot_asked: None,
            snapshot_sent: None,
            snapshots_in_vain: 0,
            snapshots_failed: 0,
            snapshot_retry_at_ns: 0,
        }
    }

    /// How many bytes of entries may go out now in one append; `None` if no append may.
    pub(crate) fn window_bytes(&self, options: &Options) -> Option<usize> {
        match self.state {
            PeerState::Snapshot => None,
            PeerState::Probe => (!self.is_paused).then_some(options.append_bytes_max),
            PeerState::Replicate => {
                let left_bytes = options
                    .inflight_bytes_max
                    .saturating_sub(self.inflight_bytes);
                let has_room =
                    self.inflight.len() < options.inflight_messages_max && left_bytes > 0;
                has_room.then_some(left_bytes.min(options.append_bytes_max))
            }
        }
    }

    /// An append that ends at `last` (or none, to probe) went out.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize, now_ns: u64) {
        self.owed_since_ns = self.owed_since_ns.or(Some(now_ns));
        match self.state {
            PeerState::Probe => {
                self.is_paused = true;
                self.waiting_since_ns = now_ns;
            }
            PeerState::Replicate => {
                if self.inflight.is_empty() {
                    self.waiting_since_ns = now_ns;
                }
                self.inflight.push_back(Sent {
                    last,
                    bytes,
                    at_ns: now_ns,
                });
                self.inflight_bytes += bytes;
                self.next = last.next();
            }
            PeerState::Snapshot => {
                unreachable!("nothing is appended while a snapshot is on its way")
            }
        }
    }

    /// Its disk has everything up to `match_index`. Returns whether that is news.
    pub(crate) fn accepted(
        &mut self,
        match_index: LogIndex,
        anchor: LogIndex,
        now_ns: u64,
    ) -> bool {
        let is_news = match_index > self.match_index;
        if is_news {
            self.match_index = match_index;
            self.next = self.next.max(match_index.next());
            self.note_acceptance(now_ns);
            while let Some(front) = self.inflight.front()
                && front.last <= match_index
            {
                self.inflight_bytes -= front.bytes;
                self.inflight.pop_front();
            }
            self.owed_since_ns = self.inflight.front().map(|front| front.at_ns);
            self.waiting_since_ns = now_ns;
            self.retry_heartbeats = 1;
            self.snapshots_in_vain = 0;
            self.snapshots_failed = 0;
            self.snapshot_retry_at_ns = 0;
        }
        self.vouches_for_nothing = false;
        self.is_aside = false;
        let can_follow = match self.state {
            PeerState::Probe => match_index >= self.match_index,
            PeerState::Replicate => false,
            // Also when a snapshot is still on its way: the peer has what it needs from elsewhere.
            PeerState::Snapshot => self.match_index >= anchor,
        };
        if can_follow {
            self.state = PeerState::Replicate;
            self.next = self.match_index.next();
            self.is_paused = false;
            self.snapshot_sent = None;
        }
        is_news
    }

    /// The oldest append that was out is accepted, and perhaps more.
    fn note_acceptance(&mut self, now_ns: u64) {
        let Some(since_ns) = self.owed_since_ns else {
            return;
        };
        let sample_ns = now_ns.saturating_sub(since_ns);
        let smoothed_ns = self.acceptance_ns - self.acceptance_ns / 8 + sample_ns / 8;
        self.acceptance_ns = smoothed_ns.max(sample_ns);
    }

    /// Whether `prev_index` is where its log is known to agree, by its own word: only one that has
    /// lost entries since refuses what follows there.
    pub(crate) fn has_known(&self, prev_index: LogIndex) -> bool {
        self.state == PeerState::Probe
            && prev_index == self.match_index
            && prev_index.next() == self.next
    }

    /// It has lost entries, and none that it has counts. Returns whether that is news: until it has
    /// a snapshot, nothing but empty appends go to it, to see whether it is back.
    pub(crate) fn vouches_for_nothing(&mut self) -> bool {
        let is_news = !self.vouches_for_nothing;
        self.vouches_for_nothing = true;
        self.is_aside = true;
        self.is_paused &= !is_news;
        is_news
    }

    /// Whether only empty appends go to it: what it cannot use yet is not worth its bytes.
    pub(crate) fn takes_no_entries(&self) -> bool {
        self.state == PeerState::Probe && (self.vouches_for_nothing || self.snapshot_sent.is_some())
    }

    /// Whether to send it a snapshot although the log reaches back far enough: one that it was not
    /// sent yet, or was sent long ago in vain.
    pub(crate) fn wants_snapshot(&self, latest: LogIndex, now_ns: u64, options: &Options) -> bool {
        self.vouches_for_nothing
            && self.may_be_sent_snapshot(now_ns, options)
            && self.snapshot_sent.is_none_or(|(covered, sent_ns)| {
                latest > covered || now_ns >= self.snapshot_due_ns(sent_ns, options)
            })
    }

    /// Whether a transfer may begin.
    pub(crate) fn may_be_sent_snapshot(&self, now_ns: u64, options: &Options) -> bool {
        self.snapshot_asked.is_none()
            && self.is_active(now_ns, options)
            && now_ns >= self.snapshot_retry_at_ns
    }

    /// When a snapshot that was sent at `sent_ns` is taken for useless.
    fn snapshot_due_ns(&self, sent_ns: u64, options: &Options) -> u64 {
        let doublings = self.snapshots_in_vain.saturating_sub(1);
        let wait_ns = options.election_timeout_ns << doublings.min(SNAPSHOT_DOUBLINGS_MAX);
        sent_ns.saturating_add(wait_ns)
    }

    /// It does not have the entry at `prev_index`; the logs may agree at `agree` (below the log's
    /// anchor: `None`). Returns whether that is an answer to the latest append.
    pub(crate) fn rejected(
        &mut self,
        prev_index: LogIndex,
        agree: LogIndex,
        anchor: LogIndex,
        options: &Options,
        now_ns: u64,
    ) -> bool {
        let is_answer = match self.state {
            // Everything up to match is there; and behind `next` nothing was sent.
            PeerState::Replicate => prev_index > self.match_index && prev_index < self.next,
            PeerState::Probe => prev_index.next() == self.next && prev_index > self.match_index,
            PeerState::Snapshot => false,
        };
        if !is_answer {
            return false;
        }
        if let Some((covered, sent_ns)) = self.snapshot_sent {
            let is_fresh = now_ns < self.snapshot_due_ns(sent_ns, options);
            if agree < anchor && prev_index >= covered && is_fresh {
                // The snapshot arrived but is not installed yet: ask again later instead of sending
                // it again.
                return false;
            }
        }
        let mut next = agree.next().min(prev_index).max(self.match_index.next());
        if mutants::IGNORES_CONFLICT_HINT {
            next = prev_index.next();
        }
        self.probe(next);
        self.retry_heartbeats = 1;
        true
    }

    /// It lives. If it has owed an answer for long, what was sent is taken for lost.
    /// Returns whether something may be sent that could not before.
    pub(crate) fn heartbeat_answered(&mut self, now_ns: u64, options: &Options) -> bool {
        let is_owing = match self.state {
            PeerState::Probe => self.is_paused && !mutants::PAUSED_PEER_NEVER_RESUMES,
            PeerState::Replicate => !self.inflight.is_empty(),
            PeerState::Snapshot => false,
        };
        if !is_owing
            || now_ns
                < self
                    .waiting_since_ns
                    .saturating_add(self.patience_ns(options))
        {
            return false;
        }
        self.retry_heartbeats = (self.retry_heartbeats * 2).min(RETRY_HEARTBEATS_MAX);
        let next = if self.state == PeerState::Probe {
            self.next
        } else {
            self.match_index.next()
        };
        self.probe(next);
        true
    }

    /// How long to wait for an acceptance before what was sent is taken for lost: longer than the
    /// follower's disk has been taking, or a slow disk would be sent everything several times. A
    /// batch may have to wait for the one before it, hence twice.
    fn patience_ns(&self, options: &Options) -> u64 {
        let heartbeats_ns = options
            .heartbeat_interval_ns
            .saturating_mul(self.retry_heartbeats);
        let disk_ns = self.acceptance_ns.saturating_mul(2);
        if mutants::RESENDS_TO_SLOW_DISK {
            return heartbeats_ns;
        }
        heartbeats_ns.max(disk_ns.min(options.election_timeout_ns.saturating_mul(2)))
    }

    /// It needs entries that are gone: a snapshot up to `index` will bring it beyond them.
    pub(crate) fn need_snapshot(&mut self, index: LogIndex) {
        self.clear_inflight();
        self.state = PeerState::Snapshot;
        self.snapshot_asked = Some(index);
    }

    /// The transfer of a snapshot ended.
    pub(crate) fn snapshot_ended(&mut self, was_sent: bool, now_ns: u64, options: &Options) {
        let Some(index) = self.snapshot_asked.take() else {
            return;
        };
        let is_stuck = mutants::FAILED_SNAPSHOT_NEVER_RETRIED && !was_sent;
        if self.state != PeerState::Snapshot || is_stuck {
            return;
        }
        if was_sent || self.vouches_for_nothing {
            self.snapshot_sent = Some((index, now_ns));
            self.snapshots_in_vain = self.snapshots_in_vain.saturating_add(1);
        }
        if was_sent {
            self.snapshots_failed = 0;
        } else {
            // The first attempt may have met what is over soon; one that is refused for good must not be made for ever.
            let doublings = self.snapshots_failed.min(SNAPSHOT_DOUBLINGS_MAX);
            let wait_ns = options.heartbeat_interval_ns << doublings;
            self.snapshots_failed = self.snapshots_failed.saturating_add(1);
            self.snapshot_retry_at_ns = now_ns.saturating_add(wait_ns);
        }
        let next = if was_sent {
            index.max(self.match_index).next()
        } else {
            self.match_index.next()
        };
        self.probe(next);
        // A peer that could not be reached is tried again when it shows that it lives.
        self.is_paused = !was_sent;
        self.waiting_since_ns = now_ns;
    }

    /// Nothing can go to it for now: wait until it is heard from.
    pub(crate) fn pause(&mut self, now_ns: u64) {
        self.probe(self.next);
        self.is_paused = true;
        self.waiting_since_ns = now_ns;
    }

    pub(crate) fn status(&self, now_ns: u64, options: &Options) -> PeerStatus {
        PeerStatus {
            id: self.id,
            match_index: self.match_index,
            next_index: self.next,
            state: self.state,
            is_active: self.is_active(now_ns, options),
            is_aside: self.is_aside,
        }
    }

    pub(crate) fn is_active(&self, now_ns: u64, options: &Options) -> bool {
        now_ns < self.heard_ns.saturating_add(options.election_timeout_ns)
    }

    /// Gives memory back while nothing is out.
    pub(crate) fn release(&mut self) {
        release_idle(&mut self.inflight);
    }

    pub(crate) fn inflight(&self) -> (usize, usize) {
        (self.inflight.len(), self.inflight_bytes)
    }

    #[cfg(test)]
    pub(crate) fn inflight_capacity(&self) -> usize {
        self.inflight.capacity()
    }

    fn probe(&mut self, next: LogIndex) {
        debug_assert!(next > self.match_index);
        self.clear_inflight();
        self.state = PeerState::Probe;
        self.next = next;
        self.is_paused = false;
    }

    fn clear_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }
}
