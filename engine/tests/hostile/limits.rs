//! Limits that differ between the members of a cluster, or were lowered.

use quorate::{Error, Options, Rejected};
use quorate_raft::{Body, Entry, EntryKind, LogIndex, Round};

use crate::bench::{Bench, GROUP, options};

/// Only the first node takes entries of 48 KiB.
fn unequal(node: u64) -> Options {
    let mut options = options(node);
    if node == 1 {
        options.log.entry_bytes_max = 48 << 10;
        options.log.batch_bytes_max = 128 << 10;
    }
    options
}

/// One legal write under unequal `entry_bytes_max` ended the shards of both followers, with all groups in them, and told
/// nobody: the cluster stood still until both were restarted.
#[test]
fn an_entry_that_only_the_leaders_options_allow_stops_nobody() {
    let mut bench = Bench::led_by_first(unequal);
    bench.put("large", &vec![7; 40 << 10]);
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
