//! The files of a directory as bytes of an input, and back.
//!
//! Files are sparse, since a segment is mostly zeros:
//!
//! ```text
//! files, each:  name u8, bytes u32, pieces u8, then each piece: offset u32, len u16, bytes
//! ```
//!
//! A name below 200 is the segment with this id, any other one of [`SPECIAL`]. A file of `u32::MAX` bytes is a directory.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;

use quorate_wal::Disk;
use quorate_wal::testing::CrashDisk;

use crate::input::Input;

pub(crate) const DIR: &str = "/log";
pub(crate) const BLOCK_BYTES: usize = 4096;
pub(crate) const MANIFESTS: [&str; 2] = ["MANIFEST-a", "MANIFEST-b"];

/// More files, or longer ones, would test nothing more.
const FILES_MAX: usize = 10;
const FILE_BYTES_MAX: usize = 16 * BLOCK_BYTES;

const SPECIAL_BEGIN: u8 = 200;
/// The manifest, strays, and segments with the last ids that there are.
const SPECIAL: [&str; 12] = [
    MANIFESTS[0],
    MANIFESTS[1],
    "LOCK",
    "notes.txt",
    "MANIFEST-a.tmp",
    "RESERVE",
    "ffffffffffffffff.seg",
    "fffffffffffffffe.seg",
    "7fffffffffffffff.seg",
    "000000000000000A.seg",
    "1.seg",
    "0000000000000001.seg.tmp",
];

/// Files by name; none is a directory.
pub(crate) type Files = BTreeMap<String, Option<Vec<u8>>>;

/// Reads files from an input.
pub(crate) fn read_files(input: &mut Input<'_>) -> Files {
    let mut files = Files::new();
    for _ in 0..FILES_MAX {
        if input.is_empty() {
            break;
        }
        let name = name(input.u8());
        let bytes = input.u32();
        let is_dir = bytes == u32::MAX;
        let mut content = vec![0; (bytes as usize).min(FILE_BYTES_MAX)];
        for _ in 0..input.u8() {
            let offset = input.u32() as usize;
            let len = usize::from(input.u16());
            let piece = input.bytes(len);
            if let Some(place) = content.get_mut(offset..offset.saturating_add(piece.len())) {
                place.copy_from_slice(piece);
            }
        }
        files.insert(name, (!is_dir).then_some(content));
    }
    files
}

/// Writes files the way that [`read_files`] reads them.
pub(crate) fn write_files(files: &Files, out: &mut Vec<u8>) {
    for (name, content) in files {
        out.push(number(name));
        let Some(content) = content else {
            out.extend(u32::MAX.to_le_bytes());
            out.push(0);
            continue;
        };
        assert!(content.len() <= FILE_BYTES_MAX, "{name} is too long");
        let pieces = pieces(content);
        out.extend((content.len() as u32).to_le_bytes());
        out.push(u8::try_from(pieces.len()).expect("few pieces"));
        for (offset, piece) in pieces {
            out.extend((offset as u32).to_le_bytes());
            out.extend((piece.len() as u16).to_le_bytes());
            out.extend(piece);
        }
    }
}

/// The files on a disk.
pub(crate) fn files_of(disk: &CrashDisk) -> Files {
    let content = |name: String| {
        let content = disk.contents(&Path::new(DIR).join(&name));
        (name, content)
    };
    let names = disk.list(Path::new(DIR));
    let names = names.expect("the directory is there");
    names.into_iter().map(content).collect()
}

/// A disk with these files, all of them durable.
pub(crate) fn disk_of(files: &Files) -> CrashDisk {
    let disk = CrashDisk::new();
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).expect("memory does not fail");
    for (name, content) in files {
        match content {
            Some(content) => put_file(&disk, name, content),
            None => disk
                .create_dir_all(&dir.join(name))
                .expect("no file has this name"),
        }
    }
    disk
}

/// Puts a file on a disk, in place of what has its name.
pub(crate) fn put_file(disk: &CrashDisk, name: &str, content: &[u8]) {
    let dir = Path::new(DIR);
    let path = dir.join(name);
    let _ = disk.remove(&path);
    let file = disk.create(&path).expect("the name is free");
    file.write_at(0, &[IoSlice::new(content)])
        .and_then(|()| file.sync_data())
        .and_then(|()| disk.sync_dir(dir))
        .expect("memory does not fail");
}

/// The id in the name of a segment.
pub(crate) fn segment_id(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|it| it.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn name(number: u8) -> String {
    match number.checked_sub(SPECIAL_BEGIN) {
        Some(special) => SPECIAL[usize::from(special) % SPECIAL.len()].to_owned(),
        None => format!("{number:016x}.seg"),
    }
}

fn number(name: &str) -> u8 {
    match SPECIAL.iter().position(|it| *it == name) {
        Some(special) => SPECIAL_BEGIN + special as u8,
        None => u8::try_from(segment_id(name).expect("a log has no other files"))
            .ok()
            .filter(|&id| id < SPECIAL_BEGIN)
            .expect("few segments"),
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
