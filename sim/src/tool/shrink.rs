//! A run that fails, made small.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use super::arguments::Arguments;
use super::{ToolError, verdict};
use crate::config::{Config, SCHEME};
use crate::picture::Picture;
use crate::shrink::Shrunk;
use crate::workload::Workload;

pub(super) fn shrink<W: Workload>(
    arguments: &Arguments,
    program: &str,
    seed: u64,
    out: impl Write,
) -> Result<ExitCode, ToolError> {
    let config = arguments.config(seed)?;
    let is_watched = io::stderr().is_terminal();
    let shrunk = crate::shrink::shrink::<W>(seed, &config, |attempts, smallest| {
        if is_watched {
            // To the end of the line, which may have been longer.
            eprint!("\r\x1b[K{attempts} runs; smallest: {smallest:.100}");
        }
    });
    if is_watched {
        eprintln!();
    }
    let shrunk = shrunk.map_err(|reason| ToolError::NoFailure { seed, reason })?;
    let command = arguments.command(program, "--replay", &format!("{seed}@{SCHEME}"));
    let command = format!("{command} --only {}", shrunk.reduction);
    let mut out = io::BufWriter::new(out);
    verdict(&mut out, std::slice::from_ref(&shrunk.whole))?;
    describe(&mut out, &config, &shrunk)?;
    writeln!(out, "replay it with:\n  {command}")?;
    // It took long to find, and is not lost where no picture can be written.
    out.flush()?;
    if let Some(path) = &arguments.picture {
        Picture::of_run(&command, &shrunk.report).write(path)?;
    }
    // What was shrunk has failed.
    Ok(ExitCode::FAILURE)
}

/// What is left, and what it comes to.
fn describe(out: &mut impl Write, config: &Config, shrunk: &Shrunk) -> io::Result<()> {
    let Shrunk {
        reduction,
        report,
        whole,
        attempts,
        is_given_up,
    } = shrunk;
    let clerks = (0..config.clerks).filter(|&clerk| reduction.may_call(clerk, 0));
    let calls = report.calls;
    writeln!(
        out,
        "after {attempts} runs the smallest that fails in the same way has"
    )?;
    let trouble_ms = config.trouble_ns / 1_000_000;
    let left = [
        (
            "nodes",
            reduction.nodes.unwrap_or(config.nodes) as u64,
            config.nodes as u64,
        ),
        (
            "groups",
            u64::from(reduction.groups.unwrap_or(config.groups)),
            u64::from(config.groups),
        ),
        (
            "clerks that call",
            clerks.count() as u64,
            config.clerks as u64,
        ),
        ("calls", calls, whole.calls),
        (
            "ms of trouble",
            reduction.trouble_ms.unwrap_or(trouble_ms),
            trouble_ms,
        ),
    ];
    for (what, left, of) in left {
        writeln!(out, "  {left:>6} of {of} {what}")?;
    }
    let story = report.story.iter();
    let strikes: Vec<_> = story.flat_map(|story| &story.strikes).collect();
    writeln!(
        out,
        "  {:>6} of {} troubles that strike",
        strikes.len(),
        whole.troubles
    )?;
    for strike in strikes {
        writeln!(out, "         {strike}")?;
    }
    let lasting = config.plan.classes.iter().filter(|class| !class.is_event());
    for class in lasting {
        let is_left = !reduction.without.contains(class);
        writeln!(
            out,
            "  {} {class:?}",
            if is_left { "  with" } else { "   not" }
        )?;
    }
    if *is_given_up {
        writeln!(
            out,
            "more could go, perhaps: no more runs than these are played"
        )?;
    }
    if let Some(failure) = &report.failure {
        writeln!(
            out,
            "it fails at {:.3} ms: {}",
            failure.at_ns as f64 / 1e6,
            failure.what
        )?;
    }
    Ok(())
}
