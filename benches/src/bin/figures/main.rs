//! Runs every load beside its probe, several rounds, and prints one table of medians.
//!
//! ```text
//! cargo run --release -p quorate-benches --bin figures -- --svg docs/img > figures.md
//! ```
#![forbid(unsafe_code)]

mod plot;
mod suite;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use quorate_benches::{Failure, Place};

use suite::{Plan, Suite};

/// Measures Quorate beside raw probes on this machine; the table goes to standard output, progress to standard error.
///
/// The files go below the folder that `QUORATE_BENCH_DIR` names, else beside this program. Every load runs right
/// after its probe; each round runs all of them; the table shows medians over the rounds.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each load and each probe runs in a round, in milliseconds.
    #[arg(long, default_value_t = 450, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    slice_ms: u64,
    /// One round of 30 ms each: shows that everything runs, and nothing else.
    #[arg(long, conflicts_with_all = ["rounds", "slice_ms"])]
    quick: bool,
    /// Only these loads.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Load>,
    /// Draws the plots into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// Synced appends through the log.
    Log,
    /// Puts through a cluster of three.
    Puts,
    /// Reads from replicas in this process.
    Reads,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        eprintln!(
            "figures: this is a debug build, run it with --release: the figures mean nothing"
        );
    }
    let place = Place::from_environment()?;
    let has = |load| arguments.only.is_empty() || arguments.only.contains(&load);
    let plan = Plan {
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        slice: Duration::from_millis(if arguments.quick {
            30
        } else {
            arguments.slice_ms
        }),
        log: has(Load::Log),
        puts: has(Load::Puts),
        reads: has(Load::Reads),
    };
    eprintln!("files below {}", place.root().display());
    let mut suite = Suite::new(place, plan);
    suite.run()?;
    print!("{}", table::markdown(suite.cases(), &plan));
    if let Some(dir) = &arguments.svg {
        for path in plot::draw(suite.cases(), dir)? {
            eprintln!("drew {}", path.display());
        }
    }
    Ok(())
}
