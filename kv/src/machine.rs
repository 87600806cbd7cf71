//! What can be replicated: the contract between a state machine and the engine.

use std::io;

use bytes::Bytes;
use thiserror::Error;

use crate::frames;

/// A deterministic state machine.
///
/// The engine applies the same commands at the same indexes on every replica. Everything that
/// a machine does may depend on its state, the index and the command alone: no clock, no
/// randomness, no iteration order of a hash map.
pub trait StateMachine: Default + Send + 'static {
    /// What queries read: immutable, consistent, cheap to clone. Holding one never blocks `apply`,
    /// and what it shows never changes.
    type View: Clone + Send + Sync + 'static;

    /// The whole state at one index, on its way into a snapshot.
    type Image: Image;

    /// Whether this build knows the version of `command`. `false` stops the replica before the
    /// command ([`Outcome::Unsupported`](crate::Outcome::Unsupported)) instead of letting it answer
    /// differently from a newer one. Must depend on the bytes alone. A command that is damaged,
    /// rather than newer, is supported: `apply` answers it with an error.
    fn supports(command: &[u8]) -> bool {
        let _ = command;
        true
    }

    /// Applies the command at log `index` and gives the answer for the client. Total: bytes that
    /// are no command get an answer that says so, on every replica the same. An answer stays far
    /// below 4 GiB.
    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes;

    /// What queries see from now on. Called once after each batch of applied commands.
    fn view(&self) -> Self::View;

    /// Answers a query. Total, like `apply`.
    fn query(view: &Self::View, query: &Bytes) -> Bytes;

    /// Takes the whole state in constant time, or nearly: it is called between two commands.
    fn image(&self) -> Self::Image;

    /// Reads back what an image wrote: the same state, byte for byte the same image. `source` ends
    /// where the image ends, and all of it must be read. Never panics, and reserves no memory for
    /// bytes that do not come.
    fn restore(source: &mut dyn io::Read) -> Result<Self, RestoreError>;
}

/// A state that can be written out, on another thread, while the machine goes on.
pub trait Image: Send + 'static {
    /// Writes the state. Equal states write equal bytes, however they came about, so that
    /// replicas can be compared. Called any number of times.
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()>;
}

/// Why a state could not be restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The source failed.
    #[error("the image cannot be read: {0}; try again, or fetch it from another replica")]
    Io(#[source] io::Error),
    /// The source ended before the image did.
    #[error("the image ends early; fetch it again from another replica")]
    Truncated,
    /// Written by a newer build.
    #[error(
        "the {part} in the image has version {version}, which this build does not know; upgrade"
    )]
    Unsupported {
        /// Which part of the image.
        part: &'static str,
        /// Its version.
        version: u16,
    },
    /// The bytes are no image.
    #[error("the image is damaged: {what}; fetch it again from another replica")]
    Malformed {
        /// What does not hold.
        what: &'static str,
    },
}

impl From<io::Error> for RestoreError {
    /// Only what says nothing more than "the source has ended" is taken for that. An error with a
    /// reason of its own, such as a checksum that does not match, keeps it.
    fn from(error: io::Error) -> Self {
        if frames::is_too_long(&error) {
            return Self::Malformed {
                what: "a frame is longer than any",
            };
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof if !has_reason(&error) => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// Whether whoever made the error gave it more than a kind; `read_exact` gives it a constant text.
fn has_reason(error: &io::Error) -> bool {
    error.get_ref().is_some()
}
