//! Whoever stops reading ends a command quietly, as it ends other tools.

use std::ffi::OsString;
use std::io::pipe;
use std::process::Stdio;

use crate::lone::Lone;
use crate::run::{Finished, finish, tool};

const SIGPIPE: Option<i32> = Some(13);

/// A pipe that nobody reads any more.
fn unread() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

fn assert_quiet(what: &str, finished: &Finished) {
    assert_eq!(finished.stderr, "", "{what}: {finished:?}");
}

#[test]
fn a_reader_that_goes_ends_every_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let lone = Lone::start(dir.path());
    lone.succeed(&["put", "key", "value"]);
    let run = |arguments: &[OsString]| {
        let mut command = tool(arguments);
        command.stdout(unread());
        finish(command, b"")
    };
    let calls: [&[&str]; 6] = [
        &["scan"],
        &["scan", "--prefix", "k"],
        &["get", "key"],
        &["get", "key", "--raw"],
        &["append", "key", "!"],
        &["bench", "--seconds", "1", "--outstanding", "4"],
    ];
    for call in calls {
        let finished = run(&lone.arguments(call));
        assert_eq!(finished.signal, SIGPIPE, "{call:?}: {finished:?}");
        // The figures of a benchmark go to standard error.
        if call[0] != "bench" {
            assert_quiet(call[0], &finished);
        }
        assert!(!finished.stderr.contains("pipe"), "{finished:?}");
    }
    assert_eq!(
        lone.succeed(&["scan"]),
        "key\tvalue!\n",
        "the benchmark left nothing"
    );

    // What the answer is, they tell by their exit code too.
    let dir = OsString::from(dir.path());
    let looks: [&[&str]; 6] = [
        &["inspect"],
        &["inspect", "--json"],
        &["verify"],
        &["verify", "--json"],
        &["repair", "--dry-run"],
        &["--help"],
    ];
    for look in looks {
        let mut arguments: Vec<OsString> = look.iter().map(OsString::from).collect();
        if look != ["--help"] {
            arguments.push(dir.clone());
        }
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(0), "{look:?}: {finished:?}");
        assert_quiet(look[0], &finished);
    }
}

/// What is said there is lost; what was done is told by the exit code as ever.
#[test]
fn a_standard_error_that_is_closed_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let lone = Lone::start(dir.path());
    let run = |arguments: &[OsString]| {
        let mut command = tool(arguments);
        command.stderr(unread());
        finish(command, b"")
    };
    let text = |arguments: &[&str]| arguments.iter().map(OsString::from).collect::<Vec<_>>();
    let nowhere = ["get", "k", "--connect", "127.0.0.1:1", "--timeout-ms", "1"];
    let cases = [
        (text(&nowhere), 1),
        (text(&["get", "k"]), 2),
        (text(&["--bogus"]), 2),
        (text(&["inspect", "/not/there"]), 2),
        (lone.arguments(&["get", "absent"]), 3),
        (lone.arguments(&["cas", "absent", "v", "--expect", "x"]), 4),
        (lone.arguments(&["bench", "--seconds", "1"]), 0),
    ];
    for (arguments, code) in cases {
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(code), "{arguments:?}: {finished:?}");
    }
}
