//! What a replica does, for judges who follow it step by step.

use quorate_kv::Outcome;
use quorate_raft::{Entry, LogIndex, Term};

use crate::transport::RequestId;

/// Something that a replica did in a pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// It gave entries to its log. What stood at their places, and behind them, is cut off.
    Wrote(Vec<Entry>),
    /// It took a leader's snapshot over, state and all.
    Installed {
        /// The last entry that the snapshot covers.
        index: LogIndex,
        /// That entry's term.
        term: Term,
        /// Whether the entries behind the snapshot stay in the log.
        keeps_suffix: bool,
    },
    /// It named a snapshot of its own in its log, and cut the log behind it.
    Saved {
        /// The last entry that the snapshot covers.
        index: LogIndex,
        /// That entry's term.
        term: Term,
        /// Where the log begins from now on.
        first_index: LogIndex,
    },
    /// It applied a committed entry.
    Applied {
        /// The entry.
        entry: Entry,
        /// What became of it.
        outcome: Outcome,
    },
    /// It answered a proposal of its own with what became of it, or refused one as out of turn.
    Acknowledged {
        /// The request.
        id: RequestId,
        /// Where the command stands in the log; of one that is out of turn, what that is judged by.
        index: LogIndex,
    },
    /// It answered a linearizable read.
    Read {
        /// The request.
        id: RequestId,
        /// The answer includes everything up to here, and had to.
        index: LogIndex,
        /// Nobody was asked: its lease was enough.
        by_lease: bool,
    },
}
