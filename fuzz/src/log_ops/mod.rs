//! Any program of log operations, beside a model in memory.
//!
//! The input is the program, as `arbitrary` reads it: every input is one.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use quorate_wal::{
    Drove, Entry, GroupId, GroupState, Log, LogOptions, Lsn, MemoryDisk, RecoveredGroup,
    SnapshotRef, SubmitError, WriteBatch,
};

use crate::Depth;
use crate::content::options;
use crate::files::DIR;

/// One step. Small numbers, so that steps meet each other.
#[derive(Debug, Arbitrary)]
enum Step {
    /// Several changes that become durable together.
    Submit(Vec<(u8, Change)>),
    /// Writes one batch.
    Drive,
    /// Makes a segment ready, and deletes dead ones.
    Prepare,
    /// What was not written is lost; the rest is found again.
    Reopen,
}

#[derive(Clone, Debug, Arbitrary)]
enum Change {
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
struct Group {
    state: GroupState,
    first_index: u64,
    previous_term: u64,
    entries: VecDeque<Entry>,
    snapshot: Option<SnapshotRef>,
}

type Groups = BTreeMap<GroupId, Group>;

/// A log, and what it should hold.
struct Pair {
    disk: MemoryDisk,
    options: LogOptions,
    /// None only while it is opened again: the old one holds the lock of the directory.
    log: Option<Arc<Log>>,
    /// What is durable.
    durable: Groups,
    /// What will be when everything in line is written, by the lsn with which it is.
    in_line: VecDeque<(Lsn, Groups)>,
    term: u64,
}

const GROUPS: u64 = 3;
const STEPS_MAX: usize = 200;
const ENTRIES_MAX: u8 = 24;

/// Runs the program. After each write and each reopening the log holds what the model says, entry by entry.
pub fn log_ops(bytes: &[u8]) -> Depth {
    let mut program = Unstructured::new(bytes);
    let mut pair = Pair::new();
    let mut wrote = false;
    for _ in 0..STEPS_MAX {
        if program.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut program) else {
            break;
        };
        match step {
            Step::Submit(changes) => pair.submit(&changes),
            Step::Drive => wrote |= pair.drive(),
            Step::Prepare => drop(pair.log().prepare().expect("memory does not fail")),
            Step::Reopen => pair.reopen(),
        }
    }
    pair.reopen();
    if wrote {
        Depth::Accepted
    } else {
        Depth::Refused
    }
}

impl Pair {
    fn new() -> Self {
        let (disk, options) = (MemoryDisk::new(), options());
        let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options.clone())
            .expect("an empty directory opens");
        Self {
            disk,
            options,
            log: Some(log),
            durable: Groups::new(),
            in_line: VecDeque::new(),
            term: 1,
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("it was opened again")
    }

    fn submit(&mut self, changes: &[(u8, Change)]) {
        let mut groups = self
            .in_line
            .back()
            .map_or(&self.durable, |(_, groups)| groups)
            .clone();
        let mut batch = WriteBatch::new();
        let mut fits = true;
        for (group, change) in changes {
            let group = GroupId(u64::from(*group) % GROUPS);
            fits &= self.apply(&mut groups, &mut batch, group, change);
        }
        match self.log().submit(batch) {
            Ok(lsn) => {
                assert!(fits, "what fits no log was taken: {changes:?}");
                self.in_line.push_back((lsn, groups));
            }
            Err(SubmitError::Invalid { .. }) => {
                assert!(!fits, "what fits was refused: {changes:?}");
            }
            Err(SubmitError::TooLarge { .. } | SubmitError::QueueFull) => {}
            Err(error) => panic!("{changes:?}: {error}"),
        }
    }

    /// Adds a change to the batch and to the model; `false` if it does not fit what is before it.
    fn apply(
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

    fn drive(&mut self) -> bool {
        match self.log().drive().expect("memory does not fail") {
            Drove::Wrote { lsn, .. } => {
                assert_eq!(self.log().durable(), lsn);
                while self
                    .in_line
                    .front()
                    .is_some_and(|(in_line, _)| *in_line <= lsn)
                {
                    self.durable = self.in_line.pop_front().expect("it was just looked at").1;
                }
                self.check_entries();
                true
            }
            Drove::NeedsSegment => {
                assert!(
                    self.log()
                        .prepare()
                        .expect("memory does not fail")
                        .segment_ready
                );
                false
            }
            _ => {
                assert!(self.in_line.is_empty(), "what is in line is written");
                false
            }
        }
    }

    fn reopen(&mut self) {
        self.in_line.clear();
        self.log = None;
        let opened = Log::open(
            Arc::new(self.disk.clone()),
            Path::new(DIR),
            self.options.clone(),
        );
        let (log, recovered) = opened.expect("what was written opens");
        let expected: BTreeMap<_, _> = self
            .durable
            .iter()
            .map(|(&group, known)| (group, known.recovered()))
            .collect();
        assert_eq!(recovered.groups, expected);
        assert!(recovered.report.damage.is_empty());
        self.log = Some(log);
        self.check_entries();
    }

    fn check_entries(&self) {
        for (&group, known) in &self.durable {
            assert_eq!(
                self.log().bounds(group),
                Some((known.first_index, known.last_index())),
                "{group}"
            );
            let (first, end) = (known.first_index, known.last_index() + 1);
            let found = self.log().read(group, first, end, usize::MAX);
            let found = found.expect("nothing is damaged");
            assert!(
                known.entries.iter().eq(found.iter()),
                "{group}: {:?} is not {found:?}",
                known.entries
            );
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
    fn last_index(&self) -> u64 {
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

    fn recovered(&self) -> RecoveredGroup {
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
