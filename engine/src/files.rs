//! What a node does with snapshot files, one job after the other: writing, sending, taking in, deleting. Between them it
//! tells whoever observes the node what its replicas refused.
//!
//! Invariants:
//! - A snapshot that is reported as saved or received is whole, durable and was read back.
//! - Of each group one transfer comes in at a time; its chunks are taken in their order only.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_kv::{Image, StateMachine};
use quorate_raft::{NodeId, Rejection, SnapshotMeta};
use quorate_wal::{GroupId, SnapshotError, SnapshotRef, SnapshotWriter, Snapshots};

use crate::db::TransportObserver;
use crate::node::{CHUNK_BYTES, Event, Job, JobDone, NodeInbox, Received, is_rotten, restore};
use crate::runtime::threads::shielded;
use crate::transport::tcp::TransportEvent;
use crate::transport::{
    Frame, SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer, Transport,
};

/// What a job needs of the node that it belongs to.
pub(crate) struct NodeFiles<M: StateMachine> {
    snapshots: Arc<Snapshots>,
    transport: Arc<dyn Transport>,
    inbox: Arc<NodeInbox<M>>,
    rest: Rest,
    observer: Option<TransportObserver>,
    /// Transfers that are coming in, by group: each replica takes one at a time.
    incoming: Mutex<BTreeMap<GroupId, Incoming>>,
}

/// Is called after so many bytes were written or read back, and waits as long as the rate asks for.
pub(crate) type Rest = Arc<dyn Fn(u64) + Send + Sync>;

struct Incoming {
    transfer: SnapshotTransfer,
    /// What the first chunk said; the others must say the same.
    meta: SnapshotMeta,
    total_bytes: u64,
    content_crc: u32,
    writer: SnapshotWriter,
    next_bytes: u64,
    crc: crc32fast::Hasher,
}

impl<M: StateMachine> NodeFiles<M> {
    pub(crate) fn new(
        snapshots: Arc<Snapshots>,
        transport: Arc<dyn Transport>,
        inbox: Arc<NodeInbox<M>>,
        rest: Rest,
        observer: Option<TransportObserver>,
    ) -> Self {
        Self {
            snapshots,
            transport,
            inbox,
            rest,
            observer,
            incoming: Mutex::new(BTreeMap::new()),
        }
    }

    /// Does a job, and tells the shard how it ended.
    pub(crate) fn run(&self, job: Job<M>) {
        match job {
            Job::Save {
                group,
                meta,
                id,
                image,
            } => {
                let result = self.save(group, &meta, id, image);
                self.done(
                    group,
                    JobDone::Saved {
                        group,
                        meta,
                        result,
                    },
                );
            }
            Job::Send {
                to,
                transfer,
                meta,
                file,
                from_bytes,
                until_bytes,
                ticket: _held,
            } => {
                if let Err(error) = self.send(to, transfer, &meta, &file, from_bytes, until_bytes) {
                    let failed = JobDone::SendFailed {
                        transfer,
                        reason: error.to_string(),
                        rotten: is_rotten(&error).then_some(file.id),
                    };
                    self.done(transfer.group, failed);
                }
            }
            Job::Receive {
                from,
                chunk,
                id,
                ticket: _held,
            } => self.receive(from, chunk, id),
            Job::Abandon { transfer } => {
                let mut incoming = self.incoming.lock();
                let is_it = |known: &Incoming| known.transfer == transfer;
                if incoming.get(&transfer.group).is_some_and(is_it) {
                    // Its unfinished file goes with it.
                    incoming.remove(&transfer.group);
                }
            }
            // If it cannot be written, it is asked for again.
            Job::ForgetPromise { ticket: _held } => self.inbox.membership.forget_longer_promise(),
            Job::Delete { group, file } => {
                // What could not be deleted now is deleted at the next open.
                let _left = self.snapshots.remove(group, &file);
            }
            Job::Report {
                group,
                rejection,
                ticket: _held,
            } => self.report(group, &rejection),
        }
    }

    /// The caller's code, whose panics are its own: the panic hook has reported them.
    fn report(&self, group: GroupId, rejection: &Rejection) {
        let Some(observer) = &self.observer else {
            return;
        };
        let event = TransportEvent::MessageRefused {
            group,
            node: rejection.from,
            reason: rejection.reason.to_string(),
        };
        let _panicked = shielded(|| observer(&event));
    }

    fn done(&self, group: GroupId, done: JobDone<M>) {
        self.inbox.push(group, Event::Job(done));
    }

    fn save(
        &self,
        group: GroupId,
        meta: &SnapshotMeta,
        id: u64,
        image: quorate_kv::SessionsImage<M>,
    ) -> Result<SnapshotRef, String> {
        let create = self.create(group, meta, id);
        let mut writer = create.map_err(|error| error.to_string())?;
        image
            .write_to(&mut writer)
            .map_err(|error| error.to_string())?;
        writer.finish().map_err(|error| error.to_string())
    }

    /// Begins a snapshot file whose writing keeps to the rate.
    fn create(
        &self,
        group: GroupId,
        meta: &SnapshotMeta,
        id: u64,
    ) -> Result<SnapshotWriter, SnapshotError> {
        let writer = self
            .snapshots
            .create(group, meta.index.0, meta.term.0, id)?;
        let rest = Arc::clone(&self.rest);
        Ok(writer.rest_with(move |bytes| rest(bytes)))
    }

    fn send(
        &self,
        to: NodeId,
        transfer: SnapshotTransfer,
        meta: &SnapshotMeta,
        file: &SnapshotRef,
        from_bytes: u64,
        until_bytes: u64,
    ) -> Result<(), SnapshotError> {
        let mut reader = self.snapshots.open_reader(transfer.group, file)?;
        let mut offset_bytes = from_bytes;
        loop {
            let len = (until_bytes - offset_bytes).min(CHUNK_BYTES);
            let chunk = SnapshotChunk {
                transfer,
                meta: meta.clone(),
                total_bytes: file.bytes,
                offset_bytes,
                data: reader.read_at(offset_bytes, len as usize)?,
                content_crc: file.crc,
            };
            // A chunk that the transport does not take is asked for again.
            self.transport.send(to, Frame::SnapshotChunk(chunk));
            offset_bytes += len;
            if offset_bytes >= until_bytes {
                return Ok(());
            }
        }
    }

    fn receive(&self, from: NodeId, chunk: SnapshotChunk, id: u64) {
        let transfer = chunk.transfer;
        let status = match self.store(from, chunk, id) {
            Ok(None) => return,
            Ok(Some(next_bytes)) => SnapshotAckStatus::Next {
                offset_bytes: next_bytes,
            },
            Err(reason) => {
                self.incoming.lock().remove(&transfer.group);
                self.done(transfer.group, JobDone::ReceiveFailed { transfer, reason });
                SnapshotAckStatus::Refused
            }
        };
        self.transport
            .send(from, Frame::SnapshotAck(SnapshotAck { transfer, status }));
    }

    /// Stores a chunk. Returns the offset wanted next, or nothing if the snapshot is complete.
    fn store(&self, from: NodeId, chunk: SnapshotChunk, id: u64) -> Result<Option<u64>, String> {
        let group = chunk.transfer.group;
        let mut incoming = self.incoming.lock();
        let is_current = incoming
            .get(&group)
            .is_some_and(|known| known.transfer == chunk.transfer);
        if !is_current {
            if chunk.offset_bytes != 0 {
                return Err("its beginning is missing".to_owned());
            }
            let writer = self
                .create(group, &chunk.meta, id)
                .map_err(|error| error.to_string())?;
            let begun = Incoming {
                transfer: chunk.transfer,
                meta: chunk.meta.clone(),
                total_bytes: chunk.total_bytes,
                content_crc: chunk.content_crc,
                writer,
                next_bytes: 0,
                crc: crc32fast::Hasher::new(),
            };
            incoming.insert(group, begun);
        }
        let Some(known) = incoming.get_mut(&group) else {
            return Ok(None);
        };
        let is_same = known.meta == chunk.meta
            && known.total_bytes == chunk.total_bytes
            && known.content_crc == chunk.content_crc;
        if !is_same {
            return Err("its chunks contradict each other".to_owned());
        }
        if chunk.offset_bytes != known.next_bytes {
            // Repeated or ahead of a lost one: say what is wanted.
            return Ok(Some(known.next_bytes));
        }
        let next_bytes = known.next_bytes.saturating_add(chunk.data.len() as u64);
        if next_bytes > chunk.total_bytes || (chunk.data.is_empty() && chunk.total_bytes > 0) {
            return Err("its chunks do not add up to its length".to_owned());
        }
        known
            .writer
            .write(&chunk.data)
            .map_err(|error| error.to_string())?;
        known.crc.update(&chunk.data);
        known.next_bytes = next_bytes;
        if known.next_bytes < chunk.total_bytes {
            return Ok(Some(known.next_bytes));
        }
        let Some(complete) = incoming.remove(&group) else {
            return Ok(None);
        };
        drop(incoming);
        let received = self.complete(from, &chunk, complete)?;
        self.done(group, JobDone::Received(Box::new(received)));
        Ok(None)
    }

    fn complete(
        &self,
        from: NodeId,
        chunk: &SnapshotChunk,
        complete: Incoming,
    ) -> Result<Received<M>, String> {
        if complete.crc.finalize() != chunk.content_crc {
            return Err("its checksum does not fit what the leader announced".to_owned());
        }
        let file = complete
            .writer
            .finish()
            .map_err(|error| error.to_string())?;
        let group = chunk.transfer.group;
        let restored = restore(&self.snapshots, group, &file);
        let machine = restored.map_err(|unrestored| {
            // It is whole and published, and nothing will ever name it.
            let _left = self.snapshots.remove(group, &file);
            unrestored.reason
        })?;
        Ok(Received {
            from,
            transfer: chunk.transfer,
            meta: chunk.meta.clone(),
            file,
            machine,
        })
    }
}
