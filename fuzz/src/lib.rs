//! What the fuzz targets check, as plain functions of bytes, so that the same checks run as tests on stable.
//!
//! Each function panics if something does not hold, and otherwise says how deep the bytes came: a corpus whose
//! every input is turned away at the door tests nothing.
#![forbid(unsafe_code)]

mod command_apply;
mod content;
mod files;
mod fixup;
mod footer;
mod frame_decode;
mod input;
mod log_ops;
mod log_recover;
mod manifest;
pub mod seeds;
mod snapshot_read;
mod sound;

use std::process::ExitCode;

pub use command_apply::command_apply;
pub use footer::footer;
pub use frame_decode::frame_decode;
pub use log_ops::log_ops;
pub use log_recover::{log_recover, log_recover_fixed};
pub use manifest::manifest;
pub use snapshot_read::snapshot_read;

/// How deep an input came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// It was refused.
    Refused,
    /// It was accepted, and what it says was looked at.
    Accepted,
}

/// A target: its name, and its check.
pub type Target = (&'static str, fn(&[u8]) -> Depth);

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("log_recover", log_recover),
    ("log_recover_fixed", log_recover_fixed),
    ("log_ops", log_ops),
    ("manifest", manifest),
    ("footer", footer),
    ("snapshot_read", snapshot_read),
    ("frame_decode", frame_decode),
    ("command_apply", command_apply),
];

/// Runs a check on the files that the command line names.
pub fn run_files(check: impl Fn(&[u8]) -> Depth) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for path in std::env::args_os().skip(1) {
        let path = std::path::PathBuf::from(path);
        match std::fs::read(&path) {
            Ok(bytes) => println!("{}: {:?}", path.display(), check(&bytes)),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
