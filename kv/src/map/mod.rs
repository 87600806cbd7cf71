//! The ordered map from byte strings to byte strings.
//!
//! Invariants:
//! - Answers depend on the map's content and the command alone.
//! - A batch changes everything or nothing.
//! - No key is longer than [`KEY_BYTES_MAX`], no value longer than [`VALUE_BYTES_MAX`].
//! - What a view shows never changes.

mod answer;
mod image;
mod key;
mod op;
mod query;
mod value;
mod view;

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use imbl::OrdMap;

use self::key::Key;
use self::op::{Mutation, Op, Precondition};
use self::value::Value;
use crate::machine::{RestoreError, StateMachine};

pub use self::answer::{Answer, AnswerError};
pub use self::image::MapImage;
pub(crate) use self::op::OP_HEAD_BYTES_MAX;
pub use self::op::{BATCH_BYTES_MAX, BATCH_STEPS_MAX, Batch};
pub use self::query::{Query, SCAN_BYTES_MAX, Scan};
pub use self::view::{MapView, Range};

/// The longest key.
pub const KEY_BYTES_MAX: usize = 64 * 1024 - 1;

/// The longest value, also after appends.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An ordered map from byte strings to byte strings.
///
/// Commands are made with [`CommandBuffer`](crate::CommandBuffer) and answered with an encoded
/// [`Answer`]; queries are made with [`Query`]. Built on a persistent B+ tree, so that a view or an
/// image costs one reference count and the commands after it copy only the path that they change.
#[derive(Clone, Debug, Default)]
pub struct Map {
    entries: OrdMap<Key, Value>,
}

impl Map {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn execute(&mut self, op: &Op<'_>, command: &Bytes) -> Answer {
        match op {
            Op::Mutation(mutation) => self.mutate(mutation, command),
            Op::CompareAndSwap { precondition, new } => {
                if let Err(current) = self.check(precondition) {
                    return Answer::Conflict { step: 0, current };
                }
                self.put(precondition.key, payload(command, new));
                Answer::Done
            }
            Op::Batch(steps) => self.batch(steps, command),
        }
    }

    fn mutate(&mut self, mutation: &Mutation<'_>, command: &Bytes) -> Answer {
        match *mutation {
            Mutation::Put { key, value } => {
                self.put(key, payload(command, value));
                Answer::Done
            }
            Mutation::Append { key, suffix } => {
                let len = self.entries.get(key).map_or(0, Value::len) + suffix.len();
                if len > VALUE_BYTES_MAX {
                    return Answer::TooLarge {
                        len_bytes: len as u64,
                    };
                }
                self.append(key, payload(command, suffix));
                Answer::Length(len as u64)
            }
            Mutation::Delete { key } => Answer::Existed(self.entries.remove(key).is_some()),
        }
    }

    /// Checks everything that can fail against the state before the batch, then changes.
    fn batch(&mut self, steps: &[op::Step<'_>], command: &Bytes) -> Answer {
        for (number, step) in (0..).zip(steps) {
            if let op::Step::Precondition(precondition) = step
                && let Err(current) = self.check(precondition)
            {
                return Answer::Conflict {
                    step: number,
                    current,
                };
            }
        }
        if let Some(len_bytes) = self.length_over_limit(steps) {
            return Answer::TooLarge { len_bytes };
        }
        for step in steps {
            if let op::Step::Mutation(mutation) = step {
                let answer = self.mutate(mutation, command);
                assert!(
                    !matches!(answer, Answer::TooLarge { .. }),
                    "lengths were checked"
                );
            }
        }
        Answer::Done
    }

    /// The first length over the limit that the appends of a batch would make, if any.
    fn length_over_limit(&self, steps: &[op::Step<'_>]) -> Option<u64> {
        let mut lengths = BTreeMap::new();
        for step in steps {
            let op::Step::Mutation(mutation) = step else {
                continue;
            };
            match *mutation {
                Mutation::Put { key, value } => lengths.insert(key, value.len()),
                Mutation::Delete { key } => lengths.insert(key, 0),
                Mutation::Append { key, suffix } => {
                    let stored = || self.entries.get(key).map_or(0, Value::len);
                    let len = lengths.get(key).copied().unwrap_or_else(stored) + suffix.len();
                    if len > VALUE_BYTES_MAX {
                        return Some(len as u64);
                    }
                    lengths.insert(key, len)
                }
            };
        }
        None
    }

    /// Whether a key has the value that is expected, else the one that it has.
    fn check(&self, precondition: &Precondition<'_>) -> Result<(), Option<Bytes>> {
        let current = self.entries.get(precondition.key);
        let holds = match (current, precondition.expected) {
            (Some(value), Some(expected)) => value.is(expected),
            (None, None) => true,
            _ => false,
        };
        if holds {
            Ok(())
        } else {
            Err(current.map(Value::bytes))
        }
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        debug_assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX);
        match self.entries.get_mut(key) {
            Some(slot) => *slot = Value::from(value),
            None => self.insert(key, value),
        }
    }

    fn append(&mut self, key: &[u8], suffix: Bytes) {
        match self.entries.get_mut(key) {
            Some(slot) => slot.append(suffix),
            None => self.insert(key, suffix),
        }
    }

    /// The key is copied: it outlives the value that it arrived with, and as a slice of
    /// the command it would keep that value's memory for as long as the key exists.
    fn insert(&mut self, key: &[u8], value: Bytes) {
        self.entries.insert(Key::from(key), Value::from(value));
    }
}

impl StateMachine for Map {
    type View = MapView;
    type Image = MapImage;

    fn supports(command: &[u8]) -> bool {
        op::supports(command)
    }

    fn apply(&mut self, _index: u64, command: &Bytes) -> Bytes {
        let answer = match Op::decode(command) {
            Some(op) => self.execute(&op, command),
            None => Answer::Malformed,
        };
        answer.encode()
    }

    fn view(&self) -> MapView {
        MapView::new(self.entries.clone())
    }

    fn query(view: &MapView, query: &Bytes) -> Bytes {
        query::answer(view, query).encode()
    }

    fn image(&self) -> MapImage {
        MapImage::new(self.entries.clone())
    }

    fn restore(source: &mut dyn io::Read) -> Result<Self, RestoreError> {
        Ok(Self {
            entries: image::restore(source)?,
        })
    }
}

/// A part of the command as a value of its own. It shares the command's memory unless that would
/// keep more than four times its own length alive.
fn payload(command: &Bytes, part: &[u8]) -> Bytes {
    const PINNED_FACTOR_MAX: usize = 4;
    if part.len() * PINNED_FACTOR_MAX >= command.len() {
        command.slice_ref(part)
    } else {
        Bytes::copy_from_slice(part)
    }
}
