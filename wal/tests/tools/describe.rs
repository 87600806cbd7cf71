//! What a log holds, and that a sound one is said to be sound.

use std::path::Path;

use quorate_wal::*;

use crate::common::*;
use crate::*;

#[test]
fn a_log_is_described_as_an_open_finds_it() {
    let disk = sample();
    let inspection = looked(&disk);
    let (log, recovered) = open(&disk.deep_clone());
    assert_eq!(inspection.groups.len(), 3);
    for found in &inspection.groups {
        let expected = &recovered.groups[&found.group];
        assert_eq!(
            (
                found.state,
                found.first_index,
                found.last_index,
                found.previous_term
            ),
            (
                expected.state,
                expected.first_index,
                expected.last_index,
                expected.previous_term
            )
        );
        assert_eq!(found.terms, expected.terms);
        assert_eq!(
            (&found.snapshot, &found.lost),
            (&expected.snapshot, &expected.lost)
        );
        let entries: u64 = found.segments.iter().map(|share| share.entries).sum();
        assert_eq!(entries, found.last_index + 1 - found.first_index);
        assert!(found.born > Lsn(0));
    }
    let stats = log.stats();
    assert_eq!(inspection.last_lsn, log.durable());
    assert_eq!(inspection.live_bytes, stats.live_bytes);
    let live: u64 = inspection.segments.iter().map(|it| it.live_entries).sum();
    assert_eq!(live, stats.entries);
    let count = |state| {
        let segments = inspection.segments.iter();
        segments.filter(|it| it.state == state).count()
    };
    assert!(count(SegmentState::Indexed) >= 3, "{inspection:#?}");
    assert_eq!(count(SegmentState::Active), 1);
    let oldest = inspection
        .segments
        .iter()
        .find(|it| it.live_entries > 0)
        .unwrap();
    let holders: Vec<_> = oldest.holders.iter().map(|share| share.group).collect();
    assert_eq!(oldest.groups as usize, holders.len());
    assert!(
        stats.pinned_by.iter().all(|group| holders.contains(group)),
        "{stats:?} {oldest:?}"
    );
    assert!(!inspection.in_use && inspection.damage.is_empty() && inspection.strays.is_empty());
}

#[test]
fn every_file_of_the_directory_is_accounted_for() {
    let disk = sample();
    disk.create(&path("notes.txt")).unwrap();
    let inspection = looked(&disk);
    assert_eq!(inspection.strays, ["notes.txt"]);
    let names = disk.list(Path::new(DIR)).unwrap();
    let bytes = |name: &String| read(&disk, &path(name)).len() as u64;
    let of_segments = names
        .iter()
        .filter(|it| is_segment(it) || it.starts_with("RESERVE"));
    assert_eq!(inspection.disk_bytes, of_segments.map(bytes).sum::<u64>());
    let generations: Vec<_> = inspection
        .manifest
        .iter()
        .map(|slot| slot.state.clone())
        .collect();
    let newest = |slot: &SlotState| match slot {
        SlotState::Whole {
            generation,
            is_newest,
            ..
        } => (*generation, *is_newest),
        other => panic!("{other:?}"),
    };
    let (a, b) = (newest(&generations[0]), newest(&generations[1]));
    assert_eq!(a.1, a.0 > b.0);
    assert_eq!(b.1, b.0 > a.0);
    for segment in &inspection.segments {
        if !matches!(segment.state, SegmentState::Active | SegmentState::Indexed) {
            continue;
        }
        let batches = list_batches(&disk, Path::new(DIR), segment.id).unwrap();
        let own: Vec<_> = batches
            .iter()
            .filter(|it| it.offset < segment.used_bytes)
            .collect();
        assert_eq!(own.len() as u64, segment.batches);
        assert!(own.iter().all(|it| it.verdict == Verdict::Whole));
        assert_eq!(own.last().unwrap().lsn, segment.last_lsn);
        let submissions: u64 = own.iter().map(|it| it.submissions).sum();
        assert_eq!(submissions, segment.last_lsn.0 + 1 - segment.first_lsn.0);
        let end = own.last().map(|it| it.offset + it.bytes);
        assert_eq!(end, Some(segment.used_bytes));
    }
}

#[test]
fn a_sound_log_has_no_problems_and_is_read_to_the_end() {
    let disk = sample();
    let mut steps = Vec::new();
    let snapshots = Some(Path::new(SNAPSHOTS));
    let verification = verify(&disk, Path::new(DIR), snapshots, &mut |it| steps.push(it)).unwrap();
    assert!(
        verification.is_sound() && verification.opens,
        "{verification:#?}"
    );
    let inspection = looked(&disk);
    assert_eq!(
        verification.batches,
        inspection.segments.iter().map(|it| it.batches).sum::<u64>()
    );
    assert_eq!(verification.snapshots, Some(1));
    let used: u64 = inspection.segments.iter().map(|it| it.used_bytes).sum();
    assert_eq!(verification.checked_bytes, used + 300_000);
    assert!(steps.is_sorted_by_key(|it| it.done_bytes));
    let last = steps.last().unwrap();
    assert_eq!(
        (last.done_bytes, last.total_bytes),
        (used + 300_000, used + 300_000)
    );
    assert!(steps.len() as u64 > verification.batches);
}
