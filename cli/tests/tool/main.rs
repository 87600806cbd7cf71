//! The tool as its user meets it: processes, exit codes, and what they print.

mod cluster;
mod run;
mod usage;
