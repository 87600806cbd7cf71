//! Every subject works in a process of its own: its memory is its own, and what it leaves behind in
//! allocators and caches troubles nobody else.
//!
//! The parent writes a line for each slice; the worker answers each with one line of JSON. It ends
//! when its input does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use quorate_benches::Failure;

use crate::job::{Job, Report};
use crate::{append, blocks, reads, reopen, rotate, space};

/// The argument that makes this program a worker.
pub(crate) const WORKER: &str = "worker";

/// A process that works when it is told to.
pub(crate) struct Worker {
    child: Child,
    /// None once the worker was told to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Something that can be done again and again.
pub(crate) trait Work {
    /// Does it once.
    fn slice(&mut self) -> Result<Report, Failure>;
}

impl<F: FnMut() -> Result<Report, Failure>> Work for F {
    fn slice(&mut self) -> Result<Report, Failure> {
        self()
    }
}

impl Worker {
    /// Starts a process for the job, which does nothing yet.
    pub(crate) fn start(job: &Job) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(WORKER)
            .arg(serde_json::to_string(job)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().expect("the output is piped");
        Ok(Self {
            child,
            orders,
            answers: BufReader::new(answers),
        })
    }

    /// Does one job once.
    pub(crate) fn once(job: &Job) -> Result<Report, Failure> {
        Self::start(job)?.slice()
    }

    /// Has the work done once more.
    pub(crate) fn slice(&mut self) -> Result<Report, Failure> {
        let orders = self
            .orders
            .as_mut()
            .expect("it ends only when it is dropped");
        writeln!(orders, "go")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("a worker ended before it answered; what it wrote above says why".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It reports its errors itself.
        let _ended = self.child.wait();
    }
}

/// The whole life of a worker.
pub(crate) fn serve(job: &str) -> Result<(), Failure> {
    let mut work = start(serde_json::from_str(job)?)?;
    let mut out = std::io::stdout();
    for order in std::io::stdin().lines() {
        order?;
        let report = work.slice()?;
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        out.flush()?;
    }
    Ok(())
}

fn start(job: Job) -> Result<Box<dyn Work>, Failure> {
    Ok(match job {
        Job::Append(append) => append::work(append)?,
        Job::Rotate(append) => rotate::work(append)?,
        Job::Write(stored) => Box::new(move || reopen::write(&stored)),
        Job::Seal { dir } => Box::new(move || reopen::seal(&dir)),
        Job::SpoilFooters { dir } => Box::new(move || reopen::spoil(&dir)),
        Job::Open { stored, threads } => Box::new(move || reopen::open(&stored, threads)),
        Job::Read {
            stored,
            reads,
            slice,
        } => reads::work(&stored, reads, slice)?,
        Job::Space(space) => Box::new(move || space::work(&space)),
        Job::Blocks {
            root,
            subject,
            bytes,
            slice,
        } => blocks::work(root, subject, bytes, slice)?,
    })
}
