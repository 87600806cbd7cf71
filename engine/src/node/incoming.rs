//! A leader's snapshot on its way in: which chunks are taken, and when a transfer is given up.
//!
//! Invariants:
//! - Nothing is stored of a snapshot that could not be installed: of other members, of a term that cannot be, longer than
//!   this node takes, or of no use.
//! - One transfer comes in at a time. It makes way only for its sender's next attempt or a later leader, and is given up
//!   when it makes no progress, or too little; what was stored of it is deleted at once.

use quorate_kv::StateMachine;
use quorate_raft::{NodeId, Term};

use super::install::SEND_TRIES_MAX;
use super::ports::{Job, Ports, transfer_ticket};
use super::replica::Replica;
use super::shard::submit_job;
use crate::mutants;
use crate::transport::{Frame, SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer};

/// A transfer that is coming in.
pub(super) struct Incoming {
    from: NodeId,
    pub(super) transfer: SnapshotTransfer,
    total_bytes: u64,
    /// The end of what came without a gap.
    reached_bytes: u64,
    begun_at_ns: u64,
    /// When it is given up, unless more comes before.
    pub(super) give_up_at_ns: u64,
}

/// A transfer that brings nothing new for as long as its sender tries at most, and once more, is given up.
const SILENT_TIMEOUTS_MAX: u64 = SEND_TRIES_MAX as u64 + 1;

/// A transfer that is slower than this on the whole is given up: whoever sends a byte now and then must not occupy a
/// replica, and its disk, for ever.
const INCOMING_BYTES_PER_S_MIN: u64 = 16 << 10;

impl Incoming {
    /// Notes that a chunk came, and until when the next one has to.
    fn note_chunk(&mut self, now_ns: u64, chunk: &SnapshotChunk, timeout_ns: u64) {
        let end_bytes = chunk.offset_bytes.saturating_add(chunk.data.len() as u64);
        if chunk.offset_bytes > self.reached_bytes || end_bytes <= self.reached_bytes {
            return;
        }
        self.reached_bytes = end_bytes;
        let silent_ns = timeout_ns.saturating_mul(SILENT_TIMEOUTS_MAX);
        let slowest_ns =
            self.reached_bytes.saturating_mul(1_000_000_000) / INCOMING_BYTES_PER_S_MIN;
        let latest_ns = self
            .begun_at_ns
            .saturating_add(silent_ns)
            .saturating_add(slowest_ns);
        self.give_up_at_ns = now_ns.saturating_add(silent_ns).min(latest_ns);
    }

    /// Whether a transfer that begins takes the place of this one: the sender's next attempt, or one of a later leader.
    fn gives_way_to(&self, from: NodeId, transfer: SnapshotTransfer, present: Term) -> bool {
        let is_next = from == self.from && transfer.attempt > self.transfer.attempt;
        self.transfer.term < present || transfer.term > self.transfer.term || is_next
    }
}

/// Taking in a leader's snapshot.
impl<M: StateMachine> Replica<M> {
    pub(super) fn snapshot_chunk(
        &mut self,
        now_ns: u64,
        from: NodeId,
        chunk: SnapshotChunk,
        ports: &Ports<M>,
    ) {
        let transfer = chunk.transfer;
        let is_stale = transfer.term < self.raft.term();
        // Before anything is stored: a snapshot of another cluster, or of a term that cannot be, is none of ours.
        let is_ours = is_stale || self.raft.accepts_snapshot(from, transfer.term, &chunk.meta);
        self.note_rejections(now_ns, ports);
        let is_useless =
            !self.raft.wants_snapshot(chunk.meta.index) && !mutants::INSTALLS_OLD_SNAPSHOTS;
        let is_covered = is_useless && chunk.meta.index <= self.raft.commit();
        let mut ticket = None;
        if is_ours && !is_stale && !is_useless {
            // One that is lost here is sent again. Before it is admitted: each that is may give up one before it.
            ticket = transfer_ticket(&self.snapshots.tickets);
            if ticket.is_none() {
                return;
            }
            ticket = ticket.filter(|_| self.admits(now_ns, from, &chunk, ports));
        }
        let Some(ticket) = ticket else {
            let ack = SnapshotAck {
                transfer,
                status: SnapshotAckStatus::Refused,
            };
            ports.transport.send(from, Frame::SnapshotAck(ack));
            if is_ours && is_covered && !is_stale && !mutants::REFUSES_SNAPSHOT_SILENTLY {
                // The leader does not know how much is here: it would send the snapshot again for ever.
                let arrival = self.arrival(from, transfer, chunk.meta);
                self.step(now_ns, arrival, ports);
            }
            return;
        };
        let timeout_ns = self.options.transfer_timeout_ns;
        if let Some(incoming) = &mut self.snapshots.incoming {
            incoming.note_chunk(now_ns, &chunk, timeout_ns);
        }
        // Never the transfer's own number: it may come twice before the first one is taken in, and the copy that is not wanted
        // is deleted by its name.
        let mut id = self.snapshots.take_id();
        if mutants::SNAPSHOT_COPIES_SHARE_A_FILE {
            id = transfer.attempt;
        }
        let job = Job::Receive {
            from,
            chunk,
            id,
            ticket,
        };
        submit_job(ports, job);
    }

    /// Whether a chunk belongs to the one transfer that comes in, or begins one that may take its place.
    fn admits(
        &mut self,
        now_ns: u64,
        from: NodeId,
        chunk: &SnapshotChunk,
        ports: &Ports<M>,
    ) -> bool {
        let transfer = chunk.transfer;
        if let Some(incoming) = &self.snapshots.incoming
            && (incoming.from, incoming.transfer) == (from, transfer)
        {
            if incoming.total_bytes == chunk.total_bytes {
                return true;
            }
            self.snapshots.trouble = Some(format!(
                "a snapshot from node {} has {} bytes, and then {}",
                from.0, incoming.total_bytes, chunk.total_bytes
            ));
            self.abandon_incoming(ports);
            return false;
        }
        if chunk.offset_bytes > 0 || self.snapshots.received.is_some() {
            return false;
        }
        let term = self.raft.term();
        let may_begin = self.snapshots.incoming.as_ref().is_none_or(|incoming| {
            now_ns >= incoming.give_up_at_ns || incoming.gives_way_to(from, transfer, term)
        });
        if !may_begin {
            return false;
        }
        let limit_bytes = self.options.snapshot_bytes_max;
        if chunk.total_bytes > limit_bytes {
            ports.rejections.snapshot_streams.add(1);
            self.snapshots.trouble = Some(format!(
                "a snapshot from node {} has {} bytes, more than the {limit_bytes} of snapshot_bytes_max: \
                 raise it, if the group's state is as large as that",
                from.0, chunk.total_bytes
            ));
            return false;
        }
        self.abandon_replaced(ports);
        let silent_ns = self
            .options
            .transfer_timeout_ns
            .saturating_mul(SILENT_TIMEOUTS_MAX);
        self.snapshots.incoming = Some(Incoming {
            from,
            transfer,
            total_bytes: chunk.total_bytes,
            reached_bytes: 0,
            begun_at_ns: now_ns,
            give_up_at_ns: now_ns.saturating_add(silent_ns),
        });
        true
    }

    /// Gives up the transfer that comes in: its file goes at once.
    pub(super) fn abandon_incoming(&mut self, ports: &Ports<M>) {
        if self.abandon_replaced(ports) {
            ports.rejections.snapshot_streams.add(1);
        }
    }

    /// A transfer of an earlier term is not going on.
    pub(super) fn abandon_stale(&mut self, ports: &Ports<M>) {
        let term = self.raft.term();
        let incoming = self.snapshots.incoming.as_ref();
        if incoming.is_some_and(|incoming| incoming.transfer.term < term) {
            let _was_one = self.abandon_replaced(ports);
        }
    }

    /// Makes room for another transfer. Whether there was one.
    fn abandon_replaced(&mut self, ports: &Ports<M>) -> bool {
        let Some(incoming) = self.snapshots.incoming.take() else {
            return false;
        };
        let transfer = incoming.transfer;
        submit_job(ports, Job::Abandon { transfer });
        true
    }
}
