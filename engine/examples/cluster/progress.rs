//! What a watcher sees: rate, latency, who leads, and what was survived.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate::{Cluster, GroupId, NodeId, Role, Term};

/// How often the nodes are asked who leads. Far below an election timeout, so that few leaders go
/// unseen.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often a line appears where lines stay.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often the line changes on a terminal.
const REWRITE_EVERY: Duration = Duration::from_millis(250);

/// More groups than this are not listed one by one.
const GROUPS_LISTED_MAX: usize = 4;

/// Each power of two of microseconds has this many buckets, so that a quantile is at most an eighth
/// too high.
const BUCKETS_PER_DOUBLING: usize = 8;

/// Covers latencies up to 2^32 us, which is over an hour; longer ones count as that.
const BUCKETS: usize = BUCKETS_PER_DOUBLING * (32 - 2);

/// Counted by the clerks and the chaos, read by the watcher.
pub(crate) struct Meter {
    crashes: AtomicU64,
    /// Appends answered since the last look, by latency.
    latencies: [AtomicU64; BUCKETS],
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            crashes: AtomicU64::new(0),
            latencies: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Counts an append, from issue to answer.
    pub(crate) fn record(&self, latency: Duration) {
        self.latencies[bucket_of(latency)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_crash(&self) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn crashes(&self) -> u64 {
        self.crashes.load(Ordering::Relaxed)
    }

    fn take_interval(&self) -> Interval {
        let counts: Vec<u64> = self
            .latencies
            .iter()
            .map(|count| count.swap(0, Ordering::Relaxed))
            .collect();
        let appends: u64 = counts.iter().sum();
        let rank = appends - appends / 100;
        let mut seen = 0;
        let p99 = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Interval {
            appends,
            p99_us: p99.map_or(0, bucket_end_us),
        }
    }
}

struct Interval {
    appends: u64,
    p99_us: u64,
}

/// Shows progress on standard error until the other end of `stop` is dropped. Returns how many
/// times a new leader took over.
pub(crate) fn watch(cluster: &Cluster, meter: &Meter, stop: &Receiver<()>) -> io::Result<u64> {
    let is_rewritten = io::stderr().is_terminal();
    let every = if is_rewritten {
        REWRITE_EVERY
    } else {
        LINE_EVERY
    };
    let mut offices = Offices::new(cluster.groups());
    let (began, mut shown_at) = (Instant::now(), Instant::now());
    while stop.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        offices.look(cluster);
        let since = shown_at.elapsed();
        if since < every {
            continue;
        }
        shown_at = Instant::now();
        let interval = meter.take_interval();
        let line = format!(
            "{:6.1} s  {:>9} appends/s  p99 {:>8.2} ms  {}  {} crashed  {} elections",
            began.elapsed().as_secs_f64(),
            thousands(per_second(interval.appends, since)),
            interval.p99_us as f64 / 1_000.0,
            offices.describe(cluster),
            meter.crashes(),
            offices.elections,
        );
        show(&line, is_rewritten)?;
    }
    offices.look(cluster);
    if is_rewritten {
        writeln!(io::stderr())?;
    }
    Ok(offices.elections)
}

/// A number as people write it: `12,345`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A rate, rounded down. `elapsed` is not zero in any sensible use, and counts as a nanosecond at
/// least.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn show(line: &str, is_rewritten: bool) -> io::Result<()> {
    let mut out = io::stderr().lock();
    if is_rewritten {
        // Back to the first column, and clear what was there.
        write!(out, "\r\x1b[2K{line}")?;
    } else {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Who held which office last.
struct Offices {
    /// By group: the last leader that was seen, and its term.
    last: Vec<Option<(Term, NodeId)>>,
    /// Leaders that took over from another one, or from themselves in a later term.
    elections: u64,
}

impl Offices {
    fn new(groups: u32) -> Self {
        Self {
            last: vec![None; groups as usize],
            elections: 0,
        }
    }

    fn look(&mut self, cluster: &Cluster) {
        for db in cluster
            .nodes()
            .into_iter()
            .filter_map(|node| cluster.db(node))
        {
            for status in db.status() {
                if status.role == Role::Leader {
                    self.saw(status.group, status.term, db.node());
                }
            }
        }
    }

    /// A term has one leader, so a later term is a new office; an earlier one is a leader that has
    /// not heard yet.
    fn saw(&mut self, group: GroupId, term: Term, leader: NodeId) {
        let last = &mut self.last[group.0 as usize];
        match last {
            Some((last_term, _)) if term <= *last_term => return,
            Some(_) => self.elections += 1,
            None => {}
        }
        *last = Some((term, leader));
    }

    fn describe(&self, cluster: &Cluster) -> String {
        let down = cluster
            .nodes()
            .into_iter()
            .find(|&node| cluster.db(node).is_none());
        let name = |last: &Option<(Term, NodeId)>| match last {
            Some((term, leader)) if Some(*leader) != down => {
                format!("{} (term {})", leader.0, term.0)
            }
            _ => "none".to_owned(),
        };
        let leaders = if self.last.len() <= GROUPS_LISTED_MAX {
            let names: Vec<String> = self.last.iter().map(name).collect();
            format!("leader {}", names.join(", "))
        } else {
            let led_by = |node| {
                self.last
                    .iter()
                    .flatten()
                    .filter(|last| last.1 == node)
                    .count()
            };
            let led = cluster
                .nodes()
                .into_iter()
                .filter(|&node| Some(node) != down);
            let counts: Vec<String> = led
                .map(|node| format!("{}: {}", node.0, led_by(node)))
                .collect();
            format!("groups led by {}", counts.join(", "))
        };
        match down {
            Some(node) => format!("{leaders}  node {} down", node.0),
            None => leaders,
        }
    }
}

fn bucket_of(latency: Duration) -> usize {
    let us = u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .min(u64::from(u32::MAX));
    if us < BUCKETS_PER_DOUBLING as u64 {
        return us as usize;
    }
    // The highest bit names the doubling, the three bits below it the place therein.
    let doubling = us.ilog2() - BUCKETS_PER_DOUBLING.ilog2();
    let place = (us >> doubling) as usize - BUCKETS_PER_DOUBLING;
    (doubling as usize + 1) * BUCKETS_PER_DOUBLING + place
}

/// The first latency beyond a bucket.
fn bucket_end_us(bucket: usize) -> u64 {
    let (doubling, place) = (bucket / BUCKETS_PER_DOUBLING, bucket % BUCKETS_PER_DOUBLING);
    match doubling {
        0 => place as u64 + 1,
        _ => ((BUCKETS_PER_DOUBLING + place + 1) as u64) << (doubling - 1),
    }
}
