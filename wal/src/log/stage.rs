//! Puts together the bytes of a batch. Small payloads are copied behind each other; large ones are
//! written from where they are.

use std::io::IoSlice;
use std::ops::Range;

use crate::batch::COPY_BYTES_MAX;
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, desc_crc};
use crate::ids::{Lsn, SegmentId};

use super::queue::Submission;

/// A part of what is written, in order: staged bytes, or a large chunk where it is.
pub(super) enum Part<'a> {
    Staged(Range<usize>),
    Shared(&'a [u8]),
}

impl<'a> Part<'a> {
    /// Its bytes, of which some are in `staging`.
    pub(super) fn slice(&'a self, staging: &'a [u8]) -> IoSlice<'a> {
        match self {
            Self::Staged(range) => IoSlice::new(&staging[range.clone()]),
            Self::Shared(bytes) => IoSlice::new(bytes),
        }
    }
}

/// Puts a batch together behind what is staged: room for its header, the checkpoint and how many
/// records it has if the batch begins a segment, all descriptors, all payloads, and the padding. The header that is returned lacks what depends on the place.
pub(super) fn stage<'a>(
    staging: &mut Vec<u8>,
    checkpoint: Option<(&[u8], u32)>,
    submissions: &'a [Submission],
) -> (Vec<Part<'a>>, BatchHeader) {
    let head = staging.len();
    staging.resize(head + BATCH_HEADER_BYTES, 0);
    let mut records = 0;
    if let Some((checkpoint, its_records)) = checkpoint {
        staging.extend_from_slice(checkpoint);
        records += its_records;
    }
    let mut payload_bytes = 0;
    for Submission { batch, .. } in submissions {
        staging.extend_from_slice(&batch.desc);
        payload_bytes += batch.payload_bytes;
        records += batch.records;
    }
    let header = BatchHeader {
        epoch: 0,
        segment: SegmentId(0),
        offset: 0,
        lsn: submissions.last().map_or(Lsn(0), |it| it.lsn),
        durable_lsn: Lsn(0),
        desc_bytes: (staging.len() - head - BATCH_HEADER_BYTES) as u32,
        desc_crc: 0,
        payload_bytes: payload_bytes as u32,
        records,
    };
    let mut parts = Vec::new();
    let mut staged = 0;
    for chunk in submissions
        .iter()
        .flat_map(|submission| &submission.batch.chunks)
    {
        let bytes = chunk.bytes();
        if bytes.len() <= COPY_BYTES_MAX {
            staging.extend_from_slice(bytes);
        } else {
            parts.push(Part::Staged(staged..staging.len()));
            parts.push(Part::Shared(bytes));
            staged = staging.len();
        }
    }
    let used = BATCH_HEADER_BYTES as u64 + u64::from(header.desc_bytes) + payload_bytes;
    staging.resize(staging.len() + (header.batch_bytes() - used) as usize, 0);
    parts.push(Part::Staged(staged..staging.len()));
    (parts, header)
}

/// Completes the header of the batch that is staged, now that its place is known. Returns the CRC
/// of the header.
pub(super) fn finish_header(staged: &mut [u8], header: &mut BatchHeader) -> u32 {
    let desc = BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + header.desc_bytes as usize;
    header.desc_crc = desc_crc(header.segment, header.offset, &staged[desc]);
    let (bytes, crc) = header.encode();
    staged[..BATCH_HEADER_BYTES].copy_from_slice(&bytes);
    crc
}
