//! Each kind of damage is named by file, offset, kind and cost.

use std::path::Path;

use quorate_wal::*;

use crate::common::*;
use crate::*;

#[test]
fn a_changed_byte_is_found_wherever_it_is() {
    let disk = sample();
    let mut random = Random::new(11);
    let inspection = looked(&disk);
    let active = inspection
        .segments
        .iter()
        .find(|it| it.state == SegmentState::Active)
        .unwrap();
    let batches = list_batches(&disk, Path::new(DIR), active.id).unwrap();
    let last_batch = batches
        .iter()
        .rfind(|it| it.verdict == Verdict::Whole)
        .unwrap();
    let mut found = 0;
    for segment in &inspection.segments {
        let bytes = read(&disk, &segment.file);
        let footer = if segment.state == SegmentState::Indexed {
            // The index ends with the block of its last byte.
            let behind = &bytes[segment.used_bytes as usize..];
            let count = u64::from_le_bytes(behind[32..40].try_into().unwrap())
                + u64::from_le_bytes(behind[40..48].try_into().unwrap());
            (64 + count).next_multiple_of(BLOCK as u64)
        } else {
            0
        };
        let checked = segment.used_bytes + footer;
        for (position, &byte) in bytes[..checked as usize].iter().enumerate() {
            // Where the structure is, and here and there.
            if position % BLOCK >= 100 && random.below(200) > 0 || random.below(4) > 0 {
                continue;
            }
            let damaged = disk.deep_clone();
            write(
                &damaged,
                &segment.file,
                position,
                &[byte ^ 1 << random.below(8)],
            );
            let verification = verify(&damaged, Path::new(DIR), None, &mut |_| ()).unwrap();
            let what = format!(
                "{} byte {position}: {verification:#?}",
                segment.file.display()
            );
            let is_superseded = verification.notes.iter().any(|note| match note {
                Note::Superseded { damage } => {
                    damage.file == segment.file && damage.offset <= position as u64
                }
                _ => false,
            });
            if is_superseded {
                found += 1;
                continue;
            }
            if verification.is_sound() {
                assert!(
                    segment.id == active.id && position as u64 >= last_batch.offset,
                    "only what nothing proves may be cut: {what}"
                );
                let is_tail = |note: &Note| matches!(note, Note::TornTail { .. });
                assert!(verification.notes.iter().any(is_tail), "{what}");
                continue;
            }
            let nearest = verification
                .problems
                .iter()
                .filter(|it| it.damage.file == segment.file);
            let nearest = nearest.filter(|it| it.damage.offset <= position as u64);
            assert!(nearest.count() > 0, "{what}");
            found += 1;
        }
    }
    assert!(found > 500, "{found}");
}

#[test]
fn damage_is_named_by_kind_place_and_cost() {
    use Cost::{Nothing, States};
    use DamageKind::{BatchHeader, Footer, Padding, SegmentHeader};
    let disk = sample();
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    let batches = list_batches(&disk, Path::new(DIR), segment.id).unwrap();
    let (file, end) = (segment.file.as_path(), segment.used_bytes);
    let batch = &batches[1];
    let table = end + 64;
    let spots = end + 64 + u64::from_le_bytes(bytes[end as usize + 32..][..8].try_into().unwrap());
    let last_zero = batch.offset + batch.bytes - 1;
    let cases: [(&str, u64, Seen<'_>); 7] = [
        ("segment header", 30, (file, 0, SegmentHeader, States)),
        (
            "batch header",
            batch.offset + 3,
            (file, batch.offset, BatchHeader, Nothing),
        ),
        ("padding", last_zero, (file, last_zero, Padding, Nothing)),
        ("magic of the index", end + 1, (file, end, Footer, Nothing)),
        (
            "segment in the index",
            end + 9,
            (file, end, Footer, Nothing),
        ),
        (
            "table of the index",
            table + 5,
            (file, end, Footer, Nothing),
        ),
        (
            "spots of the index",
            spots + 2,
            (file, spots, Footer, Nothing),
        ),
    ];
    for (what, offset, expected) in cases {
        let damaged = disk.deep_clone();
        flip(&damaged, file, offset as usize);
        let verification = verified(&damaged);
        assert_eq!(seen(only(&verification)), expected, "{what}");
        assert_eq!(verification.opens, expected.3 != States, "{what}");
        assert_eq!(try_open(&damaged).is_ok(), verification.opens, "{what}");
        if verification.opens {
            read_everything(&damaged, None);
        }
    }
}

#[test]
fn the_entries_that_damage_costs_are_named_and_no_others() {
    let disk = sample();
    let inspection = looked(&disk);
    let indexed = |segment: &&SegmentInspection| segment.state == SegmentState::Indexed;
    let segment = inspection.segments.iter().filter(indexed).nth(1).unwrap();
    let bytes = read(&disk, &segment.file);
    let batch = list_batches(&disk, Path::new(DIR), segment.id).unwrap()[1].clone();
    let payloads = &bytes[batch.offset as usize..];
    // Each batch but the first has three entries of group 2.
    let index = (6..180_u64).find(|index| {
        let text = format!("2/{index}/{}/", 1 + index.div_ceil(3) / 20);
        payloads[..batch.bytes as usize]
            .windows(text.len())
            .any(|it| it == text.as_bytes())
    });
    let index: u64 = index.unwrap();
    let term = 1 + index.div_ceil(3) / 20;

    let damaged = disk.deep_clone();
    let at = payload_of(&bytes, 2, index, term);
    flip(&damaged, &segment.file, at + 20);
    let verification = verified(&damaged);
    let problem = only(&verification);
    let expected = (
        segment.file.as_path(),
        at as u64,
        DamageKind::Payload,
        Cost::Entries,
    );
    assert_eq!(seen(problem), expected);
    assert_eq!(problem.damage.indexes, Some((index, index)));
    read_everything(&damaged, Some((GroupId(2), (index, index))));

    // The slots of the entries, in the descriptors, of which each has its own: all are lost.
    let damaged = disk.deep_clone();
    for run in 0..3 {
        let slot = batch.offset as usize + 64 + 48 * run + 40;
        write(&damaged, &segment.file, slot, &[0xff; 8]);
    }
    let verification = verified(&damaged);
    let problem = only(&verification);
    let expected = (
        segment.file.as_path(),
        batch.offset,
        DamageKind::Descriptors,
        Cost::Entries,
    );
    assert_eq!(seen(problem), expected);
    let three = (index, index + 2);
    assert_eq!(problem.damage.group, Some(GroupId(2)));
    assert_eq!(problem.damage.indexes, Some(three));
    assert!(verification.opens);
    read_everything(&damaged, Some((GroupId(2), three)));
    let plan = planned(&damaged);
    assert_eq!(plan.losses.len(), 1);
    assert_eq!(
        (plan.losses[0].group, &plan.losses[0].indexes[..]),
        (GroupId(2), &[three][..])
    );

    // Rot in an entry that was compacted is worth a note, and nobody is called at night for it.
    let compacted = inspection.segments.iter().find_map(|segment| {
        let bytes = read(&disk, &segment.file);
        let mut windows = bytes.windows(6);
        Some((segment, windows.position(|it| it == b"2/5/1/")?))
    });
    let (segment, at) = compacted.expect("the segment of a compacted entry is still there");
    let damaged = disk.deep_clone();
    flip(&damaged, &segment.file, at);
    let verification = verified(&damaged);
    assert!(verification.is_sound(), "{verification:#?}");
    let mut superseded = verification.notes.iter().filter_map(|note| match note {
        Note::Superseded { damage } => Some(damage),
        _ => None,
    });
    let damage = superseded.next().expect("it is worth a note");
    assert_eq!(
        (&damage.file, damage.offset, damage.kind),
        (&segment.file, at as u64, DamageKind::Payload)
    );
    assert_eq!(
        (damage.group, damage.indexes),
        (Some(GroupId(2)), Some((5, 5)))
    );
    assert_eq!(superseded.next(), None);
    read_everything(&damaged, None);
}

#[test]
fn damage_in_the_tail_is_told_from_a_torn_tail() {
    let disk = sample();
    let (segment, _) = first(&disk, SegmentState::Active);
    let batches = list_batches(&disk, Path::new(DIR), segment.id).unwrap();
    let whole: Vec<_> = batches
        .iter()
        .filter(|it| it.verdict == Verdict::Whole)
        .collect();
    let [.., before, last] = &whole[..] else {
        panic!("{batches:?}")
    };

    // The last batch was cut off by a power cut.
    let torn = disk.deep_clone();
    write(&torn, &segment.file, last.offset as usize + 64, &[0; 40]);
    let verification = verified(&torn);
    assert!(
        verification.is_sound() && verification.opens,
        "{verification:#?}"
    );
    let expected = Note::TornTail {
        file: segment.file.clone(),
        offset: last.offset,
        bytes: last.bytes,
    };
    assert!(verification.notes.contains(&expected), "{verification:#?}");
    let listed = list_batches(&torn, Path::new(DIR), segment.id).unwrap();
    let ends: Vec<_> = listed
        .iter()
        .filter(|it| it.offset >= last.offset)
        .collect();
    assert!(
        ends.iter().all(|it| it.verdict == Verdict::Ignored),
        "{ends:?}"
    );
    let plan = planned(&torn);
    assert!(matches!(&plan.steps[0], RepairStep::Cut { offset, .. } if *offset == last.offset));

    // One before it, of which the last says that it was durable.
    let rotten = disk.deep_clone();
    let zeros = vec![0; before.bytes as usize];
    write(&rotten, &segment.file, before.offset as usize, &zeros);
    let verification = verified(&rotten);
    let expected = (
        segment.file.as_path(),
        before.offset,
        DamageKind::BatchHeader,
        Cost::States,
    );
    assert_eq!(
        seen(&verification.problems[0]),
        expected,
        "{verification:#?}"
    );
    let missing = verification.problems.last().unwrap();
    assert_eq!(missing.damage.kind, DamageKind::MissingEntries);
    let expected = (Some(GroupId(3)), Some((4, 4)));
    assert_eq!((missing.damage.group, missing.damage.indexes), expected);
    assert_eq!(verification.problems_total, 2, "{verification:#?}");
    assert!(!verification.opens);
    let plan = planned(&rotten);
    assert!(plan.states_lost);
    let mut accepting = options();
    accepting.accept_damage = true;
    let (_, recovered) = Log::open(rotten.as_disk(), Path::new(DIR), accepting).unwrap();
    let without: Vec<_> = recovered
        .groups
        .iter()
        .filter(|(_, it)| !it.lost.is_empty())
        .collect();
    assert_eq!(without.len(), plan.losses.len());
    assert_eq!(
        (*without[0].0, &without[0].1.lost),
        (plan.losses[0].group, &plan.losses[0].indexes)
    );
    let listed = list_batches(&disk, Path::new(DIR), segment.id).unwrap();
    assert_eq!(listed, batches, "the sound one is as it was");
}

#[test]
fn files_that_are_missing_or_cut_are_named() {
    let disk = sample();
    let inspection = looked(&disk);
    let in_service = |it: &&SegmentInspection| it.live_entries > 0;
    for segment in inspection.segments.iter().filter(in_service) {
        let is_last = segment.state == SegmentState::Active;
        let damaged = disk.deep_clone();
        damaged.remove(&segment.file).unwrap();
        let verification = verified(&damaged);
        let kinds: Vec<_> = verification
            .problems
            .iter()
            .map(|it| it.damage.kind)
            .collect();
        let named = verification
            .problems
            .iter()
            .find(|it| it.damage.file == segment.file);
        let named = named.unwrap_or_else(|| panic!("{}: {kinds:?}", segment.file.display()));
        assert_eq!(named.cost, Cost::States);
        assert_eq!(
            named.damage.kind,
            DamageKind::MissingSegment,
            "last {is_last}"
        );
        assert!(!verification.opens && try_open(&damaged).is_err());
        assert!(!looked(&damaged).damage.is_empty());

        let cut = disk.deep_clone();
        let bytes = read(&cut, &segment.file);
        cut.remove(&segment.file).unwrap();
        cut.create(&segment.file).unwrap();
        write(&cut, &segment.file, 0, &bytes[..2 * BLOCK]);
        let verification = verified(&cut);
        let is_cut = |it: &&Problem| {
            it.damage.kind == DamageKind::Truncated && it.damage.file == segment.file
        };
        assert!(
            verification.problems.iter().any(|it| is_cut(&it)),
            "{verification:#?}"
        );
    }
}

#[test]
fn the_files_of_the_manifest_are_checked() {
    let disk = sample();
    let names = ["MANIFEST-a", "MANIFEST-b"];
    let newest = looked(&disk)
        .manifest
        .iter()
        .position(|it| matches!(it.state, SlotState::Whole { is_newest, .. } if is_newest));
    let older = 1 - newest.unwrap();
    let torn = disk.deep_clone();
    flip(&torn, &path(names[older]), 20);
    let verification = verified(&torn);
    assert!(verification.is_sound(), "the other one counts");
    let expected = Note::TornManifest {
        file: path(names[older]),
    };
    assert!(verification.notes.contains(&expected), "{verification:#?}");
    let rewritten = RepairStep::WriteManifest {
        file: path(names[older]),
    };
    assert!(planned(&torn).steps.contains(&rewritten));
    flip(&torn, &path(names[1 - older]), 20);
    let verification = verified(&torn);
    let is_manifest = |it: &Problem| it.damage.kind == DamageKind::Manifest;
    assert!(
        verification.problems.iter().any(is_manifest),
        "{verification:#?}"
    );
    assert!(!verification.opens && try_open(&torn).is_err());
    let slots = looked(&torn).manifest;
    assert!(
        slots.iter().all(|it| it.state == SlotState::Torn),
        "{slots:?}"
    );
}

#[test]
fn a_segment_without_an_index_is_no_damage() {
    let disk = sample();
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    let zeros = vec![0; bytes.len() - segment.used_bytes as usize];
    write(&disk, &segment.file, segment.used_bytes as usize, &zeros);
    let plan = planned(&disk);
    assert!(plan.verification.is_sound(), "{plan:#?}");
    let file = segment.file.clone();
    assert!(
        plan.verification
            .notes
            .contains(&Note::NoIndex { file: file.clone() })
    );
    assert!(plan.steps.contains(&RepairStep::MakeIndex { file }));
    let (log, _) = open(&disk);
    rest(&log);
    drop(log);
    let plan = planned(&disk);
    let is_made = |it: &RepairStep| matches!(it, RepairStep::MakeIndex { .. });
    assert!(
        !plan.steps.iter().any(is_made),
        "the open made it: {plan:#?}"
    );
}

#[test]
fn snapshots_are_checked_with_the_log() {
    let disk = sample();
    let group = Path::new(SNAPSHOTS).join("0000000000000002");
    let file = group.join(&disk.list(&group).unwrap()[0]);
    for (offset, named) in [(3, 0), (64 + 32 + 1000, 96), (300_170, 300_128)] {
        let damaged = disk.deep_clone();
        flip(&damaged, &file, offset);
        let verification = verified(&damaged);
        let expected = (file.as_path(), named, DamageKind::Snapshot, Cost::Snapshot);
        assert_eq!(seen(only(&verification)), expected);
        assert_eq!(verification.problems[0].damage.group, Some(GroupId(2)));
        let without = verify(&damaged, Path::new(DIR), None, &mut |_| ()).unwrap();
        assert!(without.is_sound() && without.snapshots.is_none());
    }
    let plan = planned(&disk);
    assert!(plan.losses.is_empty());
    disk.rename(&file, &group.join("other.snap")).unwrap();
    let plan = planned(&disk);
    let problem = only(&plan.verification);
    assert_eq!(seen(problem).2, DamageKind::MissingSnapshot);
    assert!(plan.losses[0].snapshot);
    let unused = Note::UnusedSnapshot {
        file: group.join("other.snap"),
    };
    assert!(plan.verification.notes.contains(&unused));
}

#[test]
fn many_problems_are_counted_and_the_first_are_kept() {
    let disk = MemoryDisk::new();
    let mut large = options();
    large.segment_bytes_min = 4 << 20;
    large.segment_bytes_max = 4 << 20;
    let (log, _) = Log::open(disk.as_disk(), Path::new(DIR), large).unwrap();
    // Entries of two groups in turn, so that none follows the last one of its group.
    let mut batch = WriteBatch::new();
    for index in 1..=5000 {
        batch.append(GroupId(1), entries(1, index..=index, 1, 16));
        batch.append(GroupId(2), entries(2, index..=index, 1, 16));
    }
    commit(&log, batch);
    commit(&log, appended(1, 5001..=5001, 1, 16));
    drop(log);
    let (segment, bytes) = first(&disk, SegmentState::Active);
    let at = payload_of(&bytes, 1, 1, 1);
    let mut rotten = bytes;
    for number in 0..10_000 {
        rotten[at + 16 * number] ^= 1;
    }
    write(&disk, &segment.file, 0, &rotten);
    let verification = verified(&disk);
    assert_eq!(verification.problems_total, 10_000);
    assert_eq!(verification.problems.len(), 4096);
    // Those of one group that follow each other are one.
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=50, 1, 16));
    commit(&log, appended(1, 51..=51, 1, 16));
    drop(log);
    let (segment, bytes) = first(&disk, SegmentState::Active);
    let at = payload_of(&bytes, 1, 1, 1);
    for number in 10..=20 {
        flip(&disk, &segment.file, at + 16 * (number - 1));
    }
    let verification = verified(&disk);
    assert_eq!(only(&verification).damage.indexes, Some((10, 20)));
}
