//! What must hold after every step of a run.

use std::collections::BTreeMap;

use quorate::simulation::{Observation, StateMachine};
use quorate::{GroupId, NodeId, Role, Term};

use crate::node::Sent;
use crate::world::Look;

/// What just happened.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A process was started.
    Opened {
        /// The node's place.
        node: usize,
    },
    /// A process ended.
    Killed {
        /// The node's place.
        node: usize,
    },
    /// A node did something: a pass, a step of its log, a job.
    Moved {
        /// The node's place.
        node: usize,
    },
    /// A node is about to send something, which nobody has seen yet.
    Sends {
        /// The node's place.
        node: usize,
        /// What.
        sent: &'a Sent,
    },
}

/// Watches a run, step by step.
pub trait Judge<M: StateMachine> {
    /// Looks at the world after a step. An error ends the run as failed.
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String>;
}

/// What each replica says of itself, and that a term has one leader, over all
/// lives of all nodes.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: BTreeMap<(usize, GroupId), Observation>,
    leaders: BTreeMap<(GroupId, Term), NodeId>,
}

impl<M: StateMachine> Judge<M> for Ledger {
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        let node = match step {
            Step::Opened { node } | Step::Killed { node } => {
                self.seen.retain(|(place, _), _| *place != node);
                node
            }
            Step::Moved { node } => node,
            Step::Sends { .. } => return Ok(()),
        };
        let slot = &look.nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        for group in process.groups() {
            let before = self.seen.get(&(node, group));
            let now = process
                .check(group, before)
                .map_err(|violation| format!("node {}, group {}: {violation}", slot.id, group.0))?;
            self.seen.insert((node, group), now);
            self.check_leader(process.role(group), group, slot.id)?;
        }
        Ok(())
    }
}

impl Ledger {
    fn check_leader(
        &mut self,
        (role, term): (Role, Term),
        group: GroupId,
        node: NodeId,
    ) -> Result<(), String> {
        if role != Role::Leader {
            return Ok(());
        }
        let first = *self.leaders.entry((group, term)).or_insert(node);
        if first == node {
            Ok(())
        } else {
            Err(format!(
                "group {}: nodes {first} and {node} both lead in term {term}",
                group.0
            ))
        }
    }
}
