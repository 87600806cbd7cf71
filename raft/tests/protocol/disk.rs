//! A replica's disk: what is durable, and writes on their way that a crash loses.

use std::collections::VecDeque;

use quorate_raft::{
    Config, Entry, HardState, LogIndex, LogReadError, LogReader, NodeId, Persist, PersistSeq,
    Restored, SnapshotMeta, Term,
};

/// What a disk holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: SnapshotMeta,
    /// The index before the first entry, and its term.
    pub(crate) anchor: (LogIndex, Term),
    pub(crate) entries: Vec<Entry>,
}

impl Image {
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.anchor.0.0 + self.entries.len() as u64)
    }

    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.entries
            .get(index.0.checked_sub(self.anchor.0.0 + 1)? as usize)
    }

    /// The term at `index`, if the image says what it is.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.anchor.0 {
            Some(self.anchor.1)
        } else {
            self.entry(index).map(|entry| entry.term)
        }
    }

    /// Whether the entry `(index, term)` is here, or covered by a snapshot.
    pub(crate) fn holds(&self, index: LogIndex, term: Term) -> bool {
        index <= self.snapshot.index || self.term_at(index) == Some(term)
    }

    fn write(&mut self, write: &Write) {
        if let Some((meta, keeps_suffix)) = &write.install {
            if *keeps_suffix {
                assert_eq!(
                    self.term_at(meta.index),
                    Some(meta.term),
                    "a suffix is kept behind its own prefix"
                );
                self.cut_front(meta.index);
            } else {
                self.entries.clear();
                self.anchor = (meta.index, meta.term);
            }
            self.snapshot = meta.clone();
        }
        if let Some(hard_state) = write.hard_state {
            assert!(
                hard_state.term >= self.hard_state.term,
                "the durable term never goes back"
            );
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            assert!(
                first.index > self.anchor.0,
                "nothing is written before the log's begin"
            );
            assert!(first.index <= self.last().next(), "the log has no gap");
            self.entries
                .truncate((first.index.0 - self.anchor.0.0 - 1) as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
    }

    fn cut_front(&mut self, anchor: LogIndex) {
        if anchor <= self.anchor.0 {
            return;
        }
        let term = self.term_at(anchor).expect("cut at an entry");
        self.entries.drain(..(anchor.0 - self.anchor.0.0) as usize);
        self.anchor = (anchor, term);
    }
}

#[derive(Clone, Debug)]
struct Write {
    seq: PersistSeq,
    install: Option<(SnapshotMeta, bool)>,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
}

/// A disk whose writes become durable when the test says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// What a crash leaves.
    pub(crate) durable: Image,
    /// What would be there if all writes were done.
    pub(crate) live: Image,
    pending: VecDeque<Write>,
    /// Entries that were read back, entries that were overwritten, writes that crashes lost.
    pub(crate) entries_read: usize,
    pub(crate) overwrites: usize,
    pub(crate) writes_lost: usize,
}

impl Disk {
    pub(crate) fn submit(&mut self, persist: Persist) {
        let Persist {
            seq,
            install,
            hard_state,
            entries,
            ..
        } = persist;
        let write = Write {
            seq,
            install,
            hard_state,
            entries,
        };
        let first = write.entries.first().map(|entry| entry.index);
        let is_overwriting = first.is_some_and(|first| first <= self.live.last());
        self.overwrites += usize::from(is_overwriting);
        self.live.write(&write);
        self.pending.push_back(write);
    }

    /// The oldest write becomes durable.
    pub(crate) fn complete_one(&mut self) -> Option<PersistSeq> {
        let write = self.pending.pop_front()?;
        self.durable.write(&write);
        Some(write.seq)
    }

    pub(crate) fn complete_all(&mut self) -> Option<PersistSeq> {
        let mut seq = None;
        while let Some(done) = self.complete_one() {
            seq = Some(done);
        }
        seq
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// A snapshot is saved and the log cut; both are durable at once, behind what was submitted
    /// before.
    pub(crate) fn save_snapshot(&mut self, meta: &SnapshotMeta, first_index: LogIndex) {
        for image in [&mut self.durable, &mut self.live] {
            image.snapshot = meta.clone();
            image.cut_front(first_index.previous());
        }
    }

    /// Loses what is not durable.
    pub(crate) fn crash(&mut self) {
        self.writes_lost += self.pending.len();
        self.pending.clear();
        self.live = self.durable.clone();
    }

    pub(crate) fn restored(&self, id: NodeId, config: &Config) -> Restored {
        let image = &self.durable;
        let mut terms = vec![image.anchor];
        for entry in &image.entries {
            if terms.last().is_none_or(|last| last.1 < entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        Restored {
            id,
            config: config.clone(),
            hard_state: image.hard_state,
            snapshot: image.snapshot.clone(),
            first_index: image.anchor.0.next(),
            last_index: image.last(),
            terms,
        }
    }
}

impl LogReader for Disk {
    /// Only what is durable may be asked for: a real log may not have the rest anywhere but in its
    /// queue.
    fn entries(
        &mut self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, LogReadError> {
        assert!(from > self.durable.anchor.0, "{from} was cut off");
        assert!(to <= self.durable.last(), "{to} is not durable");
        let mut bytes = 0;
        let mut found = Vec::new();
        for index in from.0..=to.0 {
            let entry = self
                .durable
                .entry(LogIndex(index))
                .expect("in range")
                .clone();
            bytes += entry.weight_bytes();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        self.entries_read += found.len();
        Ok(found)
    }
}
