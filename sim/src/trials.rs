//! What some runs meet beside faults that strike at moments: one disk that is sick while progress is judged, options that
//! differ between nodes, operators who start the wrong directory.
//!
//! Each is drawn for some of the seeds. Those of [`TRIALS_ON`] take place in every range of seeds;
//! with `--with`, each seed meets those that are named, wherever it can.

use std::str::FromStr;
use std::time::Duration;

use quorate::Options;

use crate::seed::{Rng, Stream};

/// Something that a run may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// One node's disk is full, slow or stuck, the others are sound, and writes must go on.
    SickDisk,
    /// Nodes have other batch sizes, windows, queues and heartbeats than their peers, and than they had before.
    UnequalOptions,
    /// Nodes have other election timeouts than their peers.
    UnequalTimeouts,
    /// Nodes have other limits of an entry than their peers, and than they had before.
    UnequalLimits,
    /// The directories of two nodes are swapped.
    SwappedDirectories,
    /// A node is started with an empty directory, or with a copy of its own of which all peers have
    /// met a later start; and with its own one when that was refused.
    OldDirectories,
}

/// All of them.
pub const TRIALS: [Trial; 6] = [
    Trial::SickDisk,
    Trial::UnequalOptions,
    Trial::UnequalTimeouts,
    Trial::UnequalLimits,
    Trial::SwappedDirectories,
    Trial::OldDirectories,
];

/// Those that take place without being asked for.
pub const TRIALS_ON: &[Trial] = &TRIALS;

/// What is wrong with the one disk that is sick while progress is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sickness {
    /// It takes no further block.
    Full,
    /// Each sync takes one to three election timeouts.
    Slow,
    /// No sync returns.
    Stuck,
}

/// What an operator gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Two nodes are started with each other's directory, and with their own when that was refused.
    Swapped,
    /// A node is started with an empty directory under its id.
    Wiped,
    /// A node is started with a copy of its directory of which all its peers have met a later
    /// start.
    Older,
}

/// All of them.
const MISTAKES: [Mistake; 3] = [Mistake::Swapped, Mistake::Wiped, Mistake::Older];

impl Mistake {
    /// The trial that it is a part of.
    fn trial(self) -> Trial {
        match self {
            Self::Swapped => Trial::SwappedDirectories,
            Self::Wiped | Self::Older => Trial::OldDirectories,
        }
    }
}

/// What a run meets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// What the one sick disk has, and whether it is that of a leader.
    pub sick: Option<(Sickness, bool)>,
    /// Where options that differ are drawn from, and which of them do.
    pub unlike: Option<(u64, Vec<Trial>)>,
    /// What an operator gets wrong.
    pub mistake: Option<Mistake>,
}

impl Trials {
    /// Those of a seed, of which only some are on, and some come up always.
    pub fn draw(seed: u64, on: &[Trial], always: &[Trial]) -> Self {
        let mut rng = Rng::of(seed, Stream::Trials);
        let is_on = |trial: &Trial| on.contains(trial) || always.contains(trial);
        let kind = rng.pick(&[Sickness::Full, Sickness::Slow, Sickness::Stuck]);
        let of_leader = rng.permille(700);
        let is_sick = rng.permille(100) || always.contains(&Trial::SickDisk);
        let differs = rng.permille(250) || TRIALS[1..4].iter().any(|it| always.contains(it));
        let unlike: Vec<Trial> = TRIALS[1..4].iter().copied().filter(is_on).collect();
        let mistake = match rng.below(20) {
            0 => Some(Mistake::Swapped),
            1 => Some(Mistake::Wiped),
            2 => Some(Mistake::Older),
            _ => None,
        };
        let forced = MISTAKES.into_iter();
        let forced: Vec<Mistake> = forced.filter(|it| always.contains(&it.trial())).collect();
        let mistake = match mistake {
            Some(mistake) if forced.is_empty() || forced.contains(&mistake) => Some(mistake),
            _ if forced.is_empty() => None,
            _ => Some(rng.pick(&forced)),
        };
        let allows = |mistake: &Mistake| is_on(&mistake.trial());
        Self {
            sick: (is_sick && is_on(&Trial::SickDisk)).then_some((kind, of_leader)),
            unlike: (differs && !unlike.is_empty()).then_some((seed, unlike)),
            mistake: mistake.filter(allows),
        }
    }

    /// The options of one node in one of its lives, where all others begin with `common`.
    pub fn options_of(&self, common: &Options, node: usize, life: u32) -> Options {
        let mut options = common.clone();
        let Some((seed, differing)) = &self.unlike else {
            return options;
        };
        let mut rng = Rng::of(seed ^ (node as u64) << 32 ^ u64::from(life), Stream::Trials);
        // Half of the lives are as all nodes were at first.
        let keeps = rng.permille(500);
        let unlike = unlike(&mut rng, common);
        if differing.contains(&Trial::UnequalOptions) && !keeps {
            options = unlike;
        }
        if differing.contains(&Trial::UnequalLimits) && !keeps {
            options.log.entry_bytes_max = rng.pick(&[2 << 10, 4 << 10, 8 << 10]);
            let least = options.log.entry_bytes_max + (32 << 10);
            options.log.batch_bytes_max = options.log.batch_bytes_max.max(least);
            options.log.queue_bytes_max = options.log.queue_bytes_max.max(least);
        }
        if differing.contains(&Trial::UnequalTimeouts) {
            // The same in all lives of a node.
            let mut rng = Rng::of(seed ^ (node as u64) << 40, Stream::Trials);
            let times = rng.pick(&[1, 2, 4]);
            options.election_timeout = common.election_timeout * times;
        }
        options
    }
}

/// Other sizes than `common`, none of which others have to know.
fn unlike(rng: &mut Rng, common: &Options) -> Options {
    let mut options = common.clone();
    let beats = rng.between(3, 6) as u32;
    options.heartbeat_interval = (common.election_timeout / beats).max(Duration::from_millis(1));
    options.uncommitted_bytes_max = rng.pick(&[4 << 10, 64 << 10]);
    options.cache_bytes_max = rng.pick(&[256, 4 << 10, 64 << 10]);
    options.append_bytes_max = rng.pick(&[64, 1 << 10, 16 << 10]);
    options.inflight_messages_max = rng.pick(&[1, 4, 64]);
    options.inflight_bytes_max = rng.pick(&[1 << 10, 64 << 10]);
    options.queue_max = rng.pick(&[64, 4_096]);
    options.log.batch_bytes_max = rng.pick(&[36 << 10, 64 << 10]);
    options.log.queue_bytes_max = options.log.batch_bytes_max * rng.pick(&[1, 8]);
    options.log.recent_bytes_max = rng.pick(&[0, 4 << 10, 1 << 20]);
    options
}

impl FromStr for Trial {
    type Err = String;

    /// The trial of a name, however it is capitalised.
    fn from_str(name: &str) -> Result<Self, String> {
        let names = TRIALS.map(|trial| format!("{trial:?}"));
        let found = names.iter().position(|it| it.eq_ignore_ascii_case(name));
        found.map(|place| TRIALS[place]).ok_or_else(|| {
            format!(
                "there is no trial named {name:?}; there are {}",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trial_comes_up_where_it_is_on_and_nowhere_else() {
        let all = (0..2_000).map(|seed| Trials::draw(seed, &TRIALS, &[]));
        let all: Vec<Trials> = all.collect();
        let sick = all.iter().filter(|it| it.sick.is_some()).count();
        assert!((100..300).contains(&sick), "{sick}");
        for mistake in [Mistake::Swapped, Mistake::Wiped, Mistake::Older] {
            let count = all.iter().filter(|it| it.mistake == Some(mistake)).count();
            assert!((50..200).contains(&count), "{mistake:?}: {count}");
        }
        assert!((0..2_000).all(|seed| Trials::draw(seed, &[], &[]) == Trials::default()));
    }

    #[test]
    fn each_seed_meets_what_it_is_to_meet() {
        for seed in 0..200 {
            let trials = Trials::draw(seed, TRIALS_ON, &[Trial::SickDisk, Trial::OldDirectories]);
            assert!(trials.sick.is_some(), "{seed}");
            let is_old = matches!(trials.mistake, Some(Mistake::Wiped | Mistake::Older));
            assert!(is_old, "{seed}: {:?}", trials.mistake);
        }
    }

    #[test]
    fn options_that_differ_are_valid_ones() {
        for seed in 0..500 {
            let common = crate::config::Config::draw(seed).options;
            let trials = Trials {
                unlike: Some((seed, TRIALS[1..4].to_vec())),
                ..Trials::default()
            };
            for life in 0..4 {
                let options = trials.options_of(&common, (seed % 7) as usize, life);
                options.validate().expect("valid options");
            }
        }
    }
}
