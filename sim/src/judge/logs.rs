//! What logs hold. Invariants 2, 3, 10 and 16 of `docs/testing.md`.

use quorate::simulation::{Deed, Entry, Stand};
use quorate::{GroupId, LogIndex, Role, Term};

use super::books::{Books, Event, Place, ReplicaBook, Rule};
use super::by_index::ByIndex;
use crate::node::Harm;
use crate::seed::mix;

/// Logs that have the same entry are the same up to it; what is committed is in the log of each later leader and is never
/// cut; a leader only appends; and what comes back after a crash was written before it.
#[derive(Debug, Default)]
pub struct Logs {
    /// By group and index: what was seen to stand there, one for each term.
    known: Vec<ByIndex<Vec<Known>>>,
}

/// An entry that somebody wrote.
#[derive(Clone, Copy, Debug)]
struct Known {
    term: Term,
    /// Of the entry and all before it.
    prefix_hash: u64,
    /// The term of the entry before it.
    parent_term: Term,
    /// The nodes that wrote it, a bit each.
    writers: u64,
}

impl Rule for Logs {
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Opened { at, stand, terms } => {
                self.check_recovered(books, books.replica(at), at, stand, terms)
            }
            // A copy holds what was durable when it was made.
            Event::MisplacedOpened { at, stand, terms } => {
                self.check_recovered(books, books.copied(at), at, stand, terms)
            }
            Event::Did {
                at,
                deed: Deed::Wrote(entries),
            } => self.check_written(books, at, entries),
            Event::Did {
                at,
                deed:
                    Deed::Installed {
                        index,
                        keeps_suffix,
                        ..
                    },
            } => check_install(books, at, *index, *keeps_suffix),
            Event::Moved {
                at, before, now, ..
            } => {
                let is_elected = now.role == Role::Leader
                    && (before.role != Role::Leader || before.term != now.term);
                if is_elected {
                    check_complete(books, at, now)?;
                }
                if now.first > before.first
                    && let Some(known) = self.known.get_mut(at.group.0 as usize)
                {
                    known.let_go(books.group(at.group).floor());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn held(&self) -> usize {
        self.known.iter().map(ByIndex::len).sum()
    }
}

impl Logs {
    fn check_written(&mut self, books: &Books, at: Place, entries: &[Entry]) -> Result<(), String> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let replica = books.replica(at);
        check_cut(books, at, first.index)?;
        let mut parent_term = replica.term_at(first.index.previous()).unwrap_or_default();
        for entry in entries {
            self.add(at, entry, parent_term)?;
            parent_term = entry.term;
        }
        Ok(())
    }

    fn add(&mut self, at: Place, entry: &Entry, parent_term: Term) -> Result<(), String> {
        let before = self.find(at.group, entry.index.previous(), parent_term);
        // Behind a snapshot the entries before are not known: the first one to write them was seen.
        let before = before.map_or(0, |known| known.prefix_hash);
        let prefix_hash = hash_of(before, entry);
        let writer = 1 << at.node.0;
        let previous = entry.index.previous();
        let is_comparable = self.remembers(at.group, previous);
        let Some(slot) = self.slot(at.group, entry.index) else {
            return Ok(());
        };
        if let Some(known) = slot.iter_mut().find(|known| known.term == entry.term) {
            known.writers |= writer;
            let is_same = known.prefix_hash == prefix_hash && known.parent_term == parent_term;
            if is_same || !is_comparable {
                return Ok(());
            }
            return Err(format!(
                "invariant 2, log matching: {} of group {} wrote ({}, {}) behind another log than those who have it",
                at.node, at.group.0, entry.index, entry.term
            ));
        }
        slot.push(Known {
            term: entry.term,
            prefix_hash,
            parent_term,
            writers: writer,
        });
        Ok(())
    }

    /// A log that was recovered holds what was known to be durable, and of the rest only what was written, without gaps.
    fn check_recovered(
        &self,
        books: &Books,
        replica: &ReplicaBook,
        at: Place,
        stand: &Stand,
        terms: &[Term],
    ) -> Result<(), String> {
        let wrong = |rule: &str, detail: String| {
            Err(format!(
                "invariant 16, {rule}: {} of group {} {detail}",
                at.node, at.group.0
            ))
        };
        if stand.is_aside && books.harm(at.node) == Harm::None {
            return Err(format!(
                "invariant 17, nothing is lost on a sound disk: {} of group {} stands aside after it was opened",
                at.node, at.group.0
            ));
        }
        // One that stands aside says that it lost something, and takes no part until a snapshot covers that.
        if stand.last < replica.stand.durable && !stand.is_aside {
            let had = replica.stand.durable;
            return wrong(
                "what was synced is there",
                format!(
                    "comes back with a log up to {}, and had {had} on its disk",
                    stand.last
                ),
            );
        }
        if terms.len() as u64 != stand.last.0 + 1 - stand.first.previous().0 {
            return wrong("no gaps", format!("has {} terms of {stand:?}", terms.len()));
        }
        let anchor = stand.first.previous();
        let mut parent = terms.first().copied().unwrap_or_default();
        for (index, &term) in (stand.first.0..).zip(&terms[1..]) {
            let index = LogIndex(index);
            let was_durable = index <= replica.stand.durable;
            if was_durable && replica.term_at(index).is_some_and(|had| had != term) {
                let had = replica.term_at(index);
                return wrong(
                    "what was synced is there",
                    format!("comes back with ({index}, {term}) where it had {had:?} on its disk"),
                );
            }
            let known = self.find(at.group, index, term);
            let is_own = known.is_some_and(|known| known.writers & 1 << at.node.0 != 0);
            let follows = known.is_some_and(|known| known.parent_term == parent);
            let is_wrong = !is_own || (!follows && index > anchor.next());
            if is_wrong && self.remembers(at.group, index) {
                return wrong(
                    "nothing comes back that was not written",
                    format!("comes back with ({index}, {term}) behind {parent}"),
                );
            }
            parent = term;
        }
        Ok(())
    }

    fn find(&self, group: GroupId, index: LogIndex, term: Term) -> Option<Known> {
        let slot = self.known.get(group.0 as usize)?.get(index)?;
        slot.iter().find(|known| known.term == term).copied()
    }

    /// Whether what was seen at an index is not gone. A log that comes back after a crash may begin with what is.
    fn remembers(&self, group: GroupId, index: LogIndex) -> bool {
        let known = self.known.get(group.0 as usize);
        known.is_none_or(|known| index >= known.first())
    }

    fn slot(&mut self, group: GroupId, index: LogIndex) -> Option<&mut Vec<Known>> {
        let group = group.0 as usize;
        if self.known.len() <= group {
            self.known.resize(group + 1, ByIndex::from(LogIndex::ZERO));
        }
        self.known[group].slot(index)
    }
}

/// Entries from here on are written anew: none of those that stood there was committed, and a leader cuts nothing.
fn check_cut(books: &Books, at: Place, first: LogIndex) -> Result<(), String> {
    let replica = books.replica(at);
    if first > replica.last() {
        return Ok(());
    }
    let stand = &replica.stand;
    if first <= stand.commit {
        return Err(format!(
            "invariant 10, what is committed is never cut: {} of group {} writes from {first} on anew, and knows that {} is committed",
            at.node, at.group.0, stand.commit
        ));
    }
    if let Some(committed) = lost_committed(books, at, replica, first) {
        return Err(format!(
            "invariant 10, what is committed is never cut: {} of group {} cuts {committed}, which is committed",
            at.node, at.group.0
        ));
    }
    Ok(())
}

/// The first entry from here on that the replica has and that is committed.
fn lost_committed(
    books: &Books,
    at: Place,
    replica: &ReplicaBook,
    first: LogIndex,
) -> Option<LogIndex> {
    let group = books.group(at.group);
    let committed = group.committed(first)?;
    (replica.term_at(first)? == committed.term).then_some(first)
}

/// A snapshot that comes in drops only entries behind it that are not committed.
fn check_install(
    books: &Books,
    at: Place,
    index: LogIndex,
    keeps_suffix: bool,
) -> Result<(), String> {
    let replica = books.replica(at);
    let lost = lost_committed(books, at, replica, index.next());
    match lost {
        Some(lost) if !keeps_suffix => Err(format!(
            "invariant 10, what is committed is never cut: {} of group {} drops {lost} behind a snapshot of {index}",
            at.node, at.group.0
        )),
        _ => Ok(()),
    }
}

/// A leader has everything that was committed in earlier terms.
fn check_complete(books: &Books, at: Place, now: &Stand) -> Result<(), String> {
    let group = books.group(at.group);
    let last = group.last_committed_before(now.term);
    let Some(committed) = group.committed(last) else {
        return Ok(());
    };
    let replica = books.replica(at);
    let has_it = match replica.term_at(last) {
        Some(term) => term == committed.term,
        // Its snapshot covers it.
        None => last <= now.snapshot,
    };
    if has_it {
        return Ok(());
    }
    Err(format!(
        "invariant 3, leader completeness: {} is elected in group {} in {} and lacks ({last}, {}); its log ends at {}",
        at.node,
        at.group.0,
        now.term,
        committed.term,
        replica.last()
    ))
}

fn hash_of(before: u64, entry: &Entry) -> u64 {
    let mut hash = mix(before ^ entry.index.0) ^ mix(entry.term.0 ^ (entry.kind as u64) << 56);
    hash = mix(hash ^ bytes_hash(&entry.data));
    hash
}

/// A hash of bytes that is the same in each run.
pub(super) fn bytes_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash ^ u64::from_le_bytes(last))
}
