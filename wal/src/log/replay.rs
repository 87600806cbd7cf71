//! Reads a log from its oldest segment to its end, and tells a torn tail from damage.
//!
//! The rule: a place where no batch is ends the log, unless something proves that a batch there was
//! acknowledged. Proof is the header of the next segment, which says where this one ended; or a
//! later batch of this segment, which says up to which lsn everything was durable when it was
//! written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Damage, DamageKind, OpenError};
use crate::format::{BLOCK_BYTES, BatchHeader, HeaderBlock, SegmentHeader, chain};
use crate::ids::{Lsn, SegmentId};
use crate::index::{Fault, Index, Place};
use crate::locations::SegmentSlot;
use crate::options::LogOptions;
use crate::segment::Segment;

use super::RecoveryReport;
use super::drive::Tail;
use super::scan::{Batch, Found, Scanner};

/// A segment file and what its first block says.
pub(crate) struct Candidate {
    pub(crate) segment: Arc<Segment>,
    pub(crate) header: HeaderBlock,
}

/// A segment that was in service. Its header is known unless it is damaged.
pub(crate) struct InService {
    segment: Arc<Segment>,
    header: Option<SegmentHeader>,
}

/// What the files of a directory are.
pub(crate) struct Sorted {
    /// The segments of the log, oldest first.
    pub(crate) chain: Vec<InService>,
    /// The segment before the first of the chain that is not there; zero if the chain begins the
    /// log.
    before: SegmentId,
    /// Files that were never in service, or are dead.
    pub(crate) others: Vec<Candidate>,
}

/// Where a log ended, and how it was read.
pub(crate) struct End {
    pub(crate) lsn: Lsn,
    pub(crate) epoch: u32,
    pub(crate) tail: Tail,
    pub(crate) report: RecoveryReport,
}

/// A log that is being read.
pub(crate) struct Replay<'a> {
    options: &'a LogOptions,
    index: Index,
    /// The lsn of the last batch that was read.
    lsn: Lsn,
    epoch: u32,
    tail: Tail,
    report: RecoveryReport,
}

/// The segment that is being read.
struct Reading<'a> {
    scanner: Scanner<'a>,
    segment: &'a Segment,
    slot: SegmentSlot,
    header: Option<&'a SegmentHeader>,
    /// Where it ends and with which chain, as its successor says. The last segment has no
    /// successor.
    sealed: Option<(u64, u32)>,
    /// Where it ends at the latest.
    end: u64,
    offset: u64,
    chain: u32,
    /// Whether damage was found in it, so that its chain cannot be right.
    damaged: bool,
}

impl Reading<'_> {
    fn is_of_epoch(&self, batch: &BatchHeader) -> bool {
        self.header
            .is_none_or(|segment| segment.epoch == batch.epoch)
    }
}

impl<'a> Replay<'a> {
    pub(crate) fn new(options: &'a LogOptions) -> Self {
        Self {
            options,
            index: Index::default(),
            lsn: Lsn(0),
            epoch: 0,
            tail: Tail::default(),
            report: RecoveryReport::default(),
        }
    }

    /// Finds the segments that were in service: the newest that was, and from there each
    /// predecessor.
    pub(crate) fn sort(
        &mut self,
        mut candidates: BTreeMap<SegmentId, Candidate>,
    ) -> Result<Sorted, OpenError> {
        let is_valid = |it: &Candidate| matches!(it.header, HeaderBlock::Valid(_));
        let newest = candidates
            .iter()
            .rev()
            .find(|(_, it)| is_valid(it))
            .map(|(&id, _)| id);
        let mut next = newest;
        for (&id, candidate) in candidates.iter().filter(|(id, _)| Some(**id) > newest) {
            if holds_acknowledged(candidate)? {
                next = Some(id);
            }
        }
        let mut chain = Vec::new();
        let mut before = SegmentId(0);
        while let Some(id) = next {
            let Some(Candidate { segment, header }) = candidates.remove(&id) else {
                before = id;
                break;
            };
            let header = match header {
                HeaderBlock::Valid(header) => Some(header),
                _ => None,
            };
            if header.is_none() {
                self.damage(&segment, 0, DamageKind::SegmentHeader);
            }
            next = match &header {
                Some(header) => Some(header.prev).filter(|prev| prev.0 > 0),
                None => candidates
                    .range(..id)
                    .rev()
                    .find(|(_, it)| is_valid(it))
                    .map(|(&id, _)| id),
            };
            chain.push(InService { segment, header });
        }
        chain.reverse();
        Ok(Sorted {
            chain,
            before,
            others: candidates.into_values().collect(),
        })
    }

    /// Reads the segments of the log.
    pub(crate) fn run(&mut self, chain: &[InService]) -> Result<(), OpenError> {
        for (position, InService { segment, header }) in chain.iter().enumerate() {
            let successor = chain
                .get(position + 1)
                .and_then(|next| next.header.as_ref());
            let sealed = successor.map(|header| (header.prev_end, header.prev_chain));
            let Some(slot) = self.index.segments.add(Arc::clone(segment)) else {
                self.damage(segment, 0, DamageKind::Chain);
                return Ok(());
            };
            let mut reading = Reading {
                scanner: Scanner::new(segment),
                segment,
                slot,
                header: header.as_ref(),
                sealed,
                end: sealed.map_or(segment.bytes, |(end, _)| end.min(segment.bytes)),
                offset: BLOCK_BYTES,
                chain: header.as_ref().map_or(0, SegmentHeader::chain_start),
                damaged: header.is_none(),
            };
            self.begin_segment(&mut reading, position == 0);
            while reading.offset < reading.end {
                self.step(&mut reading)?;
            }
            self.end_segment(&reading);
        }
        Ok(())
    }

    /// Checks what can only be said of the whole log.
    pub(crate) fn finish(mut self, dir: &Path, sorted: &Sorted) -> Result<(Index, End), OpenError> {
        let oldest = self.index.oldest;
        if sorted.before >= oldest && sorted.before.0 > 0 {
            let path = dir.join(crate::format::segment_name(sorted.before));
            return Err(OpenError::MissingSegment {
                path,
                segment: sorted.before,
            });
        }
        for orphan in &sorted.others {
            let is_valid = matches!(orphan.header, HeaderBlock::Valid(_));
            if is_valid && orphan.segment.id >= oldest {
                self.damage(&orphan.segment, 0, DamageKind::Chain);
            }
        }
        for (&group, log) in &self.index.groups {
            if let Some(indexes) = log.first_missing() {
                self.report.damage.push(Damage {
                    file: dir.to_owned(),
                    offset: 0,
                    group: Some(group),
                    indexes: Some(indexes),
                    kind: DamageKind::MissingEntries,
                });
            }
        }
        if self.is_damaged() && !self.options.accept_damage {
            return Err(OpenError::Damaged {
                damage: self.report.damage,
            });
        }
        let Self {
            index,
            lsn,
            epoch,
            tail,
            report,
            ..
        } = self;
        Ok((
            index,
            End {
                lsn,
                epoch,
                tail,
                report,
            },
        ))
    }

    fn begin_segment(&mut self, reading: &mut Reading<'_>, is_first: bool) {
        self.report.segments += 1;
        let segment = reading.segment;
        let Some(header) = reading.header else { return };
        if header.segment_bytes > segment.bytes {
            self.damage(segment, segment.bytes, DamageKind::Truncated);
            reading.damaged = true;
        }
        if is_first {
            self.lsn = Lsn(header.first_lsn.0.saturating_sub(1));
        } else if !self.is_damaged() && header.first_lsn.0 != self.lsn.0 + 1 {
            self.damage(segment, 0, DamageKind::Chain);
        }
        self.epoch = self.epoch.max(header.epoch);
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
        let is_sealed = reading.sealed.is_some();
        let wanted = |header: &BatchHeader| is_sealed || header.durable_lsn > lsn;
        let ahead = reading.scanner.look_ahead(from, reading.end, wanted)?;
        if ahead.batch.is_some() || is_sealed {
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
            && (self.is_damaged() || header.durable_lsn <= self.lsn)
    }

    /// Whether a whole batch says that more was durable before it than was found.
    fn proves_a_loss(&self, header: &BatchHeader, reading: &Reading<'_>) -> bool {
        reading.is_of_epoch(header) && !self.is_damaged() && header.durable_lsn > self.lsn
    }

    fn accept(&mut self, reading: &mut Reading<'_>, batch: &Batch) -> Result<(), OpenError> {
        let header = &batch.header;
        let next = reading.offset + header.batch_bytes();
        if reading.sealed.is_none() {
            let bad = reading.scanner.bad_payloads(batch)?;
            if !bad.is_empty() {
                let proves = |later: &BatchHeader| later.durable_lsn >= header.lsn;
                let ahead = reading.scanner.look_ahead(next, reading.end, proves)?;
                if ahead.batch.is_none() {
                    return self.end_log(reading, ahead.used_end.max(next));
                }
            }
            for payload in bad {
                self.report.damage.push(Damage {
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
        self.index.apply(place, &batch.desc, &mut faults);
        self.report_faults(reading, faults);
        self.lsn = header.lsn;
        self.epoch = self.epoch.max(header.epoch);
        self.report.scanned_bytes += header.batch_bytes();
        reading.chain = chain(reading.chain, batch.header_crc);
        reading.offset = next;
        self.tail = Tail {
            segment: reading.segment.id,
            end: next,
            chain: reading.chain,
        };
        Ok(())
    }

    /// The log ends at the offset: what stands behind was never acknowledged.
    fn end_log(&mut self, reading: &mut Reading<'_>, used_end: u64) -> Result<(), OpenError> {
        let block = reading.scanner.bytes(reading.offset, BLOCK_BYTES)?;
        let is_used = block.is_some_and(|block| block.iter().any(|&byte| byte != 0));
        let is_torn = is_used || used_end > reading.offset + BLOCK_BYTES;
        if is_torn {
            self.report.torn_tail_bytes += used_end - reading.offset;
        }
        self.tail = Tail {
            segment: reading.segment.id,
            end: reading.offset,
            chain: reading.chain,
        };
        reading.end = reading.offset;
        Ok(())
    }

    fn end_segment(&mut self, reading: &Reading<'_>) {
        self.tail = Tail {
            segment: reading.segment.id,
            end: reading.offset,
            chain: reading.chain,
        };
        let Some((end, chain)) = reading.sealed else {
            return;
        };
        if end > reading.segment.bytes {
            self.damage(
                reading.segment,
                reading.segment.bytes,
                DamageKind::Truncated,
            );
        } else if !reading.damaged && (reading.offset, reading.chain) != (end, chain) {
            self.damage(reading.segment, reading.offset, DamageKind::Chain);
        }
    }

    /// Gaps are reported at the end, if a later compaction has not closed them. A checkpoint that
    /// disagrees with a log in which something is damaged says nothing new.
    fn report_faults(&mut self, reading: &Reading<'_>, faults: Vec<Fault>) {
        let was_damaged = self.is_damaged();
        for fault in faults {
            let (group, kind) = match fault {
                Fault::Gap { .. } => continue,
                Fault::Checkpoint { .. } if was_damaged => continue,
                Fault::Checkpoint { group } => (Some(group), DamageKind::Checkpoint),
                Fault::Record { .. } => (None, DamageKind::Descriptors),
            };
            self.report.damage.push(Damage {
                file: reading.segment.path.clone(),
                offset: reading.offset,
                group,
                indexes: None,
                kind,
            });
        }
    }

    fn is_damaged(&self) -> bool {
        !self.report.damage.is_empty()
    }

    fn damage(&mut self, segment: &Segment, offset: u64, kind: DamageKind) {
        let file = segment.path.clone();
        self.report.damage.push(Damage {
            file,
            offset,
            group: None,
            indexes: None,
            kind,
        });
    }
}

/// Whether a segment without a header was in service nevertheless. A batch in it that is not its
/// first was written after the first was durable, and the header became durable with that one.
fn holds_acknowledged(candidate: &Candidate) -> Result<bool, OpenError> {
    let mut scanner = Scanner::new(&candidate.segment);
    let first = scanner.bytes(BLOCK_BYTES, BLOCK_BYTES)?;
    let is_unused = first.is_none_or(|block| block.iter().all(|&byte| byte == 0));
    if candidate.header == HeaderBlock::Blank && is_unused {
        return Ok(false);
    }
    let ahead = scanner.look_ahead(2 * BLOCK_BYTES, candidate.segment.bytes, |_| true)?;
    Ok(ahead.batch.is_some())
}
