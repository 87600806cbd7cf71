//! The example of a machine of one's own: the right one passes, and the wrong ones are found, named, and made small.

#[allow(dead_code, reason = "its main is called by nobody here")]
#[path = "../examples/custom_machine.rs"]
mod custom_machine;

use std::process::ExitCode;

use custom_machine::{BROKEN, PANICS, SOUND, Transfers};
use quorate_sim::config::Config;
use quorate_sim::shrink::shrink;
use quorate_sim::{Report, run, tool};

fn play<const MISTAKE: u8>(seed: u64) -> Report {
    run::<Transfers<MISTAKE>>(seed, Config::draw(seed), false)
}

/// The first of some seeds that fails, and how it does.
fn failure_of<const MISTAKE: u8>() -> (u64, String) {
    let failures = (0..20).filter_map(|seed| {
        let failure = play::<MISTAKE>(seed).failure?;
        Some((seed, failure.what))
    });
    let first = failures.into_iter().next();
    first.expect("twenty seeds show that this machine is wrong")
}

fn code_of<const MISTAKE: u8>(line: &str) -> ExitCode {
    let words = ["bank"].into_iter().chain(line.split(' '));
    tool::main::<Transfers<MISTAKE>>(words.map(str::to_owned))
}

#[test]
fn the_right_one_passes() {
    let mut calls = 0;
    for seed in 0..40 {
        let report = play::<SOUND>(seed);
        assert_eq!(report.failure, None, "seed {seed}");
        calls += report.calls;
    }
    assert!(calls > 4_000, "{calls} calls were judged");
}

#[test]
fn the_one_that_makes_money_is_found_and_made_small() {
    let (seed, what) = failure_of::<BROKEN>();
    assert!(what.contains("were paid in"), "seed {seed}: {what}");
    let shrunk = shrink::<Transfers<BROKEN>>(seed, &Config::draw(seed), |_, _| {}).unwrap();
    let reduction = &shrunk.reduction;
    // No fault is to blame: a single call of a single clerk to a single node is enough.
    assert_eq!(reduction.troubles.as_ref().unwrap().to_string(), "none");
    assert!(
        reduction.nodes.is_none_or(|nodes| nodes == 1),
        "{reduction}"
    );
    assert!(reduction.calls < Some(20), "{reduction}");
    let failure = shrunk.report.failure.expect("what was shrunk fails");
    assert!(failure.what.contains("were paid in"), "{failure:?}");
}

#[test]
fn the_one_that_panics_is_blamed_for_it() {
    let (seed, what) = failure_of::<PANICS>();
    let is_blamed = what.starts_with("the machine panics in apply, at index ");
    assert!(is_blamed && what.contains("has no"), "seed {seed}: {what}");
    let shrunk = shrink::<Transfers<PANICS>>(seed, &Config::draw(seed), |_, _| {}).unwrap();
    let failure = shrunk.report.failure.expect("what was shrunk fails");
    assert!(
        failure.what.starts_with("the machine panics in apply"),
        "{failure:?}"
    );
}

#[test]
fn the_command_line_says_it_with_its_exit_code() {
    let lines = "--seeds 10 --threads 1";
    assert_eq!(code_of::<SOUND>(lines), ExitCode::SUCCESS);
    assert_eq!(code_of::<BROKEN>(lines), ExitCode::FAILURE);
    let (seed, _) = failure_of::<BROKEN>();
    assert_eq!(
        code_of::<BROKEN>(&format!("--shrink {seed}")),
        ExitCode::FAILURE
    );
    assert_eq!(
        code_of::<SOUND>(&format!("--shrink {seed}")),
        ExitCode::from(2)
    );
}
