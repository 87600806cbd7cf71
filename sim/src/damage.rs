//! Where disks are damaged: only in what the log promises to notice.
//!
//! Invariants:
//! - The last durable batch of a log is never touched, nor the header of its segment: damage of those looks like a write
//!   that was torn, and is cut (`docs/guarantees.md`, "Not promised").
//! - What is damaged was durable, and is damaged on the device and in the cache alike.

use std::fmt;
use std::path::{Path, PathBuf};

use quorate_wal::testing::{CrashDisk, Effect, Fault, OpKind, Survivors};
use quorate_wal::{BatchInspection, SegmentId, Verdict, list_batches};

use crate::faults::FaultClass;
use crate::node::{DIR, SNAPSHOT_DIR};
use crate::seed::Rng;

/// The unit in which writes are lost or go astray.
const BLOCK_BYTES: u64 = 4_096;

/// Bits that rot at once at most.
const FLIPS_MAX: u64 = 3;

/// Reads that go wrong, one after the other, at most.
const MISREADS_MAX: u64 = 3;

/// Damages a disk, if there is anything durable to damage on it. Returns what was done to which file.
pub(crate) fn damage(disk: &CrashDisk, class: FaultClass, rng: &mut Rng) -> Option<String> {
    if class == FaultClass::Misread {
        return Some(misread(disk, rng));
    }
    let regions = regions(disk);
    let region = pick(&regions, rng)?;
    match class {
        FaultClass::BitRot => Some(flip(disk, region, rng)),
        FaultClass::LostWrite => {
            let block = region.block(rng);
            block.put(disk, &vec![0; block.len() as usize]);
            Some(format!("{block}: zeros"))
        }
        FaultClass::MisdirectedWrite => {
            let other = pick(&regions, rng)?.block(rng);
            let block = region.block(rng);
            let content = block.content(disk)?;
            block.put(disk, &vec![0; content.len()]);
            let fits = content.len().min(other.len() as usize);
            other.put(disk, &content[..fits]);
            Some(format!("{block}: went to {other}"))
        }
        FaultClass::StaleWrite => {
            let block = region.block(rng);
            let before = what_stood_there(disk, &block, &regions, rng);
            block.put(disk, &before);
            Some(format!("{block}: stale"))
        }
        _ => unreachable!("{class:?} takes nothing from a disk"),
    }
}

/// A part of a file that the log, or whoever reads the file, promises to check.
#[derive(Clone, Debug)]
struct Region {
    path: PathBuf,
    start: u64,
    end: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A segment that is followed by another one.
    Sealed,
    /// The segment that is written to.
    Active,
    Manifest,
    Snapshot,
    Identity,
}

impl Kind {
    /// Whether files of the other kind may once have been at the place of one of this.
    fn is_like(self, other: Self) -> bool {
        let is_segment = |kind| matches!(kind, Self::Sealed | Self::Active);
        self == other || is_segment(self) && is_segment(other)
    }
}

impl Region {
    fn len(&self) -> u64 {
        self.end - self.start
    }

    /// One block of it; all of it, if it has none that is whole.
    fn block(&self, rng: &mut Rng) -> Self {
        let first = self.start.next_multiple_of(BLOCK_BYTES);
        let blocks = self.end.saturating_sub(first) / BLOCK_BYTES;
        if blocks == 0 {
            return self.clone();
        }
        let start = first + rng.below(blocks) * BLOCK_BYTES;
        Self {
            start,
            end: start + BLOCK_BYTES,
            ..self.clone()
        }
    }

    fn content(&self, disk: &CrashDisk) -> Option<Vec<u8>> {
        let content = disk.contents(&self.path)?;
        let bytes = content.get(self.start as usize..self.end as usize)?;
        Some(bytes.to_vec())
    }

    fn put(&self, disk: &CrashDisk, bytes: &[u8]) {
        let is_there = disk.overwrite(&self.path, self.start, bytes);
        debug_assert!(is_there, "regions are of files that are there");
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.path.display(), self.start, self.len())
    }
}

/// What may be damaged on a disk, as it would be if the power went off now.
fn regions(disk: &CrashDisk) -> Vec<Region> {
    let durable = disk.fork();
    durable.power_cut(&Survivors::None);
    let mut regions = segments(&durable);
    for path in durable.files() {
        let Some(kind) = kind_of(&path) else {
            continue;
        };
        let len = durable.contents(&path).unwrap_or_default().len();
        regions.push(Region {
            path,
            start: 0,
            end: len as u64,
            kind,
        });
    }
    let live = disk.files();
    regions.retain(|region| region.len() > 0 && live.contains(&region.path));
    regions
}

/// The segments of a log: all of those behind which another one has batches, and of the last one what is in front of the
/// last batch.
fn segments(durable: &CrashDisk) -> Vec<Region> {
    let files = durable.files();
    let ids = files.iter().filter_map(|path| segment_of(path));
    let listed = ids.filter_map(|(path, id)| {
        let dir = path.parent()?;
        let mut batches = list_batches(durable, dir, id).unwrap_or_default();
        batches.retain(|batch| batch.verdict != Verdict::Ignored);
        Some((path.to_owned(), batches))
    });
    let mut listed: Vec<(PathBuf, Vec<BatchInspection>)> = listed.collect();
    listed.retain(|(_, batches)| !batches.is_empty());
    let Some((last, batches)) = listed.pop() else {
        return Vec::new();
    };
    let sealed = listed.into_iter().map(|(path, _)| Region {
        end: durable.contents(&path).unwrap_or_default().len() as u64,
        path,
        start: 0,
        kind: Kind::Sealed,
    });
    let active = Region {
        path: last,
        start: batches[0].offset,
        end: batches[batches.len() - 1].offset,
        kind: Kind::Active,
    };
    sealed.chain([active]).collect()
}

/// The id of a segment, from its name.
fn segment_of(path: &Path) -> Option<(&Path, SegmentId)> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".seg")?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    Some((path, SegmentId(id)))
}

/// What else is on the disk of a node.
fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    let is_snapshot = path.starts_with(Path::new(DIR).join(SNAPSHOT_DIR));
    match name {
        "IDENTITY" => Some(Kind::Identity),
        _ if name.starts_with("MANIFEST") => Some(Kind::Manifest),
        _ if is_snapshot => Some(Kind::Snapshot),
        _ => None,
    }
}

/// Sealed segments mostly, since a node that lost something of the active one, of its snapshot or its identity is out for
/// good at its next open. None, if there is nothing of the kind that was drawn.
fn pick<'a>(regions: &'a [Region], rng: &mut Rng) -> Option<&'a Region> {
    let kind = match rng.below(400) {
        0 => Kind::Identity,
        1..=20 => Kind::Active,
        21..=50 => Kind::Manifest,
        51..=80 => Kind::Snapshot,
        _ => Kind::Sealed,
    };
    let of_kind: Vec<_> = regions.iter().filter(|it| it.kind == kind).collect();
    let index = rng.draw();
    match of_kind.len() as u64 {
        0 => None,
        count => Some(of_kind[(index % count) as usize]),
    }
}

fn flip(disk: &CrashDisk, region: &Region, rng: &mut Rng) -> String {
    let mut bits = Vec::new();
    for _ in 0..rng.between(1, FLIPS_MAX) {
        let (offset, bit) = (region.start + rng.below(region.len()), rng.below(8));
        let is_there = disk.flip(&region.path, offset, bit as u8);
        debug_assert!(is_there, "regions are of files that are there");
        bits.push(format!("{offset}.{bit}"));
    }
    format!("{}: bits {}", region.path.display(), bits.join(", "))
}

/// What another file of the kind has at this place: segments are used again, and so are slots. Zeros, if there is none.
fn what_stood_there(
    disk: &CrashDisk,
    block: &Region,
    regions: &[Region],
    rng: &mut Rng,
) -> Vec<u8> {
    let others = regions
        .iter()
        .filter(|other| other.kind.is_like(block.kind) && other.path != block.path);
    let contents = others.filter_map(|other| {
        let there = Region {
            path: other.path.clone(),
            ..block.clone()
        };
        there.content(disk)
    });
    let contents: Vec<_> = contents.collect();
    let index = rng.draw();
    match contents.len() as u64 {
        0 => vec![0; block.len() as usize],
        count => contents[(index % count) as usize].clone(),
    }
}

/// Has a few reads of the log or of snapshots return something else.
fn misread(disk: &CrashDisk, rng: &mut Rng) -> String {
    let dir = rng.pick(&["/wal/", "/snap/"]);
    let by = rng.pick(&[1, 2, 3, 4]);
    let effect = rng.pick(&[
        Effect::Lost,
        Effect::Misdirected(by),
        Effect::Misdirected(-by),
    ]);
    let (skip, times) = (rng.below(4), rng.between(1, MISREADS_MAX));
    let fault = Fault::new(OpKind::Read, effect).on(dir);
    disk.inject(fault.after(skip).times(times));
    format!("{times} reads of {dir}: {effect:?}")
}
