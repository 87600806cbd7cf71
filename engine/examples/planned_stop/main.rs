//! How long writes wait when a leader is stopped in order, or killed: three nodes, each in a process of its own, talk over
//! TCP and write to real files, while clients write. Again and again the node that leads is stopped and started again; a run
//! counts the slowest write around the stop beside the usual one.
//!
//! ```text
//! cargo run --release --example planned_stop
//! cargo run --release --example planned_stop -- --runs 10 --how kill --writers 16 --dir /mnt/disk
//! ```
//!
//! It ends with 1 if a write around a stop in order took 100 ms longer than usual.

mod node;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use quorate::Clerk;

use node::{Heard, Node};

const HELP: &str = "\
How long writes wait when a leader is stopped

  --runs N        how often a leader is stopped (40)
  --how HOW       stop (in order) or kill (stop)
  --writers N     clients that write one value after the other (4)
  --dir DIR       where the nodes' files go (a temporary directory)
";

/// What takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// Writes are usual so long before a stop, and looked at so long after it.
const USUAL: Duration = Duration::from_millis(500);
const AROUND: Duration = Duration::from_secs(2);

/// A write around a stop in order may take so much longer than usual.
const ALLOWED: Duration = Duration::from_millis(100);

/// Between two writes of a client.
const PAUSE: Duration = Duration::from_millis(2);

struct Args {
    runs: usize,
    kills: bool,
    writers: usize,
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let result = match &words[..] {
        [word, id, addresses, dir] if word == "node" => serve(id, addresses, dir),
        words => parse(words).and_then(|args| measure(&args)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(id: &str, addresses: &str, dir: &str) -> Result<bool, Box<dyn Error>> {
    let addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
    node::serve(id.parse()?, &addresses, Path::new(dir))?;
    Ok(true)
}

fn parse(words: &[String]) -> Result<Args, Box<dyn Error>> {
    let mut args = Args {
        runs: 40,
        kills: false,
        writers: 4,
        dir: None,
    };
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} needs a value; see --help", pair[0]).into());
        };
        match (&name[..], &value[..]) {
            ("--runs", value) => args.runs = value.parse()?,
            ("--writers", value) => args.writers = value.parse::<usize>()?.max(1),
            ("--dir", value) => args.dir = Some(value.into()),
            ("--how", "stop") => args.kills = false,
            ("--how", "kill") => args.kills = true,
            _ => return Err(format!("{name} {value} is not understood; see --help").into()),
        }
    }
    Ok(args)
}

/// When a write began, and how long it took.
type Took = (Instant, Duration);

/// What the clients did so far.
#[derive(Default)]
struct Tally {
    writes: Mutex<Vec<Took>>,
    failure: Mutex<Option<String>>,
    stop: AtomicBool,
}

/// All runs; returns whether each was in time.
fn measure(args: &Args) -> Result<bool, Box<dyn Error>> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let addresses = free_addresses()?;
    let (tell, heard) = mpsc::channel();
    let start = |id: u64| {
        let own = dir.path().join(id.to_string());
        Node::start(id, &addresses, &own, tell.clone())
    };
    let mut nodes: Vec<Node> = (1..=3).map(start).collect::<Result<_, _>>()?;
    let mut leader = wait_for(&heard, "an election", |notice| notice.leads)?.id;
    let clerks: Vec<Clerk> = (0..args.writers)
        .map(|_| Clerk::connect(&addresses))
        .collect::<Result<_, _>>()?;
    let tally = Tally::default();
    let mut slower = Vec::new();
    thread::scope(|scope| {
        let _stops = Stops(&tally.stop);
        for (number, clerk) in clerks.iter().enumerate() {
            let tally = &tally;
            scope.spawn(move || write(clerk, number, tally));
        }
        for number in 1..=args.runs {
            // Those that came late for the last run are no news.
            leader = heard
                .try_iter()
                .filter(|it| it.leads)
                .last()
                .map_or(leader, |it| it.id);
            tally.take()?;
            thread::sleep(USUAL);
            let usual = tally.take()?;
            let place = usize::try_from(leader - 1)?;
            let stopped = Instant::now();
            if args.kills {
                nodes[place].kill()?;
            } else {
                nodes[place].stop(DEADLINE)?;
            }
            let took = stopped.elapsed();
            let next = wait_for(&heard, "another leader", |it| it.leads && it.id != leader)?;
            thread::sleep(AROUND.saturating_sub(stopped.elapsed()));
            let around = tally.take()?;
            nodes[place] = start(leader)?;
            wait_for(&heard, "the node to come back", |it| {
                it.id == leader && !it.leads
            })?;
            leader = next.id;
            slower.push(report(number, args.runs, took, &usual, &around)?);
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    slower.sort_unstable();
    let (Some(median), Some(worst)) = (slower.get(slower.len() / 2), slower.last()) else {
        return Ok(true);
    };
    println!(
        "slowest write of a run above the usual one: median {} ms, worst {} ms",
        median.as_millis(),
        worst.as_millis()
    );
    Ok(args.kills || *worst < ALLOWED)
}

/// How much longer than the usual write the slowest one took.
fn report(
    number: usize,
    runs: usize,
    took: Duration,
    usual: &[Took],
    around: &[Took],
) -> Result<Duration, Box<dyn Error>> {
    let mut times: Vec<Duration> = usual.iter().map(|(_, took)| *took).collect();
    times.sort_unstable();
    let median = *times
        .get(times.len() / 2)
        .ok_or("no write before the stop")?;
    let usual_worst = times.last().copied().unwrap_or_default();
    let slowest = around.iter().map(|(_, took)| *took).max();
    let slowest = slowest.ok_or("no write around the stop")?;
    let slower = slowest.saturating_sub(median);
    let late = if slower >= ALLOWED { ": SLOW" } else { "" };
    println!(
        "{number}/{runs}: gone after {:.1} ms; usual {:.1} ms, its slowest {:.1} ms; slowest around the stop {:.1} ms{late}",
        millis(took),
        millis(median),
        millis(usual_worst),
        millis(slowest)
    );
    io::stdout().flush()?;
    Ok(slower)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Ends the writers also when a run fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Writes one value after the other.
fn write(clerk: &Clerk, number: usize, tally: &Tally) {
    for count in 0_u64.. {
        if tally.stop.load(Ordering::SeqCst) {
            return;
        }
        thread::sleep(PAUSE);
        let began = Instant::now();
        if let Err(error) = clerk.put(format!("{number}/{}", count % 100), [7; 100]) {
            let mut failure = tally.failure.lock().unwrap_or_else(PoisonError::into_inner);
            *failure = Some(error.to_string());
            return;
        }
        let mut writes = tally.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.push((began, began.elapsed()));
    }
}

impl Tally {
    /// The writes that ended since this was last called.
    fn take(&self) -> Result<Vec<Took>, Box<dyn Error>> {
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(failure) = failure {
            return Err(format!("a write failed: {failure}").into());
        }
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *writes))
    }
}

fn wait_for(
    heard: &Receiver<Heard>,
    what: &str,
    is_it: impl Fn(&Heard) -> bool,
) -> Result<Heard, Box<dyn Error>> {
    if io::stderr().is_terminal() {
        eprint!("waits for {what}\r");
    }
    let until = Instant::now() + DEADLINE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match heard.recv_timeout(left) {
            Ok(notice) if is_it(&notice) => return Ok(notice),
            Ok(_) => {}
            Err(error) => return Err(format!("{what}: {error}").into()),
        }
    }
}

/// Ports of the loopback interface that nobody listens on.
fn free_addresses() -> io::Result<Vec<String>> {
    // All are held until each is known, so that they differ.
    let sockets: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<io::Result<_>>()?;
    let addresses = sockets.iter().map(TcpListener::local_addr);
    addresses.map(|address| Ok(address?.to_string())).collect()
}
