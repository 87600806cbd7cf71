//! Real clusters, real threads, judged by what their clients saw.
//!
//! Clients put, append, get, delete and swap on a few keys while nodes crash and come back and, over memory, links are
//! cut and nodes isolated. Both judges read the record: the exact one all of it, the one for appends those keys that are only
//! appended to and read. An undecided verdict is a failure. A record that is falsified by one answer must be found out, so
//! that the judges are known to have looked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::transport::memory::Endpoint;
use quorate::{Clerk, Cluster, Consistency, Db, Error, NodeId, Options, TransportKind};
use quorate_sim::judge::{
    AppendViolation, ClientId, ClientOrder, History, Op, OpId, Operation, Response, Verdict,
    check_appends, check_linearizable,
};

/// Clients that call from outside, each with a clerk of its own.
const CLERKS: u64 = 3;

/// Clients on nodes, which read from the replica there.
const LOCALS: u64 = 3;

/// Operations of each client.
const CALLS: usize = 160;

/// Keys of any operation, and keys that are only appended to and read.
const MIXED_KEYS: u64 = 4;
const APPEND_KEYS: u64 = 3;

/// Enough for what these tests record, and soon over when something is wrong.
const STEPS_MAX: u64 = 3_000_000;

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn crashes_over_memory_with_links_cut_leave_a_linearizable_history() {
    let seed = seed("crashes_over_memory_with_links_cut_leave_a_linearizable_history");
    judge(&record(TransportKind::Memory, None, seed));
}

#[test]
fn crashes_over_tcp_leave_a_linearizable_history() {
    let seed = seed("crashes_over_tcp_leave_a_linearizable_history");
    judge(&record(TransportKind::Tcp, None, seed));
}

#[test]
fn crashes_with_files_leave_a_linearizable_history() {
    let seed = seed("crashes_with_files_leave_a_linearizable_history");
    let root = tempfile::tempdir().expect("a directory");
    judge(&record(TransportKind::Memory, Some(root.path()), seed));
}

/// Both judges must be satisfied, and one falsified answer must satisfy neither.
fn judge(operations: &[Operation]) {
    let unknown = operations
        .iter()
        .filter(|o| o.response == Response::Unknown)
        .count();
    eprintln!(
        "{} operations, {unknown} of unknown outcome",
        operations.len()
    );
    let verdict = check_linearizable(operations, STEPS_MAX);
    assert!(verdict.is_linearizable(), "{verdict}");
    let appends: Vec<Operation> = operations
        .iter()
        .filter(|operation| operation.op.key().starts_with(b"append/"))
        .cloned()
        .collect();
    let seen = check_appends(&appends, ClientOrder::Kept).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(
        seen.appends > 50 && seen.reads > 50,
        "the record shows something: {seen:?}"
    );

    let falsified = with_a_stale_read(&appends);
    let verdict = check_linearizable(&falsified, STEPS_MAX);
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
    let wrong = check_appends(&falsified, ClientOrder::Kept).expect_err("a read of the past");
    assert!(
        matches!(
            wrong,
            AppendViolation::StaleRead { .. } | AppendViolation::Lost { .. }
        ),
        "{wrong}"
    );
}

/// The record with one read's answer replaced by what the key held before an append that was answered earlier.
fn with_a_stale_read(operations: &[Operation]) -> Vec<Operation> {
    let mut falsified = operations.to_vec();
    let read = falsified
        .iter_mut()
        .rev()
        .find(|operation| match &operation.response {
            Response::Value(Some(_)) => operations.iter().any(|earlier| {
                matches!(earlier.response, Response::Length(_))
                    && earlier.op.key() == operation.op.key()
                    && earlier
                        .completed
                        .is_some_and(|completed| completed < operation.invoked)
            }),
            _ => false,
        })
        .expect("some key was read after an append was answered");
    read.response = Response::Value(None);
    falsified
}

/// Runs a cluster under faults until every client has made its calls, then reads every key once more.
fn record(transport: TransportKind, dir: Option<&std::path::Path>, seed: u64) -> Vec<Operation> {
    let mut options = Options::default();
    options.election_timeout = Duration::from_millis(150);
    options.heartbeat_interval = Duration::from_millis(15);
    options.retry_after = Duration::from_millis(100);
    options.call_timeout = DEADLINE;
    options.snapshot_log_bytes = 8 << 10;
    options.trailing_entries = 8;
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 256 << 10;
    options.log.entry_bytes_max = 64 << 10;
    options.log.batch_bytes_max = 256 << 10;
    let mut builder = Cluster::builder().transport(transport).options(options);
    if let Some(dir) = dir {
        builder = builder.dir(dir);
    }
    let cluster = builder.start().expect("a cluster starts");
    let recorder = Recorder {
        history: History::new(),
        began: Instant::now(),
    };
    let running = AtomicUsize::new((CLERKS + LOCALS) as usize);
    std::thread::scope(|scope| {
        for client in 0..CLERKS + LOCALS {
            let (cluster, recorder, running) = (&cluster, &recorder, &running);
            scope.spawn(move || {
                let _ends = Ends(running);
                run_client(cluster, recorder, client, seed);
            });
        }
        scope.spawn(|| break_things(&cluster, seed, &running));
    });
    let clerk = cluster.clerk();
    let all = (0..MIXED_KEYS)
        .map(mixed_key)
        .chain((0..APPEND_KEYS).map(append_key));
    for key in all {
        let id = recorder.invoke(u64::MAX, Op::Get { key: key.clone() });
        recorder.complete(id, clerk.get(&key).map(Response::Value));
    }
    recorder.history.operations()
}

/// Counts a client that ended, in whatever way.
struct Ends<'a>(&'a AtomicUsize);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Crashes and restarts nodes, never more than one at a time, and cuts links, until the clients are done. How long each state lasts is
/// drawn from the seed; what is going on in it is up to the threads.
fn break_things(cluster: &Cluster, seed: u64, running: &AtomicUsize) {
    let mut rng = Rng(seed ^ 0xB4EA);
    let nodes = cluster.nodes();
    let mut down: Option<NodeId> = None;
    while running.load(Ordering::Acquire) > 0 {
        let node = nodes[rng.below(nodes.len() as u64) as usize];
        let other = nodes[rng.below(nodes.len() as u64) as usize];
        match rng.below(if cluster.network().is_some() { 5 } else { 2 }) {
            0 if down.is_none() => {
                cluster.crash(node);
                down = Some(node);
            }
            1 if down.is_none() => {
                if let Ok(leader) = cluster.leader() {
                    cluster.crash(leader);
                    down = Some(leader);
                }
            }
            0 | 1 => {}
            cut => cut_something(cluster, cut, node, other),
        }
        std::thread::sleep(Duration::from_millis(20 + rng.below(180)));
        if rng.below(3) > 0 {
            heal(cluster, &mut down);
        }
    }
    heal(cluster, &mut down);
}

fn cut_something(cluster: &Cluster, how: u64, node: NodeId, other: NodeId) {
    let Some(network) = cluster.network() else {
        return;
    };
    match how {
        2 => network.isolate(node),
        3 => network.cut(node, other),
        _ => network.cut(node, Endpoint::Clerks),
    }
}

fn heal(cluster: &Cluster, down: &mut Option<NodeId>) {
    if let Some(network) = cluster.network() {
        network.heal_all();
    }
    if let Some(node) = down.take() {
        cluster
            .restart(node)
            .expect("a node restarts after a crash");
    }
}

/// Who calls: a clerk, or a node's own handle, which has to be fetched again after a crash.
enum Caller<'a> {
    Clerk(Clerk),
    Local {
        cluster: &'a Cluster,
        node: NodeId,
        db: Option<Db>,
    },
}

impl Caller<'_> {
    fn clerk(&mut self) -> Clerk {
        match self {
            Self::Clerk(clerk) => clerk.clone(),
            Self::Local { cluster, node, db } => {
                let began = Instant::now();
                // A node that does not come back must not keep its client for ever.
                while began.elapsed() < DEADLINE {
                    if let Some(db) = db {
                        return Clerk::clone(db);
                    }
                    *db = cluster.db(*node);
                    std::thread::sleep(Duration::from_millis(u64::from(db.is_none())));
                }
                panic!("node {node} was not restarted within {DEADLINE:?}");
            }
        }
    }

    /// The handle's node was crashed.
    fn closed(&mut self) {
        if let Self::Local { db, .. } = self {
            *db = None;
        }
    }
}

fn run_client(cluster: &Cluster, recorder: &Recorder, client: u64, seed: u64) {
    let mut rng = Rng(seed ^ (client + 1).wrapping_mul(0xA076_1D64_78BD_642F));
    let mut caller = if client < CLERKS {
        Caller::Clerk(cluster.clerk())
    } else {
        let nodes = cluster.nodes();
        let node = nodes[(client - CLERKS) as usize % nodes.len()];
        Caller::Local {
            cluster,
            node,
            db: None,
        }
    };
    // A handle that was closed is another session: its calls are those of another client.
    let mut session = client;
    for call in 0..CALLS {
        let clerk = caller.clerk();
        let op = any_operation(&mut rng, client, call);
        let id = recorder.invoke(session, op.clone());
        let result = perform(&clerk, &op, &mut rng);
        let is_closed = result == Err(Error::Closed);
        recorder.complete(id, result);
        if is_closed {
            caller.closed();
            session += 1000;
        }
    }
}

fn any_operation(rng: &mut Rng, client: u64, call: usize) -> Op {
    let token = Bytes::from(format!("{client}.{call};"));
    if rng.below(2) == 0 {
        let key = append_key(rng.below(APPEND_KEYS));
        return if rng.below(2) == 0 {
            Op::Get { key }
        } else {
            Op::Append { key, suffix: token }
        };
    }
    let key = mixed_key(rng.below(MIXED_KEYS));
    match rng.below(8) {
        0 | 1 => Op::Put { key, value: token },
        2 => Op::Append { key, suffix: token },
        3 => Op::Delete { key },
        4 => Op::CompareAndSwap {
            key,
            expected: None,
            new: token,
        },
        5 => {
            // A value that may be there, so that some swaps take place.
            let (by, call) = (rng.below(CLERKS + LOCALS), rng.below(call as u64 + 1));
            Op::CompareAndSwap {
                key,
                expected: Some(format!("{by}.{call};").into()),
                new: token,
            }
        }
        _ => Op::Get { key },
    }
}

fn perform(clerk: &Clerk, op: &Op, rng: &mut Rng) -> Result<Response, Error> {
    let swapped = |result: Result<(), quorate::Conflict>| match result {
        Ok(()) => Response::Done,
        Err(conflict) => Response::Conflict(conflict.current),
    };
    match op {
        Op::Put { key, value } => clerk.put(key, value).map(|()| Response::Done),
        Op::Append { key, suffix } => clerk.append(key, suffix).map(Response::Length),
        Op::Delete { key } => clerk.delete(key).map(Response::Existed),
        Op::CompareAndSwap { key, expected, new } => clerk
            .compare_and_swap(key, expected.as_ref(), new)
            .map(swapped),
        Op::Get { key } if rng.below(2) == 0 => clerk.get(key).map(Response::Value),
        // The clocks of one process do not drift apart, so that a lease promises as much.
        Op::Get { key } => clerk.get_with(key, Consistency::Lease).map(Response::Value),
    }
}

fn mixed_key(number: u64) -> Bytes {
    format!("mixed/{number}").into()
}

fn append_key(number: u64) -> Bytes {
    format!("append/{number}").into()
}

struct Recorder {
    history: History,
    began: Instant,
}

impl Recorder {
    fn invoke(&self, client: u64, op: Op) -> OpId {
        self.history.invoke(ClientId(client), op, self.now_ns())
    }

    fn complete(&self, id: OpId, result: Result<Response, Error>) {
        let response = match result {
            Ok(response) => response,
            Err(error) if error.is_retryable() => Response::Refused,
            Err(Error::Timeout { .. } | Error::Closed | Error::SessionExpired) => Response::Unknown,
            Err(error) => panic!("nothing here can fail so: {error}"),
        };
        self.history.complete(id, response, self.now_ns());
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

/// A seed of this run, or the one in `QUORATE_SEED`; printed, so that a failure can be looked into.
fn seed(test: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let given = std::env::var("QUORATE_SEED").ok();
    let seed = match given {
        Some(given) => given.parse().expect("QUORATE_SEED is a number"),
        None => std::hash::RandomState::new().build_hasher().finish(),
    };
    eprintln!("{test}: QUORATE_SEED={seed}");
    seed
}

/// `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn a_history_that_is_known_to_be_wrong_fails_both_judges() {
    let history = History::new();
    let key = append_key(0);
    let mut at_ns = 0;
    let mut call = |client, op, response| {
        at_ns += 1;
        let id = history.invoke(ClientId(client), op, at_ns);
        history.complete(id, response, at_ns);
    };
    call(
        1,
        Op::Append {
            key: key.clone(),
            suffix: "1;".into(),
        },
        Response::Length(2),
    );
    call(
        2,
        Op::Append {
            key: key.clone(),
            suffix: "2;".into(),
        },
        Response::Length(4),
    );
    // Applied again when it was asked again.
    call(3, Op::Get { key }, Response::Value(Some("1;2;1;".into())));
    let operations = history.operations();
    let verdict = check_linearizable(&operations, STEPS_MAX);
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
    let wrong = check_appends(&operations, ClientOrder::Kept).expect_err("a token twice");
    assert!(
        matches!(wrong, AppendViolation::Duplicated { .. }),
        "{wrong}"
    );
}
