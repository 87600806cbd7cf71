//! What is left out of a run: how a failing one is made small, and how the small one is named and played again.
//!
//! Invariants:
//! - What is left strikes when it struck before and draws what it drew before: each trouble has a number and a stream of its
//!   own, whether those before it strike or not. Only so many disks are struck in a run, though: if an early damage is left
//!   out, a later one may strike that found this budget used.
//! - A reduction is printed as it is parsed.

use std::fmt;
use std::str::FromStr;

use crate::config::Config;
use crate::faults::FaultClass;

/// What is left out of a run. The default leaves out nothing.
///
/// Written as parts with commas between them, in any order: `troubles=3+7-9,without=Drop+Delay,clerks=0,calls=12,nodes=3,
/// groups=1,trouble_ms=800`. Numbers are joined with `+`; `7-9` is three of them, and `none` is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduction {
    /// The troubles that strike, by their number; all of them, if it is not said.
    pub troubles: Option<Numbers>,
    /// Classes of faults that do not strike.
    pub without: Vec<FaultClass>,
    /// The clerks that call; all of them, if it is not said. At the end of a run the first one calls all the same.
    pub clerks: Option<Numbers>,
    /// How many calls each clerk makes at most. The calls at the end of a run are not counted.
    pub calls: Option<u64>,
    /// How many nodes there are.
    pub nodes: Option<usize>,
    /// How many groups there are.
    pub groups: Option<u32>,
    /// How long faults strike.
    pub trouble_ms: Option<u64>,
}

/// A set of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// First and last of each range: ascending, with gaps between them.
    ranges: Vec<(u32, u32)>,
}

/// Why a reduction is none, or does not fit a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReductionError {
    /// A part is not written as a name and a value.
    #[error("{part:?} is no part of a reduction; write NAME=VALUE, with commas between them")]
    NoPart {
        /// What was written.
        part: String,
    },
    /// No part has this name.
    #[error(
        "a reduction has no part named {name:?}; there are troubles, without, clerks, calls, nodes, groups and trouble_ms"
    )]
    Unknown {
        /// What was written.
        name: String,
    },
    /// A part comes twice.
    #[error("{name} is said twice")]
    Twice {
        /// The part.
        name: String,
    },
    /// A value is no number, or no set of numbers.
    #[error("{value:?} says nothing of {name}; {expected}")]
    Value {
        /// The part.
        name: String,
        /// What was written.
        value: String,
        /// What could be.
        expected: &'static str,
    },
    /// There is no such class of faults.
    #[error("{0}")]
    Class(String),
    /// The run has fewer.
    #[error("a run of {asked} {name} cannot be had by leaving things out: there are {there}")]
    TooMany {
        /// Of what.
        name: &'static str,
        /// How many are asked for.
        asked: u64,
        /// How many there are.
        there: u64,
    },
    /// The run has none of this number.
    #[error("{name}={number} cannot be left of a run: there are {there}, numbered from 0")]
    NoSuch {
        /// Of what.
        name: &'static str,
        /// Which is asked for.
        number: u32,
        /// How many there are.
        there: u64,
    },
    /// Without any there is no run.
    #[error("a run without {name} cannot be played")]
    Nothing {
        /// Of what.
        name: &'static str,
    },
}

impl Reduction {
    /// Whether a trouble strikes: a fault of a class, or an operator's handover, which has none.
    pub fn strikes(&self, number: u32, class: Option<FaultClass>) -> bool {
        let is_left = self.troubles.as_ref().is_none_or(|it| it.contains(number));
        is_left && class.is_none_or(|class| !self.without.contains(&class))
    }

    /// Whether a clerk that has made so many calls makes another one.
    pub fn may_call(&self, clerk: usize, calls: u64) -> bool {
        let is_left = self
            .clerks
            .as_ref()
            .is_none_or(|it| it.contains(clerk as u32));
        is_left && self.calls.is_none_or(|max| calls < max)
    }

    /// Whether it can be had from a run.
    pub(crate) fn check(&self, config: &Config) -> Result<(), ReductionError> {
        let ms = config.trouble_ns / 1_000_000;
        let limits = [
            (
                "nodes",
                self.nodes.map(|it| it as u64),
                config.nodes as u64,
                1,
            ),
            (
                "groups",
                self.groups.map(u64::from),
                u64::from(config.groups),
                1,
            ),
            ("trouble_ms", self.trouble_ms, ms, 0),
        ];
        for (name, asked, there, least) in limits {
            let Some(asked) = asked else {
                continue;
            };
            if asked > there {
                return Err(ReductionError::TooMany { name, asked, there });
            }
            if asked < least {
                return Err(ReductionError::Nothing { name });
            }
        }
        let there = config.callers() as u64;
        let last = self.clerks.as_ref().and_then(Numbers::last);
        match last.filter(|&number| u64::from(number) >= there) {
            None => Ok(()),
            Some(number) => Err(ReductionError::NoSuch {
                name: "clerks",
                number,
                there,
            }),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ReductionError> {
        match name {
            "troubles" => self.troubles = Some(numbers(name, value)?),
            "without" => {
                let classes = value.split('+').map(FaultClass::from_str);
                let classes: Result<_, _> = classes.collect();
                self.without = classes.map_err(ReductionError::Class)?;
            }
            "clerks" => self.clerks = Some(numbers(name, value)?),
            "calls" => self.calls = Some(number(name, value)?),
            "nodes" => self.nodes = Some(number(name, value)?),
            "groups" => self.groups = Some(number(name, value)?),
            "trouble_ms" => self.trouble_ms = Some(number(name, value)?),
            _ => {
                let name = name.to_owned();
                return Err(ReductionError::Unknown { name });
            }
        }
        Ok(())
    }
}

impl FromStr for Reduction {
    type Err = ReductionError;

    fn from_str(text: &str) -> Result<Self, ReductionError> {
        let mut reduction = Self::default();
        let mut names = Vec::new();
        for part in text.split(',') {
            let Some((name, value)) = part.split_once('=') else {
                let part = part.to_owned();
                return Err(ReductionError::NoPart { part });
            };
            if names.contains(&name) {
                let name = name.to_owned();
                return Err(ReductionError::Twice { name });
            }
            reduction.set(name, value)?;
            names.push(name);
        }
        Ok(reduction)
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without = self.without.iter().map(|class| format!("{class:?}"));
        let without: Vec<String> = without.collect();
        let parts = [
            self.troubles.as_ref().map(|it| format!("troubles={it}")),
            (!without.is_empty()).then(|| format!("without={}", without.join("+"))),
            self.clerks.as_ref().map(|it| format!("clerks={it}")),
            self.calls.map(|it| format!("calls={it}")),
            self.nodes.map(|it| format!("nodes={it}")),
            self.groups.map(|it| format!("groups={it}")),
            self.trouble_ms.map(|it| format!("trouble_ms={it}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(","))
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, ReductionError> {
    value.parse().map_err(|_| ReductionError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        expected: "write a number",
    })
}

fn numbers(name: &str, value: &str) -> Result<Numbers, ReductionError> {
    let wrong = || ReductionError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        expected: "write none, or numbers and ranges that ascend, as in 3+7-9",
    };
    if value == "none" {
        return Ok(Numbers::default());
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for range in value.split('+') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let (first, last) = (parse(first)?, parse(last)?);
        let follows = ranges.last().is_none_or(|before| before.1 < first);
        if first > last || !follows {
            return Err(wrong());
        }
        match ranges.last_mut().filter(|before| before.1 + 1 == first) {
            Some(before) => before.1 = last,
            None => ranges.push((first, last)),
        }
    }
    Ok(Numbers { ranges })
}

impl Numbers {
    /// Whether a number is in the set.
    pub fn contains(&self, number: u32) -> bool {
        let mut ranges = self.ranges.iter();
        ranges.any(|&(first, last)| (first..=last).contains(&number))
    }

    /// The greatest of them.
    fn last(&self) -> Option<u32> {
        self.ranges.last().map(|&(_, last)| last)
    }
}

impl FromIterator<u32> for Numbers {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match ranges.last_mut().filter(|before| before.1 + 1 == number) {
                Some(before) => before.1 = number,
                None => ranges.push((number, number)),
            }
        }
        Self { ranges }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranges.is_empty() {
            return f.write_str("none");
        }
        let ranges = self.ranges.iter().map(|(first, last)| {
            if first == last {
                format!("{first}")
            } else {
                format!("{first}-{last}")
            }
        });
        f.write_str(&ranges.collect::<Vec<_>>().join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::FAULT_CLASSES;

    #[test]
    fn what_is_printed_is_parsed_as_the_same() {
        let whole =
            "troubles=3+7-9,without=Drop+Delay,clerks=0,calls=12,nodes=3,groups=1,trouble_ms=800";
        let reduction: Reduction = whole.parse().unwrap();
        assert_eq!(reduction.to_string(), whole);
        for text in whole.split(',').chain(["troubles=none", "clerks=none"]) {
            let reduction: Reduction = text.parse().unwrap();
            assert_eq!(reduction.to_string(), text);
            assert_ne!(reduction, Reduction::default());
        }
        let joined: Numbers = [9, 2, 8, 3, 3].into_iter().collect();
        assert_eq!(joined.to_string(), "2-3+8-9");
        assert_eq!(numbers("troubles", "2-2+3+8+9").unwrap(), joined);
        let all: Numbers = (0..u32::from(u16::MAX)).collect();
        assert_eq!(all.to_string(), "0-65534");
        assert!(
            numbers("troubles", &format!("0-{}", u32::MAX))
                .unwrap()
                .contains(u32::MAX)
        );
    }

    #[test]
    fn what_says_nothing_is_refused() {
        let wrong = [
            "",
            "troubles",
            "troubles=",
            "troubles=3+",
            "troubles=9-7",
            "troubles=3+3",
            "troubles=-1",
            "troubles=x",
            "calls=-1",
            "calls=many",
            "nodes=1,nodes=2",
            "without=Gremlin",
            "without=",
            "gremlins=3",
            "calls=1,",
            "troubles=4294967296",
            "troubles=4294967295+0",
        ];
        for text in wrong {
            assert!(text.parse::<Reduction>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_run_is_reduced_to_what_it_has_and_no_less_than_a_run() {
        let config = Config::plain(1);
        let reduced = |text: &str| {
            let mut config = config.clone();
            config.reduce(text.parse().unwrap()).map(|()| config)
        };
        assert_eq!(reduced("nodes=2").unwrap().nodes, 2);
        assert_eq!(reduced("trouble_ms=7").unwrap().trouble_ns, 7_000_000);
        let (last, beyond) = (config.clerks - 1, config.clerks);
        assert!(reduced("clerks=none").is_ok());
        assert!(reduced(&format!("clerks=0-{last}")).is_ok());
        let refused = reduced(&format!("clerks=0+{beyond}")).map(drop);
        let refused = refused.expect_err("there is none of this number");
        assert!(
            refused.to_string().starts_with(&format!("clerks={beyond}")),
            "{refused}"
        );
        for text in [
            "nodes=4",
            "nodes=0",
            "groups=2",
            "groups=0",
            "trouble_ms=20000",
        ] {
            assert!(reduced(text).is_err(), "{text}");
        }
    }

    #[test]
    fn classes_that_last_leave_the_plan_and_those_that_strike_stay_in_it() {
        let mut config = Config::plain(1);
        config.plan.classes = FAULT_CLASSES.to_vec();
        let events = config.plan.events();
        let reduction = Reduction {
            without: FAULT_CLASSES.to_vec(),
            ..Reduction::default()
        };
        config.reduce(reduction.clone()).unwrap();
        assert_eq!(config.plan.classes, events);
        assert_eq!(config.rates_permille, (1_000, 1_000));
        assert!(
            events
                .iter()
                .all(|&class| !reduction.strikes(0, Some(class)))
        );
        assert!(reduction.strikes(0, None));
    }
}
