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

#[test]
fn the_documents_tell_of_each_mark_and_of_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/testing.md");
    let text = std::fs::read_to_string(path).expect("the document is here");
    let (_, section) = text
        .split_once("\n### Marks\n")
        .expect("there is a section on marks");
    let section = section.split("\n##").next().unwrap_or_default();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert_eq!(rows.len(), MARKS.len());
    for (row, mark) in rows.iter().zip(MARKS) {
        let told = format!("| `{mark:?}` | {} |", mark.meaning());
        assert!(row.starts_with(&told), "{row} instead of {told}");
    }
}
