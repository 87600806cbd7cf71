//! A world that a script drives: commands given to one node, calls of one clerk, nodes started one by one.
//!
//! A script lets time pass with [`World::run_until`] or [`World::step`], cuts links through [`World::network`], and ends
//! processes with [`World::kill`]. Nothing here draws a choice, so that a script's run follows from its seed as any other.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate::transport::{
    Frame, Origin, Refusal, Reply, ReplyBody, ReplySink, Request, RequestBody, RequestId,
};
use quorate::{Bytes, GroupId, LogIndex, Role, Term};

use super::World;
use crate::trace::Who;
use crate::workload::{Call, Ticket, Workload};

/// A command that was given to one node.
#[derive(Debug)]
pub struct Submission {
    /// Where it stands in that node's log, if the node led and took it.
    pub position: Option<(LogIndex, Term)>,
    desk: Arc<Desk>,
}

/// What became of a [`Submission`].
#[derive(Clone, Debug, PartialEq)]
pub enum SubmissionState {
    /// Nothing yet.
    Waiting,
    /// The node answered.
    Answered(Result<ReplyBody, Refusal>),
    /// The node is gone, and with it whoever could answer.
    Lost,
}

/// Where the answer comes in. The node holds it for as long as it may answer.
#[derive(Debug, Default)]
struct Desk(Mutex<Option<Reply>>);

impl ReplySink for Desk {
    fn reply(&self, reply: Reply) {
        *self.0.lock() = Some(reply);
    }
}

impl Submission {
    /// What became of it.
    pub fn state(&self) -> SubmissionState {
        match &*self.desk.0.lock() {
            Some(reply) => SubmissionState::Answered(reply.result.clone()),
            None if Arc::strong_count(&self.desk) == 1 => SubmissionState::Lost,
            None => SubmissionState::Waiting,
        }
    }
}

impl<W: Workload> World<W> {
    /// Gives a command to one node, which refuses it unless it leads, and has it take a step at once. `command` is in its
    /// envelope: see [`CommandBuffer`](quorate::simulation::CommandBuffer). A node that is dead or stands still loses it.
    pub fn submit(
        &mut self,
        node: usize,
        group: GroupId,
        command: Bytes,
    ) -> Result<Submission, String> {
        let desk = Arc::new(Desk::default());
        let before = self.last_of(node, group);
        let slot = &mut self.nodes[node];
        let is_awake = slot.paused_until_ns <= self.now_ns;
        if let Some(process) = slot.process.as_mut().filter(|_| is_awake) {
            let request = Request {
                id: RequestId(1),
                group,
                body: RequestBody::Propose { command },
            };
            let sink = Arc::clone(&desk) as Arc<dyn ReplySink>;
            process.deliver(Origin::Clerk(sink), Frame::Request(request));
            process.pass(slot.clock.at(self.now_ns));
            self.after_step(node, "given")?;
        }
        // The node had nothing else to put behind it: what is last now is this command, unless it was refused.
        let position = self.last_of(node, group).filter(|now| Some(*now) != before);
        let position = position.filter(|_| desk.0.lock().is_none());
        Ok(Submission { position, desk })
    }

    /// Starts a node that is dead.
    pub fn start_node(&mut self, node: usize) -> Result<(), String> {
        self.restart(node)
    }

    /// Has a node ask for an election of a group soon. One that is dead, or hears a leader, does not.
    pub fn campaign(&mut self, node: usize, group: GroupId) {
        if let Some(process) = &self.nodes[node].process {
            process.campaign(group);
            self.note(Who::Node(node), "asked", group.0, || "an election".into());
            self.wake(node);
        }
    }

    /// Has a node take a snapshot of a group soon. One that is dead does not.
    pub fn snapshot(&mut self, node: usize, group: GroupId) {
        if let Some(process) = &self.nodes[node].process {
            process.snapshot(group);
            self.note(Who::Node(node), "asked", group.0, || "a snapshot".into());
            self.wake(node);
        }
    }

    /// Has a clerk make a call. Its answer goes to [`Workload::answered`] under this ticket, which must be new.
    pub fn call(&mut self, clerk: usize, ticket: Ticket, call: Call) -> Result<(), String> {
        self.issue(clerk, ticket, call);
        self.after_clerk(clerk)
    }

    /// The last entry of a leader and its term; none of any other node.
    fn last_of(&self, node: usize, group: GroupId) -> Option<(LogIndex, Term)> {
        let view = self.nodes[node].process.as_ref()?.view(group);
        (view.role == Role::Leader).then_some((view.last_index, view.term))
    }
}
