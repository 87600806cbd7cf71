//! What a node refused, counted by name.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_raft::Counters;

/// A number that only grows, added to by any thread.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! rejected {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often a node refused something since it was opened, by reason. What is refused has changed
        /// nothing. See `docs/operating.md` for what each one means.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Rejected {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Rejected {
            /// All counters with their names, for tools that show them.
            pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        /// The counters of one node.
        #[derive(Debug, Default)]
        pub(crate) struct Rejections {
            $(pub(crate) $name: Counter,)*
        }

        impl Rejections {
            pub(crate) fn read(&self) -> Rejected {
                Rejected { $($name: self.$name.get(),)* }
            }
        }
    };
}

rejected! {
    /// Messages of peers that are damaged, misdirected, or from no member.
    messages,
    /// Messages of peers whose term is more than `2^32` above the replica's own.
    term_jumps,
    /// Appends with an entry of a kind that this version does not accept.
    entry_kinds,
    /// Appends with an entry that is larger than any log takes.
    entries_too_large,
    /// Messages that a correct peer never sends: a leader that contradicts what is committed here, a second
    /// leader in a term, a follower that claims what its leader does not have. Anything above zero is a bug, a
    /// lost disk, or a forgery.
    violations,
    /// Snapshots that name other members than the cluster has.
    snapshot_members,
    /// Snapshots that were refused or given up on their way: too long, contradicting themselves, without
    /// progress, failing their checks, or not storable.
    snapshot_streams,
    /// Commands that are damaged or of a version that this node does not know.
    commands,
    /// Commands over the limit of the group.
    commands_too_large,
    /// Requests and messages for groups that this cluster does not have.
    no_such_group,
    /// Answers to this node's own calls that make no sense: to no request, from another node than was asked, of
    /// another kind than was asked for.
    replies,
}

impl Rejections {
    /// Adds what a replica has refused since it was last asked.
    pub(crate) fn add(&self, before: &Counters, now: &Counters) {
        let pairs = [
            (&self.messages, before.refused, now.refused),
            (&self.term_jumps, before.term_jumps, now.term_jumps),
            (&self.entry_kinds, before.entry_kinds, now.entry_kinds),
            (
                &self.entries_too_large,
                before.entries_too_large,
                now.entries_too_large,
            ),
            (&self.violations, before.violations, now.violations),
            (
                &self.snapshot_members,
                before.foreign_snapshots,
                now.foreign_snapshots,
            ),
        ];
        for (counter, before, now) in pairs {
            counter.add(now.saturating_sub(before));
        }
    }
}
