//! Judges that look at disks, shown disks that lie and logs that are damaged.

use std::path::Path;
use std::sync::Arc;

use quorate::{Bytes, LogIndex, NodeId, Role, Term};
use quorate_sim::config::Config;
use quorate_sim::faults::FaultClass;
use quorate_sim::judge::{
    Books, Disks, Event, Rates, check_aside, check_files, check_floor, check_group, check_twice,
    recovered,
};
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::World;
use quorate_wal::testing::{CrashDisk, Effect, Fault, OpKind};
use quorate_wal::{GroupState, Log, LogOptions, SnapshotRef, WriteBatch};

use super::{GROUP, at, says, stand};

/// A world with leaders in which every disk is looked at at every occasion of some kinds.
fn watched(seed: u64, rates: Rates) -> World<KvWorkload> {
    let mut world = World::<KvWorkload>::new(seed, Config::plain(seed), false);
    world.add_judge(Box::new(Disks::new(seed, rates)));
    world.start_nodes().expect("empty disks");
    let led = world.run_until_holds(10_000_000_000, |world| world.leader(GROUP).is_some());
    assert_eq!(led, Ok(true), "seed {seed}");
    world
}

/// Every sync claims success from now on, and makes nothing durable.
fn lie(world: &World<KvWorkload>) {
    for slot in &world.nodes {
        slot.disk.inject(Fault::new(OpKind::Sync, Effect::Lost));
    }
}

#[test]
fn a_disk_that_lies_is_found_when_something_is_promised() {
    let mut world = watched(3, Rates::all());
    lie(&world);
    world.start_clerks();
    says(
        world.run_until(20_000_000_000),
        "invariant 7, durable before acknowledged",
    );
}

#[test]
fn disks_that_lie_are_found_when_a_client_is_answered() {
    let rates = Rates {
        accepted_permille: 0,
        vote_permille: 0,
        ..Rates::all()
    };
    let mut world = watched(3, rates);
    lie(&world);
    world.start_clerks();
    says(
        world.run_until(20_000_000_000),
        "invariant 8, on a majority of disks",
    );
}

/// What struck them took nothing away, so that it excuses nothing.
#[test]
fn struck_disks_that_miss_nothing_and_lie_are_found_when_a_client_is_answered() {
    let rates = Rates {
        accepted_permille: 0,
        vote_permille: 0,
        ..Rates::all()
    };
    let mut world = watched(3, rates);
    for node in 0..world.nodes.len() {
        let told = world.set_damaged(node, FaultClass::BitRot);
        told.expect("nothing is wrong");
    }
    lie(&world);
    world.start_clerks();
    says(
        world.run_until(20_000_000_000),
        "invariant 8, on a majority of disks",
    );
}

#[test]
fn disks_that_do_not_lie_pass_every_look() {
    let mut world = watched(3, Rates::all());
    world.start_clerks();
    world.run_until(5_000_000_000).expect("nothing is wrong");
}

/// A log of one group with two batches, on a disk of its own.
fn small_log() -> (CrashDisk, LogOptions) {
    let disk = CrashDisk::new();
    let mut options = LogOptions::default();
    options.inline_writes = false;
    options.segment_bytes_min = 64 << 10;
    let dir = Path::new("/node/wal");
    let (log, _) = Log::open(Arc::new(disk.clone()), dir, options.clone()).expect("it opens");
    for index in 1..=3 {
        let mut batch = WriteBatch::new();
        let state = GroupState {
            term: 1,
            vote: 1,
            commit: 0,
        };
        batch.set_state(quorate_wal::GroupId(0), state);
        let payload = Bytes::from(vec![0x5a; 600]);
        let entry = quorate_wal::Entry {
            index,
            term: 1,
            kind: 1,
            payload,
        };
        batch.append(quorate_wal::GroupId(0), vec![entry]);
        log.submit(batch).expect("it takes it");
        log.drive().expect("it writes");
        log.prepare().expect("it prepares");
    }
    log.close();
    (disk, options)
}

#[test]
fn what_is_wrong_with_a_recovered_log_is_found() {
    let (disk, options) = small_log();
    let node = NodeId(1);
    let books = Books::new(3, 1);
    let inspection = recovered(node, &disk).expect("it is sound");
    check_files(node, &disk, &inspection).expect("they are whole");
    let group = inspection.groups[0].clone();
    check_group(&books, at(1), &group).expect("no gaps");
    check_twice(node, &disk.fork(), &inspection, &options).expect("the same twice");

    let mut lost = group.clone();
    lost.lost = vec![(2, 2)];
    says(
        check_group(&books, at(1), &lost),
        "invariant 16, a log has no gaps",
    );
    let mut gap = group.clone();
    gap.first_index = 2;
    says(
        check_group(&books, at(1), &gap),
        "invariant 16, a log has no gaps",
    );
    let mut ahead = group.clone();
    ahead.state.commit = 9;
    says(
        check_group(&books, at(1), &ahead),
        "invariant 16, a log has no gaps",
    );

    let mut other = inspection.clone();
    other.groups[0].last_index = 2;
    says(
        check_twice(node, &disk.fork(), &other, &options),
        "invariant 16, to recover twice",
    );
    let mut unnamed = inspection.clone();
    unnamed.groups[0].snapshot = Some(SnapshotRef {
        index: 1,
        term: 1,
        ..SnapshotRef::default()
    });
    says(
        check_files(node, &disk, &unnamed),
        "invariant 11, a snapshot that is named is whole",
    );
    let mut doubled = inspection.clone();
    let first = doubled.segments[0].clone();
    doubled.segments.push(first);
    says(
        check_files(node, &disk, &doubled),
        "invariant 19, segments follow",
    );
    let floor = GroupState {
        term: 2,
        vote: 0,
        commit: 0,
    };
    let back = stand(Role::Follower, 1, 3);
    says(
        check_floor(at(1), floor, &back),
        "invariant 5, what was durable stays",
    );
}

#[test]
fn a_replica_that_goes_on_without_what_its_log_names_as_lost_is_found() {
    let goes_on = stand(Role::Follower, 1, 9);
    let mut is_aside = goes_on;
    is_aside.is_aside = true;
    let mut is_covered = goes_on;
    is_covered.snapshot = LogIndex(4);
    let lost = [(2, 4)];
    says(
        check_aside(at(1), &lost, &goes_on),
        "invariant 17, what is lost is named",
    );
    check_aside(at(1), &lost, &is_aside).expect("it says so");
    check_aside(at(1), &lost, &is_covered).expect("a snapshot has it");
    check_aside(at(1), &[], &goes_on).expect("nothing is lost");
    says(
        check_aside(at(1), &[(2, 4), (5, 5)], &is_covered),
        "invariant 17, what is lost is named",
    );
}

#[test]
fn a_disk_that_names_another_entry_committed_than_others_have_is_found() {
    let (disk, _) = small_log();
    let inspection = recovered(NodeId(1), &disk).expect("it is sound");
    let mut group = inspection.groups[0].clone();
    group.state.commit = 2;
    let mut knows = stand(Role::Follower, 3, 2);
    knows.commit = LogIndex(2);
    // The second entry of this disk is of term 1.
    for (second_term, is_same) in [(1, true), (2, false)] {
        let opened = Event::Opened {
            at: at(2),
            stand: &knows,
            terms: &[Term(0), Term(1), Term(second_term)],
        };
        let mut books = Books::new(3, 1);
        books.note(&opened);
        let checked = check_group(&books, at(1), &group);
        if is_same {
            checked.expect("the same is committed");
        } else {
            says(checked, "invariant 4, one entry at each index");
        }
    }
}

#[test]
fn rot_in_a_log_is_found() {
    let (disk, _) = small_log();
    let file = &recovered(NodeId(1), &disk).expect("it is sound").segments[0].file;
    let bytes = disk.contents(file).expect("it is there");
    let offset = bytes.windows(8).position(|it| it == [0x5a; 8]);
    assert!(disk.flip(file, offset.expect("a payload") as u64, 0));
    says(
        recovered(NodeId(1), &disk).map(drop),
        "invariant 17, nothing is lost on a sound disk",
    );
}
