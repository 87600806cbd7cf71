//! What the members of a cluster take from each other at most, and promise each other at least.
//!
//! A limit is kept by whoever leads, when a command is proposed: then every member can store what the group
//! agrees on. A follower must not refuse what others have stored already, or it falls behind for good; it
//! takes whatever the format allows ([`quorate_wal::ENTRY_BYTES_LIMIT`]).
//!
//! A lease rests on how long every member waits before it votes for another: on the shortest election timeout of all, as
//! announced last.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use quorate_kv::Command;

use crate::membership::FEATURES_OWNED_SESSIONS;
use crate::options::ENTRY_BYTES_MIN;

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
    /// Of those that announced one.
    shortest_timeout_ns: AtomicU64,
}

impl Limits {
    /// Of a node without peers.
    pub(crate) fn new(own: Announced) -> Self {
        Self {
            own,
            entry_bytes_max: AtomicU64::new(own.entry_bytes_max),
            promise_ns: AtomicU64::new(own.election_timeout_ns),
            shortest_timeout_ns: AtomicU64::new(or_none(own.election_timeout_ns)),
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

    /// The shortest election timeout that was announced, of this node and the members: somebody
    /// waits no longer than that. [`u64::MAX`] if nobody announced one.
    pub(super) fn shortest_timeout_ns(&self) -> u64 {
        self.shortest_timeout_ns.load(Ordering::Relaxed)
    }

    /// What the other members announced last, each of them; `None` of one that announced nothing.
    pub(crate) fn set_members(&self, members: impl Iterator<Item = Option<Announced>>) {
        let mut least = self.own;
        let mut shortest_ns = or_none(self.own.election_timeout_ns);
        for member in members {
            let Some(member) = member else {
                least.election_timeout_ns = 0;
                continue;
            };
            // No node opens with less, and what says so must not keep the cluster from opening sessions.
            let entry_bytes_max = member.entry_bytes_max.max(ENTRY_BYTES_MIN);
            least.entry_bytes_max = least.entry_bytes_max.min(entry_bytes_max);
            least.election_timeout_ns = least.election_timeout_ns.min(member.election_timeout_ns);
            shortest_ns = shortest_ns.min(or_none(member.election_timeout_ns));
        }
        self.entry_bytes_max
            .store(least.entry_bytes_max, Ordering::Relaxed);
        self.promise_ns
            .store(least.election_timeout_ns, Ordering::Release);
        self.shortest_timeout_ns
            .store(shortest_ns, Ordering::Relaxed);
    }
}

/// An election timeout of zero is none: whoever announced it said nothing.
fn or_none(timeout_ns: u64) -> u64 {
    if timeout_ns == 0 {
        u64::MAX
    } else {
        timeout_ns
    }
}

/// The command to propose where a client asked for this one: one that every member can read. A session that a replica cannot
/// know the owner of has none; a replica that met a command of a version beyond its own would halt.
pub(super) fn as_all_members_read(
    command: Bytes,
    checked: &Command,
    agreed_features: impl FnOnce() -> u32,
) -> Bytes {
    match checked {
        Command::RegisterOwned { sessions_max, .. }
            if agreed_features() < FEATURES_OWNED_SESSIONS =>
        {
            Command::register(*sessions_max)
        }
        _ => command,
    }
}

#[cfg(test)]
mod tests {
    use quorate_kv::SessionOwner;

    use super::*;

    const OWN: Announced = Announced {
        entry_bytes_max: 100_000,
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
        limits.set_members([member(40_000, 900), member(70_000, 300)].into_iter());
        assert_eq!(
            (limits.entry_bytes_max(), limits.promise_ns()),
            (40_000, Some(300))
        );
        limits.set_members([member(400_000, 900), member(700_000, 3_000)].into_iter());
        assert_eq!(
            (limits.entry_bytes_max(), limits.promise_ns()),
            (100_000, Some(500))
        );
    }

    #[test]
    fn the_shortest_election_timeout_is_that_of_whoever_announced_one() {
        let limits = Limits::new(OWN);
        assert_eq!(limits.shortest_timeout_ns(), 500);
        let member = |election_timeout_ns| {
            Some(Announced {
                election_timeout_ns,
                ..OWN
            })
        };
        for (members, shortest) in [
            ([None, member(300)], 300),
            ([member(0), member(300)], 300),
            ([member(0), None], 500),
            ([member(900), member(5_000)], 500),
        ] {
            limits.set_members(members.into_iter());
            assert_eq!(limits.shortest_timeout_ns(), shortest, "{members:?}");
        }
    }

    #[test]
    fn no_lease_rests_on_a_member_that_announced_nothing() {
        let limits = Limits::new(OWN);
        let silent = Some(Announced {
            entry_bytes_max: 100_000,
            election_timeout_ns: 0,
        });
        for member in [None, silent] {
            limits.set_members([member].into_iter());
            assert_eq!(
                (limits.entry_bytes_max(), limits.promise_ns()),
                (100_000, None)
            );
        }
    }

    /// One member that announced a limit of nothing stopped all writes of its cluster.
    #[test]
    fn a_limit_below_what_any_node_opens_with_does_not_count() {
        let limits = Limits::new(OWN);
        let member = Announced {
            entry_bytes_max: 0,
            ..OWN
        };
        limits.set_members([Some(member)].into_iter());
        assert_eq!(limits.entry_bytes_max(), ENTRY_BYTES_MIN);
    }

    #[test]
    fn a_session_has_an_owner_only_where_every_member_can_read_of_it() {
        let owner = SessionOwner::new(7).expect("not zero");
        let asked = Command::register_owned(3, owner);
        let checked = Command::decode(&asked).expect("it is sound");
        let proposed = |agreed| as_all_members_read(asked.clone(), &checked, || agreed);
        assert_eq!(proposed(FEATURES_OWNED_SESSIONS - 1), Command::register(3));
        assert_eq!(proposed(FEATURES_OWNED_SESSIONS), asked);
    }
}
