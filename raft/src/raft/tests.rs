use std::mem::size_of;

use super::*;
use crate::error::LogReadError;
use crate::ids::Round;
use crate::output::LogReader;

struct NoDisk;

impl LogReader for NoDisk {
    fn entries(&mut self, _: LogIndex, _: LogIndex, _: usize) -> Result<Vec<Entry>, LogReadError> {
        Err(LogReadError::new("everything is in memory"))
    }
}

impl Raft {
    /// What the replica takes: itself and what it points to, without the members.
    fn memory_bytes(&self) -> usize {
        let mut bytes = size_of::<Self>()
            + self.log.capacity() * size_of::<Entry>()
            + self.outbox.capacity() * size_of::<Message>()
            + self.reads_ready.capacity() * size_of::<ReadReady>()
            + self.reads_failed.capacity() * size_of::<u64>();
        if let Standing::Leader(lead) = &self.standing {
            bytes += size_of::<Leadership>()
                + lead.peers.capacity() * size_of::<Progress>()
                + lead
                    .peers
                    .iter()
                    .map(Progress::inflight_capacity)
                    .sum::<usize>()
                    * 24
                + lead.rounds.capacity() * size_of::<u64>();
        }
        bytes
    }

    fn settle(&mut self, now_ns: u64) {
        while self.has_output() {
            if let Some(persist) = self.output(now_ns, &mut NoDisk).persist {
                self.on_persisted(now_ns, persist.seq);
            }
        }
    }

    fn hear(&mut self, now_ns: u64, from: u64, body: Body) {
        let message = Message {
            from: NodeId(from),
            to: NodeId(1),
            term: Term(1),
            body,
        };
        self.step(now_ns, message);
        self.settle(now_ns);
    }
}

/// Ten thousand idle groups are to fit where one busy group did.
#[test]
fn a_leader_at_rest_after_a_burst_takes_less_than_two_kibibytes() {
    let config = Config {
        voters: [1, 2, 3].map(NodeId).to_vec(),
    };
    let restored = Restored {
        id: NodeId(1),
        config,
        first_index: LogIndex(1),
        ..Restored::default()
    };
    let mut raft = Raft::new(Options::default(), restored, 0).expect("sound");
    raft.campaign(0);
    raft.settle(0);
    raft.hear(0, 2, Body::PreVoteReply { granted: true });
    raft.hear(0, 2, Body::VoteReply { granted: true });
    let accepted = |index| Body::AppendAccepted {
        match_index: index,
        round: Round(1),
    };
    raft.hear(0, 2, accepted(LogIndex(1)));
    raft.hear(0, 3, accepted(LogIndex(1)));
    for token in 0..200 {
        raft.read(0, token).expect("taken");
        raft.propose(0, [(EntryKind::Command, Bytes::from(vec![0; 100]))])
            .expect("taken");
        raft.settle(0);
    }
    assert!(raft.memory_bytes() > 10_000, "{}", raft.memory_bytes());
    for peer in [2, 3] {
        raft.hear(0, peer, accepted(raft.last_index()));
    }
    let mut now_ns = 0;
    for _ in 0..5 {
        now_ns += raft.options.heartbeat_interval_ns;
        raft.tick(now_ns);
        let Standing::Leader(lead) = &raft.standing else {
            panic!("it leads")
        };
        let round = lead.rounds.newest().next();
        raft.settle(now_ns);
        for peer in [2, 3] {
            raft.hear(
                now_ns,
                peer,
                Body::HeartbeatReply {
                    round: Round(round.0 - 1),
                },
            );
        }
    }
    assert_eq!(raft.role(), Role::Leader);
    assert!(raft.memory_bytes() < 2048, "{}", raft.memory_bytes());
}
