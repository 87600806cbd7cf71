//! Takes frames from a transport and puts them on the queues of the workers that own their groups.

use std::sync::Arc;

use quorate_kv::StateMachine;
use quorate_raft::NodeId;
use quorate_wal::GroupId;

use super::event::Event;
use super::status::StatusBoard;
use crate::membership::Membership;
use crate::mutants;
use crate::transport::{
    ClerkInbox, Frame, GroupMessage, Inbox, NodeCard, Origin, Refusal, Refused, Reply,
};

/// A worker's queue, as seen from one shard's senders.
pub(crate) trait EventSink<M: StateMachine>: Send + Sync {
    /// Puts an event on the queue. `false`: dropped, since the queue is at its bound or closed.
    fn offer(&self, event: Event<M>) -> bool;

    /// Puts an event on the queue regardless of the bound: for events whose number is bounded by themselves.
    fn push(&self, event: Event<M>);
}

/// A node's inbox: routes by group to the shards, and replies to the node's own clients.
pub(crate) struct NodeInbox<M: StateMachine> {
    /// One for each worker; a group belongs to shard `group % shards`.
    pub(crate) shards: Vec<Arc<dyn EventSink<M>>>,
    /// Where replies to forwarded requests go.
    pub(crate) replies: Arc<dyn ClerkInbox>,
    /// Whom the node deals with, and whether it takes part yet.
    pub(crate) membership: Arc<Membership>,
    /// How this node and its peers are.
    pub(crate) board: Arc<StatusBoard>,
    /// What time it is, for what is noted on the threads that deliver.
    pub(crate) now_ns: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl<M: StateMachine> NodeInbox<M> {
    pub(crate) fn shard_of(&self, group: GroupId) -> &Arc<dyn EventSink<M>> {
        &self.shards[shard_index(group, self.shards.len())]
    }

    fn offer(&self, group: GroupId, origin: Origin, frame: Frame) {
        let asker = match (&origin, &frame) {
            (Origin::Clerk(sink), Frame::Request(request)) => Some((Arc::clone(sink), request.id)),
            _ => None,
        };
        let is_taken = self.shard_of(group).offer(Event::Frame(origin, frame));
        // A refused Raft frame is a lost one. A refused clerk deserves an answer; a node's client notices by
        // its own timer, since answering it would need the queue that is full.
        if let (false, Some((sink, id))) = (is_taken, asker) {
            sink.reply(Reply {
                id,
                result: Err(Refusal::Busy),
            });
        }
    }

    fn offer_messages(&self, origin: &Origin, messages: Vec<GroupMessage>) {
        let shards = self.shards.len();
        if shards == 1 {
            let _dropped =
                self.shards[0].offer(Event::Frame(origin.clone(), Frame::Raft(messages)));
            return;
        }
        let mut split: Vec<Vec<GroupMessage>> = (0..shards).map(|_| Vec::new()).collect();
        for message in messages {
            split[shard_index(message.group, shards)].push(message);
        }
        for (shard, messages) in self.shards.iter().zip(split) {
            if !messages.is_empty() {
                let _dropped = shard.offer(Event::Frame(origin.clone(), Frame::Raft(messages)));
            }
        }
    }
}

/// Which of a node's shards owns a group.
pub(crate) fn shard_index(group: GroupId, shards: usize) -> usize {
    (group.0 % shards as u64) as usize
}

impl<M: StateMachine> Inbox for NodeInbox<M> {
    fn deliver(&self, from: Origin, frame: Frame) {
        let promises = matches!(
            frame,
            Frame::Raft(_) | Frame::SnapshotChunk(_) | Frame::SnapshotAck(_)
        );
        // Who promises nothing need not hear what it would promise.
        if promises && !self.membership.takes_part() && !mutants::VOTES_UNFOUNDED {
            return;
        }
        match frame {
            Frame::Raft(messages) => self.offer_messages(&from, messages),
            Frame::Reply(reply) => {
                if let Origin::Node(node) = from {
                    self.replies.reply(node, reply);
                }
            }
            Frame::Request(ref request) => self.offer(request.group, from, frame),
            Frame::SnapshotChunk(ref chunk) => self.offer(chunk.transfer.group, from, frame),
            Frame::SnapshotAck(ref ack) => self.offer(ack.transfer.group, from, frame),
            // Of the node as a whole: taken in here and now, as any worker may be kept waiting by a
            // disk.
            Frame::Status(status) => {
                if let Origin::Node(node) = from {
                    self.board.note_status((self.now_ns)(), node, status);
                    // It may wait for the disk.
                    self.membership
                        .note_status(node, status.founding, status.durable_lsn);
                }
            }
        }
    }

    fn card(&self) -> Option<NodeCard> {
        Some(self.membership.card().clone())
    }

    fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        let judged = self.membership.admit(card);
        // Only now, as that may have waited for the disk.
        let (now_ns, is_turned_away) = ((self.now_ns)(), judged == Err(Refused::NotWritten));
        self.board
            .note_turned_away(now_ns, card.node, is_turned_away);
        judged
    }

    fn stands(&self, card: &NodeCard) -> bool {
        self.membership.stands(card)
    }

    fn judged(&self, by: NodeId, judged: Result<(), &Refused>) {
        self.membership.note_judged(by, judged);
    }

    fn disconnected(&self, node: NodeId) {
        self.replies.disconnected(node);
    }
}

impl<M: StateMachine> NodeInbox<M> {
    /// Hands an event to all shards, regardless of bounds.
    pub(crate) fn push_to_all(&self, event: impl Fn() -> Event<M>) {
        for shard in &self.shards {
            shard.push(event());
        }
    }

    /// Hands an event to the shard that owns a group, regardless of bounds.
    pub(crate) fn push(&self, group: GroupId, event: Event<M>) {
        self.shard_of(group).push(event);
    }
}
