//! Snapshot files: whole and verified under their name, or not there.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use quorate_wal::*;

const SNAPSHOTS: &str = "/node/snap";
const CHUNK: usize = 256 << 10;

fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|position| (position * 7 + position / 251) as u8)
        .collect()
}

fn snapshots(disk: &impl AsDisk) -> Snapshots {
    Snapshots::open(disk.as_disk(), Path::new(SNAPSHOTS)).expect("opens")
}

fn save(
    snapshots: &Snapshots,
    index: u64,
    id: u64,
    content: &[u8],
) -> Result<SnapshotRef, SnapshotError> {
    let mut writer = snapshots.create(GroupId(1), index, 2, id)?;
    for piece in content.chunks(100_000) {
        writer.write(piece)?;
    }
    assert_eq!(writer.bytes(), content.len() as u64);
    writer.finish()
}

fn files(disk: &dyn Disk) -> Vec<String> {
    disk.list(&Path::new(SNAPSHOTS).join("0000000000000001"))
        .unwrap_or_default()
}

fn only_file(disk: &dyn Disk) -> PathBuf {
    let names = files(disk);
    assert_eq!(names.len(), 1);
    Path::new(SNAPSHOTS)
        .join("0000000000000001")
        .join(&names[0])
}

fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    disk.remove(path).unwrap();
    disk.create(path).unwrap();
    write(disk, path, 0, bytes);
}

#[test]
fn content_of_any_size_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let real = Snapshots::open(Arc::new(RealDisk), dir.path()).unwrap();
    let memory = snapshots(&MemoryDisk::new());
    for snapshots in [real, memory] {
        for (index, len) in (1..).zip([
            0,
            1,
            7,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            4 * CHUNK,
            13 * CHUNK + 100,
        ]) {
            let content = content(len);
            let saved = save(&snapshots, index, 9, &content).unwrap();
            assert_eq!((saved.index, saved.term, saved.id), (index, 2, 9));
            assert_eq!(
                (saved.bytes, saved.crc),
                (len as u64, crc32fast::hash(&content))
            );
            assert!(snapshots.exists(GroupId(1), &saved));
            snapshots.verify(GroupId(1), &saved).unwrap();
            let mut reader = snapshots.open_reader(GroupId(1), &saved).unwrap();
            assert_eq!(reader.total_bytes(), len as u64);
            for (offset, len) in [
                (0, len),
                (len / 2, len / 3),
                (len, 0),
                (len.saturating_sub(5), 5.min(len)),
            ] {
                let part = reader.read_at(offset as u64, len).unwrap();
                assert_eq!(part, content[offset..offset + len]);
            }
            let beyond = reader.read_at(len as u64, 1);
            assert!(
                matches!(beyond, Err(SnapshotError::OutOfRange { .. })),
                "{beyond:?}"
            );
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            assert_eq!(all, content);
        }
    }
}

#[test]
fn any_flipped_bit_is_found_and_named_by_file_and_offset() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let content = content(CHUNK + 77);
    let saved = save(&snapshots, 5, 1, &content).unwrap();
    let path = only_file(&disk);
    let bytes = read(&disk, &path);
    // Header, frame, content, frame, content, padding, footer: where each begins, and whether every
    // bit of it is flipped, or some.
    let frame = 64 + 32 + CHUNK;
    let parts = [
        (0, true),
        (64, true),
        (64 + 32, false),
        (frame, true),
        (frame + 32, true),
        (frame + 32 + 77, true),
        (bytes.len() - 48, true),
    ];
    assert_eq!(bytes.len(), frame + 32 + 80 + 48);
    let mut flipped = 0;
    for (part, (begin, every)) in parts.iter().copied().enumerate() {
        let end = parts.get(part + 1).map_or(bytes.len(), |next| next.0);
        let bits = (begin * 8..end * 8).step_by(if every { 1 } else { 8009 });
        for bit in bits {
            flipped += 1;
            let position = bit / 8;
            write(
                &disk,
                &path,
                position,
                &[bytes[position] ^ (1 << (bit % 8))],
            );
            let error = snapshots.verify(GroupId(1), &saved).unwrap_err();
            match &error {
                SnapshotError::Corrupt {
                    path: found,
                    offset,
                    ..
                } => assert_eq!((found, *offset), (&path, begin as u64), "bit {bit}"),
                _ => panic!("bit {bit}: {error}"),
            }
            if let Ok(mut reader) = snapshots.open_reader(GroupId(1), &saved) {
                let mut all = Vec::new();
                let error = reader.read_to_end(&mut all).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                assert!(content.starts_with(&all), "bit {bit}");
            }
            write(&disk, &path, position, &bytes[position..=position]);
        }
    }
    assert!(flipped > 8 * (64 + 2 * 32 + 80 + 48) + 200);
    snapshots.verify(GroupId(1), &saved).unwrap();
}

#[test]
fn a_file_of_another_length_is_refused() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let saved = save(&snapshots, 5, 1, &content(2 * CHUNK + 77)).unwrap();
    let path = only_file(&disk);
    let whole = read(&disk, &path);
    let mut lens: Vec<_> = (0..whole.len()).step_by(1 << 14).collect();
    let frame = CHUNK + 32;
    for end in [
        64,
        64 + 32,
        64 + frame,
        64 + 2 * frame,
        whole.len() - 48,
        whole.len(),
    ] {
        lens.extend(end.saturating_sub(9)..=end + 9);
    }
    for len in lens.into_iter().filter(|len| *len != whole.len()) {
        let mut other = whole.clone();
        other.resize(len, 0);
        replace(&disk, &path, &other);
        let error = snapshots.verify(GroupId(1), &saved).unwrap_err();
        assert!(
            matches!(&error, SnapshotError::Corrupt { path: found, offset, .. }
                if *found == path && *offset == len as u64),
            "{len} bytes: {error}"
        );
    }
    replace(&disk, &path, &whole);
    snapshots.verify(GroupId(1), &saved).unwrap();
}

#[test]
fn chunks_and_files_of_other_snapshots_do_not_pass() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    // The same content throughout, so that only what the frames are bound to tells them apart.
    let content = vec![7; 3 * CHUNK];
    let first = save(&snapshots, 5, 1, &content).unwrap();
    let path = only_file(&disk);
    let a = read(&disk, &path);
    let frame = CHUNK + 32;
    let chunk = |number: usize| 64 + number * frame..64 + (number + 1) * frame;
    let assert_refused = |file: &[u8], offset: usize, about: &str| {
        replace(&disk, &path, file);
        let error = snapshots.verify(GroupId(1), &first).expect_err(about);
        assert!(
            matches!(&error, SnapshotError::Corrupt { path: found, offset: at, .. }
                if *found == path && *at == offset as u64),
            "{about}: {error}"
        );
        replace(&disk, &path, &a);
    };
    for (group, index, term, id) in [(2, 5, 2, 1), (1, 6, 2, 1), (1, 5, 3, 1), (1, 5, 2, 9)] {
        let about = format!("group {group}, index {index}, term {term}, id {id}");
        let other = MemoryDisk::new();
        let others = self::snapshots(&other);
        let mut writer = others.create(GroupId(group), index, term, id).unwrap();
        writer.write(&content).unwrap();
        let second = writer.finish().unwrap();
        let dir = Path::new(SNAPSHOTS).join(format!("{group:016x}"));
        let name = other.list(&dir).unwrap().remove(0);
        let b = read(&other, &dir.join(name));
        assert_eq!((second.crc, a.len()), (first.crc, b.len()));
        assert_refused(&b, 0, &about);
        for number in 0..3 {
            let mut mixed = a.clone();
            mixed[chunk(number)].copy_from_slice(&b[chunk(number)]);
            assert_refused(&mixed, chunk(number).start, &about);
        }
        let mut mixed = a.clone();
        mixed[chunk(2).end..].copy_from_slice(&b[chunk(2).end..]);
        assert_refused(&mixed, chunk(2).end, &about);
    }
    for (from, to) in [(0, 1), (1, 0), (2, 0), (1, 2)] {
        let mut doubled = a.clone();
        doubled[chunk(to)].copy_from_slice(&a[chunk(from)]);
        assert_refused(&doubled, chunk(to).start, "a chunk twice");
        doubled[chunk(from)].copy_from_slice(&a[chunk(to)]);
        let first_wrong = chunk(from.min(to)).start;
        assert_refused(&doubled, first_wrong, "two chunks swapped");
        let mut dropped = a.clone();
        dropped.drain(chunk(to));
        assert_refused(&dropped, a.len() - frame, "a chunk dropped");
        dropped.splice(chunk(2).end - frame..chunk(2).end - frame, vec![0; frame]);
        let first_wrong = if to == 2 {
            chunk(2).start
        } else {
            chunk(to).start
        };
        assert_refused(&dropped, first_wrong, "a chunk dropped, zeros behind");
    }
    snapshots.verify(GroupId(1), &first).unwrap();
    let second = save(&snapshots, 5, 2, &content).unwrap();
    // A reference that says something else of the content.
    for wrong in [
        SnapshotRef {
            bytes: second.bytes - 1,
            ..second.clone()
        },
        SnapshotRef {
            bytes: u64::MAX,
            ..second.clone()
        },
        SnapshotRef {
            crc: second.crc ^ 1,
            ..second.clone()
        },
    ] {
        assert!(!snapshots.exists(GroupId(1), &wrong));
    }
    let missing = SnapshotRef { term: 3, ..second };
    let error = snapshots.verify(GroupId(1), &missing).unwrap_err();
    assert!(matches!(error, SnapshotError::Missing { .. }), "{error}");
}

#[test]
fn a_file_that_somebody_cuts_under_an_open_reader_is_an_error_and_not_the_end_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(Arc::new(RealDisk), dir.path()).unwrap();
    let saved = save(&snapshots, 5, 1, &content(3 * CHUNK)).unwrap();
    let mut reader = snapshots.open_reader(GroupId(1), &saved).unwrap();
    reader.read_at(0, 1).unwrap();
    let group = std::fs::read_dir(dir.path()).unwrap().next().unwrap();
    let file = std::fs::read_dir(group.unwrap().path()).unwrap().next();
    let path = file.unwrap().unwrap().path();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(CHUNK as u64 + 5000).unwrap();
    let error = reader.read_at(CHUNK as u64, 1).unwrap_err();
    assert!(
        matches!(&error, SnapshotError::Corrupt { path: found, .. } if *found == path),
        "{error}"
    );
}

/// Files with right checksums whose parts contradict each other: no fault of a disk makes them.
#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let saved = save(&snapshots, 5, 1, &content(77)).unwrap();
    let path = only_file(&disk);
    let whole = read(&disk, &path);
    // Sets the CRC at the end of a part anew, bound to group, index, term and id.
    let seal = |file: &mut [u8], end: usize, len: usize| {
        let words = [1_u64, 5, 2, 1].map(u64::to_le_bytes).concat();
        let part = [&words, &file[end - len..end - 4]].concat();
        file[end - 4..end].copy_from_slice(&crc32fast::hash(&part).to_le_bytes());
    };
    let mut same = whole.clone();
    seal(&mut same, 64 + 32, 32);
    seal(&mut same, whole.len(), 48);
    assert_eq!(same, whole);

    let mut shorter = whole.clone();
    shorter[64 + 4] -= 1;
    seal(&mut shorter, 64 + 32, 32);
    replace(&disk, &path, &shorter);
    let error = snapshots.verify(GroupId(1), &saved).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Corrupt { offset: 64, .. }),
        "{error}"
    );

    let mut other = whole.clone();
    let end = whole.len();
    other[end - 24] ^= 1;
    seal(&mut other, end, 48);
    replace(&disk, &path, &other);
    let crc = saved.crc ^ 1;
    let named = SnapshotRef { crc, ..saved };
    assert!(snapshots.exists(GroupId(1), &named));
    let error = snapshots.verify(GroupId(1), &named).unwrap_err();
    assert!(
        error.to_string().contains("the CRC of the content"),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let saved = save(&snapshots, 5, 1, &content(10)).unwrap();
    let path = only_file(&disk);
    let mut header = read(&disk, &path)[..64].to_vec();
    header[8] = 7;
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    write(&disk, &path, 0, &header);
    let error = snapshots.verify(GroupId(1), &saved).unwrap_err();
    assert!(
        matches!(
            error,
            SnapshotError::Version {
                found: 7,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_was_not_finished_leaves_nothing_and_what_is_open_stays_readable() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let mut writer = snapshots.create(GroupId(1), 1, 1, 1).unwrap();
    writer.write(&content(CHUNK + 1)).unwrap();
    assert_eq!(files(&disk).len(), 1);
    snapshots.retain(GroupId(1), &[]).unwrap();
    assert_eq!(
        files(&disk).len(),
        1,
        "a snapshot that is being written stays"
    );
    drop(writer);
    assert!(files(&disk).is_empty());
    let saved = save(&snapshots, 1, 1, &content(CHUNK + 1)).unwrap();
    let mut reader = snapshots.open_reader(GroupId(1), &saved).unwrap();
    snapshots.retain(GroupId(1), &[]).unwrap();
    assert!(files(&disk).is_empty());
    assert_eq!(reader.read_at(0, CHUNK + 1).unwrap(), content(CHUNK + 1));
    snapshots.retain(GroupId(2), &[]).unwrap();
}
