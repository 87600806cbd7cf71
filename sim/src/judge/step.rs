//! What judges of every step are shown, and what a judge is.

use quorate::simulation::StateMachine;
use quorate::transport::Request;

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
    /// A process ended.
    Killed {
        /// The node's place.
        node: usize,
    },
    /// A node did something: a pass, a step of its log, a job.
    Moved {
        /// The node's place.
        node: usize,
        /// Whether it was a pass of the worker, in which the protocol looks at the time; the others are steps of the log.
        is_pass: bool,
    },
    /// A node is about to send something, which nobody has seen yet.
    Sends {
        /// The node's place.
        node: usize,
        /// What.
        sent: &'a Sent,
    },
    /// A clerk sends a request, for the first time or again.
    Asks {
        /// The clerk's place.
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
