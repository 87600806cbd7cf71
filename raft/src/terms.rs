//! The term of each entry of a log, as runs: a few words for a log of any length.
//!
//! Invariants:
//! - there is at least one run; the first begins at the anchor, the entry before the log's first
//!   one;
//! - indexes and terms of the runs ascend strictly;
//! - no run begins behind `last`.

use std::collections::VecDeque;

use crate::ids::{LogIndex, Term};

/// Term runs from the anchor to the last entry.
#[derive(Clone, Debug)]
pub(crate) struct TermRuns {
    runs: VecDeque<(LogIndex, Term)>,
    last: LogIndex,
}

impl TermRuns {
    /// An empty log behind `anchor`.
    pub(crate) fn new(anchor: LogIndex, term: Term) -> Self {
        Self {
            runs: VecDeque::from([(anchor, term)]),
            last: anchor,
        }
    }

    pub(crate) fn anchor(&self) -> LogIndex {
        self.front().0
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn last_term(&self) -> Term {
        self.back().1
    }

    /// The term at `index`, known from the anchor to the last entry.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last || index < self.anchor() {
            return None;
        }
        // Nearly every question is about the newest run.
        if index >= self.back().0 {
            return Some(self.last_term());
        }
        let behind = self.runs.partition_point(|&(first, _)| first <= index);
        Some(self.runs[behind - 1].1)
    }

    /// Adds the entry behind the last one.
    pub(crate) fn push(&mut self, term: Term) {
        assert!(term >= self.last_term(), "terms never descend in a log");
        self.last = self.last.next();
        if term > self.last_term() {
            self.runs.push_back((self.last, term));
        }
    }

    /// Adds entries of the last term up to `last`, if any are missing.
    pub(crate) fn extend_to(&mut self, last: LogIndex) {
        self.last = self.last.max(last);
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: LogIndex) {
        assert!(index > self.anchor(), "the anchor cannot be cut off");
        assert!(index <= self.last, "there is nothing to cut off");
        while self.back().0 >= index {
            self.runs.pop_back();
        }
        self.last = index.previous();
    }

    /// Moves the anchor up to `anchor`, an entry of the log.
    pub(crate) fn compact(&mut self, anchor: LogIndex) {
        assert!(anchor >= self.anchor(), "the anchor never moves back");
        assert!(anchor <= self.last, "the anchor is an entry of the log");
        while self.runs.get(1).is_some_and(|&(first, _)| first <= anchor) {
            self.runs.pop_front();
        }
        self.runs[0].0 = anchor;
    }

    /// The last index up to `index` whose term is at most `term`; `None` if that is before the
    /// anchor.
    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> Option<LogIndex> {
        if index < self.anchor() {
            return None;
        }
        let behind = self
            .runs
            .partition_point(|&(first, run)| first <= index && run <= term);
        let end = match self.runs.get(behind) {
            _ if behind == 0 => return None,
            Some(&(first, _)) => first.previous(),
            None => self.last,
        };
        Some(end.min(index))
    }

    fn front(&self) -> (LogIndex, Term) {
        *self.runs.front().expect("there is at least one run")
    }

    fn back(&self) -> (LogIndex, Term) {
        *self.runs.back().expect("there is at least one run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    fn runs(anchor: u64, terms: &[u64]) -> TermRuns {
        let mut runs = TermRuns::new(LogIndex(anchor), Term(terms[0]));
        for &term in &terms[1..] {
            runs.push(Term(term));
        }
        runs
    }

    #[test]
    fn runs_answer_like_a_plain_list_under_random_changes() {
        for seed in 0..200 {
            let mut rng = SplitMix64::new(seed);
            let mut model: Vec<(u64, u64)> = vec![(0, 0)];
            let mut runs = TermRuns::new(LogIndex(0), Term(0));
            for _ in 0..60 {
                let (anchor, last) = (model[0].0, model[model.len() - 1]);
                match rng.below(8) {
                    0 if last.0 > anchor => {
                        let from = anchor + 1 + rng.below(last.0 - anchor);
                        model.retain(|&(index, _)| index < from);
                        runs.truncate(LogIndex(from));
                    }
                    1 => {
                        let to = anchor + rng.below(last.0 - anchor + 1);
                        model.retain(|&(index, _)| index >= to);
                        runs.compact(LogIndex(to));
                    }
                    _ => {
                        let term = last.1 + rng.below(4) / 3;
                        model.push((last.0 + 1, term));
                        runs.push(Term(term));
                    }
                }
                check(&runs, &model, seed);
            }
        }
    }

    fn check(runs: &TermRuns, model: &[(u64, u64)], seed: u64) {
        let (anchor, last) = (model[0].0, model[model.len() - 1].0);
        assert_eq!(
            (runs.anchor().0, runs.last().0),
            (anchor, last),
            "seed {seed}"
        );
        for index in anchor.saturating_sub(1)..=last + 1 {
            let expected = model
                .iter()
                .find(|entry| entry.0 == index)
                .map(|entry| Term(entry.1));
            assert_eq!(
                runs.term_at(LogIndex(index)),
                expected,
                "seed {seed}, index {index}"
            );
            for term in 0..6 {
                let expected = model
                    .iter()
                    .rev()
                    .find(|entry| entry.0 <= index && entry.1 <= term);
                let found = runs.last_at_most(LogIndex(index), Term(term));
                assert_eq!(
                    found,
                    expected.map(|entry| LogIndex(entry.0)),
                    "seed {seed}, {index}, {term}"
                );
            }
        }
    }

    #[test]
    fn a_log_cut_to_its_last_entry_still_knows_that_term() {
        let mut runs = runs(3, &[1, 1, 2, 5]);
        runs.compact(LogIndex(6));
        assert_eq!(runs.term_at(LogIndex(6)), Some(Term(5)));
        assert_eq!(runs.term_at(LogIndex(5)), None);
    }
}
