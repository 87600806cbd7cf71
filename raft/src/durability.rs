//! What of the replica's promises the disk has confirmed, and the messages that wait for it.
//!
//! Invariants:
//! - persisted <= last synced seq <= last seq;
//! - `index` and every outstanding write's end are at most the log's last entry *as it is now*:
//!   when entries are overwritten both are cut back, so that the completion of an older write never
//!   counts a newer entry that reuses its index as durable (the ABA race);
//! - held messages ascend by the seq they wait for, and all belong to the replica's present term.

use std::collections::VecDeque;

use crate::ids::{LogIndex, PersistSeq, Term};
use crate::message::{Body, Message};
use crate::mutants;

#[derive(Clone, Debug)]
pub(crate) struct Durability {
    last_seq: PersistSeq,
    last_sync_seq: PersistSeq,
    persisted: PersistSeq,
    /// One for each write that must be synced and is not: the caller bounds how many it has under
    /// way.
    writes: VecDeque<Write>,
    /// At most a few for each outstanding write: what can be said once is merged.
    held: VecDeque<(PersistSeq, Message)>,
    index: LogIndex,
    term: Term,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    seq: PersistSeq,
    last: LogIndex,
    term: Term,
}

impl Durability {
    /// A replica just read from disk: everything is durable.
    pub(crate) fn new(index: LogIndex, term: Term) -> Self {
        Self {
            last_seq: PersistSeq::ZERO,
            last_sync_seq: PersistSeq::ZERO,
            persisted: PersistSeq::ZERO,
            writes: VecDeque::new(),
            held: VecDeque::new(),
            index,
            term,
        }
    }

    /// The last entry such that it and all before it are durable.
    pub(crate) fn index(&self) -> LogIndex {
        self.index
    }

    /// The newest durable term; the vote given in it is durable too.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    pub(crate) fn has_persisted(&self, seq: PersistSeq) -> bool {
        seq <= self.persisted
    }

    /// Numbers a write after which the log ends at `last` and the term is `term`.
    pub(crate) fn begin(&mut self, last: LogIndex, term: Term, must_sync: bool) -> PersistSeq {
        self.last_seq = self.last_seq.next();
        if must_sync {
            self.last_sync_seq = self.last_seq;
            self.writes.push_back(Write {
                seq: self.last_seq,
                last,
                term,
            });
        }
        self.last_seq
    }

    /// The write that covers everything as of now: the next one if something is not handed out yet,
    /// else the last one that gets synced. (A write of nothing but a commit index may never be.)
    pub(crate) fn barrier(&self, is_dirty: bool) -> PersistSeq {
        if is_dirty {
            self.last_seq.next()
        } else {
            self.last_sync_seq
        }
    }

    /// Everything up to `seq` is durable: releases what waited for it.
    pub(crate) fn complete(&mut self, seq: PersistSeq, released: &mut Vec<Message>) {
        let seq = seq.min(self.last_seq);
        self.persisted = self.persisted.max(seq);
        while let Some(write) = self
            .writes
            .front()
            .copied()
            .filter(|write| write.seq <= seq)
        {
            self.writes.pop_front();
            self.index = self.index.max(write.last);
            assert!(write.term >= self.term, "terms reach the disk in order");
            self.term = write.term;
        }
        while self
            .held
            .front()
            .is_some_and(|(waits_for, _)| *waits_for <= seq)
        {
            released.extend(self.held.pop_front().map(|(_, message)| message));
        }
    }

    /// The entries behind `index` are about to be overwritten or dropped.
    pub(crate) fn cut(&mut self, index: LogIndex) {
        self.index = self.index.min(index);
        if mutants::OLD_WRITE_COUNTS_NEW_ENTRIES {
            return;
        }
        for write in &mut self.writes {
            write.last = write.last.min(index);
        }
    }

    /// Sends `message` once `seq` is durable.
    pub(crate) fn hold(&mut self, seq: PersistSeq, message: Message, released: &mut Vec<Message>) {
        if self.has_persisted(seq) {
            released.push(message);
            return;
        }
        assert!(
            self.held.back().is_none_or(|(last, _)| *last <= seq),
            "barriers never go back"
        );
        let same_wait = self
            .held
            .iter_mut()
            .rev()
            .take_while(|(waits_for, _)| *waits_for == seq);
        for (_, waiting) in same_wait {
            if merge(waiting, &message) {
                return;
            }
        }
        self.held.push_back((seq, message));
    }

    /// The term moved on. An accepted append of the old term must not leave any more: the entries
    /// it speaks of may be overwritten before their write completes. The others would be ignored by
    /// whoever gets them.
    pub(crate) fn forget_held(&mut self) {
        self.held.clear();
    }
}

/// Makes `waiting` say what `message` says as well, if one message can.
fn merge(waiting: &mut Message, message: &Message) -> bool {
    if waiting.to != message.to || waiting.term != message.term {
        return false;
    }
    match (&mut waiting.body, &message.body) {
        (
            Body::AppendAccepted { match_index, round },
            Body::AppendAccepted {
                match_index: new_match,
                round: new_round,
            },
        ) => {
            *match_index = (*match_index).max(*new_match);
            *round = (*round).max(*new_round);
            true
        }
        (Body::HeartbeatReply { round }, Body::HeartbeatReply { round: new_round }) => {
            *round = (*round).max(*new_round);
            true
        }
        (waiting, message) => waiting == message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Round};

    fn accepted(match_index: u64, round: u64) -> Message {
        Message {
            from: NodeId(2),
            to: NodeId(1),
            term: Term(1),
            body: Body::AppendAccepted {
                match_index: LogIndex(match_index),
                round: Round(round),
            },
        }
    }

    fn fresh() -> Durability {
        Durability::new(LogIndex(0), Term(0))
    }

    #[test]
    fn an_older_write_never_counts_entries_that_replaced_its_own() {
        let mut durability = fresh();
        let mut released = Vec::new();
        let old = durability.begin(LogIndex(5), Term(1), true);
        durability.cut(LogIndex(2));
        let new = durability.begin(LogIndex(5), Term(2), true);
        durability.complete(old, &mut released);
        assert_eq!(durability.index(), LogIndex(2));
        durability.complete(new, &mut released);
        assert_eq!(durability.index(), LogIndex(5));
    }

    #[test]
    fn messages_leave_in_order_when_their_write_is_durable_and_equal_ones_are_merged() {
        let mut durability = fresh();
        let mut released = Vec::new();
        let first = durability.begin(LogIndex(1), Term(1), true);
        durability.hold(first, accepted(1, 3), &mut released);
        let second = durability.begin(LogIndex(4), Term(1), true);
        durability.hold(second, accepted(2, 4), &mut released);
        durability.hold(second, accepted(4, 1), &mut released);
        assert!(released.is_empty());
        durability.complete(first, &mut released);
        assert_eq!(released, [accepted(1, 3)]);
        durability.complete(second, &mut released);
        assert_eq!(released, [accepted(1, 3), accepted(4, 4)]);
    }

    #[test]
    fn nothing_waits_for_a_write_that_may_never_be_synced() {
        let mut durability = fresh();
        let mut released = Vec::new();
        let synced = durability.begin(LogIndex(1), Term(1), true);
        durability.complete(synced, &mut released);
        durability.begin(LogIndex(1), Term(1), false);
        durability.hold(durability.barrier(false), accepted(1, 0), &mut released);
        assert_eq!(released, [accepted(1, 0)]);
    }

    #[test]
    fn a_completion_from_nowhere_is_cut_to_what_was_begun() {
        let mut durability = fresh();
        durability.complete(PersistSeq(u64::MAX), &mut Vec::new());
        let seq = durability.begin(LogIndex(1), Term(1), true);
        assert!(!durability.has_persisted(seq));
    }
}
