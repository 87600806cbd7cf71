//! Processes of the tool. Every wait has an end, and no process outlives its test.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// No step takes so long, on however busy a machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// What a finished process left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    /// What ended it, if it was a signal.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What it printed, if that may be no text.
    pub(crate) stdout_bytes: Vec<u8>,
    pub(crate) stderr_bytes: Vec<u8>,
}

/// Runs the tool to its end.
pub(crate) fn quorate<A: AsRef<OsStr>>(arguments: &[A]) -> Finished {
    quorate_with_input(arguments, b"")
}

/// Runs the tool to its end, with something on its standard input.
pub(crate) fn quorate_with_input<A: AsRef<OsStr>>(arguments: &[A], input: &[u8]) -> Finished {
    finish(tool(arguments), input)
}

/// The tool with arguments, in an environment without its variables.
pub(crate) fn tool<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).env_remove("QUORATE_CONNECT");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Finished {
    let mut child = Running(command.spawn().unwrap());
    // Its own copies of what the child was given: a pipe ends when all of them are closed.
    drop(command);
    // A process that takes no input may end before it is written.
    let _ignored = child.0.stdin.take().map(|mut it| it.write_all(input));
    let (stdout, stderr) = (read(child.0.stdout.take()), read(child.0.stderr.take()));
    let until = Instant::now() + DEADLINE;
    let all = |bytes: &Receiver<Vec<u8>>| {
        let left = until.saturating_duration_since(Instant::now());
        bytes.recv_timeout(left).expect("it ends in time")
    };
    let (stdout_bytes, stderr_bytes) = (all(&stdout), all(&stderr));
    let status = child.wait_until(until);
    Finished {
        code: status.code(),
        signal: status.signal(),
        stdout: String::from_utf8(stdout_bytes.clone()).unwrap_or_default(),
        stderr: String::from_utf8(stderr_bytes.clone()).unwrap_or_default(),
        stdout_bytes,
        stderr_bytes,
    }
}

/// Reads to the end on a thread. What is not there has ended.
fn read(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (give, bytes) = mpsc::channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _cut_off = from.map(|mut from| from.read_to_end(&mut all));
        give.send(all)
    });
    bytes
}

/// A process that ends with its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn wait_until(&mut self, until: Instant) -> ExitStatus {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_until(Instant::now() + DEADLINE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

/// A node that runs until it is killed, and what it printed.
pub(crate) struct Node {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Node {
    pub(crate) fn start(id: usize, dir: &Path, cluster: &str) -> Self {
        Self::spawn(tool(&Self::arguments(id, dir, cluster)))
    }

    pub(crate) fn arguments(id: usize, dir: &Path, cluster: &str) -> Vec<OsString> {
        let id = id.to_string();
        let before = ["node", "--until-stdin-closes", "--id", &id];
        let arguments = before.iter().map(OsString::from);
        let last = ["--cluster", cluster].map(OsString::from);
        arguments
            .chain(["--dir".into(), dir.into()])
            .chain(last)
            .collect()
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (give, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // What is no text must not hide what comes behind it.
            stdout
                .split(b'\n')
                .map_while(Result::ok)
                .try_for_each(|line| give.send(String::from_utf8_lossy(&line).into_owned()))
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Blocks until the node prints a line that contains one of these; says which line.
    pub(crate) fn wait_for(&mut self, wanted: &[&str]) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let errors = self.errors();
                panic!(
                    "{wanted:?} was not printed, but this: {:#?}\n{errors}",
                    self.seen
                );
            };
            self.seen.push(line.clone());
            if wanted.iter().any(|wanted| line.contains(wanted)) {
                return line;
            }
        }
    }

    /// SIGKILL: the node gets no chance to do anything more.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes its standard input, and waits until it has ended by itself. Returns what it printed.
    pub(crate) fn end_in_order(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        self.ends_in_order()
    }

    /// Sends it a signal, and waits until it has ended by itself.
    pub(crate) fn end_by(mut self, signal: &str) {
        let id = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args(["-s", signal, &id]).status().unwrap().success());
        self.ends_in_order();
    }

    fn ends_in_order(&mut self) -> Vec<String> {
        self.wait_for(&["closed in order"]);
        // Its output ends when it has ended.
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("it did not end within {DEADLINE:?}");
                }
            }
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        std::mem::take(&mut self.seen)
    }

    fn errors(&mut self) -> String {
        self.kill();
        let mut errors = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _not_text = stderr.read_to_string(&mut errors);
        }
        errors
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}
