//! Why a node does not deal with another one.

use quorate_raft::NodeId;
use thiserror::Error;

/// Why a node refuses another one that shows its card. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// It belongs to another cluster.
    #[error("cluster {theirs:#x} meets cluster {ours:#x}; check the addresses and cluster ids")]
    WrongCluster {
        /// The cluster of the node that refuses.
        ours: u64,
        /// The other one.
        theirs: u64,
    },
    /// It was made with another number of groups.
    #[error("{theirs} groups meet {ours} groups; configure all nodes alike")]
    WrongGroups {
        /// The number of the node that refuses.
        ours: u32,
        /// The other one.
        theirs: u32,
    },
    /// It is no member.
    #[error("node {} is not in the list of nodes; check its id and the list", node.0)]
    Unknown {
        /// Its id.
        node: NodeId,
    },
    /// It comes with another directory than the one that took part under its id.
    #[error(
        "node {} comes with another directory than the one that took part (incarnation {shown:#x}, known is {known:#x}): \
         it was wiped, or a second node was started under this id; put its own directory back. It must not come back with \
         an empty one, for others rely on what it promised: if the directory is lost, leave the node out", node.0
    )]
    OtherDirectory {
        /// Its id.
        node: NodeId,
        /// The incarnation that is known.
        known: u64,
        /// The incarnation that it shows; zero: none.
        shown: u64,
    },
    /// The operator said that it will not come.
    #[error("node {} was left out when the cluster was founded, for good; leave it off", node.0)]
    Retired {
        /// Its id.
        node: NodeId,
    },
    /// It runs on an older copy of its directory.
    #[error(
        "node {} runs on an older copy of its directory ({cause}): it has forgotten what it promised since; put its newest \
         directory back, or leave the node out", node.0
    )]
    OlderCopy {
        /// Its id.
        node: NodeId,
        /// How that shows.
        cause: OlderBy,
    },
    /// It runs twice.
    #[error(
        "node {} runs twice, or on a copy of its directory: its start number {life} is known and was another one; stop the \
         copy, and keep the directory that was written last", node.0
    )]
    SecondCopy {
        /// Its id.
        node: NodeId,
        /// The number of the start.
        life: u64,
    },
    /// Its start has a number that nobody comes to by starting a node.
    #[error(
        "node {} shows start number {shown}, and {known} was its last one: no directory is started that often in between, \
         so somebody made the number up; stop what speaks for the node, or put its newest directory back", node.0
    )]
    LifeJump {
        /// Its id.
        node: NodeId,
        /// The number of the latest start that is known; zero: none.
        known: u64,
        /// The number that it shows.
        shown: u64,
    },
    /// One of the two is of a build that does not read what the other one writes.
    #[error(
        "node {} knows features up to version {theirs}, and those of version {agreed} are written; run a newer build there",
        node.0
    )]
    Features {
        /// The one that does not: the node that is refused, or the one that refuses.
        node: NodeId,
        /// The newest version that it knows.
        theirs: u32,
        /// The version that it must know: what the members have agreed on, or the oldest that the other one still writes.
        agreed: u32,
    },
    /// The node that refuses could not write down whom it met, or not in time. It may be tried again.
    #[error("the book of peers could not be written; see to the disk of the node that refuses")]
    NotWritten,
}

/// How an older copy of a directory shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OlderBy {
    /// A later start of it is known.
    #[error("this is its start number {shown}, and number {known} is known")]
    Life {
        /// The number of the latest start that is known.
        known: u64,
        /// The number that it shows.
        shown: u64,
    },
    /// A start that is known is not in its history.
    #[error("its start number {life} is known and was another one")]
    History {
        /// The number of that start.
        life: u64,
    },
    /// Its log was durable further than it is.
    #[error("its log ends at {shown} and was durable up to {known}")]
    Log {
        /// How far it was.
        known: u64,
        /// How far it is.
        shown: u64,
    },
}

impl Refused {
    /// Whether it is the directory that is refused: its node promised more than it knows.
    pub(super) fn is_of_directory(&self) -> bool {
        matches!(
            self,
            Self::OtherDirectory { .. } | Self::OlderCopy { .. } | Self::SecondCopy { .. }
        )
    }

    /// A short fixed name for counters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::WrongGroups { .. } => "wrong_groups",
            Self::Unknown { .. } => "unknown_node",
            Self::OtherDirectory { .. } => "other_directory",
            Self::Retired { .. } => "retired",
            Self::OlderCopy { .. } => "older_copy",
            Self::SecondCopy { .. } => "second_copy",
            Self::LifeJump { .. } => "life_jump",
            Self::Features { .. } => "features",
            Self::NotWritten => "book_not_written",
        }
    }

    /// The code and the numbers that tell it on the wire; `None` for what the handshake has own codes for.
    pub(crate) fn to_wire(&self) -> Option<(u8, [u64; 4])> {
        Some(match *self {
            Self::WrongCluster { .. } | Self::Unknown { .. } => return None,
            Self::WrongGroups { ours, theirs } => (
                code::WRONG_GROUPS,
                [u64::from(ours), u64::from(theirs), 0, 0],
            ),
            Self::OtherDirectory { node, known, shown } => {
                (code::OTHER_DIRECTORY, [node.0, known, shown, 0])
            }
            Self::Retired { node } => (code::RETIRED, [node.0, 0, 0, 0]),
            Self::OlderCopy { node, cause } => {
                let (by, known, shown) = match cause {
                    OlderBy::Life { known, shown } => (older::LIFE, known, shown),
                    OlderBy::History { life } => (older::HISTORY, life, 0),
                    OlderBy::Log { known, shown } => (older::LOG, known, shown),
                };
                (code::OLDER_COPY, [node.0, by, known, shown])
            }
            Self::SecondCopy { node, life } => (code::SECOND_COPY, [node.0, life, 0, 0]),
            Self::LifeJump { node, known, shown } => (code::LIFE_JUMP, [node.0, known, shown, 0]),
            Self::Features {
                node,
                theirs,
                agreed,
            } => (
                code::FEATURES,
                [node.0, u64::from(theirs), u64::from(agreed), 0],
            ),
            Self::NotWritten => (code::NOT_WRITTEN, [0; 4]),
        })
    }

    /// `None`: a code that this version does not know.
    pub(crate) fn from_wire(code: u8, numbers: [u64; 4]) -> Option<Self> {
        let [first, second, third, fourth] = numbers;
        let node = NodeId(first);
        Some(match code {
            // Told from this side.
            code::WRONG_GROUPS => Self::WrongGroups {
                ours: u32::try_from(second).unwrap_or(u32::MAX),
                theirs: u32::try_from(first).unwrap_or(u32::MAX),
            },
            code::OTHER_DIRECTORY => Self::OtherDirectory {
                node,
                known: second,
                shown: third,
            },
            code::RETIRED => Self::Retired { node },
            code::OLDER_COPY => Self::OlderCopy {
                node,
                cause: match second {
                    older::LIFE => OlderBy::Life {
                        known: third,
                        shown: fourth,
                    },
                    older::HISTORY => OlderBy::History { life: third },
                    older::LOG => OlderBy::Log {
                        known: third,
                        shown: fourth,
                    },
                    _ => return None,
                },
            },
            code::SECOND_COPY => Self::SecondCopy { node, life: second },
            code::LIFE_JUMP => Self::LifeJump {
                node,
                known: second,
                shown: third,
            },
            code::FEATURES => Self::Features {
                node,
                theirs: u32::try_from(second).unwrap_or(u32::MAX),
                agreed: u32::try_from(third).unwrap_or(u32::MAX),
            },
            code::NOT_WRITTEN => Self::NotWritten,
            _ => return None,
        })
    }
}

/// Codes of rejects, continued from those of the handshake.
mod code {
    pub(super) const WRONG_GROUPS: u8 = 7;
    pub(super) const OTHER_DIRECTORY: u8 = 8;
    pub(super) const RETIRED: u8 = 9;
    pub(super) const OLDER_COPY: u8 = 10;
    pub(super) const SECOND_COPY: u8 = 11;
    pub(super) const NOT_WRITTEN: u8 = 12;
    pub(super) const FEATURES: u8 = 13;
    pub(super) const LIFE_JUMP: u8 = 14;
}

/// How an older copy shows, on the wire.
mod older {
    pub(super) const LIFE: u64 = 1;
    pub(super) const HISTORY: u64 = 2;
    pub(super) const LOG: u64 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_means_the_same_on_both_sides_and_says_what_to_do() {
        let node = NodeId(2);
        let older = |cause| Refused::OlderCopy { node, cause };
        let all = [
            Refused::OtherDirectory {
                node,
                known: 7,
                shown: 8,
            },
            Refused::Retired { node },
            older(OlderBy::Life { known: 9, shown: 3 }),
            older(OlderBy::History { life: 4 }),
            older(OlderBy::Log {
                known: 100,
                shown: 50,
            }),
            Refused::SecondCopy { node, life: 5 },
            Refused::LifeJump {
                node,
                known: 5,
                shown: u64::MAX,
            },
            Refused::Features {
                node,
                theirs: 1,
                agreed: 2,
            },
            Refused::NotWritten,
        ];
        for refused in all {
            let (code, numbers) = refused.to_wire().expect("it has a code");
            assert_eq!(Refused::from_wire(code, numbers), Some(refused.clone()));
            let text = refused.to_string();
            let advises = ["put", "leave", "stop", "see to", "run a newer"]
                .iter()
                .any(|word| text.contains(word));
            assert!(advises, "{text}");
        }
        let groups = Refused::WrongGroups {
            ours: 4,
            theirs: 16,
        };
        let (code, numbers) = groups.to_wire().expect("it has a code");
        let told = Refused::from_wire(code, numbers);
        assert_eq!(
            told,
            Some(Refused::WrongGroups {
                ours: 16,
                theirs: 4
            })
        );
        assert_eq!(Refused::from_wire(200, [0; 4]), None);
    }
}
