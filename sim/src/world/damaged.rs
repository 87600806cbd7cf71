//! Disks that lose what was durable, and what becomes of their nodes.
//!
//! Invariants:
//! - Only a minority of the nodes is ever struck, the same ones in all of a run, so that a quorum keeps all that was
//!   acknowledged (the Atlas rule of `TigerBeetle`). Of one or two nodes, where no minority can be spared, one is struck: the
//!   cluster may stand still then, and says why; it does not go on without what it lost.
//! - A node that is opened again holds all that it had told anybody it holds, or says of which groups it lost something and
//!   stands aside in them, or is refused with an error that names what is damaged. The judges see to that; a node that was
//!   not struck has no excuse.

use std::path::Path;

use quorate::OpenError;
use quorate_wal::Disk;
use quorate_wal::testing::CrashDisk;

use super::{End, Event, World};
use crate::damage::damage;
use crate::faults::FaultClass;
use crate::judge::Step;
use crate::marks::Mark;
use crate::node::{DIR, Harm, LOG_DIR, NodeSlot, SNAPSHOT_DIR};
use crate::seed::{Rng, Stream};
use crate::story::What;
use crate::trace::Who;
use crate::workload::Workload;

/// How often the operator looks after replicas that stand aside.
const TEND_NS: u64 = 500_000_000;

/// How long it takes until a disk that was wiped is as it was, on average.
const PUT_BACK_NS: u64 = 1_000_000_000;

/// How often disks are struck in a run at most: more leaves no node but those that are spared.
const STRIKES_MAX: u64 = 8;

/// The disks that may be struck in a run, and where choices about what becomes of them come from.
pub(super) struct Damage {
    rng: Rng,
    victims: Vec<usize>,
    /// How often disks are struck yet.
    left: u64,
}

impl Damage {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        let mut rng = Rng::of(seed, Stream::Damage).fork();
        let mut victims: Vec<usize> = (0..nodes).collect();
        rng.shuffle(&mut victims);
        victims.truncate(((nodes - 1) / 2).max(1));
        let left = rng.between(1, STRIKES_MAX);
        Self { rng, victims, left }
    }
}

impl<W: Workload> World<W> {
    /// The nodes in an order drawn from `rng`, and those in front that lost nothing.
    pub fn soundest_first(&self, rng: &mut Rng) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        rng.shuffle(&mut order);
        order.sort_by_key(|&node| {
            let slot = &self.nodes[node];
            slot.harm != Harm::None || has_aside(slot)
        });
        order
    }

    /// Whether a replica of a node that runs has lost entries, and takes no part until a snapshot covers them.
    pub fn has_aside(&self) -> bool {
        self.config.plan.has_damage() && self.nodes.iter().any(has_aside)
    }

    /// Whether so few nodes are whole that some group can do nothing: only where there are one or two.
    pub fn lacks_quorum(&self) -> bool {
        let able = |slot: &&NodeSlot<W::Machine>| slot.harm != Harm::Lost && !has_aside(slot);
        let quorum = self.nodes.len() / 2 + 1;
        self.config.plan.has_damage() && self.nodes.iter().filter(able).count() < quorum
    }

    /// Has an operator look after replicas that stand aside from now on, until there are none: `docs/guarantees.md` says
    /// that they come back when the leader took a snapshot and wrote a little.
    pub fn tend_aside(&mut self) {
        if !self.is_tended {
            self.is_tended = true;
            self.schedule(self.now_ns + TEND_NS, Event::Tend);
        }
    }

    pub(super) fn tend(&mut self) {
        self.is_tended = self.has_aside();
        if !self.is_tended {
            return;
        }
        for group in self.groups() {
            let Some(leader) = self.leader(group) else {
                continue;
            };
            let Some(process) = &self.nodes[leader].process else {
                continue;
            };
            // One that stays takes a snapshot; a new leader writes an entry, also where no clerk calls. The leader itself might
            // always choose the one that stands aside, of which it does not know.
            if self.damage.rng.permille(500) {
                process.snapshot(group);
            } else {
                let to = self.damage.rng.index(self.nodes.len());
                process.transfer(group, Some(self.nodes[to].id));
            }
            self.wake(leader);
        }
        self.schedule(self.now_ns + TEND_NS, Event::Tend);
    }

    /// Damages one of the disks that may be, if there is anything to damage.
    pub(super) fn strike_disk(&mut self, number: u32, class: FaultClass) -> Result<(), String> {
        let node = self.fault_rng.pick(&self.damage.victims);
        if self.damage.left == 0 || self.nodes[node].harm == Harm::Lost {
            return Ok(());
        }
        if class == FaultClass::Wipe {
            self.damage.left -= 1;
            self.tell_struck(number, class, node);
            return self.wipe(number, node);
        }
        let slot = &mut self.nodes[node];
        if class == FaultClass::Misread && slot.process.is_none() {
            return Ok(());
        }
        let Some(what) = damage(&slot.disk, class, &mut self.fault_rng) else {
            return Ok(());
        };
        self.damage.left -= 1;
        self.tell_struck(number, class, node);
        self.note(Who::Node(node), "damaged", class as u64, || {
            format!("{number}: {class:?}, {what}")
        });
        self.set_damaged(node, class)
    }

    fn tell_struck(&mut self, number: u32, class: FaultClass, node: usize) {
        if let Some(story) = &mut self.story {
            story.struck(number, Some(class), node, (self.now_ns, self.now_ns));
        }
    }

    /// Tells the judges that a disk was struck: for scripts that do it themselves.
    pub fn set_damaged(&mut self, node: usize, class: FaultClass) -> Result<(), String> {
        let slot = &mut self.nodes[node];
        slot.struck_by = Some(class);
        if class == FaultClass::Misread {
            slot.disk_state.may_misread = true;
        } else {
            slot.harm = Harm::Damaged;
        }
        self.judge(Step::Harmed { node })
    }

    /// Before a node is opened: reads go wrong only while it runs, as what recovery is shown of the last batch nobody could
    /// check.
    pub(super) fn read_well(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        if std::mem::take(&mut slot.disk_state.may_misread) {
            slot.disk.heal();
        }
    }

    /// A node whose open was refused because of damage that was done to it is out for good, as its operator must not let
    /// it come back without what it promised; unless what was taken is put back. Whether it was refused for that.
    pub(super) fn is_refused(&mut self, node: usize, error: &OpenError) -> Result<bool, String> {
        let slot = &mut self.nodes[node];
        if slot.harm != Harm::Damaged || !names_damage(error) {
            return Ok(false);
        }
        slot.harm = Harm::Lost;
        let is_wiped = slot.before_wipe.is_some();
        self.note(Who::Node(node), "refused", 0, || error.to_string());
        self.mark(if is_wiped {
            Mark::WipedRefused
        } else {
            Mark::DamageRefused
        });
        if is_wiped {
            self.may_put_back(node);
        }
        self.judge(Step::Harmed { node }).map(|()| true)
    }

    /// A node was opened. If something was wiped off its disk, it was nothing that it needs, or it says of which groups it
    /// lost something.
    pub(super) fn opened_again(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        if let Some((_, harm)) = slot.before_wipe.take()
            && !has_aside(slot)
        {
            slot.harm = harm;
        }
    }

    /// Everything on a disk is gone, or a part of it without which nobody may take the rest for the node that it was.
    fn wipe(&mut self, number: u32, node: usize) -> Result<(), String> {
        self.kill(node, End::Power)?;
        let part = self.fault_rng.pick(&WIPED);
        let slot = &mut self.nodes[node];
        if slot.before_wipe.is_none() {
            slot.before_wipe = Some((slot.disk.fork(), slot.harm));
        }
        slot.struck_by = Some(FaultClass::Wipe);
        slot.harm = Harm::Damaged;
        match part {
            Wiped::All => {
                slot.disk = CrashDisk::new();
                // Nothing on it says that it ever was a node, so it is the operator who must not start it.
                slot.harm = Harm::Lost;
            }
            Wiped::Identity => remove(&slot.disk, Path::new(DIR), Some("IDENTITY"))?,
            Wiped::Log => remove(&slot.disk, &Path::new(DIR).join(LOG_DIR), None)?,
            Wiped::Snapshots => remove_snapshots(&slot.disk)?,
        }
        self.note(Who::Node(node), "wiped", part as u64, || {
            format!("{number}: {part:?}")
        });
        if part == Wiped::All {
            self.may_put_back(node);
        } else {
            self.schedule(self.now_ns + 1, Event::Restart(node));
        }
        self.judge(Step::Harmed { node })
    }

    /// Half of the time what was wiped is found again.
    fn may_put_back(&mut self, node: usize) {
        if self.damage.rng.permille(500) {
            let wait_ns = self.damage.rng.wait(PUT_BACK_NS);
            self.schedule(self.now_ns + 1 + wait_ns, Event::PutBack(node));
        }
    }

    /// A disk that was wiped is as it was before.
    pub(super) fn put_back(&mut self, node: usize) -> Result<(), String> {
        let slot = &mut self.nodes[node];
        let Some((disk, harm)) = slot.before_wipe.take() else {
            return Ok(());
        };
        slot.disk = disk;
        slot.harm = harm;
        self.note(Who::Node(node), "putback", 0, String::new);
        self.happens(Some(node), What::PutBack);
        self.mark(Mark::WipedAndBack);
        self.judge(Step::Harmed { node })?;
        self.restart(node)
    }
}

/// What is wiped off a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wiped {
    All,
    Identity,
    Log,
    Snapshots,
}

const WIPED: [Wiped; 4] = [Wiped::All, Wiped::Identity, Wiped::Log, Wiped::Snapshots];

fn has_aside<M: quorate::simulation::StateMachine>(slot: &NodeSlot<M>) -> bool {
    let process = slot.process.as_ref();
    process.is_some_and(|process| {
        let mut groups = process.groups();
        groups.any(|group| process.stand(group).is_aside)
    })
}

/// Whether an error says what of a node's files is damaged or gone. An error of the system is none, nor what a caller got wrong.
fn names_damage(error: &OpenError) -> bool {
    use quorate_wal::OpenError as LogError;
    match error {
        OpenError::Damaged { .. }
        | OpenError::Foreign { .. }
        | OpenError::LogMissing { .. }
        | OpenError::Snapshot { .. }
        | OpenError::Version { .. } => true,
        OpenError::Log(error) => matches!(
            error,
            LogError::Damaged { .. } | LogError::MissingSegment { .. } | LogError::Version { .. }
        ),
        _ => false,
    }
}

fn remove_snapshots(disk: &CrashDisk) -> Result<(), String> {
    let dir = Path::new(DIR).join(SNAPSHOT_DIR);
    let files = disk.files().into_iter();
    let inside = files.filter(|path| path.starts_with(&dir));
    let folders = inside.filter_map(|path| path.parent().map(Path::to_owned));
    let mut folders: Vec<_> = folders.collect();
    folders.dedup();
    folders
        .iter()
        .try_for_each(|folder| remove(disk, folder, None))
}

/// Takes one file or all out of a directory, as an operator does who deletes what he does not know.
fn remove(disk: &CrashDisk, dir: &Path, name: Option<&str>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{} cannot be wiped: {error}", dir.display());
    let paths = disk.files().into_iter();
    let paths = paths.filter(|path| path.parent() == Some(dir));
    let is_meant = |path: &&std::path::PathBuf| name.is_none_or(|name| path.ends_with(name));
    let paths: Vec<_> = paths.collect();
    for path in paths.iter().filter(is_meant) {
        disk.remove(path).map_err(failed)?;
    }
    disk.sync_dir(dir).map_err(failed)
}
