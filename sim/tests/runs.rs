//! Whole runs: that they come again, that they pass, and that what is wrong is found.

mod wrong;

use quorate_sim::config::Config;
use quorate_sim::faults::{FaultClass, SwarmPlan};
use quorate_sim::workload::KvWorkload;
use quorate_sim::{Report, run};

use wrong::{DIFFERS, FORGETS, OnWrong, PANICS};

fn play(seed: u64) -> Report {
    run::<KvWorkload>(seed, Config::draw(seed), false)
}

#[test]
fn a_seed_plays_the_same_run_again() {
    let mut hashes = Vec::new();
    for seed in 0..30 {
        let (first, second) = (play(seed), play(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.steps, second.steps, "seed {seed}");
        hashes.push(first.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 30, "and every seed another one");
}

#[test]
fn text_changes_nothing() {
    let seed = 11;
    let read = run::<KvWorkload>(seed, Config::draw(seed), true);
    assert_eq!(read.hash, play(seed).hash);
    assert_eq!(read.lines.len() as u64, read.steps);
}

#[test]
fn two_hundred_seeds_pass() {
    let (mut calls, mut virtual_ns) = (0, 0);
    for seed in 0..200 {
        let report = play(seed);
        if let Some(failure) = report.failure {
            panic!("seed {seed} failed: {}", failure.what);
        }
        calls += report.calls;
        virtual_ns += report.virtual_ns;
    }
    assert!(calls > 20_000, "{calls} calls were judged");
    assert!(virtual_ns > 1_000_000_000_000, "{virtual_ns} ns passed");
}

#[test]
fn every_class_of_faults_alone_passes() {
    for class in quorate_sim::faults::FAULT_CLASSES {
        for seed in 1_000..1_004 {
            let mut config = Config::draw(seed);
            config.plan = SwarmPlan {
                classes: vec![class],
                gap_ns: 200_000_000,
            };
            config.has_lease_reads &= class != FaultClass::ClockJump;
            let report = run::<KvWorkload>(seed, config, false);
            let failure = report.failure.map(|failure| failure.what);
            assert_eq!(failure, None, "{class:?} alone, seed {seed}");
        }
    }
}

/// What went wrong with a machine, on the first of some seeds on which anything did.
fn failure_of<const BUG: u8>() -> String {
    let failures = (0..20).filter_map(|seed| {
        let report = run::<OnWrong<BUG>>(seed, Config::plain(seed), false);
        report.failure.map(|failure| failure.what)
    });
    let first = failures.into_iter().next();
    first.expect("twenty seeds show that this machine is wrong")
}

#[test]
fn a_machine_that_panics_is_found() {
    let what = failure_of::<PANICS>();
    assert!(what.contains("no machine is this wrong"), "{what}");
}

#[test]
fn a_machine_that_is_not_the_same_everywhere_is_found() {
    let what = failure_of::<DIFFERS>();
    let is_named = ["invariant 4", "invariant 15"];
    assert!(is_named.iter().any(|name| what.starts_with(name)), "{what}");
}

#[test]
fn a_machine_that_answers_and_does_nothing_is_found() {
    let what = failure_of::<FORGETS>();
    let is_named = ["answered", "does not show", "explained", "length"];
    assert!(is_named.iter().any(|name| what.contains(name)), "{what}");
}
