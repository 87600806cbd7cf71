//! Looking into a log: what is said is what an open finds, all damage is named, and nothing is
//! changed.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod describe;
mod forged;
mod plan;
mod untouched;

use std::path::{Path, PathBuf};

use common::*;
use quorate_wal::*;

pub(crate) const SNAPSHOTS: &str = "/node/snap";

/// A log with indexed segments, of which some entries are dead, a snapshot, and a tail of several
/// batches.
pub(crate) fn sample() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let mut batch = appended(1, 1..=4, 1, 700);
    batch.set_state(GroupId(1), state(1));
    commit(&log, batch);
    for index in 1..=60 {
        commit(
            &log,
            appended(2, 3 * index - 2..=3 * index, 1 + index / 20, 601),
        );
        log.prepare().unwrap();
    }
    let snapshots = Snapshots::open(disk.as_disk(), Path::new(SNAPSHOTS)).unwrap();
    let mut writer = snapshots.create(GroupId(2), 40, 1, 7).unwrap();
    writer.write(&vec![5; 300_000]).unwrap();
    let mut batch = WriteBatch::new();
    batch.set_snapshot(GroupId(2), writer.finish().unwrap());
    batch.compact(GroupId(2), 6);
    commit(&log, batch);
    rest(&log);
    commit(&log, appended(3, 1..=3, 2, 100));
    commit(&log, appended(3, 4..=4, 2, 5000));
    let mut batch = appended(1, 5..=6, 2, 33);
    batch.append(GroupId(3), entries(3, 5..=5, 2, 33));
    commit(&log, batch);
    // The manifest names the segment that is written to.
    log.prepare().unwrap();
    drop(log);
    disk
}

pub(crate) fn state(term: u64) -> GroupState {
    GroupState {
        term,
        vote: 2,
        commit: 1,
    }
}

pub(crate) fn looked(disk: &dyn Disk) -> Inspection {
    inspect(disk, Path::new(DIR)).unwrap()
}

pub(crate) fn verified(disk: &dyn Disk) -> Verification {
    let snapshots = Some(Path::new(SNAPSHOTS)).filter(|dir| disk.list(dir).is_ok());
    verify(disk, Path::new(DIR), snapshots, &mut |_| ()).unwrap()
}

pub(crate) fn planned(disk: &dyn Disk) -> RepairPlan {
    let snapshots = Some(Path::new(SNAPSHOTS)).filter(|dir| disk.list(dir).is_ok());
    plan_repair(disk, Path::new(DIR), snapshots, &options(), &mut |_| ()).unwrap()
}

/// Whether a name is that of a segment.
pub(crate) fn is_segment(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|it| it == "seg")
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// The first segment in this state, with its content.
pub(crate) fn first(disk: &dyn Disk, state: SegmentState) -> (SegmentInspection, Vec<u8>) {
    let mut segments = looked(disk).segments.into_iter();
    let segment = segments.find(|segment| segment.state == state).unwrap();
    let bytes = read(disk, &segment.file);
    (segment, bytes)
}

/// Where an entry's payload, as `entry` makes it, begins.
pub(crate) fn payload_of(bytes: &[u8], group: u64, index: u64, term: u64) -> usize {
    let text = format!("{group}/{index}/{term}/");
    let mut windows = bytes.windows(text.len());
    windows.position(|it| it == text.as_bytes()).unwrap()
}

/// Changes one byte.
pub(crate) fn flip(disk: &dyn Disk, file: &Path, offset: usize) {
    let byte = read(disk, file)[offset];
    write(disk, file, offset, &[byte ^ 0x10]);
}

pub(crate) fn only(verification: &Verification) -> &Problem {
    assert_eq!(verification.problems_total, 1, "{verification:#?}");
    &verification.problems[0]
}

/// A problem as file, offset, kind and cost.
pub(crate) type Seen<'a> = (&'a Path, u64, DamageKind, Cost);

pub(crate) fn seen(problem: &Problem) -> Seen<'_> {
    let damage = &problem.damage;
    (&damage.file, damage.offset, damage.kind, problem.cost)
}
/// Reads every entry of a log; the ones named must fail, and no others.
pub(crate) fn read_everything(disk: &MemoryDisk, lost: Option<(GroupId, (u64, u64))>) {
    let (log, recovered) = open(disk);
    for (&group, found) in &recovered.groups {
        for index in found.first_index..=found.last_index {
            let is_lost = lost
                .is_some_and(|(of, (first, last))| of == group && (first..=last).contains(&index));
            let read = log.read(group, index, index + 1, usize::MAX);
            assert_eq!(read.is_err(), is_lost, "{group} {index}: {read:?}");
        }
    }
}
