//! The sequential model: one key's value, and what each operation does to it.
//!
//! A state is the value's length and a fingerprint of its bytes that grows with an append in time
//! of the suffix. A search visits many states of long values; so none of them is ever built. The
//! fingerprint is a pair of polynomial hashes modulo the prime `2^61 - 1`: two different values of
//! the lengths met here pass for the same with a probability below `2^-70`.

use super::history::{Op, Response};

/// A value, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Register(Option<Fingerprint>);

/// Stands for a byte string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Fingerprint {
    len_bytes: u64,
    hashes: [u64; 2],
}

/// What an operation asks, with its values as fingerprints.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(Register),
    Append {
        suffix: Vec<u8>,
        length: Option<u64>,
    },
    Get(Register),
    Delete {
        existed: bool,
    },
    SwapDone {
        expected: Register,
        new: Register,
    },
    SwapConflict {
        expected: Register,
        current: Register,
    },
    /// The same three without an answer to compare with: they may change something, or never
    /// happen.
    MaybeAppend {
        suffix: Vec<u8>,
    },
    MaybeDelete,
}

impl Step {
    /// `None` if the operation can change nothing and tells nothing.
    pub(super) fn new(op: &Op, response: &Response) -> Option<Self> {
        if *response == Response::Refused {
            return None;
        }
        Some(match (op, response) {
            (Op::Put { value, .. }, _) => Self::Put(Register::of(value)),
            (Op::Append { suffix, .. }, Response::Unknown) => Self::MaybeAppend {
                suffix: suffix.to_vec(),
            },
            (Op::Append { suffix, .. }, Response::Length(length)) => Self::Append {
                suffix: suffix.to_vec(),
                length: Some(*length),
            },
            (Op::Append { suffix, .. }, _) => Self::Append {
                suffix: suffix.to_vec(),
                length: None,
            },
            (Op::Get { .. }, Response::Value(value)) => {
                Self::Get(Register::maybe(value.as_deref()))
            }
            (Op::Get { .. }, _) => return None,
            (Op::Delete { .. }, Response::Existed(existed)) => Self::Delete { existed: *existed },
            (Op::Delete { .. }, _) => Self::MaybeDelete,
            (Op::CompareAndSwap { expected, .. }, Response::Conflict(current)) => {
                Self::SwapConflict {
                    expected: Register::maybe(expected.as_deref()),
                    current: Register::maybe(current.as_deref()),
                }
            }
            (Op::CompareAndSwap { expected, new, .. }, _) => Self::SwapDone {
                expected: Register::maybe(expected.as_deref()),
                new: Register::of(new),
            },
        })
    }
}

impl Register {
    fn of(value: &[u8]) -> Self {
        Self(Some(Fingerprint::default().append(value)))
    }

    fn maybe(value: Option<&[u8]>) -> Self {
        value.map_or(Self(None), Self::of)
    }

    /// The state after a step, or `None` if the step was not answered so in this state.
    pub(super) fn after(self, step: &Step) -> Option<Self> {
        match step {
            Step::Put(value) => Some(*value),
            Step::Append { suffix, length } => {
                let after = self.0.unwrap_or_default().append(suffix);
                let fits = length.is_none_or(|length| length == after.len_bytes);
                fits.then_some(Self(Some(after)))
            }
            Step::Get(value) => (self == *value).then_some(self),
            Step::Delete { existed } => (self.0.is_some() == *existed).then_some(Self(None)),
            Step::SwapDone { expected, new } => (self == *expected).then_some(*new),
            Step::SwapConflict { expected, current } => {
                (self == *current && self != *expected).then_some(self)
            }
            Step::MaybeAppend { suffix } => {
                Some(Self(Some(self.0.unwrap_or_default().append(suffix))))
            }
            Step::MaybeDelete => Some(Self(None)),
        }
    }
}

const PRIME: u64 = (1 << 61) - 1;
const BASES: [u64; 2] = [0x0a1b_2c3d_4e5f_6071, 0x1357_9bdf_0246_8ace];

impl Fingerprint {
    fn append(self, suffix: &[u8]) -> Self {
        let mut hashes = self.hashes;
        for (hash, base) in hashes.iter_mut().zip(BASES) {
            for byte in suffix {
                // One more than the byte, so that a zero byte is not the same as none.
                *hash = (multiply(*hash, base) + u64::from(*byte) + 1) % PRIME;
            }
        }
        Self {
            len_bytes: self.len_bytes + suffix.len() as u64,
            hashes,
        }
    }
}

/// The product modulo the prime.
fn multiply(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_fingerprint_depends_on_the_bytes_and_not_on_their_pieces() {
        let whole = Register::of(b"abcdef");
        let step = |suffix: &[u8]| Step::MaybeAppend {
            suffix: suffix.to_vec(),
        };
        for cut in 0..=6 {
            let (head, tail) = b"abcdef".split_at(cut);
            assert_eq!(Register::of(head).after(&step(tail)), Some(whole));
        }
        for other in [&b"abcdeg"[..], b"bacdef", b"abcdef\0", b"\0abcdef", b""] {
            assert_ne!(Register::of(other), whole);
        }
        assert_ne!(
            Register::of(b""),
            Register::default(),
            "empty is not absent"
        );
    }

    #[test]
    fn unknown_reads_and_refused_operations_tell_nothing() {
        let key = Bytes::from_static(b"k");
        let put = Op::Put {
            key: key.clone(),
            value: key.clone(),
        };
        assert!(Step::new(&put, &Response::Refused).is_none());
        assert!(Step::new(&put, &Response::Unknown).is_some());
        assert!(Step::new(&Op::Get { key }, &Response::Unknown).is_none());
    }
}
