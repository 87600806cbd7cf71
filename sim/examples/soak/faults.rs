//! The parent: starts the processes, strikes them one after the other, and has the record judged.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::hosts::{self, Network, SmallDisk};
use crate::record::now_ns;
use crate::report::{self, Strike};

const NODES: u64 = 3;

/// The node whose directory is on the small disk.
const SMALL_DISK_NODE: u64 = 1;

/// How long a process has to say that it is ready, or that it has finished.
const WORD_TIMEOUT: Duration = Duration::from_mins(1);

/// Between two faults the cluster has this long to be whole.
const CALM: Duration = Duration::from_millis(1_500);

/// What can be done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Pause,
    Partition,
    FullDisk,
}

/// Runs the soak. `Ok(false)`: a judge is not satisfied.
pub(crate) fn run(seconds: u64, seed: Option<u64>, dir: Option<PathBuf>) -> Result<bool, String> {
    let seed = seed.unwrap_or_else(now_ns);
    let base = dir.unwrap_or_else(|| {
        std::env::temp_dir().join(format!("quorate-soak-{}", std::process::id()))
    });
    std::fs::create_dir_all(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    println!(
        "soak: {seconds} s, seed {seed}, files in {}",
        base.display()
    );
    let mut stage = Stage::set_up(&base);
    for node in 1..=NODES {
        stage.start(node)?;
    }
    for node in 1..=NODES {
        stage.wait_for(node, "ready")?;
    }
    let strikes = stage.strike(Duration::from_secs(seconds), seed)?;
    let outcomes = stage.finish()?;
    let skipped = std::mem::take(&mut stage.skipped);
    let files = std::mem::take(&mut stage.histories);
    drop(stage);
    let is_good = report::judge(&files, &strikes, &skipped, &outcomes)?;
    if is_good {
        // What was judged sound is of no use to anybody.
        let _left = std::fs::remove_dir_all(&base);
    } else {
        println!(
            "soak: histories and directories are kept in {}",
            base.display()
        );
    }
    Ok(is_good)
}

/// A process, and what it says.
struct Process {
    child: Child,
    words: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The processes, and what is under them. Processes end before their network does.
struct Stage {
    processes: Vec<Option<Process>>,
    network: Option<Network>,
    disk: Option<SmallDisk>,
    base: PathBuf,
    lives: u64,
    histories: Vec<PathBuf>,
    skipped: Vec<String>,
}

impl Stage {
    fn set_up(base: &Path) -> Self {
        let mut skipped = Vec::new();
        let mut note = |what: &str, reason: String| skipped.push(format!("{what}: {reason}"));
        let network = Network::make(NODES)
            .map_err(|reason| note("partitions", reason))
            .ok();
        let disk = SmallDisk::make(base)
            .map_err(|reason| note("full disk", reason))
            .ok();
        Self {
            processes: (0..NODES).map(|_| None).collect(),
            network,
            disk,
            base: base.to_path_buf(),
            lives: 0,
            histories: Vec::new(),
            skipped,
        }
    }

    fn start(&mut self, node: u64) -> Result<(), String> {
        self.lives += 1;
        let history = self.base.join(format!("history-{}-{node}", self.lives));
        let dir = match &self.disk {
            Some(disk) if node == SMALL_DISK_NODE => disk.mounted_at.join("node"),
            _ => self.base.join(format!("node{node}")),
        };
        let host = |node| match &self.network {
            Some(_) => hosts::address(node),
            None => "127.0.0.1".to_owned(),
        };
        let cluster: Vec<String> = (1..=NODES)
            .map(|node| format!("{node}={}:{}", host(node), 7_400 + node))
            .collect();
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = match &self.network {
            Some(network) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", &network.host(node)])
                    .arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args([
                "member",
                "--node",
                &node.to_string(),
                "--cluster",
                &cluster.join(","),
            ])
            .arg("--dir")
            .arg(dir)
            .arg("--history")
            .arg(&history)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let out = child.stdout.take().ok_or("a pipe was asked for")?;
        let (say, words) = channel();
        // Ends with the process, whose end closes the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        self.processes[node as usize - 1] = Some(Process { child, words });
        self.histories.push(history);
        Ok(())
    }

    fn wait_for(&mut self, node: u64, word: &str) -> Result<(), String> {
        let until = Instant::now() + WORD_TIMEOUT;
        let process = self.processes[node as usize - 1]
            .as_mut()
            .ok_or("it runs")?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match process.words.recv_timeout(left) {
                Ok(said) if said == word => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(format!("node {node} does not say \"{word}\"")),
            }
        }
    }

    /// Faults until the time is over; when each began, and when it ended.
    fn strike(&mut self, time: Duration, seed: u64) -> Result<Vec<Strike>, String> {
        let mut faults = vec![Fault::Kill, Fault::Pause];
        faults.extend(self.network.as_ref().map(|_| Fault::Partition));
        faults.extend(self.disk.as_ref().map(|_| Fault::FullDisk));
        let (began, mut dice, mut strikes) = (Instant::now(), seed | 1, Vec::new());
        while began.elapsed() < time {
            std::thread::sleep(CALM);
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = dice >> 33;
            let fault = faults[pick as usize % faults.len()];
            let node = match fault {
                Fault::FullDisk => SMALL_DISK_NODE,
                _ => 1 + (pick / 16) % NODES,
            };
            let lasts = Duration::from_millis(300 + (pick / 64) % 4_000);
            progress(
                began.elapsed(),
                time,
                &format!("{fault:?} of node {node} for {lasts:?}"),
            );
            let from_ns = now_ns();
            self.begin(fault, node)?;
            std::thread::sleep(lasts);
            self.end(fault, node)?;
            strikes.push(Strike {
                fault,
                node,
                from_ns,
                until_ns: now_ns(),
            });
        }
        std::thread::sleep(CALM);
        Ok(strikes)
    }

    fn begin(&mut self, fault: Fault, node: u64) -> Result<(), String> {
        match fault {
            Fault::Kill => {
                self.processes[node as usize - 1] = None;
                Ok(())
            }
            Fault::Pause => self.signal(node, "-STOP"),
            Fault::Partition => self.network()?.connect(node, false),
            Fault::FullDisk => self.disk()?.fill(true),
        }
    }

    fn end(&mut self, fault: Fault, node: u64) -> Result<(), String> {
        match fault {
            Fault::Kill => {
                self.start(node)?;
                self.wait_for(node, "ready")
            }
            Fault::Pause => self.signal(node, "-CONT"),
            Fault::Partition => self.network()?.connect(node, true),
            Fault::FullDisk => self.disk()?.fill(false),
        }
    }

    fn network(&self) -> Result<&Network, String> {
        self.network.as_ref().ok_or_else(|| "no network".to_owned())
    }

    fn disk(&self) -> Result<&SmallDisk, String> {
        self.disk.as_ref().ok_or_else(|| "no disk".to_owned())
    }

    fn signal(&self, node: u64, signal: &str) -> Result<(), String> {
        let process = self.processes[node as usize - 1]
            .as_ref()
            .ok_or("it runs")?;
        hosts::run("kill", &[signal, &process.child.id().to_string()])
    }

    /// Has every process read the last keys once more, and end. What any did not do is a failure.
    fn finish(&mut self) -> Result<Vec<String>, String> {
        let mut failures = Vec::new();
        let mut stdins = Vec::new();
        for (node, process) in (1..).zip(&mut self.processes) {
            let process = process.as_mut().ok_or("it runs")?;
            let mut stdin = process.child.stdin.take().ok_or("a pipe was asked for")?;
            if let Err(error) = writeln!(stdin, "finish") {
                failures.push(format!("node {node} is gone: {error}"));
            }
            // Kept open: the nodes serve each other until the last of them has read.
            stdins.push(stdin);
        }
        for node in 1..=NODES {
            if let Err(reason) = self.wait_for(node, "finished") {
                failures.push(reason);
            }
        }
        drop(stdins);
        self.processes.clear();
        Ok(failures)
    }
}

/// One line that is written over on a terminal, and a line for each fault elsewhere.
fn progress(elapsed: Duration, of: Duration, what: &str) {
    let line = format!("{:>4} of {} s: {what}", elapsed.as_secs(), of.as_secs());
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    } else {
        eprintln!("{line}");
    }
}
