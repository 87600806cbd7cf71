//! Exactly-once, in order, around any state machine (thesis section 6.3).
//!
//! Invariants:
//! - Log indexes only grow; a session's id is the index at which it was registered.
//! - A session's commands take effect in the order of their sequence numbers, each once.
//! - The answers kept are those above the acknowledged floor, up to the last sequence number.
//! - Everything here is decided by log entries alone: replicas never differ, and no read or clock
//!   matters.
//! - Machine, sessions and index are one image: a restored replica knows as many retries as the one
//!   that wrote it.

mod image;
mod table;
mod window;

use std::io;

use bytes::Bytes;

use self::table::{Session, SessionMap, Table};
use crate::command::{Command, CommandError, Position};
use crate::digest::Digest;
use crate::machine::{Image, RestoreError, StateMachine};
use crate::mutants;
use crate::outcome::{Outcome, SessionId, SessionOwner};

pub use self::image::SessionsImage;

/// How many answers a session keeps. A client has at most as many commands on their way; one more
/// is refused with [`Outcome::WindowFull`].
pub const SESSION_WINDOW_MAX: u64 = 8192;

/// How many bytes of answers a session keeps before it refuses commands with
/// [`Outcome::WindowFull`]. The last answer may exceed it, since its length is known only after the
/// command took effect.
pub const SESSION_WINDOW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A state machine and the sessions of its clients: what a replica holds.
#[derive(Debug, Default)]
pub struct Sessions<M> {
    machine: M,
    table: Table,
    last_index: u64,
}

impl<M: StateMachine> Sessions<M> {
    /// The head of a command that `apply` would take: a leader asks before it enters a command into
    /// the log, so that one that is damaged, or from a newer client, stops no replica.
    ///
    /// The last sequence number of all counts as damage, since none can follow it. Only here: what
    /// is in a log has to mean on every replica, of whatever build, what it meant to the first one.
    pub fn check(command: &Bytes) -> Result<Command, CommandError> {
        match Self::decode(command)?.0 {
            Command::Apply(position) | Command::Skip(position) if position.sequence == u64::MAX => {
                Err(CommandError::Malformed)
            }
            command => Ok(command),
        }
    }

    /// Applies the committed command at log `index`.
    ///
    /// After [`Outcome::Unsupported`] nothing has changed, and the replica must not apply what
    /// follows.
    ///
    /// # Panics
    ///
    /// If `index` is not above the last one applied.
    pub fn apply(&mut self, index: u64, command: &Bytes) -> Outcome {
        assert!(
            index > self.last_index,
            "index {index} was applied before: the last one is {}",
            self.last_index
        );
        let (decoded, operation) = match Self::decode(command) {
            Ok(decoded) => decoded,
            Err(CommandError::Unsupported { .. }) => return Outcome::Unsupported,
            Err(CommandError::Malformed) => {
                self.last_index = index;
                return Outcome::Malformed;
            }
        };
        self.last_index = index;
        match decoded {
            Command::Register { sessions_max } => {
                Outcome::Registered(self.table.register(index, sessions_max, None))
            }
            Command::RegisterOwned {
                sessions_max,
                owner,
            } => Outcome::Registered(self.table.register(index, sessions_max, Some(owner))),
            Command::Close { session } if self.table.close(session) => {
                Outcome::Applied(Bytes::new())
            }
            Command::Close { .. } => Outcome::SessionExpired,
            Command::Acknowledge { session, floor } => self.acknowledge(index, session, floor),
            Command::Apply(position) => {
                self.once(position, index, |machine| machine.apply(index, &operation))
            }
            Command::Skip(position) => self.once(position, index, |_| Bytes::new()),
            Command::Plain => Outcome::Applied(self.machine.apply(index, &operation)),
        }
    }

    /// What queries see: the machine's state after the last command applied.
    pub fn view(&self) -> M::View {
        self.machine.view()
    }

    /// The whole state, taken in nearly constant time, to be written on another thread.
    pub fn image(&self) -> SessionsImage<M> {
        SessionsImage::new(
            self.last_index,
            if mutants::SNAPSHOT_WITHOUT_SESSIONS {
                SessionMap::new()
            } else {
                self.table.sessions().clone()
            },
            self.machine.image(),
        )
    }

    /// Reads back what an image wrote. All of `source` must be the image.
    ///
    /// The caller knows at which index the image was taken; it must refuse a state whose
    /// [`last_index`](Self::last_index) is above it.
    pub fn restore(source: &mut dyn io::Read) -> Result<Self, RestoreError> {
        image::restore(source)
    }

    /// The machine inside.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.table.sessions().len()
    }

    /// The last command of a session that took effect; zero before the first, `None` if there is no such
    /// session.
    pub fn last_sequence(&self, session: SessionId) -> Option<u64> {
        self.table.sessions().get(&session).map(|it| it.last())
    }

    /// Whose a session is; `None` if there is no such session, or if it was registered without an
    /// owner.
    pub fn owner(&self, session: SessionId) -> Option<SessionOwner> {
        self.table.sessions().get(&session)?.owner()
    }

    /// The index of the last command applied; zero before the first.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// A digest of everything that an image would hold: equal on all replicas that have applied the
    /// same commands. Takes time in proportion to the state.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        self.image()
            .write_to(&mut digest)
            .expect("a digest takes every write");
        digest.finish()
    }

    /// The command's head and operation, if this build knows the versions of both.
    fn decode(command: &Bytes) -> Result<(Command, Bytes), CommandError> {
        let decoded = Command::decode(command)?;
        let operation = Command::operation(command);
        if decoded.has_operation() && !M::supports(&operation) {
            let version = operation.first().copied().unwrap_or_default();
            return Err(CommandError::Unsupported { version });
        }
        Ok((decoded, operation))
    }

    fn acknowledge(&mut self, index: u64, session: SessionId, floor: u64) -> Outcome {
        let Some(session) = self.table.touch(session, index) else {
            return Outcome::SessionExpired;
        };
        if floor > session.last() {
            return Outcome::OutOfOrder {
                expected: session.last() + 1,
            };
        }
        session.acknowledge(floor);
        Outcome::Applied(Bytes::new())
    }

    /// Runs `effect` if this is the next command of its session, and keeps the answer.
    fn once(
        &mut self,
        position: Position,
        index: u64,
        effect: impl FnOnce(&mut M) -> Bytes,
    ) -> Outcome {
        assert!(position.floor < position.sequence);
        let Some(session) = self.table.touch(position.session, index) else {
            if mutants::EXPIRED_SESSION_EXECUTES {
                return Outcome::Applied(effect(&mut self.machine));
            }
            return Outcome::SessionExpired;
        };
        let sequence = position.sequence;
        // A correct client never has answers to commands that did not arrive; the floor of any
        // other one must not free what it may ask for.
        session.acknowledge(position.floor.min(session.last()));
        if mutants::FREES_UNACKNOWLEDGED_ANSWERS {
            session.acknowledge(session.last());
        }
        if sequence <= session.last() && mutants::RETRY_EXECUTES {
            return Outcome::Applied(effect(&mut self.machine));
        }
        if sequence <= session.last() {
            return match session.answer(sequence) {
                Some(answer) => Outcome::Applied(answer),
                None => Outcome::AlreadyAcknowledged,
            };
        }
        if sequence - 1 > session.last() {
            return Outcome::OutOfOrder {
                expected: session.last() + 1,
            };
        }
        if is_full(session) {
            return Outcome::WindowFull;
        }
        let answer = effect(&mut self.machine);
        session.record(&answer);
        assert_eq!(session.last(), sequence);
        Outcome::Applied(answer)
    }
}

fn is_full(session: &Session) -> bool {
    session.kept() >= SESSION_WINDOW_MAX || session.kept_bytes() >= SESSION_WINDOW_BYTES_MAX
}
