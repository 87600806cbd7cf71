//! The batches of one segment.

use std::path::Path;

use crate::disk::Disk;
use crate::error::{DamageKind, OpenError};
use crate::format::{BLOCK_BYTES, HeaderBlock, SegmentHeader, VERSION_MAJOR, segment_name};
use crate::ids::{Lsn, SegmentId};
use crate::log::recover::read_candidate;
use crate::log::scan::{Batch, Found, Scanner};
use crate::record::{Record, Records};

use super::look::{ReadOnly, look};

/// What stands in a segment where a batch should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchInspection {
    /// Where it begins, in bytes from the start of the segment.
    pub offset: u64,
    /// Its size with padding; up to the next batch if it is not whole.
    pub bytes: u64,
    /// The lsn of its last submission; zero if it is not whole.
    pub lsn: Lsn,
    /// Everything up to this lsn was durable before it was written; zero if it is not whole.
    pub durable_lsn: Lsn,
    /// Submissions in it.
    pub submissions: u64,
    /// Descriptors in it.
    pub records: u64,
    /// Entries in it, with those that were moved here.
    pub entries: u64,
    /// Bytes of its payloads.
    pub payload_bytes: u64,
    /// Whether it is sound.
    pub verdict: Verdict,
}

/// Whether a batch is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Every CRC is right.
    Whole,
    /// The payloads of so many entries are not what was written.
    BadPayloads(u64),
    /// A batch was here, and this part of it is damaged.
    Damaged(DamageKind),
    /// Behind the end of the log: never acknowledged, or left from what the file was before.
    Ignored,
}

/// Lists the batches of a segment, whatever it is to the log, up to where nothing more of it is.
pub fn list_batches(
    disk: &dyn Disk,
    dir: &Path,
    segment: SegmentId,
) -> Result<Vec<BatchInspection>, OpenError> {
    let disk = ReadOnly(disk);
    let looked = look(&disk, dir)?;
    let candidate = read_candidate(&disk, dir, segment, false)?;
    let header = match candidate.header {
        HeaderBlock::Valid(header) => Some(header),
        HeaderBlock::Foreign(found) => {
            return Err(OpenError::Version {
                path: dir.join(segment_name(segment)),
                found,
                supported: VERSION_MAJOR,
            });
        }
        HeaderBlock::Blank | HeaderBlock::Invalid => None,
    };
    let end = looked.end_of(segment).unwrap_or_default();
    let is_own = |found: u32| header.as_ref().is_none_or(|header| header.epoch == found);
    let bytes = candidate.segment.bytes;
    let mut scanner = Scanner::new(&candidate.segment);
    let mut lsn = before(header.as_ref());
    let mut batches = Vec::new();
    let mut offset = BLOCK_BYTES;
    while offset < bytes {
        match scanner.batch(offset, bytes)? {
            Found::Batch(batch) if is_own(batch.header.epoch) => {
                let verdict = if offset < end {
                    verdict(&mut scanner, &batch)?
                } else {
                    Verdict::Ignored
                };
                let listed = of_batch(&batch, lsn, verdict);
                lsn = batch.header.lsn;
                offset += listed.bytes;
                batches.push(listed);
            }
            found => {
                let wanted = |next: &crate::format::BatchHeader| is_own(next.epoch);
                let ahead = scanner.look_ahead(offset + BLOCK_BYTES, bytes, wanted)?;
                let next = ahead.batch.unwrap_or(end).max(offset);
                if next > offset {
                    let kind = match found {
                        Found::Bad(kind) => kind,
                        Found::Batch(_) => DamageKind::BatchHeader,
                    };
                    batches.push(nothing_whole(offset, next.min(bytes), end, kind));
                }
                if ahead.batch.is_none() {
                    break;
                }
                offset = next;
            }
        }
    }
    Ok(batches)
}

fn before(header: Option<&SegmentHeader>) -> Lsn {
    Lsn(header.map_or(0, |header| header.first_lsn.0.saturating_sub(1)))
}

fn verdict(scanner: &mut Scanner<'_>, batch: &Batch) -> Result<Verdict, OpenError> {
    let bad = scanner.bad_payloads(batch)?;
    Ok(match bad.len() {
        0 => Verdict::Whole,
        count => Verdict::BadPayloads(count as u64),
    })
}

fn of_batch(batch: &Batch, before: Lsn, verdict: Verdict) -> BatchInspection {
    let header = &batch.header;
    let entries = |record: Record<'_>| match record {
        Record::Run(run) | Record::Moved(run) => run.slots().len() as u64,
        _ => 0,
    };
    let records = Records::new(&batch.desc).filter_map(Result::ok);
    BatchInspection {
        offset: header.offset,
        bytes: header.batch_bytes(),
        lsn: header.lsn,
        durable_lsn: header.durable_lsn,
        submissions: header.lsn.0.saturating_sub(before.0),
        records: u64::from(header.records),
        entries: records.map(|(_, record)| entries(record)).sum(),
        payload_bytes: u64::from(header.payload_bytes),
        verdict,
    }
}

fn nothing_whole(offset: u64, next: u64, end: u64, kind: DamageKind) -> BatchInspection {
    BatchInspection {
        offset,
        bytes: next - offset,
        lsn: Lsn(0),
        durable_lsn: Lsn(0),
        submissions: 0,
        records: 0,
        entries: 0,
        payload_bytes: 0,
        verdict: if offset < end {
            Verdict::Damaged(kind)
        } else {
            Verdict::Ignored
        },
    }
}
