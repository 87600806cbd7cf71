//! What became of a replicated command.

use std::fmt;
use std::num::NonZeroU64;

use bytes::Bytes;

/// A session's identity: the log index at which it was registered, so that every replica gives it
/// the same one. Never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Whose a session is: a number that a client draws once and tells nobody but the cluster. Never
/// zero. Sessions that were registered by command version 1 have no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionOwner(pub NonZeroU64);

impl SessionOwner {
    /// The owner with this number; `None` for zero.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

/// What became of a replicated command. The same on every replica, and the same for a repetition
/// of the command as for its first arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It took effect, now or when it first arrived; the machine's answer. The answer of a command
    /// that does not reach the machine (skip, acknowledge, close) is empty.
    Applied(Bytes),
    /// A session was made.
    Registered(SessionId),
    /// The session is not known (any more). The command had no effect now; if it arrived before the
    /// session expired, it may have had one then.
    SessionExpired,
    /// Commands before this one in its session have not arrived. No effect: send again from
    /// `expected`.
    OutOfOrder {
        /// The sequence number that the session takes next.
        expected: u64,
    },
    /// The client acknowledged the answer earlier, so it is no longer kept. It took effect once,
    /// then.
    AlreadyAcknowledged,
    /// The session keeps as many unacknowledged answers as it may. No effect: acknowledge those
    /// that arrived ([`Command::acknowledge`](crate::Command::acknowledge)), then send again from
    /// this one.
    WindowFull,
    /// The bytes are no command in the layout that their version names. No effect, on any replica.
    Malformed,
    /// The bytes are a command of a version that this build does not know. Nothing was changed
    /// here, but a newer build may have applied it: a replica that goes on past it would differ
    /// from the others, so it must stop applying at this index until it is upgraded.
    Unsupported,
}
