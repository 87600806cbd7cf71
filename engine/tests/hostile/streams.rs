//! Snapshots from whoever says that he leads: of other members, without end, without progress.

use quorate::transport::{Frame, SnapshotChunk, SnapshotTransfer};
use quorate::{LogIndex, NodeId, Options, Term};
use quorate_raft::{Config, SnapshotMeta};

use crate::bench::{Bench, GROUP, MS, options};

/// So long nothing of a transfer may come before it is given up, and a little more.
const SILENCE_MS: u64 = 11 * 4 * 500 + 10;

/// A chunk of node 1, which leads, for node 2.
fn chunk(bench: &Bench, attempt: u64) -> SnapshotChunk {
    let view = bench.node(2).view(GROUP);
    SnapshotChunk {
        transfer: SnapshotTransfer {
            group: GROUP,
            term: view.term,
            attempt,
        },
        meta: SnapshotMeta {
            index: LogIndex(view.commit.0 + 1_000),
            term: view.term,
            config: Config {
                voters: [1, 2, 3].map(NodeId).to_vec(),
            },
        },
        total_bytes: 1 << 30,
        offset_bytes: 0,
        data: vec![7; 64 << 10].into(),
        content_crc: 9,
    }
}

fn forge(bench: &mut Bench, from: u64, chunk: SnapshotChunk) {
    bench.forge(from, 2, Frame::SnapshotChunk(chunk));
    bench.round();
}

/// The victim installed it, elected itself, and took writes alone: two clusters where one was.
#[test]
fn a_snapshot_of_other_members_is_refused_before_anything_is_stored() {
    let mut bench = Bench::led_by_first(options);
    for voters in [vec![2], vec![1, 2], vec![1, 2, 4], vec![1, 2, 3, 4], vec![]] {
        let mut forged = chunk(&bench, 1 << 40);
        forged.meta.config.voters = voters.into_iter().map(NodeId).collect();
        forged.total_bytes = forged.data.len() as u64;
        forge(&mut bench, 1, forged);
        assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
    }
    let rejected = bench.rejected(2);
    assert_eq!(rejected.snapshot_members + rejected.messages, 5);
    assert!(rejected.snapshot_members >= 4);
    assert!(bench.trouble(2).contains("names other members"));
    assert_eq!(bench.node(2).view(GROUP).snapshot.index, LogIndex(0));
    bench.assert_healthy();
}

#[test]
fn a_snapshot_of_a_term_or_an_index_from_nowhere_is_refused_before_anything_is_stored() {
    let mut bench = Bench::led_by_first(options);
    for (term, index) in [
        (1 << 62, 1 << 20),
        (u64::MAX, 1 << 20),
        (0, 1 << 63),
        (0, u64::MAX),
        (0, 0),
    ] {
        let mut forged = chunk(&bench, 1 << 40);
        if term > 0 {
            forged.transfer.term = Term(term);
            forged.meta.term = Term(term);
        }
        forged.meta.index = LogIndex(index);
        forge(&mut bench, 1, forged);
        assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
    }
    bench.assert_healthy();
}

/// One of `2^60` bytes filled the disk for as long as its sender liked.
#[test]
fn a_snapshot_that_is_longer_than_any_is_refused_and_one_without_progress_is_deleted() {
    let mut bench = Bench::led_by_first(options);
    let mut endless = chunk(&bench, 1 << 40);
    endless.total_bytes = 1 << 60;
    forge(&mut bench, 1, endless);
    assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
    assert_eq!(bench.rejected(2).snapshot_streams, 1);
    assert!(bench.trouble(2).contains("snapshot_bytes_max"));

    // One that just ends.
    let first = chunk(&bench, (1 << 40) + 1);
    forge(&mut bench, 1, first.clone());
    assert_eq!(bench.members[1].snapshot_files().len(), 1);
    bench.rounds(SILENCE_MS - 100);
    assert_eq!(bench.members[1].snapshot_files().len(), 1, "it may go on");
    // What was there already is no progress.
    forge(&mut bench, 1, first);
    bench.rounds(100);
    assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
    assert_eq!(bench.rejected(2).snapshot_streams, 2);
    bench.assert_healthy();
}

#[test]
fn a_snapshot_that_trickles_is_given_up() {
    let mut bench = Bench::led_by_first(options);
    let begun_ns = bench.now_ns;
    let mut trickle = chunk(&bench, 1 << 40);
    trickle.data = vec![7; 100].into();
    let mut given_up = false;
    while bench.now_ns < begun_ns + 3 * SILENCE_MS * MS && !given_up {
        forge(&mut bench, 1, trickle.clone());
        trickle.offset_bytes += 100;
        bench.rounds(200);
        given_up = bench.members[1].snapshot_files().is_empty();
    }
    assert!(given_up);
    assert!(bench.now_ns > begun_ns + (SILENCE_MS - 200) * MS);
    bench.assert_healthy();
}

#[test]
fn one_transfer_comes_in_at_a_time_and_the_file_of_the_one_before_goes_at_once() {
    let mut bench = Bench::led_by_first(options);
    let attempt = |bench: &Bench, number: u64| chunk(bench, (1 << 40) + number);
    for number in 1..=20 {
        let begin = attempt(&bench, number);
        forge(&mut bench, 1, begin);
        assert_eq!(
            bench.members[1].snapshot_files().len(),
            1,
            "attempt {number}"
        );
    }
    let files = bench.members[1].snapshot_files();
    // An earlier attempt that comes late, and another sender of the same term, change nothing.
    let late = attempt(&bench, 3);
    forge(&mut bench, 1, late);
    let other = attempt(&bench, 99);
    forge(&mut bench, 3, other);
    assert_eq!(bench.members[1].snapshot_files(), files);
    // One that contradicts itself ends, and its file with it.
    let mut longer = attempt(&bench, 20);
    longer.offset_bytes = longer.data.len() as u64;
    longer.total_bytes += 1;
    forge(&mut bench, 1, longer);
    bench.round();
    assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
    // And so does one of a leader that is deposed.
    let begin = attempt(&bench, 21);
    forge(&mut bench, 1, begin);
    assert_eq!(bench.members[1].snapshot_files().len(), 1);
    let view = bench.node(2).view(GROUP);
    let beat = quorate_raft::Body::Heartbeat {
        commit: LogIndex(0),
        round: quorate_raft::Round(0),
    };
    bench.forge_message(3, 2, view.term.0 + 1, beat);
    bench.rounds(2);
    assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
    bench.assert_healthy();
}

/// Each one that arrived whole and was none left its file behind, until the next start.
#[test]
fn a_snapshot_that_arrives_whole_and_is_none_leaves_nothing_behind() {
    let mut bench = Bench::led_by_first(options);
    for number in 1..=5 {
        let mut whole = chunk(&bench, (1 << 40) + number);
        whole.total_bytes = whole.data.len() as u64;
        whole.content_crc = crc32fast::hash(&whole.data);
        forge(&mut bench, 1, whole);
        bench.round();
        assert_eq!(bench.members[1].snapshot_files(), Vec::<String>::new());
        assert_eq!(bench.rejected(2).snapshot_streams, number);
    }
    bench.assert_healthy();
}

/// A leader whose snapshot is refused for good does not send it five times a second.
#[test]
fn a_snapshot_that_is_refused_for_good_is_sent_less_and_less_often() {
    let small = |node| {
        let mut options: Options = options(node);
        options.trailing_entries = 0;
        if node == 3 {
            options.snapshot_bytes_max = 1;
        }
        options
    };
    let mut bench = Bench::led_by_first(small);
    bench.stop(3);
    for number in 0..20 {
        bench.put(&format!("k{number}"), b"v");
    }
    for id in [1, 2] {
        bench.node(id).snapshot(GROUP);
    }
    bench.rounds(100);
    assert!(bench.node(1).view(GROUP).first_index > LogIndex(1));
    bench.start(3);
    bench.rounds(10_000);
    let refused = bench.rejected(3).snapshot_streams;
    assert!(
        (3..20).contains(&refused),
        "refused {refused} times in ten seconds"
    );
    assert!(
        bench.trouble(3).contains("snapshot_bytes_max"),
        "{}",
        bench.trouble(3)
    );
}
