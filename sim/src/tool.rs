//! The command line: many seeds on all cores, or one seed again with all that happened.
//!
//! Exit codes: 0 if no run failed, 1 if one did, 2 if what was asked for makes no sense.

use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use parking_lot::Mutex;

use crate::config::{Config, SCHEME};
use crate::faults::FaultClass;
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
    /// Plays one seed and prints what happened, one line a step. `SEED@SCHEME`, as failures are printed, is refused where
    /// seeds mean other runs than they did when it was printed.
    #[arg(long, value_name = "SEED[@SCHEME]")]
    replay: Option<SeedName>,
    /// Of the faults that each seed draws, has only these classes strike.
    #[arg(long, value_name = "CLASS,...", value_delimiter = ',')]
    faults: Option<Vec<FaultClass>>,
    /// Plays plain clusters of three for about twenty virtual seconds, to measure how fast runs are.
    #[arg(long)]
    plain: bool,
    /// Prints how often rare things happened.
    #[arg(long)]
    marks: bool,
    /// How many threads; as many as there are cores, unless told.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    threads: Option<u16>,
}

/// More threads than any machine has cores are a slip.
const THREADS_MAX: i64 = 1_024;

/// A seed, and what the seeds meant when it was noted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeedName {
    seed: u64,
    scheme: Option<u32>,
}

impl FromStr for SeedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seed, scheme) = match text.split_once('@') {
            Some((seed, scheme)) => (seed, Some(scheme)),
            None => (text, None),
        };
        let wrong = |what: &str| format!("{what} is no number; write SEED or SEED@SCHEME");
        let scheme = scheme.map(|it| it.parse().map_err(|_| wrong(it)));
        Ok(Self {
            seed: seed.parse().map_err(|_| wrong(seed))?,
            scheme: scheme.transpose()?,
        })
    }
}

/// Does what the arguments say.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let name = std::iter::once("quorate-sim".to_owned());
    let arguments = match Arguments::try_parse_from(name.chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody reads the answer if even this fails.
            let _ = error.print();
            // Help that was asked for is no error.
            let is_wrong = error.use_stderr();
            return ExitCode::from(if is_wrong { 2 } else { 0 });
        }
    };
    if let Err(reason) = check(&arguments) {
        eprintln!("error: {reason}");
        return ExitCode::from(2);
    }
    let done = match arguments.replay {
        Some(name) => replay(&arguments, name.seed),
        None => play_many(&arguments),
    };
    done.unwrap_or_else(|error| {
        // Whoever read it, as `head` does, has read enough.
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("error: the output cannot be written: {error}");
        }
        ExitCode::from(2)
    })
}

/// What the parser cannot say of the arguments.
fn check(arguments: &Arguments) -> Result<(), String> {
    let Arguments { seeds, start, .. } = *arguments;
    if start.checked_add(seeds - 1).is_none() {
        return Err(format!(
            "{seeds} seeds from {start} on go beyond the last one, {}, and would begin again at 0; start earlier or play \
             fewer",
            u64::MAX
        ));
    }
    let scheme = arguments.replay.and_then(|name| name.scheme);
    match scheme.filter(|&scheme| scheme != SCHEME) {
        None => Ok(()),
        Some(scheme) => Err(format!(
            "this seed was noted down by a simulator of scheme {scheme}, in which it meant another run than in this one, \
             which is of scheme {SCHEME}; replay it with the version that printed it, or leave @{scheme} away to see what \
             it means now"
        )),
    }
}

fn play(arguments: &Arguments, seed: u64, keeps_text: bool) -> Report {
    run::<KvWorkload>(seed, config(arguments, seed), keeps_text)
}

fn config(arguments: &Arguments, seed: u64) -> Config {
    let mut config = if arguments.plain {
        Config::plain(seed)
    } else {
        Config::draw(seed)
    };
    if let Some(classes) = &arguments.faults {
        config.allow_only(classes);
    }
    config
}

fn replay(arguments: &Arguments, seed: u64) -> io::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "{:?}", config(arguments, seed))?;
    writeln!(
        out,
        "ms: virtual time; who: n1 a node, c0 a clerk, or the world; step: what it did; detail: what it saw and sent"
    )?;
    writeln!(out, "{:>12} {:<5} {:<10} detail", "ms", "who", "step")?;
    let report = play(arguments, seed, true);
    for line in &report.lines {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "seed {seed}@{SCHEME}: {} steps, {} calls, trace {:016x}",
        report.steps, report.calls, report.hash
    )?;
    let code = verdict(&mut out, &[report])?;
    out.flush()?;
    Ok(code)
}

fn play_many(arguments: &Arguments) -> io::Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.map_or(cores, usize::from);
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
                    let report = play(arguments, arguments.start + number, false);
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
    let mut out = io::stdout().lock();
    if arguments.marks {
        print_marks(&mut out, &marks.into_inner())?;
    }
    let mut failed = failed.into_inner();
    failed.sort_by_key(|report| report.seed);
    verdict(&mut out, &failed)
}

/// Seeds between two lines of progress.
const PROGRESS_SEEDS: u64 = 50;

fn progress(done: u64, seeds: u64, failed: usize, began: Instant) {
    let per_s = done as f64 / began.elapsed().as_secs_f64();
    eprint!("\r{done} of {seeds} seeds, {failed} failed, {per_s:.0} seeds/s ");
}

fn print_marks(out: &mut impl Write, counts: &MarkCounts) -> io::Result<()> {
    for mark in MARKS {
        writeln!(out, "{:>10}  {}", counts.of(mark), mark.meaning())?;
    }
    Ok(())
}

fn verdict(out: &mut impl Write, reports: &[Report]) -> io::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for report in reports {
        if let Some(failure) = &report.failure {
            let at_ms = failure.at_ns as f64 / 1e6;
            let what = &failure.what;
            writeln!(
                out,
                "seed {}@{SCHEME} failed at {at_ms:.3} ms: {what}",
                report.seed
            )?;
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(line: &str) -> ExitCode {
        main(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong = [
            "--seeds 0".to_owned(),
            "--seeds many".to_owned(),
            "--threads 0".to_owned(),
            "--faults Crash,Gremlin".to_owned(),
            format!("--seeds 2 --start {}", u64::MAX),
            format!("--replay 1@{}", SCHEME + 1),
            "--replay 1@".to_owned(),
            "--replay x".to_owned(),
        ];
        for line in wrong {
            assert_eq!(code_of(&line), ExitCode::from(2), "{line}");
        }
    }

    #[test]
    fn what_makes_sense_is_played() {
        let right = [
            format!("--seeds 1 --threads 1 --start {}", u64::MAX),
            format!("--replay 1@{SCHEME}"),
            "--seeds 2 --faults crash,PowerCut --marks".to_owned(),
        ];
        for line in right {
            assert_eq!(code_of(&line), ExitCode::SUCCESS, "{line}");
        }
    }

    #[test]
    fn a_failure_is_named_with_what_replays_it() {
        let report = Report {
            failure: Some(crate::Failure {
                at_ns: 1_500_000,
                what: "two leaders".to_owned(),
            }),
            ..play(&Arguments::parse_from(["quorate-sim"]), 7, false)
        };
        let mut out = Vec::new();
        assert_eq!(verdict(&mut out, &[report]).unwrap(), ExitCode::FAILURE);
        let expected = format!("seed 7@{SCHEME} failed at 1.500 ms: two leaders\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
