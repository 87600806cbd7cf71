//! Starting from what a disk holds.

use quorate_raft::{
    HardState, LogIndex, NodeId, Options, Raft, RestoreError, Restored, SnapshotMeta, Term,
};

use crate::cluster::Cluster;
use crate::solo::{MS, Solo, config, options, restored};

fn restore(change: impl FnOnce(&mut Restored)) -> Result<Raft, RestoreError> {
    let mut state = restored(1, 3, 5, &[1, 1, 4, 5]);
    change(&mut state);
    Raft::new(options(), state, 0)
}

fn snapshot(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex(index),
        term: Term(term),
        config: config(3),
    }
}

#[test]
fn contradictions_on_disk_are_refused_by_name() {
    let error = |change: fn(&mut Restored)| {
        restore(change)
            .map(|raft| raft.last_index())
            .expect_err("refused")
    };
    let (commit, last) = (LogIndex(9), LogIndex(4));
    assert_eq!(
        error(|s| s.hard_state.commit = LogIndex(9)),
        RestoreError::CommitBeyondLog { commit, last }
    );
    assert_eq!(error(|s| s.config.voters.clear()), RestoreError::BadConfig);
    assert_eq!(
        error(|s| s.config.voters.reverse()),
        RestoreError::BadConfig
    );
    let behind = RestoreError::TermBehindLog {
        term: Term(4),
        entry: Term(5),
    };
    assert_eq!(error(|s| s.hard_state.term = Term(4)), behind);
    let gap = RestoreError::Gap {
        snapshot: LogIndex(0),
        first: LogIndex(2),
    };
    assert_eq!(error(|s| s.first_index = LogIndex(2)), gap);
    let short = RestoreError::LogEndsBeforeSnapshot {
        snapshot: LogIndex(6),
        last,
    };
    assert_eq!(error(|s| s.snapshot = snapshot(6, 5)), short);
    assert_eq!(
        error(|s| s.terms.swap(1, 2)),
        RestoreError::BadTerms { index: LogIndex(1) }
    );
    assert_eq!(
        error(|s| s.terms.truncate(1)),
        RestoreError::BadTerms { index: LogIndex(1) }
    );
    assert_eq!(
        error(|s| s.terms.clear()),
        RestoreError::BadTerms { index: LogIndex(1) }
    );
    assert_eq!(
        error(|s| s.snapshot = snapshot(3, 1)),
        RestoreError::BadTerms { index: LogIndex(3) }
    );
    assert_eq!(
        error(|s| s.last_index = LogIndex(u64::MAX)),
        RestoreError::OutOfRange
    );
    let options = Options {
        append_bytes_max: 0,
        ..options()
    };
    let refused = Raft::new(options, restored(1, 3, 0, &[]), 0).map(|raft| raft.id());
    assert!(matches!(refused, Err(RestoreError::Options(_))));
}

#[test]
fn the_terms_of_a_cut_log_may_begin_before_at_or_behind_its_first_entry() {
    let with = |index: u64, terms: &[(u64, u64)]| {
        let terms = terms
            .iter()
            .map(|&(index, term)| (LogIndex(index), Term(term)))
            .collect();
        restore(|state| {
            state.snapshot = snapshot(index, 4);
            state.first_index = LogIndex(3);
            state.terms = terms;
        })
        .expect("sound")
    };
    let known = with(3, &[(2, 1), (3, 4), (4, 5)]);
    assert_eq!(
        (known.first_index(), known.term_at(LogIndex(2))),
        (LogIndex(3), Some(Term(1)))
    );
    let unknown = with(3, &[(3, 4), (4, 5)]);
    assert_eq!(
        (unknown.first_index(), unknown.term_at(LogIndex(3))),
        (LogIndex(4), Some(Term(4)))
    );
    let by_snapshot = restore(|state| {
        state.snapshot = snapshot(2, 1);
        state.first_index = LogIndex(3);
        state.terms = vec![(LogIndex(3), Term(4)), (LogIndex(4), Term(5))];
    })
    .expect("sound");
    assert_eq!(
        (by_snapshot.first_index(), by_snapshot.term_at(LogIndex(2))),
        (LogIndex(3), Some(Term(1)))
    );
    let empty = restore(|state| {
        state.snapshot = snapshot(4, 5);
        state.first_index = LogIndex(5);
        state.terms.clear();
    })
    .expect("sound");
    assert_eq!(
        (empty.last_index(), empty.commit(), empty.applied()),
        (LogIndex(4), LogIndex(4), LogIndex(4))
    );
}

/// What was known to be committed is applied again at once, without waiting for a leader.
#[test]
fn committed_entries_come_out_again_after_a_restart() {
    let mut solo = Solo::new(3);
    solo.hears_append(2, 1, (0, 0), &[1, 1, 1], 3);
    solo.output();
    solo.sync();
    solo.hears_append(2, 1, (3, 1), &[1], 3);
    solo.output();
    solo.sync();
    let state = solo.disk.restored(NodeId(1), &config(3));
    assert_eq!(
        state.hard_state,
        HardState {
            term: Term(1),
            vote: None,
            commit: LogIndex(3)
        }
    );
    solo.raft = Raft::new(options(), state, solo.now_ns).expect("sound");
    let committed: Vec<u64> = solo
        .output()
        .committed
        .iter()
        .map(|entry| entry.index.0)
        .collect();
    assert_eq!(committed, [1, 2, 3]);
}

/// Row 2, and the whole of it: everybody loses power at any time.
#[test]
fn what_was_committed_survives_a_crash_of_all() {
    let mut cluster = Cluster::new(3);
    let everybody = cluster.config.voters.clone();
    for round in 0..5 {
        cluster.commit(&format!("round {round}"), &[]);
        let before = cluster.judge.committed_to();
        for &id in &everybody {
            cluster.crash(id);
        }
        for &id in &everybody {
            cluster.restart(id);
        }
        cluster.commit(&format!("after round {round}"), &everybody);
        assert!(cluster.judge.committed_to() > before);
        cluster.run(10 * MS);
    }
}
