//! What the groups of a log should be, in memory, and the steps that programs are made of.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use quorate_wal::{Entry, GroupId, GroupState, RecoveredGroup, SnapshotRef, WriteBatch};

/// All groups.
pub(crate) type Groups = BTreeMap<GroupId, Group>;

/// What one group should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) state: GroupState,
    pub(crate) snapshot: Option<SnapshotRef>,
    pub(crate) first_index: u64,
    pub(crate) previous_term: u64,
    pub(crate) entries: Vec<Entry>,
    /// The term of what is appended next.
    term: u64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            state: GroupState::default(),
            snapshot: None,
            first_index: 1,
            previous_term: 0,
            entries: Vec::new(),
            term: 1,
        }
    }
}

/// What a program does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One small entry.
    Small,
    /// One entry that takes two blocks.
    Large,
    /// Entries that take ten blocks together.
    Huge,
    /// Small entries of two groups that become durable together.
    Pair,
    /// Two submissions that are written as one batch, and stand apart in it.
    Together,
    /// Two small submissions that are gathered while they wait, and stand in the log as one.
    Gathered,
    /// An entry in place of the last one.
    Conflict,
    /// All entries but the last go.
    Compact,
    /// The hard state of the other group.
    State,
    /// A snapshot that covers everything, and then no entries.
    Snapshot,
    /// A snapshot from elsewhere: the log goes on behind it.
    Install,
    /// The group goes; the next step that needs it makes it anew, with the same indexes and terms.
    Remove,
    /// The last batch is covered by an empty one.
    Cover,
    /// What is done off the commit path: sealing, giving back, moving, making the next segment
    /// ready.
    Prepare,
    /// The power goes off and on again, and takes what was not synced.
    Reopen,
    /// The disk has no space left.
    Fill,
    /// It has again.
    Space,
}

/// The steps that every program is made of.
pub(crate) const STEPS: [Step; 14] = [
    Step::Small,
    Step::Large,
    Step::Pair,
    Step::Together,
    Step::Gathered,
    Step::Conflict,
    Step::Compact,
    Step::State,
    Step::Snapshot,
    Step::Install,
    Step::Remove,
    Step::Cover,
    Step::Prepare,
    Step::Reopen,
];

/// The steps of programs on a disk that fills up.
pub(crate) const FULL_STEPS: [Step; 8] = [
    Step::Fill,
    Step::Space,
    Step::Large,
    Step::Compact,
    Step::State,
    Step::Remove,
    Step::Prepare,
    Step::Reopen,
];

const FIRST: GroupId = GroupId(1);
const SECOND: GroupId = GroupId(2);
const SMALL_BYTES: usize = 20;
const LARGE_BYTES: usize = 5000;
const HUGE_ENTRIES: usize = 7;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Step {
    /// The submissions that the step makes, each with what the groups are then. `number` is that of
    /// the first one.
    pub(crate) fn submissions(self, number: usize, groups: &Groups) -> Vec<(WriteBatch, Groups)> {
        let mut groups = groups.clone();
        let mut batch = WriteBatch::new();
        let mut done = Vec::new();
        match self {
            Self::Small => append(&mut groups, &mut batch, FIRST, number, SMALL_BYTES),
            Self::Large => append(&mut groups, &mut batch, FIRST, number, LARGE_BYTES),
            Self::Huge => {
                for _ in 0..HUGE_ENTRIES {
                    append(&mut groups, &mut batch, FIRST, number, LARGE_BYTES);
                }
            }
            Self::Pair => {
                append(&mut groups, &mut batch, FIRST, number, SMALL_BYTES);
                append(&mut groups, &mut batch, SECOND, number, SMALL_BYTES);
            }
            Self::Together => {
                append(&mut groups, &mut batch, FIRST, number, SMALL_BYTES);
                done.push((std::mem::take(&mut batch), groups.clone()));
                append(&mut groups, &mut batch, FIRST, number + 1, LARGE_BYTES);
            }
            Self::Gathered => {
                append(&mut groups, &mut batch, FIRST, number, SMALL_BYTES);
                done.push((std::mem::take(&mut batch), groups.clone()));
                append(&mut groups, &mut batch, SECOND, number + 1, SMALL_BYTES);
            }
            Self::Conflict => {
                let group = groups.entry(FIRST).or_default();
                group.entries.pop();
                group.term += 1;
                append(&mut groups, &mut batch, FIRST, number, SMALL_BYTES);
            }
            Self::Compact => {
                let group = groups.entry(FIRST).or_default();
                group.compact(group.last_index().max(1));
                batch.compact(FIRST, group.first_index);
            }
            Self::State => {
                let group = groups.entry(SECOND).or_default();
                group.state.term += 1;
                group.state.vote = number as u64;
                batch.set_state(SECOND, group.state);
            }
            Self::Snapshot => {
                let group = groups.entry(FIRST).or_default();
                let snapshot = snapshot(group.last_index(), number);
                group.snapshot = Some(snapshot.clone());
                batch.set_snapshot(FIRST, snapshot);
                done.push((std::mem::take(&mut batch), groups.clone()));
                let group = groups.entry(FIRST).or_default();
                group.compact(group.last_index() + 1);
                batch.compact(FIRST, group.first_index);
            }
            Self::Install => {
                let group = groups.entry(FIRST).or_default();
                let snapshot = snapshot(group.last_index() + 2, number);
                *group = Group {
                    state: group.state,
                    snapshot: Some(snapshot.clone()),
                    first_index: snapshot.index + 1,
                    previous_term: snapshot.term,
                    entries: Vec::new(),
                    term: group.term.max(snapshot.term),
                };
                batch.install(FIRST, snapshot, None);
            }
            Self::Remove => {
                groups.remove(&FIRST);
                batch.remove(FIRST);
            }
            Self::Cover | Self::Prepare | Self::Reopen | Self::Fill | Self::Space => return done,
        }
        done.push((batch, groups));
        done
    }
}

impl Group {
    pub(crate) fn last_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64 - 1
    }

    /// What recovery should say of the group.
    pub(crate) fn recovered(&self) -> RecoveredGroup {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|last| last.1 != entry.term) {
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

    fn compact(&mut self, first_index: u64) {
        while self.first_index < first_index {
            self.previous_term = self.entries.remove(0).term;
            self.first_index += 1;
        }
    }
}

/// Appends an entry whose payload names the submission: a group that is made anew has other entries
/// at the same indexes and terms.
fn append(
    groups: &mut Groups,
    batch: &mut WriteBatch,
    id: GroupId,
    number: usize,
    payload_bytes: usize,
) {
    let group = groups.entry(id).or_default();
    let (index, term) = (group.last_index() + 1, group.term);
    let text = format!("{}/{index}/{term}/{number}/", id.0);
    let payload: Vec<u8> = text.bytes().cycle().take(payload_bytes).collect();
    let entry = Entry {
        index,
        term,
        kind: number as u8 % 3,
        payload: Bytes::from(payload),
    };
    group.entries.push(entry.clone());
    batch.append(id, vec![entry]);
}

fn snapshot(index: u64, number: usize) -> SnapshotRef {
    SnapshotRef {
        index,
        term: 1,
        id: number as u64,
        bytes: 100,
        crc: 7,
        context: Bytes::from_static(b"members"),
    }
}
