//! Snapshot files: whole and verified under their name, or not there.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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

#[test]
fn content_of_any_size_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let real = Snapshots::open(Arc::new(RealDisk), dir.path()).unwrap();
    let memory = snapshots(&MemoryDisk::new());
    for snapshots in [real, memory] {
        for (index, len) in (1..).zip([0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 100]) {
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
fn any_changed_byte_is_found() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let content = content(CHUNK + 77);
    let saved = save(&snapshots, 5, 1, &content).unwrap();
    let path = Path::new(SNAPSHOTS)
        .join("0000000000000001")
        .join(&files(&disk)[0]);
    let bytes = read(&disk, &path);
    let structure = |position: usize| {
        position < 200
            || (position > CHUNK && position < CHUNK + 200)
            || position + 200 > bytes.len()
    };
    let padding = bytes.len() - 48 - 3..bytes.len() - 48;
    let positions =
        (0..bytes.len()).filter(|&position| structure(position) || position % 1009 == 0);
    for position in positions {
        write(&disk, &path, position, &[bytes[position] ^ 0x10]);
        let verified = snapshots.verify(GroupId(1), &saved);
        assert_eq!(
            verified.is_ok(),
            padding.contains(&position),
            "byte {position}: {verified:?}"
        );
        if let Ok(mut reader) = snapshots.open_reader(GroupId(1), &saved) {
            let mut all = Vec::new();
            match reader.read_to_end(&mut all) {
                Ok(_) => assert_eq!(all, content, "byte {position}"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidData),
            }
        }
        write(&disk, &path, position, &bytes[position..=position]);
    }
    snapshots.verify(GroupId(1), &saved).unwrap();
}

#[test]
fn chunks_and_files_of_other_snapshots_do_not_pass() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let first = save(&snapshots, 5, 1, &content(3 * CHUNK)).unwrap();
    let second = save(&snapshots, 5, 2, &content(3 * CHUNK)).unwrap();
    let paths: Vec<_> = files(&disk)
        .iter()
        .map(|name| Path::new(SNAPSHOTS).join("0000000000000001").join(name))
        .collect();
    let (a, b) = (read(&disk, &paths[0]), read(&disk, &paths[1]));
    let frame = CHUNK + 32;
    // The same chunk of another snapshot, with the same content.
    write(&disk, &paths[0], 64, &b[64..64 + frame]);
    assert!(snapshots.verify(GroupId(1), &first).is_err());
    // Another chunk of the same snapshot.
    write(&disk, &paths[0], 64, &a[64 + frame..64 + 2 * frame]);
    assert!(snapshots.verify(GroupId(1), &first).is_err());
    // Another file under the name.
    write(&disk, &paths[0], 0, &b);
    assert!(snapshots.open_reader(GroupId(1), &first).is_err());
    write(&disk, &paths[0], 0, &a);
    snapshots.verify(GroupId(1), &first).unwrap();
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
fn a_newer_format_is_refused_with_both_versions() {
    let disk = MemoryDisk::new();
    let snapshots = snapshots(&disk);
    let saved = save(&snapshots, 5, 1, &content(10)).unwrap();
    let path = Path::new(SNAPSHOTS)
        .join("0000000000000001")
        .join(&files(&disk)[0]);
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
fn a_crash_at_any_step_leaves_the_old_snapshots_and_a_whole_new_one_or_none() {
    let content = content(9 * CHUNK);
    let mut is_done = false;
    for changes in 0.. {
        let disk = FaultyDisk::default();
        let old = save(&snapshots(&disk), 1, 1, b"old").unwrap();
        disk.faults.changes_left.store(changes, Ordering::SeqCst);
        let saved = Snapshots::open(disk.as_disk(), Path::new(SNAPSHOTS))
            .ok()
            .map(|snapshots| save(&snapshots, 2, 2, &content));
        disk.faults.changes_left.store(-1, Ordering::SeqCst);
        let snapshots = snapshots(&disk);
        snapshots.verify(GroupId(1), &old).unwrap();
        let names = files(&disk);
        assert!(
            names.iter().all(|name| !name.contains("tmp")),
            "swept: {names:?}"
        );
        let crc = crc32fast::hash(&content);
        let new = SnapshotRef {
            index: 2,
            term: 2,
            id: 2,
            bytes: content.len() as u64,
            crc,
            ..old.clone()
        };
        if names.len() > 1 {
            snapshots.verify(GroupId(1), &new).unwrap();
        }
        if let Some(Ok(saved)) = saved {
            assert_eq!(saved, new);
            snapshots.verify(GroupId(1), &saved).unwrap();
            snapshots
                .retain(GroupId(1), std::slice::from_ref(&saved))
                .unwrap();
            assert!(!snapshots.exists(GroupId(1), &old));
            snapshots.verify(GroupId(1), &saved).unwrap();
            is_done = true;
            break;
        }
        assert!(changes < 40);
    }
    assert!(is_done);
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

#[test]
fn what_the_disk_did_not_keep_is_found_before_the_snapshot_gets_its_name() {
    let disk = FaultyDisk::default();
    let snapshots = snapshots(&disk);
    let mut writer = snapshots.create(GroupId(1), 1, 1, 1).unwrap();
    writer.write(&content(CHUNK + 1)).unwrap();
    let path = Path::new(SNAPSHOTS)
        .join("0000000000000001")
        .join(&files(&disk)[0]);
    write(&disk, &path, 5000, b"rot");
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
    assert!(files(&disk).is_empty());
}
