//! Checks one segment in service: its batches, what stands between them, and the index behind them.

use crate::error::{Damage, DamageKind, OpenError};
use crate::format::{BLOCK_BYTES, BatchHeader, SegmentHeader, chain, entry_crc, padded};
use crate::group::GroupLog;
use crate::ids::GroupId;
use crate::index::Index;
use crate::locations::{Piece, PiecePlace, Spot};
use crate::log::scan::{Batch, Found, Scanner};
use crate::log::sort::InService;
use crate::record::{RUN_BYTES, Record, Records, Run, SLOT_BYTES, Slot};

use super::index::{SegmentIndex, read_index};
use super::verify::{Cost, Findings};

/// Zeros between the parts are read in steps of this size.
const STEP_BYTES: u64 = 64 << 10;

/// Checks a segment, and says what is wrong with it.
pub(super) fn check_segment(
    part: &InService,
    findings: &mut Findings<'_>,
) -> Result<(), OpenError> {
    let segment = &part.segment;
    if !findings.looked.in_use {
        // What is in the cache proves nothing about the disk.
        let dropped = segment.file.drop_cache();
        dropped.map_err(|source| OpenError::io("drop the cache of", &segment.path, source))?;
    }
    let end = findings.looked.end_of(segment.id);
    let mut check = Check {
        part,
        index: None,
        scanner: Scanner::new(segment),
        gaps: Vec::new(),
        findings,
    };
    check.length();
    if part.sealed.is_some_and(|sealed| Some(sealed.end) == end) {
        check.index = read_index(part, check.findings)?;
    }
    check.findings.step(BLOCK_BYTES);
    check.batches(end)?;
    check.gaps()
}

struct Check<'a, 'b> {
    part: &'a InService,
    index: Option<SegmentIndex>,
    scanner: Scanner<'a>,
    /// Where no batch is, although one was.
    gaps: Vec<Gap>,
    findings: &'a mut Findings<'b>,
}

/// A part of a segment in which no batch is, although one was.
#[derive(Clone, Copy, Debug)]
struct Gap {
    offset: u64,
    end: u64,
    kind: DamageKind,
}

/// Entries that were lost with a batch.
struct Lost {
    gap: usize,
    group: GroupId,
    indexes: (u64, u64),
}

impl Check<'_, '_> {
    fn length(&mut self) {
        let bytes = self.part.segment.bytes;
        if (self.part.header.as_ref()).is_some_and(|header| header.segment_bytes > bytes) {
            self.add(bytes, DamageKind::Truncated);
        }
    }

    /// Reads the batches up to the end; if that is not known, up to the first that is not whole.
    fn batches(&mut self, end: Option<u64>) -> Result<(), OpenError> {
        let header = self.part.header.as_ref();
        let is_own = |found: &BatchHeader| header.is_none_or(|it| it.epoch == found.epoch);
        let mut lsn = header.map_or(0, |header| header.first_lsn.0.saturating_sub(1));
        let mut names = header.map_or(0, SegmentHeader::chain_start);
        let mut is_gapless = header.is_some();
        let mut offset = BLOCK_BYTES;
        let limit = end.unwrap_or(self.part.segment.bytes);
        while offset < limit {
            let kind = match self.scanner.batch(offset, limit)? {
                Found::Batch(batch) if is_own(&batch.header) && batch.header.lsn.0 > lsn => {
                    if is_gapless && batch.header.durable_lsn.0 > lsn {
                        self.add(offset, DamageKind::Chain);
                        is_gapless = false;
                    }
                    self.batch(&batch)?;
                    lsn = batch.header.lsn.0;
                    names = chain(names, batch.header_crc);
                    offset += batch.header.batch_bytes();
                    self.findings.step(batch.header.batch_bytes());
                    continue;
                }
                Found::Batch(_) => DamageKind::BatchHeader,
                Found::Bad(kind) => kind,
            };
            if end.is_none() {
                break;
            }
            is_gapless = false;
            let wanted = |next: &BatchHeader| is_own(next) && next.lsn.0 > lsn;
            let ahead = self
                .scanner
                .look_ahead(offset + BLOCK_BYTES, limit, wanted)?;
            let next = ahead.batch.unwrap_or(limit);
            self.gaps.push(Gap {
                offset,
                end: next,
                kind,
            });
            let bytes = self.part.segment.bytes;
            self.findings.step(next.min(bytes) - offset.min(bytes));
            offset = next;
        }
        let ends_right = |it: crate::segment::Sealed| (it.end, it.chain) == (offset, names);
        let sealed = self.part.sealed.filter(|sealed| Some(sealed.end) == end);
        if is_gapless && !sealed.is_none_or(ends_right) {
            self.add(offset, DamageKind::Chain);
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), OpenError> {
        let header = &batch.header;
        let mut payload_offset = header.payload_offset();
        for record in Records::new(&batch.desc) {
            if let Ok((offset, Record::Run(run) | Record::Moved(run))) = record {
                let slots = header.desc_offset() + (offset + RUN_BYTES) as u64;
                payload_offset = self.run(&run, slots, payload_offset)?;
            }
        }
        self.zeros(payload_offset, header.offset + header.batch_bytes())?;
        self.findings.found.batches += 1;
        Ok(())
    }

    /// Checks the payloads of a run. Returns where they end.
    fn run(
        &mut self,
        run: &Run<'_>,
        mut slot_offset: u64,
        mut payload_offset: u64,
    ) -> Result<u64, OpenError> {
        for (index, slot) in (run.first_index..).zip(run.slots()) {
            let spot = Spot::new(run.kind, slot_offset, payload_offset);
            if let Some(index_behind) = &mut self.index {
                index_behind.mark(run.group, index, spot);
            }
            let len = u64::from(slot.len);
            let bytes = self.scanner.bytes(payload_offset, padded(len))?;
            let (payload, padding) = match bytes {
                Some(bytes) => bytes.split_at(len as usize),
                None => (&[][..], &[][..]),
            };
            let is_whole = bytes.is_some()
                && entry_crc(run.group.0, index, run.term, run.kind, payload) == slot.crc;
            let is_padded = padding.iter().all(|&byte| byte == 0);
            if !is_whole {
                self.payload(run.group, index, spot);
            } else if !is_padded {
                self.add(payload_offset + len, DamageKind::Padding);
            }
            self.findings.found.entries += 1;
            slot_offset += SLOT_BYTES as u64;
            payload_offset += padded(len);
        }
        Ok(payload_offset)
    }

    /// Notes that the payload of an entry is not what was written.
    fn payload(&mut self, group: GroupId, index: u64, spot: Spot) {
        let is_live = self.is_live(group, index, spot);
        let is_superseded = !is_live && !self.is_nowhere(group, index);
        let damage = Damage {
            indexes: Some((index, index)),
            group: Some(group),
            ..self.damage(spot.payload_offset(), DamageKind::Payload)
        };
        match (is_live, is_superseded) {
            (true, _) => self.findings.add(damage, Cost::Entries),
            (false, true) => self.findings.note_superseded(damage),
            (false, false) => self.findings.add(damage, Cost::Nothing),
        }
    }

    fn zeros(&mut self, mut offset: u64, end: u64) -> Result<(), OpenError> {
        while offset < end {
            let step = (end - offset).min(STEP_BYTES);
            if let Some(bytes) = self.scanner.bytes(offset, step)?
                && let Some(at) = bytes.iter().position(|&byte| byte != 0)
            {
                self.add(offset + at as u64, DamageKind::Padding);
                return Ok(());
            }
            offset += step;
        }
        Ok(())
    }

    /// Names the entries that were lost with the batches that are not whole, and what the index says
    /// that no batch does.
    fn gaps(&mut self) -> Result<(), OpenError> {
        let mut lost = self.lost()?;
        lost.sort_by_key(|it| it.gap);
        for (position, gap) in std::mem::take(&mut self.gaps).into_iter().enumerate() {
            let damage = self.damage(gap.offset, gap.kind);
            let begin = lost.partition_point(|it| it.gap < position);
            let end = lost.partition_point(|it| it.gap <= position);
            if begin == end || self.findings.is_noticed(&damage) {
                self.add(gap.offset, gap.kind);
                continue;
            }
            for Lost { group, indexes, .. } in &lost[begin..end] {
                let damage = Damage {
                    group: Some(*group),
                    indexes: Some(*indexes),
                    ..damage.clone()
                };
                self.findings.add(damage, Cost::Entries);
            }
        }
        Ok(())
    }

    /// The entries in the log that only the index knows, and that cannot be read by it.
    fn lost(&mut self) -> Result<Vec<Lost>, OpenError> {
        let mut lost: Vec<Lost> = Vec::new();
        let Some(index) = self.index.take() else {
            return Ok(lost);
        };
        for (group, number, spot, spot_offset) in index.unmarked() {
            let behind = self
                .gaps
                .partition_point(|gap| gap.offset <= spot.slot_offset());
            let holds = |gap: &usize| spot.slot_offset() < self.gaps[*gap].end;
            let Some(gap) = behind.checked_sub(1).filter(holds) else {
                let damage = Damage {
                    group: Some(group),
                    ..self.damage(spot_offset, DamageKind::Footer)
                };
                self.findings.add(damage, Cost::Nothing);
                continue;
            };
            if !self.is_in_log(group, number) || self.can_read(group, number, spot)? {
                continue;
            }
            match lost.last_mut() {
                Some(before)
                    if (before.gap, before.group) == (gap, group)
                        && before.indexes.1 + 1 == number =>
                {
                    before.indexes.1 = number;
                }
                _ => lost.push(Lost {
                    gap,
                    group,
                    indexes: (number, number),
                }),
            }
        }
        self.index = Some(index);
        Ok(lost)
    }

    /// Whether the log of a group has an entry in this segment.
    fn is_in_log(&self, group: GroupId, index: u64) -> bool {
        self.piece(group, index).is_some()
    }

    /// Whether it is at this spot that the log of a group has an entry.
    fn is_live(&self, group: GroupId, index: u64, spot: Spot) -> bool {
        let place = self.piece(group, index).map(|piece| piece.place);
        match (place, &self.index) {
            (Some(PiecePlace::Hot(_, spots)), _) => spots.first() == Some(&spot),
            (Some(PiecePlace::Sealed(..)), Some(index_behind)) => {
                index_behind.may_lead_to(group, index, spot)
            }
            (Some(PiecePlace::Sealed(..)), None) => true,
            (Some(PiecePlace::Nowhere) | None, _) => false,
        }
    }

    /// Whether an entry is in the log of its group, and nobody knows where.
    fn is_nowhere(&self, group: GroupId, index: u64) -> bool {
        let Some((log, _)) = self.group(group) else {
            return false;
        };
        let is_within = (log.first_index()..=log.last_index()).contains(&index);
        is_within
            && log
                .pieces(index..index + 1)
                .any(|piece| matches!(piece.place, PiecePlace::Nowhere))
    }

    /// The piece of a group's log with an entry, if that is in this segment.
    fn piece(&self, group: GroupId, index: u64) -> Option<Piece<'_>> {
        let (log, known) = self.group(group)?;
        let is_within = (log.first_index()..=log.last_index()).contains(&index);
        let piece = is_within.then(|| log.pieces(index..index + 1).next());
        piece.flatten().filter(|piece| {
            let counted = piece.place.segment().and_then(|it| known.segments.get(it));
            counted.is_some_and(|it| it.segment.id == self.part.segment.id)
        })
    }

    fn group(&self, group: GroupId) -> Option<(&GroupLog, &Index)> {
        let index = &self.findings.looked.read.index;
        Some((index.groups.get(&group)?, index))
    }

    /// Whether the spot of an entry leads to it, whatever has become of its batch.
    fn can_read(&mut self, group: GroupId, index: u64, spot: Spot) -> Result<bool, OpenError> {
        let stretch = self.group(group).and_then(|(log, _)| {
            let mut stretches = log.stretches(index..index + 1);
            stretches.next()
        });
        let Some(stretch) = stretch else {
            return Ok(false);
        };
        let bytes = self.scanner.bytes(spot.slot_offset(), SLOT_BYTES as u64)?;
        let Some(Slot { len, crc }) = bytes.and_then(Slot::decode) else {
            return Ok(false);
        };
        let payload = self.scanner.bytes(spot.payload_offset(), u64::from(len))?;
        let found = |bytes: &[u8]| entry_crc(group.0, index, stretch.term, spot.kind(), bytes);
        Ok(payload.is_some_and(|bytes| found(bytes) == crc))
    }

    fn add(&mut self, offset: u64, kind: DamageKind) {
        let damage = self.damage(offset, kind);
        let cost = if self.findings.is_noticed(&damage) {
            self.findings.cost_noticed(&damage)
        } else {
            Cost::Nothing
        };
        self.findings.add(damage, cost);
    }

    fn damage(&self, offset: u64, kind: DamageKind) -> Damage {
        Damage {
            file: self.part.segment.path.clone(),
            offset,
            group: None,
            indexes: None,
            kind,
        }
    }
}
