//! The fixed parts of a segment: its header and the headers of its batches. See `docs/format.md`.
//!
//! Invariants:
//! - A length is used only after the CRC that covers it was checked.
//! - A header passes only in the segment and at the offset that it was written for.
//! - What `encode` writes, `decode` accepts, and gives back equal.

use crate::codec::{Put, Take, crc_bound};
use crate::ids::{Lsn, SegmentId};

/// Batches begin and end on a multiple of this, so that no write touches a page that holds
/// acknowledged data.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Entries are located by offsets in units of 8 bytes that take 24 bits.
pub(crate) const SEGMENT_BYTES_LIMIT: u64 = 8 << 24;

/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;

/// Descriptors and payloads stand on multiples of this.
pub(crate) const UNIT_BYTES: usize = 8;

/// Major version of the format that this build writes, and the newest that it reads.
pub(crate) const VERSION_MAJOR: u16 = 1;
pub(crate) const VERSION_MINOR: u16 = 0;

const SEGMENT_MAGIC: [u8; 8] = *b"QRTSEG\r\n";
/// In the flags of a segment: its predecessor may not have been synced.
const FLAG_UNSYNCED: u32 = 0x01;
/// In the flags of a segment: what stands behind its batches may be left from another one.
const FLAG_RECYCLED: u32 = 0x02;
const SEGMENT_CRC_OFFSET: usize = BLOCK_BYTES as usize - 4;
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"QBAT");
const BATCH_CRC_OFFSET: usize = BATCH_HEADER_BYTES - 4;

const _: () = assert!(BLOCK_BYTES.is_power_of_two() && BLOCK_BYTES == 4096);
const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(UNIT_BYTES));

/// The first block of a segment that is in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment: SegmentId,
    /// Which log the segment belongs to, see [`crate::LogOptions::identity`].
    pub(crate) identity: u64,
    /// Grows with each recovery, so that nothing written before it can be taken for something
    /// written after it.
    pub(crate) epoch: u32,
    pub(crate) segment_bytes: u64,
    /// The segment before this one; zero if this one begins the log.
    pub(crate) prev: SegmentId,
    /// Where the batches of the predecessor end. What stands behind is dead.
    pub(crate) prev_end: u64,
    /// The chain of the predecessor's batches, see [`chain`].
    pub(crate) prev_chain: u32,
    /// The lsn that the first batch begins with.
    pub(crate) first_lsn: Lsn,
    /// The generation of the manifest that was durable when this segment went into service.
    pub(crate) generation: u64,
    /// Whether its predecessor may not have been synced when this one went into service.
    pub(crate) unsynced: bool,
    /// Whether the file was another segment before, of which the rest may stand behind the batches.
    pub(crate) recycled: bool,
}

/// What the first block of a segment file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderBlock {
    Valid(SegmentHeader),
    /// Whole, but in a format with this major version.
    Foreign(u16),
    /// Only zeros: the segment was prepared and never used.
    Blank,
    /// Torn, damaged, or the header of another segment.
    Invalid,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
        block.extend_from_slice(&SEGMENT_MAGIC);
        block.put_u16(VERSION_MAJOR);
        block.put_u16(VERSION_MINOR);
        block.put_u32(BLOCK_BYTES as u32);
        block.put_u64(self.segment.0);
        block.put_u64(self.identity);
        block.put_u32(self.epoch);
        block.put_u32(self.flags());
        block.put_u64(self.segment_bytes);
        block.put_u64(self.prev.0);
        block.put_u64(self.prev_end);
        block.put_u32(self.prev_chain);
        block.put_u32(0); // Reserved.
        block.put_u64(self.first_lsn.0);
        block.put_u64(self.generation);
        block.resize(SEGMENT_CRC_OFFSET, 0);
        block.put_u32(crc_bound(&[self.segment.0], &block));
        assert_eq!(block.len() as u64, BLOCK_BYTES);
        debug_assert_eq!(
            Self::decode(&block, self.segment),
            HeaderBlock::Valid(self.clone())
        );
        block
    }

    /// Reads the first block of the file that is named for `segment`.
    pub(crate) fn decode(block: &[u8], segment: SegmentId) -> HeaderBlock {
        if block.iter().all(|&byte| byte == 0) {
            return HeaderBlock::Blank;
        }
        Self::decode_used(block, segment).unwrap_or(HeaderBlock::Invalid)
    }

    fn decode_used(block: &[u8], segment: SegmentId) -> Option<HeaderBlock> {
        let (body, crc) = block.split_at_checked(SEGMENT_CRC_OFFSET)?;
        let mut take = Take::new(body);
        if take.bytes(8)? != SEGMENT_MAGIC || Take::new(crc).u32()? != crc_bound(&[segment.0], body)
        {
            return None;
        }
        let major = take.u16()?;
        if major != VERSION_MAJOR {
            return Some(HeaderBlock::Foreign(major));
        }
        take.u16()?;
        let block_bytes = take.u32()?;
        let found = SegmentId(take.u64()?);
        let identity = take.u64()?;
        let epoch = take.u32()?;
        let flags = take.u32()?;
        let segment_bytes = take.u64()?;
        let prev = SegmentId(take.u64()?);
        let prev_end = take.u64()?;
        let prev_chain = take.u32()?;
        take.u32()?;
        let first_lsn = Lsn(take.u64()?);
        let generation = take.u64()?;
        let sound = u64::from(block_bytes) == BLOCK_BYTES
            && found == segment
            && prev < segment
            && prev_end.is_multiple_of(BLOCK_BYTES)
            && (prev.0 == 0 || prev_end > 0)
            && segment_bytes.is_multiple_of(BLOCK_BYTES)
            && segment_bytes <= SEGMENT_BYTES_LIMIT;
        sound.then_some(HeaderBlock::Valid(Self {
            segment,
            identity,
            epoch,
            segment_bytes,
            prev,
            prev_end,
            prev_chain,
            first_lsn,
            generation,
            unsynced: flags & FLAG_UNSYNCED != 0,
            recycled: flags & FLAG_RECYCLED != 0,
        }))
    }

    fn flags(&self) -> u32 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        flag(self.unsynced, FLAG_UNSYNCED) | flag(self.recycled, FLAG_RECYCLED)
    }

    /// What the chain of this segment's batches starts from.
    pub(crate) fn chain_start(&self) -> u32 {
        crc_bound(
            &[self.segment.0, u64::from(self.epoch), self.first_lsn.0],
            &[],
        )
    }
}

/// The chain after one more batch: names all batches of a segment so far, and their order.
pub(crate) fn chain(before: u32, header_crc: u32) -> u32 {
    crc_bound(&[u64::from(before), u64::from(header_crc)], &[])
}

/// The first 64 bytes of a batch, which is what one sync makes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) epoch: u32,
    pub(crate) segment: SegmentId,
    /// Where the batch begins in its segment.
    pub(crate) offset: u64,
    /// The lsn of the last submission in the batch.
    pub(crate) lsn: Lsn,
    /// All up to this lsn was durable before this batch was written.
    pub(crate) durable_lsn: Lsn,
    pub(crate) desc_bytes: u32,
    pub(crate) desc_crc: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) records: u32,
}

impl BatchHeader {
    /// Bytes of the whole batch, with its padding.
    pub(crate) fn batch_bytes(&self) -> u64 {
        batch_bytes(u64::from(self.desc_bytes), u64::from(self.payload_bytes))
    }

    /// Where the payloads begin, from the start of the segment.
    pub(crate) fn payload_offset(&self) -> u64 {
        self.desc_offset() + u64::from(self.desc_bytes)
    }

    /// Where the descriptors begin, from the start of the segment.
    pub(crate) fn desc_offset(&self) -> u64 {
        self.offset + BATCH_HEADER_BYTES as u64
    }

    /// The header as bytes, and its CRC.
    pub(crate) fn encode(&self) -> ([u8; BATCH_HEADER_BYTES], u32) {
        assert!(self.durable_lsn < self.lsn);
        assert!(self.offset.is_multiple_of(BLOCK_BYTES));
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES);
        bytes.put_u32(BATCH_MAGIC);
        bytes.put_u32(self.epoch);
        bytes.put_u64(self.segment.0);
        bytes.put_u32(self.offset as u32);
        bytes.put_u32(self.batch_bytes() as u32);
        bytes.put_u64(self.lsn.0);
        bytes.put_u64(self.durable_lsn.0);
        bytes.put_u32(self.desc_bytes);
        bytes.put_u32(self.desc_crc);
        bytes.put_u32(self.payload_bytes);
        bytes.put_u32(self.records);
        bytes.put_u32(0); // Flags: none are defined.
        let crc = crc_bound(&[self.segment.0, self.offset], &bytes);
        bytes.put_u32(crc);
        let header: [u8; BATCH_HEADER_BYTES] = bytes
            .try_into()
            .expect("the fields add up to the size of the header");
        debug_assert_eq!(
            Self::decode(&header, self.segment, self.offset),
            Some((self.clone(), crc))
        );
        (header, crc)
    }

    /// Bytes of the batch that a header tells that is not whole, if it was written to this segment.
    pub(crate) fn torn_bytes(bytes: &[u8], segment: SegmentId) -> Option<u64> {
        let mut take = Take::new(bytes);
        let is_here =
            take.u32()? == BATCH_MAGIC && take.u32().is_some() && take.u64()? == segment.0;
        take.u32()?;
        let batch_bytes = u64::from(take.u32()?);
        is_here.then_some(batch_bytes)
    }

    /// Reads a header that stands at `offset` of `segment`, and its CRC.
    pub(crate) fn decode(bytes: &[u8], segment: SegmentId, offset: u64) -> Option<(Self, u32)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let mut take = Take::new(bytes);
        if take.u32()? != BATCH_MAGIC {
            return None;
        }
        let crc = Take::new(&bytes[BATCH_CRC_OFFSET..]).u32()?;
        if crc != crc_bound(&[segment.0, offset], &bytes[..BATCH_CRC_OFFSET]) {
            return None;
        }
        let epoch = take.u32()?;
        let found = SegmentId(take.u64()?);
        let found_offset = u64::from(take.u32()?);
        let batch_bytes = u64::from(take.u32()?);
        let header = Self {
            epoch,
            segment,
            offset,
            lsn: Lsn(take.u64()?),
            durable_lsn: Lsn(take.u64()?),
            desc_bytes: take.u32()?,
            desc_crc: take.u32()?,
            payload_bytes: take.u32()?,
            records: take.u32()?,
        };
        let sound = found == segment
            && found_offset == offset
            && header.durable_lsn < header.lsn
            && batch_bytes == header.batch_bytes()
            && offset + batch_bytes <= SEGMENT_BYTES_LIMIT;
        sound.then_some((header, crc))
    }
}

/// Bytes of a batch with these parts and its padding.
pub(crate) fn batch_bytes(desc_bytes: u64, payload_bytes: u64) -> u64 {
    (BATCH_HEADER_BYTES as u64 + desc_bytes + payload_bytes).next_multiple_of(BLOCK_BYTES)
}

/// The CRC of the descriptors of the batch at `offset` of `segment`.
pub(crate) fn desc_crc(segment: SegmentId, offset: u64, desc: &[u8]) -> u32 {
    crc_bound(&[segment.0, offset], desc)
}

/// The CRC of an entry. It covers which entry of which group this is, so that a wrong location
/// never passes for the right entry; it does not cover the position, so that an entry may be moved.
pub(crate) fn entry_crc(group: u64, index: u64, term: u64, kind: u8, payload: &[u8]) -> u32 {
    crc_bound(&[group, index, term, u64::from(kind)], payload)
}

/// Bytes that a payload takes in the file.
pub(crate) fn padded(len: u64) -> u64 {
    len.next_multiple_of(UNIT_BYTES as u64)
}

/// The name of a segment's file.
pub(crate) fn segment_name(segment: SegmentId) -> String {
    format!("{:016x}.seg", segment.0)
}

/// The segment that a file is named for, if it is one.
pub(crate) fn parse_segment_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".seg")?;
    let id = u64::from_str_radix(digits, 16).ok().map(SegmentId)?;
    (id.0 != 0 && segment_name(id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment_header() -> SegmentHeader {
        SegmentHeader {
            segment: SegmentId(7),
            identity: 3,
            epoch: 2,
            segment_bytes: 1 << 20,
            prev: SegmentId(5),
            prev_end: 8192,
            prev_chain: 9,
            first_lsn: Lsn(100),
            generation: 4,
            unsynced: true,
            recycled: true,
        }
    }

    fn batch_header() -> BatchHeader {
        BatchHeader {
            epoch: 2,
            segment: SegmentId(7),
            offset: 4096,
            lsn: Lsn(101),
            durable_lsn: Lsn(99),
            desc_bytes: 40,
            desc_crc: 5,
            payload_bytes: 24,
            records: 1,
        }
    }

    #[test]
    fn each_flipped_bit_of_a_segment_header_is_noticed() {
        let block = segment_header().encode();
        for bit in 0..block.len() * 8 {
            let mut damaged = block.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                SegmentHeader::decode(&damaged, SegmentId(7)),
                HeaderBlock::Invalid,
                "bit {bit}"
            );
        }
        assert_eq!(
            SegmentHeader::decode(&block, SegmentId(8)),
            HeaderBlock::Invalid
        );
        assert_eq!(
            SegmentHeader::decode(&[0; 4096], SegmentId(8)),
            HeaderBlock::Blank
        );
    }

    #[test]
    fn each_flipped_bit_of_a_batch_header_is_noticed() {
        let (bytes, crc) = batch_header().encode();
        assert_eq!(
            BatchHeader::decode(&bytes, SegmentId(7), 4096),
            Some((batch_header(), crc))
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                BatchHeader::decode(&damaged, SegmentId(7), 4096),
                None,
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_batch_header_passes_only_where_it_was_written() {
        let (bytes, _) = batch_header().encode();
        assert_eq!(BatchHeader::decode(&bytes, SegmentId(8), 4096), None);
        assert_eq!(BatchHeader::decode(&bytes, SegmentId(7), 8192), None);
    }

    #[test]
    fn only_the_exact_name_is_a_segment() {
        assert_eq!(segment_name(SegmentId(255)), "00000000000000ff.seg");
        assert_eq!(
            parse_segment_name("00000000000000ff.seg"),
            Some(SegmentId(255))
        );
        for stray in [
            "ff.seg",
            "00000000000000FF.seg",
            "0000000000000000.seg",
            "LOCK",
            "+0000000000000ff.seg",
        ] {
            assert_eq!(parse_segment_name(stray), None, "{stray}");
        }
    }
}
