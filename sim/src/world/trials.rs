//! One sick disk among sound ones, and what operators get wrong.

use quorate::GroupId;
use quorate_wal::testing::CrashDisk;

use super::{End, World};
use crate::judge::{Directory, Step};
use crate::marks::Mark;
use crate::node::Met;
use crate::story::What;
use crate::trace::Who;
use crate::trials::Sickness;
use crate::workload::Workload;

/// Writes go on within so many election timeouts of the first one that missed, whatever one disk does, and within what their
/// clients take to turn to another node.
const PROGRESS_TIMEOUTS: u32 = 10;

/// How long clerks think while progress is judged, on average: a little, so that logs and queues fill up.
const BUSY_THINK_NS: u64 = 10_000_000;

/// What a swap is called among mistakes, behind the directories.
const SWAPPED: u64 = 3;

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

    /// Has an operator stop a node, copy its directory, and start it again. The life in which it
    /// was stopped.
    pub fn copy_directory(&mut self, node: usize) -> Result<u32, String> {
        self.kill(node, End::Process)?;
        let slot = &mut self.nodes[node];
        let life = slot.life;
        slot.copied_disk = Some(slot.disk.fork());
        self.note(Who::Node(node), "copied", u64::from(life), String::new);
        self.judge(Step::Copied { node })?;
        self.restart(node)?;
        Ok(life)
    }

    /// Whether all peers of a node have written down a start that comes behind this life of it:
    /// then each of them recognises a directory that was copied in that life, whatever becomes of
    /// its process. How far the log of the node was they may forget.
    pub fn is_known_since(&self, node: usize, life: u32) -> bool {
        let slot = &self.nodes[node];
        let mut peers = (0..self.nodes.len()).filter(|peer| *peer != node);
        slot.life > life
            && peers.all(|peer| {
                let mut met = slot.met.range((peer, 0)..=(peer, u32::MAX));
                met.any(|(_, met)| matches!(met, Met::Accepted))
            })
    }

    /// Has an operator start a node from an empty directory, or from the copy that was made last.
    pub fn misplace(&mut self, node: usize, directory: Directory) -> Result<(), String> {
        self.get_wrong(node, directory as u64, || format!("{directory:?}"));
        self.kill(node, End::Power)?;
        let slot = &mut self.nodes[node];
        let disk = match directory {
            Directory::Own => return Ok(()),
            Directory::Empty => CrashDisk::new(),
            Directory::Older => slot.copied_disk.take().unwrap_or_default(),
        };
        slot.own_disk = Some(std::mem::replace(&mut slot.disk, disk));
        slot.wrong_lives = slot.life + 1..slot.life + 1;
        self.exchanged(node, directory)
    }

    /// Has an operator put the own directory of a node back in its place, and start it from there.
    pub fn replace_directory(&mut self, node: usize) -> Result<(), String> {
        self.kill(node, End::Power)?;
        let slot = &mut self.nodes[node];
        let Some(disk) = slot.own_disk.take() else {
            return Ok(());
        };
        slot.disk = disk;
        self.happens(Some(node), What::PutBack);
        self.exchanged(node, Directory::Own)
    }

    fn exchanged(&mut self, node: usize, directory: Directory) -> Result<(), String> {
        self.mend_disk(node);
        self.note(Who::Node(node), "exchanged", directory as u64, || {
            format!("{directory:?}")
        });
        self.judge(Step::Exchanged { node, directory })?;
        self.restart(node)
    }

    /// Has an operator swap the directories of two nodes. Both are refused, and start with their
    /// own as if nothing had been.
    pub fn swap_directories(&mut self, node: usize) -> Result<(), String> {
        self.get_wrong(node, SWAPPED, || "Swapped".to_owned());
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

    fn get_wrong(&mut self, node: usize, number: u64, what: impl FnOnce() -> String) {
        self.mark(Mark::OperatorMistake);
        self.note(Who::Node(node), "mistake", number, what);
    }
}
