//! Files that were copied, lost or cut.

use quorate_wal::*;

use crate::common::*;
use crate::*;

#[test]
fn a_copy_of_a_segment_under_another_id_is_never_merged() {
    let original = sample();
    let segments = in_service(original.path());
    let newest = segments.last().unwrap().id.0;
    for segment in &segments {
        // Below all, between two, and above all.
        for id in [1, segments[1].id.0 - 1, newest + 40] {
            let dir = copy(original.path());
            let name = dir.path().join(format!("{id:016x}.seg"));
            if segments.iter().any(|it| it.id.0 == id) {
                continue;
            }
            fs::copy(&segment.file, &name).unwrap();
            assert_whole(&open_real(dir.path()).unwrap());
            assert!(!name.exists(), "it is no segment of this log, and goes");
        }
    }
}

#[test]
fn a_copy_in_place_of_another_segment_is_named_as_damage() {
    let original = sample();
    let segments = in_service(original.path());
    for (segment, other) in segments.iter().zip(&segments[1..]) {
        for (from, to) in [(segment, other), (other, segment)] {
            let dir = copy(original.path());
            let to = dir.path().join(to.file.file_name().unwrap());
            fs::copy(&from.file, &to).unwrap();
            let before = files_of(dir.path());
            let Err(OpenError::Damaged { damage }) = open_real(dir.path()) else {
                panic!("{} in place of {}", from.id, to.display());
            };
            assert!(damage.iter().any(|it| it.file == to), "{damage:?}");
            assert_eq!(files_of(dir.path()), before, "nothing is changed");
        }
    }
}

#[test]
fn a_copy_under_a_name_of_its_own_is_left_alone() {
    let dir = sample();
    let segments = in_service(dir.path());
    let names = [
        "0000000000000001.seg.bak",
        "Copy of 1.seg",
        "00000000000000FF.seg",
    ];
    for name in names {
        fs::copy(&segments[0].file, dir.path().join(name)).unwrap();
    }
    assert_whole(&open_real(dir.path()).unwrap());
    for name in names {
        let kept = fs::read(dir.path().join(name)).unwrap();
        assert_eq!(kept, fs::read(&segments[0].file).unwrap());
    }
}

#[test]
fn a_missing_segment_is_refused_and_nothing_older_is_dropped() {
    let original = sample();
    let segments = in_service(original.path());
    // The first, those in the middle, and the last.
    for segment in &segments {
        let dir = copy(original.path());
        let path = dir.path().join(segment.file.file_name().unwrap());
        fs::remove_file(&path).unwrap();
        let before = files_of(dir.path());
        let error = open_real(dir.path()).unwrap_err();
        assert!(
            matches!(&error, OpenError::MissingSegment { path: named, segment: id }
                if *named == path && *id == segment.id),
            "{error}"
        );
        assert!(error.to_string().contains("put the file back"), "{error}");
        assert_eq!(files_of(dir.path()), before, "nothing is changed");
        fs::copy(&segment.file, &path).unwrap();
        assert_whole(&open_real(dir.path()).unwrap());
    }
}

#[test]
fn what_a_missing_segment_costs_is_named_if_damage_is_accepted() {
    let original = sample();
    for segment in in_service(original.path()) {
        if segment.state == SegmentState::Active {
            continue;
        }
        let dir = copy(original.path());
        fs::remove_file(dir.path().join(segment.file.file_name().unwrap())).unwrap();
        let mut accepting = options();
        accepting.accept_damage = true;
        let (log, recovered) = Log::open(Arc::new(RealDisk), dir.path(), accepting).unwrap();
        let lost = |it: &RecoveredGroup| it.lost.iter().map(|it| it.1 + 1 - it.0).sum::<u64>();
        let lost: u64 = recovered.groups.values().map(lost).sum();
        assert_eq!(lost, segment.live_entries, "{:?}", recovered.report.damage);
        for (&group, found) in &recovered.groups {
            for index in found.first_index..=found.last_index {
                let is_lost = found.lost.iter().any(|it| (it.0..=it.1).contains(&index));
                let read = log.read(group, index, index + 1, usize::MAX);
                assert_eq!(read.is_err(), is_lost, "{group} {index}: {read:?}");
            }
        }
    }
}

#[test]
fn a_segment_that_was_given_up_may_be_missing() {
    let dir = sample();
    let (log, _) = open_real(dir.path()).unwrap();
    let oldest = in_service(dir.path())[0].file.clone();
    let mut batch = WriteBatch::new();
    batch.compact(GroupId(1), 161);
    batch.compact(GroupId(2), 17);
    commit(&log, batch);
    rest(&log);
    drop(log);
    assert!(
        !oldest.exists(),
        "nothing needs it, so it was deleted or used again"
    );
    let (log, recovered) = open_real(dir.path()).unwrap();
    assert_eq!(recovered.groups[&GroupId(1)].first_index, 161);
    assert_eq!(
        log.read(GroupId(3), 2, 3, usize::MAX).unwrap(),
        [entry(3, 2, 3, 20_000)]
    );
}

#[test]
fn a_segment_that_was_cut_is_named_and_nothing_is_read_behind_its_end() {
    let original = sample();
    for segment in in_service(original.path()) {
        for bytes in [
            0,
            1,
            100,
            4096,
            5000,
            segment.used_bytes - 4096,
            segment.used_bytes - 1,
        ] {
            let dir = copy(original.path());
            let path = dir.path().join(segment.file.file_name().unwrap());
            cut(&path, bytes);
            match open_real(dir.path()) {
                // A full segment is found to be cut when it is read, or looked at.
                Ok(opened) => {
                    assert_ne!(segment.state, SegmentState::Active, "{bytes} bytes");
                    assert_named_by_reads(&opened, &segment, &path);
                }
                Err(OpenError::Damaged { damage }) => {
                    assert!(
                        damage.iter().any(|it| it.file == path),
                        "{bytes}: {damage:?}"
                    );
                }
                Err(error) => panic!("{error}"),
            }
            let verification = verify(&RealDisk, dir.path(), None, &mut |_| ()).unwrap();
            let problems = verification.problems.iter();
            let named: Vec<_> = problems.filter(|it| it.damage.file == path).collect();
            assert!(!named.is_empty(), "{bytes}: {verification:#?}");
        }
    }
}

#[test]
fn a_segment_that_is_cut_under_an_open_log_is_named_by_reads() {
    let original = sample();
    for segment in in_service(original.path()) {
        if segment.state == SegmentState::Active {
            continue;
        }
        let dir = copy(original.path());
        let opened = open_real(dir.path()).unwrap();
        let path = dir.path().join(segment.file.file_name().unwrap());
        cut(&path, 4096);
        assert_named_by_reads(&opened, &segment, &path);
    }
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

/// Every read of the log returns what was written or names the file; some do the latter.
fn assert_named_by_reads(opened: &Opened, segment: &SegmentInspection, path: &Path) {
    let (log, recovered) = opened;
    let mut named = recovered
        .report
        .damage
        .iter()
        .filter(|it| it.file == path)
        .count();
    for (group, first, last, term, len) in HELD {
        for index in first..=last {
            match log.read(GroupId(group), index, index + 1, usize::MAX) {
                Ok(read) => assert_eq!(read, [entry(group, index, term, len)]),
                Err(ReadError::Corrupt {
                    file,
                    kind,
                    index: at,
                    ..
                }) => {
                    assert_eq!(at, index);
                    // What recovery found to be nowhere is named by the report.
                    assert!(file == path || kind == DamageKind::MissingEntries);
                    named += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(named > 0 || segment.live_entries == 0, "{}", path.display());
}
