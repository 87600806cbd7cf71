//! The client half of a `Db` or `Clerk`: windows behind locks, and the way to the nodes.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use quorate_kv::{CommandBuffer, SessionOwner};
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

pub(crate) use window::{READ_HERE, REQUEST_COUNT_BITS, ReadWants, Send, Window, WindowOptions};

use crate::db::random_seed;
use crate::error::Error;
use crate::handoff::bell::Watched;
use crate::handoff::relay::{Effects, Outside, Relay};
use crate::options::Options;
use crate::partition::Partitioner;
use crate::pending::{Answer, Completer};
use crate::runtime::{Clock, Timed, Timer, Wakers};
use crate::transport::{ClerkInbox, ClerkLink, Reply, ReplySink, Request, RequestId};

/// A client's way to the nodes, and to the replicas in its own process if there are any.
pub(crate) trait Link: std::marker::Send + Sync {
    /// Hands a request over; `false`: dropped here and now.
    fn send(&self, to: NodeId, request: Request) -> bool;

    /// Has the replica in this process answer with [`crate::transport::ReplyBody::ReadIndex`] once it has applied an index, or
    /// with a [`crate::transport::Refusal`] if it has not in time or cannot. It always answers, unless the node stops.
    fn wait_applied(&self, group: GroupId, index: LogIndex, id: RequestId);

    /// Stops the link.
    fn stop(&self);

    /// The client failed: tells the node that it is a part of, if it is.
    fn failed(&self, _reason: &str) {}
}

/// A link without replicas in this process.
pub(crate) struct RemoteLink(pub(crate) Arc<dyn ClerkLink>);

impl Link for RemoteLink {
    fn send(&self, to: NodeId, request: Request) -> bool {
        self.0.send(to, request)
    }

    fn wait_applied(&self, _group: GroupId, _index: LogIndex, _id: RequestId) {
        unreachable!("only a Db asks for its local replica");
    }

    fn stop(&self) {
        self.0.stop();
    }
}

/// What tells one life of a client from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLife {
    /// Drawn anew in each life.
    pub(crate) seed: u64,
    /// Whose its sessions are. A leader leaves it out of the log until every member knows owners.
    pub(crate) owner: Option<SessionOwner>,
    /// The node in whose process it is, if it is in one.
    pub(crate) beside: Option<NodeId>,
}

impl ClientLife {
    /// A life like no other one.
    pub(crate) fn draw(beside: Option<NodeId>) -> Self {
        Self {
            seed: random_seed(),
            owner: SessionOwner::new(random_seed()),
            beside,
        }
    }

    /// A life in which sessions have no owner.
    #[cfg(test)]
    pub(crate) fn without_owner(seed: u64) -> Self {
        Self {
            seed,
            owner: None,
            beside: None,
        }
    }
}

/// What a [`crate::Db`] and a [`crate::Clerk`] have in common.
pub(crate) struct Client {
    link: Arc<dyn Link>,
    groups: Vec<Slot>,
    partitioner: Partitioner,
    clock: Clock,
    timer: Arc<Timer>,
    /// Whether the timer looks after this client already.
    watched: Watched,
    /// What calls fail with, once nothing is taken any more.
    closed: OnceLock<Error>,
    /// Replies that name no group of this cluster.
    stray_replies: AtomicU64,
}

/// The window of one group.
struct Slot {
    relay: Relay<Window>,
    /// Whether the timer has to look at the window. Changed under the window's lock.
    is_busy: AtomicBool,
}

impl Client {
    pub(crate) fn new(
        link: Arc<dyn Link>,
        nodes: &[NodeId],
        partitioner: Partitioner,
        options: &Options,
        clock: Clock,
        timer: Arc<Timer>,
        life: ClientLife,
    ) -> Arc<Self> {
        let window_options = WindowOptions::of(options);
        let groups = partitioner
            .groups()
            .map(|group| Slot {
                relay: Relay::new(
                    Window::new(group, nodes.to_vec(), window_options)
                        .numbered_from(life.seed)
                        .owned_by(life.owner)
                        .beside(life.beside),
                ),
                is_busy: AtomicBool::new(false),
            })
            .collect();
        let client = Arc::new(Self {
            link,
            groups,
            partitioner,
            clock,
            timer,
            watched: Watched::default(),
            closed: OnceLock::new(),
            stray_replies: AtomicU64::new(0),
        });
        let with_deadlines: Arc<dyn Timed> = client.clone();
        client.timer.add(Arc::downgrade(&with_deadlines));
        client
    }

    pub(crate) fn partitioner(&self) -> Partitioner {
        self.partitioner
    }

    /// Who calls the wakers of its callers.
    pub(crate) fn wakers(&self) -> &Arc<Wakers> {
        self.timer.wakers()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Issues a write in a group.
    pub(crate) fn write(&self, group: GroupId, command: CommandBuffer, completer: Completer) {
        let now_ns = self.clock.now_ns();
        self.with(group, completer, |window, completer| {
            window.write(now_ns, command, completer);
        });
    }

    /// Issues a read in a group.
    pub(crate) fn read(&self, group: GroupId, wants: ReadWants, completer: Completer) {
        let now_ns = self.clock.now_ns();
        self.with(group, completer, |window, completer| {
            window.read(now_ns, wants, completer);
        });
    }

    /// Replies that made no sense, so far.
    pub(crate) fn rejected_replies(&self) -> u64 {
        let each = self
            .groups
            .iter()
            .map(|slot| slot.relay.with(|window| window.rejected()));
        each.sum::<u64>() + self.stray_replies.load(Ordering::Relaxed)
    }

    /// Fails what is outstanding and refuses what comes.
    pub(crate) fn close(&self) {
        if self.end(Error::Closed) {
            self.link.stop();
        }
    }

    /// The same, for a cause. The link is stopped when the client is closed.
    pub(crate) fn fail(&self, reason: &str) {
        let reason = reason.to_owned();
        self.end(Error::Failed { reason });
    }

    /// What all calls fail with, if they do.
    pub(crate) fn closed(&self) -> Option<&Error> {
        self.closed.get()
    }

    /// Fails everything. `false`: nothing but that it was closed meanwhile, after it had failed.
    fn end(&self, error: Error) -> bool {
        let is_close = error == Error::Closed;
        let is_first = self.closed.set(error).is_ok();
        if is_first {
            let error = self.closed.get().unwrap_or(&Error::Closed);
            for slot in &self.groups {
                slot.relay.close(|window| window.close(error));
                self.act(slot);
            }
        }
        is_first || is_close
    }

    fn with(
        &self,
        group: GroupId,
        completer: Completer,
        call: impl FnOnce(&mut Window, Completer),
    ) {
        let slot = &self.groups[group.0 as usize];
        let entered = slot.relay.enter(completer, |window, completer| {
            call(window, completer);
            if !slot.is_busy.load(Ordering::Relaxed) {
                slot.is_busy.store(true, Ordering::SeqCst);
            }
        });
        if let Err(completer) = entered {
            let error = self.closed.get().unwrap_or(&Error::Closed);
            completer.complete(Err(error.clone()));
            return;
        }
        self.act(slot);
        if self.watched.needs_ring() {
            self.timer.wake();
        }
    }

    /// Does what a window asked for.
    fn act(&self, slot: &Slot) {
        slot.relay.act(&Hands { client: self, slot });
    }

    /// How often each window was ticked.
    #[cfg(test)]
    fn ticks(&self) -> Vec<u64> {
        let ticks = self
            .groups
            .iter()
            .map(|slot| slot.relay.with(|window| window.ticks));
        ticks.collect()
    }

    fn slot_of(&self, id: RequestId) -> Option<&Slot> {
        self.groups
            .get(usize::try_from(id.0 >> REQUEST_COUNT_BITS).ok()?)
    }
}

impl ClerkInbox for Client {
    fn reply(&self, from: NodeId, reply: Reply) {
        if let Some(slot) = self.slot_of(reply.id) {
            slot.relay
                .with(|window| window.reply(self.clock.now_ns(), from, reply));
            self.act(slot);
        } else {
            self.stray_replies.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn disconnected(&self, node: NodeId) {
        let now_ns = self.clock.now_ns();
        for slot in &self.groups {
            slot.relay.with(|window| window.disconnected(now_ns, node));
            self.act(slot);
        }
    }
}

impl Timed for Client {
    fn tick(&self, now_ns: u64) -> bool {
        self.watched.look(|| {
            let mut is_busy = false;
            // Of thousands of groups few have anything outstanding: the others cost a look each, and no lock.
            for slot in &self.groups {
                if !slot.is_busy.load(Ordering::SeqCst) {
                    continue;
                }
                is_busy |= slot.relay.with(|window| {
                    let stays_busy = window.tick(now_ns);
                    slot.is_busy.store(stays_busy, Ordering::SeqCst);
                    stays_busy
                });
                self.act(slot);
            }
            is_busy
        })
    }

    fn failed(&self, reason: String) {
        self.fail(&reason);
        self.link.failed(&reason);
    }
}

/// What a client does for one of its windows.
struct Hands<'a> {
    client: &'a Client,
    slot: &'a Slot,
}

impl Effects for Window {
    type Completion = (Completer, Answer);
    type Send = Send;

    fn take_completions(&mut self) -> Vec<(Completer, Answer)> {
        Window::take_completions(self)
    }

    fn take_sends(&mut self) -> VecDeque<Send> {
        Window::take_sends(self)
    }

    fn has_effects(&self) -> bool {
        Window::has_effects(self)
    }
}

impl Outside<Window> for Hands<'_> {
    fn complete(&self, (completer, answer): (Completer, Answer)) {
        completer.complete(answer);
    }

    fn send(&self, send: Send) {
        let link = &self.client.link;
        match send {
            Send::WaitApplied(group, index, id) => link.wait_applied(group, index, id),
            Send::Request(to, request) => {
                let id = request.id;
                if !link.send(to, request) {
                    let now_ns = self.client.clock.now_ns();
                    self.slot
                        .relay
                        .with(|window| window.not_sent(now_ns, to, id));
                }
            }
        }
    }
}

/// Replies from the replicas in this process, under their node's name. Bound late, since the node is made before its client; weak,
/// since the client leads back to the node.
#[derive(Default)]
pub(crate) struct ReplyPort {
    node: NodeId,
    client: OnceLock<Weak<Client>>,
}

impl ReplyPort {
    pub(crate) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            client: OnceLock::new(),
        })
    }

    pub(crate) fn bind(&self, client: &Arc<Client>) {
        let first = self.client.set(Arc::downgrade(client));
        assert!(first.is_ok(), "a port is bound once");
    }

    fn client(&self) -> Option<Arc<Client>> {
        self.client.get().and_then(Weak::upgrade)
    }
}

impl ReplySink for ReplyPort {
    fn reply(&self, reply: Reply) {
        if let Some(client) = self.client() {
            client.reply(self.node, reply);
        }
    }
}

impl ClerkInbox for ReplyPort {
    fn reply(&self, from: NodeId, reply: Reply) {
        if let Some(client) = self.client() {
            client.reply(from, reply);
        }
    }

    fn disconnected(&self, node: NodeId) {
        if let Some(client) = self.client() {
            client.disconnected(node);
        }
    }

    fn failed(&self, reason: &str) {
        if let Some(client) = self.client() {
            Timed::failed(&*client, reason.to_owned());
        }
    }
}
