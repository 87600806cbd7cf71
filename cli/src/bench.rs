//! Puts as fast as the cluster takes them, with figures while it runs.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate::{Clerk, Pending};

use crate::Failure;
use crate::arguments::BenchArguments;
use crate::calls::clerk;

/// A line on a terminal is renewed so often; elsewhere each is a line of its own.
const TERMINAL_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(1);

const KEYS: u64 = 10_000;

/// From 1 us to an hour, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;

pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let clerk = clerk(&arguments.connect)?;
    let value = vec![b'v'; arguments.value_bytes as usize];
    let mut puts = Puts::new(clerk, value);
    let mut display = Display::new();
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let began = Instant::now();
    loop {
        let now = Instant::now();
        while now < until && puts.on_their_way.len() < arguments.outstanding as usize {
            puts.issue();
        }
        if puts.on_their_way.is_empty() {
            break;
        }
        if let Some(latency) = puts.wait_until(display.due)? {
            display.count(latency);
        }
        if Instant::now() >= display.due {
            display.show()?;
        }
    }
    display.finish(began.elapsed())
}

/// Puts on their way, oldest first; the answers of one session come in this order.
struct Puts {
    clerk: Clerk,
    value: Vec<u8>,
    issued: u64,
    on_their_way: VecDeque<(Instant, Pending<()>)>,
}

impl Puts {
    fn new(clerk: Clerk, value: Vec<u8>) -> Self {
        Self {
            clerk,
            value,
            issued: 0,
            on_their_way: VecDeque::new(),
        }
    }

    fn issue(&mut self) {
        let key = format!("bench/{}", self.issued % KEYS);
        self.issued += 1;
        self.on_their_way
            .push_back((Instant::now(), self.clerk.put_async(key, &self.value)));
    }

    /// How long the oldest took, unless it is not done by then.
    fn wait_until(&mut self, due: Instant) -> Result<Option<Duration>, Failure> {
        let Some((issued, put)) = self.on_their_way.pop_front() else {
            return Ok(None);
        };
        match put.wait_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(done) => {
                done?;
                Ok(Some(issued.elapsed()))
            }
            Err(put) => {
                self.on_their_way.push_front((issued, put));
                Ok(None)
            }
        }
    }
}

/// What is shown while it runs, and at the end.
struct Display {
    /// When the next line is due.
    due: Instant,
    every: Duration,
    shown_at: Instant,
    is_terminal: bool,
    since_shown_us: Histogram<u64>,
    total_us: Histogram<u64>,
}

impl Display {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let every = if is_terminal {
            TERMINAL_EVERY
        } else {
            LINE_EVERY
        };
        let now = Instant::now();
        Self {
            due: now + every,
            every,
            shown_at: now,
            is_terminal,
            since_shown_us: new_latencies(),
            total_us: new_latencies(),
        }
    }

    fn count(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.since_shown_us.saturating_record(micros);
    }

    /// One line on standard error with the figures since the last one.
    fn show(&mut self) -> Result<(), Failure> {
        let line = line(&self.since_shown_us, self.shown_at.elapsed());
        let mut out = io::stderr();
        if self.is_terminal {
            // Back to the beginning of the line, and clear it.
            write!(out, "\r\x1b[2K{line}")?;
            out.flush()?;
        } else {
            writeln!(out, "{line}")?;
        }
        self.total_us.add(&self.since_shown_us)?;
        self.since_shown_us.reset();
        self.shown_at = Instant::now();
        self.due = self.shown_at + self.every;
        Ok(())
    }

    /// The figures of the whole run on standard output.
    fn finish(mut self, elapsed: Duration) -> Result<(), Failure> {
        self.total_us.add(&self.since_shown_us)?;
        if self.is_terminal {
            eprintln!();
        }
        let ops = self.total_us.len();
        Ok(writeln!(
            io::stdout(),
            "{ops} puts in {:.1} s: {}",
            elapsed.as_secs_f64(),
            line(&self.total_us, elapsed)
        )?)
    }
}

fn line(latencies_us: &Histogram<u64>, elapsed: Duration) -> String {
    let ms = |quantile| latencies_us.value_at_quantile(quantile) as f64 / 1_000.0;
    let per_s = latencies_us.len() as f64 / elapsed.as_secs_f64();
    format!(
        "{per_s:.0} puts/s, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        ms(0.5),
        ms(0.99),
        ms(1.0)
    )
}

fn new_latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .expect("the bounds are constants that fit each other")
}
