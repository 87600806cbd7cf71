//! A stored value: one piece of memory, or many while it grows.
//!
//! Appending a small token to a long value must cost neither the value's length nor disturb the
//! views that still show it. So a value that was appended to is a list of immutable pieces, in
//! which each is at least twice as long as the next; a new piece is merged with shorter ones before
//! it. A list for 8 MiB has at most 24 pieces, a byte is copied O(log n) times while its value
//! grows to n, and versions share all pieces that they have in common.
//!
//! (One growing buffer that views share up to their own length would copy less, but cannot be had
//! without `unsafe`: safe Rust has no way to write behind a byte that somebody else may read.)
//!
//! A reader wants one piece. The first `bytes()` of a version joins its pieces and keeps the result
//! beside them, for the readers after it; the next append takes the joined piece as its base, so
//! that the memory is not held twice.
//!
//! Invariants:
//! - No piece is empty, unless the value is that piece.
//! - `len` is the sum of the lengths of the pieces.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// A value. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// As it was put.
    Whole(Bytes),
    /// As it became by appends.
    Pieces(Arc<Pieces>),
}

/// The pieces of a value, in order.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    list: Vec<Bytes>,
    len: usize,
    joined: OnceLock<Bytes>,
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl Value {
    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.len,
        }
    }

    /// The value in one piece. Costs its length the first time after an append, else a reference
    /// count.
    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes.clone(),
            Self::Pieces(pieces) => pieces.joined().clone(),
        }
    }

    /// Its pieces in order.
    pub(super) fn pieces(&self) -> &[Bytes] {
        match self {
            Self::Whole(bytes) => std::slice::from_ref(bytes),
            Self::Pieces(pieces) => &pieces.list,
        }
    }

    /// Whether it equals `other`; joins nothing.
    pub(super) fn is(&self, other: &[u8]) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let mut rest = other;
        self.pieces().iter().all(|piece| {
            let (part, tail) = rest.split_at(piece.len());
            rest = tail;
            piece == part
        })
    }

    /// Makes it longer. Clones made before keep what they show.
    pub(super) fn append(&mut self, suffix: Bytes) {
        if suffix.is_empty() {
            return;
        }
        match self {
            Self::Whole(bytes) if bytes.is_empty() => *bytes = suffix,
            Self::Whole(bytes) => {
                let mut pieces = Pieces {
                    len: bytes.len(),
                    list: vec![std::mem::take(bytes)],
                    joined: OnceLock::new(),
                };
                pieces.append(suffix);
                *self = Self::Pieces(Arc::new(pieces));
            }
            Self::Pieces(pieces) => Arc::make_mut(pieces).append(suffix),
        }
    }
}

impl Pieces {
    fn append(&mut self, suffix: Bytes) {
        debug_assert!(!suffix.is_empty());
        if let Some(joined) = self.joined.take() {
            self.list.clear();
            self.list.push(joined);
        }
        self.len += suffix.len();

        let mut merged_len = suffix.len();
        let mut keep = self.list.len();
        while keep > 0 && self.list[keep - 1].len() < 2 * merged_len {
            keep -= 1;
            merged_len += self.list[keep].len();
        }
        if keep == self.list.len() {
            self.list.push(suffix);
        } else {
            let mut merged = Vec::with_capacity(merged_len);
            for piece in self.list.drain(keep..) {
                merged.extend_from_slice(&piece);
            }
            merged.extend_from_slice(&suffix);
            self.list.push(Bytes::from(merged));
        }
        debug_assert_eq!(self.list.iter().map(Bytes::len).sum::<usize>(), self.len);
    }

    fn joined(&self) -> &Bytes {
        match &self.list[..] {
            [only] => only,
            pieces => self.joined.get_or_init(|| {
                let mut joined = Vec::with_capacity(self.len);
                for piece in pieces {
                    joined.extend_from_slice(piece);
                }
                Bytes::from(joined)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_as_a_plain_vector_does_and_its_clones_stay() {
        let mut value = Value::from(Bytes::from_static(b"start"));
        let mut model = b"start".to_vec();
        let mut older = Vec::new();
        for i in 0..2_000_usize {
            let token = format!("<{i}>").repeat(i % 7);
            value.append(Bytes::from(token.clone()));
            model.extend_from_slice(token.as_bytes());
            if i % 50 == 0 {
                older.push((value.clone(), model.clone()));
            }
            if i % 90 == 0 {
                assert_eq!(value.bytes(), model);
            }
            assert_eq!(value.len(), model.len());
            assert!(value.is(&model));
        }
        for (value, model) in older {
            assert!(value.is(&model));
            assert_eq!(value.bytes(), model);
        }
    }

    #[test]
    fn equality_sees_each_byte_in_each_piece() {
        let mut value = Value::from(Bytes::from(vec![1; 100]));
        value.append(Bytes::from(vec![2; 30]));
        value.append(Bytes::from(vec![3; 5]));
        assert_eq!(value.pieces().len(), 3);
        let mut other = value.bytes().to_vec();
        assert!(value.is(&other));
        assert!(!value.is(&other[..134]));
        for i in 0..other.len() {
            other[i] ^= 1;
            assert!(!value.is(&other), "byte {i}");
            other[i] ^= 1;
        }
    }

    #[test]
    fn many_small_appends_copy_little_and_keep_few_pieces() {
        // Counts instead of time: the length of each new piece is what its append copied.
        let mut value = Value::from(Bytes::new());
        let appends = 20_000;
        let mut copied = 0;
        for _ in 0..appends {
            value.append(Bytes::from_static(b"0123456789abcdef"));
            assert!(value.pieces().len() <= 24);
            copied += value.pieces().last().unwrap().len();
        }
        let per_byte = copied / value.len();
        assert!(per_byte <= 20, "each byte was copied {per_byte} times");
    }

    #[test]
    fn joins_once_for_all_readers_and_drops_the_pieces_with_the_next_append() {
        let mut value = Value::from(Bytes::from(vec![1; 1000]));
        value.append(Bytes::from_static(b"tail"));
        let first = value.bytes();
        assert_eq!(first.as_ptr(), value.clone().bytes().as_ptr());
        value.append(Bytes::from_static(b"more"));
        assert_eq!(value.pieces()[0].as_ptr(), first.as_ptr());
        assert_eq!(value.pieces().len(), 2);
    }
}
