//! What the log knows of one group: its state, and where its entries are.
//!
//! Invariants:
//! - Entries `first_index..=last_index` are in the log, without a gap; `first_index` is at least 1.
//! - `runs` is ordered by index, starts at `first_index` if there are entries, and is empty if
//!   there are none.
//! - `previous_term` is the term of the entry before `first_index`, or zero if that is not known or
//!   there is none.

use std::collections::VecDeque;

use crate::batch::{GroupState, SnapshotRef};
use crate::ids::GroupId;
use crate::locations::{Location, Locations};
use crate::record::{self, GroupMeta};

/// One group.
#[derive(Debug)]
pub(crate) struct GroupLog {
    pub(crate) state: GroupState,
    pub(crate) snapshot: Option<SnapshotRef>,
    first_index: u64,
    previous_term: u64,
    runs: VecDeque<TermRun>,
    locations: Locations,
}

/// Entries of one term and kind, up to where the next run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TermRun {
    first_index: u64,
    term: u64,
    kind: u8,
}

/// An entry that is in the log, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) kind: u8,
    /// None if the log has lost the entry.
    pub(crate) location: Option<Location>,
}

impl Default for GroupLog {
    fn default() -> Self {
        Self {
            state: GroupState::default(),
            snapshot: None,
            first_index: 1,
            previous_term: 0,
            runs: VecDeque::new(),
            locations: Locations::default(),
        }
    }
}

impl GroupLog {
    /// A group as a checkpoint describes it; where its entries are is not known yet.
    pub(crate) fn from_meta(meta: GroupMeta) -> Self {
        let runs = meta.terms.iter().map(|&(first_index, term)| TermRun {
            first_index,
            term,
            kind: 0,
        });
        Self {
            state: meta.state,
            snapshot: meta.snapshot,
            first_index: meta.first_index,
            previous_term: meta.previous_term,
            runs: runs.collect(),
            locations: Locations::absent(meta.last_index + 1 - meta.first_index),
        }
    }

    pub(crate) fn meta(&self, group: GroupId) -> GroupMeta {
        GroupMeta {
            group,
            state: self.state,
            first_index: self.first_index,
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
        self.first_index
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.first_index + self.locations.len() - 1
    }

    pub(crate) fn previous_term(&self) -> u64 {
        self.previous_term
    }

    /// First index and term of each run of one term.
    pub(crate) fn terms(&self) -> Vec<(u64, u64)> {
        let mut terms: Vec<(u64, u64)> = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            if terms.last().is_none_or(|&(_, term)| term != run.term) {
                terms.push((run.first_index, run.term));
            }
        }
        terms
    }

    /// Where the oldest entry is that is somewhere.
    pub(crate) fn first_location(&self) -> Option<Location> {
        self.locations.first()
    }

    /// First and last index of the first stretch of entries that are nowhere.
    pub(crate) fn first_missing(&self) -> Option<(u64, u64)> {
        let (first, last) = self.locations.first_absent()?;
        Some((self.first_index + first, self.first_index + last))
    }

    /// The entries from `from` up to but without `to`, which must be in the log.
    pub(crate) fn located(&self, from: u64, to: u64) -> impl Iterator<Item = Located> + '_ {
        assert!(self.first_index <= from);
        assert!(to <= self.last_index() + 1);
        let mut run = self
            .runs
            .partition_point(|run| run.first_index <= from)
            .saturating_sub(1);
        (from..to).map(move |index| {
            while self
                .runs
                .get(run + 1)
                .is_some_and(|next| next.first_index <= index)
            {
                run += 1;
            }
            let TermRun { term, kind, .. } = self.runs[run];
            Located {
                index,
                term,
                kind,
                location: self.locations.get(index - self.first_index),
            }
        })
    }

    /// Makes `first_index` the next index: cuts what is there, or notes what is missing before it.
    /// Returns first and last index of what is missing.
    pub(crate) fn prepare_append(
        &mut self,
        first_index: u64,
        mut dropped: impl FnMut(Location),
    ) -> Option<(u64, u64)> {
        assert!(first_index > 0);
        if first_index < self.first_index {
            // Only a damaged log does this: what was compacted is written again.
            self.clear(first_index, 0, &mut dropped);
            return None;
        }
        let end = self.last_index() + 1;
        if first_index <= end {
            self.locations
                .truncate(first_index - self.first_index, dropped);
            while self
                .runs
                .back()
                .is_some_and(|run| run.first_index >= first_index)
            {
                self.runs.pop_back();
            }
            return None;
        }
        self.push_run(end, 0, 0);
        self.locations.push_absent(first_index - end, dropped);
        Some((end, first_index - 1))
    }

    /// Adds one entry behind the last.
    pub(crate) fn push(&mut self, term: u64, kind: u8, location: Location) {
        self.push_run(self.last_index() + 1, term, kind);
        self.locations.push(location);
    }

    /// Drops the entries before `first_index`.
    pub(crate) fn compact(&mut self, first_index: u64, mut dropped: impl FnMut(Location)) {
        if first_index <= self.first_index {
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
        self.locations
            .drop_front(first_index - self.first_index, dropped);
        self.first_index = first_index;
        match self.runs.front_mut() {
            Some(run) if self.locations.len() > 0 => run.first_index = first_index,
            _ => self.runs.clear(),
        }
    }

    /// Drops all entries; the log continues at `first_index`.
    pub(crate) fn clear(
        &mut self,
        first_index: u64,
        previous_term: u64,
        dropped: impl FnMut(Location),
    ) {
        self.locations.truncate(0, dropped);
        self.runs.clear();
        self.first_index = first_index;
        self.previous_term = previous_term;
    }

    /// Brings a group up to what a checkpoint says after records were lost. Keeps the entries that
    /// are where they were; those that were lost are nowhere.
    pub(crate) fn reconcile(&mut self, meta: GroupMeta, mut dropped: impl FnMut(Location)) {
        if self.first_index < meta.first_index {
            self.compact(meta.first_index, &mut dropped);
        }
        let last_index = self.last_index();
        let kept = meta.terms.iter().take_while(|run| run.0 <= last_index);
        let is_prefix = self.first_index == meta.first_index
            && last_index <= meta.last_index
            && kept.eq(self.terms().iter());
        if is_prefix {
            for &(first_index, term) in meta.terms.iter().filter(|run| run.0 > last_index) {
                self.push_run(first_index, term, 0);
            }
            self.locations
                .push_absent(meta.last_index - last_index, dropped);
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

    fn push_run(&mut self, first_index: u64, term: u64, kind: u8) {
        let same = |run: &TermRun| (run.term, run.kind) == (term, kind);
        if !self.runs.back().is_some_and(same) {
            self.runs.push_back(TermRun {
                first_index,
                term,
                kind,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locations::SegmentSlot;

    fn group(terms: &[u64]) -> GroupLog {
        let mut group = GroupLog::default();
        for (position, &term) in (0..).zip(terms) {
            group.push(
                term,
                0,
                Location::new(SegmentSlot(1), position * 8, position * 8),
            );
        }
        group
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let terms = [1, 1, 2, 2, 5];
        for first_index in 1..=6 {
            let mut group = group(&terms);
            let mut dropped = 0;
            group.compact(first_index, |_| dropped += 1);
            assert_eq!((group.first_index(), group.last_index()), (first_index, 5));
            assert_eq!(dropped, first_index - 1);
            let previous = first_index
                .checked_sub(2)
                .map_or(0, |position| terms[position as usize]);
            assert_eq!(group.previous_term(), previous, "first index {first_index}");
            let found: Vec<_> = group
                .located(first_index, 6)
                .map(|entry| entry.term)
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
        group.push(4, 0, Location::new(SegmentSlot(1), 0, 0));
        assert_eq!(group.terms(), [(1, 1), (3, 4)]);
        assert_eq!(group.last_index(), 3);
    }

    #[test]
    fn a_gap_is_named_and_its_entries_are_nowhere() {
        let mut group = group(&[1, 1]);
        assert_eq!(group.prepare_append(5, |_| {}), Some((3, 4)));
        group.push(2, 0, Location::new(SegmentSlot(1), 0, 0));
        assert_eq!(group.first_missing(), Some((3, 4)));
        let found: Vec<_> = group
            .located(1, 6)
            .map(|entry| entry.location.is_some())
            .collect();
        assert_eq!(found, [true, true, false, false, true]);
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
        assert_eq!(copy.first_missing(), Some((2, 3)));
    }
}
