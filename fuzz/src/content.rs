//! What an open log says, and what must hold of any log that opens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_wal::testing::CrashDisk;
use quorate_wal::{
    Drove, Entry, GroupId, Log, LogOptions, OpenError, ReadError, Recovered, RecoveredGroup,
    WriteBatch,
};

use crate::files::{BLOCK_BYTES, DIR};

/// Of each group so many entries are looked at: a hostile checkpoint speaks of 2^64.
const ENTRIES_MAX: u64 = 64;
/// So many groups get more entries.
const GROUPS_MAX: usize = 4;
/// Steps off the commit path until nothing is left to do, at most.
const PREPARES_MAX: usize = 12;

/// What an open log says, entries included.
#[derive(Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) groups: BTreeMap<GroupId, RecoveredGroup>,
    /// The entries that were looked at; none for those that are damaged.
    pub(crate) entries: BTreeMap<(GroupId, u64), Option<Seen>>,
}

/// An entry, short enough to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    term: u64,
    kind: u8,
    bytes: usize,
    crc: u32,
}

impl From<&Entry> for Seen {
    fn from(entry: &Entry) -> Self {
        Self {
            term: entry.term,
            kind: entry.kind,
            bytes: entry.payload.len(),
            crc: crc32fast::hash(&entry.payload),
        }
    }
}

/// Segments as small as they may be.
pub(crate) fn options() -> LogOptions {
    let mut options = LogOptions::default();
    options.segment_bytes_min = 4 * BLOCK_BYTES as u64;
    options.segment_bytes_max = 8 * BLOCK_BYTES as u64;
    options.entry_bytes_max = 8 * BLOCK_BYTES as u64;
    options.batch_bytes_max = 10 * BLOCK_BYTES as u64;
    options.queue_bytes_max = 40 * BLOCK_BYTES as u64;
    options.recovery_threads = 1;
    options
}

/// Opens a log.
pub(crate) fn open(
    disk: &CrashDisk,
    options: &LogOptions,
) -> Result<(Arc<Log>, Recovered), OpenError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), options.clone())
}

/// What the log on a disk says, or why it cannot be opened.
pub(crate) fn content(disk: &CrashDisk, options: &LogOptions) -> Result<Content, String> {
    let (log, recovered) = open(disk, options).map_err(|error| error.to_string())?;
    Ok(Content::of(&log, recovered))
}

impl Content {
    /// Looks at a log that was just opened.
    pub(crate) fn of(log: &Log, recovered: Recovered) -> Self {
        for (&group, found) in &recovered.groups {
            check_group(group, found);
            assert_eq!(
                log.bounds(group),
                Some((found.first_index, found.last_index))
            );
        }
        let mut content = Self {
            groups: recovered.groups,
            entries: BTreeMap::new(),
        };
        content.entries = content.read(log);
        for (&group, found) in &content.groups {
            for &(first, last) in &found.lost {
                let lost = (group, first)..=(group, last);
                let readable = content.entries.range(lost).find(|it| it.1.is_some());
                assert_eq!(readable, None, "it is lost, and can be read");
            }
        }
        content
    }

    /// Reads the first entries of each group, and the last.
    pub(crate) fn read(&self, log: &Log) -> BTreeMap<(GroupId, u64), Option<Seen>> {
        let mut entries = BTreeMap::new();
        for (&group, found) in &self.groups {
            let (first, last) = (found.first_index, found.last_index);
            let head = first
                ..last
                    .saturating_add(1)
                    .min(first.saturating_add(ENTRIES_MAX));
            let tail = last.saturating_sub(2).max(first)..last.saturating_add(1);
            for index in head.clone().chain(tail) {
                entries.insert((group, index), read_one(log, group, index, found));
            }
            check_together(log, group, head, &entries);
        }
        entries
    }

    /// Expects of a log, which was once this one, that it holds the same, except for what `said` says to be lost.
    pub(crate) fn check_part(&self, found: &Self, said: &Self) {
        for (&(group, index), entry) in &self.entries {
            match found.entries.get(&(group, index)) {
                Some(Some(other)) => assert_eq!(Some(other), entry.as_ref()),
                _ => assert!(
                    said.is_lost(&(group, index)),
                    "entry {index} of {group} is gone"
                ),
            }
        }
        let state = |content: &Self| {
            let mut groups = content.groups.clone();
            for group in groups.values_mut() {
                group.lost.clear();
            }
            groups
        };
        assert_eq!(state(found), state(self));
    }

    /// Takes over what another look says of losses.
    pub(crate) fn forget_losses(&mut self, other: &Self) {
        for (group, found) in &mut self.groups {
            if let Some(other) = other.groups.get(group) {
                found.lost.clone_from(&other.lost);
            }
        }
    }

    /// Expects of a log, which was once this one, that each entry is what it was, or damaged.
    pub(crate) fn check_readable(&self, found: &Self) {
        assert!(self.entries.keys().eq(found.entries.keys()));
        for (key, entry) in &found.entries {
            assert!(
                entry.is_none() || self.entries[key] == *entry,
                "{key:?}: {entry:?}"
            );
        }
    }

    /// Appends to some of the groups, and to a new one, so much that segments are left behind, and expects that all of it,
    /// and all that was there, is there afterwards.
    pub(crate) fn check_writes(mut self, disk: &CrashDisk, options: &LogOptions) {
        let (log, _) = open(disk, options).expect("it was open before");
        let known = self.groups.keys().copied().take(GROUPS_MAX);
        let mut groups: Vec<GroupId> = known.collect();
        groups.push(GroupId(u64::MAX - 1));
        for round in 0..2 {
            for &group in &groups {
                self.append(&log, group, round);
            }
        }
        self.check_kept(&self.read(&log));
        log.close();
        drop(log);
        let (log, recovered) = match open(disk, options) {
            // What is written takes the next number, which was the last one.
            Err(OpenError::Exhausted { .. }) => return,
            opened => opened.expect("a log that was written to opens"),
        };
        let found = Self::of(&log, recovered);
        self.check_kept(&found.entries);
        // Rot of a payload is found by the read alone once its segment is sealed.
        self.forget_losses(&found);
        assert_eq!(found.groups, self.groups);
    }

    /// Whether an entry was said to be lost.
    fn is_lost(&self, (group, index): &(GroupId, u64)) -> bool {
        let lost = self.groups.get(group).map(|it| &it.lost);
        let mut lost = lost.into_iter().flatten();
        lost.any(|(first, last)| (first..=last).contains(&index))
    }

    /// Expects every entry that was looked at before, where it was looked at again. One that was said to be lost may be found: if
    /// the segment was written to twice with the same entry of the same term, the other copy is looked for once it is sealed.
    fn check_kept(&self, found: &BTreeMap<(GroupId, u64), Option<Seen>>) {
        for (key, seen) in &self.entries {
            if let Some(found) = found.get(key) {
                if seen.is_none() && self.is_lost(key) {
                    continue;
                }
                assert_eq!(found, seen, "{key:?} of {:?}", self.groups);
            }
        }
        let newest = |entries: &BTreeMap<_, _>| entries.keys().next_back().copied();
        assert_eq!(
            newest(found),
            newest(&self.entries),
            "what was written last"
        );
    }

    /// Appends an entry, if the group has room for one.
    fn append(&mut self, log: &Log, group: GroupId, round: usize) {
        let fresh = || RecoveredGroup {
            first_index: 1,
            ..RecoveredGroup::default()
        };
        let mut known = self.groups.get(&group).cloned().unwrap_or_else(fresh);
        let index = known.last_index + 1;
        let term = known.terms.last().map_or(1, |it| it.1);
        // Two of them do not fit one segment.
        let payload = Bytes::from(vec![round as u8 + 1; 5_000]);
        let entry = Entry {
            index,
            term,
            kind: 3,
            payload,
        };
        let mut batch = WriteBatch::new();
        let seen = Seen::from(&entry);
        batch.append(group, vec![entry]);
        if log.submit(batch).is_err() {
            // So high an index, or so many groups, that there is no room for one more.
            return;
        }
        assert!(drive(log), "there is a segment for what was taken");
        if known.terms.is_empty() {
            known.terms.push((index, term));
        }
        known.last_index = index;
        self.groups.insert(group, known);
        self.entries.insert((group, index), Some(seen));
    }
}

/// Writes everything that was submitted, and does all that is to be done off the commit path; `false` if there is no room for
/// it.
pub(crate) fn drive(log: &Log) -> bool {
    let prepare = || log.prepare().expect("memory does not fail").segment_ready;
    for _ in 0..PREPARES_MAX {
        prepare();
        match log.drive().expect("memory does not fail") {
            Drove::Idle => return true,
            Drove::NeedsSegment if !prepare() => return false,
            _ => {}
        }
    }
    // Entries are being moved out of old segments, which goes on as long as there are such.
    true
}

fn check_group(group: GroupId, found: &RecoveredGroup) {
    let RecoveredGroup {
        first_index,
        last_index,
        terms,
        ..
    } = found;
    assert!(
        *first_index >= 1 && *first_index - 1 <= *last_index,
        "{group}: {found:?}"
    );
    assert!(terms.is_sorted_by(|a, b| a.0 < b.0), "{group}: {found:?}");
    let begin = (first_index <= last_index).then_some(*first_index);
    assert_eq!(terms.first().map(|it| it.0), begin, "{group}: {found:?}");
    assert!(
        terms.last().is_none_or(|it| it.0 <= *last_index),
        "{group}: {found:?}"
    );
    for (first, last) in &found.lost {
        assert!(first <= last, "{group}: {found:?}");
    }
}

/// The entry, or none if it is damaged and that is said.
fn read_one(log: &Log, group: GroupId, index: u64, known: &RecoveredGroup) -> Option<Seen> {
    match log.read(group, index, index + 1, usize::MAX) {
        Ok(mut read) => {
            assert_eq!(read.len(), 1);
            let entry = read.pop()?;
            let runs = known.terms.iter().rev();
            let term = runs.clone().find(|run| run.0 <= index).map(|run| run.1);
            assert_eq!((entry.index, Some(entry.term)), (index, term));
            Some(Seen::from(&entry))
        }
        Err(ReadError::Corrupt {
            group: named,
            index: at,
            ..
        }) => {
            assert_eq!((named, at), (group, index));
            None
        }
        Err(error) => panic!("{group} {index}: {error}"),
    }
}

/// Entries that are read together are those that are read one by one.
fn check_together(
    log: &Log,
    group: GroupId,
    indexes: std::ops::Range<u64>,
    entries: &BTreeMap<(GroupId, u64), Option<Seen>>,
) {
    match log.read(group, indexes.start, indexes.end, usize::MAX) {
        Ok(read) => {
            assert_eq!(read.is_empty(), indexes.is_empty(), "a read makes progress");
            for entry in &read {
                let seen = Seen::from(entry);
                assert_eq!(entries[&(group, entry.index)], Some(seen));
            }
        }
        Err(ReadError::Corrupt { index, .. }) => assert_eq!(entries[&(group, index)], None),
        Err(error) => panic!("{group} {indexes:?}: {error}"),
    }
}
