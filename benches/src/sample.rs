//! How long a load runs, and what came of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Failure;

/// How long to run.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many operations.
    Ops(u64),
    /// So long.
    Time(Duration),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Operations done.
    pub ops: u64,
    /// How long they took together.
    pub elapsed: Duration,
    /// How long each took, in nanoseconds; of cheap ones only some are timed.
    pub latency_ns: Histogram<u64>,
    /// Syncs that the disks were asked for meanwhile, on all nodes together.
    pub syncs: u64,
}

/// One of several threads that write at once.
pub trait Writer: Send {
    /// Writes once; returns when it is durable.
    fn write(&mut self) -> Result<(), Failure>;
}

/// One of several threads that each keep writes on their way.
pub trait Pipeline: Send {
    /// Starts a write; returns its number.
    fn issue(&mut self) -> Result<u64, Failure>;
    /// Has done what was started.
    fn flush(&mut self);
    /// Waits until the write of this number is durable, and so all before it.
    fn wait(&mut self, number: u64) -> Result<(), Failure>;
    /// Whether it is.
    fn is_done(&self, number: u64) -> bool;
}

/// When a call was made, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it was made.
    pub began: Instant,
    /// How long it took.
    pub latency: Duration,
}

/// Latencies from 100 ns to a minute. Two digits keep the histogram small beside what is measured.
const LATENCY_NS_MIN: u64 = 100;
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 2;

impl Sample {
    /// Operations per second.
    pub fn ops_per_s(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64()
    }

    /// Syncs per second.
    pub fn syncs_per_s(&self) -> f64 {
        self.syncs as f64 / self.elapsed.as_secs_f64()
    }
}

/// Lets all writers write until the budget is used up. The clock starts when all threads stand ready.
pub fn run_writers<W: Writer>(budget: Budget, writers: &mut [W]) -> Result<Sample, Failure> {
    let (elapsed, parts) = run_threads(budget, writers, |gate, writer| {
        let mut latencies = new_latencies();
        while gate.take() {
            let began = Instant::now();
            writer.write()?;
            record(&mut latencies, began.elapsed());
        }
        Ok(latencies)
    })?;
    sum_up(elapsed, parts)
}

/// Like [`run_writers`], and keeps when each call was made, in no order. A writer ends at the latest
/// after 4 M calls.
pub fn run_writers_traced<W: Writer>(
    budget: Budget,
    writers: &mut [W],
) -> Result<(Duration, Vec<Call>), Failure> {
    const CALLS_MAX: usize = 4 << 20;
    let (elapsed, parts) = run_threads(budget, writers, |gate, writer| {
        let mut calls = Vec::new();
        while calls.len() < CALLS_MAX && gate.take() {
            let began = Instant::now();
            writer.write()?;
            calls.push(Call {
                began,
                latency: began.elapsed(),
            });
        }
        Ok(calls)
    })?;
    Ok((elapsed, parts.concat()))
}

/// Has each writer keep `depth` calls on their way until the budget is used up, then waits for the
/// rest. Whatever is durable at once is taken off at once, so that new calls go out together.
pub fn run_pipelines<W: Pipeline>(
    budget: Budget,
    depth: usize,
    writers: &mut [W],
) -> Result<Sample, Failure> {
    let (elapsed, parts) = run_threads(budget, writers, |gate, writer| {
        let mut latencies = new_latencies();
        let mut on_their_way: VecDeque<(Instant, u64)> = VecDeque::with_capacity(depth);
        loop {
            while on_their_way.len() < depth && gate.take() {
                on_their_way.push_back((Instant::now(), writer.issue()?));
            }
            writer.flush();
            let Some(&(_, oldest)) = on_their_way.front() else {
                return Ok(latencies);
            };
            writer.wait(oldest)?;
            while let Some(&(issued, number)) = on_their_way.front()
                && writer.is_done(number)
            {
                record(&mut latencies, issued.elapsed());
                on_their_way.pop_front();
            }
        }
    })?;
    sum_up(elapsed, parts)
}

/// Runs each worker on a thread of its own. Returns how long it took from when the first began to
/// when the last was done; when this thread runs again in between does not matter.
fn run_threads<W: Send, T: Send>(
    budget: Budget,
    workers: &mut [W],
    run: impl Fn(&Gate, &mut W) -> Result<T, Failure> + Sync,
) -> Result<(Duration, Vec<T>), Failure> {
    let gate = Gate::new(budget);
    let barrier = Barrier::new(workers.len() + 1);
    let (gate, barrier, run) = (&gate, &barrier, &run);
    let ended: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(move || {
                    barrier.wait();
                    let began = Instant::now();
                    let part = run(gate, worker);
                    (began, Instant::now(), part)
                })
            })
            .collect();
        gate.open();
        barrier.wait();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker returns its errors"))
            .collect()
    });
    let began = ended.iter().map(|it| it.0).min();
    let done = ended.iter().map(|it| it.1).max();
    let elapsed = began.zip(done).map_or(Duration::ZERO, |it| it.1 - it.0);
    let parts: Result<Vec<T>, Failure> = ended.into_iter().map(|it| it.2).collect();
    Ok((elapsed, parts?))
}

fn sum_up(elapsed: Duration, parts: Vec<Histogram<u64>>) -> Result<Sample, Failure> {
    let mut latency_ns = new_latencies();
    for part in parts {
        latency_ns.add(part)?;
    }
    Ok(Sample {
        ops: latency_ns.len(),
        elapsed,
        latency_ns,
        syncs: 0,
    })
}

/// Keeps `outstanding` operations on their way from this thread until the budget is used up, then waits for the
/// rest. `issue` starts one, `finish` waits for one, in the order in which they were started.
pub(crate) fn run_pipelined<T>(
    budget: Budget,
    outstanding: usize,
    mut issue: impl FnMut() -> T,
    mut finish: impl FnMut(T) -> Result<(), Failure>,
) -> Result<Sample, Failure> {
    let gate = Gate::new(budget);
    let mut latency_ns = new_latencies();
    let mut on_their_way: VecDeque<(Instant, T)> = VecDeque::with_capacity(outstanding);
    gate.open();
    let began = Instant::now();
    loop {
        while on_their_way.len() < outstanding && gate.take() {
            on_their_way.push_back((Instant::now(), issue()));
        }
        let Some((issued, oldest)) = on_their_way.pop_front() else {
            break;
        };
        finish(oldest)?;
        record(&mut latency_ns, issued.elapsed());
    }
    Ok(Sample {
        ops: latency_ns.len(),
        elapsed: began.elapsed(),
        latency_ns,
        syncs: 0,
    })
}

/// Repeats an operation that is too cheap to be timed each time: of every `TIMED_ONE_IN` one is.
pub fn run_cheap(
    budget: Budget,
    mut operation: impl FnMut() -> Result<(), Failure>,
) -> Result<Sample, Failure> {
    const TIMED_ONE_IN: u64 = 64;
    let until = match budget {
        Budget::Ops(_) => None,
        Budget::Time(time) => Some(Instant::now() + time),
    };
    let mut latency_ns = new_latencies();
    let mut ops = 0;
    let began = Instant::now();
    loop {
        let timed = Instant::now();
        let done = match (budget, until) {
            (Budget::Ops(wanted), _) => ops >= wanted,
            (Budget::Time(_), until) => until.is_some_and(|until| timed >= until),
        };
        if done {
            break;
        }
        operation()?;
        record(&mut latency_ns, timed.elapsed());
        ops += 1;
        let untimed = match budget {
            Budget::Ops(wanted) => (TIMED_ONE_IN - 1).min(wanted - ops),
            Budget::Time(_) => TIMED_ONE_IN - 1,
        };
        for _ in 0..untimed {
            operation()?;
        }
        ops += untimed;
    }
    Ok(Sample {
        ops,
        elapsed: began.elapsed(),
        latency_ns,
        syncs: 0,
    })
}

/// An empty histogram of latencies in nanoseconds.
pub fn new_latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds are constants that fit each other")
}

/// Adds a latency; one that is out of bounds counts as the bound.
pub fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    latencies.saturating_record(nanos);
}

/// Says whether there is budget for one more operation; shared by all who use it up.
struct Gate {
    budget: Budget,
    until: OnceLock<Instant>,
    taken: AtomicU64,
}

impl Gate {
    fn new(budget: Budget) -> Self {
        Self {
            budget,
            until: OnceLock::new(),
            taken: AtomicU64::new(0),
        }
    }

    /// Starts the clock.
    fn open(&self) {
        if let Budget::Time(time) = self.budget {
            self.until.get_or_init(|| Instant::now() + time);
        }
    }

    fn take(&self) -> bool {
        match self.budget {
            Budget::Ops(ops) => self.taken.fetch_add(1, Ordering::Relaxed) < ops,
            Budget::Time(_) => self
                .until
                .get()
                .is_some_and(|until| Instant::now() < *until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count<'a>(&'a AtomicU64);

    impl Writer for Count<'_> {
        fn write(&mut self) -> Result<(), Failure> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn a_budget_of_operations_is_used_up_exactly() {
        let written = AtomicU64::new(0);
        let mut writers: Vec<_> = (0..3).map(|_| Count(&written)).collect();
        let sample = run_writers(Budget::Ops(1_000), &mut writers).unwrap();
        assert_eq!(
            (sample.ops, written.load(Ordering::Relaxed)),
            (1_000, 1_000)
        );

        for ops in [1, 63, 64, 65, 1_000] {
            let mut done = 0;
            let sample = run_cheap(Budget::Ops(ops), || {
                done += 1;
                Ok(())
            });
            assert_eq!((sample.unwrap().ops, done), (ops, ops));
        }
    }

    #[test]
    fn so_many_are_on_their_way_and_not_more() {
        let on_their_way = std::cell::Cell::new(0);
        let mut most = 0;
        let issue = || {
            on_their_way.set(on_their_way.get() + 1);
            most = most.max(on_their_way.get());
        };
        let finish = |()| {
            on_their_way.set(on_their_way.get() - 1);
            Ok(())
        };
        let sample = run_pipelined(Budget::Ops(100), 7, issue, finish).unwrap();
        assert_eq!((sample.ops, most, on_their_way.get()), (100, 7, 0));
    }
    /// Every fourth number makes it and all before it durable, or a wait does.
    #[derive(Default)]
    struct Line {
        issued: u64,
        durable: u64,
        most: u64,
    }

    impl Pipeline for Line {
        fn issue(&mut self) -> Result<u64, Failure> {
            self.issued += 1;
            self.most = self.most.max(self.issued - self.durable);
            if self.issued.is_multiple_of(4) {
                self.durable = self.issued;
            }
            Ok(self.issued)
        }

        fn flush(&mut self) {}

        fn wait(&mut self, number: u64) -> Result<(), Failure> {
            self.durable = self.durable.max(number);
            Ok(())
        }

        fn is_done(&self, number: u64) -> bool {
            self.durable >= number
        }
    }

    #[test]
    fn a_pipeline_is_as_deep_as_asked_for_and_runs_dry() {
        let mut writers = [Line::default(), Line::default()];
        let sample = run_pipelines(Budget::Ops(1_000), 3, &mut writers).unwrap();
        assert_eq!(sample.ops, 1_000);
        let issued: u64 = writers.iter().map(|writer| writer.issued).sum();
        assert_eq!(issued, 1_000);
        for writer in &writers {
            assert!(writer.durable == writer.issued && writer.most <= 3);
        }
    }

    #[test]
    fn a_run_takes_at_least_as_long_as_its_longest_call() {
        let written = AtomicU64::new(0);
        let mut writers: Vec<_> = (0..3).map(|_| Count(&written)).collect();
        let (elapsed, calls) = run_writers_traced(Budget::Ops(50), &mut writers).unwrap();
        assert_eq!(calls.len(), 50);
        let begin = calls.iter().map(|call| call.began).min().unwrap();
        let end = calls.iter().map(|call| call.began + call.latency).max();
        assert!(elapsed >= end.unwrap() - begin);
    }
}
