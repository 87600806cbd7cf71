//! `quorate-sim`: plays the runs of many seeds and says which failed.

use std::process::ExitCode;

use quorate_sim::tool;

fn main() -> ExitCode {
    tool::main(std::env::args().skip(1))
}
