//! Who a node is, whom it deals with, and whether its cluster is founded.
//!
//! Invariants:
//! - What a peer is told follows from a book that is durable: a card with news, and each stage of founding, is written
//!   before anybody hears of it.
//! - Asking how things stand never waits for a file.

mod book;
mod card;
mod fields;
mod record;
mod refused;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use quorate_raft::NodeId;
use quorate_wal::Disk;

pub(crate) use book::Book;
pub use book::FoundingStatus;
pub(crate) use card::FEATURES_OWNED_SESSIONS;
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
}

/// Hears of changes, on the threads that bring them about. Must not block.
type Watcher = Box<dyn Fn(Change) + Send + Sync>;

/// A node's book, shared by all that deal with peers.
pub(crate) struct Membership {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// What this node shows.
    card: NodeCard,
    /// Held while the book is judged, written and replaced, so that one change follows the other.
    writing: Mutex<()>,
    /// Held for a moment only.
    book: Mutex<Book>,
    /// As in the book, for those who ask often.
    is_founded: AtomicBool,
    /// What the members announced, as in the book.
    limits: Arc<Limits>,
    refused_by: Mutex<BTreeMap<NodeId, Refused>>,
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
            limits: Arc::new(limits),
            book: Mutex::new(book),
            refused_by: Mutex::default(),
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

    /// Judges a peer's card. Once this returns `Ok`, what the card tells is durable. Waits for the disk if it has news.
    pub(crate) fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        let writing = self.writing.lock();
        let mut next = self.book.lock().clone();
        if next.judge(card)? {
            next.record(card);
            self.replace(next).map_err(|_| Refused::NotWritten)?;
        }
        drop(writing);
        Ok(())
    }

    /// Takes in what a peer says of its book and its log. Waits for the disk if that completes a stage of founding, which
    /// happens twice in the life of a directory.
    pub(crate) fn note_status(&self, node: NodeId, said: Founding, durable_lsn: u64) {
        // Without `writing` it might get lost between copying and replacing.
        let mut book = self.book.lock();
        if book.is_founded() {
            book.note(node.0, said, durable_lsn);
            return;
        }
        drop(book);
        let writing = self.writing.lock();
        let mut next = self.book.lock().clone();
        let has_changed = next.note(node.0, said, durable_lsn);
        if !has_changed {
            *self.book.lock() = next;
            return;
        }
        // If it cannot be written, the next status tries again.
        let is_written = self.replace(next).is_ok();
        drop(writing);
        if is_written {
            self.tell(Change::Stage);
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

    /// How far founding is, and who refuses this node.
    pub(crate) fn status(&self) -> FoundingStatus {
        let mut status = self.book.lock().status();
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

    /// Notes that a peer refuses this node, or deals with it.
    pub(crate) fn note_judged(&self, by: NodeId, judged: Result<(), &Refused>) {
        let mut refused_by = self.refused_by.lock();
        let before = match judged {
            Ok(()) => refused_by.remove(&by),
            Err(why) => refused_by.insert(by, why.clone()),
        };
        drop(refused_by);
        if before.as_ref() != judged.err() {
            self.tell(Change::Refused);
        }
        if judged.is_ok() {
            self.tell(Change::Met(by));
        }
    }

    /// Writes a book and puts it in the place of the one before. `writing` is held.
    fn replace(&self, next: Book) -> Result<(), OpenError> {
        record::write(self.disk.as_ref(), &self.path, &next)?;
        let mut book = self.book.lock();
        let is_founded = next.is_founded();
        // Before whoever announced something else is dealt with.
        self.limits
            .set_members(next.announced().map(|it| it.map(announced)));
        *book = next;
        self.is_founded.store(is_founded, Ordering::Release);
        Ok(())
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
    // A lone node has nobody to whom its starts mean anything.
    if book.members().len() > 1 {
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

impl Opening<'_> {
    fn retire(&self, book: &mut Book) -> Result<(), OpenError> {
        for &node in self.without {
            if !book.retire(node.0) {
                let reason = if book.is_founded() {
                    format!(
                        "node {} cannot be left out any more: the cluster was founded with it",
                        node.0
                    )
                } else {
                    format!(
                        "node {} cannot be left out: it is this node, or not in the list of nodes",
                        node.0
                    )
                };
                return Err(OpenError::Options { reason });
            }
        }
        let (active, all) = (book.active(), book.members().len());
        if active * 2 <= all {
            let reason = format!(
                "{} of {all} nodes are left out: a majority must be left",
                all - active
            );
            return Err(OpenError::Options { reason });
        }
        Ok(())
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
mod tests {
    use quorate_wal::MemoryDisk;

    use super::*;

    fn opening() -> Opening<'static> {
        Opening {
            nonce: 5,
            election_timeout_ms: 500,
            without: &[],
        }
    }

    fn card(incarnation: u64) -> NodeCard {
        NodeCard {
            incarnation,
            start: Start { life: 1, nonce: 9 },
            ..NodeCard::bare(NodeId(2), 7, 1)
        }
    }

    fn membership(disk: &Arc<dyn Disk>, book: Book) -> Membership {
        let bare = NodeCard::bare(NodeId(1), 7, 1);
        Membership::new(Arc::clone(disk), Path::new("/n"), book, bare)
    }

    #[test]
    fn a_node_that_is_opened_again_remembers_whom_it_met_and_that_its_cluster_has_begun() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let dir = Path::new("/n");
        disk.create_dir_all(dir).expect("memory");
        let book = Book::new(1, 7, 1, 11, &[1, 2]);
        let book = create(disk.as_ref(), dir, book, &opening()).expect("memory");
        let one = membership(&disk, book);
        assert_eq!(one.waits_for().named().collect::<Vec<_>>(), [NodeId(2)]);
        one.admit(&card(22)).expect("it is expected");
        let agreeing = Founding {
            is_closed: true,
            ..one.founding()
        };
        one.note_status(NodeId(2), agreeing, 0);
        assert!(one.is_founded());

        let book = read(disk.as_ref(), dir).expect("it was written");
        let book = reopen(disk.as_ref(), dir, book, &opening()).expect("memory");
        let again = membership(&disk, book);
        assert!(again.is_founded(), "the cluster has begun");
        assert_eq!(again.card().start.life, 2);
        assert!(matches!(
            again.admit(&card(23)),
            Err(Refused::OtherDirectory { .. })
        ));
        again.admit(&card(22)).expect("it is the one that was met");
    }

    #[test]
    fn a_card_with_news_is_durable_before_it_is_accepted_or_refused() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let dir = Path::new("/n");
        disk.create_dir_all(dir).expect("memory");
        let book = Book::new(1, 7, 1, 11, &[1, 2]);
        let book = create(disk.as_ref(), dir, book, &opening()).expect("memory");
        let one = membership(&disk, book);
        one.admit(&card(22)).expect("it is expected");
        let written = read(disk.as_ref(), dir).expect("it was written");
        assert_eq!(written.founding(), one.founding());
        assert!(written.founding().is_complete);
        // Nothing can be written any more.
        disk.remove(&dir.join(FILE_NAME)).expect("memory");
        let lost = Membership {
            path: PathBuf::from("/gone/PEERS"),
            ..membership(&disk, written)
        };
        let next = NodeCard {
            start: Start { life: 2, nonce: 3 },
            ..card(22)
        };
        assert_eq!(lost.admit(&next), Err(Refused::NotWritten));
    }

    #[test]
    fn who_refuses_this_node_is_known_until_it_deals_with_it() {
        let one = Membership::alone(NodeId(1));
        let why = Refused::Retired { node: NodeId(1) };
        one.note_judged(NodeId(2), Err(&why));
        assert_eq!(one.status().refused_by, [(NodeId(2), why)]);
        assert!(
            one.status()
                .to_string()
                .contains("node 2 refuses this node")
        );
        one.note_judged(NodeId(2), Ok(()));
        assert!(one.status().refused_by.is_empty());
    }
}
