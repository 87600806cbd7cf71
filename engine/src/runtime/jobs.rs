//! The thread that reads and writes snapshot files, for all nodes of a runtime.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use quorate_kv::{Image, StateMachine};
use quorate_raft::{NodeId, SnapshotMeta};
use quorate_wal::{GroupId, SnapshotError, SnapshotRef, SnapshotWriter, Snapshots};

use super::pace::Pacer;
use crate::node::{CHUNK_BYTES, Event, Job, JobDone, Jobs, NodeInbox, Received, restore};
use crate::transport::{
    Frame, SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer, Transport,
};

/// The file thread of a runtime.
pub(crate) struct JobThread<M: StateMachine> {
    jobs: Sender<Order<M>>,
    pacer: Arc<Pacer>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Order<M: StateMachine> {
    Job(Arc<NodeFiles<M>>, Job<M>),
    Barrier(Sender<()>),
    Stop,
}

/// What a job needs of the node that it belongs to.
pub(crate) struct NodeFiles<M: StateMachine> {
    snapshots: Arc<Snapshots>,
    transport: Arc<dyn Transport>,
    inbox: Arc<NodeInbox<M>>,
    pacer: Arc<Pacer>,
    /// Transfers that are coming in, by group: each replica takes one at a time.
    incoming: Mutex<BTreeMap<GroupId, Incoming>>,
}

struct Incoming {
    transfer: SnapshotTransfer,
    writer: SnapshotWriter,
    next_bytes: u64,
    crc: crc32fast::Hasher,
}

/// One node's way to the file thread.
pub(crate) struct NodeJobs<M: StateMachine> {
    jobs: Sender<Order<M>>,
    files: Arc<NodeFiles<M>>,
}

impl<M: StateMachine> JobThread<M> {
    pub(super) fn start(pacer: Pacer) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        let pacer = Arc::new(pacer);
        let run_pacer = Arc::clone(&pacer);
        let thread = std::thread::Builder::new()
            .name("quorate-files".to_owned())
            .spawn(move || run(&inbox, &run_pacer))?;
        pacer.attach(thread.thread());
        Ok(Self {
            jobs,
            pacer,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn for_node(
        &self,
        snapshots: Arc<Snapshots>,
        transport: Arc<dyn Transport>,
        inbox: Arc<NodeInbox<M>>,
    ) -> NodeJobs<M> {
        let incoming = Mutex::new(BTreeMap::new());
        let files = Arc::new(NodeFiles {
            snapshots,
            transport,
            inbox,
            pacer: Arc::clone(&self.pacer),
            incoming,
        });
        NodeJobs {
            jobs: self.jobs.clone(),
            files,
        }
    }

    /// Returns once every job handed over before is done, so that a stopped node's files are at rest.
    pub(crate) fn settle(&self) {
        let (done, wait) = crossbeam::channel::bounded::<()>(0);
        self.pacer.hurry();
        if self.jobs.send(Order::Barrier(done)).is_ok() {
            let _disconnected = wait.recv();
        }
    }
}

impl<M: StateMachine> Drop for JobThread<M> {
    fn drop(&mut self) {
        self.pacer.hurry();
        let _gone = self.jobs.send(Order::Stop);
        if let Some(thread) = self.thread.get_mut().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

impl<M: StateMachine> Jobs<M> for NodeJobs<M> {
    fn submit(&self, job: Job<M>) {
        if job.hurries() {
            self.files.pacer.hurry();
        }
        let _stopped = self.jobs.send(Order::Job(Arc::clone(&self.files), job));
    }
}

fn run<M: StateMachine>(inbox: &Receiver<Order<M>>, pacer: &Pacer) {
    while let Ok(order) = inbox.recv() {
        // It hurried whoever was before it, and is in nobody's way itself.
        if order.hurries() {
            pacer.relax();
        }
        match order {
            Order::Job(files, job) => files.run(job),
            Order::Barrier(done) => drop(done),
            Order::Stop => return,
        }
    }
}

impl<M: StateMachine> Order<M> {
    /// Whether somebody waits for it who must not wait for the rate of what is before it.
    fn hurries(&self) -> bool {
        match self {
            Self::Job(_, job) => job.hurries(),
            Self::Barrier(_) | Self::Stop => true,
        }
    }
}

impl<M: StateMachine> Job<M> {
    /// Another node waits for these, and asks again if it waits too long.
    fn hurries(&self) -> bool {
        match self {
            Self::Send { .. } | Self::Receive { .. } => true,
            Self::Save { .. } | Self::Delete { .. } => false,
        }
    }
}

impl<M: StateMachine> NodeFiles<M> {
    fn run(&self, job: Job<M>) {
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
            } => {
                if let Err(error) = self.send(to, transfer, &meta, &file, from_bytes, until_bytes) {
                    let reason = error.to_string();
                    self.done(transfer.group, JobDone::SendFailed { transfer, reason });
                }
            }
            Job::Receive { from, chunk } => self.receive(from, chunk),
            Job::Delete { group, file } => {
                // What could not be deleted now is deleted at the next open.
                let _left = self.snapshots.remove(group, &file);
            }
        }
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
        let pacer = Arc::clone(&self.pacer);
        Ok(writer.rest_with(move |bytes| pacer.rest(bytes)))
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

    fn receive(&self, from: NodeId, chunk: SnapshotChunk) {
        let transfer = chunk.transfer;
        let status = match self.store(from, chunk) {
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
    fn store(&self, from: NodeId, chunk: SnapshotChunk) -> Result<Option<u64>, String> {
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
                .create(group, &chunk.meta, chunk.transfer.attempt)
                .map_err(|error| error.to_string())?;
            let begun = Incoming {
                transfer: chunk.transfer,
                writer,
                next_bytes: 0,
                crc: crc32fast::Hasher::new(),
            };
            incoming.insert(group, begun);
        }
        let Some(known) = incoming.get_mut(&group) else {
            return Ok(None);
        };
        if chunk.offset_bytes != known.next_bytes {
            // Repeated or ahead of a lost one: say what is wanted.
            return Ok(Some(known.next_bytes));
        }
        known
            .writer
            .write(&chunk.data)
            .map_err(|error| error.to_string())?;
        known.crc.update(&chunk.data);
        known.next_bytes += chunk.data.len() as u64;
        if known.next_bytes > chunk.total_bytes || (chunk.data.is_empty() && chunk.total_bytes > 0)
        {
            return Err("its chunks do not add up to its length".to_owned());
        }
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
        let mut reader = self
            .snapshots
            .open_reader(group, &file)
            .map_err(|error| error.to_string())?;
        let machine = restore(&mut reader, chunk.meta.index.0)?;
        Ok(Received {
            from,
            transfer: chunk.transfer,
            meta: chunk.meta.clone(),
            file,
            machine,
        })
    }
}
