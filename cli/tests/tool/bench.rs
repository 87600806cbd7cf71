//! A benchmark touches no key but its own, and leaves none.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::lone::Lone;
use crate::run::{Running, tool};

/// No step takes so long, on however busy a machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What was there before, with names that a benchmark might take for its own.
const OTHERS: [&str; 3] = ["bench/", "bench/0", "benchmark"];

fn with_others(lone: &Lone) -> String {
    for key in OTHERS {
        lone.succeed(&["put", key, "kept"]);
    }
    lone.succeed(&["scan"])
}

/// A benchmark that runs until it is stopped, and what it says on standard error.
fn begin(lone: &Lone, more: &[&str]) -> (Running, Receiver<String>) {
    let mut arguments = lone.arguments(&["bench", "--seconds", "3600"]);
    arguments.extend(more.iter().map(OsString::from));
    let mut child = tool(&arguments).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (give, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = stderr.lines().map_while(Result::ok);
        lines.try_for_each(|line| give.send(line))
    });
    (Running(child), lines)
}

/// The prefix that it names, once it has put something.
fn prefix_of(said: &Receiver<String>) -> String {
    let named = said.recv_timeout(DEADLINE).unwrap();
    let named = named.split_once("prefix ").unwrap().1;
    let prefix = named.split_once(',').unwrap().0.to_owned();
    let figures = said.recv_timeout(DEADLINE).unwrap();
    assert!(figures.contains("puts/s"), "{figures}");
    prefix
}

#[test]
fn a_benchmark_leaves_the_keys_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let lone = Lone::start(dir.path());
    let before = with_others(&lone);
    let size = ["--outstanding", "16", "--value-bytes", "10"];
    let arguments = [&["bench", "--seconds", "1"], &size[..]].concat();
    let finished = lone.call(&arguments);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let puts = finished.stdout.split(' ').next().map(str::parse::<u64>);
    assert!(matches!(puts, Some(Ok(1..))), "{finished:?}");
    assert!(finished.stdout.contains("p99"), "{finished:?}");
    assert!(finished.stderr.contains("prefix bench/"), "{finished:?}");
    assert_eq!(lone.succeed(&["scan"]), before);
}

#[test]
fn an_interrupted_benchmark_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let lone = Lone::start(dir.path());
    let before = with_others(&lone);
    let mut prefixes = Vec::new();
    for (signal, number) in [(Signal::INT, 2), (Signal::TERM, 15)] {
        let (mut bench, said) = begin(&lone, &[]);
        let prefix = prefix_of(&said);
        let during = lone.succeed(&["scan", "--prefix", &prefix, "--limit", "1"]);
        assert!(during.starts_with(&prefix), "{during}");
        kill_process(Pid::from_child(&bench.0), signal).unwrap();
        let status = bench.wait();
        assert_eq!(status.signal(), Some(number), "{status}");
        assert_eq!(lone.succeed(&["scan"]), before);
        prefixes.push(prefix);
    }
    assert_ne!(prefixes[0], prefixes[1], "each run has its own");
}

#[test]
fn a_benchmark_that_loses_its_cluster_ends_and_says_what_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut lone = Lone::start(dir.path());
    let (mut bench, said) = begin(&lone, &["--timeout-ms", "300"]);
    let prefix = prefix_of(&said);
    lone.node.kill();
    assert_eq!(bench.wait().code(), Some(1));
    let said: Vec<String> = said.iter().collect();
    let left = said
        .iter()
        .find(|line| line.contains("could not be removed"));
    let left = left.unwrap_or_else(|| panic!("{said:?}"));
    assert!(left.contains(&prefix), "{left}");
    let cause = said.iter().any(|line| line.contains("no answer within"));
    assert!(cause, "{said:?}");
}
