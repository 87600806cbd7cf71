//! Numbers that are put, reads that must see them, and what came of the reads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quorate::{Bytes, Clerk, Consistency, Db, Pending};

use crate::{Args, Failure};

/// Keys that are written, each by a thread of its own.
pub(crate) const KEYS: usize = 4;

/// What came of the reads so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) reads: AtomicU64,
    pub(crate) stale: AtomicU64,
    /// Reads that ended without an answer: no harm.
    pub(crate) failed: AtomicU64,
    /// By how many writes the worst of them was behind.
    pub(crate) worst: AtomicU64,
    pub(crate) stops: AtomicU64,
}

pub(crate) fn count(of: &AtomicU64) -> u64 {
    of.load(Ordering::SeqCst)
}

impl Tally {
    pub(crate) fn line(&self) -> String {
        format!(
            "{:>9} reads  {} stale  {} without an answer  {} stops",
            count(&self.reads),
            count(&self.stale),
            count(&self.failed),
            count(&self.stops),
        )
    }
}
/// The highest number that was acknowledged under each key; in a file, so that a process sees it that was stopped when it
/// changed.
pub(crate) struct Acknowledged(File);

impl Acknowledged {
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.set_len(8 * KEYS as u64)?;
        Ok(Self(file))
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self(File::open(path)?))
    }

    pub(crate) fn get(&self, key: usize) -> Result<u64, Failure> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 8 * key as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn set(&self, key: usize, number: u64) -> Result<(), Failure> {
        self.0.write_all_at(&number.to_le_bytes(), 8 * key as u64)?;
        Ok(())
    }
}

fn name(key: usize) -> String {
    format!("counter {key}")
}

/// Puts ever higher numbers under a key until told to stop.
pub(crate) fn write(
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

/// Keeps writes of other keys on their way, so that a node that was stopped has something to catch up with.
pub(crate) fn load(clerk: &Clerk, outstanding: usize, stop: &AtomicBool) {
    let value = vec![7; 1 << 10];
    let mut on_their_way = VecDeque::new();
    let mut keys = (0..10_000).cycle();
    while !stop.load(Ordering::SeqCst) {
        while on_their_way.len() < outstanding {
            let key = keys.next().unwrap_or_default();
            on_their_way.push_back(clerk.put_async(format!("load {key}"), &value));
        }
        if let Some(write) = on_their_way.pop_front() {
            // Whether it fails is of no interest: while a leader is stopped it may.
            let _done = write.wait();
        }
    }
}

/// A read on its way, and the number that it must see.
type OnItsWay = (u64, Pending<Option<Bytes>>);

/// Reads one key after the other until told to stop, with so many reads on their way.
pub(crate) fn read(
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
pub(crate) fn watch(args: &Args, tally: &Tally, is_done: impl Fn() -> bool) {
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
pub(crate) struct Stop(pub(crate) Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
