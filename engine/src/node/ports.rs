//! What a shard may call: everything here returns at once.

use std::sync::Arc;

use quorate_kv::StateMachine;
use quorate_raft::{NodeId, Rejection, SnapshotMeta};
use quorate_wal::{GroupId, Log, SnapshotRef};

use super::event::SendFrame;
use super::limits::Limits;
use super::reports::{ReportTicket, Reports};
use super::status::ShardStatus;
use crate::membership::Membership;
use crate::rejected::Rejections;
use crate::transport::{Frame, SnapshotChunk, SnapshotTransfer, Transport};

/// A shard's way out.
pub(crate) struct Ports<M: StateMachine> {
    pub(crate) log: Arc<Log>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) jobs: Arc<dyn Jobs<M>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) rejections: Arc<Rejections>,
    /// To whoever observes the node.
    pub(crate) reports: Reports,
    pub(crate) membership: Arc<Membership>,
    /// What the node's shards know of its health, and of its peers'.
    pub(crate) status: ShardStatus,
}

impl<M: StateMachine> SendFrame for Ports<M> {
    fn send_frame(&self, to: NodeId, frame: Frame) {
        self.transport.send(to, frame);
    }
}

/// Takes work that reads or writes files, or runs code of the user's. The queue is bounded by its users: each group has at
/// most one job of each kind outstanding, the chunks of one transfer by the sender's window, and reports by
/// [`REPORTS_WAITING_MAX`](super::reports::REPORTS_WAITING_MAX).
pub(crate) trait Jobs<M: StateMachine>: Send + Sync {
    /// Hands a job over; its end comes back as [`super::Event::Job`].
    fn submit(&self, job: Job<M>);
}

/// Work that reads or writes files, or runs code of the user's.
pub(crate) enum Job<M: StateMachine> {
    /// Write a snapshot and publish it.
    Save {
        group: GroupId,
        meta: SnapshotMeta,
        id: u64,
        image: quorate_kv::SessionsImage<M>,
    },
    /// Read chunks of a snapshot and send them.
    Send {
        to: NodeId,
        transfer: SnapshotTransfer,
        meta: SnapshotMeta,
        file: SnapshotRef,
        from_bytes: u64,
        until_bytes: u64,
        ticket: TransferTicket,
    },
    /// Store a chunk that arrived; after the last one, verify, publish and restore. The first one begins a file with
    /// this id.
    Receive {
        from: NodeId,
        chunk: SnapshotChunk,
        id: u64,
        ticket: TransferTicket,
    },
    /// Forget a transfer that is not going on, and delete what came of it.
    Abandon { transfer: SnapshotTransfer },
    /// Write down that no lease rests on a longer election timeout any more that this node once announced.
    ForgetPromise { ticket: TransferTicket },
    /// Delete a snapshot.
    Delete { group: GroupId, file: SnapshotRef },
    /// Tell whoever observes the node what a replica refused.
    Report {
        group: GroupId,
        rejection: Rejection,
        ticket: ReportTicket,
    },
}

/// Jobs of one replica that read or write snapshots for other nodes, at most. What comes on top while a disk is stuck is lost, as
/// on a wire, and asked for or sent again: two for each peer of the largest cluster.
pub(crate) const TRANSFER_JOBS_MAX: usize = 32;

/// Counts such jobs: each holds a clone until it is done.
pub(crate) type TransferTicket = Arc<()>;

/// A ticket for one more job; none while there are [`TRANSFER_JOBS_MAX`].
pub(crate) fn transfer_ticket(tickets: &TransferTicket) -> Option<TransferTicket> {
    (Arc::strong_count(tickets) <= TRANSFER_JOBS_MAX).then(|| Arc::clone(tickets))
}

/// How many bytes of a snapshot one chunk carries.
pub(crate) const CHUNK_BYTES: u64 = 256 << 10;

/// How many bytes of a snapshot may be on their way unacknowledged.
pub(crate) const WINDOW_BYTES: u64 = 4 * CHUNK_BYTES;
