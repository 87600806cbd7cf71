//! Looking into the log of a node that need not run: what it holds, whether it is sound, and what the next start would make of it.
//!
//! Nothing on disk is changed, created or locked.

mod inspect;
mod json;
mod repair;
mod table;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use quorate_wal::{OpenError, RealDisk, VerifyProgress};

use crate::arguments::Look;
use crate::out::{self, Unprinted};
use crate::text;

/// The log is sound.
const EXIT_SOUND: u8 = 0;
/// Damage was found.
const EXIT_DAMAGED: u8 = 1;
/// No answer was found, and the reason is on standard error.
const EXIT_UNKNOWN: u8 = 2;

/// What a command found.
struct Answer {
    text: String,
    is_sound: bool,
}

/// Why a command found no answer.
struct Unknown {
    reason: String,
    code: u8,
}

/// Where the parts of a node are.
struct Place {
    log: PathBuf,
    /// None if the directory of a log was named, and not that of a node.
    snapshots: Option<PathBuf>,
}

pub(crate) fn run(look: &Look) -> ExitCode {
    let answer = match look {
        Look::Inspect(arguments) => inspect::run(arguments),
        Look::Verify(arguments) => verify::run(arguments),
        Look::Repair(arguments) => repair::run(arguments),
    };
    let code = match answer.and_then(print) {
        Ok(is_sound) if is_sound => EXIT_SOUND,
        Ok(_) => EXIT_DAMAGED,
        Err(Unknown { reason, code }) => {
            out::complain(&reason);
            code
        }
    };
    ExitCode::from(code)
}

/// Prints an answer. Nobody need read it to its end: whether the log is sound is told by the exit code besides.
fn print(answer: Answer) -> Result<bool, Unknown> {
    match out::print(&answer.text) {
        Ok(()) | Err(Unprinted::Unread) => Ok(answer.is_sound),
        Err(Unprinted::Failed(error)) => Err(Unknown {
            reason: format!("standard output cannot be written: {error}"),
            code: EXIT_UNKNOWN,
        }),
    }
}

/// What the log's own types say of themselves, with names of files in it, on one line.
fn told(it: &impl fmt::Display) -> String {
    text::message(&it.to_string())
}

impl From<OpenError> for Unknown {
    fn from(error: OpenError) -> Self {
        let code = match error {
            OpenError::Damaged { .. } | OpenError::MissingSegment { .. } => EXIT_DAMAGED,
            _ => EXIT_UNKNOWN,
        };
        Self {
            reason: error.to_string(),
            code,
        }
    }
}

/// Finds the log in the directory of a node, or takes the directory for that of a log.
fn place(dir: &Path) -> Place {
    let (log, snapshots) = (dir.join("wal"), dir.join("snap"));
    if log.is_dir() {
        Place {
            log,
            snapshots: Some(snapshots),
        }
    } else {
        Place {
            log: dir.to_owned(),
            snapshots: None,
        }
    }
}

/// Runs a check that says how far it is, and shows that on a terminal.
fn with_progress<T>(
    check: impl FnOnce(&RealDisk, &mut dyn FnMut(VerifyProgress)) -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    if !out::is_error_terminal() {
        return check(&RealDisk, &mut |_| ());
    }
    let template =
        "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template names known keys");
    let bar = ProgressBar::new(0).with_style(style);
    let checked = check(&RealDisk, &mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    });
    bar.finish_and_clear();
    checked
}

/// What is said of a log that somebody has open.
const IN_USE: &str =
    "in use by a running process: what follows is of a moment, and may be past already";
