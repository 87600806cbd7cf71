//! Which group a key belongs to.

use quorate_wal::GroupId;

/// The most groups that one node takes.
pub const GROUPS_MAX: u32 = 65_536;

/// Maps keys to groups. All nodes and clerks of a cluster must use the same one, so it is made from what
/// the cluster was bootstrapped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partitioner {
    groups: u32,
}

impl Partitioner {
    /// Spreads keys over `groups` groups, numbered from 0, by their hash.
    pub(crate) fn hashed(groups: u32) -> Self {
        assert!(groups > 0, "a cluster has at least one group");
        Self { groups }
    }

    pub(crate) fn groups(self) -> impl Iterator<Item = GroupId> {
        (0..u64::from(self.groups)).map(GroupId)
    }

    pub(crate) fn count(self) -> u32 {
        self.groups
    }

    /// The group of a key.
    pub(crate) fn group(self, key: &[u8]) -> GroupId {
        if self.groups == 1 {
            GroupId(0)
        } else {
            self.group_of_hash(hash(key))
        }
    }

    /// The group of a key whose [`hash`] is known.
    ///
    /// The multiply-shift takes the high bits, so that group counts that are powers of two do not see only the low ones.
    pub(crate) fn group_of_hash(self, hash: u32) -> GroupId {
        let spread = u64::from(hash.wrapping_mul(0x9E37_79B1));
        GroupId((spread * u64::from(self.groups)) >> 32)
    }
}

/// CRC-32 spreads short keys well, is the same on every machine, and the log needs it anyway.
pub(crate) fn hash(key: &[u8]) -> u32 {
    crc32fast::hash(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_evenly_over_the_groups() {
        for groups in [2_u32, 3, 16, 1_000] {
            let partitioner = Partitioner::hashed(groups);
            let mut counts = vec![0_u32; groups as usize];
            let per_group = 200;
            for key in 0..groups * per_group {
                counts[partitioner.group(format!("key/{key}").as_bytes()).0 as usize] += 1;
            }
            // Five standard deviations of a fair throw.
            let slack = 5.0 * f64::from(per_group).sqrt();
            for (group, count) in counts.iter().enumerate() {
                let off = (f64::from(*count) - f64::from(per_group)).abs();
                assert!(off < slack, "{groups} groups: group {group} got {count}");
            }
        }
    }

    #[test]
    fn the_mapping_is_part_of_the_format() {
        let partitioner = Partitioner::hashed(16);
        let groups: Vec<u64> = ["", "a", "b", "quorate"]
            .iter()
            .map(|k| partitioner.group(k.as_bytes()).0)
            .collect();
        assert_eq!(groups, GOLDEN);
    }

    /// Changing these moves every key of every existing cluster.
    const GOLDEN: [u64; 4] = [0, 15, 2, 5];
}
