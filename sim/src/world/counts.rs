//! What a run costs: passes of workers, messages, bytes. Budgets are judged by it.

use std::ops::Sub;

use quorate::Role;
use quorate::simulation::{Body, Deed, Entry};
use quorate::transport::Frame;

use super::World;
use crate::network::Packet;
use crate::workload::Workload;

/// What all nodes together did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passes of workers.
    pub passes: u64,
    /// Frames between nodes.
    pub frames: u64,
    /// Messages of the protocol in them.
    pub messages: u64,
    /// Bytes of the frames, where frames are encoded.
    pub bytes: u64,
    /// Bytes of entries that leaders sent.
    pub appended_bytes: u64,
    /// Bytes of entries that leaders took into their logs.
    pub proposed_bytes: u64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            passes: self.passes - before.passes,
            frames: self.frames - before.frames,
            messages: self.messages - before.messages,
            bytes: self.bytes - before.bytes,
            appended_bytes: self.appended_bytes - before.appended_bytes,
            proposed_bytes: self.proposed_bytes - before.proposed_bytes,
        }
    }
}

impl Counts {
    /// A frame leaves a node for another one.
    pub(super) fn sent(&mut self, frame: &Frame) {
        self.frames += 1;
        let Frame::Raft(messages) = frame else {
            return;
        };
        self.messages += messages.len() as u64;
        let bodies = messages.iter().map(|it| &it.message.body);
        let entries = bodies.filter_map(|body| match body {
            Body::Append { entries, .. } => Some(entries),
            _ => None,
        });
        self.appended_bytes += entries.map(|entries| weight(entries)).sum::<u64>();
    }

    /// It is on its way.
    pub(super) fn packed(&mut self, packet: &Packet) {
        if let Packet::Bytes(bytes) = packet {
            self.bytes += bytes.len() as u64;
        }
    }
}

fn weight(entries: &[Entry]) -> u64 {
    entries
        .iter()
        .map(|entry| entry.weight_bytes() as u64)
        .sum()
}

impl<W: Workload> World<W> {
    /// What was done up to now.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Has each sync of a node's disk take so long at least.
    pub fn slow_disk(&mut self, node: usize, sync_min_ns: u64) {
        self.nodes[node].disk_state.sync_min_ns = sync_min_ns;
    }

    /// Counts what leaders took into their logs in a step.
    pub(super) fn count_proposed(&mut self, node: usize) {
        let slot = &self.nodes[node];
        let Some(process) = &slot.process else {
            return;
        };
        for (group, deed) in &slot.deeds {
            if let Deed::Wrote(entries) = deed
                && process.role(*group).0 == Role::Leader
            {
                self.counts.proposed_bytes += weight(entries);
            }
        }
    }
}
