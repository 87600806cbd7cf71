//! One run again, with all that happened.

use std::io::{self, Write};
use std::process::ExitCode;

use super::arguments::Arguments;
use super::{ToolError, verdict};
use crate::config::SCHEME;
use crate::phases::run;
use crate::picture::Picture;
use crate::workload::Workload;

pub(super) fn replay<W: Workload>(
    arguments: &Arguments,
    program: &str,
    seed: u64,
    out: impl Write,
) -> Result<ExitCode, ToolError> {
    let config = arguments.config(seed)?;
    let mut out = io::BufWriter::new(out);
    writeln!(out, "{config:?}")?;
    writeln!(
        out,
        "ms: virtual time; who: n1 a node, c0 a clerk, or the world; step: what it did; detail: what it saw and sent"
    )?;
    writeln!(out, "{:>12} {:<5} {:<10} detail", "ms", "who", "step")?;
    let report = run::<W>(seed, config, true);
    for line in &report.lines {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "seed {seed}@{SCHEME}: {} steps, {} calls, trace {:016x}",
        report.steps, report.calls, report.hash
    )?;
    let code = verdict(&mut out, std::slice::from_ref(&report))?;
    // Whoever asks for a picture where none can be written still reads the rest.
    out.flush()?;
    if let Some(path) = &arguments.picture {
        let mut command = arguments.command(program, "--replay", &format!("{seed}@{SCHEME}"));
        if let Some(reduction) = &arguments.only {
            command = format!("{command} --only {reduction}");
        }
        Picture::of_run(&command, &report).write(path)?;
    }
    Ok(code)
}
