//! The commit order played again, on one machine: what replicas answer and hold must be what that machine does. Invariants 4
//! and 15 of `docs/testing.md`.

use std::collections::BTreeMap;

use quorate::simulation::{
    Command, Deed, Entry, EntryKind, Image, Outcome, SessionId, StateMachine,
};
use quorate::{GroupId, LogIndex};

use super::logs::bytes_hash;
use super::{Judge, Step};
use crate::seed::mix;
use crate::world::Look;

/// The states of replicas are compared at one of so many indexes.
const COMPARED_EVERY: u64 = 32;

/// Plays what is committed, each command of a session once and in its turn, and compares answers and states.
///
/// Its account of sessions is its own: a replica whose sessions let a command take effect twice has another state from then
/// on, whatever it answers.
pub struct Replay<M> {
    groups: BTreeMap<GroupId, Played<M>>,
}

struct Played<M> {
    machine: M,
    applied: LogIndex,
    /// The last command of each session that took effect.
    last: BTreeMap<SessionId, u64>,
    /// Digests of whole replicas, by index.
    digests: BTreeMap<LogIndex, u64>,
}

impl<M: StateMachine> Replay<M> {
    /// The judge of a run.
    pub fn new() -> Self {
        Self {
            groups: BTreeMap::new(),
        }
    }
}

impl<M: StateMachine> Default for Replay<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: StateMachine> Judge<M> for Replay<M> {
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        let Step::Moved { node, .. } = step else {
            return Ok(());
        };
        let slot = &look.nodes[node];
        let mut moved = None;
        for (group, deed) in &slot.deeds {
            match deed {
                Deed::Applied { entry, outcome } => {
                    let played = self.groups.entry(*group).or_default();
                    let checked = played.apply(entry, outcome);
                    checked.map_err(|detail| {
                        format!(
                            "invariant 15, the order of commits explains all answers: {} of group {} at {}: {detail}",
                            slot.id, group.0, entry.index
                        )
                    })?;
                    moved = Some(*group);
                }
                Deed::Installed { .. } => moved = Some(*group),
                _ => {}
            }
            if let Some(group) = moved.take() {
                self.compare(look, node, group)?;
            }
        }
        Ok(())
    }
}

impl<M: StateMachine> Replay<M> {
    /// Compares the state of a replica, if its last entry is one of those that are looked at.
    fn compare(&mut self, look: &Look<'_, M>, node: usize, group: GroupId) -> Result<(), String> {
        let slot = &look.nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        let applied = process.stand(group).applied;
        let every = COMPARED_EVERY;
        let Some(played) = self.groups.get_mut(&group) else {
            return Ok(());
        };
        if !mix(applied.0).is_multiple_of(every) {
            return Ok(());
        }
        let wrong = |what: &str| {
            Err(format!(
                "invariant 4, equal states at equal indexes: {} of group {} has applied {applied} and holds something else than {what}",
                slot.id, group.0
            ))
        };
        let floor = look.books.group(group).floor();
        while played
            .digests
            .first_key_value()
            .is_some_and(|(&index, _)| index < floor)
        {
            played.digests.pop_first();
        }
        let digest = process.digest(group);
        let first = *played.digests.entry(applied).or_insert(digest);
        if first != digest {
            return wrong("the first replica that did, in its machine or its sessions");
        }
        let is_foremost = played.applied == applied;
        if is_foremost && image_hash(process.machine(group)) != image_hash(&played.machine) {
            return wrong("a machine to which the same was done once");
        }
        Ok(())
    }
}

impl<M: StateMachine> Default for Played<M> {
    fn default() -> Self {
        Self {
            machine: M::default(),
            applied: LogIndex::ZERO,
            last: BTreeMap::new(),
            digests: BTreeMap::new(),
        }
    }
}

impl<M: StateMachine> Played<M> {
    fn apply(&mut self, entry: &Entry, outcome: &Outcome) -> Result<(), String> {
        // Replicas apply in order, so the first to apply an entry is one behind at most.
        if entry.index != self.applied.next() {
            return Ok(());
        }
        self.applied = entry.index;
        let (EntryKind::Command, Outcome::Applied(answer)) = (entry.kind, outcome) else {
            return Ok(());
        };
        let takes_effect = match Command::decode(&entry.data) {
            Ok(Command::Plain) => true,
            Ok(Command::Apply(position)) => {
                let last = self.last.entry(position.session).or_default();
                let is_next = position.sequence == *last + 1;
                *last += u64::from(is_next);
                is_next
            }
            Ok(Command::Skip(position)) => {
                let last = self.last.entry(position.session).or_default();
                *last = (*last).max(position.sequence);
                false
            }
            _ => false,
        };
        if !takes_effect {
            return Ok(());
        }
        let operation = Command::operation(&entry.data);
        let expected = self.machine.apply(entry.index.0, &operation);
        if expected == *answer {
            return Ok(());
        }
        Err(format!(
            "was answered with {answer:?} instead of {expected:?}"
        ))
    }
}

/// Of the bytes as a whole: equal images may be written in other pieces.
fn image_hash<M: StateMachine>(machine: &M) -> Option<u64> {
    let mut bytes = Vec::new();
    machine.image().write_to(&mut bytes).ok()?;
    Some(bytes_hash(&bytes))
}
