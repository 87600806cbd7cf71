//! The map's answers to commands and queries, as bytes.
//!
//! ```text
//! offset  size  field
//!      0     1  kind
//!      1     -  0 done        nothing
//!               1 length      u64
//!               2 existed     u8: 0 or 1
//!               3 conflict    step u32, optional value
//!               4 too large   u64
//!               5 malformed   nothing
//!               6 value       optional value
//!               7 entries     more u8: 0 or 1; count u32; then for each:
//!                             key_len u32, value_len u32, key, value
//!               8 count       u64
//! optional value: u8, 0: none; 1: the rest of the answer
//! ```

use bytes::Bytes;
use thiserror::Error;

use crate::codec::Fields;

/// What the map answers to a command or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// To put, compare-and-swap and batch: it took effect.
    Done,
    /// To append: the value's length after it, in bytes.
    Length(u64),
    /// To delete: whether the key was there.
    Existed(bool),
    /// To compare-and-swap and batch: nothing was changed, because a key did not have the expected
    /// value.
    Conflict {
        /// Which step of the batch, counted from 0; 0 for compare-and-swap.
        step: u32,
        /// The value that the key has.
        current: Option<Bytes>,
    },
    /// To append and batch: nothing was changed, because a value would have become longer than the
    /// limit.
    TooLarge {
        /// The length that it would have had, in bytes.
        len_bytes: u64,
    },
    /// To anything: the bytes are no command, or no query. Nothing was changed.
    Malformed,
    /// To a get: the key's value.
    Value(Option<Bytes>),
    /// To a scan: keys and values, in the order asked for.
    Entries {
        /// What was found.
        entries: Vec<(Bytes, Bytes)>,
        /// Whether there is more in the range: ask again from behind the last key.
        more: bool,
    },
    /// To a count: how many keys there are.
    Count(u64),
}

/// The bytes are no answer of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the bytes are no answer of the map; client and replica may be of different versions")]
pub struct AnswerError;

const KIND_DONE: u8 = 0;
const KIND_LENGTH: u8 = 1;
const KIND_EXISTED: u8 = 2;
const KIND_CONFLICT: u8 = 3;
const KIND_TOO_LARGE: u8 = 4;
const KIND_MALFORMED: u8 = 5;
const KIND_VALUE: u8 = 6;
const KIND_ENTRIES: u8 = 7;
const KIND_COUNT: u8 = 8;

impl Answer {
    /// The answer as bytes. Allocates nothing for the answers without content.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Done => Bytes::from_static(&[KIND_DONE]),
            Self::Length(length) => encode_number(KIND_LENGTH, *length),
            Self::Existed(false) => Bytes::from_static(&[KIND_EXISTED, 0]),
            Self::Existed(true) => Bytes::from_static(&[KIND_EXISTED, 1]),
            Self::Conflict { step, current } => {
                let mut bytes = Vec::with_capacity(6 + current.as_ref().map_or(0, Bytes::len));
                bytes.push(KIND_CONFLICT);
                bytes.extend_from_slice(&step.to_le_bytes());
                push_optional(&mut bytes, current.as_ref());
                Bytes::from(bytes)
            }
            Self::TooLarge { len_bytes } => encode_number(KIND_TOO_LARGE, *len_bytes),
            Self::Malformed => Bytes::from_static(&[KIND_MALFORMED]),
            Self::Value(None) => Bytes::from_static(&[KIND_VALUE, 0]),
            Self::Value(value) => {
                let mut bytes = Vec::with_capacity(2 + value.as_ref().map_or(0, Bytes::len));
                bytes.push(KIND_VALUE);
                push_optional(&mut bytes, value.as_ref());
                Bytes::from(bytes)
            }
            Self::Entries { entries, more } => encode_entries(entries, *more),
            Self::Count(count) => encode_number(KIND_COUNT, *count),
        }
    }

    /// Reads an answer; keys and values share its memory.
    pub fn decode(answer: &Bytes) -> Result<Self, AnswerError> {
        let mut fields = Fields::new(answer);
        let decoded = Self::decode_fields(answer, &mut fields).ok_or(AnswerError)?;
        if fields.is_empty() {
            Ok(decoded)
        } else {
            Err(AnswerError)
        }
    }

    fn decode_fields(answer: &Bytes, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match fields.u8()? {
            KIND_DONE => Self::Done,
            KIND_LENGTH => Self::Length(fields.u64()?),
            KIND_EXISTED => Self::Existed(decode_bool(fields)?),
            KIND_CONFLICT => {
                let step = fields.u32()?;
                Self::Conflict {
                    step,
                    current: decode_optional(answer, fields)?,
                }
            }
            KIND_TOO_LARGE => Self::TooLarge {
                len_bytes: fields.u64()?,
            },
            KIND_MALFORMED => Self::Malformed,
            KIND_VALUE => Self::Value(decode_optional(answer, fields)?),
            KIND_ENTRIES => {
                let more = decode_bool(fields)?;
                Self::Entries {
                    entries: decode_entries(answer, fields)?,
                    more,
                }
            }
            KIND_COUNT => Self::Count(fields.u64()?),
            _ => return None,
        })
    }
}

fn encode_number(kind: u8, number: u64) -> Bytes {
    let mut bytes = [0; 9];
    bytes[0] = kind;
    bytes[1..].copy_from_slice(&number.to_le_bytes());
    Bytes::copy_from_slice(&bytes)
}

fn push_optional(bytes: &mut Vec<u8>, value: Option<&Bytes>) {
    bytes.push(u8::from(value.is_some()));
    bytes.extend_from_slice(value.map_or(&[], |value| value));
}

fn encode_entries(entries: &[(Bytes, Bytes)], more: bool) -> Bytes {
    let content: usize = entries
        .iter()
        .map(|(key, value)| 8 + key.len() + value.len())
        .sum();
    let mut bytes = Vec::with_capacity(6 + content);
    bytes.extend_from_slice(&[KIND_ENTRIES, u8::from(more)]);
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for (key, value) in entries {
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    Bytes::from(bytes)
}

fn decode_bool(fields: &mut Fields<'_>) -> Option<bool> {
    match fields.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// The outer option tells whether the bytes are right, the inner one whether there is a value.
#[expect(
    clippy::option_option,
    reason = "both levels mean something, and only here"
)]
fn decode_optional(answer: &Bytes, fields: &mut Fields<'_>) -> Option<Option<Bytes>> {
    if !decode_bool(fields)? {
        return Some(None);
    }
    let rest = fields.take(fields.rest().len())?;
    Some(Some(answer.slice_ref(rest)))
}

fn decode_entries(answer: &Bytes, fields: &mut Fields<'_>) -> Option<Vec<(Bytes, Bytes)>> {
    let count = fields.u32()? as usize;
    if count > fields.rest().len() / 8 {
        return None;
    }
    (0..count)
        .map(|_| {
            let [key_len, value_len] = [fields.u32()? as usize, fields.u32()? as usize];
            let key = answer.slice_ref(fields.take(key_len)?);
            let value = answer.slice_ref(fields.take(value_len)?);
            Some((key, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        let value = Bytes::from_static(b"value");
        vec![
            Answer::Done,
            Answer::Length(0x0102),
            Answer::Existed(false),
            Answer::Existed(true),
            Answer::Conflict {
                step: 3,
                current: None,
            },
            Answer::Conflict {
                step: 3,
                current: Some(Bytes::new()),
            },
            Answer::Conflict {
                step: 0,
                current: Some(value.clone()),
            },
            Answer::TooLarge { len_bytes: 9 },
            Answer::Malformed,
            Answer::Value(None),
            Answer::Value(Some(Bytes::new())),
            Answer::Value(Some(value.clone())),
            Answer::Entries {
                entries: Vec::new(),
                more: false,
            },
            Answer::Entries {
                entries: vec![(Bytes::new(), value.clone())],
                more: true,
            },
            Answer::Entries {
                entries: vec![(value.clone(), value.clone()), (value, Bytes::new())],
                more: true,
            },
            Answer::Count(7),
        ]
    }

    #[test]
    fn every_answer_decodes_to_itself_and_shares_memory() {
        for answer in answers() {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        let encoded = Answer::Value(Some(Bytes::from_static(b"value"))).encode();
        let Ok(Answer::Value(Some(value))) = Answer::decode(&encoded) else {
            panic!()
        };
        assert_eq!(value.as_ptr(), encoded[2..].as_ptr());
    }

    #[test]
    fn answers_have_the_documented_bytes() {
        let conflict = Answer::Conflict {
            step: 2,
            current: Some(Bytes::from_static(b"v")),
        };
        assert_eq!(conflict.encode(), &b"\x03\x02\x00\x00\x00\x01v"[..]);
        let entries = vec![(Bytes::from_static(b"k"), Bytes::from_static(b"vv"))];
        let entries = Answer::Entries {
            entries,
            more: true,
        }
        .encode();
        assert_eq!(
            entries,
            &b"\x07\x01\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00kvv"[..]
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [
            &b""[..],
            b"\x09",
            b"\x00\x00",
            b"\x02\x02",
            b"\x01\x01",
            b"\x06\x02",
            b"\x06\x00x",
        ] {
            assert_eq!(
                Answer::decode(&Bytes::from_static(bytes)),
                Err(AnswerError),
                "{bytes:?}"
            );
        }
        let lying = Bytes::from_static(b"\x07\x00\xff\xff\xff\xff\x00\x00");
        assert_eq!(
            Answer::decode(&lying),
            Err(AnswerError),
            "more entries than bytes"
        );
    }
}
