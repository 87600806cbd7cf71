//! What the log knows of one group: its state, and where its entries are.
//!
//! Invariants:
//! - Entries `first_index..=last_index` are in the log, without a gap; `first_index` is at least 1.
//! - `runs` is ordered by index, starts at `first_index` if there are entries, and is empty if
//!   there are none.
//! - `previous_term` is the term of the entry before `first_index`, or zero if that is not known or
//!   there is none.

use std::collections::VecDeque;
use std::ops::Range;

use crate::batch::{GroupState, SnapshotRef};
use crate::ids::{GroupId, Lsn};
use crate::locations::{Dropped, Locations, Piece, SegmentSlot, Spot, Spots};
use crate::record::{self, GroupMeta};

/// One group.
#[derive(Debug)]
pub(crate) struct GroupLog {
    /// The lsn of the batch that made it.
    pub(crate) born: Lsn,
    pub(crate) state: GroupState,
    pub(crate) snapshot: Option<SnapshotRef>,
    previous_term: u64,
    runs: VecDeque<TermRun>,
    locations: Locations,
}

/// Entries of one term, up to where the next run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TermRun {
    first_index: u64,
    term: u64,
}

/// Consecutive entries of one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) first: u64,
    /// The index behind the last one.
    pub(crate) end: u64,
    pub(crate) term: u64,
}

impl GroupLog {
    /// A group without entries.
    pub(crate) fn new(born: Lsn) -> Self {
        Self {
            born,
            state: GroupState::default(),
            snapshot: None,
            previous_term: 0,
            runs: VecDeque::new(),
            locations: Locations::new(1),
        }
    }

    /// A group as a checkpoint describes it; where its entries are is not known yet.
    pub(crate) fn from_meta(meta: GroupMeta) -> Self {
        let runs = meta
            .terms
            .iter()
            .map(|&(first_index, term)| TermRun { first_index, term });
        let mut locations = Locations::new(meta.first_index);
        locations.push_nowhere(meta.last_index + 1 - meta.first_index);
        Self {
            born: meta.born,
            state: meta.state,
            snapshot: meta.snapshot,
            previous_term: meta.previous_term,
            runs: runs.collect(),
            locations,
        }
    }

    pub(crate) fn meta(&self, group: GroupId) -> GroupMeta {
        GroupMeta {
            group,
            born: self.born,
            state: self.state,
            first_index: self.first_index(),
            last_index: self.last_index(),
            previous_term: self.previous_term,
            terms: self.terms(),
            snapshot: self.snapshot.clone(),
        }
    }

    /// At most so many bytes does the group take in a checkpoint.
    pub(crate) fn meta_bytes_max(&self) -> u64 {
        let snapshot = self
            .snapshot
            .as_ref()
            .map_or(0, record::snapshot_body_bytes);
        (record::group_bytes(self.runs.len()) + snapshot) as u64
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.locations.start()
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.locations.end() - 1
    }

    pub(crate) fn previous_term(&self) -> u64 {
        self.previous_term
    }

    /// First index and term of each run of one term.
    pub(crate) fn terms(&self) -> Vec<(u64, u64)> {
        let run = |run: &TermRun| (run.first_index, run.term);
        self.runs.iter().map(run).collect()
    }

    /// Where the entries are.
    pub(crate) fn locations(&self) -> &Locations {
        &self.locations
    }

    /// Puts entries, which are in the log, somewhere else.
    pub(crate) fn replace(
        &mut self,
        first: u64,
        count: u64,
        bytes: u64,
        segment: SegmentSlot,
        spots: Spots,
        dropped: impl FnMut(Dropped),
    ) {
        self.locations
            .replace(first, count, bytes, segment, spots, dropped);
    }

    /// Where the entries of a range are, which must lie within the log.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece<'_>> + '_ {
        self.locations.pieces(range)
    }

    /// What the entries of a range are, which must lie within the log.
    pub(crate) fn stretches(&self, range: Range<u64>) -> impl Iterator<Item = Stretch> + '_ {
        let Range { start, end } = range;
        assert!(self.first_index() <= start && end <= self.last_index() + 1);
        let begin = self
            .runs
            .partition_point(|run| run.first_index <= start)
            .saturating_sub(1);
        (begin..self.runs.len())
            .take_while(move |&run| self.runs[run].first_index < end)
            .map(move |position| {
                let run = self.runs[position];
                let next = self.runs.get(position + 1);
                Stretch {
                    first: run.first_index.max(start),
                    end: next.map_or(end, |next| next.first_index.min(end)),
                    term: run.term,
                }
            })
    }

    /// First and last index of each stretch of entries that are nowhere.
    pub(crate) fn missing(&self) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut from = 0;
        while let Some(range) = self.locations.next_nowhere(from..u64::MAX) {
            missing.push((range.start, range.end - 1));
            from = range.end;
        }
        missing
    }

    /// Makes `first_index` the next index: cuts what is there, or notes what is missing before it.
    /// Returns first and last index of what is missing.
    pub(crate) fn prepare_append(
        &mut self,
        first_index: u64,
        mut dropped: impl FnMut(Dropped),
    ) -> Option<(u64, u64)> {
        assert!(first_index > 0);
        if first_index < self.first_index() {
            // Only a damaged log does this: what was compacted is written again.
            self.clear(first_index, 0, &mut dropped);
            return None;
        }
        let end = self.last_index() + 1;
        if first_index <= end {
            self.locations.truncate(first_index, dropped);
            while self
                .runs
                .back()
                .is_some_and(|run| run.first_index >= first_index)
            {
                self.runs.pop_back();
            }
            return None;
        }
        self.push_run(end, 0);
        self.locations.push_nowhere(first_index - end);
        Some((end, first_index - 1))
    }

    /// Adds one entry behind the last.
    pub(crate) fn push(&mut self, term: u64, segment: SegmentSlot, spot: Spot, bytes: u64) {
        self.push_run(self.last_index() + 1, term);
        self.locations.push(segment, spot, bytes);
    }

    /// Drops the entries before `first_index`.
    pub(crate) fn compact(&mut self, first_index: u64, mut dropped: impl FnMut(Dropped)) {
        if first_index <= self.first_index() {
            return;
        }
        if first_index > self.last_index() + 1 {
            // Only a damaged log does this: the entries that are compacted were lost.
            self.clear(first_index, 0, &mut dropped);
            return;
        }
        while self
            .runs
            .get(1)
            .is_some_and(|next| next.first_index < first_index)
        {
            self.runs.pop_front();
        }
        let run = self
            .runs
            .front()
            .expect("entries are dropped, so there is a run");
        self.previous_term = run.term;
        if self
            .runs
            .get(1)
            .is_some_and(|next| next.first_index == first_index)
        {
            self.runs.pop_front();
        }
        self.locations.drop_front(first_index, dropped);
        match self.runs.front_mut() {
            Some(run) if first_index < self.locations.end() => run.first_index = first_index,
            _ => self.runs.clear(),
        }
    }

    /// Drops all entries; the log continues at `first_index`.
    pub(crate) fn clear(
        &mut self,
        first_index: u64,
        previous_term: u64,
        dropped: impl FnMut(Dropped),
    ) {
        self.locations.restart(first_index, dropped);
        self.runs.clear();
        self.previous_term = previous_term;
    }

    /// Brings a group up to what a checkpoint says after records were lost. Keeps the entries that
    /// are where they were; those that were lost are nowhere.
    pub(crate) fn reconcile(&mut self, meta: GroupMeta, mut dropped: impl FnMut(Dropped)) {
        if self.first_index() < meta.first_index {
            self.compact(meta.first_index, &mut dropped);
        }
        let last_index = self.last_index();
        let kept = meta.terms.iter().take_while(|run| run.0 <= last_index);
        let is_prefix = self.born == meta.born
            && self.first_index() == meta.first_index
            && last_index <= meta.last_index
            && kept.eq(self.terms().iter());
        if is_prefix {
            for &(first_index, term) in meta.terms.iter().filter(|run| run.0 > last_index) {
                self.push_run(first_index, term);
            }
            self.locations.push_nowhere(meta.last_index - last_index);
            self.previous_term = meta.previous_term;
            self.state = meta.state;
            self.snapshot = meta.snapshot;
        } else {
            self.clear(1, 0, dropped);
            *self = Self::from_meta(meta);
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.locations.memory_bytes() + self.runs.capacity() * size_of::<TermRun>()
    }

    fn push_run(&mut self, first_index: u64, term: u64) {
        if self.runs.back().is_none_or(|run| run.term != term) {
            self.runs.push_back(TermRun { first_index, term });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(terms: &[u64]) -> GroupLog {
        let mut group = GroupLog::new(Lsn(1));
        for (position, &term) in (0..).zip(terms) {
            push(&mut group, term, position);
        }
        group
    }

    fn push(group: &mut GroupLog, term: u64, position: u64) {
        let spot = Spot::new(0, position * 8, position * 8);
        group.push(term, SegmentSlot(1), spot, 8);
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let terms = [1, 1, 2, 2, 5];
        for first_index in 1..=6 {
            let mut group = group(&terms);
            let mut dropped = 0;
            group.compact(first_index, |gone| dropped += gone.entries);
            assert_eq!((group.first_index(), group.last_index()), (first_index, 5));
            assert_eq!(dropped, first_index - 1);
            let previous = first_index
                .checked_sub(2)
                .map_or(0, |position| terms[position as usize]);
            assert_eq!(group.previous_term(), previous, "first index {first_index}");
            let found: Vec<_> = group
                .stretches(first_index..6)
                .flat_map(|it| std::iter::repeat_n(it.term, (it.end - it.first) as usize))
                .collect();
            assert_eq!(found, terms[first_index as usize - 1..]);
            assert_eq!(
                group.terms().first().map(|run| run.0),
                (first_index < 6).then_some(first_index)
            );
        }
    }

    #[test]
    fn an_append_cuts_what_it_conflicts_with() {
        let mut group = group(&[1, 1, 2, 2]);
        assert_eq!(group.prepare_append(3, |_| {}), None);
        push(&mut group, 4, 0);
        assert_eq!(group.terms(), [(1, 1), (3, 4)]);
        assert_eq!(group.last_index(), 3);
    }

    #[test]
    fn a_gap_is_named_and_its_entries_are_nowhere() {
        let mut group = group(&[1, 1]);
        assert_eq!(group.prepare_append(5, |_| {}), Some((3, 4)));
        push(&mut group, 2, 0);
        assert_eq!(group.missing(), [(3, 4)]);
        let found: Vec<_> = group
            .pieces(1..6)
            .map(|piece| (piece.first, piece.count, piece.place.segment().is_some()))
            .collect();
        assert_eq!(found, [(1, 2, true), (3, 2, false), (5, 1, true)]);
    }

    #[test]
    fn a_group_survives_its_checkpoint() {
        let mut group = group(&[1, 1, 2]);
        group.compact(2, |_| {});
        group.state = GroupState {
            term: 3,
            vote: 1,
            commit: 2,
        };
        let meta = group.meta(GroupId(4));
        let copy = GroupLog::from_meta(meta.clone());
        assert_eq!(copy.meta(GroupId(4)), meta);
        assert_eq!(copy.missing(), [(2, 3)]);
    }
}
