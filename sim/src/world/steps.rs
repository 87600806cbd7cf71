//! The steps of nodes: when each is taken, how long it takes, and what it sends.
//!
//! A step of the log writes, syncs and tells in one call. How long that takes is how long after the first submission the
//! step is taken; what is submitted meanwhile goes with it. A crash in the middle of a step is a crash of the disk after so
//! many of its operations, see [`troubles`](super::troubles).

use quorate::simulation::{LogStatus, SimNode};
use quorate::transport::{Frame, Origin};
use quorate::{GroupId, Role};

use super::locals::PAUSED_NS;
use super::{Event, World, link_to_clerk};
use crate::config::WAKE_NS;
use crate::judge::Step;
use crate::marks::Mark;
use crate::network::{Endpoint, Packet};
use crate::node::{Met, Sent};
use crate::story::What;
use crate::trace::Who;
use crate::workload::Workload;

const MS: u64 = 1_000_000;

/// How long the log rests before its last batch is covered, as in production.
const COVER_NS: u64 = 20 * MS;

/// How often a full log looks whether space returned, as in production.
const FULL_NS: u64 = 250 * MS;

/// How long after a refusal two nodes show each other their cards again.
const MEETS_AGAIN_NS: u64 = 100 * MS;

/// How long a failed node stays up until its operator starts it again.
const FAILED_NS: u64 = 500 * MS;

impl<W: Workload> World<W> {
    /// Starts the processes of all nodes that have none.
    pub fn start_nodes(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].process.is_none() {
                self.open(node)?;
            }
        }
        Ok(())
    }

    /// Starts a process; later, if its disk is in trouble.
    pub(super) fn open(&mut self, node: usize) -> Result<(), String> {
        let (nodes, groups) = (self.config.nodes, self.config.groups);
        let (now_ns, seed) = (self.now_ns, self.seed);
        self.read_well(node);
        let slot = &mut self.nodes[node];
        let options = self.config.options_of(node, slot.life);
        let opened = slot.open(now_ns, nodes, groups, options, seed);
        let is_faulty = slot.disk_state.is_faulty;
        if let Err(error) = opened {
            self.happens(Some(node), What::Unopened(error.to_string()));
            if self.is_refused(node, &error)? {
                return Ok(());
            }
            self.note(Who::Node(node), "unopened", 0, || error.to_string());
            if !is_faulty {
                return Err(format!("node {} cannot be opened: {error}", node + 1));
            }
            self.mark(Mark::Unopened);
            // What was wrong with the disk is over when somebody looks into it.
            self.mend_disk(node);
            self.schedule(now_ns + FAILED_NS, Event::Restart(node));
            return Ok(());
        }
        self.note(Who::Node(node), "opened", 0, String::new);
        self.opened_again(node);
        self.happens(Some(node), What::Opened);
        self.judge(Step::Opened { node })?;
        self.open_local(node);
        self.attach_step(node, self.nodes[node].life, 0);
        Ok(())
    }

    /// Takes the next step of opening the workers of a node: one alone is opened at once, several one after the other, with
    /// time between any two steps, in which those that are attached write and the log moves.
    pub(super) fn attach_step(&mut self, node: usize, life: u32, worker: usize) {
        let slot = &mut self.nodes[node];
        let shown_ns = slot.clock.at(self.now_ns);
        let Some(process) = slot.process.as_mut().filter(|_| slot.life == life) else {
            return;
        };
        if slot.paused_until_ns > self.now_ns {
            let at_ns = slot.paused_until_ns.min(self.now_ns + PAUSED_NS);
            self.schedule(at_ns, Event::Attach(node, life, worker));
            return;
        }
        if process.workers() == 1 {
            while process.open_step(0, shown_ns) {}
            self.wake(node);
            return;
        }
        process.open_step(worker, shown_ns);
        let is_attached = process.is_attached(worker);
        let next = worker + usize::from(is_attached);
        let is_last = next == process.workers();
        self.note(Who::Node(node), "attach", worker as u64, || {
            format!("worker {worker}, attached: {is_attached}")
        });
        if is_attached {
            self.wake_worker(node, worker);
        }
        if !is_last {
            let wait_ns = 1 + self.worker_rng.wait(self.config.attach_ns);
            let event = Event::Attach(node, life, next);
            self.schedule(self.now_ns + wait_ns, event);
        }
    }

    /// Whether a process can be opened on a disk that is not its own. It is ended at once.
    pub(super) fn opens(&mut self, node: usize) -> bool {
        let (nodes, groups) = (self.config.nodes, self.config.groups);
        let (now_ns, seed) = (self.now_ns, self.seed);
        let slot = &mut self.nodes[node];
        let options = self.config.options_of(node, slot.life);
        let opened = slot.open(now_ns, nodes, groups, options, seed);
        let refusal = opened.as_ref().err().map(ToString::to_string);
        slot.kill();
        self.note(
            Who::Node(node),
            "strange",
            u64::from(opened.is_ok()),
            || refusal.unwrap_or_default(),
        );
        opened.is_ok()
    }

    pub(super) fn restart(&mut self, node: usize) -> Result<(), String> {
        let slot = &self.nodes[node];
        if slot.process.is_some() || slot.stays_dead() {
            return Ok(());
        }
        self.open(node)
    }

    /// A frame arrives. A node that is dead loses it.
    pub(super) fn arrive(
        &mut self,
        (from, life): (usize, u32),
        to: usize,
        packet: Packet,
    ) -> Result<(), String> {
        let number = packet.number();
        let Some(frame) = self.network.open(packet) else {
            self.note(Who::Node(to), "broken", number, || {
                format!("from n{}", from + 1)
            });
            self.mark(Mark::FrameBroken);
            return Ok(());
        };
        // On a connection of its own, which was refused, whoever the sender is by now.
        let is_refused = self.nodes[from].wrong_lives.contains(&life);
        if !self.have_met(from, to)? || is_refused {
            return Ok(());
        }
        let origin = Origin::Node(self.nodes[from].id);
        let slot = &mut self.nodes[to];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        process.deliver(origin, frame);
        for unheard in slot.unheard.iter_mut().take(process.workers()) {
            unheard.insert(from);
        }
        self.take_local_replies(to);
        self.wake(to);
        Ok(())
    }

    /// Whether two processes deal with each other. Before the first frame between them each judges the other's card, as
    /// transports have it; a process that is gone can show none.
    fn have_met(&mut self, from: usize, to: usize) -> Result<bool, String> {
        let (here, there) = (&self.nodes[to], &self.nodes[from]);
        let lives = (here.life, there.life);
        match here.met.get(&(from, lives.1)) {
            Some(Met::Accepted) => return Ok(true),
            Some(&Met::Refused { again_ns }) if self.now_ns < again_ns => return Ok(false),
            _ => {}
        }
        let (Some(one), Some(other)) = (&here.process, &there.process) else {
            return Ok(false);
        };
        // Of one with a wrong directory it matters what its peer says.
        let met = if here.is_misplaced() {
            other.meet(one)
        } else {
            one.meet(other)
        };
        let is_met = met.is_ok();
        // Who is refused tries again, as transports do: a disk that was full may have had no room for the book.
        let outcome = match &met {
            Ok(()) => Met::Accepted,
            Err(_) => Met::Refused {
                again_ns: self.now_ns + MEETS_AGAIN_NS,
            },
        };
        self.nodes[to].met.insert((from, lives.1), outcome);
        self.nodes[from].met.insert((to, lives.0), outcome);
        if let Err(why) = &met {
            self.note(Who::Node(to), "refuses", from as u64, || {
                format!("n{}, or is refused by it: {why}", from + 1)
            });
        }
        self.judge(Step::Met {
            node: to,
            other: from,
            refusal: met.as_ref().err(),
        })?;
        Ok(is_met)
    }

    /// Whether all processes deal with each other, none of them is about to be replaced, and nothing holds up what they send.
    pub fn is_connected(&self) -> bool {
        let mut processes = self.nodes.iter().filter_map(|slot| slot.process.as_ref());
        if processes.any(|it| matches!(it.log().status(), LogStatus::Failed { .. })) {
            return false;
        }
        let pairs = self.nodes.iter().enumerate();
        let have_met = pairs.clone().all(|(place, _)| {
            pairs
                .clone()
                .filter(|(other, _)| *other != place)
                .all(|(other, there)| {
                    let met = self.nodes[place].met.get(&(other, there.life));
                    met.is_some_and(|met| matches!(met, Met::Accepted))
                })
        });
        have_met && self.network.is_clear(self.now_ns)
    }

    pub(super) fn pass(&mut self, node: usize, worker: usize) -> Result<(), String> {
        let event = |node| Event::Pass(node, worker);
        if !self.is_due(node, event, |timers| &mut timers.pass_at_ns[worker]) {
            return Ok(());
        }
        let now_ns = self.now_ns;
        let slot = &mut self.nodes[node];
        let shown_ns = slot.clock.at(now_ns);
        if let Some(process) = &mut slot.process {
            process.pass_worker(worker, shown_ns);
        }
        self.counts.passes += 1;
        let slot = &mut self.nodes[node];
        for from in std::mem::take(&mut slot.unheard[worker]) {
            self.judge(Step::Hears { node, from })?;
        }
        self.after_step_of(node, "pass", Some(worker))
    }

    pub(super) fn log_step(&mut self, node: usize) -> Result<(), String> {
        if !self.is_due(node, Event::Log, |timers| &mut timers.log_at_ns)
            || self.end_in_step(node)?
        {
            return Ok(());
        }
        // A failure shows in the status of the log, and to the shard.
        let _failed = self.process(node).map(SimNode::log_step);
        self.after_step(node, "log")
    }

    pub(super) fn prepare_step(&mut self, node: usize) -> Result<(), String> {
        if !self.is_due(node, Event::Prepare, |timers| &mut timers.prepare_at_ns)
            || self.end_in_step(node)?
        {
            return Ok(());
        }
        let _failed = self.process(node).map(SimNode::prepare_step);
        self.after_step(node, "prepare")
    }

    pub(super) fn cover_step(&mut self, node: usize) -> Result<(), String> {
        if !self.is_due(node, Event::Cover, |timers| &mut timers.cover_at_ns) {
            return Ok(());
        }
        if self
            .process(node)
            .is_some_and(|process| process.due().cover)
        {
            let _failed = self.process(node).map(SimNode::cover_step);
        }
        self.after_step(node, "cover")
    }

    pub(super) fn job_step(&mut self, node: usize) -> Result<(), String> {
        if !self.is_due(node, Event::Job, |timers| &mut timers.job_at_ns) {
            return Ok(());
        }
        let _none = self.process(node).map(SimNode::job_step);
        self.after_step(node, "job")
    }

    /// Has those workers of a node that have something to do look at their queues soon.
    pub(super) fn wake(&mut self, node: usize) {
        let Some(workers) = self.process(node).map(SimNode::workers) else {
            return;
        };
        for worker in 0..workers {
            let has_work = |process: &SimNode<W::Machine>| process.work_of(worker).0;
            if workers == 1 || self.process(node).is_some_and(has_work) {
                self.wake_worker(node, worker);
            }
        }
    }

    /// Has one worker look at its queue soon; later while faults strike, if the workers of this run are slow.
    fn wake_worker(&mut self, node: usize, worker: usize) {
        let is_slow = self.has_trouble && self.config.wake_ns > WAKE_NS;
        let wait_ns = if is_slow {
            self.worker_rng.wait(self.config.wake_ns)
        } else {
            self.schedule_rng.wait(WAKE_NS)
        };
        self.pass_by(node, worker, self.now_ns + 1 + wait_ns);
    }

    /// Whether a step that was scheduled is the one to take now: of this life of the node, and not while it stands still.
    fn is_due(
        &mut self,
        node: usize,
        event: impl Fn(usize) -> Event,
        timer: impl Fn(&mut crate::node::Timers) -> &mut Option<u64>,
    ) -> bool {
        let now_ns = self.now_ns;
        let slot = &mut self.nodes[node];
        let at_ns = timer(&mut slot.timers);
        if *at_ns != Some(now_ns) {
            return false;
        }
        if slot.paused_until_ns > now_ns {
            let until_ns = slot.paused_until_ns;
            *at_ns = Some(until_ns);
            self.schedule(until_ns, event(node));
            return false;
        }
        *at_ns = None;
        slot.process.is_some()
    }

    fn process(&self, node: usize) -> Option<&SimNode<W::Machine>> {
        self.nodes[node].process.as_ref()
    }

    fn pass_by(&mut self, node: usize, worker: usize, at_ns: u64) {
        let timer = &mut self.nodes[node].timers.pass_at_ns[worker];
        if timer.is_none_or(|scheduled| at_ns < scheduled) {
            *timer = Some(at_ns);
            self.schedule(at_ns, Event::Pass(node, worker));
        }
    }

    /// After a step of a node: sends what it sent, schedules what it needs, and has it judged.
    pub(super) fn after_step(&mut self, node: usize, what: &'static str) -> Result<(), String> {
        self.after_step_of(node, what, None)
    }

    /// The same of a pass of one worker.
    fn after_step_of(
        &mut self,
        node: usize,
        what: &'static str,
        worker: Option<usize>,
    ) -> Result<(), String> {
        let slot = &mut self.nodes[node];
        let process = slot.process.as_mut();
        slot.deeds = process.map(SimNode::take_deeds).unwrap_or_default();
        if let Some(op) = slot.disk.trampled() {
            return Err(format!(
                "node {} writes over bytes that somebody holds: {op:?}",
                node + 1
            ));
        }
        // What it did is known before what it says is judged.
        self.judge(Step::Moved { node, worker })?;
        self.count_proposed(node);
        self.send_all(node, what)?;
        self.take_local_answers(node)?;
        self.note_offices(node);
        self.schedule_steps(node);
        Ok(())
    }

    /// Tells the story of who leads, and who stands aside.
    fn note_offices(&mut self, node: usize) {
        let (Some(story), Some(process)) = (&mut self.story, &self.nodes[node].process) else {
            return;
        };
        for group in (0..u64::from(self.config.groups)).map(GroupId) {
            let (role, term) = process.role(group);
            let leads = (role == Role::Leader).then_some(term);
            story.leads(self.now_ns, node, group, leads);
            story.stands_aside(self.now_ns, node, group, process.stand(group).is_aside);
        }
    }

    /// Brings what a node sent on its way. If it stands still in the middle of it, the rest leaves when it goes on.
    pub(super) fn send_all(&mut self, node: usize, what: &'static str) -> Result<(), String> {
        let sent = self.nodes[node].take_sent();
        self.note(Who::Node(node), what, sent.len() as u64, || describe(&sent));
        let pause_ns = self.pause(node);
        let before_pause = match pause_ns {
            0 => sent.len(),
            _ => self.schedule_rng.index(sent.len() + 1),
        };
        for (number, sent) in sent.into_iter().enumerate() {
            self.judge(Step::Sends { node, sent: &sent })?;
            let delay_ns = if number < before_pause { 0 } else { pause_ns };
            self.send_one(node, self.now_ns + delay_ns, sent);
        }
        Ok(())
    }

    fn send_one(&mut self, node: usize, at_ns: u64, sent: Sent) {
        match sent {
            Sent::Frame(to, frame) => {
                let to = to.0 as usize - 1;
                let (from_end, to_end) = (Endpoint::Node(node), Endpoint::Node(to));
                let life = self.nodes[node].life;
                self.counts.sent(&frame);
                let route = self.network.send(at_ns, from_end, to_end, frame);
                for (at_ns, packet) in route.arrivals {
                    self.counts.packed(&packet);
                    let event = Event::Arrive {
                        from: node,
                        life,
                        to,
                        packet,
                    };
                    self.schedule(at_ns, event);
                }
            }
            Sent::Reply(clerk, reply) => {
                let (node_end, clerk_end) = link_to_clerk(node, clerk);
                let route = self
                    .network
                    .send(at_ns, node_end, clerk_end, Frame::Reply(reply));
                for (at_ns, packet) in route.arrivals {
                    let event = match self.network.open(packet) {
                        Some(Frame::Reply(reply)) => Event::Answer {
                            clerk,
                            from: node,
                            reply,
                        },
                        _ => Event::Disconnect { clerk, from: node },
                    };
                    self.schedule(at_ns, event);
                }
            }
        }
    }

    pub(super) fn schedule_steps(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else {
            return;
        };
        let works = (0..process.workers()).map(|worker| process.work_of(worker));
        let works: Vec<(bool, u64)> = works.collect();
        let (due, jobs) = (process.due(), process.jobs());
        let status = process.log().status();
        let id = self.nodes[node].id;
        let marks = self.observer.marks_mut();
        marks.note_full(id, status == LogStatus::Full);
        for (worker, (has_work, deadline_ns)) in works.into_iter().enumerate() {
            if has_work {
                self.wake_worker(node, worker);
                continue;
            }
            let slot = &self.nodes[node];
            let at_ns = slot.clock.when(deadline_ns, self.now_ns + 1);
            if at_ns < u64::MAX {
                self.pass_by(node, worker, at_ns);
            }
        }
        let now_ns = self.now_ns;
        if due.drive && self.nodes[node].timers.log_at_ns.is_none() {
            let at_ns = self.sync_end_ns(node, 1);
            self.nodes[node].timers.log_at_ns = Some(at_ns);
            self.schedule(at_ns, Event::Log(node));
        }
        if due.prepare && self.nodes[node].timers.prepare_at_ns.is_none() {
            let at_ns = if status.is_short() {
                now_ns + FULL_NS
            } else {
                self.sync_end_ns(node, 2)
            };
            self.nodes[node].timers.prepare_at_ns = Some(at_ns);
            self.schedule(at_ns, Event::Prepare(node));
        }
        if due.cover && self.nodes[node].timers.cover_at_ns.is_none() {
            self.nodes[node].timers.cover_at_ns = Some(now_ns + COVER_NS);
            self.schedule(now_ns + COVER_NS, Event::Cover(node));
        }
        if jobs > 0 && self.nodes[node].timers.job_at_ns.is_none() {
            let at_ns = self.sync_end_ns(node, 2);
            self.nodes[node].timers.job_at_ns = Some(at_ns);
            self.schedule(at_ns, Event::Job(node));
        }
        if matches!(status, LogStatus::Failed { .. }) {
            self.schedule_replacement(node);
        }
    }

    /// When something that takes so many syncs is done.
    fn sync_end_ns(&mut self, node: usize, syncs: u64) -> u64 {
        let wait_ns = self.disk_rng.wait(self.config.sync_ns);
        let state = self.nodes[node].disk_state;
        let took_ns = 1_000 + wait_ns * syncs * (1 + state.slowness) + state.sync_min_ns;
        (self.now_ns + took_ns).max(state.stuck_until_ns)
    }

    /// A node whose log failed takes no part any more: its operator starts it again.
    fn schedule_replacement(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        if !slot.is_replacing {
            slot.is_replacing = true;
            let life = slot.life;
            self.schedule(self.now_ns + FAILED_NS, Event::Replace(node, life));
        }
    }

    /// A node that stood still goes on at once: steps that were put off are taken now.
    pub(super) fn wake_all_steps(&mut self, node: usize) {
        self.nodes[node].timers = crate::node::Timers::default();
        self.schedule_steps(node);
        self.wake(node);
    }
}

fn describe(sent: &[Sent]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for sent in sent {
        let _infallible = match sent {
            Sent::Frame(to, Frame::Raft(messages)) => {
                let names: Vec<String> = messages
                    .iter()
                    .map(|it| {
                        format!(
                            "g{}:{}",
                            it.group.0,
                            crate::trace::name_of(&it.message.body)
                        )
                    })
                    .collect();
                write!(text, "->{to} {} ", names.join(","))
            }
            Sent::Frame(to, Frame::SnapshotChunk(chunk)) => {
                write!(text, "->{to} chunk@{} ", chunk.offset_bytes)
            }
            Sent::Frame(to, Frame::SnapshotAck(ack)) => write!(text, "->{to} {:?} ", ack.status),
            Sent::Frame(to, _) => write!(text, "->{to} request "),
            Sent::Reply(clerk, reply) => match &reply.result {
                Ok(_) => write!(text, "->c{clerk} ok "),
                Err(refusal) => write!(text, "->c{clerk} {refusal:?} "),
            },
        };
    }
    text
}
