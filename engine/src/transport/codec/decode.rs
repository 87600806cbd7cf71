//! From bytes to frames. Every length and count is checked against the bytes at hand before use.

use bytes::Bytes;
use quorate_kv::{Outcome, SessionId};
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Round, SnapshotMeta, Term,
};
use quorate_wal::GroupId;
use thiserror::Error;

use super::status::read_status;
use super::{kind, tag};
use crate::transport::{
    Consistency, FewNodes, Frame, GroupMessage, Refusal, Reply, ReplyBody, Request, RequestBody,
    RequestId, SnapshotAck, SnapshotAckStatus, SnapshotChunk, SnapshotTransfer,
};

/// What is wrong with the body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends inside a field.
    #[error("the body ends where {wanted_bytes} more bytes are expected")]
    Truncated {
        /// How many bytes the field has.
        wanted_bytes: usize,
    },
    /// It goes on after its last field.
    #[error("{bytes} bytes follow the last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A count of more things than the rest of the body can hold.
    #[error("{count} items are announced where {bytes} bytes remain")]
    Count {
        /// The count.
        count: usize,
        /// What remains of the body.
        bytes: usize,
    },
    /// A frame of a kind that this version does not know.
    #[error("unknown kind of frame: {kind}")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// A tag or a flag with a value that this version does not know.
    #[error("unknown {what}: {tag}")]
    UnknownTag {
        /// What the tag stands for.
        what: &'static str,
        /// Its value.
        tag: u8,
    },
    /// The entries of an append do not follow each other.
    #[error("entry {found} stands where {expected} is due")]
    NotContiguous {
        /// The index due.
        expected: LogIndex,
        /// The index found.
        found: LogIndex,
    },
    /// The voters of a configuration are not in ascending order.
    #[error("the voters of a configuration are not in ascending order")]
    VotersUnsorted,
    /// A chunk reaches over the end of its snapshot.
    #[error("a chunk ends behind the {total_bytes} bytes of its snapshot")]
    ChunkRange {
        /// The length of the snapshot.
        total_bytes: u64,
    },
    /// A tagged field that must be there is not.
    #[error("the field with tag {tag} is missing")]
    MissingField {
        /// Its tag.
        tag: u8,
    },
    /// A tagged field is stated twice.
    #[error("the field with tag {tag} is stated twice")]
    DoubledField {
        /// Its tag.
        tag: u8,
    },
    /// A tagged field has a length that it cannot have.
    #[error("the field with tag {tag} has {bytes} bytes")]
    FieldLength {
        /// Its tag.
        tag: u8,
        /// Its length.
        bytes: usize,
    },
}

/// Decodes the body of a frame of a kind (`docs/wire.md`). Payloads are copied out of `body`.
pub fn decode_body(kind: u8, body: &[u8]) -> Result<Frame, DecodeError> {
    let mut reader = Reader(body);
    let frame = match kind {
        kind::RAFT => Frame::Raft(read_raft(&mut reader)?),
        kind::SNAPSHOT_CHUNK => Frame::SnapshotChunk(read_chunk(&mut reader)?),
        kind::SNAPSHOT_ACK => Frame::SnapshotAck(read_ack(&mut reader)?),
        kind::REQUEST => Frame::Request(read_request(&mut reader)?),
        kind::REPLY => Frame::Reply(read_reply(&mut reader)?),
        kind::STATUS => Frame::Status(read_status(&mut reader)?),
        kind => return Err(DecodeError::UnknownKind { kind }),
    };
    reader.end()?;
    Ok(frame)
}

/// The rest of a body.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(DecodeError::Truncated {
                wanted_bytes: bytes,
            })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(DecodeError::Truncated { wanted_bytes: N })?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::UnknownTag { what, tag }),
        }
    }

    fn node(&mut self) -> Result<NodeId, DecodeError> {
        Ok(NodeId(self.u64()?))
    }

    fn index(&mut self) -> Result<LogIndex, DecodeError> {
        Ok(LogIndex(self.u64()?))
    }

    fn term(&mut self) -> Result<Term, DecodeError> {
        Ok(Term(self.u64()?))
    }

    fn round(&mut self) -> Result<Round, DecodeError> {
        Ok(Round(self.u64()?))
    }

    /// A count of things of at least `bytes_min` bytes each: no more than the rest can hold, so
    /// that memory may be reserved for them.
    fn count(&mut self, bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / bytes_min {
            return Err(DecodeError::Count {
                count,
                bytes: self.0.len(),
            });
        }
        Ok(count)
    }

    /// The one copy of a payload on its way in.
    fn payload(&mut self) -> Result<Bytes, DecodeError> {
        let bytes = self.u32()? as usize;
        Ok(Bytes::copy_from_slice(self.take(bytes)?))
    }

    pub(super) fn left_bytes(&self) -> usize {
        self.0.len()
    }

    fn end(&self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}

/// Group, term, tag.
const MESSAGE_BYTES_MIN: usize = 8 + 8 + 1;
/// Index, term, kind, length.
const ENTRY_BYTES_MIN: usize = 8 + 8 + 1 + 4;
const VOTER_BYTES: usize = 8;

fn read_raft(reader: &mut Reader<'_>) -> Result<Vec<GroupMessage>, DecodeError> {
    let from = reader.node()?;
    let to = reader.node()?;
    let count = reader.count(MESSAGE_BYTES_MIN)?;
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        let group = GroupId(reader.u64()?);
        let term = reader.term()?;
        let body = read_message_body(reader)?;
        messages.push(GroupMessage {
            group,
            message: Message {
                from,
                to,
                term,
                body,
            },
        });
    }
    Ok(messages)
}

fn read_message_body(reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
    Ok(match reader.u8()? {
        tag::PRE_VOTE => Body::PreVote {
            last_index: reader.index()?,
            last_term: reader.term()?,
        },
        tag::PRE_VOTE_REPLY => Body::PreVoteReply {
            granted: reader.flag("granted flag")?,
        },
        tag::VOTE => Body::Vote {
            last_index: reader.index()?,
            last_term: reader.term()?,
            transfer: reader.flag("transfer flag")?,
        },
        tag::VOTE_REPLY => Body::VoteReply {
            granted: reader.flag("granted flag")?,
        },
        tag::APPEND => read_append(reader)?,
        tag::APPEND_ACCEPTED => Body::AppendAccepted {
            match_index: reader.index()?,
            round: reader.round()?,
        },
        tag::APPEND_REJECTED => Body::AppendRejected {
            prev_index: reader.index()?,
            hint_index: reader.index()?,
            hint_term: reader.term()?,
            round: reader.round()?,
        },
        tag::HEARTBEAT => Body::Heartbeat {
            commit: reader.index()?,
            round: reader.round()?,
        },
        tag::HEARTBEAT_REPLY => Body::HeartbeatReply {
            round: reader.round()?,
        },
        tag::TIMEOUT_NOW => Body::TimeoutNow,
        tag => {
            return Err(DecodeError::UnknownTag {
                what: "message",
                tag,
            });
        }
    })
}

fn read_append(reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
    let prev_index = reader.index()?;
    let prev_term = reader.term()?;
    let commit = reader.index()?;
    let round = reader.round()?;
    let count = reader.count(ENTRY_BYTES_MIN)?;
    let mut entries = Vec::with_capacity(count);
    let mut last = prev_index;
    for _ in 0..count {
        let entry = read_entry(reader)?;
        // Compared as a difference: `next` saturates, and the last index of all follows no other.
        if entry.index.0.checked_sub(last.0) != Some(1) {
            return Err(DecodeError::NotContiguous {
                expected: last.next(),
                found: entry.index,
            });
        }
        last = entry.index;
        entries.push(entry);
    }
    Ok(Body::Append {
        prev_index,
        prev_term,
        commit,
        round,
        entries,
    })
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let index = reader.index()?;
    let term = reader.term()?;
    let byte = reader.u8()?;
    let kind = EntryKind::from_byte(byte).ok_or(DecodeError::UnknownTag {
        what: "kind of entry",
        tag: byte,
    })?;
    Ok(Entry {
        index,
        term,
        kind,
        data: reader.payload()?,
    })
}

fn read_transfer(reader: &mut Reader<'_>) -> Result<SnapshotTransfer, DecodeError> {
    Ok(SnapshotTransfer {
        group: GroupId(reader.u64()?),
        term: reader.term()?,
        attempt: reader.u64()?,
    })
}

fn read_chunk(reader: &mut Reader<'_>) -> Result<SnapshotChunk, DecodeError> {
    let transfer = read_transfer(reader)?;
    let index = reader.index()?;
    let term = reader.term()?;
    let count = reader.count(VOTER_BYTES)?;
    let mut voters = Vec::with_capacity(count);
    for _ in 0..count {
        voters.push(reader.node()?);
    }
    if !voters.is_sorted_by(|a, b| a < b) {
        return Err(DecodeError::VotersUnsorted);
    }
    let total_bytes = reader.u64()?;
    let offset_bytes = reader.u64()?;
    let content_crc = reader.u32()?;
    let data = reader.payload()?;
    if offset_bytes
        .checked_add(data.len() as u64)
        .is_none_or(|end| end > total_bytes)
    {
        return Err(DecodeError::ChunkRange { total_bytes });
    }
    let meta = SnapshotMeta {
        index,
        term,
        config: Config { voters },
    };
    Ok(SnapshotChunk {
        transfer,
        meta,
        total_bytes,
        offset_bytes,
        data,
        content_crc,
    })
}

fn read_ack(reader: &mut Reader<'_>) -> Result<SnapshotAck, DecodeError> {
    let transfer = read_transfer(reader)?;
    let status = match reader.u8()? {
        tag::ACK_NEXT => SnapshotAckStatus::Next {
            offset_bytes: reader.u64()?,
        },
        tag::ACK_DONE => SnapshotAckStatus::Done,
        tag::ACK_REFUSED => SnapshotAckStatus::Refused,
        tag => {
            return Err(DecodeError::UnknownTag {
                what: "snapshot answer",
                tag,
            });
        }
    };
    Ok(SnapshotAck { transfer, status })
}

fn read_request(reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
    let id = RequestId(reader.u64()?);
    let group = GroupId(reader.u64()?);
    let body = match reader.u8()? {
        tag::PROPOSE => RequestBody::Propose {
            command: reader.payload()?,
        },
        tag::QUERY => RequestBody::Query {
            consistency: read_consistency(reader)?,
            query: reader.payload()?,
        },
        tag::READ_INDEX => RequestBody::ReadIndex,
        tag => {
            return Err(DecodeError::UnknownTag {
                what: "request",
                tag,
            });
        }
    };
    Ok(Request { id, group, body })
}

fn read_consistency(reader: &mut Reader<'_>) -> Result<Consistency, DecodeError> {
    match reader.u8()? {
        0 => Ok(Consistency::Linearizable),
        1 => Ok(Consistency::Lease),
        2 => Ok(Consistency::Stale),
        tag => Err(DecodeError::UnknownTag {
            what: "consistency",
            tag,
        }),
    }
}

fn read_reply(reader: &mut Reader<'_>) -> Result<Reply, DecodeError> {
    let id = RequestId(reader.u64()?);
    let result = match reader.u8()? {
        tag::OUTCOME => Ok(ReplyBody::Outcome(read_outcome(reader)?)),
        tag::ANSWER => Ok(ReplyBody::Answer(reader.payload()?)),
        tag::READ_INDEX_REPLY => Ok(ReplyBody::ReadIndex(reader.index()?)),
        tag => Err(read_refusal(tag, reader)?),
    };
    Ok(Reply { id, result })
}

fn read_outcome(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    Ok(match reader.u8()? {
        tag::APPLIED => Outcome::Applied(reader.payload()?),
        tag::REGISTERED => Outcome::Registered(SessionId(reader.u64()?)),
        tag::SESSION_EXPIRED => Outcome::SessionExpired,
        tag::OUT_OF_ORDER => Outcome::OutOfOrder {
            expected: reader.u64()?,
        },
        tag::ALREADY_ACKNOWLEDGED => Outcome::AlreadyAcknowledged,
        tag::UNSUPPORTED => Outcome::Unsupported,
        tag::WINDOW_FULL => Outcome::WindowFull,
        tag::MALFORMED => Outcome::Malformed,
        tag => {
            return Err(DecodeError::UnknownTag {
                what: "outcome",
                tag,
            });
        }
    })
}

fn read_refusal(tag: u8, reader: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    Ok(match tag {
        tag::NOT_LEADER => {
            let known = reader.flag("leader flag")?;
            let leader = if known { Some(reader.node()?) } else { None };
            Refusal::NotLeader { leader }
        }
        tag::BUSY => Refusal::Busy,
        tag::DISK_FULL => Refusal::DiskFull,
        tag::OUT_OF_HANDLES => Refusal::OutOfHandles,
        tag::LOG_FAILED => Refusal::LogFailed,
        tag::TOO_LARGE => Refusal::TooLarge {
            limit_bytes: reader.u64()?,
        },
        tag::NO_SUCH_GROUP => Refusal::NoSuchGroup,
        tag::STOPPING => Refusal::Stopping,
        tag::LEADERSHIP_LOST => Refusal::LeadershipLost,
        tag::NOT_UNDERSTOOD => Refusal::NotUnderstood,
        tag::UNFOUNDED => {
            let count = reader.u32()?;
            let named = [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
            Refusal::Unfounded {
                waits_for: FewNodes::from_wire(count, named),
            }
        }
        tag => return Err(DecodeError::UnknownTag { what: "reply", tag }),
    })
}
