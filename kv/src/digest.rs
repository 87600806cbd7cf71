//! A 64-bit digest of a byte stream, for comparing the states of replicas.
//!
//! Not cryptographic: it finds accidents, not attacks. Independent of how the stream is cut into
//! writes.

use std::io;

/// Digests what is written to it.
pub(crate) struct Digest {
    state: u64,
    len_bytes: u64,
    pending: [u8; 8],
    pending_len: usize,
}

impl Digest {
    pub(crate) fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            len_bytes: 0,
            pending: [0; 8],
            pending_len: 0,
        }
    }

    pub(crate) fn finish(mut self) -> u64 {
        self.pending[self.pending_len..].fill(0);
        self.mix(u64::from_le_bytes(self.pending));
        // The length tells a stream from the same stream with zeros behind it.
        self.mix(self.len_bytes);
        self.state
    }

    /// Each step is a bijection of the state for a given word (xor, multiplication by an odd
    /// number, xor-shift), so a difference in one word is never lost.
    fn mix(&mut self, word: u64) {
        let mixed = (self.state.rotate_left(29) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.state = mixed ^ (mixed >> 32);
    }
}

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len_bytes += bytes.len() as u64;
        let mut rest = bytes;
        if self.pending_len > 0 {
            let (head, tail) = rest.split_at(rest.len().min(8 - self.pending_len));
            self.pending[self.pending_len..self.pending_len + head.len()].copy_from_slice(head);
            self.pending_len += head.len();
            rest = tail;
            if self.pending_len < 8 {
                return Ok(bytes.len());
            }
            self.mix(u64::from_le_bytes(self.pending));
            self.pending_len = 0;
        }
        while let Some((word, tail)) = rest.split_first_chunk::<8>() {
            self.mix(u64::from_le_bytes(*word));
            rest = tail;
        }
        self.pending[..rest.len()].copy_from_slice(rest);
        self.pending_len = rest.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn digest(pieces: &[&[u8]]) -> u64 {
        let mut digest = Digest::new();
        for piece in pieces {
            digest.write_all(piece).unwrap();
        }
        digest.finish()
    }

    #[test]
    fn depends_on_the_stream_and_not_on_its_pieces() {
        let stream: Vec<u8> = (0..100).collect();
        let whole = digest(&[&stream]);
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(digest(&pieces), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn tells_streams_apart_that_differ_in_one_bit_or_in_zeros_at_the_end() {
        let stream = [0x5a; 33];
        let whole = digest(&[&stream]);
        for bit in 0..stream.len() * 8 {
            let mut other = stream;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(digest(&[&other]), whole, "bit {bit}");
        }
        assert_ne!(digest(&[&stream, &[0]]), whole);
        assert_ne!(digest(&[&[0; 8]]), digest(&[&[0; 16]]));
    }
}
