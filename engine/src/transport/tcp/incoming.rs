//! The connections that others make to this node, and how many there may be; and of those with nodes, also of the ones that
//! this side made, which start of the node they belong to.
//!
//! Invariants:
//! - A connection is a stranger until its hello has been judged. Strangers, clerks and nodes are
//!   bounded each for themselves, so that no number of clerks keeps a node out.
//! - At most one connection for each node and lane: a newer one ends the older one, which may
//!   belong to a process or a path that is gone.
//! - All connections with a node, of both lanes and directions, belong to one start of it: the one that
//!   was admitted last when the newest of them took its place.
//! - Each connection in `live` is removed when its [`Entry`] is dropped, on every path.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use quorate_raft::NodeId;

use super::event::{CloseReason, Lane};
use super::options::TcpLimits;
use super::queue::{Queue, shut};
use crate::membership::Start;

pub(super) struct Incoming {
    state: Mutex<State>,
    stopped: Condvar,
    handshakes_max: usize,
    clerks_max: usize,
}

#[derive(Default)]
struct State {
    stopped: bool,
    next: u64,
    live: HashMap<u64, Live>,
    /// The last connection of each link to a node.
    dialled: HashMap<(NodeId, Lane), Dialled>,
}

struct Live {
    stream: Arc<TcpStream>,
    role: Role,
    /// Why this side has shut the stream, if it has.
    ended: Option<CloseReason>,
    /// As `ended`, for those who ask often.
    is_ended: Arc<AtomicBool>,
}

/// Which start of a node is at the other end: the incarnation of its directory, and the start.
pub(super) type StartId = (u64, Start);

/// A connection that this side made to a node.
pub(super) struct Dialled {
    pub(super) start: StartId,
    pub(super) queue: Arc<Queue>,
    /// Weak: a connection that ended frees its handle.
    pub(super) stream: Weak<TcpStream>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Stranger,
    Clerk,
    Node(NodeId, Lane, StartId),
}

/// The place of one connection among those that live.
pub(super) struct Entry {
    incoming: Arc<Incoming>,
    number: u64,
    pub(super) stream: Arc<TcpStream>,
    is_ended: Arc<AtomicBool>,
}

impl Incoming {
    pub(super) fn new(limits: &TcpLimits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            stopped: Condvar::new(),
            handshakes_max: limits.handshakes_max,
            clerks_max: limits.clerks_max,
        })
    }

    /// Takes in a stranger.
    pub(super) fn enter(self: &Arc<Self>, stream: &Arc<TcpStream>) -> Result<Entry, CloseReason> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(CloseReason::Stopped);
        }
        if state.count(|role| role == Role::Stranger) >= self.handshakes_max {
            return Err(CloseReason::TooMany);
        }
        let number = state.next;
        state.next += 1;
        let (stream, is_ended) = (Arc::clone(stream), Arc::default());
        let live = Live {
            stream: Arc::clone(&stream),
            role: Role::Stranger,
            ended: None,
            is_ended: Arc::clone(&is_ended),
        };
        state.live.insert(number, live);
        Ok(Entry {
            incoming: Arc::clone(self),
            number,
            stream,
            is_ended,
        })
    }

    /// Gives a connection that this side made its place, and ends those with other starts of the node. `stands`: whether its
    /// start is the one that was admitted last.
    pub(super) fn settle_dialled(
        &self,
        (node, lane): (NodeId, Lane),
        dialled: Dialled,
        stands: impl FnOnce() -> bool,
    ) -> Result<(), CloseReason> {
        let mut state = self.state.lock();
        // Under the lock: whoever is admitted later comes later, and finds this one here.
        if !stands() {
            return Err(CloseReason::Replaced);
        }
        state.end_other_starts(node, dialled.start);
        state.dialled.insert((node, lane), dialled);
        Ok(())
    }

    /// Ends all connections and takes no more. `false`: had been called before.
    pub(super) fn stop(&self) -> bool {
        let mut state = self.state.lock();
        let first = !std::mem::replace(&mut state.stopped, true);
        for live in state.live.values_mut() {
            live.end(CloseReason::Stopped);
        }
        self.stopped.notify_all();
        first
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits until stopped, or for this long.
    pub(super) fn wait_stopped(&self, timeout: Duration) {
        let mut state = self.state.lock();
        let until = Instant::now() + timeout;
        while !state.stopped && !self.stopped.wait_until(&mut state, until).timed_out() {}
    }
}

impl State {
    fn count(&self, of: impl Fn(Role) -> bool) -> usize {
        self.live.values().filter(|live| of(live.role)).count()
    }

    fn end_other_starts(&mut self, node: NodeId, start: StartId) {
        for live in self.live.values_mut() {
            if let Role::Node(other, _, theirs) = live.role
                && other == node
                && theirs != start
            {
                live.end(CloseReason::Replaced);
            }
        }
        for ((other, _), dialled) in &self.dialled {
            if *other == node
                && dialled.start != start
                && let Some(stream) = dialled.stream.upgrade()
            {
                dialled.queue.fail(&stream, CloseReason::Replaced);
            }
        }
    }
}

impl Live {
    fn end(&mut self, reason: CloseReason) {
        self.ended.get_or_insert(reason);
        self.is_ended.store(true, Ordering::Release);
        shut(&self.stream);
    }
}

impl Entry {
    /// The stranger is somebody. `stands`: whether the start of a node is the one that was admitted last.
    pub(super) fn settle(
        &self,
        role: Role,
        stands: impl FnOnce() -> bool,
    ) -> Result<(), CloseReason> {
        let mut state = self.incoming.state.lock();
        match role {
            Role::Stranger => {}
            Role::Clerk => {
                if state.count(|role| role == Role::Clerk) >= self.incoming.clerks_max {
                    return Err(CloseReason::TooMany);
                }
            }
            Role::Node(node, _, start) => {
                // Under the lock, as above: between the judgement and this another start may have taken the place.
                if !stands() {
                    return Err(CloseReason::Replaced);
                }
                state.end_other_starts(node, start);
                for older in state.live.values_mut().filter(|live| live.role == role) {
                    older.end(CloseReason::Replaced);
                }
            }
        }
        let live = state
            .live
            .get_mut(&self.number)
            .expect("removed only when this is dropped");
        live.role = role;
        Ok(())
    }

    /// `Err`: this side has ended the connection.
    pub(super) fn check(&self) -> Result<(), CloseReason> {
        if self.is_ended.load(Ordering::Acquire) {
            return Err(self.reason(CloseReason::Replaced));
        }
        Ok(())
    }

    /// Why it ended: for a reason of this side, if there is one, else for the one that its reader
    /// saw.
    pub(super) fn reason(&self, seen: CloseReason) -> CloseReason {
        let state = self.incoming.state.lock();
        state
            .live
            .get(&self.number)
            .and_then(|live| live.ended.clone())
            .unwrap_or(seen)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // In this order: when the other side sees the end, its place is free.
        self.incoming.state.lock().live.remove(&self.number);
        shut(&self.stream);
    }
}
