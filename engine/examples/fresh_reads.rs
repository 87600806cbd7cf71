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

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use quorate::transport::memory::LinkFaults;
use quorate::{Bytes, Clerk, Cluster, Consistency, Db, GroupId, NodeId, Options, Pending, Role};

type Failure = Box<dyn Error + Send + Sync>;

const HELP: &str = "\
Reads at a follower that falls behind, and compares with what was acknowledged before.

  --mode stop|both|slow  what is done to the follower (stop)
  --times N              how often it is stopped (15)
  --readers N            threads that read (6)
  --outstanding N        reads that each has on their way (1; 500 with slow)
  --reads N              reads in all, at least (1000000)
  --delay-ms N           how long a message may take with slow (400)
  --retry-ms N           Options::retry_after, instead of its default
  --seconds N            when to give up (1800)
  --seed N               for the times of the stops
";

/// Keys that are written, each by a thread of its own.
const KEYS: usize = 4;

/// The node that is read at, and stopped.
const READER: u64 = 3;

const GROUP: GroupId = GroupId(0);

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
    retry: Option<Duration>,
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
        retry: None,
        limit: Duration::from_secs(1_800),
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
    options
}

/// What came of the reads so far.
#[derive(Default)]
struct Tally {
    reads: AtomicU64,
    stale: AtomicU64,
    /// Reads that ended without an answer: no harm.
    failed: AtomicU64,
    /// By how many writes the worst of them was behind.
    worst: AtomicU64,
    stops: AtomicU64,
}

fn count(of: &AtomicU64) -> u64 {
    of.load(Ordering::SeqCst)
}

impl Tally {
    fn line(&self) -> String {
        format!(
            "{:>9} reads  {} stale  {} without an answer  {} stops",
            count(&self.reads),
            count(&self.stale),
            count(&self.failed),
            count(&self.stops),
        )
    }
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

/// The highest number that was acknowledged under each key; in a file, so that a process sees it that was stopped when it
/// changed.
struct Acknowledged(File);

impl Acknowledged {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.set_len(8 * KEYS as u64)?;
        Ok(Self(file))
    }

    fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self(File::open(path)?))
    }

    fn get(&self, key: usize) -> Result<u64, Failure> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 8 * key as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn set(&self, key: usize, number: u64) -> Result<(), Failure> {
        self.0.write_all_at(&number.to_le_bytes(), 8 * key as u64)?;
        Ok(())
    }
}

fn name(key: usize) -> String {
    format!("counter {key}")
}

/// Puts ever higher numbers under a key until told to stop.
fn write(
    clerk: &Clerk,
    key: usize,
    acknowledged: &Acknowledged,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    for number in 1_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // A leader may be stopped for longer than a call lasts; nothing is acknowledged then.
        if clerk.put(name(key), number.to_string()).is_ok() {
            acknowledged.set(key, number)?;
        }
    }
    Ok(())
}

/// A read on its way, and the number that it must see.
type OnItsWay = (u64, Pending<Option<Bytes>>);

/// Reads one key after the other until told to stop, with so many reads on their way.
fn read(
    db: &Db,
    outstanding: usize,
    acknowledged: &Acknowledged,
    tally: &Tally,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut on_their_way: VecDeque<OnItsWay> = VecDeque::new();
    let mut keys = (0..KEYS).cycle();
    loop {
        while on_their_way.len() < outstanding && !stop.load(Ordering::SeqCst) {
            let key = keys.next().unwrap_or_default();
            let needs = acknowledged.get(key)?;
            let read = db.get_async(name(key), Consistency::Linearizable);
            on_their_way.push_back((needs, read));
        }
        let Some((needs, read)) = on_their_way.pop_front() else {
            return Ok(());
        };
        let Ok(value) = read.wait() else {
            tally.failed.fetch_add(1, Ordering::SeqCst);
            continue;
        };
        let seen: u64 = match &value {
            Some(digits) => std::str::from_utf8(digits)?.parse()?,
            None => 0,
        };
        if seen < needs {
            tally.stale.fetch_add(1, Ordering::SeqCst);
            tally.worst.fetch_max(needs - seen, Ordering::SeqCst);
        }
        tally.reads.fetch_add(1, Ordering::SeqCst);
    }
}

/// Looks on until there are reads enough, one was stale, or time is up.
fn watch(args: &Args, tally: &Tally, is_done: impl Fn() -> bool) {
    let is_rewritten = std::io::stderr().is_terminal();
    let began = Instant::now();
    let mut shown = Instant::now();
    while began.elapsed() < args.limit && count(&tally.stale) == 0 && !is_done() {
        thread::sleep(Duration::from_millis(50));
        let every = if is_rewritten { 250 } else { 5_000 };
        if shown.elapsed() >= Duration::from_millis(every) {
            shown = Instant::now();
            let line = format!("{:6.1} s  {}", began.elapsed().as_secs_f64(), tally.line());
            if is_rewritten {
                eprint!("\r\x1b[2K{line}");
            } else {
                eprintln!("{line}");
            }
        }
    }
    if is_rewritten {
        eprintln!();
    }
}

/// Sets a flag when it goes, also when something fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
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
        for _ in 0..args.readers {
            let outstanding = args.outstanding.unwrap_or(500);
            let (db, acknowledged, tally, flag) = (&db, &acknowledged, &tally, &flag);
            threads.push(scope.spawn(move || read(db, outstanding, acknowledged, tally, flag)));
        }
        watch(args, &tally, || {
            count(&tally.reads) >= args.reads || threads.iter().any(|it| it.is_finished())
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

/// A node in a process of its own. Dropped, it is continued and killed.
struct Process {
    child: Child,
}

impl Process {
    fn start(args: &Args, serving: &Serving) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--serve", &serving.id.to_string()])
            .arg("--dir")
            .arg(serving.dir.join(serving.id.to_string()))
            .arg("--acknowledged")
            .arg(&serving.acknowledged)
            .args(["--addresses", &serving.addresses.join(",")])
            .args(["--readers", &args.readers.to_string()])
            .args(["--outstanding", &args.outstanding.unwrap_or(1).to_string()]);
        if let Some(retry) = args.retry {
            command.args(["--retry-ms", &retry.as_millis().to_string()]);
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child })
    }

    fn signal(&self, signal: &str) -> Result<(), Failure> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("kill {signal} {pid} failed").into())
        }
    }

    /// Stops it for a while.
    fn stops_for(&self, time: Duration) -> Result<(), Failure> {
        self.signal("-STOP")?;
        thread::sleep(time);
        self.signal("-CONT")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.signal("-CONT");
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What a child says of itself.
#[derive(Default)]
struct Said {
    is_ready: AtomicBool,
    leader: AtomicU64,
}

fn run_processes(args: &Args) -> Result<Tally, Failure> {
    let dir = tempfile::tempdir()?;
    let addresses = free_addresses(args.seed)?;
    let mut serving = Serving {
        id: 0,
        dir: dir.path().to_path_buf(),
        acknowledged: dir.path().join("acknowledged"),
        addresses: addresses.clone(),
    };
    let acknowledged = Acknowledged::create(&serving.acknowledged)?;
    let (tally, said) = (Arc::new(Tally::default()), Arc::new(Said::default()));
    let (mut nodes, mut ears) = (Vec::new(), Vec::new());
    for id in 1..=READER {
        serving.id = id;
        let mut node = Process::start(args, &serving)?;
        let lines = node.child.stdout.take().ok_or("it is piped")?;
        let (tally, said) = (Arc::clone(&tally), Arc::clone(&said));
        ears.push(thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                hear(&line, &tally, &said);
            }
        }));
        nodes.push(node);
    }
    let clerk = connect(&addresses)?;
    clerk.put("first", "")?;
    let flag: Arc<AtomicBool> = Arc::default();
    thread::scope(|scope| {
        let stop = Stop(Arc::clone(&flag));
        let mut threads = Vec::new();
        for key in 0..KEYS {
            let (clerk, acknowledged, flag) = (&clerk, &acknowledged, &flag);
            threads.push(scope.spawn(move || write(clerk, key, acknowledged, flag)));
        }
        let troubles = scope.spawn(|| trouble(args, &nodes, &tally, &said, &flag));
        watch(args, &tally, || {
            let is_enough = count(&tally.reads) >= args.reads;
            is_enough && troubles.is_finished() || threads.iter().any(|it| it.is_finished())
        });
        drop(stop);
        threads.push(troubles);
        let ended = threads.into_iter();
        ended
            .map(|it| it.join().map_err(|_| "a thread panicked")?)
            .collect::<Result<(), Failure>>()
    })?;
    // What they said last is heard when they are gone.
    drop(nodes);
    for ear in ears {
        ear.join().map_err(|_| "a thread panicked")?;
    }
    Ok(Arc::into_inner(tally).ok_or("all that share it have ended")?)
}

/// Stops the reader's process again and again, and its leader's when that is asked for.
fn trouble(
    args: &Args,
    nodes: &[Process],
    tally: &Tally,
    said: &Said,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut dice = args.seed;
    let mut ms = |low: u64, high: u64| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(low + (dice >> 33) % (high - low))
    };
    while !said.is_ready.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..args.times {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        thread::sleep(ms(500, 1_500));
        nodes[READER as usize - 1].stops_for(ms(600, 2_600))?;
        if args.mode == Mode::Both {
            let leader = said.leader.load(Ordering::SeqCst);
            if let Some(node) = (1..READER)
                .contains(&leader)
                .then(|| &nodes[leader as usize - 1])
            {
                node.stops_for(Duration::from_millis(1_150))?;
            }
        }
        tally.stops.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn hear(line: &str, tally: &Tally, said: &Said) {
    let words: Vec<&str> = line.split(' ').collect();
    if let ["reads", numbers @ ..] = &words[..] {
        let numbers: Vec<u64> = numbers.iter().filter_map(|it| it.parse().ok()).collect();
        if let [reads, stale, failed, worst, leader] = numbers[..] {
            tally.reads.store(reads, Ordering::SeqCst);
            tally.stale.store(stale, Ordering::SeqCst);
            tally.failed.store(failed, Ordering::SeqCst);
            tally.worst.store(worst, Ordering::SeqCst);
            said.leader.store(leader, Ordering::SeqCst);
            said.is_ready.store(true, Ordering::SeqCst);
        }
    }
}

/// The nodes may need a moment to listen.
fn connect(addresses: &[String]) -> Result<Clerk, Failure> {
    let began = Instant::now();
    loop {
        match Clerk::connect(addresses.to_vec()) {
            Ok(clerk) => return Ok(clerk),
            Err(error) if began.elapsed() > Duration::from_secs(30) => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Below the range from which the system gives ports to connections.
fn free_addresses(seed: u64) -> Result<Vec<String>, Failure> {
    let first = 12_000 + (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as u16;
    let held: Vec<TcpListener> = (first..32_000)
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .take(READER as usize)
        .collect();
    let addresses = held.iter().map(|it| Ok(it.local_addr()?.to_string()));
    addresses.collect()
}

/// The body of a child: a node, and the readers if it is the one that is read at. It ends when its parent does.
fn serve(args: &Args, serving: &Serving) -> Result<(), Failure> {
    let addresses = (1..).zip(serving.addresses.iter().cloned());
    let db = Db::builder(&serving.dir)
        .node(serving.id)
        .cluster(addresses)
        .options(options(args))
        .open()?;
    let (tally, flag) = (Tally::default(), Arc::new(AtomicBool::new(false)));
    let problem: Mutex<Option<Failure>> = Mutex::new(None);
    let acknowledged = Acknowledged::open(&serving.acknowledged)?;
    thread::scope(|scope| {
        let _stop = Stop(Arc::clone(&flag));
        if serving.id == READER {
            for _ in 0..args.readers {
                scope.spawn(|| {
                    let outstanding = args.outstanding.unwrap_or(1);
                    if let Err(error) = read(&db, outstanding, &acknowledged, &tally, &flag) {
                        *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        flag.store(true, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(|| report(&db, &tally, &flag));
        }
        // Its end is the end of the parent.
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
        }
    });
    let problem = problem.into_inner().unwrap_or_else(PoisonError::into_inner);
    problem.map_or(Ok(()), Err)
}

/// Tells the parent how it goes. A node that is to be a follower does not keep the leadership.
fn report(db: &Db, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(50));
        let status = &db.status()[0];
        if status.role == Role::Leader {
            db.transfer_leadership(GROUP, None);
        }
        let leader = status.leader.unwrap_or(NodeId(0));
        let counts = [&tally.reads, &tally.stale, &tally.failed, &tally.worst];
        let [reads, stale, failed, worst] = counts.map(count);
        let line = format!("reads {reads} {stale} {failed} {worst} {}\n", leader.0);
        let mut out = std::io::stdout().lock();
        if out
            .write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}
