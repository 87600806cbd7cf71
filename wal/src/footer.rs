//! The index behind a sealed segment: where the entries of each group in it are. See
//! `docs/format.md`.
//!
//! Invariants:
//! - The header is written when all the rest is durable, so that one that is whole vouches for what
//!   stands behind it.
//! - It passes only behind the segment, and behind the batches, that it was made for.
//! - A footer is only a shortcut: everything in it can be found again by reading the segment.

use std::io;
use std::thread;

use crate::codec::{Put, Take, crc_bound};
use crate::format::BLOCK_BYTES;
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::locations::{SPOT_BYTES, Spot};
use crate::segment::{Sealed, Segment};

const MAGIC: u32 = u32::from_le_bytes(*b"QIDX");
/// Bytes of the header; the table follows it in the same block.
pub(crate) const FOOTER_HEADER_BYTES: usize = 64;
const CRC_OFFSET: usize = FOOTER_HEADER_BYTES - 4;
/// Bytes of one range in the table.
pub(crate) const RANGE_BYTES: usize = 48;

/// Consecutive entries of a group in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) group: GroupId,
    /// The lsn of the batch that made the group.
    pub(crate) born: Lsn,
    pub(crate) first_index: u64,
    pub(crate) count: u64,
    /// Bytes that the entries take in the segment.
    pub(crate) bytes: u64,
    /// Where their spots begin, from the start of the segment.
    pub(crate) spots_offset: u64,
    pub(crate) spots_crc: u32,
}

/// What stands behind the batches of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Where the batches end, and this begins.
    pub(crate) sealed: Sealed,
    pub(crate) ranges: Vec<Range>,
}

/// A footer as bytes, in the order in which they are written.
pub(crate) struct Encoded {
    /// The first block: written last.
    pub(crate) head: Vec<u8>,
    /// What follows the first block.
    pub(crate) rest: Vec<u8>,
}

/// Bytes of a footer that speaks of so many ranges and entries.
pub(crate) fn footer_bytes(ranges: u64, entries: u64) -> u64 {
    let table = FOOTER_HEADER_BYTES as u64 + ranges * RANGE_BYTES as u64;
    (table + entries * SPOT_BYTES as u64).next_multiple_of(BLOCK_BYTES)
}

/// By how much a footer grows at most when so many ranges and entries join it.
pub(crate) fn footer_growth(ranges: u64, entries: u64) -> u64 {
    (ranges * RANGE_BYTES as u64 + entries * SPOT_BYTES as u64).next_multiple_of(BLOCK_BYTES)
}

impl Footer {
    /// The footer of a segment, made of the ranges and the spots of each.
    pub(crate) fn encode(
        segment: SegmentId,
        sealed: Sealed,
        mut ranges: Vec<(Range, Vec<Spot>)>,
    ) -> (Self, Encoded) {
        let table_bytes = ranges.len() * RANGE_BYTES;
        let mut offset = sealed.end + (FOOTER_HEADER_BYTES + table_bytes) as u64;
        let mut spots_bytes = Vec::new();
        for (range, spots) in &mut ranges {
            assert_eq!(range.count, spots.len() as u64);
            // All of it takes a while, which the log thread must not wait for.
            thread::yield_now();
            let begin = spots_bytes.len();
            for spot in spots.iter() {
                spot.put(&mut spots_bytes);
            }
            range.spots_offset = offset;
            range.spots_crc = crc_bound(&[segment.0, offset], &spots_bytes[begin..]);
            offset += (spots_bytes.len() - begin) as u64;
        }
        let ranges: Vec<Range> = ranges.into_iter().map(|(range, _)| range).collect();
        let mut table = Vec::with_capacity(table_bytes);
        for range in &ranges {
            range.put(&mut table);
        }
        let mut bytes = encode_header(segment, sealed, &table, spots_bytes.len());
        bytes.append(&mut table);
        bytes.append(&mut spots_bytes);
        bytes.pad_to(BLOCK_BYTES as usize);
        let rest = bytes.split_off(BLOCK_BYTES as usize);
        (Self { sealed, ranges }, Encoded { head: bytes, rest })
    }

    /// Reads the footer behind the batches of a segment that ends as `sealed` says; none if there
    /// is none that is whole. An error is one of the disk.
    pub(crate) fn read(segment: &Segment, sealed: Sealed) -> io::Result<Option<Self>> {
        let head_end = sealed.end.checked_add(BLOCK_BYTES);
        if head_end.is_none_or(|end| end > segment.bytes) {
            return Ok(None);
        }
        let mut head = vec![0; BLOCK_BYTES as usize];
        segment.file.read_at(sealed.end, &mut head)?;
        let Some((table_bytes, table_crc)) = decode_header(&head, segment.id, sealed) else {
            return Ok(None);
        };
        let table_offset = sealed.end + FOOTER_HEADER_BYTES as u64;
        let table_end = table_offset.checked_add(table_bytes);
        if table_end.is_none_or(|end| end > segment.bytes) {
            return Ok(None);
        }
        let mut table = head.split_off(FOOTER_HEADER_BYTES);
        let had = table.len();
        table.resize(table_bytes as usize, 0);
        if table.len() > had {
            segment
                .file
                .read_at(sealed.end + BLOCK_BYTES, &mut table[had..])?;
        }
        if crc_bound(&[segment.id.0, table_offset], &table) != table_crc {
            return Ok(None);
        }
        let ranges = table.chunks_exact(RANGE_BYTES).map(Range::decode);
        let ranges: Option<Vec<Range>> = ranges
            .map(|range| range.filter(|it| it.fits(segment.bytes)))
            .collect();
        Ok(ranges.map(|ranges| Self { sealed, ranges }))
    }

    /// Whether the bytes of a header that is not whole were once the header of this footer: so many
    /// of its fields are right that no other footer, which the file may hold from an earlier use,
    /// has them.
    pub(crate) fn left_a_trace(header: &[u8], segment: SegmentId, sealed: Sealed) -> bool {
        let mut take = Take::new(header);
        let is_magic = take.u32() == Some(MAGIC);
        let is_chain = take.u32() == Some(sealed.chain);
        let is_segment = take.u64() == Some(segment.0);
        let is_end = take.u64() == Some(sealed.end);
        let is_lsn = take.u64() == Some(sealed.lsn.0);
        is_segment && (is_magic || is_end) || is_chain && is_lsn
    }

    /// Whether the spots of a range are those that were written.
    pub(crate) fn spots_are_whole(segment: SegmentId, range: &Range, spots: &[u8]) -> bool {
        crc_bound(&[segment.0, range.spots_offset], spots) == range.spots_crc
    }
}

impl Range {
    /// Bytes of its spots.
    pub(crate) fn spots_bytes(&self) -> u64 {
        self.count * SPOT_BYTES as u64
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.group.0);
        out.put_u64(self.born.0);
        out.put_u64(self.first_index);
        out.put_u32(self.count as u32);
        out.put_u32(self.spots_crc);
        out.put_u64(self.spots_offset);
        out.put_u64(self.bytes);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take::new(bytes);
        let group = GroupId(take.u64()?);
        let born = Lsn(take.u64()?);
        let first_index = take.u64()?;
        let count = u64::from(take.u32()?);
        let spots_crc = take.u32()?;
        let spots_offset = take.u64()?;
        let bytes = take.u64()?;
        Some(Self {
            group,
            born,
            first_index,
            count,
            bytes,
            spots_offset,
            spots_crc,
        })
    }

    fn fits(&self, segment_bytes: u64) -> bool {
        let end = self.spots_offset.checked_add(self.spots_bytes());
        self.count > 0
            && self.first_index > 0
            && self.first_index.checked_add(self.count).is_some()
            && self.bytes <= segment_bytes
            && end.is_some_and(|end| end <= segment_bytes)
    }
}

fn encode_header(segment: SegmentId, sealed: Sealed, table: &[u8], spots_bytes: usize) -> Vec<u8> {
    let table_offset = sealed.end + FOOTER_HEADER_BYTES as u64;
    let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
    bytes.put_u32(MAGIC);
    bytes.put_u32(sealed.chain);
    bytes.put_u64(segment.0);
    bytes.put_u64(sealed.end);
    bytes.put_u64(sealed.lsn.0);
    bytes.put_u64(table.len() as u64);
    bytes.put_u64(spots_bytes as u64);
    bytes.put_u32(crc_bound(&[segment.0, table_offset], table));
    bytes.put_u64(0); // Reserved.
    let crc = crc_bound(&[segment.0, sealed.end], &bytes);
    bytes.put_u32(crc);
    assert_eq!(bytes.len(), FOOTER_HEADER_BYTES);
    bytes
}

/// The length and the CRC of the table, if the header is whole and belongs here.
fn decode_header(block: &[u8], segment: SegmentId, sealed: Sealed) -> Option<(u64, u32)> {
    let bytes = block.get(..FOOTER_HEADER_BYTES)?;
    let crc = Take::new(&bytes[CRC_OFFSET..]).u32()?;
    if crc != crc_bound(&[segment.0, sealed.end], &bytes[..CRC_OFFSET]) {
        return None;
    }
    let mut take = Take::new(bytes);
    let belongs = take.u32()? == MAGIC
        && take.u32()? == sealed.chain
        && take.u64()? == segment.0
        && take.u64()? == sealed.end
        && take.u64()? == sealed.lsn.0;
    let table_bytes = take.u64()?;
    take.u64()?;
    let table_crc = take.u32()?;
    let sound = belongs && table_bytes.is_multiple_of(RANGE_BYTES as u64);
    sound.then_some((table_bytes, table_crc))
}
