//! The tool as its user meets it: processes, exit codes, and what they print.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

mod bench;
mod cluster;
mod files;
mod log;
mod lone;
mod pipes;
mod printed;
mod run;
mod usage;
