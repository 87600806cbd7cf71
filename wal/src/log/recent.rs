//! The batches written last, kept in memory: followers that keep up are served from here, without a
//! look at the file.
//!
//! Invariants:
//! - It holds only what is durable, and at most `bytes_max` bytes of it, the newest.
//! - Segment ids are never used twice, so what is found here is what stands in the file.

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::batch::{Chunk, WriteBatch};
use crate::ids::SegmentId;
use crate::record::{SLOT_BYTES, Slot};

/// A buffer may be so many times as large as what is in it.
const SLACK_MAX: usize = 4;

/// The newest submissions, oldest first.
#[derive(Debug)]
pub(crate) struct Recent {
    bytes_max: u64,
    bytes: u64,
    kept: VecDeque<Kept>,
}

/// One submission, and where it stands.
#[derive(Debug)]
struct Kept {
    segment: SegmentId,
    desc_offset: u64,
    desc: Vec<u8>,
    /// Parts of the payload area, each with its offset.
    payloads: SmallVec<[(u64, Bytes); 1]>,
    /// Whether its one part is a buffer of the log's own.
    is_packed: bool,
    bytes: u64,
}

impl Kept {
    /// Its buffers, unless a reader holds bytes of them.
    fn empty(mut self) -> WriteBatch {
        let payload = self.payloads.pop().filter(|_| self.is_packed);
        let packed = payload.and_then(|(_, bytes)| bytes.try_into_mut().ok());
        WriteBatch::from_buffers(self.desc, packed.map(Vec::from))
    }
}

impl Recent {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            kept: VecDeque::new(),
        }
    }

    /// Keeps a submission that was written to these offsets. The buffers of those that go for it are
    /// added to `emptied`.
    pub(crate) fn push(
        &mut self,
        segment: SegmentId,
        desc_offset: u64,
        payload_offset: u64,
        mut batch: WriteBatch,
        emptied: &mut Vec<WriteBatch>,
    ) {
        // Entries that were moved are old, and hold the map of the segment that they came from, which
        // is to be used again.
        if batch.slots == 0 || self.bytes_max == 0 || !batch.moves.is_empty() {
            return;
        }
        let is_packed = matches!(batch.chunks[..], [Chunk::Packed(_)]);
        tighten(&mut batch.desc);
        let mut bytes = batch.desc.capacity() as u64;
        let mut offset = payload_offset;
        let mut payloads = SmallVec::with_capacity(batch.chunks.len());
        for chunk in batch.chunks {
            let chunk = match chunk {
                Chunk::Packed(mut packed) => {
                    tighten(&mut packed);
                    bytes += packed.capacity() as u64;
                    Bytes::from(packed)
                }
                Chunk::Shared(shared) => {
                    bytes += shared.len() as u64;
                    shared
                }
            };
            let len = chunk.len() as u64;
            payloads.push((offset, chunk));
            offset += len;
        }
        self.bytes += bytes;
        self.kept.push_back(Kept {
            segment,
            desc_offset,
            desc: batch.desc,
            payloads,
            is_packed,
            bytes,
        });
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes;
            emptied.push(oldest.empty());
        }
    }

    /// The slot and the payload of the entry whose slot and payload stand at these offsets, if they
    /// are still here.
    pub(crate) fn find(
        &self,
        segment: SegmentId,
        slot_offset: u64,
        payload_offset: u64,
    ) -> Option<(Slot, Bytes)> {
        let place = (segment, slot_offset);
        let behind = self
            .kept
            .partition_point(|kept| (kept.segment, kept.desc_offset) <= place);
        let kept = self.kept.get(behind.checked_sub(1)?)?;
        if kept.segment != segment {
            return None;
        }
        let begin = usize::try_from(slot_offset - kept.desc_offset).ok()?;
        let slot = Slot::decode(kept.desc.get(begin..begin + SLOT_BYTES)?)?;
        let len = slot.len as usize;
        if len == 0 {
            return Some((slot, Bytes::new()));
        }
        let behind = kept
            .payloads
            .partition_point(|(offset, _)| *offset <= payload_offset);
        let (offset, chunk) = kept.payloads.get(behind.checked_sub(1)?)?;
        let begin = usize::try_from(payload_offset - offset).ok()?;
        (begin + len <= chunk.len()).then(|| (slot, chunk.slice(begin..begin + len)))
    }
}

/// Gives back what a buffer that was filled by many before holds beyond what is in it now: it counts for what is kept.
fn tighten(buffer: &mut Vec<u8>) {
    if buffer.capacity() > SLACK_MAX * buffer.len() {
        buffer.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RUN_BYTES;
    use crate::{Entry, GroupId};

    fn batch(index: u64, lens: &[usize]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let entry = |(index, &len): (u64, &usize)| Entry {
            index,
            term: 1,
            kind: 0,
            payload: Bytes::from(vec![index as u8; len]),
        };
        batch.append(GroupId(1), (index..).zip(lens).map(entry).collect());
        batch
    }

    #[test]
    fn finds_every_payload_by_its_place_and_nothing_else() {
        let mut recent = Recent::new(1 << 20);
        let lens = [5, 0, 4000, 8, 3000];
        recent.push(
            SegmentId(3),
            4160,
            9000 * 8,
            batch(1, &lens),
            &mut Vec::new(),
        );
        recent.push(
            SegmentId(4),
            4160,
            9000 * 8,
            batch(9, &[7]),
            &mut Vec::new(),
        );
        let (mut slot, mut payload) = (4160 + RUN_BYTES as u64, 9000 * 8);
        for (index, len) in (1_u8..).zip(lens) {
            let (found, bytes) = recent.find(SegmentId(3), slot, payload).expect("kept");
            assert_eq!(
                (found.len as usize, &bytes[..]),
                (len, &vec![index; len][..])
            );
            slot += SLOT_BYTES as u64;
            payload += len.next_multiple_of(8) as u64;
        }
        assert_eq!(recent.find(SegmentId(3), slot, payload), None);
        assert_eq!(recent.find(SegmentId(5), 4160, 9000 * 8), None);
        assert_eq!(recent.find(SegmentId(2), 4160, 9000 * 8), None);
        assert_eq!(recent.find(SegmentId(3), 64, 9000 * 8), None);
    }

    #[test]
    fn a_small_submission_in_a_large_buffer_takes_little_of_the_ring() {
        let mut recent = Recent::new(100_000);
        let mut emptied = Vec::new();
        for segment in 1..100 {
            let large = WriteBatch::from_buffers(
                Vec::with_capacity(64 << 10),
                Some(Vec::with_capacity(64 << 10)),
            );
            let mut small = batch(1, &[100]);
            let mut gathered = large;
            gathered.gather(&mut small);
            recent.push(SegmentId(segment), 4160, 8192, gathered, &mut emptied);
        }
        assert_eq!((recent.kept.len(), emptied.len()), (99, 0));
    }

    #[test]
    fn keeps_no_more_than_it_may() {
        let mut recent = Recent::new(100_000);
        let mut emptied = Vec::new();
        for segment in 1..100 {
            let lens = [1500, 1500];
            recent.push(
                SegmentId(segment),
                4160,
                8192,
                batch(1, &lens),
                &mut emptied,
            );
            assert!(recent.bytes <= 100_000);
        }
        let slot = 4160 + RUN_BYTES as u64;
        assert!(recent.find(SegmentId(99), slot, 8192).is_some());
        assert!(recent.find(SegmentId(50), slot, 8192).is_none());
        assert!(emptied.len() > 50);
        let is_reusable = |batch: &WriteBatch| {
            let [Chunk::Packed(packed)] = &batch.chunks[..] else {
                return false;
            };
            batch.is_empty() && packed.is_empty() && packed.capacity() >= 3000
        };
        assert!(emptied.iter().all(is_reusable));
    }
}
