//! Reduced runs: what stays strikes as before, what fails is made small, and the small one is played again.

mod wrong;

use quorate_sim::config::Config;
use quorate_sim::reduction::{Numbers, Reduction};
use quorate_sim::shrink::{ATTEMPTS_MAX, NoFailure, shrink};
use quorate_sim::story::Strike;
use quorate_sim::trials::Trials;
use quorate_sim::workload::{KvWorkload, Workload};
use quorate_sim::{FailureClass, Report, run};

use wrong::{AGES, DIFFERS, FORGETS, OnWrong, PANICS};

fn play<W: Workload>(seed: u64, reduction: &Reduction, keeps_text: bool) -> Report {
    let mut config = drawn(seed);
    config.reduce(reduction.clone()).expect("it can be had");
    run::<W>(seed, config, keeps_text)
}

/// The run of a seed without trials: one sick disk has clerks call more than a reduction says.
fn drawn(seed: u64) -> Config {
    let mut config = Config::draw(seed);
    config.trials = Trials::default();
    config
}

fn strikes(report: &Report) -> &[Strike] {
    &report.story.as_ref().expect("it was kept").strikes
}

#[test]
fn what_is_left_strikes_when_it_did_and_draws_what_it_drew() {
    let mut compared = 0;
    for seed in 0..60 {
        let whole = play::<KvWorkload>(seed, &Reduction::default(), true);
        let told: Vec<u32> = strikes(&whole).iter().map(|it| it.number).collect();
        for kept in [0, 1] {
            let numbers: Numbers = told.iter().copied().filter(|it| it % 2 == kept).collect();
            let reduction = Reduction {
                troubles: Some(numbers.clone()),
                ..Reduction::default()
            };
            let reduced = play::<KvWorkload>(seed, &reduction, true);
            assert_eq!(reduced.troubles, whole.troubles, "seed {seed}");
            for strike in strikes(&reduced) {
                assert!(numbers.contains(strike.number), "seed {seed}");
                let mut before = strikes(&whole).iter();
                let before = before.find(|it| it.number == strike.number);
                let before = before.expect("what was not left out struck before");
                // One that lasts may end early, with another one.
                let drawn =
                    |it: &Strike| (it.class, it.at_ns, (!it.lasts()).then_some(it.until_ns));
                let number = strike.number;
                assert_eq!(drawn(before), drawn(strike), "seed {seed}: {number}");
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared} troubles were compared");
}

#[test]
fn what_is_left_out_does_not_take_place() {
    let reduction: Reduction = "troubles=none,clerks=1,calls=3".parse().unwrap();
    for seed in 0..20 {
        if drawn(seed).clerks < 2 {
            continue;
        }
        let report = play::<KvWorkload>(seed, &reduction, true);
        assert_eq!(report.failure, None, "seed {seed}");
        assert!(
            strikes(&report).is_empty() && report.calls_max == 3,
            "seed {seed}"
        );
        let story = report.story.expect("it was kept");
        let others = story.calls.iter().filter(|call| call.clerk != 1);
        // The first clerk reads everything at the end, and so do the clients in nodes, which are numbered behind the clerks.
        let clerks = drawn(seed).clerks;
        assert!(
            others
                .into_iter()
                .all(|call| call.clerk == 0 || call.clerk >= clerks),
            "seed {seed}"
        );
    }
}

/// Seeds of a wrong machine that fail, and how.
fn failing<const BUG: u8>() -> impl Iterator<Item = (u64, FailureClass)> {
    (0..300).filter_map(|seed| {
        let report = play::<OnWrong<BUG>>(seed, &Reduction::default(), false);
        report.failure.map(|failure| (seed, failure.class()))
    })
}

fn shrinks<const BUG: u8>() {
    let (seed, class) = failing::<BUG>().next().expect("some seed shows it");
    let mut told = 0;
    let config = drawn(seed);
    let shrunk = shrink::<OnWrong<BUG>>(seed, &config, |attempts, _| told = attempts);
    let shrunk = shrunk.expect("it fails");
    assert_eq!(told, shrunk.attempts);
    assert!(shrunk.attempts < ATTEMPTS_MAX && !shrunk.is_given_up);
    // What is printed plays the same run.
    let reduction: Reduction = shrunk
        .reduction
        .to_string()
        .parse()
        .expect("it is printed so");
    let again = play::<OnWrong<BUG>>(seed, &reduction, false);
    assert_eq!(again.hash, shrunk.report.hash, "seed {seed}");
    let failure = again.failure.expect("it fails again");
    assert_eq!(failure.class(), class, "seed {seed} with {reduction}");
    assert!(again.calls < shrunk.whole.calls && again.steps < shrunk.whole.steps);
}

#[test]
fn wrong_machines_fail_in_the_same_way_when_they_are_shrunk() {
    shrinks::<PANICS>();
    shrinks::<DIFFERS>();
    shrinks::<FORGETS>();
}

#[test]
fn of_many_troubles_only_those_are_left_without_which_it_does_not_fail() {
    // It fails only if a process was restored, which without troubles happens at the end alone: a run with fewer clerks may be
    // old enough by then, and needs no trouble.
    let (seed, class, shrunk, left) = failing::<AGES>()
        .filter(|(seed, _)| {
            let none = "troubles=none".parse().unwrap();
            play::<OnWrong<AGES>>(*seed, &none, false).failure.is_none()
        })
        .find_map(|(seed, class)| {
            let shrunk = shrink::<OnWrong<AGES>>(seed, &drawn(seed), |_, _| {}).unwrap();
            let left: Vec<u32> = strikes(&shrunk.report).iter().map(|it| it.number).collect();
            (!left.is_empty()).then_some((seed, class, shrunk, left))
        })
        .expect("some seed shows it");
    assert!(left.len() <= 4, "seed {seed}: {left:?}");
    assert!(shrunk.whole.troubles > 4, "seed {seed}");
    for number in &left {
        let mut reduction = shrunk.reduction.clone();
        let others = left.iter().copied().filter(|it| it != number);
        reduction.troubles = Some(others.collect());
        let report = play::<OnWrong<AGES>>(seed, &reduction, false);
        let same = report.failure.is_some_and(|it| it.class() == class);
        assert!(!same, "seed {seed} fails without trouble {number} as well");
    }
}

#[test]
fn what_does_not_fail_is_not_shrunk() {
    let whole = play::<KvWorkload>(1, &Reduction::default(), false);
    let (steps, calls) = (whole.steps, whole.calls);
    let shrunk = shrink::<KvWorkload>(1, &drawn(1), |_, _| {});
    assert_eq!(shrunk.unwrap_err(), NoFailure { steps, calls });
}
