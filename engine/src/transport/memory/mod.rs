//! The transport of nodes that share a process: a frame is moved to its receiver on the sender's
//! thread. Nothing is encoded and no payload is copied.
//!
//! Invariants:
//! - A frame is delivered only inside its receiver's gate. So when [`Transport::stop`] (or an
//!   attach that replaces) has returned, no delivery to that inbox runs or will run.
//! - No lock of the network but the shared side of gates is held during a delivery, and gates may
//!   be entered recursively, so an inbox that sends from within `deliver` does not block on itself.
//! - While no fault is set, a send between two that have met takes no lock that another sender takes exclusively.
//! - Two nodes show each other their cards before the first frame between them, once for each time that one of them is
//!   attached. If one refuses the other, no frame is moved between them. No lock is held meanwhile, for a card may be written
//!   down: a frame between the two is lost as long as another thread has them judge each other, and nobody else waits.

mod faults;
mod gate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use faults::{Endpoint, LinkFaults};
use faults::{Faults, Parcel};
use gate::Gate;
use parking_lot::{Mutex, RwLock};
use quorate_raft::NodeId;

use crate::transport::{
    ClerkInbox, ClerkLink, Frame, Inbox, Origin, Refused, Reply, ReplySink, Request, Transport,
};

/// The wires between the nodes and clerks of one process, and the faults put on them.
#[derive(Default)]
pub struct MemoryNetwork {
    nodes: RwLock<BTreeMap<NodeId, Arc<NodePort>>>,
    clerks: Mutex<Vec<Weak<ClerkPort>>>,
    clerk_numbers: AtomicU64,
    groups: AtomicU32,
    port_numbers: AtomicU64,
    faults: Faults,
}

impl MemoryNetwork {
    /// A network with nobody on it.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Tells clerks how many groups the cluster has; zero: not known yet.
    pub fn announce_groups(&self, groups: u32) {
        self.groups.store(groups, Ordering::Release);
    }

    /// Puts a node on the network. One that is there under this name is taken off first, as when
    /// its process died; what was sent to it and not delivered is lost.
    pub fn attach(self: &Arc<Self>, node: NodeId, inbox: Arc<dyn Inbox>) -> Arc<MemoryTransport> {
        let port = Arc::new(NodePort {
            node,
            number: self.port_numbers.fetch_add(1, Ordering::Relaxed),
            inbox,
            gate: Gate::new(),
            met: RwLock::default(),
            judging: Mutex::default(),
        });
        let replaced = self.nodes.write().insert(node, Arc::clone(&port));
        if let Some(old) = replaced {
            old.gate.close();
            self.tell_disconnected(node);
        }
        // Whoever may write a file when it meets somebody does so here, and not in the middle of a pass.
        if self.faults.none() {
            let others: Vec<_> = self.nodes.read().values().cloned().collect();
            for other in others {
                Self::have_met(&port, &other);
            }
        }
        Arc::new(MemoryTransport {
            network: Arc::clone(self),
            node,
            port,
        })
    }

    /// Takes a node off the network, as when its process dies: see [`Transport::stop`].
    pub fn detach(&self, node: NodeId) {
        let removed = self.nodes.write().remove(&node);
        if let Some(port) = removed {
            port.gate.close();
            self.tell_disconnected(node);
        }
    }

    /// Puts a clerk on the network.
    pub fn clerk(self: &Arc<Self>, inbox: Arc<dyn ClerkInbox>) -> Arc<MemoryClerkLink> {
        let number = self.clerk_numbers.fetch_add(1, Ordering::Relaxed);
        let port = Arc::new(ClerkPort {
            number,
            inbox,
            gate: Gate::new(),
        });
        let mut clerks = self.clerks.lock();
        clerks.retain(|clerk| clerk.strong_count() > 0);
        clerks.push(Arc::downgrade(&port));
        Arc::new(MemoryClerkLink {
            network: Arc::clone(self),
            port,
        })
    }

    /// Seeds the dice of all faulty links. Each link rolls its own, so that the traffic of one does
    /// not change what happens on another.
    pub fn seed(&self, seed: u64) {
        self.faults.seed(seed);
    }

    /// Loses everything from one end to the other, in this direction, until
    /// [`MemoryNetwork::heal`].
    pub fn cut(&self, from: impl Into<Endpoint>, to: impl Into<Endpoint>) {
        self.faults
            .change(from.into(), to.into(), |link| link.cut = true);
    }

    /// Takes all faults off the link in this direction. A frame held back on it is lost.
    pub fn heal(&self, from: impl Into<Endpoint>, to: impl Into<Endpoint>) {
        self.faults
            .change(from.into(), to.into(), |link| *link = LinkFaults::default());
    }

    /// Sets the faults of the link in this direction.
    pub fn set_faults(
        &self,
        from: impl Into<Endpoint>,
        to: impl Into<Endpoint>,
        faults: LinkFaults,
    ) {
        self.faults
            .change(from.into(), to.into(), |link| *link = faults);
    }

    /// Loses everything between a node and all other nodes, also those that come later. Clerks
    /// still reach it.
    pub fn isolate(&self, node: NodeId) {
        self.faults.isolate(node);
    }

    /// Ends what [`MemoryNetwork::isolate`] did. Cut links of the node stay cut.
    pub fn rejoin(&self, node: NodeId) {
        self.faults.rejoin(node);
    }

    /// Takes all faults off all links.
    pub fn heal_all(&self) {
        self.faults.clear();
    }

    /// Delivers what was delayed up to `now`, and says when more is due. The network has no clock and no thread: whoever sets
    /// delays calls this again and again, with a time that began where he likes. Delays count from the last call. What is delivered comes in the order of its time as
    /// long as one caller at a time is in here: calls that run at once each deliver what they took.
    pub fn advance(&self, now: Duration) -> Option<Duration> {
        let (arriving, next) = self.faults.advance(now);
        for parcel in arriving {
            parcel.deliver();
        }
        next
    }

    /// Whether two nodes deal with each other; they judge each other's cards if they did not yet. While another thread has them
    /// do so they do not.
    fn have_met(one: &Arc<NodePort>, other: &Arc<NodePort>) -> bool {
        if one.number == other.number {
            return true;
        }
        if let Some(&outcome) = one.met.read().get(&other.number) {
            return outcome;
        }
        let mut judged = None;
        // A node that is stopped writes no book any more: its directory may be somebody else's.
        one.gate.while_open(|| {
            other.gate.while_open(|| {
                let Some(_judging) = Judging::begin(one, other) else {
                    return;
                };
                if one.met.read().contains_key(&other.number) {
                    return;
                }
                let (by_other, by_one) = (other.judge(one), one.judge(other));
                let outcome = by_other.is_ok() && by_one.is_ok();
                // A disk that takes nothing now may do so later: they try again then.
                let is_final = ![&by_other, &by_one].contains(&&Err(Refused::NotWritten));
                if is_final {
                    one.met.write().insert(other.number, outcome);
                    other.met.write().insert(one.number, outcome);
                }
                judged = Some((by_other, by_one));
            });
        });
        // Told without the lock, for what is told may be answered over this network.
        if let Some((by_other, by_one)) = judged {
            one.gate
                .while_open(|| one.inbox.judged(other.node, by_other.as_ref().copied()));
            other
                .gate
                .while_open(|| other.inbox.judged(one.node, by_one.as_ref().copied()));
        }
        one.met.read().get(&other.number).copied().unwrap_or(false)
    }

    /// Carries a frame from one end to a node, through the faults of the link. `sender`: the node that sends, if it is one.
    fn carry(
        &self,
        from: Endpoint,
        sender: Option<&Arc<NodePort>>,
        origin: &Origin,
        to: NodeId,
        frame: Frame,
    ) -> bool {
        let Some(port) = self.nodes.read().get(&to).cloned() else {
            return false;
        };
        if let Some(sender) = sender {
            let outcome = sender.met.read().get(&port.number).copied();
            // Cards travel both ways.
            if outcome.is_none() && self.faults.is_cut(sender.node, to) {
                return true;
            }
            if !outcome.unwrap_or_else(|| Self::have_met(sender, &port)) {
                return false;
            }
        }
        if self.faults.none() {
            return port.deliver(origin.clone(), frame);
        }
        let parcel = Parcel {
            frame,
            way: Way::Node(port, origin.clone()),
        };
        let arriving = self.faults.pass(from, Endpoint::Node(to), parcel);
        arriving
            .into_iter()
            .fold(true, |all, parcel| all & parcel.deliver())
    }

    /// Tells clerks and the other nodes that a node is gone.
    fn tell_disconnected(&self, node: NodeId) {
        let others: Vec<_> = {
            let nodes = self.nodes.read();
            let others = nodes.iter().filter(|(other, _)| **other != node);
            others.map(|(_, port)| Arc::clone(port)).collect()
        };
        for port in others {
            port.gate.while_open(|| port.inbox.disconnected(node));
        }
        let clerks: Vec<_> = self
            .clerks
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for clerk in clerks {
            clerk.gate.while_open(|| clerk.inbox.disconnected(node));
        }
    }
}

/// One node's way into a [`MemoryNetwork`]. Dropping it stops it.
pub struct MemoryTransport {
    network: Arc<MemoryNetwork>,
    node: NodeId,
    port: Arc<NodePort>,
}

impl Transport for MemoryTransport {
    /// Delivers on the calling thread. Losses through injected faults return `true`, as on a wire.
    fn send(&self, to: NodeId, frame: Frame) -> bool {
        // The own gate is looked at, not entered: a stopped node's last words may still be on the
        // wire.
        self.port.gate.is_open()
            && self.network.carry(
                Endpoint::Node(self.node),
                Some(&self.port),
                &Origin::Node(self.node),
                to,
                frame,
            )
    }

    /// Must not be called from within this node's own [`Inbox::deliver`], for whose end it waits.
    fn stop(&self) {
        let removed = {
            let mut nodes = self.network.nodes.write();
            let current = nodes
                .get(&self.node)
                .is_some_and(|port| Arc::ptr_eq(port, &self.port));
            current && nodes.remove(&self.node).is_some()
        };
        self.port.gate.close();
        if removed {
            self.network.tell_disconnected(self.node);
        }
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One clerk's way into a [`MemoryNetwork`]. Dropping it stops it.
pub struct MemoryClerkLink {
    network: Arc<MemoryNetwork>,
    port: Arc<ClerkPort>,
}

impl ClerkLink for MemoryClerkLink {
    fn send(&self, to: NodeId, request: Request) -> bool {
        if !self.port.gate.is_open() {
            return false;
        }
        let sink = MemoryReplySink {
            network: Arc::downgrade(&self.network),
            node: to,
            clerk: Arc::downgrade(&self.port),
        };
        let origin = Origin::Clerk(Arc::new(sink));
        self.network
            .carry(Endpoint::Clerks, None, &origin, to, Frame::Request(request))
    }

    /// Those attached now. Each clerk begins with another one, so that clerks spread.
    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.network.nodes.read().keys().copied().collect();
        if !nodes.is_empty() {
            let first = self.port.number % nodes.len() as u64;
            nodes.rotate_left(first as usize);
        }
        nodes
    }

    fn groups(&self) -> Option<u32> {
        match self.network.groups.load(Ordering::Acquire) {
            0 => None,
            groups => Some(groups),
        }
    }

    /// Must not be called from within this clerk's own [`ClerkInbox`], for whose end it waits.
    fn stop(&self) {
        self.port.gate.close();
    }
}

impl Drop for MemoryClerkLink {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A node as the network sees it.
struct NodePort {
    node: NodeId,
    /// No other port has it, also not an earlier or later one of the same node.
    number: u64,
    inbox: Arc<dyn Inbox>,
    gate: Gate,
    /// Ports with which cards were shown, and whether the two deal with each other.
    met: RwLock<BTreeMap<u64, bool>>,
    /// Later ports that are judging this one, and judged by it, at the moment.
    judging: Mutex<BTreeSet<u64>>,
}

/// Two nodes judge each other, on one thread at a time.
struct Judging<'a> {
    earlier: &'a NodePort,
    later: u64,
}

impl<'a> Judging<'a> {
    /// `None`: on another thread, or further up on this one, they do so already.
    fn begin(one: &'a NodePort, other: &'a NodePort) -> Option<Self> {
        let (earlier, later) = if one.number < other.number {
            (one, other.number)
        } else {
            (other, one.number)
        };
        let begins = earlier.judging.lock().insert(later);
        begins.then_some(Self { earlier, later })
    }
}

impl Drop for Judging<'_> {
    fn drop(&mut self) {
        self.earlier.judging.lock().remove(&self.later);
    }
}

impl NodePort {
    fn deliver(&self, origin: Origin, frame: Frame) -> bool {
        self.gate.while_open(|| self.inbox.deliver(origin, frame))
    }

    /// Judges what another node shows. Who has no card has nothing to be told apart by.
    fn judge(&self, other: &Self) -> Result<(), Refused> {
        other
            .inbox
            .card()
            .map_or(Ok(()), |card| self.inbox.admit(&card))
    }
}

/// A clerk as the network sees it.
struct ClerkPort {
    number: u64,
    inbox: Arc<dyn ClerkInbox>,
    gate: Gate,
}

impl ClerkPort {
    fn deliver(&self, from: NodeId, reply: Reply) -> bool {
        self.gate.while_open(|| self.inbox.reply(from, reply))
    }
}

/// Who gets a frame, and from whom.
#[derive(Clone)]
enum Way {
    Node(Arc<NodePort>, Origin),
    Clerk(Arc<ClerkPort>, NodeId),
}

impl Parcel {
    fn deliver(self) -> bool {
        match (self.way, self.frame) {
            (Way::Node(port, origin), frame) => port.deliver(origin, frame),
            (Way::Clerk(clerk, from), Frame::Reply(reply)) => clerk.deliver(from, reply),
            (Way::Clerk(..), _) => unreachable!("clerks are sent replies only"),
        }
    }
}

/// The way back from a node to a clerk. Weak, so that a request that a node keeps does not keep
/// the network.
struct MemoryReplySink {
    network: Weak<MemoryNetwork>,
    node: NodeId,
    clerk: Weak<ClerkPort>,
}

impl ReplySink for MemoryReplySink {
    fn reply(&self, reply: Reply) {
        let (Some(network), Some(clerk)) = (self.network.upgrade(), self.clerk.upgrade()) else {
            return;
        };
        if network.faults.none() {
            clerk.deliver(self.node, reply);
            return;
        }
        let parcel = Parcel {
            frame: Frame::Reply(reply),
            way: Way::Clerk(clerk, self.node),
        };
        let from = Endpoint::Node(self.node);
        for parcel in network.faults.pass(from, Endpoint::Clerks, parcel) {
            parcel.deliver();
        }
    }
}
