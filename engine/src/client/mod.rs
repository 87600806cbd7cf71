//! The client half of a `Db` or `Clerk`: windows behind locks, and the way to the nodes.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
mod window;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quorate_kv::CommandBuffer;
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

pub(crate) use window::{READ_HERE, REQUEST_COUNT_BITS, ReadWants, Send, Window, WindowOptions};

use crate::error::Error;
use crate::options::Options;
use crate::partition::Partitioner;
use crate::pending::Completer;
use crate::runtime::{Clock, Timed, Timer};
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
    groups: Vec<Slot>,
    partitioner: Partitioner,
    clock: Clock,
    timer: Arc<Timer>,
    /// Whether the timer looks after this client already.
    is_timed: AtomicBool,
    is_closed: AtomicBool,
    /// Replies that name no group of this cluster.
    stray_replies: AtomicU64,
}

/// A window, and the right to hand over what it sends. The two are apart so that a link may answer from within
/// `send`, and so that sends keep their order nevertheless.
struct Slot {
    window: Mutex<Window>,
    sending: Mutex<()>,
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
        seed: u64,
    ) -> Arc<Self> {
        let window_options = WindowOptions::of(options);
        let groups = partitioner
            .groups()
            .map(|group| Slot {
                window: Mutex::new(
                    Window::new(group, nodes.to_vec(), window_options).numbered_from(seed),
                ),
                sending: Mutex::new(()),
                is_busy: AtomicBool::new(false),
            })
            .collect();
        let client = Arc::new(Self {
            link,
            groups,
            partitioner,
            clock,
            timer,
            is_timed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            stray_replies: AtomicU64::new(0),
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

    /// Replies that made no sense, so far.
    pub(crate) fn rejected_replies(&self) -> u64 {
        let each = self.groups.iter().map(|slot| slot.window.lock().rejected());
        each.sum::<u64>() + self.stray_replies.load(Ordering::Relaxed)
    }

    /// Fails what is outstanding and refuses what comes.
    pub(crate) fn close(&self) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        for slot in &self.groups {
            slot.window.lock().close();
            self.act(slot);
        }
        self.link.stop();
    }

    fn with(
        &self,
        group: GroupId,
        completer: Completer,
        call: impl FnOnce(&mut Window, Completer),
    ) {
        if self.is_closed.load(Ordering::Acquire) {
            completer.complete(Err(Error::Closed));
            return;
        }
        let slot = &self.groups[group.0 as usize];
        {
            let mut window = slot.window.lock();
            call(&mut window, completer);
            if !slot.is_busy.load(Ordering::Relaxed) {
                slot.is_busy.store(true, Ordering::SeqCst);
            }
        }
        self.act(slot);
        // Sequentially consistent with the timer, which clears `is_timed` and then looks at each `is_busy`: either it sees that
        // this window is busy, or this sees that the timer must be woken.
        if !self.is_timed.load(Ordering::SeqCst) && !self.is_timed.swap(true, Ordering::AcqRel) {
            self.timer.wake();
        }
    }

    /// Does what a window asked for. Whoever finds another thread sending leaves its sends to that one.
    fn act(&self, slot: &Slot) {
        loop {
            let completions = slot.window.lock().take_completions();
            for (completer, answer) in completions {
                completer.complete(answer);
            }
            let Some(right) = slot.sending.try_lock() else {
                return;
            };
            loop {
                let sends = slot.window.lock().take_sends();
                if sends.is_empty() {
                    break;
                }
                for send in sends {
                    self.hand_over(slot, send);
                }
            }
            drop(right);
            // What another thread left between the last look and the release.
            if !slot.window.lock().has_effects() {
                return;
            }
        }
    }

    fn hand_over(&self, slot: &Slot, send: Send) {
        match send {
            Send::WaitApplied(group, index, id) => self.link.wait_applied(group, index, id),
            Send::Request(to, request) => {
                let id = request.id;
                if !self.link.send(to, request) {
                    slot.window.lock().not_sent(self.clock.now_ns(), to, id);
                }
            }
        }
    }

    /// How often each window was ticked.
    #[cfg(test)]
    fn ticks(&self) -> Vec<u64> {
        let ticks = self.groups.iter().map(|slot| slot.window.lock().ticks);
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
            slot.window.lock().reply(self.clock.now_ns(), from, reply);
            self.act(slot);
        } else {
            self.stray_replies.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn disconnected(&self, node: NodeId) {
        let now_ns = self.clock.now_ns();
        for slot in &self.groups {
            slot.window.lock().disconnected(now_ns, node);
            self.act(slot);
        }
    }
}

impl Timed for Client {
    fn tick(&self, now_ns: u64) -> bool {
        // Whoever calls from here on wakes the timer again.
        self.is_timed.store(false, Ordering::SeqCst);
        let mut is_busy = false;
        // Of thousands of groups few have anything outstanding: the others cost a look each, and no lock.
        for slot in &self.groups {
            if !slot.is_busy.load(Ordering::SeqCst) {
                continue;
            }
            {
                let mut window = slot.window.lock();
                let stays_busy = window.tick(now_ns);
                slot.is_busy.store(stays_busy, Ordering::SeqCst);
                is_busy |= stays_busy;
            }
            self.act(slot);
        }
        if is_busy {
            self.is_timed.store(true, Ordering::Release);
        }
        is_busy
    }
}

/// Replies from the replicas in this process, under their node's name. Bound late, since the node is made before its client; weak,
/// since the client leads back to the node.
#[derive(Default)]
pub(crate) struct ReplyPort {
    node: NodeId,
    client: std::sync::OnceLock<Weak<Client>>,
}

impl ReplyPort {
    pub(crate) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            client: std::sync::OnceLock::new(),
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
}
