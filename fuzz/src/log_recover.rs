//! Any bytes as the files of a log.
//!
//! The input describes sparse files, since a segment is mostly zeros:
//!
//! ```text
//! options u8      bit 0: accept damage
//! files, each:    id u8, blocks u8 (of 4 KiB), pieces u8, then each piece: offset u32, len u16, bytes
//! ```

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_wal::{
    Disk, Drove, Entry, GroupId, Log, LogOptions, MemoryDisk, RecoveredGroup, WriteBatch,
};

use crate::Depth;
use crate::input::Input;

pub(crate) const DIR: &str = "/log";
pub(crate) const BLOCK_BYTES: usize = 4096;

/// More files, or longer ones, would test nothing more.
const FILES_MAX: usize = 6;
const FILE_BLOCKS_MAX: usize = 32;

/// What an open log says, entries included.
#[derive(Debug, PartialEq)]
struct Content {
    groups: BTreeMap<GroupId, RecoveredGroup>,
    /// For each group its entries, or why they cannot be read.
    entries: BTreeMap<GroupId, Result<Vec<Entry>, String>>,
}

/// Opens whatever the input describes. Opening never panics; a copy of the files, and the same files again, give the same
/// result; a log that opens takes writes, and keeps them and what it held.
pub fn log_recover(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    let mut options = options();
    options.accept_damage = input.u8() & 1 == 1;
    let disk = read_files(&mut input);
    let copy = disk.deep_clone();

    let first = content(&disk, &options);
    assert_eq!(
        first,
        content(&copy, &options),
        "equal files, different logs"
    );
    let again = content(&disk, &options);
    assert_eq!(
        first, again,
        "the first opening changed what the second finds"
    );
    let Ok(first) = first else {
        return Depth::Refused;
    };
    check_writes(&disk, &options, first)
}

/// Segments as small as they may be.
pub(crate) fn options() -> LogOptions {
    let mut options = LogOptions::default();
    options.segment_bytes_min = 4 * BLOCK_BYTES as u64;
    options.segment_bytes_max = 16 * BLOCK_BYTES as u64;
    options.entry_bytes_max = 8 * BLOCK_BYTES as u64;
    options.batch_bytes_max = 10 * BLOCK_BYTES as u64;
    options.queue_bytes_max = 40 * BLOCK_BYTES as u64;
    options
}

/// Writes a disk the way that the target reads it: how seeds are made.
pub(crate) fn write_files(disk: &MemoryDisk, out: &mut Vec<u8>) {
    for name in disk.list(Path::new(DIR)).expect("the directory is there") {
        let file = disk
            .open(&Path::new(DIR).join(&name))
            .expect("it was just listed");
        let len = file.len().expect("memory does not fail") as usize;
        let content = file.read_bytes(0, len).expect("memory does not fail");
        let pieces: Vec<(usize, &[u8])> = pieces(&content);
        let id = segment_id(&name).expect("a log has no other files");
        out.extend([id, (len / BLOCK_BYTES) as u8, pieces.len() as u8]);
        for (offset, piece) in pieces {
            out.extend((offset as u32).to_le_bytes());
            out.extend((piece.len() as u16).to_le_bytes());
            out.extend(piece);
        }
    }
}

fn read_files(input: &mut Input<'_>) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR))
        .expect("memory does not fail");
    for _ in 0..FILES_MAX {
        if input.is_empty() {
            break;
        }
        let path = Path::new(DIR).join(segment_name(input.u8()));
        let bytes = usize::from(input.u8()).min(FILE_BLOCKS_MAX) * BLOCK_BYTES;
        let pieces = input.u8();
        // A file that is named twice is read from the input, and there once.
        let file = disk.create(&path).ok();
        if let Some(file) = &file {
            file.zero_fill(bytes as u64).expect("memory does not fail");
        }
        for _ in 0..pieces {
            let offset = input.u32() as usize;
            let len = usize::from(input.u16());
            let piece = input.bytes(len);
            if let Some(file) = &file
                && offset + piece.len() <= FILE_BLOCKS_MAX * BLOCK_BYTES
            {
                file.write_at(offset as u64, &[IoSlice::new(piece)])
                    .expect("memory does not fail");
            }
        }
    }
    disk
}

fn content(disk: &MemoryDisk, options: &LogOptions) -> Result<Content, String> {
    let (log, recovered) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options.clone())
        .map_err(|error| error.to_string())?;
    let entries = recovered
        .groups
        .keys()
        .map(|&group| (group, read_all(&log, group)))
        .collect();
    Ok(Content {
        groups: recovered.groups,
        entries,
    })
}

/// Every entry of a group.
pub(crate) fn read_all(log: &Log, group: GroupId) -> Result<Vec<Entry>, String> {
    let Some((first, last)) = log.bounds(group) else {
        return Ok(Vec::new());
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = first;
    while next <= last {
        let read = log
            .read(group, next, last + 1, usize::MAX)
            .map_err(|error| error.to_string())?;
        assert!(!read.is_empty(), "a read makes progress");
        for entry in &read {
            assert_eq!(entry.index, next, "entries follow each other");
            next += 1;
        }
        entries.extend(read);
    }
    Ok(entries)
}

/// A log that opens takes a write, and has it and everything else afterwards.
fn check_writes(disk: &MemoryDisk, options: &LogOptions, mut expected: Content) -> Depth {
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options.clone())
        .expect("it was open before");
    let group = GroupId(u64::MAX);
    let index = log.bounds(group).map_or(1, |(_, last)| last + 1);
    let term = expected
        .groups
        .get(&group)
        .and_then(|found| found.terms.last())
        .map_or(1, |&(_, term)| term);
    let entry = Entry {
        index,
        term,
        kind: 0,
        payload: Bytes::from_static(b"one more"),
    };
    let mut batch = WriteBatch::new();
    batch.append(group, vec![entry.clone()]);
    if log.submit(batch).is_err() || !drive(&log) {
        // So many groups, or so high an index, that there is no room for one more.
        return Depth::Accepted;
    }
    drop(log);
    let found = content(disk, options).expect("a log that was written to opens");
    let known = expected
        .groups
        .entry(group)
        .or_insert_with(|| RecoveredGroup {
            first_index: 1,
            ..RecoveredGroup::default()
        });
    known.last_index = index;
    if known.terms.is_empty() {
        known.terms.push((index, term));
    }
    if let Ok(entries) = expected
        .entries
        .entry(group)
        .or_insert_with(|| Ok(Vec::new()))
    {
        entries.push(entry);
    }
    assert_eq!(found, expected);
    Depth::Accepted
}

/// Writes everything that was submitted; `false` if there is no room for it.
pub(crate) fn drive(log: &Log) -> bool {
    loop {
        let drove = log.drive().expect("memory does not fail");
        if drove == Drove::Idle {
            return true;
        }
        let is_stuck = drove == Drove::NeedsSegment;
        if is_stuck && !log.prepare().expect("memory does not fail").segment_ready {
            return false;
        }
    }
}

/// The parts of a file that are not zero, in runs that zeros of some length divide.
fn pieces(content: &[u8]) -> Vec<(usize, &[u8])> {
    const GAP_BYTES: usize = 16;
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    for (at, _) in content.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match pieces.last_mut() {
            Some((_, end)) if at < *end + GAP_BYTES => *end = at + 1,
            _ => pieces.push((at, at + 1)),
        }
    }
    pieces
        .into_iter()
        .map(|(start, end)| (start, &content[start..end]))
        .collect()
}

fn segment_name(id: u8) -> String {
    format!("{id:016x}.seg")
}

fn segment_id(name: &str) -> Option<u8> {
    u8::from_str_radix(name.strip_suffix(".seg")?, 16).ok()
}
