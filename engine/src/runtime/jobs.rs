//! The thread that reads and writes snapshot files, and tells observers what replicas refuse, for all nodes of a runtime.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use quorate_kv::StateMachine;
use quorate_wal::Snapshots;

use super::fate::Fate;
use super::pace::Pacer;
use super::threads::{self, Kind};
use crate::db::TransportObserver;
use crate::files::NodeFiles;
use crate::handoff::desk::told;
use crate::node::{Job, Jobs, NodeInbox};
use crate::transport::Transport;

/// The file thread of a runtime.
pub(crate) struct JobThread<M: StateMachine> {
    jobs: Sender<Order<M>>,
    pacer: Arc<Pacer>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Order<M: StateMachine> {
    Job(Arc<NodeFiles<M>>, Arc<Fate>, Job<M>),
    Barrier(Sender<()>),
    Stop,
}

/// One node's way to the file thread.
pub(crate) struct NodeJobs<M: StateMachine> {
    jobs: Sender<Order<M>>,
    files: Arc<NodeFiles<M>>,
    fate: Arc<Fate>,
    pacer: Arc<Pacer>,
}

impl<M: StateMachine> JobThread<M> {
    pub(super) fn start(pacer: Pacer) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        let pacer = Arc::new(pacer);
        let run_pacer = Arc::clone(&pacer);
        let name = "quorate-files".to_owned();
        let thread = threads::spawn(name, Kind::Service, move || run(&inbox, &run_pacer))?;
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
        fate: Arc<Fate>,
        observer: Option<TransportObserver>,
    ) -> NodeJobs<M> {
        let pacer = Arc::clone(&self.pacer);
        let rest = Arc::new(move |bytes| pacer.rest(bytes));
        NodeJobs {
            jobs: self.jobs.clone(),
            files: Arc::new(NodeFiles::new(snapshots, transport, inbox, rest, observer)),
            fate,
            pacer: Arc::clone(&self.pacer),
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
            self.pacer.hurry();
        }
        let _stopped = self.jobs.send(Order::Job(
            Arc::clone(&self.files),
            Arc::clone(&self.fate),
            job,
        ));
    }
}

fn run<M: StateMachine>(inbox: &Receiver<Order<M>>, pacer: &Pacer) {
    while let Ok(order) = inbox.recv() {
        // It hurried whoever was before it, and is in nobody's way itself.
        if order.hurries() {
            pacer.relax();
        }
        match order {
            Order::Job(files, fate, job) => {
                // The machine of a user writes and reads snapshots in here. Its node fails; others of the process go on.
                if let Err(panic) = threads::shielded(|| files.run(job)) {
                    fate.fail(format!(
                        "the thread quorate-files panicked: {}",
                        told(&*panic)
                    ));
                }
            }
            Order::Barrier(done) => drop(done),
            Order::Stop => return,
        }
    }
}

impl<M: StateMachine> Order<M> {
    /// Whether somebody waits for it who must not wait for the rate of what is before it.
    fn hurries(&self) -> bool {
        match self {
            Self::Job(_, _, job) => job.hurries(),
            Self::Barrier(_) | Self::Stop => true,
        }
    }
}

impl<M: StateMachine> Job<M> {
    /// Another node waits for these, and asks again if it waits too long.
    fn hurries(&self) -> bool {
        match self {
            Self::Send { .. } | Self::Receive { .. } => true,
            Self::Save { .. }
            | Self::Abandon { .. }
            | Self::ForgetPromise { .. }
            | Self::Delete { .. }
            | Self::Report { .. } => false,
        }
    }
}
