//! Sections 5.3 and 5.4.2, thesis 10.2.

use bytes::Bytes;
use quorate_raft::{Body, EntryKind, LogIndex, NodeId, Options, PeerState, Round, Term};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, options};

fn accepted(match_index: u64) -> Body {
    Body::AppendAccepted {
        match_index: LogIndex(match_index),
        round: Round(0),
    }
}

/// The appends among the messages to `to`, as (previous index, number of entries).
fn appends(messages: &[quorate_raft::Message], to: u64) -> Vec<(u64, usize)> {
    let to_peer = messages.iter().filter(|message| message.to == NodeId(to));
    to_peer
        .filter_map(|message| match &message.body {
            Body::Append {
                prev_index,
                entries,
                ..
            } => Some((prev_index.0, entries.len())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_majority_commits_and_a_minority_does_not() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.elect();
    let others: Vec<NodeId> = cluster
        .config
        .voters
        .iter()
        .copied()
        .filter(|&id| id != leader)
        .collect();
    cluster.crash(others[0]);
    cluster.crash(others[1]);
    cluster.commit("three of five", &[leader, others[2], others[3]]);
    cluster.crash(others[2]);
    let before = cluster.judge.committed_to();
    cluster.propose(leader, "two of five").expect("taken");
    cluster.run(2_000 * MS);
    assert_eq!(cluster.judge.committed_to(), before);
    cluster.restart(others[0]);
    cluster.restart(others[1]);
    cluster.restart(others[2]);
    let everybody = cluster.config.voters.clone();
    cluster.commit("all five", &everybody);
}

/// Row 1, and thesis 10.2.1: the leader's disk is one vote among the others, and its appends do not
/// wait for it.
#[test]
fn the_leader_counts_its_own_entries_only_once_durable_and_sends_them_before() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    let index = solo.propose("slow disk").0;
    let messages = solo.messages();
    assert_eq!(appends(&messages, 2), [(index - 1, 1)]);
    solo.accepted(2, index, 1);
    assert_eq!(
        solo.raft.commit(),
        LogIndex(index - 1),
        "one follower alone is no majority"
    );
    solo.sync();
    assert_eq!(solo.raft.commit(), LogIndex(index));
    let index = solo.propose("slower disk").0;
    solo.output();
    solo.accepted(2, index, 1);
    solo.accepted(3, index, 1);
    assert_eq!(solo.raft.commit(), LogIndex(index), "two followers are one");
}

/// Row 1.
#[test]
fn a_follower_accepts_entries_only_once_they_are_durable() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1], 0);
    assert_eq!(solo.bodies(), []);
    assert!(matches!(solo.sync()[..], [ref m] if m.body == accepted(2)));
    solo.hears_append(2, 1, (0, 0), &[1, 1], 0);
    assert_eq!(
        solo.bodies(),
        [accepted(2)],
        "what is durable already is accepted at once"
    );
}

#[test]
fn a_single_voter_commits_only_once_its_own_disk_has_the_entry() {
    let mut solo = Solo::new(1);
    solo.lead();
    solo.sync();
    let index = solo.propose("alone");
    let output = solo.output();
    assert!(output.committed.is_empty());
    assert!(solo.raft.commit() < index);
    let seq = solo.disk.complete_all().expect("a write");
    solo.raft.on_persisted(solo.now_ns, seq);
    assert_eq!(
        solo.output().committed.last().map(|entry| entry.index),
        Some(index)
    );
}

/// Row 5, figure 3.7 of the thesis (figure 8 of the paper): a majority has the entry of term 2, but
/// it may still be overwritten until an entry of term 4 is committed above it.
#[test]
fn an_entry_of_an_earlier_term_is_never_committed_by_counting() {
    let mut solo = Solo::with_log(options(), 5, 3, &[1, 2]);
    solo.lead();
    solo.output();
    solo.sync();
    for peer in [2, 3, 4] {
        solo.accepted(peer, 2, 1);
    }
    assert_eq!(solo.raft.commit(), LogIndex(0));
    solo.accepted(2, 3, 1);
    assert_eq!(solo.raft.commit(), LogIndex(0));
    solo.accepted(3, 3, 1);
    assert_eq!(
        solo.raft.commit(),
        LogIndex(3),
        "with it, everything below is committed"
    );
}

/// End of section 5.3: whole terms are skipped, those that the follower lacks by the leader, those
/// that the leader lacks by the follower.
#[test]
fn a_log_that_differs_in_hundreds_of_entries_is_brought_back_in_a_few_round_trips() {
    let leaders_term_is_later = [vec![1; 10], vec![4; 300]].concat();
    let followers_terms = [vec![1; 10], vec![2; 200], vec![3; 200]].concat();
    assert!(round_trips(&leaders_term_is_later, &followers_terms) <= 3);
    let leaders_term_is_earlier = [vec![1; 10], vec![2; 300]].concat();
    let followers_term = [vec![1; 10], vec![3; 400]].concat();
    assert!(round_trips(&leaders_term_is_earlier, &followers_term) <= 3);
}

/// How many round trips it takes until a follower with the log `theirs` has that of a leader with
/// `mine`.
fn round_trips(mine: &[u64], theirs: &[u64]) -> usize {
    let mut leader = Solo::with_log(options(), 3, 4, mine);
    leader.lead();
    let mut follower = Solo::with_log(options(), 3, 3, theirs);
    for trip in 1..=1000 {
        for message in leader
            .messages()
            .into_iter()
            .filter(|message| message.to == NodeId(3))
        {
            follower.hears(2, 5, message.body);
        }
        for message in [follower.messages(), follower.sync()].concat() {
            leader.hears(3, 5, message.body);
        }
        let terms =
            (1..=follower.raft.last_index().0).map(|at| follower.raft.term_at(LogIndex(at)));
        let terms: Vec<u64> = terms.map(|term| term.expect("in the log").0).collect();
        if terms == [mine, &[5]].concat() {
            return trip;
        }
    }
    panic!("the logs do not come together");
}

/// The same in a cluster, as the course has it: fifty entries on each side.
#[test]
fn partitions_that_leave_fifty_uncommitted_entries_each_are_reconciled() {
    let mut cluster = Cluster::new(5);
    let first = cluster.elect();
    cluster.commit("begin", &[]);
    let partner = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != first)
        .expect("another");
    cluster.partition(&[first, partner]);
    for at in 0..50 {
        cluster.propose(first, &format!("lost {at}"));
    }
    let has_new = |cluster: &Cluster| cluster.settled_leader().is_some_and(|id| id != first);
    cluster.run_until("a leader of the three", has_new);
    for at in 0..50 {
        cluster.commit(&format!("kept {at}"), &[]);
    }
    let everybody = cluster.config.voters.clone();
    cluster.heal();
    let before = cluster.now_ns;
    cluster.commit("together", &everybody);
    assert!(cluster.now_ns - before < 2_000 * MS);
}

/// Published bug: openraft 9540c904, redpanda #17895.
#[test]
fn a_late_shorter_append_leaves_a_longer_matching_log_alone() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1, 1], 0);
    solo.output();
    solo.sync();
    solo.hears_append(2, 1, (0, 0), &[1, 1], 0);
    solo.hears_append(2, 1, (1, 1), &[], 0);
    assert_eq!(solo.raft.last_index(), LogIndex(4));
    assert!(solo.output().persist.is_none());
}

/// Published bug: the ABA race (etcd #1690, cockroach #124440).
#[test]
fn the_completion_of_an_overwritten_write_accepts_nothing() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 0);
    let old = solo
        .raft
        .output(0, &mut solo.disk)
        .persist
        .expect("entries");
    solo.hears_append(3, 2, (1, 1), &[2, 2], 0);
    let new = solo
        .raft
        .output(0, &mut solo.disk)
        .persist
        .expect("entries");
    solo.raft.on_persisted(0, old.seq);
    assert_eq!(solo.raft.durable_index(), LogIndex(1));
    assert_eq!(solo.bodies(), [], "neither leader may count on anything");
    solo.raft.on_persisted(0, new.seq);
    let messages = solo.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(
        (messages[0].to, &messages[0].body),
        (NodeId(3), &accepted(3))
    );
}

/// Published bug: the follower takes the leader's commit index although its own log differs behind
/// what was sent.
#[test]
fn a_follower_commits_only_what_this_message_verified() {
    let mut solo = Solo::with_log(options(), 3, 1, &[1, 1, 1]);
    solo.hears_append(2, 2, (1, 1), &[], 3);
    assert_eq!(solo.raft.commit(), LogIndex(1));
    solo.hears_append(2, 2, (1, 1), &[2], 3);
    assert_eq!(solo.raft.commit(), LogIndex(2));
    assert_eq!(solo.raft.last_index(), LogIndex(2));
}

/// Published bug: CCF #5674.
#[test]
fn committed_entries_are_never_cut_off() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 3);
    solo.output();
    solo.sync();
    solo.hears_append(3, 2, (1, 1), &[2], 3);
    assert_eq!(solo.raft.counters().violations, 1);
    assert_eq!(solo.raft.last_index(), LogIndex(3));
    // What is committed and said again is accepted as far as it is committed.
    solo.output();
    solo.sync();
    solo.hears_append(3, 2, (0, 0), &[1, 1], 3);
    solo.output();
    assert_eq!(solo.raft.counters().violations, 1);
    solo.hears_append(3, 2, (2, 1), &[1, 2], 4);
    assert_eq!(
        (solo.raft.last_index(), solo.raft.commit()),
        (LogIndex(4), LogIndex(4))
    );
}

#[test]
fn a_second_leader_in_a_term_is_not_obeyed() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1], 0);
    solo.hears_append(3, 1, (0, 0), &[1, 1], 0);
    assert_eq!(solo.raft.counters().violations, 1);
    assert_eq!(solo.raft.last_index(), LogIndex(1));
}

/// An acceptance that waits for the disk is void once a later leader may overwrite what it speaks
/// of.
#[test]
fn an_acceptance_of_an_earlier_term_never_leaves_late() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 0);
    solo.output();
    solo.hears_append(3, 2, (0, 0), &[2], 0);
    solo.output();
    let messages = solo.sync();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(
        (messages[0].to, messages[0].term, &messages[0].body),
        (NodeId(3), Term(2), &accepted(1))
    );
}

#[test]
fn several_appends_between_two_outputs_are_accepted_in_one_message() {
    let mut solo = Solo::new(3);
    for at in 0..5 {
        solo.hears_append(2, 1, (at, at.min(1)), &[1], 0);
    }
    solo.output();
    assert!(matches!(solo.sync()[..], [ref m] if m.body == accepted(5)));
}

#[test]
fn appends_are_pipelined_within_the_message_window() {
    let mut solo = Solo::with_log(
        Options {
            inflight_messages_max: 3,
            ..options()
        },
        3,
        0,
        &[],
    );
    solo.lead_committed();
    let mut sent = Vec::new();
    for at in 0..6 {
        solo.propose(&format!("{at}"));
        sent.extend(appends(&solo.messages(), 2));
    }
    assert_eq!(
        sent,
        [(1, 1), (2, 1), (3, 1)],
        "three appends are out, unanswered"
    );
    solo.accepted(2, 3, 1);
    assert_eq!(
        appends(&solo.messages(), 2),
        [(4, 3)],
        "the rest goes as one"
    );
}

#[test]
fn a_peer_never_owes_more_bytes_than_the_window_has() {
    let limits = Options {
        inflight_bytes_max: 1000,
        append_bytes_max: 400,
        ..options()
    };
    let mut solo = Solo::with_log(limits, 3, 0, &[]);
    solo.lead_committed();
    let command = Bytes::from(vec![7; 68]);
    let commands = (0..40).map(|_| (EntryKind::Command, command.clone()));
    solo.raft.propose(solo.now_ns, commands).expect("taken");
    let sizes: Vec<usize> = appends(&solo.messages(), 2)
        .iter()
        .map(|append| append.1)
        .collect();
    assert_eq!(
        sizes,
        [4, 4, 2],
        "four of 100 bytes fit into a message, ten into the window"
    );
    assert_eq!(solo.raft.inflight(NodeId(2)), Some((1000, 3)));
    solo.accepted(2, 5, 1);
    assert_eq!(appends(&solo.messages(), 2), [(11, 4)]);
}

#[test]
fn a_lost_append_is_sent_again_when_the_peer_shows_that_it_lives() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.propose("lost");
    assert_eq!(appends(&solo.messages(), 2), [(1, 1)]);
    solo.wait(options().heartbeat_interval_ns);
    let round = Solo::newest_round(&solo.messages());
    solo.hears(2, 1, Body::HeartbeatReply { round });
    assert_eq!(appends(&solo.messages(), 2), [(1, 1)]);
    // The wait doubles when that was in vain: the peer may be there, but its disk slow.
    solo.wait(options().heartbeat_interval_ns);
    solo.hears(2, 1, Body::HeartbeatReply { round });
    assert_eq!(appends(&solo.messages(), 2), []);
    solo.wait(options().heartbeat_interval_ns);
    solo.hears(2, 1, Body::HeartbeatReply { round });
    assert_eq!(appends(&solo.messages(), 2), [(1, 1)]);
}

#[test]
fn old_rejections_do_not_throw_a_peer_back() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    let rejection = Body::AppendRejected {
        prev_index: LogIndex(1),
        hint_index: LogIndex(0),
        hint_term: Term(0),
        round: Round(1),
    };
    solo.hears(2, 1, rejection);
    let peer = solo.raft.peers().next().expect("a peer");
    assert_eq!(
        (peer.match_index, peer.next_index, peer.state),
        (LogIndex(1), LogIndex(2), PeerState::Replicate)
    );
}

#[test]
fn followers_learn_of_a_commit_within_part_of_a_heartbeat_interval() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.sync();
    solo.wait(options().heartbeat_interval_ns);
    solo.output();
    let index = solo.propose("x").0;
    solo.output();
    solo.sync();
    solo.accepted(2, index, 1);
    let due_ns = solo.raft.deadline_ns() - solo.now_ns;
    assert!(due_ns <= options().heartbeat_interval_ns / 4);
    solo.wait(due_ns);
    let messages = solo.messages();
    assert_eq!(messages.len(), 1, "only who holds it can use it");
    assert!(
        matches!(messages[0].body, Body::Heartbeat { commit, .. } if commit == LogIndex(index))
    );
}

#[test]
fn an_idle_leader_sends_heartbeats_and_nothing_else() {
    let mut cluster = Cluster::new(3);
    cluster.commit("something", &[NodeId(1), NodeId(2), NodeId(3)]);
    cluster.run(1_000 * MS);
    let before = cluster.messages_sent;
    cluster.run(1_000 * MS);
    let expected = 2 * 2 * (1_000 * MS / options().heartbeat_interval_ns) as usize;
    assert!(
        cluster.messages_sent - before <= expected,
        "{} messages",
        cluster.messages_sent - before
    );
}

/// Row 29: heartbeats wait for no disk, so a slow one deposes nobody.
#[test]
fn a_slow_disk_does_not_silence_a_follower() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.commit("begin", &[NodeId(1), NodeId(2), NodeId(3)]);
    let slow = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != leader)
        .expect("another");
    cluster.node_mut(slow).is_disk_stuck = true;
    for at in 0..20 {
        cluster.commit(&format!("while stuck {at}"), &[leader]);
    }
    cluster.run(3_000 * MS);
    assert_eq!(cluster.leaders().collect::<Vec<_>>(), [leader]);
    assert!(cluster.raft(slow).durable_index() < cluster.raft(leader).commit());
    cluster.node_mut(slow).is_disk_stuck = false;
    cluster.commit("after", &[NodeId(1), NodeId(2), NodeId(3)]);
}

/// A disk that stands still must not let memory grow.
#[test]
fn a_follower_whose_disk_stands_still_drops_appends_at_its_bound() {
    let limits = Options {
        inflight_bytes_max: 1000,
        append_bytes_max: 1000,
        uncommitted_bytes_max: 1000,
        cache_bytes_max: 1000,
        ..options()
    };
    let mut solo = Solo::with_log(limits, 3, 0, &[]);
    for at in 0..1000 {
        solo.hears_append(2, 1, (at, at.min(1)), &[1], 0);
        solo.output();
    }
    assert!(solo.raft.cached().1 <= 3100, "{:?}", solo.raft.cached());
    assert!(solo.raft.counters().backlogged > 0);
    solo.sync();
    let last = solo.raft.last_index();
    solo.hears_append(2, 1, (last.0, 1), &[1], last.0);
    solo.output();
    solo.hears_append(2, 1, (last.0 + 1, 1), &[1], last.0);
    assert_eq!(
        solo.raft.last_index(),
        LogIndex(last.0 + 2),
        "it goes on once the disk does"
    );
}
