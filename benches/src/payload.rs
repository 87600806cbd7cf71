//! What is written: bytes that no compression makes smaller, the same in every run.

use bytes::Bytes;

/// A small generator of numbers that look random (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The next number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The highest bits: the bias is far below what a bench shows.
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

/// Payloads of one length, each a view of another part of the same random bytes: no two that are
/// near each other are alike, so that compression gains nothing on many of them either.
#[derive(Clone, Debug)]
pub struct Payloads {
    pool: Bytes,
    bytes: usize,
    at: usize,
}

/// Far beyond what a compressor looks back, which is 64 KiB for LZ4.
const POOL_BYTES: usize = 1 << 20;

/// Still beyond that, and little enough that the copies of many threads stay in the processor's cache.
const THREAD_POOL_BYTES: usize = 128 << 10;

impl Payloads {
    /// Payloads of so many bytes.
    pub fn new(bytes: usize, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut pool = Vec::new();
        while pool.len() < POOL_BYTES.max(bytes) {
            pool.extend_from_slice(&numbers.draw().to_le_bytes());
        }
        Self {
            pool: Bytes::from(pool),
            bytes,
            at: 0,
        }
    }

    /// Payloads of the same length for a thread of its own: a copy of a part of the bytes, from another place on for each
    /// number. Threads that share bytes hold each other up where their references are counted, which nobody asked for.
    pub fn of_thread(&self, number: u64) -> Self {
        let bytes = THREAD_POOL_BYTES.max(2 * self.bytes).min(self.pool.len());
        let places = (self.pool.len() - bytes + 1) as u64;
        let from = (number.wrapping_mul(64 << 10) % places) as usize;
        Self {
            pool: Bytes::copy_from_slice(&self.pool[from..from + bytes]),
            at: 0,
            ..*self
        }
    }

    /// The next payload.
    pub fn draw(&mut self) -> Bytes {
        if self.at + self.bytes > self.pool.len() {
            self.at = 0;
        }
        let payload = self.pool.slice(self.at..self.at + self.bytes);
        self.at += self.bytes;
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_as_long_as_asked_for_and_differ() {
        for bytes in [0, 1, 8, 13, 4096, POOL_BYTES, POOL_BYTES + 5] {
            let mut payloads = Payloads::new(bytes, 7);
            assert_eq!(payloads.draw().len(), bytes);
            assert_eq!(payloads.draw().len(), bytes);
        }
        let mut payloads = Payloads::new(64, 7);
        let drawn: std::collections::HashSet<Bytes> = (0..1000).map(|_| payloads.draw()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(!drawn.contains(&payloads.of_thread(5).draw()));
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut numbers = Numbers::new(1);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[numbers.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 800), "{seen:?}");
    }
}
