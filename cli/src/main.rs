//! The `quorate` tool: runs a node, reads and writes keys, measures a cluster, looks into a log.
#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod calls;
mod connect;
mod log;
mod node;
mod out;
mod text;
mod time;

use std::fmt;
use std::process::ExitCode;

use clap::Parser;
use signal_hook::consts::SIGPIPE;

use arguments::{Arguments, Command};

/// Why a command did not do what was asked.
#[derive(Debug)]
enum Failure {
    /// It failed; the text says what to do.
    Failed(String),
    /// The arguments are wrong in a way that clap does not see.
    Usage(String),
    /// The key is not there.
    Absent,
    /// The value is not the expected one, and nothing was changed.
    Conflict(String),
    /// It was stopped by a signal, after it cleaned up.
    Interrupted(i32),
    /// Nobody reads what it prints.
    Unread,
    /// It failed, and has said why.
    Reported,
}

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_ABSENT: u8 = 3;
const EXIT_CONFLICT: u8 = 4;

/// What a shell adds to the number of a signal.
const EXIT_SIGNAL: i32 = 128;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return out::explain(error),
    };
    let outcome = match arguments.command {
        Command::Node(arguments) => node::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Look(look) => return log::run(&look),
        Command::Call(call) => calls::run(&call),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit(failure),
    }
}

fn exit(failure: Failure) -> ExitCode {
    let (code, reason) = match failure {
        Failure::Failed(reason) => (EXIT_FAILED, reason),
        Failure::Usage(reason) => (EXIT_USAGE, reason),
        Failure::Conflict(reason) => (EXIT_CONFLICT, reason),
        Failure::Absent => return ExitCode::from(EXIT_ABSENT),
        Failure::Reported => return ExitCode::from(EXIT_FAILED),
        Failure::Interrupted(signal) => return end_as_by(signal),
        Failure::Unread => return end_as_by(SIGPIPE),
    };
    out::complain(&reason);
    ExitCode::from(code)
}

/// Ends as a program does that does not handle the signal. Its parent sees that signal.
fn end_as_by(signal: i32) -> ExitCode {
    let _blocked = signal_hook::low_level::emulate_default_handler(signal);
    ExitCode::from(u8::try_from(EXIT_SIGNAL + signal).unwrap_or(EXIT_FAILED))
}

/// Not `Display`: it is no error if nobody reads.
impl From<out::Unprinted> for Failure {
    fn from(unprinted: out::Unprinted) -> Self {
        match unprinted {
            out::Unprinted::Unread => Self::Unread,
            out::Unprinted::Failed(error) => {
                Self::Failed(format!("standard output cannot be written: {error}"))
            }
        }
    }
}

/// Any error's own text.
impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}
