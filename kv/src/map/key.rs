//! A stored key: short ones stand in the tree's nodes themselves.
//!
//! A search compares a key at each step, and copying a path for a new version clones all keys of its nodes. With
//! keys behind a pointer each of these is a cache miss; most keys are short enough to need none.
//!
//! Invariant: keys of up to [`INLINE_BYTES_MAX`] bytes are inline, so that a key has one form.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The longest key that needs no memory of its own.
const INLINE_BYTES_MAX: usize = 30;

/// A key. Owns its bytes: it outlives the command that it arrived with.
#[derive(Clone)]
pub(super) enum Key {
    /// The bytes behind `len` are zero.
    Inline {
        len: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    /// A longer one.
    Shared(Arc<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 32);

impl Key {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES_MAX {
            return Self::Shared(Arc::from(key));
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Self::Inline {
            len: key.len() as u8,
            bytes,
        }
    }
}

/// Equality and order are those of the bytes, as borrowing them demands.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_bytes_are_kept_across_the_inline_limit() {
        let source = [0xff; INLINE_BYTES_MAX + 5];
        let mut contents: Vec<Vec<u8>> = vec![vec![0], vec![0; 31], vec![1], vec![0xfe; 40]];
        contents.extend((0..=source.len()).map(|len| source[..len].to_vec()));
        for a in &contents {
            let key = Key::from(&a[..]);
            assert_eq!(key.as_bytes(), a);
            assert_eq!(
                matches!(key, Key::Inline { .. }),
                a.len() <= INLINE_BYTES_MAX
            );
            for b in &contents {
                assert_eq!(key.cmp(&Key::from(&b[..])), a.cmp(b), "{a:?} {b:?}");
                assert_eq!(key == Key::from(&b[..]), a == b);
            }
        }
    }
}
