//! Files whose every CRC is right, and that contradict each other nevertheless.

use std::path::Path;

use quorate_wal::*;

use crate::common::*;
use crate::*;

/// Bytes of the header of a batch, and of an index.
const HEADER: usize = 64;

fn crc(numbers: &[u64], bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

fn number(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Seals a header of 64 bytes at `offset`, whose last four are its CRC.
fn seal(bytes: &mut [u8], segment: SegmentId, offset: usize) {
    let end = offset + HEADER - 4;
    let sealed = crc(&[segment.0, offset as u64], &bytes[offset..end]);
    bytes[end..end + 4].copy_from_slice(&sealed);
}

#[test]
fn a_batch_that_was_replaced_by_another_whole_one_is_named() {
    let disk = sample();
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    let batch = list_batches(&disk, Path::new(DIR), segment.id).unwrap()[2].clone();
    let offset = batch.offset as usize;
    // It says that less was durable: the chain of the segment does not end with what follows.
    let mut forged = bytes.clone();
    let durable = number(&bytes, offset + 32) - 1;
    forged[offset + 32..offset + 40].copy_from_slice(&durable.to_le_bytes());
    seal(&mut forged, segment.id, offset);
    write(&disk, &segment.file, 0, &forged);
    let expected = (
        segment.file.as_path(),
        segment.used_bytes,
        DamageKind::Chain,
        Cost::Nothing,
    );
    assert_eq!(seen(only(&verified(&disk))), expected);
}

#[test]
fn a_batch_that_says_more_was_durable_than_is_there_is_named() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    for index in 1..=60 {
        // Two submissions in each batch.
        log.submit(appended(1, index..=index, 1, 1500)).unwrap();
        commit(&log, appended(2, index..=index, 1, 1500));
        log.prepare().unwrap();
    }
    rest(&log);
    drop(log);
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    let batch = list_batches(&disk, Path::new(DIR), segment.id).unwrap()[1].clone();
    assert_eq!(batch.submissions, 2);
    let offset = batch.offset as usize;
    let mut forged = bytes;
    let durable = batch.lsn.0 - 1;
    forged[offset + 32..offset + 40].copy_from_slice(&durable.to_le_bytes());
    seal(&mut forged, segment.id, offset);
    write(&disk, &segment.file, 0, &forged);
    let expected = (
        segment.file.as_path(),
        batch.offset,
        DamageKind::Chain,
        Cost::Nothing,
    );
    assert_eq!(seen(only(&verified(&disk))), expected);
}

#[test]
fn an_index_that_leads_elsewhere_is_named_and_nothing_is_lost() {
    let disk = sample();
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    let end = segment.used_bytes as usize;
    let table = end + HEADER;
    let table_bytes = number(&bytes, end + 32) as usize;
    // The first spot of the last range leads to the second one's place.
    let range = table + table_bytes - 48;
    let spots = number(&bytes, range + 32) as usize;
    let count = u32::from_le_bytes(bytes[range + 24..range + 28].try_into().unwrap()) as usize;
    let mut forged = bytes;
    forged.copy_within(spots + 8..spots + 16, spots);
    let sealed = crc(
        &[segment.id.0, spots as u64],
        &forged[spots..spots + 8 * count],
    );
    forged[range + 28..range + 32].copy_from_slice(&sealed);
    let sealed = crc(
        &[segment.id.0, table as u64],
        &forged[table..table + table_bytes],
    );
    forged[end + 48..end + 52].copy_from_slice(&sealed);
    seal(&mut forged, segment.id, end);
    write(&disk, &segment.file, 0, &forged);
    let expected = (
        segment.file.as_path(),
        spots as u64,
        DamageKind::Footer,
        Cost::Nothing,
    );
    assert_eq!(seen(only(&verified(&disk))), expected);
    read_everything(&disk, None);
}

#[test]
fn a_segment_of_which_only_the_index_was_cut_off_opens_and_is_named() {
    let disk = sample();
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    disk.remove(&segment.file).unwrap();
    disk.create(&segment.file).unwrap();
    let used = segment.used_bytes;
    write(&disk, &segment.file, 0, &bytes[..used as usize]);
    let verification = verified(&disk);
    let expected = (
        segment.file.as_path(),
        used,
        DamageKind::Truncated,
        Cost::Nothing,
    );
    assert_eq!(seen(only(&verification)), expected);
    assert!(verification.opens);
    read_everything(&disk, None);
}

#[test]
fn a_manifest_with_impossible_numbers_is_damage_and_no_trouble() {
    let disk = sample();
    for end in [u64::MAX - 4095, 1 << 62, 1 << 40] {
        let damaged = disk.deep_clone();
        for name in ["MANIFEST-a", "MANIFEST-b"] {
            let mut bytes = read(&damaged, &path(name));
            let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
            let generation = number(&bytes, 16);
            for item in 0..count {
                let at = HEADER + 32 * item + 8;
                bytes[at..at + 8].copy_from_slice(&end.to_le_bytes());
            }
            let items = crc(&[generation], &bytes[HEADER..HEADER + 32 * count]);
            bytes[48..52].copy_from_slice(&items);
            let sealed = crc(&[], &bytes[..HEADER - 4]);
            bytes[HEADER - 4..HEADER].copy_from_slice(&sealed);
            write(&damaged, &path(name), 0, &bytes);
        }
        let verification = verified(&damaged);
        assert!(!verification.is_sound(), "{verification:#?}");
        let used: u64 = looked(&disk).segments.iter().map(|it| it.bytes).sum();
        assert!(verification.checked_bytes <= used + 300_000);
        assert!(!looked(&damaged).segments.is_empty());
        assert_eq!(planned(&damaged).verification, verification);
    }
}
