//! Runs the subjects of a case in turn, round by round.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use quorate_benches::Failure;

use crate::book::Book;
use crate::job::{Job, Load, Metric, Report, Subject};
use crate::worker::Worker;

/// How much to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Rounds of what takes long.
    pub(crate) long_rounds: usize,
    /// Of appends and reads.
    pub(crate) slice_ms: u64,
    /// Of appends that go on for longer, and of those whose calls are looked at one by one.
    pub(crate) trace_ms: u64,
    /// Bytes that are written without syncs in one round.
    pub(crate) fill_bytes: u64,
    /// Sizes of logs that are opened.
    pub(crate) reopen_bytes: Vec<u64>,
    /// Size of the logs that are read.
    pub(crate) read_bytes: u64,
    /// How long groups append and compact.
    pub(crate) space_ms: u64,
}

/// A run.
pub(crate) struct Bench {
    /// Temporary folders are made here.
    pub(crate) root: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) book: Book,
    progress: ProgressBar,
}

impl Plan {
    pub(crate) fn full(rounds: usize, largest: u64) -> Self {
        let sizes = [64 << 20, 256 << 20, 1 << 30];
        let mut reopen_bytes: Vec<u64> = sizes.into_iter().filter(|it| *it < largest).collect();
        reopen_bytes.push(largest);
        Self {
            rounds,
            long_rounds: rounds.min(3),
            slice_ms: 1_000,
            trace_ms: 5_000,
            fill_bytes: 1 << 30,
            reopen_bytes,
            read_bytes: 256 << 20,
            space_ms: 15_000,
        }
    }

    /// Shows that everything runs, and nothing else.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 1,
            long_rounds: 1,
            slice_ms: 40,
            trace_ms: 400,
            fill_bytes: 8 << 20,
            reopen_bytes: vec![4 << 20, 16 << 20],
            read_bytes: 8 << 20,
            space_ms: 1_000,
        }
    }
}

impl Bench {
    pub(crate) fn new(root: PathBuf, plan: Plan) -> Self {
        let style = "{elapsed_precise} {spinner} {pos} slices done: {wide_msg}";
        let style = ProgressStyle::with_template(style).expect("the template is a constant");
        let progress = ProgressBar::new_spinner().with_style(style);
        progress.enable_steady_tick(Duration::from_millis(250));
        Self {
            root,
            plan,
            book: Book::default(),
            progress,
        }
    }

    /// Measures one case: all subjects stay ready, each does one slice in every round. Who comes
    /// first changes from round to round.
    pub(crate) fn rivals(
        &mut self,
        load: Load,
        case: &str,
        x: f64,
        subjects: &[Subject],
        job: impl Fn(Subject) -> Job,
    ) -> Result<(), Failure> {
        let rounds = match load {
            Load::Space | Load::Rotate | Load::Fill | Load::Sustained => self.plan.long_rounds,
            _ => self.plan.rounds,
        };
        let mut workers = Vec::new();
        for &subject in subjects {
            self.say(load, case, subject);
            workers.push((subject, Worker::start(&job(subject))?));
        }
        for _ in 0..rounds {
            for (subject, worker) in &mut workers {
                self.say(load, case, *subject);
                let report = worker.slice()?;
                self.add(load, case, x, *subject, report);
            }
            workers.rotate_left(1);
        }
        self.sum_up(load, case);
        Ok(())
    }

    /// Has a job done that is not measured.
    pub(crate) fn prepare(&self, what: &str, job: &Job) -> Result<Report, Failure> {
        self.progress.set_message(what.to_owned());
        Worker::once(job)
    }

    /// Has a job done by a fresh process, and notes what came of it.
    pub(crate) fn once(
        &mut self,
        load: Load,
        case: &str,
        x: f64,
        subject: Subject,
        job: &Job,
    ) -> Result<(), Failure> {
        self.say(load, case, subject);
        let report = Worker::once(job)?;
        self.add(load, case, x, subject, report);
        Ok(())
    }

    /// Says in a line what came of a case.
    pub(crate) fn sum_up(&self, load: Load, case: &str) {
        let Some(found) = self.book.case(load, case) else {
            return;
        };
        let figures: Vec<String> = found
            .subjects()
            .filter_map(|subject| {
                let rate = found.median(subject, Metric::EntriesPerS);
                let rate = rate.map(|rate| format!("{rate:.0}/s"));
                let opened = found.median(subject, Metric::OpenMs);
                let figure = rate.or_else(|| opened.map(|ms| format!("{ms:.1} ms")))?;
                Some(format!("{} {figure}", subject.name()))
            })
            .collect();
        let line = format!("{load:?}, {case}: {}", figures.join(", "));
        if self.progress.is_hidden() {
            eprintln!("{line}");
        } else {
            self.progress.println(line);
        }
    }

    pub(crate) fn end(&self) {
        self.progress.finish_and_clear();
    }

    fn say(&self, load: Load, case: &str, subject: Subject) {
        let name = subject.name();
        self.progress
            .set_message(format!("{load:?}, {case}: {name}"));
    }

    fn add(&mut self, load: Load, case: &str, x: f64, subject: Subject, report: Report) {
        self.book.add(load, case, x, subject, report);
        self.progress.inc(1);
    }
}
