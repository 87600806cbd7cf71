//! Snapshots and cutting the log, chapter 5.

use quorate_raft::{Body, LogIndex, NodeId, PeerState, Round, SnapshotMeta, Term};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, config, options};

fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex(index),
        term: Term(term),
        config: config(3),
    }
}

fn accepted(match_index: u64) -> Body {
    Body::AppendAccepted {
        match_index: LogIndex(match_index),
        round: Round(0),
    }
}

/// A leader in term 2 that has cut its log up to and including 8, of 10 entries; replica 3 owes the
/// answer to a probe at 5.
fn leader_behind_a_snapshot() -> Solo {
    let mut solo = Solo::with_log(options(), 3, 1, &[1; 5]);
    solo.lead_committed();
    for at in 0..4 {
        solo.propose(&format!("{at}"));
    }
    solo.output();
    solo.sync();
    solo.accepted(2, 10, 1);
    solo.output();
    solo.disk.save_snapshot(&meta(8, 2), LogIndex(9));
    solo.raft.on_snapshot_saved(meta(8, 2), LogIndex(9));
    assert_eq!(
        (solo.raft.first_index(), solo.raft.snapshot().index),
        (LogIndex(9), LogIndex(8))
    );
    solo
}

/// Replica 3 says that it has nothing.
fn third_has_nothing(solo: &mut Solo) {
    let rejection = Body::AppendRejected {
        prev_index: LogIndex(solo.raft.peers().last().expect("a peer").next_index.0 - 1),
        hint_index: LogIndex(0),
        hint_term: Term(0),
        round: Round(1),
    };
    solo.hears(3, 2, rejection);
}

#[test]
fn a_follower_left_far_behind_catches_up_by_snapshot() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let behind = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != leader)
        .expect("another");
    cluster.isolate(behind);
    for at in 0..30 {
        cluster.commit(&format!("{at}"), &[leader]);
    }
    cluster.run(50 * MS);
    cluster.snapshot(leader, 0);
    assert_eq!(
        cluster.raft(leader).first_index(),
        cluster.raft(leader).snapshot().index.next()
    );
    cluster.heal();
    cluster.commit("together", &[behind]);
    assert!(cluster.raft(behind).snapshot().index >= LogIndex(30));
    let term = cluster.raft(leader).term();
    cluster.crash(behind);
    cluster.restart(behind);
    cluster.commit("and again", &[behind]);
    assert_eq!(cluster.raft(leader).term(), term);
}

/// Row 23: a trailing window spares a follower that lags a little the snapshot.
#[test]
fn entries_kept_behind_a_snapshot_are_still_sent() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let behind = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != leader)
        .expect("another");
    cluster.commit("begin", &[behind]);
    cluster.isolate(behind);
    for at in 0..10 {
        cluster.commit(&format!("{at}"), &[leader]);
    }
    cluster.run(50 * MS);
    cluster.snapshot(leader, 20);
    assert!(cluster.raft(leader).snapshot().index > LogIndex(10));
    cluster.heal();
    cluster.commit("together", &[behind]);
    assert_eq!(cluster.raft(behind).snapshot().index, LogIndex(0));
}

/// Row 22.
#[test]
fn a_snapshot_keeps_the_entries_behind_it_if_the_log_has_it() {
    let mut solo = Solo::with_log(options(), 3, 2, &[1, 1, 2, 2, 2]);
    solo.hears(2, 2, Body::SnapshotReceived { meta: meta(3, 2) });
    let output = solo.raft.output(0, &mut solo.disk);
    assert_eq!(output.install, Some(meta(3, 2)));
    let persist = output.persist.expect("the install");
    assert_eq!(persist.install, Some((meta(3, 2), true)));
    assert!(persist.must_sync);
    assert!(persist.entries.is_empty());
    assert!(output.committed.is_empty());
    assert_eq!(
        (solo.raft.applied(), solo.raft.last_index()),
        (LogIndex(3), LogIndex(5))
    );
    assert_eq!(solo.raft.term_at(LogIndex(4)), Some(Term(2)));
}

/// Row 22; published bug: openraft #559.
#[test]
fn a_snapshot_drops_a_log_that_contradicts_it() {
    let mut solo = Solo::with_log(options(), 3, 3, &[1, 1, 1, 1, 1]);
    solo.hears(2, 3, Body::SnapshotReceived { meta: meta(3, 2) });
    assert_eq!(
        (solo.raft.first_index(), solo.raft.last_index()),
        (LogIndex(4), LogIndex(3))
    );
    let output = solo.output();
    assert_eq!(output.install, Some(meta(3, 2)));
    assert!(
        output.messages.is_empty(),
        "nothing is accepted before it is durable"
    );
    assert_eq!(
        solo.raft.durable_index(),
        LogIndex(0),
        "the old entries do not count as the new ones"
    );
    assert!(matches!(solo.sync()[..], [ref m] if m.body == accepted(3)));
    assert_eq!(solo.disk.durable.last(), LogIndex(3));
    assert_eq!(solo.raft.durable_index(), LogIndex(3));
}

/// Row 22: entries in memory that are not on disk yet cannot be kept there, so they are written
/// anew.
#[test]
fn entries_behind_a_snapshot_that_are_not_written_yet_are_written_with_it() {
    let mut solo = Solo::with_log(options(), 3, 1, &[1]);
    solo.hears_append(2, 2, (1, 1), &[2, 2, 2], 0);
    solo.hears(2, 2, Body::SnapshotReceived { meta: meta(3, 2) });
    let persist = solo
        .raft
        .output(0, &mut solo.disk)
        .persist
        .expect("the install");
    assert_eq!(persist.install, Some((meta(3, 2), false)));
    let written: Vec<u64> = persist.entries.iter().map(|entry| entry.index.0).collect();
    assert_eq!(written, [4]);
    let seq = persist.seq;
    solo.disk.submit(persist);
    solo.disk.complete_all();
    solo.raft.on_persisted(0, seq);
    assert_eq!(solo.raft.durable_index(), LogIndex(4));
    assert_eq!(solo.disk.durable.last(), LogIndex(4));
}

/// Row 22: never one older than what is committed.
#[test]
fn an_old_snapshot_is_answered_but_not_installed() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 3);
    solo.output();
    solo.sync();
    solo.hears(2, 1, Body::SnapshotReceived { meta: meta(2, 1) });
    let output = solo.output();
    assert_eq!(output.install, None);
    assert_eq!(output.messages.len(), 1);
    assert_eq!(output.messages[0].body, accepted(3));
}

#[test]
fn a_peer_that_needs_entries_that_are_gone_gets_one_snapshot_at_a_time() {
    let mut solo = leader_behind_a_snapshot();
    third_has_nothing(&mut solo);
    assert_eq!(solo.output().snapshots, [NodeId(3)]);
    let state = |solo: &Solo| solo.raft.peers().last().expect("a peer").state;
    assert_eq!(state(&solo), PeerState::Snapshot);
    for _ in 0..3 {
        solo.wait(options().heartbeat_interval_ns);
        solo.hears(3, 2, Body::HeartbeatReply { round: Round(2) });
        let output = solo.output();
        assert!(output.snapshots.is_empty());
        assert!(
            !output
                .messages
                .iter()
                .any(|m| m.to == NodeId(3) && matches!(m.body, Body::Append { .. }))
        );
    }
    // It arrived, and is being installed: the peer still has nothing, but must not get it twice.
    solo.raft.on_snapshot_sent(solo.now_ns, NodeId(3), true);
    assert_eq!(solo.messages().len(), 1, "a probe behind the snapshot");
    third_has_nothing(&mut solo);
    assert!(solo.output().snapshots.is_empty());
    solo.accepted(3, 8, 1);
    assert_eq!(state(&solo), PeerState::Replicate);
    let bodies = solo.bodies();
    assert!(bodies.iter().any(|body| matches!(
        body,
        Body::Append {
            prev_index: LogIndex(8),
            ..
        }
    )));
}

#[test]
fn the_answer_to_a_snapshot_may_come_before_the_end_of_its_transfer() {
    let mut solo = leader_behind_a_snapshot();
    third_has_nothing(&mut solo);
    solo.output();
    solo.accepted(3, 8, 1);
    assert_eq!(
        solo.raft.peers().last().map(|peer| peer.state),
        Some(PeerState::Replicate)
    );
    solo.output();
    solo.raft.on_snapshot_sent(solo.now_ns, NodeId(3), true);
    let peer = solo.raft.peers().last().expect("a peer");
    assert_eq!(
        (peer.state, peer.next_index),
        (PeerState::Replicate, LogIndex(11))
    );
}

/// The peer came on by itself while a snapshot was on its way, and fell behind again.
#[test]
fn no_second_transfer_begins_while_the_first_is_under_way() {
    let mut solo = leader_behind_a_snapshot();
    third_has_nothing(&mut solo);
    assert_eq!(solo.output().snapshots, [NodeId(3)]);
    solo.accepted(3, 8, 1);
    solo.output();
    solo.propose("eleven");
    solo.output();
    solo.sync();
    solo.accepted(2, 11, 1);
    solo.output();
    solo.disk.save_snapshot(&meta(11, 2), LogIndex(12));
    solo.raft.on_snapshot_saved(meta(11, 2), LogIndex(12));
    // What was sent to it last is taken for lost.
    solo.wait(options().heartbeat_interval_ns);
    solo.hears(3, 2, Body::HeartbeatReply { round: Round(2) });
    let peer = solo.raft.peers().last().expect("a peer");
    assert_eq!(peer.state, PeerState::Probe);
    assert!(solo.output().snapshots.is_empty());
    solo.raft.on_snapshot_sent(solo.now_ns, NodeId(3), true);
    solo.wait(2 * options().heartbeat_interval_ns);
    solo.hears(3, 2, Body::HeartbeatReply { round: Round(2) });
    assert_eq!(
        solo.output().snapshots,
        [NodeId(3)],
        "the next one begins when it ended"
    );
}

/// Published bug: a peer stays paused for good after a snapshot that did not arrive.
#[test]
fn a_snapshot_that_did_not_arrive_is_sent_again_when_the_peer_lives() {
    let mut solo = leader_behind_a_snapshot();
    third_has_nothing(&mut solo);
    solo.output();
    solo.raft.on_snapshot_sent(solo.now_ns, NodeId(3), false);
    assert!(solo.output().snapshots.is_empty(), "not at once, in a loop");
    solo.wait(options().heartbeat_interval_ns);
    solo.hears(3, 2, Body::HeartbeatReply { round: Round(2) });
    assert_eq!(solo.output().snapshots, [NodeId(3)]);
    // And one that arrived but was lost again is sent anew after a while.
    solo.raft.on_snapshot_sent(solo.now_ns, NodeId(3), true);
    solo.output();
    solo.now_ns += options().election_timeout_ns;
    third_has_nothing(&mut solo);
    assert_eq!(solo.output().snapshots, [NodeId(3)]);
}

#[test]
fn a_snapshot_of_what_is_not_applied_is_ignored() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 2);
    solo.output();
    solo.raft.on_snapshot_saved(meta(3, 1), LogIndex(4));
    solo.raft.on_snapshot_saved(meta(2, 9), LogIndex(3));
    solo.raft.on_snapshot_saved(meta(2, 1), LogIndex(4));
    assert_eq!(
        (solo.raft.snapshot().index, solo.raft.first_index()),
        (LogIndex(0), LogIndex(1))
    );
    solo.raft.on_snapshot_saved(meta(2, 1), LogIndex(3));
    assert_eq!(
        (solo.raft.snapshot().index, solo.raft.first_index()),
        (LogIndex(2), LogIndex(3))
    );
}

#[test]
fn the_latest_snapshot_may_cut_the_log_further() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 3);
    solo.output();
    solo.raft.on_snapshot_saved(meta(3, 1), LogIndex(2));
    assert_eq!(solo.raft.first_index(), LogIndex(2));
    solo.raft.on_snapshot_saved(meta(3, 1), LogIndex(4));
    assert_eq!(solo.raft.first_index(), LogIndex(4));
    solo.raft.on_snapshot_saved(meta(2, 1), LogIndex(3));
    assert_eq!(solo.raft.snapshot().index, LogIndex(3));
}
