//! What the next open would make of a log, and what can be done about damage.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{DamageKind, OpenError};
use crate::format::segment_name;
use crate::ids::GroupId;
use crate::log::recover::{can_be_next, next_id};
use crate::manifest::Slot;
use crate::options::LogOptions;
use crate::slots::Pair;

use super::look::{Looked, ReadOnly, slot_path};
use super::verify::{Cost, Note, Problem, Verification, VerifyProgress, verify_twice};

/// What would be done about a log, see [`plan_repair`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairPlan {
    /// What was found.
    pub verification: Verification,
    /// What the next open does to the files, in this order. If it is refused, what it does with
    /// [`LogOptions::accept_damage`].
    pub steps: Vec<RepairStep>,
    /// What such an open goes on without, by group.
    pub losses: Vec<GroupLoss>,
    /// Whether any of the states of groups may be older than what was promised.
    pub states_lost: bool,
}

/// One change that an open makes to the files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairStep {
    /// The log ends here for good. The file is not changed: the next segment says where this one
    /// ended.
    Cut {
        /// The segment.
        file: PathBuf,
        /// Where the log ends.
        offset: u64,
        /// Bytes behind it that were never acknowledged.
        bytes: u64,
    },
    /// A file that the log does without is deleted.
    Delete {
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A file that was made ready becomes the next segment.
    Rename {
        /// Its name.
        file: PathBuf,
        /// The name that it gets.
        to: PathBuf,
    },
    /// The manifest is written anew, in the one of its files that is not the newest.
    WriteManifest {
        /// The file.
        file: PathBuf,
    },
    /// The index behind a segment is made anew from its batches.
    MakeIndex {
        /// The segment.
        file: PathBuf,
    },
}

/// What is lost of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLoss {
    /// The group.
    pub group: GroupId,
    /// First and last index of the entries that are lost.
    pub indexes: Vec<(u64, u64)>,
    /// Whether its snapshot is lost.
    pub snapshot: bool,
}

/// Verifies the log in a directory as [`verify`](crate::verify) does, and says what an open with
/// these options would change, and what it would cost. Nothing is changed: the log repairs nothing
/// in place.
pub fn plan_repair(
    disk: &dyn Disk,
    dir: &Path,
    snapshots: Option<&Path>,
    options: &LogOptions,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<RepairPlan, OpenError> {
    options.validate()?;
    let (looked, verification) = verify_twice(&ReadOnly(disk), dir, snapshots, progress)?;
    Ok(RepairPlan {
        steps: steps(&looked, &verification, dir, options),
        losses: losses(&verification.problems),
        states_lost: verification
            .problems
            .iter()
            .any(|it| it.cost == Cost::States),
        verification,
    })
}

impl Problem {
    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match (self.cost, self.damage.kind) {
            (Cost::Nothing, DamageKind::Footer) => {
                "none is needed: what the index does not tell is found in the batches"
            }
            (Cost::Nothing, _) => "none is needed: no entry in the log depends on it",
            (Cost::Entries, _) => {
                "restore the file, or have the replica of the group rebuilt from its peers; \
                 its other entries, and other groups, are served"
            }
            (Cost::States, DamageKind::MissingSegment) => {
                "put the file back from where it went, or leave this node out"
            }
            (Cost::States, _) => {
                "restore these very files, and no older ones, or leave this node out; \
                 accept_damage only to get data out"
            }
            (Cost::Snapshot, _) => {
                "restore the file, or have the replica of the group rebuilt from its peers"
            }
        }
    }
}

fn steps(
    looked: &Looked,
    verification: &Verification,
    dir: &Path,
    options: &LogOptions,
) -> Vec<RepairStep> {
    let mut steps: Vec<_> = verification
        .notes
        .iter()
        .filter_map(|note| match note {
            Note::TornTail {
                file,
                offset,
                bytes,
            } => Some(RepairStep::Cut {
                file: file.clone(),
                offset: *offset,
                bytes: *bytes,
            }),
            _ => None,
        })
        .collect();
    steps.extend(manifest_writes(looked, dir));
    let delete = |segment: &crate::segment::Segment| RepairStep::Delete {
        file: segment.path.clone(),
        bytes: segment.bytes,
    };
    let mut dead: Vec<_> = looked.sorted.dead.iter().collect();
    dead.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.segment.id));
    steps.extend(dead.iter().map(|it| delete(&it.segment)));
    let mut is_kept = false;
    for unused in looked.sorted.unused.iter().rev() {
        if is_kept || !can_be_next(unused, options) {
            steps.push(delete(&unused.segment));
            continue;
        }
        is_kept = true;
        let id = next_id(looked.last_id, &looked.manifest.clone().unwrap_or_default());
        steps.push(RepairStep::Rename {
            file: unused.segment.path.clone(),
            to: dir.join(segment_name(id)),
        });
    }
    steps.extend(unindexed(verification));
    steps
}

/// The files of the manifest that an open writes: one that is damaged, and one that needs a segment which
/// is deleted.
fn manifest_writes(looked: &Looked, dir: &Path) -> Vec<RepairStep> {
    let Some(newest) = looked.manifest.as_ref().filter(|_| looked.sorted.believes) else {
        let torn = looked.slots.iter().enumerate();
        let torn = torn.filter(|(_, slot)| matches!(slot, Slot::Torn));
        return torn
            .map(|(number, _)| RepairStep::WriteManifest {
                file: slot_path(dir, number),
            })
            .collect();
    };
    let mut pair = Pair::new(&looked.slots, Some(newest.clone()));
    pair.trust_older(looked.is_older_right);
    pair.go_on_from(looked.sorted.generation);
    let mut written = Vec::new();
    for _ in 0..2 {
        if pair.is_due(looked.sorted.dead.iter().map(|it| it.segment.id)) {
            written.push(RepairStep::WriteManifest {
                file: slot_path(dir, pair.next_slot()),
            });
            pair.advance(pair.next(newest.clone()));
        }
    }
    written
}

/// The segments that get an index when the log is open.
fn unindexed(verification: &Verification) -> Vec<RepairStep> {
    let unindexed = verification.notes.iter().filter_map(|note| match note {
        Note::NoIndex { file } => Some(file),
        _ => None,
    });
    // Damage to the head of the index names no group; what stands behind is then not looked at.
    let damaged = verification.problems.iter().filter_map(|problem| {
        let damage = &problem.damage;
        (damage.kind == DamageKind::Footer && damage.group.is_none()).then_some(&damage.file)
    });
    let make = |file: &PathBuf| RepairStep::MakeIndex { file: file.clone() };
    unindexed.chain(damaged).map(make).collect()
}

fn losses(problems: &[Problem]) -> Vec<GroupLoss> {
    let mut losses: BTreeMap<GroupId, GroupLoss> = BTreeMap::new();
    for Problem { damage, cost } in problems {
        let (Cost::Entries | Cost::Snapshot, Some(group)) = (cost, damage.group) else {
            continue;
        };
        let loss = losses.entry(group).or_insert_with(|| GroupLoss {
            group,
            indexes: Vec::new(),
            snapshot: false,
        });
        loss.indexes.extend(damage.indexes);
        loss.snapshot |= *cost == Cost::Snapshot;
    }
    for loss in losses.values_mut() {
        loss.indexes.sort_unstable();
    }
    losses.into_values().collect()
}

impl fmt::Display for RepairStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut {
                file,
                offset,
                bytes,
            } => write!(
                f,
                "end the log in {} at {offset}: the {bytes} bytes behind it were never acknowledged",
                file.display()
            ),
            Self::Delete { file, bytes } => write!(
                f,
                "delete {} ({bytes} bytes), which the log does without",
                file.display()
            ),
            Self::Rename { file, to } => write!(
                f,
                "rename {} to {} and use it as the next segment",
                file.display(),
                to.display()
            ),
            Self::WriteManifest { file } => {
                write!(f, "write {} anew", file.display())
            }
            Self::MakeIndex { file } => write!(
                f,
                "make the index behind {} anew from its batches",
                file.display()
            ),
        }
    }
}
