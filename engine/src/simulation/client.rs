//! The client half of a clerk, driven by hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_kv::CommandBuffer;
use quorate_raft::{LogIndex, NodeId};
use quorate_wal::GroupId;

use crate::client::{REQUEST_COUNT_BITS, ReadWants, Send, Window, WindowOptions};
use crate::error::Error;
use crate::options::Options;
use crate::partition::Partitioner;
use crate::pending::{Completer, Pending};
use crate::transport::{Consistency, Reply, Request, RequestId};

/// Names a call of a [`SimClient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What a client wants brought to a node.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientSend {
    /// A request to a node. If it cannot be handed over, say so with [`SimClient::not_sent`].
    Request(NodeId, Request),
    /// To the node that this client is part of, if it is: see [`SimNode::wait_applied`](super::SimNode::wait_applied).
    WaitApplied(GroupId, LogIndex, RequestId),
}

/// A client with one session in each group, without a thread and without a clock.
pub struct SimClient {
    windows: Vec<Window>,
    partitioner: Partitioner,
    next_call: u64,
    outstanding: BTreeMap<CallId, Pending<Bytes>>,
    answers: Vec<(CallId, Result<Bytes, Error>)>,
    sends: Vec<ClientSend>,
}

impl SimClient {
    /// A client of the cluster with these nodes, asked in this order, and so many groups, at least one.
    pub fn new(nodes: &[NodeId], groups: u32, options: &Options) -> Self {
        let partitioner = Partitioner::hashed(groups);
        let options = WindowOptions::of(options);
        Self {
            windows: partitioner
                .groups()
                .map(|group| Window::new(group, nodes.to_vec(), options))
                .collect(),
            partitioner,
            next_call: 0,
            outstanding: BTreeMap::new(),
            answers: Vec::new(),
            sends: Vec::new(),
        }
    }

    /// Numbers its requests from elsewhere than from 1. A client that is part of a node needs another seed in each life of the
    /// node: what an earlier life asked may be answered in this one, since nodes answer a node and not a process.
    #[must_use]
    pub fn numbered_from(mut self, seed: u64) -> Self {
        let windows = self.windows.into_iter();
        self.windows = windows.map(|window| window.numbered_from(seed)).collect();
        self
    }

    /// Makes it part of a node, whose replicas answer its local reads.
    #[must_use]
    pub fn beside(mut self, node: NodeId) -> Self {
        let windows = self.windows.into_iter();
        self.windows = windows.map(|window| window.beside(Some(node))).collect();
        self
    }

    /// The group of a key.
    pub fn group_of(&self, key: &[u8]) -> GroupId {
        self.partitioner.group(key)
    }

    /// Issues a write. Its answer is the machine's.
    ///
    /// # Panics
    ///
    /// If there is no such group; the same holds of all other calls.
    pub fn write(&mut self, now_ns: u64, group: GroupId, command: CommandBuffer) -> CallId {
        self.call(group, |window, completer| {
            window.write(now_ns, command, completer);
        })
    }

    /// Issues a query, to be answered by the node that is asked. Its answer is the machine's.
    pub fn query(
        &mut self,
        now_ns: u64,
        group: GroupId,
        consistency: Consistency,
        query: Bytes,
    ) -> CallId {
        let wants = ReadWants::Answer(consistency, query);
        self.call(group, |window, completer| {
            window.read(now_ns, wants, completer);
        })
    }

    /// Asks when the replica of this client's node may answer a linearizable read: the answer has no bytes then. If that
    /// replica cannot serve, the leader answers `query`, and the answer has the machine's bytes.
    pub fn read_local_or(&mut self, now_ns: u64, group: GroupId, query: Bytes) -> CallId {
        self.call(group, |window, completer| {
            window.read(now_ns, ReadWants::LocalOr(query), completer);
        })
    }

    /// Takes a node's reply.
    pub fn reply(&mut self, now_ns: u64, from: NodeId, reply: Reply) {
        let group = GroupId(reply.id.0 >> REQUEST_COUNT_BITS);
        if (group.0 as usize) < self.windows.len() {
            self.with(group, |window| window.reply(now_ns, from, reply));
        }
    }

    /// The connection to a node was lost.
    pub fn disconnected(&mut self, now_ns: u64, node: NodeId) {
        for group in self.partitioner.groups() {
            self.with(group, |window| window.disconnected(now_ns, node));
        }
    }

    /// A request could not be handed to its node.
    pub fn not_sent(&mut self, now_ns: u64, node: NodeId, id: RequestId) {
        let group = GroupId(id.0 >> REQUEST_COUNT_BITS);
        self.with(group, |window| window.not_sent(now_ns, node, id));
    }

    /// Sends again what waits, fails what is over its deadline. Call it every few milliseconds while it returns that
    /// anything is outstanding.
    pub fn tick(&mut self, now_ns: u64) -> bool {
        let mut is_busy = false;
        for group in self.partitioner.groups() {
            if self.windows[group.0 as usize].is_busy() {
                is_busy |= self.with(group, |window| window.tick(now_ns));
            }
        }
        is_busy
    }

    /// Calls that have no answer yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// What is to be brought to nodes, in order.
    pub fn take_sends(&mut self) -> Vec<ClientSend> {
        std::mem::take(&mut self.sends)
    }

    /// The answers that came since the last time.
    pub fn take_answers(&mut self) -> Vec<(CallId, Result<Bytes, Error>)> {
        std::mem::take(&mut self.answers)
    }

    fn call(&mut self, group: GroupId, issue: impl FnOnce(&mut Window, Completer)) -> CallId {
        self.next_call += 1;
        let call = CallId(self.next_call);
        let (pending, completer) = Pending::new(|answer| answer);
        self.outstanding.insert(call, pending);
        self.with(group, |window| issue(window, completer));
        call
    }

    fn with<T>(&mut self, group: GroupId, act: impl FnOnce(&mut Window) -> T) -> T {
        let window = &mut self.windows[group.0 as usize];
        let result = act(window);
        self.sends
            .extend(window.take_sends().into_iter().map(|send| match send {
                Send::Request(to, request) => ClientSend::Request(to, request),
                Send::WaitApplied(group, index, id) => ClientSend::WaitApplied(group, index, id),
            }));
        let completions = window.take_completions();
        if !completions.is_empty() {
            for (completer, answer) in completions {
                completer.complete(answer);
            }
            let answered: Vec<CallId> = self
                .outstanding
                .iter()
                .filter(|(_, pending)| pending.is_ready())
                .map(|(&call, _)| call)
                .collect();
            let answered = answered.into_iter().filter_map(|call| {
                let pending = self.outstanding.remove(&call)?;
                Some((call, pending.wait()))
            });
            self.answers.extend(answered);
        }
        result
    }
}
