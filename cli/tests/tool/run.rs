//! Processes of the tool. Every wait has an end, and no process outlives its test.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// No step takes so long, on however busy a machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a finished process left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the tool to its end.
pub(crate) fn quorate(arguments: &[&str]) -> Finished {
    quorate_with_input(arguments, b"")
}

/// Runs the tool to its end, with something on its standard input.
pub(crate) fn quorate_with_input(arguments: &[&str], input: &[u8]) -> Finished {
    let mut child = spawn(arguments);
    // A process that takes no input may end before it is written.
    let _ignored = child.stdin.take().unwrap().write_all(input);
    let (done, finished) = mpsc::channel();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let give = done.clone();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _not_text = stdout.read_to_string(&mut text);
        give.send((true, text))
    });
    std::thread::spawn(move || {
        let mut text = String::new();
        let _not_text = stderr.read_to_string(&mut text);
        done.send((false, text))
    });
    let (mut out, mut err) = (String::new(), String::new());
    let until = Instant::now() + DEADLINE;
    for _ in 0..2 {
        match finished.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((true, text)) => out = text,
            Ok((false, text)) => err = text,
            Err(_) => {
                let _ended_already = child.kill();
                panic!("{arguments:?} did not end within {DEADLINE:?}");
            }
        }
    }
    Finished {
        code: child.wait().unwrap().code(),
        stdout: out,
        stderr: err,
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
        let (id, dir) = (id.to_string(), dir.to_str().unwrap());
        let arguments = [
            "node",
            "--id",
            &id,
            "--dir",
            dir,
            "--cluster",
            cluster,
            "--until-stdin-closes",
        ];
        let mut child = spawn(&arguments);
        let (give, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| give.send(line))
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

    /// Closes its standard input, and waits until it has ended by itself.
    pub(crate) fn end_in_order(mut self) {
        drop(self.child.stdin.take());
        self.ends_in_order();
    }

    /// Sends it a signal, and waits until it has ended by itself.
    pub(crate) fn end_by(mut self, signal: &str) {
        let id = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args(["-s", signal, &id]).status().unwrap().success());
        self.ends_in_order();
    }

    fn ends_in_order(&mut self) {
        self.wait_for(&["closed in order"]);
        // Its output ends when it has ended.
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("it did not end within {DEADLINE:?}");
                }
            }
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
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

fn spawn(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
