//! Files made to hurt: lengths that no file has, indexes at the end of the numbers, blocks in the wrong place, old parts beside
//! new ones. Nothing panics, takes memory beyond the files, or comes back as an entry that it is not.

mod common;
mod forge;

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use common::*;
use forge::{batches, fix_around, fix_batch, fix_manifest, get, numbers, put};
use parking_lot::Mutex;
use peak_alloc::PeakAlloc;
use quorate_wal::testing::CrashDisk;
use quorate_wal::*;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// The peak is that of the whole process, so these tests run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// What opening takes beside the files: a window to read through, room for a segment, two slots of a manifest, a reserve.
const OPEN_BYTES_MAX: usize = 2 << 20;

const VALUES: [u64; 9] = [
    0,
    1,
    BLOCK as u64,
    SEGMENT_BYTES_MAX + BLOCK as u64,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    0xffff_ffff_ffff_f000,
    u64::MAX,
];

/// A log of several segments: all kinds of records, an index behind the sealed ones.
fn sample() -> CrashDisk {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    let snapshot = SnapshotRef {
        index: 1,
        term: 1,
        context: vec![7; 12].into(),
        ..SnapshotRef::default()
    };
    let mut batch = appended(1, 1..=3, 1, 30);
    batch.compact(GroupId(1), 2);
    batch.set_snapshot(GroupId(1), snapshot);
    batch.set_state(GroupId(2), GroupState::default());
    commit(&log, batch);
    for index in 4..=18 {
        let mut batch = appended(1, index..=index, 1 + index / 6, 9_000);
        batch.append(GroupId(3), entries(3, index - 3..=index - 3, 2, 50));
        commit(&log, batch);
        log.prepare().expect("memory does not fail");
    }
    log.prepare().expect("memory does not fail");
    drop(log);
    disk
}

fn in_use(disk: &CrashDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let used = |it: &(PathBuf, Vec<u8>)| it.1.starts_with(b"QRTSEG");
    segments(disk).into_iter().filter(used).collect()
}

/// Opens a log whatever is in it, and reads what it says that it holds: each entry is the one that was written, or damaged.
/// Says whether it was opened.
fn look(disk: &CrashDisk, accept_damage: bool, what: &dyn Fn() -> String) -> bool {
    let mut options = options();
    options.accept_damage = accept_damage;
    options.recovery_threads = 1;
    let Ok((log, recovered)) = Log::open(disk.as_disk(), Path::new(DIR), options) else {
        return false;
    };
    for (group, found) in recovered.groups {
        let end = found.last_index.min(found.first_index.saturating_add(20));
        for index in found.first_index..=end {
            match log.read(group, index, index + 1, usize::MAX) {
                Ok(read) => {
                    let (term, len) = (read[0].term, read[0].payload.len());
                    assert_eq!(read[0], entry(group.0, index, term, len), "{}", what());
                }
                Err(ReadError::Corrupt {
                    group: named,
                    index: at,
                    ..
                }) => assert_eq!((named, at), (group, index), "{}", what()),
                Err(error) => panic!("{}: {error}", what()),
            }
        }
    }
    true
}

/// Opens a log in which something was replaced, and measures the memory that it takes. Says whether it was opened.
fn look_at(
    disk: &CrashDisk,
    (path, bytes): (&Path, &[u8]),
    accept_damage: bool,
    what: &dyn Fn() -> String,
) -> bool {
    let damaged = disk.fork();
    assert!(damaged.overwrite(path, 0, bytes));
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let is_open = look(&damaged, accept_damage, what);
    let taken = ALLOCATED.peak_usage().saturating_sub(before);
    assert!(taken <= OPEN_BYTES_MAX, "{taken} bytes: {}", what());
    is_open
}

#[test]
fn no_number_in_a_segment_costs_memory_or_a_panic() {
    let _alone = ALONE.lock();
    let disk = sample();
    let files = in_use(&disk);
    assert!(files.len() >= 3, "{} segments", files.len());
    let (mut tried, mut opened) = (0, 0);
    for (path, sound) in [&files[0], &files[files.len() - 1]] {
        for (at, width) in numbers(sound) {
            let is_in_slots = width == 4;
            for value in VALUES {
                let value = if is_in_slots {
                    value & u64::from(u32::MAX)
                } else {
                    value
                };
                if get(sound, at, width) == value {
                    continue;
                }
                let mut bytes = sound.clone();
                put(&mut bytes, at, width, value);
                fix_around(&mut bytes, sound, at);
                let what = || format!("{} at {at}: {value:#x}", path.display());
                // By turns, with damage accepted, so that more of it is read.
                let accept_damage = tried % 2 == 1;
                opened += usize::from(look_at(&disk, (path, &bytes), accept_damage, &what));
                tried += 1;
            }
        }
    }
    assert!(tried > 2_000, "{tried}");
    assert!(
        opened > tried / 10 && opened < tried,
        "{opened} of {tried} were opened"
    );
}

#[test]
fn no_number_in_a_manifest_costs_memory_or_a_panic() {
    let _alone = ALONE.lock();
    let disk = sample();
    let (mut tried, mut opened) = (0, 0);
    for name in ["MANIFEST-a", "MANIFEST-b"] {
        let path = Path::new(DIR).join(name);
        let sound = read(&disk, &path);
        let items = get(&sound, 12, 4) as usize;
        let header = [(12, 4), (16, 8), (24, 8), (32, 8), (40, 8)];
        let fields = [(0, 8), (8, 8), (16, 8), (24, 4)];
        let items =
            (0..items).flat_map(|item| fields.map(|(at, width)| (64 + 32 * item + at, width)));
        for (at, width) in header.into_iter().chain(items) {
            for value in VALUES {
                let mut bytes = sound.clone();
                put(&mut bytes, at, width, value);
                fix_manifest(&mut bytes);
                let what = || format!("{name} at {at}: {value:#x}");
                opened += usize::from(look_at(&disk, (&path, &bytes), false, &what));
                opened += usize::from(look_at(&disk, (&path, &bytes), true, &what));
                tried += 2;
            }
        }
    }
    assert!(
        opened > tried / 10 && opened < tried,
        "{opened} of {tried} were opened"
    );
}

/// Found by fuzzing: a manifest that did without all segments but one that had never been written to. With `accept_damage` the log
/// was opened empty, and the segments deleted.
#[test]
fn where_damage_is_accepted_a_manifest_of_nothing_costs_nothing() {
    let _alone = ALONE.lock();
    let sound = sample();
    let (log, before) = open(&sound);
    drop(log);
    let ids = segments(&sound)
        .into_iter()
        .map(|(_, bytes)| get(&bytes, 16, 8));
    let newest = ids.max().unwrap();
    let disk = sound.fork();
    let empty = Path::new(DIR).join(format!("{:016x}.seg", newest + 1));
    disk.create(&empty).unwrap().zero_fill(16 << 10).unwrap();
    for name in ["MANIFEST-a", "MANIFEST-b"] {
        let path = Path::new(DIR).join(name);
        let mut bytes = read(&disk, &path);
        put(&mut bytes, 12, 4, 0);
        put(&mut bytes, 16, 8, u64::from(u32::MAX));
        put(&mut bytes, 32, 8, newest);
        put(&mut bytes, 40, 8, newest + 1);
        fix_manifest(&mut bytes);
        disk.open(&path)
            .unwrap()
            .write_at(0, &[IoSlice::new(&bytes)])
            .unwrap();
    }
    assert!(try_open(&disk).is_err(), "it is damaged");
    let mut accepting = options();
    accepting.accept_damage = true;
    let (_, found) = Log::open(disk.as_disk(), Path::new(DIR), accepting).unwrap();
    assert_eq!(found.groups, before.groups);
    let named = found.report.damage.iter().find(|it| it.file == empty);
    assert_eq!(named.map(|it| it.kind), Some(DamageKind::SegmentHeader));
}

/// The indexes of a run, of a compaction and of a snapshot end one before the largest number: a log that is there takes no more,
/// and says so.
#[test]
fn the_last_index_is_reached_and_not_passed() {
    let _alone = ALONE.lock();
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    let group = GroupId(1);
    let last = u64::MAX - 1;
    let mut batch = WriteBatch::new();
    let snapshot = SnapshotRef {
        index: last - 2,
        term: 3,
        ..SnapshotRef::default()
    };
    batch.install(group, snapshot, None);
    batch.append(group, entries(1, last - 1..=last, 3, 40));
    commit(&log, batch);
    for indexes in [last..=last + 1, last + 1..=last + 1] {
        let refused = log.submit(appended(1, indexes, 3, 10));
        assert!(
            matches!(refused, Err(SubmitError::Invalid { .. })),
            "{refused:?}"
        );
    }
    drop(log);
    let (log, recovered) = open(&disk);
    let found = &recovered.groups[&group];
    assert_eq!((found.first_index, found.last_index), (last - 1, last));
    assert_eq!(
        log.read(group, last - 1, u64::MAX, usize::MAX).unwrap(),
        entries(1, last - 1..=last, 3, 40)
    );
    let mut batch = WriteBatch::new();
    batch.compact(group, u64::MAX);
    commit(&log, batch);
    assert_eq!(log.bounds(group), Some((u64::MAX, last)));
    drop(log);
    let (log, _) = open(&disk);
    assert_eq!(log.bounds(group), Some((u64::MAX, last)));
    let refused = log.submit(appended(1, u64::MAX..=u64::MAX, 3, 10));
    assert!(
        matches!(refused, Err(SubmitError::Invalid { .. })),
        "{refused:?}"
    );
}

/// What of the log is there, after blocks were put where they do not belong.
fn check_misplaced(disk: &CrashDisk, path: &Path, at: usize, bytes: &[u8], what: &str) {
    let sound = open(&disk.fork()).1;
    let damaged = disk.fork();
    assert!(damaged.overwrite(path, at as u64, bytes));
    match try_open(&damaged) {
        Err(OpenError::Damaged { damage }) => assert!(!damage.is_empty(), "{what}"),
        Err(error) => panic!("{what}: {error}"),
        Ok((log, recovered)) => {
            let mut groups = recovered.groups.clone();
            for group in groups.values_mut() {
                group.lost.clear();
            }
            assert_eq!(groups, sound.groups, "{what}");
            let mut missed = 0;
            for (&group, found) in &recovered.groups {
                for index in found.first_index..=found.last_index {
                    let Ok(read) = log.read(group, index, index + 1, usize::MAX) else {
                        missed += 1;
                        continue;
                    };
                    let (term, len) = (read[0].term, read[0].payload.len());
                    assert_eq!(read[0], entry(group.0, index, term, len), "{what}");
                }
            }
            assert!(missed > 0, "{what}: the block was of no use");
        }
    }
}

#[test]
fn a_batch_of_another_segment_or_another_place_is_damage() {
    let _alone = ALONE.lock();
    let disk = sample();
    let files = in_use(&disk);
    let mut tried = 0;
    for (to, (path, sound)) in files.iter().enumerate() {
        let (offsets, _) = batches(sound);
        for &offset in &offsets {
            let is_last = to + 1 == files.len() && Some(&offset) == offsets.last();
            if is_last {
                // Nothing was acknowledged behind it, so that it passes for one that was torn.
                continue;
            }
            for (from, (_, other)) in files.iter().enumerate() {
                let (others, _) = batches(other);
                for source in others {
                    // The same offset in another segment, and another offset in this one.
                    if (source == offset) == (from == to) {
                        continue;
                    }
                    let len = get(other, source + 20, 4) as usize;
                    let len = len.min(get(sound, offset + 20, 4) as usize);
                    let what = format!("{from} at {source} over {to} at {offset}");
                    check_misplaced(&disk, path, offset, &other[source..source + len], &what);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 8, "{tried}");
}

/// A log whose newest segment is a file that was another one before. The disk, and the path and the bytes of that segment.
fn recycled() -> (CrashDisk, PathBuf, Vec<u8>) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    let mut index = 0;
    loop {
        index += 1;
        let mut batch = appended(1, index..=index, 1, 9_000);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
        log.prepare().expect("memory does not fail");
        let newest = in_use(&disk).pop().expect("there is a segment");
        let (offsets, end) = batches(&newest.1);
        let is_stale = newest.1[end..].windows(4).any(|it| it == b"QBAT");
        if log.stats().recycled > 0 && is_stale && offsets.len() == 1 {
            return (disk, newest.0, newest.1);
        }
        assert!(index < 200, "no segment is used again");
    }
}

#[test]
fn a_whole_batch_left_behind_in_a_segment_that_is_used_again_is_no_batch() {
    let _alone = ALONE.lock();
    let (disk, path, bytes) = recycled();
    let (_, end) = batches(&bytes);
    let stale = (end..bytes.len())
        .step_by(BLOCK)
        .find(|&block| bytes[block..].starts_with(b"QBAT"));
    let stale = stale.expect("an old batch stands behind the new one");
    let (_, sound) = open(&disk.fork());
    assert_eq!(
        sound.report.torn_tail_bytes, 0,
        "what is left over is not torn"
    );
    assert_eq!(sound.report.damage, []);
    // Right behind the new one, where the next batch would be.
    let moved = disk.fork();
    let len = (get(&bytes, stale + 20, 4) as usize).min(bytes.len() - stale);
    moved.overwrite(&path, end as u64, &bytes[stale..stale + len]);
    assert_eq!(open(&moved).1.groups, sound.groups);
    // Even with the checksums of this segment at this place: its lsn is an old one.
    let mut forged = bytes.clone();
    forged.copy_within(stale..stale + len, end);
    put(&mut forged, end + 8, 8, get(&bytes, 16, 8));
    put(&mut forged, end + 16, 4, end as u64);
    put(&mut forged, end + 4, 4, get(&bytes, 32, 4));
    fix_batch(&mut forged, end);
    let moved = disk.fork();
    moved.overwrite(&path, 0, &forged);
    assert_eq!(open(&moved).1.groups, sound.groups);
}

/// Where a batch was written over an old one, a power cut can leave the begin of one and the end of the other.
#[test]
fn a_new_header_before_an_old_payload_is_torn_and_so_is_the_other_way_round() {
    let _alone = ALONE.lock();
    let (disk, path, before) = recycled();
    let (_, end) = batches(&before);
    let (log, _) = open(&disk.fork());
    drop(log);
    // One more batch, into the segment that is written to.
    let written = disk.fork();
    let survivor = {
        let (log, recovered) = open(&written);
        let next = recovered.groups[&GroupId(1)].last_index + 1;
        commit(&log, appended(1, next..=next, 1, 9_000));
        next
    };
    let (path_after, after) = in_use(&written).pop().expect("there is a segment");
    assert_ne!(path_after, path, "after an open the next segment is used");
    let old = written.contents(&path_after).expect("it is there");
    let (offsets, after_end) = batches(&old);
    let batch = offsets[0];
    let blocks: Vec<usize> = (batch..after_end).step_by(BLOCK).collect();
    assert!(blocks.len() >= 3);
    // Any set of blocks but all of them is from before: here, the stale content of the recycled file.
    for kept in 0..(1_usize << blocks.len()) - 1 {
        let spliced = written.fork();
        for (number, &block) in blocks.iter().enumerate() {
            if kept >> number & 1 == 0 {
                let stale = &before[end..][..BLOCK];
                spliced.overwrite(&path_after, block as u64, stale);
            }
        }
        let (log, recovered) = open(&spliced);
        let found = &recovered.groups[&GroupId(1)];
        assert_eq!(found.last_index, survivor - 1, "blocks {kept:b}");
        let first = found.first_index;
        let read = log.read(GroupId(1), first, survivor, usize::MAX).unwrap();
        assert_eq!(
            read,
            entries(1, first..survivor, 1, 9_000),
            "blocks {kept:b}"
        );
    }
    assert_eq!(
        open(&written.fork()).1.groups[&GroupId(1)].last_index,
        survivor
    );
    assert_eq!(after, old);
}

#[test]
fn no_number_in_a_snapshot_costs_memory_or_a_panic() {
    let _alone = ALONE.lock();
    let disk = CrashDisk::new();
    let snapshots = Snapshots::open(disk.as_disk(), Path::new(DIR)).unwrap();
    let mut writer = snapshots.create(GroupId(1), 5, 2, 7).unwrap();
    writer.write(&[3; 1_000]).unwrap();
    let reference = writer.finish().unwrap();
    let path = disk.files().pop().expect("the snapshot");
    let sound = disk.contents(&path).expect("the snapshot");
    let words = [1, 5, 2, 7];
    let footer = sound.len() - 48;
    // The chunk size; bytes and number of a chunk; the claims of the footer.
    let numbers = [(12, 4), (68, 4), (72, 8), (footer + 8, 8), (footer + 16, 8)];
    let mut refused = 0;
    for (at, width) in numbers {
        for value in VALUES {
            let mut bytes = sound.clone();
            put(&mut bytes, at, width, value);
            for (begin, end, words) in [
                (0, 64, &[][..]),
                (64, 96, &words),
                (footer, footer + 48, &words),
            ] {
                let crc = forge::crc_bound(words, &bytes[begin..end - 4]);
                put(&mut bytes, end - 4, 4, crc.into());
            }
            if bytes == sound {
                continue;
            }
            let damaged = disk.fork();
            damaged.overwrite(&path, 0, &bytes);
            let before = ALLOCATED.current_usage();
            ALLOCATED.reset_peak_usage();
            let snapshots = Snapshots::open(damaged.as_disk(), Path::new(DIR)).unwrap();
            for bytes in [reference.bytes, value] {
                let claimed = SnapshotRef {
                    bytes,
                    ..reference.clone()
                };
                refused += usize::from(snapshots.verify(GroupId(1), &claimed).is_err());
            }
            let taken = ALLOCATED.peak_usage().saturating_sub(before);
            assert!(taken <= OPEN_BYTES_MAX, "{taken} bytes: {at} {value:#x}");
        }
    }
    assert!(refused > numbers.len() * VALUES.len(), "{refused}");
}
