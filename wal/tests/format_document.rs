//! The worked example in `docs/format.md` is what this crate writes, and what it reads.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::fmt::Write as _;
use std::io::IoSlice;
use std::path::Path;

use common::*;
use quorate_wal::*;

const DOCUMENT: &str = include_str!("../../docs/format.md");
const SEGMENT_BYTES: usize = 16 << 10;
const MANIFEST_BYTES: usize = 16 << 10;
const MANIFEST: &str = "MANIFEST-a";

/// The file that the lines of hexadecimal digits behind this sentence of the document describe, up
/// to `end`; what they leave out is zero.
fn documented(begin: &str, end: &str, bytes: usize) -> Vec<u8> {
    let mut segment = vec![0; bytes];
    let (_, behind) = DOCUMENT.split_once(begin).unwrap();
    let (lines, _) = behind.split_once(end).unwrap();
    for line in lines.lines() {
        let Some((offset, rest)) = line.split_once("  ") else {
            continue;
        };
        let Ok(offset) = usize::from_str_radix(offset, 16) else {
            continue;
        };
        let digits = rest.split("  ").next().unwrap();
        for (position, byte) in digits.split(' ').enumerate() {
            segment[offset + position] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    segment
}

fn documented_segment() -> Vec<u8> {
    documented("The header of segment 1", "## Snapshot file", SEGMENT_BYTES)
}

fn documented_manifest() -> Vec<u8> {
    documented(
        "The manifest in slot a",
        "The header of segment 1",
        MANIFEST_BYTES,
    )
}

fn example_batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.set_state(
        GroupId(1),
        GroupState {
            term: 2,
            vote: 3,
            commit: 0,
        },
    );
    let payload = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
    let first = Entry {
        index: 1,
        term: 2,
        kind: 0,
        payload: payload("quorate"),
    };
    let second = Entry {
        index: 2,
        term: 2,
        kind: 0,
        payload: payload("a quorum is there"),
    };
    batch.append(GroupId(1), vec![first, second]);
    batch
}

/// Lines as the document has them, for when the format changes on purpose.
fn lines(segment: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in segment
        .chunks(16)
        .enumerate()
        .filter(|(_, line)| **line != [0; 16])
    {
        write!(text, "{:08x} ", number * 16).unwrap();
        for byte in line {
            write!(text, " {byte:02x}").unwrap();
        }
        let printable = |&byte: &u8| {
            if byte.is_ascii_graphic() {
                char::from(byte)
            } else {
                '.'
            }
        };
        writeln!(text, "  {}", line.iter().map(printable).collect::<String>()).unwrap();
    }
    text
}

#[test]
fn the_example_is_what_is_written() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, example_batch());
    let (_, written) = &segments(&disk)[0];
    assert!(
        *written == documented_segment(),
        "the log writes this:\n{}",
        lines(written)
    );
    let written = read(&disk, &Path::new(DIR).join(MANIFEST));
    assert!(
        written == documented_manifest(),
        "the log writes this:\n{}",
        lines(&written)
    );
}

#[test]
fn the_example_is_read() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let files = [
        ("0000000000000001.seg", documented_segment()),
        (MANIFEST, documented_manifest()),
    ];
    for (name, bytes) in files {
        let file = disk.create(&Path::new(DIR).join(name)).unwrap();
        file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    }
    let (log, recovered) = open(&disk);
    let group = &recovered.groups[&GroupId(1)];
    assert_eq!(
        group.state,
        GroupState {
            term: 2,
            vote: 3,
            commit: 0
        }
    );
    assert_eq!(
        (group.first_index, group.last_index, &group.terms[..]),
        (1, 2, &[(1, 2)][..])
    );
    let read = log.read(GroupId(1), 1, 3, usize::MAX).unwrap();
    assert_eq!(read[0].payload, "quorate");
    assert_eq!(read[1].payload, "a quorum is there");
}
