//! What the course's harness watches all the time: that nodes apply the same in the same order, and what goes over the wire.

use std::cell::RefCell;
use std::rc::Rc;

use quorate::Bytes;
use quorate::simulation::{Body, Entry, StateMachine};
use quorate::transport::Frame;
use quorate::transport::codec::encode_frame;
use quorate_sim::judge::{Judge, Step};
use quorate_sim::node::{NodeSlot, Sent};
use quorate_sim::world::Look;

use super::GROUP;
use super::commands::Commands;

/// What went over the wire up to now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Messages that want an answer.
    pub(crate) rpcs: u64,
    /// Bytes of all frames between nodes.
    pub(crate) bytes: u64,
    /// Appends that were rejected: how often a leader looked for the end of what it shares with a follower.
    pub(crate) rejections: u64,
    /// Pieces of snapshots.
    pub(crate) chunks: u64,
}

/// Counts what nodes send each other.
pub(crate) struct Meter(pub(crate) Rc<RefCell<Traffic>>);

impl<M: StateMachine> Judge<M> for Meter {
    fn after(&mut self, _look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        let Step::Sends {
            sent: Sent::Frame(_, frame),
            ..
        } = step
        else {
            return Ok(());
        };
        let mut traffic = self.0.borrow_mut();
        let encoded = encode_frame(frame, FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
        traffic.bytes += encoded.len() as u64;
        match frame {
            Frame::Raft(messages) => {
                for message in messages {
                    let body = &message.message.body;
                    traffic.rpcs += u64::from(body.wants_answer());
                    let is_rejection = matches!(body, Body::AppendRejected { .. });
                    traffic.rejections += u64::from(is_rejection);
                }
            }
            Frame::SnapshotChunk(_) => {
                traffic.rpcs += 1;
                traffic.chunks += 1;
            }
            _ => {}
        }
        Ok(())
    }
}

/// More than any frame of a scenario has.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// State-machine safety: all nodes apply the same commands at the same indexes, in order and without gaps, in all their lives.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    agreed: Vec<(u64, Bytes)>,
    /// How many commands of each node were compared.
    compared: Vec<usize>,
}

impl Judge<Commands> for Agreement {
    fn after(&mut self, look: &Look<'_, Commands>, step: Step<'_>) -> Result<(), String> {
        let (Step::Opened { node } | Step::Moved { node, .. } | Step::Killed { node }) = step
        else {
            return Ok(());
        };
        self.compared.resize(look.nodes.len(), 0);
        if !matches!(step, Step::Moved { .. }) {
            // What it comes back with is compared from the beginning.
            self.compared[node] = 0;
        }
        let Some(process) = &look.nodes[node].process else {
            return Ok(());
        };
        let applied = process.state(GROUP);
        let compared = self.compared[node];
        if applied.len() < compared {
            return Err(format!("node {} forgot what it applied", node + 1));
        }
        for place in compared.saturating_sub(1)..applied.len() {
            let command = &applied[place];
            match self.agreed.get(place) {
                Some(agreed) if agreed == command => {}
                Some(agreed) => {
                    return Err(format!(
                        "command {place} is {:?} at {} elsewhere, and {:?} at {} on node {}",
                        agreed.1,
                        agreed.0,
                        command.1,
                        command.0,
                        node + 1
                    ));
                }
                None => self.agreed.push(command.clone()),
            }
        }
        self.compared[node] = applied.len();
        Ok(())
    }
}

/// Bytes of the live entries of the largest log of any node.
pub(crate) fn log_bytes<M: StateMachine>(nodes: &[NodeSlot<M>]) -> u64 {
    nodes.iter().map(log_bytes_of).max().unwrap_or_default()
}

/// Bytes of the largest snapshot file of any node.
pub(crate) fn snapshot_bytes<M: StateMachine>(nodes: &[NodeSlot<M>]) -> u64 {
    let sizes = nodes.iter().map(snapshot_bytes_of);
    sizes.max().unwrap_or_default()
}

fn log_bytes_of<M: StateMachine>(slot: &NodeSlot<M>) -> u64 {
    let Some(process) = &slot.process else {
        return 0;
    };
    let view = process.view(GROUP);
    if view.first_index > view.durable_index {
        return 0;
    }
    let entries = process.entries(GROUP, view.first_index, view.durable_index);
    let entries = entries.expect("a sound disk gives its entries");
    entries
        .iter()
        .map(|entry| entry.weight_bytes() as u64)
        .sum()
}

/// Commands of a node's log, which must be whole, that are durable.
pub(crate) fn log_entries<M: StateMachine>(slot: &NodeSlot<M>) -> Vec<Entry> {
    let process = slot.process.as_ref().expect("the node runs");
    let view = process.view(GROUP);
    assert_eq!(view.first_index.0, 1, "the log begins at its first entry");
    let entries = process.entries(GROUP, view.first_index, view.durable_index);
    entries.expect("a sound disk gives its entries")
}

fn snapshot_bytes_of<M: StateMachine>(slot: &NodeSlot<M>) -> u64 {
    let files = slot.disk.files().into_iter();
    let snapshots = files.filter(|path| path.extension().is_some_and(|it| it == "snap"));
    let sizes = snapshots.filter_map(|path| slot.disk.contents(&path));
    let sizes = sizes.map(|content| content.len() as u64);
    sizes.max().unwrap_or_default()
}
