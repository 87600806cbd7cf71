//! The two loops over a connection that stands: one writes what is queued, one reads what comes.
//!
//! Invariants:
//! - A batch is whole frames; it is written before the next is taken, so that at most one batch
//!   more than the queue's bound is in memory.
//! - Either loop ends with a reason, and ending one ends the other through the stream.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::event::{CloseReason, Monitor};
use super::handshake::is_timeout;
use super::options::TcpLimits;
use super::queue::{Popped, Queue};
use crate::transport::Frame;
use crate::transport::codec::{Arrived, Batch, FrameBuffer, body_bytes, split};

/// Encodes nothing yet, but refuses what cannot be sent, and queues the rest.
pub(super) fn enqueue(queue: &Queue, frame: Frame, limits: &TcpLimits, monitor: &Monitor) -> bool {
    let queued = match body_bytes(&frame) {
        Ok(bytes) if bytes <= limits.frame_bytes_max() => {
            queue.push(&mut std::iter::once((frame, bytes)))
        }
        Ok(_) => split(frame, limits.frame_bytes_max())
            .is_ok_and(|frames| queue.push(&mut frames.into_iter())),
        Err(_) => false,
    };
    if !queued {
        Monitor::add(&monitor.frames_dropped, 1);
    }
    queued
}

/// Writes what is queued until the connection ends. With `alive`, says so when there is nothing
/// else to say; without, only when the queue is asked to.
pub(super) fn transmit(
    queue: &Queue,
    stream: &Arc<TcpStream>,
    limits: &TcpLimits,
    monitor: &Monitor,
    alive: bool,
) -> CloseReason {
    if let Err(error) = stream.set_write_timeout(Some(limits.write_timeout())) {
        return CloseReason::Io(error.into());
    }
    let mut frames = Vec::new();
    let mut batch = Batch::new();
    loop {
        let deadline = alive.then(|| Instant::now() + limits.keep_alive());
        let keep_alive = match queue.pop(&mut frames, limits.batch_bytes_max, deadline) {
            Popped::Work { keep_alive } => keep_alive,
            Popped::Idle => true,
            Popped::Ended(reason) => return reason,
        };
        if keep_alive {
            batch.push_keep_alive();
        }
        for frame in frames.drain(..) {
            batch
                .push(&frame)
                .expect("`enqueue` lets nothing in that has no encoding");
        }
        if let Err(error) = batch.write_to(&mut &**stream) {
            Monitor::add(&monitor.frames_dropped, batch.frames());
            return if is_timeout(&error) {
                CloseReason::WriteTimeout {
                    timeout_ms: limits.write_timeout_ms,
                }
            } else {
                CloseReason::Io(error.into())
            };
        }
        Monitor::add(&monitor.batches_sent, 1);
        Monitor::add(&monitor.frames_sent, batch.frames());
        Monitor::add(&monitor.bytes_sent, batch.wire_bytes());
        batch.clear();
    }
}

/// Reads frames until the connection ends. `heard` is called after each read, `frame` for each
/// frame.
pub(super) fn receive(
    stream: &TcpStream,
    limits: &TcpLimits,
    monitor: &Monitor,
    mut heard: impl FnMut() -> Result<(), CloseReason>,
    mut frame: impl FnMut(Frame) -> Result<(), CloseReason>,
) -> CloseReason {
    if let Err(error) = stream.set_read_timeout(Some(limits.silence_timeout())) {
        return CloseReason::Io(error.into());
    }
    let mut buffer = FrameBuffer::new(limits.frame_bytes_max());
    loop {
        let step = read_some(stream, &mut buffer, limits, &monitor.bytes_received)
            .and_then(|()| heard())
            .and_then(|()| {
                while let Some(arrived) = buffer.next_frame()? {
                    if let Arrived::Frame(arrived) = arrived {
                        Monitor::add(&monitor.frames_received, 1);
                        frame(arrived)?;
                    }
                }
                Ok(())
            });
        if let Err(reason) = step {
            return reason;
        }
    }
}

/// Writes a keep-alive from a thread that otherwise only reads.
pub(super) fn say_alive(stream: &TcpStream) -> Result<(), CloseReason> {
    let mut batch = Batch::new();
    batch.push_keep_alive();
    (&mut &*stream)
        .write_all(&batch.to_vec())
        .map_err(|error| CloseReason::Io(error.into()))
}

fn read_some(
    mut stream: &TcpStream,
    buffer: &mut FrameBuffer,
    limits: &TcpLimits,
    received: &AtomicU64,
) -> Result<(), CloseReason> {
    loop {
        match stream.read(buffer.room()) {
            Ok(0) => return Err(CloseReason::PeerClosed),
            Ok(bytes) => {
                buffer.advance(bytes);
                Monitor::add(received, bytes);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => {
                return Err(CloseReason::Silent {
                    timeout_ms: limits.silence_timeout_ms,
                });
            }
            Err(error) => return Err(CloseReason::Io(error.into())),
        }
    }
}
