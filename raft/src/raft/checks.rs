//! Which messages a replica takes at all. What is refused here has changed nothing.
//!
//! Invariants:
//! - terms, indexes and rounds of what is taken are at most [`NUMBER_MAX`], so that one above them
//!   never overflows;
//! - no message raises the term by more than [`TERM_JUMP_MAX`], except the first that a replica
//!   ever sees;
//! - what the log cannot store, or the caller cannot apply, never enters the log.

use super::{NUMBER_MAX, Raft};
use crate::ids::{LogIndex, NodeId, Term};
use crate::message::{Body, Entry, EntryKind, Message, SnapshotMeta};
use crate::mutants;
use crate::quorum::Quorum;
use crate::rejection::{FIRST_NUMBER_MAX, Rejection, RejectionReason, TERM_JUMP_MAX};

impl Raft {
    /// Whether a snapshot of which the first part arrived may be stored: its sender's term, its
    /// place and its members are those of this group. What is refused is counted.
    pub fn accepts_snapshot(&mut self, from: NodeId, term: Term, meta: &SnapshotMeta) -> bool {
        let message = Message {
            from,
            to: self.id,
            term,
            body: Body::SnapshotReceived { meta: meta.clone() },
        };
        let verdict = self.check_message(&message);
        if let Err(reason) = verdict {
            self.note_rejected(from, reason);
        }
        verdict.is_ok()
    }

    pub(super) fn check_message(&self, message: &Message) -> Result<(), RejectionReason> {
        let is_addressed = message.to == self.id
            && message.from != self.id
            && self.quorum.contains(message.from)
            && message.term > Term::ZERO
            && message.term.0 <= NUMBER_MAX;
        if !is_addressed || !is_sound(message) {
            return Err(RejectionReason::Unsound);
        }
        if message.term.0 > self.term_max() && !mutants::BELIEVES_ANY_TERM {
            return Err(RejectionReason::TermJump {
                term: message.term,
                own: self.term,
            });
        }
        match &message.body {
            Body::Append { entries, .. } => self.check_entries(entries),
            Body::SnapshotReceived { meta } if meta.config != *self.quorum.config() => {
                Err(RejectionReason::ForeignSnapshot { index: meta.index })
            }
            _ => Ok(()),
        }
    }

    /// The highest term that a message may carry. A replica that has never seen any may join a
    /// group of any age.
    fn term_max(&self) -> u64 {
        let is_fresh = self.term == Term::ZERO && self.log.last() == LogIndex::ZERO;
        if is_fresh {
            FIRST_NUMBER_MAX
        } else {
            self.term.0.saturating_add(TERM_JUMP_MAX)
        }
    }

    fn check_entries(&self, entries: &[Entry]) -> Result<(), RejectionReason> {
        let bytes_max = self.options.entry_bytes_max;
        for entry in entries {
            if entry.kind == EntryKind::Config && !mutants::STORES_CONFIGURATIONS {
                return Err(RejectionReason::EntryKind {
                    index: entry.index,
                    kind: entry.kind as u8,
                });
            }
            if entry.data.len() > bytes_max {
                return Err(RejectionReason::EntryTooLarge {
                    index: entry.index,
                    bytes: entry.data.len(),
                    bytes_max,
                });
            }
        }
        Ok(())
    }

    pub(super) fn note_rejected(&mut self, from: NodeId, reason: RejectionReason) {
        self.counters.count(&reason);
        self.last_rejection = Some(Rejection { from, reason });
    }
}

/// Whether a message's own numbers fit together.
fn is_sound(message: &Message) -> bool {
    let in_range = |index: LogIndex| index.0 <= NUMBER_MAX;
    match &message.body {
        Body::PreVote {
            last_index,
            last_term,
        }
        | Body::Vote {
            last_index,
            last_term,
            ..
        } => in_range(*last_index) && *last_term < message.term,
        Body::Append {
            prev_index,
            prev_term,
            commit,
            entries,
            ..
        } => {
            let (mut index, mut term) = (*prev_index, *prev_term);
            let is_begin = index == LogIndex::ZERO;
            let in_order = entries.iter().all(|entry| {
                let fits =
                    entry.index == index.next() && entry.term >= term && entry.term > Term::ZERO;
                (index, term) = (entry.index, entry.term);
                fits
            });
            is_begin == (*prev_term == Term::ZERO)
                && in_order
                && in_range(index)
                && in_range(*commit)
                && term <= message.term
        }
        Body::AppendAccepted { match_index, .. } => in_range(*match_index),
        Body::AppendRejected {
            prev_index,
            hint_index,
            hint_term,
            ..
        } => {
            // Whoever rejects even what follows nothing vouches for no entry at all.
            let is_nothing = (*prev_index, *hint_index, *hint_term)
                == (LogIndex::ZERO, LogIndex::ZERO, Term::ZERO);
            in_range(*prev_index) && (hint_index < prev_index || is_nothing)
        }
        Body::Heartbeat { commit, .. } => in_range(*commit),
        Body::SnapshotReceived { meta } => {
            meta.index > LogIndex::ZERO
                && meta.index.0 <= FIRST_NUMBER_MAX
                && meta.term > Term::ZERO
                && meta.term <= message.term
                && Quorum::new(meta.config.clone()).is_some()
        }
        Body::PreVoteReply { .. }
        | Body::VoteReply { .. }
        | Body::HeartbeatReply { .. }
        | Body::TimeoutNow => true,
    }
}
