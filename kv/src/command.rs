//! The envelope of a replicated command: its version, its kind, and its place in a session.
//!
//! Invariants:
//! - A sealed command names a session, a sequence number from 1 on, and an acknowledged floor below
//!   it.
//! - Fields that a kind does not use are zero, so each command has exactly one encoding.
//! - Sealing writes the head into room left for it: key and value are copied once, at encoding.

use bytes::Bytes;
use thiserror::Error;

use crate::codec::Fields;
use crate::map::{KEY_BYTES_MAX, OP_HEAD_BYTES_MAX, VALUE_BYTES_MAX};
use crate::outcome::{SessionId, SessionOwner};

/// The version of the envelope of every command but [`Command::RegisterOwned`].
pub const COMMAND_VERSION: u8 = 1;

/// The version of the envelope of [`Command::RegisterOwned`]. A replica of a build that knows only
/// version 1 stops before it, so it may enter a log only once every member reads it.
pub const OWNED_COMMAND_VERSION: u8 = 2;

/// The length of a command's head; the operation follows it.
pub const COMMAND_HEAD_BYTES: usize = 32;

/// The longest command that the map's encoders make: a compare-and-swap of two values of full
/// length.
pub const COMMAND_BYTES_MAX: usize =
    COMMAND_HEAD_BYTES + OP_HEAD_BYTES_MAX + KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX;

/// A decoded head.
///
/// All integers are little-endian. An operation, whose layout is the machine's own, follows the
/// head of `Apply` and `Plain`; nothing follows the others.
///
/// ```text
/// offset  size  field
///      0     1  version        1; register with an owner: 2
///      1     1  kind           1 register, 2 close, 3 acknowledge, 4 apply, 5 skip, 6 plain
///      2     2  reserved       0
///      4     4  sessions_max   register: at least 1; else 0
///      8     8  session        at least 1; register and plain: 0
///     16     8  sequence       apply and skip: at least 1; version 2: the owner, at least 1; else 0
///     24     8  floor          apply and skip: below sequence; acknowledge: any; else 0
///     32     -  operation      apply and plain: the rest of the command
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Makes a session whose id is the log index of this command. Then, while more than
    /// `sessions_max` exist, the one whose last command is the oldest expires.
    Register {
        /// How many sessions the group keeps.
        sessions_max: u32,
    },
    /// The same, and the session remembers whose it is.
    RegisterOwned {
        /// How many sessions the group keeps.
        sessions_max: u32,
        /// Whose the session is.
        owner: SessionOwner,
    },
    /// Ends a session.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Frees the kept answers up to `floor`, and counts as a sign of life of the session.
    Acknowledge {
        /// Which.
        session: SessionId,
        /// The last sequence number up to which the client has every answer.
        floor: u64,
    },
    /// Applies an operation once, in its place in its session.
    Apply(Position),
    /// Takes a place in a session without effect, so that the next command may follow.
    Skip(Position),
    /// Applies an operation as often as the command is committed, outside any session.
    Plain,
}

/// A command's place in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The session.
    pub session: SessionId,
    /// The number of the command, counted from 1 without gaps.
    pub sequence: u64,
    /// The client has every answer up to this number, so they need not be kept. Below `sequence`.
    pub floor: u64,
}

/// Why bytes are no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Of a version that this build does not know.
    #[error("the command has version {version}, which this build does not know; upgrade this node")]
    Unsupported {
        /// The version that the first byte names.
        version: u8,
    },
    /// Not in the layout of its version.
    #[error("the bytes are no command; encode it with `Command` or `CommandBuffer`")]
    Malformed,
}

/// An argument is over its limit; nothing was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len} {what} are over the limit of {limit}; shorten or split them")]
pub struct TooLarge {
    /// What is counted, in the plural: "key bytes".
    pub what: &'static str,
    /// How many there are.
    pub len: usize,
    /// How many there may be.
    pub limit: usize,
}

impl TooLarge {
    pub(crate) fn check(what: &'static str, len: usize, limit: usize) -> Result<(), Self> {
        if len > limit {
            Err(Self { what, len, limit })
        } else {
            Ok(())
        }
    }
}

const KIND_REGISTER: u8 = 1;
const KIND_CLOSE: u8 = 2;
const KIND_ACKNOWLEDGE: u8 = 3;
const KIND_APPLY: u8 = 4;
const KIND_SKIP: u8 = 5;
const KIND_PLAIN: u8 = 6;

impl Command {
    /// The command that makes a session.
    ///
    /// # Panics
    ///
    /// If `sessions_max` is zero.
    pub fn register(sessions_max: u32) -> Bytes {
        Self::Register { sessions_max }.encode()
    }

    /// The command that makes a session with an owner.
    ///
    /// # Panics
    ///
    /// If `sessions_max` is zero.
    pub fn register_owned(sessions_max: u32, owner: SessionOwner) -> Bytes {
        Self::RegisterOwned {
            sessions_max,
            owner,
        }
        .encode()
    }

    /// The command that ends a session.
    ///
    /// # Panics
    ///
    /// If `session` is zero.
    pub fn close(session: SessionId) -> Bytes {
        Self::Close { session }.encode()
    }

    /// The command that frees the answers up to `floor` and keeps the session alive.
    ///
    /// # Panics
    ///
    /// If `session` is zero.
    pub fn acknowledge(session: SessionId, floor: u64) -> Bytes {
        Self::Acknowledge { session, floor }.encode()
    }

    /// The command that takes a sequence number without effect, in place of one that was withdrawn.
    ///
    /// # Panics
    ///
    /// If the session or the sequence number is zero, or `floor` is not below `sequence`.
    pub fn skip(session: SessionId, sequence: u64, floor: u64) -> Bytes {
        Self::Skip(Position {
            session,
            sequence,
            floor,
        })
        .encode()
    }

    /// Reads a command's head. The operation, if its kind has one, is [`Self::operation`].
    pub fn decode(command: &[u8]) -> Result<Self, CommandError> {
        match command.first() {
            Some(&COMMAND_VERSION) => {}
            // A kind that a later build adds to version 2 stops this one, as a new version does.
            Some(&OWNED_COMMAND_VERSION)
                if matches!(command.get(1), None | Some(&KIND_REGISTER)) => {}
            Some(&version) => return Err(CommandError::Unsupported { version }),
            None => return Err(CommandError::Malformed),
        }
        let (decoded, rest) = Self::decode_fields(command).ok_or(CommandError::Malformed)?;
        if !decoded.is_valid() || (!decoded.has_operation() && !rest.is_empty()) {
            return Err(CommandError::Malformed);
        }
        Ok(decoded)
    }

    /// The operation inside a command; shares its memory. Empty if the command has none.
    pub fn operation(command: &Bytes) -> Bytes {
        command.slice(COMMAND_HEAD_BYTES.min(command.len())..)
    }

    /// Whether an operation for the machine follows the head.
    pub fn has_operation(&self) -> bool {
        matches!(self, Self::Apply(_) | Self::Plain)
    }

    fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&self.head())
    }

    fn head(self) -> [u8; COMMAND_HEAD_BYTES] {
        assert!(self.is_valid(), "{self:?} is no valid command");
        let (kind, sessions_max, session, sequence, floor) = match self {
            Self::Register { sessions_max } => (KIND_REGISTER, sessions_max, SessionId(0), 0, 0),
            Self::RegisterOwned {
                sessions_max,
                owner,
            } => (KIND_REGISTER, sessions_max, SessionId(0), owner.0.get(), 0),
            Self::Close { session } => (KIND_CLOSE, 0, session, 0, 0),
            Self::Acknowledge { session, floor } => (KIND_ACKNOWLEDGE, 0, session, 0, floor),
            Self::Apply(at) => (KIND_APPLY, 0, at.session, at.sequence, at.floor),
            Self::Skip(at) => (KIND_SKIP, 0, at.session, at.sequence, at.floor),
            Self::Plain => (KIND_PLAIN, 0, SessionId(0), 0, 0),
        };
        let mut head = [0; COMMAND_HEAD_BYTES];
        head[0] = match self {
            Self::RegisterOwned { .. } => OWNED_COMMAND_VERSION,
            _ => COMMAND_VERSION,
        };
        head[1] = kind;
        head[4..8].copy_from_slice(&sessions_max.to_le_bytes());
        head[8..16].copy_from_slice(&session.0.to_le_bytes());
        head[16..24].copy_from_slice(&sequence.to_le_bytes());
        head[24..32].copy_from_slice(&floor.to_le_bytes());
        head
    }

    /// The head's fields, the unused ones checked to be zero, and what follows it.
    fn decode_fields(command: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = Fields::new(command);
        let [version, kind] = [fields.u8()?, fields.u8()?];
        let reserved = fields.u16()?;
        let sessions_max = fields.u32()?;
        let session = SessionId(fields.u64()?);
        let [sequence, floor] = [fields.u64()?, fields.u64()?];
        let position = Position {
            session,
            sequence,
            floor,
        };
        let decoded = match kind {
            KIND_REGISTER if version == OWNED_COMMAND_VERSION => Self::RegisterOwned {
                sessions_max,
                owner: SessionOwner::new(sequence)?,
            },
            KIND_REGISTER => Self::Register { sessions_max },
            KIND_CLOSE => Self::Close { session },
            KIND_ACKNOWLEDGE => Self::Acknowledge { session, floor },
            KIND_APPLY => Self::Apply(position),
            KIND_SKIP => Self::Skip(position),
            KIND_PLAIN => Self::Plain,
            _ => return None,
        };
        let unused = match decoded {
            Self::Register { .. } => session.0 | sequence | floor,
            Self::RegisterOwned { .. } => session.0 | floor,
            Self::Close { .. } => u64::from(sessions_max) | sequence | floor,
            Self::Acknowledge { .. } => u64::from(sessions_max) | sequence,
            Self::Apply(_) | Self::Skip(_) => u64::from(sessions_max),
            Self::Plain => u64::from(sessions_max) | session.0 | sequence | floor,
        };
        (reserved == 0 && unused == 0).then_some((decoded, fields.rest()))
    }

    /// Checked before a head is written and after it was read.
    fn is_valid(&self) -> bool {
        match *self {
            Self::Register { sessions_max } | Self::RegisterOwned { sessions_max, .. } => {
                sessions_max > 0
            }
            Self::Close { session } | Self::Acknowledge { session, .. } => session.0 > 0,
            Self::Apply(at) | Self::Skip(at) => {
                at.session.0 > 0 && at.sequence > 0 && at.floor < at.sequence
            }
            Self::Plain => true,
        }
    }
}

/// An operation in its final place in memory, with room before it for the head.
///
/// The place in the session is known only once the session's lock is held; the bytes are copied
/// before that. Encoders of the map's operations: [`CommandBuffer::put`] and the ones beside it.
#[derive(Debug)]
pub struct CommandBuffer {
    bytes: Vec<u8>,
}

impl CommandBuffer {
    /// Room for a head, then a copy of an operation in the machine's own encoding.
    pub fn new(operation: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(operation.len());
        buffer.bytes.extend_from_slice(operation);
        buffer
    }

    /// The length that the sealed command will have.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the head in front of the operation. Copies nothing.
    ///
    /// # Panics
    ///
    /// If the session or the sequence number is zero, or `floor` is not below `sequence`.
    pub fn seal(self, session: SessionId, sequence: u64, floor: u64) -> Bytes {
        self.seal_as(Command::Apply(Position {
            session,
            sequence,
            floor,
        }))
    }

    /// Makes it a command outside any session: one that is sent again may be applied again.
    pub fn seal_plain(self) -> Bytes {
        self.seal_as(Command::Plain)
    }

    /// Room for a head, and capacity for exactly `operation_bytes` behind it.
    pub(crate) fn with_capacity(operation_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(COMMAND_HEAD_BYTES + operation_bytes);
        bytes.resize(COMMAND_HEAD_BYTES, 0);
        Self { bytes }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn seal_as(mut self, command: Command) -> Bytes {
        assert!(command.has_operation());
        self.bytes[..COMMAND_HEAD_BYTES].copy_from_slice(&command.head());
        Bytes::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: SessionOwner = SessionOwner::new(0x0506).unwrap();

    const POSITION: Position = Position {
        session: SessionId(0x0102),
        sequence: 0x0304,
        floor: 5,
    };

    #[test]
    fn a_sealed_command_has_the_documented_bytes() {
        let sealed = CommandBuffer::new(b"op").seal(SessionId(0x0102), 0x0304, 5);
        let mut expected = vec![1, 4, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[4, 3, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(b"op");
        assert_eq!(sealed, expected);
        assert_eq!(Command::decode(&sealed), Ok(Command::Apply(POSITION)));
        assert_eq!(Command::operation(&sealed), "op");
    }

    #[test]
    fn every_kind_decodes_to_what_was_encoded() {
        let session = SessionId(7);
        for (bytes, command) in [
            (Command::register(3), Command::Register { sessions_max: 3 }),
            (
                Command::register_owned(3, OWNER),
                Command::RegisterOwned {
                    sessions_max: 3,
                    owner: OWNER,
                },
            ),
            (Command::close(session), Command::Close { session }),
            (
                Command::acknowledge(session, 9),
                Command::Acknowledge { session, floor: 9 },
            ),
            (
                Command::skip(SessionId(0x0102), 0x0304, 5),
                Command::Skip(POSITION),
            ),
            (CommandBuffer::new(b"").seal_plain(), Command::Plain),
        ] {
            assert_eq!(bytes.len(), COMMAND_HEAD_BYTES);
            assert_eq!(Command::decode(&bytes), Ok(command));
        }
    }

    #[test]
    fn sealing_copies_nothing() {
        let buffer = CommandBuffer::put(b"key", &[7; 5000]).unwrap();
        let before = buffer.bytes.as_ptr();
        let sealed = buffer.seal(SessionId(1), 1, 0);
        assert_eq!(sealed.as_ptr(), before);
        let operation = Command::operation(&sealed);
        assert_eq!(operation.as_ptr(), sealed[COMMAND_HEAD_BYTES..].as_ptr());
    }

    #[test]
    fn unknown_versions_are_told_from_damage() {
        let sealed = CommandBuffer::new(b"op").seal(SessionId(1), 1, 0);
        let is_known = |version: &u8| [COMMAND_VERSION, OWNED_COMMAND_VERSION].contains(version);
        for version in (0..=u8::MAX).filter(|version| !is_known(version)) {
            let mut other = sealed.to_vec();
            other[0] = version;
            assert_eq!(
                Command::decode(&other),
                Err(CommandError::Unsupported { version })
            );
        }
        assert_eq!(Command::decode(b""), Err(CommandError::Malformed));
    }

    #[test]
    fn version_2_is_a_register_with_an_owner_and_nothing_else() {
        let owned = Command::register_owned(3, OWNER);
        let mut expected = vec![2, 1, 0, 0, 3, 0, 0, 0];
        expected.extend_from_slice(&[0; 8]);
        expected.extend_from_slice(&[6, 5, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0; 8]);
        assert_eq!(owned, expected);
        for (name, offset, value) in [
            ("no owner", 16, [0, 0]),
            ("no bound", 4, [0, 0]),
            ("a session", 8, [1, 0]),
            ("a floor", 24, [1, 0]),
        ] {
            let mut broken = owned.to_vec();
            broken[offset..offset + 2].copy_from_slice(&value);
            let decoded = Command::decode(&broken);
            assert_eq!(decoded, Err(CommandError::Malformed), "{name}");
        }
        for kind in (0..=u8::MAX).filter(|kind| *kind != KIND_REGISTER) {
            let mut later = owned.to_vec();
            later[1] = kind;
            let decoded = Command::decode(&later);
            assert_eq!(decoded, Err(CommandError::Unsupported { version: 2 }));
        }
    }

    #[test]
    fn fields_that_break_a_rule_are_malformed() {
        let session = SessionId(1);
        let apply = CommandBuffer::new(b"").seal(session, 5, 4);
        let cases: [(&str, Bytes, usize, u8); 15] = [
            ("kind zero", apply.clone(), 1, 0),
            ("kind unknown", apply.clone(), 1, 7),
            ("reserved", apply.clone(), 3, 1),
            ("apply with sessions_max", apply.clone(), 4, 1),
            ("apply without session", apply.clone(), 8, 0),
            ("apply without sequence", apply.clone(), 16, 0),
            ("floor at sequence", apply, 24, 5),
            ("register nothing", Command::register(1), 4, 0),
            ("register with session", Command::register(1), 8, 1),
            ("close without session", Command::close(session), 8, 0),
            ("close with sequence", Command::close(session), 16, 1),
            ("close with floor", Command::close(session), 24, 1),
            (
                "acknowledge with sequence",
                Command::acknowledge(session, 1),
                16,
                1,
            ),
            (
                "acknowledge without session",
                Command::acknowledge(session, 1),
                8,
                0,
            ),
            (
                "plain with session",
                CommandBuffer::new(b"").seal_plain(),
                8,
                1,
            ),
        ];
        for (name, bytes, offset, value) in cases {
            assert!(Command::decode(&bytes).is_ok(), "{name}");
            let mut broken = bytes.to_vec();
            broken[offset] = value;
            assert_eq!(
                Command::decode(&broken),
                Err(CommandError::Malformed),
                "{name}"
            );
        }
        let mut longer = Command::close(session).to_vec();
        longer.push(0);
        assert_eq!(Command::decode(&longer), Err(CommandError::Malformed));
        for len in 1..COMMAND_HEAD_BYTES {
            assert_eq!(
                Command::decode(&longer[..len]),
                Err(CommandError::Malformed),
                "{len}"
            );
        }
    }
}
