//! Makes a failing run small: fewer nodes, groups, clerks, troubles and calls, as long as it fails in the same way.
//!
//! Every attempt is a whole run of the same seed of which something is left out; see [`Reduction`]. What is left out moves no
//! choice of what stays, but it moves what happens: so a part that does not fail alone may fail with others, and everything
//! is tried again until nothing more can go.
//!
//! Invariants:
//! - What is given back was seen to fail in the same way as the whole run.
//! - There are [`ATTEMPTS_MAX`] attempts at most.

mod minimise;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::{panic, thread};

use crate::config::Config;
use crate::faults::FaultClass;
use crate::phases::{Failure, FailureClass, Report, run};
use crate::reduction::Reduction;
use crate::workload::Workload;

pub use minimise::{smallest_number, smallest_part};

/// Runs that are played at most until the smallest one so far has to do.
pub const ATTEMPTS_MAX: u32 = 2_000;

/// The smallest run that was found to fail.
#[derive(Debug)]
pub struct Shrunk {
    /// What is left out.
    pub reduction: Reduction,
    /// The run without it, with its text and story.
    pub report: Report,
    /// The whole run, without either.
    pub whole: Report,
    /// How many runs were played.
    pub attempts: u32,
    /// Whether there were too many runs to play to be sure that nothing more can go.
    pub is_given_up: bool,
}

/// The run does not fail: there is nothing to shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this run does not fail, so there is nothing to shrink; {steps} steps and {calls} calls were judged"
)]
pub struct NoFailure {
    /// Steps that were judged.
    pub steps: u64,
    /// Calls that were judged.
    pub calls: u64,
}

/// Shrinks the run of a seed and a shape. `progress` is told of every attempt: how many there were, and what the smallest run
/// so far leaves out.
///
/// Panics of attempts are not printed, since there are many; those of other threads are.
///
/// # Errors
///
/// If the run does not fail.
pub fn shrink<W: Workload>(
    seed: u64,
    config: &Config,
    progress: impl FnMut(u32, &Reduction),
) -> Result<Shrunk, NoFailure> {
    let _quiet = QuietPanics::new();
    let whole = run::<W>(seed, config.clone(), false);
    let Some(class) = whole.failure.as_ref().map(Failure::class) else {
        let Report { steps, calls, .. } = whole;
        return Err(NoFailure { steps, calls });
    };
    let mut attempts = Attempts {
        play: |config| run::<W>(seed, config, false),
        config,
        class,
        smallest: (config.reduction.clone(), whole.clone()),
        passed: BTreeSet::new(),
        count: 1,
        progress,
    };
    attempts.shrink();
    let (reduction, _) = attempts.smallest;
    let mut config = config.clone();
    config
        .reduce(reduction.clone())
        .expect("this very reduction was played");
    Ok(Shrunk {
        reduction,
        report: run::<W>(seed, config, true),
        whole,
        attempts: attempts.count,
        is_given_up: attempts.count >= ATTEMPTS_MAX,
    })
}

/// Something that can be left out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Clerk(u32),
    Class(FaultClass),
    Trouble(u32),
}

struct Attempts<'a, P, F> {
    play: F,
    config: &'a Config,
    /// In which way the run fails.
    class: FailureClass,
    /// What the smallest failing run leaves out, and what came of it.
    smallest: (Reduction, Report),
    /// What was left out, as it is printed, of runs that did not fail so.
    passed: BTreeSet<String>,
    count: u32,
    progress: P,
}

impl<P: FnMut(u32, &Reduction), F: Fn(Config) -> Report> Attempts<'_, P, F> {
    fn shrink(&mut self) {
        loop {
            let before = self.smallest.0.clone();
            self.shrink_cluster();
            self.shrink_time();
            self.shrink_parts();
            self.shrink_calls();
            if self.smallest.0 == before || self.count >= ATTEMPTS_MAX {
                return;
            }
        }
    }

    /// Fewer nodes and groups, the fewest first: there are a few only, and what fails in a small cluster need not fail in a
    /// larger one.
    fn shrink_cluster(&mut self) {
        let nodes = self.smallest.0.nodes.unwrap_or(self.config.nodes);
        let mut fewer = 1..nodes;
        fewer.any(|nodes| self.fails_with(|it| it.nodes = Some(nodes)));
        let groups = self.smallest.0.groups.unwrap_or(self.config.groups);
        let mut fewer = 1..groups;
        fewer.any(|groups| self.fails_with(|it| it.groups = Some(groups)));
    }

    /// A shorter time of trouble.
    fn shrink_time(&mut self) {
        let all_ms = self.config.trouble_ns / 1_000_000;
        let ms = self.smallest.0.trouble_ms.unwrap_or(all_ms);
        smallest_number(0, ms, |ms| self.fails_with(|it| it.trouble_ms = Some(ms)));
    }

    /// Fewer clerks, classes of faults that last, and troubles that strike.
    fn shrink_parts(&mut self) {
        let parts = self.parts();
        let config = self.config;
        smallest_part(&parts, |parts| {
            self.fails_with(|it| keep_only(parts, it, config))
        });
    }

    /// Fewer calls of each clerk.
    fn shrink_calls(&mut self) {
        let made = self.smallest.1.calls_max;
        let calls = self.smallest.0.calls.map_or(made, |calls| calls.min(made));
        smallest_number(0, calls, |calls| {
            self.fails_with(|it| it.calls = Some(calls))
        });
    }

    /// What the smallest run still has.
    fn parts(&self) -> Vec<Part> {
        let (reduction, report) = &self.smallest;
        let clerks = 0..self.config.callers() as u32;
        let clerks = clerks
            .filter(|&it| reduction.may_call(it as usize, 0))
            .map(Part::Clerk);
        let classes = self.config.plan.classes.iter().copied();
        let classes =
            classes.filter(|class| !class.is_event() && !reduction.without.contains(class));
        let troubles = (0..report.troubles).filter(|&number| reduction.strikes(number, None));
        clerks
            .chain(classes.map(Part::Class))
            .chain(troubles.map(Part::Trouble))
            .collect()
    }

    /// Plays a run that is smaller than the smallest so far. Whether it fails in the same way: then it is the smallest.
    fn fails_with(&mut self, reduces: impl FnOnce(&mut Reduction)) -> bool {
        let mut reduction = self.smallest.0.clone();
        reduces(&mut reduction);
        let name = reduction.to_string();
        let mut config = self.config.clone();
        if self.count >= ATTEMPTS_MAX
            || self.passed.contains(&name)
            || config.reduce(reduction.clone()).is_err()
        {
            return false;
        }
        self.count += 1;
        let report = (self.play)(config);
        let class = report.failure.as_ref().map(Failure::class);
        let fails = class.is_some_and(|class| class == self.class);
        if fails {
            self.smallest = (reduction, report);
        } else {
            self.passed.insert(name);
        }
        (self.progress)(self.count, &self.smallest.0);
        fails
    }
}

/// Of the parts of a run, leaves out all but these.
fn keep_only(parts: &[Part], reduction: &mut Reduction, config: &Config) {
    let clerks = parts.iter().filter_map(|part| match part {
        Part::Clerk(clerk) => Some(*clerk),
        _ => None,
    });
    let clerks: Vec<u32> = clerks.collect();
    // All that there are need not be named.
    reduction.clerks = (clerks.len() < config.callers()).then(|| clerks.into_iter().collect());
    let troubles = parts.iter().filter_map(|part| match part {
        Part::Trouble(number) => Some(*number),
        _ => None,
    });
    reduction.troubles = Some(troubles.collect());
    let lasting = config.plan.classes.iter().filter(|class| !class.is_event());
    let left_out = lasting.filter(|&&class| !parts.contains(&Part::Class(class)));
    reduction.without.retain(|class| class.is_event());
    reduction.without.extend(left_out);
}

/// What hears of a panic.
type Hook = Arc<dyn Fn(&panic::PanicHookInfo<'_>) + Send + Sync>;

/// While this lives, panics of the thread that made it are not printed.
struct QuietPanics {
    before: Hook,
}

impl QuietPanics {
    fn new() -> Self {
        let before: Hook = Arc::from(panic::take_hook());
        let (quiet, others) = (thread::current().id(), Arc::clone(&before));
        panic::set_hook(Box::new(move |info| {
            if thread::current().id() != quiet {
                others(info);
            }
        }));
        Self { before }
    }
}

impl Drop for QuietPanics {
    fn drop(&mut self) {
        // A hook cannot be set by a thread that panics; the process is about to end then.
        if !thread::panicking() {
            let before = Arc::clone(&self.before);
            panic::set_hook(Box::new(move |info| before(info)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::MarkCounts;

    /// The report of a run with so many troubles that fails with this, if with anything.
    fn report(troubles: u32, failure: Option<&str>) -> Report {
        Report {
            seed: 0,
            hash: 0,
            steps: 0,
            calls: 0,
            virtual_ns: 0,
            marks: MarkCounts::default(),
            failure: failure.map(|what| Failure {
                at_ns: 0,
                what: what.to_owned(),
            }),
            troubles,
            calls_max: 90,
            lines: Vec::new(),
            story: None,
        }
    }

    /// Shrinks runs that are not played: `fails` says what is wrong with one of which something is left out.
    fn shrunk(troubles: u32, fails: impl Fn(&Reduction) -> Option<&'static str>) -> (String, u32) {
        let mut config = Config::draw(1);
        config.plan.classes = vec![FaultClass::Drop, FaultClass::Delay, FaultClass::Crash];
        (config.nodes, config.groups, config.clerks) = (5, 4, 3);
        let whole = report(troubles, fails(&Reduction::default()));
        let mut told = 0;
        let mut attempts = Attempts {
            play: |config: Config| report(troubles, fails(&config.reduction)),
            config: &config,
            class: whole
                .failure
                .as_ref()
                .map(Failure::class)
                .expect("it fails"),
            smallest: (Reduction::default(), whole),
            passed: BTreeSet::new(),
            count: 1,
            progress: |count, _: &Reduction| told = count,
        };
        attempts.shrink();
        let (smallest, count) = (attempts.smallest.0.to_string(), attempts.count);
        assert_eq!(told, count, "of every attempt something is told");
        (smallest, count)
    }

    #[test]
    fn all_that_is_not_to_blame_goes() {
        let (smallest, count) = shrunk(60, |run| {
            let is_wrong = run.strikes(7, Some(FaultClass::Crash))
                && run.strikes(41, None)
                && !run.without.contains(&FaultClass::Delay)
                && run.may_call(2, 16)
                && run.nodes.is_none_or(|nodes| nodes >= 3)
                && run.trouble_ms.is_none_or(|ms| ms >= 1_234);
            is_wrong.then_some("5 are too many")
        });
        let expected =
            "troubles=7+41,without=Drop,clerks=2,calls=17,nodes=3,groups=1,trouble_ms=1234";
        assert_eq!(smallest, expected);
        assert!(count < 200, "{count}");
    }

    #[test]
    fn what_fails_in_another_way_is_not_taken() {
        // The fewer troubles, the more does it fail, and in another way.
        let (smallest, _) = shrunk(10, |run| {
            if run.strikes(3, None) && run.may_call(0, 0) {
                return Some("invariant 4, safety: n1");
            }
            Some("invariant 5, commits: n1")
        });
        assert_eq!(
            smallest,
            "troubles=3,without=Drop+Delay,clerks=0,calls=1,nodes=1,groups=1,trouble_ms=0"
        );
    }

    #[test]
    fn there_are_a_bounded_number_of_attempts() {
        let (smallest, count) = shrunk(3_000, |run| {
            (0..3_000)
                .all(|number| run.strikes(number, None))
                .then_some("so many")
        });
        assert_eq!(count, ATTEMPTS_MAX);
        assert!(!smallest.contains("troubles"), "{smallest}");
    }
}
