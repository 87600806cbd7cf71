//! Snapshots beside a log that does not sync its batches: after a power cut the log names no snapshot
//! whose file is gone.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_wal::testing::{CrashDisk, Survivors};
use quorate_wal::{Durability, GroupId, Log, LogOptions, SnapshotRef, Snapshots, WriteBatch};

use crate::common::{DIR, appended, commit, seed_from_time};
use crate::world::options;

const SNAPSHOTS: &str = "/node/snap";

fn unsynced() -> LogOptions {
    let mut options = options();
    options.durability = Durability::ProcessCrash;
    options
}

fn save(snapshots: &Snapshots, group: GroupId, index: u64) -> SnapshotRef {
    let mut writer = snapshots.create(group, index, 1, index).unwrap();
    writer.write(&vec![index as u8; 3000]).unwrap();
    writer.finish().unwrap()
}

/// The life of the snapshots of two groups, as a node leads it: each is named by the log, and when that is
/// durable the one before it is deleted. One group is removed in the end, with its snapshots.
fn live(disk: &CrashDisk) {
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), unsynced()).unwrap();
    let snapshots = Snapshots::open(Arc::new(disk.clone()), Path::new(SNAPSHOTS)).unwrap();
    let mut before: [Option<SnapshotRef>; 2] = [None, None];
    let mut last = [0; 2];
    for round in 0..12 {
        for (number, before) in before.iter_mut().enumerate() {
            let group = GroupId(number as u64 + 1);
            // As many as fill a segment, or begin the next one, which was ready: then what stands in the one
            // before is not synced yet.
            for _ in 0..=(round + number) % 4 {
                last[number] += 1;
                let index = last[number];
                commit(&log, appended(group.0, index..=index, 1, 3000));
            }
            let last = last[number];
            let saved = save(&snapshots, group, last);
            let mut batch = WriteBatch::new();
            if round == 3 {
                batch.install(group, saved.clone(), Some(last));
            } else {
                batch.set_snapshot(group, saved.clone());
                batch.compact(group, last);
            }
            commit(&log, batch);
            if let Some(before) = before.replace(saved) {
                snapshots.remove(group, &before).unwrap();
            }
            log.prepare().unwrap();
        }
    }
    let mut batch = WriteBatch::new();
    batch.remove(GroupId(2));
    commit(&log, batch);
    snapshots.retain(GroupId(2), &[]).unwrap();
    let index = last[0] + 1;
    commit(&log, appended(1, index..=index, 1, 30));
}

#[test]
fn a_power_cut_of_a_log_without_syncs_leaves_the_snapshots_that_it_names() {
    let disk = CrashDisk::new();
    let forks = Arc::new(Mutex::new(Vec::new()));
    let (seen, watched) = (Arc::clone(&forks), disk.clone());
    disk.watch(Some(Arc::new(move |op| {
        if op.kind.is_change() {
            seen.lock().push(watched.fork());
        }
    })));
    live(&disk);
    disk.watch(None);
    let mut forks = std::mem::take(&mut *forks.lock());
    forks.push(disk.fork());
    let (seed, mut named) = (seed_from_time(), 0);
    for (change, fork) in forks.into_iter().enumerate() {
        let random = |turn: u64| Survivors::Random {
            seed: seed + change as u64 * 8 + turn,
            survive_percent: 50,
            torn_percent: 20,
        };
        for survivors in [Survivors::None, Survivors::All, random(0), random(1)] {
            let what = format!("before change {change}, {survivors:?}");
            let disk = fork.fork();
            disk.power_cut(&survivors);
            let opened = Log::open(Arc::new(disk.clone()), Path::new(DIR), unsynced());
            let (log, recovered) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(recovered.report.damage, [], "{what}");
            let snapshots = Snapshots::open(Arc::new(disk.clone()), Path::new(SNAPSHOTS)).unwrap();
            for (&group, found) in &recovered.groups {
                let Some(snapshot) = &found.snapshot else {
                    continue;
                };
                let whole = snapshots.verify(group, snapshot);
                whole.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(found.first_index <= snapshot.index + 1, "{what}");
                named += 1;
            }
            drop(log);
        }
    }
    assert!(named > 1000, "{named}");
}

/// What costs a sync is what is rare.
#[test]
fn only_what_lets_files_go_is_synced() {
    let disk = CrashDisk::new();
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), unsynced()).unwrap();
    commit(&log, appended(1, 1..=1, 1, 30));
    let syncs = log.stats().syncs;
    let mut batch = appended(1, 2..=2, 1, 30);
    batch.set_state(GroupId(1), quorate_wal::GroupState::default());
    batch.compact(GroupId(1), 2);
    commit(&log, batch);
    assert_eq!(log.stats().syncs, syncs);
    let snapshots = Snapshots::open(Arc::new(disk.clone()), Path::new(SNAPSHOTS)).unwrap();
    let mut batch = WriteBatch::new();
    batch.set_snapshot(GroupId(1), save(&snapshots, GroupId(1), 2));
    commit(&log, batch);
    assert!(log.stats().syncs > syncs);
    disk.power_cut(&Survivors::None);
    let (_, recovered) = Log::open(Arc::new(disk.clone()), Path::new(DIR), unsynced()).unwrap();
    let found = &recovered.groups[&GroupId(1)];
    assert_eq!((found.first_index, found.last_index), (2, 2));
}
