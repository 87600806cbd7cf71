//! Nodes whose disks are full, stuck or broken, driven by hand: who leads, and how soon, in virtual time.
#![cfg(feature = "simulation")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use quorate::simulation::{
    Body, CallId, ClientSend, CommandBuffer, Disk, LogStatus, Map, Query, SimClient, SimNode,
    SimSetup,
};
use quorate::transport::{ClerkInbox, Frame, Origin, Reply, ReplySink, RequestId, Transport};
use quorate::{Consistency, Error, GroupId, LogHealth, NodeId, Options, Role};
use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind};

const GROUP: GroupId = GroupId(0);
const MS: u64 = 1_000_000;

/// One election timeout, and two: what a hand-over may take.
const TIMEOUT: u64 = 500 * MS;
const TWO_TIMEOUTS: u64 = 2 * TIMEOUT;

/// While the disk is full the next segment is tried so often.
const FULL_RETRY: u64 = 100 * MS;

struct NoClients;

impl ClerkInbox for NoClients {
    fn reply(&self, _from: NodeId, _reply: Reply) {}

    fn disconnected(&self, _node: NodeId) {}
}

/// What a node sent to other nodes, and what it replied to the client.
#[derive(Default)]
struct Outbox {
    frames: Mutex<Vec<(NodeId, Frame)>>,
    replies: Mutex<Vec<Reply>>,
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

struct Member {
    id: NodeId,
    disk: CrashDisk,
    outbox: Arc<Outbox>,
    node: Option<SimNode<Map>>,
    /// Nothing that it asks of its disk comes back.
    is_stuck: bool,
    full_retry_ns: u64,
}

impl Member {
    /// All that can be done without anything coming in.
    fn work(&mut self, now_ns: u64) {
        let Some(node) = &mut self.node else { return };
        node.pass(now_ns);
        while !self.is_stuck {
            let due = node.due();
            let has_work = node.has_work();
            let is_full = node.log().status() == LogStatus::Full;
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
            node.pass(now_ns);
            if matches!(node.log().status(), LogStatus::Failed { .. }) {
                return;
            }
        }
    }

    fn fill(&self) {
        self.disk.set_capacity(Some(self.disk.used_bytes()));
    }
}

/// What of the frames between two nodes gets lost.
type Loss = Box<dyn FnMut(NodeId, NodeId, &Frame) -> bool>;

/// Members and a client.
struct Bench {
    now_ns: u64,
    members: Vec<Member>,
    client: SimClient,
    loses: Loss,
    writes: u64,
}

impl Bench {
    fn new(count: u64, seed: u64) -> Self {
        Self::with(count, seed, options())
    }

    fn with(count: u64, seed: u64, options: Options) -> Self {
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let client = SimClient::new(&ids, 1, &options);
        let members = ids.iter().map(|&id| {
            let disk = CrashDisk::new();
            let setup = SimSetup {
                dir: Path::new("/node").to_path_buf(),
                disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
                node: id,
                members: ids.clone(),
                groups: 1,
                options: options.clone(),
                seed,
            };
            let outbox = Arc::<Outbox>::default();
            let port = Arc::clone(&outbox);
            let node = SimNode::open(&setup, 0, Arc::new(NoClients), |_| port);
            Member {
                id,
                disk,
                outbox,
                node: Some(node.expect("it opens")),
                is_stuck: false,
                full_retry_ns: 0,
            }
        });
        let members: Vec<Member> = members.collect();
        for (place, one) in members.iter().enumerate() {
            for other in &members[..place] {
                if let (Some(one), Some(other)) = (&one.node, &other.node) {
                    assert!(one.meet(other), "nobody knows anything yet");
                }
            }
        }
        let mut bench = Self {
            now_ns: 0,
            members,
            client,
            loses: Box::new(|_, _, _| false),
            writes: 0,
        };
        bench.until("an election", |bench| bench.leader().is_some());
        bench.put();
        // Long enough that everybody has heard how the others are.
        bench.wait(TIMEOUT);
        bench
    }

    /// Everybody does what there is to do, and everything that is sent arrives, a millisecond later.
    fn round(&mut self) {
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

    fn wait(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        while self.now_ns < end_ns {
            self.round();
        }
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..30_000 {
            if holds(self) {
                return;
            }
            self.round();
        }
        panic!("in thirty seconds it did not happen: {what}");
    }

    fn node(&self, place: usize) -> &SimNode<Map> {
        self.members[place].node.as_ref().expect("it runs")
    }

    fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| {
            let node = member.node.as_ref();
            node.is_some_and(|node| node.role(GROUP).0 == Role::Leader)
        })
    }

    /// Who leads, and in which term.
    fn reign(&self) -> (usize, u64) {
        let place = self.leader().expect("somebody leads");
        (place, self.node(place).role(GROUP).1.0)
    }

    fn health(&self, place: usize) -> LogHealth {
        self.node(place).health(self.now_ns)
    }

    fn begin_put(&mut self, value_bytes: usize) -> CallId {
        self.writes += 1;
        let key = format!("k{}", self.writes);
        let command = CommandBuffer::put(key.as_bytes(), &vec![7; value_bytes]).expect("short");
        self.client.write(self.now_ns, GROUP, command)
    }

    fn answer_to(&mut self, call: CallId) -> Result<bytes::Bytes, Error> {
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

    fn put(&mut self) {
        let call = self.begin_put(1);
        self.answer_to(call).expect("it succeeds");
    }

    fn get(&mut self) -> Result<bytes::Bytes, Error> {
        let query = Query::get(b"k1");
        let call = self
            .client
            .query(self.now_ns, GROUP, Consistency::Linearizable, query);
        self.answer_to(call)
    }

    /// Its disk takes no more bytes, and it is written to until the log says so. Returns when that was.
    fn fill(&mut self, place: usize) -> u64 {
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

    /// Another one leads, and has acknowledged a write that was issued only now. Returns when.
    fn hand_over_from(&mut self, old: usize) -> u64 {
        self.put();
        let leader = self.leader().expect("who acknowledged leads");
        assert_ne!(leader, old, "another one leads");
        self.now_ns
    }
}

fn options() -> Options {
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

#[test]
fn a_leader_whose_disk_is_full_hands_over_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, term) = bench.reign();
        let full_ns = bench.fill(old);
        let took_ns = bench.hand_over_from(old) - full_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        let reign = bench.reign();
        assert_eq!(reign.1, term + 1, "one hand-over, and no election");
        // It does not come back, nor go on.
        bench.wait(10 * TIMEOUT);
        assert_eq!(bench.reign(), reign);
        assert_eq!(bench.health(old), LogHealth::Full);
        // With space it is a member like any other.
        bench.members[old].disk.set_capacity(None);
        bench.until("it is healthy", |bench| {
            bench.health(old) == LogHealth::Healthy
        });
        bench.put();
        bench.until("it has all", |bench| {
            bench.node(old).view(GROUP).applied == bench.node(reign.0).view(GROUP).applied
        });
    }
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, term) = bench.reign();
        bench.members[old].is_stuck = true;
        let struck_ns = bench.now_ns;
        let mut acknowledged_ns = None;
        // Five seconds of it, with a write every 10 ms.
        while bench.now_ns < struck_ns + 5_000 * MS {
            let call = bench.begin_put(100);
            bench.answer_to(call).expect("the others are a majority");
            let is_elsewhere = bench.leader().is_some_and(|leader| leader != old);
            if is_elsewhere && acknowledged_ns.is_none() {
                acknowledged_ns = Some(bench.now_ns);
            }
            bench.wait(10 * MS);
        }
        let took_ns = acknowledged_ns.expect("another leads") - struck_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        assert!(took_ns > TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
        assert_eq!(bench.health(old), LogHealth::Stalled);
        assert_eq!(bench.reign().1, term + 1, "one hand-over, and no election");
        bench.members[old].is_stuck = false;
        bench.wait(4 * TIMEOUT);
        assert_eq!(bench.health(old), LogHealth::Healthy);
        assert_eq!(bench.reign().1, term + 1, "nobody takes it back");
    }
}

/// A log whose queue is at its bound refuses writes: what it has not handed on, it can still hand on.
#[test]
fn a_leader_whose_disk_stands_still_hands_over_with_a_full_queue_as_well() {
    let mut options = options();
    options.log.queue_bytes_max = 64 << 10;
    let mut bench = Bench::with(3, 1, options);
    let (old, _) = bench.reign();
    bench.members[old].is_stuck = true;
    let struck_ns = bench.now_ns;
    for _ in 0..200 {
        bench.begin_put(3 << 10);
    }
    bench.wait(TIMEOUT / 2);
    assert_eq!(bench.leader(), Some(old));
    let took_ns = bench.hand_over_from(old) - struck_ns;
    assert!(took_ns < TWO_TIMEOUTS, "{} ms", took_ns / MS);
}

#[test]
fn a_leader_whose_sync_fails_is_replaced_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let broken = Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device));
        bench.members[old].disk.inject(broken);
        let struck_ns = bench.now_ns;
        let took_ns = bench.hand_over_from(old) - struck_ns;
        // It need not wait for anything: its successor is asked at once.
        assert!(took_ns < TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
        assert_eq!(bench.health(old), LogHealth::Failed);
    }
}

#[test]
fn a_stall_shorter_than_an_election_timeout_moves_nothing() {
    let mut bench = Bench::new(3, 1);
    let reign = bench.reign();
    for _ in 0..10 {
        bench.members[reign.0].is_stuck = true;
        let struck_ns = bench.now_ns;
        while bench.now_ns < struck_ns + TIMEOUT - 20 * MS {
            bench.put();
            bench.wait(5 * MS);
            assert_eq!(bench.reign(), reign);
            assert_eq!(bench.health(reign.0), LogHealth::Healthy);
        }
        bench.members[reign.0].is_stuck = false;
        bench.wait(20 * MS);
    }
    bench.wait(10 * TIMEOUT);
    assert_eq!(bench.reign(), reign);
}

/// Two full disks of three: no other leader could acknowledge anything either.
#[test]
fn where_no_majority_is_healthier_the_leader_stays_and_reads_go_on() {
    let mut bench = Bench::new(3, 1);
    let reign = bench.reign();
    let follower = (reign.0 + 1) % 3;
    bench.fill(follower);
    assert_eq!(bench.reign(), reign, "a follower's disk is no matter");
    bench.fill(reign.0);
    for _ in 0..20 {
        bench.wait(TIMEOUT / 2);
        assert_eq!(bench.reign(), reign);
        assert!(bench.get().is_ok());
    }
    bench.members[follower].disk.set_capacity(None);
    bench.until("a majority is healthier", |bench| {
        bench.leader().is_some_and(|leader| leader != reign.0)
    });
    bench.put();
}

/// The leader finds out a little before its followers do.
#[test]
fn where_all_disks_stand_still_alike_nothing_moves() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let reign = bench.reign();
        bench.wait(seed * 13 * MS);
        for member in &mut bench.members {
            member.is_stuck = true;
        }
        let call = bench.begin_put(1);
        for _ in 0..10 {
            bench.wait(TIMEOUT / 2);
            assert_eq!(bench.reign(), reign, "seed {seed}");
        }
        assert_eq!(bench.health(reign.0), LogHealth::Stalled);
        for member in &mut bench.members {
            member.is_stuck = false;
        }
        bench.answer_to(call).expect("it was not lost");
        assert_eq!(bench.reign(), reign, "seed {seed}");
    }
}

/// Each sync takes longer than an election timeout, everywhere. Handing over would help nobody.
#[test]
fn where_all_disks_are_slow_alike_nothing_moves() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let reign = bench.reign();
        bench.wait(seed * 13 * MS);
        for _ in 0..10 {
            bench.begin_put(1);
            for member in &mut bench.members {
                member.is_stuck = true;
            }
            bench.wait(TIMEOUT + 100 * MS);
            for member in &mut bench.members {
                member.is_stuck = false;
            }
            bench.wait(5 * MS);
            assert_eq!(bench.reign(), reign, "seed {seed}");
        }
    }
}

#[test]
fn with_two_sick_disks_of_five_a_healthy_node_leads() {
    for seed in 1..=10 {
        let mut bench = Bench::new(5, seed);
        let (old, _) = bench.reign();
        let other = (old + 1) % 5;
        bench.fill(other);
        let full_ns = bench.fill(old);
        let took_ns = bench.hand_over_from(old) - full_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        assert_ne!(bench.leader(), Some(other), "seed {seed}");
    }
}

/// Both followers have the whole log when the leader dies. Whoever asks first is elected.
#[test]
fn a_node_with_a_full_disk_is_not_elected_while_a_healthy_one_can_be() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, healthy) = ((old + 1) % 3, (old + 2) % 3);
        fill_with_equal_logs(&mut bench, sick, old);
        bench.members[old].node = None;
        bench.until("an election", |bench| bench.leader().is_some());
        assert_eq!(bench.leader(), Some(healthy), "seed {seed}");
    }
}

/// The healthy one knows that the other is sick, which itself does not know that others are better off.
#[test]
fn a_node_with_a_full_disk_that_hears_nothing_of_others_is_not_elected_either() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, healthy) = ((old + 1) % 3, (old + 2) % 3);
        let sick_id = bench.members[sick].id;
        bench.loses =
            Box::new(move |_, to, frame| to == sick_id && matches!(frame, Frame::Status(_)));
        fill_with_equal_logs(&mut bench, sick, old);
        bench.wait(4 * TIMEOUT);
        bench.members[old].node = None;
        bench.until("an election", |bench| bench.leader().is_some());
        assert_eq!(bench.leader(), Some(healthy), "seed {seed}");
    }
}

/// Has a follower's disk full, and its log as long as that of the leader nevertheless: there is no space for the segment that
/// will be needed next.
fn fill_with_equal_logs(bench: &mut Bench, sick: usize, leader: usize) {
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

/// The healthy node lacks what the sick one has: it cannot be elected, and the sick one may not wait for it for ever.
#[test]
fn where_no_healthy_node_has_the_log_a_sick_one_is_elected() {
    for seed in 1..=10 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, lacking) = ((old + 1) % 3, (old + 2) % 3);
        let lacks = bench.members[lacking].id;
        bench.loses = Box::new(move |_, to, frame| {
            to == lacks && matches!(frame, Frame::Raft(messages) if messages.iter().any(is_append))
        });
        fill_with_equal_logs(&mut bench, sick, old);
        bench.members[old].node = None;
        let began_ns = bench.now_ns;
        bench.until("an election", |bench| bench.leader().is_some());
        assert_eq!(bench.leader(), Some(sick), "seed {seed}");
        assert_eq!(bench.health(sick), LogHealth::Full, "seed {seed}");
        let took_ns = bench.now_ns - began_ns;
        assert!(took_ns < 12 * TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
    }
}

/// What the healthy node said last is of no use once it says no more.
#[test]
fn a_sick_node_waits_for_no_healthy_one_that_is_gone() {
    for seed in 1..=10 {
        let mut bench = Bench::new(5, seed);
        let (old, _) = bench.reign();
        let others: Vec<usize> = (1..5).map(|step| (old + step) % 5).collect();
        for &sick in &others[..3] {
            fill_with_equal_logs(&mut bench, sick, old);
        }
        bench.members[old].node = None;
        bench.members[others[3]].node = None;
        let began_ns = bench.now_ns;
        bench.until("an election", |bench| bench.leader().is_some());
        let took_ns = bench.now_ns - began_ns;
        assert!(took_ns < 5 * TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
    }
}

fn is_append(message: &quorate::transport::GroupMessage) -> bool {
    matches!(&message.message.body, Body::Append { entries, .. } if !entries.is_empty())
}

fn is_timeout_now(frame: &Frame) -> bool {
    matches!(frame, Frame::Raft(messages) if messages.iter().any(|it| it.message.body == Body::TimeoutNow))
}

/// The leader's requests to stand get lost for a while: it asks again, less and less often, and one after the other.
#[test]
fn a_hand_over_that_fails_is_tried_again_with_others_and_less_and_less_often() {
    let mut bench = Bench::new(3, 1);
    let (old, _) = bench.reign();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    bench.loses = Box::new(move |_, to, frame| {
        if is_timeout_now(frame) {
            log.lock().push(to);
        }
        is_timeout_now(frame)
    });
    bench.fill(old);
    let mut begins: Vec<(u64, NodeId)> = Vec::new();
    let began_ns = bench.now_ns;
    while bench.now_ns < began_ns + 32 * TIMEOUT {
        bench.round();
        let now_ns = bench.now_ns;
        let to = asked.lock().drain(..).last();
        let is_new =
            |&(at_ns, before): &(u64, NodeId)| now_ns - at_ns > TIMEOUT || Some(before) != to;
        if let Some(to) = to
            && begins.last().is_none_or(is_new)
        {
            begins.push((now_ns, to));
        }
        assert_eq!(bench.leader(), Some(old), "nobody was asked");
    }
    // After 0, 2, 2 + 4, 2 + 4 + 8, … timeouts.
    assert_eq!(begins.len(), 5, "{begins:?}");
    for pair in begins.windows(2) {
        assert_ne!(pair[0].1, pair[1].1, "each in turn: {begins:?}");
    }
    let gaps: Vec<u64> = begins.windows(2).map(|it| it[1].0 - it[0].0).collect();
    assert!(gaps.windows(2).all(|it| it[1] > it[0] * 3 / 2), "{gaps:?}");
    bench.loses = Box::new(|_, _, _| false);
    bench.until("it succeeds", |bench| {
        bench.leader().is_some_and(|leader| leader != old)
    });
}

#[test]
fn a_leader_that_is_told_to_choose_hands_over_to_no_sick_node() {
    for seed in 1..=10 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, healthy) = ((old + 1) % 3, (old + 2) % 3);
        fill_with_equal_logs(&mut bench, sick, old);
        let to = bench.members[sick].id;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        bench.loses = Box::new(move |_, to, frame| {
            if is_timeout_now(frame) {
                log.lock().push(to);
            }
            false
        });
        bench.node(old).transfer(GROUP, Some(to));
        bench.wait(2 * TIMEOUT);
        assert_eq!(bench.leader(), Some(old), "seed {seed}: nor if it is named");
        assert_eq!(*asked.lock(), [], "seed {seed}: nor is it asked");
        bench.node(old).transfer(GROUP, None);
        bench.until("another leads", |bench| {
            bench.leader().is_some_and(|leader| leader != old)
        });
        assert_eq!(bench.leader(), Some(healthy), "seed {seed}");
    }
}

/// What the leader knows of its successor may be old.
#[test]
fn a_node_that_has_become_sick_ignores_a_leader_that_hands_over_to_it() {
    let mut bench = Bench::new(3, 1);
    let reign = bench.reign();
    let sick = (reign.0 + 1) % 3;
    let sick_id = bench.members[sick].id;
    bench.loses =
        Box::new(move |from, _, frame| from == sick_id && matches!(frame, Frame::Status(_)));
    fill_with_equal_logs(&mut bench, sick, reign.0);
    bench.wait(4 * TIMEOUT);
    bench.node(reign.0).transfer(GROUP, Some(sick_id));
    bench.wait(2 * TIMEOUT);
    assert_eq!(bench.reign(), reign);
}

/// A client that waits for a reply of a node with a full disk is told so, and others are served there.
#[test]
fn a_follower_with_a_full_disk_goes_on_following_and_answering() {
    let mut bench = Bench::new(3, 1);
    let (leader, _) = bench.reign();
    let sick = (leader + 1) % 3;
    bench.fill(sick);
    bench.wait(TIMEOUT);
    let sink = Arc::clone(&bench.members[sick].outbox);
    let applied = bench.node(sick).view(GROUP).applied;
    let id = RequestId(u64::MAX);
    let own = Arc::clone(&sink) as Arc<dyn ReplySink>;
    bench.node(sick).wait_applied(GROUP, applied, id, own);
    let now_ns = bench.now_ns;
    bench.members[sick].work(now_ns);
    assert!(
        sink.replies
            .lock()
            .iter()
            .any(|it| it.id == id && it.result.is_ok())
    );
    assert_eq!(bench.node(sick).role(GROUP).0, Role::Follower);
}
