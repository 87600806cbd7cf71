//! What can go wrong, one type for each call.

use thiserror::Error;

use crate::ids::{LogIndex, NodeId, Term};

/// Why options were refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// An option that must be above zero is zero.
    #[error("{option} must be above zero")]
    Zero {
        /// Its name.
        option: &'static str,
    },
    /// The election timeout is beyond the longest timer.
    #[error("election_timeout_ns must be at most {limit_ns}")]
    ElectionTimeoutTooLong {
        /// The longest one.
        limit_ns: u64,
    },
    /// Too few heartbeats fit into an election timeout.
    #[error(
        "heartbeat_interval_ns ({heartbeat_interval_ns}) must be at most a third of \
         election_timeout_ns ({election_timeout_ns})"
    )]
    HeartbeatTooRare {
        /// The interval given.
        heartbeat_interval_ns: u64,
        /// The timeout given.
        election_timeout_ns: u64,
    },
    /// The allowed clock drift makes no sense.
    #[error("lease_drift_percent must be between 1 and 90, but is {percent}")]
    DriftOutOfRange {
        /// The value given.
        percent: u8,
    },
}

/// Why a replica could not be made from what its disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The options are wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The members are not a sorted list of one to [`crate::VOTERS_MAX`] distinct nodes.
    #[error(
        "the voters must be 1 to {max} distinct nodes in ascending order",
        max = crate::VOTERS_MAX
    )]
    BadConfig,
    /// A number is beyond what the protocol counts up to.
    #[error("a term or index is beyond any that can be reached; the state is damaged")]
    OutOfRange,
    /// The committed part of the log is not all there.
    #[error(
        "the log ends at {last}, before {commit} which was committed; \
         restore this replica from its peers"
    )]
    CommitBeyondLog {
        /// The durable commit index.
        commit: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// The log ends before the snapshot does.
    #[error(
        "the log ends at {last}, before the snapshot at {snapshot}; \
         restart the log behind the snapshot"
    )]
    LogEndsBeforeSnapshot {
        /// What the snapshot covers.
        snapshot: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// Entries between the snapshot and the log are missing.
    #[error(
        "the log begins at {first}, but the snapshot ends at {snapshot}; \
         the entries between are missing"
    )]
    Gap {
        /// What the snapshot covers.
        snapshot: LogIndex,
        /// Where the log begins.
        first: LogIndex,
    },
    /// The terms of the entries are incomplete, out of order, or contradict the snapshot.
    #[error("the terms of the log's entries are inconsistent at {index}")]
    BadTerms {
        /// Where.
        index: LogIndex,
    },
    /// The log has entries of a later term than the replica has seen.
    #[error(
        "the log ends with an entry of {entry}, but the durable term is {term}; \
         the state is damaged"
    )]
    TermBehindLog {
        /// The durable term.
        term: Term,
        /// The last entry's.
        entry: Term,
    },
}

/// Why a proposal was refused. Nothing entered the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This replica does not lead.
    #[error("not the leader; ask {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too many bytes wait to be committed.
    #[error("too many uncommitted bytes; try again when some are committed")]
    Busy,
    /// Leadership is being handed over.
    #[error("leadership is being transferred; try again in a moment")]
    Transferring,
}

/// Why a read was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// This replica does not lead.
    #[error("not the leader; ask {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too many reads wait for their confirmation.
    #[error("too many reads wait; try again when some are answered")]
    Busy,
}

/// Why leadership could not be handed over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This replica does not lead.
    #[error("not the leader; ask {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Another transfer is under way.
    #[error("leadership is already being transferred to {to}; wait until that ends")]
    InProgress {
        /// To whom.
        to: NodeId,
    },
    /// The target is no other voter of the group.
    #[error("{to} cannot take over; name another voter of the group")]
    NotAVoter {
        /// Who was named.
        to: NodeId,
    },
    /// No other voter has been heard from lately.
    #[error("no other voter answers; try again when one does")]
    NobodyThere,
}

/// Why entries could not be read back from the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the log cannot be read: {reason}")]
pub struct LogReadError {
    reason: String,
}

impl LogReadError {
    /// An error with its reason, in words.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}
