//! A replica whose disk lost entries stands aside: to the others it is as if it were down, until a
//! snapshot covers what is gone.

use quorate_raft::{Body, LogIndex, NodeId, Raft, Role, Round, SnapshotMeta, Term};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, config, options};

/// Replica 1 of three, which has committed and applied nothing, and has lost its second entry.
fn aside() -> Solo {
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    solo.wait(400 * MS);
    solo.messages();
    solo.raft.set_aside(solo.now_ns, LogIndex(2));
    solo.messages();
    assert!(solo.raft.is_aside());
    solo
}

fn snapshot(index: u64, term: u64) -> Body {
    let meta = SnapshotMeta {
        index: LogIndex(index),
        term: Term(term),
        config: config(3),
    };
    Body::SnapshotReceived { meta }
}

fn heartbeat(commit: u64) -> Body {
    Body::Heartbeat {
        commit: LogIndex(commit),
        round: Round(1),
    }
}

#[test]
fn it_neither_votes_nor_stands_for_election() {
    let mut solo = aside();
    let (last_index, last_term) = (LogIndex(9), Term(5));
    solo.hears(
        2,
        6,
        Body::PreVote {
            last_index,
            last_term,
        },
    );
    solo.hears(
        2,
        6,
        Body::Vote {
            last_index,
            last_term,
            transfer: true,
        },
    );
    solo.wait(10_000 * MS);
    solo.raft.campaign(solo.now_ns);
    solo.hears(2, 6, heartbeat(0));
    solo.sync();
    solo.hears(2, 6, Body::TimeoutNow);
    assert_eq!(solo.sync(), []);
    assert_eq!(solo.raft.role(), Role::Follower);
    assert_eq!(solo.raft.deadline_ns(), u64::MAX);
    assert_eq!(solo.raft.hard_state().vote, None);
}

#[test]
fn a_leader_that_finds_out_leads_no_more_and_promises_nothing() {
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    solo.lead_committed();
    solo.propose("more");
    solo.messages();
    solo.raft.set_aside(solo.now_ns, LogIndex(2));
    assert_eq!(solo.raft.role(), Role::Follower);
    assert_eq!(solo.raft.lease_until_ns(), None);
    assert_eq!(solo.sync(), []);
}

#[test]
fn what_it_was_about_to_acknowledge_is_not() {
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    solo.hears_append(2, 5, (4, 5), &[5], 0);
    assert_eq!(solo.messages(), [], "the disk has not got it yet");
    solo.raft.set_aside(solo.now_ns, LogIndex(2));
    assert_eq!(solo.sync(), []);
}

#[test]
fn it_takes_and_applies_nothing_but_shows_that_it_lives() {
    let mut solo = aside();
    solo.hears_append(2, 5, (4, 5), &[5], 5);
    let vouches_for_nothing = |round| Body::AppendRejected {
        prev_index: LogIndex(4),
        hint_index: LogIndex(0),
        hint_term: Term(0),
        round: Round(round),
    };
    assert_eq!(solo.bodies(), [vouches_for_nothing(0)]);
    assert_eq!(solo.raft.last_index(), LogIndex(4));
    solo.hears(2, 5, heartbeat(4));
    let output = solo.output();
    let replies: Vec<_> = output.messages.iter().map(|it| it.body.clone()).collect();
    let lives = Body::HeartbeatReply { round: Round(1) };
    assert_eq!(replies, [lives, vouches_for_nothing(1)]);
    assert!(output.committed.is_empty());
    assert_eq!(solo.raft.commit(), LogIndex(0));
    assert!(!solo.raft.has_output(), "nothing is left to be done");
}

#[test]
fn only_a_snapshot_that_covers_what_is_gone_brings_it_back() {
    let mut solo = aside();
    solo.hears(2, 5, snapshot(1, 1));
    assert_eq!(solo.sync(), []);
    assert!(solo.raft.is_aside());
    solo.hears(2, 5, snapshot(3, 4));
    assert!(!solo.raft.is_aside());
    solo.output();
    solo.sync();
    assert_eq!(solo.raft.applied(), LogIndex(3));
    // What followed the snapshot was not lost, and counts again.
    solo.hears_append(2, 5, (4, 5), &[5], 4);
    let accepted = Body::AppendAccepted {
        match_index: LogIndex(5),
        round: Round(0),
    };
    solo.output();
    let bodies: Vec<_> = solo.sync().into_iter().map(|it| it.body).collect();
    assert_eq!(bodies, [accepted]);
    assert_eq!(solo.raft.commit(), LogIndex(4));
}

#[test]
fn what_a_snapshot_covers_already_is_no_loss() {
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    solo.hears(2, 5, snapshot(3, 4));
    solo.output();
    solo.sync();
    solo.raft.set_aside(solo.now_ns, LogIndex(3));
    assert!(!solo.raft.is_aside());
}

#[test]
fn a_new_leader_sends_it_a_snapshot_as_soon_as_it_has_one() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    for number in 0..20 {
        cluster.commit(&number.to_string(), &ids);
    }
    let hurt = ids.into_iter().find(|&id| id != first).expect("three");
    cluster.with_raft(hurt, |raft, now_ns| raft.set_aside(now_ns, LogIndex(5)));
    // Another leader knows nothing of what the replica acknowledged.
    cluster.with_raft(first, Raft::step_down);
    cluster.run_until("another leads", |cluster| {
        cluster
            .settled_leader()
            .is_some_and(|leader| leader != hurt)
    });
    let leader = cluster.settled_leader().expect("it was just there");
    let others: Vec<_> = ids.into_iter().filter(|&id| id != hurt).collect();
    cluster.commit("one more", &others);
    assert!(cluster.raft(hurt).is_aside());
    cluster.run(100 * MS);
    cluster.snapshot(leader, 16);
    assert!(cluster.raft(leader).first_index() > LogIndex(1));
    cluster.run_until("it is back", |cluster| !cluster.raft(hurt).is_aside());
    cluster.commit("all of them", &ids);
}

/// Nothing is written, so nothing tells the leader but the answers to its heartbeats.
#[test]
fn a_leader_that_is_told_to_choose_hands_over_to_none_that_is_aside() {
    for hurt in 0..2 {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let ids = [NodeId(1), NodeId(2), NodeId(3)];
        cluster.commit("before", &ids);
        cluster.run(500 * MS);
        let others: Vec<_> = ids.into_iter().filter(|&id| id != leader).collect();
        let (hurt, sound) = (others[hurt], others[1 - hurt]);
        cluster.with_raft(hurt, |raft, now_ns| {
            let last = raft.last_index();
            raft.set_aside(now_ns, last);
        });
        cluster.run(500 * MS);
        let aside: Vec<_> = cluster
            .raft(leader)
            .peers()
            .filter(|it| it.is_aside)
            .collect();
        assert_eq!(aside.iter().map(|it| it.id).collect::<Vec<_>>(), [hurt]);
        cluster.with_raft(leader, |raft, now_ns| {
            raft.transfer(now_ns, None).expect("there is one");
        });
        cluster.run_until("the sound one leads", |cluster| {
            cluster.settled_leader() == Some(sound)
        });
        // It comes back with a snapshot, and counts again.
        cluster.commit("more", &[leader, sound]);
        cluster.run(500 * MS);
        cluster.snapshot(sound, 1);
        cluster.run_until("it is back", |cluster| !cluster.raft(hurt).is_aside());
        cluster.commit("all of them", &ids);
        cluster.run(500 * MS);
        assert!(cluster.raft(sound).peers().all(|it| !it.is_aside));
    }
}
