//! Nodes in processes of their own, which are stopped and continued.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use quorate::{Clerk, Db, GroupId, NodeId, Role};

use crate::reads::{Acknowledged, KEYS, Stop, Tally, count, load, read, watch, write};
use crate::{Args, Failure, Mode, Serving, options};

/// The node that is read at, and stopped.
const READER: u64 = 3;

const GROUP: GroupId = GroupId(0);

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
        if let Some(election) = args.election {
            command.args(["--election-ms", &election.as_millis().to_string()]);
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

pub(crate) fn run_processes(args: &Args) -> Result<Tally, Failure> {
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
        let mut threads: Vec<ScopedJoinHandle<'_, Result<(), Failure>>> = Vec::new();
        for key in 0..KEYS {
            let (clerk, acknowledged, flag) = (&clerk, &acknowledged, &flag);
            threads.push(scope.spawn(move || write(clerk, key, acknowledged, flag)));
        }
        if args.load > 0 {
            scope.spawn(|| load(&clerk, args.load, &flag));
        }
        let troubles = scope.spawn(|| trouble(args, &nodes, &tally, &said, &flag));
        watch(args, &tally, || {
            let is_enough = count(&tally.reads) >= args.reads;
            is_enough && troubles.is_finished() || threads.iter().any(ScopedJoinHandle::is_finished)
        });
        drop(stop);
        threads.push(troubles);
        threads
            .into_iter()
            .try_for_each(|it| it.join().map_err(|_| "a thread panicked")?)
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
pub(crate) fn serve(args: &Args, serving: &Serving) -> Result<(), Failure> {
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
            // The next look finds out whether somebody took it.
            drop(db.transfer_leadership_async(GROUP, None));
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
