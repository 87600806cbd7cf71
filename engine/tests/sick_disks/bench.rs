//! Members and a client, driven by hand: every step, every frame and the time are the test's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use quorate::simulation::{
    Body, CallId, ClientSend, CommandBuffer, Disk, LogStatus, Map, Query, SimClient, SimNode,
    SimSetup,
};
use quorate::transport::{ClerkInbox, Frame, Origin, Reply, ReplySink, Transport};
use quorate::{Consistency, Error, GroupId, LogHealth, NodeId, Options, Role};
use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind};

pub(crate) const GROUP: GroupId = GroupId(0);
pub(crate) const MS: u64 = 1_000_000;

/// One election timeout, and two: what a hand-over may take.
pub(crate) const TIMEOUT: u64 = 500 * MS;
pub(crate) const TWO_TIMEOUTS: u64 = 2 * TIMEOUT;

/// While the disk is full the next segment is tried so often.
pub(crate) const FULL_RETRY: u64 = 100 * MS;

pub(crate) struct NoClients;

impl ClerkInbox for NoClients {
    fn reply(&self, _from: NodeId, _reply: Reply) {}

    fn disconnected(&self, _node: NodeId) {}
}

/// What a node sent to other nodes, and what it replied to the client.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) frames: Mutex<Vec<(NodeId, Frame)>>,
    pub(crate) replies: Mutex<Vec<Reply>>,
}

impl Transport for Outbox {
    fn send(&self, to: NodeId, frame: Frame) -> bool {
        self.frames.lock().push((to, frame));
        true
    }

    fn stop(&self) {}
}

impl ReplySink for Outbox {
    fn reply(&self, reply: Reply) {
        self.replies.lock().push(reply);
    }
}

pub(crate) struct Member {
    pub(crate) id: NodeId,
    setup: SimSetup,
    pub(crate) disk: CrashDisk,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) node: Option<SimNode<Map>>,
    /// Nothing that it asks of its disk comes back.
    pub(crate) is_stuck: bool,
    /// This worker of it makes no pass: it waits for something.
    pub(crate) blocked: Option<usize>,
    pub(crate) full_retry_ns: u64,
}

impl Member {
    /// All that can be done without anything coming in.
    pub(crate) fn work(&mut self, now_ns: u64) {
        let Some(node) = &mut self.node else { return };
        let workers = (0..node.workers()).filter(|&it| Some(it) != self.blocked);
        let workers: Vec<usize> = workers.collect();
        let pass = |node: &mut SimNode<Map>| {
            for &worker in &workers {
                node.pass_worker(worker, now_ns);
            }
        };
        pass(node);
        while !self.is_stuck {
            let due = node.due();
            let has_work = workers.iter().any(|&worker| node.work_of(worker).0);
            let is_full = node.log().status().is_short();
            let may_prepare = due.prepare && (!is_full || now_ns >= self.full_retry_ns);
            if may_prepare {
                self.full_retry_ns = now_ns + FULL_RETRY;
                let _failed = node.prepare_step();
            }
            if due.drive {
                let _failed = node.log_step();
            }
            let had_job = node.job_step();
            if !has_work && !may_prepare && !due.drive && !had_job {
                return;
            }
            pass(node);
            if matches!(node.log().status(), LogStatus::Failed { .. }) {
                return;
            }
        }
    }

    pub(crate) fn fill(&self) {
        self.disk.set_capacity(Some(self.disk.used_bytes()));
    }
}

/// What of the frames between two nodes gets lost.
pub(crate) type Loss = Box<dyn FnMut(NodeId, NodeId, &Frame) -> bool>;

/// Members and a client.
pub(crate) struct Bench {
    pub(crate) now_ns: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) client: SimClient,
    pub(crate) loses: Loss,
    pub(crate) writes: u64,
    /// The one that is written to, and whose leader is meant.
    pub(crate) group: GroupId,
}

impl Bench {
    pub(crate) fn new(count: u64, seed: u64) -> Self {
        Self::with(count, seed, options())
    }

    pub(crate) fn with(count: u64, seed: u64, options: Options) -> Self {
        let all: Vec<Options> = (0..count).map(|_| options.clone()).collect();
        Self::each_with(&all, GROUP, seed)
    }

    /// As many members as options, with as many groups as there have to be for this one.
    pub(crate) fn each_with(all: &[Options], group: GroupId, seed: u64) -> Self {
        let ids: Vec<NodeId> = (1..).map(NodeId).take(all.len()).collect();
        let groups = u32::try_from(group.0 + 1).expect("few groups");
        let client = SimClient::new(&ids, groups, &all[0]);
        let members = ids.iter().zip(all).map(|(&id, options)| {
            let disk = CrashDisk::new();
            let setup = SimSetup {
                dir: Path::new("/node").to_path_buf(),
                disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
                node: id,
                members: ids.clone(),
                groups,
                options: options.clone(),
                seed,
            };
            let outbox = Arc::<Outbox>::default();
            let port = Arc::clone(&outbox);
            let node = SimNode::open(&setup, 0, Arc::new(NoClients), |_| port);
            Member {
                id,
                setup,
                disk,
                outbox,
                node: Some(node.expect("it opens")),
                is_stuck: false,
                blocked: None,
                full_retry_ns: 0,
            }
        });
        let members: Vec<Member> = members.collect();
        for (place, one) in members.iter().enumerate() {
            for other in &members[..place] {
                if let (Some(one), Some(other)) = (&one.node, &other.node) {
                    one.meet(other).expect("nobody knows anything yet");
                }
            }
        }
        let mut bench = Self {
            now_ns: 0,
            members,
            client,
            loses: Box::new(|_, _, _| false),
            writes: 0,
            group,
        };
        bench.until("an election", |bench| bench.leader().is_some());
        bench.put();
        // Long enough that everybody has heard how the others are.
        bench.wait(TIMEOUT);
        bench
    }

    /// Everybody does what there is to do, and everything that is sent arrives, a millisecond later.
    pub(crate) fn round(&mut self) {
        self.now_ns += MS;
        let now_ns = self.now_ns;
        for place in 0..self.members.len() {
            self.members[place].work(now_ns);
            let from = self.members[place].id;
            let frames = std::mem::take(&mut *self.members[place].outbox.frames.lock());
            for (to, frame) in frames {
                let receiver = &self.members[to.0 as usize - 1].node;
                if let Some(node) = receiver
                    && !(self.loses)(from, to, &frame)
                {
                    node.deliver(Origin::Node(from), frame);
                }
            }
            let replies = std::mem::take(&mut *self.members[place].outbox.replies.lock());
            for reply in replies {
                self.client.reply(now_ns, from, reply);
            }
        }
        self.client.tick(now_ns);
        for send in self.client.take_sends() {
            let ClientSend::Request(to, request) = send else {
                panic!("this client is part of no node");
            };
            let member = &self.members[to.0 as usize - 1];
            match &member.node {
                Some(node) => {
                    let sink = Arc::clone(&member.outbox) as Arc<dyn ReplySink>;
                    node.deliver(Origin::Clerk(sink), Frame::Request(request));
                }
                None => self.client.not_sent(now_ns, to, request.id),
            }
        }
    }

    /// Starts a node that is down. It meets those of the others that admit it; frames between it and the rest are the
    /// test's to lose.
    pub(crate) fn start(&mut self, place: usize) {
        let now_ns = self.now_ns;
        let member = &mut self.members[place];
        member.outbox = Arc::default();
        let port = Arc::clone(&member.outbox);
        let node = SimNode::open(&member.setup, now_ns, Arc::new(NoClients), |_| port);
        member.node = Some(node.expect("it opens"));
        for other in (0..self.members.len()).filter(|&it| it != place) {
            if let Some(node) = &self.members[other].node {
                let _refused = self.node(place).meet(node);
            }
        }
    }

    pub(crate) fn wait(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        while self.now_ns < end_ns {
            self.round();
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..30_000 {
            if holds(self) {
                return;
            }
            self.round();
        }
        panic!("in thirty seconds it did not happen: {what}");
    }

    pub(crate) fn node(&self, place: usize) -> &SimNode<Map> {
        self.members[place].node.as_ref().expect("it runs")
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| {
            let node = member.node.as_ref();
            node.is_some_and(|node| node.role(self.group).0 == Role::Leader)
        })
    }

    /// Who leads, and in which term.
    pub(crate) fn reign(&self) -> (usize, u64) {
        let place = self.leader().expect("somebody leads");
        (place, self.node(place).role(self.group).1.0)
    }

    pub(crate) fn health(&self, place: usize) -> LogHealth {
        self.node(place).health(self.now_ns)
    }

    pub(crate) fn begin_put(&mut self, value_bytes: usize) -> CallId {
        self.writes += 1;
        let key = format!("k{}", self.writes);
        let command = CommandBuffer::put(key.as_bytes(), &vec![7; value_bytes]).expect("short");
        self.client.write(self.now_ns, self.group, command)
    }

    pub(crate) fn answer_to(&mut self, call: CallId) -> Result<bytes::Bytes, Error> {
        let mut found = None;
        self.until("an answer", |bench| {
            let answers = bench.client.take_answers().into_iter();
            found = answers
                .filter(|(id, _)| *id == call)
                .map(|it| it.1)
                .next_back();
            found.is_some()
        });
        found.expect("just found")
    }

    pub(crate) fn put(&mut self) {
        let call = self.begin_put(1);
        self.answer_to(call).expect("it succeeds");
    }

    pub(crate) fn get(&mut self) -> Result<bytes::Bytes, Error> {
        let query = Query::get(b"k1");
        let call = self
            .client
            .query(self.now_ns, self.group, Consistency::Linearizable, query);
        self.answer_to(call)
    }

    /// Its disk takes no more bytes, and it is written to until the log says so. Returns when that was.
    pub(crate) fn fill(&mut self, place: usize) -> u64 {
        self.members[place].fill();
        let mut number = 0;
        self.until("it is full", |bench| {
            number += 1;
            if number % 4 == 0 {
                bench.begin_put(3 << 10);
            }
            bench.node(place).log().status() == LogStatus::Full
        });
        self.now_ns
    }

    /// Its process has no file handles left, and it is written to until the log says so. Returns when that was.
    pub(crate) fn exhaust(&mut self, place: usize) -> u64 {
        for kind in [OpKind::Create, OpKind::Open, OpKind::SyncDir] {
            let refused = Effect::Fail(DiskError::FilesOfProcess);
            self.members[place].disk.inject(Fault::new(kind, refused));
        }
        let mut number = 0;
        self.until("it has none", |bench| {
            number += 1;
            if number % 4 == 0 {
                bench.begin_put(3 << 10);
            }
            let status = bench.node(place).log().status();
            matches!(status, LogStatus::NoHandles { .. })
        });
        self.now_ns
    }

    /// Another one leads, and has acknowledged a write that was issued only now. Returns when.
    pub(crate) fn hand_over_from(&mut self, old: usize) -> u64 {
        self.put();
        let leader = self.leader().expect("who acknowledged leads");
        assert_ne!(leader, old, "another one leads");
        self.now_ns
    }
}

pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.election_timeout = Duration::from_nanos(TIMEOUT);
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 64 << 10;
    options.log.entry_bytes_max = 4 << 10;
    options.log.batch_bytes_max = 36 << 10;
    options.call_timeout = Duration::from_secs(20);
    options.retry_after = Duration::from_millis(100);
    options
}

/// Has a follower's disk full, and its log as long as that of the leader nevertheless: there is no space for the segment that
/// will be needed next.
pub(crate) fn fill_with_equal_logs(bench: &mut Bench, sick: usize, leader: usize) {
    bench.members[sick].fill();
    while bench.node(sick).log().status() == LogStatus::Healthy {
        let call = bench.begin_put(3 << 10);
        bench.answer_to(call).expect("the others are a majority");
        bench.until("it has all, or is full", |bench| {
            let node = bench.node(sick);
            node.stand(GROUP).last == bench.node(leader).stand(GROUP).last
                || node.log().status() == LogStatus::Full
        });
    }
    let ends = [sick, leader].map(|place| bench.node(place).stand(GROUP).last);
    assert_eq!(ends[0], ends[1], "only the next segment finds no room");
    bench.wait(TIMEOUT);
}

pub(crate) fn is_append(message: &quorate::transport::GroupMessage) -> bool {
    matches!(&message.message.body, Body::Append { entries, .. } if !entries.is_empty())
}

pub(crate) fn is_timeout_now(frame: &Frame) -> bool {
    matches!(frame, Frame::Raft(messages) if messages.iter().any(|it| it.message.body == Body::TimeoutNow))
}
