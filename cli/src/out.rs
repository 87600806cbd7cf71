//! The only way out: everything that the tool prints goes through here, and what a terminal would obey does not.
//!
//! Nobody need read it. Standard output that is closed ends a call quietly, as SIGPIPE ends other tools; standard error
//! that is closed is no reason to fail.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::ContextValue;

use crate::text;

/// Prints lines that the tool laid out. What others wrote is made safe by whoever puts it on its line; here again, since
/// one of them may forget it.
pub(crate) fn print(lines: &str) -> Result<(), Unprinted> {
    write(text::lines(lines.as_bytes()).as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Unprinted> {
    write(bytes)
}

/// Why standard output does not have what was printed.
#[derive(Debug)]
pub(crate) enum Unprinted {
    /// Nobody reads it any more.
    Unread,
    Failed(io::Error),
}

fn write(bytes: &[u8]) -> Result<(), Unprinted> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Unprinted::Unread,
            _ => Unprinted::Failed(error),
        })
}

/// Says on standard error what went wrong.
pub(crate) fn complain(reason: &str) {
    note(&format!("quorate: {reason}"));
}

/// Says something on a line of standard error.
pub(crate) fn note(line: &str) {
    let _nobody_reads = writeln!(io::stderr(), "{}", text::message(line));
}

/// Shows a line of standard error in the place of the one before, if it is a terminal.
pub(crate) fn renew(line: &str) {
    if !is_error_terminal() {
        return note(line);
    }
    let mut out = io::stderr();
    // Back to the beginning of the line, and clear it.
    let _nobody_reads = write!(out, "\r\x1b[2K{}", text::message(line)).and_then(|()| out.flush());
}

/// Says what clap says of the arguments, or helps.
pub(crate) fn explain(mut error: clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help and version quote nobody, and may be in colour.
        let _nobody_reads = error.print();
        return ExitCode::SUCCESS;
    }
    let quoted = error.context().map(|(kind, value)| (kind, tame(value)));
    let quoted: Vec<_> = quoted.collect();
    for (kind, value) in quoted {
        if let Some(value) = value {
            error.insert(kind, value);
        }
    }
    let told = error.render().to_string();
    let _nobody_reads = write!(io::stderr(), "{}", text::lines(told.as_bytes()));
    ExitCode::from(crate::EXIT_USAGE)
}

/// What clap quotes of the arguments, on one line. `None`: it quotes nothing, or it is laid out by clap.
fn tame(value: &ContextValue) -> Option<ContextValue> {
    let styled = |it: &StyledStr| StyledStr::from(text::message(&it.to_string()));
    match value {
        ContextValue::String(it) => Some(ContextValue::String(text::message(it))),
        ContextValue::Strings(all) => {
            let all = all.iter().map(|it| text::message(it));
            Some(ContextValue::Strings(all.collect()))
        }
        ContextValue::StyledStrs(all) => {
            Some(ContextValue::StyledStrs(all.iter().map(styled).collect()))
        }
        _ => None,
    }
}

pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub(crate) fn is_error_terminal() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).expect("it is there") {
            let path = entry.expect("it is listed").path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                let text = fs::read_to_string(&path).expect("a source");
                found.push((path.display().to_string(), text));
            }
        }
    }

    /// Whoever prints elsewhere prints what others wrote as it is.
    #[test]
    fn nothing_is_printed_but_here() {
        let mut found = Vec::new();
        sources(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut found,
        );
        assert!(found.len() > 10, "{found:?}");
        for (path, source) in found {
            if path.ends_with("src/out.rs") {
                continue;
            }
            for word in ["println!", "print!", "stdout()", "stderr()", "dbg!"] {
                assert!(!source.contains(word), "{path} uses {word}");
            }
        }
    }
}
