//! Limits that differ between the members of a cluster, or were lowered.

use quorate::{Error, Options, Rejected};
use quorate_raft::{Body, Entry, EntryKind, LogIndex, Round};

use crate::bench::{Bench, GROUP, options};

/// What every node takes, up to 48 KiB.
fn generous(node: u64) -> Options {
    let mut options = options(node);
    options.log.entry_bytes_max = 48 << 10;
    options.log.batch_bytes_max = 128 << 10;
    options
}

/// One legal write over the `entry_bytes_max` of the followers ended their shards, with all groups in them, and told nobody:
/// the cluster stood still until both were restarted. A follower takes what was legal when it was written, and a leader
/// accepts no more than every node announced.
#[test]
fn an_entry_over_the_lowered_limit_of_a_follower_is_taken_and_no_other_is_accepted() {
    let mut bench = Bench::led_by_first(generous);
    bench.stop(3);
    bench.put("large", &vec![7; 40 << 10]);
    bench.set_options(3, options(3));
    bench.start(3);
    bench.until("all have it", |bench| {
        (1..=3).all(|id| {
            bench
                .get(id, "large")
                .is_some_and(|value| value.len() == 40 << 10)
        })
    });
    bench.assert_healthy();
    for id in 1..=3 {
        assert_eq!(bench.trouble(id), "");
        assert_eq!(bench.rejected(id), Rejected::default());
    }
    let call = bench.issue("larger", &vec![7; 40 << 10]);
    match bench.answer(call) {
        Err(Error::TooLarge(error)) => assert_eq!(error.limit, 16 << 10),
        other => panic!("{other:?}"),
    }
    // A node whose limit is low opens with what it has, and serves it to others.
    for id in [1, 2, 3] {
        bench.stop(id);
        bench.start(id);
    }
    bench.until("it is there again", |bench| {
        (1..=3).all(|id| bench.get(id, "large").is_some())
    });
    bench.assert_healthy();
}

#[test]
fn a_leader_refuses_what_is_over_its_own_limit_and_says_what_the_limit_is() {
    let mut bench = Bench::led_by_first(options);
    let call = bench.issue("large", &vec![7; 20 << 10]);
    match bench.answer(call) {
        Err(Error::TooLarge(error)) => assert_eq!(error.limit, 16 << 10),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.rejected(1).commands_too_large, 1);
    bench.assert_healthy();
}

/// What no log takes is refused by name, and reaches no log.
#[test]
fn an_entry_over_the_limit_of_the_format_is_refused_counted_and_reported() {
    let mut bench = Bench::led_by_first(options);
    let view = bench.node(2).view(GROUP);
    let (index, term) = (view.last_index.0, view.term.0);
    let append = |bytes: u64| Body::Append {
        prev_index: LogIndex(index),
        prev_term: quorate::Term(term),
        commit: LogIndex(index),
        round: Round(0),
        entries: vec![Entry {
            index: LogIndex(index + 1),
            term: quorate::Term(term),
            kind: EntryKind::Command,
            data: vec![0; bytes as usize].into(),
        }],
    };
    let limit = quorate_wal::ENTRY_BYTES_LIMIT;
    bench.forge_message(1, 2, term, append(limit + 1));
    bench.round();
    assert_eq!(bench.node(2).view(GROUP).last_index.0, index);
    assert_eq!(bench.rejected(2).entries_too_large, 1);
    assert!(
        bench.trouble(2).contains("41910273 bytes"),
        "{}",
        bench.trouble(2)
    );
    bench.assert_healthy();
}
