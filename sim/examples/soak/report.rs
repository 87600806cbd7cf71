//! Judges what was recorded, and says what was done, what was seen and what was skipped.

use std::path::PathBuf;

use quorate_sim::judge::{ClientOrder, Operation, Response, check_appends, check_linearizable};

use crate::faults::Fault;
use crate::record;

/// One fault: what, of whom, when.
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) node: u64,
    pub(crate) from_ns: u64,
    pub(crate) until_ns: u64,
}

/// Steps of the search for each key.
const STEPS_MAX: u64 = 5_000_000;

/// Prints everything; whether all of it is as it must be.
pub(crate) fn judge(
    files: &[PathBuf],
    strikes: &[Strike],
    skipped: &[String],
    failures: &[String],
) -> Result<bool, String> {
    let operations = record::merge(files).map_err(|error| error.to_string())?;
    let count = |of: fn(&Response) -> bool| operations.iter().filter(|it| of(&it.response)).count();
    let unknown = count(|it| *it == Response::Unknown);
    let refused = count(|it| *it == Response::Refused);
    println!(
        "\n{} operations: {unknown} unknown, {refused} refused, the rest answered",
        operations.len()
    );
    let writes = acknowledged_writes(&operations);
    print_gaps(&writes, strikes);
    for reason in skipped {
        println!("SKIPPED {reason}");
    }
    for failure in failures {
        println!("FAILED {failure}");
    }
    let (appends, others): (Vec<Operation>, Vec<Operation>) = operations
        .into_iter()
        .partition(|it| it.op.key().starts_with(b"a"));
    let appended = check_appends(&appends, ClientOrder::Kept);
    match &appended {
        Ok(seen) => println!(
            "appends: {} in {} keys seen by {} reads, none lost, doubled, reordered or stale",
            seen.appends, seen.keys, seen.reads
        ),
        Err(wrong) => println!("APPENDS: {wrong}"),
    }
    let verdict = check_linearizable(&others, STEPS_MAX);
    println!("{} operations on registers: {verdict}", others.len());
    let has_seen = appended
        .as_ref()
        .is_ok_and(|seen| seen.appends > 100 && seen.reads > 100);
    if !has_seen {
        println!("FAILED too little was recorded to say anything");
    }
    Ok(has_seen && verdict.is_linearizable() && failures.is_empty())
}

/// When writes were acknowledged, ascending.
fn acknowledged_writes(operations: &[Operation]) -> Vec<u64> {
    let is_write = |it: &&Operation| matches!(it.response, Response::Done | Response::Length(_));
    let mut times: Vec<u64> = operations
        .iter()
        .filter(is_write)
        .filter_map(|it| it.completed_at_ns)
        .collect();
    times.sort_unstable();
    times
}

/// The longest time without an acknowledged write that overlaps each kind of fault.
fn print_gaps(writes: &[u64], strikes: &[Strike]) {
    println!("fault      times  longest time without an acknowledged write, of all clients");
    for fault in [Fault::Kill, Fault::Pause, Fault::Partition, Fault::FullDisk] {
        let of: Vec<&Strike> = strikes.iter().filter(|it| it.fault == fault).collect();
        let mut gaps: Vec<(u64, u64)> = of
            .iter()
            .map(|strike| (longest_gap(writes, strike), strike.node))
            .collect();
        gaps.sort_unstable();
        if let (Some(longest), Some(median)) = (gaps.last(), gaps.get(gaps.len() / 2)) {
            println!(
                "{:<10} {:>5}  {} ms (node {}), median {} ms",
                format!("{fault:?}"),
                of.len(),
                longest.0 / 1_000_000,
                longest.1,
                median.0 / 1_000_000
            );
        }
    }
}

fn longest_gap(writes: &[u64], strike: &Strike) -> u64 {
    let overlaps = writes
        .windows(2)
        .filter(|pair| pair[1] >= strike.from_ns && pair[0] <= strike.until_ns);
    overlaps.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}
