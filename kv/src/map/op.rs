//! The map's operations as bytes: what stands behind the head of a command.
//!
//! All integers are little-endian. Lengths must match the bytes exactly: an operation has one
//! encoding.
//!
//! ```text
//! offset  size  field
//!      0     1  version      1
//!      1     1  kind         1 put, 2 append, 3 delete, 4 compare-and-swap, 5 batch;
//!                            only inside a batch: 6 expect a value, 7 expect no value
//!      2     2  key_len      batch: 0
//!      4     4  value_len    put: value; append: suffix; compare-and-swap: new value;
//!                            expect: expected value; delete, expect no value: 0;
//!                            batch: the number of its steps
//!      8     -  put, append, expect:         key, value
//!               delete, expect no value:     key
//!               compare-and-swap:            expected_len u32 (0xffff_ffff: must be absent), key,
//!                                            expected value, new value
//!               batch:                       its steps, one after the other, each with this head
//! ```

use bytes::Bytes;

use super::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::codec::Fields;
use crate::command::{CommandBuffer, TooLarge};

/// The most steps in a batch.
pub const BATCH_STEPS_MAX: usize = 16 * 1024;

/// The most bytes that a batch's steps take, with their heads of 8 bytes each.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most bytes that stand before the first key of an operation.
pub(crate) const OP_HEAD_BYTES_MAX: usize = HEAD_BYTES + size_of::<u32>();

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8;
const ABSENT: u32 = u32::MAX;

const KIND_PUT: u8 = 1;
const KIND_APPEND: u8 = 2;
const KIND_DELETE: u8 = 3;
const KIND_COMPARE_AND_SWAP: u8 = 4;
const KIND_BATCH: u8 = 5;
const KIND_EXPECT: u8 = 6;
const KIND_EXPECT_ABSENT: u8 = 7;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(VALUE_BYTES_MAX < ABSENT as usize);
const _: () = assert!(
    BATCH_BYTES_MAX + HEAD_BYTES <= OP_HEAD_BYTES_MAX + KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX,
    "COMMAND_BYTES_MAX covers batches too"
);

/// Encoders of the map's operations. Each copies its arguments once, into one allocation.
impl CommandBuffer {
    /// Sets a key's value. Answered with [`Answer::Done`](crate::Answer::Done).
    pub fn put(key: &[u8], value: &[u8]) -> Result<Self, TooLarge> {
        Self::single(KIND_PUT, key, value)
    }

    /// Adds to the end of a key's value; an absent key counts as empty. Answered with
    /// [`Answer::Length`](crate::Answer::Length), or [`Answer::TooLarge`](crate::Answer::TooLarge).
    pub fn append(key: &[u8], suffix: &[u8]) -> Result<Self, TooLarge> {
        Self::single(KIND_APPEND, key, suffix)
    }

    /// Removes a key. Answered with [`Answer::Existed`](crate::Answer::Existed).
    pub fn delete(key: &[u8]) -> Result<Self, TooLarge> {
        Self::single(KIND_DELETE, key, b"")
    }

    /// Sets a key's value if it has the expected one now; `None` expects the key to be absent.
    /// Answered with [`Answer::Done`](crate::Answer::Done) or
    /// [`Answer::Conflict`](crate::Answer::Conflict). (To delete on a condition, use a [`Batch`].)
    pub fn compare_and_swap(
        key: &[u8],
        expected: Option<&[u8]>,
        new: &[u8],
    ) -> Result<Self, TooLarge> {
        check_lengths(key, new)?;
        check_lengths(key, expected.unwrap_or_default())?;
        let expected_len = expected.map_or(ABSENT, |expected| expected.len() as u32);
        let expected = expected.unwrap_or_default();

        let operation_bytes = OP_HEAD_BYTES_MAX + key.len() + expected.len() + new.len();
        let mut buffer = Self::with_capacity(operation_bytes);
        let bytes = buffer.bytes_mut();
        push_head(bytes, KIND_COMPARE_AND_SWAP, key.len(), new.len());
        bytes.extend_from_slice(&expected_len.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(expected);
        bytes.extend_from_slice(new);
        Ok(buffer)
    }

    /// Takes over a batch; copies nothing. Answered with [`Answer::Done`](crate::Answer::Done),
    /// [`Answer::Conflict`](crate::Answer::Conflict) or
    /// [`Answer::TooLarge`](crate::Answer::TooLarge); in the last two cases nothing changed. Fails
    /// if any argument given to the batch, or the whole, is over its limit.
    pub fn batch(batch: Batch) -> Result<Self, TooLarge> {
        batch.finish()
    }

    fn single(kind: u8, key: &[u8], value: &[u8]) -> Result<Self, TooLarge> {
        check_lengths(key, value)?;
        let mut buffer = Self::with_capacity(HEAD_BYTES + key.len() + value.len());
        push_step(buffer.bytes_mut(), kind, key, value);
        Ok(buffer)
    }
}

/// Operations that take effect together or not at all.
///
/// All expectations are checked against the state before the batch, wherever they stand; then the
/// changes are made in the order of the calls. The first argument over its limit is reported by
/// [`CommandBuffer::batch`].
///
/// ```
/// use quorate_kv::{Batch, CommandBuffer};
///
/// let transfer = Batch::new()
///     .expect(b"alice", Some(b"10"))
///     .expect(b"bob", None)
///     .put(b"alice", b"7")
///     .put(b"bob", b"3");
/// let command = CommandBuffer::batch(transfer)?.seal_plain();
/// # let _ = command;
/// # Ok::<(), quorate_kv::TooLarge>(())
/// ```
#[derive(Debug)]
pub struct Batch {
    buffer: CommandBuffer,
    steps: usize,
    bytes: usize,
    refused: Option<TooLarge>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// No steps yet.
    pub fn new() -> Self {
        let mut buffer = CommandBuffer::with_capacity(HEAD_BYTES);
        push_head(buffer.bytes_mut(), KIND_BATCH, 0, 0);
        Self {
            buffer,
            steps: 0,
            bytes: 0,
            refused: None,
        }
    }

    /// Lets the batch take effect only if the key has this value before it; `None`: only if it is
    /// absent.
    pub fn expect(self, key: &[u8], value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.step(KIND_EXPECT, key, value),
            None => self.step(KIND_EXPECT_ABSENT, key, b""),
        }
    }

    /// Sets a key's value.
    pub fn put(self, key: &[u8], value: &[u8]) -> Self {
        self.step(KIND_PUT, key, value)
    }

    /// Adds to the end of a key's value; an absent key counts as empty.
    pub fn append(self, key: &[u8], suffix: &[u8]) -> Self {
        self.step(KIND_APPEND, key, suffix)
    }

    /// Removes a key.
    pub fn delete(self, key: &[u8]) -> Self {
        self.step(KIND_DELETE, key, b"")
    }

    fn step(mut self, kind: u8, key: &[u8], value: &[u8]) -> Self {
        if self.refused.is_none() {
            self.refused = self.try_step(kind, key, value).err();
        }
        self
    }

    fn try_step(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<(), TooLarge> {
        check_lengths(key, value)?;
        TooLarge::check("batch steps", self.steps + 1, BATCH_STEPS_MAX)?;
        let bytes = self.bytes + HEAD_BYTES + key.len() + value.len();
        TooLarge::check("batch bytes", bytes, BATCH_BYTES_MAX)?;
        self.steps += 1;
        self.bytes = bytes;
        push_step(self.buffer.bytes_mut(), kind, key, value);
        Ok(())
    }

    fn finish(mut self) -> Result<CommandBuffer, TooLarge> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let bytes = self.buffer.bytes_mut();
        let steps_at = bytes.len() - self.bytes - size_of::<u32>();
        bytes[steps_at..steps_at + size_of::<u32>()]
            .copy_from_slice(&(self.steps as u32).to_le_bytes());
        Ok(self.buffer)
    }
}

/// A decoded operation; borrows from the command.
#[derive(Debug, PartialEq)]
pub(super) enum Op<'a> {
    Mutation(Mutation<'a>),
    CompareAndSwap {
        precondition: Precondition<'a>,
        new: &'a [u8],
    },
    Batch(Vec<Step<'a>>),
}

/// A change of one key.
#[derive(Debug, PartialEq)]
pub(super) enum Mutation<'a> {
    Put { key: &'a [u8], value: &'a [u8] },
    Append { key: &'a [u8], suffix: &'a [u8] },
    Delete { key: &'a [u8] },
}

/// What a key must hold.
#[derive(Debug, PartialEq)]
pub(super) struct Precondition<'a> {
    pub(super) key: &'a [u8],
    pub(super) expected: Option<&'a [u8]>,
}

/// Part of a batch.
#[derive(Debug, PartialEq)]
pub(super) enum Step<'a> {
    Precondition(Precondition<'a>),
    Mutation(Mutation<'a>),
}

/// Whether the version is known here. Too short to name one is damage, not a version.
pub(super) fn supports(operation: &[u8]) -> bool {
    operation.first().is_none_or(|version| *version == VERSION)
}

impl<'a> Op<'a> {
    /// `None` if the bytes are no operation in the layout above.
    pub(super) fn decode(operation: &'a Bytes) -> Option<Self> {
        let mut fields = Fields::new(operation);
        let head = Head::decode(&mut fields)?;
        let op = match head.kind {
            KIND_COMPARE_AND_SWAP => decode_compare_and_swap(&head, &mut fields)?,
            KIND_BATCH => Self::Batch(decode_steps(&head, &mut fields)?),
            _ => match head.decode_step(&mut fields)? {
                Step::Mutation(mutation) => Self::Mutation(mutation),
                Step::Precondition(_) => return None,
            },
        };
        fields.is_empty().then_some(op)
    }
}

struct Head {
    kind: u8,
    key_len: usize,
    value_len: usize,
}

impl Head {
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        if fields.u8()? != VERSION {
            return None;
        }
        let kind = fields.u8()?;
        let key_len = usize::from(fields.u16()?);
        let value_len = fields.u32()? as usize;
        Some(Self {
            kind,
            key_len,
            value_len,
        })
    }

    fn decode_step<'a>(&self, fields: &mut Fields<'a>) -> Option<Step<'a>> {
        if self.value_len > VALUE_BYTES_MAX {
            return None;
        }
        let key = fields.take(self.key_len)?;
        let value = fields.take(self.value_len)?;
        Some(match self.kind {
            KIND_PUT => Step::Mutation(Mutation::Put { key, value }),
            KIND_APPEND => Step::Mutation(Mutation::Append { key, suffix: value }),
            KIND_DELETE if value.is_empty() => Step::Mutation(Mutation::Delete { key }),
            KIND_EXPECT => Step::Precondition(Precondition {
                key,
                expected: Some(value),
            }),
            KIND_EXPECT_ABSENT if value.is_empty() => Step::Precondition(Precondition {
                key,
                expected: None,
            }),
            _ => return None,
        })
    }
}

fn decode_compare_and_swap<'a>(head: &Head, fields: &mut Fields<'a>) -> Option<Op<'a>> {
    let expected_len = match fields.u32()? {
        ABSENT => None,
        len => Some(len as usize),
    };
    if head.value_len > VALUE_BYTES_MAX || expected_len.is_some_and(|len| len > VALUE_BYTES_MAX) {
        return None;
    }
    let key = fields.take(head.key_len)?;
    let expected = match expected_len {
        Some(len) => Some(fields.take(len)?),
        None => None,
    };
    let new = fields.take(head.value_len)?;
    Some(Op::CompareAndSwap {
        precondition: Precondition { key, expected },
        new,
    })
}

fn decode_steps<'a>(head: &Head, fields: &mut Fields<'a>) -> Option<Vec<Step<'a>>> {
    let bytes = fields.rest().len();
    let steps_max = bytes / HEAD_BYTES;
    if head.key_len > 0 || head.value_len > BATCH_STEPS_MAX.min(steps_max) {
        return None;
    }
    if bytes > BATCH_BYTES_MAX {
        return None;
    }
    (0..head.value_len)
        .map(|_| Head::decode(fields)?.decode_step(fields))
        .collect()
}

fn check_lengths(key: &[u8], value: &[u8]) -> Result<(), TooLarge> {
    TooLarge::check("key bytes", key.len(), KEY_BYTES_MAX)?;
    TooLarge::check("value bytes", value.len(), VALUE_BYTES_MAX)
}

fn push_step(bytes: &mut Vec<u8>, kind: u8, key: &[u8], value: &[u8]) {
    push_head(bytes, kind, key.len(), value.len());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
}

/// `value_len` and `key_len` were checked against their limits.
fn push_head(bytes: &mut Vec<u8>, kind: u8, key_len: usize, value_len: usize) {
    assert!(key_len <= KEY_BYTES_MAX);
    assert!(value_len <= VALUE_BYTES_MAX);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&(key_len as u16).to_le_bytes());
    bytes.extend_from_slice(&(value_len as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn operation(buffer: CommandBuffer) -> Bytes {
        Command::operation(&buffer.seal_plain())
    }

    #[test]
    fn operations_have_the_documented_bytes() {
        let put = operation(CommandBuffer::put(b"key", b"value").unwrap());
        assert_eq!(put, &b"\x01\x01\x03\x00\x05\x00\x00\x00keyvalue"[..]);
        let append = operation(CommandBuffer::append(b"k", b"s").unwrap());
        assert_eq!(append, &b"\x01\x02\x01\x00\x01\x00\x00\x00ks"[..]);
        let delete = operation(CommandBuffer::delete(b"k").unwrap());
        assert_eq!(delete, &b"\x01\x03\x01\x00\x00\x00\x00\x00k"[..]);
        let swap = operation(CommandBuffer::compare_and_swap(b"k", Some(b"old"), b"new!").unwrap());
        assert_eq!(
            swap,
            &b"\x01\x04\x01\x00\x04\x00\x00\x00\x03\x00\x00\x00koldnew!"[..]
        );
        let create = operation(CommandBuffer::compare_and_swap(b"k", None, b"new!").unwrap());
        assert_eq!(
            create,
            &b"\x01\x04\x01\x00\x04\x00\x00\x00\xff\xff\xff\xffknew!"[..]
        );
        let batch = Batch::new()
            .expect(b"a", Some(b"1"))
            .expect(b"b", None)
            .delete(b"a");
        let batch = operation(CommandBuffer::batch(batch).unwrap());
        let mut expected = b"\x01\x05\x00\x00\x03\x00\x00\x00".to_vec();
        expected.extend_from_slice(b"\x01\x06\x01\x00\x01\x00\x00\x00a1");
        expected.extend_from_slice(b"\x01\x07\x01\x00\x00\x00\x00\x00b");
        expected.extend_from_slice(b"\x01\x03\x01\x00\x00\x00\x00\x00a");
        assert_eq!(batch, expected);
    }

    #[test]
    fn encoding_allocates_once() {
        for buffer in [
            CommandBuffer::put(&[1; 40], &[2; 3000]).unwrap(),
            CommandBuffer::delete(&[1; 40]).unwrap(),
            CommandBuffer::compare_and_swap(&[1; 40], Some(&[2; 50]), &[3; 60]).unwrap(),
        ] {
            let mut buffer = buffer;
            assert_eq!(buffer.bytes_mut().capacity(), buffer.len_bytes());
        }
    }

    #[test]
    fn limits_are_exact_and_named() {
        let key = vec![0; KEY_BYTES_MAX + 1];
        let value = vec![0; VALUE_BYTES_MAX + 1];
        let (key_ok, value_ok) = (&key[1..], &value[1..]);
        let key_error = TooLarge {
            what: "key bytes",
            len: KEY_BYTES_MAX + 1,
            limit: KEY_BYTES_MAX,
        };
        let value_error = TooLarge {
            what: "value bytes",
            len: VALUE_BYTES_MAX + 1,
            limit: VALUE_BYTES_MAX,
        };

        let longest = CommandBuffer::compare_and_swap(key_ok, Some(value_ok), value_ok).unwrap();
        assert_eq!(longest.len_bytes(), crate::COMMAND_BYTES_MAX);
        let longest = operation(longest);
        assert!(matches!(
            Op::decode(&longest),
            Some(Op::CompareAndSwap { .. })
        ));

        assert_eq!(CommandBuffer::put(&key, b"").unwrap_err(), key_error);
        assert_eq!(CommandBuffer::append(b"", &value).unwrap_err(), value_error);
        assert_eq!(CommandBuffer::delete(&key).unwrap_err(), key_error);
        let swap = CommandBuffer::compare_and_swap(b"", Some(&value), b"");
        assert_eq!(swap.unwrap_err(), value_error);
        let batch = Batch::new().put(&key, b"").put(b"", &value);
        assert_eq!(
            CommandBuffer::batch(batch).unwrap_err(),
            key_error,
            "the first error is told"
        );
    }

    #[test]
    fn a_batch_is_limited_in_steps_and_bytes() {
        let deletes = |n| (0..n).fold(Batch::new(), |batch, _| batch.delete(b"k"));
        let full = operation(CommandBuffer::batch(deletes(BATCH_STEPS_MAX)).unwrap());
        assert!(
            matches!(Op::decode(&full), Some(Op::Batch(steps)) if steps.len() == BATCH_STEPS_MAX)
        );
        let error = CommandBuffer::batch(deletes(BATCH_STEPS_MAX + 1)).unwrap_err();
        assert_eq!(error.what, "batch steps");

        let half = vec![0; BATCH_BYTES_MAX / 2 - HEAD_BYTES];
        let full = Batch::new().put(b"", &half).put(b"", &half);
        assert!(CommandBuffer::batch(full).is_ok());
        let over = Batch::new().put(b"", &half).put(b"k", &half);
        assert_eq!(CommandBuffer::batch(over).unwrap_err().what, "batch bytes");
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let batch = Batch::new()
            .expect(b"a", Some(b"1"))
            .put(b"b", b"2")
            .append(b"c", b"3");
        for buffer in [
            CommandBuffer::put(b"key", b"value").unwrap(),
            CommandBuffer::delete(b"key").unwrap(),
            CommandBuffer::compare_and_swap(b"key", Some(b"old"), b"new").unwrap(),
            CommandBuffer::batch(batch).unwrap(),
        ] {
            let whole = operation(buffer);
            assert!(Op::decode(&whole).is_some());
            for len in 0..whole.len() {
                assert_eq!(
                    Op::decode(&whole.slice(..len)),
                    None,
                    "cut to {len} of {whole:?}"
                );
            }
            let mut longer = whole.to_vec();
            longer.push(0);
            assert_eq!(Op::decode(&Bytes::from(longer)), None);
        }
    }

    #[test]
    fn expectations_and_batches_stand_where_they_may() {
        let expect = Bytes::from_static(b"\x01\x06\x01\x00\x01\x00\x00\x00a1");
        assert_eq!(Op::decode(&expect), None, "an expectation alone");
        let nested = b"\x01\x05\x00\x00\x01\x00\x00\x00\x01\x05\x00\x00\x00\x00\x00\x00";
        assert_eq!(
            Op::decode(&Bytes::from_static(nested)),
            None,
            "a batch in a batch"
        );
        let lying = Bytes::from_static(b"\x01\x05\x00\x00\xff\xff\xff\xff");
        assert_eq!(Op::decode(&lying), None, "more steps than bytes");
    }
}
