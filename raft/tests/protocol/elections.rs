//! Sections 5.2 and 5.4.1, thesis 4.2.3 and 9.6.

use quorate_raft::{Body, LogIndex, NodeId, Role, Round, Term};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, options};

fn vote(last_index: u64, last_term: u64) -> Body {
    Body::Vote {
        last_index: LogIndex(last_index),
        last_term: Term(last_term),
        transfer: false,
    }
}

fn pre_vote(last_index: u64, last_term: u64) -> Body {
    Body::PreVote {
        last_index: LogIndex(last_index),
        last_term: Term(last_term),
    }
}

#[test]
fn one_leader_is_elected_and_stays() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.raft(leader).term();
    cluster.run(5_000 * MS);
    assert_eq!(cluster.leaders().collect::<Vec<_>>(), [leader]);
    assert_eq!(cluster.raft(leader).term(), term);
}

#[test]
fn a_quorum_elects_a_new_leader_and_less_than_a_quorum_none() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    cluster.isolate(first);
    cluster.run_until("another leader", |cluster| {
        cluster
            .settled_leader()
            .is_some_and(|leader| leader != first)
    });
    let second = cluster.settled_leader().expect("just found");
    cluster.heal();
    cluster.run(1_000 * MS);
    assert_eq!(
        cluster.leaders().collect::<Vec<_>>(),
        [second],
        "the old leader gives in to the new one"
    );
    cluster.crash(first);
    cluster.isolate(second);
    cluster.run(2_000 * MS);
    assert_eq!(cluster.leaders().count(), 0, "one of three is no quorum");
    cluster.heal();
    cluster.elect();
}

#[test]
fn three_of_seven_may_go_at_any_time() {
    let mut cluster = Cluster::new(7);
    for round in 0..9 {
        cluster.heal();
        for _ in 0..3 {
            let id = NodeId(1 + cluster.below(7));
            cluster.isolate(id);
        }
        cluster.elect();
        cluster.commit(&format!("round {round}"), &[]);
    }
}

/// Row 13.
#[test]
fn a_replica_cut_off_raises_no_term_and_deposes_nobody() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.raft(leader).term();
    let lost = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != leader)
        .expect("another");
    cluster.isolate(lost);
    cluster.run(5_000 * MS);
    assert_eq!(cluster.raft(lost).role(), Role::PreCandidate);
    assert_eq!(cluster.raft(lost).term(), term);
    cluster.heal();
    cluster.run(2_000 * MS);
    assert_eq!(cluster.leaders().collect::<Vec<_>>(), [leader]);
    assert_eq!(cluster.raft(leader).term(), term);
}

/// Row 13: the one that does not hear the leader cannot win over those who do.
#[test]
fn a_leader_survives_a_partial_partition() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.raft(leader).term();
    let deaf = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != leader)
        .expect("another");
    cluster.cut(leader, deaf);
    cluster.cut(deaf, leader);
    cluster.run(5_000 * MS);
    assert_eq!(cluster.leaders().collect::<Vec<_>>(), [leader]);
    assert_eq!(cluster.raft(leader).term(), term);
    cluster.commit("still here", &[leader]);
}

/// Rows 12 and 13: also when only the way back is cut, so that the followers still hear it.
#[test]
fn check_quorum_makes_a_leader_that_hears_nobody_step_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for other in [1, 2, 3].map(NodeId) {
        cluster.cut(other, leader);
    }
    cluster.run(options().election_timeout_ns + 50 * MS);
    assert_eq!(cluster.raft(leader).role(), Role::Follower);
    cluster.run_until("another leader", |cluster| {
        cluster
            .settled_leader()
            .is_some_and(|other| other != leader)
    });
}

/// Row 3.
#[test]
fn a_vote_stands_for_its_term_whatever_happens_in_it() {
    let mut solo = Solo::new(3);
    solo.hears(2, 5, vote(0, 0));
    solo.output();
    assert!(matches!(solo.sync()[..], [ref m] if m.body == Body::VoteReply { granted: true }));
    solo.hears(3, 5, vote(9, 4));
    assert_eq!(solo.bodies(), [Body::VoteReply { granted: false }]);
    // The winner shows up, then an election timeout passes: still the same term.
    solo.hears_append(2, 5, (0, 0), &[], 0);
    solo.wait(options().election_timeout_ns * 2);
    solo.output();
    solo.hears(3, 5, vote(9, 4));
    assert!(solo.bodies().contains(&Body::VoteReply { granted: false }));
    assert_eq!(solo.raft.hard_state().vote, Some(NodeId(2)));
}

/// Row 3: a candidate that finds that another won keeps its vote for itself.
#[test]
fn a_beaten_candidate_keeps_its_vote() {
    let mut solo = Solo::new(3);
    solo.raft.campaign(0);
    solo.hears(2, 1, Body::PreVoteReply { granted: true });
    assert_eq!(solo.raft.role(), Role::Candidate);
    solo.hears_append(3, 1, (0, 0), &[1], 0);
    assert_eq!(solo.raft.role(), Role::Follower);
    assert_eq!(solo.raft.hard_state().vote, Some(NodeId(1)));
}

/// Row 2.
#[test]
fn votes_and_requests_for_them_wait_for_the_disk() {
    let mut solo = Solo::new(3);
    solo.hears(2, 1, vote(0, 0));
    assert_eq!(solo.bodies(), []);
    assert_eq!(solo.sync().len(), 1);

    let mut solo = Solo::new(3);
    solo.raft.campaign(0);
    assert_eq!(
        solo.messages().len(),
        2,
        "asking beforehand promises nothing"
    );
    solo.hears(2, 1, Body::PreVoteReply { granted: true });
    assert_eq!(solo.bodies(), []);
    // A reply to what was never sent must not elect before the own vote is durable.
    solo.hears(2, 1, Body::VoteReply { granted: true });
    solo.hears(3, 1, Body::VoteReply { granted: true });
    assert_eq!(solo.raft.role(), Role::Candidate);
    solo.sync();
    assert_eq!(solo.raft.role(), Role::Leader);
}

/// Row 4.
#[test]
fn replies_of_another_term_do_not_count() {
    let mut solo = Solo::with_log(options(), 5, 3, &[1]);
    solo.now_ns = 2_000 * MS;
    solo.raft.campaign(solo.now_ns);
    solo.hears(2, 4, Body::PreVoteReply { granted: true });
    solo.hears(3, 4, Body::PreVoteReply { granted: true });
    solo.output();
    solo.sync();
    solo.hears(2, 4, Body::VoteReply { granted: true });
    solo.hears(2, 4, Body::VoteReply { granted: true });
    solo.hears(3, 3, Body::VoteReply { granted: true });
    assert_eq!(
        solo.raft.role(),
        Role::Candidate,
        "two of five, one of them twice"
    );
    solo.hears(3, 4, Body::VoteReply { granted: true });
    assert_eq!(solo.raft.role(), Role::Leader);
    solo.output();
    solo.sync();
    let accepted = Body::AppendAccepted {
        match_index: LogIndex(2),
        round: Round(0),
    };
    for peer in [2, 3, 4, 5] {
        solo.hears(peer, 3, accepted.clone());
    }
    assert_eq!(solo.raft.commit(), LogIndex(0));
}

/// Section 5.4.1: terms count before lengths.
#[test]
fn only_a_log_that_is_as_complete_gets_a_vote() {
    for (last_index, last_term, granted) in [
        (9, 1, false),
        (2, 3, false),
        (3, 3, true),
        (1, 4, true),
        (4, 3, true),
    ] {
        let mut solo = Solo::with_log(options(), 3, 3, &[1, 1, 3]);
        solo.now_ns = 1_000 * MS;
        solo.hears(2, 5, pre_vote(last_index, last_term));
        let expected = [Body::PreVoteReply { granted }];
        assert_eq!(solo.bodies(), expected, "{last_index} of {last_term}");
        solo.hears(2, 5, vote(last_index, last_term));
        let mut replies = solo.messages();
        replies.extend(solo.sync());
        assert_eq!(replies.len(), 1);
        assert_eq!(
            replies[0].body,
            Body::VoteReply { granted },
            "{last_index} of {last_term}"
        );
    }
}

/// Rows 12 and 13.
#[test]
fn who_hears_a_leader_votes_for_nobody_else() {
    let mut solo = Solo::new(3);
    solo.hears(
        2,
        1,
        Body::Heartbeat {
            commit: LogIndex(0),
            round: Round(1),
        },
    );
    solo.output();
    solo.sync();
    solo.now_ns += options().election_timeout_ns - 1;
    solo.hears(3, 2, pre_vote(9, 1));
    assert_eq!(solo.bodies(), [Body::PreVoteReply { granted: false }]);
    solo.hears(3, 2, vote(9, 1));
    assert_eq!(solo.bodies(), []);
    assert_eq!(solo.raft.term(), Term(1), "not even the term is taken over");
    solo.raft.campaign(solo.now_ns);
    assert_eq!(solo.raft.role(), Role::Follower, "nor does it stand itself");
    solo.now_ns += 1;
    solo.hears(3, 2, vote(9, 1));
    solo.output();
    assert_eq!(solo.sync().len(), 1);
    assert_eq!(solo.raft.hard_state().vote, Some(NodeId(3)));
}

/// A lease may rest on what a replica said before it crashed.
#[test]
fn a_restarted_replica_votes_only_after_an_election_timeout() {
    let mut solo = Solo::with_log(options(), 3, 1, &[1]);
    solo.hears(3, 2, vote(9, 1));
    assert_eq!(solo.bodies(), []);
    solo.raft.campaign(solo.now_ns);
    assert_eq!(solo.raft.role(), Role::Follower);
    solo.now_ns += options().election_timeout_ns;
    solo.hears(3, 2, vote(9, 1));
    solo.output();
    assert_eq!(solo.sync().len(), 1);
}

/// The same for a replica whose disk knows nothing yet: it cannot keep the wait, so it must not
/// promise it.
#[test]
fn the_first_heartbeat_of_all_is_answered_once_the_disk_knows_of_the_group() {
    let mut solo = Solo::new(3);
    let heartbeat = Body::Heartbeat {
        commit: LogIndex(0),
        round: Round(1),
    };
    solo.hears(2, 1, heartbeat.clone());
    assert_eq!(solo.bodies(), []);
    assert_eq!(solo.sync().len(), 1);
    solo.hears(2, 2, heartbeat);
    assert_eq!(solo.messages().len(), 1, "later ones wait for no disk");
}

/// Row 18: the part of it that is the protocol's.
#[test]
fn a_replica_whose_log_failed_promises_nothing() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.raft.set_can_lead(false);
    assert_eq!(solo.raft.role(), Role::Follower);
    solo.output();
    let term = solo.raft.term().0;
    solo.wait(options().election_timeout_ns * 3);
    assert_eq!(solo.raft.role(), Role::Follower);
    solo.hears(2, term + 1, vote(99, term));
    solo.hears(2, term + 1, pre_vote(99, term));
    solo.hears_append(3, term + 1, (0, 0), &[1], 0);
    let output = solo.output();
    assert!(output.messages.is_empty());
    assert_eq!(solo.raft.last_index(), LogIndex(1));
    assert_eq!(solo.raft.deadline_ns(), u64::MAX);
}

/// A replica that comes back with a higher term must not stay out for good.
#[test]
fn an_old_leader_learns_of_a_higher_term_from_any_answer() {
    let mut solo = Solo::with_log(options(), 3, 7, &[1]);
    solo.hears_append(2, 3, (1, 1), &[2], 0);
    solo.hears(
        2,
        3,
        Body::Heartbeat {
            commit: LogIndex(0),
            round: Round(4),
        },
    );
    let terms: Vec<Term> = solo.messages().iter().map(|message| message.term).collect();
    assert_eq!(terms, [Term(7), Term(7)]);
    assert_eq!(solo.raft.last_index(), LogIndex(1));

    let mut leader = Solo::new(3);
    leader.lead();
    leader.hears(2, 9, Body::HeartbeatReply { round: Round(1) });
    assert_eq!(
        (leader.raft.role(), leader.raft.term()),
        (Role::Follower, Term(9))
    );
}

#[test]
fn a_single_voter_elects_itself_once_its_vote_is_durable() {
    let mut solo = Solo::new(1);
    solo.raft.campaign(0);
    assert_eq!(solo.raft.role(), Role::Candidate);
    solo.output();
    assert_eq!(solo.raft.role(), Role::Candidate);
    solo.sync();
    assert_eq!(solo.raft.role(), Role::Leader);
    assert_eq!(
        solo.raft.commit(),
        LogIndex(0),
        "its first entry is not durable yet"
    );
    solo.sync();
    assert_eq!(solo.raft.commit(), LogIndex(1));
}

/// How many election timeouts pass until a replica that hears nobody asks for votes.
fn timeouts_until_it_stands(solo: &mut Solo, mut between: impl FnMut(&mut Solo)) -> usize {
    for timeouts in 1..20 {
        let deadline_ns = solo.raft.deadline_ns();
        solo.wait(deadline_ns - solo.now_ns);
        if solo.raft.role() == Role::PreCandidate {
            return timeouts;
        }
        between(solo);
    }
    panic!("it never stands");
}

/// Others are healthier: they get their chance, and not for ever, since they may be unable to win.
#[test]
fn a_replica_that_should_not_lead_lets_a_few_elections_pass_and_no_more() {
    let mut solo = Solo::with_log(options(), 3, 7, &[7]);
    assert_eq!(timeouts_until_it_stands(&mut solo, |_| ()), 1);

    let mut solo = Solo::with_log(options(), 3, 7, &[7]);
    solo.raft.set_may_lead(false);
    solo.raft.campaign(options().election_timeout_ns * 2);
    assert_eq!(solo.raft.role(), Role::Follower, "not when asked either");
    assert_eq!(timeouts_until_it_stands(&mut solo, |_| ()), 5);
    // A leader is heard again: the others could win after all.
    solo.hears_append(2, 8, (1, 7), &[], 0);
    assert_eq!(timeouts_until_it_stands(&mut solo, |_| ()), 5);
    solo.hears_append(2, 8, (1, 7), &[], 0);
    solo.raft.set_may_lead(true);
    assert_eq!(timeouts_until_it_stands(&mut solo, |_| ()), 1);
}

#[test]
fn a_replica_that_should_not_lead_waits_less_for_one_that_lacks_what_it_has() {
    let mut solo = Solo::with_log(options(), 3, 7, &[7, 7]);
    solo.raft.set_may_lead(false);
    let lacks_one = |solo: &mut Solo| {
        solo.hears(2, 8, pre_vote(1, 7));
        assert_eq!(solo.bodies(), [Body::PreVoteReply { granted: false }]);
    };
    assert_eq!(timeouts_until_it_stands(&mut solo, lacks_one), 3);
}

/// It may not be leader, and still makes others leader: otherwise a group of three with two sick
/// replicas had none.
#[test]
fn a_replica_that_should_not_lead_votes() {
    let mut solo = Solo::with_log(options(), 3, 7, &[7]);
    solo.raft.set_may_lead(false);
    solo.wait(options().election_timeout_ns * 2);
    solo.hears(2, 8, pre_vote(1, 7));
    assert_eq!(solo.bodies(), [Body::PreVoteReply { granted: true }]);
    solo.hears(2, 8, vote(1, 7));
    solo.output();
    let votes: Vec<Body> = solo.sync().into_iter().map(|it| it.body).collect();
    assert_eq!(votes, [Body::VoteReply { granted: true }]);
}

/// It may not know that others are better off than it is: they do.
#[test]
fn a_replica_refuses_a_few_pre_votes_to_one_that_should_not_lead_rather_than_it() {
    let asks = |solo: &mut Solo, log: (u64, u64)| {
        solo.hears(2, 8, pre_vote(log.0, log.1));
        solo.bodies()
            .contains(&Body::PreVoteReply { granted: true })
    };
    let voter = || {
        let mut solo = Solo::with_log(options(), 3, 7, &[7, 7]);
        solo.raft.set_disfavoured(&[NodeId(2)]);
        solo.now_ns = options().election_timeout_ns + 1;
        solo
    };
    let mut solo = voter();
    let answers: Vec<bool> = (0..6).map(|_| asks(&mut solo, (2, 7))).collect();
    assert_eq!(answers, [false, false, false, false, true, true]);
    // Where it cannot win itself it refuses nothing.
    assert!(asks(&mut voter(), (3, 7)), "the candidate has more");
    let mut solo = voter();
    solo.raft.set_may_lead(false);
    assert!(asks(&mut solo, (2, 7)), "it should not lead either");
    let mut solo = voter();
    solo.raft.set_disfavoured(&[NodeId(3)]);
    assert!(asks(&mut solo, (2, 7)), "it is another one");
}
