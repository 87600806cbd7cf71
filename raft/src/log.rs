//! The replica's log as the protocol sees it: terms of all entries, payloads of the newest.
//!
//! Invariants:
//! - anchor <= handed <= last; anchor is the entry before the first, known by its term only;
//! - the cache is contiguous and ends at the last entry; it holds every entry that is not durable,
//!   so the [`LogReader`] is asked only for entries that are;
//! - the bytes counted are the weights of the entries cached.

use std::collections::VecDeque;

use crate::error::LogReadError;
use crate::ids::{LogIndex, Term};
use crate::message::Entry;
use crate::mutants;
use crate::output::LogReader;
use crate::terms::TermRuns;

#[derive(Clone, Debug)]
pub(crate) struct Log {
    terms: TermRuns,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Entries up to here were handed to the caller to be written.
    handed: LogIndex,
}

impl Log {
    /// A log whose entries are all on disk already.
    pub(crate) fn new(terms: TermRuns) -> Self {
        let handed = terms.last();
        Self {
            terms,
            cache: VecDeque::new(),
            cache_bytes: 0,
            handed,
        }
    }

    /// The index before the first entry; its term is known.
    pub(crate) fn anchor(&self) -> LogIndex {
        self.terms.anchor()
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.terms.last()
    }

    pub(crate) fn last_term(&self) -> Term {
        self.terms.last_term()
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.terms.term_at(index)
    }

    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> Option<LogIndex> {
        self.terms.last_at_most(index, term)
    }

    /// Whether a log that ends with `(last_index, last_term)` is at least as complete as this one
    /// (section 5.4.1): terms first, lengths second.
    pub(crate) fn is_covered_by(&self, last_index: LogIndex, last_term: Term) -> bool {
        if mutants::COMPARES_LENGTH_FIRST {
            return (last_index, last_term) >= (self.last(), self.last_term());
        }
        (last_term, last_index) >= (self.last_term(), self.last())
    }

    pub(crate) fn handed(&self) -> LogIndex {
        self.handed
    }

    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    pub(crate) fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Adds the next entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(
            entry.index,
            self.last().next(),
            "entries are appended in order"
        );
        self.terms.push(entry.term);
        self.cache_bytes += entry.weight_bytes();
        self.cache.push_back(entry);
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: LogIndex) {
        self.terms.truncate(index);
        while self.cache.back().is_some_and(|entry| entry.index >= index) {
            let entry = self.cache.pop_back().expect("there is a last one");
            self.cache_bytes -= entry.weight_bytes();
        }
        self.handed = self.handed.min(index.previous());
    }

    /// Forgets the entries up to `anchor`, which stays known by its term.
    pub(crate) fn compact(&mut self, anchor: LogIndex) {
        self.terms.compact(anchor);
        self.handed = self.handed.max(anchor);
        self.drop_front(anchor);
    }

    /// Starts anew behind a snapshot, without any entry.
    pub(crate) fn restart(&mut self, anchor: LogIndex, term: Term) {
        *self = Self::new(TermRuns::new(anchor, term));
    }

    /// The entries not handed out yet; from now on they are.
    pub(crate) fn hand_out(&mut self) -> Vec<Entry> {
        let from = self.handed.next();
        self.handed = self.last();
        self.cached_run(from, self.last(), usize::MAX)
            .expect("entries not written yet are cached")
    }

    pub(crate) fn has_unhanded(&self) -> bool {
        self.handed < self.last()
    }

    /// Entries from `from` to `to`, up to `bytes_max` but at least one, from memory or else from
    /// `reader`.
    pub(crate) fn read(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        reader: &mut dyn LogReader,
    ) -> Result<Vec<Entry>, LogReadError> {
        assert!(
            self.anchor() < from,
            "entries before the log's first are gone"
        );
        assert!(from <= to, "at least one entry is asked for");
        assert!(
            to <= self.last(),
            "entries behind the log's last do not exist"
        );
        if let Some(entries) = self.cached_run(from, to, bytes_max) {
            return Ok(entries);
        }
        let to = self.cache_first().previous().min(to);
        let mut entries = reader.entries(from, to, bytes_max)?;
        entries.truncate((to.0 - from.0 + 1) as usize);
        if entries.is_empty() {
            return Err(LogReadError::new(format!("it has no entry at {from}")));
        }
        // What went to disk must come back as it was: a wrong entry sent or applied would
        // break the group for good.
        for (offset, entry) in entries.iter().enumerate() {
            let index = LogIndex(from.0 + offset as u64);
            if entry.index != index || self.term_at(index) != Some(entry.term) {
                return Err(LogReadError::new(format!(
                    "it has ({}, {}) where {index} of {:?} belongs",
                    entry.index,
                    entry.term,
                    self.term_at(index)
                )));
            }
        }
        Ok(entries)
    }

    /// Drops from memory what is durable and needed by nobody soon (up to `unneeded`), and beyond
    /// that what exceeds `bytes_max`, oldest first.
    pub(crate) fn trim(&mut self, unneeded: LogIndex, durable: LogIndex, bytes_max: usize) {
        self.drop_front(unneeded.min(durable));
        while self.cache_bytes > bytes_max {
            match self.cache.front() {
                Some(entry) if entry.index <= durable => self.pop_front(),
                _ => break,
            }
        }
    }

    /// Gives memory back while the group rests.
    pub(crate) fn release(&mut self) {
        release_idle(&mut self.cache);
    }

    fn drop_front(&mut self, to: LogIndex) {
        while self.cache.front().is_some_and(|entry| entry.index <= to) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        let entry = self
            .cache
            .pop_front()
            .expect("called with an entry in front");
        self.cache_bytes -= entry.weight_bytes();
    }

    fn cache_first(&self) -> LogIndex {
        self.cache
            .front()
            .map_or(self.last().next(), |entry| entry.index)
    }

    /// A copy of a run of cached entries; the payloads are shared. `None` if it begins before the
    /// cache.
    fn cached_run(&self, from: LogIndex, to: LogIndex, bytes_max: usize) -> Option<Vec<Entry>> {
        if from > to {
            return Some(Vec::new());
        }
        let first = self.cache_first();
        if from < first {
            return None;
        }
        let begin = (from.0 - first.0) as usize;
        let mut end = (to.0 - first.0) as usize + 1;
        if bytes_max < self.cache_bytes {
            end = begin + fitting(self.cache.range(begin..end), bytes_max).max(1);
        }
        let mut entries = Vec::with_capacity(end - begin);
        let (front, back) = self.cache.as_slices();
        let middle = front.len();
        entries.extend_from_slice(&front[begin.min(middle)..end.min(middle)]);
        entries.extend_from_slice(&back[begin.saturating_sub(middle)..end.saturating_sub(middle)]);
        Some(entries)
    }
}

/// Gives the memory of an empty queue back, unless it is too small to matter. Called at timers, not
/// in the hot path: a queue in use is rarely empty there, and if it is, filling it again is cheap.
pub(crate) fn release_idle<T>(queue: &mut VecDeque<T>) {
    const CAPACITY_KEPT: usize = 4;
    if queue.is_empty() && queue.capacity() > CAPACITY_KEPT {
        *queue = VecDeque::new();
    }
}

/// How many of the entries fit into `bytes_max`.
fn fitting<'a>(entries: impl Iterator<Item = &'a Entry>, bytes_max: usize) -> usize {
    let mut bytes = 0;
    entries
        .take_while(|entry| {
            bytes += entry.weight_bytes();
            bytes <= bytes_max
        })
        .count()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::EntryKind;

    fn entry(index: u64, term: u64) -> Entry {
        let data = Bytes::from(vec![0; 68]);
        Entry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Command,
            data,
        }
    }

    fn log(last: u64) -> Log {
        let mut log = Log::new(TermRuns::new(LogIndex(0), Term(0)));
        for index in 1..=last {
            log.push(entry(index, 1));
        }
        log
    }

    /// A disk that records what it was asked.
    struct Disk {
        entries: Vec<Entry>,
        asked: Vec<(u64, u64)>,
    }

    impl LogReader for Disk {
        fn entries(
            &mut self,
            from: LogIndex,
            to: LogIndex,
            _: usize,
        ) -> Result<Vec<Entry>, LogReadError> {
            self.asked.push((from.0, to.0));
            Ok(self
                .entries
                .iter()
                .filter(|e| (from..=to).contains(&e.index))
                .cloned()
                .collect())
        }
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index.0).collect()
    }

    #[test]
    fn entries_come_from_memory_while_they_are_there_and_within_the_bytes() {
        let log = log(10);
        let mut disk = Disk {
            entries: Vec::new(),
            asked: Vec::new(),
        };
        let mut read = |from, to, bytes| {
            indexes(
                &log.read(LogIndex(from), LogIndex(to), bytes, &mut disk)
                    .expect("in memory"),
            )
        };
        assert_eq!(read(3, 6, usize::MAX), [3, 4, 5, 6]);
        assert_eq!(read(3, 10, 250), [3, 4]);
        assert_eq!(read(3, 10, 1), [3]);
        assert!(disk.asked.is_empty());
    }

    #[test]
    fn what_is_not_durable_is_never_dropped_from_memory() {
        let mut log = log(10);
        log.trim(LogIndex(10), LogIndex(4), 0);
        assert_eq!((log.cached(), log.cache_bytes()), (6, 600));
        log.trim(LogIndex(0), LogIndex(8), 300);
        assert_eq!(log.cached(), 3);
        log.trim(LogIndex(0), LogIndex(8), 0);
        assert_eq!(log.cached(), 2);
    }

    #[test]
    fn the_disk_is_asked_only_up_to_the_cache_and_its_answer_is_checked() {
        let mut log = log(10);
        log.hand_out();
        log.trim(LogIndex(5), LogIndex(10), usize::MAX);
        let mut disk = Disk {
            entries: (1..=5).map(|index| entry(index, 1)).collect(),
            asked: Vec::new(),
        };
        let found = log
            .read(LogIndex(2), LogIndex(9), usize::MAX, &mut disk)
            .expect("on disk");
        assert_eq!(indexes(&found), [2, 3, 4, 5]);
        assert_eq!(disk.asked, [(2, 5)]);
        disk.entries[3].term = Term(9);
        assert!(
            log.read(LogIndex(2), LogIndex(9), usize::MAX, &mut disk)
                .is_err()
        );
        disk.entries.clear();
        assert!(
            log.read(LogIndex(2), LogIndex(9), usize::MAX, &mut disk)
                .is_err()
        );
    }

    #[test]
    fn overwritten_entries_are_handed_out_again() {
        let mut log = log(4);
        assert_eq!(indexes(&log.hand_out()), [1, 2, 3, 4]);
        log.truncate(LogIndex(3));
        log.push(entry(3, 2));
        assert_eq!(indexes(&log.hand_out()), [3]);
        assert!(!log.has_unhanded());
    }

    #[test]
    fn an_idle_cache_gives_its_memory_back() {
        let mut log = log(100);
        log.hand_out();
        log.trim(LogIndex(100), LogIndex(100), usize::MAX);
        log.release();
        assert_eq!(log.cache.capacity(), 0);
    }
}
