//! `ReadIndex`, thesis 6.4.

use quorate_raft::{Body, LogIndex, NodeId, Options, ReadError, ReadReady, Role, Round};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, options};

fn ready(token: u64, index: u64) -> ReadReady {
    ReadReady {
        token,
        index: LogIndex(index),
    }
}

fn heartbeat_reply(round: u64) -> Body {
    Body::HeartbeatReply {
        round: Round(round),
    }
}

/// Row 7, the schedule of etcd #20418: an answer to an earlier round arrives after the read was
/// asked.
#[test]
fn an_old_reply_never_confirms_a_new_read() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.wait(options().heartbeat_interval_ns);
    let old = Solo::newest_round(&solo.messages());
    solo.raft.read(solo.now_ns, 7).expect("taken");
    let new = Solo::newest_round(&solo.messages());
    assert!(new > old);
    solo.hears(2, 1, heartbeat_reply(old.0));
    solo.hears(3, 1, heartbeat_reply(old.0));
    assert!(solo.output().reads.is_empty());
    // The same token asked again while the first is under way shares nothing with it.
    solo.raft.read(solo.now_ns, 7).expect("taken");
    let newer = Solo::newest_round(&solo.messages());
    solo.hears(2, 1, heartbeat_reply(new.0));
    assert_eq!(solo.output().reads, [ready(7, 1)]);
    solo.hears(2, 1, heartbeat_reply(newer.0));
    assert_eq!(solo.output().reads, [ready(7, 1)]);
}

/// Row 8: the index is taken first, leadership confirmed second.
#[test]
fn no_read_is_answered_before_a_quorum_confirmed_it() {
    let mut solo = Solo::new(5);
    solo.lead();
    solo.output();
    solo.sync();
    solo.accepted(2, 1, 1);
    solo.accepted(3, 1, 1);
    solo.output();
    solo.raft.read(solo.now_ns, 1).expect("taken");
    let round = Solo::newest_round(&solo.messages()).0;
    solo.hears(2, 1, heartbeat_reply(round));
    solo.hears(2, 1, heartbeat_reply(round));
    assert!(solo.output().reads.is_empty(), "two of five");
    solo.hears(4, 1, heartbeat_reply(round));
    assert_eq!(solo.output().reads, [ready(1, 1)]);
}

/// Rows 6 and 10: the commit index of a new or restarted leader may be behind what was
/// acknowledged.
#[test]
fn a_read_waits_until_the_leader_has_committed_an_entry_of_its_term() {
    let mut solo = Solo::with_log(options(), 3, 1, &[1, 1]);
    solo.lead();
    solo.raft.read(solo.now_ns, 5).expect("taken, not refused");
    let messages = solo.messages();
    assert!(
        !messages
            .iter()
            .any(|message| matches!(message.body, Body::Heartbeat { .. }))
    );
    solo.sync();
    solo.hears(2, 2, heartbeat_reply(1));
    assert!(solo.output().reads.is_empty());
    solo.accepted(2, 3, 1);
    let round = Solo::newest_round(&solo.messages()).0;
    solo.hears(2, 2, heartbeat_reply(round));
    assert_eq!(solo.output().reads, [ready(5, 3)]);
}

/// Row 9: confirmed is not enough.
#[test]
fn a_read_comes_out_only_with_the_entries_that_it_has_to_see() {
    let mut solo = Solo::with_log(options(), 1, 1, &[1, 1]);
    solo.lead();
    solo.output();
    let seq = solo
        .disk
        .complete_all()
        .expect("the first entry of the term");
    solo.raft.on_persisted(solo.now_ns, seq);
    solo.raft.read(solo.now_ns, 1).expect("taken");
    // The inherited entries come from the log, the new one from memory: two outputs.
    let first = solo.output();
    assert_eq!((first.committed.len(), first.more()), (2, true));
    assert!(
        first.reads.is_empty(),
        "confirmed, but what it has to see is not applied"
    );
    let second = solo.output();
    assert_eq!((second.committed.len(), second.more()), (1, false));
    assert_eq!(second.reads, [ready(1, 3)]);
}

#[test]
fn all_reads_between_two_outputs_share_one_round() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    for token in 0..100 {
        solo.raft.read(solo.now_ns, token).expect("taken");
    }
    let messages = solo.messages();
    assert_eq!(messages.len(), 2, "one heartbeat a peer");
    solo.hears(2, 1, heartbeat_reply(Solo::newest_round(&messages).0));
    assert_eq!(solo.output().reads.len(), 100);
}

/// A lost heartbeat costs a read one heartbeat interval, not its life.
#[test]
fn a_later_round_confirms_reads_of_a_lost_one() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.raft.read(solo.now_ns, 3).expect("taken");
    solo.output();
    solo.wait(options().heartbeat_interval_ns);
    let round = Solo::newest_round(&solo.messages()).0;
    solo.hears(3, 1, heartbeat_reply(round));
    assert_eq!(solo.output().reads, [ready(3, 1)]);
}

#[test]
fn reads_fail_when_leadership_is_lost_and_none_is_forgotten() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.raft.read(solo.now_ns, 1).expect("taken");
    solo.output();
    solo.raft.read(solo.now_ns, 2).expect("taken");
    solo.hears(2, 9, heartbeat_reply(1));
    assert_eq!(solo.output().reads_failed, [1, 2]);
    assert_eq!(
        solo.raft.read(solo.now_ns, 3),
        Err(ReadError::NotLeader { leader: None })
    );
}

#[test]
fn reads_that_wait_are_bounded() {
    let mut solo = Solo::with_log(
        Options {
            pending_reads_max: 2,
            ..options()
        },
        3,
        0,
        &[],
    );
    solo.lead_committed();
    solo.raft.read(solo.now_ns, 1).expect("taken");
    solo.output();
    solo.raft.read(solo.now_ns, 2).expect("taken");
    assert_eq!(solo.raft.read(solo.now_ns, 3), Err(ReadError::Busy));
    solo.hears(2, 1, heartbeat_reply(2));
    solo.output();
    solo.raft.read(solo.now_ns, 3).expect("there is room again");
}

#[test]
fn a_single_voter_confirms_its_reads_itself() {
    let mut solo = Solo::new(1);
    solo.lead();
    solo.output();
    solo.raft.read(solo.now_ns, 1).expect("taken");
    assert!(
        solo.output().reads.is_empty(),
        "its first entry is not durable yet"
    );
    solo.sync();
    solo.raft.read(solo.now_ns, 2).expect("taken");
    assert_eq!(solo.output().reads, [ready(2, 1)]);
}

#[test]
fn a_deposed_leader_that_does_not_know_answers_no_read() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.commit("before", &[]);
    cluster.isolate(old);
    cluster.run_until("another leader", |cluster| {
        cluster.leaders().any(|leader| leader != old)
    });
    let is_taken = cluster.raft(old).role() == Role::Leader && cluster.read(old, 1);
    cluster.commit("news", &[]);
    cluster.run(1_000 * MS);
    assert!(cluster.node(old).reads.is_empty());
    assert_eq!(cluster.node(old).reads_failed.len(), usize::from(is_taken));
    let new = cluster.settled_leader().expect("a leader");
    assert!(cluster.read(new, 2));
    cluster.run(100 * MS);
    assert_eq!(cluster.node(new).reads.len(), 1);
    assert_ne!(new, NodeId(old.0));
}
