//! Threads that end, and callers' code that does odd things on them: the node stops by name, or
//! nothing happens at all.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_raft::{LogIndex, NodeId, Role};
use quorate_wal::{Disk, GroupId, MemoryDisk};

use super::{Clock, Runtime, Timer};
use crate::client::{Client, ClientLife, Link, ReadWants};
use crate::options::Options;
use crate::partition::Partitioner;
use crate::pending::Pending;
use crate::transport::tcp::{TcpOptions, TcpTransport, TransportEvent};
use crate::transport::{
    Consistency, Frame, Inbox, NoTransport, Origin, Request, RequestId, Transport,
};
use crate::trouble::{Trouble, TroubledDisk};
use crate::{Clerk, Cluster, Db, Error};

const GROUP: GroupId = GroupId(0);

/// How long anything may take before a test calls it hung.
const DEADLINE: Duration = Duration::from_secs(10);

/// Calls that are not failed by name end long after the deadline of the test.
fn options(workers: usize) -> Options {
    let mut options = Options {
        election_timeout: Duration::from_millis(150),
        heartbeat_interval: Duration::from_millis(30),
        retry_after: Duration::from_millis(150),
        call_timeout: DEADLINE * 6,
        workers,
        ..Options::default()
    };
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 64 << 10;
    options.log.entry_bytes_max = 32 << 10;
    options.log.batch_bytes_max = 64 << 10;
    options
}

/// Does something that must not hang, on a thread of its own: a test that fails leaves it behind.
fn in_time<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let _late = done.send(call());
    });
    let result = wait.recv_timeout(DEADLINE);
    result.unwrap_or_else(|error| panic!("{what}: {error} after {DEADLINE:?}"))
}

/// A test whose threads may wait for each other for ever if it fails, also while they are taken
/// down: it fails all the same.
fn bounded(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _late = done.send(());
    });
    match wait.recv_timeout(DEADLINE * 4) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Everything that a node says of itself once it failed.
fn assert_failed_openly(db: &Db, thread: &str) {
    eventually("the node says why it failed", || {
        db.stats()
            .failure
            .is_some_and(|reason| reason.contains(thread))
    });
    eventually("it leads nothing and follows nobody", || {
        let status = db.status();
        status
            .iter()
            .all(|group| group.role == Role::Follower && group.leader.is_none())
    });
    // A call may come through in the moment before the callers are told.
    eventually("writes fail by name", || {
        let theirs = db.clone();
        let put = in_time("a write at a node that failed", move || {
            theirs.put("after", "1")
        });
        assert!(matches!(put, Ok(()) | Err(Error::Failed { .. })), "{put:?}");
        matches!(&put, Err(Error::Failed { reason }) if reason.contains(thread))
    });
    for consistency in [
        Consistency::Stale,
        Consistency::Lease,
        Consistency::Linearizable,
    ] {
        let theirs = db.clone();
        let get = in_time("a read at a node that failed", move || {
            theirs.get_with("k", consistency)
        });
        assert!(matches!(get, Err(Error::Failed { .. })), "{get:?}");
    }
    let theirs = db.clone();
    let trouble = in_time("trouble", move || theirs.trouble(GROUP));
    assert!(
        matches!(&trouble, Ok(Some(reason)) if reason.contains(thread)),
        "{trouble:?}"
    );
    let theirs = db.clone();
    let digest = in_time("digest", move || theirs.digest(GROUP));
    assert!(matches!(digest, Err(Error::Failed { .. })), "{digest:?}");
}

/// A cluster, and each node's way to make its disk misbehave.
fn troubled(nodes: u64, options: Options) -> (Cluster, Vec<Arc<Trouble>>) {
    let disks: Vec<Arc<TroubledDisk>> = (0..nodes).map(|_| Arc::default()).collect();
    let builder = Cluster::builder().nodes(nodes).groups(4).options(options);
    let of = |node: NodeId| Arc::clone(&disks[node.0 as usize - 1]) as Arc<dyn Disk>;
    let cluster = builder.start_on_disks(of).expect("it starts");
    let troubles = disks.iter().map(|disk| Arc::clone(&disk.trouble)).collect();
    (cluster, troubles)
}

/// A thread of the leader of group 0 panics: the node stops by name, the others go on, and it can
/// be started again.
fn a_thread_of_a_leader_ends(
    options: Options,
    thread: &'static str,
    provoke: impl Fn(&Db, &Trouble),
) {
    let (cluster, troubles) = troubled(3, options);
    let clerk = cluster.clerk();
    clerk.put("k", "1").expect("a majority lives");
    let leader = cluster.leader().expect("one leads");
    // The threads of a log are named after their node.
    let thread = thread.replace('#', &leader.0.to_string());
    let trouble = &troubles[leader.0 as usize - 1];
    *trouble.panics_on.lock() = Some(Box::leak(thread.clone().into_boxed_str()));
    let db = cluster.db(leader).expect("it runs");
    eventually("the node says why it failed", || {
        // Again, as another thread may write for the worker.
        provoke(&db, trouble);
        db.stats().failure.is_some_and(|it| it.contains(&thread))
    });
    *trouble.panics_on.lock() = None;
    assert_failed_openly(&db, &thread);
    let theirs = clerk.clone();
    in_time("a write while a majority lives", move || {
        theirs.put("k", "2").expect("the others elect");
    });
    assert_ne!(cluster.leader(), Ok(leader));
    in_time("closing what failed", move || db.close());
    assert!(cluster.crash(leader));
    cluster.restart(leader).expect("it opens again");
    let theirs = cluster.db(leader).expect("it runs");
    let value = in_time("a read at the node", move || theirs.get("k"));
    assert_eq!(value, Ok(Some("2".into())));
    in_time("the end of all", move || drop((clerk, cluster)));
}

fn write_on(db: &Db) {
    // Calls that nobody waits for: they end when their node does.
    for number in 0..64 {
        let _ends = db.put_async(format!("{number}"), vec![0; 16 << 10]);
    }
}

#[test]
fn a_worker_that_panics_stops_its_node_openly() {
    bounded(|| {
        for workers in [1, 4] {
            a_thread_of_a_leader_ends(options(workers), "quorate-work-0", |db, _| {
                let inspected = db.inspect(GROUP, |_| panic!("a panic that the test wants"));
                assert!(
                    matches!(inspected, Err(Error::Failed { .. } | Error::Closed)),
                    "{inspected:?}"
                );
            });
        }
    });
}

/// Only a node without peers writes on its workers.
#[test]
fn a_worker_that_panics_while_it_writes_stops_its_node_openly() {
    bounded(|| {
        let (cluster, troubles) = troubled(1, options(1));
        let db = cluster.db(NodeId(1)).expect("it runs");
        db.put("k", "v").expect("it is alone");
        *troubles[0].panics_on.lock() = Some("quorate-work-0");
        write_on(&db);
        assert_failed_openly(&db, "quorate-work-0");
    });
}

#[test]
fn a_log_thread_that_panics_stops_its_node_openly() {
    bounded(|| {
        let mut options = options(4);
        options.log.inline_writes = false;
        a_thread_of_a_leader_ends(options, "quorate-log-#", |db, _| write_on(db));
    });
}

#[test]
fn a_preparer_that_panics_stops_its_node_openly() {
    bounded(|| {
        a_thread_of_a_leader_ends(options(1), "quorate-log-#-prepare", |db, _| write_on(db));
    });
}

#[test]
fn a_file_thread_that_panics_stops_its_node_openly() {
    bounded(|| {
        a_thread_of_a_leader_ends(options(4), "quorate-save", |db, _| {
            let snapshot = db.snapshot(GROUP);
            let is_named = matches!(&snapshot, Err(Error::Failed { reason }) if reason.contains("quorate-save"));
            assert!(is_named || snapshot == Err(Error::Closed), "{snapshot:?}");
        });
    });
}

#[test]
fn a_lone_node_that_fails_tells_its_observer_and_its_callers_and_can_be_opened_again() {
    bounded(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let (told, heard) = mpsc::channel();
        let db = Db::builder(&path)
            .options(options(1))
            .observer(move |event| {
                let _over = told.send(event.clone());
            })
            .open()
            .expect("a fresh node");
        db.put("k", "v").expect("it is alone");
        let _failed = db.inspect(GROUP, |_| panic!("a panic that the test wants"));
        let told = heard.iter().take(3).find_map(|event| match event {
            TransportEvent::NodeFailed { reason } => Some(reason),
            _ => None,
        });
        let reason = told.expect("the observer is told");
        assert!(reason.contains("quorate-work-0"), "{reason}");
        assert_failed_openly(&db, "quorate-work-0");
        // The old handle is still there: its directory is free all the same, once it has stopped.
        eventually("the directory is free", || {
            Db::builder(&path).options(options(1)).open().is_ok()
        });
        in_time("dropping what failed", move || drop(db));
        let db = Db::open(&path).expect("it opens again");
        assert_eq!(db.get("k"), Ok(Some("v".into())));
    });
}

/// Polls a call once with a waker; it is woken later.
fn poll_once<T>(pending: &mut Pending<T>, waker: &Waker) -> bool {
    Pin::new(pending)
        .poll(&mut Context::from_waker(waker))
        .is_ready()
}

/// Calls something when it is woken, once.
struct OnWake(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl OnWake {
    fn waker(call: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Self(Mutex::new(Some(Box::new(call))))))
    }
}

impl Wake for OnWake {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().take();
        if let Some(call) = call {
            call();
        }
    }
}

/// Writes until an answer comes late enough to wake. What is written is woken as long as it is kept.
fn woken_by_a_write(db: &Clerk, call: impl FnOnce() + Send + 'static) -> Pending<()> {
    let waker = OnWake::waker(call);
    loop {
        let mut put = db.put_async("k", vec![0; 16 << 10]);
        if !poll_once(&mut put, &waker) {
            return put;
        }
    }
}

#[test]
fn a_waker_that_panics_ends_no_worker() {
    bounded(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let db = Db::builder(dir.path())
            .options(options(1))
            .open()
            .expect("a fresh node");
        let (told, heard) = mpsc::channel();
        let _kept = woken_by_a_write(&db, move || {
            let _over = told.send(());
            panic!("a panic that the test wants");
        });
        heard.recv_timeout(DEADLINE).expect("it is woken");
        let theirs = db.clone();
        let put = in_time("a write", move || theirs.put("k", "v"));
        assert_eq!(put, Ok(()));
        assert_eq!(db.stats().failure, None);
    });
}

/// The last handle dropped in a waker waited on its worker for that worker, for ever, and kept the
/// directory.
#[test]
fn the_last_handle_may_be_dropped_or_closed_by_a_waker() {
    bounded(|| {
        for (closes, is_inline) in [(false, false), (true, false), (false, true), (true, true)] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut options = options(1);
            options.inline_wakers = is_inline;
            let builder = Db::builder(dir.path()).options(options.clone());
            let db = builder.open().expect("a fresh node");
            db.put("before", "v").expect("it is alone");
            let last: Arc<Mutex<Option<Db>>> = Arc::new(Mutex::new(Some(db.clone())));
            let theirs = Arc::clone(&last);
            let (told, heard) = mpsc::channel();
            let call = move || {
                let db = theirs.lock().take().expect("it was put there");
                let (trouble, digest) = (db.trouble(GROUP), db.digest(GROUP));
                // Waited for its own thread until the call was over its deadline, and so did all
                // groups of the worker.
                let put = db.put("k", "from a waker");
                if closes {
                    db.close();
                }
                drop(db);
                let _over = told.send((trouble, digest, put));
            };
            let _kept = woken_by_a_write(&db, call);
            drop(db);
            let answers = heard.recv_timeout(DEADLINE).expect("the waker goes on");
            if is_inline {
                // On the worker itself, which the program wanted.
                let own = || Error::OwnThread;
                assert_eq!(answers, (Err(own()), Err(own()), Err(own())));
            } else {
                let (trouble, digest, put) = answers;
                assert_eq!((trouble, put), (Ok(None), Ok(())));
                assert!(digest.is_ok(), "{digest:?}");
            }
            eventually("the directory is free", || {
                let builder = Db::builder(dir.path()).options(options.clone());
                builder.open().is_ok()
            });
        }
    });
}

#[test]
fn the_last_handle_of_a_clerk_may_be_dropped_by_a_waker() {
    bounded(|| {
        let cluster = Cluster::builder()
            .options(options(1))
            .start()
            .expect("it starts");
        let clerk = cluster.clerk();
        clerk.put("k", "v").expect("a majority lives");
        let last: Arc<Mutex<Option<Clerk>>> = Arc::new(Mutex::new(Some(clerk.clone())));
        let (told, heard) = mpsc::channel();
        let _kept = woken_by_a_write(&clerk, move || {
            drop(last.lock().take());
            let _over = told.send(());
        });
        drop(clerk);
        heard.recv_timeout(DEADLINE).expect("the waker goes on");
        let clerk = cluster.clerk();
        let put = in_time("a write of another clerk", move || clerk.put("k", "v"));
        assert_eq!(put, Ok(()));
    });
}

/// Loses what it is given, until the timer asks again.
struct PanickingLink;

impl Link for PanickingLink {
    fn send(&self, _to: NodeId, _request: Request) -> bool {
        let present = std::thread::current();
        assert!(
            present.name() != Some("quorate-timer"),
            "a panic that the test wants"
        );
        true
    }

    fn wait_applied(&self, _group: GroupId, _index: LogIndex, _id: RequestId) {}

    fn stop(&self) {}
}

#[test]
fn a_client_that_panics_on_the_timer_fails_its_calls_and_nobody_else_s() {
    bounded(|| {
        let clock = Clock::start();
        let timer = Timer::start(clock, false).expect("a thread");
        let client = Client::new(
            Arc::new(PanickingLink),
            &[NodeId(1), NodeId(2)],
            Partitioner::hashed(1),
            &options(1),
            clock,
            Arc::clone(&timer),
            ClientLife::without_owner(1),
        );
        let ask = |client: &Client| {
            let (pending, completer) = Pending::new(|answer| answer);
            let wants = ReadWants::Answer(Consistency::Linearizable, bytes::Bytes::new());
            client.read(GROUP, wants, completer);
            pending
        };
        let first = ask(&client);
        let answer = in_time("a call that waits", move || first.wait());
        assert!(
            matches!(&answer, Err(Error::Failed { reason }) if reason.contains("quorate-timer")),
            "{answer:?}"
        );
        let second = ask(&client);
        assert!(second.is_ready(), "refused at once");

        // The timer goes on for the other clients of the process.
        let mut quick = options(1);
        quick.call_timeout = Duration::from_millis(20);
        quick.retry_after = DEADLINE * 6;
        let other = Client::new(
            Arc::new(PanickingLink),
            &[NodeId(1)],
            Partitioner::hashed(1),
            &quick,
            clock,
            timer,
            ClientLife::without_owner(2),
        );
        let third = ask(&other);
        let answer = in_time("a call with a deadline", move || third.wait());
        assert!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
    });
}

/// Panics at the first frame, or takes it, and tells what it hears.
struct Ear {
    panics: bool,
    heard: Mutex<mpsc::Sender<Result<(), String>>>,
}

impl Inbox for Ear {
    fn deliver(&self, _from: Origin, _frame: Frame) {
        assert!(!self.panics, "a panic that the test wants");
        let _over = self.heard.lock().send(Ok(()));
    }

    fn failed(&self, reason: &str) {
        let _over = self.heard.lock().send(Err(reason.to_owned()));
    }
}

/// Two nodes; the second one tells what its inbox hears when the first one sends.
fn two_nodes(panics: bool, observer_panics: bool) -> Result<(), String> {
    let (told, heard) = mpsc::channel();
    let ear = |panics| {
        Arc::new(Ear {
            panics,
            heard: Mutex::new(told.clone()),
        })
    };
    let nowhere = "127.0.0.1:1".to_owned();
    let peers = [(NodeId(1), nowhere.clone())];
    let mut options = TcpOptions::new(NodeId(2), 7, "127.0.0.1:0", peers);
    if observer_panics {
        options.observer = Some(Arc::new(|_event| panic!("a panic that the test wants")));
    }
    let second = TcpTransport::bind(options.clone(), ear(panics)).expect("a port is free");
    let peers = [(NodeId(2), second.local_addr().to_string())];
    options.node = NodeId(1);
    options.peers = peers.to_vec();
    let first = TcpTransport::bind(options, ear(false)).expect("a port is free");
    let began = Instant::now();
    loop {
        first.send(NodeId(2), Frame::Raft(Vec::new()));
        match heard.recv_timeout(Duration::from_millis(20)) {
            Ok(heard) => return heard,
            Err(_) => assert!(began.elapsed() < DEADLINE, "nothing was heard"),
        }
    }
}

#[test]
fn a_transport_thread_that_panics_is_told() {
    bounded(|| {
        let heard = two_nodes(true, false);
        assert_eq!(heard, Err("the thread quorate-serve panicked".to_owned()));
    });
}

#[test]
fn an_observer_that_panics_ends_no_thread_of_the_transport() {
    bounded(|| {
        assert_eq!(two_nodes(false, true), Ok(()));
    });
}

/// What a transport tells ends in the node's fate.
#[test]
fn a_node_whose_transport_fails_stops_openly() {
    bounded(|| {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let builder = Db::builder("/node").options(options(1));
        let setup = builder.setup(disk, 1).expect("sound");
        let runtime = Runtime::start(&setup.options).expect("threads");
        let kept: OnceLock<Arc<dyn Inbox>> = OnceLock::new();
        let db = Db::start(&setup, &[NodeId(1)], &runtime, None, |inbox| {
            assert!(kept.set(inbox).is_ok(), "one transport");
            Ok(Arc::new(NoTransport))
        });
        let db = db.expect("a fresh node");
        db.put("k", "v").expect("it is alone");
        let inbox = kept.get().expect("one transport");
        inbox.failed("the thread quorate-serve panicked");
        assert_failed_openly(&db, "quorate-serve");
    });
}
