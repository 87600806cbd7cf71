//! What a log holds: its segments, its groups, and who keeps which space.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::batch::{GroupState, SnapshotRef};
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, HeaderBlock, SegmentHeader};
use crate::group::GroupLog;
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::index::{Index, Stage};
use crate::log::recover::recovered_group;
use crate::log::sort::{Candidate, InService};
use crate::manifest::Slot;
use crate::segment::Segment;

use super::look::{Looked, ReadOnly, header_of, look, slot_path};

/// So many of the groups that hold most of a segment are named.
const HOLDERS_MAX: usize = 8;

/// What the directory of a log holds, see [`inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The directory.
    pub dir: PathBuf,
    /// Whether somebody has the log open. All else is then of a moment, or of several.
    pub in_use: bool,
    /// Whose log it is, see [`LogOptions::identity`](crate::LogOptions::identity).
    pub identity: u64,
    /// The two files of the manifest.
    pub manifest: [ManifestSlot; 2],
    /// Every segment file, the oldest first.
    pub segments: Vec<SegmentInspection>,
    /// Every group.
    pub groups: Vec<GroupInspection>,
    /// Everything up to this lsn is there.
    pub last_lsn: Lsn,
    /// Bytes behind the last whole batch that were never acknowledged.
    pub torn_tail_bytes: u64,
    /// Bytes of all segment files, and of the reserve for a full disk.
    pub disk_bytes: u64,
    /// Bytes that the entries in the log take; an estimate where a part of a sealed range was
    /// dropped.
    pub live_bytes: u64,
    /// Damage that was met on the way. There may be more: only [`verify`](crate::verify) reads
    /// everything.
    pub damage: Vec<Damage>,
    /// Names in the directory that mean nothing to the log.
    pub strays: Vec<String>,
}

/// One file of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestSlot {
    /// The file.
    pub file: PathBuf,
    /// What it holds.
    pub state: SlotState,
}

/// What a file of the manifest holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotState {
    /// Nothing was written to it yet, or it does not exist.
    Blank,
    /// It is not whole: the last write to it was cut off, or it rotted.
    Torn,
    /// A whole manifest.
    Whole {
        /// Grows by one with each write.
        generation: u64,
        /// Whether it is the one that counts.
        is_newest: bool,
        /// Sealed segments that it names.
        segments: u64,
        /// The segment that was written to when the manifest was; zero if there was none.
        active: SegmentId,
    },
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInspection {
    /// Its id.
    pub id: SegmentId,
    /// The file.
    pub file: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// What it is to the log.
    pub state: SegmentState,
    /// Of its header: which opening of the log wrote it. Zero without a header.
    pub epoch: u32,
    /// Of its header: the segment before it; zero for none.
    pub previous: SegmentId,
    /// Of its header: the lsn that its first batch begins with. Zero without a header.
    pub first_lsn: Lsn,
    /// The lsn of its last batch; zero if it is not in service.
    pub last_lsn: Lsn,
    /// Batches in it whose headers are whole, up to the first that is not.
    pub batches: u64,
    /// Bytes up to the end of the last batch, header included; zero if it is not in service.
    pub used_bytes: u64,
    /// Entries in it that are in the log of a group.
    pub live_entries: u64,
    /// Bytes that those take.
    pub live_bytes: u64,
    /// How many groups have entries in it.
    pub groups: u64,
    /// Those of them that hold most of it, at most eight, the largest first.
    pub holders: Vec<GroupShare>,
}

/// What a segment is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentState {
    /// The newest in service, which was written to last.
    Active,
    /// In service and full, without an index behind it.
    Sealed,
    /// In service and full, with an index behind it.
    Indexed,
    /// The log does without it: the next open deletes it.
    Dead,
    /// Made ready and never used.
    Prepared,
    /// Never in service, and not ready either: a process ended while it was made.
    Unfinished,
    /// It belongs to another log.
    Foreign,
}

impl fmt::Display for SegmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Sealed => "sealed",
            Self::Indexed => "indexed",
            Self::Dead => "dead",
            Self::Prepared => "prepared",
            Self::Unfinished => "unfinished",
            Self::Foreign => "foreign",
        })
    }
}

/// What one group has of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupShare {
    /// The group.
    pub group: GroupId,
    /// Its entries in the segment.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// What one segment has of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentShare {
    /// The segment.
    pub segment: SegmentId,
    /// The group's entries in it.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// What the log holds of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInspection {
    /// The group.
    pub group: GroupId,
    /// The lsn of the batch that made it: tells it from an earlier one with the same id.
    pub born: Lsn,
    /// Its last hard state.
    pub state: GroupState,
    /// The first index in the log; one behind `last_index` if the log is empty.
    pub first_index: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// The term of the entry before `first_index`; zero if there was none.
    pub previous_term: u64,
    /// First index and term of each run of entries of one term.
    pub terms: Vec<(u64, u64)>,
    /// Its last snapshot.
    pub snapshot: Option<SnapshotRef>,
    /// Bytes that its entries take.
    pub bytes: u64,
    /// The segments that hold them, the oldest first.
    pub segments: Vec<SegmentShare>,
    /// First and last index of entries that were acknowledged and cannot be read any more.
    pub lost: Vec<(u64, u64)>,
}

/// Looks into the log in a directory, without opening it: nothing is changed, created or locked,
/// and the log may be in use. Takes as much memory as an open.
///
/// ```
/// use std::sync::Arc;
/// use quorate_wal::{GroupId, Log, LogOptions, RealDisk, SegmentState, WriteBatch, inspect};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let (log, _) = Log::open(Arc::new(RealDisk), dir, LogOptions::default())?;
/// let mut batch = WriteBatch::new();
/// batch.set_state(GroupId(7), Default::default());
/// log.submit(batch)?;
/// log.drive()?;
///
/// let inspection = inspect(&RealDisk, dir)?;
/// assert!(inspection.in_use);
/// assert_eq!(inspection.groups[0].group, GroupId(7));
/// assert_eq!(inspection.segments[0].state, SegmentState::Active);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Inspection, OpenError> {
    let looked = look(&ReadOnly(disk), dir)?;
    let groups = groups(&looked);
    let segments = segments(&looked, &groups)?;
    Ok(Inspection {
        dir: dir.to_owned(),
        in_use: looked.in_use,
        identity: looked.identity,
        manifest: manifest(&looked, dir),
        last_lsn: looked.read.tail.at.lsn,
        torn_tail_bytes: looked.read.report.torn_tail_bytes,
        disk_bytes: segments.iter().map(|it| it.bytes).sum::<u64>() + looked.reserve_bytes,
        live_bytes: segments.iter().map(|it| it.live_bytes).sum(),
        segments,
        groups,
        damage: looked.damage,
        strays: looked.strays,
    })
}

fn manifest(looked: &Looked, dir: &Path) -> [ManifestSlot; 2] {
    let newest = looked.manifest.as_ref().map(|it| it.generation);
    let state = |slot: &Slot| match slot {
        Slot::Blank => SlotState::Blank,
        Slot::Torn => SlotState::Torn,
        Slot::Whole(manifest) => SlotState::Whole {
            generation: manifest.generation,
            is_newest: Some(manifest.generation) == newest,
            segments: manifest.sealed.len() as u64,
            active: manifest.active,
        },
    };
    [0, 1].map(|number| ManifestSlot {
        file: slot_path(dir, number),
        state: state(&looked.slots[number]),
    })
}

fn groups(looked: &Looked) -> Vec<GroupInspection> {
    let index = &looked.read.index;
    let groups = index.groups.iter();
    groups
        .map(|(&group, log)| {
            let recovered = recovered_group(group, log, &looked.damage);
            let segments = shares(index, log);
            GroupInspection {
                group,
                born: log.born,
                state: recovered.state,
                first_index: recovered.first_index,
                last_index: recovered.last_index,
                previous_term: recovered.previous_term,
                terms: recovered.terms,
                snapshot: recovered.snapshot,
                bytes: segments.iter().map(|share| share.bytes).sum(),
                segments,
                lost: recovered.lost,
            }
        })
        .collect()
}

/// What each segment has of a group.
fn shares(index: &Index, log: &GroupLog) -> Vec<SegmentShare> {
    let mut shares: BTreeMap<SegmentId, SegmentShare> = BTreeMap::new();
    for piece in log.pieces(log.first_index()..log.last_index() + 1) {
        let counted = piece.place.segment().and_then(|it| index.segments.get(it));
        let Some(counted) = counted else { continue };
        let segment = counted.segment.id;
        let share = shares.entry(segment).or_insert(SegmentShare {
            segment,
            entries: 0,
            bytes: 0,
        });
        share.entries += piece.count;
        share.bytes += piece.bytes;
    }
    shares.into_values().collect()
}

fn segments(
    looked: &Looked,
    groups: &[GroupInspection],
) -> Result<Vec<SegmentInspection>, OpenError> {
    let mut holders = holders(groups);
    let mut segments = Vec::new();
    for (position, part) in looked.sorted.chain.iter().enumerate() {
        let is_last = position + 1 == looked.sorted.chain.len();
        let holders = holders.remove(&part.segment.id).unwrap_or_default();
        segments.push(in_service(looked, part, is_last, holders)?);
    }
    let dead = looked.sorted.dead.iter();
    segments.extend(dead.map(|it| other(it, SegmentState::Dead)));
    for unused in &looked.sorted.unused {
        let state = match unused.header {
            HeaderBlock::Blank => SegmentState::Prepared,
            _ => SegmentState::Unfinished,
        };
        segments.push(other(unused, state));
    }
    let foreign = looked.foreign.iter();
    segments.extend(foreign.map(|it| other(it, SegmentState::Foreign)));
    segments.sort_unstable_by_key(|segment| segment.id);
    Ok(segments)
}

/// What each group has of each segment, the largest first.
fn holders(groups: &[GroupInspection]) -> BTreeMap<SegmentId, Vec<GroupShare>> {
    let mut holders: BTreeMap<SegmentId, Vec<GroupShare>> = BTreeMap::new();
    for group in groups {
        for share in &group.segments {
            holders.entry(share.segment).or_default().push(GroupShare {
                group: group.group,
                entries: share.entries,
                bytes: share.bytes,
            });
        }
    }
    for shares in holders.values_mut() {
        shares.sort_unstable_by_key(|share| (Reverse(share.bytes), share.group));
    }
    holders
}

fn in_service(
    looked: &Looked,
    part: &InService,
    is_last: bool,
    mut holders: Vec<GroupShare>,
) -> Result<SegmentInspection, OpenError> {
    let id = part.segment.id;
    let counted = looked.counted(id);
    let state = match counted.map(|it| it.stage) {
        Some(Stage::Indexed) => SegmentState::Indexed,
        _ if is_last => SegmentState::Active,
        _ => SegmentState::Sealed,
    };
    let tail = Some(&looked.read.tail).filter(|it| it.segment == id);
    let sealed = counted.and_then(|it| it.sealed).or(part.sealed);
    let at = tail.map(|it| it.at).or(sealed).unwrap_or_default();
    let groups = holders.len() as u64;
    holders.truncate(HOLDERS_MAX);
    Ok(SegmentInspection {
        state,
        last_lsn: at.lsn,
        batches: count_batches(&part.segment, at.end)?,
        used_bytes: at.end,
        live_entries: counted.map_or(0, |it| it.live),
        live_bytes: counted.map_or(0, |it| it.live_bytes),
        groups,
        holders,
        ..of_file(&part.segment, part.header.as_ref())
    })
}

fn other(candidate: &Candidate, state: SegmentState) -> SegmentInspection {
    SegmentInspection {
        state,
        ..of_file(&candidate.segment, header_of(candidate))
    }
}

fn of_file(segment: &Segment, header: Option<&SegmentHeader>) -> SegmentInspection {
    SegmentInspection {
        id: segment.id,
        file: segment.path.clone(),
        bytes: segment.bytes,
        state: SegmentState::Dead,
        epoch: header.map_or(0, |it| it.epoch),
        previous: header.map_or(SegmentId(0), |it| it.prev),
        first_lsn: header.map_or(Lsn(0), |it| it.first_lsn),
        last_lsn: Lsn(0),
        batches: 0,
        used_bytes: 0,
        live_entries: 0,
        live_bytes: 0,
        groups: 0,
        holders: Vec::new(),
    }
}

/// Goes from header to header.
fn count_batches(segment: &Segment, end: u64) -> Result<u64, OpenError> {
    let mut batches = 0;
    let mut offset = BLOCK_BYTES;
    let mut bytes = [0; BATCH_HEADER_BYTES];
    while offset < end {
        match segment.file.read_at(offset, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other.map_err(|source| OpenError::io("read", &segment.path, source))?,
        }
        let Some((header, _)) = BatchHeader::decode(&bytes, segment.id, offset) else {
            break;
        };
        batches += 1;
        offset += header.batch_bytes();
    }
    Ok(batches)
}
