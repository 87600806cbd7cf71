//! Frames over TCP, between machines: `docs/wire.md` is the protocol.
//!
//! Invariants:
//! - `send` takes a short lock and never waits for the network.
//! - A connection that breaks a rule is closed with a [`CloseReason`], counted and reported; no
//!   other connection notices.
//! - Every queue, connection count and wait has a bound in [`TcpLimits`].
//! - Threads hold what they need and not the transport itself, so that dropping it stops them.

mod accept;
mod clerk;
mod event;
mod handshake;
mod incoming;
mod link;
mod options;
mod queue;
mod seek;
mod stream;
mod threads;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use accept::Server;
pub use clerk::{TcpClerkLink, TcpClerkOptions};
pub use event::{CloseReason, Lane, SystemError, TcpStats, TransportEvent};
use event::{Monitor, hint_to_resolve};
use handshake::{Accept, Hello};
use incoming::{Dialled, Incoming};
use link::{Link, Purpose};
pub use options::{Observer, TcpLimits, TcpOptions};
use queue::Queue;
use quorate_raft::NodeId;
use thiserror::Error;
use threads::Threads;

use crate::membership::NodeCard;
use crate::runtime::Events;
use crate::transport::{Frame, Inbox, Transport};

/// Why a transport or a link could not begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; {hint}", hint = hint_to_listen(source))]
    Listen {
        /// The address.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The options contradict themselves.
    #[error("invalid options: {0}")]
    Options(&'static str),
    /// The operating system has no thread to give.
    #[error("cannot start a thread: {0}; raise the limit of threads of this process")]
    Thread(io::Error),
    /// No address led to a node.
    #[error("no node could be reached: {}", list(failures))]
    Unreachable {
        /// Each address, and why it did not.
        failures: Vec<(String, CloseReason)>,
    },
}

fn hint_to_listen(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "choose a free port, or end the process that has it",
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address: correct it, or name one that it has to listen at (0.0.0.0: all)"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a right: choose a higher one",
        // Not from listening, but from looking the address up before.
        _ if source.raw_os_error().is_none() => hint_to_resolve(source.kind()),
        _ => "see to what the system says",
    }
}

fn list(failures: &[(String, CloseReason)]) -> String {
    if failures.is_empty() {
        return "no address was given".into();
    }
    let each: Vec<_> = failures
        .iter()
        .map(|(at, reason)| format!("{at}: {reason}"))
        .collect();
    each.join("; ")
}

/// A node's connections to the other nodes of its cluster and to clerks. Dropping it stops it.
pub struct TcpTransport {
    peers: Arc<Peers>,
    incoming: Arc<Incoming>,
    monitor: Arc<Monitor>,
    threads: Arc<Threads>,
    local_addr: SocketAddr,
}

/// A node's links to its peers, one for each lane.
type Peers = BTreeMap<(NodeId, Lane), Arc<Link<Peer>>>;

impl TcpTransport {
    /// Begins to listen, and to connect to the peers. What arrives goes to `inbox`, on threads of
    /// this transport.
    pub fn bind(options: TcpOptions, inbox: Arc<dyn Inbox>) -> Result<Arc<Self>, TcpError> {
        let address = options.listen.clone();
        match TcpListener::bind(&address) {
            Ok(listener) => Self::bind_socket(options, listener, inbox),
            Err(source) => Err(TcpError::Listen { address, source }),
        }
    }

    /// The same with a socket that listens already; `options.listen` is not looked at. For whoever
    /// must know all ports before the first node of a cluster is told of the others.
    pub fn bind_socket(
        mut options: TcpOptions,
        listener: TcpListener,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Arc<Self>, TcpError> {
        options.observer = options.observer.map(Events::relay);
        Self::bind_relayed(options, listener, inbox)
    }

    /// The same with an observer that returns at once.
    pub(crate) fn bind_relayed(
        options: TcpOptions,
        listener: TcpListener,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Arc<Self>, TcpError> {
        options.check()?;
        let local_addr = listener
            .set_nonblocking(false)
            .and_then(|()| listener.local_addr())
            .map_err(|source| TcpError::Listen {
                address: options.listen.clone(),
                source,
            })?;
        let monitor = Arc::new(Monitor::new(options.observer.clone()));
        let told = Arc::clone(&inbox);
        let threads = Threads::watched(move |reason| told.failed(reason));
        let incoming = Incoming::new(&options.limits);
        let card = own_card(&options, local_addr, inbox.as_ref());
        let peers = Arc::new(links(
            &options, &card, &inbox, &incoming, &monitor, &threads,
        ));
        // From here on, an early return drops the transport, which ends the threads begun so far.
        let transport = Arc::new(Self {
            peers: Arc::clone(&peers),
            incoming: Arc::clone(&incoming),
            monitor: Arc::clone(&monitor),
            threads: Arc::clone(&threads),
            local_addr,
        });
        let (limits, accept) = (options.limits, introduction(options, card, local_addr));
        let server = Arc::new(Server {
            limits,
            accept_clerk: accept.for_clerks(),
            accept,
            monitor,
            threads: Arc::clone(&threads),
            incoming,
            inbox,
            heard_of: Box::new(move |node| {
                for lane in [Lane::Main, Lane::Snapshot] {
                    if let Some(link) = peers.get(&(node, lane)) {
                        link.queue.hurry();
                    }
                }
            }),
        });
        threads
            .spawn("quorate-accept".into(), move || server.listen(&listener))
            .map_err(TcpError::Thread)?;
        for link in transport.peers.values() {
            let link = Arc::clone(link);
            threads
                .spawn("quorate-link".into(), move || link.run(None))
                .map_err(TcpError::Thread)?;
        }
        Ok(transport)
    }

    /// Where it listens: the port that was taken if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it has done so far.
    pub fn stats(&self) -> TcpStats {
        self.monitor.stats()
    }
}

impl Transport for TcpTransport {
    fn send(&self, to: NodeId, frame: Frame) -> bool {
        self.peers
            .get(&(to, lane_of(&frame)))
            .is_some_and(|link| link.send(frame))
    }

    /// Waits for its threads: at most for one attempt to connect (`connect_timeout_ms`), and as
    /// long as the system takes to resolve a name. Called on one of these, it does not wait.
    fn stop(&self) {
        let first = self.incoming.stop();
        for link in self.peers.values() {
            link.queue.stop();
        }
        // Once only: later on, the port may be somebody else's.
        if first {
            wake_acceptor(self.local_addr);
        }
        self.threads.join();
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The lane that a frame travels on.
fn lane_of(frame: &Frame) -> Lane {
    match frame {
        Frame::SnapshotChunk(_) => Lane::Snapshot,
        Frame::Raft(_)
        | Frame::SnapshotAck(_)
        | Frame::Request(_)
        | Frame::Reply(_)
        | Frame::Status(_) => Lane::Main,
    }
}

/// What this node shows to those it meets.
fn own_card(options: &TcpOptions, local_addr: SocketAddr, inbox: &dyn Inbox) -> NodeCard {
    let bare = || NodeCard::bare(options.node, options.cluster_id, options.groups);
    let mut card = inbox.card().unwrap_or_else(bare);
    card.limits.frame_bytes_max = u64::from(options.limits.frame_bytes_max);
    if card.listen.is_empty() {
        card.listen = local_addr.to_string();
    }
    card
}

/// What this node says of itself and its cluster.
fn introduction(options: TcpOptions, card: NodeCard, local_addr: SocketAddr) -> Accept {
    let TcpOptions {
        node,
        cluster_id,
        groups,
        peers: mut nodes,
        ..
    } = options;
    if !nodes.iter().any(|(known, _)| *known == node) {
        nodes.push((node, local_addr.to_string()));
    }
    nodes.sort_unstable();
    Accept {
        cluster_id,
        node,
        groups,
        card,
        nodes,
    }
}

fn links(
    options: &TcpOptions,
    card: &NodeCard,
    inbox: &Arc<dyn Inbox>,
    incoming: &Arc<Incoming>,
    monitor: &Arc<Monitor>,
    threads: &Arc<Threads>,
) -> Peers {
    let card = Arc::new(card.clone());
    let mut links = Peers::new();
    for (node, address) in options
        .peers
        .iter()
        .filter(|(node, _)| *node != options.node)
    {
        for lane in [Lane::Main, Lane::Snapshot] {
            let queue = Arc::new(Queue::new(&options.limits));
            let peer = Peer {
                node: *node,
                lane,
                address: address.clone(),
                card: Arc::clone(&card),
                groups: options.groups,
                inbox: Arc::downgrade(inbox),
                incoming: Arc::clone(incoming),
                queue: Arc::clone(&queue),
                monitor: Arc::clone(monitor),
            };
            let link = Link {
                purpose: peer,
                queue,
                limits: options.limits,
                monitor: Arc::clone(monitor),
                threads: Arc::clone(threads),
                lazy: lane == Lane::Snapshot,
                jitter: options.node.0.rotate_left(32) ^ node.0.rotate_left(8) ^ lane as u64,
            };
            links.insert((*node, lane), Arc::new(link));
        }
    }
    links
}

/// A thread in `accept` is woken by a connection. If none can be made, others wait to be accepted,
/// and the thread is not asleep.
fn wake_acceptor(mut address: SocketAddr) {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
}

/// The purpose of a link from a node to a node.
struct Peer {
    node: NodeId,
    lane: Lane,
    address: String,
    card: Arc<NodeCard>,
    groups: u32,
    /// Weak: what delivers holds it, and lets it go when it stops.
    inbox: Weak<dyn Inbox>,
    incoming: Arc<Incoming>,
    queue: Arc<Queue>,
    monitor: Arc<Monitor>,
}

impl Peer {
    /// Requests go out on the main lane: what was asked may never be answered.
    fn lost(&self) {
        if self.lane == Lane::Main
            && let Some(inbox) = self.inbox.upgrade()
        {
            inbox.disconnected(self.node);
        }
    }
}

impl Purpose for Peer {
    fn hello(&self) -> Hello {
        Hello::node(NodeCard::clone(&self.card), self.node, self.lane)
    }

    fn addresses(&self) -> Vec<String> {
        vec![self.address.clone()]
    }

    fn accepted(&self, accept: Accept, stream: &Arc<TcpStream>) -> Result<(), CloseReason> {
        if accept.groups != self.groups {
            return Err(CloseReason::WrongGroups {
                ours: self.groups,
                theirs: accept.groups,
            });
        }
        if accept.node != self.node {
            return Err(CloseReason::WrongNode {
                expected: self.node,
                found: accept.node,
            });
        }
        let inbox = self.inbox.upgrade().ok_or(CloseReason::Stopped)?;
        inbox.admit(&accept.card)?;
        let dialled = Dialled {
            start: accept.card.identity(),
            queue: Arc::clone(&self.queue),
            stream: Arc::downgrade(stream),
        };
        self.incoming
            .settle_dialled((self.node, self.lane), dialled, || {
                inbox.stands(&accept.card)
            })?;
        inbox.judged(self.node, Ok(()));
        Ok(())
    }

    fn rejected(&self, reason: &CloseReason) {
        if let CloseReason::Identity(refused) = reason
            && let Some(inbox) = self.inbox.upgrade()
        {
            inbox.judged(self.node, Err(refused));
        }
    }

    /// What a node has to say it says on its own connection to this one.
    fn deliver(&self, _frame: Frame) -> Result<(), CloseReason> {
        Err(CloseReason::Unexpected)
    }

    fn connected(&self) {
        self.monitor.tell(&TransportEvent::Connected {
            node: self.node,
            lane: self.lane,
        });
    }

    fn disconnected(&self, reason: CloseReason) {
        let (node, lane) = (self.node, self.lane);
        let stopped = reason == CloseReason::Stopped;
        self.monitor
            .tell(&TransportEvent::Disconnected { node, lane, reason });
        if !stopped {
            self.lost();
        }
    }

    fn unreachable(&self, reason: CloseReason, frames_dropped: usize) {
        let (node, lane) = (self.node, self.lane);
        self.monitor
            .tell(&TransportEvent::Unreachable { node, lane, reason });
        if frames_dropped > 0 {
            self.lost();
        }
    }
}
