//! Clients that are part of a node, as those of a [`quorate::Db`] are: they come and go with its process.
//!
//! A linearizable read asks the leader for an index, waits until the replica of its own node has applied it, and is answered
//! from what that replica shows; if that replica cannot serve it, the leader answers. A read under a lease looks at
//! what the replica shows and at its lease, one load after the other, on a thread that may sleep between any two of them;
//! without a lease it goes the longer way. A stale read looks at what is shown. Writes go to whoever leads.
//!
//! Ids of requests are stamped, so that no two clients of a run use the same one at the same node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

use quorate::simulation::{CallId, ClientSend, SimClient, SimReader, StateMachine};
use quorate::transport::{Reply, Request, RequestId};
use quorate::{Bytes, Consistency, Error, GroupId, LogIndex, NodeId};

use super::clerks::{LONG_THOUGHT_PERMILLE, LONG_THOUGHT_TIMES, TICK_NS};
use super::{CALLS_MAX, Event, World};
use crate::judge::Step;
use crate::marks::Mark;
use crate::node::{FromHome, Sent};
use crate::seed::Rng;
use crate::trace::Who;
use crate::workload::{Call, CallKind, Ticket, Workload};

/// How long a thread takes to go on, on average.
const THREAD_NS: u64 = 10_000;

/// How often a thread sleeps between two of its loads, and how long it does on average: longer than a leadership lasts, too.
const SLEEP_PERMILLE: u32 = 300;
const SLEEP_MEANS_NS: [u64; 3] = [100_000_000, 1_000_000_000, 3_000_000_000];

/// A thread that was put to sleep is back by then: a client that waits for it makes no progress meanwhile.
const SLEEP_NS_MAX: u64 = 2_000_000_000;

/// How often it is looked whether a process that stands still goes on.
pub(super) const PAUSED_NS: u64 = 50_000_000;

/// How often a client looks at what its replica shows, beside its calls.
const STALE_PERMILLE: u32 = 200;

/// Bits of a request id above which a client in a node writes which node that is. An answer to an earlier life of it arrives.
const STAMP_BITS: u32 = 48;

/// The bit of an id under which a client waits for its own replica.
const WAIT: u64 = 1 << 63;

/// The client of a node, in one life of it.
pub(super) struct Local {
    client: SimClient,
    rng: Rng,
    /// How the history knows it: each life is another client.
    caller: usize,
    stamp: u64,
    /// Calls that the client half has.
    calls: BTreeMap<CallId, Outstanding>,
    /// Reads under a lease between two loads.
    leased: BTreeMap<Ticket, Leased<Box<dyn Loads>>>,
    /// Local reads that may be answered, by ticket.
    ready: BTreeMap<Ticket, Reading>,
    is_ticking: bool,
    is_thinking: bool,
    made: u64,
    /// Where the newest view stood that was seen of each group.
    seen: BTreeMap<GroupId, LogIndex>,
}

/// A call whose answer comes from the client half.
enum Outstanding {
    /// The machine's answer to a command.
    Write(Ticket),
    /// That the replica here may answer.
    Read(Ticket, Reading),
}

/// A read of the replica here.
struct Reading {
    number: u64,
    group: GroupId,
    query: Bytes,
}

/// A read under a lease between two loads.
struct Leased<L> {
    reading: Reading,
    loads: L,
}

/// The loads of a read under a lease, whatever the machine: ready when they are over, with the answer and its index.
trait Loads {
    fn step(&mut self, shown_ns: u64, query: &Bytes) -> Poll<Option<(LogIndex, Bytes)>>;
}

struct LoadsOf<M: StateMachine>(SimReader<M::View>);

impl<M: StateMachine> Loads for LoadsOf<M> {
    fn step(&mut self, shown_ns: u64, query: &Bytes) -> Poll<Option<(LogIndex, Bytes)>> {
        match self.0.step(|| shown_ns) {
            None => Poll::Pending,
            Some(over) => Poll::Ready(over.map(|(index, view)| (index, M::query(&view, query)))),
        }
    }
}

/// What happens about a client in a node.
pub(super) enum LocalStep {
    /// It has thought and makes a call.
    Call,
    /// It looks after its deadlines.
    Tick,
    /// A reply arrives at it.
    Reply(NodeId, Reply),
    /// It hears that a node is gone.
    Disconnect(NodeId),
    /// The next load of a read under a lease.
    Load(Ticket),
    /// A read of its own replica is answered.
    Look(Ticket),
}

impl<W: Workload> World<W> {
    /// Makes the client of a node that was opened, if it has one.
    pub(super) fn open_local(&mut self, node: usize) {
        let config = &self.config;
        if node >= config.locals {
            return;
        }
        let options = &self.nodes[node].options;
        let life = self.nodes[node].life;
        // Its own node first: it knows who leads.
        let own = NodeId(node as u64 + 1);
        let others = (1..=config.nodes as u64)
            .map(NodeId)
            .filter(|&it| it != own);
        let nodes: Vec<NodeId> = std::iter::once(own).chain(others).collect();
        let lives = config.nodes * life as usize;
        self.locals[node] = Some(Local {
            client: SimClient::new(&nodes, config.groups, options)
                .numbered_from(self.local_rng.draw())
                .beside(own),
            rng: self.local_rng.fork(),
            caller: config.clerks + node + lives,
            stamp: own.0 << STAMP_BITS,
            calls: BTreeMap::new(),
            leased: BTreeMap::new(),
            ready: BTreeMap::new(),
            is_ticking: false,
            is_thinking: false,
            made: 0,
            seen: BTreeMap::new(),
        });
        if self.locals_go_on {
            self.local_thinks(node);
        }
    }

    pub(super) fn start_locals(&mut self) {
        if !std::mem::replace(&mut self.locals_go_on, true) {
            for node in 0..self.nodes.len() {
                if self.locals[node].as_ref().is_some_and(Local::is_idle) {
                    self.local_thinks(node);
                }
            }
        }
    }

    pub(super) fn local_outstanding(&self) -> usize {
        self.locals.iter().flatten().map(Local::outstanding).sum()
    }

    /// How many calls of the client of each node succeeded.
    pub fn local_successes(&self) -> Vec<u64> {
        self.local_successes.clone()
    }

    /// Whether the client of each node that runs got something done since then, or may call nothing.
    pub fn locals_progress(&self, before: &[u64]) -> bool {
        let locals = self.locals.iter().zip(&self.local_successes).zip(before);
        let mut clients = locals.enumerate();
        clients.all(|(node, ((local, now), before))| {
            let may_call = |local: &Local| self.local_may_call(node, local);
            now > before || !local.as_ref().is_some_and(may_call)
        })
    }

    /// Has the first client in a node look at everything once more.
    pub fn last_local_calls(&mut self) -> Result<(), String> {
        let Some(node) = self.locals.iter().position(Option::is_some) else {
            return Ok(());
        };
        let Some(caller) = self.locals[node].as_ref().map(|it| it.caller) else {
            return Ok(());
        };
        for (ticket, call) in self.workload.last_calls(caller, self.now_ns) {
            self.local_issue(node, ticket, call);
        }
        self.after_local(node)
    }

    /// Tells some of the clients in other nodes that a node is gone.
    pub(super) fn hang_up_locals(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            if other == node || self.locals[other].is_none() || self.local_rng.permille(500) {
                continue;
            }
            let delay_ns = self.local_rng.wait(1_000_000);
            let step = LocalStep::Disconnect(self.nodes[node].id);
            self.schedule_local(other, delay_ns, step);
        }
    }

    /// What the own replica of a client answered in the step that was taken, before anybody sees it.
    pub(super) fn take_local_answers(&mut self, node: usize) -> Result<(), String> {
        let own = self.nodes[node].id;
        for (from, reply) in self.nodes[node].desk.take() {
            if from == own && reply.id.0 & WAIT == 0 {
                let sent = Sent::Reply(self.config.clerks + node, reply.clone());
                self.judge(Step::Sends { node, sent: &sent })?;
            }
            self.local_reply_comes(node, from, reply);
        }
        Ok(())
    }

    /// What came over the network for the client of a node.
    pub(super) fn take_local_replies(&mut self, node: usize) {
        for (from, reply) in self.nodes[node].desk.take() {
            self.local_reply_comes(node, from, reply);
        }
    }

    fn local_reply_comes(&mut self, node: usize, from: NodeId, mut reply: Reply) {
        let Some(local) = &self.locals[node] else {
            return;
        };
        debug_assert_eq!(
            (reply.id.0 & !WAIT) >> STAMP_BITS,
            local.stamp >> STAMP_BITS
        );
        reply.id = RequestId(reply.id.0 & ((1 << STAMP_BITS) - 1));
        let delay_ns = self.local_rng.wait(THREAD_NS);
        self.schedule_local(node, delay_ns, LocalStep::Reply(from, reply));
    }

    pub(super) fn local_step(
        &mut self,
        node: usize,
        life: u32,
        step: LocalStep,
    ) -> Result<(), String> {
        let slot = &self.nodes[node];
        if slot.life != life || slot.process.is_none() {
            return Ok(());
        }
        if slot.paused_until_ns > self.now_ns {
            // It may be woken earlier than it was to be.
            let at_ns = slot.paused_until_ns.min(self.now_ns + PAUSED_NS);
            self.schedule(at_ns, Event::Local(node, life, step));
            return Ok(());
        }
        let shown_ns = slot.clock.at(self.now_ns);
        let Some(local) = &mut self.locals[node] else {
            return Ok(());
        };
        match step {
            LocalStep::Call => return self.local_calls(node),
            LocalStep::Load(ticket) => return self.local_load(node, ticket, shown_ns),
            LocalStep::Look(ticket) => return self.local_look(node, ticket),
            LocalStep::Reply(from, reply) => local.client.reply(shown_ns, from, reply),
            LocalStep::Disconnect(gone) => local.client.disconnected(shown_ns, gone),
            LocalStep::Tick => {
                local.is_ticking = local.client.tick(shown_ns);
                if local.is_ticking {
                    self.schedule_local(node, TICK_NS, LocalStep::Tick);
                }
            }
        }
        self.after_local(node)
    }

    fn local_may_call(&self, node: usize, local: &Local) -> bool {
        let reduction = &self.config.reduction;
        reduction.may_call(self.config.clerks + node, local.made)
    }

    fn local_calls(&mut self, node: usize) -> Result<(), String> {
        let Some(local) = &mut self.locals[node] else {
            return Ok(());
        };
        local.is_thinking = false;
        if !self.locals_go_on {
            return Ok(());
        }
        if self.workload.calls() > CALLS_MAX {
            return Err(format!("more was called than may be: {CALLS_MAX} calls"));
        }
        let count = if local.rng.permille(200) { 4 } else { 1 };
        if local.rng.permille(STALE_PERMILLE) {
            self.local_looks_at_once(node)?;
        }
        for _ in 0..count {
            let Some(local) = &mut self.locals[node] else {
                break;
            };
            let may_call = self
                .config
                .reduction
                .may_call(self.config.clerks + node, local.made);
            if !may_call {
                break;
            }
            local.made += 1;
            let (ticket, call) = self
                .workload
                .call(local.caller, &mut local.rng, self.now_ns);
            self.local_issue(node, ticket, call);
        }
        self.after_local(node)
    }

    /// A stale read: what the replica shows never goes back.
    fn local_looks_at_once(&mut self, node: usize) -> Result<(), String> {
        let (Some(process), Some(local)) = (&self.nodes[node].process, &mut self.locals[node])
        else {
            return Ok(());
        };
        for group in process.groups() {
            let (index, _) = process.state_at(group);
            let before = local.seen.insert(group, index).unwrap_or_default();
            if index < before {
                return Err(format!(
                    "invariant 13, what a node shows never goes back: n{} shows group {} at {index} and showed it at {before}",
                    node + 1,
                    group.0
                ));
            }
        }
        Ok(())
    }

    fn local_issue(&mut self, node: usize, ticket: Ticket, call: Call) {
        let now_ns = self.now_ns;
        let Some(caller) = self.locals[node].as_ref().map(|it| it.caller) else {
            return;
        };
        self.note(Who::Clerk(caller), "call", ticket.0, || {
            let what = match &call.kind {
                CallKind::Write(_) => "write",
                CallKind::Query(Consistency::Lease, _) => "leased read here",
                CallKind::Query(..) => "read here",
            };
            format!("#{} {what} {:?}, at n{}", ticket.0, call.key, node + 1)
        });
        if let Some(story) = &mut self.story {
            let what = self.workload.describe(ticket, &call);
            story.called(now_ns, caller, ticket, format!("{what}, at n{}", node + 1));
        }
        let slot = &self.nodes[node];
        let shown_ns = slot.clock.at(now_ns);
        let (Some(local), Some(process)) = (&mut self.locals[node], &slot.process) else {
            return;
        };
        let group = local.client.group_of(&call.key);
        let (consistency, query) = match call.kind {
            CallKind::Write(command) => {
                let id = local.client.write(shown_ns, group, command);
                local.calls.insert(id, Outstanding::Write(ticket));
                return;
            }
            CallKind::Query(consistency, query) => (consistency, query),
        };
        self.local_reads += 1;
        let number = self.local_reads;
        let reading = Reading {
            number,
            group,
            query,
        };
        let reader = process.reader(group);
        // Cannot fail: it begins.
        let _begun = self.judge(Step::ReadsLocally {
            read: (caller, number),
            group,
            seen: None,
        });
        let Some(local) = &mut self.locals[node] else {
            return;
        };
        if consistency == Consistency::Lease {
            let loads: Box<dyn Loads> = Box::new(LoadsOf::<W::Machine>(reader));
            local.leased.insert(ticket, Leased { reading, loads });
            self.schedule_load(node, ticket);
        } else {
            local.read(shown_ns, ticket, reading);
        }
    }

    fn schedule_load(&mut self, node: usize, ticket: Ticket) {
        let sleeps = self.has_trouble && self.local_rng.permille(SLEEP_PERMILLE);
        let mean_ns = if sleeps {
            self.local_rng.pick(&SLEEP_MEANS_NS)
        } else {
            THREAD_NS
        };
        let delay_ns = self.local_rng.wait(mean_ns).min(SLEEP_NS_MAX);
        self.schedule_local(node, delay_ns, LocalStep::Load(ticket));
    }

    fn local_load(&mut self, node: usize, ticket: Ticket, shown_ns: u64) -> Result<(), String> {
        let Some(local) = &mut self.locals[node] else {
            return Ok(());
        };
        let Some(mut leased) = local.leased.remove(&ticket) else {
            return Ok(());
        };
        let query = leased.reading.query.clone();
        match leased.loads.step(shown_ns, &query) {
            Poll::Pending => {
                local.leased.insert(ticket, leased);
                self.schedule_load(node, ticket);
                Ok(())
            }
            Poll::Ready(None) => {
                local.read(shown_ns, ticket, leased.reading);
                self.after_local(node)
            }
            Poll::Ready(Some((index, answer))) => {
                self.local_saw(node, &leased.reading, index)?;
                self.mark(Mark::LocalLeaseRead);
                self.local_answered(node, ticket, Ok(answer))
            }
        }
    }

    /// The replica here may answer a read, and does.
    fn local_look(&mut self, node: usize, ticket: Ticket) -> Result<(), String> {
        let (Some(process), Some(local)) = (&self.nodes[node].process, &mut self.locals[node])
        else {
            return Ok(());
        };
        let Some(reading) = local.ready.remove(&ticket) else {
            return Ok(());
        };
        let (index, view) = process.state_at(reading.group);
        let answer = W::Machine::query(&view, &reading.query);
        self.local_saw(node, &reading, index)?;
        self.mark(Mark::LocalRead);
        self.local_answered(node, ticket, Ok(answer))
    }

    fn local_saw(&mut self, node: usize, reading: &Reading, index: LogIndex) -> Result<(), String> {
        let caller = self.locals[node].as_ref().map_or(0, |it| it.caller);
        let judged = self.judge(Step::ReadsLocally {
            read: (caller, reading.number),
            group: reading.group,
            seen: Some(index),
        });
        judged.map_err(|wrong| format!("{wrong} (c{caller} is in n{})", node + 1))
    }

    /// Brings what a client in a node sends on its way, and takes what it was answered.
    fn after_local(&mut self, node: usize) -> Result<(), String> {
        let shown_ns = self.nodes[node].clock.at(self.now_ns);
        let mut has_sent = false;
        loop {
            let Some(local) = &mut self.locals[node] else {
                return Ok(());
            };
            let (stamp, sends) = (local.stamp, local.client.take_sends());
            if sends.is_empty() {
                break;
            }
            has_sent = true;
            for send in sends {
                self.local_sends(node, stamp, shown_ns, send)?;
            }
        }
        if has_sent {
            self.send_all(node, "client")?;
            self.take_local_answers(node)?;
            self.wake(node);
        }
        let Some(local) = &mut self.locals[node] else {
            return Ok(());
        };
        for (id, answer) in local.client.take_answers() {
            self.take_local_answer(node, id, answer)?;
        }
        let Some(local) = &mut self.locals[node] else {
            return Ok(());
        };
        if local.client.outstanding() > 0 && !local.is_ticking {
            local.is_ticking = true;
            self.schedule_local(node, TICK_NS, LocalStep::Tick);
        }
        Ok(())
    }

    fn local_sends(
        &mut self,
        node: usize,
        stamp: u64,
        shown_ns: u64,
        send: ClientSend,
    ) -> Result<(), String> {
        let sink = Arc::new(FromHome {
            node: self.nodes[node].id,
            desk: Arc::clone(&self.nodes[node].desk),
        });
        match send {
            ClientSend::Request(to, request) => {
                let id = request.id;
                let stamped = RequestId(id.0 | stamp);
                let request = Request {
                    id: stamped,
                    ..request
                };
                self.judge(Step::Asks {
                    clerk: self.config.clerks + node,
                    request: &request,
                })?;
                let process = self.nodes[node].process.as_ref();
                let is_taken = process.is_some_and(|process| process.ask(to, request, sink));
                if let (false, Some(local)) = (is_taken, &mut self.locals[node]) {
                    local.client.not_sent(shown_ns, to, id);
                }
            }
            ClientSend::WaitApplied(group, index, id) => {
                let id = RequestId(id.0 | stamp | WAIT);
                if let Some(process) = &self.nodes[node].process {
                    process.wait_applied(group, index, id, sink);
                }
            }
        }
        Ok(())
    }

    fn take_local_answer(
        &mut self,
        node: usize,
        id: CallId,
        answer: Result<Bytes, Error>,
    ) -> Result<(), String> {
        let Some(local) = &mut self.locals[node] else {
            return Ok(());
        };
        match (local.calls.remove(&id), answer) {
            (None, _) => Err(format!("the client of n{} was answered twice", node + 1)),
            (Some(Outstanding::Read(ticket, reading)), Ok(answer)) if answer.is_empty() => {
                local.ready.insert(ticket, reading);
                let delay_ns = self.local_rng.wait(THREAD_NS);
                self.schedule_local(node, delay_ns, LocalStep::Look(ticket));
                Ok(())
            }
            (Some(Outstanding::Read(ticket, _)), Ok(answer)) => {
                self.mark(Mark::LocalReadElsewhere);
                self.local_answered(node, ticket, Ok(answer))
            }
            (Some(Outstanding::Read(ticket, _) | Outstanding::Write(ticket)), answer) => {
                self.local_answered(node, ticket, answer)
            }
        }
    }

    fn local_answered(
        &mut self,
        node: usize,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
    ) -> Result<(), String> {
        let caller = self.locals[node].as_ref().map_or(0, |it| it.caller);
        self.local_successes[node] += u64::from(answer.is_ok());
        let number = ticket.0 << 1 | u64::from(answer.is_ok());
        self.note(Who::Clerk(caller), "answer", number, || match &answer {
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
        if self.locals_go_on && self.locals[node].as_ref().is_some_and(Local::is_idle) {
            self.local_thinks(node);
        }
        Ok(())
    }

    /// Schedules the next call of the client of a node, unless it is.
    fn local_thinks(&mut self, node: usize) {
        let Some(local) = &mut self.locals[node] else {
            return;
        };
        if std::mem::replace(&mut local.is_thinking, true) {
            return;
        }
        let thinks_long = local.rng.permille(LONG_THOUGHT_PERMILLE);
        let times = if thinks_long { LONG_THOUGHT_TIMES } else { 1 };
        let delay_ns = local.rng.wait(self.config.think_ns * times);
        self.schedule_local(node, delay_ns, LocalStep::Call);
    }

    fn schedule_local(&mut self, node: usize, delay_ns: u64, step: LocalStep) {
        let life = self.nodes[node].life;
        let event = Event::Local(node, life, step);
        self.schedule(self.now_ns + 1 + delay_ns, event);
    }
}

impl Local {
    /// Asks the leader for an index, and then the replica here.
    fn read(&mut self, shown_ns: u64, ticket: Ticket, reading: Reading) {
        let query = reading.query.clone();
        let id = self.client.read_local_or(shown_ns, reading.group, query);
        self.calls.insert(id, Outstanding::Read(ticket, reading));
    }

    fn outstanding(&self) -> usize {
        self.calls.len() + self.leased.len() + self.ready.len()
    }

    fn is_idle(&self) -> bool {
        self.outstanding() == 0
    }
}
