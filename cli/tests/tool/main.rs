//! The tool as its user meets it: processes, exit codes, and what they print.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

mod cluster;
mod log;
mod run;
mod usage;
