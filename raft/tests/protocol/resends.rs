//! A follower whose disk is slow is sent what it lacks once, not once a heartbeat.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_raft::{Body, Entry, EntryKind, Message, NodeId, PersistSeq, Raft, Role};

use crate::disk::Disk;
use crate::solo::{MS, options, restored};

const STEP_NS: u64 = MS / 2;
const NETWORK_NS: u64 = MS / 5;
const PROPOSAL_BYTES: usize = 4 << 10;

/// One replica on a disk that merges what waits into one write, as a real log does.
struct Node {
    raft: Raft,
    disk: Disk,
    sync_ns: u64,
    /// When the sync under way is done, and what it covers.
    sync: Option<(u64, usize, PersistSeq)>,
    waiting: usize,
    newest: PersistSeq,
}

impl Node {
    fn new(id: u64, sync_ns: u64) -> Self {
        Self {
            raft: Raft::new(options(), restored(id, 3, 0, &[]), 0).expect("sound"),
            disk: Disk::default(),
            sync_ns,
            sync: None,
            waiting: 0,
            newest: PersistSeq::default(),
        }
    }

    fn pass(&mut self, now_ns: u64, messages: &mut Vec<Message>) {
        if self.raft.deadline_ns() <= now_ns {
            self.raft.tick(now_ns);
        }
        if let Some((done_ns, count, seq)) = self.sync
            && done_ns <= now_ns
        {
            self.sync = None;
            for _ in 0..count {
                self.disk.complete_one();
            }
            self.raft.on_persisted(now_ns, seq);
        }
        while self.raft.has_output() {
            let output = self.raft.output(now_ns, &mut self.disk);
            for to in output.snapshots {
                // There is none to be had.
                self.raft.on_snapshot_sent(now_ns, to, false);
            }
            messages.extend(output.messages);
            if let Some(persist) = output.persist {
                self.newest = persist.seq;
                self.waiting += 1;
                self.disk.submit(persist);
            }
        }
        if self.sync.is_none() && self.waiting > 0 {
            self.sync = Some((now_ns + self.sync_ns, self.waiting, self.newest));
            self.waiting = 0;
        }
    }
}

/// What clients propose at the leader.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// 8 MB/s.
    Steady,
    /// 400 KB at once, and then nothing for 200 ms.
    Bursts,
}

impl Load {
    /// How many commands are proposed in the step that begins at `now_ns`.
    fn commands(self, now_ns: u64) -> usize {
        match self {
            Self::Steady => 1,
            Self::Bursts if now_ns.is_multiple_of(200 * MS) => 100,
            Self::Bursts => 0,
        }
    }
}

/// Three nodes of which the third has the slow disk, and a wire that keeps the order of what it carries.
struct World {
    nodes: [Node; 3],
    wire: VecDeque<(u64, Message)>,
    now_ns: u64,
    proposed_bytes: usize,
    /// Bytes of entries sent to the third.
    sent_bytes: usize,
}

impl World {
    fn new(sync_ns: u64) -> Self {
        let mut nodes = [Node::new(1, MS), Node::new(2, MS), Node::new(3, sync_ns)];
        nodes[0].raft.campaign(0);
        Self {
            nodes,
            wire: VecDeque::new(),
            now_ns: 0,
            proposed_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// The leader takes so many commands, and half a millisecond passes. What `is_lost` says so of does not arrive.
    fn step(&mut self, commands: usize, is_lost: impl Fn(&Message) -> bool) {
        let now_ns = self.now_ns;
        while self.wire.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns) {
            let (_, message) = self.wire.pop_front().expect("just seen");
            let to = message.to.0 as usize - 1;
            self.nodes[to].raft.step(now_ns, message);
        }
        if self.nodes[0].raft.role() == Role::Leader && commands > 0 {
            let command = (EntryKind::Command, Bytes::from(vec![0; PROPOSAL_BYTES]));
            self.proposed_bytes += commands * (PROPOSAL_BYTES + Entry::OVERHEAD_BYTES);
            let leader = &mut self.nodes[0].raft;
            leader
                .propose(now_ns, vec![command; commands])
                .expect("taken");
        }
        let mut messages = Vec::new();
        for node in &mut self.nodes {
            node.pass(now_ns, &mut messages);
        }
        for message in messages {
            if let Body::Append { entries, .. } = &message.body
                && message.to == NodeId(3)
            {
                self.sent_bytes += entries.iter().map(Entry::weight_bytes).sum::<usize>();
            }
            if !is_lost(&message) {
                self.wire.push_back((now_ns + NETWORK_NS, message));
            }
        }
        self.now_ns += STEP_NS;
    }
}

/// Bytes of entries sent to the follower with the slow disk, for each byte proposed in five seconds.
fn sent_per_proposed(sync_ns: u64, load: Load) -> f64 {
    let mut world = World::new(sync_ns);
    while world.now_ns < 5_000 * MS {
        world.step(load.commands(world.now_ns), |_| false);
    }
    let proposed = world.proposed_bytes;
    assert!(proposed > 9 << 20, "{proposed} bytes are no load");
    // It follows: when the load ends, it has everything as soon as its disk has.
    for _ in 0..(3 * sync_ns + 10 * MS) / STEP_NS {
        world.step(0, |_| false);
    }
    let [leader, _, follower] = &world.nodes;
    assert_eq!(follower.raft.durable_index(), leader.raft.last_index());
    world.sent_bytes as f64 / proposed as f64
}

#[test]
fn a_follower_with_a_slow_disk_is_sent_what_it_lacks_about_once() {
    for load in [Load::Steady, Load::Bursts] {
        for sync_ms in [1, 20, 40, 55, 80, 150, 300] {
            let ratio = sent_per_proposed(sync_ms * MS, load);
            println!("{load:?}, syncs of {sync_ms} ms: {ratio:.3} bytes sent per byte proposed");
            assert!(
                (0.9..=1.05).contains(&ratio),
                "{load:?}, syncs of {sync_ms} ms: {ratio:.3}"
            );
        }
    }
}

/// It was probed with a mebibyte five times a second, which it could not take.
#[test]
fn a_quarantined_follower_is_sent_no_entries_however_many_are_proposed() {
    let mut world = World::new(MS);
    while world.now_ns < 1_000 * MS {
        world.step(1, |_| false);
    }
    let lost = world.nodes[2].raft.last_index();
    world.nodes[2].raft.set_aside(world.now_ns, lost);
    while world.now_ns < 1_500 * MS {
        world.step(1, |_| false);
    }
    let (sent, proposed) = (world.sent_bytes, world.proposed_bytes);
    while world.now_ns < 5_000 * MS {
        world.step(1, |_| false);
    }
    assert!(world.nodes[2].raft.is_aside());
    assert!(world.proposed_bytes - proposed > 20 << 20);
    assert_eq!(world.sent_bytes, sent);
}

/// What is lost is sent again, and not all that is on its way to the disk with it.
#[test]
fn a_loss_costs_no_more_than_what_was_sent_since() {
    for sync_ms in [1, 40, 150, 300] {
        let mut world = World::new(sync_ms * MS);
        while world.now_ns < 5_000 * MS {
            let is_losing = world.now_ns % (250 * MS) == 100 * MS;
            world.step(1, |message| is_losing && message.to == NodeId(3));
        }
        for _ in 0..(3 * sync_ms * MS + 200 * MS) / STEP_NS {
            world.step(0, |_| false);
        }
        let [leader, _, follower] = &world.nodes;
        assert_eq!(follower.raft.durable_index(), leader.raft.last_index());
        let ratio = world.sent_bytes as f64 / world.proposed_bytes as f64;
        println!("syncs of {sync_ms} ms, twenty losses: {ratio:.3} bytes sent per byte proposed");
        assert!((0.9..=1.1).contains(&ratio), "{ratio:.3} at {sync_ms} ms");
    }
}

/// From when an append is lost until the follower has it in memory, in half milliseconds, if the commands of `after`
/// follow each a step later. The worst over all moments between two heartbeats.
fn steps_until_repaired(sync_ns: u64, after: usize) -> u64 {
    let lost_at = |offset: u64| {
        let mut world = World::new(sync_ns);
        // Before, the leader has come to know how long this disk takes.
        while world.now_ns < 2_000 * MS + offset * STEP_NS {
            world.step(usize::from(world.now_ns < 1_000 * MS), |_| false);
        }
        world.step(1, |message| {
            message.to == NodeId(3) && matches!(message.body, Body::Append { .. })
        });
        let lost = world.nodes[0].raft.last_index();
        let from_ns = world.now_ns;
        for step in 0.. {
            if world.nodes[2].raft.last_index() >= lost {
                break;
            }
            assert!(step < 10_000, "never repaired");
            world.step(usize::from(step < after), |_| false);
        }
        (world.now_ns - from_ns) / STEP_NS
    };
    (0..50 * MS / STEP_NS).map(lost_at).max().expect("some")
}

/// A frame that is lost is sent again: as soon as the next one arrives, if one follows, else a heartbeat or two later,
/// however slow the disk is.
#[test]
fn what_is_lost_on_the_way_is_sent_again_soon() {
    for sync_ms in [1, 20, 80, 300] {
        let (alone, followed) = (
            steps_until_repaired(sync_ms * MS, 0),
            steps_until_repaired(sync_ms * MS, 5),
        );
        println!("syncs of {sync_ms} ms: {alone} half ms at the end, {followed} in a stream");
        assert!(alone <= 160, "syncs of {sync_ms} ms: {alone} half ms");
        assert!(followed <= 10, "syncs of {sync_ms} ms: {followed} half ms");
    }
}
