//! More than one process, and processes with little. A test that needs another process starts itself
//! anew with the directory in its environment.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use quorate_wal::*;

use crate::common::*;
use crate::*;

const DIR_FOR_CHILD: &str = "QUORATE_TEST_DIR";

/// A command that runs one test of this file by itself.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.env(DIR_FOR_CHILD, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn a_second_opener_is_refused_also_from_another_process() {
    if let Some(dir) = std::env::var_os(DIR_FOR_CHILD) {
        // The other process: holds the log until it is killed.
        let (log, _) = open_real(Path::new(&dir)).unwrap();
        commit(&log, appended(5, 1..=1, 1, 10));
        println!("\nholds it");
        let mut ignored = Vec::new();
        let _ended = std::io::stdin().read_to_end(&mut ignored);
        return;
    }
    let dir = sample();
    let opened = open_real(dir.path()).unwrap();
    let refused = |what: &str| {
        let error = open_real(dir.path()).unwrap_err();
        assert!(
            matches!(&error, OpenError::Locked { path } if path == dir.path()),
            "{error}"
        );
        assert!(error.to_string().contains("in use"), "{what}: {error}");
        assert!(inspect(&RealDisk, dir.path()).unwrap().in_use, "{what}");
    };
    refused("by this process");
    drop(opened);
    let name = "processes::a_second_opener_is_refused_also_from_another_process";
    let mut other = child(name, dir.path()).spawn().unwrap();
    let lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).any(|line| line == "holds it");
    assert!(held, "the other process has it open");
    refused("by another process");
    let before = files_of(dir.path());
    refused("again");
    assert_eq!(files_of(dir.path()), before, "nothing is changed");
    // The system gives the lock back when its holder dies.
    other.kill().unwrap();
    other.wait().unwrap();
    let (log, _) = open_real(dir.path()).unwrap();
    assert_eq!(log.bounds(GroupId(5)), Some((1, 1)));
}

#[test]
fn a_relative_directory_stays_what_it_was_when_the_process_goes_elsewhere() {
    if let Some(dir) = std::env::var_os(DIR_FOR_CHILD) {
        let dir = Path::new(&dir);
        std::env::set_current_dir(dir.join("here")).unwrap();
        let (log, _) = open_real(Path::new("wal")).unwrap();
        let snapshots = Snapshots::open(Arc::new(RealDisk), Path::new("snap")).unwrap();
        std::env::set_current_dir(dir.join("there")).unwrap();
        for index in 1..=100 {
            commit(&log, appended(5, index..=index, 1, 3_000));
        }
        let mut writer = snapshots.create(GroupId(5), 7, 1, 1).unwrap();
        writer.write(b"content").unwrap();
        let saved = writer.finish().unwrap();
        snapshots.verify(GroupId(5), &saved).unwrap();
        println!("\n{}", log.stats().segments);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&there).unwrap();
    let name = "processes::a_relative_directory_stays_what_it_was_when_the_process_goes_elsewhere";
    let output = child(name, dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = said.lines().filter_map(|line| line.parse::<u64>().ok());
    assert!(numbers.any(|segments| segments > 3), "{said}");
    assert!(files_of(&there).is_empty(), "nothing was made there");
    let (log, _) = open_real(&here.join("wal")).unwrap();
    assert_eq!(log.bounds(GroupId(5)), Some((1, 100)));
    assert!(here.join("snap").join(format!("{:016x}", 5)).exists());
}

#[test]
fn a_process_without_handles_is_told_so_and_loses_nothing() {
    if let Some(dir) = std::env::var_os(DIR_FOR_CHILD) {
        let opened = open_real(Path::new(&dir));
        println!(
            "\n{}",
            opened.map_or_else(|error| error.to_string(), |_| "opened".to_owned())
        );
        return;
    }
    let dir = sample();
    let before = files_of(dir.path());
    let name = "processes::a_process_without_handles_is_told_so_and_loses_nothing";
    let mut outcomes = Vec::new();
    for handles in [8, 10, 64] {
        let inner = child(name, dir.path());
        let script = format!("ulimit -n {handles}; exec \"$0\" \"$@\"");
        let mut limited = Command::new("sh");
        limited
            .arg("-c")
            .arg(script)
            .arg(inner.get_program())
            .args(inner.get_args());
        limited.env(DIR_FOR_CHILD, dir.path());
        let output = limited.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let is_refused = text.contains("Too many open files");
        assert!(
            is_refused || text.contains("\nopened\n"),
            "{handles}: {text}"
        );
        if is_refused {
            assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
            assert_eq!(files_of(dir.path()), before, "nothing is changed");
        }
        outcomes.push(is_refused);
    }
    assert_eq!((outcomes[0], outcomes[2]), (true, false), "{outcomes:?}");
    assert_whole(&open_real(dir.path()).unwrap());
}
