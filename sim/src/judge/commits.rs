//! What is committed and applied. Invariants 4 and 5 of `docs/testing.md`.

use std::collections::BTreeMap;

use quorate::simulation::{Deed, Entry, Outcome, Stand};
use quorate::{GroupId, LogIndex, Role, Term};

use super::books::{Books, Event, Place, Rule};
use super::by_index::ByIndex;
use super::logs::bytes_hash;
use crate::seed::mix;

/// All replicas commit and apply the same entries in the same order and with the same outcome, none goes back, and a leader
/// commits by counting only entries of its own term.
#[derive(Debug, Default)]
pub struct Commits {
    /// By group: what was applied at each index, whoever did it first.
    applied: Vec<ByIndex<Option<Applied>>>,
    /// The last entry that each replica applied in this life.
    last: BTreeMap<Place, LogIndex>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Applied {
    term: Term,
    payload_hash: u64,
    outcome_hash: u64,
}

impl Rule for Commits {
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Opened { at, stand, .. } => {
                self.last.insert(at, stand.applied);
                check_order(at, stand)?;
                check_committed(books, at, LogIndex::ZERO, stand)
            }
            Event::MisplacedOpened { at, stand, .. } => check_order(at, stand),
            Event::Did {
                at,
                deed: Deed::Applied { entry, outcome },
            } => self.check_applied(books, at, entry, outcome),
            Event::Did {
                at,
                deed: Deed::Installed { index, .. },
            } => {
                self.last.insert(at, *index);
                Ok(())
            }
            Event::Moved {
                at, before, now, ..
            } => {
                check_order(at, now)?;
                check_forward(at, before, now)?;
                if now.commit > before.commit {
                    check_counted(books, at, before, now)?;
                    check_committed(books, at, before.commit, now)?;
                }
                if now.first > before.first
                    && let Some(applied) = self.applied.get_mut(at.group.0 as usize)
                {
                    applied.let_go(books.group(at.group).floor());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn held(&self) -> usize {
        self.applied.iter().map(ByIndex::len).sum()
    }
}

impl Commits {
    fn check_applied(
        &mut self,
        books: &Books,
        at: Place,
        entry: &Entry,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let index = entry.index;
        let wrong = |detail: &str| {
            Err(format!(
                "invariant 4, state machine safety: {} of group {} applies ({index}, {}) {detail}",
                at.node, at.group.0, entry.term
            ))
        };
        let last = self.last.insert(at, index).unwrap_or_default();
        if index != last.next() {
            return wrong(&format!("behind {last}"));
        }
        let committed = books.group(at.group).committed(index);
        if let Some(committed) = committed.filter(|committed| committed.term != entry.term) {
            return wrong(&format!("where one of {} is committed", committed.term));
        }
        let now = Applied {
            term: entry.term,
            payload_hash: bytes_hash(&entry.data),
            outcome_hash: outcome_hash(outcome),
        };
        let Some(slot) = self.slot(at.group, index) else {
            return Ok(());
        };
        let first = *slot.get_or_insert(now);
        if (first.term, first.payload_hash) != (now.term, now.payload_hash) {
            return wrong(&format!("where another one of {} was applied", first.term));
        }
        if first != now {
            return wrong(&format!(
                "with another outcome than the first who did: {outcome:?}"
            ));
        }
        Ok(())
    }

    /// Where it is noted who applied what at an index, unless that is gone.
    fn slot(&mut self, group: GroupId, index: LogIndex) -> Option<&mut Option<Applied>> {
        let group = group.0 as usize;
        if self.applied.len() <= group {
            self.applied
                .resize(group + 1, ByIndex::from(LogIndex::ZERO));
        }
        self.applied[group].slot(index)
    }
}

fn check_order(at: Place, now: &Stand) -> Result<(), String> {
    if now.applied <= now.commit && now.commit <= now.last {
        return Ok(());
    }
    Err(format!(
        "invariant 5, applied <= commit <= last: {} of group {} has applied {}, of {} committed, of {}",
        at.node, at.group.0, now.applied, now.commit, now.last
    ))
}

fn check_forward(at: Place, before: &Stand, now: &Stand) -> Result<(), String> {
    if now.commit >= before.commit && now.applied >= before.applied {
        return Ok(());
    }
    Err(format!(
        "invariant 5, commit never goes back: {} of group {} went from commit {} to {}, from applied {} to {}",
        at.node, at.group.0, before.commit, now.commit, before.applied, now.applied
    ))
}

/// What a leader commits by counting is of its own term (Raft figure 8), and on the disks of a majority.
fn check_counted(books: &Books, at: Place, before: &Stand, now: &Stand) -> Result<(), String> {
    let leads = now.role == Role::Leader && now.term == before.term && before.role == Role::Leader;
    if !leads {
        return Ok(());
    }
    let term = books.replica(at).term_at(now.commit);
    if term.is_some_and(|term| term != now.term) {
        return Err(format!(
            "invariant 5, only entries of its own term are counted: {} of group {} leads in {} and commits ({}, {:?})",
            at.node, at.group.0, now.term, now.commit, term
        ));
    }
    // Its own disk as it is now; the books are about to hear of it.
    let is_own = |place: usize| place as u64 + 1 == at.node.0;
    let replicas = books.group(at.group).replicas().iter().enumerate();
    let holders = replicas.filter(|(place, replica)| {
        if is_own(*place) {
            now.durable >= now.commit
        } else {
            replica.holds(now.commit, term)
        }
    });
    let holders = holders.count();
    if holders < books.quorum() {
        return Err(format!(
            "invariant 5, commit <= durable on a majority: {} of group {} commits {} in {}, which {holders} disks of {} hold",
            at.node, at.group.0, now.commit, now.term, books.nodes
        ));
    }
    Ok(())
}

/// What a replica knows to be committed is what others know to be.
fn check_committed(books: &Books, at: Place, before: LogIndex, now: &Stand) -> Result<(), String> {
    let (group, replica) = (books.group(at.group), books.replica(at));
    let last = now.commit.min(group.last_committed());
    for index in (before.0 + 1..=last.0).map(LogIndex) {
        let (Some(term), Some(committed)) = (replica.term_at(index), group.committed(index)) else {
            continue;
        };
        if term != committed.term {
            return Err(format!(
                "invariant 4, one entry at each index: {} of group {} commits ({index}, {term}) where ({index}, {}) is committed",
                at.node, at.group.0, committed.term
            ));
        }
    }
    Ok(())
}

fn outcome_hash(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Applied(answer) => mix(1 ^ bytes_hash(answer)),
        Outcome::Registered(session) => mix(2 ^ mix(session.0)),
        Outcome::SessionExpired => 3,
        Outcome::OutOfOrder { expected } => mix(4 ^ mix(*expected)),
        Outcome::AlreadyAcknowledged => 5,
        Outcome::WindowFull => 6,
        Outcome::Malformed => 7,
        _ => 8,
    }
}
