//! Three nodes, a client, and a test that is the network between them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate::simulation::{
    Answer, CallId, ClientSend, CommandBuffer, Map, SimClient, SimNode, SimSetup,
};
use quorate::transport::{
    ClerkInbox, Frame, GroupMessage, Origin, Reply, ReplySink, Request, RequestBody, RequestId,
    Transport,
};
use quorate::{Bytes, Error, GroupId, NodeId, Options, Rejected, Role, Term};
use quorate_raft::{Body, Message};
use quorate_wal::{Disk, MemoryDisk};

pub(crate) const GROUP: GroupId = GroupId(0);
pub(crate) const GROUPS: u32 = 2;
pub(crate) const MS: u64 = 1_000_000;

struct NoClients;

impl ClerkInbox for NoClients {
    fn reply(&self, _from: NodeId, _reply: Reply) {}

    fn disconnected(&self, _node: NodeId) {}
}

/// What a node sent to other nodes, and what it replied.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: Mutex<Vec<(NodeId, Frame)>>,
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
    setup: SimSetup,
    pub(crate) disk: MemoryDisk,
    outbox: Arc<Outbox>,
    /// What strangers were answered.
    pub(crate) told: Arc<Outbox>,
    node: Option<SimNode<Map>>,
}

impl Member {
    fn open(&mut self, now_ns: u64) {
        self.node = None;
        self.outbox = Arc::default();
        let outbox = Arc::clone(&self.outbox);
        let node = SimNode::open(&self.setup, now_ns, Arc::new(NoClients), |_| outbox);
        self.node = Some(node.expect("it opens"));
    }

    /// All that can be done without anything coming in.
    fn work(&mut self, now_ns: u64) {
        let Some(node) = &mut self.node else { return };
        node.pass(now_ns);
        for _ in 0..10_000 {
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
        panic!("it never comes to rest");
    }

    /// Files of the group's snapshots, unfinished ones too.
    pub(crate) fn snapshot_files(&self) -> Vec<String> {
        let dir = Path::new("/node/snap/0000000000000000");
        self.disk.list(dir).unwrap_or_default()
    }
}

pub(crate) struct Bench {
    pub(crate) now_ns: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) client: SimClient,
    /// Frames of these kinds between nodes are lost.
    pub(crate) loses: fn(&Frame) -> bool,
    /// Bytes of snapshots that arrived somewhere.
    pub(crate) chunk_bytes: usize,
}

impl Bench {
    pub(crate) fn new(options: impl Fn(u64) -> Options) -> Self {
        let ids: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let client = SimClient::new(&ids, GROUPS, &options(1));
        let members = ids.iter().map(|&id| {
            let disk = MemoryDisk::new();
            let setup = SimSetup {
                dir: Path::new("/node").to_path_buf(),
                disk: Arc::new(disk.clone()),
                node: id,
                members: ids.clone(),
                groups: GROUPS,
                options: options(id.0),
                seed: 1,
            };
            let mut member = Member {
                setup,
                disk,
                outbox: Arc::default(),
                told: Arc::default(),
                node: None,
            };
            member.open(0);
            member
        });
        let bench = Self {
            now_ns: 0,
            members: members.collect(),
            client,
            loses: |_| false,
            chunk_bytes: 0,
        };
        bench.introduce();
        bench
    }

    /// Has all that run show each other their cards, as transports do.
    fn introduce(&self) {
        let nodes: Vec<_> = self
            .members
            .iter()
            .filter_map(|it| it.node.as_ref())
            .collect();
        for (place, one) in nodes.iter().enumerate() {
            for other in &nodes[..place] {
                one.meet(other).expect("each runs on its own directory");
            }
        }
    }

    /// Nodes with the same options, of which number 1 leads both groups.
    pub(crate) fn led_by_first(options: impl Fn(u64) -> Options) -> Self {
        let mut bench = Self::new(options);
        for group in [GROUP, GroupId(1)] {
            bench.node(1).campaign(group);
        }
        bench.until("an election", |bench| {
            [GROUP, GroupId(1)]
                .into_iter()
                .all(|group| bench.node(1).role(group).0 == Role::Leader)
        });
        bench.put("first", b"1");
        bench
    }

    /// Everybody does what there is to do, and everything that is sent arrives, a millisecond later.
    pub(crate) fn round(&mut self) {
        self.now_ns += MS;
        let now_ns = self.now_ns;
        for place in 0..self.members.len() {
            self.members[place].work(now_ns);
            let from = self.members[place].setup.node;
            let frames = std::mem::take(&mut *self.members[place].outbox.frames.lock());
            for (to, frame) in frames {
                if (self.loses)(&frame) {
                    continue;
                }
                if let Frame::SnapshotChunk(chunk) = &frame {
                    self.chunk_bytes += chunk.data.len();
                }
                if let Some(node) = &self.members[to.0 as usize - 1].node {
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
            let member =
                to.0.checked_sub(1)
                    .and_then(|it| self.members.get(it as usize));
            match member.and_then(|it| Some((it, it.node.as_ref()?))) {
                Some((member, node)) => {
                    let sink = Arc::clone(&member.outbox) as Arc<dyn ReplySink>;
                    node.deliver(Origin::Clerk(sink), Frame::Request(request));
                }
                None => self.client.not_sent(now_ns, to, request.id),
            }
        }
    }

    pub(crate) fn rounds(&mut self, count: u64) {
        for _ in 0..count {
            self.round();
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.round();
        }
        panic!("in twenty seconds it did not happen: {what}");
    }

    pub(crate) fn node(&self, id: u64) -> &SimNode<Map> {
        let member = &self.members[id as usize - 1];
        member.node.as_ref().expect("it runs")
    }

    pub(crate) fn stop(&mut self, id: u64) {
        self.members[id as usize - 1].node = None;
    }

    pub(crate) fn start(&mut self, id: u64) {
        let now_ns = self.now_ns;
        self.members[id as usize - 1].open(now_ns);
        self.introduce();
    }

    /// What a node that is stopped opens with when it is started.
    pub(crate) fn set_options(&mut self, id: u64, options: Options) {
        self.members[id as usize - 1].setup.options = options;
    }

    pub(crate) fn rejected(&self, id: u64) -> Rejected {
        self.node(id).rejected()
    }

    pub(crate) fn trouble(&self, id: u64) -> String {
        self.node(id).view(GROUP).trouble.unwrap_or_default()
    }

    /// A frame of a peer arrives at a node.
    pub(crate) fn forge(&self, from: u64, to: u64, frame: Frame) {
        self.node(to).deliver(Origin::Node(NodeId(from)), frame);
    }

    /// A message of a peer, in a term.
    pub(crate) fn forge_message(&self, from: u64, to: u64, term: u64, body: Body) {
        let message = Message {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            body,
        };
        let messages = vec![GroupMessage {
            group: GROUP,
            message,
        }];
        self.forge(from, to, Frame::Raft(messages));
    }

    /// A clerk asks a node; what it is answered is in `told`.
    pub(crate) fn ask(&self, to: u64, id: u64, group: GroupId, body: RequestBody) {
        let told = Arc::clone(&self.members[to as usize - 1].told);
        let request = Request {
            id: RequestId(id),
            group,
            body,
        };
        let origin = Origin::Clerk(told as Arc<dyn ReplySink>);
        self.node(to).deliver(origin, Frame::Request(request));
    }

    pub(crate) fn issue(&mut self, key: &str, value: &[u8]) -> CallId {
        let group = self.client.group_of(key.as_bytes());
        let command = CommandBuffer::put(key.as_bytes(), value).expect("within the limits");
        self.client.write(self.now_ns, group, command)
    }

    pub(crate) fn answer(&mut self, call: CallId) -> Result<Bytes, Error> {
        let mut found = None;
        self.until("an answer", |bench| {
            let answers = bench.client.take_answers();
            found = answers.into_iter().find(|it| it.0 == call).or(found.take());
            found.is_some()
        });
        found.expect("just found").1
    }

    /// A write that must succeed.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) {
        let call = self.issue(key, value);
        let answer = self.answer(call).expect("it succeeds");
        assert_eq!(Answer::decode(&answer), Ok(Answer::Done));
    }

    pub(crate) fn get(&self, id: u64, key: &str) -> Option<Vec<u8>> {
        let group = self.client.group_of(key.as_bytes());
        let value = self.node(id).state(group).get(key.as_bytes())?;
        Some(value.to_vec())
    }

    /// All groups still take writes, and all three nodes apply them.
    pub(crate) fn assert_healthy(&mut self) {
        let mut keys = [None, None];
        for number in 0.. {
            let key = format!("health{number}");
            let group = self.client.group_of(key.as_bytes()).0 as usize;
            keys[group].get_or_insert(key);
            if keys.iter().all(Option::is_some) {
                break;
            }
        }
        let value = format!("at {}", self.now_ns).into_bytes();
        for key in keys.into_iter().flatten() {
            self.put(&key, &value);
            self.until("all apply it", |bench| {
                (1..=3).all(|id| bench.get(id, &key).as_ref() == Some(&value))
            });
        }
    }
}

pub(crate) fn options(_node: u64) -> Options {
    let mut options = Options::default();
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 256 << 10;
    options.log.entry_bytes_max = 16 << 10;
    options.log.batch_bytes_max = 64 << 10;
    options.log.queue_bytes_max = 256 << 10;
    options.call_timeout = Duration::from_secs(10);
    options
}
