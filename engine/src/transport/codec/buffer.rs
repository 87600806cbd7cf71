//! The receiving end of a connection: bytes in as they come, frames out.
//!
//! Invariants:
//! - `start <= end <= buffer.len()`; the bytes between `start` and `end` have arrived and are not
//!   yet used.
//! - The buffer doubles when it is full, so that its length is bounded by what has arrived and not
//!   by what a header announces.
//! - A frame is handed out only if its length is within the limit and its CRC matches.

use thiserror::Error;

use super::decode::{DecodeError, decode_body};
use super::{HEADER_BYTES, HEADER_CHECKED_BYTES, kind};
use crate::mutants;
use crate::transport::Frame;

/// What a connection begins with. Small, for a node may have a thousand clerks that say little.
const BYTES_MIN: usize = 16 * 1024;

/// Up to here the buffer grows to save system calls, and stays. Beyond, it grows only for a frame
/// that does not fit, and stays only while such frames keep coming.
const BYTES_KEPT_MAX: usize = 256 * 1024;

/// After being emptied this often in a row without having been a quarter full, a large buffer is
/// given back. Keep-alives see to it that an idle connection comes to that, too.
const CALM_MAX: u32 = 64;

/// Why the bytes of a connection are of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header announces a body over the limit.
    #[error("a frame of {bytes} bytes is announced and the limit is {max}")]
    TooLong {
        /// The announced length of the body.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The bytes are not what was sent.
    #[error("the checksum of a frame does not match its bytes")]
    Crc,
    /// A part of the header that must be zero is not.
    #[error("a reserved byte of a frame header is not zero")]
    Reserved,
    /// The body is no frame.
    #[error("a frame cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
}

/// What has arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrived {
    /// A frame for the node or clerk.
    Frame(Frame),
    /// "Still here."
    KeepAlive,
}

/// Takes the bytes of a connection in pieces of any size and gives out whole frames.
pub struct FrameBuffer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    body_bytes_max: usize,
    /// The last piece took all the room there was: more may be waiting.
    filled: bool,
    /// The most that `end` was since the buffer was last emptied.
    peak: usize,
    /// How often in a row it was emptied without having been a quarter full.
    calm: u32,
}

impl FrameBuffer {
    /// An empty buffer that takes bodies of up to `body_bytes_max` bytes.
    #[must_use]
    pub fn new(body_bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            body_bytes_max,
            filled: false,
            peak: 0,
            calm: 0,
        }
    }

    /// The room for the next bytes; never empty. Call [`FrameBuffer::advance`] with how many came.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end && self.end > 0 {
            self.emptied();
        }
        if self.end == self.buffer.len() && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let full = self.end == self.buffer.len();
        if full || (self.filled && self.buffer.len() < BYTES_KEPT_MAX) {
            self.filled = false;
            self.buffer
                .resize((self.buffer.len() * 2).max(BYTES_MIN), 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Takes over the first `bytes` of what [`FrameBuffer::room`] gave.
    pub fn advance(&mut self, bytes: usize) {
        assert!(
            bytes <= self.buffer.len() - self.end,
            "no more than there was room for"
        );
        self.end += bytes;
        self.peak = self.peak.max(self.end);
        self.filled = self.end == self.buffer.len();
    }

    /// The next whole frame, or `None` until more bytes come. After an error the connection is of
    /// no more use: where the next frame would begin is not known.
    pub fn next_frame(&mut self) -> Result<Option<Arrived>, FrameError> {
        let arrived = &self.buffer[self.start..self.end];
        let Some((header, rest)) = arrived.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, reserved @ .., c0, c1, c2, c3] = *header;
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if body_bytes > self.body_bytes_max {
            return Err(FrameError::TooLong {
                bytes: body_bytes,
                max: self.body_bytes_max,
            });
        }
        let Some(body) = rest.get(..body_bytes) else {
            return Ok(None);
        };

        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..HEADER_CHECKED_BYTES]);
        crc.update(body);
        let is_sound = crc.finalize() == u32::from_le_bytes([c0, c1, c2, c3]);
        if !is_sound && !mutants::BELIEVES_FLIPPED_BITS {
            return Err(FrameError::Crc);
        }
        if reserved != [0; 3] {
            return Err(FrameError::Reserved);
        }
        let frame = if kind != kind::KEEP_ALIVE {
            Arrived::Frame(decode_body(kind, body)?)
        } else if body.is_empty() {
            Arrived::KeepAlive
        } else {
            return Err(DecodeError::Trailing { bytes: body.len() }.into());
        };
        self.start += HEADER_BYTES + body_bytes;
        Ok(Some(frame))
    }

    fn emptied(&mut self) {
        (self.start, self.end) = (0, 0);
        self.calm = if self.peak < self.buffer.len() / 4 {
            self.calm + 1
        } else {
            0
        };
        self.peak = 0;
        if self.calm >= CALM_MAX {
            self.calm = 0;
            if self.buffer.len() > BYTES_KEPT_MAX {
                self.buffer = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::codec::encode_frame;
    use crate::transport::{Reply, ReplyBody, RequestId};

    #[test]
    fn an_announced_length_reserves_nothing() {
        let mut buffer = FrameBuffer::new(1 << 30);
        let header = (1_u32 << 30).to_le_bytes();
        buffer.room()[..4].copy_from_slice(&header);
        buffer.advance(4);
        for _ in 0..1000 {
            buffer.room()[..8].fill(1);
            buffer.advance(8);
            assert_eq!(buffer.next_frame(), Ok(None));
        }
        assert_eq!(buffer.buffer.len(), BYTES_MIN);
    }

    #[test]
    fn a_buffer_that_grew_for_long_frames_stays_while_they_come_and_is_then_given_back() {
        let mut buffer = FrameBuffer::new(1 << 30);
        let long = encode_frame(&answer(BYTES_KEPT_MAX * 3), 1 << 30).unwrap();
        let short = encode_frame(&answer(10), 1 << 30).unwrap();
        receive(&mut buffer, &long);
        let grown = buffer.buffer.as_ptr();
        assert!(buffer.buffer.len() >= long.len());
        for _ in 0..3 * CALM_MAX {
            receive(&mut buffer, &long);
            (0..CALM_MAX / 2).for_each(|_| receive(&mut buffer, &short));
        }
        assert_eq!(buffer.buffer.as_ptr(), grown);
        (0..=CALM_MAX).for_each(|_| receive(&mut buffer, &short));
        assert_eq!(buffer.buffer.len(), BYTES_MIN);
    }

    fn receive(buffer: &mut FrameBuffer, mut wire: &[u8]) {
        while !wire.is_empty() {
            let room = buffer.room();
            let bytes = room.len().min(wire.len());
            room[..bytes].copy_from_slice(&wire[..bytes]);
            buffer.advance(bytes);
            wire = &wire[bytes..];
        }
        assert!(buffer.next_frame().unwrap().is_some());
        assert_eq!(buffer.next_frame(), Ok(None));
    }

    fn answer(bytes: usize) -> Frame {
        let answer = ReplyBody::Answer(vec![1; bytes].into());
        Frame::Reply(Reply {
            id: RequestId(1),
            result: Ok(answer),
        })
    }
}
