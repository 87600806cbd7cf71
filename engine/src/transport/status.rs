//! What a node tells its peers about itself: plain data, one frame for each pair of nodes.

/// How a node's log is, from healthy to worst. Compare with [`severity`](Self::severity): kinds of
/// one severity have no order among each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogHealth {
    /// It takes writes and syncs them in time.
    #[default]
    Healthy,
    /// It takes writes, but its oldest unsynced one has waited longer than an election timeout.
    Stalled,
    /// The disk is full: it takes no writes until there is space again.
    Full,
    /// The process has no file handles left: it takes no writes until it gets some.
    OutOfHandles,
    /// A write or a sync failed: it takes no writes until the node is opened again.
    Failed,
}

impl LogHealth {
    /// How bad it is: 0 is healthy; the higher, the less a node should lead.
    #[must_use]
    pub fn severity(self) -> u8 {
        self.to_byte() >> 4
    }

    /// Whether anything is wrong.
    #[must_use]
    pub fn is_sick(self) -> bool {
        self.severity() > 0
    }

    /// On the wire: the severity in the upper four bits, so that a kind from a later version still
    /// compares right.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Healthy => 0x00,
            Self::Stalled => 0x10,
            Self::Full => 0x20,
            Self::OutOfHandles => 0x21,
            Self::Failed => 0x30,
        }
    }

    /// A kind that is not known here becomes the known one of the same severity.
    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            0x00..=0x0F => Self::Healthy,
            0x10..=0x1F => Self::Stalled,
            0x21 => Self::OutOfHandles,
            0x20..=0x2F => Self::Full,
            0x30.. => Self::Failed,
        }
    }
}

/// What a node says of itself to its peers, on change and every half election timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// How its log is.
    pub health: LogHealth,
    /// How long its oldest unsynced write has waited, in milliseconds; zero if all are durable.
    pub oldest_unsynced_ms: u64,
    /// How far its log is durable.
    pub durable_lsn: u64,
    /// What it knows of the founding of its cluster.
    pub founding: Founding,
    /// The newest feature version that it can read and write.
    ///
    /// For people and for later versions: nothing here decides by it. What a node may be sent follows from its
    /// [card](crate::transport::NodeCard::features), which is durable before it counts.
    pub feature_version: u32,
}

/// What a node knows of the founding of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Whether it has met each founder once.
    pub is_complete: bool,
    /// Whether it keeps to those that it met for good: each said that it met the same ones.
    pub is_closed: bool,
    /// A digest of the founders as it met them; zero while not complete.
    pub digest: u64,
    /// Whether the cluster is founded, as far as it knows.
    pub is_founded: bool,
}

impl Default for Founding {
    /// Of a node that waits for nobody.
    fn default() -> Self {
        Self {
            is_complete: true,
            is_closed: true,
            digest: 0,
            is_founded: true,
        }
    }
}
