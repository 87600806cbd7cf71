//! Puts as fast as the cluster takes them, with figures while it runs.
//!
//! The keys are in a prefix that nothing else is in, and are removed at the end: also when it is interrupted or fails, as
//! far as the cluster lets it within the time of a call.

use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate::{Clerk, Error, Pending};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::arguments::BenchArguments;
use crate::connect::clerk;
use crate::{Failure, out, time};

/// A line on a terminal is renewed so often; elsewhere each is a line of its own.
const TERMINAL_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often it looks whether it was interrupted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What comes sooner after the first signal is the same one: a wrapper sends it, and so does the terminal.
const SECOND_AFTER: Duration = Duration::from_millis(500);

const KEYS: u64 = 10_000;

/// How many prefixes are tried before it gives up. The first one is free, unless somebody makes it so that it is not.
const PREFIXES_TRIED: usize = 3;

/// From 1 us to an hour, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;

pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let clerk = clerk(&arguments.connect)?;
    let prefix = free_prefix(&clerk)?;
    let interrupt = Interrupt::watch()?;
    out::note(&format!(
        "the keys are in the prefix {prefix}, and are removed at the end"
    ));
    let value = vec![b'v'; arguments.value_bytes as usize];
    let mut puts = Puts::new(clerk, prefix, value);
    let mut display = Display::new();
    let began = Instant::now();
    let measured = measure(arguments, &interrupt, &mut puts, &mut display);
    let elapsed = began.elapsed();
    display.end_line();
    let removed = puts.remove_all(arguments, &interrupt);
    measured?;
    display.finish(elapsed)?;
    removed?;
    interrupt
        .signal()
        .map_or(Ok(()), |signal| Err(Failure::Interrupted(signal)))
}

fn measure(
    arguments: &BenchArguments,
    interrupt: &Interrupt,
    puts: &mut Puts,
    display: &mut Display,
) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    loop {
        let now = Instant::now();
        if interrupt.signal().is_some() {
            return Ok(());
        }
        while now < until && puts.on_their_way.len() < arguments.outstanding as usize {
            puts.issue();
        }
        if puts.on_their_way.is_empty() {
            return Ok(());
        }
        if let Some(latency) = puts.wait_until(display.due.min(now + LOOK_EVERY))? {
            display.count(latency);
        }
        if Instant::now() >= display.due {
            display.show()?;
        }
    }
}

/// A prefix that no key begins with.
fn free_prefix(clerk: &Clerk) -> Result<String, Failure> {
    for _ in 0..PREFIXES_TRIED {
        let drawn = RandomState::new().build_hasher().finish();
        let prefix = format!("bench/{}-{drawn:016x}/", time::now());
        if clerk.prefix(&prefix, 1)?.is_empty() {
            return Ok(prefix);
        }
    }
    Err(Failure::Failed(
        "every prefix for the keys is taken already: try again".to_owned(),
    ))
}

/// Which signal asked it to end. A second one, later on, ends it at once.
struct Interrupt {
    signal: Arc<AtomicUsize>,
    is_last: Arc<AtomicBool>,
    noticed: Cell<Option<Instant>>,
}

impl Interrupt {
    fn watch() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let is_last = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            flag::register_conditional_default(number, Arc::clone(&is_last))?;
            flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
        }
        Ok(Self {
            signal,
            is_last,
            noticed: Cell::new(None),
        })
    }

    /// To be asked again and again: from some time after the first signal on, the next one is the last.
    fn signal(&self) -> Option<i32> {
        let number = i32::try_from(self.signal.load(Ordering::Relaxed));
        let number = number.ok().filter(|&number| number > 0)?;
        let noticed = self.noticed.get().unwrap_or_else(Instant::now);
        self.noticed.set(Some(noticed));
        if noticed.elapsed() >= SECOND_AFTER {
            self.is_last.store(true, Ordering::Relaxed);
        }
        Some(number)
    }

    /// Waits for an answer, and looks at signals meanwhile. `None`: it did not come in time.
    fn wait<T>(&self, mut pending: Pending<T>, until: Instant) -> Option<Result<T, Error>> {
        loop {
            let _seen = self.signal();
            let left = until.saturating_duration_since(Instant::now());
            match pending.wait_timeout(left.min(LOOK_EVERY)) {
                Ok(answer) => return Some(answer),
                Err(_) if left.is_zero() => return None,
                Err(later) => pending = later,
            }
        }
    }
}

/// Puts on their way, oldest first; the answers of one session come in this order.
struct Puts {
    clerk: Clerk,
    prefix: String,
    value: Vec<u8>,
    issued: u64,
    on_their_way: VecDeque<(Instant, Pending<()>)>,
}

impl Puts {
    fn new(clerk: Clerk, prefix: String, value: Vec<u8>) -> Self {
        Self {
            clerk,
            prefix,
            value,
            issued: 0,
            on_their_way: VecDeque::new(),
        }
    }

    fn key(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    fn issue(&mut self) {
        let key = self.key(self.issued % KEYS);
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

    /// Removes every key that was put, within this time. A removal is behind the puts of this session, whatever
    /// became of their answers.
    fn remove_all(
        &mut self,
        arguments: &BenchArguments,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let until = Instant::now() + arguments.connect.timeout();
        for (_, put) in std::mem::take(&mut self.on_their_way) {
            // Whether it was put does not matter any more, but it must not be counted as outstanding.
            let _gone_either_way = interrupt.wait(put, until);
        }
        let count = self.issued.min(KEYS);
        let (mut next, mut removed) = (0, 0);
        let mut deletes = VecDeque::new();
        while removed < count && Instant::now() < until {
            while next < count && deletes.len() < arguments.outstanding as usize {
                deletes.push_back(self.clerk.delete_async(self.key(next)));
                next += 1;
            }
            let Some(delete) = deletes.pop_front() else {
                break;
            };
            match interrupt.wait(delete, until) {
                Some(Ok(_was_there)) => removed += 1,
                Some(Err(_)) => {}
                None => break,
            }
        }
        match count - removed {
            0 => Ok(()),
            kept => {
                let reason = format!(
                    "{kept} of {count} keys could not be removed in time: some in the prefix {} may be left; \
                     remove them when the cluster answers again",
                    self.prefix
                );
                out::complain(&reason);
                Err(Failure::Reported)
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
        let is_terminal = out::is_error_terminal();
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
        out::renew(&line(&self.since_shown_us, self.shown_at.elapsed()));
        self.total_us.add(&self.since_shown_us)?;
        self.since_shown_us.reset();
        self.shown_at = Instant::now();
        self.due = self.shown_at + self.every;
        Ok(())
    }

    /// What is said next begins a line.
    fn end_line(&self) {
        if self.is_terminal {
            out::note("");
        }
    }

    /// The figures of the whole run on standard output.
    fn finish(mut self, elapsed: Duration) -> Result<(), Failure> {
        self.total_us.add(&self.since_shown_us)?;
        let puts = self.total_us.len();
        let seconds = elapsed.as_secs_f64();
        let figures = line(&self.total_us, elapsed);
        Ok(out::print(&format!(
            "{puts} puts in {seconds:.1} s: {figures}\n"
        ))?)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `timeout` sends a signal to the process and to its group, and a terminal sends one beside a wrapper.
    #[test]
    fn two_signals_at_once_are_one() {
        let interrupt = Interrupt {
            signal: Arc::new(AtomicUsize::new(0)),
            is_last: Arc::new(AtomicBool::new(false)),
            noticed: Cell::new(None),
        };
        let ends_at_the_next = || interrupt.is_last.load(Ordering::Relaxed);
        assert_eq!((interrupt.signal(), ends_at_the_next()), (None, false));
        interrupt.signal.store(15, Ordering::Relaxed);
        let now = Instant::now();
        // Longer than the test may take.
        interrupt.noticed.set(Some(now + Duration::from_hours(1)));
        assert_eq!((interrupt.signal(), ends_at_the_next()), (Some(15), false));
        interrupt.noticed.set(now.checked_sub(SECOND_AFTER));
        assert_eq!((interrupt.signal(), ends_at_the_next()), (Some(15), true));
    }
}
