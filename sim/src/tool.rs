//! The command line: many seeds on all cores, or one seed again with all that happened.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use parking_lot::Mutex;

use crate::config::Config;
use crate::marks::{MARKS, MarkCounts};
use crate::phases::{Report, run};
use crate::workload::KvWorkload;

/// Plays clusters over virtual networks, disks and clocks, one for each seed, and judges every step.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Plays one seed and prints what happened, one line a step.
    #[arg(long)]
    replay: Option<u64>,
    /// Plays plain clusters of three for about twenty virtual seconds, to measure how fast runs are.
    #[arg(long)]
    plain: bool,
    /// Prints how often rare things happened.
    #[arg(long)]
    marks: bool,
    /// How many threads; as many as there are cores, unless told.
    #[arg(long)]
    threads: Option<usize>,
}

/// Does what the arguments say. Exit code 1: some run failed.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let name = std::iter::once("quorate-sim".to_owned());
    let arguments = Arguments::parse_from(name.chain(arguments));
    match arguments.replay {
        Some(seed) => replay(&arguments, seed),
        None => play_many(&arguments),
    }
}

fn play(arguments: &Arguments, seed: u64, keeps_text: bool) -> Report {
    let config = if arguments.plain {
        Config::plain(seed)
    } else {
        Config::draw(seed)
    };
    run::<KvWorkload>(seed, config, keeps_text)
}

fn replay(arguments: &Arguments, seed: u64) -> ExitCode {
    println!("{:?}", Config::draw(seed));
    println!("{:>12} {:<5} {:<10} detail", "ms", "who", "step");
    let report = play(arguments, seed, true);
    for line in &report.lines {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} steps, {} calls, trace {:016x}",
        report.steps, report.calls, report.hash
    );
    verdict(&[report])
}

fn play_many(arguments: &Arguments) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let virtual_ms = AtomicU64::new(0);
    let marks = Mutex::new(MarkCounts::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let report = play(arguments, arguments.start.wrapping_add(number), false);
                    virtual_ms.fetch_add(report.virtual_ns / 1_000_000, Ordering::Relaxed);
                    *marks.lock() += &report.marks;
                    if report.failure.is_some() {
                        failed.lock().push(report);
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(PROGRESS_SEEDS) {
                        progress(done, arguments.seeds, failed.lock().len(), began);
                    }
                }
            });
        }
    });
    progress(arguments.seeds, arguments.seeds, failed.lock().len(), began);
    eprintln!(
        "\n{} virtual seconds in {:.1} s",
        virtual_ms.into_inner() / 1_000,
        began.elapsed().as_secs_f64()
    );
    if arguments.marks {
        print_marks(&marks.into_inner());
    }
    let mut failed = failed.into_inner();
    failed.sort_by_key(|report| report.seed);
    verdict(&failed)
}

/// Seeds between two lines of progress.
const PROGRESS_SEEDS: u64 = 50;

fn progress(done: u64, seeds: u64, failed: usize, began: Instant) {
    let per_s = done as f64 / began.elapsed().as_secs_f64();
    eprint!("\r{done} of {seeds} seeds, {failed} failed, {per_s:.0} seeds/s ");
}

fn print_marks(counts: &MarkCounts) {
    for mark in MARKS {
        println!("{:>10}  {}", counts.of(mark), mark.meaning());
    }
}

fn verdict(reports: &[Report]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for report in reports {
        if let Some(failure) = &report.failure {
            let at_ms = failure.at_ns as f64 / 1e6;
            println!(
                "seed {} failed at {at_ms:.3} ms: {}",
                report.seed, failure.what
            );
            code = ExitCode::FAILURE;
        }
    }
    code
}
