//! Entries and messages: plain data, with no encoding of their own. Transports decide how they
//! travel.

use bytes::Bytes;

use crate::ids::{LogIndex, NodeId, Round, Term};

/// One entry of a replicated log. Cloning shares the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub index: LogIndex,
    /// The term of the leader that made it.
    pub term: Term,
    /// What the payload means.
    pub kind: EntryKind,
    /// The payload.
    pub data: Bytes,
}

impl Entry {
    /// What this entry counts for in byte windows: payload and fixed cost of carrying it.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.data.len() + Self::OVERHEAD_BYTES
    }

    /// The fixed cost that byte windows charge for each entry.
    pub const OVERHEAD_BYTES: usize = 32;
}

/// What an entry's payload means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry, through which it commits what it inherited (section
    /// 5.4.2).
    Noop = 0,
    /// A command for the state machine.
    Command = 1,
    /// A change of configuration. Reserved: replicas refuse to apply what they do not know.
    Config = 2,
}

impl EntryKind {
    /// The kind that a byte from disk or network names, if any.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Noop),
            1 => Some(Self::Command),
            2 => Some(Self::Config),
            _ => None,
        }
    }
}

/// What must survive a crash beside the entries (thesis figure 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term.
    pub vote: Option<NodeId>,
    /// An index known to be committed. A hint: losing its newest value loses nothing.
    pub commit: LogIndex,
}

/// The members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Who votes; sorted, without duplicates.
    pub voters: Vec<NodeId>,
}

/// Where in the log a snapshot of the state machine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry it covers.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The members as of that entry.
    pub config: Config,
}

/// A message between two replicas of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub from: NodeId,
    /// Who is meant.
    pub to: NodeId,
    /// The sender's term; for [`Body::PreVote`] and its granted reply the term the candidate would
    /// begin.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a [`Message`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" (thesis 9.6). Changes no term and no vote.
    PreVote {
        /// The candidate's last entry.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
    },
    /// The answer to [`Body::PreVote`].
    PreVoteReply {
        /// Whether the sender would vote for the receiver.
        granted: bool,
    },
    /// "Vote for me."
    Vote {
        /// The candidate's last entry.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
        /// The old leader asked for this election, so voters do not wait out its heartbeats (thesis
        /// 3.10).
        transfer: bool,
    },
    /// The answer to [`Body::Vote`]; a granted one leaves only once the vote is durable.
    VoteReply {
        /// Whether the sender voted for the receiver.
        granted: bool,
    },
    /// Entries that follow `(prev_index, prev_term)`; may be empty, to probe.
    Append {
        /// The entry before the first one carried.
        prev_index: LogIndex,
        /// Its term.
        prev_term: Term,
        /// The leader's commit index.
        commit: LogIndex,
        /// The leader's newest confirmation round.
        round: Round,
        /// The entries, contiguous from `prev_index + 1`.
        entries: Vec<Entry>,
    },
    /// "Everything up to `match_index` is on my disk and equals yours." Leaves only once that is
    /// true.
    AppendAccepted {
        /// The last entry known to match.
        match_index: LogIndex,
        /// The round of the append answered.
        round: Round,
    },
    /// "I do not have `(prev_index, prev_term)`."
    AppendRejected {
        /// The `prev_index` refused: tells an answer to the latest probe from an old one.
        prev_index: LogIndex,
        /// The highest index at which the logs may still agree.
        hint_index: LogIndex,
        /// The term of the sender's entry there, so that a whole term is skipped at once (section
        /// 5.3).
        hint_term: Term,
        /// The round of the append answered.
        round: Round,
    },
    /// The leader lives; also confirms reads and renews the lease.
    Heartbeat {
        /// The leader's commit index, no further than what the receiver is known to hold.
        commit: LogIndex,
        /// The leader's newest confirmation round.
        round: Round,
    },
    /// The answer to [`Body::Heartbeat`]; waits for no disk.
    HeartbeatReply {
        /// The round it answers.
        round: Round,
    },
    /// A snapshot has arrived whole and verified at the receiver, which hands this to its own core
    /// under the sender's name and term. Never sent between nodes: chunks are.
    SnapshotReceived {
        /// What the snapshot covers.
        meta: SnapshotMeta,
    },
    /// "Begin an election now" (thesis 3.10).
    TimeoutNow,
}

impl Body {
    /// Whether the sender waits for an answer; all others are answers.
    pub fn wants_answer(&self) -> bool {
        match self {
            Self::PreVote { .. }
            | Self::Vote { .. }
            | Self::Append { .. }
            | Self::Heartbeat { .. }
            | Self::TimeoutNow => true,
            Self::PreVoteReply { .. }
            | Self::VoteReply { .. }
            | Self::AppendAccepted { .. }
            | Self::AppendRejected { .. }
            | Self::HeartbeatReply { .. }
            | Self::SnapshotReceived { .. } => false,
        }
    }
}
