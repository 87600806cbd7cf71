//! How much log a node may keep, as a function of what its groups hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the shards of one node tell each other of the log's size.
#[derive(Default)]
pub(crate) struct NodeSpace {
    /// Bytes of the latest snapshots of all groups of the node.
    snapshot_bytes: AtomicU64,
    /// Until then groups of some shard count as letting go of the oldest segment.
    let_go_until_ns: AtomicU64,
}

/// One shard's share in the node's account of log and snapshots.
///
/// A group is snapshotted after as much log as its last snapshot is long, so the sum of the snapshots is what the
/// log may grow to by the groups' own rule; `base_bytes` is for small groups and for the segments being filled.
pub(crate) struct LogSpace {
    base_bytes: u64,
    node: Arc<NodeSpace>,
    /// What this shard has in the node's `snapshot_bytes`.
    reported_bytes: u64,
}

/// What to do about the log's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pressure {
    /// Nothing.
    None,
    /// The groups that hold the oldest segment are to let go of it.
    LetGo,
    /// The same, and no writes as long as some group of the node lets go: they come faster than snapshots can be written. Where
    /// none can, writes go on, since what lives in the log is moved only along with them.
    Refuse,
}

impl LogSpace {
    pub(crate) fn new(base_bytes: u64, node: Arc<NodeSpace>) -> Self {
        Self {
            base_bytes,
            node,
            reported_bytes: 0,
        }
    }

    /// Judges `disk_bytes` of log. `own_bytes` counts the latest snapshots of this shard's groups, and is asked only when it matters.
    pub(crate) fn pressure(
        &mut self,
        disk_bytes: u64,
        own_bytes: impl FnOnce() -> u64,
    ) -> Pressure {
        if disk_bytes <= self.base_bytes {
            return Pressure::None;
        }
        let own_bytes = own_bytes();
        // Two's complement: adding the difference also takes away.
        let delta = own_bytes.wrapping_sub(self.reported_bytes);
        let all_bytes = self
            .node
            .snapshot_bytes
            .fetch_add(delta, Ordering::Relaxed)
            .wrapping_add(delta);
        self.reported_bytes = own_bytes;
        let allowed_bytes = self.base_bytes.saturating_add(all_bytes);
        if disk_bytes <= allowed_bytes {
            Pressure::None
        } else if disk_bytes <= allowed_bytes.saturating_mul(2) {
            Pressure::LetGo
        } else {
            Pressure::Refuse
        }
    }

    /// A group of this shard lets go of the oldest segment; this counts up to then.
    pub(crate) fn note_let_go(&self, until_ns: u64) {
        self.node
            .let_go_until_ns
            .fetch_max(until_ns, Ordering::Relaxed);
    }

    /// Whether a group of the node, in whichever shard, counts as letting go of the oldest segment now.
    pub(crate) fn is_let_go_of(&self, now_ns: u64) -> bool {
        now_ns < self.node.let_go_until_ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_may_grow_with_the_snapshots_of_all_shards() {
        let shared = Arc::new(NodeSpace::default());
        let mut first = LogSpace::new(100, Arc::clone(&shared));
        let mut second = LogSpace::new(100, shared);
        assert_eq!(
            first.pressure(100, || unreachable!("below the base")),
            Pressure::None
        );
        assert_eq!(first.pressure(101, || 0), Pressure::LetGo);
        assert_eq!(first.pressure(201, || 0), Pressure::Refuse);
        assert_eq!(second.pressure(150, || 50), Pressure::None);
        assert_eq!(first.pressure(300, || 0), Pressure::LetGo);
        assert_eq!(first.pressure(301, || 0), Pressure::Refuse);
        // A snapshot may also become smaller.
        assert_eq!(second.pressure(150, || 10), Pressure::LetGo);
    }

    /// The oldest segment may be held by groups of another worker alone, whose snapshots are waited for as well.
    #[test]
    fn groups_of_another_shard_count_as_letting_go_until_it_says_so_no_more() {
        let shared = Arc::new(NodeSpace::default());
        let first = LogSpace::new(100, Arc::clone(&shared));
        let second = LogSpace::new(100, shared);
        assert!(!second.is_let_go_of(0), "nobody said so");
        first.note_let_go(10);
        assert!(second.is_let_go_of(9));
        second.note_let_go(5);
        assert!(first.is_let_go_of(9), "whoever can for longest counts");
        assert!(!first.is_let_go_of(10) && !second.is_let_go_of(10));
    }
}
