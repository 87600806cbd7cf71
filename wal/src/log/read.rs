//! Reading entries back.
//!
//! Invariants:
//! - Nothing is returned whose CRC was not checked on this read, and the CRC covers which entry it
//!   is.
//! - No lock is held while the disk is asked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::Entry;
use crate::error::{DamageKind, ReadError};
use crate::format::entry_crc;
use crate::group::Located;
use crate::ids::GroupId;
use crate::locations::{Location, SegmentSlot};
use crate::record::{SLOT_BYTES, Slot};
use crate::segment::Segment;

use super::Log;

/// One read returns at most so many entries.
const ENTRIES_MAX: u64 = 16_384;

/// Entries to read, and the open segments that they are in.
struct Plan {
    entries: Vec<Located>,
    segments: Vec<(SegmentSlot, Arc<Segment>)>,
}

impl Log {
    /// The durable entries of a group from `from` up to but without `to`. At least one, and no more
    /// than fit in `bytes_max` bytes of payload or 16,384; so there may be fewer than asked for.
    /// Empty if `from` is not below `to`. On a real disk payloads are views of the mapped segment.
    pub fn read(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let plan = self.plan(group, from, to)?;
        let mut entries = Vec::with_capacity(plan.entries.len());
        let mut bytes = 0;
        for located in &plan.entries {
            let entry = plan.read_entry(group, located, self)?;
            bytes += entry.payload.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn plan(&self, group: GroupId, from: u64, to: u64) -> Result<Plan, ReadError> {
        let index = self.index.read();
        let Some(log) = index.groups.get(&group) else {
            return Err(ReadError::NotWritten {
                group,
                index: from,
                last_index: 0,
            });
        };
        if from < log.first_index() {
            let first_index = log.first_index();
            return Err(ReadError::Compacted {
                group,
                index: from,
                first_index,
            });
        }
        let last_index = log.last_index();
        if to - 1 > last_index {
            return Err(ReadError::NotWritten {
                group,
                index: from.max(last_index + 1),
                last_index,
            });
        }
        let entries: Vec<Located> = log
            .located(from, to.min(from.saturating_add(ENTRIES_MAX)))
            .collect();
        let mut segments: Vec<(SegmentSlot, Arc<Segment>)> = Vec::new();
        for slot in entries
            .iter()
            .filter_map(|entry| entry.location)
            .map(Location::segment)
        {
            // Entries of one segment follow each other.
            if segments.last().is_none_or(|(last, _)| *last != slot) {
                let segment = index
                    .segments
                    .get(slot)
                    .expect("a segment stays while entries are in it");
                segments.push((slot, Arc::clone(segment)));
            }
        }
        Ok(Plan { entries, segments })
    }
}

impl Plan {
    fn read_entry(&self, group: GroupId, entry: &Located, log: &Log) -> Result<Entry, ReadError> {
        let Located {
            index,
            term,
            kind,
            location,
        } = *entry;
        let Some(location) = location else {
            return Err(ReadError::Corrupt {
                file: log.dir.clone(),
                offset: 0,
                group,
                index,
                kind: DamageKind::MissingEntries,
            });
        };
        let found = self
            .segments
            .iter()
            .find(|(slot, _)| *slot == location.segment());
        let (_, segment) = found.expect("the segment of every entry was opened");
        let corrupt = |offset, kind| ReadError::Corrupt {
            file: segment.path.clone(),
            offset,
            group,
            index,
            kind,
        };
        let failed = |offset, error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(offset, DamageKind::Truncated),
            _ => ReadError::Io {
                path: segment.path.clone(),
                source: error,
            },
        };
        let (slot_offset, payload_offset) = (location.slot_offset(), location.payload_offset());
        let slot = segment.file.read_bytes(slot_offset, SLOT_BYTES);
        let slot = slot.map_err(|error| failed(slot_offset, error))?;
        let slot = Slot::decode(&slot).expect("as many bytes as a slot has were read");
        // The slot is read again from the disk: its length is trusted no further than the segment
        // goes.
        let payload = match slot.len {
            0 => Bytes::new(),
            len if payload_offset + u64::from(len) > segment.bytes => {
                return Err(corrupt(slot_offset, DamageKind::Descriptors));
            }
            len => segment
                .file
                .read_bytes(payload_offset, len as usize)
                .map_err(|error| failed(payload_offset, error))?,
        };
        if entry_crc(group.0, index, term, kind, &payload) != slot.crc {
            return Err(corrupt(payload_offset, DamageKind::Payload));
        }
        Ok(Entry {
            index,
            term,
            kind,
            payload,
        })
    }
}
