//! What the core wants done: the contract between it and its caller.

use crate::error::LogReadError;
use crate::ids::{LogIndex, NodeId, PersistSeq, Term};
use crate::message::{Entry, HardState, Message, SnapshotMeta};

/// How the core reads back entries that it no longer holds in memory.
pub trait LogReader {
    /// The entries from `from` up to `to`, both included, as many as fit into `bytes_max` (counted
    /// by [`Entry::weight_bytes`]) but at least one.
    ///
    /// Only entries that were reported persisted and not cut off are asked for.
    fn entries(
        &mut self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, LogReadError>;
}

/// What is to be done after a batch of inputs. See `docs/raft.md` for the order.
#[derive(Debug, Default)]
pub struct Output {
    /// What to write to the log. Writes must become durable in the order of their `seq`.
    pub persist: Option<Persist>,
    /// Messages to send now; none of them waits for `persist`. Each may be lost.
    pub messages: Vec<Message>,
    /// Restore this snapshot's state before anything else in this output: it is what is applied
    /// now.
    pub install: Option<SnapshotMeta>,
    /// Committed entries to apply, contiguous from the last one applied (or installed). They
    /// count as applied from now on.
    pub committed: Vec<Entry>,
    /// Reads that may be answered from the state as of the end of `committed`.
    pub reads: Vec<ReadReady>,
    /// Reads that this replica can no longer answer because it leads no more.
    pub reads_failed: Vec<u64>,
    /// Peers to which the latest snapshot is to be sent; if there is none yet, one is to be taken.
    /// Each is named once until
    /// [`crate::Raft::on_snapshot_sent`] ends the transfer.
    pub snapshots: Vec<NodeId>,
    /// The role, leader and term, if any of them changed.
    pub soft: Option<Soft>,
    /// An entry could not be read back: what needed it is missing from this output and is tried
    /// again at the next tick.
    pub fault: Option<LogReadError>,
    pub(crate) more: bool,
}

impl Output {
    /// Whether more is committed than this output had room for: ask again at once.
    #[must_use]
    pub fn more(&self) -> bool {
        self.more
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.persist.is_none()
            && self.messages.is_empty()
            && self.install.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.snapshots.is_empty()
            && self.soft.is_none()
            && self.fault.is_none()
    }
}

/// One change to the log and the state beside it, atomic as a whole.
#[derive(Debug)]
pub struct Persist {
    /// Its place in the order of changes; goes to [`crate::Raft::on_persisted`] once durable.
    pub seq: PersistSeq,
    /// First: start the log anew behind this snapshot. The flag says whether the entries that
    /// follow the snapshot on disk stay; if not, the whole old log goes.
    pub install: Option<(SnapshotMeta, bool)>,
    /// Then: the new term, vote and commit index, all three.
    pub hard_state: Option<HardState>,
    /// Last: append these. If the first one's index is not beyond the end of the log on disk, the
    /// log is cut back to before it.
    pub entries: Vec<Entry>,
    /// Whether anything waits for this to be durable. If not, only the commit index moved: the
    /// write may go along with the next one, be replaced by it, or get lost, and need not be
    /// reported.
    pub must_sync: bool,
}

/// A read that was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// What the caller gave to [`crate::Raft::read`].
    pub token: u64,
    /// The commit index at which the read stands; it is applied.
    pub index: LogIndex,
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes entries from a leader.
    #[default]
    Follower,
    /// Asks whether an election could be won (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Makes entries and commits them.
    Leader,
}

/// The state of a replica that survives nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Soft {
    /// Its role.
    pub role: Role,
    /// The leader of its term, if known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: Term,
}
