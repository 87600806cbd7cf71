//! The fixed parts of a snapshot file: header, chunk frames, footer. See `docs/format.md`.
//!
//! Invariants:
//! - Every part is bound to the snapshot it belongs to, and a chunk to its number: chunks of other
//!   snapshots, or in another order, do not pass.

use crate::codec::{Put, Take, crc_bound};
use crate::ids::GroupId;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FRAME_BYTES: usize = 32;
pub(crate) const FOOTER_BYTES: usize = 48;

/// The content of the last chunk is filled up with zeros to a multiple of this.
pub(crate) const ALIGN_BYTES: usize = 8;

/// Bytes of content in every chunk but the last.
pub(crate) const CHUNK_BYTES: u64 = 256 << 10;

/// Major version of the format that this build writes, and the newest that it reads.
pub(crate) const VERSION_MAJOR: u16 = 1;
const VERSION_MINOR: u16 = 0;

const HEADER_MAGIC: [u8; 8] = *b"QRTSNP\r\n";
const FRAME_MAGIC: [u8; 4] = *b"QCHK";
const FOOTER_MAGIC: [u8; 8] = *b"QRTSNEND";

/// Which snapshot a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) id: u64,
}

/// What stands before the content of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

/// What stands behind the last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    /// CRC of the whole content.
    pub(crate) crc: u32,
}

/// What the header of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Valid(Identity),
    /// Whole, but in a format with this major version.
    Foreign(u16),
    Invalid,
}

impl Identity {
    pub(crate) fn encode_header(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&HEADER_MAGIC);
        bytes.put_u16(VERSION_MAJOR);
        bytes.put_u16(VERSION_MINOR);
        bytes.put_u32(CHUNK_BYTES as u32);
        bytes.put_u64(self.group.0);
        bytes.put_u64(self.index);
        bytes.put_u64(self.term);
        bytes.put_u64(self.id);
        finish(bytes, HEADER_BYTES, &[])
    }

    pub(crate) fn decode_header(bytes: &[u8]) -> Header {
        let Some(mut take) = checked(bytes, HEADER_BYTES, &HEADER_MAGIC, &[]) else {
            return Header::Invalid;
        };
        let mut decode = || {
            let major = take.u16()?;
            if major != VERSION_MAJOR {
                return Some(Header::Foreign(major));
            }
            take.u16()?;
            let chunk_bytes = take.u32()?;
            let group = GroupId(take.u64()?);
            let identity = Self {
                group,
                index: take.u64()?,
                term: take.u64()?,
                id: take.u64()?,
            };
            (u64::from(chunk_bytes) == CHUNK_BYTES).then_some(Header::Valid(identity))
        };
        decode().unwrap_or(Header::Invalid)
    }

    fn words(self) -> [u64; 4] {
        [self.group.0, self.index, self.term, self.id]
    }
}

impl Frame {
    pub(crate) fn encode(self, identity: Identity) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FRAME_BYTES);
        bytes.extend_from_slice(&FRAME_MAGIC);
        bytes.put_u32(self.len);
        bytes.put_u64(self.number);
        bytes.put_u32(self.crc);
        finish(bytes, FRAME_BYTES, &identity.words())
    }

    pub(crate) fn decode(bytes: &[u8], identity: Identity) -> Option<Self> {
        let mut take = checked(bytes, FRAME_BYTES, &FRAME_MAGIC, &identity.words())?;
        let len = take.u32()?;
        Some(Self {
            len,
            number: take.u64()?,
            crc: take.u32()?,
        })
    }
}

impl Footer {
    pub(crate) fn encode(self, identity: Identity) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.put_u64(self.chunks);
        bytes.put_u64(self.bytes);
        bytes.put_u32(self.crc);
        finish(bytes, FOOTER_BYTES, &identity.words())
    }

    pub(crate) fn decode(bytes: &[u8], identity: Identity) -> Option<Self> {
        let mut take = checked(bytes, FOOTER_BYTES, &FOOTER_MAGIC, &identity.words())?;
        Some(Self {
            chunks: take.u64()?,
            bytes: take.u64()?,
            crc: take.u32()?,
        })
    }
}

/// Where the frame of a chunk stands in the file.
pub(crate) fn frame_offset(number: u64) -> u64 {
    HEADER_BYTES as u64 + number * (FRAME_BYTES as u64 + CHUNK_BYTES)
}

/// Where the footer stands; none if there cannot be so much content.
pub(crate) fn footer_offset(content_bytes: u64) -> Option<u64> {
    let chunks = content_bytes.div_ceil(CHUNK_BYTES);
    let frames = chunks.checked_mul(FRAME_BYTES as u64)?;
    let content = content_bytes.checked_next_multiple_of(ALIGN_BYTES as u64)?;
    frames
        .checked_add(content)?
        .checked_add(HEADER_BYTES as u64)
}

/// Fills up with zeros and ends with the CRC, so that the part takes `len` bytes.
fn finish(mut bytes: Vec<u8>, len: usize, words: &[u64]) -> Vec<u8> {
    assert!(bytes.len() <= len - 4);
    bytes.resize(len - 4, 0);
    bytes.put_u32(crc_bound(words, &bytes));
    bytes
}

/// What stands behind the magic of a part, if the part is whole.
fn checked<'a>(bytes: &'a [u8], len: usize, magic: &[u8], words: &[u64]) -> Option<Take<'a>> {
    if bytes.len() != len {
        return None;
    }
    let (body, crc) = bytes.split_at(len - 4);
    let mut take = Take::new(body);
    let is_whole =
        take.bytes(magic.len())? == magic && Take::new(crc).u32()? == crc_bound(words, body);
    is_whole.then_some(take)
}
