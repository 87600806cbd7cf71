//! What a replica refuses to take from its peers, by name.

use thiserror::Error;

use crate::ids::{LogIndex, NodeId, Term};

/// By how much a message's term may lie above the replica's own. Terms rise by one with each
/// candidacy: even at a thousand candidacies a second, a replica would have to be away for weeks to
/// fall so far behind. Without the bound one forged or damaged message could raise the term to
/// where nobody may stand any more, for good.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 32;

/// The highest term that a replica takes over which has never seen any, and the highest index of a
/// snapshot: far beyond what counting reaches, and far below the end of the numbers.
pub(crate) const FIRST_NUMBER_MAX: u64 = 1 << 62;

/// A message that was refused, and who is named as its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{from}: {reason}")]
pub struct Rejection {
    /// Who sent it, or whoever claims so.
    pub from: NodeId,
    /// Why it was refused.
    pub reason: RejectionReason,
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RejectionReason {
    /// Damaged, misdirected, or from no member.
    #[error("its message makes no sense here")]
    Unsound,
    /// The term is further above this replica's than any that counting leads to.
    #[error("its message is of {term}, but {own} is the latest known here")]
    TermJump {
        /// The term of the message.
        term: Term,
        /// This replica's own.
        own: Term,
    },
    /// An entry of a kind that this version does not accept.
    #[error("its entry at {index} is of kind {kind}, which this version does not accept")]
    EntryKind {
        /// Where the entry stands.
        index: LogIndex,
        /// Its kind.
        kind: u8,
    },
    /// An entry that is larger than any log takes.
    #[error("its entry at {index} has {bytes} bytes; a log takes {bytes_max}")]
    EntryTooLarge {
        /// Where the entry stands.
        index: LogIndex,
        /// The length of its payload.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A snapshot of a group with other members.
    #[error("its snapshot at {index} names other members than this group has")]
    ForeignSnapshot {
        /// What the snapshot covers.
        index: LogIndex,
    },
    /// A second leader in one term.
    #[error("it leads {term}, in which another one leads")]
    SecondLeader {
        /// The term.
        term: Term,
    },
    /// The leader's log contradicts what is committed here.
    #[error(
        "as leader of {term} it contradicts the entries up to {committed}, which are committed \
         here; one of the two nodes lost data or was given forged entries: compare their states, \
         and put the newest directory of the wrong one back, or leave that node out"
    )]
    Contradiction {
        /// The leader's term.
        term: Term,
        /// What is committed here.
        committed: LogIndex,
    },
    /// The leader takes entries for known to be here that are not.
    #[error(
        "as leader of {term} it takes entries up to {commit} for stored here, but the log ends at \
         {last}: this node lost acknowledged entries, or its directory is an older copy"
    )]
    CommitBeyondLog {
        /// The leader's term.
        term: Term,
        /// Up to where the leader believes that entries are here.
        commit: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// A follower claims entries that the leader does not have.
    #[error("it accepts entries up to {accepted}, but the leader's log ends at {last}")]
    AcceptedBeyondLog {
        /// What it claims.
        accepted: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// An answer to a round that was never begun.
    #[error("it answers a round that was never begun")]
    UnknownRound,
}

impl RejectionReason {
    /// Whether this replica cannot follow, or count on, that peer as long as it goes on like this.
    /// What is merely damaged, or repeated by a network, does not.
    #[must_use]
    pub fn is_serious(&self) -> bool {
        !matches!(self, Self::Unsound | Self::UnknownRound)
    }
}

/// How many messages a replica refused since it was made, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that are damaged, misdirected, or from no member.
    pub refused: u64,
    /// Messages whose term is more than `2^32` above the replica's own.
    pub term_jumps: u64,
    /// Appends with an entry of a kind that this version does not accept.
    pub entry_kinds: u64,
    /// Appends with an entry over [`crate::Options::entry_bytes_max`].
    pub entries_too_large: u64,
    /// Snapshots that name other members.
    pub foreign_snapshots: u64,
    /// Messages that a correct peer never sends: a second leader in a term, an append that would
    /// cut committed entries. Anything above zero is a bug or a lost disk somewhere.
    pub violations: u64,
    /// Appends dropped because the disk does not keep up.
    pub backlogged: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, reason: &RejectionReason) {
        let counter = match reason {
            RejectionReason::Unsound => &mut self.refused,
            RejectionReason::TermJump { .. } => &mut self.term_jumps,
            RejectionReason::EntryKind { .. } => &mut self.entry_kinds,
            RejectionReason::EntryTooLarge { .. } => &mut self.entries_too_large,
            RejectionReason::ForeignSnapshot { .. } => &mut self.foreign_snapshots,
            RejectionReason::SecondLeader { .. }
            | RejectionReason::Contradiction { .. }
            | RejectionReason::CommitBeyondLog { .. }
            | RejectionReason::AcceptedBeyondLog { .. }
            | RejectionReason::UnknownRound => &mut self.violations,
        };
        *counter += 1;
    }
}
