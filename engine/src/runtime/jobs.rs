//! The threads that read and write snapshot files, and tell observers what replicas refuse, for all nodes of a runtime: one for
//! each [`Lane`].
//!
//! What another node waits for never waits behind what this one writes for itself, however long that takes: a disk that takes
//! ten seconds for a save would end every transfer. Sending does not wait behind storing, which reads a whole snapshot back.

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
use crate::node::{Job, Jobs, LANES, Lane, NodeInbox};
use crate::transport::Transport;

/// The file threads of a runtime.
pub(crate) struct JobThreads<M: StateMachine> {
    /// As [`LANES`] has them.
    lanes: Lanes<M>,
    pacer: Arc<Pacer>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Lanes<M> = [Sender<Order<M>>; LANES.len()];

enum Order<M: StateMachine> {
    Job(Arc<NodeFiles<M>>, Arc<Fate>, Job<M>),
    Barrier(Sender<()>),
    Stop,
}

/// One node's way to the file threads.
pub(crate) struct NodeJobs<M: StateMachine> {
    lanes: Lanes<M>,
    files: Arc<NodeFiles<M>>,
    fate: Arc<Fate>,
}

impl Lane {
    fn thread(self) -> &'static str {
        match self {
            Self::Save => "quorate-save",
            Self::Send => "quorate-send",
            Self::Receive => "quorate-receive",
            Self::Report => "quorate-report",
        }
    }
}

impl<M: StateMachine> JobThreads<M> {
    pub(super) fn start(pacer: Pacer) -> io::Result<Self> {
        let pacer = Arc::new(pacer);
        let channels = LANES.map(|lane| (lane, unbounded()));
        let lanes = channels.each_ref().map(|(_, (jobs, _))| jobs.clone());
        // An early return drops it, which ends the threads begun so far.
        let started = Self {
            lanes,
            pacer: Arc::clone(&pacer),
            threads: Mutex::default(),
        };
        for (lane, (_, inbox)) in channels {
            let name = lane.thread();
            let run_pacer = Arc::clone(&pacer);
            let thread = threads::spawn(name.to_owned(), Kind::Service, move || {
                run(name, &inbox, &run_pacer);
            })?;
            if lane == Lane::Save {
                pacer.attach(thread.thread());
            }
            started.threads.lock().push(thread);
        }
        Ok(started)
    }

    pub(crate) fn for_node(
        &self,
        snapshots: Arc<Snapshots>,
        transport: Arc<dyn Transport>,
        inbox: Arc<NodeInbox<M>>,
        fate: Arc<Fate>,
        observer: Option<TransportObserver>,
    ) -> NodeJobs<M> {
        let (rests, counts) = (Arc::clone(&self.pacer), Arc::clone(&self.pacer));
        let rest = Arc::new(move |bytes| rests.rest(bytes));
        let count = Arc::new(move |bytes| counts.count(bytes));
        NodeJobs {
            lanes: self.lanes.clone(),
            files: Arc::new(NodeFiles::new(
                snapshots, transport, inbox, rest, count, observer,
            )),
            fate,
        }
    }

    /// Returns once every job handed over before is done, so that a stopped node's files are at rest.
    pub(crate) fn settle(&self) {
        let (done, wait) = crossbeam::channel::bounded::<()>(0);
        self.order_all(|| Order::Barrier(done.clone()));
        drop(done);
        let _disconnected = wait.recv();
    }

    /// Gives each lane an order that nobody may wait for long for.
    fn order_all(&self, order: impl Fn() -> Order<M>) {
        for lane in &self.lanes {
            self.pacer.hurry();
            if lane.send(order()).is_err() {
                self.pacer.relax();
            }
        }
    }
}

impl<M: StateMachine> Drop for JobThreads<M> {
    fn drop(&mut self) {
        self.order_all(|| Order::Stop);
        for thread in self.threads.get_mut().drain(..) {
            if thread.thread().id() != std::thread::current().id() {
                let _panicked = thread.join();
            }
        }
    }
}

impl<M: StateMachine> Jobs<M> for NodeJobs<M> {
    fn submit(&self, job: Job<M>) {
        let lane = &self.lanes[job.lane() as usize];
        let _stopped = lane.send(Order::Job(
            Arc::clone(&self.files),
            Arc::clone(&self.fate),
            job,
        ));
    }
}

fn run<M: StateMachine>(name: &str, inbox: &Receiver<Order<M>>, pacer: &Pacer) {
    while let Ok(order) = inbox.recv() {
        // An order that is no job hurried whoever was before it, and is in nobody's way itself.
        match order {
            Order::Job(files, fate, job) => {
                // The machine of a user writes and reads snapshots in here. Its node fails; others of the process go on.
                if let Err(panic) = threads::shielded(|| files.run(job)) {
                    fate.fail(format!("the thread {name} panicked: {}", told(&*panic)));
                }
            }
            Order::Barrier(done) => {
                pacer.relax();
                drop(done);
            }
            Order::Stop => {
                pacer.relax();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use quorate_raft::NodeId;
    use quorate_wal::{Disk, GroupId};

    use super::*;
    use crate::transport::Consistency;
    use crate::trouble::{Trouble, TroubledDisk};
    use crate::{Cluster, Options};

    const GROUP: GroupId = GroupId(0);
    const DEADLINE: Duration = Duration::from_secs(10);

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < DEADLINE, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a disk go on when the test ends, however it does.
    struct GoesOn(Arc<Trouble>);

    impl Drop for GoesOn {
        fn drop(&mut self) {
            self.0.stick(false);
        }
    }

    /// The nodes share their threads, so that the save stands before what the leader sends and the follower stores alike.
    #[test]
    fn a_snapshot_comes_to_a_follower_while_a_save_does_not_end() {
        let disks: Vec<Arc<TroubledDisk>> = (0..3).map(|_| Arc::default()).collect();
        let of = |node: NodeId| Arc::clone(&disks[node.0 as usize - 1]) as Arc<dyn Disk>;
        let options = Options {
            trailing_entries: 0,
            ..Options::default()
        };
        let builder = Cluster::builder().nodes(3).options(options);
        let cluster = builder.start_on_disks(of).expect("it starts");
        let clerk = cluster.clerk();
        clerk.put("k", "1").expect("a majority lives");
        let leader = cluster.leader().expect("one leads");
        let lagging = NodeId(leader.0 % 3 + 1);
        assert!(cluster.crash(lagging));
        clerk.put("k", "2").expect("a majority lives");
        let db = cluster.db(leader).expect("it runs");
        db.snapshot(GROUP).expect("its disk is well");
        eventually("its log is cut", || {
            let first = db.inspect(GROUP, |it| it.raft().first_index());
            first.is_ok_and(|first| first.0 > 2)
        });
        let trouble = Arc::clone(&disks[leader.0 as usize - 1].trouble);
        *trouble.stuck_thread.lock() = Some(Lane::Save.thread());
        let _goes_on = GoesOn(Arc::clone(&trouble));
        trouble.stick(true);
        clerk.put("k", "3").expect("a majority lives");
        let _stands = db.snapshot_async(GROUP);
        eventually("the save stands", || trouble.keeps_waiting());
        cluster.restart(lagging).expect("it opens");
        let theirs = cluster.db(lagging).expect("it runs");
        eventually("the follower has it", || {
            theirs.get_with("k", Consistency::Stale) == Ok(Some("3".into()))
        });
        let snapshot = theirs.inspect(GROUP, |it| it.raft().snapshot().index);
        assert!(snapshot.is_ok_and(|index| index.0 > 0), "by a snapshot");
    }
}
