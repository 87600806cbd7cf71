//! What a log should hold, kept in memory.

use std::collections::{BTreeMap, VecDeque};

use arbitrary::Arbitrary;
use bytes::Bytes;
use quorate_wal::{Entry, GroupId, GroupState, RecoveredGroup, SnapshotRef, WriteBatch};

const ENTRIES_MAX: u8 = 24;

/// A change to one group. Small numbers, so that changes meet each other.
#[derive(Clone, Debug, Arbitrary)]
pub(super) enum Change {
    /// Appends behind the end, or cuts some entries off first; `back` of 255 leaves a gap.
    Append {
        back: u8,
        count: u8,
        len: u16,
        new_term: bool,
        kind: bool,
    },
    State {
        vote: u8,
        commit: u8,
    },
    Compact {
        ahead: u8,
    },
    Snapshot {
        context: u8,
    },
    Install {
        ahead: u8,
        keep: Option<u8>,
    },
    Remove,
}

/// What one group should be.
#[derive(Clone, Debug)]
pub(super) struct Group {
    state: GroupState,
    pub(super) first_index: u64,
    previous_term: u64,
    pub(super) entries: VecDeque<Entry>,
    snapshot: Option<SnapshotRef>,
}

pub(super) type Groups = BTreeMap<GroupId, Group>;

/// Makes changes, in terms that grow.
#[derive(Debug)]
pub(super) struct Changer {
    pub(super) term: u64,
}

impl Changer {
    /// Adds a change to the batch and to the model; `false` if it does not fit what is before it.
    pub(super) fn apply(
        &mut self,
        groups: &mut Groups,
        batch: &mut WriteBatch,
        group: GroupId,
        change: &Change,
    ) -> bool {
        match change {
            Change::Remove => {
                batch.remove(group);
                groups.remove(&group);
                return true;
            }
            // Nothing is appended, and no group made.
            Change::Append { count, .. } if count % ENTRIES_MAX == 0 => return true,
            _ => {}
        }
        let known = groups.entry(group).or_default();
        match *change {
            Change::Append {
                back,
                count,
                len,
                new_term,
                kind,
            } => {
                self.term += u64::from(new_term);
                let next = known.last_index() + 1;
                let first = if back == u8::MAX {
                    next + 1
                } else {
                    next.saturating_sub(u64::from(back % 8))
                };
                let entries = entries(
                    first,
                    count % ENTRIES_MAX,
                    len % 2_100,
                    self.term,
                    u8::from(kind),
                );
                batch.append(group, entries.clone());
                known.append(first, entries)
            }
            Change::State { vote, commit } => {
                let state = GroupState {
                    term: self.term,
                    vote: vote.into(),
                    commit: commit.into(),
                };
                batch.set_state(group, state);
                known.state = state;
                true
            }
            Change::Compact { ahead } => {
                let first_index = known.first_index + u64::from(ahead % 32);
                batch.compact(group, first_index);
                known.compact(first_index)
            }
            Change::Snapshot { context } => {
                let snapshot = self.snapshot(known.first_index - 1, context);
                batch.set_snapshot(group, snapshot.clone());
                known.snapshot = Some(snapshot);
                true
            }
            Change::Install { ahead, keep } => {
                let index = known.first_index - 1 + u64::from(ahead % 32);
                let snapshot = self.snapshot(index, ahead);
                let keep_from = keep.map(|back| (index + 1).saturating_sub(u64::from(back % 4)));
                batch.install(group, snapshot.clone(), keep_from);
                known.install(snapshot, keep_from)
            }
            Change::Remove => unreachable!("handled before"),
        }
    }

    fn snapshot(&self, index: u64, context: u8) -> SnapshotRef {
        let context = Bytes::from(vec![context; usize::from(context)]);
        SnapshotRef {
            index,
            term: self.term,
            id: 7,
            bytes: 3,
            crc: 5,
            context,
        }
    }
}

impl Default for Group {
    fn default() -> Self {
        Self {
            state: GroupState::default(),
            first_index: 1,
            previous_term: 0,
            entries: VecDeque::new(),
            snapshot: None,
        }
    }
}

impl Group {
    pub(super) fn last_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64 - 1
    }

    fn append(&mut self, first: u64, entries: Vec<Entry>) -> bool {
        if first < self.first_index || first > self.last_index() + 1 {
            return false;
        }
        self.entries.truncate((first - self.first_index) as usize);
        self.entries.extend(entries);
        true
    }

    fn compact(&mut self, first_index: u64) -> bool {
        if first_index > self.last_index() + 1 {
            return false;
        }
        while self.first_index < first_index {
            self.previous_term = self
                .entries
                .pop_front()
                .expect("the bound was checked")
                .term;
            self.first_index += 1;
        }
        true
    }

    fn install(&mut self, snapshot: SnapshotRef, keep_from: Option<u64>) -> bool {
        let (index, term) = (snapshot.index, snapshot.term);
        self.snapshot = Some(snapshot);
        if let Some(from) = keep_from {
            return from > 0 && from <= index + 1 && self.compact(from);
        }
        self.entries.clear();
        (self.first_index, self.previous_term) = (index + 1, term);
        true
    }

    pub(super) fn recovered(&self) -> RecoveredGroup {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|&(_, term)| term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        RecoveredGroup {
            state: self.state,
            first_index: self.first_index,
            last_index: self.last_index(),
            previous_term: self.previous_term,
            terms,
            snapshot: self.snapshot.clone(),
            lost: Vec::new(),
        }
    }
}

fn entries(first: u64, count: u8, len: u16, term: u64, kind: u8) -> Vec<Entry> {
    let entry = |index: u64| {
        let payload = Bytes::from(vec![index as u8 ^ term as u8; usize::from(len)]);
        Entry {
            index,
            term,
            kind,
            payload,
        }
    };
    (first..first + u64::from(count)).map(entry).collect()
}
