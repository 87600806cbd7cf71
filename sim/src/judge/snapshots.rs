//! What snapshots cover. Invariant 11 of `docs/testing.md`; that their files are whole is for [`Disks`](super::Disks).

use quorate::simulation::{Deed, Stand};
use quorate::{LogIndex, Term};

use super::books::{Books, Event, Place, Rule};

/// A snapshot covers what was applied and nothing else, takes nobody back, and leaves no gap in front of the log.
#[derive(Debug, Default)]
pub struct SnapshotRule;

impl Rule for SnapshotRule {
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Opened { at, stand, .. } | Event::MisplacedOpened { at, stand, .. } => {
                check_gap(at, stand)
            }
            Event::Did {
                at,
                deed:
                    Deed::Saved {
                        index,
                        term,
                        first_index,
                    },
            } => check_saved(books, at, (*index, *term), *first_index),
            Event::Did {
                at,
                deed: Deed::Installed { index, term, .. },
            } => check_installed(books, at, *index, *term),
            Event::Moved {
                at, before, now, ..
            } => {
                check_gap(at, now)?;
                if now.snapshot >= before.snapshot {
                    return Ok(());
                }
                wrong(
                    at,
                    &format!("goes back from {} to {}", before.snapshot, now.snapshot),
                )
            }
            _ => Ok(()),
        }
    }
}

fn check_gap(at: Place, stand: &Stand) -> Result<(), String> {
    if stand.first <= stand.snapshot.next() && stand.snapshot <= stand.applied {
        return Ok(());
    }
    wrong(
        at,
        &format!(
            "has a log from {} on, a snapshot of {}, and has applied {}",
            stand.first, stand.snapshot, stand.applied
        ),
    )
}

fn check_saved(
    books: &Books,
    at: Place,
    (index, term): (LogIndex, Term),
    first_index: LogIndex,
) -> Result<(), String> {
    if first_index > index.next() {
        return wrong(
            at,
            &format!("cuts its log at {first_index} behind a snapshot of {index}"),
        );
    }
    check_covered(books, at, index, term)
}

fn check_installed(books: &Books, at: Place, index: LogIndex, term: Term) -> Result<(), String> {
    let stand = &books.replica(at).stand;
    // One that has lost what it had applied takes it back from a leader, and applies what is committed behind it again.
    let is_behind = index < stand.commit && !stand.is_aside;
    if index < stand.applied || is_behind {
        return wrong(
            at,
            &format!(
                "takes a snapshot of {index} in, has applied {} and knows {} to be committed",
                stand.applied, stand.commit
            ),
        );
    }
    check_covered(books, at, index, term)
}

fn check_covered(books: &Books, at: Place, index: LogIndex, term: Term) -> Result<(), String> {
    let group = books.group(at.group);
    if group.has_let_go(index) {
        // One that was begun before another one came in, and ended after that.
        return Ok(());
    }
    let committed = group.committed(index);
    if committed.is_some_and(|committed| committed.term == term) {
        return Ok(());
    }
    wrong(
        at,
        &format!("has a snapshot of ({index}, {term}), where {committed:?} is committed"),
    )
}

fn wrong(at: Place, detail: &str) -> Result<(), String> {
    Err(format!(
        "invariant 11, snapshots: {} of group {} {detail}",
        at.node, at.group.0
    ))
}
