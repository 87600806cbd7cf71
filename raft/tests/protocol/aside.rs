//! A replica whose disk lost entries stands aside: to the others it is as if it were down, until a
//! snapshot covers what is gone.

use quorate_raft::{Body, Config, Entry, LogIndex, NodeId, Raft, Role, Round, SnapshotMeta, Term};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, config, options, restored};

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

/// It acknowledged six entries, which an older copy of its directory does not have. It went on and
/// voted, and the two last ones were lost with the leader that had them.
#[test]
fn a_replica_that_forgot_what_its_leader_counts_on_votes_no_more_until_it_has_that_again() {
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    solo.wait(400 * MS);
    solo.messages();
    let claims = |commit: u64, round: u64| Body::Heartbeat {
        commit: LogIndex(commit),
        round: Round(round),
    };
    // One message may be forged, and may come twice.
    for round in [1, 1, 2, 2] {
        solo.hears(2, 5, claims(6, round));
        assert!(!solo.raft.is_aside());
    }
    solo.hears(2, 5, claims(4, 3));
    for round in 4..6 {
        solo.hears(2, 5, claims(6, round));
        assert!(!solo.raft.is_aside());
    }
    solo.hears(2, 5, claims(6, 6));
    assert!(solo.raft.is_aside());
    solo.messages();
    let (last_index, last_term) = (LogIndex(9), Term(5));
    let transfer = true;
    solo.hears(
        3,
        6,
        Body::Vote {
            last_index,
            last_term,
            transfer,
        },
    );
    assert_eq!(solo.sync(), [], "no vote");
    solo.hears(2, 6, snapshot(5, 5));
    solo.sync();
    assert!(solo.raft.is_aside(), "it covers less than what is gone");
    solo.hears(2, 6, snapshot(6, 5));
    assert!(!solo.raft.is_aside());
    // An index that no log comes to tells nothing of this one.
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    for round in 1..6 {
        solo.hears(2, 5, claims(1 << 62, round));
    }
    assert!(!solo.raft.is_aside());
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

/// Replica 1 of three as it comes back with a snapshot of the first three entries, and one more that is committed.
fn behind_a_snapshot() -> Solo {
    let terms = [1, 1, 4, 5];
    let mut solo = Solo::with_log(options(), 3, 5, &terms);
    let mut found = restored(1, 3, 5, &terms);
    found.hard_state.commit = LogIndex(4);
    found.snapshot = SnapshotMeta {
        index: LogIndex(3),
        term: Term(4),
        config: config(3),
    };
    solo.raft = Raft::new(options(), found, 0).expect("sound");
    solo
}

#[test]
fn one_whose_snapshot_is_lost_keeps_term_vote_and_log_and_takes_no_part() {
    let mut solo = behind_a_snapshot();
    let before = solo.raft.hard_state();
    solo.raft.lose_snapshot(solo.now_ns);
    assert!(solo.raft.is_aside());
    let (last_index, last_term) = (LogIndex(9), Term(9));
    let transfer = true;
    solo.hears(
        2,
        9,
        Body::Vote {
            last_index,
            last_term,
            transfer,
        },
    );
    solo.hears_append(2, 5, (4, 5), &[5], 5);
    let output = solo.output();
    assert!(output.committed.is_empty() && output.persist.is_none());
    assert_eq!(solo.raft.hard_state(), before);
    assert_eq!(solo.raft.last_index(), LogIndex(4));
    solo.wait(10_000 * MS);
    assert_eq!(solo.raft.role(), Role::Follower);
}

#[test]
fn a_lost_snapshot_is_replaced_by_one_that_covers_as_much_and_what_is_committed_is_applied_again() {
    let mut solo = behind_a_snapshot();
    solo.raft.lose_snapshot(solo.now_ns);
    assert!(!solo.raft.wants_snapshot(LogIndex(2)));
    solo.hears(2, 5, snapshot(2, 1));
    assert!(solo.raft.is_aside(), "it covers less than what is gone");
    solo.hears(2, 5, snapshot(3, 5));
    assert!(solo.raft.is_aside(), "it is of another log");
    assert!(solo.raft.wants_snapshot(LogIndex(3)));
    solo.hears(2, 5, snapshot(3, 4));
    assert!(!solo.raft.is_aside());
    assert_eq!(solo.raft.commit(), LogIndex(4), "what is committed stays");
    let mut committed = solo.output().committed;
    solo.sync();
    committed.extend(solo.output().committed);
    let indexes: Vec<_> = committed.iter().map(|entry| entry.index.0).collect();
    assert_eq!(indexes, [4]);
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

/// Leader 1 of three, whose log goes back to the beginning, has entries that only 2 has.
fn leader_of_one_that_lost_all() -> Solo {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    for number in 0..50 {
        solo.propose(&format!("{number}: {}", "x".repeat(1000)));
    }
    solo.output();
    solo.sync();
    solo.accepted(2, solo.raft.last_index().0, 1);
    while solo.output().more() {}
    solo
}

/// Time passes; 3 answers each heartbeat, and rejects each append as one does that lost entries.
/// Returns the bytes of entries that it was sent, and how often a snapshot was asked for.
fn bytes_to_one_that_lost_all(solo: &mut Solo, heartbeats: u64) -> (usize, usize) {
    let (mut bytes, mut snapshots) = (0, 0);
    for _ in 0..heartbeats {
        solo.wait(50 * MS);
        let output = solo.output();
        for to in output.snapshots {
            snapshots += 1;
            let has_one = solo.raft.snapshot().index > LogIndex(0);
            solo.raft.on_snapshot_sent(solo.now_ns, to, has_one);
        }
        let term = solo.raft.term().0;
        for message in output.messages {
            match message.body {
                Body::Heartbeat { round, .. } => {
                    solo.hears(message.to.0, term, Body::HeartbeatReply { round });
                }
                Body::Append {
                    prev_index,
                    round,
                    entries,
                    ..
                } if message.to == NodeId(3) => {
                    bytes += entries.iter().map(Entry::weight_bytes).sum::<usize>();
                    let rejected = Body::AppendRejected {
                        prev_index,
                        hint_index: LogIndex(0),
                        hint_term: Term(0),
                        round,
                    };
                    solo.hears(3, term, rejected);
                }
                _ => {}
            }
        }
    }
    (bytes, snapshots)
}

/// It was sent up to a mebibyte of entries five times a second, for ever: the leader took its
/// answer for damaged.
#[test]
fn a_leader_with_the_whole_log_does_not_send_it_what_it_cannot_take() {
    let mut solo = leader_of_one_that_lost_all();
    let first = bytes_to_one_that_lost_all(&mut solo, 20);
    assert!(first.0 < 120_000, "the log once or twice: {first:?}");
    let (bytes, snapshots) = bytes_to_one_that_lost_all(&mut solo, 2_000);
    assert_eq!(bytes, 0, "nothing that it cannot take");
    assert!(
        (1..12).contains(&snapshots),
        "asked for rarely: {snapshots}"
    );
    assert_eq!(solo.raft.counters().refused, 0);
    // As soon as there is a snapshot it is sent, and not again and again.
    let meta = SnapshotMeta {
        index: LogIndex(30),
        term: solo.raft.term_at(LogIndex(30)).expect("in the log"),
        config: Config::clone(solo.raft.config()),
    };
    solo.raft.on_snapshot_saved(meta, LogIndex(1));
    let (bytes, snapshots) = bytes_to_one_that_lost_all(&mut solo, 10);
    assert_eq!((bytes, snapshots), (0, 1));
    let (bytes, snapshots) = bytes_to_one_that_lost_all(&mut solo, 600);
    assert_eq!(bytes, 0);
    assert!(snapshots < 8, "{snapshots} times in thirty seconds");
    // Once it takes the snapshot, it is sent the rest like any other.
    solo.accepted(3, 30, 1);
    let sent = solo.messages();
    let to_it = sent.iter().filter(|it| it.to == NodeId(3));
    let entries = to_it.filter_map(|it| match &it.body {
        Body::Append { entries, .. } => Some(entries.len()),
        _ => None,
    });
    assert_eq!(entries.sum::<usize>() as u64, solo.raft.last_index().0 - 30);
}

/// It turned aside while its leader knew how far its log reached: the leader sent what follows that
/// for ever, and got no answer that it believed.
#[test]
fn one_that_is_set_aside_under_a_leader_that_knows_its_log_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    for number in 0..20 {
        cluster.commit(&number.to_string(), &ids);
    }
    let hurt = ids.into_iter().find(|&id| id != leader).expect("three");
    cluster.with_raft(hurt, |raft, now_ns| raft.set_aside(now_ns, LogIndex(5)));
    let others: Vec<_> = ids.into_iter().filter(|&id| id != hurt).collect();
    cluster.commit("one more", &others);
    cluster.run(100 * MS);
    assert!(cluster.raft(hurt).is_aside());
    cluster.snapshot(leader, 100);
    assert_eq!(
        cluster.raft(leader).first_index(),
        LogIndex(1),
        "all of the log is there"
    );
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

#[test]
fn a_leader_sends_its_snapshot_to_who_denies_what_it_acknowledged() {
    let mut solo = Solo::with_log(options(), 3, 5, &[1, 1, 4, 5]);
    solo.lead_committed();
    // All of the log is kept for followers that lag, so nobody ever lacks the snapshot.
    let meta = SnapshotMeta {
        index: LogIndex(3),
        term: Term(4),
        config: config(3),
    };
    solo.raft.on_snapshot_saved(meta, LogIndex(1));
    let last = solo.raft.last_index();
    solo.accepted(2, last.0, 0);
    solo.output();
    solo.propose("more");
    solo.output();
    let term = solo.raft.term().0;
    let denies = |prev_index, hint_index, hint_term| Body::AppendRejected {
        prev_index,
        hint_index: LogIndex(hint_index),
        hint_term: Term(hint_term),
        round: Round(0),
    };
    // That is lost, so the peer is asked about what it has.
    solo.wait(options().heartbeat_interval_ns);
    solo.hears(2, term, Body::HeartbeatReply { round: Round(1) });
    solo.output();
    solo.hears(2, term, denies(last.next(), 0, 0));
    assert_eq!(
        solo.output().snapshots,
        [],
        "it acknowledged less than that"
    );
    let denies = |hint_index, hint_term| denies(last, hint_index, hint_term);
    solo.hears(2, term, denies(3, 4));
    assert_eq!(solo.output().snapshots, [], "a late message of a sound one");
    solo.hears(2, term, denies(0, 0));
    assert_eq!(solo.output().snapshots, [NodeId(2)]);
    solo.hears(2, term, denies(0, 0));
    assert_eq!(solo.output().snapshots, [], "one is on its way");
}
