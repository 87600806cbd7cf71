//! The end of the log after a crash: what was not acknowledged is kept whole or cut whole, and what
//! was cut stays dead.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::path::PathBuf;

use common::*;
use quorate_wal::*;

/// A log before and after its last batch, which is the one that a crash tears.
struct Torn {
    before: MemoryDisk,
    before_recovered: Recovered,
    after_recovered: Recovered,
    path: PathBuf,
    /// Where the write of the last batch began, and what it wrote.
    offset: usize,
    bytes: Vec<u8>,
}

/// Makes a log durable, and then writes one more batch.
fn torn(prepare: impl Fn(&Log), last: WriteBatch) -> Torn {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    prepare(&log);
    let before = disk.deep_clone();
    commit(&log, last);
    drop(log);
    let (old, new) = (segments(&before), segments(&disk));
    let (path, old_bytes, bytes) = new
        .iter()
        .find_map(|(path, bytes)| {
            let (_, old) = old.iter().find(|(old, _)| old == path)?;
            (old != bytes).then(|| (path.clone(), old.clone(), bytes.clone()))
        })
        .expect("the batch is in a segment that was there before");
    let differs = |position: &usize| old_bytes[*position] != bytes[*position];
    let offset = (0..bytes.len()).find(differs).expect("it differs") / BLOCK * BLOCK;
    let end = (0..bytes.len()).rfind(differs).expect("it differs") + 1;
    let end = end.next_multiple_of(BLOCK);
    Torn {
        before_recovered: open(&before.deep_clone()).1,
        after_recovered: open(&disk.deep_clone()).1,
        before,
        path,
        offset,
        bytes: bytes[offset..end].to_vec(),
    }
}

impl Torn {
    /// The disk after a crash that left these bytes of the last write.
    fn image(&self, bytes: &[u8]) -> MemoryDisk {
        let disk = self.before.deep_clone();
        write(&disk, &self.path, self.offset, bytes);
        disk
    }

    /// Opens an image: the last batch is there whole, or not at all. Says which.
    fn check(&self, disk: &MemoryDisk, what: &str) -> bool {
        let (log, recovered) = open(disk);
        let is_whole = recovered.groups == self.after_recovered.groups;
        assert!(
            is_whole || recovered.groups == self.before_recovered.groups,
            "{what}"
        );
        for (&group, found) in &recovered.groups {
            let read = log.read(group, found.first_index, found.last_index + 1, usize::MAX);
            let read = read.unwrap_or_else(|error| panic!("{what}: {error}"));
            for read in read {
                assert_eq!(
                    read,
                    entry(group.0, read.index, read.term, read.payload.len()),
                    "{what}"
                );
            }
        }
        drop(log);
        assert_eq!(
            open(disk).1.groups,
            recovered.groups,
            "{what}: recovery is repeatable"
        );
        is_whole
    }
}

/// A batch of one group that takes some blocks, after another one.
fn in_one_segment() -> Torn {
    let fill = |log: &Log| {
        // Large, so that the segment has room for what follows.
        commit(log, appended(3, 1..=1, 1, 30_000));
        commit(log, appended(1, 1..=3, 1, 100));
    };
    let mut last = appended(1, 4..=7, 2, 2000);
    last.append(GroupId(2), entries(2, 1..=1, 1, 2500));
    torn(fill, last)
}

/// A batch that begins a segment, header and checkpoint and all. Where its payload is torn, the
/// states of the groups are those of the segment before.
fn in_a_new_segment() -> Torn {
    let fill = |log: &Log| {
        commit(log, appended(1, 1..=3, 1, 100));
        commit(log, appended(2, 1..=1, 1, 2000));
        log.prepare().unwrap();
    };
    let torn = torn(fill, appended(1, 4..=7, 2, 2000));
    assert_eq!(torn.offset, 0, "the header is written with it");
    torn
}

#[test]
fn a_batch_torn_at_any_byte_is_cut_whole() {
    for torn in [in_one_segment(), in_a_new_segment()] {
        let used = torn.bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        for len in 0..=torn.bytes.len() {
            if len % 7 != 0 && len % BLOCK > 200 && len + 16 < used {
                continue; // Inside of a payload one place is like another.
            }
            let disk = torn.image(&torn.bytes[..len]);
            let is_whole = torn.check(&disk, &format!("{len} bytes"));
            assert_eq!(is_whole, len >= used, "{len} of {used} bytes");
        }
    }
}

#[test]
fn a_batch_that_lost_any_subset_of_its_blocks_is_cut_whole() {
    for torn in [in_one_segment(), in_a_new_segment()] {
        let blocks = torn.bytes.len() / BLOCK;
        assert!((3..=6).contains(&blocks), "{blocks}");
        for kept in 0..1_u32 << blocks {
            let mut bytes = torn.bytes.clone();
            for (block, bytes) in bytes.chunks_mut(BLOCK).enumerate() {
                if kept & 1 << block == 0 {
                    bytes.fill(0);
                }
            }
            let is_whole = torn.check(&torn.image(&bytes), &format!("blocks {kept:b}"));
            assert_eq!(is_whole, kept == (1 << blocks) - 1, "blocks {kept:b}");
        }
    }
}

#[test]
fn what_was_cut_stays_dead_even_if_its_bytes_come_back() {
    for torn in [in_one_segment(), in_a_new_segment()] {
        let disk = torn.image(&torn.bytes[..torn.bytes.len() - BLOCK]);
        let (log, recovered) = open(&disk);
        assert_eq!(recovered.groups, torn.before_recovered.groups);
        assert!(recovered.report.torn_tail_bytes > 0);
        commit(&log, appended(1, 4..=4, 9, 50));
        drop(log);
        let expected = open(&disk).1.groups;
        assert_eq!(expected[&GroupId(1)].terms, [(1, 1), (4, 9)]);
        // The block that the crash lost reaches the disk after all.
        if segments(&disk).iter().any(|(path, _)| *path == torn.path) {
            write(&disk, &torn.path, torn.offset, &torn.bytes);
            assert_eq!(open(&disk).1.groups, expected);
        }
    }
}

#[test]
fn every_crash_loop_keeps_what_was_acknowledged() {
    let mut random = Random::new(11);
    let mut disk = MemoryDisk::new();
    let mut last_index = 0;
    for round in 1..=60_u64 {
        let (log, recovered) = open(&disk);
        let found = recovered
            .groups
            .get(&GroupId(1))
            .map_or(0, |group| group.last_index);
        assert_eq!(found, last_index, "round {round}");
        last_index += random.below(5) + 1;
        commit(
            &log,
            appended(
                1,
                found + 1..=last_index,
                round,
                1 + random.below(3000) as usize,
            ),
        );
        let next = appended(1, last_index + 1..=last_index + 4, round, 3000);
        let lsn = log.submit(next).unwrap();
        let mut acknowledged = disk.deep_clone();
        while log.durable() < lsn {
            acknowledged = disk.deep_clone();
            if log.drive().unwrap() == Drove::NeedsSegment {
                log.prepare().unwrap();
            }
        }
        drop(log);
        // The crash takes a block of the last batch, which nobody was told of.
        let old = segments(&acknowledged);
        let mut lost = Vec::new();
        for (path, bytes) in segments(&disk) {
            let before = old
                .iter()
                .find(|(old, _)| *old == path)
                .map(|(_, bytes)| bytes.clone());
            let before = before.unwrap_or_else(|| vec![0; bytes.len()]);
            let blocks = bytes.chunks(BLOCK).zip(before.chunks(BLOCK)).enumerate();
            let changed = blocks.filter(|(_, (new, old))| new != old);
            lost.extend(
                changed.map(|(block, (_, old))| (path.clone(), block * BLOCK, old.to_vec())),
            );
        }
        let (path, offset, old) = &lost[random.below(lost.len() as u64) as usize];
        write(&disk, path, *offset, old);
        disk = disk.deep_clone();
    }
    let (log, _) = open(&disk);
    let read = log.read(GroupId(1), 1, last_index + 1, usize::MAX).unwrap();
    assert_eq!(read.len() as u64, last_index);
    assert!(
        read.iter()
            .all(|read| *read == entry(1, read.index, read.term, read.payload.len()))
    );
}
