//! Faults that strike at moments, and their ends.

use std::path::Path;

use quorate::GroupId;
use quorate::simulation::SimNode;
use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind, Survivors};
use quorate_wal::{LogStats, inspect};

use super::{Event, Relief, World};
use crate::faults::FaultClass;
use crate::judge::Step;
use crate::marks::Mark;
use crate::network::Endpoint;
use crate::node::{DIR, LOG_DIR};
use crate::seed::Rng;
use crate::story::What;
use crate::trace::Who;
use crate::workload::Workload;

const MS: u64 = 1_000_000;

/// A process that stands still does so for this long at least, and thirty seconds at most.
const PAUSE_MIN_NS: u64 = 10 * MS;
const PAUSE_MEANS_NS: [u64; 3] = [100 * MS, 600 * MS, 2_000 * MS];
const PAUSE_MAX_NS: u64 = 30_000 * MS;

/// How long a fault lasts on average.
const LAST_NS: u64 = 800 * MS;

/// How often an operator hands leadership over, or asks for an election, beside a fault.
const HANDOVER_PERMILLE: u32 = 200;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself: what it wrote is still in the cache.
    Process,
    /// With the power.
    Power,
}

impl<W: Workload> World<W> {
    /// Lets faults strike from now on.
    pub fn begin_trouble(&mut self) {
        self.has_trouble = true;
        // Whoever waits longest for a leader holds the longest leases.
        let patient = self.config.patient_node();
        for group in self.groups().filter(|_| patient.is_some()) {
            let leader = self
                .leader(group)
                .and_then(|it| self.nodes[it].process.as_ref());
            if let Some(leader) = leader {
                leader.transfer(group, patient);
            }
        }
        self.network.trouble();
        self.schedule_trouble();
    }

    /// No fault strikes any more. Those that have struck last until [`heal`](Self::heal).
    pub fn end_trouble(&mut self) {
        self.has_trouble = false;
    }

    /// Links lose and hold back nothing any more, disks are sound, fast and empty, nobody stands still, and the dead are
    /// started again, save for those that were abandoned.
    pub fn heal(&mut self) -> Result<(), String> {
        self.network.calm();
        if let Some(story) = &mut self.story {
            story.healed(self.now_ns);
        }
        for node in 0..self.nodes.len() {
            self.mend_disk(node);
            self.nodes[node].is_to_end = None;
            self.nodes[node].is_to_pause_ns = 0;
            if self.nodes[node].paused_until_ns > self.now_ns {
                self.nodes[node].paused_until_ns = self.now_ns;
                self.happens(Some(node), What::GoesOn);
                self.wake_all_steps(node);
            }
            let slot = &self.nodes[node];
            if slot.process.is_none() && !slot.stays_dead() {
                self.open(node)?;
            }
        }
        Ok(())
    }

    /// Leaves nodes dead from now on.
    pub fn abandon(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].is_abandoned = true;
        self.kill(node, End::Power)
    }

    /// Takes abandoned nodes back, with the next [`heal`](Self::heal).
    pub fn take_back(&mut self) {
        for slot in &mut self.nodes {
            slot.is_abandoned = false;
        }
    }

    /// Ends a process, possibly in the middle of a step of its log.
    pub fn kill(&mut self, node: usize, end: End) -> Result<(), String> {
        let mut rng = self.disk_rng.fork();
        let in_step = rng.permille(300);
        self.kill_in(node, end, in_step, rng)
    }

    fn kill_in(
        &mut self,
        node: usize,
        end: End,
        in_step: bool,
        mut rng: Rng,
    ) -> Result<(), String> {
        let changes = rng.pick(&[0, 1, 1, 1, 2, 5]);
        let writes_first = rng.permille(500);
        let survivors = draw_survivors(&mut rng);
        let slot = &mut self.nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        let before = process.log().stats();
        let mut segments = before.segments;
        if in_step {
            slot.disk.stop_after(changes);
            step_into_the_end(process, writes_first);
            segments = process.log().stats().segments;
        }
        match end {
            End::Process => slot.disk.process_crash(),
            End::Power => slot.disk.power_cut(&survivors),
        }
        slot.kill();
        self.locals[node] = None;
        let slot = &mut self.nodes[node];
        let mut marks = crash_marks(&slot.disk, &before);
        marks.extend(in_step.then_some(Mark::DiskStepCut));
        let is_rotated = end == End::Power && segments > before.segments;
        marks.extend(is_rotated.then_some(Mark::RotatedInPowerCut));
        for mark in marks {
            self.mark(mark);
        }
        self.note(Who::Node(node), "killed", changes, || {
            format!("{end:?}, in a step: {in_step}, of what was not synced: {survivors:?}")
        });
        self.happens(Some(node), What::Killed(end));
        self.hang_up(node);
        self.judge(Step::Killed { node })
    }

    /// A node whose log failed is started again.
    pub(super) fn replace(&mut self, node: usize, life: u32) -> Result<(), String> {
        let slot = &self.nodes[node];
        if slot.life != life || slot.process.is_none() {
            return Ok(());
        }
        self.mend_disk(node);
        let end = if self.disk_rng.permille(500) {
            End::Process
        } else {
            End::Power
        };
        self.kill(node, end)?;
        self.restart(node)
    }

    pub(super) fn trouble(&mut self) -> Result<(), String> {
        if !self.has_trouble {
            return Ok(());
        }
        let events = self.config.plan.events();
        if !events.is_empty() {
            let number = self.next_trouble();
            let class = self.fault_rng.pick(&events);
            if self.config.reduction.strikes(number, Some(class)) {
                self.strike(number, class)?;
            }
        }
        if self.trouble_rng.permille(HANDOVER_PERMILLE) {
            let number = self.next_trouble();
            if self.config.reduction.strikes(number, None) {
                self.hand_over(number);
            }
        }
        self.schedule_trouble();
        Ok(())
    }

    /// How many troubles there were, those that were left out among them.
    pub fn troubles(&self) -> u32 {
        self.troubles
    }

    /// The number of a trouble, which draws from a stream of its own from here on. Whether the ones before it struck moves
    /// neither.
    fn next_trouble(&mut self) -> u32 {
        self.fault_rng = self.trouble_rng.fork();
        self.troubles += 1;
        self.troubles - 1
    }

    pub(super) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Network => self.network.mend(),
            Relief::Disk(node) => {
                self.nodes[node].disk_state.slowness = 0;
                self.unstick_disk(node);
            }
            Relief::Space(node) => self.nodes[node].disk.set_capacity(None),
        }
        self.note(Who::World, "relief", 0, || format!("{relief:?}"));
        if let Some(story) = &mut self.story {
            story.relieved(self.now_ns, relief.node());
        }
    }

    /// Everything is right with a disk again.
    pub(super) fn mend_disk(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        slot.disk.heal();
        slot.disk.set_capacity(None);
        self.unstick_disk(node);
        self.nodes[node].disk_state = crate::node::DiskState::default();
    }

    /// A disk that stood still takes up at once what it was given meanwhile.
    fn unstick_disk(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        let until_ns = std::mem::take(&mut slot.disk_state.stuck_until_ns);
        if until_ns > self.now_ns {
            let timers = &mut slot.timers;
            (timers.log_at_ns, timers.prepare_at_ns, timers.job_at_ns) = (None, None, None);
            self.schedule_steps(node);
        }
    }

    /// Has a node stand still in the middle of a step, if it is to. For how long; zero if it does not.
    pub(super) fn pause(&mut self, node: usize) -> u64 {
        let pause_ns = std::mem::take(&mut self.nodes[node].is_to_pause_ns);
        if pause_ns == 0 {
            return 0;
        }
        let until_ns = self.now_ns + pause_ns;
        self.nodes[node].paused_until_ns = until_ns;
        let id = self.nodes[node].id;
        self.observer.marks_mut().note_pause(id, until_ns);
        self.note(Who::Node(node), "pauses", pause_ns, || {
            format!("for {} ms", pause_ns / MS)
        });
        self.happens(Some(node), What::Paused { until_ns });
        pause_ns
    }

    fn schedule_trouble(&mut self) {
        if self.config.plan.events().is_empty() {
            return;
        }
        let gap_ns = self.trouble_rng.wait(self.config.plan.gap_ns);
        self.schedule(self.now_ns + 1 + gap_ns, Event::Trouble);
    }

    fn strike(&mut self, number: u32, class: FaultClass) -> Result<(), String> {
        if class.is_damage() {
            return self.strike_disk(number, class);
        }
        let node = self.draw_victim();
        let other = self.fault_rng.index(self.nodes.len());
        let lasts_ns = 1 + self.fault_rng.wait(LAST_NS);
        let end_ns = self.now_ns + lasts_ns;
        let what = class as u64 * 16 + node as u64;
        self.note(Who::World, "fault", what, || {
            format!(
                "{number}: {class:?} at n{}, for {} ms",
                node + 1,
                lasts_ns / MS
            )
        });
        if let Some(story) = &mut self.story {
            story.struck(number, Some(class), node, (self.now_ns, end_ns));
        }
        match class {
            FaultClass::Crash => self.crash(node, End::Process, end_ns)?,
            FaultClass::PowerCut => self.crash(node, End::Power, end_ns)?,
            FaultClass::Pause => self.nodes[node].is_to_pause_ns = self.draw_pause(),
            FaultClass::ClockJump => {
                let by_ns = self.fault_rng.between(1, 10_000) * MS;
                self.nodes[node].clock.jump(by_ns);
                self.wake(node);
            }
            FaultClass::OneWayCut => {
                let (from, to) = (Endpoint::Node(node), Endpoint::Node(other));
                self.network.set_cut(from, to, true);
                self.schedule(end_ns, Event::Relief(Relief::Network));
            }
            FaultClass::Isolate => {
                if self.fault_rng.permille(500) {
                    self.network.isolate(node);
                } else {
                    // Clerks that reach a leader of the past are the ones that could read from it.
                    self.network.isolate_from_nodes(node);
                }
                self.schedule(end_ns, Event::Relief(Relief::Network));
            }
            FaultClass::Bridge => {
                let halves: Vec<_> = (0..self.nodes.len())
                    .map(|place| {
                        let in_first = self.fault_rng.permille(500);
                        (in_first || place == node, !in_first || place == node)
                    })
                    .collect();
                self.network.bridge(&halves);
                self.schedule(end_ns, Event::Relief(Relief::Network));
            }
            FaultClass::Clog => {
                let (from, to) = (Endpoint::Node(node), Endpoint::Node(other));
                self.network.clog(from, to, end_ns);
            }
            FaultClass::SlowDisk => {
                self.nodes[node].disk_state.slowness = self.fault_rng.between(5, 200);
                self.schedule(end_ns, Event::Relief(Relief::Disk(node)));
            }
            FaultClass::StuckDisk => {
                self.nodes[node].disk_state.stuck_until_ns = end_ns;
            }
            FaultClass::FailedSync => {
                let skip = self.fault_rng.below(20);
                let effect = Effect::Fail(DiskError::Device);
                let fault = Fault::new(OpKind::Sync, effect).after(skip).times(1);
                self.nodes[node].disk.inject(fault);
                self.nodes[node].disk_state.is_faulty = true;
            }
            FaultClass::FullDisk => {
                let disk = &self.nodes[node].disk;
                let left_bytes = self.fault_rng.below(64 << 10);
                disk.set_capacity(Some(disk.used_bytes() + left_bytes));
                self.nodes[node].disk_state.is_faulty = true;
                self.schedule(end_ns, Event::Relief(Relief::Space(node)));
            }
            FaultClass::BitRot
            | FaultClass::LostWrite
            | FaultClass::MisdirectedWrite
            | FaultClass::StaleWrite
            | FaultClass::Misread
            | FaultClass::Wipe => unreachable!("these choose whom they strike"),
            FaultClass::ClockRate
            | FaultClass::Drop
            | FaultClass::Duplicate
            | FaultClass::Delay
            | FaultClass::Reorder
            | FaultClass::Reset
            | FaultClass::FlipBit => unreachable!("these are a quality of the whole run"),
        }
        Ok(())
    }

    /// The leader of a group hands over to whom it chooses, or another node asks for an election.
    fn hand_over(&mut self, number: u32) {
        let group = GroupId(self.fault_rng.below(u64::from(self.config.groups)));
        let any = self.fault_rng.index(self.nodes.len());
        let leader = self.leader(group).unwrap_or(any);
        let asks = self.fault_rng.permille(300);
        let node = if asks { any } else { leader };
        let Some(process) = &self.nodes[node].process else {
            return;
        };
        if asks {
            process.campaign(group);
        } else {
            process.transfer(group, self.config.patient_node());
        }
        self.note(Who::Node(node), "handover", u64::from(asks), || {
            format!("{number}")
        });
        if let Some(story) = &mut self.story {
            story.struck(number, None, node, (self.now_ns, self.now_ns));
        }
        self.wake(node);
    }

    /// Ends a process and has it started again; half of the time in the next step of its log that has something to do, since
    /// a moment that is drawn rarely falls into one.
    fn crash(&mut self, node: usize, end: End, until_ns: u64) -> Result<(), String> {
        let mut rng = self.fault_rng.fork();
        let waits = rng.permille(500);
        let in_step = rng.permille(300);
        if waits && self.nodes[node].process.is_some() {
            self.nodes[node].is_to_end = Some((end, until_ns, rng));
            return Ok(());
        }
        self.kill_in(node, end, in_step, rng)?;
        self.schedule(until_ns, Event::Restart(node));
        Ok(())
    }

    /// Ends a process that was to end in this step of its log. Whether it did.
    pub(super) fn end_in_step(&mut self, node: usize) -> Result<bool, String> {
        let Some((end, until_ns, rng)) = self.nodes[node].is_to_end.take() else {
            return Ok(false);
        };
        self.kill_in(node, end, true, rng)?;
        self.schedule(until_ns.max(self.now_ns), Event::Restart(node));
        Ok(true)
    }

    fn draw_pause(&mut self) -> u64 {
        let mean_ns = self.fault_rng.pick(&PAUSE_MEANS_NS);
        let pause_ns = PAUSE_MIN_NS + self.fault_rng.wait(mean_ns);
        pause_ns.min(PAUSE_MAX_NS)
    }

    /// A leader of some group half of the time, since that is where most is going on.
    fn draw_victim(&mut self) -> usize {
        let group = self.fault_rng.below(u64::from(self.config.groups));
        let any = self.fault_rng.index(self.nodes.len());
        if self.fault_rng.permille(500) {
            self.leader(GroupId(group)).unwrap_or(any)
        } else {
            any
        }
    }
}

/// What survives of what was not synced.
fn draw_survivors(rng: &mut Rng) -> Survivors {
    let seed = rng.draw();
    let percent = rng.between(0, 100) as u8;
    let torn_percent = rng.pick(&[0, 50, 95]);
    match rng.below(5) {
        0 => Survivors::None,
        1 => Survivors::All,
        2 => Survivors::Prefix((seed % 8) as usize),
        _ => Survivors::Random {
            seed,
            survive_percent: percent,
            torn_percent,
        },
    }
}

/// What a log and its disk show when a process ended.
fn crash_marks(disk: &CrashDisk, stats: &LogStats) -> Vec<Mark> {
    let mut marks = Vec::new();
    marks.extend((stats.recycled > 0).then_some(Mark::SegmentReused));
    marks.extend((stats.moved_bytes > 0).then_some(Mark::EntriesMoved));
    // A log that cannot be looked into is for the judges, when it is opened.
    if let Ok(inspection) = inspect(disk, &Path::new(DIR).join(LOG_DIR)) {
        marks.extend((inspection.torn_tail_bytes > 0).then_some(Mark::TornTail));
    }
    marks
}

/// Takes what steps the log and the jobs have to take, on a disk that ends in the middle of them.
fn step_into_the_end<M: quorate::simulation::StateMachine>(
    process: &SimNode<M>,
    writes_first: bool,
) {
    // The end shows as failures, which nobody lives to see.
    if writes_first {
        let _ended = process.log_step();
        let _ended = process.prepare_step();
    } else {
        let _ended = process.prepare_step();
        let _ended = process.log_step();
    }
    while process.job_step() {}
}
