//! The `quorate` tool: runs a node, reads and writes keys, measures a cluster, looks into a log.
#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod calls;
mod log;
mod node;
mod text;

use std::fmt;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// Why a command did not do what was asked. Wrong usage never gets here: clap reports it, with exit code 2.
#[derive(Debug)]
enum Failure {
    /// It failed; the text says what to do.
    Failed(String),
    /// The key is not there.
    Absent,
}

const EXIT_FAILED: u8 = 1;
const EXIT_ABSENT: u8 = 3;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Node(arguments) => node::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Look(look) => return log::run(&look),
        Command::Call(call) => calls::run(&call),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Absent) => ExitCode::from(EXIT_ABSENT),
        Err(Failure::Failed(reason)) => {
            eprintln!("quorate: {reason}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Any error's own text.
impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}
