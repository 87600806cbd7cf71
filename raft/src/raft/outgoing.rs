//! What leaves the core: the one place where messages, writes, entries and answers are gathered.
//!
//! Invariants:
//! - the leader's appends never wait for its own disk (thesis 10.2.1);
//! - entries come out committed in order, each once, and only after they were handed out to be
//!   written;
//! - a read comes out only when what it has to see has come out before or comes out with it.

use super::{Install, Raft, Standing};
use crate::error::LogReadError;
use crate::message::{Body, Entry, Message};
use crate::mutants;
use crate::output::{LogReader, Output, Persist, Soft};
use crate::progress::PeerState;

/// Committed entries in one output, so that applying them does not hold up everything else.
const COMMITTED_BYTES_MAX: usize = 4 << 20;

impl Raft {
    /// What is to be done now. Everything in it is handed out once.
    pub fn output(&mut self, now_ns: u64, log: &mut dyn LogReader) -> Output {
        self.advance_clock(now_ns);
        let mut output = Output::default();
        if matches!(self.standing, Standing::Leader(_)) {
            self.begin_read_round();
            self.send_appends(log, &mut output);
            self.ask_successor();
        }
        output.persist = self.take_persist(&mut output);
        self.take_committed(log, &mut output);
        self.take_reads(&mut output);
        self.trim_cache();
        output.messages = std::mem::take(&mut self.outbox);
        let soft = self.soft();
        if soft != self.soft_told {
            self.soft_told = soft;
            output.soft = Some(soft);
        }
        output
    }

    /// Whether [`output`](Self::output) would bring anything. Cheap.
    pub fn has_output(&self) -> bool {
        let leads_to_output = match &self.standing {
            Standing::Leader(lead) => {
                lead.must_send || (lead.reads.want_round() && self.may_confirm_reads())
            }
            _ => false,
        };
        leads_to_output
            || !self.outbox.is_empty()
            || self.must_sync()
            || (self.must_flush_commit && self.commit > self.hard_handed.commit)
            || (self.commit > self.applied && self.may_apply())
            || self
                .reads_ready
                .front()
                .is_some_and(|read| read.index <= self.applied)
            || !self.reads_failed.is_empty()
            || self.soft() != self.soft_told
    }

    fn soft(&self) -> Soft {
        Soft {
            role: self.role(),
            leader: self.leader,
            term: self.term,
        }
    }

    /// Whether the commit index is known to include all that was ever acknowledged: only once an
    /// entry of this term is committed (thesis 6.4, step 1). Until then reads wait.
    fn may_confirm_reads(&self) -> bool {
        matches!(&self.standing, Standing::Leader(lead)
            if self.commit >= lead.term_start || mutants::READS_BEFORE_OWN_COMMIT)
    }

    /// All reads asked since the last output share one round.
    fn begin_read_round(&mut self) {
        if !self.may_confirm_reads() {
            return;
        }
        let wants_round =
            matches!(&self.standing, Standing::Leader(lead) if lead.reads.want_round());
        if !wants_round {
            return;
        }
        let round = self.begin_round();
        let is_alone = self.quorum.is_only(self.id) || mutants::CONFIRMS_READS_ALONE;
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        lead.reads.begin(round, self.commit);
        if is_alone {
            lead.reads.confirm(round, &mut self.reads_ready);
            lead.rounds.forget_before(round);
        }
    }

    fn send_appends(&mut self, reader: &mut dyn LogReader, output: &mut Output) {
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        if !std::mem::take(&mut lead.must_send) {
            return;
        }
        for place in 0..lead.peers.len() {
            // The window of each peer bounds this loop.
            while self.send_append(place, reader, output) {}
        }
    }

    /// Sends one append to a peer if it may get one and there is a reason. Returns whether another
    /// may follow.
    fn send_append(
        &mut self,
        place: usize,
        reader: &mut dyn LogReader,
        output: &mut Output,
    ) -> bool {
        let now_ns = self.now_ns;
        let last = self.log.last();
        let Standing::Leader(lead) = &mut self.standing else {
            return false;
        };
        let round = lead.rounds.newest();
        let peer = &mut lead.peers[place];
        if let Some(prev_index) = peer.question() {
            let Some(prev_term) = self.log.term_at(prev_index) else {
                peer.forget_sent();
                return true;
            };
            let question = Body::Append {
                prev_index,
                prev_term,
                commit: self.commit,
                round,
                entries: Vec::new(),
            };
            let to = peer.id;
            self.send(to, self.term, question);
            return true;
        }
        let Some(bytes_max) = peer.window_bytes(&self.options) else {
            return false;
        };
        let is_pipelining = peer.state == PeerState::Replicate;
        if is_pipelining && peer.next > last {
            return false;
        }
        let snapshot_index = self.snapshot.index;
        if peer.wants_snapshot(snapshot_index, now_ns, &self.options) {
            peer.need_snapshot(snapshot_index);
            output.snapshots.push(peer.id);
            return false;
        }
        let prev_index = peer.next.previous();
        let Some(prev_term) = self.log.term_at(prev_index) else {
            if peer.may_be_sent_snapshot(now_ns, &self.options) {
                peer.need_snapshot(self.snapshot.index);
                output.snapshots.push(peer.id);
            } else {
                peer.pause(now_ns);
            }
            return false;
        };
        let entries = if peer.next > last || peer.takes_no_entries() {
            Ok(Vec::new())
        } else {
            self.log.read(peer.next, last, bytes_max, reader)
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(fault) => {
                peer.pause(now_ns);
                output.fault = Some(fault);
                return false;
            }
        };
        let sent_last = entries.last().map_or(prev_index, |entry| entry.index);
        peer.sent(
            sent_last,
            entries.iter().map(Entry::weight_bytes).sum(),
            now_ns,
        );
        peer.commit_told = peer.commit_told.max(self.commit.min(sent_last));
        let body = Body::Append {
            prev_index,
            prev_term,
            commit: self.commit,
            round,
            entries,
        };
        self.outbox.push(Message {
            from: self.id,
            to: peer.id,
            term: self.term,
            body,
        });
        is_pipelining
    }

    /// What is to be written, if anything is.
    fn take_persist(&mut self, output: &mut Output) -> Option<Persist> {
        let must_sync = self.must_sync();
        let hard_state = self.hard_state();
        let may_flush = std::mem::take(&mut self.must_flush_commit);
        let has_moved = hard_state != self.hard_handed;
        let is_worth_writing = must_sync || (may_flush && has_moved);
        if !is_worth_writing {
            return None;
        }
        let install = self.install.take().map(
            |Install {
                 meta,
                 keeps_suffix_on_disk,
             }| {
                output.install = Some(meta.clone());
                (meta, keeps_suffix_on_disk)
            },
        );
        self.hard_handed = hard_state;
        let entries = self.log.hand_out();
        let seq = self.durability.begin(self.log.last(), self.term, must_sync);
        debug_assert!(hard_state.commit <= self.log.last());
        Some(Persist {
            seq,
            install,
            hard_state: has_moved.then_some(hard_state),
            entries,
            must_sync,
        })
    }

    fn take_committed(&mut self, reader: &mut dyn LogReader, output: &mut Output) {
        if self.applied >= self.commit || !self.may_apply() {
            return;
        }
        let from = self.applied.next();
        match self
            .log
            .read(from, self.commit, COMMITTED_BYTES_MAX, reader)
        {
            Ok(entries) => {
                self.applied = entries
                    .last()
                    .expect("a read brings at least one entry")
                    .index;
                assert!(
                    self.applied <= self.commit,
                    "only committed entries are applied"
                );
                assert!(
                    self.applied <= self.log.handed(),
                    "entries are written no later than applied"
                );
                self.release_budget(&entries);
                output.committed = entries;
                output.more = self.applied < self.commit;
            }
            Err(fault) => self.block_apply(fault, output),
        }
    }

    fn may_apply(&self) -> bool {
        !self.is_apply_blocked && !self.is_aside()
    }

    fn block_apply(&mut self, fault: LogReadError, output: &mut Output) {
        self.is_apply_blocked = true;
        output.fault = Some(fault);
    }

    /// Entries of this term that are committed make room for proposals.
    fn release_budget(&mut self, entries: &[Entry]) {
        let Standing::Leader(lead) = &mut self.standing else {
            return;
        };
        let own = entries
            .iter()
            .filter(|entry| entry.index >= lead.term_start);
        let bytes: usize = own.map(Entry::weight_bytes).sum();
        assert!(
            bytes <= lead.uncommitted_bytes,
            "only what was proposed is committed"
        );
        lead.uncommitted_bytes -= bytes;
    }

    fn take_reads(&mut self, output: &mut Output) {
        // Their indexes ascend: once leadership is lost and won again, later reads stand at later
        // indexes.
        let ready = self
            .reads_ready
            .iter()
            .take_while(|read| read.index <= self.applied || mutants::READS_BEFORE_APPLIED)
            .count();
        output.reads.extend(self.reads_ready.drain(..ready));
        output.reads_failed = std::mem::take(&mut self.reads_failed);
    }

    /// Keeps in memory what peers that follow closely still need, and what is neither durable nor
    /// applied.
    fn trim_cache(&mut self) {
        if self.log.cached() == 0 {
            return;
        }
        let mut unneeded = self.applied;
        if let Standing::Leader(lead) = &self.standing {
            let following = lead
                .peers
                .iter()
                .filter(|peer| peer.is_active(self.now_ns, &self.options));
            unneeded = following
                .map(|peer| peer.match_index)
                .fold(unneeded, std::cmp::Ord::min);
        }
        self.log.trim(
            unneeded,
            self.durability.index(),
            self.options.cache_bytes_max,
        );
    }
}
