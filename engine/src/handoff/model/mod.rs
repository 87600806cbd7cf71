//! The hand-offs under a model checker: `cargo test -p quorate --features model-check --lib
//! handoff::model`.
//!
//! Each scenario is run through all interleavings of its threads with a few preemptions, and
//! through all values that the memory order lets a load return; a thread that would sleep for ever
//! ends the run as a deadlock. Beside each scenario stand the mistakes that it must find: they are
//! built in one at a time, and a scenario that passes with one fails its test.

mod answers;
mod bell;
mod calls;
mod desk;
mod leased;
mod relay;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::sync::{Bug, build_in};

/// Preemptions in one run. Published studies found nearly all bugs of this kind with two.
const PREEMPTIONS: usize = 3;

/// Runs a scenario through all its interleavings.
fn check(preemptions: usize, scenario: fn()) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(scenario);
}

/// A scenario holds, and finds each of these mistakes.
fn holds_and_finds(preemptions: usize, scenario: fn(), bugs: &[Bug]) {
    build_in(None);
    check(preemptions, scenario);
    for &bug in bugs {
        build_in(Some(bug));
        let found = catch_unwind(AssertUnwindSafe(|| check(preemptions, scenario)));
        build_in(None);
        assert!(found.is_err(), "{bug:?} was not found");
    }
}
