//! `quorate-sim`: plays the runs of many seeds and says which failed.

use std::process::ExitCode;

use quorate_sim::tool;
use quorate_sim::workload::KvWorkload;

fn main() -> ExitCode {
    tool::main::<KvWorkload>(std::env::args())
}
