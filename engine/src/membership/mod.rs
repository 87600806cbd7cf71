//! Who a node is, whom it deals with, and whether its cluster is founded.
//!
//! Invariants:
//! - What a peer is told follows from a book that is durable: a card with news, and each stage of founding, is written
//!   before anybody hears of it.
//! - The book in memory never says more of cards and stages than the one that is durable: it is replaced after the file.
//! - Asking how things stand never waits for a file, and neither does a handshake without news. One with news waits for its
//!   own write, and for a bounded time for another one.

mod book;
mod card;
mod fields;
mod record;
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quorate_raft::NodeId;
use quorate_wal::Disk;

pub(crate) use book::Book;
pub use book::FoundingStatus;
pub(crate) use card::{FEATURES, FEATURES_OWNED_SESSIONS};
pub use card::{NodeCard, NodeLimits, NodeRole, Start};
pub(crate) use fields::{FieldWriter, Fields};
pub(crate) use record::FILE_NAME;
pub use refused::{OlderBy, Refused};

use crate::error::OpenError;
use crate::mutants;
use crate::node::{Announced, Limits};
use crate::transport::{FewNodes, Founding};

/// What a node's peers are told of at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A peer deals with this node.
    Met(NodeId),
    /// The book went on to another stage of founding, or was completed.
    Stage,
    /// A peer refuses this node, or no longer does.
    Refused,
    /// The book could not be written, or it was written again.
    Written,
}

/// Hears of changes, on the threads that bring them about. Must not block.
type Watcher = Box<dyn Fn(Change) + Send + Sync>;

/// How long one change of the book waits for the write of another one. Longer than a healthy disk takes: the lanes of a peer
/// show one new card at once. A disk that stands still must not keep whoever has news, who is told to try again.
const WRITING_WAIT: Duration = Duration::from_millis(250);

/// A node's book, shared by all that deal with peers.
pub(crate) struct Membership {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// What this node shows.
    card: NodeCard,
    /// Held while news are judged, written and put in place, so that one change follows the other. As long as the disk
    /// takes, so nobody waits for it without a bound.
    writing: Mutex<()>,
    /// Held for a moment only. All of it is durable but what peers said last and how far their logs were.
    book: Mutex<Book>,
    /// Why the book could not be written the last time, if it could not.
    unwritten: Mutex<Option<String>>,
    /// As in the book, for those who ask often.
    is_founded: AtomicBool,
    /// A peer knows better than this directory what its node promised.
    is_outdated: AtomicBool,
    /// What the members announced, as in the book.
    limits: Arc<Limits>,
    refused_by: Mutex<BTreeMap<NodeId, Refused>>,
    /// The peers that have durably accepted the card of this start.
    accepted_by: Mutex<BTreeSet<NodeId>>,
    watcher: OnceLock<Watcher>,
}

impl Membership {
    /// Takes over a book whose present start is durable. `card` is completed by what the book knows.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, book: Book, card: NodeCard) -> Self {
        let limits = Limits::new(announced(card.limits));
        limits.set_members(book.announced().map(|it| it.map(announced)));
        let own = &book.own;
        let card = NodeCard {
            node: NodeId(own.node),
            cluster_id: own.cluster_id,
            groups: own.groups,
            incarnation: own.incarnation,
            start: own.start,
            history: own.history.clone(),
            ..card
        };
        Self {
            disk,
            path: dir.join(FILE_NAME),
            card,
            writing: Mutex::new(()),
            is_founded: AtomicBool::new(book.is_founded()),
            is_outdated: AtomicBool::new(false),
            limits: Arc::new(limits),
            book: Mutex::new(book),
            unwritten: Mutex::default(),
            refused_by: Mutex::default(),
            accepted_by: Mutex::default(),
            watcher: OnceLock::new(),
        }
    }

    /// Of a node that is alone and has no directory.
    #[cfg(test)]
    pub(crate) fn alone(node: NodeId) -> Self {
        let disk = Arc::new(quorate_wal::MemoryDisk::new());
        let book = Book::new(node.0, 1, 1, 1, &[node.0]);
        Self::new(disk, Path::new("/"), book, NodeCard::bare(node, 1, 1))
    }

    /// Has somebody told of changes from now on; only the first one is.
    pub(crate) fn watch(&self, watcher: impl Fn(Change) + Send + Sync + 'static) {
        let _second = self.watcher.set(Box::new(watcher));
    }

    /// What this node shows its peers.
    pub(crate) fn card(&self) -> &NodeCard {
        &self.card
    }

    /// What counts of what the members announced.
    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The newest feature version that all members know: what it brings may be written.
    pub(crate) fn agreed_features(&self) -> u32 {
        self.book.lock().agreed_features()
    }

    /// How long this node must wait after a restart before it votes or stands, whatever its election timeout is now.
    pub(crate) fn promised_ms(&self) -> u64 {
        self.book.lock().promised_ms()
    }

    /// Whether this node takes part: asks for and gives votes, acknowledges, leads.
    pub(crate) fn is_founded(&self) -> bool {
        self.is_founded.load(Ordering::Acquire)
    }

    /// Whether this node votes, acknowledges and leads: the cluster is founded, and no peer has refused this directory as an
    /// older copy, or as not the one that counts. What such a peer knew stays true when it is gone or has forgotten it, so that
    /// this lasts as long as the process.
    pub(crate) fn takes_part(&self) -> bool {
        let is_outdated = self.is_outdated.load(Ordering::Acquire);
        self.is_founded() && (!is_outdated || mutants::OUTDATED_TAKES_PART)
    }

    /// Whether an admitted card still shows the start that counts of its node: no other one was admitted since.
    pub(crate) fn stands(&self, card: &NodeCard) -> bool {
        self.book.lock().stands(card)
    }

    /// Judges a peer's card. Once this returns `Ok`, what the card tells is durable. Waits for the disk if it has news;
    /// [`Refused::NotWritten`] if the disk takes it not, or still has other news to take: the peer may try again.
    pub(crate) fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        // What is being written is not in this book yet: it is news until it is durable.
        {
            let mut book = self.book.lock();
            if !book.judge(card)? {
                book.note_syncs(card);
                return Ok(());
            }
        }
        let writing = self.writing.try_lock_for(WRITING_WAIT);
        let writing = writing.ok_or(Refused::NotWritten)?;
        let mut next = self.book.lock().clone();
        // Another change may have come first, and has noted the rest.
        if !next.judge(card)? {
            return Ok(());
        }
        // It may be another directory than the one that accepted this node's card, and says now whether it does. Before the news
        // are in place, so that what it says once they are is kept.
        self.accepted_by.lock().remove(&card.node);
        let goes_on = next.record(card);
        if self.replace(writing, next, goes_on) {
            Ok(())
        } else {
            Err(Refused::NotWritten)
        }
    }

    /// Takes in what a peer says of its book and its log. Waits for the disk if that completes a stage of founding, which
    /// happens twice in the life of a directory.
    pub(crate) fn note_status(&self, node: NodeId, said: Founding, durable_lsn: u64) {
        let mut book = self.book.lock();
        // At once, also while a book is written: that one takes it over when it is put in place.
        book.hear(node.0, said, durable_lsn);
        let goes_on = !book.is_founded() && book.clone().settle();
        drop(book);
        if !goes_on {
            return;
        }
        // If it cannot be written, the next status tries again.
        let Some(writing) = self.writing.try_lock_for(WRITING_WAIT) else {
            return;
        };
        let mut next = self.book.lock().clone();
        if next.settle() {
            let _is_written = self.replace(writing, next, true);
        }
    }

    /// The other founders that are not left out.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        self.book.lock().active_peers().map(NodeId).collect()
    }

    /// What this node says of its book.
    pub(crate) fn founding(&self) -> Founding {
        self.book.lock().founding()
    }

    /// How far founding is, who refuses this node, and whether its book can be written.
    pub(crate) fn status(&self) -> FoundingStatus {
        let mut status = self.book.lock().status();
        status.unwritten.clone_from(&self.unwritten.lock());
        let refused_by = self.refused_by.lock();
        status.refused_by = refused_by
            .iter()
            .map(|(node, why)| (*node, why.clone()))
            .collect();
        status
    }

    /// Whom an unfounded node waits for, in short.
    pub(crate) fn waits_for(&self) -> FewNodes {
        let status = self.status();
        let nodes = if status.missing.is_empty() {
            status.undecided
        } else {
            status.missing
        };
        FewNodes::of(&nodes)
    }

    /// The election timeout that this node waits for after a restart, if it is longer than the one that it announces now, and
    /// if all members have accepted that one. Before the cluster is founded nobody holds a lease, and who the members are may
    /// change.
    pub(crate) fn longer_promise_ms(&self) -> Option<u64> {
        let book = self.book.lock();
        let promised_ms = book.longer_promise_ms().filter(|_| book.is_founded())?;
        let accepted_by = self.accepted_by.lock();
        let is_accepted = book
            .active_peers()
            .all(|peer| accepted_by.contains(&NodeId(peer)));
        is_accepted.then_some(promised_ms)
    }

    /// Writes down that no lease rests any more on the longer promise of an earlier start. Waits for the disk.
    pub(crate) fn forget_longer_promise(&self) {
        // If it cannot be written, it is tried again.
        let Some(writing) = self.writing.try_lock_for(WRITING_WAIT) else {
            return;
        };
        let mut next = self.book.lock().clone();
        next.forget_longer_promise();
        let _is_written = self.replace(writing, next, false);
    }

    /// Notes that a peer refuses this node, or deals with it.
    pub(crate) fn note_judged(&self, by: NodeId, judged: Result<(), &Refused>) {
        if judged.is_ok() {
            self.accepted_by.lock().insert(by);
        }
        let mut refused_by = self.refused_by.lock();
        // A peer that is started again may have forgotten how it knew: what it said of this directory stays true.
        let is_known = refused_by.get(&by).is_some_and(Refused::is_of_directory);
        let keeps = is_known && judged.is_ok() && self.is_founded();
        let before = match judged {
            Ok(()) if keeps => None,
            Ok(()) => refused_by.remove(&by),
            Err(why) => refused_by.insert(by, why.clone()),
        };
        let is_outdated = refused_by.values().any(Refused::is_of_directory);
        self.is_outdated.store(is_outdated, Ordering::Release);
        drop(refused_by);
        if before.as_ref() != judged.err() {
            self.tell(Change::Refused);
        }
        if judged.is_ok() {
            self.tell(Change::Met(by));
        }
    }

    /// Writes a book and puts it in the place of the one before. `goes_on`: to another stage of founding. Returns whether it
    /// was written; if not, everything is as before, and the status says why.
    fn replace(&self, writing: MutexGuard<'_, ()>, mut next: Book, goes_on: bool) -> bool {
        let written = record::write(self.disk.as_ref(), &self.path, &next);
        let unwritten = written.err().map(|error| error.to_string());
        let is_written = unwritten.is_none();
        if is_written {
            let mut book = self.book.lock();
            next.take_heard(&book);
            let is_founded = next.is_founded();
            // Before whoever announced something else is dealt with.
            self.limits
                .set_members(next.announced().map(|it| it.map(announced)));
            *book = next;
            self.is_founded.store(is_founded, Ordering::Release);
        }
        let mut known = self.unwritten.lock();
        let is_news = *known != unwritten;
        *known = unwritten;
        drop(known);
        drop(writing);
        if is_news {
            self.tell(Change::Written);
        }
        if is_written && goes_on {
            self.tell(Change::Stage);
        }
        is_written
    }

    fn tell(&self, change: Change) {
        if let Some(watcher) = self.watcher.get() {
            watcher(change);
        }
    }
}

fn announced(limits: NodeLimits) -> Announced {
    Announced {
        entry_bytes_max: limits.entry_bytes_max,
        election_timeout_ns: limits.election_timeout_ms.saturating_mul(1_000_000),
    }
}

/// Makes the book of a directory that has none: one that is being made, or comes from a version without books.
pub(crate) fn create(
    disk: &dyn Disk,
    dir: &Path,
    mut book: Book,
    start: &Opening<'_>,
) -> Result<Book, OpenError> {
    start.retire(&mut book)?;
    book.begin(start.nonce, start.election_timeout_ms);
    record::write(disk, &dir.join(FILE_NAME), &book)?;
    Ok(book)
}

/// Reads the book of a directory.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Book, OpenError> {
    record::read(disk, &dir.join(FILE_NAME))
}

/// Begins another start of a node with its book.
pub(crate) fn reopen(
    disk: &dyn Disk,
    dir: &Path,
    mut book: Book,
    start: &Opening<'_>,
) -> Result<Book, OpenError> {
    let (agreed, known) = (book.agreed_features(), card::FEATURES.1);
    if agreed > known {
        let reason = format!(
            "the cluster writes features of version {agreed}, and this build knows up to {known}: run a newer build"
        );
        return Err(OpenError::Options { reason });
    }
    if mutants::FORGETS_BOOK {
        let own = &book.own;
        book = Book::new(
            own.node,
            own.cluster_id,
            own.groups,
            own.incarnation,
            &book.members(),
        );
    }
    start.retire(&mut book)?;
    book.begin(start.nonce, start.election_timeout_ms);
    // A lone node has nobody to whom its starts mean anything. What it may write from now on must keep older builds out.
    if book.members().len() > 1 || book.agreed_features() != agreed {
        record::write(disk, &dir.join(FILE_NAME), &book)?;
    }
    Ok(book)
}

/// What a start of a node brings to its book.
pub(crate) struct Opening<'a> {
    pub(crate) nonce: u64,
    pub(crate) election_timeout_ms: u64,
    /// Founders that will not come, by the operator's word.
    pub(crate) without: &'a [NodeId],
}

/// Checks the operator's word on who will not come against the list of nodes, before anything is made.
pub(crate) fn check_without(
    without: &[NodeId],
    own: u64,
    members: &[u64],
) -> Result<(), OpenError> {
    for node in without {
        if node.0 == own || !members.contains(&node.0) {
            return Err(not_in_the_list(*node));
        }
    }
    let left = members.iter().filter(|id| !without.contains(&NodeId(**id)));
    check_majority(left.count(), members.len())
}

fn not_in_the_list(node: NodeId) -> OpenError {
    let reason = format!(
        "node {} cannot be left out: it is this node, or not in the list of nodes",
        node.0
    );
    OpenError::Options { reason }
}

fn check_majority(left: usize, all: usize) -> Result<(), OpenError> {
    if left * 2 > all {
        return Ok(());
    }
    let reason = format!(
        "{} of {all} nodes are left out: a majority must be left",
        all - left
    );
    Err(OpenError::Options { reason })
}

impl Opening<'_> {
    fn retire(&self, book: &mut Book) -> Result<(), OpenError> {
        for &node in self.without {
            if !book.retire(node.0) {
                let why = if book.is_founded() {
                    "the cluster was founded with it"
                } else if book.is_closed() {
                    "this node has met all the others, and they may have founded the cluster with it; open this node without \
                     leaving anybody out"
                } else {
                    return Err(not_in_the_list(node));
                };
                let reason = format!("node {} cannot be left out any more: {why}", node.0);
                return Err(OpenError::Options { reason });
            }
        }
        // With those that were left out before.
        check_majority(book.active(), book.members().len())
    }
}

impl Book {
    /// Whether this is the book of a directory with this identity.
    pub(crate) fn belongs_to(&self, node: u64, cluster_id: u64, incarnation: u64) -> bool {
        let own = &self.own;
        (own.node, own.cluster_id, own.incarnation) == (node, cluster_id, incarnation)
    }
}

#[cfg(test)]
mod tests;
