//! Elections (3A).

use crate::harness::raft::Raft;
use crate::harness::{ELECTION_MS, for_each_seed};

/// A leader is elected, terms agree, and without a failure there still is a leader two seconds later.
#[test]
fn initial_election_3a() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        raft.check_one_leader();
        raft.run_ms(50);
        let term = raft.check_terms();
        assert!(term.0 >= 1, "the term is {term}");
        raft.run_ms(2 * ELECTION_MS);
        // The course only warns of this one.
        assert_eq!(
            raft.check_terms(),
            term,
            "terms changed though there was no failure"
        );
        raft.check_one_leader();
    });
}

/// A leader that is cut off is replaced; there is none without a quorum, and one as soon as there is a quorum again.
#[test]
fn re_election_3a() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        let first = raft.check_one_leader();
        raft.disconnect(first);
        raft.check_one_leader();
        raft.connect(first);
        let second = raft.check_one_leader();
        raft.disconnect(second);
        raft.disconnect((second + 1) % 3);
        raft.run_ms(2 * ELECTION_MS);
        raft.check_no_leader();
        raft.connect((second + 1) % 3);
        raft.check_one_leader();
        raft.connect(second);
        raft.check_one_leader();
    });
}

/// Whichever three of seven are cut off, the others have a leader.
#[test]
fn many_elections_3a() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 7);
        raft.check_one_leader();
        for _ in 1..10 {
            let cut = [raft.any_node(), raft.any_node(), raft.any_node()];
            raft.disconnect_each(&cut);
            raft.check_one_leader();
            raft.connect_each(&cut);
        }
        raft.check_one_leader();
    });
}
