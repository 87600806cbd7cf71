//! Every flipped bit and every cut of a small log of three segments.
//!
//! The verdict must be one of these: the log is returned whole; or what is damaged is named, by
//! file and offset, and by group and index where an entry is gone, and everything else that is
//! returned is right. Only where the log ends in a batch that nothing covers is that batch cut
//! instead.
//!
//! Flips in blocks that were never written are tried once per block, and flips in payloads and in
//! the zeros that pad a block once per byte: one bit there is like another.

use std::path::{Path, PathBuf};

use quorate_wal::testing::CrashDisk;
use quorate_wal::{Damage, DamageKind, OpenError, ReadError, Recovered};

use crate::common::{BLOCK, DIR};
use crate::model::{Groups, Step};
use crate::world::{Moment, World, names, open, try_open};

/// A log, what it should be, and what it was before the batch that nothing covers, if there is one.
pub(crate) struct Sample {
    disk: CrashDisk,
    whole: Moment,
    before: Option<Moment>,
    /// What the log was when it had two segments.
    two_segments: Moment,
}

/// Headers and descriptors are in so many bytes of a block; behind them are payloads, of which one
/// byte is like another, and the CRC of a segment's header.
const STRUCTURE_BYTES: usize = 400;

/// What became of a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Whole,
    Named,
    Cut,
}

/// Three segments of two batches at most: the first two sealed, the second with the index behind it
/// or without, and the last with a batch that covers the one before, or one that nothing covers.
pub(crate) fn sample(is_indexed: bool, is_covered: bool) -> Sample {
    use Step::{Cover, Large, Pair, State};
    let last = if is_covered { Cover } else { State };
    let world = World::after(&[Large, Large, Pair, last]);
    if is_indexed {
        // The entries that it wants to move are not moved: nothing drives the log any more.
        world.log.prepare().unwrap();
    }
    assert_eq!(world.log.stats().segments, 3, "{:?}", world.log.stats());
    let mut moments = world.moments;
    let disk = world.disk.fork();
    disk.power_cut(&quorate_wal::testing::Survivors::None);
    let two_segments = moments[2].clone();
    let whole = moments.pop().unwrap();
    Sample {
        disk,
        whole,
        before: moments.pop().filter(|_| !is_covered),
        two_segments,
    }
}

impl Sample {
    /// Opens a damaged copy. Everything that it returns must be right, and what it does not return
    /// must be named.
    pub(crate) fn verdict(
        &self,
        disk: &CrashDisk,
        path: &Path,
        offset: u64,
        what: &str,
    ) -> Outcome {
        let names_it = |damage: &Damage| {
            damage.kind == DamageKind::Manifest || (damage.file == path && damage.offset <= offset)
        };
        let (log, recovered) = match try_open(disk) {
            Ok(opened) => opened,
            Err(OpenError::Damaged { damage }) => {
                assert!(damage.iter().any(names_it), "{what}: {damage:?}");
                return Outcome::Named;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        if let Some(before) = &self.before
            && recovered.groups == before.recovered
        {
            return Outcome::Cut;
        }
        let lost = without_lost(&recovered);
        assert_eq!(lost.groups, self.whole.recovered, "{what}");
        let damage = &recovered.report.damage;
        assert!(
            damage.is_empty() || damage.iter().any(names_it),
            "{what}: {damage:?}"
        );
        let is_all_read = read_all(&log, &self.whole.groups, path, what);
        let is_named = recovered
            .groups
            .values()
            .any(|group| !group.lost.is_empty());
        assert!(!is_named || !is_all_read, "{what}: lost, and yet there");
        if is_all_read && damage.is_empty() {
            Outcome::Whole
        } else {
            Outcome::Named
        }
    }

    pub(crate) fn damaged(&self) -> CrashDisk {
        self.disk.fork()
    }

    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let named = |name: &str| !name.starts_with("RESERVE");
        let paths = names(&self.disk).into_iter().filter(|name| named(name));
        let paths = paths.map(|name| Path::new(DIR).join(name));
        paths
            .map(|path| (path.clone(), self.disk.contents(&path).unwrap()))
            .collect()
    }
}

/// The recovery as if nothing were lost; what is lost is checked by reading.
fn without_lost(recovered: &Recovered) -> Recovered {
    let mut copy = recovered.clone();
    for group in copy.groups.values_mut() {
        group.lost.clear();
    }
    copy
}

/// Reads every entry by itself: it is right, or named. Whether all could be read.
fn read_all(log: &quorate_wal::Log, groups: &Groups, path: &Path, what: &str) -> bool {
    let mut is_whole = true;
    for (&id, group) in groups {
        for expected in &group.entries {
            match log.read(id, expected.index, expected.index + 1, usize::MAX) {
                Ok(read) => assert_eq!(read, std::slice::from_ref(expected), "{what}"),
                Err(ReadError::Corrupt {
                    group, index, file, ..
                }) => {
                    assert_eq!((group, index), (id, expected.index), "{what}");
                    assert!(
                        file == path || file == Path::new(DIR),
                        "{what}: {}",
                        file.display()
                    );
                    is_whole = false;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    is_whole
}

/// The bits of a file to flip, as offset and bit.
fn bits(bytes: &[u8]) -> Vec<(u64, u8)> {
    let mut bits = Vec::new();
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let begin = (number * BLOCK) as u64;
        if block.iter().all(|&byte| byte == 0) {
            bits.push((begin + 77, 3));
            continue;
        }
        for position in 0..block.len() {
            let around = position.saturating_sub(8)..(position + 8).min(block.len());
            let is_structure = position < STRUCTURE_BYTES || position + 8 > block.len();
            let is_used = block[around].iter().any(|&byte| byte != 0);
            let tried = if is_structure && is_used { 8 } else { 1 };
            let at = begin + position as u64;
            bits.extend((0..tried).map(|bit| (at, (bit + position) as u8 % 8)));
        }
    }
    bits
}

fn flip_everything(is_indexed: bool, is_covered: bool) {
    let sample = sample(is_indexed, is_covered);
    let mut count = [0; 3];
    for (path, bytes) in sample.files() {
        for (offset, bit) in bits(&bytes) {
            let disk = sample.damaged();
            assert!(disk.flip(&path, offset, bit));
            let what = format!("{} byte {offset} bit {bit}", path.display());
            let outcome = sample.verdict(&disk, &path, offset, &what);
            count[outcome as usize] += 1;
        }
    }
    assert!(count[Outcome::Named as usize] > 5000, "{count:?}");
    assert_eq!(count[Outcome::Cut as usize] > 0, !is_covered, "{count:?}");
}

#[test]
fn each_flipped_bit_of_a_covered_log_is_named_or_harmless() {
    flip_everything(true, true);
}

#[test]
fn each_flipped_bit_of_a_log_without_indexes_is_named_or_harmless() {
    flip_everything(false, true);
}

#[test]
fn each_flipped_bit_of_a_log_that_nothing_covers_is_named_or_harmless_or_costs_its_last_batch() {
    flip_everything(true, false);
}

/// The last segment, cut within its first block while no manifest names it, is one that was never
/// in service: nobody can tell that it was. The log is then the one before it, whole.
#[test]
fn each_length_that_a_file_of_the_log_is_cut_to_is_named_or_harmless() {
    for (is_indexed, is_covered) in [(true, true), (false, false)] {
        let sample = sample(is_indexed, is_covered);
        let mut count = [0; 3];
        for (path, bytes) in sample.files() {
            let is_unnamed = !is_indexed && path.ends_with("0000000000000003.seg");
            for len in lens(bytes.len()) {
                let disk = sample.damaged();
                assert!(disk.truncate(&path, len));
                let what = format!("{} cut to {len}", path.display());
                if is_unnamed && len < BLOCK as u64 {
                    let (log, recovered) = open(&disk);
                    assert_eq!(recovered.groups, sample.two_segments.recovered, "{what}");
                    assert!(read_all(&log, &sample.two_segments.groups, &path, &what));
                    continue;
                }
                count[sample.verdict(&disk, &path, u64::MAX, &what) as usize] += 1;
            }
        }
        assert!(count[Outcome::Named as usize] > 500, "{count:?}");
        assert_eq!(count[Outcome::Cut as usize], 0, "{count:?}");
    }
}

/// The lengths to cut a file to: every one where headers and descriptors are, and near the end of
/// each block; some of those within payloads and padding, of which one is like another.
fn lens(bytes: usize) -> impl Iterator<Item = u64> {
    let is_tried = |len: &usize| {
        let within = len % BLOCK;
        within < STRUCTURE_BYTES || within.is_multiple_of(61) || within + 20 > BLOCK
    };
    (0..bytes).filter(is_tried).map(|len| len as u64)
}

#[test]
fn the_sample_opens_whole() {
    for (is_indexed, is_covered) in [(true, true), (false, true), (true, false)] {
        let sample = sample(is_indexed, is_covered);
        let (log, recovered) = open(&sample.disk.fork());
        assert_eq!(recovered.groups, sample.whole.recovered);
        assert_eq!(recovered.report.segments, 3);
        let indexed = if is_indexed { 2 } else { 1 };
        assert_eq!(recovered.report.indexed_segments, indexed);
        assert!(read_all(
            &log,
            &sample.whole.groups,
            Path::new(DIR),
            "whole"
        ));
    }
}
