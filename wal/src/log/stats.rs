//! Figures of a log that is open.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use crate::group::GroupLog;
use crate::ids::{GroupId, SegmentId};

use super::Log;

/// Figures of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// Segments in service.
    pub segments: u64,
    /// Bytes of all segment files, those included that are ready or kept for a full disk.
    pub disk_bytes: u64,
    /// Bytes that the entries in the log take, with what finding them takes; an estimate where a part
    /// of a sealed range was dropped.
    pub live_bytes: u64,
    /// Batches written since the log was opened.
    pub batches: u64,
    /// Syncs of batches since the log was opened.
    pub syncs: u64,
    /// Bytes written in batches since the log was opened, padding included.
    pub bytes_written: u64,
    /// Bytes of entries that were moved out of mostly dead segments since the log was opened.
    pub moved_bytes: u64,
    /// Segments that were used again since the log was opened.
    pub recycled: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Bytes of memory that the index of those entries takes.
    pub index_bytes: u64,
    /// How long the last sync took, in nanoseconds. Zero before the first.
    pub last_sync_ns: u64,
    /// Groups that have entries in the oldest segment, and so keep it.
    pub pinned_by: Vec<GroupId>,
}

/// So many groups are looked at before the lock on the index is given back: a commit waits for no
/// more than these, however many groups there are.
const LOOKS_MAX: usize = 256;

impl Log {
    /// Figures. Looks at every group.
    pub fn stats(&self) -> LogStats {
        let mut stats = LogStats {
            disk_bytes: self.disk_bytes(),
            batches: self.counters.batches.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            bytes_written: self.counters.bytes_written.load(Ordering::Relaxed),
            moved_bytes: self.counters.moved_bytes.load(Ordering::Relaxed),
            recycled: self.counters.recycled.load(Ordering::Relaxed),
            last_sync_ns: self.counters.last_sync_ns.load(Ordering::Relaxed),
            ..LogStats::default()
        };
        let mut oldest = None;
        for counted in self.index.read().segments.iter() {
            oldest = oldest.or(Some(counted.segment.id));
            stats.segments += 1;
            stats.entries += counted.live;
            stats.live_bytes += counted.live_bytes;
        }
        self.look_at_groups(oldest, |group, log, is_pinning| {
            stats.index_bytes += log.memory_bytes() as u64;
            if is_pinning {
                stats.pinned_by.push(group);
            }
        });
        stats
    }

    /// Bytes of all segment files, see [`LogStats::disk_bytes`]. Cheaper than [`stats`](Self::stats).
    pub fn disk_bytes(&self) -> u64 {
        let spare_bytes = self.spare.lock().as_ref().map_or(0, |spare| spare.bytes)
            + self.waiting_bytes.load(Ordering::Relaxed);
        let index = self.index.read();
        let in_service: u64 = index
            .segments
            .iter()
            .map(|counted| counted.segment.bytes)
            .sum();
        spare_bytes + in_service
    }

    /// Shows each group, and whether it has entries in the segment `oldest`. Groups that come,
    /// go or move meanwhile are shown as they are when their turn comes.
    fn look_at_groups(
        &self,
        oldest: Option<SegmentId>,
        mut look: impl FnMut(GroupId, &GroupLog, bool),
    ) {
        let mut from = Bound::Unbounded;
        loop {
            let index = self.index.read();
            // Looked up each time: once the segment is gone, another one may have its slot.
            let slot = oldest.and_then(|id| index.segments.slot_of(id));
            let groups = index.groups.range((from, Bound::Unbounded));
            let mut last = None;
            for (&group, log) in groups.take(LOOKS_MAX) {
                let is_pinning = slot.is_some_and(|slot| log.locations().has_any_in(slot));
                look(group, log, is_pinning);
                last = Some(group);
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => return,
            }
        }
    }
}
