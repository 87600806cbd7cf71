//! Faults of the log that fuzzing found, each as the smallest scenario that shows it.

mod common;
mod forge;

use std::path::{Path, PathBuf};

use common::*;
use forge::{HEADER, batches, fix_batch, fix_footer, fix_manifest, fix_segment, get, put};
use quorate_wal::testing::{CrashDisk, Survivors};
use quorate_wal::*;

/// A log with several sealed segments, all entries of which live.
fn sample() -> (CrashDisk, Recovered) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    for index in 1..=12 {
        commit(&log, appended(1, index..=index, 1, 12_000));
        log.prepare().expect("memory does not fail");
    }
    drop(log);
    let recovered = open(&disk.fork()).1;
    assert!(recovered.report.indexed_segments >= 2, "{recovered:?}");
    (disk, recovered)
}

fn segment(disk: &CrashDisk, number: usize) -> (PathBuf, Vec<u8>) {
    let used = |it: &(PathBuf, Vec<u8>)| it.1.starts_with(b"QRTSEG");
    let mut used = segments(disk).into_iter().filter(used);
    used.nth(number).expect("there are so many segments")
}

fn manifest(disk: &CrashDisk) -> (PathBuf, Vec<u8>) {
    let slots = ["MANIFEST-a", "MANIFEST-b"].map(|name| Path::new(DIR).join(name));
    let slots = slots.map(|path| (path.clone(), read(disk, &path)));
    let newer = slots.into_iter().max_by_key(|(_, bytes)| get(bytes, 16, 8));
    newer.expect("there are two")
}

fn is_all_there(log: &Log, recovered: &Recovered) -> bool {
    recovered.groups.iter().all(|(&group, found)| {
        let (first, end) = (found.first_index, found.last_index + 1);
        let read = log.read(group, first, end, usize::MAX);
        first == end || read.is_ok_and(|read| read.len() as u64 == end - first)
    })
}

fn unsynced() -> LogOptions {
    let mut options = options();
    options.durability = Durability::ProcessCrash;
    options
}

fn open_with(
    disk: &CrashDisk,
    options: &LogOptions,
) -> Result<(std::sync::Arc<Log>, Recovered), OpenError> {
    Log::open(disk.as_disk(), Path::new(DIR), options.clone())
}

#[test]
fn a_footer_with_lengths_beyond_every_file_is_passed_over() {
    let (disk, sound) = sample();
    let (path, bytes) = segment(&disk, 0);
    let (_, end) = batches(&bytes);
    assert_eq!(&bytes[end..end + 4], b"QIDX");
    // The bytes of the table, the bytes of the first range.
    for (at, value) in [(end + 32, u64::MAX / 48 * 48), (end + 64 + 40, u64::MAX)] {
        let mut footer = bytes.clone();
        put(&mut footer, at, 8, value);
        fix_footer(&mut footer, end);
        let disk = disk.fork();
        disk.overwrite(&path, 0, &footer);
        let (log, recovered) = open(&disk);
        assert_eq!(recovered.groups, sound.groups);
        assert_eq!(
            recovered.report.indexed_segments + 1,
            sound.report.indexed_segments
        );
        assert!(is_all_there(&log, &recovered));
        log.prepare().expect("memory does not fail");
    }
}

#[test]
fn a_segment_that_ends_at_the_end_of_the_numbers_is_damage() {
    let (disk, _) = sample();
    let last = segments(&disk).len() - 1;
    let newest = (0..=last)
        .rev()
        .find(|&number| segments(&disk)[number].1.starts_with(b"QRTSEG"));
    let (path, mut bytes) = segment(&disk, newest.expect("some segment is in service"));
    put(&mut bytes, 56, 8, u64::MAX / 4096 * 4096);
    fix_segment(&mut bytes);
    disk.overwrite(&path, 0, &bytes);
    // With the manifest, which says the same of the segment before.
    let damaged = try_open(&disk.fork());
    assert!(
        matches!(damaged, Err(OpenError::Damaged { .. })),
        "{damaged:?}"
    );
    let (path, mut manifest) = manifest(&disk);
    let items = get(&manifest, 12, 4) as usize;
    put(
        &mut manifest,
        64 + 32 * (items - 1) + 8,
        8,
        u64::MAX / 4096 * 4096,
    );
    fix_manifest(&mut manifest);
    disk.overwrite(&path, 0, &manifest);
    let mut options = options();
    options.accept_damage = true;
    let (_, recovered) = open_with(&disk, &options).expect("damage is accepted");
    let kinds: Vec<_> = recovered.report.damage.iter().map(|it| it.kind).collect();
    assert!(kinds.contains(&DamageKind::Truncated), "{kinds:?}");
}

#[test]
fn a_manifest_that_gives_up_the_newest_segment_is_no_manifest() {
    let (disk, sound) = sample();
    let (path, mut bytes) = manifest(&disk);
    put(&mut bytes, 32, 8, 1_000); // What is settled.
    put(&mut bytes, 40, 8, 0); // None is active.
    fix_manifest(&mut bytes);
    let forged = disk.fork();
    forged.overwrite(&path, 0, &bytes);
    let files = forged.files();
    // It is passed over: the one before it knows the same segments.
    let (log, recovered) = open(&forged);
    assert_eq!(recovered.groups, sound.groups);
    assert!(is_all_there(&log, &recovered));
    assert_eq!(forged.files().len(), files.len(), "nothing was deleted");
}

/// The segment in front of one that is written without syncs holds the last states that a power cut cannot take.
#[test]
fn a_dead_segment_stays_until_a_durable_one_follows_it() {
    let disk = CrashDisk::new();
    let (log, _) = open_with(&disk, &unsynced()).unwrap();
    let mut voted = appended(1, 1..=1, 1, 12_000);
    let state = GroupState {
        term: 7,
        vote: 3,
        commit: 1,
    };
    voted.set_state(GroupId(1), state);
    commit(&log, voted);
    let mut rotated = false;
    for index in 2..=6 {
        let before = log.stats().syncs;
        let mut batch = appended(1, index..=index, 7, 12_000);
        batch.compact(GroupId(1), index);
        commit(&log, batch);
        log.prepare().expect("memory does not fail");
        rotated |= log.stats().syncs > before;
        let cut = disk.fork();
        cut.power_cut(&Survivors::None);
        if rotated {
            let (_, recovered) = open_with(&cut, &unsynced()).unwrap();
            assert_eq!(recovered.groups[&GroupId(1)].state, state, "at {index}");
        }
    }
    assert!(rotated, "no segment was synced");
}

/// Without syncs, an open finds it unsynced again what the manifest of before names as durable.
#[test]
fn a_manifest_never_says_less_than_the_one_before() {
    let disk = CrashDisk::new();
    for life in 1..=12_u64 {
        let (log, recovered) = open_with(&disk, &unsynced()).expect("what was written opens");
        let last = recovered
            .groups
            .get(&GroupId(1))
            .map_or(0, |it| it.last_index);
        assert_eq!(last, life - 1);
        let mut batch = appended(1, life..=life, 1, 100);
        batch.compact(GroupId(1), life);
        commit(&log, batch);
        log.prepare().expect("memory does not fail");
        drop(log);
        disk.process_crash();
    }
    assert!(disk.files().len() < 10, "{:?}", disk.files());
}

#[test]
fn accepted_damage_keeps_segments_whose_end_nobody_names() {
    let (disk, sound) = sample();
    for (path, _) in [manifest(&disk), manifest(&disk)] {
        disk.overwrite(&path, 0, &[0xff; 64]);
    }
    // The segment between two others is gone: nobody says where the one before it ends.
    disk.remove(&segment(&disk, 1).0).unwrap();
    let mut options = options();
    options.accept_damage = true;
    let (log, first) = open_with(&disk, &options).expect("damage is accepted");
    let lost = &first.groups[&GroupId(1)].lost;
    assert_eq!(
        first.groups[&GroupId(1)].last_index,
        sound.groups[&GroupId(1)].last_index
    );
    assert_eq!(lost.len(), 1, "{lost:?}");
    commit(&log, appended(2, 1..=1, 1, 10));
    log.prepare().expect("memory does not fail");
    drop(log);
    let (_, second) = open_with(&disk, &options).expect("it was accepted before");
    assert_eq!(second.groups[&GroupId(1)], first.groups[&GroupId(1)]);
}

#[test]
fn a_log_that_was_opened_without_a_manifest_opens_again() {
    let disk = CrashDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for name in ["MANIFEST-a", "MANIFEST-b"] {
        disk.create(&Path::new(DIR).join(name)).unwrap();
        write(&disk, &Path::new(DIR).join(name), 0, b"torn");
    }
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 10));
    drop(log);
    let (log, recovered) = open(&disk);
    assert!(is_all_there(&log, &recovered) && recovered.groups.len() == 1);
}

#[test]
fn numbers_that_have_no_next_one_are_refused() {
    let exhausted = |disk: &CrashDisk, expected: &str| match try_open(disk) {
        Err(OpenError::Exhausted { what, .. }) => assert_eq!(what, expected),
        other => panic!("{expected}: {other:?}"),
    };
    let (sound, _) = sample();
    let disk = sound.fork();
    let path = Path::new(DIR).join("ffffffffffffffff.seg");
    disk.create(&path).unwrap().zero_fill(16 << 10).unwrap();
    exhausted(&disk, "the segment id");
    assert!(disk.files().contains(&path), "nothing was changed");

    // A log of one batch, whose header says what it likes.
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 10));
    drop(log);
    let (path, bytes) = segment(&disk, 0);
    let forged = |fields: &[(usize, usize, u64)]| {
        let mut bytes = bytes.clone();
        for &(at, width, value) in fields {
            put(&mut bytes, at, width, value);
        }
        fix_segment(&mut bytes);
        forge::fix_batch(&mut bytes, BLOCK);
        let forged = disk.fork();
        forged.overwrite(&path, 0, &bytes);
        forged
    };
    let epoch = u64::from(u32::MAX);
    exhausted(
        &forged(&[(32, 4, epoch), (BLOCK + 4, 4, epoch)]),
        "the epoch",
    );
    exhausted(&forged(&[(BLOCK + 24, 8, u64::MAX)]), "the lsn");
    let (path, mut slot) = manifest(&disk);
    put(&mut slot, 16, 8, u64::MAX);
    fix_manifest(&mut slot);
    disk.overwrite(&path, 0, &slot);
    exhausted(&disk, "the manifest generation");
}

#[test]
fn an_lsn_in_a_damaged_header_is_not_taken_for_synced() {
    let disk = CrashDisk::new();
    let (log, _) = open_with(&disk, &unsynced()).unwrap();
    let mut index = 0;
    while segments(&disk)
        .iter()
        .filter(|it| it.1.starts_with(b"QRTSEG"))
        .count()
        < 2
    {
        index += 1;
        commit(&log, appended(1, index..=index, 1, 3_000));
    }
    drop(log);
    // The header of the newest segment says that thousands of submissions are in the one before it.
    let (path, mut bytes) = segment(&disk, 1);
    put(&mut bytes, 72, 8, 9_000);
    fix_segment(&mut bytes);
    disk.overwrite(&path, 0, &bytes);
    let mut options = unsynced();
    options.accept_damage = true;
    let (log, _) = open_with(&disk, &options).expect("damage is accepted");
    log.prepare().expect("memory does not fail");
    let next = log.bounds(GroupId(1)).map_or(1, |it| it.1 + 1);
    commit(&log, appended(1, next..=next, 1, 10));
}

/// Without syncs a power cut may take the header of a segment and leave the batches behind it.
#[test]
fn a_segment_that_lost_its_header_before_any_sync_is_cut_off() {
    let disk = CrashDisk::new();
    let (log, _) = open_with(&disk, &unsynced()).unwrap();
    commit(&log, appended(1, 1..=1, 1, 10));
    commit(&log, appended(1, 2..=2, 1, 10));
    drop(log);
    let survive = |keep: u64| {
        let cut = disk.fork();
        cut.power_cut(&Survivors::of_mask(keep));
        cut
    };
    let pending = disk.pending();
    assert_eq!(pending.len(), 3, "the header and two batches: {pending:?}");
    let (_, recovered) = open_with(&survive(0b110), &unsynced()).expect("nothing was synced");
    assert_eq!(recovered.groups, std::collections::BTreeMap::new());
    let (_, recovered) = open_with(&survive(0b111), &unsynced()).expect("all is there");
    assert_eq!(recovered.groups[&GroupId(1)].last_index, 2);
    // With syncs the second batch proves that there was a header.
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 10));
    commit(&log, appended(1, 2..=2, 1, 10));
    drop(log);
    disk.overwrite(&segment(&disk, 0).0, 0, &[0; BLOCK]);
    let refused = try_open(&disk);
    assert!(
        matches!(refused, Err(OpenError::Damaged { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_header_whose_predecessor_ends_before_it_begins_is_damage() {
    let (disk, _) = sample();
    let (path, mut bytes) = segment(&disk, 1);
    put(&mut bytes, 56, 8, 0);
    fix_segment(&mut bytes);
    disk.overwrite(&path, 0, &bytes);
    let refused = try_open(&disk);
    let Err(OpenError::Damaged { damage }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (&damage[0].file, damage[0].kind),
        (&path, DamageKind::SegmentHeader)
    );
}

#[test]
fn accepted_damage_goes_past_a_segment_that_a_header_names_and_nobody_has() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    let mut index = 0;
    // Nothing is prepared but what must be, so that the manifest stays as it was first written.
    while segments(&disk)
        .iter()
        .filter(|it| it.1.starts_with(b"QRTSEG"))
        .count()
        < 3
    {
        index += 1;
        commit(&log, appended(1, index..=index, 1, 12_000));
    }
    drop(log);
    let (path, mut slot) = manifest(&disk);
    put(&mut slot, 12, 4, 0);
    put(&mut slot, 32, 8, 0);
    put(&mut slot, 40, 8, 0);
    fix_manifest(&mut slot);
    disk.overwrite(&path, 0, &slot);
    let gone = segment(&disk, 1).0;
    disk.remove(&gone).unwrap();
    let refused = try_open(&disk);
    assert!(
        matches!(&refused, Err(OpenError::MissingSegment { path, .. }) if *path == gone),
        "{refused:?}"
    );
    let mut options = options();
    options.accept_damage = true;
    let (_, recovered) = open_with(&disk, &options).expect("damage is accepted");
    assert_eq!(recovered.groups[&GroupId(1)].last_index, index);
    assert_eq!(recovered.groups[&GroupId(1)].lost.len(), 1);
}

/// A dead file that lost its last bytes is not used again: no segment has such a size.
#[test]
fn a_file_of_no_whole_blocks_is_not_used_again() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk);
    let mut index = 0;
    let mut commit_and_compact = |log: &Log| {
        index += 1;
        let mut batch = appended(1, index..=index, 1, 9_000);
        batch.compact(GroupId(1), index);
        commit(log, batch);
    };
    for _ in 0..40 {
        commit_and_compact(&log);
        log.prepare().expect("memory does not fail");
    }
    assert!(log.stats().recycled > 0, "files are used again here");
    drop(log);
    // Behind its batches, where nothing is missed.
    let (path, bytes) = segment(&disk, 0);
    let (_, end) = batches(&bytes);
    assert!(end + BLOCK < bytes.len());
    disk.truncate(&path, bytes.len() as u64 - 4);
    let mut header = bytes[..BLOCK].to_vec();
    put(&mut header, 40, 8, (bytes.len() - BLOCK) as u64);
    fix_segment(&mut header);
    disk.overwrite(&path, 0, &header);
    let (log, _) = open(&disk);
    for _ in 0..40 {
        commit_and_compact(&log);
        log.prepare().expect("memory does not fail");
    }
    drop(log);
    assert_eq!(open(&disk).1.groups[&GroupId(1)].last_index, 80);
}

/// A segment of which only the header survived has no states of groups, so those before it must stay.
#[test]
fn an_empty_segment_is_no_reason_to_give_up_the_one_before() {
    let disk = CrashDisk::new();
    let (log, _) = open_with(&disk, &unsynced()).unwrap();
    let state = GroupState {
        term: 7,
        vote: 3,
        commit: 0,
    };
    let mut batch = WriteBatch::new();
    batch.set_state(GroupId(1), state);
    commit(&log, batch);
    drop(log);
    disk.process_crash();
    // The next life writes to a segment of its own, of which the power leaves the header.
    let (log, recovered) = open_with(&disk, &unsynced()).unwrap();
    assert_eq!(
        recovered.groups[&GroupId(1)].state,
        state,
        "and it is synced now"
    );
    commit(&log, appended(2, 1..=1, 1, 10));
    drop(log);
    disk.power_cut(&Survivors::of_mask(0b01));
    let (log, recovered) = open_with(&disk, &unsynced()).unwrap();
    assert_eq!(recovered.groups[&GroupId(1)].state, state);
    commit(&log, appended(3, 1..=1, 1, 10));
    log.prepare().expect("memory does not fail");
    drop(log);
    disk.power_cut(&Survivors::None);
    let (_, recovered) = open_with(&disk, &unsynced()).unwrap();
    assert_eq!(recovered.groups[&GroupId(1)].state, state);
}

#[test]
fn accepted_damage_does_not_believe_a_manifest_whose_newest_segment_is_not_there() {
    let (disk, sound) = sample();
    let (path, mut slot) = manifest(&disk);
    put(&mut slot, 12, 4, 0);
    put(&mut slot, 32, 8, 1_000);
    put(&mut slot, 40, 8, 1_001);
    fix_manifest(&mut slot);
    disk.overwrite(&path, 0, &slot);
    let refused = try_open(&disk);
    assert!(
        matches!(refused, Err(OpenError::MissingSegment { .. })),
        "{refused:?}"
    );
    let mut options = options();
    options.accept_damage = true;
    let (log, recovered) = open_with(&disk, &options).expect("damage is accepted");
    assert_eq!(recovered.groups, sound.groups);
    assert!(is_all_there(&log, &recovered));
}

/// What is not synced may be undone by a power cut, and with it what made a segment dead. Where the
/// segment is gone, what emptied it is there.
#[test]
fn a_segment_stays_until_what_emptied_it_is_synced() {
    let disk = CrashDisk::new();
    let (log, _) = open_with(&disk, &unsynced()).unwrap();
    commit(&log, appended(1, 1..=2, 1, 100));
    let mut index = 0;
    let mut rotate = |log: &Log| {
        let before = log.stats().segments;
        while log.stats().segments == before {
            index += 1;
            commit(log, appended(2, index..=index, 1, 9_000));
        }
    };
    // The first segment, and the one behind it with its checkpoint, are sealed and synced.
    rotate(&log);
    rotate(&log);
    log.prepare().expect("memory does not fail");
    let mut batch = WriteBatch::new();
    batch.remove(GroupId(1));
    batch.remove(GroupId(2));
    commit(&log, batch);
    for _ in 0..3 {
        log.prepare().expect("memory does not fail");
    }
    drop(log);
    disk.power_cut(&Survivors::None);
    // Whether the removal is there or not: if not, so are the entries.
    let (log, recovered) = open_with(&disk, &unsynced()).expect("what was synced is there");
    assert_eq!(recovered.report.damage, []);
    assert!(is_all_there(&log, &recovered));
}

/// A checkpoint that says of more groups than follow, in the newest segment, with checksums that are right. What its batch held
/// was read once, beside the states that an older checkpoint knew, and was gone when the segment had been sealed and was read alone.
#[test]
fn a_first_batch_without_a_whole_checkpoint_is_no_batch() {
    let (disk, sound) = sample();
    let mut used = segments(&disk).into_iter();
    let (path, mut bytes) = used
        .rfind(|it| it.1.starts_with(b"QRTSEG"))
        .expect("there are segments");
    let groups_at = BLOCK + HEADER + 8;
    assert_eq!(get(&bytes, groups_at, 8), sound.groups.len() as u64);
    put(&mut bytes, groups_at, 8, 1 + sound.groups.len() as u64);
    fix_batch(&mut bytes, BLOCK);
    disk.overwrite(&path, 0, &bytes);
    let refused = try_open(&disk);
    assert!(
        matches!(refused, Err(OpenError::Damaged { .. })),
        "the states may be older than what was acknowledged: {refused:?}"
    );
    let mut options = options();
    options.accept_damage = true;
    let (log, first) = open_with(&disk, &options).expect("damage is accepted");
    commit(&log, appended(2, 1..=1, 1, 10));
    log.prepare().expect("memory does not fail");
    drop(log);
    let again = open(&disk).1;
    assert_eq!(again.groups[&GroupId(1)], first.groups[&GroupId(1)]);
}

/// A header that says of a later lsn than its batches have, with a checksum that is right. Behind the segments before it the
/// batches were read, and the log was opened; once it was read by itself, nothing in it counted.
#[test]
fn batches_from_before_the_beginning_of_their_segment_are_damage_whatever_is_read_before_them() {
    let (disk, _) = sample();
    let mut used = segments(&disk).into_iter();
    let (path, mut bytes) = used
        .rfind(|it| it.1.starts_with(b"QRTSEG"))
        .expect("there are segments");
    let first_lsn = get(&bytes, 72, 8);
    put(&mut bytes, 72, 8, first_lsn + 1_000);
    fix_segment(&mut bytes);
    disk.overwrite(&path, 0, &bytes);
    let refused = try_open(&disk);
    let Err(OpenError::Damaged { damage }) = refused else {
        panic!("{refused:?}")
    };
    let kinds = damage.iter().map(|it| it.kind).collect::<Vec<_>>();
    assert!(kinds.contains(&DamageKind::Chain), "{damage:?}");
    assert!(damage.iter().any(|it| it.file == path), "{damage:?}");
}
