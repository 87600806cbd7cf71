//! A clerk's connections to the nodes of a cluster.
//!
//! Invariants:
//! - A node is known by the id that it gave in a handshake, or that another node gave for it; the
//!   cluster is the one that the first node named, and no other is talked to afterwards.
//! - One link for each node; it connects when there is something to send.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use quorate_raft::NodeId;

use super::TcpError;
use super::event::{CloseReason, Lane, Monitor, TcpStats, TransportEvent};
use super::handshake::{Accept, Hello};
use super::link::{Link, Purpose};
use super::options::{NODES_MAX, Observer, TcpLimits};
use super::queue::Queue;
use super::seek::find_node;
use super::threads::Threads;
use crate::runtime::Events;
use crate::transport::{ClerkInbox, ClerkLink, Frame, Request};

/// How a clerk connects.
#[derive(Clone)]
pub struct TcpClerkOptions {
    /// The cluster that is meant; `None` takes the one that answers.
    pub cluster_id: Option<u64>,
    /// How long to look for a first node, in milliseconds: names are looked up, connections made and
    /// answers waited for within it.
    pub connect_timeout_ms: u64,
    /// Bounds in bytes, numbers and time.
    pub limits: TcpLimits,
    /// Told of what happens to connections.
    pub observer: Option<Observer>,
}

impl Default for TcpClerkOptions {
    fn default() -> Self {
        Self {
            cluster_id: None,
            connect_timeout_ms: 5000,
            limits: TcpLimits::default(),
            observer: None,
        }
    }
}

/// A clerk's way to a cluster over TCP. Dropping it stops it.
pub struct TcpClerkLink {
    shared: Arc<Shared>,
}

/// What the links of a clerk learn for each other.
struct Shared {
    cluster_id: OnceLock<u64>,
    groups: AtomicU32,
    nodes: RwLock<Nodes>,
    limits: TcpLimits,
    monitor: Arc<Monitor>,
    threads: Arc<Threads>,
    inbox: Arc<dyn ClerkInbox>,
    /// The addresses that the user gave. A node whose own address leads nowhere from here may
    /// still be reached at one of these.
    seeds: Vec<String>,
    jitter: u64,
}

#[derive(Default)]
struct Nodes {
    /// No link is made any more, so that those to stop are all there are.
    stopped: bool,
    /// In the order in which they became known: the one that answered first is first.
    order: Vec<NodeId>,
    links: HashMap<NodeId, Arc<NodeLink>>,
}

struct NodeLink {
    link: Arc<Link<Node>>,
    begun: AtomicBool,
}

impl TcpClerkLink {
    /// Tries the addresses in turn, again and again, until a node accepts or the time is up; blocks
    /// for that long. The other nodes are learned from the one that accepted.
    ///
    /// A name is looked up on a thread of its own, at most one for each address: the system can take
    /// longer than there is time, and cannot be told to stop. Such a thread ends by itself.
    pub fn connect(
        addresses: Vec<String>,
        options: TcpClerkOptions,
        inbox: Arc<dyn ClerkInbox>,
    ) -> Result<Arc<Self>, TcpError> {
        options.limits.check()?;
        let (address, stream, accept) = find_node(&addresses, &options)?;
        // Clerks of one process start from different local ports.
        let jitter = stream
            .local_addr()
            .map_or(0, |address| u64::from(address.port()));
        let shared = Shared::new(options, addresses, jitter, inbox);
        let clerk = Arc::new(Self {
            shared: Arc::clone(&shared),
        });
        let first = shared
            .know(accept.node, &address)
            .expect("the first node is within bounds");
        shared
            .learn(&accept)
            .map_err(|reason| TcpError::Unreachable {
                failures: vec![(address, reason)],
            })?;
        first.link.queue.attach(&stream);
        first.begun.store(true, Ordering::Release);
        let link = Arc::clone(&first.link);
        shared
            .threads
            .spawn("quorate-clerk".into(), move || link.run(Some(stream)))
            .map_err(TcpError::Thread)?;
        Ok(clerk)
    }

    /// A link to nodes that are known, and need not run yet. Nothing is connected before it is
    /// used.
    pub fn to_nodes(
        nodes: impl IntoIterator<Item = (NodeId, String)>,
        groups: u32,
        options: TcpClerkOptions,
        inbox: Arc<dyn ClerkInbox>,
    ) -> Arc<Self> {
        let shared = Shared::new(options, Vec::new(), 0, inbox);
        shared.groups.store(groups, Ordering::Release);
        for (node, address) in nodes {
            shared.know(node, &address);
        }
        Arc::new(Self { shared })
    }

    /// What it has done so far.
    pub fn stats(&self) -> TcpStats {
        self.shared.monitor.stats()
    }
}

impl ClerkLink for TcpClerkLink {
    fn send(&self, to: NodeId, request: Request) -> bool {
        let Some(node) = self.shared.nodes.read().links.get(&to).cloned() else {
            return false;
        };
        if !node.begun.swap(true, Ordering::AcqRel) {
            let link = Arc::clone(&node.link);
            let begun = self
                .shared
                .threads
                .spawn("quorate-clerk".into(), move || link.run(None));
            if begun.is_err() {
                node.begun.store(false, Ordering::Release);
                return false;
            }
        }
        node.link.send(Frame::Request(request))
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.shared.nodes.read().order.clone()
    }

    fn groups(&self) -> Option<u32> {
        Some(self.shared.groups.load(Ordering::Acquire))
    }

    /// Waits for its threads, like the transport of a node.
    fn stop(&self) {
        {
            let mut nodes = self.shared.nodes.write();
            nodes.stopped = true;
            nodes.links.values().for_each(|node| node.link.queue.stop());
        }
        self.shared.threads.join();
    }
}

impl Drop for TcpClerkLink {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn new(
        options: TcpClerkOptions,
        seeds: Vec<String>,
        jitter: u64,
        inbox: Arc<dyn ClerkInbox>,
    ) -> Arc<Self> {
        let told = Arc::clone(&inbox);
        Arc::new(Self {
            cluster_id: options
                .cluster_id
                .map_or_else(OnceLock::new, OnceLock::from),
            groups: AtomicU32::new(0),
            nodes: RwLock::default(),
            limits: options.limits,
            monitor: Arc::new(Monitor::new(options.observer.map(Events::relay))),
            threads: Threads::watched(move |reason| told.failed(reason)),
            inbox,
            seeds,
            jitter,
        })
    }

    /// The link to a node, which may be new, and may be found at this address. `None`: one too
    /// many, or stopped.
    fn know(self: &Arc<Self>, node: NodeId, address: &str) -> Option<Arc<NodeLink>> {
        let mut nodes = self.nodes.write();
        if let Some(known) = nodes.links.get(&node) {
            known.link.purpose.add_address(address);
            return Some(Arc::clone(known));
        }
        if nodes.stopped || nodes.order.len() >= NODES_MAX {
            return None;
        }
        let purpose = Node {
            id: node,
            shared: Arc::downgrade(self),
            addresses: Mutex::new(vec![address.to_owned()]),
            seeds: self.seeds.clone(),
            monitor: Arc::clone(&self.monitor),
        };
        let link = Arc::new(NodeLink {
            link: Arc::new(Link {
                purpose,
                queue: Arc::new(Queue::new(&self.limits)),
                limits: self.limits,
                monitor: Arc::clone(&self.monitor),
                threads: Arc::clone(&self.threads),
                lazy: true,
                jitter: self.jitter ^ node.0.rotate_left(32),
            }),
            begun: AtomicBool::new(false),
        });
        nodes.order.push(node);
        nodes.links.insert(node, Arc::clone(&link));
        Some(link)
    }

    /// Adopts what a node says of its cluster, unless it is another one.
    fn learn(self: &Arc<Self>, accept: &Accept) -> Result<(), CloseReason> {
        let ours = *self.cluster_id.get_or_init(|| accept.cluster_id);
        if ours != accept.cluster_id {
            return Err(CloseReason::WrongCluster {
                ours,
                theirs: accept.cluster_id,
            });
        }
        // Keys go to groups by their number, which never changes: a node that says otherwise is misled, or misleads.
        let known =
            self.groups
                .compare_exchange(0, accept.groups, Ordering::AcqRel, Ordering::Acquire);
        if let Err(ours) = known
            && ours != accept.groups
        {
            return Err(CloseReason::WrongGroups {
                ours,
                theirs: accept.groups,
            });
        }
        for (node, address) in &accept.nodes {
            self.know(*node, address);
        }
        Ok(())
    }
}

/// The purpose of a link from a clerk to a node.
struct Node {
    id: NodeId,
    /// Weak: the table there holds this link.
    shared: Weak<Shared>,
    addresses: Mutex<Vec<String>>,
    seeds: Vec<String>,
    monitor: Arc<Monitor>,
}

/// How many addresses are kept for a node: the user's and that of the peer list, and one that
/// changed.
const ADDRESSES_MAX: usize = 3;

impl Node {
    fn add_address(&self, address: &str) {
        let mut addresses = self.addresses.lock();
        if !addresses.iter().any(|known| known == address) {
            // The first one has led to the node, or is all that was known at first: it stays.
            addresses.truncate(ADDRESSES_MAX - 1);
            addresses.insert(1, address.to_owned());
        }
    }
}

impl Purpose for Node {
    fn hello(&self) -> Hello {
        let shared = self.shared.upgrade();
        let cluster_id = shared.and_then(|shared| shared.cluster_id.get().copied());
        Hello::clerk(cluster_id, Some(self.id))
    }

    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.addresses.lock().clone();
        let others = self
            .seeds
            .iter()
            .filter(|seed| !addresses.contains(seed))
            .cloned();
        let others: Vec<_> = others.collect();
        addresses.extend(others);
        addresses
    }

    fn accepted(&self, accept: Accept, _stream: &Arc<TcpStream>) -> Result<(), CloseReason> {
        if accept.node != self.id {
            return Err(CloseReason::WrongNode {
                expected: self.id,
                found: accept.node,
            });
        }
        self.shared
            .upgrade()
            .map_or(Err(CloseReason::Stopped), |shared| shared.learn(&accept))
    }

    fn deliver(&self, frame: Frame) -> Result<(), CloseReason> {
        match frame {
            Frame::Reply(reply) => {
                if let Some(shared) = self.shared.upgrade() {
                    shared.inbox.reply(self.id, reply);
                }
                Ok(())
            }
            _ => Err(CloseReason::Unexpected),
        }
    }

    fn connected(&self) {
        self.monitor.tell(&TransportEvent::Connected {
            node: self.id,
            lane: Lane::Main,
        });
    }

    fn disconnected(&self, reason: CloseReason) {
        let stopped = reason == CloseReason::Stopped;
        let (node, lane) = (self.id, Lane::Main);
        self.monitor
            .tell(&TransportEvent::Disconnected { node, lane, reason });
        if !stopped && let Some(shared) = self.shared.upgrade() {
            shared.inbox.disconnected(self.id);
        }
    }

    fn unreachable(&self, reason: CloseReason, frames_dropped: usize) {
        let (node, lane) = (self.id, Lane::Main);
        self.monitor
            .tell(&TransportEvent::Unreachable { node, lane, reason });
        if frames_dropped > 0
            && let Some(shared) = self.shared.upgrade()
        {
            shared.inbox.disconnected(self.id);
        }
    }
}
