//! What the observer of a run has written down, and the plain events in which it tells the rules what happened.
//!
//! Invariants:
//! - The books outlive every process: what a node forgets in a crash stands here.
//! - A rule sees an event before the books take it in, so that it can compare.
//! - Nothing here comes from a node's own account of its past: only from what it was seen to do, and from what was done to
//!   its disk.
//! - Of a log, what stands before the first entry that any replica has is gone: the books grow with what is in the logs, not
//!   with the length of the run. What is asked of it is not known.

use quorate::simulation::{Body, Deed, Message, Stand};
use quorate::transport::{Refused, Reply, Request};
use quorate::{GroupId, LogIndex, NodeId, Role, Term};

use super::by_index::ByIndex;
use crate::clock::Clock;
use crate::faults::FaultClass;
use crate::node::Harm;

/// A replica: a group on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
}

/// The directory from which a node is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// Its own, with all that it wrote last.
    Own,
    /// An empty one.
    Empty,
    /// The copy that was made last, of which all peers have met a later start.
    Older,
}

/// What the observer saw.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A copy was made of the directory of a node that does not run.
    Copied {
        /// The node.
        node: NodeId,
    },
    /// A node that does not run got another directory. While that is not its own, what it does is
    /// told in other events than those of its replicas, since it is not they who do it: nobody may
    /// count it.
    Exchanged {
        /// The node.
        node: NodeId,
        /// Which one.
        directory: Directory,
    },
    /// Two processes showed each other their cards.
    Met {
        /// One of them.
        node: NodeId,
        /// The other one.
        other: NodeId,
        /// Why they do not deal with each other; of one with a wrong directory, what its peer says.
        /// None: they do.
        refusal: Option<&'a Refused>,
    },
    /// A process was started from a directory that is not its own, with this replica in it.
    MisplacedOpened {
        /// Which replica.
        at: Place,
        /// How it stands.
        stand: &'a Stand,
        /// The terms of its log, from the entry before the first one on.
        terms: &'a [Term],
    },
    /// A replica in a directory that is not its own stands in another way than before.
    MisplacedMoved {
        /// Which replica.
        at: Place,
        /// How it stands.
        now: &'a Stand,
    },
    /// A message leaves a replica in a directory that is not its own.
    MisplacedSent {
        /// Which replica.
        at: Place,
        /// The message.
        message: &'a Message,
    },
    /// An answer leaves a node in a directory that is not its own.
    MisplacedReplied {
        /// The node.
        node: NodeId,
        /// The answer.
        reply: &'a Reply,
    },
    /// A process was started, with this replica in it.
    Opened {
        /// Which replica.
        at: Place,
        /// How it stands.
        stand: &'a Stand,
        /// The terms of its log, from the entry before the first one on.
        terms: &'a [Term],
    },
    /// The disk of a node was struck, and may have lost what was durable on it; or it is again as it was before.
    Harmed {
        /// The node.
        node: NodeId,
        /// What became of what was durable.
        harm: Harm,
        /// What struck it last.
        by: Option<FaultClass>,
    },
    /// A process ended.
    Ended {
        /// The node.
        node: NodeId,
    },
    /// A replica did something.
    Did {
        /// Which replica.
        at: Place,
        /// What.
        deed: &'a Deed,
    },
    /// A replica stands in another way than before, or leads.
    Moved {
        /// Which replica.
        at: Place,
        /// How it stood.
        before: &'a Stand,
        /// How it stands.
        now: &'a Stand,
        /// The clock of its node.
        clock: &'a Clock,
        /// Whether it looked at the time.
        is_pass: bool,
    },
    /// A leader was seen to believe that a peer has everything up to here.
    Matched {
        /// The leader.
        at: Place,
        /// The peer.
        peer: NodeId,
        /// What it is believed to have on its disk.
        index: LogIndex,
    },
    /// A message leaves a replica.
    Sent {
        /// Which replica.
        at: Place,
        /// The message.
        message: &'a Message,
    },
    /// An answer leaves a node for a clerk.
    Replied {
        /// The node.
        node: NodeId,
        /// The place of the clerk.
        clerk: usize,
        /// The answer.
        reply: &'a Reply,
    },
    /// A clerk sends a request, for the first time or again.
    Asked {
        /// The place of the clerk.
        clerk: usize,
        /// The request.
        request: &'a Request,
    },
    /// A client in a node begins a read, or ends it with what the node shows at that moment.
    ReadLocally {
        /// The place of the client, and which read of the run it is.
        read: (usize, u64),
        /// The group.
        group: GroupId,
        /// What the view includes that it was answered from; none when it begins.
        seen: Option<LogIndex>,
    },
    /// A node was handed a frame of another one.
    Heard {
        /// Who was handed it.
        node: NodeId,
        /// Who sent it.
        from: NodeId,
        /// What the clock of the receiver showed.
        shown_ns: u64,
    },
    /// A write or a sync of a node's log failed.
    LogFailed {
        /// The node.
        node: NodeId,
    },
}

/// Something that must hold, told event by event.
pub trait Rule {
    /// An error ends the run as failed, and says which invariant does not hold.
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String>;

    /// How many things it keeps, if their number may grow with the length of the run.
    fn held(&self) -> usize {
        0
    }
}

/// What was seen of a run so far.
#[derive(Clone, Debug)]
pub struct Books {
    /// Virtual time.
    pub now_ns: u64,
    /// How many nodes there are; all of them vote in every group.
    pub nodes: usize,
    groups: Vec<GroupBook>,
    /// By the place of the node: what became of what was durable on its disk.
    harms: Vec<Harm>,
    /// By the place of the node, where it runs from another directory than its own.
    misplaced: Vec<bool>,
}

/// What was seen of a group.
#[derive(Clone, Debug)]
pub struct GroupBook {
    /// By the place of the node.
    replicas: Vec<ReplicaBook>,
    /// By the place of the node, as they were when its directory was copied last.
    copied: Vec<ReplicaBook>,
    /// What stands at each index for good.
    committed: ByIndex<Committed>,
}

/// What was seen of a replica, over all its lives.
#[derive(Clone, Debug)]
pub struct ReplicaBook {
    /// How it stood when it was last seen.
    pub stand: Stand,
    /// Whether its process runs.
    pub is_alive: bool,
    /// The terms of its log by index; what stands before `known_from` is not known.
    terms: ByIndex<Term>,
    known_from: LogIndex,
    /// The latest promise about its log that left it.
    pub promise: Option<Promise>,
    /// Up to here its disk once had what damage took from it: nothing, unless it stands aside for that. Whoever counted it
    /// then did well to.
    taken: LogIndex,
}

/// "Everything up to `index` is on my disk and equals yours", said to the leader of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The leader's term.
    pub term: Term,
    /// The last entry promised.
    pub index: LogIndex,
    /// That entry's term.
    pub entry_term: Term,
}

/// An entry that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its term.
    pub term: Term,
    /// The term of the replica that was first seen to know: it was committed in this term or before.
    pub by_term: Term,
}

impl Books {
    /// Empty books.
    pub fn new(nodes: usize, groups: u32) -> Self {
        let group = GroupBook {
            replicas: vec![ReplicaBook::default(); nodes],
            copied: vec![ReplicaBook::default(); nodes],
            committed: ByIndex::from(LogIndex(1)),
        };
        Self {
            now_ns: 0,
            nodes,
            groups: vec![group; groups as usize],
            harms: vec![Harm::None; nodes],
            misplaced: vec![false; nodes],
        }
    }

    /// How many entries are kept, of all logs.
    pub fn held(&self) -> usize {
        self.groups.iter().map(GroupBook::held).sum()
    }

    /// How many nodes are a majority.
    pub fn quorum(&self) -> usize {
        self.nodes / 2 + 1
    }

    /// The groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.groups.len() as u64).map(GroupId)
    }

    /// A group.
    pub fn group(&self, group: GroupId) -> &GroupBook {
        &self.groups[group.0 as usize]
    }

    /// A replica.
    pub fn replica(&self, at: Place) -> &ReplicaBook {
        &self.group(at.group).replicas[at.node.0 as usize - 1]
    }

    /// What became of what was durable on the disk of a node. Only of one that was struck may something be gone.
    pub fn harm(&self, node: NodeId) -> Harm {
        self.harms[node.0 as usize - 1]
    }

    /// Whether a node runs from another directory than its own. What its own one holds stands in
    /// the book of its replicas.
    pub fn is_misplaced(&self, node: NodeId) -> bool {
        self.misplaced[node.0 as usize - 1]
    }

    /// What the copy of a node's directory holds of a replica: nothing, before one was made.
    pub fn copied(&self, at: Place) -> &ReplicaBook {
        &self.group(at.group).copied[at.node.0 as usize - 1]
    }

    /// What there is in a directory for which a node's own one was exchanged.
    fn exchange(&mut self, node: NodeId, directory: Directory) {
        let place = node.0 as usize - 1;
        self.misplaced[place] = directory != Directory::Own;
        if directory == Directory::Empty {
            for group in &mut self.groups {
                group.copied[place] = ReplicaBook::default();
            }
        }
    }

    /// Takes an event in.
    pub fn note(&mut self, event: &Event<'_>) {
        match *event {
            Event::Opened { at, stand, terms } => {
                let replica = self.replica_mut(at);
                replica.open(stand, terms);
                self.note_commit(at, LogIndex::ZERO, stand);
            }
            Event::Copied { node } => {
                let place = node.0 as usize - 1;
                for group in &mut self.groups {
                    group.copied[place] = group.replicas[place].clone();
                }
            }
            Event::Exchanged { node, directory } => self.exchange(node, directory),
            Event::Harmed { node, harm, .. } => self.harms[node.0 as usize - 1] = harm,
            Event::Ended { node } => {
                for group in &mut self.groups {
                    group.replicas[node.0 as usize - 1].is_alive = false;
                }
            }
            Event::Did { at, deed } => self.replica_mut(at).note(deed),
            Event::Moved {
                at, before, now, ..
            } => {
                self.replica_mut(at).stood(now);
                if now.commit > before.commit {
                    self.note_commit(at, before.commit, now);
                }
                if now.first > before.first {
                    self.groups[at.group.0 as usize].let_go();
                }
            }
            Event::Sent { at, message } => {
                if let Body::AppendAccepted { match_index, .. } = message.body {
                    self.replica_mut(at).note_promise(message.term, match_index);
                }
            }
            Event::Met { .. }
            | Event::MisplacedOpened { .. }
            | Event::MisplacedMoved { .. }
            | Event::MisplacedSent { .. }
            | Event::MisplacedReplied { .. }
            | Event::Matched { .. }
            | Event::ReadLocally { .. }
            | Event::Replied { .. }
            | Event::Asked { .. }
            | Event::Heard { .. }
            | Event::LogFailed { .. } => {}
        }
    }

    /// What a replica knows to be committed is committed.
    fn note_commit(&mut self, at: Place, before: LogIndex, now: &Stand) {
        let group = &mut self.groups[at.group.0 as usize];
        let replica = &group.replicas[at.node.0 as usize - 1];
        let next = group.committed.end().0.max(before.0 + 1);
        for index in next..=now.commit.0 {
            let Some(term) = replica.term_at(LogIndex(index)) else {
                break;
            };
            if group.committed.end() != LogIndex(index) {
                break;
            }
            group.committed.push(Committed {
                term,
                by_term: now.term,
            });
        }
    }

    fn replica_mut(&mut self, at: Place) -> &mut ReplicaBook {
        &mut self.groups[at.group.0 as usize].replicas[at.node.0 as usize - 1]
    }
}

impl GroupBook {
    /// The replicas, by the place of their node.
    pub fn replicas(&self) -> &[ReplicaBook] {
        &self.replicas
    }

    /// The last entry that is committed.
    pub fn last_committed(&self) -> LogIndex {
        self.committed.end().previous()
    }

    /// What is committed at an index, unless that is gone.
    pub fn committed(&self, index: LogIndex) -> Option<Committed> {
        self.committed.get(index).copied()
    }

    /// Whether it is not known any more what is committed at an index: no replica has it.
    pub fn has_let_go(&self, index: LogIndex) -> bool {
        index > LogIndex::ZERO && index < self.committed.first()
    }

    /// The entry before the first one that any replica has in its log, the dead ones included: nobody asks for what
    /// stands before it. After a crash a log may begin with an earlier one, of which the books then know nothing.
    pub fn floor(&self) -> LogIndex {
        let firsts = self.replicas.iter().map(|replica| replica.stand.first);
        firsts.min().unwrap_or_default().previous()
    }

    /// The last entry that was seen to be committed in a term before this one.
    pub fn last_committed_before(&self, term: Term) -> LogIndex {
        let later = self.committed.iter().rev();
        let later = later.take_while(|committed| committed.by_term >= term);
        LogIndex(self.last_committed().0 - later.count() as u64)
    }

    /// How many disks hold an entry, as far as their replicas were told.
    pub fn holders(&self, index: LogIndex, term: Term) -> usize {
        let replicas = self.replicas.iter();
        replicas.filter(|it| it.holds(index, Some(term))).count()
    }

    fn let_go(&mut self) {
        let floor = self.floor();
        self.committed.let_go(floor);
        for replica in self.replicas.iter_mut().chain(&mut self.copied) {
            replica.let_go(floor);
        }
    }

    fn held(&self) -> usize {
        let replicas = self.replicas.iter().chain(&self.copied);
        let terms = replicas.map(|replica| replica.terms.len());
        self.committed.len() + terms.sum::<usize>()
    }
}

impl Default for ReplicaBook {
    fn default() -> Self {
        Self {
            stand: Stand::default(),
            is_alive: false,
            terms: anchored(LogIndex::ZERO, Term::ZERO),
            known_from: LogIndex::ZERO,
            promise: None,
            taken: LogIndex::ZERO,
        }
    }
}

impl ReplicaBook {
    /// The term of an entry of its log.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.known_from {
            return None;
        }
        self.terms.get(index).copied()
    }

    /// The last entry of its log.
    pub fn last(&self) -> LogIndex {
        self.terms.end().previous()
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.is_alive && self.stand.role == Role::Leader
    }

    /// Whether its disk holds an entry, as far as it was told, or did until it was damaged.
    pub fn holds(&self, index: LogIndex, term: Option<Term>) -> bool {
        self.stand.durable.max(self.taken) >= index
            && self.term_at(index).is_none_or(|had| Some(had) == term)
    }

    fn open(&mut self, stand: &Stand, terms: &[Term]) {
        self.is_alive = true;
        self.taken = self.taken.max(self.stand.durable);
        self.stood(stand);
        self.known_from = stand.first.previous();
        self.terms.restart(self.known_from);
        for &term in terms {
            self.terms.push(term);
        }
    }

    fn stood(&mut self, now: &Stand) {
        self.stand = *now;
        if !now.is_aside {
            self.taken = LogIndex::ZERO;
        }
    }

    fn note(&mut self, deed: &Deed) {
        match deed {
            Deed::Wrote(entries) => {
                let Some(first) = entries.first() else {
                    return;
                };
                self.terms.fit(first.index);
                for entry in entries {
                    self.terms.push(entry.term);
                }
            }
            Deed::Installed {
                index,
                term,
                keeps_suffix,
            } => {
                if !*keeps_suffix {
                    self.terms = anchored(*index, *term);
                }
                self.known_from = self.known_from.max(*index);
                if let Some(known) = self.terms.slot(*index) {
                    *known = *term;
                }
            }
            Deed::Saved { .. }
            | Deed::Applied { .. }
            | Deed::Acknowledged { .. }
            | Deed::Read { .. } => {}
        }
    }

    fn note_promise(&mut self, term: Term, index: LogIndex) {
        let has_more = |had: Promise| had.term == term && had.index >= index;
        if !self.promise.is_some_and(has_more) {
            self.promise = Some(Promise {
                term,
                index,
                entry_term: self.term_at(index).unwrap_or_default(),
            });
        }
    }

    /// Lets go of what stands before this index; the last entry stays.
    fn let_go(&mut self, floor: LogIndex) {
        let floor = floor.min(self.last());
        self.terms.let_go(floor);
        self.known_from = self.known_from.max(floor);
    }
}

/// A log that ends with the entry before its first one.
fn anchored(index: LogIndex, term: Term) -> ByIndex<Term> {
    let mut terms = ByIndex::from(index);
    terms.push(term);
    terms
}
