//! The clerks: each appends the positions of words, many at once, and remembers what it was told.
//!
//! Invariants:
//! - Answers are taken in the order of issue, so what is remembered is in that order too.
//! - An append is issued again only if it certainly had no effect, and then as a new one.
//! - All of the text is appended at least once, unless the run is given up.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::{Clerk, Error, Pending};

use crate::index::{Append, LocalIndex, Position, key_of};
use crate::progress::Meter;
use crate::text::{Section, Text, normalise};

/// Appends that one clerk has on their way.
const OUTSTANDING_MAX: usize = 64;

/// A clerk gives up when appends fail and none has succeeded for so long.
const STALL_MAX: Duration = Duration::from_mins(1);

/// What all clerks share.
pub(crate) struct Load<'a> {
    text: &'a Text,
    ends_at: Instant,
    /// Sections handed out, over all rounds.
    handed_out: AtomicU64,
    is_given_up: AtomicBool,
    meter: &'a Meter,
}

/// Why a clerk stopped before the end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("clerk {clerk}: no append succeeded for {} s: {source}", STALL_MAX.as_secs())]
    Stalled { clerk: u32, source: Error },
    #[error("clerk {clerk}: an append failed for good: {source}")]
    Failed { clerk: u32, source: Error },
    #[error("clerk {clerk}: an append was answered with the impossible length {end_bytes}")]
    Answer { clerk: u32, end_bytes: u64 },
    #[error("clerk {clerk} has used up its numbers; ask for fewer --seconds")]
    NumbersUsedUp { clerk: u32 },
}

/// What a clerk did.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) index: LocalIndex,
    /// Appends that were answered.
    pub(crate) acknowledged: u64,
    /// Appends whose answer was lost for good.
    pub(crate) unanswered: u64,
}

impl<'a> Load<'a> {
    pub(crate) fn new(text: &'a Text, duration: Duration, meter: &'a Meter) -> Self {
        Self {
            text,
            ends_at: Instant::now() + duration,
            handed_out: AtomicU64::new(0),
            is_given_up: AtomicBool::new(false),
            meter,
        }
    }

    /// Lets all clerks stop after what they have on its way.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    /// Indexes section after section until the end, and waits for every answer.
    pub(crate) fn run(&self, number: u32, clerk: &Clerk) -> Result<Loaded, LoadError> {
        let mut writer = Writer {
            load: self,
            clerk,
            number,
            sequence: 0,
            issued: HashMap::new(),
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            loaded: Loaded::default(),
            succeeded_at: Instant::now(),
        };
        let result = writer.write_all();
        if result.is_err() {
            self.give_up();
        }
        result.map(|()| writer.loaded)
    }

    /// The next piece of work, with its round.
    fn next_section(&self) -> Option<(u32, &'a Section)> {
        let sections = self.text.sections();
        let ticket = self.handed_out.fetch_add(1, Ordering::Relaxed);
        let round = u32::try_from(ticket / sections.len() as u64).ok()?;
        let section = &sections[(ticket % sections.len() as u64) as usize];
        (!self.is_over(round)).then_some((round, section))
    }

    fn is_over(&self, round: u32) -> bool {
        self.is_given_up.load(Ordering::Relaxed) || (round > 0 && Instant::now() >= self.ends_at)
    }
}

/// One clerk at work.
struct Writer<'a> {
    load: &'a Load<'a>,
    clerk: &'a Clerk,
    number: u32,
    /// The next append's.
    sequence: u32,
    /// How many positions of each word were appended.
    issued: HashMap<Box<str>, u32>,
    outstanding: VecDeque<Outstanding>,
    loaded: Loaded,
    succeeded_at: Instant,
}

struct Outstanding {
    key: Vec<u8>,
    position: Position,
    issued_at: Instant,
    answer: Pending<u64>,
}

impl Writer<'_> {
    fn write_all(&mut self) -> Result<(), LoadError> {
        let mut word = String::new();
        while let Some((round, section)) = self.load.next_section() {
            for (line, written) in self.load.text.words(section) {
                if self.load.is_over(round) {
                    break;
                }
                normalise(written, &mut word);
                let key = self.next_key(&word);
                let position = Position {
                    clerk: self.number,
                    sequence: 0,
                    round,
                    file: section.file,
                    line,
                };
                self.issue(key, position)?;
                while self.outstanding.len() >= OUTSTANDING_MAX {
                    self.take_answer()?;
                }
            }
        }
        while !self.outstanding.is_empty() {
            self.take_answer()?;
        }
        Ok(())
    }

    fn next_key(&mut self, word: &str) -> Vec<u8> {
        if let Some(count) = self.issued.get_mut(word) {
            *count += 1;
            return key_of(word, *count - 1);
        }
        self.issued.insert(word.into(), 1);
        key_of(word, 0)
    }

    /// Sends an append off under the next sequence number.
    fn issue(&mut self, key: Vec<u8>, position: Position) -> Result<(), LoadError> {
        let position = Position {
            sequence: self.sequence,
            ..position
        };
        let used_up = LoadError::NumbersUsedUp { clerk: self.number };
        self.sequence = self.sequence.checked_add(1).ok_or(used_up)?;
        let issued_at = Instant::now();
        let answer = self.clerk.append_async(&key, position.encode());
        self.outstanding.push_back(Outstanding {
            key,
            position,
            issued_at,
            answer,
        });
        Ok(())
    }

    /// Waits for the oldest answer.
    fn take_answer(&mut self) -> Result<(), LoadError> {
        let Some(oldest) = self.outstanding.pop_front() else {
            return Ok(());
        };
        let Outstanding {
            key,
            position,
            issued_at,
            answer,
        } = oldest;
        let clerk = self.number;
        match answer.wait() {
            Ok(end_bytes) => {
                self.succeeded_at = Instant::now();
                self.load.meter.record(self.succeeded_at - issued_at);
                self.loaded.acknowledged += 1;
                let known = u32::try_from(end_bytes).ok().and_then(NonZeroU32::new);
                let end_bytes = Some(known.ok_or(LoadError::Answer { clerk, end_bytes })?);
                self.loaded.index.push(
                    key,
                    Append {
                        position,
                        end_bytes,
                    },
                );
                Ok(())
            }
            Err(source) if self.succeeded_at.elapsed() >= STALL_MAX => {
                Err(LoadError::Stalled { clerk, source })
            }
            // It had no effect. Issued again it is behind those that were issued since, and so is
            // its new number.
            Err(error) if error.is_retryable() => self.issue(key, position),
            Err(Error::Timeout { .. } | Error::SessionExpired) => {
                self.loaded.unanswered += 1;
                self.loaded.index.push(
                    key,
                    Append {
                        position,
                        end_bytes: None,
                    },
                );
                Ok(())
            }
            Err(source) => Err(LoadError::Failed { clerk, source }),
        }
    }
}
