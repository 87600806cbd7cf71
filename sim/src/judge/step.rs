//! What judges of every step are shown, and what a judge is.

use quorate::simulation::StateMachine;
use quorate::transport::{Refused, Request};
use quorate::{GroupId, LogIndex};

use super::Directory;
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
    /// Something was done to what was durable on the disk of a node, or it was found that its node must not run.
    Harmed {
        /// The node's place.
        node: usize,
    },
    /// A copy was made of the directory of a node that does not run.
    Copied {
        /// The node's place.
        node: usize,
    },
    /// A node that does not run got another directory in place of its own, or its own one back.
    Exchanged {
        /// The node's place.
        node: usize,
        /// What that one is.
        directory: Directory,
    },
    /// Two processes showed each other their cards.
    Met {
        /// The place of one.
        node: usize,
        /// The place of the other.
        other: usize,
        /// Why they do not deal with each other; of one with a wrong directory, what its peer says.
        /// None: they do.
        refusal: Option<&'a Refused>,
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
        /// The worker whose pass it was, in which the protocol of its groups looks at the time; none: a step of the log.
        worker: Option<usize>,
    },
    /// A node is about to send something, which nobody has seen yet.
    Sends {
        /// The node's place.
        node: usize,
        /// What.
        sent: &'a Sent,
    },
    /// A client in a node begins a read, or ends it with what the node shows at that moment.
    ReadsLocally {
        /// The place of the client, and which read of the run it is.
        read: (usize, u64),
        /// The group.
        group: GroupId,
        /// What the view includes that it was answered from; none when it begins.
        seen: Option<LogIndex>,
    },
    /// A clerk, or a client in a node, sends a request, for the first time or again.
    Asks {
        /// The clerk's place; those in nodes come behind the clerks.
        clerk: usize,
        /// What it asks.
        request: &'a Request,
    },
    /// A node took a frame of another one off its queue. A process that stands still hears nothing of what arrives.
    Hears {
        /// The place of who hears.
        node: usize,
        /// The place of who sent it.
        from: usize,
    },
}

/// Watches a run, step by step.
pub trait Judge<M: StateMachine> {
    /// Looks at the world after a step. An error ends the run as failed.
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String>;
}
