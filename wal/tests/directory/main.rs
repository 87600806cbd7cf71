//! The directory of a log as people and systems treat it: files copied, lost, cut and added, no
//! rights, no handles, two openers, entries and groups of every size, and logs of earlier formats.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "../common/mod.rs"]
mod common;

mod files;
mod formats;
mod names;
mod processes;
mod sizes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use quorate_wal::*;
use tempfile::TempDir;

/// Entries of one length that the sample holds: group, first index, last index, term, length.
pub(crate) const HELD: [(u64, u64, u64, u64, usize); 4] = [
    (1, 3, 100, 1, 900),
    (1, 101, 160, 2, 900),
    (2, 1, 16, 1, 55),
    (3, 1, 2, 3, 20_000),
];

/// A log on a real disk with several segments that are full and have an index, one that is written
/// to, and one that is prepared.
pub(crate) fn sample() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    dir
}

pub(crate) fn fill(dir: &Path) {
    let (log, _) = open_real(dir).unwrap();
    for index in 1..=160 {
        let term = if index > 100 { 2 } else { 1 };
        let mut batch = appended(1, index..=index, term, 900);
        if index % 10 == 0 {
            batch.append(GroupId(2), vec![entry(2, index / 10, 1, 55)]);
        }
        commit(&log, batch);
        log.prepare().unwrap();
    }
    let mut batch = appended(3, 1..=2, 3, 20_000);
    batch.compact(GroupId(1), 3);
    batch.set_state(GroupId(2), state());
    commit(&log, batch);
    let mut batch = appended(9, 1..=1, 1, 10);
    batch.set_state(GroupId(9), state());
    commit(&log, batch);
    let mut batch = WriteBatch::new();
    batch.remove(GroupId(9));
    commit(&log, batch);
    rest(&log);
    log.cover().unwrap();
}

pub(crate) fn state() -> GroupState {
    GroupState {
        term: 5,
        vote: 3,
        commit: 16,
    }
}

pub(crate) type Opened = (Arc<Log>, Recovered);

pub(crate) fn open_real(dir: &Path) -> Result<Opened, OpenError> {
    Log::open(Arc::new(RealDisk), dir, options())
}

/// Whether a log holds what the sample holds, all of it readable.
pub(crate) fn assert_whole((log, recovered): &Opened) {
    assert_eq!(
        recovered.groups.keys().map(|it| it.0).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(recovered.groups[&GroupId(2)].state, state());
    assert_eq!(recovered.groups[&GroupId(1)].previous_term, 1);
    for (group, first, last, term, len) in HELD {
        let mut index = first;
        while index <= last {
            let read = log
                .read(GroupId(group), index, last + 1, usize::MAX)
                .unwrap();
            assert_eq!(
                read,
                entries(group, index..index + read.len() as u64, term, len)
            );
            index += read.len() as u64;
        }
    }
    let ends: Vec<_> = [1, 2, 3]
        .map(|it| log.bounds(GroupId(it)).unwrap())
        .to_vec();
    assert_eq!(ends, [(3, 160), (1, 16), (1, 2)]);
}

/// The files of a directory with their content, the lock left out.
pub(crate) fn files_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file() && !path.ends_with("LOCK"));
    files
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

/// The segments in service, oldest first.
pub(crate) fn in_service(dir: &Path) -> Vec<SegmentInspection> {
    let mut segments = inspect(&RealDisk, dir).unwrap().segments;
    segments.retain(|it| matches!(it.state, SegmentState::Indexed | SegmentState::Active));
    assert!(segments.len() >= 4, "{segments:#?}");
    segments
}
pub(crate) fn copy(from: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files_of(from) {
        fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    dir
}
