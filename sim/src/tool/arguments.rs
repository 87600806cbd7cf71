//! What can be asked for.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

use crate::config::{Config, SCHEME};
use crate::faults::FaultClass;
use crate::reduction::{Reduction, ReductionError};
use crate::trials::Trial;

/// Plays clusters over virtual networks, disks and clocks, one for each seed, and judges every step.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version)]
pub(super) struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    pub(super) start: u64,
    /// Plays one seed and prints what happened, one line a step. `SEED@SCHEME`, as failures are printed, is refused where
    /// seeds mean other runs than they did when it was printed.
    #[arg(long, value_name = "SEED[@SCHEME]", conflicts_with_all = OF_A_RANGE)]
    pub(super) replay: Option<SeedName>,
    /// Takes away nodes, groups, clerks, troubles and calls from the run of a seed that fails as long as it fails in the same
    /// way, and prints what is left and how to replay it.
    #[arg(
        long,
        value_name = "SEED[@SCHEME]",
        conflicts_with_all = OF_A_RANGE,
        conflicts_with = "replay"
    )]
    pub(super) shrink: Option<SeedName>,
    /// Of a run that is replayed, has only this take place; as it is printed by `--shrink`.
    #[arg(
        long,
        value_name = "NAME=VALUE,...",
        requires = "replay",
        conflicts_with = "shrink"
    )]
    pub(super) only: Option<Reduction>,
    /// Draws the run that is replayed, or the smallest failing one, into an HTML file.
    #[arg(long, value_name = "FILE")]
    pub(super) picture: Option<PathBuf>,
    /// Of the faults that each seed draws, has only these classes strike.
    #[arg(long, value_name = "CLASS,...", value_delimiter = ',')]
    pub(super) faults: Option<Vec<FaultClass>>,
    /// Has every seed meet these trials that can, and not only some.
    #[arg(long, value_name = "TRIAL,...", value_delimiter = ',')]
    pub(super) with: Option<Vec<Trial>>,
    /// Plays plain clusters of three for about twenty virtual seconds, to measure how fast runs are.
    #[arg(long)]
    pub(super) plain: bool,
    /// Prints how often rare things happened.
    #[arg(long)]
    pub(super) marks: bool,
    /// How many threads; as many as there are cores, unless told.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    pub(super) threads: Option<u16>,
}

/// What is said of many seeds, and means nothing where one is played. Only what is given conflicts, not a default.
const OF_A_RANGE: [&str; 4] = ["seeds", "start", "marks", "threads"];

/// More threads than any machine has cores are a slip.
const THREADS_MAX: i64 = 1_024;

/// A seed, and what the seeds meant when it was noted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeedName {
    pub(super) seed: u64,
    scheme: Option<u32>,
}

impl FromStr for SeedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seed, scheme) = match text.split_once('@') {
            Some((seed, scheme)) => (seed, Some(scheme)),
            None => (text, None),
        };
        let wrong = |what: &str| format!("{what} is no number; write SEED or SEED@SCHEME");
        let scheme = scheme.map(|it| it.parse().map_err(|_| wrong(it)));
        Ok(Self {
            seed: seed.parse().map_err(|_| wrong(seed))?,
            scheme: scheme.transpose()?,
        })
    }
}

impl Arguments {
    /// What the parser cannot say of them.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { seeds, start, .. } = *self;
        if start.checked_add(seeds - 1).is_none() {
            return Err(format!(
                "{seeds} seeds from {start} on go beyond the last one, {}, and would begin again at 0; start earlier or play \
                 fewer",
                u64::MAX
            ));
        }
        let one = self.replay.or(self.shrink);
        if self.picture.is_some() && one.is_none() {
            return Err("a picture shows one run: say which with --replay or --shrink".to_owned());
        }
        match one.and_then(|name| name.scheme).filter(|&it| it != SCHEME) {
            None => Ok(()),
            Some(scheme) => Err(format!(
                "this seed was noted down by a simulator of scheme {scheme}, in which it meant another run than in this one, \
                 which is of scheme {SCHEME}; replay it with the version that printed it, or leave @{scheme} away to see what \
                 it means now"
            )),
        }
    }

    /// The run of a seed, as it is asked for.
    pub(super) fn config(&self, seed: u64) -> Result<Config, ReductionError> {
        let mut config = if self.plain {
            Config::plain(seed)
        } else {
            Config::draw(seed)
        };
        if let Some(classes) = &self.faults {
            config.allow_only(classes);
        }
        if let Some(with) = &self.with {
            config.meet(seed, with);
        }
        if let Some(reduction) = &self.only {
            config.reduce(reduction.clone())?;
        }
        Ok(config)
    }

    /// What, said to a program, does something with one run of those that were asked for.
    pub(super) fn command(&self, program: &str, option: &str, seed: &str) -> String {
        let mut words = vec![program.to_owned(), option.to_owned(), seed.to_owned()];
        words.extend(self.plain.then(|| "--plain".to_owned()));
        if let Some(classes) = &self.faults {
            let names = classes.iter().map(|class| format!("{class:?}"));
            let names: Vec<String> = names.collect();
            words.extend(["--faults".to_owned(), names.join(",")]);
        }
        if let Some(with) = &self.with {
            let names: Vec<String> = with.iter().map(|trial| format!("{trial:?}")).collect();
            words.extend(["--with".to_owned(), names.join(",")]);
        }
        words.join(" ")
    }
}
