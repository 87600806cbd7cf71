//! A node in a process of its own: the one that runs it, and the one that starts and stops it.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use quorate::{Db, Role};

/// What a node says: whether it leads, or follows somebody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) id: u64,
    pub(crate) leads: bool,
}

/// Runs a node until standard input closes, and stops it in order.
pub(crate) fn serve(id: u64, addresses: &[String], dir: &Path) -> Result<(), Box<dyn Error>> {
    let members = (1..).zip(addresses.iter().cloned());
    let db = Db::builder(dir).node(id).cluster(members).open()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut said = None;
            while !is_over.load(Ordering::SeqCst) {
                let status = &db.status()[0];
                let leads = status.role == Role::Leader;
                let now = status.leader.map(|_| leads);
                if let Some(leads) = now.filter(|_| now != said) {
                    let word = if leads { "leads" } else { "follows" };
                    let mut out = io::stdout().lock();
                    let _nobody_listens = writeln!(out, "{word}").and_then(|()| out.flush());
                }
                said = now.or(said);
                thread::sleep(Duration::from_millis(2));
            }
        });
        // An error ends it as the end does.
        let _end = io::stdin().lock().read_to_end(&mut Vec::new());
        db.close();
        is_over.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// A node of another process; ends with this.
pub(crate) struct Node {
    child: Child,
}

impl Node {
    pub(crate) fn start(
        id: u64,
        addresses: &[String],
        dir: &Path,
        tell: Sender<Heard>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["node", &id.to_string(), &addresses.join(",")])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = child.stdout.take().ok_or("it has an output")?;
        let node = Self { child };
        thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let leads = line == "leads";
                if tell.send(Heard { id, leads }).is_err() {
                    return;
                }
            }
        });
        Ok(node)
    }

    /// Tells it to stop, and waits until it has ended.
    pub(crate) fn stop(&mut self, deadline: Duration) -> Result<(), Box<dyn Error>> {
        drop(self.child.stdin.take());
        let until = Instant::now() + deadline;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the node ended with {status}").into()),
                None if Instant::now() > until => return Err("the node does not end".into()),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_already = self.kill();
    }
}
