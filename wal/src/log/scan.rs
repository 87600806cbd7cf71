//! Reads the batches of one segment, from a file that may hold anything.
//!
//! Reads through system calls, not through the map, so that a device that cannot read is an error.

use std::io;

use crate::codec::Take;
use crate::error::{DamageKind, OpenError};
use crate::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, desc_crc, entry_crc, padded};
use crate::ids::GroupId;
use crate::locations::Spot;
use crate::record::{RUN_BYTES, Record, Records, SLOT_BYTES};
use crate::segment::Segment;

/// Bytes read at once at least.
const WINDOW_BYTES: u64 = 256 << 10;

/// Reads one segment.
pub(crate) struct Scanner<'a> {
    segment: &'a Segment,
    window: Vec<u8>,
    window_offset: u64,
}

/// What stands where a batch should begin.
pub(crate) enum Found {
    Batch(Batch),
    /// Something else, and which part of a batch it is not.
    Bad(DamageKind),
}

/// A batch whose header and descriptors are whole.
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    pub(crate) header_crc: u32,
    pub(crate) desc: Vec<u8>,
}

/// An entry whose payload is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPayload {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) offset: u64,
}

/// What follows a place where no batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Where the next batch is that was looked for.
    pub(crate) batch: Option<u64>,
    /// Where the last block ends that is not zero, as far as was looked.
    pub(crate) used_end: u64,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(segment: &'a Segment) -> Self {
        Self {
            segment,
            window: Vec::new(),
            window_offset: 0,
        }
    }

    /// Reads the batch at `offset`, which ends at `end` at the latest.
    pub(crate) fn batch(&mut self, offset: u64, end: u64) -> Result<Found, OpenError> {
        let segment = self.segment.id;
        let Some(bytes) = self.bytes(offset, BATCH_HEADER_BYTES as u64)? else {
            return Ok(Found::Bad(DamageKind::Truncated));
        };
        let Some((header, header_crc)) = BatchHeader::decode(bytes, segment, offset) else {
            return Ok(Found::Bad(DamageKind::BatchHeader));
        };
        if offset + header.batch_bytes() > end {
            return Ok(Found::Bad(DamageKind::BatchHeader));
        }
        let desc = self.bytes(header.desc_offset(), u64::from(header.desc_bytes))?;
        let Some(desc) = desc.map(<[u8]>::to_vec) else {
            return Ok(Found::Bad(DamageKind::Truncated));
        };
        let whole = desc_crc(segment, offset, &desc) == header.desc_crc
            && payload_bytes(&desc, offset) == Some(u64::from(header.payload_bytes));
        if !whole {
            return Ok(Found::Bad(DamageKind::Descriptors));
        }
        Ok(Found::Batch(Batch {
            header,
            header_crc,
            desc,
        }))
    }

    /// Checks the payloads of a batch.
    pub(crate) fn bad_payloads(&mut self, batch: &Batch) -> Result<Vec<BadPayload>, OpenError> {
        let mut bad = Vec::new();
        let mut offset = batch.header.payload_offset();
        for record in Records::new(&batch.desc) {
            let Ok((_, Record::Run(run) | Record::Moved(run))) = record else {
                continue;
            };
            // The indexes come second: behind the last of them there is none.
            for (slot, index) in run.slots().zip(run.first_index..) {
                let bytes = self.bytes(offset, u64::from(slot.len))?;
                let crc =
                    bytes.map(|bytes| entry_crc(run.group.0, index, run.term, run.kind, bytes));
                if crc != Some(slot.crc) {
                    bad.push(BadPayload {
                        group: run.group,
                        index,
                        offset,
                    });
                }
                offset += padded(u64::from(slot.len));
            }
        }
        Ok(bad)
    }

    /// Looks at every block from `offset` to `end` for the header of a batch that is `wanted`.
    pub(crate) fn look_ahead(
        &mut self,
        offset: u64,
        end: u64,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Ahead, OpenError> {
        let segment = self.segment.id;
        let mut ahead = Ahead {
            batch: None,
            used_end: offset,
        };
        let blocks = (offset..end.min(self.segment.bytes)).step_by(BLOCK_BYTES as usize);
        for offset in blocks {
            let Some(block) = self.bytes(offset, BLOCK_BYTES)? else {
                break;
            };
            if let Some((header, _)) = BatchHeader::decode(block, segment, offset)
                && wanted(&header)
            {
                ahead.batch = Some(offset);
                return Ok(ahead);
            }
            if !is_zero(block) {
                ahead.used_end = offset + BLOCK_BYTES;
            }
        }
        Ok(ahead)
    }

    /// Bytes of the file; none if it ends before.
    pub(crate) fn bytes(&mut self, offset: u64, len: u64) -> Result<Option<&[u8]>, OpenError> {
        let Some(end) = offset
            .checked_add(len)
            .filter(|&end| end <= self.segment.bytes)
        else {
            return Ok(None);
        };
        let window_end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || end > window_end {
            let window_end = (offset + WINDOW_BYTES.max(len)).min(self.segment.bytes);
            self.window.resize((window_end - offset) as usize, 0);
            self.window_offset = offset;
            let read = self.segment.file.read_at(offset, &mut self.window);
            if let Err(source) = read {
                self.window.clear();
                if source.kind() == io::ErrorKind::UnexpectedEof {
                    return Ok(None);
                }
                let path = self.segment.path.clone();
                return Err(OpenError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        }
        let start = (offset - self.window_offset) as usize;
        Ok(Some(&self.window[start..start + len as usize]))
    }
}

/// Where the batches of a sealed segment say that an entry is, whatever its index says. Batches that
/// are not whole are passed over.
pub(crate) fn find_spot(
    segment: &Segment,
    end: u64,
    group: GroupId,
    index: u64,
) -> Result<Option<Spot>, OpenError> {
    let mut scanner = Scanner::new(segment);
    let mut spot = None;
    let mut offset = BLOCK_BYTES;
    while offset < end {
        if let Found::Batch(batch) = scanner.batch(offset, end)? {
            spot = spot_in(&batch, group, index).or(spot);
            offset += batch.header.batch_bytes();
        } else {
            offset += BLOCK_BYTES;
        }
    }
    Ok(spot)
}

fn spot_in(batch: &Batch, group: GroupId, index: u64) -> Option<Spot> {
    let mut spot = None;
    let mut payload_offset = batch.header.payload_offset();
    for record in Records::new(&batch.desc) {
        let Ok((offset, Record::Run(run) | Record::Moved(run))) = record else {
            continue;
        };
        let mut slot_offset = batch.header.desc_offset() + (offset + RUN_BYTES) as u64;
        for (slot, found) in run.slots().zip(run.first_index..) {
            if (run.group, found) == (group, index) {
                spot = Some(Spot::new(run.kind, slot_offset, payload_offset));
            }
            slot_offset += SLOT_BYTES as u64;
            payload_offset += padded(u64::from(slot.len));
        }
    }
    spot
}

/// Bytes of the payload area that the descriptors of the batch at `offset` speak of; none if they do
/// not decode, or a checkpoint is not whole. Without the checkpoint that begins a segment nobody could
/// say, from this segment alone, whose entries it holds.
fn payload_bytes(desc: &[u8], offset: u64) -> Option<u64> {
    let mut bytes = 0;
    let mut groups_left = 0;
    let mut must_begin = offset == BLOCK_BYTES;
    for record in Records::new(desc) {
        match record.ok()?.1 {
            Record::Checkpoint { groups } => {
                groups_left = groups;
                must_begin = false;
            }
            Record::Group(_) => groups_left = groups_left.checked_sub(1)?,
            _ if must_begin || groups_left > 0 => return None,
            Record::Run(run) | Record::Moved(run) => {
                let slots = run.slots();
                bytes += slots.map(|it| padded(u64::from(it.len))).sum::<u64>();
            }
            _ => {}
        }
    }
    (groups_left == 0 && !must_begin).then_some(bytes)
}

fn is_zero(block: &[u8]) -> bool {
    let mut take = Take::new(block);
    while let Some(word) = take.u64() {
        if word != 0 {
            return false;
        }
    }
    true
}
