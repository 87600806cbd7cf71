//! Whether the replicated index is the one that the clerks built, and whether all replicas hold the
//! same.
//!
//! What must hold, for each key and each clerk:
//! - an append that was acknowledged stands there once, at the place that its answer named;
//! - an append whose answer was lost stands there at most once;
//! - nothing else stands there, and positions follow one another in the order of issue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quorate::{Bytes, Digest, GroupId, NodeId};

use crate::index::{Append, LocalIndex, POSITION_BYTES, Position};

/// Differences that are kept for showing; beyond, they are only counted.
pub(crate) const DIFFERENCES_SHOWN_MAX: usize = 10;

/// The keys and values of one group.
pub(crate) type Entries = BTreeMap<Bytes, Bytes>;

/// What one node holds of a group.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) node: NodeId,
    pub(crate) digest: Digest,
    pub(crate) entries: Entries,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The first differences, [`DIFFERENCES_SHOWN_MAX`] at most.
    pub(crate) differences: Vec<Difference>,
    /// How many there are in all.
    pub(crate) differences_count: u64,
    /// Keys in the replicated index.
    pub(crate) keys: u64,
    /// Appends with a lost answer that took effect after all.
    pub(crate) unanswered_applied: u64,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Difference {
    #[error("key {}: {position} was acknowledged and is missing", Shown(key))]
    Missing { key: Bytes, position: Position },
    #[error("key {}: {position} is there more than once", Shown(key))]
    Doubled { key: Bytes, position: Position },
    #[error("key {}: {position} was never appended", Shown(key))]
    Unknown { key: Bytes, position: Position },
    #[error(
        "key {}: {first} stands before {second}, which was issued earlier",
        Shown(key)
    )]
    Reordered {
        key: Bytes,
        first: Position,
        second: Position,
    },
    #[error(
        "key {}: {position} was answered with length {end_bytes}, but does not end there",
        Shown(key)
    )]
    Misplaced {
        key: Bytes,
        position: Position,
        end_bytes: u32,
    },
    #[error(
        "key {}: {len_bytes} bytes are no whole number of positions, or none",
        Shown(key)
    )]
    Malformed { key: Bytes, len_bytes: usize },
    #[error("key {}: is in more than one group", Shown(key))]
    InTwoGroups { key: Bytes },
    #[error(
        "group {}: nodes {} and {} hold different states ({own:?} and {theirs:?})",
        group.0,
        node.0,
        other.0
    )]
    Digest {
        group: GroupId,
        node: NodeId,
        other: NodeId,
        own: Digest,
        theirs: Digest,
    },
    #[error(
        "group {}: key {} differs between nodes {} and {} from byte {at_bytes} on",
        group.0,
        Shown(key),
        node.0,
        other.0
    )]
    Value {
        group: GroupId,
        node: NodeId,
        other: NodeId,
        key: Bytes,
        at_bytes: usize,
    },
    #[error(
        "group {}: key {} is on node {} and not on node {}",
        group.0,
        Shown(key),
        node.0,
        other.0
    )]
    OnlyOn {
        group: GroupId,
        node: NodeId,
        other: NodeId,
        key: Bytes,
    },
}

impl Report {
    pub(crate) fn is_clean(&self) -> bool {
        self.differences_count == 0
    }

    fn add(&mut self, difference: Difference) {
        self.differences_count += 1;
        if self.differences.len() < DIFFERENCES_SHOWN_MAX {
            self.differences.push(difference);
        }
    }
}

/// Compares the replicated index, given by groups, with what the clerks (by number) remember.
pub(crate) fn check_index(locals: &[LocalIndex], groups: &[&Entries], report: &mut Report) {
    let local_keys: BTreeSet<&[u8]> = locals.iter().flat_map(LocalIndex::keys).collect();
    let mut replicated: BTreeMap<&[u8], (&Bytes, &Bytes)> = BTreeMap::new();
    for (key, value) in groups.iter().copied().flatten() {
        if replicated.insert(key, (key, value)).is_some() {
            report.add(Difference::InTwoGroups { key: key.clone() });
        }
    }
    for &(key, value) in replicated.values() {
        report.keys += 1;
        match Position::decode_all(value) {
            Some(found) if !found.is_empty() => check_key(locals, key, &found, report),
            _ => report.add(Difference::Malformed {
                key: key.clone(),
                len_bytes: value.len(),
            }),
        }
    }
    for key in local_keys
        .into_iter()
        .filter(|key| !replicated.contains_key(key))
    {
        check_key(locals, &Bytes::copy_from_slice(key), &[], report);
    }
}

/// Compares what the nodes hold of one group. All replicas are compared with the first.
pub(crate) fn check_replicas(group: GroupId, replicas: &[Replica], report: &mut Report) {
    let Some((first, others)) = replicas.split_first() else {
        return;
    };
    for other in others {
        if first.digest != other.digest {
            report.add(Difference::Digest {
                group,
                node: first.node,
                other: other.node,
                own: first.digest,
                theirs: other.digest,
            });
        }
        for (key, value) in &first.entries {
            let (node, other, theirs) = (first.node, other.node, other.entries.get(key));
            match theirs {
                None => report.add(Difference::OnlyOn {
                    group,
                    node,
                    other,
                    key: key.clone(),
                }),
                Some(theirs) if theirs != value => {
                    let equal = value.iter().zip(theirs).take_while(|(a, b)| a == b);
                    let at_bytes = equal.count();
                    report.add(Difference::Value {
                        group,
                        node,
                        other,
                        key: key.clone(),
                        at_bytes,
                    });
                }
                Some(_) => {}
            }
        }
        for key in other
            .entries
            .keys()
            .filter(|key| !first.entries.contains_key(*key))
        {
            let (node, other) = (other.node, first.node);
            report.add(Difference::OnlyOn {
                group,
                node,
                other,
                key: key.clone(),
            });
        }
    }
}

fn check_key(locals: &[LocalIndex], key: &Bytes, found: &[Position], report: &mut Report) {
    let mut found_of: Vec<Vec<Position>> = vec![Vec::new(); locals.len()];
    for &position in found {
        match found_of.get_mut(position.clerk as usize) {
            Some(of_clerk) => of_clerk.push(position),
            None => report.add(Difference::Unknown {
                key: key.clone(),
                position,
            }),
        }
    }
    for (local, mut of_clerk) in locals.iter().zip(found_of) {
        check_order(key, &of_clerk, report);
        of_clerk.sort_by_key(|position| position.sequence);
        check_known(key, local.appends(key), &of_clerk, report);
        check_present(key, local.appends(key), &of_clerk, found, report);
    }
}

/// A clerk's positions stand in the order of issue. Equal ones side by side are [`check_known`]'s
/// business.
fn check_order(key: &Bytes, of_clerk: &[Position], report: &mut Report) {
    for pair in of_clerk.windows(2) {
        if pair[0].sequence > pair[1].sequence {
            let (first, second) = (pair[0], pair[1]);
            report.add(Difference::Reordered {
                key: key.clone(),
                first,
                second,
            });
        }
    }
}

/// What stands there was appended, and stands there once. `of_clerk` is sorted by sequence.
fn check_known(key: &Bytes, appends: &[Append], of_clerk: &[Position], report: &mut Report) {
    for (place, &position) in of_clerk.iter().enumerate() {
        let is_first = place == 0 || of_clerk[place - 1].sequence != position.sequence;
        let known = appends.binary_search_by_key(&position.sequence, sequence_of);
        if !known.is_ok_and(|known| appends[known].position == position) {
            report.add(Difference::Unknown {
                key: key.clone(),
                position,
            });
        } else if !is_first {
            report.add(Difference::Doubled {
                key: key.clone(),
                position,
            });
        }
    }
}

/// What was acknowledged stands there, where the answer said. `of_clerk` is sorted by sequence;
/// `found` is the whole value.
fn check_present(
    key: &Bytes,
    appends: &[Append],
    of_clerk: &[Position],
    found: &[Position],
    report: &mut Report,
) {
    for append in appends {
        let position = append.position;
        let is_there = of_clerk
            .binary_search_by_key(&position.sequence, |found| found.sequence)
            .is_ok();
        match append.end_bytes.map(std::num::NonZeroU32::get) {
            None => report.unanswered_applied += u64::from(is_there),
            Some(_) if !is_there => report.add(Difference::Missing {
                key: key.clone(),
                position,
            }),
            Some(end_bytes) => {
                let place = (end_bytes as usize / POSITION_BYTES).checked_sub(1);
                let at_place = place.and_then(|place| found.get(place));
                if !(end_bytes as usize).is_multiple_of(POSITION_BYTES)
                    || at_place != Some(&position)
                {
                    let key = key.clone();
                    report.add(Difference::Misplaced {
                        key,
                        position,
                        end_bytes,
                    });
                }
            }
        }
    }
}

fn sequence_of(append: &Append) -> u32 {
    append.position.sequence
}

/// A key as a reader wants to see it.
struct Shown<'a>(&'a Bytes);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.0))
    }
}
