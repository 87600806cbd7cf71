//! The client half of a `Db` or `Clerk`: windows behind locks, and the way to the nodes.

#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use quorate_kv::CommandBuffer;
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

pub(crate) use window::{REQUEST_COUNT_BITS, ReadWants, Send, Window, WindowOptions};

use crate::error::Error;
use crate::handoff::bell::Watched;
use crate::handoff::relay::{Effects, Outside, Relay};
use crate::options::Options;
use crate::partition::Partitioner;
use crate::pending::{Answer, Completer};
use crate::runtime::{Clock, Timed, Timer};
use crate::transport::{ClerkInbox, ClerkLink, Reply, ReplySink, Request, RequestId};

/// A client's way to the nodes, and to the replicas in its own process if there are any.
pub(crate) trait Link: std::marker::Send + Sync {
    /// Hands a request over; `false`: dropped here and now.
    fn send(&self, to: NodeId, request: Request) -> bool;

    /// Has the replica in this process answer with [`crate::transport::ReplyBody::ReadIndex`] once it has applied an index.
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

/// What a [`crate::Db`] and a [`crate::Clerk`] have in common.
pub(crate) struct Client {
    link: Arc<dyn Link>,
    groups: Vec<Relay<Window>>,
    partitioner: Partitioner,
    clock: Clock,
    timer: Arc<Timer>,
    /// Whether the timer looks after this client already.
    watched: Watched,
    /// What calls fail with, once nothing is taken any more.
    closed: OnceLock<Error>,
}

impl Client {
    pub(crate) fn new(
        link: Arc<dyn Link>,
        nodes: &[NodeId],
        partitioner: Partitioner,
        options: &Options,
        clock: Clock,
        timer: Arc<Timer>,
    ) -> Arc<Self> {
        let window_options = WindowOptions::of(options);
        let groups = partitioner
            .groups()
            .map(|group| Relay::new(Window::new(group, nodes.to_vec(), window_options)))
            .collect();
        let client = Arc::new(Self {
            link,
            groups,
            partitioner,
            clock,
            timer,
            watched: Watched::default(),
            closed: OnceLock::new(),
        });
        let with_deadlines: Arc<dyn Timed> = client.clone();
        client.timer.add(Arc::downgrade(&with_deadlines));
        client
    }

    pub(crate) fn partitioner(&self) -> Partitioner {
        self.partitioner
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
                slot.close(|window| window.close(error));
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
        if let Err(completer) = slot.enter(completer, call) {
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
    fn act(&self, slot: &Relay<Window>) {
        slot.act(&Hands { client: self, slot });
    }

    fn slot_of(&self, id: RequestId) -> Option<&Relay<Window>> {
        self.groups
            .get(usize::try_from(id.0 >> REQUEST_COUNT_BITS).ok()?)
    }
}

impl ClerkInbox for Client {
    fn reply(&self, from: NodeId, reply: Reply) {
        if let Some(slot) = self.slot_of(reply.id) {
            slot.with(|window| window.reply(self.clock.now_ns(), from, reply));
            self.act(slot);
        }
    }

    fn disconnected(&self, node: NodeId) {
        let now_ns = self.clock.now_ns();
        for slot in &self.groups {
            slot.with(|window| window.disconnected(now_ns, node));
            self.act(slot);
        }
    }
}

impl Timed for Client {
    fn tick(&self, now_ns: u64) -> bool {
        self.watched.look(|| {
            let mut is_busy = false;
            for slot in &self.groups {
                is_busy |= slot.with(|window| window.tick(now_ns));
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
    slot: &'a Relay<Window>,
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
                    self.slot.with(|window| window.not_sent(now_ns, to, id));
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
