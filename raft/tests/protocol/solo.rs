//! One replica whose peers are played by the test, message by message.

use bytes::Bytes;
use quorate_raft::{
    Body, Config, Entry, EntryKind, HardState, LogIndex, Message, NodeId, Options, Output, Raft,
    Restored, Role, Round, Term,
};

use crate::disk::Disk;

pub(crate) const MS: u64 = 1_000_000;

pub(crate) fn options() -> Options {
    Options {
        election_timeout_ns: 300 * MS,
        heartbeat_interval_ns: 50 * MS,
        lease_drift_percent: 10,
        ..Options::default()
    }
}

pub(crate) fn config(count: u64) -> Config {
    Config {
        voters: (1..=count).map(NodeId).collect(),
    }
}

pub(crate) fn entry(index: u64, term: u64) -> Entry {
    let data = Bytes::from(format!("{index} of {term}"));
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        data,
    }
}

/// A log given by the term of each entry, in a replica that has seen `term`.
pub(crate) fn restored(id: u64, voters: u64, term: u64, terms: &[u64]) -> Restored {
    let mut runs = vec![(LogIndex(0), Term(0))];
    for (place, &term) in terms.iter().enumerate() {
        if runs[runs.len() - 1].1 < Term(term) {
            runs.push((LogIndex(place as u64 + 1), Term(term)));
        }
    }
    Restored {
        id: NodeId(id),
        config: config(voters),
        hard_state: HardState {
            term: Term(term),
            ..HardState::default()
        },
        first_index: LogIndex(1),
        last_index: LogIndex(terms.len() as u64),
        terms: runs,
        ..Restored::default()
    }
}

/// Replica 1, with its disk and clock.
pub(crate) struct Solo {
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    pub(crate) now_ns: u64,
}

impl Solo {
    pub(crate) fn new(voters: u64) -> Self {
        Self::with_log(options(), voters, 0, &[])
    }

    /// A replica that has seen `term` and has a durable log of the given terms.
    pub(crate) fn with_log(options: Options, voters: u64, term: u64, terms: &[u64]) -> Self {
        let mut disk = Disk::default();
        disk.durable.hard_state.term = Term(term);
        disk.durable.entries = terms
            .iter()
            .enumerate()
            .map(|(place, &term)| entry(place as u64 + 1, term))
            .collect();
        disk.live = disk.durable.clone();
        let raft = Raft::new(options, restored(1, voters, term, terms), 0).expect("sound");
        Self {
            raft,
            disk,
            now_ns: 0,
        }
    }

    pub(crate) fn hears(&mut self, from: u64, term: u64, body: Body) {
        let message = Message {
            from: NodeId(from),
            to: NodeId(1),
            term: Term(term),
            body,
        };
        self.raft.step(self.now_ns, message);
    }

    /// Appends of a leader at commit index `commit`.
    pub(crate) fn hears_append(
        &mut self,
        from: u64,
        term: u64,
        prev: (u64, u64),
        terms: &[u64],
        commit: u64,
    ) {
        let entries = terms
            .iter()
            .enumerate()
            .map(|(place, &term)| entry(prev.0 + 1 + place as u64, term))
            .collect();
        let body = Body::Append {
            prev_index: LogIndex(prev.0),
            prev_term: Term(prev.1),
            commit: LogIndex(commit),
            round: Round(0),
            entries,
        };
        self.hears(from, term, body);
    }

    pub(crate) fn accepted(&mut self, from: u64, match_index: u64, round: u64) {
        let term = self.raft.term().0;
        let body = Body::AppendAccepted {
            match_index: LogIndex(match_index),
            round: Round(round),
        };
        self.hears(from, term, body);
    }

    /// What the replica wants; its writes go to the disk's queue.
    pub(crate) fn output(&mut self) -> Output {
        let mut output = self.raft.output(self.now_ns, &mut self.disk);
        if let Some(persist) = output.persist.take() {
            self.disk.submit(persist);
        }
        output
    }

    /// All writes become durable. Returns the messages that waited for it.
    pub(crate) fn sync(&mut self) -> Vec<Message> {
        if let Some(seq) = self.disk.complete_all() {
            self.raft.on_persisted(self.now_ns, seq);
        }
        self.output().messages
    }

    pub(crate) fn messages(&mut self) -> Vec<Message> {
        self.output().messages
    }

    pub(crate) fn bodies(&mut self) -> Vec<Body> {
        self.messages()
            .into_iter()
            .map(|message| message.body)
            .collect()
    }

    /// Lets time pass and fires what is due.
    pub(crate) fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
        self.raft.tick(self.now_ns);
    }

    /// Wins an election with the vote of replica 2 (and 3, where two are needed).
    pub(crate) fn lead(&mut self) {
        self.now_ns = self.now_ns.max(options().election_timeout_ns * 4);
        self.raft.campaign(self.now_ns);
        let voters = self.raft.config().voters.len() as u64;
        let term = self.raft.term().0 + 1;
        for voter in 2..=voters / 2 + 1 {
            self.hears(voter, term, Body::PreVoteReply { granted: true });
        }
        self.output();
        self.sync();
        for voter in 2..=voters / 2 + 1 {
            self.hears(voter, term, Body::VoteReply { granted: true });
        }
        assert_eq!(self.raft.role(), Role::Leader);
    }

    /// Leads, and has committed the first entry of its term with replica 2.
    pub(crate) fn lead_committed(&mut self) {
        self.lead();
        self.output();
        self.sync();
        let last = self.raft.last_index();
        if self.raft.config().voters.len() > 1 {
            self.accepted(2, last.0, 1);
        }
        while self.output().more() {}
        assert_eq!(self.raft.applied(), last);
    }

    pub(crate) fn propose(&mut self, text: &str) -> LogIndex {
        let command = (EntryKind::Command, Bytes::copy_from_slice(text.as_bytes()));
        self.raft.propose(self.now_ns, [command]).expect("taken")
    }

    /// The newest round among messages of this kind.
    pub(crate) fn newest_round(messages: &[Message]) -> Round {
        let rounds = messages.iter().filter_map(|message| match message.body {
            Body::Heartbeat { round, .. } | Body::Append { round, .. } => Some(round),
            _ => None,
        });
        rounds.max().expect("a message with a round")
    }
}
