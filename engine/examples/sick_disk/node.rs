//! One node in a process of its own: what it is told on standard input, and what it says on standard output.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use quorate::{Db, Options, Role};

use crate::disk::{Faults, FaultyDisk};

/// How often the node looks whether it leads.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It leads the group.
    Leads,
    /// It has done to its disk what it was told.
    Struck,
}

/// A notice, whose it is, and when it came.
pub(crate) type Heard = (u64, Notice, Instant);

/// The child process: serves until standard input ends.
pub(crate) fn serve(id: u64, addresses: &[String], dir: &Path) -> Result<(), Box<dyn Error>> {
    let disk = Arc::new(FaultyDisk::default());
    let faults = disk.faults();
    let db = Db::builder(dir)
        .node(id)
        .cluster((1..).zip(addresses.iter().cloned()))
        .options(options())
        .open_on(disk)?;
    // Ends with the process.
    let watched = db.clone();
    thread::spawn(move || watch(&watched));
    for line in io::stdin().lines() {
        obey(&faults, &line?)?;
        say("struck")?;
    }
    // Not in order: the disk may stand still.
    std::process::exit(0)
}

/// Small segments, so that a full disk shows after a few writes.
fn options() -> Options {
    let mut options = Options::default();
    options.log.segment_bytes_min = 1 << 20;
    options.log.segment_bytes_max = 1 << 20;
    options.log.entry_bytes_max = 256 << 10;
    options.log.batch_bytes_max = 512 << 10;
    options
}

fn obey(faults: &Faults, line: &str) -> Result<(), Box<dyn Error>> {
    match line.split_once(' ') {
        None if line == "full" => faults.fill(),
        None if line == "heal" => faults.heal(),
        Some(("stall", ms)) => faults.stall(Duration::from_millis(ms.parse()?)),
        _ => return Err(format!("no such command: {line}").into()),
    }
    Ok(())
}

fn watch(db: &Db) {
    let mut led = false;
    loop {
        let leads = db.status()[0].role == Role::Leader;
        if leads && !led && say("leads").is_err() {
            return;
        }
        led = leads;
        thread::sleep(LOOK_EVERY);
    }
}

fn say(what: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}

/// A node, as its parent sees it. It is killed when this is dropped.
pub(crate) struct Node {
    child: Child,
    stdin: ChildStdin,
}

impl Node {
    pub(crate) fn start(
        id: u64,
        addresses: &[String],
        dir: &Path,
        heard: Sender<Heard>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("node")
            .arg(id.to_string())
            .arg(addresses.join(","))
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err("the child has no pipes".into());
        };
        // Ends with the child.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let notice = match &line[..] {
                    "leads" => Notice::Leads,
                    "struck" => Notice::Struck,
                    _ => continue,
                };
                if heard.send((id, notice, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin })
    }

    pub(crate) fn tell(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.stdin, "{command}")?;
        self.stdin.flush()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
    }
}
