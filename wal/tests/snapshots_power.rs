//! Snapshots and the log that names them, when the power goes at any step, and when the disk
//! refuses any of them.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;
mod power;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, appended, entries, options, segments};
use power::{Call, Fault, PowerDisk, Survives};
use quorate_wal::*;

const SNAPSHOTS: &str = "/node/snap";
const CHUNK: usize = 256 << 10;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

type Failure = Box<dyn std::error::Error>;

fn snapshots(disk: &PowerDisk) -> Result<Snapshots, OpenError> {
    let snapshots = Snapshots::open(Arc::new(disk.clone()), Path::new(SNAPSHOTS))?;
    Ok(snapshots.with_step(CHUNK as u64))
}

fn content(index: u64) -> Vec<u8> {
    let seed = index as usize * 13;
    (0..2 * CHUNK + 5)
        .map(|position| (seed + position * 7 + position / 251) as u8)
        .collect()
}

fn save(snapshots: &Snapshots, group: u64, index: u64) -> Result<SnapshotRef, SnapshotError> {
    let mut writer = snapshots.create(GroupId(group), index, 1, index)?;
    writer.write(&content(index))?;
    writer.finish()
}

fn files(disk: &PowerDisk, group: u64) -> Vec<String> {
    let dir = Path::new(SNAPSHOTS).join(format!("{group:016x}"));
    disk.list(&dir).unwrap_or_default()
}

fn commit(log: &Log, batch: WriteBatch) -> Result<(), Failure> {
    let lsn = log.submit(batch)?;
    loop {
        match log.drive()? {
            Drove::Idle => break,
            Drove::NeedsSegment => while !log.prepare()?.segment_ready {},
            _ => {}
        }
    }
    assert!(log.durable() >= lsn);
    Ok(())
}

/// What a node knows to be true, and what may have become true when the power went.
#[derive(Clone, Default)]
struct Known {
    /// The snapshot that the log names, and the last index; none before the first.
    acknowledged: (Option<SnapshotRef>, u64),
    submitted: Option<(Option<SnapshotRef>, u64)>,
}

impl Known {
    fn commit(
        &mut self,
        log: &Log,
        batch: WriteBatch,
        named: Option<SnapshotRef>,
        last_index: u64,
    ) -> Result<(), Failure> {
        self.submitted = Some((named.clone(), last_index));
        commit(log, batch)?;
        self.acknowledged = (named, last_index);
        self.submitted = None;
        Ok(())
    }
}

/// The life of a group's snapshots: two are taken, each cuts the log and replaces the one before,
/// and a third comes from a leader and replaces the log too.
fn live(disk: &PowerDisk, known: &mut Known) -> Result<(), Failure> {
    let group = GroupId(1);
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options())?;
    let snapshots = snapshots(disk)?;
    known.commit(&log, appended(1, 1..=20, 1, 100), None, 20)?;

    let mut replaced: Option<SnapshotRef> = None;
    for (index, last_index) in [(15, 20), (30, 40)] {
        if last_index > known.acknowledged.1 {
            let appended = appended(1, known.acknowledged.1 + 1..=last_index, 1, 100);
            known.commit(&log, appended, replaced.clone(), last_index)?;
        }
        let saved = save(&snapshots, 1, index)?;
        let mut batch = WriteBatch::new();
        batch.set_snapshot(group, saved.clone());
        batch.compact(group, index - 4);
        known.commit(&log, batch, Some(saved.clone()), last_index)?;
        if let Some(replaced) = replaced.replace(saved) {
            snapshots.remove(group, &replaced)?;
        }
    }

    let received = save(&snapshots, 1, 100)?;
    let mut batch = WriteBatch::new();
    batch.install(group, received.clone(), None);
    known.commit(&log, batch, Some(received), 100)?;
    snapshots.remove(group, &replaced.unwrap())?;
    Ok(())
}

/// What must hold of a disk that comes up again.
fn check(disk: &PowerDisk, known: &Known, about: &str) {
    let opened = Log::open(Arc::new(disk.clone()), Path::new(DIR), options());
    let (log, recovered) = opened.unwrap_or_else(|error| panic!("{about}: {error}"));
    let snapshots = snapshots(disk).unwrap();
    let bystander = &recovered.groups[&GroupId(2)];
    let named = bystander.snapshot.clone().unwrap();
    snapshots.verify(GroupId(2), &named).expect(about);

    let found = recovered.groups.get(&GroupId(1));
    let state = found.map_or((None, 0), |found| {
        (found.snapshot.clone(), found.last_index)
    });
    assert!(
        state == known.acknowledged || Some(&state) == known.submitted.as_ref(),
        "{about}: {state:?}"
    );
    let (named, last_index) = state;
    if let Some(named) = &named {
        let verified = snapshots.verify(GroupId(1), named);
        verified.unwrap_or_else(|error| panic!("{about}: {error}"));
        let mut reader = snapshots.open_reader(GroupId(1), named).unwrap();
        let all = reader.read_at(0, reader.total_bytes() as usize).unwrap();
        assert_eq!(all, content(named.index), "{about}");
    }
    let covered = named.as_ref().map_or(0, |named| named.index);
    let first_index = found.map_or(1, |found| found.first_index);
    assert!(
        first_index <= covered + 1,
        "{about}: a gap behind {covered}"
    );
    if first_index <= last_index {
        let read = log
            .read(GroupId(1), first_index, last_index + 1, usize::MAX)
            .expect(about);
        let wanted = entries(1, first_index..=last_index, 1, 100);
        assert_eq!(read, wanted, "{about}");
    }

    // What nothing names goes, and only that.
    let left = files(disk, 1);
    let is_swept = !left.iter().any(|name| name.contains("tmp"));
    assert!(is_swept, "{about}: {left:?}");
    snapshots.retain(GroupId(1), named.as_slice()).unwrap();
    assert_eq!(files(disk, 1).len(), named.iter().count(), "{about}");
    // Life goes on.
    let saved = save(&snapshots, 1, last_index).expect(about);
    let mut batch = WriteBatch::new();
    batch.install(GroupId(1), saved.clone(), None);
    commit(&log, batch).expect(about);
    let after = disk.cut(Survives::Nothing);
    let snapshots = self::snapshots(&after).unwrap();
    snapshots.verify(GroupId(1), &saved).expect(about);
}

/// A disk on which another group has a snapshot and a log.
fn beside_a_bystander() -> PowerDisk {
    let disk = PowerDisk::default();
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options()).unwrap();
    let saved = save(&snapshots(&disk).unwrap(), 2, 9).unwrap();
    let mut batch = WriteBatch::new();
    batch.install(GroupId(2), saved, None);
    commit(&log, batch).unwrap();
    log.close();
    disk
}

#[test]
fn whenever_the_power_goes_the_log_names_a_whole_snapshot_and_covers_all_behind_it() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let mut changes = 0;
    loop {
        let disk = beside_a_bystander();
        let mut known = Known::default();
        disk.allow_changes(changes);
        let lived = live(&disk, &mut known);
        let is_over = lived.is_ok();
        assert!(is_over || disk.is_off(), "{:?}", lived.err());
        let some = Survives::Some(u64::from(seed) + changes.cast_unsigned());
        for survives in [Survives::All, Survives::Nothing, some] {
            let about = format!("power off after {changes} changes, {survives:?} survives");
            check(&disk.cut(survives), &known, &about);
        }
        if is_over {
            break;
        }
        changes += 1;
    }
    assert!(changes > 50, "the power went only {changes} times");
}

#[test]
fn the_power_may_go_while_leftovers_are_swept() {
    let disk = beside_a_bystander();
    let snapshots_before = snapshots(&disk).unwrap();
    for index in [50, 60] {
        let mut writer = snapshots_before.create(GroupId(1), index, 1, 1).unwrap();
        writer.write(&content(index)).unwrap();
        // The process dies with the file half written.
        std::mem::forget(writer);
    }
    let disk = disk.cut(Survives::All);
    assert_eq!(files(&disk, 1).len(), 2);
    for changes in 0.. {
        let swept = disk.cut(Survives::All);
        swept.allow_changes(changes);
        let opened = snapshots(&swept);
        let again = swept.cut(Survives::Nothing);
        check(
            &again,
            &Known::default(),
            &format!("after {changes} changes"),
        );
        if opened.is_ok() {
            assert_eq!(changes, 3, "two files and their directory's directory");
            break;
        }
    }
}

#[test]
fn the_directory_of_a_group_that_was_made_but_not_synced_is_made_durable_at_the_next_open() {
    let disk = PowerDisk::default();
    let before = snapshots(&disk).unwrap();
    disk.allow_changes(1);
    assert!(before.create(GroupId(1), 1, 1, 1).is_err());
    // The process dies, its machine lives.
    disk.allow_changes(i64::MAX);
    let saved = save(&snapshots(&disk).unwrap(), 1, 5).unwrap();
    let disk = disk.cut(Survives::Nothing);
    snapshots(&disk)
        .unwrap()
        .verify(GroupId(1), &saved)
        .unwrap();
}

/// Every call that takes part in writing a snapshot fails once, with an error of the device and with
/// a full disk.
#[test]
fn what_the_disk_refuses_is_a_typed_error_and_leaves_nothing_behind() {
    let mut refused = 0;
    for call in [
        Call::CreateDir,
        Call::Create,
        Call::Write,
        Call::Sync,
        Call::DropCache,
        Call::Open,
        Call::Read,
        Call::Rename,
        Call::SyncDir,
    ] {
        for errno in [EIO, ENOSPC] {
            for spared in 0.. {
                let disk = beside_a_bystander();
                let snapshots = snapshots(&disk).unwrap();
                let log_before = segments(&disk);
                disk.fail(Fault {
                    call,
                    spared,
                    under: SNAPSHOTS,
                    errno,
                });
                let saved = save(&snapshots, 1, 5);
                if !disk.has_failed() {
                    saved.unwrap();
                    break;
                }
                refused += 1;
                let about = format!("{call:?} number {spared}, errno {errno}");
                let error = saved.expect_err(&about);
                assert_names_its_cause(&error, call, errno, &about);
                assert!(files(&disk, 1).is_empty(), "{about}");
                assert_eq!(segments(&disk), log_before, "{about}");
                // Nothing of it stands in the way of the next one, with the same numbers.
                let saved = save(&snapshots, 1, 5).expect(&about);
                snapshots.verify(GroupId(1), &saved).expect(&about);
                assert_eq!(files(&disk, 1).len(), 1);
            }
        }
    }
    assert!(refused >= 2 * 15, "only {refused} calls were refused");
}

fn assert_names_its_cause(error: &SnapshotError, call: Call, errno: i32, about: &str) {
    let is_reading = matches!(call, Call::DropCache | Call::Open | Call::Read);
    let (path, source) = match error {
        SnapshotError::Full { path, source, .. } if errno == ENOSPC && !is_reading => {
            assert!(error.to_string().contains("no room"), "{about}: {error}");
            (path, source)
        }
        SnapshotError::Io { path, source, .. } if errno == EIO || is_reading => (path, source),
        _ => panic!("{about}: {error:?}"),
    };
    assert!(path.starts_with(SNAPSHOTS), "{about}: {error}");
    assert_eq!(source.raw_os_error(), Some(errno), "{about}");
}

#[test]
fn an_error_while_reading_is_never_taken_for_damage() {
    let disk = PowerDisk::default();
    let snapshots = snapshots(&disk).unwrap();
    let saved = save(&snapshots, 1, 5).unwrap();
    let mut reads = 0;
    loop {
        disk.fail(Fault {
            call: Call::Read,
            spared: reads,
            under: SNAPSHOTS,
            errno: EIO,
        });
        let verified = snapshots.verify(GroupId(1), &saved);
        if !disk.has_failed() {
            verified.unwrap();
            break;
        }
        let error = verified.unwrap_err();
        assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
        let read = snapshots.open_reader(GroupId(1), &saved);
        let mut reader = read.unwrap();
        disk.fail(Fault {
            call: Call::Read,
            spared: 0,
            under: SNAPSHOTS,
            errno: EIO,
        });
        let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
        assert_ne!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(SNAPSHOTS), "{error}");
        reads += 1;
    }
    assert_eq!(reads, 5, "header, footer and three chunks");
}

#[test]
fn what_the_cache_shows_but_the_disk_did_not_keep_is_not_published() {
    let last_step = content(5).len() + 64 + 3 * 32;
    for at in [0, 64, 5000, CHUNK + 200, 2 * CHUNK + 64 + 3 * 32, last_step] {
        let disk = PowerDisk::default();
        let snapshots = snapshots(&disk).unwrap();
        disk.rot(at);
        let error = save(&snapshots, 1, 5).unwrap_err();
        let SnapshotError::Corrupt { path, offset, .. } = &error else {
            panic!("byte {at}: {error}");
        };
        let name = "0000000000000005-0000000000000001-0000000000000005.snap.tmp";
        assert_eq!(path.file_name().unwrap(), name);
        assert!(*offset <= at as u64, "byte {at}: {error}");
        assert!(files(&disk, 1).is_empty());
    }
}

#[test]
fn no_more_than_one_step_ever_waits_to_be_written() {
    let framing = 64 + 8 * 32 + 48;
    for (step_bytes, allowed) in [(0, CHUNK), (CHUNK + 1, 2 * CHUNK), (1 << 20, 4 * CHUNK)] {
        let disk = PowerDisk::default();
        let snapshots = snapshots(&disk).unwrap().with_step(step_bytes as u64);
        let rests = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let told = Arc::clone(&rests);
        let writer = snapshots.create(GroupId(1), 1, 1, 1).unwrap();
        let mut writer = writer.rest_with(move |bytes| told.lock().push(bytes));
        let content = vec![7; 11 * CHUNK + 1];
        writer.write(&content).unwrap();
        let written: u64 = rests.lock().iter().sum();
        let behind = writer.bytes().saturating_sub(written);
        assert!(
            behind <= (allowed + CHUNK) as u64,
            "the caller is told: {behind}"
        );
        assert_eq!(disk.released_bytes(), written, "the cache is given back");
        writer.finish().unwrap();
        let most = disk.unsynced_bytes_max() as usize;
        assert!(most >= allowed, "steps are used: {most}");
        assert!(
            most <= allowed + framing,
            "{step_bytes}: {most} bytes waited"
        );
        // Once for writing, and once for reading back.
        let total: u64 = rests.lock().iter().sum();
        assert!(total >= 2 * content.len() as u64, "{total}");
        assert!(
            rests
                .lock()
                .iter()
                .all(|rest| *rest <= (allowed + framing).max(1 << 20) as u64)
        );
        assert!(disk.released_bytes() >= 2 * content.len() as u64);
        assert_eq!(disk.calls(Call::DropCache), 1);
    }
}

#[test]
fn a_file_that_cannot_be_deleted_stays_an_error_and_can_be_deleted_later() {
    let disk = PowerDisk::default();
    let snapshots = snapshots(&disk).unwrap();
    let saved = save(&snapshots, 1, 5).unwrap();
    for delete in [
        Snapshots::remove as fn(&Snapshots, GroupId, &SnapshotRef) -> Result<(), SnapshotError>,
        |snapshots, group, _| snapshots.retain(group, &[]),
    ] {
        disk.fail(Fault {
            call: Call::Remove,
            spared: 0,
            under: SNAPSHOTS,
            errno: EIO,
        });
        let error = delete(&snapshots, GroupId(1), &saved).unwrap_err();
        let expected = PathBuf::from(SNAPSHOTS).join("0000000000000001");
        assert!(
            matches!(&error, SnapshotError::Io { path, .. } if path.starts_with(&expected)),
            "{error}"
        );
        snapshots.verify(GroupId(1), &saved).unwrap();
    }
    snapshots.remove(GroupId(1), &saved).unwrap();
    snapshots.remove(GroupId(1), &saved).unwrap();
    assert!(files(&disk, 1).is_empty());
}
