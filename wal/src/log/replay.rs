//! Reads segments batch by batch, and tells a torn tail from damage.
//!
//! The rule: a place where no batch is ends the log, unless something proves that a batch there was
//! acknowledged. Proof is the header of the next segment, which says where this one ended; or a
//! later batch of this segment, which says up to which lsn everything was durable when it was
//! written.

use crate::error::{Damage, DamageKind, OpenError};
use crate::format::{BLOCK_BYTES, BatchHeader, SegmentHeader, chain};
use crate::ids::{Lsn, SegmentId};
use crate::index::{Fault, Index, Place, Stage};
use crate::locations::SegmentSlot;
use crate::mutants;
use crate::segment::{Sealed, Segment};

use super::drive::Tail;
use super::scan::{Batch, Found, Scanner};
use super::sort::InService;

/// Segments that are being read.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) index: Index,
    /// The lsn of the last batch that was read.
    pub(crate) lsn: Lsn,
    /// Where the last segment ends.
    pub(crate) tail: Tail,
    pub(crate) damage: Vec<Damage>,
    /// Whether a batch was found that cannot be read, so that what follows need not fit.
    has_gap: bool,
    /// Whether states of groups may be lost: a batch that cannot be read, and no checkpoint behind
    /// it.
    pub(crate) is_state_lost: bool,
    pub(crate) scanned_bytes: u64,
    pub(crate) torn_tail_bytes: u64,
}

/// The segment that is being read.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is known of it and what was found in it are independent of each other"
)]
struct Reading<'a> {
    scanner: Scanner<'a>,
    segment: &'a Segment,
    slot: SegmentSlot,
    header: Option<&'a SegmentHeader>,
    sealed: Option<Sealed>,
    is_proven: bool,
    /// Whether its first batch was durable for sure.
    is_begun: bool,
    /// Where it ends at the latest.
    end: u64,
    offset: u64,
    chain: u32,
    /// Whether damage was found in it, so that its chain cannot be right.
    damaged: bool,
    /// Whether the log ends in it, although there are segments behind it.
    cut: bool,
}

impl Reading<'_> {
    fn is_of_epoch(&self, batch: &BatchHeader) -> bool {
        self.header
            .is_none_or(|segment| segment.epoch == batch.epoch)
    }

    /// Whether every batch up to the end was acknowledged.
    fn is_sealed(&self) -> bool {
        self.sealed.is_some() && self.is_proven
    }
}

impl Replay {
    pub(crate) fn new(index: Index) -> Self {
        Self {
            index,
            lsn: Lsn(0),
            tail: Tail::default(),
            damage: Vec::new(),
            has_gap: false,
            is_state_lost: false,
            scanned_bytes: 0,
            torn_tail_bytes: 0,
        }
    }

    /// Reads segments that follow each other. Returns how many of them count: where a power cut took
    /// the end of one that was not synced, those behind it do not.
    pub(crate) fn run(&mut self, parts: &[InService]) -> Result<usize, OpenError> {
        for (position, part) in parts.iter().enumerate() {
            let InService {
                segment,
                header,
                sealed,
                is_proven,
                is_begun,
            } = part;
            let stage = if *is_proven {
                Stage::Durable
            } else {
                Stage::Written
            };
            let Some(slot) = self.index.segments.add(segment.clone(), stage) else {
                self.damage(segment, 0, DamageKind::Chain);
                return Ok(position);
            };
            let end = sealed.map_or(segment.bytes, |sealed| sealed.end.min(segment.bytes));
            let mut reading = Reading {
                scanner: Scanner::new(segment),
                segment,
                slot,
                header: header.as_ref(),
                sealed: *sealed,
                is_proven: *is_proven,
                is_begun: *is_begun,
                end,
                offset: BLOCK_BYTES,
                chain: header.as_ref().map_or(0, SegmentHeader::chain_start),
                damaged: header.is_none(),
                cut: false,
            };
            let before = position
                .checked_sub(1)
                .map(|before| parts[before].segment.id);
            self.begin_segment(&mut reading, before);
            while reading.offset < reading.end {
                self.step(&mut reading)?;
            }
            self.end_segment(&reading, position + 1 == parts.len());
            if reading.cut {
                return Ok(position + 1);
            }
        }
        Ok(parts.len())
    }

    fn begin_segment(&mut self, reading: &mut Reading<'_>, before: Option<SegmentId>) {
        let segment = reading.segment;
        let Some(header) = reading.header else { return };
        reading.damaged |= header.segment_bytes > segment.bytes;
        // Read alone or behind others, a segment must say the same: its header counts.
        let last = Lsn(header.first_lsn.0.saturating_sub(1));
        let follows = if self.has_gap {
            last >= self.lsn
        } else {
            last == self.lsn
        };
        // Of the first that is read, or where segments between were given up, nobody knows better.
        if before == Some(header.prev) && !follows {
            self.damage(segment, 0, DamageKind::Chain);
        }
        self.lsn = last;
    }

    /// Reads the batch at the offset, and moves behind it; or to the end, if the log ends here.
    fn step(&mut self, reading: &mut Reading<'_>) -> Result<(), OpenError> {
        let kind = match reading.scanner.batch(reading.offset, reading.end)? {
            Found::Batch(batch) if self.continues(&batch.header, reading) => {
                return self.accept(reading, &batch);
            }
            Found::Batch(batch) if self.proves_a_loss(&batch.header, reading) => {
                self.damage(reading.segment, reading.offset, DamageKind::Chain);
                reading.damaged = true;
                return Ok(());
            }
            Found::Batch(_) => DamageKind::BatchHeader,
            Found::Bad(kind) => kind,
        };
        let lsn = self.lsn;
        let from = reading.offset + BLOCK_BYTES;
        // In a sealed segment every batch up to the end was acknowledged; in the last one those
        // before the watermark.
        let is_sealed = reading.is_sealed();
        let wanted = |header: &BatchHeader| is_sealed || header.durable_lsn > lsn;
        let ahead = reading.scanner.look_ahead(from, reading.end, wanted)?;
        let is_first = reading.is_begun && reading.offset == BLOCK_BYTES;
        let is_damage = ahead.batch.is_some() || is_sealed || is_first;
        if is_damage && !mutants::TAKES_ROT_FOR_TORN_TAIL {
            self.damage(reading.segment, reading.offset, kind);
            reading.damaged = true;
            reading.offset = ahead.batch.unwrap_or(reading.end);
            return Ok(());
        }
        self.end_log(reading, ahead.used_end)
    }

    /// Whether a whole batch is the one that must follow. Behind damage, what was lost may stand
    /// between.
    fn continues(&self, header: &BatchHeader, reading: &Reading<'_>) -> bool {
        reading.is_of_epoch(header)
            && header.lsn > self.lsn
            && (self.has_gap || header.durable_lsn <= self.lsn)
    }

    /// Whether a whole batch says that more was durable before it than was found.
    fn proves_a_loss(&self, header: &BatchHeader, reading: &Reading<'_>) -> bool {
        reading.is_of_epoch(header) && !self.has_gap && header.durable_lsn > self.lsn
    }

    fn accept(&mut self, reading: &mut Reading<'_>, batch: &Batch) -> Result<(), OpenError> {
        let header = &batch.header;
        let next = reading.offset + header.batch_bytes();
        if !reading.is_sealed() && !mutants::BELIEVES_TORN_TAIL {
            let bad = reading.scanner.bad_payloads(batch)?;
            if !bad.is_empty() {
                let proves = |later: &BatchHeader| later.durable_lsn >= header.lsn;
                let ahead = reading.scanner.look_ahead(next, reading.end, proves)?;
                if ahead.batch.is_none() || mutants::TAKES_ROT_FOR_TORN_TAIL {
                    return self.end_log(reading, ahead.used_end.max(next));
                }
            }
            for payload in bad {
                self.damage.push(Damage {
                    file: reading.segment.path.clone(),
                    offset: payload.offset,
                    group: Some(payload.group),
                    indexes: Some((payload.index, payload.index)),
                    kind: DamageKind::Payload,
                });
            }
        }
        let place = Place {
            segment: reading.slot,
            desc_offset: header.desc_offset(),
            payload_offset: header.payload_offset(),
        };
        let mut faults = Vec::new();
        self.index
            .apply(place, header.lsn, &batch.desc, &mut faults);
        self.report_faults(reading, faults);
        self.lsn = header.lsn;
        self.scanned_bytes += header.batch_bytes();
        reading.chain = chain(reading.chain, batch.header_crc);
        reading.offset = next;
        if batch_begins_segment(header) {
            // The states of all groups are known again.
            self.is_state_lost = false;
        }
        Ok(())
    }

    /// The log ends at the offset: what stands behind was never acknowledged.
    fn end_log(&mut self, reading: &mut Reading<'_>, used_end: u64) -> Result<(), OpenError> {
        let is_recycled = reading.header.is_some_and(|header| header.recycled);
        let id = reading.segment.id;
        let block = reading.scanner.bytes(reading.offset, BLOCK_BYTES)?;
        let torn = match block {
            // What another segment left behind says nothing.
            Some(block) if is_recycled => BatchHeader::torn_bytes(block, id).unwrap_or(0),
            Some(block) => {
                let is_used = block.iter().any(|&byte| byte != 0);
                let is_torn = is_used || used_end > reading.offset + BLOCK_BYTES;
                if is_torn {
                    used_end - reading.offset
                } else {
                    0
                }
            }
            None => 0,
        };
        self.torn_tail_bytes += torn.min(reading.segment.bytes - reading.offset);
        reading.cut = reading.sealed.is_some();
        reading.end = reading.offset;
        Ok(())
    }

    fn end_segment(&mut self, reading: &Reading<'_>, is_last: bool) {
        self.tail = Tail {
            segment: reading.segment.id,
            at: Sealed {
                end: reading.offset,
                chain: reading.chain,
                lsn: self.lsn,
            },
        };
        let bytes = reading.segment.bytes;
        let is_short = reading.header.is_some_and(|it| it.segment_bytes > bytes)
            || reading
                .sealed
                .is_some_and(|it| it.end > bytes && !reading.cut);
        if is_short {
            // Said at the end: what is gone stood behind all that was read.
            self.damage(reading.segment, bytes, DamageKind::Truncated);
        }
        let Some(sealed) = reading.sealed.filter(|_| !reading.cut) else {
            if !is_last && !reading.cut {
                // Nobody says any more where it ended, but nothing is added to it, and it stays.
                let Tail { segment, at } = self.tail;
                self.index.segments.seal(segment, at, stage_of(reading));
            } else if reading.offset == BLOCK_BYTES
                && let Some((_, counted)) = self.index.segments.by_id(reading.segment.id)
            {
                // A power cut left its header and took its first batch: no manifest may say that
                // it was begun.
                counted.stage = Stage::Empty;
            }
            return;
        };
        self.index
            .segments
            .seal(reading.segment.id, sealed, stage_of(reading));
        let Sealed { end, chain, .. } = sealed;
        if !is_short && !reading.damaged && (reading.offset, reading.chain) != (end, chain) {
            self.damage(reading.segment, reading.offset, DamageKind::Chain);
        }
    }

    /// Gaps are reported at the end, if a later compaction has not closed them. A checkpoint that
    /// disagrees with a log in which something is damaged says nothing new.
    fn report_faults(&mut self, reading: &Reading<'_>, faults: Vec<Fault>) {
        let was_damaged = self.has_gap;
        for fault in faults {
            let (group, kind) = match fault {
                Fault::Gap { .. } => continue,
                Fault::Checkpoint { .. } if was_damaged => continue,
                Fault::Checkpoint { group } => (Some(group), DamageKind::Checkpoint),
                Fault::Record { .. } => (None, DamageKind::Descriptors),
            };
            self.has_gap = true;
            self.is_state_lost |= kind == DamageKind::Descriptors;
            self.damage.push(Damage {
                file: reading.segment.path.clone(),
                offset: reading.offset,
                group,
                indexes: None,
                kind,
            });
        }
    }

    fn damage(&mut self, segment: &Segment, offset: u64, kind: DamageKind) {
        let file = segment.path.clone();
        self.has_gap = true;
        self.is_state_lost = true;
        self.damage.push(Damage {
            file,
            offset,
            group: None,
            indexes: None,
            kind,
        });
    }
}

/// The first batch of a segment stands behind its header, and holds the checkpoint.
fn batch_begins_segment(header: &BatchHeader) -> bool {
    header.offset == BLOCK_BYTES
}

fn stage_of(reading: &Reading<'_>) -> Stage {
    if reading.is_proven {
        Stage::Durable
    } else {
        Stage::Written
    }
}
