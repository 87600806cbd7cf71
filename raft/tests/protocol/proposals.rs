//! Taking commands in, within bounds.

use bytes::Bytes;
use quorate_raft::{EntryKind, LogIndex, NodeId, Options, ProposeError};

use crate::solo::{Solo, options};

fn commands(count: usize, bytes: usize) -> Vec<(EntryKind, Bytes)> {
    (0..count)
        .map(|_| (EntryKind::Command, Bytes::from(vec![1; bytes])))
        .collect()
}

#[test]
fn a_batch_stands_at_consecutive_indexes_of_the_present_term() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    let first = solo
        .raft
        .propose(solo.now_ns, commands(5, 10))
        .expect("taken");
    assert_eq!(first, LogIndex(2));
    assert_eq!(solo.raft.last_index(), LogIndex(6));
    assert_eq!(solo.raft.term_at(LogIndex(6)), Some(solo.raft.term()));
    assert_eq!(solo.raft.propose(solo.now_ns, []), Ok(LogIndex(7)));
    assert_eq!(solo.raft.last_index(), LogIndex(6));
}

/// Row 28: refused before it entered the log.
#[test]
fn uncommitted_bytes_are_bounded_and_a_refusal_leaves_no_trace() {
    let mut solo = Solo::with_log(
        Options {
            uncommitted_bytes_max: 1000,
            ..options()
        },
        3,
        0,
        &[],
    );
    solo.lead_committed();
    solo.raft
        .propose(solo.now_ns, commands(9, 68))
        .expect("900 bytes fit");
    let last = solo.raft.last_index();
    assert_eq!(
        solo.raft.propose(solo.now_ns, commands(2, 68)),
        Err(ProposeError::Busy)
    );
    assert_eq!(solo.raft.last_index(), last);
    solo.output();
    assert_eq!(solo.disk.live.last(), last);
    solo.sync();
    solo.accepted(2, last.0, 1);
    solo.output();
    solo.raft
        .propose(solo.now_ns, commands(2, 68))
        .expect("there is room again");
}

#[test]
fn a_command_beyond_the_bound_is_taken_when_nothing_else_waits() {
    let mut solo = Solo::with_log(
        Options {
            uncommitted_bytes_max: 1000,
            ..options()
        },
        3,
        0,
        &[],
    );
    solo.lead_committed();
    solo.raft
        .propose(solo.now_ns, commands(1, 5000))
        .expect("taken alone");
    assert_eq!(
        solo.raft.propose(solo.now_ns, commands(1, 1)),
        Err(ProposeError::Busy)
    );
}

#[test]
fn who_does_not_lead_says_who_does() {
    let mut solo = Solo::new(3);
    assert_eq!(
        solo.raft.propose(0, commands(1, 1)),
        Err(ProposeError::NotLeader { leader: None })
    );
    solo.hears_append(3, 1, (0, 0), &[1], 0);
    let refusal = ProposeError::NotLeader {
        leader: Some(NodeId(3)),
    };
    assert_eq!(solo.raft.propose(0, commands(1, 1)), Err(refusal));
}

/// Memory is bounded however far a peer lags; what left it is read back from the log.
#[test]
fn the_cache_is_bounded_and_a_lagging_peer_is_served_from_the_log() {
    let limits = Options {
        cache_bytes_max: 1000,
        append_bytes_max: 500,
        inflight_messages_max: 1,
        ..options()
    };
    let mut solo = Solo::with_log(limits, 3, 0, &[]);
    solo.lead_committed();
    solo.accepted(3, 1, 1);
    solo.output();
    for _ in 0..50 {
        let index = solo
            .raft
            .propose(solo.now_ns, commands(2, 68))
            .expect("taken")
            .0
            + 1;
        solo.output();
        solo.sync();
        solo.accepted(2, index, 1);
        solo.output();
        assert!(solo.raft.cached().1 <= 1000);
    }
    assert_eq!(solo.raft.applied(), LogIndex(101));
    let mut at = 3;
    while at < 101 {
        solo.accepted(3, at, 1);
        let messages = solo.messages();
        let Some(quorate_raft::Body::Append {
            prev_index,
            entries,
            ..
        }) = messages
            .iter()
            .find(|message| message.to == NodeId(3))
            .map(|message| &message.body)
        else {
            panic!("nothing is sent behind {at}");
        };
        assert_eq!(prev_index.0, at);
        at += entries.len() as u64;
    }
    assert!(solo.disk.entries_read > 80);
}

/// What followers have, and what is applied, need not stay in memory.
#[test]
fn a_group_at_rest_holds_no_entries() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    let last = solo
        .raft
        .propose(solo.now_ns, commands(500, 100))
        .expect("taken")
        .0
        + 499;
    solo.output();
    solo.sync();
    solo.accepted(2, last, 1);
    solo.accepted(3, last, 1);
    solo.output();
    assert_eq!(solo.raft.cached(), (0, 0));
}

/// A commit index is a hint: it alone is written rarely and waited for by nobody.
#[test]
fn a_commit_index_alone_is_written_once_a_heartbeat_and_not_synced() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    assert!(
        solo.raft
            .output(solo.now_ns, &mut solo.disk)
            .persist
            .is_none()
    );
    solo.wait(options().heartbeat_interval_ns);
    let persist = solo
        .raft
        .output(solo.now_ns, &mut solo.disk)
        .persist
        .expect("the commit index");
    assert!(!persist.must_sync);
    assert!(persist.entries.is_empty());
    assert_eq!(
        persist.hard_state.map(|state| state.commit),
        Some(LogIndex(1))
    );
    assert!(
        solo.raft
            .output(solo.now_ns, &mut solo.disk)
            .persist
            .is_none()
    );
}

/// Without anything to do, an output is empty, and that can be seen without taking it.
#[test]
fn nothing_comes_out_of_a_core_at_rest() {
    let mut solo = Solo::new(3);
    solo.lead_committed();
    while solo.raft.has_output() {
        solo.output();
    }
    assert!(solo.raft.output(solo.now_ns, &mut solo.disk).is_empty());
    solo.propose("x");
    assert!(solo.raft.has_output());
}
