//! What is rare does happen: a range of seeds meets every mark.

use quorate_sim::config::Config;
use quorate_sim::marks::{MARKS, MarkCounts};
use quorate_sim::run;
use quorate_sim::workload::KvWorkload;

/// So many seeds meet each mark with room to spare; the range ends as soon as all are met.
const SEEDS_MAX: u64 = 3_000;

#[test]
fn every_mark_is_met() {
    assert!(MARKS.len() >= 30, "{} marks", MARKS.len());
    let mut counts = MarkCounts::default();
    for seed in 0..SEEDS_MAX {
        let report = run::<KvWorkload>(seed, Config::draw(seed), false);
        assert_eq!(report.failure, None, "seed {seed}");
        counts += &report.marks;
        if counts.missing().is_empty() {
            return;
        }
    }
    panic!("{SEEDS_MAX} seeds never met {:?}", counts.missing());
}
