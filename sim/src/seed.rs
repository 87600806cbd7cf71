//! One seed, and the independent streams of choices that come out of it.
//!
//! Invariants:
//! - A stream is a function of the seed and its own name: drawing from one moves no other.
//! - Nothing else in a run is random.

/// What choices are for. Each purpose has a stream of its own, so that drawing more for one moves no other. A class of faults
/// that is not drawn at all changes which troubles are drawn from the rest; what switches one off and leaves the others where
/// they were is `without` of a [`Reduction`](crate::reduction::Reduction).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// The shape of the cluster and its options.
    Shape,
    /// When steps of a node are taken.
    Schedule,
    /// Loss, delay and damage of frames.
    Network,
    /// How long the disk takes, and what survives a power cut.
    Disk,
    /// What clocks show at first, and their rates.
    Clock,
    /// What clerks call.
    Workload,
    /// Which faults strike, when, whom and how hard.
    Faults,
    /// Where judges look more closely.
    Judges,
    /// Which disks are damaged, where and how.
    Damage,
    /// Clients that are part of a node: how many, what they call and when.
    Locals,
    /// What some runs meet beside faults.
    Trials,
    /// How many workers share the groups of a node, and when they are attached and wake.
    Workers,
}

/// A stream of choices (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed for one purpose.
    pub fn of(seed: u64, stream: Stream) -> Self {
        let mut rng = Self(seed ^ (stream as u64 + 1).wrapping_mul(0xA076_1D64_78BD_642F));
        // Close seeds are spread far apart.
        Self(rng.draw() ^ rng.draw().rotate_left(32))
    }

    /// A stream of its own for one of many, such as a clerk.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which must be above zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: no division, and a bias that no run of this size shows.
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index of something with so many elements, at least one.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// Puts things into any order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            things.swap(place, self.index(place + 1));
        }
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, permille: u32) -> bool {
        permille > 0 && self.below(1_000) < u64::from(permille)
    }

    /// A waiting time with this mean, at most fourteen times as long: halves of what is left are waited for in turn, so that
    /// short times are common and long ones come up (as with an exponential one, without a logarithm that differs between
    /// machines).
    pub fn wait(&mut self, mean_ns: u64) -> u64 {
        let halvings = u64::from(self.draw().leading_zeros().min(20));
        let part = self.below(mean_ns.max(1));
        (halvings * mean_ns + part) / 3 * 2
    }
}

/// `SplitMix64`'s finaliser.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_come_again() {
        let draw = |seed, stream| Rng::of(seed, stream).draw();
        assert_eq!(draw(1, Stream::Disk), draw(1, Stream::Disk));
        assert_ne!(draw(1, Stream::Disk), draw(1, Stream::Network));
        assert_ne!(draw(1, Stream::Disk), draw(2, Stream::Disk));
    }

    #[test]
    fn choices_keep_to_their_bounds_and_waits_to_their_mean() {
        let mut rng = Rng::of(7, Stream::Shape);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            let drawn = rng.between(3, 7);
            seen[drawn as usize - 3] = true;
            assert!(!rng.permille(0) && rng.permille(1_000));
        }
        assert_eq!(seen, [true; 5]);
        let sum: u64 = (0..10_000).map(|_| rng.wait(1_000)).sum();
        assert!((9_500_000..10_500_000).contains(&sum), "{sum}");
    }
}
