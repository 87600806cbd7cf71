//! Checks the index behind a sealed segment against the batches before it.

use crate::error::{Damage, DamageKind, OpenError};
use crate::footer::{FOOTER_HEADER_BYTES, Footer, RANGE_BYTES, Range};
use crate::format::BLOCK_BYTES;
use crate::ids::GroupId;
use crate::locations::{SPOT_BYTES, Spot};
use crate::log::scan::Scanner;
use crate::log::sort::InService;

use super::verify::{Cost, Findings, Note};

/// The index behind one segment, in memory while the segment is checked.
pub(super) struct SegmentIndex {
    /// By group and first index.
    ranges: Vec<Listed>,
    /// The range that was found last: entries of a run follow each other.
    last: usize,
}

/// A range, its spots, and which of them a batch confirmed.
struct Listed {
    range: Range,
    /// Whether the spots are those that were written.
    is_whole: bool,
    spots: Vec<(Spot, bool)>,
}

/// Reads the index behind a sealed segment. What is wrong with it, or that there is none, goes to
/// the findings.
pub(super) fn read_index(
    part: &InService,
    findings: &mut Findings<'_>,
) -> Result<Option<SegmentIndex>, OpenError> {
    let segment = &part.segment;
    let sealed = part.sealed.expect("the caller asks for sealed segments");
    let footer = match Footer::read(segment, sealed) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
        other => other.map_err(|source| OpenError::io("read", &segment.path, source))?,
    };
    let Some(footer) = footer else {
        no_index(part, findings)?;
        return Ok(None);
    };
    let table_bytes = (FOOTER_HEADER_BYTES + footer.ranges.len() * RANGE_BYTES) as u64;
    let mut scanner = Scanner::new(segment);
    let mut offset = sealed.end + table_bytes;
    let mut ranges = Vec::with_capacity(footer.ranges.len());
    for range in footer.ranges {
        // The spots stand one behind the other, so that together they are no more than the file.
        if range.spots_offset != offset {
            add(
                part,
                findings,
                offset,
                Some(range.group),
                DamageKind::Footer,
            );
            return Ok(None);
        }
        offset += range.spots_bytes();
        let listed = Listed::read(&mut scanner, range, segment.id)?;
        if !listed.is_whole {
            let (at, group) = (listed.range.spots_offset, listed.range.group);
            add(part, findings, at, Some(group), DamageKind::Footer);
        }
        ranges.push(listed);
    }
    let padding = scanner.bytes(offset, offset.next_multiple_of(BLOCK_BYTES) - offset)?;
    let used = padding.and_then(|bytes| bytes.iter().position(|&byte| byte != 0));
    if let Some(used) = used {
        add(
            part,
            findings,
            offset + used as u64,
            None,
            DamageKind::Padding,
        );
    }
    ranges.sort_unstable_by_key(|listed| (listed.range.group, listed.range.first_index));
    Ok(Some(SegmentIndex { ranges, last: 0 }))
}

/// There is no index that is whole: says whether there was one.
fn no_index(part: &InService, findings: &mut Findings<'_>) -> Result<(), OpenError> {
    let segment = &part.segment;
    let Some(sealed) = part.sealed else {
        return Ok(());
    };
    let mut scanner = Scanner::new(segment);
    let header = scanner.bytes(sealed.end, FOOTER_HEADER_BYTES as u64)?;
    if header.is_some_and(|header| Footer::left_a_trace(header, segment.id, sealed)) {
        add(part, findings, sealed.end, None, DamageKind::Footer);
        return Ok(());
    }
    let counted = findings.looked.counted(segment.id);
    if counted.is_some_and(|counted| counted.live > 0) {
        findings.found.notes.push(Note::NoIndex {
            file: segment.path.clone(),
        });
    }
    Ok(())
}

fn add(
    part: &InService,
    findings: &mut Findings<'_>,
    offset: u64,
    group: Option<GroupId>,
    kind: DamageKind,
) {
    let damage = Damage {
        file: part.segment.path.clone(),
        offset,
        group,
        indexes: None,
        kind,
    };
    findings.add(damage, Cost::Nothing);
}

impl Listed {
    fn read(
        scanner: &mut Scanner<'_>,
        range: Range,
        segment: crate::ids::SegmentId,
    ) -> Result<Self, OpenError> {
        let bytes = scanner.bytes(range.spots_offset, range.spots_bytes())?;
        let is_whole = bytes.is_some_and(|bytes| Footer::spots_are_whole(segment, &range, bytes));
        let spots = bytes.filter(|_| is_whole).unwrap_or_default();
        let spots = spots.chunks_exact(SPOT_BYTES).filter_map(Spot::decode);
        Ok(Self {
            range,
            is_whole,
            spots: spots.map(|spot| (spot, false)).collect(),
        })
    }

    fn position(&self, group: GroupId, index: u64) -> Option<usize> {
        let Range {
            first_index, count, ..
        } = self.range;
        let position = index.checked_sub(first_index)?;
        (self.range.group == group && position < count).then_some(position as usize)
    }
}

impl SegmentIndex {
    /// A batch has an entry at this spot.
    pub(super) fn mark(&mut self, group: GroupId, index: u64, spot: Spot) {
        let Some((range, position)) = self.find(group, index) else {
            return;
        };
        self.last = range;
        if let Some((found, marked)) = self.ranges[range].spots.get_mut(position) {
            *marked |= *found == spot;
        }
    }

    /// Whether the index says that an entry is at this spot. True if it is not whole there.
    pub(super) fn may_lead_to(&self, group: GroupId, index: u64, spot: Spot) -> bool {
        let Some((range, position)) = self.find(group, index) else {
            return false;
        };
        let spots = &self.ranges[range].spots;
        spots.get(position).is_none_or(|(found, _)| *found == spot)
    }

    /// The entries whose spots no batch confirmed, each with where its spot stands in the file.
    pub(super) fn unmarked(&self) -> impl Iterator<Item = (GroupId, u64, Spot, u64)> + '_ {
        self.ranges.iter().flat_map(|Listed { range, spots, .. }| {
            let unmarked = spots.iter().enumerate().filter(|(_, (_, marked))| !marked);
            unmarked.map(|(position, (spot, _))| {
                let offset = range.spots_offset + (position * SPOT_BYTES) as u64;
                let index = range.first_index + position as u64;
                (range.group, index, *spot, offset)
            })
        })
    }

    fn find(&self, group: GroupId, index: u64) -> Option<(usize, usize)> {
        let at_last = self.ranges.get(self.last);
        if let Some(position) = at_last.and_then(|it| it.position(group, index)) {
            return Some((self.last, position));
        }
        let key = |listed: &Listed| (listed.range.group, listed.range.first_index);
        let behind = self.ranges.partition_point(|it| key(it) <= (group, index));
        let range = behind.checked_sub(1)?;
        Some((range, self.ranges[range].position(group, index)?))
    }
}
