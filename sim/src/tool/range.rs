//! Many seeds, on several threads.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::arguments::Arguments;
use super::{ToolError, verdict};
use crate::marks::{MARKS, MarkCounts};
use crate::phases::run;
use crate::workload::Workload;

/// Seeds between two lines of progress.
const PROGRESS_SEEDS: u64 = 50;

pub(super) fn play_many<W: Workload>(
    arguments: &Arguments,
    program: &str,
) -> Result<ExitCode, ToolError> {
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
                    let seed = arguments.start + number;
                    let config = arguments.config(seed);
                    let config = config.expect("without a replay, nothing is left out");
                    let report = run::<W>(seed, config, false);
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
    let code = verdict(&mut out, &failed)?;
    if !failed.is_empty() {
        let command = arguments.command(program, "--shrink", "SEED");
        eprintln!("to see why one of them fails: {command}");
    }
    Ok(code)
}

fn progress(done: u64, seeds: u64, failed: usize, began: Instant) {
    let per_s = done as f64 / began.elapsed().as_secs_f64();
    eprint!("\r{done} of {seeds} seeds, {failed} failed, {per_s:.0} seeds/s ");
}

fn print_marks(out: &mut impl io::Write, counts: &MarkCounts) -> io::Result<()> {
    for mark in MARKS {
        writeln!(out, "{:>10}  {}", counts.of(mark), mark.meaning())?;
    }
    Ok(())
}
