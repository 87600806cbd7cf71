//! The bytes of a frame on a TCP connection: see `docs/wire.md` for the layout.
//!
//! Invariants:
//! - Decoding never panics, and never reserves memory that the bytes at hand do not account for.
//! - What encodes decodes to an equal frame, and uses exactly the bytes that were counted for it
//!   beforehand: counting and writing run the same code over two sinks.
//! - A payload is copied once on its way in, into an allocation of its own, so that a small value
//!   never keeps a large receive buffer alive; on its way out a large one is not copied at all.
//! - The length of a frame is checked against the limit before anything is done with it.

mod batch;
mod buffer;
mod decode;
mod encode;
mod status;

pub(crate) use batch::Batch;
pub use buffer::{Arrived, FrameBuffer, FrameError};
pub use decode::{DecodeError, decode_body};
pub use encode::{EncodeError, encode_frame};
pub(crate) use encode::{body_bytes, split};

/// Length (u32), kind (u8), three zero bytes, CRC-32 (u32).
pub(crate) const HEADER_BYTES: usize = 12;

/// The part of the header that the CRC covers, before the body.
pub(crate) const HEADER_CHECKED_BYTES: usize = 8;

/// The kinds of frames. Zero is none of them, so that zeros are never a frame.
pub(crate) mod kind {
    pub(crate) const RAFT: u8 = 1;
    pub(crate) const SNAPSHOT_CHUNK: u8 = 2;
    pub(crate) const SNAPSHOT_ACK: u8 = 3;
    pub(crate) const REQUEST: u8 = 4;
    pub(crate) const REPLY: u8 = 5;
    pub(crate) const KEEP_ALIVE: u8 = 6;
    pub(crate) const STATUS: u8 = 7;
}

/// Tags inside bodies, each set of its own.
pub(crate) mod tag {
    pub(crate) const PRE_VOTE: u8 = 1;
    pub(crate) const PRE_VOTE_REPLY: u8 = 2;
    pub(crate) const VOTE: u8 = 3;
    pub(crate) const VOTE_REPLY: u8 = 4;
    pub(crate) const APPEND: u8 = 5;
    pub(crate) const APPEND_ACCEPTED: u8 = 6;
    pub(crate) const APPEND_REJECTED: u8 = 7;
    pub(crate) const HEARTBEAT: u8 = 8;
    pub(crate) const HEARTBEAT_REPLY: u8 = 9;
    pub(crate) const TIMEOUT_NOW: u8 = 10;

    pub(crate) const ACK_NEXT: u8 = 1;
    pub(crate) const ACK_DONE: u8 = 2;
    pub(crate) const ACK_REFUSED: u8 = 3;

    pub(crate) const PROPOSE: u8 = 1;
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const READ_INDEX: u8 = 3;

    pub(crate) const OUTCOME: u8 = 1;
    pub(crate) const ANSWER: u8 = 2;
    pub(crate) const READ_INDEX_REPLY: u8 = 3;
    pub(crate) const NOT_LEADER: u8 = 16;
    pub(crate) const BUSY: u8 = 17;
    pub(crate) const DISK_FULL: u8 = 18;
    pub(crate) const LOG_FAILED: u8 = 19;
    pub(crate) const TOO_LARGE: u8 = 20;
    pub(crate) const NO_SUCH_GROUP: u8 = 21;
    pub(crate) const STOPPING: u8 = 22;
    pub(crate) const LEADERSHIP_LOST: u8 = 23;
    pub(crate) const NOT_UNDERSTOOD: u8 = 24;
    pub(crate) const UNFOUNDED: u8 = 25;
    pub(crate) const OUT_OF_HANDLES: u8 = 26;

    pub(crate) const APPLIED: u8 = 1;
    pub(crate) const REGISTERED: u8 = 2;
    pub(crate) const SESSION_EXPIRED: u8 = 3;
    pub(crate) const OUT_OF_ORDER: u8 = 4;
    pub(crate) const ALREADY_ACKNOWLEDGED: u8 = 5;
    pub(crate) const UNSUPPORTED: u8 = 6;
    pub(crate) const WINDOW_FULL: u8 = 7;
    pub(crate) const MALFORMED: u8 = 8;
}
