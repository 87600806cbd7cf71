//! Snapshots of one replica: when to take one, sending it to a follower, taking one in from a leader.
//!
//! Files are read and written by jobs; here is only who may do what next.
//!
//! Invariants:
//! - A snapshot covers only what this replica has applied.
//! - The log is cut only in the batch that names the snapshot (`docs/format.md`), and the file before it goes, by name, only
//!   when that batch is durable.
//! - At most one save, one incoming transfer, and one outgoing transfer for each peer are under way, and their jobs are at most
//!   [`TRANSFER_JOBS_MAX`](super::ports::TRANSFER_JOBS_MAX), however long the disk is stuck.

use quorate_kv::StateMachine;
use quorate_raft::{Body, LogIndex, Message, NodeId, SnapshotMeta, Term};
use quorate_wal::SnapshotRef;

use super::event::Received;
use super::ports::{Job, Ports, TransferTicket, WINDOW_BYTES, transfer_ticket};
use super::replica::Replica;
use super::shard::submit_job;
use super::storage::{config_to_bytes, snapshot_meta};
use super::writes::{After, Writes};
use crate::mutants;
#[cfg(feature = "simulation")]
use crate::simulation::Deed;
use crate::transport::{Frame, SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer};

/// How often an outgoing transfer is tried again without progress before it is given up.
const SEND_TRIES_MAX: u32 = 5;

/// The snapshots of one replica.
pub(crate) struct SnapshotState<M: StateMachine> {
    /// The file that the log names.
    current: Option<SnapshotRef>,
    is_saving: bool,
    /// The log is to be cut right behind the next snapshot, with nothing kept for followers that lag.
    lets_go: bool,
    /// A save that failed is tried again only after this much more log.
    failed_at_log_bytes: u64,
    outgoing: Vec<Outgoing>,
    /// Files that nothing names any more, but that are still being sent.
    doomed: Vec<SnapshotRef>,
    incoming: Option<Incoming>,
    received: Option<Received<M>>,
    /// Held by each job that reads or writes for another node.
    tickets: TransferTicket,
    /// Numbers files and transfers; starts above every id seen on disk.
    next_id: u64,
    /// The last failure, for whoever asks how the replica stands.
    pub(crate) trouble: Option<String>,
}

struct Outgoing {
    to: NodeId,
    transfer: SnapshotTransfer,
    meta: SnapshotMeta,
    file: SnapshotRef,
    acknowledged_bytes: u64,
    asked_bytes: u64,
    tries: u32,
    retry_at_ns: u64,
}

/// A transfer that is coming in.
struct Incoming {
    from: NodeId,
    transfer: SnapshotTransfer,
    total_bytes: u64,
    /// The end of what came without a gap.
    reached_bytes: u64,
    begun_at_ns: u64,
    /// When it is given up, unless more comes before.
    give_up_at_ns: u64,
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

impl<M: StateMachine> SnapshotState<M> {
    pub(crate) fn new(current: Option<SnapshotRef>, seed: u64) -> Self {
        let above = current.as_ref().map_or(0, |file| file.id);
        Self {
            current,
            is_saving: false,
            lets_go: false,
            failed_at_log_bytes: 0,
            outgoing: Vec::new(),
            doomed: Vec::new(),
            incoming: None,
            received: None,
            tickets: TransferTicket::default(),
            next_id: above.max(seed) + 1,
            trouble: None,
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Taking snapshots.
impl<M: StateMachine> Replica<M> {
    /// Takes a snapshot if enough log has gathered: as much as the last snapshot is long, so that writing
    /// snapshots costs no more than writing the log.
    pub(super) fn save_if_due(&mut self, ports: &Ports<M>) {
        let due_bytes = self.options.snapshot_log_bytes.max(self.snapshot_bytes())
            + self.snapshots.failed_at_log_bytes;
        if self.log_bytes >= due_bytes {
            self.save_now(ports);
        }
    }

    /// How long the latest snapshot is.
    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.snapshots.current.as_ref().map_or(0, |file| file.bytes)
    }

    /// Takes a snapshot if there is anything new to cover and none is being written.
    pub(super) fn save_now(&mut self, ports: &Ports<M>) {
        let index = self.applied;
        if self.snapshots.is_saving || index <= self.raft.snapshot().index {
            return;
        }
        self.snapshots.is_saving = true;
        let meta = SnapshotMeta {
            index,
            term: self.applied_term,
            config: self.raft.config().clone(),
        };
        let id = self.snapshots.take_id();
        submit_job(
            ports,
            Job::Save {
                group: self.group,
                meta,
                id,
                image: self.sessions.image(),
            },
        );
    }

    /// Gives back the oldest part of the log: this group was quiet for so long that its few entries hold segments that
    /// nobody else needs. A follower that still lacks them gets the snapshot. Returns whether there is anything to give back:
    /// entries that are not applied stay, and one that is halted or stands aside may hold such entries for good.
    pub(super) fn let_go(&mut self, writes: &mut Writes, ports: &Ports<M>) -> bool {
        let snapshot = self.raft.snapshot().clone();
        if self.applied > snapshot.index {
            self.snapshots.lets_go = true;
            self.save_now(ports);
            return true;
        }
        if self.raft.first_index() <= snapshot.index {
            let first_index = snapshot.index.next();
            writes.record().compact(self.group, first_index.0);
            self.raft.on_snapshot_saved(snapshot, first_index);
            return true;
        }
        false
    }

    /// A save ended: names the file in the log and cuts the log behind it.
    pub(super) fn saved(
        &mut self,
        meta: &SnapshotMeta,
        result: Result<SnapshotRef, String>,
        writes: &mut Writes,
        slot: usize,
        ports: &Ports<M>,
    ) {
        self.snapshots.is_saving = false;
        let lets_go = std::mem::take(&mut self.snapshots.lets_go);
        let mut file = match result {
            Ok(file) => file,
            Err(reason) => {
                self.snapshots.trouble = Some(reason);
                self.snapshots.failed_at_log_bytes = self.log_bytes;
                return;
            }
        };
        if meta.index <= self.raft.snapshot().index {
            // A leader's newer snapshot came in meanwhile.
            self.superseded(file, ports);
            return;
        }
        self.snapshots.trouble = None;
        self.snapshots.failed_at_log_bytes = 0;
        file.context = config_to_bytes(&meta.config);
        let first_index = if mutants::CUTS_BEYOND_SNAPSHOT {
            self.applied.next()
        } else if lets_go {
            meta.index.next()
        } else {
            self.first_index_behind(meta.index)
        };
        let batch = writes.record();
        batch.set_snapshot(self.group, file.clone());
        batch.compact(self.group, first_index.0);
        self.name(file, writes, slot);
        #[cfg(feature = "simulation")]
        self.note(|| Deed::Saved {
            index: meta.index,
            term: meta.term,
            first_index,
        });
        self.raft.on_snapshot_saved(meta.clone(), first_index);
        self.log_bytes = 0;
        self.log_entries = 0;
    }

    /// From the batch on that is being made, the log names `file`; the one before goes when that batch is durable.
    fn name(&mut self, file: SnapshotRef, writes: &mut Writes, slot: usize) {
        if let Some(file) = self.snapshots.current.replace(file) {
            writes.after.push(After::Superseded { slot, file });
        }
    }

    /// Where the log begins behind a snapshot: some entries stay for followers that lag a little, but no more than
    /// a quarter of the log that one snapshot covers.
    fn first_index_behind(&self, snapshot: LogIndex) -> LogIndex {
        let entry_bytes = (self.log_bytes / self.log_entries.max(1)).max(1);
        let by_bytes = self.options.snapshot_log_bytes / 4 / entry_bytes;
        let trailing = self.options.trailing_entries.min(by_bytes);
        let first = LogIndex((snapshot.0 + 1).saturating_sub(trailing));
        first.max(self.raft.first_index())
    }

    /// The log durably names a newer snapshot than this one, which may go, unless it is still being sent.
    ///
    /// Files go one by one, by name, and only for this reason. To sweep away all that is not known would also catch the
    /// one that a job has just published and this replica has not heard of yet.
    pub(super) fn superseded(&mut self, file: SnapshotRef, ports: &Ports<M>) {
        self.snapshots.doomed.push(file);
        self.delete_doomed(ports);
    }

    fn delete_doomed(&mut self, ports: &Ports<M>) {
        let SnapshotState {
            doomed, outgoing, ..
        } = &mut self.snapshots;
        let group = self.group;
        doomed.retain(|file| {
            let is_sending = outgoing.iter().any(|outgoing| outgoing.file.id == file.id);
            if !is_sending {
                submit_job(
                    ports,
                    Job::Delete {
                        group,
                        file: file.clone(),
                    },
                );
            }
            is_sending
        });
    }
}

/// Sending a snapshot to a follower.
impl<M: StateMachine> Replica<M> {
    pub(super) fn begin_send(&mut self, now_ns: u64, to: NodeId, ports: &Ports<M>) {
        let Some(file) = self.snapshots.current.clone() else {
            // A follower that lost entries is helped by nothing else. Until it is saved, it waits.
            self.save_now(ports);
            self.raft.on_snapshot_sent(now_ns, to, false);
            return;
        };
        let meta = match snapshot_meta(&file) {
            Ok(meta) => meta,
            Err(reason) => {
                self.snapshots.trouble = Some(reason);
                self.raft.on_snapshot_sent(now_ns, to, false);
                return;
            }
        };
        self.snapshots.outgoing.retain(|outgoing| outgoing.to != to);
        self.delete_doomed(ports);
        let transfer = SnapshotTransfer {
            group: self.group,
            term: self.raft.term(),
            attempt: self.snapshots.take_id(),
        };
        let mut outgoing = Outgoing {
            to,
            transfer,
            meta,
            file,
            acknowledged_bytes: 0,
            asked_bytes: 0,
            tries: 0,
            retry_at_ns: 0,
        };
        let timeout_ns = self.options.transfer_timeout_ns;
        outgoing.ask(now_ns, timeout_ns, &self.snapshots.tickets, ports);
        self.snapshots.outgoing.push(outgoing);
    }

    pub(super) fn snapshot_ack(
        &mut self,
        now_ns: u64,
        from: NodeId,
        ack: &SnapshotAck,
        ports: &Ports<M>,
    ) {
        let timeout_ns = self.options.transfer_timeout_ns;
        let Some(place) = self
            .snapshots
            .outgoing
            .iter()
            .position(|outgoing| outgoing.to == from && outgoing.transfer == ack.transfer)
        else {
            return;
        };
        let SnapshotState {
            outgoing, tickets, ..
        } = &mut self.snapshots;
        let outgoing = &mut outgoing[place];
        match ack.status {
            SnapshotAckStatus::Next { offset_bytes } => {
                if offset_bytes > outgoing.acknowledged_bytes && offset_bytes <= outgoing.file.bytes
                {
                    outgoing.acknowledged_bytes = offset_bytes;
                    outgoing.tries = 0;
                    outgoing.ask(now_ns, timeout_ns, tickets, ports);
                }
            }
            SnapshotAckStatus::Done => self.end_send(now_ns, place, true, ports),
            SnapshotAckStatus::Refused => self.end_send(now_ns, place, false, ports),
        }
    }

    pub(super) fn send_failed(
        &mut self,
        now_ns: u64,
        transfer: SnapshotTransfer,
        reason: String,
        ports: &Ports<M>,
    ) {
        self.snapshots.trouble = Some(reason);
        let mut outgoing = self.snapshots.outgoing.iter();
        if let Some(place) = outgoing.position(|outgoing| outgoing.transfer == transfer) {
            self.end_send(now_ns, place, false, ports);
        }
    }

    /// Sends again what got lost, and gives up on who does not answer.
    pub(super) fn tick_transfers(&mut self, now_ns: u64, ports: &Ports<M>) {
        let term = self.raft.term();
        let is_over = |it: &Incoming| now_ns >= it.give_up_at_ns || it.transfer.term < term;
        if self.snapshots.incoming.as_ref().is_some_and(is_over) {
            self.abandon_incoming(ports);
        }
        let mut place = 0;
        while let Some(outgoing) = self.snapshots.outgoing.get_mut(place) {
            if now_ns < outgoing.retry_at_ns {
                place += 1;
            } else if outgoing.tries >= SEND_TRIES_MAX || outgoing.transfer.term != self.raft.term()
            {
                self.end_send(now_ns, place, false, ports);
            } else {
                outgoing.asked_bytes = outgoing.acknowledged_bytes;
                let timeout_ns = self.options.transfer_timeout_ns;
                outgoing.ask(now_ns, timeout_ns, &self.snapshots.tickets, ports);
                place += 1;
            }
        }
    }

    fn end_send(&mut self, now_ns: u64, place: usize, sent: bool, ports: &Ports<M>) {
        let ended = self.snapshots.outgoing.swap_remove(place);
        self.raft.on_snapshot_sent(now_ns, ended.to, sent);
        self.delete_doomed(ports);
    }

    /// When [`Shard::tick`](super::Shard::tick) is wanted by this replica.
    pub(super) fn deadline_ns(&self) -> u64 {
        if self.is_halted() {
            return u64::MAX;
        }
        let transfers = self
            .snapshots
            .outgoing
            .iter()
            .map(|outgoing| outgoing.retry_at_ns)
            .min();
        let incoming = self.snapshots.incoming.as_ref();
        let incoming = incoming.map_or(u64::MAX, |incoming| incoming.give_up_at_ns);
        let deadline_ns = self.raft.deadline_ns().min(self.reads.deadline_ns());
        deadline_ns
            .min(transfers.unwrap_or(u64::MAX))
            .min(incoming)
    }
}

impl Outgoing {
    /// Has the next chunks sent, as far as the window reaches; at the next timeout, if too many jobs wait.
    fn ask<M: StateMachine>(
        &mut self,
        now_ns: u64,
        timeout_ns: u64,
        tickets: &TransferTicket,
        ports: &Ports<M>,
    ) {
        self.retry_at_ns = now_ns.saturating_add(timeout_ns);
        self.tries += 1;
        let until_bytes = (self.acknowledged_bytes + WINDOW_BYTES).min(self.file.bytes);
        if until_bytes <= self.asked_bytes && self.file.bytes > 0 {
            return;
        }
        let Some(ticket) = transfer_ticket(tickets) else {
            return;
        };
        submit_job(
            ports,
            Job::Send {
                to: self.to,
                transfer: self.transfer,
                meta: self.meta.clone(),
                file: self.file.clone(),
                from_bytes: self.asked_bytes,
                until_bytes,
                ticket,
            },
        );
        self.asked_bytes = until_bytes;
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
        self.note_rejections(ports);
        let is_covered = chunk.meta.index <= self.raft.commit() && !mutants::INSTALLS_OLD_SNAPSHOTS;
        let is_useless =
            !self.raft.needs_snapshot(chunk.meta.index) && !mutants::INSTALLS_OLD_SNAPSHOTS;
        if !is_ours || is_stale || is_useless || !self.admits(now_ns, from, &chunk, ports) {
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
        }
        // One that is lost here is sent again.
        let Some(ticket) = transfer_ticket(&self.snapshots.tickets) else {
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
    fn abandon_incoming(&mut self, ports: &Ports<M>) {
        if self.abandon_replaced(ports) {
            ports.rejections.snapshot_streams.add(1);
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

    /// A snapshot is here, whole and verified: whether it is installed is the core's decision.
    pub(super) fn received(&mut self, now_ns: u64, received: Received<M>, ports: &Ports<M>) {
        self.snapshots.incoming = None;
        if self.snapshots.received.is_some() {
            // The core has not said yet what becomes of the one before; the leader sends again what is still wanted.
            self.superseded(received.file, ports);
            return;
        }
        let message = self.arrival(received.from, received.transfer, received.meta.clone());
        let ack = SnapshotAck {
            transfer: received.transfer,
            status: SnapshotAckStatus::Done,
        };
        ports.transport.send(received.from, Frame::SnapshotAck(ack));
        self.snapshots.received = Some(received);
        self.step(now_ns, message, ports);
    }

    /// How the core hears of a snapshot that is here, or is not needed any more.
    fn arrival(&self, from: NodeId, transfer: SnapshotTransfer, meta: SnapshotMeta) -> Message {
        Message {
            from,
            to: self.raft.id(),
            term: transfer.term,
            body: Body::SnapshotReceived { meta },
        }
    }

    /// Forgets a snapshot that the core, asked at once, did not want.
    pub(super) fn discard_unwanted(&mut self, ports: &Ports<M>) {
        if let Some(unwanted) = self.snapshots.received.take() {
            self.superseded(unwanted.file, ports);
        }
    }

    pub(super) fn receive_failed(
        &mut self,
        transfer: SnapshotTransfer,
        reason: String,
        ports: &Ports<M>,
    ) {
        ports.rejections.snapshot_streams.add(1);
        self.snapshots.trouble = Some(reason);
        let current = self.snapshots.incoming.as_ref();
        if current.is_some_and(|current| current.transfer == transfer) {
            self.snapshots.incoming = None;
        }
    }

    /// The core takes the snapshot that was received: the machine is swapped, and the log will say so.
    pub(super) fn install(
        &mut self,
        meta: &SnapshotMeta,
        keep_suffix: bool,
        writes: &mut Writes,
        slot: usize,
    ) {
        let received = self
            .snapshots
            .received
            .take()
            .filter(|received| received.meta == *meta);
        let Some(received) = received else {
            unreachable!("the core installs only the snapshot that it was just handed");
        };
        #[cfg(feature = "simulation")]
        self.note(|| Deed::Installed {
            index: meta.index,
            term: meta.term,
            keeps_suffix: keep_suffix,
        });
        let mut file = received.file;
        file.context = config_to_bytes(&meta.config);
        let keep_from = keep_suffix.then_some(meta.index.0 + 1);
        writes.record().install(self.group, file.clone(), keep_from);
        self.name(file, writes, slot);
        self.sessions = received.machine;
        self.applied = meta.index;
        self.applied_term = meta.term;
        self.log_bytes = 0;
        self.log_entries = 0;
        self.published.publish(meta.index, self.sessions.view());
    }
}
