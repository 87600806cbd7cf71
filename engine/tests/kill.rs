//! Killed without warning, twenty times over.
//!
//! A child process holds three durable nodes and lets clerks append tokens; it says on its standard output what was
//! acknowledged. The parent kills it (SIGKILL) at a random moment, sometimes while it opens, opens the same directory
//! itself, and looks:
//! - every token that was acknowledged is there, and none is there twice;
//! - each clerk's tokens stand in the order of its calls, without a gap.
//!
//! Snapshots and segments are small, so that kills meet them being written, published and deleted.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use common::{DEADLINE, Rng, durable, seed, small};
use quorate::{Cluster, TransportKind};

const DIR: &str = "QUORATE_TEST_KILL_DIR";
const ROUND: &str = "QUORATE_TEST_KILL_ROUND";
const TRANSPORT: &str = "QUORATE_TEST_KILL_TRANSPORT";

const ROUNDS: u64 = 20;

/// Clerks of the child: the first half call one by one, the others have several calls on their way.
const CLERKS: usize = 4;

/// How many calls those have on their way.
const WINDOW: usize = 16;

#[test]
fn killed_twenty_times_over_memory_nothing_acknowledged_is_lost() {
    kill_again_and_again(TransportKind::Memory);
}

#[test]
fn killed_twenty_times_over_tcp_nothing_acknowledged_is_lost() {
    kill_again_and_again(TransportKind::Tcp);
}

fn kill_again_and_again(transport: TransportKind) {
    let mut rng = Rng(seed(&format!("killed twenty times, {transport:?}")));
    let root = tempfile::tempdir().expect("a directory");
    let mut acknowledged = Acknowledged::new();
    let mut killed_at_work = 0;
    for round in 0..ROUNDS {
        let mut child = Serving::start(root.path(), round, transport);
        if rng.range(0, 5) == 0 {
            // While it starts, opens, or has just begun.
            child.runs_for(Duration::from_millis(rng.range(0, 120)));
        } else {
            child.acknowledges_something();
            child.runs_for(Duration::from_millis(rng.range(50, 800)));
            killed_at_work += 1;
        }
        for (clerk, token) in child.kill() {
            let newest = acknowledged.entry((round, clerk)).or_default();
            *newest = token.max(*newest);
        }
        assert_all_there(root.path(), transport, &acknowledged, round);
    }
    assert!(
        killed_at_work >= ROUNDS / 2,
        "{killed_at_work} kills met a child at work"
    );
    assert_all_there(root.path(), transport, &acknowledged, ROUNDS);
}

/// The newest acknowledged token of each clerk in each round, counted from 1.
type Acknowledged = BTreeMap<(u64, usize), u64>;

/// Opens the cluster in this process, compares, writes a little, and closes it in order.
fn assert_all_there(dir: &Path, transport: TransportKind, acknowledged: &Acknowledged, round: u64) {
    let cluster = durable(dir, transport, small(32 << 10));
    let clerk = cluster.clerk();
    let mut found = Acknowledged::new();
    for key in 0..CLERKS {
        let value = clerk
            .get(key_of(key))
            .expect("a majority lives")
            .unwrap_or_default();
        let text = std::str::from_utf8(&value).expect("text was written");
        assert!(text.is_empty() || text.ends_with(';'), "tokens are whole");
        for token in text.split_terminator(';') {
            let numbers: Vec<u64> = token
                .split('.')
                .map(|number| number.parse().expect("a number"))
                .collect();
            let [wrote, writer, number] = numbers[..] else {
                panic!("{token:?} is no token")
            };
            let newest = found.entry((wrote, writer as usize)).or_default();
            let before = *newest;
            assert_eq!(
                number,
                before + 1,
                "round {round}: {token} stands behind {before} of its clerk"
            );
            *newest = number;
        }
    }
    for (clerk, &newest) in acknowledged {
        let there = found.get(clerk).copied().unwrap_or(0);
        assert!(
            there >= newest,
            "round {round}: clerk {clerk:?} was told of {newest} tokens, and {there} are there"
        );
    }
    clerk
        .put("opened", round.to_string())
        .expect("a majority lives");
    for node in cluster.nodes() {
        cluster.db(node).expect("it runs").close();
    }
}

fn key_of(clerk: usize) -> String {
    format!("clerk/{clerk}")
}

/// The child process.
struct Serving {
    child: Child,
    heard: Receiver<(usize, u64)>,
    acknowledged: Vec<(usize, u64)>,
}

impl Drop for Serving {
    /// The child ends also when an assertion fails.
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

impl Serving {
    fn start(dir: &Path, round: u64, transport: TransportKind) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
        command.args([
            "--ignored",
            "--exact",
            "child_serves",
            "--nocapture",
            "--test-threads=1",
        ]);
        command
            .env(DIR, dir)
            .env(ROUND, round.to_string())
            .env(TRANSPORT, format!("{transport:?}"));
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tell, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                // The kill may cut a line short: only one with an end counts.
                if let Some(ack) = line.strip_suffix('\n').and_then(parse_ack)
                    && tell.send(ack).is_err()
                {
                    return;
                }
                line.clear();
            }
        });
        Self {
            child,
            heard,
            acknowledged: Vec::new(),
        }
    }

    fn acknowledges_something(&mut self) {
        match self.heard.recv_timeout(DEADLINE) {
            Ok(ack) => self.acknowledged.push(ack),
            Err(error) => {
                let _gone = self.child.kill();
                panic!("the child acknowledged nothing within {DEADLINE:?}: {error}");
            }
        }
    }

    /// Listens for a while. A child that ends by itself fails the test.
    fn runs_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            match self
                .heard
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(ack) => self.acknowledged.push(ack),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the child ended: {:?}", self.child.wait())
                }
            }
        }
    }

    /// Kills it, and returns all that it said was acknowledged.
    fn kill(mut self) -> Vec<(usize, u64)> {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        // What was in the pipe is still delivered; then the other end is gone.
        self.acknowledged.extend(self.heard.iter());
        std::mem::take(&mut self.acknowledged)
    }
}

fn parse_ack(line: &str) -> Option<(usize, u64)> {
    let (clerk, token) = line.strip_prefix("ack ")?.split_once(' ')?;
    Some((clerk.parse().ok()?, token.parse().ok()?))
}

#[test]
#[ignore = "started by the tests above in a process of its own, which they kill"]
fn child_serves() {
    let dir = std::env::var_os(DIR).expect("the parent names a directory");
    let round: u64 = std::env::var(ROUND)
        .ok()
        .and_then(|round| round.parse().ok())
        .expect("and a round");
    let is_tcp = std::env::var(TRANSPORT).is_ok_and(|name| name == "Tcp");
    let transport = if is_tcp {
        TransportKind::Tcp
    } else {
        TransportKind::Memory
    };
    // The test program has begun a line.
    println!();
    let cluster = durable(Path::new(&dir), transport, small(32 << 10));
    std::thread::scope(|scope| {
        for clerk in 0..CLERKS {
            let window = if clerk < CLERKS / 2 { 1 } else { WINDOW };
            let cluster = &cluster;
            scope.spawn(move || append_for_ever(cluster, round, clerk, window));
        }
    });
}

/// Appends tokens and says of each, once it is acknowledged, that it was.
fn append_for_ever(cluster: &Cluster, round: u64, clerk: usize, window: usize) {
    let session = cluster.clerk();
    let mut waiting = std::collections::VecDeque::new();
    for token in 1_u64.. {
        let append = session.append_async(key_of(clerk), format!("{round}.{clerk}.{token};"));
        waiting.push_back((token, append));
        if waiting.len() >= window
            && let Some((token, append)) = waiting.pop_front()
        {
            append.wait().expect("a majority lives");
            // One write of one line: the parent sees whole acknowledgements.
            std::io::stdout()
                .write_all(format!("ack {clerk} {token}\n").as_bytes())
                .expect("the parent listens");
        }
    }
}
