//! Whole runs: that they come again, that they pass, and that what is wrong is found.

use quorate::simulation::{Image, Map, MapImage, RestoreError, StateMachine};
use quorate::{Bytes, Error, MapView};
use quorate_sim::config::Config;
use quorate_sim::faults::{FaultClass, SwarmPlan};
use quorate_sim::seed::Rng;
use quorate_sim::workload::{Call, KvWorkload, Ticket, Workload};
use quorate_sim::{Report, run};

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

/// A map in which something is wrong.
#[derive(Default)]
struct Wrong<const BUG: u8> {
    map: Map,
    /// Commands applied by this process, which no snapshot holds.
    applied: u64,
}

/// It panics at an entry.
const PANICS: u8 = 0;
/// What it does depends on something that is not replicated.
const DIFFERS: u8 = 1;
/// It answers some commands and does not apply them.
const FORGETS: u8 = 2;

impl<const BUG: u8> StateMachine for Wrong<BUG> {
    type View = MapView;
    type Image = MapImage;

    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes {
        self.applied += 1;
        assert!(BUG != PANICS || index != 40, "no machine is this wrong");
        let skips = match BUG {
            DIFFERS => self.applied.is_multiple_of(10),
            FORGETS => index.is_multiple_of(10),
            _ => false,
        };
        if skips {
            let copy = Map::restore(&mut &written(&self.map)[..]);
            return copy.expect("it was just written").apply(index, command);
        }
        self.map.apply(index, command)
    }

    fn view(&self) -> MapView {
        self.map.view()
    }

    fn query(view: &MapView, query: &Bytes) -> Bytes {
        Map::query(view, query)
    }

    fn image(&self) -> MapImage {
        self.map.image()
    }

    fn restore(source: &mut dyn std::io::Read) -> Result<Self, RestoreError> {
        let map = Map::restore(source)?;
        Ok(Self { map, applied: 0 })
    }
}

fn written(map: &Map) -> Vec<u8> {
    let mut bytes = Vec::new();
    map.image().write_to(&mut bytes).expect("memory takes it");
    bytes
}

/// The usual calls, on a wrong machine.
struct OnWrong<const BUG: u8>(KvWorkload);

impl<const BUG: u8> Workload for OnWrong<BUG> {
    type Machine = Wrong<BUG>;

    fn new(config: &Config) -> Self {
        Self(KvWorkload::new(config))
    }

    fn call(&mut self, clerk: usize, rng: &mut Rng, now_ns: u64) -> (Ticket, Call) {
        self.0.call(clerk, rng, now_ns)
    }

    fn last_calls(&mut self, clerk: usize, now_ns: u64) -> Vec<(Ticket, Call)> {
        self.0.last_calls(clerk, now_ns)
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
        now_ns: u64,
    ) -> Result<(), String> {
        self.0.answered(ticket, answer, now_ns)
    }

    fn judge(&self) -> Result<(), String> {
        self.0.judge()
    }

    fn calls(&self) -> u64 {
        self.0.calls()
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
