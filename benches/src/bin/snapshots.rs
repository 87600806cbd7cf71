//! What synced appends lose while snapshots are written on the same disk; one table, in less than a minute.
//!
//! ```text
//! cargo run --release -p quorate-benches --bin snapshots -- 3
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use quorate_benches::{Failure, Place, Snapshotting};

/// Appends entries of 128 B, one at a time, while another thread writes snapshots of 256 MiB, one after the other.
///
/// The files go below the folder that `QUORATE_BENCH_DIR` names, else beside this program. Each way of writing snapshots
/// runs once a round; each line of the table is one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many rounds.
    #[arg(default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each runs, in milliseconds.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    slice_ms: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snapshots: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let place = Place::from_environment()?;
    println!("| snapshots | appends/s | p50 µs | p99 µs | p99.9 µs | max µs | snapshot MiB/s |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for _ in 0..arguments.rounds {
        for snapshotting in Snapshotting::ALL {
            let beside = snapshotting.run(&place, Duration::from_millis(arguments.slice_ms))?;
            let appends = &beside.appends;
            let us = |quantile| appends.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
            println!(
                "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
                snapshotting.name(),
                appends.ops_per_s(),
                us(0.5),
                us(0.99),
                us(0.999),
                us(1.0),
                beside.snapshot_bytes_per_s / f64::from(1 << 20),
            );
        }
    }
    Ok(())
}
