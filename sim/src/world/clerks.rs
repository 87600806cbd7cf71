//! Clerks: each makes one call after the other, and a few at once now and then.

use std::collections::BTreeMap;

use quorate::simulation::{CallId, ClientSend, SimClient};
use quorate::transport::{Frame, Reply, Request};
use quorate::{Bytes, Error, GroupId, NodeId};

use super::{CALLS_MAX, Event, World, link_to_clerk};
use crate::config::Config;
use crate::judge::Step;
use crate::seed::Rng;
use crate::trace::Who;
use crate::workload::{Call, CallKind, Ticket, Workload};

/// How often a clerk with calls outstanding looks after its deadlines.
pub(super) const TICK_NS: u64 = 10_000_000;

/// Calls that a clerk makes at once at most.
const BURST_MAX: u64 = 4;

/// How often a clerk thinks longer than usual, and how much: it comes back to a leader that may be one no more.
pub(super) const LONG_THOUGHT_PERMILLE: u32 = 100;
pub(super) const LONG_THOUGHT_TIMES: u64 = 10;

pub(super) struct Clerk {
    client: SimClient,
    rng: Rng,
    /// Each with the group of a write.
    tickets: BTreeMap<CallId, (Ticket, Option<GroupId>)>,
    is_ticking: bool,
    /// Whether its next call is scheduled: never more than one is.
    is_thinking: bool,
    /// Calls made, those at the end of a run aside.
    calls: u64,
    /// Whether it makes another call when it has its answers.
    goes_on: bool,
    /// Calls that succeeded.
    successes: u64,
}

impl Clerk {
    pub(super) fn new(config: &Config, mut rng: Rng) -> Self {
        let mut nodes: Vec<NodeId> = (1..=config.nodes as u64).map(NodeId).collect();
        let first = rng.index(nodes.len());
        nodes.rotate_left(first);
        Self {
            client: SimClient::new(&nodes, config.groups, &config.options),
            rng,
            tickets: BTreeMap::new(),
            is_ticking: false,
            is_thinking: false,
            calls: 0,
            goes_on: false,
            successes: 0,
        }
    }
}

impl<W: Workload> World<W> {
    /// Has all clerks make calls, one after the other.
    pub fn start_clerks(&mut self) {
        self.start_locals();
        for clerk in 0..self.clerks.len() {
            let state = &mut self.clerks[clerk];
            let is_new = !std::mem::replace(&mut state.goes_on, true);
            // One that still waits for answers thinks when it has them.
            if is_new && state.client.outstanding() == 0 {
                self.think(clerk);
            }
        }
    }

    /// Lets clerks finish what they have called, and call nothing more.
    pub fn stop_clerks(&mut self) {
        self.locals_go_on = false;
        for clerk in &mut self.clerks {
            clerk.goes_on = false;
        }
    }

    /// Calls without an answer.
    pub fn outstanding(&self) -> usize {
        let clerks = self.clerks.iter().map(|clerk| clerk.client.outstanding());
        clerks.sum::<usize>() + self.local_outstanding()
    }

    /// How many calls of each clerk succeeded.
    pub fn successes(&self) -> Vec<u64> {
        self.clerks.iter().map(|clerk| clerk.successes).collect()
    }

    /// Whether a clerk may call nothing more, however long the run lasts, and is answered: its calls are bounded, or it was
    /// taken away.
    pub fn is_spent(&self, clerk: usize) -> bool {
        !self.may_call(clerk) && self.clerks[clerk].client.outstanding() == 0
    }

    /// The most calls that any clerk has made, those at the end of a run aside.
    pub fn calls_max(&self) -> u64 {
        let calls = self.clerks.iter().map(|clerk| clerk.calls);
        calls.max().unwrap_or(0)
    }

    fn may_call(&self, clerk: usize) -> bool {
        let reduction = &self.config.reduction;
        reduction.may_call(clerk, self.clerks[clerk].calls)
    }

    /// Has a clerk look at everything once more.
    pub fn last_calls(&mut self, clerk: usize) -> Result<(), String> {
        for (ticket, call) in self.workload.last_calls(clerk, self.now_ns) {
            self.issue(clerk, ticket, call);
        }
        self.after_clerk(clerk)
    }

    pub(super) fn clerk_call(&mut self, clerk: usize) -> Result<(), String> {
        self.clerks[clerk].is_thinking = false;
        if !self.clerks[clerk].goes_on {
            return Ok(());
        }
        let rng = &mut self.clerks[clerk].rng;
        let count = if rng.permille(200) {
            rng.between(2, BURST_MAX)
        } else {
            1
        };
        if self.workload.calls() > CALLS_MAX {
            return Err(format!("more was called than may be: {CALLS_MAX} calls"));
        }
        for _ in 0..count {
            if !self.may_call(clerk) {
                break;
            }
            self.clerks[clerk].calls += 1;
            let rng = &mut self.clerks[clerk].rng;
            let (ticket, call) = self.workload.call(clerk, rng, self.now_ns);
            self.issue(clerk, ticket, call);
        }
        self.after_clerk(clerk)
    }

    pub(super) fn issue(&mut self, clerk: usize, ticket: Ticket, call: Call) {
        let now_ns = self.now_ns;
        self.note(Who::Clerk(clerk), "call", ticket.0, || {
            let what = match &call.kind {
                CallKind::Write(_) => "write",
                CallKind::Query(..) => "query",
            };
            format!("#{} {what} {:?}", ticket.0, call.key)
        });
        if let Some(story) = &mut self.story {
            story.called(now_ns, clerk, ticket, self.workload.describe(ticket, &call));
        }
        let Clerk {
            client, tickets, ..
        } = &mut self.clerks[clerk];
        let group = client.group_of(&call.key);
        let (id, written) = match call.kind {
            CallKind::Write(command) => (client.write(now_ns, group, command), Some(group)),
            CallKind::Query(consistency, query) => {
                let id = client.query(now_ns, group, consistency, query);
                (id, None)
            }
        };
        tickets.insert(id, (ticket, written));
        if let (Some(progress), Some(group)) = (&mut self.progress, written) {
            progress.called(now_ns, group);
        }
    }

    pub(super) fn clerk_tick(&mut self, clerk: usize) -> Result<(), String> {
        let is_busy = self.clerks[clerk].client.tick(self.now_ns);
        self.clerks[clerk].is_ticking = is_busy;
        if is_busy {
            self.schedule(self.now_ns + TICK_NS, Event::ClerkTick(clerk));
        }
        self.after_clerk(clerk)
    }

    pub(super) fn answer(&mut self, clerk: usize, from: usize, reply: Reply) -> Result<(), String> {
        let id = self.nodes[from].id;
        self.clerks[clerk].client.reply(self.now_ns, id, reply);
        self.after_clerk(clerk)
    }

    pub(super) fn disconnect(&mut self, clerk: usize, from: usize) -> Result<(), String> {
        let id = self.nodes[from].id;
        self.clerks[clerk].client.disconnected(self.now_ns, id);
        self.after_clerk(clerk)
    }

    /// A request arrives at a node. One that is dead loses it.
    pub(super) fn ask(&mut self, clerk: usize, to: usize, request: Request) {
        if self.nodes[to].ask(clerk, request) {
            self.wake(to);
        }
    }

    /// Tells all clerks that a node is gone.
    pub(super) fn hang_up(&mut self, node: usize) {
        for clerk in 0..self.clerks.len() {
            let delay_ns = self.schedule_rng.wait(1_000_000);
            let event = Event::Disconnect { clerk, from: node };
            self.schedule(self.now_ns + delay_ns, event);
        }
        self.hang_up_locals(node);
    }

    /// Brings what a clerk sends on its way, and takes what it was answered.
    pub(super) fn after_clerk(&mut self, clerk: usize) -> Result<(), String> {
        for send in self.clerks[clerk].client.take_sends() {
            let ClientSend::Request(to, request) = send else {
                unreachable!("a clerk is part of no node");
            };
            let node = to.0 as usize - 1;
            self.judge(Step::Asks {
                clerk,
                request: &request,
            })?;
            let (node_end, clerk_end) = link_to_clerk(node, clerk);
            let frame = Frame::Request(request);
            let route = self.network.send(self.now_ns, clerk_end, node_end, frame);
            for (at_ns, packet) in route.arrivals {
                if let Some(Frame::Request(request)) = self.network.open(packet) {
                    let event = Event::Ask {
                        clerk,
                        to: node,
                        request,
                    };
                    self.schedule(at_ns, event);
                } else {
                    // A connection that broke is noticed.
                    self.schedule(at_ns, Event::Disconnect { clerk, from: node });
                }
            }
        }
        for (id, answer) in self.clerks[clerk].client.take_answers() {
            self.take_answer(clerk, id, answer)?;
        }
        let state = &mut self.clerks[clerk];
        let is_busy = state.client.outstanding() > 0;
        if is_busy && !state.is_ticking {
            state.is_ticking = true;
            self.schedule(self.now_ns + TICK_NS, Event::ClerkTick(clerk));
        }
        Ok(())
    }

    fn take_answer(
        &mut self,
        clerk: usize,
        id: CallId,
        answer: Result<Bytes, Error>,
    ) -> Result<(), String> {
        let state = &mut self.clerks[clerk];
        let Some((ticket, written)) = state.tickets.remove(&id) else {
            return Err(format!("clerk {clerk}: a call was answered twice"));
        };
        if let (Some(progress), Some(group), Ok(_)) = (&mut self.progress, written, &answer) {
            progress.succeeded(group);
        }
        state.successes += u64::from(answer.is_ok());
        let is_last = state.client.outstanding() == 0 && state.goes_on;
        let number = ticket.0 << 1 | u64::from(answer.is_ok());
        self.note(Who::Clerk(clerk), "answer", number, || match &answer {
            Ok(answer) => format!("#{} {answer:?}", ticket.0),
            Err(error) => format!("#{} {error}", ticket.0),
        });
        if let Some(story) = &mut self.story {
            story.answered(self.now_ns, ticket, &answer);
        }
        let judged = self.workload.answered(ticket, answer, self.now_ns);
        if let Some(story) = self.story.as_mut().filter(|_| judged.is_err()) {
            story.suspects.push(ticket);
        }
        judged?;
        if is_last {
            self.think(clerk);
        }
        Ok(())
    }

    /// Schedules the next call of a clerk, unless it is.
    fn think(&mut self, clerk: usize) {
        if std::mem::replace(&mut self.clerks[clerk].is_thinking, true) {
            return;
        }
        let rng = &mut self.clerks[clerk].rng;
        let times = if rng.permille(LONG_THOUGHT_PERMILLE) {
            LONG_THOUGHT_TIMES
        } else {
            1
        };
        let wait_ns = rng.wait(self.config.think_ns * times);
        self.schedule(self.now_ns + wait_ns, Event::ClerkCall(clerk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::KvWorkload;

    #[test]
    fn a_clerk_thinks_of_one_call_at_a_time_however_often_it_is_stopped_and_started() {
        let mut world = World::<KvWorkload>::new(1, Config::plain(1), false);
        world.start_nodes().expect("fresh disks");
        let count = world.clerks.len();
        for _ in 0..50 {
            world.start_clerks();
            for _ in 0..200 {
                assert!(world.step(u64::MAX).expect("nothing is wrong"));
                let thoughts = world.events.iter().flatten();
                let thoughts = thoughts.filter(|it| matches!(it, Event::ClerkCall(_)));
                assert!(thoughts.count() <= count);
            }
            world.stop_clerks();
            // Its thought, or what it waits for, outlives the stop.
            world.step(u64::MAX).expect("nothing is wrong");
        }
        assert!(world.successes().iter().all(|&calls| calls > 0));
    }
}
