//! What a node may keep waiting, send at once and take of its disk. Invariant 19 of `docs/testing.md`, and the bounds that
//! every queue has.

use quorate::Options;
use quorate::simulation::{Body, StateMachine, TRANSFER_JOBS_MAX};
use quorate::transport::Frame;

use super::{Judge, Step};
use crate::config::Config;
use crate::node::Sent;
use crate::world::Look;

/// Events that are never refused, for each group: its jobs that ended, and that the log moved.
const OWN_EVENTS_MAX: usize = 8;

/// Queues, windows, messages and disks stay within their bounds.
#[derive(Clone, Debug)]
pub struct Bounds {
    events_max: usize,
    jobs_max: usize,
    append_bytes_max: usize,
    inflight_messages_max: usize,
    inflight_bytes_max: usize,
    log_bytes_max: u64,
}

impl Bounds {
    /// The bounds of a run in which all nodes have the same options.
    pub fn new(config: &Config) -> Self {
        Self::of(&config.options, config.nodes, config.groups)
    }

    /// The bounds of a node with these options.
    fn of(options: &Options, nodes: usize, groups: u32) -> Self {
        let entry_bytes = options.log.entry_bytes_max as usize;
        let segment_bytes = options.log.segment_bytes_max;
        let busy_bytes = options.snapshot_log_bytes * u64::from(groups.min(4));
        let groups = groups as usize;
        Self {
            // Each worker has a queue of its own.
            events_max: options.queue_max * options.workers + OWN_EVENTS_MAX * groups,
            jobs_max: groups * jobs_max(nodes),
            append_bytes_max: options.append_bytes_max.max(entry_bytes),
            inflight_messages_max: options.inflight_messages_max,
            inflight_bytes_max: options.inflight_bytes_max
                + options.append_bytes_max.max(entry_bytes),
            // What the node refuses to go beyond, and what is under way then: see `docs/operating.md`.
            log_bytes_max: (busy_bytes + 3 * segment_bytes + LIVE_BYTES_MAX) * 2
                + 4 * segment_bytes,
        }
    }

    /// Checks how much waits on a node.
    pub fn check_queues(&self, events: usize, jobs: usize) -> Result<(), String> {
        if events > self.events_max {
            return over("events wait", events, self.events_max);
        }
        if jobs > self.jobs_max {
            return over("jobs wait", jobs, self.jobs_max);
        }
        Ok(())
    }

    /// Checks what a leader has on its way to one peer.
    pub fn check_inflight(&self, bytes: usize, messages: usize) -> Result<(), String> {
        if messages > self.inflight_messages_max {
            return over(
                "appends are owed an answer",
                messages,
                self.inflight_messages_max,
            );
        }
        if bytes > self.inflight_bytes_max {
            return over(
                "bytes of appends are owed an answer",
                bytes,
                self.inflight_bytes_max,
            );
        }
        Ok(())
    }

    /// Checks one message.
    pub fn check_message(&self, body: &Body) -> Result<(), String> {
        let Body::Append { entries, .. } = body else {
            return Ok(());
        };
        let bytes: usize = entries
            .iter()
            .map(quorate::simulation::Entry::weight_bytes)
            .sum();
        if entries.len() > 1 && bytes > self.append_bytes_max {
            return over("bytes are in one append", bytes, self.append_bytes_max);
        }
        Ok(())
    }

    /// Checks how much of the disk a log takes.
    pub fn check_log(&self, bytes: u64) -> Result<(), String> {
        if bytes > self.log_bytes_max {
            return over(
                "bytes are taken by the log",
                bytes as usize,
                self.log_bytes_max as usize,
            );
        }
        Ok(())
    }
}

/// Jobs of a group that may wait: its transfers and one save; for each of them that is done, the deletion of the file that it
/// replaces, since those are done before what comes behind them; and of each file that is no longer sent to a peer.
fn jobs_max(nodes: usize) -> usize {
    2 * (TRANSFER_JOBS_MAX + 1) + nodes
}

/// More than the state of any run takes: its snapshots are shorter than this, all groups together.
const LIVE_BYTES_MAX: u64 = 1 << 20;

impl<M: StateMachine> Judge<M> for Bounds {
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        let (Step::Moved { node, .. } | Step::Sends { node, .. }) = step else {
            return Ok(());
        };
        // Nodes may have other options than their peers, and than they had in their last life.
        let options = &look.nodes[node].options;
        let bounds = Self::of(options, look.config.nodes, look.config.groups);
        let checked = match step {
            Step::Sends {
                sent: Sent::Frame(_, Frame::Raft(messages)),
                ..
            } => {
                let mut bodies = messages.iter().map(|it| &it.message.body);
                bodies.try_for_each(|body| bounds.check_message(body))
            }
            Step::Moved { .. } => bounds.check_node(look, node),
            _ => return Ok(()),
        };
        checked.map_err(|detail| format!("{detail}, of {}", look.nodes[node].id))
    }
}

impl Bounds {
    fn check_node<M: StateMachine>(&self, look: &Look<'_, M>, node: usize) -> Result<(), String> {
        let slot = &look.nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        self.check_queues(process.events(), process.jobs())?;
        self.check_log(process.log().disk_bytes())?;
        for (group, _) in slot.deeds.iter().filter(|(_, deed)| sends_entries(deed)) {
            for peer in look.nodes.iter().map(|slot| slot.id) {
                if let Some((bytes, messages)) = process.inflight(*group, peer) {
                    self.check_inflight(bytes, messages)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a leader that did this sent something.
fn sends_entries(deed: &quorate::simulation::Deed) -> bool {
    matches!(deed, quorate::simulation::Deed::Wrote(_))
}

fn over(what: &str, found: usize, bound: usize) -> Result<(), String> {
    Err(format!(
        "invariant 19, bounds: {found} {what}, and at most {bound} may"
    ))
}
