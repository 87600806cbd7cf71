//! What the index holds: where words stand, and what a clerk remembers of what it appended.
//!
//! Invariants:
//! - A clerk never uses a sequence number twice, so no two positions are equal.
//! - A clerk remembers the positions of a key in the order in which it issued them.
//! - No value outgrows the store's limit, however long a run: a list of positions that has become
//!   long goes on under another key.

use std::collections::HashMap;
use std::num::NonZeroU32;

/// Length of a position in a value.
pub(crate) const POSITION_BYTES: usize = 20;

/// How many clerks fill the index.
pub(crate) const CLERKS: u32 = 4;

/// How many positions of a word one clerk appends to one key before it goes on under the next.
pub(crate) const PART_POSITIONS_MAX: u32 = 1 << 16;

const _: () = assert!(
    CLERKS as usize * PART_POSITIONS_MAX as usize * POSITION_BYTES <= quorate::VALUE_BYTES_MAX,
    "a key to which all clerks append all that they may stays within the limit of a value"
);

/// One occurrence of a word, and who appended it in which order. Files count from 0, lines from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) clerk: u32,
    /// Ascends from append to append of one clerk.
    pub(crate) sequence: u32,
    /// How often the text had been read to its end before.
    pub(crate) round: u32,
    pub(crate) file: u32,
    pub(crate) line: u32,
}

impl Position {
    pub(crate) fn encode(self) -> [u8; POSITION_BYTES] {
        let mut bytes = [0; POSITION_BYTES];
        let fields = [self.clerk, self.sequence, self.round, self.file, self.line];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// All positions of a value, in order; `None` if it is not made of whole ones.
    pub(crate) fn decode_all(value: &[u8]) -> Option<Vec<Self>> {
        let (positions, rest) = value.as_chunks::<POSITION_BYTES>();
        rest.is_empty()
            .then(|| positions.iter().map(Self::decode).collect())
    }

    fn decode(bytes: &[u8; POSITION_BYTES]) -> Self {
        let (fields, _) = bytes.as_chunks::<4>();
        let [clerk, sequence, round, file, line] =
            std::array::from_fn(|field| u32::from_le_bytes(fields[field]));
        Self {
            clerk,
            sequence,
            round,
            file,
            line,
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            clerk,
            sequence,
            round,
            file,
            line,
        } = self;
        write!(
            f,
            "clerk {clerk} append {sequence} (round {round}, file {file}, line {line})"
        )
    }
}

/// The key under which a clerk's `count`th position of a word (from 0) is appended. A word holds no
/// slash, so that the keys of different words differ.
pub(crate) fn key_of(word: &str, count: u32) -> Vec<u8> {
    match count / PART_POSITIONS_MAX {
        0 => word.as_bytes().to_vec(),
        part => format!("{word}/{part}").into_bytes(),
    }
}

/// One clerk's half of the index: what it appended and what it was told about it.
#[derive(Debug, Default)]
pub(crate) struct LocalIndex {
    keys: HashMap<Vec<u8>, Vec<Append>>,
}

/// An append whose fate is settled as far as it ever will be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Append {
    pub(crate) position: Position,
    /// The length of the value with this append, as answered. `None`: the answer was lost for good,
    /// and the append took effect once or not at all.
    pub(crate) end_bytes: Option<NonZeroU32>,
}

impl LocalIndex {
    /// Remembers an append, in the order of issue.
    pub(crate) fn push(&mut self, key: Vec<u8>, append: Append) {
        let appends = self.keys.entry(key).or_default();
        let last = appends.last().map(|last| last.position.sequence);
        assert!(
            last < Some(append.position.sequence),
            "a clerk's sequence numbers ascend"
        );
        appends.push(append);
    }

    /// The appends to one key, in the order of issue.
    pub(crate) fn appends(&self, key: &[u8]) -> &[Append] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.keys().map(Vec::as_slice)
    }
}
