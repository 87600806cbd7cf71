//! Leases, thesis 6.4.1.

use quorate_raft::{Body, LogIndex, Message, NodeId, Options, Role, Round, Term};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, options};

fn lease_ns() -> u64 {
    options().election_timeout_ns / 10 * 9
}

/// Row 12: send time, not arrival time; shorter than any election timeout.
#[test]
fn a_lease_runs_from_when_the_confirmed_round_was_sent() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.wait(options().heartbeat_interval_ns);
    let sent_ns = solo.now_ns;
    let round = Solo::newest_round(&solo.messages());
    solo.now_ns += 40 * MS;
    solo.hears(2, 1, Body::HeartbeatReply { round });
    assert_eq!(solo.raft.lease_until_ns(), Some(sent_ns + lease_ns()));
    assert!(lease_ns() < options().election_timeout_ns);
    // An answer to an older round takes nothing away.
    solo.hears(3, 1, Body::HeartbeatReply { round: Round(1) });
    assert_eq!(solo.raft.lease_until_ns(), Some(sent_ns + lease_ns()));
}

#[test]
fn a_lease_needs_answers_of_a_quorum() {
    let mut solo = Solo::new(5);
    solo.lead();
    solo.output();
    solo.sync();
    let sent_ns = solo.now_ns;
    solo.accepted(2, 1, 1);
    solo.accepted(3, 1, 1);
    solo.output();
    assert_eq!(solo.raft.lease_until_ns(), Some(sent_ns + lease_ns()));
    solo.wait(options().heartbeat_interval_ns);
    let round = Solo::newest_round(&solo.messages());
    solo.hears(4, 1, Body::HeartbeatReply { round });
    assert_eq!(
        solo.raft.lease_until_ns(),
        Some(sent_ns + lease_ns()),
        "two of five"
    );
    solo.hears(5, 1, Body::HeartbeatReply { round });
    assert_eq!(solo.raft.lease_until_ns(), Some(solo.now_ns + lease_ns()));
}

/// Rows 6 and 10.
#[test]
fn no_lease_before_an_entry_of_the_term_is_applied() {
    let mut solo = Solo::with_log(options(), 3, 1, &[1, 1]);
    solo.lead();
    solo.output();
    solo.sync();
    solo.hears(2, 2, Body::HeartbeatReply { round: Round(1) });
    assert_eq!(solo.raft.lease_until_ns(), None);
    solo.accepted(2, 3, 1);
    assert_eq!(
        solo.raft.lease_until_ns(),
        None,
        "committed, but nobody has applied it yet"
    );
    let inherited = solo.output();
    assert_eq!((inherited.committed.len(), inherited.more()), (2, true));
    assert_eq!(solo.raft.lease_until_ns(), None);
    assert_eq!(solo.output().committed.len(), 1);
    assert!(solo.raft.lease_until_ns().is_some());
}

/// Row 11: etcd #12704.
#[test]
fn beginning_a_transfer_ends_the_lease_and_a_sent_request_ends_it_for_the_term() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.propose("not yet at the others");
    assert!(solo.raft.lease_until_ns().is_some());
    solo.raft
        .transfer(solo.now_ns, Some(NodeId(2)))
        .expect("begins");
    assert_eq!(solo.raft.lease_until_ns(), None);
    // Given up before the request left: nothing can come of it, the lease is good again.
    solo.output();
    solo.now_ns += options().election_timeout_ns - 1;
    solo.hears(2, 1, Body::HeartbeatReply { round: Round(1) });
    solo.wait(1);
    assert!(solo.raft.lease_until_ns().is_some());
    // Given up after it left: it may still arrive, and an election begun by it waits for nobody.
    solo.accepted(2, 2, 1);
    solo.raft
        .transfer(solo.now_ns, Some(NodeId(2)))
        .expect("begins");
    assert!(solo.bodies().contains(&Body::TimeoutNow));
    for _ in 0..20 {
        solo.wait(options().heartbeat_interval_ns);
        let round = Solo::newest_round(&solo.messages());
        solo.hears(2, 1, Body::HeartbeatReply { round });
        assert_eq!(solo.raft.lease_until_ns(), None);
    }
    assert_eq!(solo.raft.role(), Role::Leader);
    solo.propose("the transfer itself is over");
}

/// A follower with a shorter election timeout votes for another earlier than the leader itself
/// would: the lease must not outlast the shortest promise.
#[test]
fn a_lease_is_as_long_as_the_shortest_promise_of_all_members() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    solo.wait(options().heartbeat_interval_ns);
    let sent_ns = solo.now_ns;
    let round = Solo::newest_round(&solo.messages());
    solo.hears(2, 1, Body::HeartbeatReply { round });
    assert_eq!(solo.raft.lease_until_ns(), Some(sent_ns + lease_ns()));
    let short_ns = options().election_timeout_ns / 5;
    solo.raft.set_promise_ns(Some(short_ns));
    assert_eq!(
        solo.raft.lease_until_ns(),
        Some(sent_ns + short_ns / 10 * 9),
        "also of what was earned before"
    );
    solo.raft.set_promise_ns(None);
    assert_eq!(solo.raft.lease_until_ns(), None, "a member said nothing");
    solo.raft
        .set_promise_ns(Some(options().election_timeout_ns * 4));
    assert_eq!(
        solo.raft.lease_until_ns(),
        Some(sent_ns + lease_ns()),
        "the own election timeout is a promise too"
    );
}

/// The promise that a replica gave before it was restarted with a shorter election timeout.
#[test]
fn a_restarted_replica_keeps_the_longer_promise_that_it_gave_before() {
    let shorter = Options {
        restart_wait_ns: options().election_timeout_ns * 3,
        ..options()
    };
    let mut solo = Solo::with_log(shorter, 3, 1, &[1]);
    let asks = Body::Vote {
        last_index: LogIndex(9),
        last_term: Term(1),
        transfer: false,
    };
    solo.wait(options().election_timeout_ns * 3 - 1);
    let granted = |solo: &mut Solo| {
        solo.hears(2, 5, asks.clone());
        let mut messages: Vec<Message> = solo.messages();
        messages.extend(solo.sync());
        let mut bodies = messages.into_iter().map(|it| it.body);
        bodies.any(|body| matches!(body, Body::VoteReply { granted: true }))
    };
    assert!(!granted(&mut solo), "a lease may rest on it");
    solo.now_ns += 1;
    assert!(granted(&mut solo));
}

#[test]
fn a_single_voter_holds_its_lease_forever() {
    let mut solo = Solo::new(1);
    solo.lead_committed();
    assert_eq!(solo.raft.lease_until_ns(), Some(u64::MAX));
}

/// The judge of the cluster checks that nobody with a valid lease misses what is committed.
#[test]
fn a_leader_cut_off_loses_its_lease_before_another_can_commit() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.commit("before", &[]);
    cluster.run(200 * MS);
    assert!(
        cluster
            .raft(old)
            .lease_until_ns()
            .is_some_and(|until_ns| until_ns > cluster.now_ns)
    );
    cluster.isolate(old);
    cluster.run_until("another leader", |cluster| {
        cluster.leaders().any(|leader| leader != old)
    });
    let until_ns = cluster.raft(old).lease_until_ns();
    assert!(until_ns.is_none_or(|until_ns| until_ns < cluster.now_ns));
    cluster.commit("after", &[]);
    assert!(cluster.judge.committed_to() > LogIndex(2));
}
