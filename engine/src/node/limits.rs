//! What the members of a cluster take from each other at most, and promise each other at least.
//!
//! A limit is kept by whoever leads, when a command is proposed: then every member can store what the group
//! agrees on. A follower must not refuse what others have stored already, or it falls behind for good; it
//! takes whatever the format allows ([`quorate_wal::ENTRY_BYTES_LIMIT`]).
//!
//! A lease rests on how long every member waits before it votes for another: on the shortest election timeout of all, as
//! announced last.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a member announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The longest command that it proposes.
    pub(crate) entry_bytes_max: u64,
    /// Its election timeout; zero: it said nothing.
    pub(crate) election_timeout_ns: u64,
}

/// The limits that count on one node, shared by its shards. Changed before the first frame of a member that announced
/// something else is taken in.
#[derive(Debug)]
pub(crate) struct Limits {
    own: Announced,
    entry_bytes_max: AtomicU64,
    /// Zero: some member announced nothing.
    promise_ns: AtomicU64,
}

impl Limits {
    /// Of a node without peers.
    pub(crate) fn new(own: Announced) -> Self {
        Self {
            own,
            entry_bytes_max: AtomicU64::new(own.entry_bytes_max),
            promise_ns: AtomicU64::new(own.election_timeout_ns),
        }
    }

    /// The longest command that this node may propose.
    pub(crate) fn entry_bytes_max(&self) -> u64 {
        self.entry_bytes_max.load(Ordering::Relaxed)
    }

    /// How long every member waits before it votes for another leader; `None`: some member announced nothing yet.
    pub(crate) fn promise_ns(&self) -> Option<u64> {
        Some(self.promise_ns.load(Ordering::Acquire)).filter(|&promise_ns| promise_ns > 0)
    }

    /// What the other members announced last, each of them; `None` of one that announced nothing.
    pub(crate) fn set_members(&self, members: impl Iterator<Item = Option<Announced>>) {
        let mut least = self.own;
        for member in members {
            let Some(member) = member else {
                least.election_timeout_ns = 0;
                continue;
            };
            least.entry_bytes_max = least.entry_bytes_max.min(member.entry_bytes_max);
            least.election_timeout_ns = least.election_timeout_ns.min(member.election_timeout_ns);
        }
        self.entry_bytes_max
            .store(least.entry_bytes_max, Ordering::Relaxed);
        self.promise_ns
            .store(least.election_timeout_ns, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Announced = Announced {
        entry_bytes_max: 100,
        election_timeout_ns: 500,
    };

    #[test]
    fn the_least_of_what_all_announced_last_counts() {
        let limits = Limits::new(OWN);
        let member = |entry_bytes_max, election_timeout_ns| {
            Some(Announced {
                entry_bytes_max,
                election_timeout_ns,
            })
        };
        limits.set_members([member(40, 900), member(70, 300)].into_iter());
        assert_eq!(
            (limits.entry_bytes_max(), limits.promise_ns()),
            (40, Some(300))
        );
        limits.set_members([member(4_000, 900), member(7_000, 3_000)].into_iter());
        assert_eq!(
            (limits.entry_bytes_max(), limits.promise_ns()),
            (100, Some(500))
        );
    }

    #[test]
    fn no_lease_rests_on_a_member_that_announced_nothing() {
        let limits = Limits::new(OWN);
        let silent = Some(Announced {
            entry_bytes_max: 100,
            election_timeout_ns: 0,
        });
        for member in [None, silent] {
            limits.set_members([member].into_iter());
            assert_eq!((limits.entry_bytes_max(), limits.promise_ns()), (100, None));
        }
    }
}
