//! Are linearizable reads of a node that falls behind ever older than what was acknowledged before they began?
//!
//! A client puts ever higher numbers under a few keys. Readers at a follower note the highest one that was acknowledged, read
//! the key through their own node, and compare: a lower number is a stale read, and the run has failed.
//!
//! - `stop`: three processes over TCP, with default options; the follower's is stopped (SIGSTOP) for 0.6 to 2.6 s and continued,
//!   again and again.
//! - `both`: the same, and just when the follower is back its leader is stopped for 1.15 s.
//! - `slow`: three nodes in this process; all that the leader and the follower tell each other takes up to 400 ms.
//!
//! ```text
//! cargo run --release --example fresh_reads
//! cargo run --release --example fresh_reads -- --mode slow --reads 100000
//! ```
//!
//! It ends with 0 if no read was stale, 1 if one was, and 2 if it could not be found out.

mod processes;
mod reads;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use quorate::transport::memory::LinkFaults;
use quorate::{Cluster, Options};

use processes::{run_processes, serve};
use reads::{Acknowledged, KEYS, Stop, Tally, count, load, read, watch, write};

type Failure = Box<dyn Error + Send + Sync>;

const HELP: &str = "\
Reads at a follower that falls behind, and compares with what was acknowledged before.

  --mode stop|both|slow  what is done to the follower (stop)
  --times N              how often it is stopped (15)
  --readers N            threads that read (6)
  --outstanding N        reads that each has on their way (1; 500 with slow)
  --reads N              reads in all, at least (1000000)
  --delay-ms N           how long a message may take with slow (400)
  --load N               other writes on their way, of a kibibyte each (64)
  --retry-ms N           Options::retry_after, instead of its default
  --election-ms N        Options::election_timeout, instead of its default
  --seconds N            when to give up (1800)
  --seed N               for the times of the stops
";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Stop,
    Both,
    Slow,
}

#[derive(Clone)]
struct Args {
    mode: Mode,
    times: u64,
    readers: u64,
    outstanding: Option<usize>,
    reads: u64,
    delay: Duration,
    load: usize,
    retry: Option<Duration>,
    election: Option<Duration>,
    limit: Duration,
    seed: u64,
    /// Of a child: its node, its directory, the file of what was acknowledged, and all addresses.
    node: Option<Serving>,
}

#[derive(Clone, Default)]
struct Serving {
    id: u64,
    dir: PathBuf,
    acknowledged: PathBuf,
    addresses: Vec<String>,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let done = match (&args.node, args.mode) {
        (Some(node), _) => serve(&args, node).map(|()| None),
        (None, Mode::Slow) => run_slow(&args).map(Some),
        (None, Mode::Stop | Mode::Both) => run_processes(&args).map(Some),
    };
    match done {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(tally)) => verdict(&args, &tally),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, Failure> {
    let mut args = Args {
        mode: Mode::Stop,
        times: 15,
        readers: 6,
        outstanding: None,
        reads: 1_000_000,
        delay: Duration::from_millis(400),
        load: 64,
        retry: None,
        election: None,
        limit: Duration::from_mins(30),
        seed: u64::from(std::process::id()),
        node: None,
    };
    let mut serving = Serving::default();
    while let Some(word) = words.next() {
        if word == "--help" {
            return Ok(None);
        }
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} {value}: no number"))
        };
        match word.as_str() {
            "--mode" => {
                args.mode = match value.as_str() {
                    "stop" => Mode::Stop,
                    "both" => Mode::Both,
                    "slow" => Mode::Slow,
                    _ => return Err(format!("there is no mode {value}").into()),
                }
            }
            "--times" => args.times = number()?,
            "--readers" => args.readers = number()?.max(1),
            "--outstanding" => args.outstanding = Some(number()?.max(1) as usize),
            "--reads" => args.reads = number()?,
            "--delay-ms" => args.delay = Duration::from_millis(number()?),
            "--load" => args.load = number()? as usize,
            "--election-ms" => args.election = Some(Duration::from_millis(number()?)),
            "--retry-ms" => args.retry = Some(Duration::from_millis(number()?)),
            "--seconds" => args.limit = Duration::from_secs(number()?),
            "--seed" => args.seed = number()?,
            "--serve" => serving.id = number()?,
            "--dir" => serving.dir = PathBuf::from(value),
            "--acknowledged" => serving.acknowledged = PathBuf::from(value),
            "--addresses" => serving.addresses = value.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("there is no option {word}").into()),
        }
    }
    if serving.id > 0 {
        args.node = Some(serving);
    }
    Ok(Some(args))
}

fn options(args: &Args) -> Options {
    let mut options = Options::default();
    if let Some(retry) = args.retry {
        options.retry_after = retry;
    }
    if let Some(election) = args.election {
        options.election_timeout = election;
    }
    options
}

fn verdict(args: &Args, tally: &Tally) -> ExitCode {
    println!("{}", tally.line());
    let (reads, stale) = (count(&tally.reads), count(&tally.stale));
    if stale > 0 {
        let worst = count(&tally.worst);
        println!("FAILED: {stale} of {reads} reads were stale, the worst by {worst} writes");
        return ExitCode::FAILURE;
    }
    if reads < args.reads {
        println!("NOT FOUND OUT: {reads} of {} reads in time", args.reads);
        return ExitCode::from(2);
    }
    println!("OK: none of {reads} reads was older than what was acknowledged before it");
    ExitCode::SUCCESS
}

/// Three nodes in this process, with slow links between the leader and the one that is read at.
fn run_slow(args: &Args) -> Result<Tally, Failure> {
    let dir = tempfile::tempdir()?;
    let acknowledged = Acknowledged::create(&dir.path().join("acknowledged"))?;
    let cluster = Cluster::builder().options(options(args)).start()?;
    let clerk = cluster.clerk();
    clerk.put("first", "")?;
    let leader = cluster.leader()?;
    let nodes = cluster.nodes().into_iter();
    let reader = nodes
        .rev()
        .find(|&node| node != leader)
        .ok_or("three nodes")?;
    let db = cluster.db(reader).ok_or("it runs")?;
    let network = cluster.network().ok_or("it is in memory")?;
    network.seed(args.seed);
    let slow = LinkFaults {
        delay_max: args.delay,
        ..LinkFaults::default()
    };
    network.set_faults(leader, reader, slow);
    network.set_faults(reader, leader, slow);
    let tally = Tally::default();
    let flag: Arc<AtomicBool> = Arc::default();
    thread::scope(|scope| {
        let stop = Stop(Arc::clone(&flag));
        let mut threads = Vec::new();
        scope.spawn(|| {
            let began = Instant::now();
            // Until the last read is answered, which is after the others were told to stop.
            while Arc::strong_count(&flag) > 1 || !flag.load(Ordering::SeqCst) {
                network.advance(began.elapsed());
                thread::sleep(Duration::from_millis(1));
            }
            network.heal_all();
        });
        for key in 0..KEYS {
            let (clerk, acknowledged, flag) = (&clerk, &acknowledged, &flag);
            threads.push(scope.spawn(move || write(clerk, key, acknowledged, flag)));
        }
        if args.load > 0 {
            scope.spawn(|| load(&clerk, args.load, &flag));
        }
        for _ in 0..args.readers {
            let outstanding = args.outstanding.unwrap_or(500);
            let (db, acknowledged, tally, flag) = (&db, &acknowledged, &tally, &flag);
            threads.push(scope.spawn(move || read(db, outstanding, acknowledged, tally, flag)));
        }
        watch(args, &tally, || {
            count(&tally.reads) >= args.reads || threads.iter().any(ScopedJoinHandle::is_finished)
        });
        stop.0.store(true, Ordering::SeqCst);
        let ended: Result<(), Failure> = threads
            .into_iter()
            .try_for_each(|it| it.join().map_err(|_| "a thread panicked")?);
        drop(stop);
        ended
    })?;
    Ok(tally)
}
