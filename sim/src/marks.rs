//! Rare things that happened in a run. A simulator that never meets them proves nothing about them.
//!
//! Counted from what the observer and the world see, so that nothing in the code under test knows of it. A range of seeds in
//! `sim/tests/marks.rs` must meet each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use quorate::simulation::{Body, Command, Deed, Entry, Message, Outcome, SessionId, Stand};
use quorate::transport::{
    Consistency, Refusal, Refused, Reply, ReplyBody, Request, RequestBody, RequestId,
};
use quorate::{GroupId, LogIndex, NodeId, Role, Term};

use crate::faults::FaultClass;
use crate::judge::{Books, Event, Place, is_wait};
use crate::node::Harm;

macro_rules! marks {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Something rare.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark {
            $($(#[doc = $doc])+ $name,)+
        }

        /// All of them, in their order.
        pub const MARKS: [Mark; MARK_COUNT] = [$(Mark::$name,)+];

        const MARK_COUNT: usize = [$(stringify!($name),)+].len();

        impl Mark {
            /// What happened, in a line.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

marks! {
    /// a candidate found no majority, and a later term began
    SplitVote,
    /// a pre-vote was refused
    PreVoteRefused,
    /// a vote was refused
    VoteRefused,
    /// an old leader asked for the election of its successor
    Transfer,
    /// a leader was elected while another one, of an earlier term, still leads
    TwoLeaders,
    /// a leader gave its office up in its own term
    SteppedDown,
    /// a leader was elected whose log is shorter than another one
    ShorterLeader,
    /// a leader stood still while another one was elected
    PausedAcrossElection,
    /// a vote was on the disk, and its node died before it said so
    VoteKeptUnsent,
    /// a node came back with an earlier term than it had in memory
    TermLost,
    /// a suffix that a minority had acknowledged was cut
    MinoritySuffixCut,
    /// a suffix that nobody had acknowledged was cut
    SuffixCut,
    /// ten entries or more were cut at once
    LongSuffixCut,
    /// a refused append named an earlier place than the one before it
    ConflictHint,
    /// a leader committed entries of earlier terms with the first of its own
    OldEntriesCommitted,
    /// a node came back with less committed than it knew
    CommitLost,
    /// entries that were not synced were lost in a crash
    UnsyncedLost,
    /// entries that were not known to be synced came back
    UnsyncedKept,
    /// a snapshot was installed
    SnapshotInstalled,
    /// a snapshot was installed while entries were being written
    SnapshotInstalledWhileAppending,
    /// a snapshot was installed in front of entries that stayed
    SnapshotBeforeSuffix,
    /// a snapshot replaced a log that had another entry in its place
    SnapshotReplacedLog,
    /// a snapshot was refused by its receiver
    SnapshotRefused,
    /// a node died before the snapshot that it installed was durable
    CrashInInstall,
    /// a replica was restored from a snapshot
    RestartFromSnapshot,
    /// a replica was restored from a snapshot, with nothing behind it in its log
    RestartFromSnapshotAlone,
    /// a command met a session that had expired
    SessionExpired,
    /// a repetition was answered from the session table
    DuplicateAnswered,
    /// a repetition came after its answer was acknowledged
    AlreadyAcknowledged,
    /// a command arrived before the one in front of it
    OutOfOrder,
    /// a read was answered under a lease
    LeaseRead,
    /// a read under a lease found that it was over, and was confirmed instead
    LeaseOver,
    /// a read was called in one term and answered in a later one
    ReadAcrossLeaders,
    /// a request was refused because too much waits
    Busy,
    /// a request was refused because the disk is full
    DiskFullRefused,
    /// a leader lost leadership with proposals outstanding
    LeadershipLost,
    /// a full log took entries again
    LogFullAndBack,
    /// a write or a sync of a log failed
    LogFailed,
    /// a node could not be opened on a disk in trouble
    Unopened,
    /// a node ended in the middle of a step of its disk
    DiskStepCut,
    /// the power went off in a batch, and a part of it survived
    TornTail,
    /// the log went on to its next segment in the step in which the power went off
    RotatedInPowerCut,
    /// a segment file was used again
    SegmentReused,
    /// entries were moved out of an old segment
    EntriesMoved,
    /// a frame arrived damaged or cut off
    FrameBroken,
    /// less than a majority of the nodes was alive
    MajorityDown,
    /// entries were lost to damage, and their replica stood aside
    Quarantined,
    /// a replica that stood aside came back with a snapshot
    QuarantineOver,
    /// a node with a damaged disk was refused, and what is damaged was named
    DamageRefused,
    /// a write that was lost was missed because of what was written behind it
    LostWriteNamed,
    /// a read went wrong, and the replica that needed it stood aside
    MisreadNamed,
    /// what could not be read was there after the next start
    MisreadOver,
    /// a node that found its identity or its log gone was refused
    WipedRefused,
    /// what was wiped off a disk was put back
    WipedAndBack,
    /// a cluster of one or two nodes stood still rather than go on without what it lost
    StoodStill,
    /// a client in a node was answered by the replica there, once that was fresh enough
    LocalRead,
    /// a client in a node was answered by the replica there, under its lease
    LocalLeaseRead,
    /// a client in a node was answered by the leader, since the replica there could not serve it
    LocalReadElsewhere,
    /// one disk was full, slow or stuck while progress was judged
    SickDisk,
    /// an operator started a node with the wrong directory
    OperatorMistake,
    /// a node with an empty directory in place of its own was refused by a peer
    EmptyRefused,
    /// a node with an older copy of its directory was refused by a peer
    OlderCopyRefused,
}

/// How often each of them happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkCounts([u64; MARK_COUNT]);

impl Default for MarkCounts {
    fn default() -> Self {
        Self([0; MARK_COUNT])
    }
}

impl MarkCounts {
    /// How often it happened.
    pub fn of(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Those that never did.
    pub fn missing(&self) -> Vec<Mark> {
        let all = MARKS.into_iter();
        all.filter(|&mark| self.of(mark) == 0).collect()
    }

    fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }
}

impl AddAssign<&Self> for MarkCounts {
    fn add_assign(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// Counts them in one run.
#[derive(Debug, Default)]
pub struct Marks {
    counts: MarkCounts,
    /// Votes that left, and votes that were given and did not, when their node died.
    sent_votes: BTreeSet<(Place, Term)>,
    unsent_votes: BTreeMap<Place, (Term, NodeId)>,
    /// The last command of each session that was applied, and up to where entries were looked at.
    sequences: BTreeMap<(GroupId, SessionId), u64>,
    applied: BTreeMap<GroupId, LogIndex>,
    /// Reads that were called: in which term, and whether under a lease.
    reads: BTreeMap<(usize, RequestId), (GroupId, Term, bool)>,
    /// Reads that nodes answered and did not send yet, and whether by a lease.
    answers: BTreeMap<(NodeId, RequestId), Vec<Option<bool>>>,
    /// Nodes that stand still, until when.
    paused: BTreeMap<NodeId, u64>,
    full: BTreeSet<NodeId>,
    /// What struck the disks of nodes last.
    struck_by: BTreeMap<NodeId, FaultClass>,
}

/// So many entries that are cut at once are many.
const LONG_SUFFIX: u64 = 10;

impl Marks {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often each happened.
    pub fn counts(&self) -> &MarkCounts {
        &self.counts
    }

    /// Something happened that the world saw.
    pub fn hit(&mut self, mark: Mark) {
        self.counts.hit(mark);
    }

    /// A node stands still until then.
    pub fn note_pause(&mut self, node: NodeId, until_ns: u64) {
        self.paused.insert(node, until_ns);
    }

    /// Whether a node's log is full.
    pub fn note_full(&mut self, node: NodeId, is_full: bool) {
        if is_full {
            self.full.insert(node);
        } else if self.full.remove(&node) {
            self.hit(Mark::LogFullAndBack);
        }
    }

    /// Counts what an event shows, with the books as they were before it.
    pub fn note(&mut self, books: &Books, event: &Event<'_>) {
        match *event {
            Event::Opened { at, stand, .. } => self.opened(books, at, stand),
            Event::Ended { node } => self.ended(books, node),
            Event::Did { at, deed } => self.did(books, at, deed),
            Event::Moved {
                at, before, now, ..
            } => self.moved(books, at, before, now),
            Event::Sent { at, message } => self.sent(at, message),
            Event::Replied { node, clerk, reply } => self.replied(books, node, clerk, reply),
            Event::Asked { clerk, request } => self.asked(books, clerk, request),
            Event::LogFailed { .. } => self.hit(Mark::LogFailed),
            Event::Harmed { node, harm, by } => self.harmed(node, harm, by),
            Event::Met {
                refusal: Some(why), ..
            } => self.refused(why),
            Event::Copied { .. }
            | Event::Exchanged { .. }
            | Event::Met { .. }
            | Event::MisplacedOpened { .. }
            | Event::MisplacedMoved { .. }
            | Event::MisplacedSent { .. }
            | Event::MisplacedReplied { .. }
            | Event::ReadLocally { .. }
            | Event::Matched { .. }
            | Event::Heard { .. } => {}
        }
    }

    fn refused(&mut self, why: &Refused) {
        match why {
            Refused::OtherDirectory { .. } => self.hit(Mark::EmptyRefused),
            Refused::OlderCopy { .. } | Refused::SecondCopy { .. } => {
                self.hit(Mark::OlderCopyRefused);
            }
            _ => {}
        }
    }

    fn harmed(&mut self, node: NodeId, harm: Harm, by: Option<FaultClass>) {
        if harm == Harm::Lost && by == Some(FaultClass::LostWrite) {
            self.hit(Mark::LostWriteNamed);
        }
        if let Some(class) = by {
            self.struck_by.insert(node, class);
        }
    }

    /// A replica lost entries, or could not read them, and says so.
    fn set_aside(&mut self, books: &Books, at: Place) {
        if books.harm(at.node) == Harm::None {
            self.hit(Mark::MisreadNamed);
            return;
        }
        self.hit(Mark::Quarantined);
        if self.struck_by.get(&at.node) == Some(&FaultClass::LostWrite) {
            self.hit(Mark::LostWriteNamed);
        }
    }

    fn opened(&mut self, books: &Books, at: Place, now: &Stand) {
        let had = &books.replica(at).stand;
        if now.is_aside {
            self.set_aside(books, at);
        } else if had.is_aside && books.harm(at.node) == Harm::None {
            self.hit(Mark::MisreadOver);
        }
        if now.snapshot > LogIndex::ZERO {
            self.hit(Mark::RestartFromSnapshot);
            if now.first > now.last {
                self.hit(Mark::RestartFromSnapshotAlone);
            }
        }
        if now.last < had.last {
            self.hit(Mark::UnsyncedLost);
        }
        if now.last > had.durable {
            self.hit(Mark::UnsyncedKept);
        }
        if now.commit < had.commit {
            self.hit(Mark::CommitLost);
        }
        if now.term < had.term {
            self.hit(Mark::TermLost);
        }
        if let Some((term, to)) = self.unsent_votes.remove(&at)
            && (now.term, now.vote) == (term, Some(to))
        {
            self.hit(Mark::VoteKeptUnsent);
        }
    }

    fn ended(&mut self, books: &Books, node: NodeId) {
        self.paused.remove(&node);
        self.full.remove(&node);
        self.answers.retain(|(from, _), _| *from != node);
        let mut alive = 0;
        for group in books.groups() {
            let at = Place { node, group };
            let stand = &books.replica(at).stand;
            let vote = stand.vote.filter(|&to| to != node);
            if let Some(to) = vote
                && !self.sent_votes.contains(&(at, stand.term))
            {
                self.unsent_votes.insert(at, (stand.term, to));
            }
            if stand.snapshot > stand.durable {
                self.hit(Mark::CrashInInstall);
            }
            let replicas = books.group(group).replicas();
            alive = replicas.iter().filter(|replica| replica.is_alive).count();
        }
        // The one that ends is still counted.
        if alive == books.quorum() {
            self.hit(Mark::MajorityDown);
        }
    }

    fn did(&mut self, books: &Books, at: Place, deed: &Deed) {
        match deed {
            Deed::Wrote(entries) => self.wrote(books, at, entries),
            Deed::Installed {
                index,
                keeps_suffix,
                ..
            } => {
                let replica = books.replica(at);
                self.hit(Mark::SnapshotInstalled);
                if replica.stand.durable < replica.last() {
                    self.hit(Mark::SnapshotInstalledWhileAppending);
                }
                if *keeps_suffix && replica.last() > *index {
                    self.hit(Mark::SnapshotBeforeSuffix);
                }
                if !*keeps_suffix && replica.last() >= *index {
                    self.hit(Mark::SnapshotReplacedLog);
                }
            }
            Deed::Applied { entry, outcome } => self.applied(at.group, entry, outcome),
            Deed::Read { id, by_lease, .. } if !is_wait(*id) => {
                let answers = self.answers.entry((at.node, *id)).or_default();
                answers.push(Some(*by_lease));
            }
            Deed::Acknowledged { id, .. } => {
                self.answers.entry((at.node, *id)).or_default().push(None);
            }
            Deed::Read { .. } | Deed::Saved { .. } => {}
        }
    }

    fn wrote(&mut self, books: &Books, at: Place, entries: &[Entry]) {
        let replica = books.replica(at);
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        if first > replica.last() {
            return;
        }
        let is_promised = replica.promise.is_some_and(|promise| {
            promise.index >= first && replica.term_at(promise.index) == Some(promise.entry_term)
        });
        self.hit(if is_promised {
            Mark::MinoritySuffixCut
        } else {
            Mark::SuffixCut
        });
        if replica.last().0 + 1 - first.0 >= LONG_SUFFIX {
            self.hit(Mark::LongSuffixCut);
        }
    }

    fn applied(&mut self, group: GroupId, entry: &Entry, outcome: &Outcome) {
        let seen = self.applied.entry(group).or_default();
        if entry.index <= *seen {
            return;
        }
        *seen = entry.index;
        match outcome {
            Outcome::SessionExpired => self.hit(Mark::SessionExpired),
            Outcome::AlreadyAcknowledged => self.hit(Mark::AlreadyAcknowledged),
            Outcome::OutOfOrder { .. } => self.hit(Mark::OutOfOrder),
            Outcome::Applied(_) => {
                let Ok(Command::Apply(position)) = Command::decode(&entry.data) else {
                    return;
                };
                let key = (group, position.session);
                let last = self.sequences.entry(key).or_default();
                if position.sequence <= *last {
                    self.hit(Mark::DuplicateAnswered);
                } else {
                    *last = position.sequence;
                }
            }
            _ => {}
        }
    }

    fn moved(&mut self, books: &Books, at: Place, before: &Stand, now: &Stand) {
        match (before.is_aside, now.is_aside) {
            (true, false) => self.hit(Mark::QuarantineOver),
            (false, true) => self.set_aside(books, at),
            _ => {}
        }
        let was_candidate = before.role == Role::Candidate;
        if was_candidate && now.term > before.term && now.leader.is_none() {
            self.hit(Mark::SplitVote);
        }
        let led = before.role == Role::Leader;
        if led && now.role != Role::Leader && now.term == before.term {
            self.hit(Mark::SteppedDown);
        }
        if now.role != Role::Leader {
            return;
        }
        if !led || before.term != now.term {
            self.elected(books, at, now);
        }
        if led && now.commit > before.commit {
            let first = books.replica(at).term_at(before.commit.next());
            if first.is_some_and(|term| term < now.term) {
                self.hit(Mark::OldEntriesCommitted);
            }
        }
    }

    fn elected(&mut self, books: &Books, at: Place, now: &Stand) {
        let group = books.group(at.group);
        let others = group.replicas().iter().enumerate();
        let others = others.map(|(place, replica)| (NodeId(place as u64 + 1), replica));
        let mut is_shorter = false;
        for (node, replica) in others.filter(|(node, _)| *node != at.node) {
            is_shorter |= replica.stand.last > now.last;
            if replica.leads() && replica.stand.term < now.term {
                self.hit(Mark::TwoLeaders);
                let until_ns = self.paused.get(&node).copied();
                if until_ns.is_some_and(|until_ns| until_ns > books.now_ns) {
                    self.hit(Mark::PausedAcrossElection);
                }
            }
        }
        if is_shorter {
            self.hit(Mark::ShorterLeader);
        }
    }

    fn sent(&mut self, at: Place, message: &Message) {
        match message.body {
            Body::PreVoteReply { granted: false } => self.hit(Mark::PreVoteRefused),
            Body::VoteReply { granted: false } => self.hit(Mark::VoteRefused),
            Body::VoteReply { granted: true } => {
                self.sent_votes.insert((at, message.term));
            }
            Body::TimeoutNow => self.hit(Mark::Transfer),
            Body::AppendRejected {
                prev_index,
                hint_index,
                ..
            } if hint_index < prev_index.previous() => self.hit(Mark::ConflictHint),
            _ => {}
        }
    }

    fn asked(&mut self, books: &Books, clerk: usize, request: &Request) {
        let RequestBody::Query { consistency, .. } = request.body else {
            return;
        };
        let replicas = books.group(request.group).replicas().iter();
        let term = replicas.filter(|replica| replica.leads());
        let term = term.map(|replica| replica.stand.term).max();
        let by_lease = consistency == Consistency::Lease;
        self.reads.entry((clerk, request.id)).or_insert((
            request.group,
            term.unwrap_or_default(),
            by_lease,
        ));
    }

    fn replied(&mut self, books: &Books, node: NodeId, clerk: usize, reply: &Reply) {
        match &reply.result {
            Ok(ReplyBody::Outcome(_)) => {
                let _no_read = self.take_answer(node, reply.id);
            }
            Ok(ReplyBody::Answer(_) | ReplyBody::ReadIndex(_)) => {
                let by_lease = self.take_answer(node, reply.id);
                let called = self.reads.get(&(clerk, reply.id)).copied();
                let Some((group, term, wants_lease)) = called else {
                    return;
                };
                match by_lease {
                    Some(true) => self.hit(Mark::LeaseRead),
                    Some(false) if wants_lease => self.hit(Mark::LeaseOver),
                    _ => {}
                }
                let place = Place { node, group };
                let answered = books.replica(place).stand.term;
                if term > Term::ZERO && answered > term {
                    self.hit(Mark::ReadAcrossLeaders);
                }
            }
            Err(Refusal::Busy) => self.hit(Mark::Busy),
            Err(Refusal::DiskFull) => self.hit(Mark::DiskFullRefused),
            Err(Refusal::LeadershipLost) => self.hit(Mark::LeadershipLost),
            Err(_) => {}
        }
    }

    /// Clerks number their requests alike: the answers of a node leave in the order in which it gave them.
    fn take_answer(&mut self, node: NodeId, id: RequestId) -> Option<bool> {
        let answers = self.answers.get_mut(&(node, id))?;
        let first = answers.remove(0);
        if answers.is_empty() {
            self.answers.remove(&(node, id));
        }
        first
    }
}
