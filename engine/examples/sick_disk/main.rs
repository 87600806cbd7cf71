//! How long writes wait when the leader's disk gets full, or stands still: three nodes, each in a process of its own, talk
//! over TCP and write to real files. The disk of the leader is struck; the run counts from the first write that misses to
//! the first one that another leader acknowledges, which may take two election timeouts.
//!
//! ```text
//! cargo run --release --example sick_disk
//! cargo run --release --example sick_disk -- --runs 20 --kind stall --stall-ms 5000 --dir /mnt/disk
//! ```

mod disk;
mod node;

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use quorate::{Clerk, Options};

use node::{Heard, Node, Notice};

const HELP: &str = "\
How long writes wait when the leader's disk is full or stalled

  --runs N        runs of each kind (20)
  --kind KIND     full, stall or both (both)
  --stall-ms MS   how long a stalled disk stands still (5000)
  --dir DIR       where the nodes' files go (a temporary directory)
";

/// A run that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// Enough that a segment of the log is full after a few writes.
const VALUE_BYTES: usize = 16 << 10;

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Full,
    Stall,
}

struct Args {
    runs: usize,
    kinds: Vec<Kind>,
    stall_ms: u64,
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
        runs: 20,
        kinds: vec![Kind::Full, Kind::Stall],
        stall_ms: 5_000,
        dir: None,
    };
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} needs a value; see --help", pair[0]).into());
        };
        match (&name[..], &value[..]) {
            ("--runs", value) => args.runs = value.parse()?,
            ("--stall-ms", value) => args.stall_ms = value.parse()?,
            ("--dir", value) => args.dir = Some(value.into()),
            ("--kind", "both") => {}
            ("--kind", "full") => args.kinds = vec![Kind::Full],
            ("--kind", "stall") => args.kinds = vec![Kind::Stall],
            _ => return Err(format!("{name} {value} is not understood; see --help").into()),
        }
    }
    Ok(args)
}

/// All runs; returns whether each was in time.
fn measure(args: &Args) -> Result<bool, Box<dyn Error>> {
    let timeout = Options::default().election_timeout;
    let mut all_in_time = true;
    for &kind in &args.kinds {
        let mut took = Vec::new();
        for number in 1..=args.runs {
            let time = match run(kind, args) {
                Ok(time) => time,
                Err(error) => {
                    println!("{kind:?} {number}/{}: FAILED: {error}", args.runs);
                    all_in_time = false;
                    continue;
                }
            };
            let timeouts = time.as_secs_f64() / timeout.as_secs_f64();
            println!(
                "{kind:?} {number}/{}: {} ms, {timeouts:.2} election timeouts{}",
                args.runs,
                time.as_millis(),
                if timeouts > 2.0 { ": TOO LATE" } else { "" }
            );
            io::stdout().flush()?;
            took.push(timeouts);
        }
        took.sort_by(f64::total_cmp);
        if let (Some(median), Some(worst)) = (took.get(took.len() / 2), took.last()) {
            println!("{kind:?}: median {median:.2}, worst {worst:.2} election timeouts");
            all_in_time &= *worst <= 2.0;
        }
    }
    Ok(all_in_time)
}

/// One run, from an empty directory: how long writes waited.
fn run(kind: Kind, args: &Args) -> Result<Duration, Box<dyn Error>> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let addresses = free_addresses()?;
    let (tell, heard) = mpsc::channel();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let own = dir.path().join(id.to_string());
        nodes.push(Node::start(id, &addresses, &own, tell.clone())?);
    }
    let (leader, ..) = wait_for(&heard, "an election", |notice| notice.1 == Notice::Leads)?;
    let clerk = Clerk::connect(&addresses)?;
    let mut writes = Writes { clerk, number: 0 };
    // Until the nodes have told each other how they are, and the first segments are used.
    let warm_until = Instant::now() + Options::default().election_timeout * 2;
    while Instant::now() < warm_until {
        writes.put()?;
    }
    if let Some((other, ..)) = heard.try_iter().last() {
        return Err(format!("node {other} took the lead from {leader} unasked").into());
    }
    let place = usize::try_from(leader - 1)?;
    nodes[place].tell(&match kind {
        Kind::Full => "full".to_owned(),
        Kind::Stall => format!("stall {}", args.stall_ms),
    })?;
    wait_for(&heard, "the stroke", |notice| notice.1 == Notice::Struck)?;
    watch(kind, leader, &mut writes, &heard)
}

/// Writes until another leader has acknowledged something.
fn watch(
    kind: Kind,
    old: u64,
    writes: &mut Writes,
    heard: &Receiver<Heard>,
) -> Result<Duration, Box<dyn Error>> {
    let struck = Instant::now();
    let mut other_since = None;
    while struck.elapsed() < DEADLINE {
        let (began, ended) = writes.put()?;
        let is_other = |heard: &Heard| heard.0 != old && heard.1 == Notice::Leads;
        let news = heard.try_iter().find(is_other);
        other_since = other_since.or(news.map(|(_, _, at)| at));
        let Some(since) = other_since else { continue };
        match kind {
            // A full disk acknowledges nothing: this one missed, and another leader took it.
            Kind::Full if ended >= since => return Ok(ended - began),
            // Since the stroke no write is on the leader's disk in time. This one began when another one led.
            Kind::Stall if began >= since => return Ok(ended - struck),
            _ => {}
        }
    }
    Err(format!("no other leader within {DEADLINE:?}").into())
}

/// A client that writes one value after the other.
struct Writes {
    clerk: Clerk,
    number: u64,
}

impl Writes {
    /// When a write began and when it was acknowledged.
    fn put(&mut self) -> Result<(Instant, Instant), Box<dyn Error>> {
        thread::sleep(PAUSE);
        self.number += 1;
        let key = format!("key {}", self.number % 100);
        let began = Instant::now();
        self.clerk.put(key, vec![7; VALUE_BYTES])?;
        Ok((began, Instant::now()))
    }
}

fn wait_for(
    heard: &Receiver<Heard>,
    what: &str,
    is_it: impl Fn(&Heard) -> bool,
) -> Result<Heard, Box<dyn Error>> {
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
