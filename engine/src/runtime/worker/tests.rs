//! Workers with shards that a test attaches and detaches when it likes.

use std::path::Path;
use std::time::Instant;

use quorate_kv::{Map, Sessions};
use quorate_raft::{Config, LogIndex, NodeId, Raft, Role};
use quorate_wal::{GroupId, GroupState, Log, LogOptions, LogThread, MemoryDisk, WriteBatch};

use super::*;
use crate::membership::Membership;
use crate::node::{
    Announced, Job, Jobs, Limits, LogSpace, Outlet, Ports, Published, Replica, ReplicaOptions,
    Reports, ShardStatus, SnapshotState, StatusBoard, restored,
};
use crate::options::Options;
use crate::transport::{
    Frame, NoTransport, Origin, Refusal, Reply, ReplyBody, ReplySink, Request, RequestBody,
    RequestId,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Each with a shard and a group of its own.
const WORKERS: usize = 4;

struct NoJobs;

impl Jobs<Map> for NoJobs {
    fn submit(&self, _job: Job<Map>) {}
}

type View = <Map as StateMachine>::View;

/// A group of one on this node, alone in its shard.
fn shard(
    log: &Arc<Log>,
    group: GroupId,
    handle: &ShardHandle<Map>,
) -> (Shard<Map>, Arc<Published<View>>) {
    let config = Config {
        voters: vec![NodeId(1)],
    };
    let start = restored(NodeId(1), &config, None).expect("nothing is restored");
    let raft = Raft::new(Options::default().raft(1), start, 0).expect("a fresh replica");
    let options = ReplicaOptions {
        snapshot_log_bytes: u64::MAX / 2,
        trailing_entries: 0,
        snapshot_bytes_max: u64::MAX,
        transfer_timeout_ns: 1_000_000_000,
        read_wait_ns: 1,
    };
    let state = SnapshotState::new(None, 0);
    let replica = Replica::new(group, raft, Sessions::default(), state, options);
    let published = Arc::clone(replica.published());
    let ports = Ports {
        log: Arc::clone(log),
        transport: Arc::new(NoTransport),
        jobs: Arc::new(NoJobs),
        limits: Arc::new(Limits::new(Announced {
            entry_bytes_max: 1 << 20,
            election_timeout_ns: 500_000_000,
        })),
        rejections: Arc::default(),
        reports: Reports::default(),
        membership: Arc::new(Membership::alone(NodeId(1))),
        status: ShardStatus {
            board: Arc::new(StatusBoard::new(std::iter::empty(), 1, 500_000_000)),
            shard: 0,
        },
    };
    let space = LogSpace::new(u64::MAX / 4, Arc::default());
    let shard = Shard::new(NodeId(1), vec![replica], ports, space, 0, handle.flag());
    (shard, published)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::yield_now();
    }
}

/// Something that no shard waits for becomes durable, and all observers are told.
fn move_log(log: &Arc<Log>) {
    let mut batch = WriteBatch::new();
    batch.set_state(GroupId(99), GroupState::default());
    log.commit(batch).expect("memory");
}

#[test]
fn a_shard_that_is_attached_after_the_log_moved_hears_of_the_log() {
    let disk = Arc::new(MemoryDisk::new());
    let (log, _) =
        Log::open(disk, Path::new("/wal"), LogOptions::default()).expect("a fresh log opens");
    let _thread = LogThread::spawn(Arc::clone(&log), "quorate-log-test").expect("a thread");
    let workers: Workers<Map> =
        Workers::start(WORKERS, 1_024, Clock::start()).expect("there are threads");
    let handles: Vec<_> = (0..WORKERS)
        .map(|worker| workers.handle(worker, 7))
        .collect();
    for handle in &handles {
        log.add_observer(Arc::new(handle.clone()));
    }
    move_log(&log);
    for (group, handle) in (0..).map(GroupId).zip(&handles) {
        eventually("the move is told", || handle.flag().is_up());
        // An order that is answered: the worker has taken, and dropped, what was in front of it.
        handle.detach(false, true);
        let (shard, published) = shard(&log, group, handle);
        handle.attach(Resident::new(shard, Arc::default()));
        handle.push(Event::Campaign { group });
        // Only a vote of its own that it knows to be durable makes it the leader.
        eventually("the shard's group has a leader", || {
            published.role() == Role::Leader
        });
    }
    for handle in &handles {
        handle.detach(true, true);
    }
}

/// Keeps what it is answered.
#[derive(Default)]
struct Heard(Mutex<Vec<(RequestId, Result<ReplyBody, Refusal>)>>);

impl ReplySink for Heard {
    fn reply(&self, reply: Reply) {
        self.0.lock().push((reply.id, reply.result));
    }
}

/// Dropped, they would wait for an answer that nobody gives.
#[test]
fn what_comes_for_a_shard_that_is_not_there_is_answered_where_nobody_asks_again() {
    let workers: Workers<Map> = Workers::start(1, 1_024, Clock::start()).expect("a thread");
    let handle = workers.handle(0, 7);
    let heard = Arc::new(Heard::default());
    let sink = Arc::clone(&heard) as Arc<dyn ReplySink>;
    let request = Request {
        id: RequestId(1),
        group: GroupId(0),
        body: RequestBody::ReadIndex,
    };
    let origin = Origin::Clerk(Arc::clone(&sink));
    assert!(handle.offer(Event::Frame(origin, Frame::Request(request))));
    handle.push(Event::WaitApplied {
        group: GroupId(0),
        index: LogIndex(1),
        outlet: Outlet::sink(RequestId(2), sink),
    });
    let (told, hears) = crossbeam::channel::bounded::<()>(1);
    let group = GroupId(0);
    let with = Box::new(move |_: &Replica<Map>| drop(told));
    handle.push(Event::Inspect { group, with });
    handle.detach(true, true);
    let stopping = |id| (RequestId(id), Err(Refusal::Stopping));
    assert_eq!(*heard.0.lock(), [stopping(1), stopping(2)]);
    let gone = hears.recv_timeout(DEADLINE);
    assert_eq!(
        gone,
        Err(crossbeam::channel::RecvTimeoutError::Disconnected)
    );
}
