//! One sick disk among sound ones, and what operators get wrong.

use quorate::GroupId;
use quorate_wal::testing::CrashDisk;

use super::{End, World};
use crate::marks::Mark;
use crate::trace::Who;
use crate::trials::{Mistake, Sickness};
use crate::workload::Workload;

/// Writes go on within so many election timeouts of the first one that missed, whatever one disk does, and within what their
/// clients take to turn to another node.
const PROGRESS_TIMEOUTS: u32 = 10;

/// How long clerks think while progress is judged, on average: a little, so that logs and queues fill up.
const BUSY_THINK_NS: u64 = 10_000_000;

/// Since when no write of a group succeeded of those that were called.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bound_ns: u64,
    /// By group.
    missed_since: Vec<Option<u64>>,
}

impl Progress {
    /// A clerk calls a write.
    pub(super) fn called(&mut self, now_ns: u64, group: GroupId) {
        if let Some(since) = self.missed_since.get_mut(group.0 as usize) {
            since.get_or_insert(now_ns);
        }
    }

    /// A write succeeded.
    pub(super) fn succeeded(&mut self, group: GroupId) {
        if let Some(since) = self.missed_since.get_mut(group.0 as usize) {
            *since = None;
        }
    }
}

impl<W: Workload> World<W> {
    /// Has one disk fall sick until then, that of a leader if one is asked for; from now on each group has to make progress.
    pub fn sicken(&mut self, kind: Sickness, of_leader: bool, until_ns: u64) {
        let leader = self.groups().find_map(|group| self.leader(group));
        let leader = leader.unwrap_or(0);
        let node = if of_leader {
            leader
        } else {
            (leader + 1) % self.nodes.len()
        };
        // Where they differ, the most patient node decides how soon another one leads.
        let timeouts = (0..self.nodes.len()).map(|node| self.config.options_of(node, 0));
        let timeouts = timeouts.map(|options| options.election_timeout.as_nanos() as u64);
        let timeout_ns = timeouts.max().unwrap_or_default();
        let turn_ns = self.config.options.retry_after.as_nanos() as u64;
        let bound_ns = timeout_ns * u64::from(PROGRESS_TIMEOUTS) + turn_ns * 2;
        self.config.think_ns = BUSY_THINK_NS;
        self.progress = Some(Progress {
            bound_ns,
            missed_since: vec![None; self.config.groups as usize],
        });
        let slot = &mut self.nodes[node];
        match kind {
            Sickness::Full => {
                slot.disk.set_capacity(Some(slot.disk.used_bytes()));
                slot.disk_state.is_faulty = true;
            }
            Sickness::Slow => {
                let times = 1
                    + u64::from(self.seed.is_multiple_of(3))
                    + u64::from(self.seed.is_multiple_of(2));
                slot.disk_state.sync_min_ns = timeout_ns * times;
            }
            Sickness::Stuck => slot.disk_state.stuck_until_ns = until_ns,
        }
        self.mark(Mark::SickDisk);
        self.note(Who::Node(node), "sick", kind as u64, || format!("{kind:?}"));
    }

    /// The group that has made no progress for too long, and for how long.
    pub fn stalled(&self) -> Option<(GroupId, u64)> {
        let progress = self.progress.as_ref()?;
        let mut missed_since = progress.missed_since.iter().enumerate();
        missed_since.find_map(|(group, since)| {
            let for_ns = self.now_ns - (*since)?;
            (for_ns > progress.bound_ns).then_some((GroupId(group as u64), for_ns))
        })
    }

    /// Progress is not judged any more.
    pub fn end_progress(&mut self) {
        self.progress = None;
    }

    /// A copy of a directory, for an operator who will take it for the present one.
    pub fn copy_directory(&self, node: usize) -> CrashDisk {
        self.nodes[node].disk.fork()
    }

    /// Has an operator get something wrong. `copy` is an older copy of the first node's directory.
    pub fn get_wrong(
        &mut self,
        mistake: Mistake,
        node: usize,
        copy: CrashDisk,
    ) -> Result<(), String> {
        self.mark(Mark::OperatorMistake);
        self.note(Who::Node(node), "mistake", mistake as u64, || {
            format!("{mistake:?}")
        });
        match mistake {
            Mistake::Swapped => self.swap_directories(node),
            Mistake::Wiped => self.start_with(node, CrashDisk::new()),
            Mistake::Older => self.start_with(node, copy),
        }
    }

    fn start_with(&mut self, node: usize, disk: CrashDisk) -> Result<(), String> {
        self.kill(node, End::Power)?;
        self.nodes[node].disk = disk;
        self.start_node(node)
    }

    /// Both are refused with the other's directory, and start with their own as if nothing had been.
    fn swap_directories(&mut self, node: usize) -> Result<(), String> {
        let other = (node + 1) % self.nodes.len();
        if other == node {
            return Ok(());
        }
        self.kill(node, End::Power)?;
        self.kill(other, End::Power)?;
        self.exchange(node, other);
        for place in [node, other] {
            if self.opens(place) {
                return Err(format!(
                    "n{} was opened with the directory of another node",
                    place + 1
                ));
            }
        }
        self.exchange(node, other);
        for place in [node, other] {
            self.start_node(place)?;
        }
        Ok(())
    }

    fn exchange(&mut self, node: usize, other: usize) {
        let disk = self.nodes[node].disk.clone();
        let others = std::mem::replace(&mut self.nodes[other].disk, disk);
        self.nodes[node].disk = others;
    }
}
