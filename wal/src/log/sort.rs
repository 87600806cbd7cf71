//! Which files of a directory are in service: those that the manifest names, and those that went
//! into service since, which lead to each other by their headers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Damage, DamageKind, OpenError};
use crate::format::{BLOCK_BYTES, BatchHeader, HeaderBlock, SegmentHeader, segment_name};
use crate::ids::{Lsn, SegmentId};
use crate::locations::SEGMENT_SLOTS_MAX;
use crate::manifest::Manifest;
use crate::segment::{Sealed, Segment};

use super::scan::Scanner;

/// A segment file and what its first block says.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) segment: Arc<Segment>,
    pub(crate) header: HeaderBlock,
}

/// A segment that is in service.
#[derive(Debug)]
pub(crate) struct InService {
    pub(crate) segment: Arc<Segment>,
    /// Its header, unless it is damaged.
    pub(crate) header: Option<SegmentHeader>,
    /// Where its batches end, unless it is the last.
    pub(crate) sealed: Option<Sealed>,
    /// Whether all of it was durable when it was sealed. If not, a power cut may have taken the end
    /// of it, and what follows.
    pub(crate) is_proven: bool,
    /// Whether its first batch was durable for sure.
    pub(crate) is_begun: bool,
}

/// What the files of a directory are.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// The segments of the log, oldest first.
    pub(crate) chain: Vec<InService>,
    /// Segments that the log does without, in the order in which they may be deleted.
    pub(crate) dead: Vec<Candidate>,
    /// Files that were never in service.
    pub(crate) unused: Vec<Candidate>,
    pub(crate) damage: Vec<Damage>,
    /// The highest epoch of all headers.
    pub(crate) epoch: u32,
    /// The highest generation of a manifest that a header speaks of.
    pub(crate) generation: u64,
    /// Whether the manifest was believed.
    pub(crate) believes: bool,
}

/// What was found of the manifest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundManifest<'a> {
    /// What the newest whole slot says.
    pub(crate) newest: Option<&'a Manifest>,
    /// The slot that is not whole, though it was written to. It may have been the newest.
    pub(crate) damaged: Option<&'a Path>,
}

/// Sorts the segment files of a directory.
pub(crate) fn sort(
    dir: &Path,
    mut candidates: BTreeMap<SegmentId, Candidate>,
    found: FoundManifest<'_>,
    accept_damage: bool,
) -> Result<Sorted, OpenError> {
    let manifest = found.newest;
    let mut sorted = Sorted::default();
    for header in candidates.values().filter_map(Candidate::header) {
        sorted.epoch = sorted.epoch.max(header.epoch);
        sorted.generation = sorted.generation.max(header.generation);
    }
    let top = top(&candidates, manifest)?;
    // Where damage is accepted, a manifest whose newest segment is not there, or holds nothing, has no say:
    // it may do without everything that is left.
    let has_say = !accept_damage || top.map_or(Ok(true), |top| was_in_service(&candidates, top))?;
    // The one before the newest is right as well: nothing is deleted that either of them needs.
    let is_right = |manifest: &&Manifest| {
        manifest.generation >= sorted.generation.saturating_sub(1) && has_say
    };
    let right = manifest.filter(is_right);
    sorted.believes = right.is_some();
    match (right, top) {
        (_, None) => {}
        (Some(manifest), Some(top)) => {
            let walked = sorted
                .walk(dir, &mut candidates, manifest, top, accept_damage)
                .and_then(|()| sorted.add_listed(dir, &mut candidates, manifest, accept_damage));
            walked.map_err(|error| blame(found, sorted.generation, error))?;
            sorted.blame_slot(found);
        }
        // Without the manifest nobody knows which of the older files are dead.
        (None, Some(top)) => {
            let (path, kind) = match candidates.get(&top) {
                None => (dir.join(segment_name(top)), DamageKind::MissingSegment),
                Some(_) if has_say => {
                    let path = found.damaged.unwrap_or(dir);
                    (path.to_owned(), DamageKind::Manifest)
                }
                Some(_) => (dir.join(segment_name(top)), DamageKind::SegmentHeader),
            };
            sorted.damage.push(damage(path, kind));
            sorted.take_all(&mut candidates);
        }
    }
    if sorted.chain.len() >= SEGMENT_SLOTS_MAX {
        let damage = vec![damage(dir.to_owned(), DamageKind::Chain)];
        return Err(OpenError::Damaged { damage });
    }
    sorted.chain.reverse();
    sorted.seal_by_successors();
    sorted.sort_others(candidates, manifest);
    Ok(sorted)
}

/// Whether the log would open by this manifest, were it the newest: all that it needs is there. Earlier builds
/// gave up segments that the older slot still named.
pub(crate) fn is_right_alone(
    dir: &Path,
    candidates: BTreeMap<SegmentId, Candidate>,
    manifest: Option<&Manifest>,
) -> Result<bool, OpenError> {
    let found = FoundManifest {
        newest: manifest,
        damaged: None,
    };
    match sort(dir, candidates, found, false) {
        Ok(sorted) => Ok(sorted.believes && sorted.damage.is_empty()),
        Err(OpenError::MissingSegment { .. } | OpenError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Candidate {
    fn header(&self) -> Option<&SegmentHeader> {
        match &self.header {
            HeaderBlock::Valid(header) => Some(header),
            _ => None,
        }
    }

    fn into_service(self) -> InService {
        let Self { segment, header } = self;
        let header = match header {
            HeaderBlock::Valid(header) => Some(header),
            _ => None,
        };
        InService {
            segment,
            header,
            sealed: None,
            is_proven: true,
            is_begun: false,
        }
    }
}

impl InService {
    /// The segment as one that the log does without.
    pub(crate) fn into_dead(self) -> Candidate {
        let header = self.header.map_or(HeaderBlock::Invalid, HeaderBlock::Valid);
        Candidate {
            segment: self.segment,
            header,
        }
    }
}

impl Sorted {
    /// Follows the headers from the newest segment to the first that the manifest may know.
    fn walk(
        &mut self,
        dir: &Path,
        candidates: &mut BTreeMap<SegmentId, Candidate>,
        manifest: &Manifest,
        top: SegmentId,
        accept_damage: bool,
    ) -> Result<(), OpenError> {
        let mut next = top;
        let mut found_active = manifest.active.0 == 0;
        while next > manifest.settled && next.0 > 0 {
            let Some(candidate) = candidates.remove(&next) else {
                if accept_damage {
                    let path = dir.join(segment_name(next));
                    self.damage.push(damage(path, DamageKind::MissingSegment));
                    next = below(candidates, next).unwrap_or_default();
                    continue;
                }
                return Err(missing(dir, next));
            };
            let is_whole = candidate.header().is_some();
            if !is_whole && self.last_is_unsynced() && next != manifest.active {
                // Its header was never durable: what came behind it is cut off.
                self.cut_off(candidate);
                next = below(candidates, next).unwrap_or_default();
                continue;
            }
            found_active |= next == manifest.active;
            if !is_whole {
                let path = candidate.segment.path.clone();
                self.damage.push(damage(path, DamageKind::SegmentHeader));
            }
            next = match candidate.header() {
                Some(header) => header.prev,
                None => below(candidates, next).unwrap_or_default(),
            };
            let id = candidate.segment.id;
            self.chain.push(InService {
                is_begun: id == manifest.active,
                ..candidate.into_service()
            });
        }
        if !found_active {
            let path = dir.join(segment_name(manifest.active));
            self.damage.push(damage(path, DamageKind::Chain));
        }
        Ok(())
    }

    /// Where segments are missing and a slot of the manifest is damaged, which may have been the newest
    /// and have done without them, the slot is the cause that is known.
    fn blame_slot(&mut self, found: FoundManifest<'_>) {
        let is_missing = |it: &Damage| it.kind == DamageKind::MissingSegment;
        let Some(slot) = found.damaged.filter(|_| self.damage.iter().any(is_missing)) else {
            return;
        };
        if is_behind(found, self.generation) {
            self.damage.retain(|it| !is_missing(it));
        }
        let slot = damage(slot.to_owned(), DamageKind::Manifest);
        self.damage.insert(0, slot);
    }

    fn last_is_unsynced(&self) -> bool {
        let header = self.chain.last().and_then(|last| last.header.as_ref());
        header.is_some_and(|header| header.unsynced)
    }

    /// What was found so far hangs on a segment that is not there: it goes, the newest first.
    fn cut_off(&mut self, unused: Candidate) {
        let gone = self.chain.drain(..).map(InService::into_dead);
        self.dead.extend(gone);
        self.unused.push(unused);
    }

    fn add_listed(
        &mut self,
        dir: &Path,
        candidates: &mut BTreeMap<SegmentId, Candidate>,
        manifest: &Manifest,
        accept_damage: bool,
    ) -> Result<(), OpenError> {
        let oldest = self.chain.last().and_then(|it| it.header.clone());
        for &(id, sealed) in manifest.sealed.iter().rev() {
            let Some(candidate) = candidates.remove(&id) else {
                if accept_damage {
                    let path = dir.join(segment_name(id));
                    self.damage.push(damage(path, DamageKind::MissingSegment));
                    continue;
                }
                return Err(missing(dir, id));
            };
            let path = candidate.segment.path.clone();
            if candidate.header().is_none() {
                self.damage
                    .push(damage(path.clone(), DamageKind::SegmentHeader));
            }
            let contradicts = |next: &SegmentHeader| {
                next.prev == id && (next.prev_end, next.prev_chain) != (sealed.end, sealed.chain)
            };
            if oldest.as_ref().is_some_and(contradicts) {
                self.damage.push(damage(path, DamageKind::Chain));
            }
            let mut in_service = candidate.into_service();
            in_service.sealed = Some(sealed);
            self.chain.push(in_service);
        }
        Ok(())
    }

    /// Takes every segment with a header for one in service: the manifest is lost.
    fn take_all(&mut self, candidates: &mut BTreeMap<SegmentId, Candidate>) {
        let ids: Vec<_> = candidates.keys().rev().copied().collect();
        for id in ids {
            if candidates.get(&id).is_some_and(|it| it.header().is_some())
                && let Some(candidate) = candidates.remove(&id)
            {
                self.chain.push(candidate.into_service());
            }
        }
    }

    /// Each segment ends where the header of the next one says, if the manifest does not say it.
    fn seal_by_successors(&mut self) {
        for position in 1..self.chain.len() {
            let (before, after) = self.chain.split_at_mut(position);
            let before = &mut before[position - 1];
            let Some(header) = &after[0].header else {
                continue;
            };
            if before.sealed.is_none() && header.prev == before.segment.id {
                before.is_proven = !header.unsynced;
                before.sealed = Some(Sealed {
                    end: header.prev_end,
                    chain: header.prev_chain,
                    lsn: Lsn(header.first_lsn.0.saturating_sub(1)),
                });
            }
        }
    }

    /// What is not in service is dead, or never was; a segment that looks as if it were in service
    /// is damage.
    fn sort_others(
        &mut self,
        candidates: BTreeMap<SegmentId, Candidate>,
        manifest: Option<&Manifest>,
    ) {
        let settled = manifest.map_or(SegmentId(0), |manifest| manifest.settled);
        for (id, candidate) in candidates.into_iter().rev() {
            let Some(header) = candidate.header() else {
                if id <= settled {
                    self.dead.push(candidate);
                } else {
                    self.unused.push(candidate);
                }
                continue;
            };
            // A power cut had taken the segment before it, and the log went on without both.
            let is_passed_over = self.chain.iter().any(|it| {
                let passes = |next: &SegmentHeader| next.prev < id && next.epoch > header.epoch;
                it.segment.id > id && it.header.as_ref().is_some_and(passes)
            });
            if id > settled && !is_passed_over {
                let path = candidate.segment.path.clone();
                self.damage.push(damage(path, DamageKind::Chain));
            }
            self.dead.push(candidate);
        }
    }
}

/// The newest segment that was in service.
fn top(
    candidates: &BTreeMap<SegmentId, Candidate>,
    manifest: Option<&Manifest>,
) -> Result<Option<SegmentId>, OpenError> {
    let is_valid = |(_, it): &(&SegmentId, &Candidate)| it.header().is_some();
    let newest = candidates.iter().rev().find(is_valid).map(|(&id, _)| id);
    let known = manifest.map(|it| {
        it.active
            .max(it.sealed.last().map_or(SegmentId(0), |it| it.0))
    });
    let known = known.filter(|id| id.0 > 0);
    let mut top = newest.max(known);
    for (&id, candidate) in candidates
        .iter()
        .filter(|(id, _)| Some(**id) > newest.max(known))
    {
        if holds_acknowledged(candidate)? {
            top = Some(id);
        }
    }
    Ok(top)
}

/// Whether a segment is there and holds something, or did.
fn was_in_service(
    candidates: &BTreeMap<SegmentId, Candidate>,
    id: SegmentId,
) -> Result<bool, OpenError> {
    match candidates.get(&id) {
        None => Ok(false),
        Some(candidate) if candidate.header().is_some() => Ok(true),
        Some(candidate) => holds_acknowledged(candidate),
    }
}

/// Whether a segment without a header was in service nevertheless: a second batch in it says that the
/// first was durable, and the header became durable with that one.
fn holds_acknowledged(candidate: &Candidate) -> Result<bool, OpenError> {
    let mut scanner = Scanner::new(&candidate.segment);
    let id = candidate.segment.id;
    let block = scanner.bytes(BLOCK_BYTES, BLOCK_BYTES)?;
    let Some((first, _)) = block.and_then(|block| BatchHeader::decode(block, id, BLOCK_BYTES))
    else {
        return Ok(false);
    };
    let second = BLOCK_BYTES + first.batch_bytes();
    let block = scanner.bytes(second, BLOCK_BYTES)?;
    let second = block.and_then(|block| BatchHeader::decode(block, id, second));
    // Without syncs the second says nothing of the first.
    Ok(second.is_some_and(|(second, _)| second.durable_lsn >= first.lsn))
}

fn below(candidates: &BTreeMap<SegmentId, Candidate>, id: SegmentId) -> Option<SegmentId> {
    let mut older = candidates.range(..id).rev();
    older
        .find(|(_, it)| it.header().is_some())
        .map(|(&id, _)| id)
}

/// Whether a segment speaks of a newer manifest than the one that was found.
fn is_behind(found: FoundManifest<'_>, generation: u64) -> bool {
    found.newest.is_some_and(|it| it.generation < generation)
}

/// As [`Sorted::blame_slot`], for an open that is refused.
fn blame(found: FoundManifest<'_>, generation: u64, error: OpenError) -> OpenError {
    match (error, found.damaged) {
        (OpenError::MissingSegment { path, .. }, Some(slot)) => {
            let mut parts = vec![damage(slot.to_owned(), DamageKind::Manifest)];
            if !is_behind(found, generation) {
                parts.push(damage(path, DamageKind::MissingSegment));
            }
            OpenError::Damaged { damage: parts }
        }
        (error, _) => error,
    }
}

fn missing(dir: &Path, segment: SegmentId) -> OpenError {
    OpenError::MissingSegment {
        path: dir.join(segment_name(segment)),
        segment,
    }
}

fn damage(file: PathBuf, kind: DamageKind) -> Damage {
    Damage {
        file,
        offset: 0,
        group: None,
        indexes: None,
        kind,
    }
}
