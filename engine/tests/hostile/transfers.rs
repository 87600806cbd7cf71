//! Snapshots on their way to followers that lag: what is sent again, and what is kept for them.

use quorate::transport::Frame;
use quorate::{LogIndex, Options};

use crate::bench::{Bench, GROUP, options};

/// What one chunk carries.
const CHUNK_BYTES: usize = 256 << 10;

const VALUE_BYTES: usize = 15 << 10;

/// With 0 nothing would be kept.
fn small(node: u64) -> Options {
    let mut options = options(node);
    options.trailing_entries = 1;
    options
}

/// The key of a number, in the group that is looked at.
fn key(bench: &Bench, number: u64) -> String {
    let keys = (0..).map(|salt| format!("k{number}-{salt}"));
    let is_ours = |key: &String| bench.client.group_of(key.as_bytes()) == GROUP;
    keys.into_iter().find(is_ours).expect("one of a few")
}

fn put(bench: &mut Bench, number: u64) {
    let key = key(bench, number);
    bench.put(&key, &vec![number as u8; VALUE_BYTES]);
}

fn snapshot(bench: &mut Bench, id: u64) -> LogIndex {
    let before = bench.node(id).view(GROUP).snapshot.index;
    bench.node(id).snapshot(GROUP);
    bench.until("a snapshot", |bench| {
        bench.node(id).view(GROUP).snapshot.index > before
    });
    bench.node(id).view(GROUP).snapshot.index
}

/// Node 3 was down while so many values were written, and needs a snapshot of node 1, at this index, to begin with.
fn lagging(options: fn(u64) -> Options, values: u64) -> (Bench, LogIndex) {
    let mut bench = Bench::led_by_first(options);
    bench.stop(3);
    for number in 0..values {
        put(&mut bench, number);
    }
    // Long enough for the leader to know.
    bench.rounds(1_000);
    let index = snapshot(&mut bench, 1);
    assert_eq!(bench.node(1).view(GROUP).first_index, index);
    put(&mut bench, 1_000);
    bench.start(3);
    bench.chunk_bytes = 0;
    (bench, index)
}

fn has_caught_up(bench: &mut Bench) -> bool {
    let last = bench.node(1).view(GROUP).last_index;
    bench.node(3).view(GROUP).applied == last
}

/// The sender gives up after ten seconds without an answer, and begins another attempt.
#[test]
fn a_transfer_that_was_interrupted_goes_on_where_it_stopped() {
    let (mut bench, index) = lagging(small, 220);
    let total_bytes = 220 * VALUE_BYTES;
    bench.until("half of it is there", |bench| {
        bench.chunk_bytes > total_bytes / 2
    });
    bench.loses = |frame| matches!(frame, Frame::SnapshotChunk(_) | Frame::SnapshotAck(_));
    bench.rounds(13_000);
    assert_eq!(bench.node(3).view(GROUP).snapshot.index, LogIndex(0));
    bench.loses = |_| false;
    bench.until("it has caught up", has_caught_up);
    assert_eq!(bench.node(3).view(GROUP).snapshot.index, index);
    println!("{} bytes of about {total_bytes}", bench.chunk_bytes);
    assert!(bench.chunk_bytes <= total_bytes + 3 * CHUNK_BYTES);
    bench.assert_healthy();
}

/// Another image does not go on with what is there of the one before.
#[test]
fn a_transfer_of_a_newer_snapshot_begins_anew() {
    let (mut bench, _) = lagging(small, 120);
    let total_bytes = 120 * VALUE_BYTES;
    bench.until("half of it is there", |bench| {
        bench.chunk_bytes > total_bytes / 2
    });
    bench.loses = |frame| matches!(frame, Frame::SnapshotChunk(_) | Frame::SnapshotAck(_));
    let newer = snapshot(&mut bench, 1);
    bench.rounds(13_000);
    bench.loses = |_| false;
    bench.chunk_bytes = 0;
    bench.until("it has caught up", has_caught_up);
    assert_eq!(bench.node(3).view(GROUP).snapshot.index, newer);
    assert!(bench.chunk_bytes >= total_bytes);
    bench.assert_healthy();
}

/// A follower whose snapshot is on its way, or just arrived, goes on from the log, whenever the next one is taken.
#[test]
fn the_log_behind_a_snapshot_that_is_on_its_way_is_kept() {
    let mut on_its_way = 0;
    for rounds in 0..16 {
        let (mut bench, index) = lagging(small, 120);
        bench.until("it has begun", |bench| bench.chunk_bytes > 0);
        bench.rounds(rounds);
        let newer = snapshot(&mut bench, 1);
        assert!(newer > index);
        on_its_way += u32::from(bench.node(3).view(GROUP).snapshot.index < index);
        bench.until("it has caught up", has_caught_up);
        let installed = bench.node(3).view(GROUP).snapshot.index;
        assert_eq!(
            installed, index,
            "after {rounds} rounds it needs another one"
        );
    }
    assert!((1..16).contains(&on_its_way), "{on_its_way} of 16");
}

/// Its leader has heard that the snapshot arrived, and not yet that it is installed.
#[test]
fn the_log_behind_a_snapshot_that_has_just_arrived_is_kept() {
    let (mut bench, index) = lagging(small, 40);
    bench.until("it has begun", |bench| bench.chunk_bytes > 0);
    bench.loses = |frame| matches!(frame, Frame::Raft(_));
    bench.until("it is there", |bench| {
        bench.node(3).view(GROUP).snapshot.index == index
    });
    bench.rounds(5);
    let newer = snapshot(&mut bench, 1);
    assert!(newer > index);
    bench.loses = |_| false;
    bench.until("it has caught up", has_caught_up);
    assert_eq!(bench.node(3).view(GROUP).snapshot.index, index);
    // From then on nothing is kept for it.
    put(&mut bench, 2_000);
    let newest = snapshot(&mut bench, 1);
    assert_eq!(bench.node(1).view(GROUP).first_index, newest);
}

/// However long it takes, no more is kept than what a few snapshots cover.
#[test]
fn what_is_kept_for_a_transfer_is_bounded() {
    let covering: fn(u64) -> Options = |node| {
        let mut options = small(node);
        options.snapshot_log_bytes = 256 << 10;
        // The node may keep much more: nothing else cuts it.
        options.log.segment_bytes_max = 16 << 20;
        options
    };
    let (mut bench, index) = lagging(covering, 40);
    bench.until("it has begun", |bench| bench.chunk_bytes > 0);
    bench.loses = |frame| matches!(frame, Frame::SnapshotChunk(_) | Frame::SnapshotAck(_));
    // The state is as long as the log that a snapshot covers, and twice that.
    let covered = 3 * (256 << 10) / VALUE_BYTES as u64;
    let mut most = 0;
    for number in 0..400 {
        put(&mut bench, number % 40);
        let view = bench.node(1).view(GROUP);
        most = most.max(view.last_index.0 + 1 - view.first_index.0);
    }
    assert!(bench.node(1).view(GROUP).first_index > index.next());
    assert!(most > covered, "{most} entries: nothing is kept");
    assert!(most <= 6 * covered, "{most} entries are kept");
    bench.loses = |_| false;
    bench.until("it has caught up", has_caught_up);
    bench.assert_healthy();
}
