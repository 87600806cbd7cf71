//! Handing leadership over, thesis 3.10.

use quorate_raft::{
    Body, EntryKind, LogIndex, NodeId, ProposeError, Role, Round, Term, TransferError,
};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, options};

#[test]
fn leadership_moves_to_the_target_at_once() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.commit("before", &[NodeId(1), NodeId(2), NodeId(3)]);
    let to = cluster
        .config
        .voters
        .iter()
        .copied()
        .find(|&id| id != old)
        .expect("another");
    let begin_ns = cluster.now_ns;
    cluster.with_raft(old, |raft, now_ns| {
        raft.transfer(now_ns, Some(to)).expect("begins");
    });
    cluster.run_until("the target leads", |cluster| {
        cluster.settled_leader() == Some(to)
    });
    assert!(
        cluster.now_ns - begin_ns < 20 * MS,
        "nobody waits for an election timeout"
    );
    cluster.commit("after", &[old]);
}

/// Row 30.
#[test]
fn the_target_is_asked_only_once_it_has_the_whole_log_and_writes_wait() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    let last = solo.propose("the target lacks this").0;
    solo.raft
        .transfer(solo.now_ns, Some(NodeId(3)))
        .expect("begins");
    assert!(!solo.bodies().contains(&Body::TimeoutNow));
    let refused = solo
        .raft
        .propose(solo.now_ns, [(EntryKind::Command, bytes::Bytes::new())]);
    assert_eq!(refused, Err(ProposeError::Transferring));
    solo.accepted(3, 1, 1);
    assert!(!solo.bodies().contains(&Body::TimeoutNow));
    solo.accepted(3, last, 1);
    let messages = solo.messages();
    let asked: Vec<NodeId> = messages
        .iter()
        .filter(|m| m.body == Body::TimeoutNow)
        .map(|m| m.to)
        .collect();
    assert_eq!(asked, [NodeId(3)]);
    // The request may get lost: it is repeated with each heartbeat.
    solo.wait(options().heartbeat_interval_ns);
    assert!(solo.bodies().contains(&Body::TimeoutNow));
}

/// Row 30: unfreeze on failure.
#[test]
fn a_transfer_that_fails_is_over_after_an_election_timeout() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.raft
        .transfer(solo.now_ns, Some(NodeId(3)))
        .expect("begins");
    let again = solo.raft.transfer(solo.now_ns, Some(NodeId(2)));
    assert_eq!(again, Err(TransferError::InProgress { to: NodeId(3) }));
    solo.now_ns += options().election_timeout_ns - 1;
    let round = quorate_raft::Round(1);
    solo.hears(2, 1, Body::HeartbeatReply { round });
    assert!(solo.raft.deadline_ns() <= solo.now_ns + 1);
    solo.wait(1);
    assert_eq!(solo.raft.role(), Role::Leader);
    solo.propose("as before");
}

#[test]
fn without_a_name_the_most_up_to_date_active_peer_is_chosen() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.raft.transfer(solo.now_ns, None).expect("begins");
    let messages = solo.messages();
    assert!(
        messages
            .iter()
            .any(|m| m.body == Body::TimeoutNow && m.to == NodeId(2))
    );
}

/// Health first among those that have what is committed, then the log, then the latest word.
#[test]
fn the_successor_is_the_healthiest_that_has_the_log_and_spoke_last() {
    let mut solo = Solo::new(5);
    solo.lead();
    solo.output();
    solo.sync();
    solo.accepted(2, 1, 1);
    solo.accepted(3, 1, 1);
    while solo.output().more() {}
    assert_eq!(solo.raft.commit(), LogIndex(1));
    let chosen = |solo: &Solo, severities: [Option<u8>; 4]| {
        let of = |peer: NodeId| severities[peer.0 as usize - 2];
        solo.raft.successor(of).map(|peer| peer.id.0)
    };
    let (well, sick, never) = (Some(0), Some(1), None);
    for speaks in [3, 2, 3] {
        solo.now_ns += MS;
        let round = Round(1);
        solo.hears(speaks, 1, Body::HeartbeatReply { round });
        assert_eq!(chosen(&solo, [well; 4]), Some(speaks), "it spoke last");
    }
    solo.propose("only the second one has this");
    solo.output();
    solo.accepted(2, 2, 1);
    solo.now_ns += MS;
    solo.accepted(3, 1, 1);
    assert_eq!(solo.raft.commit(), LogIndex(1));
    assert_eq!(chosen(&solo, [well; 4]), Some(2), "it has most of the log");
    assert_eq!(chosen(&solo, [sick, well, well, well]), Some(3));
    assert_eq!(chosen(&solo, [Some(2), sick, well, well]), Some(3));
    assert_eq!(chosen(&solo, [sick, sick, well, well]), Some(2));
    assert_eq!(chosen(&solo, [never, sick, well, well]), Some(3));
    assert_eq!(chosen(&solo, [never, never, sick, well]), Some(5));
    assert_eq!(chosen(&solo, [never; 4]), None);
    solo.raft.step_down(solo.now_ns);
    assert_eq!(chosen(&solo, [well; 4]), None, "it does not lead");
}

#[test]
fn without_a_name_a_disfavoured_peer_is_not_chosen_though_it_has_more() {
    for disfavours in [false, true] {
        let mut solo = Solo::new(3);
        solo.lead_committed();
        solo.accepted(3, 1, 1);
        solo.propose("the third one lacks this");
        solo.output();
        solo.accepted(2, 2, 1);
        assert_eq!(solo.raft.commit(), LogIndex(1));
        if disfavours {
            solo.raft.set_disfavoured(&[NodeId(2)]);
        }
        solo.raft.transfer(solo.now_ns, None).expect("begins");
        let to = NodeId(if disfavours { 3 } else { 2 });
        let again = solo.raft.transfer(solo.now_ns, Some(NodeId(9)));
        assert_eq!(again, Err(TransferError::InProgress { to }));
    }
}

#[test]
fn a_transfer_to_nobody_is_refused() {
    let mut solo = Solo::new(3);
    let refused = solo.raft.transfer(0, Some(NodeId(2)));
    assert_eq!(refused, Err(TransferError::NotLeader { leader: None }));
    solo.lead_committed();
    for to in [1, 9].map(NodeId) {
        let refused = solo.raft.transfer(solo.now_ns, Some(to));
        assert_eq!(refused, Err(TransferError::NotAVoter { to }));
    }
    solo.now_ns += options().election_timeout_ns;
    assert_eq!(
        solo.raft.transfer(solo.now_ns, None),
        Err(TransferError::NobodyThere)
    );
}

/// Row 13: transfer bypasses the question beforehand, and only the leader of the term can ask for
/// it.
#[test]
fn only_the_leader_of_the_term_can_make_a_replica_stand() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 3, (0, 0), &[1], 0);
    solo.output();
    solo.sync();
    solo.hears(3, 3, Body::TimeoutNow);
    solo.hears(2, 2, Body::TimeoutNow);
    solo.hears(2, 4, Body::TimeoutNow);
    assert_eq!(
        (solo.raft.role(), solo.raft.term()),
        (Role::Follower, Term(3))
    );
    solo.hears(2, 3, Body::TimeoutNow);
    assert_eq!(
        (solo.raft.role(), solo.raft.term()),
        (Role::Candidate, Term(4))
    );
    solo.output();
    let requests = solo.sync();
    assert_eq!(requests.len(), 2);
    let expected = Body::Vote {
        last_index: LogIndex(1),
        last_term: Term(1),
        transfer: true,
    };
    assert!(requests.iter().all(|request| request.body == expected));
    // Voters that hear the old leader answer such a request.
    let mut voter = Solo::new(3);
    voter.hears_append(2, 3, (0, 0), &[1], 0);
    voter.output();
    voter.sync();
    voter.hears(3, 4, expected);
    voter.output();
    assert!(matches!(voter.sync()[..], [ref m] if m.body == Body::VoteReply { granted: true }));
}

/// A leader whose log failed cannot wait until anybody has all of it.
#[test]
fn a_leader_that_resigns_asks_its_successor_at_once_and_holds_no_lease() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.propose("nobody has this");
    solo.raft.resign(solo.now_ns, Some(NodeId(3)));
    assert_eq!(solo.raft.role(), Role::Follower);
    assert_eq!(solo.raft.lease_until_ns(), None);
    let asked: Vec<NodeId> = solo
        .messages()
        .iter()
        .filter(|m| m.body == Body::TimeoutNow)
        .map(|m| m.to)
        .collect();
    assert_eq!(asked, [NodeId(3)]);
    // Nobody leads by a resignation of somebody else.
    solo.raft.resign(solo.now_ns, Some(NodeId(2)));
    assert_eq!(solo.messages(), []);
}

/// The leader's news of its successor may be old: only that one knows how it is.
#[test]
fn a_replica_that_should_not_lead_ignores_a_leader_that_hands_over() {
    for may_lead in [true, false] {
        let mut solo = Solo::with_log(options(), 3, 7, &[7]);
        solo.now_ns += options().election_timeout_ns;
        solo.hears_append(2, 7, (1, 7), &[], 0);
        solo.raft.set_may_lead(may_lead);
        solo.hears(2, 7, Body::TimeoutNow);
        let expected = if may_lead {
            Role::Candidate
        } else {
            Role::Follower
        };
        assert_eq!(solo.raft.role(), expected);
    }
}
