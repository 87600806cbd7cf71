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

use std::sync::{Arc, Weak};

use quorate_kv::StateMachine;
use quorate_raft::{Body, LogIndex, Message, NodeId, PeerStatus, SnapshotMeta};
use quorate_wal::SnapshotRef;

use super::event::{Received, Told};
use super::incoming::Incoming;
use super::ports::{CHUNK_BYTES, Job, Ports, TransferTicket, WINDOW_BYTES, transfer_ticket};
use super::replica::Replica;
use super::shard::submit_job;
use super::storage::{config_to_bytes, snapshot_meta};
use super::writes::{After, Writes};
use crate::error::{Error, SnapshotError};
use crate::mutants;
#[cfg(feature = "simulation")]
use crate::simulation::Deed;
use crate::transport::{Frame, SnapshotAck, SnapshotAckStatus, SnapshotTransfer};

/// How often an outgoing transfer is tried again without progress before it is given up.
pub(super) const SEND_TRIES_MAX: u32 = 5;

/// While a snapshot is on its way to a follower, the log behind it is kept for what comes after: as much as so many snapshots
/// cover, at most. Where the log of the node is over what it may keep, it is cut all the same.
const KEPT_LOG_SNAPSHOTS: u64 = 4;

/// How many callers may wait for a snapshot of one replica.
const SAVERS_MAX: usize = 64;

/// Somebody who waits for a snapshot that covers this index.
type Saver = (LogIndex, Told<Result<LogIndex, Error>>);

/// The snapshots of one replica.
pub(crate) struct SnapshotState<M: StateMachine> {
    /// The file that the log names.
    current: Option<SnapshotRef>,
    is_saving: bool,
    /// Whoever waits for a save; there are none unless one is under way.
    savers: Vec<Saver>,
    /// The log is to be cut right behind the next snapshot, with nothing kept for followers that lag.
    lets_go: bool,
    /// The file that the log names was found to be damaged or gone, by who wanted to send it. It is replaced by another
    /// snapshot, and stays until then.
    is_rotten: bool,
    /// A save that failed is tried again only after this much more log.
    failed_at_log_bytes: u64,
    outgoing: Vec<Outgoing>,
    /// Snapshots that arrived at followers which have not said yet that they have them.
    delivered: Vec<(NodeId, LogIndex)>,
    /// What was sent last to each follower that lost entries.
    sent_to_lost: Vec<(NodeId, LogIndex)>,
    /// Files that nothing names any more, but that are still being sent.
    doomed: Vec<SnapshotRef>,
    pub(super) incoming: Option<Incoming>,
    pub(super) received: Option<Received<M>>,
    /// Held by each job that reads or writes for another node.
    pub(super) tickets: TransferTicket,
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
    /// The last job that was asked for; gone once it is done.
    job: Weak<()>,
    tries: u32,
    retry_at_ns: u64,
}

impl<M: StateMachine> SnapshotState<M> {
    pub(crate) fn new(current: Option<SnapshotRef>, seed: u64) -> Self {
        let above = current.as_ref().map_or(0, |file| file.id);
        Self {
            current,
            is_saving: false,
            savers: Vec::new(),
            lets_go: false,
            is_rotten: false,
            failed_at_log_bytes: 0,
            outgoing: Vec::new(),
            delivered: Vec::new(),
            sent_to_lost: Vec::new(),
            doomed: Vec::new(),
            incoming: None,
            received: None,
            tickets: TransferTicket::default(),
            next_id: above.max(seed) + 1,
            trouble: None,
        }
    }

    pub(super) fn take_id(&mut self) -> u64 {
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

    /// Takes a snapshot because somebody asked for it, who hears up to which index there is one: at
    /// least what is applied now.
    pub(super) fn save_for(
        &mut self,
        told: Option<Told<Result<LogIndex, Error>>>,
        ports: &Ports<M>,
    ) {
        let Some(told) = told else {
            self.save_now(ports);
            return;
        };
        let covered = self.raft.snapshot().index;
        let outstanding = self.snapshots.savers.len();
        if !self.published.has_state() {
            told(Err(Error::Quarantined { group: self.group }));
        } else if self.applied <= covered && !self.snapshots.is_rotten {
            told(Ok(covered));
        } else if outstanding >= SAVERS_MAX {
            told(Err(Error::Busy { outstanding }));
        } else {
            self.snapshots.savers.push((self.applied, told));
            self.save_now(ports);
        }
    }

    /// A save ended. One that was under way when it was asked for another one covers too little: the
    /// next one begins.
    fn answer_savers(&mut self, failure: Option<&str>, ports: &Ports<M>) {
        let covered = self.raft.snapshot().index;
        for (index, told) in std::mem::take(&mut self.snapshots.savers) {
            match failure {
                Some(reason) => told(Err(Error::Snapshot(SnapshotError {
                    reason: reason.to_owned(),
                }))),
                None if index <= covered => told(Ok(covered)),
                None => self.snapshots.savers.push((index, told)),
            }
        }
        if !self.snapshots.savers.is_empty() {
            self.save_now(ports);
        }
    }

    /// Takes a snapshot if there is anything new to cover, or the one before has rotted, and none is being written.
    pub(super) fn save_now(&mut self, ports: &Ports<M>) {
        let index = self.applied;
        let covers_more = index > self.raft.snapshot().index;
        let is_wanted = covers_more || self.snapshots.is_rotten;
        if self.snapshots.is_saving || !is_wanted || !self.published.has_state() {
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
        if !self.published.has_state() {
            return false;
        }
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
                self.answer_savers(Some(&reason), ports);
                self.snapshots.trouble = Some(reason);
                self.snapshots.failed_at_log_bytes = self.log_bytes;
                return;
            }
        };
        let index = self.raft.snapshot().index;
        let replaces_rotten = self.snapshots.is_rotten && meta.index == index;
        if meta.index <= index && !replaces_rotten {
            // A leader's newer snapshot came in meanwhile.
            self.superseded(file, ports);
            self.answer_savers(None, ports);
            return;
        }
        let before = self.snapshots.trouble.take();
        self.snapshots.trouble = before
            .filter(|_| self.snapshots.is_rotten)
            .map(|rot| format!("{rot}; another snapshot has taken its place"));
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
        self.answer_savers(None, ports);
    }

    /// From the batch on that is being made, the log names `file`; the one before goes when that batch is durable.
    fn name(&mut self, file: SnapshotRef, writes: &mut Writes, slot: usize) {
        self.snapshots.is_rotten = false;
        if let Some(file) = self.snapshots.current.replace(file) {
            writes.after.push(After::Superseded { slot, file });
        }
    }

    /// Where the log begins behind a snapshot: some entries stay for followers that lag a little, but no more than
    /// a quarter of the log that one snapshot covers; and those that follow a snapshot on its way, but no more than what
    /// [`KEPT_LOG_SNAPSHOTS`] allows.
    fn first_index_behind(&mut self, snapshot: LogIndex) -> LogIndex {
        let entry_bytes = (self.log_bytes / self.log_entries.max(1)).max(1);
        let by_bytes = self.options.snapshot_log_bytes / 4 / entry_bytes;
        let trailing = self.options.trailing_entries.min(by_bytes);
        let first = LogIndex((snapshot.0 + 1).saturating_sub(trailing));
        if self.options.trailing_entries == 0 {
            return first.max(self.raft.first_index());
        }
        let covered_bytes = self.options.snapshot_log_bytes.max(self.snapshot_bytes());
        let kept = covered_bytes.saturating_mul(KEPT_LOG_SNAPSHOTS) / entry_bytes;
        let least = LogIndex((snapshot.0 + 1).saturating_sub(kept));
        let wanted = self.first_index_wanted().unwrap_or(first);
        first.min(wanted.max(least)).max(self.raft.first_index())
    }

    /// The first entry that a follower will want that has been sent a snapshot, and has not said yet that it has it.
    fn first_index_wanted(&mut self) -> Option<LogIndex> {
        if mutants::CUTS_BEHIND_TRANSFER {
            return None;
        }
        let SnapshotState {
            delivered,
            outgoing,
            ..
        } = &mut self.snapshots;
        let raft = &self.raft;
        delivered.retain(|&(to, index)| {
            let waits = |peer: PeerStatus| {
                peer.id == to && peer.is_active && !peer.is_aside && peer.match_index < index
            };
            raft.peers().any(waits)
        });
        let delivered = delivered.iter().map(|it| it.1);
        // Nothing is kept for one that is gone: nobody knows for how long.
        let lives = |to: NodeId| raft.peers().any(|peer| peer.id == to && peer.is_active);
        let under_way = outgoing.iter().filter(|it| lives(it.to));
        let indexes = delivered.chain(under_way.map(|it| it.meta.index));
        indexes.min().map(LogIndex::next)
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
        let sound = self.snapshots.current.clone();
        let Some(file) = sound.filter(|_| !self.snapshots.is_rotten) else {
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
        self.snapshots.delivered.retain(|it| it.0 != to);
        self.delete_doomed(ports);
        self.renew_for_lost(to, meta.index, ports);
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
            job: Weak::new(),
            tries: 0,
            retry_at_ns: 0,
        };
        let timeout_ns = self.options.transfer_timeout_ns;
        outgoing.ask(now_ns, timeout_ns, &self.snapshots.tickets, ports);
        self.snapshots.outgoing.push(outgoing);
    }

    /// A follower that lost entries is sent the same snapshot a second time: it does not cover what is lost there, and in a
    /// group without traffic no later one would ever be taken.
    fn renew_for_lost(&mut self, to: NodeId, index: LogIndex, ports: &Ports<M>) {
        let sent = &mut self.snapshots.sent_to_lost;
        let before = sent.iter().position(|it| it.0 == to);
        let before = before.map(|place| sent.swap_remove(place).1);
        if self.raft.peers().any(|peer| peer.id == to && peer.is_aside) {
            sent.push((to, index));
            if before == Some(index) {
                self.save_now(ports);
            }
        }
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
                    // It may have more than it was sent in this attempt.
                    outgoing.asked_bytes = outgoing.asked_bytes.max(offset_bytes);
                    outgoing.tries = 0;
                    outgoing.ask(now_ns, timeout_ns, tickets, ports);
                }
            }
            SnapshotAckStatus::Done => {
                let arrived = (from, outgoing.meta.index);
                self.snapshots.delivered.retain(|it| it.0 != from);
                self.snapshots.delivered.push(arrived);
                self.end_send(now_ns, place, true, ports);
            }
            SnapshotAckStatus::Refused => {
                // One that lost entries behind this snapshot needs one that covers them. Others refuse for reasons that
                // another snapshot does not change.
                let is_aside = |peer: PeerStatus| peer.id == from && peer.is_aside;
                if self.raft.peers().any(is_aside) {
                    self.save_now(ports);
                }
                self.end_send(now_ns, place, false, ports);
            }
        }
    }

    pub(super) fn send_failed(
        &mut self,
        now_ns: u64,
        transfer: SnapshotTransfer,
        reason: String,
        rotten: Option<u64>,
        ports: &Ports<M>,
    ) {
        let current = self.snapshots.current.as_ref().map(|file| file.id);
        let is_current = rotten.is_some() && rotten == current;
        let mut outgoing = self.snapshots.outgoing.iter();
        let place = outgoing.position(|outgoing| outgoing.transfer == transfer);
        if place.is_none() && !is_current {
            // The transfer was over before this job was done, and its file may be gone.
            return;
        }
        self.snapshots.trouble = Some(reason);
        if is_current {
            // What is in memory is sound: another snapshot of it takes the place of the file.
            self.snapshots.is_rotten = true;
            self.save_now(ports);
        }
        if let Some(place) = place {
            self.end_send(now_ns, place, false, ports);
        }
    }

    /// Sends again what got lost, and gives up on who does not answer.
    pub(super) fn tick_transfers(&mut self, now_ns: u64, ports: &Ports<M>) {
        let incoming = self.snapshots.incoming.as_ref();
        if incoming.is_some_and(|incoming| now_ns >= incoming.give_up_at_ns) {
            self.abandon_incoming(ports);
        }
        let mut place = 0;
        while let Some(outgoing) = self.snapshots.outgoing.get_mut(place) {
            if now_ns < outgoing.retry_at_ns {
                place += 1;
            } else if outgoing.job.strong_count() > 0 && outgoing.transfer.term == self.raft.term()
            {
                // The file is not read yet: nobody else is late.
                outgoing.retry_at_ns = now_ns.saturating_add(self.options.transfer_timeout_ns);
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
        deadline_ns.min(transfers.unwrap_or(u64::MAX)).min(incoming)
    }
}

impl Outgoing {
    /// Has the next chunks sent, as far as the window reaches; at the next timeout, if too many jobs wait. The first one goes
    /// alone: the answer to it may be that most is there, from an attempt before.
    fn ask<M: StateMachine>(
        &mut self,
        now_ns: u64,
        timeout_ns: u64,
        tickets: &TransferTicket,
        ports: &Ports<M>,
    ) {
        self.retry_at_ns = now_ns.saturating_add(timeout_ns);
        self.tries += 1;
        let window_bytes = if self.acknowledged_bytes == 0 {
            CHUNK_BYTES
        } else {
            WINDOW_BYTES
        };
        let until_bytes = (self.acknowledged_bytes + window_bytes).min(self.file.bytes);
        if until_bytes <= self.asked_bytes && self.file.bytes > 0 {
            return;
        }
        let Some(ticket) = transfer_ticket(tickets) else {
            return;
        };
        let pending = Arc::new(());
        self.job = Arc::downgrade(&pending);
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
                pending,
            },
        );
        self.asked_bytes = until_bytes;
    }
}

/// Taking in a leader's snapshot that has arrived; see `incoming.rs` for how it does.
impl<M: StateMachine> Replica<M> {
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
    pub(super) fn arrival(
        &self,
        from: NodeId,
        transfer: SnapshotTransfer,
        meta: SnapshotMeta,
    ) -> Message {
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
