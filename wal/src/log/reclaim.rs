//! Space comes back: dead segments are used again or deleted, and what lives in mostly dead ones is
//! moved forward, so that a sleeping group never keeps more than it holds.
//!
//! Invariants:
//! - A file is touched only when both slots of the manifest do without it, and used again only when
//!   nobody holds bytes of it. Of files that an earlier life of the log has read in the same program, as nodes do
//!   that are started again beside others, that cannot be known: they are deleted, and whoever holds
//!   bytes of them keeps them.
//! - What is moved is read and checked first; a segment with an entry that cannot be read stays.
//! - One move is on its way at a time.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::batch::{Move, WriteBatch};
use crate::disk::{Inside, is_shortage};
use crate::error::{LogError, ReadError};
use crate::format::{BLOCK_BYTES, segment_name};
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::index::{Index, Stage};
use crate::locations::SegmentSlot;
use crate::segment::Segment;

use super::Log;
use super::prepare::Preparer;

/// A move takes about so many bytes, so that the batch it is a part of is not held up by it.
const MOVE_BYTES: u64 = 64 << 10;

/// A segment of which more than this part lives, in percent, is not worth emptying.
const LIVE_PERCENT_MAX: u64 = 75;

/// What reclaiming remembers between two calls.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// The move that is on its way.
    moving: Option<Lsn>,
    at: Cursor,
    /// Segments with an entry that could not be read.
    stuck: BTreeSet<SegmentId>,
    /// Dead segments that could not be deleted.
    undeleted: Vec<Segment>,
    /// Dead segments that are kept to be used again, while the next one is ready already: one, or as many as take no more
    /// than two if they are short.
    kept: Vec<Segment>,
}

impl Reclaim {
    /// Whether a move was made and none was found unnecessary since.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.bytes).sum()
    }
}

/// What became of a dead segment that may be used again.
enum Used {
    /// It is the next one, or is becoming it.
    Taken,
    /// It is not wanted, or somebody holds bytes of it.
    Unwanted(Segment),
    /// Space or file handles ran out. It may have a new name already.
    Short(Segment),
}

/// How far the segment that is being emptied was looked through. A group that was passed has no
/// entry in it any more, but for those of a move that went stale: what is written since stands in
/// newer segments.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    segment: SegmentId,
    /// The first group to look at.
    group: GroupId,
}

/// So many groups and pieces are looked at before the lock on the index is given back.
const LOOKS_MAX: usize = 512;

impl Log {
    /// Gives back the segments that nothing is in. Returns how many.
    pub(super) fn reclaim(&self, preparer: &mut Preparer) -> Result<usize, LogError> {
        let mut dead = std::mem::take(&mut preparer.reclaim.undeleted);
        dead.extend(self.take_dead(preparer));
        let mut given = 0;
        while let Some(segment) = dead.pop() {
            let left = match self.use_again(preparer, segment)? {
                Used::Taken => None,
                Used::Unwanted(segment) | Used::Short(segment) => self.keep(preparer, segment),
            };
            if let Some(segment) = left {
                let path = segment.path.clone();
                match self.disk.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        preparer.reclaim.undeleted = dead;
                        preparer.reclaim.undeleted.push(segment);
                        return Err(LogError::Delete {
                            path,
                            reason: error.to_string(),
                        });
                    }
                    // Not synced: a name that comes back after a crash is removed by the next open.
                    _ => drop(segment),
                }
            }
            given += 1;
        }
        Ok(given)
    }

    /// Takes the dead segments that both manifests do without out of service. One that somebody
    /// reads just now is left for the next time.
    fn take_dead(&self, preparer: &Preparer) -> Vec<Segment> {
        let index = self.index.read();
        let dead: Vec<SegmentId> = index
            .segments
            .dead()
            .map(|counted| counted.segment.id)
            .filter(|id| !preparer.manifests.pair.need(*id))
            .collect();
        drop(index);
        let mut taken = Vec::new();
        for id in dead {
            let removed = self.index.write().segments.remove(id);
            taken.extend(removed.map(Arc::try_unwrap).map(|it| match it {
                Ok(segment) => segment,
                // A reader holds it: a copy of the handle is enough to delete the file.
                Err(shared) => Segment {
                    id: shared.id,
                    path: shared.path.clone(),
                    file: Arc::clone(&shared.file),
                    bytes: shared.bytes,
                    recycled: true,
                },
            }));
        }
        taken
    }

    /// Makes a dead segment the next one, if one of its size is wanted and nobody holds bytes of it.
    /// Gives it back if not.
    fn use_again(&self, preparer: &mut Preparer, mut segment: Segment) -> Result<Used, LogError> {
        let is_wanted = self.spare.lock().is_none()
            && !preparer.is_using_again()
            && preparer.takes(segment.bytes)
            && segment.bytes >= self.queue.lock().blocked_bytes
            && segment.bytes <= self.options.segment_bytes_max
            && segment.bytes.is_multiple_of(BLOCK_BYTES);
        if !is_wanted || !is_free(preparer, &mut segment) {
            return Ok(Used::Unwanted(segment));
        }
        let id = segment.id;
        if let Err(error) = self.wipe_and_rename(preparer, &mut segment) {
            return match error.kind() {
                // Nothing that is needed is in it, whatever it is called by now.
                _ if is_shortage(&error) => Ok(Used::Short(segment)),
                // Somebody deleted it.
                io::ErrorKind::NotFound => Ok(Used::Taken),
                _ => Err(self.fail(format!("cannot use {id} again: {error}"))),
            };
        }
        self.drop_filling(preparer);
        self.counters.recycled.fetch_add(1, Ordering::Relaxed);
        if let Some(segment) = preparer.fill_rest(segment) {
            self.segment_is_ready(segment);
        }
        Ok(Used::Taken)
    }

    /// Keeps a dead segment while the log is written to: it takes the place of one that would have
    /// to be filled. Gives it back if there is as much as a whole one already, or too much on disk.
    fn keep(&self, preparer: &mut Preparer, mut segment: Segment) -> Option<Segment> {
        let kept_bytes = preparer.reclaim.kept_bytes();
        let bytes = self.segments_bytes(preparer) + kept_bytes + segment.bytes;
        let bytes_max = self
            .bytes_wanted_max()
            .max(3 * self.options.segment_bytes_max);
        let fits = kept_bytes < preparer.next_bytes()
            && preparer.takes(segment.bytes)
            && bytes <= bytes_max
            && self.is_uncovered.load(Ordering::Relaxed);
        if !fits || !is_free(preparer, &mut segment) {
            return Some(segment);
        }
        preparer.reclaim.kept.push(segment);
        None
    }

    /// At rest disk stays under twice what lives and two segments.
    pub(super) fn drop_kept(&self, preparer: &mut Preparer) {
        if self.is_uncovered.load(Ordering::Relaxed) {
            return;
        }
        let bytes_max = self.bytes_wanted_max();
        let mut bytes = self.segments_bytes(preparer) + preparer.reclaim.kept_bytes();
        while bytes > bytes_max
            && let Some(kept) = preparer.reclaim.kept.pop()
        {
            bytes -= kept.bytes;
            // If this fails, the next open finds a dead segment and removes it.
            let _ = self.disk.remove(&kept.path);
        }
    }

    fn bytes_wanted_max(&self) -> u64 {
        let index = self.index.read();
        let live_bytes: u64 = index.segments.iter().map(|it| it.live_bytes).sum();
        2 * (live_bytes + self.options.segment_bytes_max)
    }

    /// Bytes of the segments in service and of those that wait to be, as of now.
    fn segments_bytes(&self, preparer: &Preparer) -> u64 {
        let spare_bytes = self.spare.lock().as_ref().map_or(0, |spare| spare.bytes);
        let index = self.index.read();
        let in_service: u64 = index.segments.iter().map(|it| it.segment.bytes).sum();
        in_service + spare_bytes + preparer.filling_bytes()
    }

    /// Makes the largest of the dead segments that were kept the next one.
    pub(super) fn use_kept(&self, preparer: &mut Preparer) -> Result<(), LogError> {
        preparer
            .reclaim
            .kept
            .sort_unstable_by_key(|kept| kept.bytes);
        let Some(kept) = preparer.reclaim.kept.pop() else {
            return Ok(());
        };
        match self.use_again(preparer, kept)? {
            Used::Taken => {}
            // If this fails, the next open finds a dead segment and removes it.
            Used::Unwanted(segment) => drop(self.disk.remove(&segment.path)),
            Used::Short(segment) => preparer.reclaim.kept.push(segment),
        }
        Ok(())
    }

    /// The header goes first, so that no file ever has a header that is not its own.
    fn wipe_and_rename(&self, preparer: &mut Preparer, segment: &mut Segment) -> io::Result<()> {
        let zeros = [0; BLOCK_BYTES as usize];
        segment.file.write_at(0, &[IoSlice::new(&zeros)])?;
        segment.file.sync_data()?;
        let id = preparer.take_id();
        let path = self.dir.join(segment_name(id));
        self.disk.rename(&segment.path, &path)?;
        (segment.id, segment.path, segment.recycled) = (id, path, true);
        self.disk.sync_dir(&self.dir)
    }

    /// Moves some of what lives out of the segment that is worth it most, if the sealed segments
    /// take more than twice what lives in the log. Whether there is more to move.
    pub(super) fn move_entries(&self, preparer: &mut Preparer) -> bool {
        if let Some(lsn) = preparer.reclaim.moving {
            if self.durable() < lsn {
                return true;
            }
            preparer.reclaim.moving = None;
        }
        let Some(id) = self.choose(&preparer.reclaim.stuck) else {
            return false;
        };
        if !self.may_move() {
            return false;
        }
        let candidates = self.candidates(id, &mut preparer.reclaim.at);
        for moved in candidates {
            let entries = match self.read_all(moved.group, moved.indexes.clone()) {
                Ok(entries) => entries,
                // Compacted meanwhile: there is nothing to move.
                Err(ReadError::Compacted { .. } | ReadError::NotWritten { .. }) => continue,
                // It stays where it is, and whoever reads it is told.
                Err(_) => {
                    preparer.reclaim.stuck.insert(id);
                    break;
                }
            };
            // Each group by itself, so that one that is cut just now does not hold up the others.
            let mut batch = WriteBatch::new();
            batch.move_entries(moved, entries);
            match self.enqueue(&mut batch) {
                Ok(lsn) => preparer.reclaim.moving = Some(lsn),
                // It passes: the queue empties, and a full disk leaves what remains of the segment
                // for this.
                Err(_) => break,
            }
        }
        self.work.notify_one();
        preparer.reclaim.moving.is_some()
    }

    /// Where segments cannot be filled to more than a half, since an entry or the checkpoint takes
    /// most of one, moving gains nothing and would never end. So it is bounded by what is written
    /// otherwise. To give back a segment of which half lives costs as many bytes as it gives.
    fn may_move(&self) -> bool {
        let moved = self.counters.moved_bytes.load(Ordering::Relaxed);
        moved <= self.counters.movable_bytes.load(Ordering::Relaxed)
    }

    /// The segment to empty, if one is worth it.
    fn choose(&self, stuck: &BTreeSet<SegmentId>) -> Option<SegmentId> {
        let index = self.index.read();
        let mut sealed_bytes = 0;
        let mut live_bytes = 0;
        let mut best: Option<(u64, SegmentId)> = None;
        for counted in index.segments.iter() {
            live_bytes += counted.live_bytes;
            if counted.sealed.is_none() {
                continue;
            }
            sealed_bytes += counted.segment.bytes;
            let percent = counted.live_bytes * 100 / counted.segment.bytes;
            let id = counted.segment.id;
            let is_worth_it = counted.stage == Stage::Indexed
                && counted.live > 0
                && percent <= LIVE_PERCENT_MAX
                && !stuck.contains(&id);
            if is_worth_it && best.is_none_or(|(least, _)| percent < least) {
                best = Some((percent, id));
            }
        }
        let best = best.filter(|_| sealed_bytes > 2 * live_bytes);
        best.map(|(_, id)| id)
    }

    /// The next entries to move out of a segment, about as many as one move takes. Empty at the end,
    /// after which the next call begins anew.
    fn candidates(&self, from: SegmentId, at: &mut Cursor) -> Vec<Move> {
        if at.segment != from {
            *at = Cursor {
                segment: from,
                ..Cursor::default()
            };
        }
        let mut found = Candidates::default();
        while found.bytes < MOVE_BYTES {
            let index = self.index.read();
            let Some(slot) = index.segments.slot_of(from) else {
                break;
            };
            let next = found.look(&index, from, slot, at.group);
            drop(index);
            at.group = next.unwrap_or_default();
            if next.is_none() {
                break;
            }
        }
        found.moves
    }
}

/// Entries to move.
#[derive(Debug, Default)]
struct Candidates {
    moves: Vec<Move>,
    bytes: u64,
}

impl Candidates {
    /// Looks at groups from `group` on, for a bounded time. Returns where to go on; none at the end.
    fn look(
        &mut self,
        index: &Index,
        from: SegmentId,
        slot: SegmentSlot,
        group: GroupId,
    ) -> Option<GroupId> {
        let mut looks = 0;
        for (&group, log) in index.groups.range(group..) {
            if looks >= LOOKS_MAX {
                return Some(group);
            }
            looks += 1;
            let all = log.first_index()..log.last_index() + 1;
            for piece in log.pieces(all) {
                looks += 1;
                if piece.place.segment() != Some(slot) {
                    continue;
                }
                if self.bytes >= MOVE_BYTES {
                    return Some(group);
                }
                let each = (piece.bytes / piece.count).max(1);
                let count = piece.count.min((MOVE_BYTES - self.bytes) / each + 1);
                self.bytes += each * count;
                self.moves.push(Move {
                    group,
                    born: log.born,
                    indexes: piece.first..piece.first + count,
                    from,
                });
            }
        }
        None
    }
}

/// Whether nobody holds bytes of a segment.
fn is_free(preparer: &Preparer, segment: &mut Segment) -> bool {
    let is_own = segment.id >= preparer.first_own;
    let mut forgets = Arc::get_mut(&mut segment.file).into_iter();
    is_own && forgets.any(|file| file.forget_reads(Inside(())))
}
