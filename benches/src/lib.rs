//! What the benches and the `figures` tool have in common: loads on Quorate, and raw probes that do the same work
//! without it.
//!
//! A figure alone says little, since machines differ: every load here has a probe that writes the same
//! blocks to the same file system, to be run right before it. `cargo bench -p quorate-benches` gives criterion's
//! statistics; `cargo run --release -p quorate-benches --bin figures` gives one table in about two minutes;
//! `--bin snapshots` shows what appends lose while snapshots are written.
//!
//! The files go below the folder that `QUORATE_BENCH_DIR` names, else beside the running program
//! in `target/`. A file system in memory is refused: a sync does nothing there.
#![forbid(unsafe_code)]

mod log;
pub mod memory;
mod payload;
mod place;
pub mod probe;
mod puts;
mod reads;
mod sample;
mod snapshots;
mod stored;

pub use log::{AppendShape, DrivenLog, LogAppend};
pub use payload::{Numbers, Payloads};
pub use place::Place;
pub use puts::{CommittedPuts, KEY_BYTES, KEYS, Setup, VALUE_BYTES};
pub use reads::{Read, Reads};
pub use sample::{
    Budget, Call, Pipeline, Sample, Writer, new_latencies, record, run_cheap, run_pipelines,
    run_writers, run_writers_traced,
};
pub use snapshots::{Beside, Snapshotting};
pub use stored::{StoredLog, StoredShape, drop_file_caches, read_file_caches, sync_files};

/// Why a load could not be set up or run.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The examples of the project's README are tests here: this crate is not published, and may read
/// what lies outside of it.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
