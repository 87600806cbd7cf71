//! Operators who wipe, swap and put back directories, in every start order: three nodes driven by hand, from a seed.
//!
//! In each case at most one node's directory is harmed, so that a majority of directories is what it should be. Whatever
//! the order, every write that was acknowledged must be there once all nodes that are sound run.
#![cfg(feature = "simulation")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Rng, seed};
use parking_lot::Mutex;
use quorate::simulation::{
    Answer, Body, ClientSend, CommandBuffer, Map, SimClient, SimNode, SimSetup,
};
use quorate::transport::{ClerkInbox, Frame, GroupMessage, Origin, Reply, ReplySink, Transport};
use quorate::{GroupId, NodeId, OpenError, Options, Role, Term};
use quorate_raft::Message;
use quorate_wal::testing::{CrashDisk, Survivors};

const GROUP: GroupId = GroupId(0);
const MS: u64 = 1_000_000;
const NODES: usize = 3;

struct NoClients;

impl ClerkInbox for NoClients {
    fn reply(&self, _from: NodeId, _reply: Reply) {}

    fn disconnected(&self, _node: NodeId) {}
}

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

/// What runs under a node's id, and what it runs on.
struct Member {
    disk: CrashDisk,
    outbox: Arc<Outbox>,
    node: Option<SimNode<Map>>,
    /// How often anything was started under this id.
    starts: u64,
    /// Processes that it met, by place and start, and whether the two deal with each other.
    met: BTreeMap<(usize, u64), bool>,
    /// By peer: the newest of this directory's starts that the peer has accepted.
    known_to: [u64; NODES],
}

struct World {
    now_ns: u64,
    seed: u64,
    members: Vec<Member>,
    client: SimClient,
    /// Keys whose writes were acknowledged.
    acknowledged: Vec<String>,
    wrote: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let ids: Vec<NodeId> = (1..=NODES as u64).map(NodeId).collect();
        let members = (0..NODES).map(|_| Member {
            disk: CrashDisk::new(),
            outbox: Arc::default(),
            node: None,
            starts: 0,
            met: BTreeMap::new(),
            known_to: [0; NODES],
        });
        Self {
            now_ns: 0,
            seed,
            members: members.collect(),
            client: SimClient::new(&ids, 1, &options()),
            acknowledged: Vec::new(),
            wrote: 0,
        }
    }

    fn start(&mut self, place: usize) -> Result<(), OpenError> {
        let member = &mut self.members[place];
        assert!(member.node.is_none(), "one process at a time");
        member.starts += 1;
        member.met.clear();
        member.outbox = Arc::default();
        let setup = SimSetup {
            dir: Path::new("/node").to_path_buf(),
            disk: Arc::new(member.disk.clone()),
            node: NodeId(place as u64 + 1),
            members: (1..=NODES as u64).map(NodeId).collect(),
            groups: 1,
            options: options(),
            seed: self.seed ^ (member.starts << 32),
        };
        let outbox = Arc::clone(&member.outbox);
        member.node = Some(SimNode::open(
            &setup,
            self.now_ns,
            Arc::new(NoClients),
            |_| outbox,
        )?);
        Ok(())
    }

    /// The power goes.
    fn stop(&mut self, place: usize) {
        let member = &mut self.members[place];
        member.node = None;
        member.disk.power_cut(&Survivors::None);
    }

    fn have_met(&mut self, one: usize, other: usize) -> bool {
        let starts = [self.members[one].starts, self.members[other].starts];
        if let Some(&outcome) = self.members[one].met.get(&(other, starts[1])) {
            return outcome;
        }
        let (Some(first), Some(second)) = (&self.members[one].node, &self.members[other].node)
        else {
            return false;
        };
        let lives = [first.card().start.life, second.card().start.life];
        let outcome = first.meet(second).is_ok();
        if outcome {
            self.members[one].known_to[other] = lives[0];
            self.members[other].known_to[one] = lives[1];
        }
        self.members[one].met.insert((other, starts[1]), outcome);
        self.members[other].met.insert((one, starts[0]), outcome);
        outcome
    }

    /// Everybody does what there is to do, and everything that is sent arrives, a little later.
    fn round(&mut self) {
        self.now_ns += 10 * MS;
        let now_ns = self.now_ns;
        for place in 0..NODES {
            work(&mut self.members[place], now_ns);
            let from = NodeId(place as u64 + 1);
            let frames = std::mem::take(&mut *self.members[place].outbox.frames.lock());
            for (to, frame) in frames {
                let to = to.0 as usize - 1;
                if self.have_met(place, to)
                    && let Some(node) = &self.members[to].node
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

    /// Whether a condition holds within this time.
    fn within(&mut self, ms: u64, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end_ns = self.now_ns + ms * MS;
        while self.now_ns < end_ns {
            if holds(self) {
                return true;
            }
            self.round();
        }
        holds(self)
    }

    /// Writes a key, and waits a while for the acknowledgement. A write in doubt is no longer followed.
    fn write(&mut self) {
        self.wrote += 1;
        let key = format!("k{}", self.wrote);
        let command = CommandBuffer::put(key.as_bytes(), b"v").expect("short");
        let call = self.client.write(self.now_ns, GROUP, command);
        // As long as a call may take.
        for _ in 0..400 {
            for (answered, answer) in self.client.take_answers() {
                let is_done = answer.is_ok_and(|it| Answer::decode(&it) == Ok(Answer::Done));
                if answered == call && is_done {
                    self.acknowledged.push(key.clone());
                }
                if answered == call {
                    return;
                }
            }
            self.round();
        }
    }

    fn holds_all(&self, place: usize) -> bool {
        let node = self.members[place].node.as_ref();
        node.is_some_and(|node| {
            let state = node.state(GROUP);
            self.acknowledged
                .iter()
                .all(|key| state.get(key.as_bytes()).is_some())
        })
    }

    fn all_founded(&self) -> bool {
        self.members
            .iter()
            .filter_map(|member| member.node.as_ref())
            .all(|node| node.founding().is_founded)
    }
}

fn work(member: &mut Member, now_ns: u64) {
    let Some(node) = &mut member.node else { return };
    node.pass(now_ns);
    loop {
        let due = node.due();
        let has_work = node.has_work();
        if due.prepare {
            node.prepare_step().expect("the disk is sound");
        }
        if due.drive {
            node.log_step().expect("the disk is sound");
        }
        let had_job = node.job_step();
        if !has_work && !due.prepare && !due.drive && !had_job {
            return;
        }
        node.pass(now_ns);
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 64 << 10;
    options.log.entry_bytes_max = 4 << 10;
    options.log.batch_bytes_max = 36 << 10;
    options.call_timeout = Duration::from_secs(3);
    options
}

fn shuffled(rng: &mut Rng) -> [usize; NODES] {
    let mut order = [0, 1, 2];
    for place in (1..NODES).rev() {
        order.swap(place, rng.range(0, place as u64 + 1) as usize);
    }
    order
}

/// The first start, in any order; some are late, or restarted before the others come.
fn begin(world: &mut World, rng: &mut Rng) -> Result<(), String> {
    for place in shuffled(rng) {
        world.start(place).map_err(|error| error.to_string())?;
        world.within(rng.range(0, 600), |_| false);
        if rng.range(0, 4) == 0 {
            world.stop(place);
            world.start(place).map_err(|error| error.to_string())?;
        }
    }
    if !world.within(10_000, World::all_founded) {
        return Err("three sound nodes do not begin".to_owned());
    }
    Ok(())
}

/// One cluster from its first start on, one mistake, and the end of it.
fn case(seed: u64) -> Result<&'static str, String> {
    let mut rng = Rng(seed);
    let mut world = World::new(seed);
    begin(&mut world, &mut rng)?;
    world.write();

    let harmed = rng.range(0, 3) as usize;
    let others = [(harmed + 1) % NODES, (harmed + 2) % NODES];
    let copy = {
        world.stop(harmed);
        let copy = world.members[harmed].disk.fork();
        world.start(harmed).map_err(|error| error.to_string())?;
        copy
    };
    let copied_at = world.members[harmed]
        .node
        .as_ref()
        .map_or(0, |it| it.card().start.life);
    // Writes while nodes come and go. Never more than one is down, or nothing is acknowledged anyway.
    for _ in 0..rng.range(1, 4) {
        let down = rng.range(0, 4) as usize;
        if down < NODES {
            world.stop(down);
        }
        world.write();
        if down < NODES {
            world.start(down).map_err(|error| error.to_string())?;
            world.within(rng.range(0, 1_500), |_| false);
        }
    }
    // One is away at the acknowledgement, and comes back last.
    let away = others[rng.range(0, 2) as usize];
    world.stop(away);
    world.write();

    for place in 0..NODES {
        if place != away {
            world.stop(place);
        }
    }
    // An older copy is promised to be found only if whoever lives knows better.
    let is_recognised = others
        .iter()
        .all(|&other| world.members[harmed].known_to[other] >= copied_at);
    let newest = world.members[harmed].disk.clone();
    let (mistake, disk) = match rng.range(0, 4) {
        0 if is_recognised => ("older", copy),
        1 => ("swapped", world.members[others[0]].disk.fork()),
        2 => ("nothing", newest.clone()),
        _ => ("wiped", CrashDisk::new()),
    };
    disk.power_cut(&Survivors::None);
    world.members[harmed].disk = disk;
    for place in shuffled(&mut rng) {
        match world.start(place) {
            Err(OpenError::WrongNode { .. }) if mistake == "swapped" && place == harmed => {}
            opened => opened.map_err(|error| format!("{mistake}: {error}"))?,
        }
        for _ in 0..rng.range(0, 3) {
            world.write();
        }
        if place == harmed && mistake != "swapped" && rng.range(0, 3) == 0 {
            for _ in 0..rng.range(1, 4) {
                world.stop(place);
                world.start(place).map_err(|error| error.to_string())?;
                world.within(300, |_| false);
            }
        }
    }
    world.write();
    let sound: Vec<usize> = others
        .into_iter()
        .chain((mistake == "nothing").then_some(harmed))
        .collect();
    let is_led = |world: &World| {
        let roles = world
            .members
            .iter()
            .filter_map(|member| member.node.as_ref());
        roles
            .filter(|node| node.role(GROUP).0 == Role::Leader)
            .count()
            > 0
    };
    if !world.within(20_000, |world| {
        is_led(world) && sound.iter().all(|&place| world.holds_all(place))
    }) {
        let count = world.acknowledged.len();
        return Err(format!(
            "{mistake}: not all of {count} acknowledged writes are there"
        ));
    }
    if mistake != "nothing"
        && let Some(node) = &world.members[harmed].node
        && node.role(GROUP).0 == Role::Leader
    {
        return Err(format!("{mistake}: it leads"));
    }
    Ok(mistake)
}

#[test]
fn no_mistake_with_one_directory_loses_an_acknowledged_write_in_any_start_order() {
    let first =
        seed("no_mistake_with_one_directory_loses_an_acknowledged_write_in_any_start_order");
    let cases = std::env::var("QUORATE_CASES").map_or(150, |cases| {
        cases.parse().expect("QUORATE_CASES is a number")
    });
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..cases {
        let seed = first.wrapping_add(number);
        match case(seed) {
            Ok(mistake) => *seen.entry(mistake).or_default() += 1,
            Err(error) => panic!("QUORATE_SEED={seed}: {error}"),
        }
    }
    eprintln!("{cases} cases: {seen:?}");
}

/// Votes and asks are promises.
#[test]
fn a_node_whose_cluster_has_not_begun_neither_asks_nor_votes() {
    let mut world = World::new(7);
    world.start(0).expect("it opens");
    let vote = |term| {
        Frame::Raft(vec![GroupMessage {
            group: GROUP,
            message: Message {
                from: NodeId(2),
                to: NodeId(1),
                term: Term(term),
                body: Body::Vote {
                    last_index: quorate::LogIndex(0),
                    last_term: Term(0),
                    transfer: true,
                },
            },
        }])
    };
    let has_raft = |world: &World| {
        let frames = world.members[0].outbox.frames.lock();
        frames
            .iter()
            .any(|(_, frame)| matches!(frame, Frame::Raft(_)))
    };
    for _ in 0..500 {
        world.now_ns += 10 * MS;
        let node = world.members[0].node.as_ref().expect("it runs");
        node.deliver(Origin::Node(NodeId(2)), vote(5));
        let now_ns = world.now_ns;
        work(&mut world.members[0], now_ns);
        assert!(!has_raft(&world), "it says nothing of any group");
        let node = world.members[0].node.as_ref().expect("it runs");
        assert_eq!(node.role(GROUP).1, Term(0), "it has not heard");
    }
    for place in [1, 2] {
        world.start(place).expect("it opens");
    }
    assert!(world.within(10_000, World::all_founded), "all have met");
    world.members[0].outbox.frames.lock().clear();
    let term = world.members[0]
        .node
        .as_ref()
        .expect("it runs")
        .role(GROUP)
        .1
        .0
        + 5;
    let node = world.members[0].node.as_ref().expect("it runs");
    node.deliver(Origin::Node(NodeId(2)), vote(term));
    let now_ns = world.now_ns;
    work(&mut world.members[0], now_ns);
    assert!(has_raft(&world), "now it answers");
}
