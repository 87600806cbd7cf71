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

/// Bytes of entries sent to the follower with the slow disk, for each byte proposed in five seconds.
fn sent_per_proposed(sync_ns: u64) -> f64 {
    let mut nodes = [Node::new(1, MS), Node::new(2, MS), Node::new(3, sync_ns)];
    let mut wire: VecDeque<(u64, Message)> = VecDeque::new();
    let (mut proposed, mut sent) = (0, 0);
    nodes[0].raft.campaign(0);
    for now_ns in (0..5_000 * MS).step_by(STEP_NS as usize) {
        while wire.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns) {
            let (_, message) = wire.pop_front().expect("just seen");
            let to = message.to.0 as usize - 1;
            nodes[to].raft.step(now_ns, message);
        }
        if nodes[0].raft.role() == Role::Leader {
            let command = (EntryKind::Command, Bytes::from(vec![0; PROPOSAL_BYTES]));
            nodes[0].raft.propose(now_ns, [command]).expect("taken");
            proposed += PROPOSAL_BYTES + Entry::OVERHEAD_BYTES;
        }
        let mut messages = Vec::new();
        for node in &mut nodes {
            node.pass(now_ns, &mut messages);
        }
        for message in messages {
            if let Body::Append { entries, .. } = &message.body
                && message.to == NodeId(3)
            {
                sent += entries.iter().map(Entry::weight_bytes).sum::<usize>();
            }
            wire.push_back((now_ns + NETWORK_NS, message));
        }
    }
    let behind = nodes[0].raft.last_index().0 - nodes[2].raft.durable_index().0;
    assert!(
        behind * STEP_NS <= 3 * sync_ns + 10 * MS,
        "it does not follow: {behind} behind"
    );
    assert!(proposed > 30 << 20, "{proposed} bytes are no load");
    sent as f64 / proposed as f64
}

#[test]
fn a_follower_with_a_slow_disk_is_sent_what_it_lacks_about_once() {
    for (sync_ms, bound) in [(1, 1.01), (60, 1.1), (200, 1.15)] {
        let ratio = sent_per_proposed(sync_ms * MS);
        println!("syncs of {sync_ms} ms: {ratio:.3} bytes sent per byte proposed");
        assert!(
            ratio >= 0.9 && ratio <= bound,
            "syncs of {sync_ms} ms: {ratio:.3}"
        );
    }
}

/// What is lost is still sent again, and no later than two election timeouts after it left.
#[test]
fn what_is_lost_on_the_way_to_a_slow_disk_is_sent_again() {
    let mut nodes = [Node::new(1, MS), Node::new(2, MS), Node::new(3, 200 * MS)];
    let mut wire: VecDeque<(u64, Message)> = VecDeque::new();
    nodes[0].raft.campaign(0);
    let (lost_from_ns, lost_to_ns) = (2_000 * MS, 2_010 * MS);
    for now_ns in (0..4_000 * MS).step_by(STEP_NS as usize) {
        while wire.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns) {
            let (_, message) = wire.pop_front().expect("just seen");
            let to = message.to.0 as usize - 1;
            nodes[to].raft.step(now_ns, message);
        }
        if nodes[0].raft.role() == Role::Leader && now_ns < lost_to_ns {
            let command = (EntryKind::Command, Bytes::from_static(b"some command"));
            nodes[0].raft.propose(now_ns, [command]).expect("taken");
        }
        let mut messages = Vec::new();
        for node in &mut nodes {
            node.pass(now_ns, &mut messages);
        }
        let is_losing = (lost_from_ns..lost_to_ns).contains(&now_ns);
        let arriving = messages
            .into_iter()
            .filter(|it| !(is_losing && it.to == NodeId(3)));
        wire.extend(arriving.map(|message| (now_ns + NETWORK_NS, message)));
    }
    assert_eq!(nodes[2].raft.durable_index(), nodes[0].raft.last_index());
    assert_eq!(nodes[2].raft.commit(), nodes[0].raft.commit());
}
