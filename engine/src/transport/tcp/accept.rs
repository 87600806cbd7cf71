//! The listening side: takes connections, judges their hello, and serves them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_raft::NodeId;

use super::event::{CloseReason, Lane, Monitor, TransportEvent};
use super::handshake::{Accept, Hello, read_hello, write_accept, write_reject};
use super::incoming::{Entry, Incoming, Role};
use super::options::TcpLimits;
use super::queue::Queue;
use super::stream::{enqueue, receive, say_alive, transmit};
use super::threads::Threads;
use crate::transport::{Frame, Inbox, Origin, Refusal, Reply, ReplySink};

/// How long to wait when the operating system has no connection to give, mostly for want of file
/// descriptors: others must be closed first.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What serving connections needs.
pub(super) struct Server {
    /// What this side says to nodes.
    pub(super) accept: Accept,
    /// What it says to clerks, who may be anybody.
    pub(super) accept_clerk: Accept,
    pub(super) limits: TcpLimits,
    pub(super) monitor: Arc<Monitor>,
    pub(super) threads: Arc<Threads>,
    pub(super) incoming: Arc<Incoming>,
    pub(super) inbox: Arc<dyn Inbox>,
    /// Told that a node has called, which shows that it lives.
    pub(super) heard_of: Box<dyn Fn(NodeId) + Send + Sync>,
}

impl Server {
    /// The body of the accepting thread. Ends when `incoming` is stopped and the socket is woken.
    pub(super) fn listen(self: &Arc<Self>, listener: &TcpListener) {
        while !self.incoming.is_stopped() {
            match listener.accept() {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.incoming.is_stopped() => {}
                Err(error) => {
                    self.monitor.tell(&TransportEvent::AcceptFailed {
                        error: error.into(),
                    });
                    self.incoming.wait_stopped(ACCEPT_RETRY);
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let stream = Arc::new(stream);
        let entry = match self.incoming.enter(&stream) {
            Ok(entry) => entry,
            // Being stopped: the connection may be the one that wakes this thread.
            Err(CloseReason::Stopped) => return,
            Err(reason) => {
                // Must not wait for the stranger: the accepting thread is everybody's.
                if stream.set_nonblocking(true).is_ok() {
                    // Its version is not known yet.
                    let _ = write_reject(&stream, &reason, 1);
                }
                self.monitor
                    .tell(&TransportEvent::Rejected { address, reason });
                return;
            }
        };
        let server = Arc::clone(self);
        let spawned = self.threads.spawn("quorate-serve".into(), move || {
            server.serve(&entry, address);
        });
        if let Err(error) = spawned
            && !self.incoming.is_stopped()
        {
            self.monitor.tell(&TransportEvent::AcceptFailed {
                error: error.into(),
            });
        }
    }

    /// The body of a connection's reading thread.
    fn serve(self: &Arc<Self>, entry: &Entry, address: SocketAddr) {
        let hello = match self.greet(entry) {
            Ok(hello) => hello,
            Err(reason) => {
                let reason = entry.reason(reason);
                self.monitor
                    .tell(&TransportEvent::Rejected { address, reason });
                return;
            }
        };
        let node = hello.from;
        self.monitor
            .tell(&TransportEvent::Accepted { address, node });
        let seen = match node {
            Some(node) => {
                (self.heard_of)(node);
                self.serve_node(entry, node, hello.lane)
            }
            None => self.serve_clerk(entry, hello.version),
        };
        let reason = entry.reason(seen);
        // Its answers come on the connection that it makes.
        if let Some(node) = node
            && hello.lane == Lane::Main
            && reason != CloseReason::Stopped
        {
            self.inbox.disconnected(node);
        }
        self.monitor.tell(&if reason.is_ordinary() {
            TransportEvent::Closed {
                address,
                node,
                reason,
            }
        } else {
            TransportEvent::Rejected { address, reason }
        });
    }

    /// Reads the hello, judges it, and answers.
    fn greet(&self, entry: &Entry) -> Result<Hello, CloseReason> {
        let stream = &*entry.stream;
        let failed = |error: io::Error| CloseReason::Io(error.into());
        stream.set_nodelay(true).map_err(failed)?;
        stream
            .set_write_timeout(Some(self.limits.handshake_timeout()))
            .map_err(failed)?;
        // A courtesy: the connection ends for `reason` whether or not it arrives.
        let reject = |reason: CloseReason, version| {
            let _ = write_reject(stream, &reason, version);
            reason
        };
        let hello = read_hello(stream, self.limits.handshake_timeout())
            .map_err(|reason| reject(reason, 1))?;
        let judged = self
            .judge(&hello)
            .and_then(|role| self.settle(entry, &hello, role));
        judged.map_err(|reason| reject(reason, hello.version))?;
        let accept = match hello.from {
            Some(_) => &self.accept,
            None => &self.accept_clerk,
        };
        write_accept(stream, accept, hello.version).map_err(failed)?;
        Ok(hello)
    }

    fn judge(&self, hello: &Hello) -> Result<Role, CloseReason> {
        let Accept {
            cluster_id,
            node,
            nodes,
            ..
        } = &self.accept;
        if let Some(theirs) = hello.cluster_id
            && theirs != *cluster_id
        {
            return Err(CloseReason::WrongCluster {
                ours: *cluster_id,
                theirs,
            });
        }
        if let Some(expected) = hello.to
            && expected != *node
        {
            return Err(CloseReason::WrongNode {
                expected,
                found: *node,
            });
        }
        let Some(from) = hello.from else {
            return Ok(Role::Clerk);
        };
        // A node that calls under this one's own id is a stranger too.
        if from == *node || !nodes.iter().any(|(known, _)| *known == from) {
            return Err(CloseReason::UnknownNode { node: from });
        }
        // Before it takes the place of another connection of this node. What it shows is written down first.
        let card = hello.card.as_ref().ok_or(CloseReason::BadHandshake)?;
        self.inbox.admit(card)?;
        Ok(Role::Node(from, hello.lane, card.identity()))
    }

    /// Gives the stranger its place, unless another start of its node was admitted after it.
    fn settle(&self, entry: &Entry, hello: &Hello, role: Role) -> Result<(), CloseReason> {
        let card = hello.card.as_ref();
        entry.settle(role, || card.is_none_or(|card| self.inbox.stands(card)))
    }

    fn serve_node(&self, entry: &Entry, from: NodeId, lane: Lane) -> CloseReason {
        let mut answered = Instant::now();
        receive(
            &entry.stream,
            &self.limits,
            &self.monitor,
            || {
                if answered.elapsed() < self.limits.keep_alive() / 2 {
                    return Ok(());
                }
                answered = Instant::now();
                say_alive(&entry.stream)
            },
            |frame| {
                // The buffer may hold more than one, and another start be admitted meanwhile.
                entry.check()?;
                check_node_frame(&frame, from, self.accept.node, lane)?;
                self.inbox.deliver(Origin::Node(from), frame);
                Ok(())
            },
        )
    }

    fn serve_clerk(self: &Arc<Self>, entry: &Entry, version: u16) -> CloseReason {
        let queue = Arc::new(Queue::new(&self.limits));
        queue.attach(&entry.stream);
        let (server, replies, stream) = (
            Arc::clone(self),
            Arc::clone(&queue),
            Arc::clone(&entry.stream),
        );
        let spawned = self.threads.spawn("quorate-reply".into(), move || {
            let reason = transmit(&replies, &stream, &server.limits, &server.monitor, false);
            replies.fail(&stream, reason);
        });
        if let Err(error) = spawned {
            return CloseReason::Io(error.into());
        }
        let sink: Arc<dyn ReplySink> = Arc::new(ClerkSink {
            queue: Arc::clone(&queue),
            limits: self.limits,
            monitor: Arc::clone(&self.monitor),
            version,
        });
        let mut answered = Instant::now();
        let seen = receive(
            &entry.stream,
            &self.limits,
            &self.monitor,
            || {
                if answered.elapsed() >= self.limits.keep_alive() / 2 {
                    answered = Instant::now();
                    queue.keep_alive();
                }
                Ok(())
            },
            |frame| match frame {
                Frame::Request(_) => {
                    self.inbox.deliver(Origin::Clerk(Arc::clone(&sink)), frame);
                    Ok(())
                }
                _ => Err(CloseReason::Unexpected),
            },
        );
        // If the writer failed first, what the reader saw is its consequence.
        let reason = queue.fail(&entry.stream, seen);
        queue.stop();
        reason
    }
}

/// What a node may send: its own messages to this node, each on its lane.
fn check_node_frame(
    frame: &Frame,
    from: NodeId,
    to: NodeId,
    lane: Lane,
) -> Result<(), CloseReason> {
    if super::lane_of(frame) != lane {
        return Err(CloseReason::Unexpected);
    }
    if let Frame::Raft(messages) = frame
        && messages
            .iter()
            .any(|m| m.message.from != from || m.message.to != to)
    {
        return Err(CloseReason::Misaddressed);
    }
    Ok(())
}

/// The way back to a clerk over its own connection.
struct ClerkSink {
    queue: Arc<Queue>,
    limits: TcpLimits,
    monitor: Arc<Monitor>,
    /// What the clerk speaks.
    version: u16,
}

/// A refusal as a clerk of this version understands it. What it has no word for ends its connection.
fn in_words_of(version: u16, refusal: Refusal) -> Refusal {
    match refusal {
        // Ask elsewhere, or again.
        Refusal::Unfounded { .. } if version == 1 => Refusal::NotLeader { leader: None },
        // Nothing is written for now, and it passes by itself.
        Refusal::OutOfHandles if version == 1 => Refusal::DiskFull,
        refusal => refusal,
    }
}

impl ReplySink for ClerkSink {
    fn reply(&self, mut reply: Reply) {
        if let Err(refusal) = &mut reply.result {
            *refusal = in_words_of(self.version, *refusal);
        }
        enqueue(
            &self.queue,
            Frame::Reply(reply),
            &self.limits,
            &self.monitor,
        );
    }
}

#[cfg(test)]
mod tests;
