//! A shard driven by hand: its log, its jobs and its time are the test's.

mod reads;
mod reports;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_kv::{Command, CommandBuffer, Image, Map, Outcome, Sessions, StateMachine};
use quorate_raft::{Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Raft, Round, Term};
use quorate_wal::{
    Disk, Drove, GroupId, Log, LogOptions, LogStatus, MemoryDisk, SnapshotRef, Snapshots,
};

use super::event::JobDone;
use super::limits::Announced;
use super::ports::{Job, Jobs};
use super::*;
use crate::membership::Membership;
use crate::options::Options;
use crate::transport::{
    Frame, GroupMessage, NoTransport, Origin, Refusal, Reply, ReplyBody, ReplySink, Request,
    RequestBody, RequestId, Transport,
};
use crate::trouble::{Trouble, TroubledDisk};

const GROUP: GroupId = GroupId(0);

mod moves;

/// More than passes between two looks at the log's size.
const SECOND_NS: u64 = 1_000_000_001;

/// Keeps jobs until the test does them.
#[derive(Default)]
struct Queue(Mutex<Vec<Job<Map>>>);

impl Jobs<Map> for Queue {
    fn submit(&self, job: Job<Map>) {
        self.0.lock().push(job);
    }
}

struct Deaf;

impl ReplySink for Deaf {
    fn reply(&self, _reply: Reply) {}
}

/// Keeps what it is answered.
#[derive(Default)]
struct Heard(Mutex<Vec<Result<ReplyBody, Refusal>>>);

impl ReplySink for Heard {
    fn reply(&self, reply: Reply) {
        self.0.lock().push(reply.result);
    }
}

struct Bench {
    shard: Shard<Map>,
    limits: Arc<Limits>,
    log: Arc<Log>,
    jobs: Arc<Queue>,
    snapshots: Snapshots,
    now_ns: u64,
}

impl Bench {
    /// A group of one, on a disk whose syncs take no time; its log is durable when flushed, but it hears so only when told.
    fn new() -> Self {
        Self::on(Arc::new(MemoryDisk::new()))
    }

    fn on(disk: Arc<dyn Disk>) -> Self {
        Self::with_space(disk, u64::MAX / 4)
    }

    /// One whose log may take so many bytes, apart from the snapshots' size.
    fn with_space(disk: Arc<dyn Disk>, base_bytes: u64) -> Self {
        Self::with(disk, base_bytes, vec![NodeId(1)])
    }

    fn with(disk: Arc<dyn Disk>, base_bytes: u64, voters: Vec<NodeId>) -> Self {
        Self::over(disk, base_bytes, voters, Arc::new(NoTransport))
    }

    fn over(
        disk: Arc<dyn Disk>,
        base_bytes: u64,
        voters: Vec<NodeId>,
        transport: Arc<dyn Transport>,
    ) -> Self {
        let (log, _) = Log::open(Arc::clone(&disk), Path::new("/wal"), LogOptions::default())
            .expect("a fresh log opens");
        let snapshots = Snapshots::open(disk, Path::new("/snap")).expect("memory");
        let peers = voters.clone().into_iter().filter(|it| *it != NodeId(1));
        let config = Config { voters };
        let start = restored(NodeId(1), &config, None).expect("nothing is restored");
        let options = Options::default();
        let raft = Raft::new(options.raft(1), start, 0).expect("a fresh replica");
        let replica_options = ReplicaOptions {
            snapshot_log_bytes: u64::MAX / 2,
            trailing_entries: 0,
            snapshot_bytes_max: u64::MAX,
            transfer_timeout_ns: 1_000_000_000,
            read_wait_ns: 1_000_000_000,
        };
        let state = SnapshotState::new(None, 0);
        let replica = Replica::new(GROUP, raft, Sessions::default(), state, replica_options);
        let jobs = Arc::new(Queue::default());
        let limits = Arc::new(Limits::new(Announced {
            entry_bytes_max: 1 << 20,
            election_timeout_ns: 500_000_000,
        }));
        let ports = Ports {
            log: Arc::clone(&log),
            transport,
            jobs: Arc::clone(&jobs) as Arc<dyn Jobs<Map>>,
            limits: Arc::clone(&limits),
            rejections: Arc::default(),
            reports: Reports::new(true),
            membership: Arc::new(Membership::alone(NodeId(1))),
            status: ShardStatus {
                board: Arc::new(StatusBoard::new(peers, 1, 500_000_000)),
                shard: 0,
            },
        };
        let space = LogSpace::new(base_bytes, Arc::default());
        let told = Arc::default();
        let shard = Shard::new(NodeId(1), vec![replica], ports, space, 0, told);
        let mut bench = Self {
            limits,
            shard,
            log,
            jobs,
            snapshots,
            now_ns: 0,
        };
        bench.take(Event::Campaign { group: GROUP });
        bench.take(Event::LogMoved);
        bench
    }

    fn take(&mut self, event: Event<Map>) {
        self.now_ns += 1_000_000;
        self.shard.handle(self.now_ns, event);
        while self.shard.has_work() {
            self.shard.flush(self.now_ns);
        }
        self.shard.flush(self.now_ns);
    }

    /// Has the shard look at the log's size.
    fn look(&mut self) {
        self.now_ns += SECOND_NS;
        self.shard.tick(self.now_ns);
        self.shard.flush(self.now_ns);
    }

    /// Commits and applies something.
    fn write(&mut self, key: &str) {
        self.put(key, b"v");
    }

    /// Writes until the segment of the log is full: what comes next waits until the next one is prepared.
    fn fill_segment(&mut self) {
        while !matches!(self.log.drive(), Ok(Drove::NeedsSegment)) {
            self.put("large", &vec![0; 64 << 10]);
        }
    }

    fn next_segment(&self) {
        while !self.log.prepare().expect("memory").segment_ready {}
        while !matches!(self.log.drive(), Ok(Drove::Idle)) {}
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.take(put(key, value));
        self.take(Event::LogMoved);
    }

    fn write_and_snapshot(&mut self, key: &str) {
        self.write(key);
        self.take(Event::Snapshot {
            group: GROUP,
            told: None,
        });
    }

    /// Does all jobs but saves, which there must not be.
    fn do_other_jobs(&mut self) {
        while !self.jobs.0.lock().is_empty() {
            assert!(self.do_job().is_none(), "no save");
        }
    }

    /// Does the oldest job; a save is reported, and what it published is returned.
    fn do_job(&mut self) -> Option<(SnapshotRef, Event<Map>)> {
        let job = self.jobs.0.lock().remove(0);
        match job {
            Job::Save {
                group,
                meta,
                id,
                image,
            } => {
                let mut writer = self
                    .snapshots
                    .create(group, meta.index.0, meta.term.0, id)
                    .expect("memory");
                image.write_to(&mut writer).expect("memory");
                let file = writer.finish().expect("memory");
                let done = JobDone::Saved {
                    group,
                    meta,
                    result: Ok(file.clone()),
                };
                Some((file, Event::Job(done)))
            }
            Job::Delete { group, file } => {
                self.snapshots.remove(group, &file).expect("memory");
                None
            }
            Job::Send { .. }
            | Job::Receive { .. }
            | Job::Abandon { .. }
            | Job::ForgetPromise { .. }
            | Job::Report { .. } => {
                panic!("a group of one sends nothing")
            }
        }
    }
}

/// A client asks for a write.
fn put(key: &str, value: &[u8]) -> Event<Map> {
    let command = CommandBuffer::put(key.as_bytes(), value).expect("within the limits");
    propose(command.seal_plain(), Arc::new(Deaf))
}

fn propose(command: Bytes, client: Arc<dyn ReplySink>) -> Event<Map> {
    let body = RequestBody::Propose { command };
    let request = Request {
        id: RequestId(1),
        group: GROUP,
        body,
    };
    Event::Frame(Origin::Clerk(client), Frame::Request(request))
}

/// The leader of a group of two, node 2, sends the entry at this index, which is not committed yet.
fn append(index: u64) -> Event<Map> {
    let term = Term(5);
    let entry = Entry {
        index: LogIndex(index),
        term,
        kind: EntryKind::Noop,
        data: Bytes::new(),
    };
    let body = Body::Append {
        prev_index: LogIndex(index - 1),
        prev_term: if index > 1 { term } else { Term::ZERO },
        commit: LogIndex::ZERO,
        round: Round::ZERO,
        entries: vec![entry],
    };
    let message = Message {
        from: NodeId(2),
        to: NodeId(1),
        term,
        body,
    };
    let message = GroupMessage {
        group: GROUP,
        message,
    };
    Event::Frame(Origin::Node(NodeId(2)), Frame::Raft(vec![message]))
}

/// A save had just published its file when the deletion of an older one, asked for meanwhile, swept it away with all that the
/// replica did not know of yet. The log then named a file that was gone, and the node could not be opened again.
#[test]
fn deleting_an_old_snapshot_leaves_the_one_just_published_alone() {
    let mut bench = Bench::new();
    bench.write_and_snapshot("a");
    let (first, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    bench.take(Event::LogMoved);

    bench.write_and_snapshot("b");
    let (second, saved) = bench.do_job().expect("a save");
    bench.write("c");
    bench.take(saved);
    assert!(
        bench.snapshots.exists(GROUP, &first),
        "the log on disk may still name it"
    );
    // The third save is on the queue before the log says that it names the second.
    bench.take(Event::Snapshot {
        group: GROUP,
        told: None,
    });
    bench.take(Event::LogMoved);

    let is_in_order = matches!(
        &bench.jobs.0.lock()[..],
        [Job::Save { .. }, Job::Delete { .. }]
    );
    assert!(is_in_order, "the deletion comes behind the save");
    let mut third = None;
    while !bench.jobs.0.lock().is_empty() {
        third = bench.do_job().or(third);
    }
    let (third, _) = third.expect("a third save");
    assert!(bench.snapshots.exists(GROUP, &second), "the log names it");
    assert!(
        bench.snapshots.exists(GROUP, &third),
        "the log is about to name it"
    );
    assert!(
        !bench.snapshots.exists(GROUP, &first),
        "nothing needs it any more"
    );
}

#[test]
fn an_old_snapshot_goes_when_the_log_durably_names_the_new_one_and_not_before() {
    let mut bench = Bench::new();
    bench.write_and_snapshot("a");
    let (first, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    bench.take(Event::LogMoved);
    bench.write_and_snapshot("b");
    let (second, saved) = bench.do_job().expect("a save");
    bench.do_other_jobs();
    assert!(bench.snapshots.exists(GROUP, &first), "the log names it");

    bench.fill_segment();
    bench.take(saved);
    bench.take(Event::LogMoved);
    bench.do_other_jobs();
    let both = [&first, &second].map(|file| bench.snapshots.exists(GROUP, file));
    assert_eq!(both, [true, true], "the batch that names the second waits");

    bench.next_segment();
    bench.do_other_jobs();
    assert!(bench.snapshots.exists(GROUP, &first), "nobody heard");
    bench.take(Event::LogMoved);
    bench.do_other_jobs();
    let both = [&first, &second].map(|file| bench.snapshots.exists(GROUP, file));
    assert_eq!(both, [false, true], "the log names the second alone");
}

#[test]
fn an_old_snapshot_stays_if_the_batch_that_names_the_new_one_never_becomes_durable() {
    let disk = TroubledDisk::default();
    let trouble = Arc::clone(&disk.trouble);
    let mut bench = Bench::on(Arc::new(disk));
    bench.write_and_snapshot("a");
    let (first, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    bench.take(Event::LogMoved);
    bench.write_and_snapshot("b");
    let (second, saved) = bench.do_job().expect("a save");

    Trouble::set(&trouble.syncs_fail, true);
    bench.take(saved);
    bench.take(Event::LogMoved);
    bench.do_other_jobs();
    let both = [&first, &second].map(|file| bench.snapshots.exists(GROUP, file));
    assert_eq!(both, [true, true], "on disk the log may name either");
}

/// A log that was too large, of which no group held the oldest segment, made its node refuse all entries. What would have made it
/// smaller was moving, and moving waits for something to be written: the node took no part in its groups any more.
#[test]
fn a_large_log_refuses_entries_only_while_a_group_can_let_go_of_something() {
    let mut bench = Bench::with_space(Arc::new(MemoryDisk::new()), 1);
    bench.write("a");
    bench.look();
    let before = bench.log.bounds(GROUP);
    bench.take(put("refused", b"v"));
    assert_eq!(bench.log.bounds(GROUP), before, "the group is to let go");

    let (_, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    bench.take(Event::LogMoved);
    assert_eq!(bench.log.stats().pinned_by, []);
    bench.look();
    let before = bench.log.bounds(GROUP);
    bench.take(put("taken", b"v"));
    assert!(bench.log.bounds(GROUP) > before, "nothing can be let go");
}

/// Entries that are not applied stay, whoever wants the segment that they are in. A node whose oldest segment held such entries of
/// a group that could not apply them refused those that would have helped, and all that its other groups had to write.
#[test]
fn a_group_that_holds_the_oldest_segment_and_cannot_let_go_of_it_makes_nobody_refuse_entries() {
    let voters = vec![NodeId(1), NodeId(2)];
    let mut bench = Bench::with(Arc::new(MemoryDisk::new()), 1, voters);
    bench.take(append(1));
    bench.take(Event::LogMoved);
    assert_eq!(bench.log.stats().pinned_by, [GROUP]);
    bench.look();
    assert!(bench.jobs.0.lock().is_empty(), "nothing is applied");
    let before = bench.log.bounds(GROUP);
    bench.take(append(2));
    assert!(bench.log.bounds(GROUP) > before, "nothing can be let go");
}

/// Whoever looks whether groups can let go of something looks at all of them, and the log moves with every sync.
#[test]
fn groups_are_asked_to_let_go_no_more_often_however_often_the_log_moves() {
    let log_bytes = Bench::new().log.disk_bytes();
    let base_bytes = log_bytes - log_bytes / 4;
    let mut bench = Bench::with_space(Arc::new(MemoryDisk::new()), base_bytes);
    bench.write("a");
    bench.look();
    let (_, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    for _ in 0..5 {
        bench.write("b");
    }
    assert!(bench.jobs.0.lock().is_empty(), "too soon for another save");
    bench.look();
    assert!(bench.do_job().is_some(), "a save");
}

/// Whoever had several writes outstanding was told of the first that the disk was full, and of those behind it that the node was
/// busy, and took that for the cause when none of them came through.
#[test]
fn on_a_full_disk_a_write_behind_a_refused_one_is_refused_for_the_same_cause() {
    let disk = TroubledDisk::default();
    let trouble = Arc::clone(&disk.trouble);
    let mut bench = Bench::on(Arc::new(disk));
    let heard = Arc::new(Heard::default());
    let client = Arc::clone(&heard) as Arc<dyn ReplySink>;
    bench.take(propose(Command::register(4), Arc::clone(&client)));
    bench.take(Event::LogMoved);
    let registered = heard.0.lock().pop();
    let Some(Ok(ReplyBody::Outcome(Outcome::Registered(session)))) = registered else {
        panic!("no session: {registered:?}");
    };
    Trouble::set(&trouble.is_full, true);
    while bench.log.status() == LogStatus::Healthy {
        bench.fill_segment();
        bench.log.prepare().expect("a full disk is no failure");
    }
    bench.take(Event::LogMoved);
    for sequence in [1, 2] {
        let command = CommandBuffer::put(b"key", b"v").expect("small");
        let command = command.seal(session, sequence, 0);
        bench.take(propose(command, Arc::clone(&client)));
    }
    let full = || Err(Refusal::DiskFull);
    assert_eq!(*heard.0.lock(), [full(), full()]);
}

#[cfg(feature = "simulation")]
#[test]
fn what_a_replica_does_is_noted_only_where_somebody_watches() {
    let mut bench = Bench::new();
    bench.write("a");
    assert_eq!(bench.shard.take_deeds(), [], "nobody would ever take it");
    bench.shard.watch();
    bench.write("b");
    assert!(!bench.shard.take_deeds().is_empty());
    assert_eq!(bench.shard.take_deeds(), [], "each deed is told once");
}

/// The wire to the only peer. Notes whether other threads see a lease while the message leaves that ends it.
#[derive(Default)]
struct Wire {
    sent: Mutex<Vec<Message>>,
    published: OnceLock<Arc<Published<<Map as StateMachine>::View>>>,
    leased_at_timeout_now: Mutex<Vec<bool>>,
}

impl Wire {
    fn is_leased(&self) -> bool {
        let published = self.published.get().expect("it was said");
        published.load_leased(|| 0).is_some()
    }
}

impl Transport for Wire {
    fn send(&self, _to: NodeId, frame: Frame) -> bool {
        let Frame::Raft(messages) = frame else {
            return false;
        };
        for GroupMessage { message, .. } in messages {
            if matches!(message.body, Body::TimeoutNow) {
                self.leased_at_timeout_now.lock().push(self.is_leased());
            }
            self.sent.lock().push(message);
        }
        true
    }

    fn stop(&self) {}
}

/// Everything that the peer needs is in its cache.
struct NoLog;

impl quorate_raft::LogReader for NoLog {
    fn entries(
        &mut self,
        _from: LogIndex,
        _to: LogIndex,
        _bytes_max: usize,
    ) -> Result<Vec<Entry>, quorate_raft::LogReadError> {
        panic!("the log is short");
    }
}

/// Has the peer take what was sent to it, and the shard what the peer says.
fn converse(bench: &mut Bench, peer: &mut Raft, wire: &Wire) {
    let now_ns = bench.now_ns;
    for message in std::mem::take(&mut *wire.sent.lock()) {
        peer.step(now_ns, message);
    }
    let mut answers = Vec::new();
    while peer.has_output() {
        let output = peer.output(now_ns, &mut NoLog);
        if let Some(persist) = output.persist {
            peer.on_persisted(now_ns, persist.seq);
        }
        answers.extend(output.messages);
    }
    let messages = answers.into_iter().map(|message| GroupMessage {
        group: GROUP,
        message,
    });
    let frame = Frame::Raft(messages.collect());
    bench.take(Event::Frame(Origin::Node(NodeId(2)), frame));
    bench.take(Event::LogMoved);
    bench.shard.tick(bench.now_ns);
    bench.shard.flush(bench.now_ns);
}

/// A leader that hands over tells its successor not to wait. Whoever read from the old leader's lease after that missed what
/// the new one acknowledged; nothing noticed when the lease was not withdrawn at all.
#[test]
fn a_transfer_ends_the_published_lease_before_the_message_leaves_that_ends_it() {
    let voters = vec![NodeId(1), NodeId(2)];
    let wire = Arc::new(Wire::default());
    let mut bench = Bench::over(
        Arc::new(MemoryDisk::new()),
        u64::MAX / 4,
        voters.clone(),
        Arc::clone(&wire) as Arc<dyn Transport>,
    );
    let replica = bench.shard.replica(GROUP).expect("its only one");
    let published = Arc::clone(replica.published());
    assert!(wire.published.set(published).is_ok());
    let start = restored(NodeId(2), &Config { voters }, None).expect("nothing is restored");
    let mut peer = Raft::new(Options::default().raft(2), start, 0).expect("a fresh replica");
    for _ in 0..1_000 {
        if wire.is_leased() {
            break;
        }
        converse(&mut bench, &mut peer, &wire);
    }
    assert!(wire.is_leased(), "it leads, and holds a lease");
    let to = Some(NodeId(2));
    bench.take(Event::Transfer {
        group: GROUP,
        to,
        told: None,
    });
    for _ in 0..1_000 {
        if !wire.leased_at_timeout_now.lock().is_empty() {
            break;
        }
        converse(&mut bench, &mut peer, &wire);
    }
    let seen = wire.leased_at_timeout_now.lock().clone();
    assert_eq!(seen, [false], "the lease was withdrawn before");
}

/// A member with a shorter election timeout votes for another earlier: what was published rested on the leader's own.
#[test]
fn a_published_lease_is_as_short_as_the_shortest_election_timeout_announced() {
    let voters = vec![NodeId(1), NodeId(2)];
    let wire = Arc::new(Wire::default());
    let mut bench = Bench::over(
        Arc::new(MemoryDisk::new()),
        u64::MAX / 4,
        voters.clone(),
        Arc::clone(&wire) as Arc<dyn Transport>,
    );
    let replica = bench.shard.replica(GROUP).expect("its only one");
    let published = Arc::clone(replica.published());
    assert!(wire.published.set(Arc::clone(&published)).is_ok());
    let start = restored(NodeId(2), &Config { voters }, None).expect("nothing is restored");
    let mut peer = Raft::new(Options::default().raft(2), start, 0).expect("a fresh replica");
    for _ in 0..1_000 {
        if wire.is_leased() {
            break;
        }
        converse(&mut bench, &mut peer, &wire);
    }
    assert!(wire.is_leased(), "it leads, and holds a lease");
    let announce = |bench: &Bench, member: Option<Announced>| {
        bench.limits.set_members([member].into_iter());
    };
    let short_ns = 100_000_000;
    announce(
        &bench,
        Some(Announced {
            entry_bytes_max: 1 << 20,
            election_timeout_ns: short_ns,
        }),
    );
    converse(&mut bench, &mut peer, &wire);
    let at_ns = bench.now_ns;
    assert!(published.load_leased(|| at_ns).is_some(), "it goes on");
    assert!(
        published.load_leased(|| at_ns + short_ns).is_none(),
        "and ends before that member may vote"
    );
    announce(&bench, None);
    converse(&mut bench, &mut peer, &wire);
    assert!(!wire.is_leased(), "one said nothing");
}
