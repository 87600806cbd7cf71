//! What a follower does with the messages of a leader (section 5.3, chapter 5).
//!
//! Invariants:
//! - the log is cut only where an entry of a leader of this term contradicts it, and never up to
//!   the commit index;
//! - the commit index moves only as far as this leader's message proves the logs equal;
//! - nothing is accepted to the leader before it is durable.

use super::{Install, Raft, Standing};
use crate::ids::{LogIndex, NodeId, Round, Term};
use crate::message::{Body, Entry, SnapshotMeta};
use crate::mutants;
use crate::rejection::RejectionReason;

/// An append, taken apart.
struct Append {
    prev_index: LogIndex,
    prev_term: Term,
    commit: LogIndex,
    round: Round,
    entries: Vec<Entry>,
}

impl Append {
    /// The last entry that this message speaks of.
    fn last(&self) -> LogIndex {
        LogIndex(self.prev_index.0 + self.entries.len() as u64)
    }

    /// What the message says is the term at `index`.
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        match index.0.checked_sub(self.prev_index.0)? {
            0 => Some(self.prev_term),
            offset => self
                .entries
                .get(offset as usize - 1)
                .map(|entry| entry.term),
        }
    }
}

/// So many heartbeats of a leader claim the same before it is believed.
const CLAIMS_MIN: u32 = 3;

/// What a leader says is here and is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    from: NodeId,
    term: Term,
    /// That of its last heartbeat which said so.
    round: Round,
    times: u32,
}

/// A leader that takes more entries than this for stored here, beyond the log, is wrong itself.
const FORGOTTEN_MAX: u64 = 1 << 32;

impl Raft {
    /// A message that only a leader sends.
    pub(super) fn on_leader_message(&mut self, from: NodeId, term: Term, body: Body) {
        if term < self.term {
            self.tell_term(from, &body);
            return;
        }
        let is_second_leader = term == self.term
            && (matches!(self.standing, Standing::Leader(_))
                || self.leader.is_some_and(|leader| leader != from));
        if is_second_leader {
            self.note_rejected(from, RejectionReason::SecondLeader { term });
            return;
        }
        if term > self.term || !matches!(self.standing, Standing::Follower) || self.leader.is_none()
        {
            self.become_follower(term, Some(from));
        }
        self.leader_heard_until_ns = self.now_ns.saturating_add(self.options.election_timeout_ns);
        self.draw_election_deadline();
        self.preference.leader_heard();
        if !self.can_lead {
            // A replica without a disk can promise nothing. Its silence also tells the leader not
            // to count on it.
            return;
        }
        match body {
            Body::Append {
                prev_index,
                prev_term,
                commit,
                round,
                entries,
            } => {
                self.on_append(
                    from,
                    Append {
                        prev_index,
                        prev_term,
                        commit,
                        round,
                        entries,
                    },
                );
            }
            Body::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Body::SnapshotReceived { meta } => self.on_snapshot(from, meta),
            _ => unreachable!("only leader messages are handed here"),
        }
    }

    /// Answers a leader of an older term, which learns from the term of the answer that it is
    /// deposed. Silence would leave a replica that came back with a higher term out for good. The
    /// term need not be durable here: it is a true fact about the group, and forgetting it promises
    /// nothing to anybody.
    fn tell_term(&mut self, from: NodeId, body: &Body) {
        if let Body::Append { round, .. } | Body::Heartbeat { round, .. } = body {
            self.send(from, self.term, Body::HeartbeatReply { round: *round });
        }
    }

    fn on_append(&mut self, from: NodeId, mut append: Append) {
        if self.is_aside() {
            self.vouch_for_nothing(from, append.prev_index, append.round);
            return;
        }
        if !append.entries.is_empty() && self.log.cache_bytes() >= self.options.backlog_bytes_max()
        {
            self.counters.backlogged += 1;
            return;
        }
        if !self.skip_committed(&mut append) {
            let reason = RejectionReason::Contradiction {
                term: self.term,
                committed: self.commit,
            };
            self.note_rejected(from, reason);
            return;
        }
        if self.log.term_at(append.prev_index) != Some(append.prev_term) {
            self.reject(from, &append);
            return;
        }
        let last = append.last();
        let (commit, round) = (append.commit, append.round);
        self.take_entries(append);
        // Only as far as this message proves the logs equal: what lies behind may be a leftover
        // of an old leader.
        self.commit_to(commit.min(if mutants::COMMITS_BEYOND_MATCH {
            self.log.last()
        } else {
            last
        }));
        self.accept(from, last, round);
    }

    /// Drops from the message what this replica has committed: by leader completeness (section 5.4)
    /// it is the same. Returns false if it is not, which no correct leader sends.
    fn skip_committed(&self, append: &mut Append) -> bool {
        if append.prev_index > self.commit {
            return true;
        }
        let known = append.last().min(self.commit);
        if self
            .log
            .term_at(known)
            .is_some_and(|term| append.term_at(known) != Some(term))
        {
            return false;
        }
        let skipped = (known.0 - append.prev_index.0) as usize;
        append.entries.drain(..skipped);
        append.prev_index = self.commit;
        append.prev_term = self
            .log
            .term_at(self.commit)
            .expect("the log reaches to the commit index");
        true
    }

    /// Appends what is new and replaces what contradicts. A shorter append that comes late
    /// leaves a longer matching log alone.
    fn take_entries(&mut self, append: Append) {
        if mutants::STALE_APPEND_CUTS && self.log.last() > append.last().max(self.commit) {
            let kept = append.last().max(self.commit);
            self.log.truncate(kept.next());
            self.durability.cut(kept);
        }
        let mut fresh = 0;
        for entry in &append.entries {
            match self.log.term_at(entry.index) {
                Some(term) if term == entry.term => fresh += 1,
                Some(_) => {
                    assert!(
                        entry.index > self.commit,
                        "what is committed is never cut off"
                    );
                    self.log.truncate(entry.index);
                    self.durability.cut(entry.index.previous());
                    break;
                }
                None => break,
            }
        }
        for entry in append.entries.into_iter().skip(fresh) {
            self.log.push(entry);
        }
    }

    /// Says how far the logs may agree: at the last entry that is not beyond the one refused,
    /// neither in index nor in term, so that the leader skips a whole term at once (end of section
    /// 5.3).
    fn reject(&mut self, from: NodeId, append: &Append) {
        let below = append.prev_index.previous();
        let hint_index = self
            .log
            .last_at_most(below.min(self.log.last()), append.prev_term)
            .unwrap_or(self.log.anchor())
            .max(self.commit.min(below));
        let hint_term = self.log.term_at(hint_index).unwrap_or(Term::ZERO);
        let reply = Body::AppendRejected {
            prev_index: append.prev_index,
            hint_index,
            hint_term,
            round: append.round,
        };
        self.reply_without_disk(from, reply);
    }

    /// Says that the logs may agree nowhere: entries were lost, and which of those that are left the
    /// leader has is of no use. So it sends a snapshot, unless its log goes back to the beginning.
    fn vouch_for_nothing(&mut self, from: NodeId, prev_index: LogIndex, round: Round) {
        let reply = Body::AppendRejected {
            prev_index,
            hint_index: LogIndex::ZERO,
            hint_term: Term::ZERO,
            round,
        };
        self.reply_without_disk(from, reply);
    }

    /// Tells the leader that everything up to `match_index` is on this disk, once it is.
    fn accept(&mut self, from: NodeId, match_index: LogIndex, round: Round) {
        let body = Body::AppendAccepted { match_index, round };
        if match_index <= self.durability.index() && self.durability.term() == self.term {
            self.send(from, self.term, body);
        } else {
            self.promise(from, body);
        }
    }

    fn on_heartbeat(&mut self, from: NodeId, commit: LogIndex, round: Round) {
        // Without new entries to go along with, a commit index is written no more often than this.
        self.must_flush_commit = true;
        if commit <= self.log.last() {
            self.claim = None;
        }
        // The leader says no more than what it knows this log to hold, but a replica that lost
        // its disk holds less.
        if commit > self.log.last() {
            let last = self.log.last();
            let reason = RejectionReason::CommitBeyondLog {
                term: self.term,
                commit,
                last,
            };
            self.note_rejected(from, reason);
            if self.is_claimed(from, commit, round) && !mutants::FORGOTTEN_ENTRIES_ARE_NO_LOSS {
                self.set_aside(self.now_ns, commit);
            }
        } else if !self.is_aside() {
            self.commit_to(commit);
        }
        self.reply_without_disk(from, Body::HeartbeatReply { round });
        if self.is_aside() && commit > LogIndex::ZERO {
            // A leader that sends no entries would go on counting on those that it knows of.
            self.vouch_for_nothing(from, commit, round);
        }
    }

    /// Sends a reply that speaks of no entry. It may leave before the term is durable: the leader
    /// takes from it that this replica will not vote for another for an election timeout, and
    /// [`Raft::new`] keeps that promise through a crash by waiting as long, provided that the disk
    /// knows that the replica ever was in a group. Until it does, the reply waits.
    fn reply_without_disk(&mut self, to: NodeId, body: Body) {
        if self.durability.term() == Term::ZERO {
            self.promise(to, body);
        } else {
            self.send(to, self.term, body);
        }
    }

    /// Whether a leader has claimed, heartbeat after heartbeat, that this replica has entries that it
    /// lacks. The leader has this replica's word for them then, and may have told a client so: a
    /// replica that forgot them must not help to elect one that lacks them. One message may be
    /// forged, and an index that no log comes to is.
    fn is_claimed(&mut self, from: NodeId, commit: LogIndex, round: Round) -> bool {
        if commit.0 - self.log.last().0 > FORGOTTEN_MAX {
            return false;
        }
        let before = self
            .claim
            .filter(|it| (it.from, it.term) == (from, self.term));
        let times = match before {
            Some(before) if round > before.round => before.times + 1,
            Some(before) => before.times,
            None => 1,
        };
        self.claim = Some(Claim {
            from,
            term: self.term,
            round,
            times: times.min(CLAIMS_MIN),
        });
        times >= CLAIMS_MIN
    }

    fn commit_to(&mut self, commit: LogIndex) {
        assert!(
            commit <= self.log.last(),
            "only entries that are here are committed"
        );
        self.commit = self.commit.max(commit);
    }

    /// A whole snapshot is here. It is taken in unless this replica has committed as much, and has
    /// lost nothing of it.
    fn on_snapshot(&mut self, from: NodeId, meta: SnapshotMeta) {
        if self.is_aside() {
            // What is committed behind the snapshot is here, and is applied again.
            let leads_up =
                meta.index > self.commit || self.log.term_at(meta.index) == Some(meta.term);
            if !self.wants_snapshot(meta.index) || !leads_up {
                return;
            }
        } else if !self.wants_snapshot(meta.index) && !mutants::INSTALLS_OLD_SNAPSHOTS {
            self.accept(from, self.commit, Round::ZERO);
            return;
        }
        self.lost_until = LogIndex::ZERO;
        let matches = self.log.term_at(meta.index) == Some(meta.term);
        // What follows the snapshot may be kept on disk only if the disk has the very entries
        // that lead up to it; else it is cleared, and what memory still has is written again.
        let keeps_suffix_on_disk = (matches && self.log.handed() >= meta.index)
            || (mutants::SNAPSHOT_KEEPS_CONFLICTS && self.log.handed() > meta.index);
        if matches {
            self.log.compact(meta.index);
        } else {
            // What is committed is the same in every log; the rest of this one contradicts the
            // leader's.
            self.durability.cut(self.commit);
            self.log.restart(meta.index, meta.term);
        }
        self.commit = if mutants::INSTALLS_OLD_SNAPSHOTS {
            meta.index
        } else {
            self.commit.max(meta.index)
        };
        self.applied = meta.index;
        self.snapshot = meta.clone();
        self.install = Some(Install {
            meta,
            keeps_suffix_on_disk,
        });
        self.accept(from, self.snapshot.index, Round::ZERO);
    }
}
