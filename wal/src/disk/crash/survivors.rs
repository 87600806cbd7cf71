//! What of the changes that were not durable is there after the power went off.

use std::path::PathBuf;

/// A change that is not durable yet: with the power off it is there or not, whatever becomes of the
/// others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The name that is concerned, or the last name of the file.
    pub path: PathBuf,
    /// What would become durable.
    pub what: PendingChange,
}

/// What may become durable by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingChange {
    /// A block of 4 KiB of the file, at this offset in bytes.
    Block(u64),
    /// The size of the file, in bytes.
    Size(u64),
    /// The name leads to the file.
    NameAdded,
    /// The name is gone. Where the file was renamed, that is so only if the new name is there: a
    /// renamed file has its old name, its new one or both, and never none.
    NameRemoved,
}

/// Chooses which of the pending changes survive a power cut. They are numbered in the order in
/// which they were made, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// Only what was synced.
    None,
    /// Everything, as if it had been synced.
    All,
    /// The first so many.
    Prefix(usize),
    /// Each with a probability; of the blocks that survive, a share is torn: each 512-byte sector
    /// is there or not. The same seed chooses the same.
    Random {
        /// Where the choice comes from.
        seed: u64,
        /// How many survive, in percent.
        survive_percent: u8,
        /// How many of the surviving blocks are torn, in percent.
        torn_percent: u8,
    },
    /// Says it of each: zero if the change is lost, else the sectors of the block that survive, the
    /// first in the lowest bit. Those that are not mentioned are lost.
    Sectors(Vec<u8>),
}

impl Survivors {
    /// The changes whose bits are set survive, whole; none beyond the 64th.
    pub fn of_mask(mask: u64) -> Self {
        let whole = |bit| if mask >> bit & 1 == 1 { u8::MAX } else { 0 };
        Self::Sectors((0..u64::BITS).map(whole).collect())
    }

    /// For each change, whether it is a block or not, its sectors that survive.
    pub(super) fn choose(&self, are_blocks: &[bool]) -> Vec<u8> {
        let count = are_blocks.len();
        let prefix = |len: usize| {
            let survives = |position| if position < len { u8::MAX } else { 0 };
            (0..count).map(survives).collect()
        };
        match self {
            Self::None => prefix(0),
            Self::All => prefix(count),
            Self::Prefix(len) => prefix(*len),
            Self::Random {
                seed,
                survive_percent,
                torn_percent,
            } => {
                let mut random = Random(*seed);
                let mut choose = |&is_block: &bool| {
                    let survives = random.percent() < *survive_percent;
                    let is_torn = random.percent() < *torn_percent && is_block;
                    let sectors = random.next() as u8;
                    match (survives, is_torn) {
                        (false, _) => 0,
                        (true, false) => u8::MAX,
                        (true, true) => sectors,
                    }
                };
                are_blocks.iter().map(&mut choose).collect()
            }
            Self::Sectors(sectors) => {
                let mut chosen = sectors.clone();
                chosen.resize(count, 0);
                chosen
            }
        }
    }
}

/// `SplitMix64`: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn percent(&mut self) -> u8 {
        (self.next() % 100) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_are_those_that_were_chosen() {
        let blocks = [true; 3];
        assert_eq!(Survivors::None.choose(&blocks), [0, 0, 0]);
        assert_eq!(Survivors::All.choose(&blocks), [255, 255, 255]);
        assert_eq!(Survivors::Prefix(2).choose(&blocks), [255, 255, 0]);
        assert_eq!(Survivors::of_mask(0b101).choose(&blocks), [255, 0, 255]);
        let torn = Survivors::Sectors(vec![7]);
        assert_eq!(torn.choose(&blocks), [7, 0, 0]);
    }

    #[test]
    fn a_seed_chooses_the_same_again_and_about_as_many_as_it_should() {
        let random = |seed| Survivors::Random {
            seed,
            survive_percent: 50,
            torn_percent: 50,
        };
        let are_blocks: Vec<bool> = (0..1000).map(|it| it % 4 != 0).collect();
        let chosen = random(1).choose(&are_blocks);
        assert_eq!(random(1).choose(&are_blocks), chosen);
        assert_ne!(random(2).choose(&are_blocks), chosen);
        let count = |is: fn(u8) -> bool| chosen.iter().filter(|&&it| is(it)).count();
        let (lost, whole) = (count(|it| it == 0), count(|it| it == u8::MAX));
        assert!((400..600).contains(&lost), "{lost}");
        assert!((200..400).contains(&whole), "{whole}");
        let names = chosen.iter().step_by(4);
        assert!(
            names.copied().all(|it| it == 0 || it == u8::MAX),
            "only blocks are torn"
        );
    }
}
