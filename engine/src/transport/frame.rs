//! What travels: plain data. The memory transport moves it, the TCP transport encodes it (`docs/wire.md`).

use bytes::Bytes;
use quorate_kv::Outcome;
use quorate_raft::{LogIndex, Message, NodeId, SnapshotMeta, Term};
use quorate_wal::GroupId;

use super::status::NodeStatus;

/// One unit that a transport moves whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The Raft messages of all groups that one pass of a worker has for one peer.
    Raft(Vec<GroupMessage>),
    /// Part of a snapshot, on a lane of its own so that heartbeats do not wait behind it.
    SnapshotChunk(SnapshotChunk),
    /// The receiver's answer to snapshot chunks.
    SnapshotAck(SnapshotAck),
    /// A request to a node, from a clerk or from another node.
    Request(Request),
    /// The answer to a request.
    Reply(Reply),
    /// How a node is: of the node as a whole, not of a group.
    Status(NodeStatus),
}

impl Frame {
    /// Whether it answers another frame; one of several messages does if any of them does.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Raft(messages) => messages.iter().any(|it| !it.message.body.wants_answer()),
            Self::SnapshotAck(_) | Self::Reply(_) => true,
            Self::Request(_) | Self::SnapshotChunk(_) | Self::Status(_) => false,
        }
    }
}

/// A Raft message and the group that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// The message.
    pub message: Message,
}

/// Names one attempt to bring one snapshot to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotTransfer {
    /// The group.
    pub group: GroupId,
    /// The sender's term when it began.
    pub term: Term,
    /// Set by the sender, unique in its life.
    pub attempt: u64,
}

/// Part of a snapshot's content.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotChunk {
    /// Which transfer.
    pub transfer: SnapshotTransfer,
    /// What the snapshot covers; the same in every chunk.
    pub meta: SnapshotMeta,
    /// The length of the whole content.
    pub total_bytes: u64,
    /// Where `data` stands in it.
    pub offset_bytes: u64,
    /// The bytes.
    pub data: Bytes,
    /// Checksum (CRC-32, IEEE) of the whole content, known to the sender from the snapshot file.
    pub content_crc: u32,
}

/// How far the receiver of a snapshot has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotAck {
    /// Which transfer.
    pub transfer: SnapshotTransfer,
    /// What it says.
    pub status: SnapshotAckStatus,
}

/// What a [`SnapshotAck`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotAckStatus {
    /// Everything before this offset has arrived; go on from here.
    Next {
        /// The offset of the next chunk wanted.
        offset_bytes: u64,
    },
    /// Whole and verified; the Raft reply follows when it is durable.
    Done,
    /// Not wanted or not storable; the sender gives up this transfer.
    Refused,
}

/// Numbers the requests of one client, so that a reply finds its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A request to a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's number for it.
    pub id: RequestId,
    /// The group it concerns.
    pub group: GroupId,
    /// What is asked.
    pub body: RequestBody,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestBody {
    /// Replicate an encoded command. Answered when it has been applied.
    Propose {
        /// The command, with its session envelope.
        command: Bytes,
    },
    /// Evaluate a query on the state machine.
    Query {
        /// How fresh the answer must be.
        consistency: Consistency,
        /// The encoded query.
        query: Bytes,
    },
    /// Give an index such that a replica that has applied it may answer a linearizable read.
    ReadIndex,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Consistency {
    /// As if all calls of all clients took place one after the other: the answer includes every write that
    /// was acknowledged before the read began. The leader confirms that it still leads.
    #[default]
    Linearizable = 0,
    /// The same while clocks drift less than the configured bound: the leader answers from its
    /// lease without asking anybody, and falls back to a confirmation round when it holds none.
    Lease = 1,
    /// What the node asked has applied; possibly old, never uncommitted.
    Stale = 2,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The request's number.
    pub id: RequestId,
    /// The answer.
    pub result: Result<ReplyBody, Refusal>,
}

/// A good answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyBody {
    /// To [`RequestBody::Propose`]: committed and applied, with this outcome.
    Outcome(Outcome),
    /// To [`RequestBody::Query`]: the machine's answer.
    Answer(Bytes),
    /// To [`RequestBody::ReadIndex`].
    ReadIndex(LogIndex),
}

/// Why a request got no good answer. Every kind says whether the command may still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Not entered into the log: this node does not lead the group.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Not entered into the log: a bound on waiting work is reached. Try again soon.
    Busy,
    /// Not entered into the log: the disk is full. Reads go on.
    DiskFull,
    /// Not entered into the log: the process or the system has no file handles left. Reads go on.
    OutOfHandles,
    /// Not entered into the log: this node's log has failed and it takes no part until it is reopened.
    LogFailed,
    /// Not entered into the log: larger than the node's limit.
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Not entered into the log: damaged, or of a version that this node does not know.
    NotUnderstood,
    /// Not entered into the log: this cluster has no such group.
    NoSuchGroup,
    /// Not entered into the log: the node is stopping.
    Stopping,
    /// To a reader in the same process alone: this replica has not applied the index in time, or cannot for now. The
    /// leader may answer instead. To anybody else it is [`Busy`](Self::Busy).
    Lagging,
    /// Unknown: it entered the log and its leader lost its office before it saw the outcome.
    LeadershipLost,
    /// Not entered into the log: the cluster of this node is not founded yet.
    Unfounded {
        /// Whom the node waits for.
        waits_for: FewNodes,
    },
}

/// How many ids [`FewNodes`] names.
const FEW: usize = 4;

/// Some nodes: how many, and the first few of them by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FewNodes {
    named: [u64; FEW],
    count: u32,
}

impl FewNodes {
    /// These nodes; of more than a few, only the first are named.
    pub fn of(nodes: &[NodeId]) -> Self {
        let mut named = [0; FEW];
        for (place, node) in named.iter_mut().zip(nodes) {
            *place = node.0;
        }
        Self {
            named,
            count: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        }
    }

    /// This many nodes, of which the first are named.
    pub(crate) fn from_wire(count: u32, named: [u64; FEW]) -> Self {
        Self { named, count }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Those that are named.
    pub fn named(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.named
            .iter()
            .take(self.count as usize)
            .map(|&node| NodeId(node))
    }

    /// All places, zero where nobody is named.
    pub(crate) fn places(&self) -> [u64; FEW] {
        self.named
    }
}

impl std::fmt::Display for FewNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named: Vec<String> = self.named().map(|node| node.0.to_string()).collect();
        match (&named[..], self.count as usize - named.len()) {
            ([], _) => write!(f, "other nodes"),
            ([one], 0) => write!(f, "node {one}"),
            ([most @ .., last], 0) => write!(f, "nodes {} and {last}", most.join(", ")),
            (named, more) => write!(f, "nodes {} and {more} more", named.join(", ")),
        }
    }
}
