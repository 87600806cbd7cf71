//! Ten minutes of real processes: kill, pause, partition and full disk, judged by what clients saw.
//!
//! Three processes, each a node over TCP with its own directory and its own clients, run under a
//! random schedule of faults. Every client writes down what it calls and what it is answered, in a
//! file that survives the process. At the end two judges read all of it: one looks for an order that
//! explains every answer (linearizability), one follows the appends (lost, doubled, reordered,
//! stale).
//!
//! ```sh
//! cargo run --release -p quorate-sim --example soak -- --seconds 600
//! ```
//!
//! Partitions need network namespaces, and the full disk needs a loop-mounted file system: both
//! need root. What cannot be had is reported as skipped, and everything else is done.
//!
//! Exit code: 0 if both judges are satisfied and every fault was followed by progress, 1 if not, 2 if the
//! run could not be set up.

mod faults;
mod hosts;
mod member;
mod record;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Real processes under faults, judged by what their clients saw")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// How long the faults go on.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Where the schedule of faults comes from; drawn from the clock unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Where directories and histories go; a temporary directory unless given. Kept after a failure.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// One node and its clients: started by the soak itself.
    #[command(hide = true)]
    Member(member::MemberArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.role {
        Some(Role::Member(member)) => member::run(&member).map(|()| true),
        None => faults::run(arguments.seconds, arguments.seed, arguments.dir),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("soak: {reason}");
            ExitCode::from(2)
        }
    }
}
