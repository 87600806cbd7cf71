//! The answers that a session keeps for commands that may be sent again.
//!
//! One buffer of `length u32 | answer` for each, oldest first. An idle client keeps one answer of a
//! few bytes for as long as it lives, and there may be a million of them: one small allocation is
//! all that this costs, where a queue of shared buffers would cost three. An answer is copied into
//! the buffer once.
//!
//! Invariants:
//! - The buffer holds exactly `count` answers from `start` on, without gaps.
//! - Before `start` lies at most as much as after it, and little memory is kept beyond what is
//!   used.

use bytes::Bytes;

use crate::codec::Fields;

const LENGTH_BYTES: usize = size_of::<u32>();

/// Kept answers, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    buffer: Vec<u8>,
    start: usize,
    count: u32,
}

impl Window {
    /// Takes over encoded answers; `None` if they are not exactly `count`.
    pub(super) fn from_encoded(buffer: Vec<u8>, count: u64) -> Option<Self> {
        let mut fields = Fields::new(&buffer);
        for _ in 0..count {
            let len = fields.u32()? as usize;
            fields.take(len)?;
        }
        if !fields.is_empty() {
            return None;
        }
        Some(Self {
            count: u32::try_from(count).ok()?,
            buffer,
            start: 0,
        })
    }

    /// The answers as they go into an image: equal for equal answers.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub(super) fn count(&self) -> u64 {
        u64::from(self.count)
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Adds the newest answer.
    pub(super) fn push(&mut self, answer: &[u8]) {
        let len = u32::try_from(answer.len()).expect("a machine's answers are below 4 GiB");
        if self.buffer.is_empty() {
            self.buffer.reserve_exact(LENGTH_BYTES + answer.len());
        }
        self.buffer.extend_from_slice(&len.to_le_bytes());
        self.buffer.extend_from_slice(answer);
        self.count += 1;
    }

    /// The answer with this many older ones before it.
    pub(super) fn get(&self, position: u64) -> Option<Bytes> {
        if position >= self.count() {
            return None;
        }
        let mut fields = Fields::new(self.encoded());
        for _ in 0..position {
            let len = fields.u32()? as usize;
            fields.take(len)?;
        }
        let len = fields.u32()? as usize;
        fields.take(len).map(Bytes::copy_from_slice)
    }

    /// Drops the oldest answers.
    pub(super) fn drop_front(&mut self, count: u64) {
        assert!(count <= self.count());
        for _ in 0..count {
            let (head, _) = self
                .encoded()
                .split_first_chunk()
                .expect("an answer has a length");
            self.start += LENGTH_BYTES + u32::from_le_bytes(*head) as usize;
        }
        self.count -= count as u32;
        self.compact();
        assert!(self.count > 0 || self.buffer.is_empty());
    }

    /// Moves the answers to the front when they are the smaller half, so that each byte that is
    /// moved was paid for by one that was dropped, and gives memory back after a burst.
    fn compact(&mut self) {
        const SPARE_BYTES_MAX: usize = 64;
        if self.start < self.len_bytes() {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let used = self.buffer.len();
        if self.buffer.capacity() > SPARE_BYTES_MAX.max(4 * used) {
            self.buffer.shrink_to(2 * used);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn holds_what_a_queue_of_answers_holds() {
        let mut window = Window::default();
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for i in 0..5_000_usize {
            let answer = vec![(i % 251) as u8; i * 7 % 23];
            window.push(&answer);
            model.push_back(answer);
            if i % 3 == 0 {
                let count = (i * 5 % 11).min(model.len());
                window.drop_front(count as u64);
                model.drain(..count);
            }
            assert_eq!(window.count(), model.len() as u64);
            assert_eq!(
                window.len_bytes(),
                model.iter().map(|answer| 4 + answer.len()).sum()
            );
            for position in [0, model.len() / 2, model.len()] {
                let kept = window.get(position as u64);
                assert_eq!(kept.as_deref(), model.get(position).map(Vec::as_slice));
            }
            let encoded = window.encoded().to_vec();
            let back = Window::from_encoded(encoded, window.count()).unwrap();
            assert_eq!(back.encoded(), window.encoded());
        }
    }

    #[test]
    fn gives_memory_back_after_a_burst() {
        let mut window = Window::default();
        for _ in 0..8192 {
            window.push(&[0; 9]);
        }
        window.drop_front(8191);
        assert_eq!(window.count(), 1);
        assert!(
            window.buffer.capacity() <= 64,
            "{} bytes",
            window.buffer.capacity()
        );
    }

    #[test]
    fn encoded_answers_must_be_exactly_as_many_as_they_are_said_to_be() {
        let two = b"\x01\x00\x00\x00a\x02\x00\x00\x00bb";
        assert!(Window::from_encoded(two.to_vec(), 2).is_some());
        for count in [0, 1, 3, u64::MAX] {
            assert_eq!(Window::from_encoded(two.to_vec(), count), None);
        }
        assert_eq!(Window::from_encoded(b"\xff\xff\xff\xffa".to_vec(), 1), None);
    }
}
