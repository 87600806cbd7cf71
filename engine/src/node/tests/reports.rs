//! What a replica refuses is reported to whoever observes the node, and never in a flood.

use quorate_raft::{Rejection, RejectionReason};

use super::super::reports::{REPORT_EVERY_NS, REPORTS_WAITING_MAX};
use super::*;

const TERM: u64 = 5;

/// A follower of node 2, with a committed entry.
fn follower() -> Bench {
    let voters = vec![NodeId(1), NodeId(2)];
    let mut bench = Bench::with(Arc::new(MemoryDisk::new()), u64::MAX / 4, voters);
    bench.take(says(TERM, first_entry(TERM, 1)));
    bench.take(Event::LogMoved);
    let replica = bench.shard.replica(GROUP).expect("its only one");
    assert_eq!(replica.raft.commit(), LogIndex(1));
    bench
}

fn first_entry(term: u64, commit: u64) -> Body {
    Body::Append {
        prev_index: LogIndex::ZERO,
        prev_term: Term::ZERO,
        commit: LogIndex(commit),
        round: Round::ZERO,
        entries: vec![Entry {
            index: LogIndex(1),
            term: Term(term),
            kind: EntryKind::Noop,
            data: Bytes::new(),
        }],
    }
}

/// Node 2 says this.
fn says(term: u64, body: Body) -> Event<Map> {
    let message = Message {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(term),
        body,
    };
    let messages = vec![GroupMessage {
        group: GROUP,
        message,
    }];
    Event::Frame(Origin::Node(NodeId(2)), Frame::Raft(messages))
}

/// A term that nobody ever counts to.
fn jump(by: u64) -> Event<Map> {
    says((1 << 40) + by, Body::TimeoutNow)
}

/// The reports that wait to be told; they are told with this.
fn reported(bench: &Bench) -> Vec<Rejection> {
    let jobs = std::mem::take(&mut *bench.jobs.0.lock()).into_iter();
    let reports = jobs.filter_map(|job| match job {
        Job::Report {
            group, rejection, ..
        } => {
            assert_eq!(group, GROUP);
            Some(rejection)
        }
        _ => None,
    });
    reports.collect()
}

#[test]
fn a_replica_that_contradicts_its_leader_reports_it() {
    let mut bench = follower();
    assert_eq!(reported(&bench), [], "nothing was refused");
    bench.take(says(TERM + 1, first_entry(TERM + 1, 0)));
    let [rejection] = reported(&bench)[..] else {
        panic!("one report");
    };
    assert_eq!(rejection.from, NodeId(2));
    let words = rejection.reason.to_string();
    assert!(words.contains("it contradicts the entries"), "{words}");
}

#[test]
fn of_each_kind_there_is_one_report_in_a_while() {
    let mut bench = follower();
    for by in 0..1_000 {
        bench.take(jump(by));
    }
    let jumps = reported(&bench);
    assert_eq!(jumps.len(), 1, "{jumps:?}");
    assert!(matches!(jumps[0].reason, RejectionReason::TermJump { .. }));
    bench.take(says(TERM + 1, first_entry(TERM + 1, 0)));
    assert_eq!(reported(&bench).len(), 1, "another kind");
    bench.now_ns += REPORT_EVERY_NS;
    bench.take(jump(0));
    bench.take(jump(0));
    assert_eq!(reported(&bench).len(), 1, "the first one is long ago");
}

#[test]
fn reports_that_nobody_takes_do_not_pile_up_and_are_made_up_for() {
    let mut bench = follower();
    for _ in 0..2 * REPORTS_WAITING_MAX {
        bench.now_ns += REPORT_EVERY_NS;
        bench.take(jump(0));
    }
    assert_eq!(bench.jobs.0.lock().len(), REPORTS_WAITING_MAX);
    assert_eq!(reported(&bench).len(), REPORTS_WAITING_MAX);
    // The last one was not told, so it does not count.
    bench.take(jump(0));
    assert_eq!(reported(&bench).len(), 1);
}
