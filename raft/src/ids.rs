//! The numbers of the protocol, each its own type so that a term never passes for an index.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero: "before the first".
            pub const ZERO: Self = Self(0);

            /// The number after this one.
            ///
            /// Saturates at the end of the range, which no running system reaches and no
            /// message may push past.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The number before this one; zero stays zero.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
    };
}

number!(
    /// One replica's identity, unique in its cluster and never reused.
    NodeId,
    "n"
);
number!(
    /// An election term (thesis 3.3). At most one leader exists in each.
    Term,
    "t"
);
number!(
    /// A position in a group's log. The first entry stands at 1; 0 is "before the log".
    LogIndex,
    "i"
);
number!(
    /// A leader's own count of the confirmation rounds it began in its term: the number that
    /// heartbeats and appends carry out and replies carry back.
    ///
    /// A reply confirms a read only if the round it carries began after the read was asked for, so
    /// that no old reply can confirm a new read.
    Round,
    "r"
);
number!(
    /// The order in which a replica handed changes to its log: see [`crate::Persist`].
    PersistSeq,
    "p"
);
