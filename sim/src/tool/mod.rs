//! The command line: many seeds on all cores, one seed again with all that happened, or one that fails made small.
//!
//! Exit codes: 0 if no run failed, 1 if one did, 2 if what was asked for makes no sense or cannot be written.

mod arguments;
mod range;
mod replay;
mod shrink;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::config::SCHEME;
use crate::phases::Report;
use crate::picture::PictureError;
use crate::reduction::ReductionError;
use crate::shrink::NoFailure;
use crate::workload::Workload;

use arguments::Arguments;

/// Why nothing came of what was asked for.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Picture(#[from] PictureError),
    #[error(transparent)]
    Reduction(#[from] ReductionError),
    #[error("seed {seed}@{SCHEME}: {reason}")]
    NoFailure { seed: u64, reason: NoFailure },
}

/// Does what the arguments say, with the runs of a workload. The first argument is how the program was called; command lines
/// that it prints begin so.
pub fn main<W: Workload>(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let program = arguments.first().cloned().unwrap_or_default();
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody reads the answer if even this fails.
            let _ = error.print();
            // Help that was asked for is no error.
            let is_wrong = error.use_stderr();
            return ExitCode::from(if is_wrong { 2 } else { 0 });
        }
    };
    if let Err(reason) = arguments.check() {
        eprintln!("error: {reason}");
        return ExitCode::from(2);
    }
    let out = io::stdout();
    let done = match (arguments.replay, arguments.shrink) {
        (Some(name), _) => replay::replay::<W>(&arguments, &program, name.seed, out),
        (_, Some(name)) => shrink::shrink::<W>(&arguments, &program, name.seed, out),
        _ => range::play_many::<W>(&arguments, &program),
    };
    done.unwrap_or_else(|error| {
        // Whoever read it, as `head` does, has read enough.
        let is_read =
            matches!(&error, ToolError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe);
        if !is_read {
            eprintln!("error: {error}");
        }
        ExitCode::from(2)
    })
}

/// Says which runs failed.
fn verdict(out: &mut impl Write, reports: &[Report]) -> io::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for report in reports {
        if let Some(failure) = &report.failure {
            let at_ms = failure.at_ns as f64 / 1e6;
            let what = &failure.what;
            writeln!(
                out,
                "seed {}@{SCHEME} failed at {at_ms:.3} ms: {what}",
                report.seed
            )?;
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::seed::Rng;
    use crate::workload::{Call, KvWorkload, Ticket};
    use quorate::simulation::Map;
    use quorate::{Bytes, Error};

    /// The usual calls, of which it is said in the end that they are wrong.
    struct Blamed(KvWorkload);

    impl Workload for Blamed {
        type Machine = Map;

        fn new(config: &Config) -> Self {
            Self(KvWorkload::new(config))
        }

        fn call(&mut self, clerk: usize, rng: &mut Rng, now_ns: u64) -> (Ticket, Call) {
            self.0.call(clerk, rng, now_ns)
        }

        fn last_calls(&mut self, clerk: usize, now_ns: u64) -> Vec<(Ticket, Call)> {
            self.0.last_calls(clerk, now_ns)
        }

        fn answered(
            &mut self,
            ticket: Ticket,
            answer: Result<Bytes, Error>,
            now_ns: u64,
        ) -> Result<(), String> {
            self.0.answered(ticket, answer, now_ns)
        }

        fn judge(&self) -> Result<(), String> {
            Err("all of it is wrong".to_owned())
        }

        fn calls(&self) -> u64 {
            self.0.calls()
        }
    }

    fn code_of(line: &str) -> ExitCode {
        let words = ["quorate-sim"].into_iter().chain(line.split_whitespace());
        main::<KvWorkload>(words.map(str::to_owned))
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong = [
            "--seeds 0".to_owned(),
            "--seeds many".to_owned(),
            "--threads 0".to_owned(),
            "--faults Crash,Gremlin".to_owned(),
            format!("--seeds 2 --start {}", u64::MAX),
            format!("--replay 1@{}", SCHEME + 1),
            "--replay 1@".to_owned(),
            "--replay x".to_owned(),
            format!("--shrink 1@{}", SCHEME + 1),
            "--shrink 1 --replay 1".to_owned(),
            "--only calls=1".to_owned(),
            "--shrink 1 --only calls=1".to_owned(),
            "--replay 1 --only gremlins=1".to_owned(),
            "--replay 1 --only nodes=8".to_owned(),
            "--replay 1 --plain --only clerks=9".to_owned(),
            "--replay 1 --seeds 1000".to_owned(),
            "--replay 1 --start 0".to_owned(),
            "--replay 1 --threads 1".to_owned(),
            "--replay 1 --marks".to_owned(),
            "--shrink 1 --seeds 2".to_owned(),
            "--shrink 1 --start 1".to_owned(),
            "--shrink 1 --threads 1".to_owned(),
            "--shrink 1 --marks".to_owned(),
            "--seeds 1 --picture there.html".to_owned(),
            "--replay 1 --picture no/such/directory/there.html".to_owned(),
            // It does not fail.
            format!("--shrink 1@{SCHEME}"),
        ];
        for line in wrong {
            assert_eq!(code_of(&line), ExitCode::from(2), "{line}");
        }
    }

    #[test]
    fn what_makes_sense_is_played() {
        let right = [
            format!("--seeds 1 --threads 1 --start {}", u64::MAX),
            format!("--replay 1@{SCHEME}"),
            format!("--replay 1@{SCHEME} --plain --only troubles=none,calls=2"),
            "--seeds 2 --faults crash,PowerCut --marks".to_owned(),
        ];
        for line in right {
            assert_eq!(code_of(&line), ExitCode::SUCCESS, "{line}");
        }
    }

    #[test]
    fn what_was_found_is_printed_also_where_no_picture_can_be_written() {
        let picture = "--picture no/such/directory/there.html";
        let printed = |option: &str| {
            let line = format!("quorate-sim {option} 1 {picture}");
            let arguments = Arguments::try_parse_from(line.split(' ')).expect("it makes sense");
            let mut out = Vec::new();
            let done = match option {
                "--replay" => replay::replay::<Blamed>(&arguments, "quorate-sim", 1, &mut out),
                _ => shrink::shrink::<Blamed>(&arguments, "quorate-sim", 1, &mut out),
            };
            assert!(matches!(done, Err(ToolError::Picture(_))), "{done:?}");
            String::from_utf8(out).expect("text")
        };
        for option in ["--replay", "--shrink"] {
            let text = printed(option);
            let verdict = format!("seed 1@{SCHEME} failed at ");
            assert!(text.contains(&verdict), "{option}: {text}");
        }
        let command = format!("  quorate-sim --replay 1@{SCHEME} --only ");
        assert!(printed("--shrink").contains(&command));
    }

    #[test]
    fn a_failure_is_named_with_what_replays_it() {
        let report = Report {
            failure: Some(crate::Failure {
                at_ns: 1_500_000,
                what: "two leaders".to_owned(),
            }),
            ..crate::run::<KvWorkload>(7, Config::draw(7), false)
        };
        let mut out = Vec::new();
        assert_eq!(verdict(&mut out, &[report]).unwrap(), ExitCode::FAILURE);
        let expected = format!("seed 7@{SCHEME} failed at 1.500 ms: two leaders\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
