//! A connection that this side makes, and makes again whenever it is lost: from a node to a peer on
//! one lane, or from a clerk to a node.
//!
//! Invariants:
//! - One thread runs the link and writes; for each connection that stands one more reads.
//! - Frames wait only from the beginning of an attempt to the end of the connection. Between
//!   attempts they are refused: messages of a while ago are of no use to Raft, and a clerk had
//!   better ask another node.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{CloseReason, Monitor};
use super::handshake::{Accept, Hello, introduce};
use super::options::{TcpLimits, millis};
use super::queue::Queue;
use super::stream::{enqueue, receive, transmit};
use super::threads::Threads;
use crate::transport::Frame;

/// What a link is for.
pub(super) trait Purpose: Send + Sync + 'static {
    /// How to introduce this side.
    fn hello(&self) -> Hello;

    /// Where the other side may be found; one is tried at a time.
    fn addresses(&self) -> Vec<String>;

    /// The other side does not want this one.
    fn rejected(&self, _reason: &CloseReason) {}

    /// Judges and learns from what the other side of this stream says of itself.
    fn accepted(&self, accept: Accept, stream: &Arc<TcpStream>) -> Result<(), CloseReason>;

    /// Takes what the other side sends.
    fn deliver(&self, frame: Frame) -> Result<(), CloseReason>;

    /// The connection stands.
    fn connected(&self);

    /// The connection is lost.
    fn disconnected(&self, reason: CloseReason);

    /// An attempt failed, and this many frames that had waited for it are dropped.
    fn unreachable(&self, reason: CloseReason, frames_dropped: usize);
}

pub(super) struct Link<P> {
    pub(super) purpose: P,
    pub(super) queue: Arc<Queue>,
    pub(super) limits: TcpLimits,
    pub(super) monitor: Arc<Monitor>,
    pub(super) threads: Arc<Threads>,
    /// Whether a connection is made only when there is something to send.
    pub(super) lazy: bool,
    /// Differs between links, so that those that failed together do not try again together.
    pub(super) jitter: u64,
}

impl<P: Purpose> Link<P> {
    pub(super) fn send(&self, frame: Frame) -> bool {
        enqueue(&self.queue, frame, &self.limits, &self.monitor)
    }

    /// The body of the link's thread. Ends when the queue is stopped.
    pub(super) fn run(self: &Arc<Self>, mut ready: Option<Arc<TcpStream>>) {
        let mut failures = 0_u32;
        for attempt in 0_u64.. {
            let stream = match ready.take() {
                Some(stream) => Ok(stream),
                None if self.lazy && !self.queue.wait_for_frame() => return,
                None => self.dial(attempt),
            };
            let began = Instant::now();
            match stream {
                Ok(stream) => self.converse(&stream),
                Err(reason) => {
                    let dropped = self.hang_up();
                    if !self.queue.is_stopped() {
                        self.purpose.unreachable(reason, dropped);
                    }
                }
            }
            // A connection that stood for a while was none of the failures in a row.
            let stood = began.elapsed() >= self.limits.backoff_max();
            failures = if stood { 0 } else { failures.saturating_add(1) };
            let wait = self.backoff(failures, attempt);
            if !self.queue.wait_down(Instant::now() + wait) {
                return;
            }
        }
    }

    fn dial(&self, attempt: u64) -> Result<Arc<TcpStream>, CloseReason> {
        let addresses = self.purpose.addresses();
        let Some(rest) = attempt.checked_rem(addresses.len() as u64) else {
            return Err(CloseReason::Resolve(io::ErrorKind::NotFound.into()));
        };
        let dialled = dial(
            &addresses[rest as usize],
            &self.purpose.hello(),
            self.limits.connect_timeout(),
            self.limits.handshake_timeout(),
            |stream| self.queue.attach(stream),
        );
        let (stream, accept) = dialled.inspect_err(|reason| self.purpose.rejected(reason))?;
        self.purpose.accepted(accept, &stream)?;
        Ok(stream)
    }

    /// Reads and writes until the connection ends.
    fn converse(self: &Arc<Self>, stream: &Arc<TcpStream>) {
        self.purpose.connected();
        let (link, read_from) = (Arc::clone(self), Arc::clone(stream));
        let spawned = self.threads.spawn("quorate-read".into(), move || {
            let reason = receive(
                &read_from,
                &link.limits,
                &link.monitor,
                || Ok(()),
                |frame| link.purpose.deliver(frame),
            );
            link.queue.fail(&read_from, reason);
        });
        let reason = match spawned {
            Ok(()) => transmit(&self.queue, stream, &self.limits, &self.monitor, true),
            Err(error) => CloseReason::Io(error.into()),
        };
        let reason = self.queue.fail(stream, reason);
        self.hang_up();
        self.purpose.disconnected(reason);
    }

    fn hang_up(&self) -> usize {
        let dropped = self.queue.down();
        Monitor::add(&self.monitor.frames_dropped, dropped);
        dropped
    }

    /// Doubles from the least to the most; the upper half of it is jitter.
    fn backoff(&self, failures: u32, attempt: u64) -> Duration {
        let doubled = self.limits.backoff_min_ms << failures.saturating_sub(1).min(20);
        let whole_us = millis(doubled).min(self.limits.backoff_max()).as_micros() as u64;
        let mixed = (self.jitter ^ attempt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        Duration::from_micros(whole_us / 2 + mixed % (whole_us / 2 + 1))
    }
}

/// Connects to an address and introduces this side. `attach` is given the stream as soon as there
/// is one, so that it can be shut from elsewhere, and says whether to go on.
fn dial(
    address: &str,
    hello: &Hello,
    connect_timeout: Duration,
    handshake_timeout: Duration,
    attach: impl FnOnce(&Arc<TcpStream>) -> bool,
) -> Result<(Arc<TcpStream>, Accept), CloseReason> {
    // Anew each time: the address behind a name changes when its node moves.
    let stream = Arc::new(connect(&resolve(address)?, connect_timeout)?);
    if !attach(&stream) {
        return Err(CloseReason::Stopped);
    }
    let accept = introduce(&stream, hello, handshake_timeout)?;
    Ok((stream, accept))
}

/// What an address stands for. Takes as long as the system tries its name servers.
pub(super) fn resolve(address: &str) -> Result<Vec<SocketAddr>, CloseReason> {
    let resolved = address
        .to_socket_addrs()
        .map_err(|error| CloseReason::Resolve(error.into()))?;
    Ok(resolved.collect())
}

/// Tries what a name stands for, one after the other, with an equal share of the time for each.
pub(super) fn connect(
    resolved: &[SocketAddr],
    timeout: Duration,
) -> Result<TcpStream, CloseReason> {
    let share = timeout / u32::try_from(resolved.len().max(1)).unwrap_or(u32::MAX);
    let share = share.max(Duration::from_millis(1));
    let mut failure = CloseReason::Resolve(io::ErrorKind::NotFound.into());
    for address in resolved {
        match TcpStream::connect_timeout(address, share).and_then(prepare) {
            Ok(stream) => return Ok(stream),
            // This side's own clock, and not the system's, which says it with a number.
            Err(error)
                if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() =>
            {
                failure = CloseReason::ConnectTimeout {
                    timeout_ms: share.as_millis() as u64,
                };
            }
            Err(error) => failure = CloseReason::Io(error.into()),
        }
    }
    Err(failure)
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    // Where nobody listens on a port of the range that outgoing connections are given theirs from,
    // a connection may meet itself, and would then keep the port from the node that should listen
    // there.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}
