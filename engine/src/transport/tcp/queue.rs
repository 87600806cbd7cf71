//! The bounded queue before one connection, and the state of that connection.
//!
//! Invariants:
//! - Frames wait only while the line is open; when it goes down they are dropped and counted.
//! - `bytes` is the sum of the sizes of the waiting frames. It and their number keep to their
//!   bounds, unless all that waits was sent at once.
//! - The first reason for a connection's end is kept; later ones are its consequences.
//! - Once stopped, always stopped.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::event::CloseReason;
use super::options::TcpLimits;
use crate::transport::Frame;

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    frames_max: usize,
    bytes_max: usize,
}

struct State {
    phase: Phase,
    frames: VecDeque<(Frame, usize)>,
    bytes: usize,
    stream: Option<Arc<TcpStream>>,
    fault: Option<CloseReason>,
    keep_alive: bool,
    hurried: bool,
    /// Somebody waits on the condition variable, so that a send need not wake nobody.
    waiting: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Frames wait for the connection, which stands or is being made.
    Open,
    /// Between two attempts: frames are refused, so that their senders try elsewhere.
    Down,
    Stopped,
}

/// What [`Queue::pop`] found.
pub(super) enum Popped {
    /// Frames were moved out, or a keep-alive is due, or both.
    Work { keep_alive: bool },
    /// Nothing came until the deadline.
    Idle,
    /// The connection has ended.
    Ended(CloseReason),
}

impl Queue {
    /// An open queue with no connection yet.
    pub(super) fn new(limits: &TcpLimits) -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Open,
                frames: VecDeque::new(),
                bytes: 0,
                stream: None,
                fault: None,
                keep_alive: false,
                hurried: false,
                waiting: false,
            }),
            changed: Condvar::new(),
            frames_max: limits.queue_frames_max,
            bytes_max: limits.queue_bytes_max,
        }
    }

    /// Appends frames with their sizes: all of them, or none and `false`. What is sent at once may
    /// wait at once if nothing else does, whatever its size: it would never get through otherwise.
    pub(super) fn push(&self, frames: &mut dyn ExactSizeIterator<Item = (Frame, usize)>) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return false;
        }
        let waiting = state.frames.len();
        let waiting_bytes = state.bytes;
        if waiting > 0 && waiting + frames.len() > self.frames_max {
            return false;
        }
        for (frame, bytes) in frames {
            state.bytes += bytes;
            state.frames.push_back((frame, bytes));
        }
        if waiting > 0 && state.bytes > self.bytes_max {
            state.frames.truncate(waiting);
            state.bytes = waiting_bytes;
            return false;
        }
        self.wake(&mut state);
        true
    }

    /// Moves frames out until they reach `batch_bytes_max`. Waits for the first until `deadline`.
    pub(super) fn pop(
        &self,
        into: &mut Vec<Frame>,
        batch_bytes_max: usize,
        deadline: Option<Instant>,
    ) -> Popped {
        let mut state = self.state.lock();
        loop {
            if let Some(reason) = state.ended() {
                return Popped::Ended(reason);
            }
            if !state.frames.is_empty() || state.keep_alive {
                break;
            }
            if self.wait(&mut state, deadline) {
                return Popped::Idle;
            }
        }
        let mut batch_bytes = 0;
        while batch_bytes < batch_bytes_max
            && let Some((frame, bytes)) = state.frames.pop_front()
        {
            batch_bytes += bytes;
            state.bytes -= bytes;
            into.push(frame);
        }
        assert!(
            !state.frames.is_empty() || state.bytes == 0,
            "sizes are taken out as put in"
        );
        Popped::Work {
            keep_alive: std::mem::take(&mut state.keep_alive),
        }
    }

    /// Waits until a frame waits. `false`: stopped.
    pub(super) fn wait_for_frame(&self) -> bool {
        let mut state = self.state.lock();
        while state.phase != Phase::Stopped && state.frames.is_empty() {
            self.wait(&mut state, None);
        }
        state.phase != Phase::Stopped
    }

    /// Keeps the line down until `until`, or until [`Queue::hurry`]; then opens it. `false`:
    /// stopped.
    pub(super) fn wait_down(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while state.phase == Phase::Down && !state.hurried {
            if self.wait(&mut state, Some(until)) {
                break;
            }
        }
        if state.phase == Phase::Stopped {
            return false;
        }
        state.phase = Phase::Open;
        state.hurried = false;
        true
    }

    /// Ends a wait between two attempts: the other side has shown that it lives.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Down {
            state.hurried = true;
            self.wake(&mut state);
        }
    }

    /// Makes a stream the one that [`Queue::stop`] and [`Queue::fail`] shut. `false`: stopped.
    pub(super) fn attach(&self, stream: &Arc<TcpStream>) -> bool {
        let mut state = self.state.lock();
        if state.phase == Phase::Stopped {
            return false;
        }
        state.stream = Some(Arc::clone(stream));
        state.fault = None;
        state.keep_alive = false;
        true
    }

    /// Asks for a keep-alive on the way out.
    pub(super) fn keep_alive(&self) {
        let mut state = self.state.lock();
        state.keep_alive = true;
        self.wake(&mut state);
    }

    /// Ends the connection over `stream`, unless another one stands already, and gives the reason
    /// for its end: `reason`, or an earlier one.
    pub(super) fn fail(&self, stream: &Arc<TcpStream>, reason: CloseReason) -> CloseReason {
        let mut state = self.state.lock();
        if let Some(earlier) = state.ended() {
            return earlier;
        }
        if state
            .stream
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, stream))
        {
            state.fault = Some(reason.clone());
            shut(stream);
            self.wake(&mut state);
        }
        reason
    }

    /// Lets go of the connection, if any, and of all that waits. Gives the number of frames
    /// dropped.
    pub(super) fn down(&self) -> usize {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Down;
        }
        state.drop_all()
    }

    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Stopped;
        state.drop_all();
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().phase == Phase::Stopped
    }

    /// Waits for a change. `true`: the deadline has passed.
    fn wait(
        &self,
        state: &mut parking_lot::MutexGuard<'_, State>,
        deadline: Option<Instant>,
    ) -> bool {
        state.waiting = true;
        let timed_out = if let Some(deadline) = deadline {
            self.changed.wait_until(state, deadline).timed_out()
        } else {
            self.changed.wait(state);
            false
        };
        state.waiting = false;
        timed_out
    }

    fn wake(&self, state: &mut State) {
        if state.waiting {
            state.waiting = false;
            self.changed.notify_all();
        }
    }
}

impl State {
    fn ended(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Stopped => Some(CloseReason::Stopped),
            Phase::Open | Phase::Down => self.fault.clone(),
        }
    }

    fn drop_all(&mut self) -> usize {
        if let Some(stream) = self.stream.take() {
            shut(&stream);
        }
        self.fault = None;
        self.keep_alive = false;
        self.bytes = 0;
        let dropped = self.frames.len();
        self.frames.clear();
        dropped
    }
}

/// Ends a connection under its reader and writer. It may have ended already: nothing to report
/// then.
pub(super) fn shut(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn stream() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(stream), listener.accept().unwrap().0)
    }

    fn pop(queue: &Queue) -> Option<CloseReason> {
        match queue.pop(&mut Vec::new(), 1, Some(Instant::now())) {
            Popped::Ended(reason) => Some(reason),
            Popped::Work { .. } | Popped::Idle => None,
        }
    }

    #[test]
    fn the_first_reason_is_kept_and_the_stream_shut() {
        let queue = Queue::new(&TcpLimits::default());
        let (stream, mut other_end) = stream();
        assert!(queue.attach(&stream));
        assert_eq!(pop(&queue), None);
        let first = CloseReason::Silent { timeout_ms: 1 };
        assert_eq!(queue.fail(&stream, first.clone()), first);
        assert_eq!(other_end.read(&mut [0]).unwrap(), 0);
        assert_eq!(queue.fail(&stream, CloseReason::PeerClosed), first);
        assert_eq!(pop(&queue), Some(first));
    }

    #[test]
    fn the_end_of_a_former_stream_is_not_that_of_the_present_one() {
        let queue = Queue::new(&TcpLimits::default());
        let ((former, _), (present, _other_end)) = (stream(), stream());
        assert!(queue.attach(&former));
        queue.down();
        assert!(queue.attach(&present));
        queue.fail(&former, CloseReason::PeerClosed);
        assert_eq!(pop(&queue), None);
    }

    #[test]
    fn once_stopped_always_stopped() {
        let queue = Queue::new(&TcpLimits::default());
        let (stream, mut other_end) = stream();
        assert!(queue.attach(&stream));
        queue.stop();
        assert_eq!(other_end.read(&mut [0]).unwrap(), 0);
        assert!(!queue.attach(&stream));
        assert!(!queue.wait_for_frame());
        assert!(!queue.wait_down(Instant::now()));
        assert_eq!(
            queue.fail(&stream, CloseReason::PeerClosed),
            CloseReason::Stopped
        );
        assert_eq!(pop(&queue), Some(CloseReason::Stopped));
    }
}
