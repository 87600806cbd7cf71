//! What became of a replicated command.

use bytes::Bytes;

/// A session's identity: the log index at which it was registered, so that every replica gives it the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What became of a replicated command. The same on every replica, and the same for a repetition
/// of the command as for its first arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It took effect, now or when it first arrived; the machine's answer.
    Applied(Bytes),
    /// A session was made.
    Registered(SessionId),
    /// The session is not known (any more). The command had no effect now; if it arrived before the
    /// session expired, it may have had one then.
    SessionExpired,
    /// Commands before this one in its session have not arrived. No effect: send again from `expected`.
    OutOfOrder {
        /// The sequence number that the session takes next.
        expected: u64,
    },
    /// The client acknowledged the answer earlier, so it is no longer kept. It took effect once, then.
    AlreadyAcknowledged,
    /// The bytes are no command of a version known here. No effect.
    Unsupported,
}
