//! Damage to what was acknowledged: it is named, and neither served nor silently cut.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::path::Path;
use std::sync::atomic::Ordering;

use common::*;
use quorate_wal::*;

/// Three batches in a first segment and two in a second, the last of which nothing proves.
fn sample() -> (MemoryDisk, Recovered) {
    let (disk, _, whole) = sample_and_before();
    (disk, whole)
}

/// The sample, what it held before its last batch, and what it holds.
fn sample_and_before() -> (MemoryDisk, Recovered, Recovered) {
    let disk = MemoryDisk::new();
    let mut options = options();
    options.segment_bytes_min = 20 << 10;
    let (log, _) = Log::open(disk.as_disk(), Path::new(DIR), options).unwrap();
    let mut batch = appended(1, 1..=2, 1, 60);
    batch.set_state(
        GroupId(1),
        GroupState {
            term: 1,
            vote: 2,
            commit: 1,
        },
    );
    commit(&log, batch);
    commit(&log, appended(2, 1..=2, 1, 90));
    commit(&log, appended(1, 3..=3, 1, 30));
    commit(&log, appended(1, 4..=4, 2, 2500));
    let before = open(&disk.deep_clone()).1;
    let mut batch = appended(1, 5..=5, 2, 10);
    batch.set_state(
        GroupId(2),
        GroupState {
            term: 2,
            vote: 1,
            commit: 2,
        },
    );
    commit(&log, batch);
    drop(log);
    let recovered = open(&disk.deep_clone()).1;
    assert_eq!(recovered.report.segments, 2);
    (disk, before, recovered)
}

/// Opens a damaged log. Everything that it returns must be right; says whether it refused or hid
/// something.
fn check(disk: &MemoryDisk, whole: &Recovered, what: &str) -> Outcome {
    let (log, recovered) = match try_open(disk) {
        Ok(opened) => opened,
        Err(OpenError::Damaged { damage }) => {
            assert!(!damage.is_empty(), "{what}");
            return Outcome::Refused;
        }
        Err(OpenError::MissingSegment { .. }) => return Outcome::Refused,
        Err(error) => panic!("{what}: {error}"),
    };
    let mut outcome = if recovered.groups == whole.groups {
        Outcome::Whole
    } else {
        Outcome::Cut
    };
    for (&group, found) in &recovered.groups {
        for index in found.first_index..=found.last_index {
            match log.read(group, index, index + 1, usize::MAX) {
                Ok(read) => {
                    let len = read[0].payload.len();
                    assert_eq!(read[0], entry(group.0, index, read[0].term, len), "{what}");
                }
                Err(ReadError::Corrupt {
                    group: named,
                    index: at,
                    ..
                }) => {
                    assert_eq!((named, at), (group, index), "{what}");
                    outcome = Outcome::Refused;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    outcome
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Refused,
    Cut,
}

#[test]
fn a_flipped_bit_is_found_or_harmless_wherever_it_is() {
    let (disk, before, whole) = sample_and_before();
    let files = segments(&disk);
    let (last_path, last_bytes) = &files[1];
    let last_batch = last_bytes
        .chunks(BLOCK)
        .rposition(|block| block.iter().any(|&byte| byte != 0));
    let last_batch = last_batch.unwrap() * BLOCK;
    let mut random = Random::new(3);
    let mut refused = 0;
    for (path, bytes) in &files {
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        for (position, &byte) in bytes[..used.next_multiple_of(BLOCK)].iter().enumerate() {
            // Each bit where the structure is, one bit of every byte elsewhere.
            let all = position % BLOCK < 120;
            let bits = if all {
                0..8
            } else {
                let bit = random.below(8) as u32;
                bit..bit + 1
            };
            for bit in bits {
                let damaged = disk.deep_clone();
                write(&damaged, path, position, &[byte ^ 1 << bit]);
                let what = format!("{} byte {position} bit {bit}", path.display());
                let is_unproven = path == last_path && position >= last_batch;
                match check(&damaged, &whole, &what) {
                    Outcome::Whole => {}
                    Outcome::Refused => refused += 1,
                    Outcome::Cut => {
                        assert!(is_unproven, "{what}: acknowledged data was cut silently");
                        assert_eq!(open(&damaged).1.groups, before.groups, "{what}: cut whole");
                    }
                }
            }
        }
    }
    assert!(refused > 8_000, "{refused}");
}

#[test]
fn a_zeroed_block_of_acknowledged_data_is_named() {
    let (disk, whole) = sample();
    for (path, bytes) in segments(&disk) {
        for offset in (0..bytes.len()).step_by(BLOCK) {
            if bytes[offset..offset + BLOCK].iter().all(|&byte| byte == 0) {
                continue;
            }
            let damaged = disk.deep_clone();
            write(&damaged, &path, offset, &[0; BLOCK]);
            let is_last = path.ends_with("0000000000000002.seg") && offset == 2 * BLOCK;
            let expected = if is_last {
                Outcome::Cut
            } else {
                Outcome::Refused
            };
            let outcome = check(&damaged, &whole, &format!("{} {offset}", path.display()));
            assert_eq!(outcome, expected, "{} {offset}", path.display());
            if let Err(OpenError::Damaged { damage }) = try_open(&damaged) {
                assert_eq!(damage[0].file, path);
                assert_eq!(damage[0].offset, offset as u64, "{damage:?}");
            }
        }
    }
}

#[test]
fn rot_in_a_sealed_segment_costs_one_group_what_stood_there() {
    let (disk, whole) = sample();
    // The batch with entry 3 of group 1: the third block behind the header.
    let path = Path::new(DIR).join("0000000000000001.seg");
    write(&disk, &path, 3 * BLOCK, &[0; BLOCK]);
    let (log, recovered) = open(&disk);
    let damage = &recovered.report.damage;
    assert_eq!(
        (&damage[0].file, damage[0].offset, damage[0].kind),
        (&path, 3 * BLOCK as u64, DamageKind::BatchHeader)
    );
    assert_eq!(
        (&damage[1].file, damage[1].group, damage[1].indexes),
        (&path, Some(GroupId(1)), Some((3, 3)))
    );
    assert_eq!(damage.len(), 2, "nothing is reported twice: {damage:?}");
    let affected = RecoveredGroup {
        lost: vec![(3, 3)],
        ..whole.groups[&GroupId(1)].clone()
    };
    assert_eq!(recovered.groups[&GroupId(1)], affected);
    assert_eq!(recovered.groups[&GroupId(2)], whole.groups[&GroupId(2)]);
    assert!(matches!(
        log.read(GroupId(1), 1, 6, usize::MAX),
        Err(ReadError::Corrupt {
            group: GroupId(1),
            index: 3,
            kind: DamageKind::MissingEntries,
            ..
        })
    ));
    let read = |group, from, to| log.read(GroupId(group), from, to, usize::MAX).unwrap();
    assert_eq!(read(1, 1, 3), entries(1, 1..=2, 1, 60));
    assert_eq!(read(1, 4, 5), [entry(1, 4, 2, 2500)]);
    assert_eq!(read(2, 1, 3), entries(2, 1..=2, 1, 90));
    commit(&log, appended(2, 3..=3, 2, 70));
    // What is lost stays lost, and is named at each open, until the group lets go of it.
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.groups[&GroupId(1)].lost, [(3, 3)]);
    let mut batch = WriteBatch::new();
    batch.compact(GroupId(1), 4);
    commit(&log, batch);
    drop(log);
    assert_eq!(open(&disk).1.groups[&GroupId(1)].lost, []);
}

#[test]
fn rot_that_may_cost_terms_and_votes_is_refused_unless_it_is_accepted() {
    let (disk, whole) = sample();
    // The first batch of the last segment, which holds the states of all groups and entry 4.
    let path = Path::new(DIR).join("0000000000000002.seg");
    write(&disk, &path, BLOCK, &[0; BLOCK]);
    let Err(OpenError::Damaged { damage }) = try_open(&disk) else {
        panic!("damage is refused")
    };
    assert_eq!(
        (&damage[0].file, damage[0].offset, damage[0].kind),
        (&path, BLOCK as u64, DamageKind::BatchHeader)
    );
    let lost = damage.last().unwrap();
    assert_eq!(
        (lost.group, lost.indexes),
        (Some(GroupId(1)), Some((4, 4))),
        "{damage:?}"
    );
    assert_eq!(
        damage.len(),
        2,
        "what follows from damage is not reported again: {damage:?}"
    );
    let mut options = options();
    options.accept_damage = true;
    let (log, recovered) = Log::open(disk.as_disk(), Path::new(DIR), options).unwrap();
    assert_eq!(recovered.report.damage, damage);
    assert_eq!(recovered.groups[&GroupId(2)], whole.groups[&GroupId(2)]);
    let read = |group, from, to| log.read(GroupId(group), from, to, usize::MAX).unwrap();
    assert_eq!(read(1, 1, 3), entries(1, 1..=2, 1, 60));
    assert_eq!(read(1, 5, 6), [entry(1, 5, 2, 10)]);
    assert_eq!(read(2, 1, 3), entries(2, 1..=2, 1, 90));
}

#[test]
fn rot_of_a_payload_behind_the_open_is_found_by_the_read() {
    let (disk, _) = sample();
    let (log, _) = open(&disk);
    let path = Path::new(DIR).join("0000000000000001.seg");
    let bytes = read(&disk, &path);
    let at = bytes
        .windows(6)
        .position(|window| window == b"1/3/1/")
        .unwrap();
    write(&disk, &path, at, b"1/2/1/");
    let error = log.read(GroupId(1), 1, 4, usize::MAX).unwrap_err();
    let ReadError::Corrupt {
        file,
        offset,
        group,
        index,
        kind,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((file, offset), (path, at as u64));
    assert_eq!((group, index, kind), (GroupId(1), 3, DamageKind::Payload));
    assert_eq!(
        log.read(GroupId(1), 1, 3, usize::MAX).unwrap().len(),
        2,
        "its neighbours are served"
    );
}

#[test]
fn a_batch_in_the_wrong_place_does_not_pass() {
    let (disk, whole) = sample();
    let files = segments(&disk);
    let (path, bytes) = &files[0];
    for (from, to) in [(BLOCK, 2 * BLOCK), (2 * BLOCK, BLOCK), (3 * BLOCK, BLOCK)] {
        let damaged = disk.deep_clone();
        write(&damaged, path, to, &bytes[from..from + BLOCK]);
        assert_eq!(check(&damaged, &whole, "moved"), Outcome::Refused);
    }
    // A whole segment under the name of another.
    let damaged = disk.deep_clone();
    write(&damaged, &files[1].0, 0, bytes);
    assert_ne!(check(&damaged, &whole, "copied"), Outcome::Whole);
}

#[test]
fn a_missing_segment_is_named_unless_it_was_given_up() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(2, 1..=1, 1, 10));
    for index in 1..=60 {
        commit(&log, appended(1, index..=index, 1, 3000));
        log.prepare().unwrap();
    }
    let in_service = log.stats().segments as usize;
    drop(log);
    let mut files = segments(&disk);
    files.truncate(in_service);
    assert!(files.len() >= 5);
    for (path, _) in &files[..files.len() - 1] {
        let damaged = disk.deep_clone();
        damaged.remove(path).unwrap();
        match try_open(&damaged) {
            Err(OpenError::MissingSegment {
                path: named,
                segment,
            }) => {
                let id = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16);
                assert_eq!((&named, segment), (path, SegmentId(id.unwrap())));
            }
            other => panic!("{}: {other:?}", path.display()),
        }
        let left = segments(&damaged);
        let is_left = |path| left.iter().any(|(left, _)| left == path);
        let others = files.iter().filter(|(other, _)| other != path);
        assert!(others.map(|it| &it.0).all(is_left), "nothing was deleted");
    }
}

#[test]
fn a_truncated_segment_is_named() {
    let (disk, whole) = sample();
    let (path, bytes) = segments(&disk)[0].clone();
    for len in [BLOCK, BLOCK + 10, 2 * BLOCK, 3 * BLOCK] {
        let damaged = disk.deep_clone();
        damaged.remove(&path).unwrap();
        damaged.create(&path).unwrap();
        write(&damaged, &path, 0, &bytes[..len]);
        assert_eq!(
            check(&damaged, &whole, "truncated"),
            Outcome::Refused,
            "{len} bytes"
        );
    }
}

#[test]
fn rot_of_an_entry_that_the_log_does_without_costs_nothing() {
    let disk = MemoryDisk::new();
    // All of it in the last segment, whose payloads are checked when it is opened.
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES_MAX;
    let (log, _) = Log::open(disk.as_disk(), Path::new(DIR), options).unwrap();
    commit(&log, appended(1, 1..=4, 1, 50));
    commit(&log, appended(1, 4..=5, 2, 50));
    let mut batch = WriteBatch::new();
    batch.compact(GroupId(1), 3);
    commit(&log, batch);
    drop(log);
    let (path, bytes) = segments(&disk).swap_remove(0);
    // Compacted, compacted, still there, and replaced.
    for (text, lost) in [
        ("1/1/1/", None),
        ("1/2/1/", None),
        ("1/3/1/", Some((3, 3))),
        ("1/4/1/", None),
        ("1/4/2/", Some((4, 4))),
    ] {
        let damaged = disk.deep_clone();
        let mut windows = bytes.windows(text.len());
        let at = windows.position(|it| it == text.as_bytes()).unwrap();
        write(&damaged, &path, at + 1, b"x");
        let (_, recovered) = open(&damaged);
        let lost: Vec<_> = lost.into_iter().collect();
        assert_eq!(recovered.groups[&GroupId(1)].lost, lost, "{text}");
        assert_eq!(recovered.report.damage.len(), lost.len(), "{text}");
    }
}

#[test]
fn a_last_segment_that_was_cut_between_two_batches_is_named() {
    let (disk, _) = sample();
    let (path, bytes) = segments(&disk).pop().unwrap();
    let used = bytes
        .chunks(BLOCK)
        .rposition(|block| block.iter().any(|&byte| byte != 0));
    // Every batch that is left is whole, the checkpoint too: only the length tells.
    for blocks in 2..=used.unwrap() + 1 {
        let damaged = disk.deep_clone();
        damaged.remove(&path).unwrap();
        damaged.create(&path).unwrap();
        write(&damaged, &path, 0, &bytes[..blocks * BLOCK]);
        let Err(OpenError::Damaged { damage }) = try_open(&damaged) else {
            panic!("{blocks} blocks are left")
        };
        let found = (&damage[0].file, damage[0].offset, damage[0].kind);
        let end = (blocks * BLOCK) as u64;
        assert_eq!(found, (&path, end, DamageKind::Truncated), "{damage:?}");
    }
}

#[test]
fn an_error_while_reading_is_not_the_end_of_the_log() {
    let (inner, whole) = sample();
    let disk = FaultyDisk {
        inner,
        ..FaultyDisk::default()
    };
    disk.faults.fail_read.store(true, Ordering::SeqCst);
    let error = try_open(&disk).unwrap_err();
    assert!(
        matches!(error, OpenError::Io { action: "read", .. }),
        "{error}"
    );
    disk.faults.fail_read.store(false, Ordering::SeqCst);
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.groups, whole.groups);
    disk.faults.fail_read.store(true, Ordering::SeqCst);
    assert!(matches!(
        log.read(GroupId(1), 1, 2, 0),
        Err(ReadError::Io { .. })
    ));
}

#[test]
fn the_tail_is_made_durable_before_it_is_believed() {
    let (inner, whole) = sample();
    let disk = FaultyDisk {
        inner,
        ..FaultyDisk::default()
    };
    // The newest segment in service was written by a process that may have died before its sync.
    disk.faults.fail_sync.store(true, Ordering::SeqCst);
    let error = try_open(&disk).unwrap_err();
    assert!(
        matches!(&error, OpenError::Io { action: "sync", path, .. }
        if *path == Path::new(DIR).join("0000000000000002.seg")),
        "{error}"
    );
    disk.faults.fail_sync.store(false, Ordering::SeqCst);
    assert_eq!(open(&disk).1.groups, whole.groups);
}

#[test]
fn the_directory_is_checked_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || std::sync::Arc::new(RealDisk);
    let (log, _) = Log::open(disk(), dir.path(), options()).unwrap();
    let error = Log::open(disk(), dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    commit(&log, appended(1, 1..=1, 1, 10));
    drop(log);
    let mut other = options();
    other.identity = 5;
    let error = Log::open(disk(), dir.path(), other).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Identity {
                found: 0,
                expected: 5,
                ..
            }
        ),
        "{error}"
    );
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = Log::open(disk(), &file, options()).unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
    // Strays are left alone; a directory with the name of a segment is an error that names it.
    std::fs::write(dir.path().join("notes.txt"), b"x").unwrap();
    drop(Log::open(disk(), dir.path(), options()).unwrap());
    assert!(dir.path().join("notes.txt").exists());
    std::fs::create_dir(dir.path().join("00000000000000ff.seg")).unwrap();
    let error = Log::open(disk(), dir.path(), options()).unwrap_err();
    assert!(
        error.to_string().contains("00000000000000ff.seg"),
        "{error}"
    );
    let memory = MemoryDisk::new();
    let (held, _) = open(&memory);
    assert!(matches!(try_open(&memory), Err(OpenError::Locked { .. })));
    drop(held);
    open(&memory);
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let (disk, _) = sample();
    let (path, mut bytes) = segments(&disk)[1].clone();
    bytes[8..10].copy_from_slice(&9_u16.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&2_u64.to_le_bytes());
    hasher.update(&bytes[..BLOCK - 4]);
    bytes[BLOCK - 4..BLOCK].copy_from_slice(&hasher.finalize().to_le_bytes());
    write(&disk, &path, 0, &bytes);
    let error = try_open(&disk).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Version {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(read(&disk, &path), bytes, "nothing was changed");
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let refused = |change: &dyn Fn(&mut LogOptions)| {
        let mut options = options();
        change(&mut options);
        let opened = Log::open(MemoryDisk::new().as_disk(), Path::new(DIR), options);
        assert!(matches!(opened, Err(OpenError::Options { .. })));
    };
    refused(&|options| options.segment_bytes_min = 4096);
    refused(&|options| options.segment_bytes_min = 20_000);
    refused(&|options| options.segment_bytes_max = 8192);
    refused(&|options| options.segment_bytes_max = 1 << 30);
    refused(&|options| options.batch_bytes_max = options.entry_bytes_max - 1);
    refused(&|options| options.queue_bytes_max = options.batch_bytes_max - 1);
}

/// Fills the last block of the first segment, so that nothing more fits it.
#[test]
fn the_last_batch_of_a_full_segment_is_covered_too() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 10));
    commit(&log, appended(1, 2..=2, 1, 10));
    assert_eq!(log.stats().segments, 1);
    assert!(log.prepare().unwrap().segment_ready);
    assert!(matches!(log.cover(), Ok(Drove::Wrote { .. })));
    assert_eq!(log.stats().segments, 2);
    assert_eq!(log.cover(), Ok(Drove::Idle), "once is enough");
    drop(log);
    let path = Path::new(DIR).join("0000000000000001.seg");
    write(&disk, &path, 2 * BLOCK, &[0; BLOCK]);
    let (_, recovered) = open(&disk);
    assert_eq!(recovered.groups[&GroupId(1)].lost, [(2, 2)]);
}
