//! Whether every byte that the log may need is what was written.
//!
//! Invariants:
//! - Every segment in service is read to the end of its batches and of its index; every CRC, the
//!   chain, the watermarks and the zeros between the parts are checked.
//! - A problem is named once, by who knows most of it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::batch::SnapshotRef;
use crate::disk::Disk;
use crate::error::{Damage, DamageKind, OpenError, SnapshotError};
use crate::format::HeaderBlock;
use crate::ids::GroupId;
use crate::log::sort::{Candidate, InService};
use crate::snapshot;

use super::check::check_segment;
use super::inspect::SegmentState;
use super::look::{Looked, ReadOnly, look};

/// So many problems are kept; more are counted.
const PROBLEMS_MAX: usize = 4096;

/// Whether a log is sound, see [`verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Whether somebody has the log open. What is reported may then be what was just written.
    pub in_use: bool,
    /// Whether the log opens as it is, see [`LogOptions::accept_damage`](crate::LogOptions). The groups of
    /// [`unrestorable`](Self::unrestorable) cannot be served from it all the same.
    pub opens: bool,
    /// Segments in service that were read.
    pub segments: u64,
    /// Whole batches in them.
    pub batches: u64,
    /// Entries in those.
    pub entries: u64,
    /// Snapshots that were read; none if no directory of snapshots was given.
    pub snapshots: Option<u64>,
    /// Bytes that were read and checked.
    pub checked_bytes: u64,
    /// What is wrong, by file and offset; the first 4,096.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problems_total: u64,
    /// What is no damage and worth knowing.
    pub notes: Vec<Note>,
}

/// A damaged part, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The damage.
    pub damage: Damage,
    /// What it costs.
    pub cost: Cost,
}

/// What damage costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cost {
    /// Nothing that the log still needs.
    Nothing,
    /// Entries, which the damage names. The rest is served.
    Entries,
    /// The states of groups may be older than what was promised, so the log does not open.
    States,
    /// The snapshot of a group.
    Snapshot,
}

/// What is no damage and worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The log ends here; what follows was never acknowledged, and the next open cuts it.
    TornTail {
        /// The segment.
        file: PathBuf,
        /// Where the log ends.
        offset: u64,
        /// Bytes behind it.
        bytes: u64,
    },
    /// A manifest that is not whole beside one that is and that counts.
    TornManifest {
        /// The file.
        file: PathBuf,
    },
    /// The payload of entries that are not in the log any more, since they were superseded, compacted or
    /// moved. The device rots, and nothing depends on it.
    Superseded {
        /// Where, and which entries.
        damage: Damage,
    },
    /// A full segment has no index behind it; the log makes it when it is open.
    NoIndex {
        /// The segment.
        file: PathBuf,
    },
    /// A segment that the log does without. It was not checked.
    NotInService {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        state: SegmentState,
    },
    /// A snapshot that the log does not name. It was not checked.
    UnusedSnapshot {
        /// The file.
        file: PathBuf,
    },
    /// A name that means nothing to the log.
    Stray {
        /// The file.
        file: PathBuf,
    },
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Bytes that were checked.
    pub done_bytes: u64,
    /// Bytes that are to be checked.
    pub total_bytes: u64,
}

/// Reads everything that the log in a directory consists of, and checks it, without opening the log:
/// nothing is changed, created or locked. With the directory of the snapshots, those that the log
/// names are checked too. `progress` is called after each step; if the log is in use and problems
/// are found, all is read a second time. An error means that no answer was found, not that there is
/// damage.
///
/// ```
/// use std::sync::Arc;
/// use quorate_wal::{Log, LogOptions, RealDisk, verify};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let (log, _) = Log::open(Arc::new(RealDisk), dir, LogOptions::default())?;
/// drop(log);
/// let verification = verify(&RealDisk, dir, None, &mut |_| ())?;
/// assert!(verification.is_sound() && !verification.in_use);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    snapshots: Option<&Path>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Verification, OpenError> {
    let verified = verify_twice(&ReadOnly(disk), dir, snapshots, progress)?;
    Ok(verified.1)
}

impl Verification {
    /// Whether there is no damage to anything that is needed.
    pub fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    /// The groups whose snapshot is damaged or gone: their state cannot be restored from here, whether the log
    /// opens or not.
    pub fn unrestorable(&self) -> Vec<GroupId> {
        let problems = self.problems.iter();
        let lost = problems.filter(|it| it.cost == Cost::Snapshot);
        let groups: BTreeSet<_> = lost.filter_map(|it| it.damage.group).collect();
        groups.into_iter().collect()
    }
}

/// Looks at a log and verifies it. What is wrong with one that is in use may be what was just being
/// written or given up: it counts only if it is there a second time.
pub(super) fn verify_twice(
    disk: &ReadOnly<'_>,
    dir: &Path,
    snapshots: Option<&Path>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<(Looked, Verification), OpenError> {
    let mut verify = || {
        let looked = look(disk, dir)?;
        looked.refuse_foreign()?;
        let verification = verify_looked(disk, &looked, dir, snapshots, progress)?;
        Ok((looked, verification))
    };
    let (looked, first) = verify()?;
    if !first.in_use || first.is_sound() {
        return Ok((looked, first));
    }
    let (looked, mut second) = verify()?;
    let was_there = |it: &Problem| first.problems.iter().any(|old| old.damage == it.damage);
    if second.problems_total == second.problems.len() as u64 {
        second.problems.retain(was_there);
        second.problems_total = second.problems.len() as u64;
    }
    second.opens |= second.is_sound();
    Ok((looked, second))
}

fn verify_looked(
    disk: &ReadOnly<'_>,
    looked: &Looked,
    dir: &Path,
    snapshots: Option<&Path>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Verification, OpenError> {
    let named = named_snapshots(looked);
    let mut findings = Findings::new(looked, progress);
    let chain = &looked.sorted.chain;
    // What a file says is believed only as far as the file goes.
    let used = |part: &InService| {
        let end = looked.end_of(part.segment.id);
        end.map(|end| end.min(part.segment.bytes))
    };
    findings.progress.total_bytes = chain.iter().filter_map(used).sum();
    if snapshots.is_some() {
        let bytes = named.iter().map(|(_, it)| it.bytes);
        let total = &mut findings.progress.total_bytes;
        *total = bytes.fold(*total, u64::saturating_add);
    }
    findings.step(0);
    for part in chain {
        check_segment(part, &mut findings)?;
        findings.found.segments += 1;
    }
    if let Some(dir) = snapshots {
        check_snapshots(disk, dir, &named, &mut findings)?;
    }
    findings.add_noticed();
    add_notes(looked, dir, &mut findings.found.notes);
    Ok(findings.finish())
}

/// What was found so far.
pub(super) struct Findings<'a> {
    pub(super) looked: &'a Looked,
    pub(super) found: Verification,
    pub(super) progress: VerifyProgress,
    tell: &'a mut dyn FnMut(VerifyProgress),
    /// What the open notices, and whether entries are missing.
    noticed: HashSet<Key<'a>>,
    is_missing: bool,
    /// Notes of damage to entries that are not in the log any more.
    superseded: usize,
}

/// What tells damage from other damage, unless entries are missing.
type Key<'a> = (&'a Path, u64, DamageKind);

fn key(damage: &Damage) -> Key<'_> {
    (&damage.file, damage.offset, damage.kind)
}

impl<'a> Findings<'a> {
    fn new(looked: &'a Looked, tell: &'a mut dyn FnMut(VerifyProgress)) -> Self {
        let found = Verification {
            in_use: looked.in_use,
            opens: looked.opens(),
            ..Verification::default()
        };
        Self {
            looked,
            found,
            progress: VerifyProgress::default(),
            tell,
            noticed: looked.damage.iter().map(key).collect(),
            is_missing: looked.damage.iter().any(is_missing),
            superseded: 0,
        }
    }

    /// Notes damage to an entry that is not in the log any more. Entries that follow those of the last
    /// one join it.
    pub(super) fn note_superseded(&mut self, damage: Damage) {
        if let Some(Note::Superseded { damage: last }) = self.found.notes.last_mut()
            && joins(last, &damage)
            && let (Some(before), Some(added)) = (&mut last.indexes, damage.indexes)
        {
            before.1 = added.1;
        } else if self.superseded < PROBLEMS_MAX {
            self.superseded += 1;
            self.found.notes.push(Note::Superseded { damage });
        }
    }

    /// Notes that so much more was checked.
    pub(super) fn step(&mut self, bytes: u64) {
        self.found.checked_bytes += bytes;
        let total_bytes = self.progress.total_bytes;
        self.progress.done_bytes = self.found.checked_bytes.min(total_bytes);
        (self.tell)(self.progress);
    }

    /// Adds a problem. Entries that follow those of the last one join it.
    pub(super) fn add(&mut self, damage: Damage, cost: Cost) {
        let is_kept = self.found.problems_total == self.found.problems.len() as u64;
        if let Some(last) = self.found.problems.last_mut().filter(|_| is_kept)
            && last.cost == cost
            && joins(&last.damage, &damage)
            && let (Some(before), Some(added)) = (&mut last.damage.indexes, damage.indexes)
        {
            before.1 = added.1;
            return;
        }
        self.found.problems_total += 1;
        if self.found.problems.len() < PROBLEMS_MAX {
            self.found.problems.push(Problem { damage, cost });
        }
    }

    /// What damage costs that the open notices.
    pub(super) fn cost_noticed(&self, damage: &Damage) -> Cost {
        if self.looked.read.is_state_lost && !is_missing(damage) {
            Cost::States
        } else if self.is_missing {
            Cost::Entries
        } else {
            Cost::Nothing
        }
    }

    /// Whether the open notices a damaged part.
    pub(super) fn is_noticed(&self, damage: &Damage) -> bool {
        self.noticed.contains(&key(damage))
    }

    /// Adds what the open notices and reading each file by itself does not.
    fn add_noticed(&mut self) {
        let looked = self.looked;
        let found = std::mem::take(&mut self.found.problems);
        let known: HashSet<Key<'_>> = found.iter().map(|it| key(&it.damage)).collect();
        let is_new = |it: &&Damage| {
            is_missing(it) || it.kind != DamageKind::Payload && !known.contains(&key(it))
        };
        let new: Vec<&Damage> = looked.damage.iter().filter(is_new).collect();
        self.found.problems = found;
        for damage in new {
            let cost = self.cost_noticed(damage);
            self.add(damage.clone(), cost);
        }
    }

    fn finish(mut self) -> Verification {
        self.progress.total_bytes = self.progress.done_bytes;
        (self.tell)(self.progress);
        let by_place = |a: &Problem, b: &Problem| {
            let key = |it: &Problem| {
                (
                    it.damage.kind == DamageKind::MissingEntries,
                    it.damage.offset,
                )
            };
            (key(a).0, &a.damage.file, key(a).1).cmp(&(key(b).0, &b.damage.file, key(b).1))
        };
        self.found.problems.sort_by(by_place);
        self.found
    }
}

fn joins(before: &Damage, added: &Damage) -> bool {
    let follows = match (before.indexes, added.indexes) {
        (Some((_, last)), Some((first, _))) => last.checked_add(1) == Some(first),
        _ => false,
    };
    follows && (&before.file, before.group, before.kind) == (&added.file, added.group, added.kind)
}

fn is_missing(damage: &Damage) -> bool {
    damage.kind == DamageKind::MissingEntries
}

fn named_snapshots(looked: &Looked) -> Vec<(GroupId, SnapshotRef)> {
    let groups = looked.read.index.groups.iter();
    groups
        .filter_map(|(&group, log)| Some((group, log.snapshot.clone()?)))
        .collect()
}

fn check_snapshots(
    disk: &ReadOnly<'_>,
    dir: &Path,
    named: &[(GroupId, SnapshotRef)],
    findings: &mut Findings<'_>,
) -> Result<(), OpenError> {
    let mut checked = 0;
    for (group, snapshot) in named {
        let done = findings.progress.done_bytes;
        match check_snapshot(disk, dir, *group, snapshot, findings) {
            Ok(()) => checked += 1,
            Err(SnapshotError::Version {
                path,
                found,
                supported,
            }) => {
                return Err(OpenError::Version {
                    path,
                    found,
                    supported,
                });
            }
            Err(
                SnapshotError::Io {
                    action,
                    path,
                    source,
                }
                | SnapshotError::NoHandles {
                    action,
                    path,
                    source,
                },
            ) => return Err(OpenError::io(action, &path, source)),
            Err(error) => {
                let (file, offset, kind) = match error {
                    SnapshotError::Missing { path } => (path, 0, DamageKind::MissingSnapshot),
                    SnapshotError::Corrupt { path, offset, .. } => {
                        (path, offset, DamageKind::Snapshot)
                    }
                    _ => (dir.to_owned(), 0, DamageKind::Snapshot),
                };
                let damage = Damage {
                    file,
                    offset,
                    group: Some(*group),
                    indexes: None,
                    kind,
                };
                findings.add(damage, Cost::Snapshot);
            }
        }
        let left = done
            .saturating_add(snapshot.bytes)
            .saturating_sub(findings.progress.done_bytes);
        findings.progress.total_bytes = findings.progress.total_bytes.saturating_sub(left);
    }
    findings.found.snapshots = Some(checked);
    match snapshot::unnamed(disk, dir, named) {
        Ok(files) => {
            let notes = files.into_iter().map(|file| Note::UnusedSnapshot { file });
            findings.found.notes.extend(notes);
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::io("list", dir, source)),
    }
}

fn check_snapshot(
    disk: &ReadOnly<'_>,
    dir: &Path,
    group: GroupId,
    snapshot: &SnapshotRef,
    findings: &mut Findings<'_>,
) -> Result<(), SnapshotError> {
    let reader = snapshot::open_in(disk, dir, group, snapshot)?;
    reader.verify(|bytes| findings.step(bytes))
}

fn add_notes(looked: &Looked, dir: &Path, notes: &mut Vec<Note>) {
    let read = &looked.read;
    if read.report.torn_tail_bytes > 0 {
        let tail = &read.tail;
        let parts = looked.sorted.chain.iter();
        let part = parts.clone().find(|it| it.segment.id == tail.segment);
        notes.extend(part.map(|part| Note::TornTail {
            file: part.segment.path.clone(),
            offset: tail.at.end,
            bytes: read.report.torn_tail_bytes,
        }));
    }
    notes.extend(
        looked
            .damaged
            .iter()
            .map(|file| Note::TornManifest { file: file.clone() }),
    );
    let not_in_service = |it: &Candidate, state| Note::NotInService {
        file: it.segment.path.clone(),
        state,
    };
    let dead = looked.sorted.dead.iter();
    notes.extend(dead.map(|it| not_in_service(it, SegmentState::Dead)));
    notes.extend(looked.sorted.unused.iter().map(|it| {
        let state = match it.header {
            HeaderBlock::Blank => SegmentState::Prepared,
            _ => SegmentState::Unfinished,
        };
        not_in_service(it, state)
    }));
    notes.extend(looked.strays.iter().map(|name| Note::Stray {
        file: dir.join(name),
    }));
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail {
                file,
                offset,
                bytes,
            } => write!(
                f,
                "the log ends in {} at {offset}; the {bytes} bytes behind it were never acknowledged",
                file.display()
            ),
            Self::TornManifest { file } => {
                write!(f, "{} is not whole; the other one counts", file.display())
            }
            Self::Superseded { damage } => write!(
                f,
                "{damage}: not in the log any more, so nothing depends on it"
            ),
            Self::NoIndex { file } => write!(
                f,
                "{} has no index behind it yet; the log makes it when it is open",
                file.display()
            ),
            Self::NotInService { file, state } => {
                write!(
                    f,
                    "{} is not in service ({state}) and was not checked",
                    file.display()
                )
            }
            Self::UnusedSnapshot { file } => write!(
                f,
                "{} is not named by the log and was not checked",
                file.display()
            ),
            Self::Stray { file } => write!(f, "{} means nothing to the log", file.display()),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing is lost",
            Self::Entries => "entries are lost, the rest is served",
            Self::States => "states of groups may be lost, so the log does not open",
            Self::Snapshot => "the group needs this snapshot from a peer",
        })
    }
}
