//! What a node says of itself when it meets another one.

use quorate_raft::NodeId;
use serde::{Deserialize, Serialize};

use super::fields::{FieldWriter, Fields};

/// How many earlier starts a card names: an older copy of a directory that was started more often than this since it was
/// made cannot be told by them any more.
pub(super) const HISTORY_MAX: usize = 16;

/// The oldest and the newest feature version that this build reads and writes. Version 2 has sessions with owners. What a
/// version brings enters no log and no snapshot before all members read it: see `Book::agreed_features`.
pub(crate) const FEATURES: (u32, u32) = (1, FEATURES_OWNED_SESSIONS);

/// The feature version from which on sessions have owners.
pub(crate) const FEATURES_OWNED_SESSIONS: u32 = 2;

/// One start of a node: its number, and a random number that no other start has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Ascends with each opening of the directory.
    pub life: u64,
    /// Drawn at the opening.
    pub nonce: u64,
}

/// What a node can take from its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLimits {
    /// The longest entry that its log takes, in bytes.
    pub entry_bytes_max: u64,
    /// The longest body of a frame, in bytes; zero: frames are not measured.
    pub frame_bytes_max: u64,
    /// How long it waits for a leader at least, in milliseconds.
    pub election_timeout_ms: u64,
}

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeRole {
    /// A voting member.
    #[default]
    Voter,
    /// Something that a later version knows.
    Unknown(u8),
}

/// What a node says of itself when it meets another one: who it is, which directory it runs on, and what it can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCard {
    /// Its id.
    pub node: NodeId,
    /// Its cluster.
    pub cluster_id: u64,
    /// How many groups it was made with.
    pub groups: u32,
    /// The number drawn when its directory was made. Zero: it has none to show.
    pub incarnation: u64,
    /// This start of it.
    pub start: Start,
    /// The starts before, oldest first, at most 16.
    pub history: Vec<Start>,
    /// How far its log was durable when it was opened.
    pub durable_lsn: u64,
    /// Whether its log syncs: what was durable once stays so.
    pub syncs: bool,
    /// What it can take.
    pub limits: NodeLimits,
    /// The oldest and the newest feature version that it reads and writes.
    pub features: (u32, u32),
    /// What it is.
    pub role: NodeRole,
    /// Where it listens; empty if nowhere.
    pub listen: String,
    /// Where it is reached; empty if nowhere.
    pub advertise: String,
}

/// The tags of a card's fields. Tags below are the handshake's own.
mod tag {
    pub(super) const GROUPS: u16 = 16;
    pub(super) const INCARNATION: u16 = 17;
    pub(super) const START: u16 = 18;
    pub(super) const HISTORY: u16 = 19;
    pub(super) const DURABLE: u16 = 20;
    pub(super) const LIMITS: u16 = 21;
    pub(super) const FEATURES: u16 = 22;
    pub(super) const ROLE: u16 = 23;
    pub(super) const LISTEN: u16 = 24;
    pub(super) const ADVERTISE: u16 = 25;
}

const ROLE_VOTER: u8 = 1;

impl NodeCard {
    /// The card of a node that has no directory: with an id, and nothing to tell copies by.
    pub fn bare(node: NodeId, cluster_id: u64, groups: u32) -> Self {
        Self {
            node,
            cluster_id,
            groups,
            incarnation: 0,
            start: Start::default(),
            history: Vec::new(),
            durable_lsn: 0,
            syncs: false,
            limits: NodeLimits::default(),
            features: FEATURES,
            role: NodeRole::Voter,
            listen: String::new(),
            advertise: String::new(),
        }
    }

    /// Which directory, and which start of it.
    pub(crate) fn identity(&self) -> (u64, Start) {
        (self.incarnation, self.start)
    }

    /// What a clerk is shown: no more than it needs. Whoever knows how the copies of a directory are told apart can pass for
    /// this node.
    pub(crate) fn for_clerks(&self) -> Self {
        Self {
            limits: self.limits,
            features: self.features,
            role: self.role,
            ..Self::bare(self.node, self.cluster_id, self.groups)
        }
    }

    /// Writes all fields but the ids of node and cluster, which a handshake has anyway.
    pub(crate) fn write(&self, fields: &mut FieldWriter) {
        fields.put(tag::GROUPS, &self.groups.to_le_bytes());
        fields.put(tag::INCARNATION, &self.incarnation.to_le_bytes());
        fields.put(tag::START, &start_bytes(self.start));
        let newest = self.history.len().saturating_sub(HISTORY_MAX);
        let history = self.history[newest..].iter().copied();
        fields.put(
            tag::HISTORY,
            &history.flat_map(start_bytes).collect::<Vec<u8>>(),
        );
        let mut durable = self.durable_lsn.to_le_bytes().to_vec();
        durable.push(u8::from(self.syncs));
        fields.put(tag::DURABLE, &durable);
        let limits = [
            self.limits.entry_bytes_max,
            self.limits.frame_bytes_max,
            self.limits.election_timeout_ms,
        ];
        fields.put(tag::LIMITS, &limits.map(u64::to_le_bytes).concat());
        let features = [self.features.0, self.features.1];
        fields.put(tag::FEATURES, &features.map(u32::to_le_bytes).concat());
        let role = match self.role {
            NodeRole::Voter => ROLE_VOTER,
            NodeRole::Unknown(role) => role,
        };
        fields.put(tag::ROLE, &[role]);
        fields.put(tag::LISTEN, self.listen.as_bytes());
        fields.put(tag::ADVERTISE, self.advertise.as_bytes());
    }

    /// `None`: a field that every version writes is missing or makes no sense.
    pub(crate) fn read(node: NodeId, cluster_id: u64, fields: &Fields<'_>) -> Option<Self> {
        let history = fields.get(tag::HISTORY)?;
        if !history.len().is_multiple_of(START_BYTES) || history.len() > HISTORY_MAX * START_BYTES {
            return None;
        }
        let history = history.chunks_exact(START_BYTES);
        let durable: [u8; 9] = fields.chunk(tag::DURABLE)?;
        let limits: [u8; 24] = fields.chunk(tag::LIMITS)?;
        let features: [u8; 8] = fields.chunk(tag::FEATURES)?;
        Some(Self {
            node,
            cluster_id,
            groups: fields.u32(tag::GROUPS)?,
            incarnation: fields.u64(tag::INCARNATION)?,
            start: start_of(&fields.chunk::<START_BYTES>(tag::START)?),
            history: history.map(start_of).collect(),
            durable_lsn: u64_at(&durable, 0),
            syncs: durable[8] == 1,
            limits: NodeLimits {
                entry_bytes_max: u64_at(&limits, 0),
                frame_bytes_max: u64_at(&limits, 8),
                election_timeout_ms: u64_at(&limits, 16),
            },
            features: (u32_at(&features, 0), u32_at(&features, 4)),
            role: match fields.u8(tag::ROLE)? {
                ROLE_VOTER => NodeRole::Voter,
                role => NodeRole::Unknown(role),
            },
            listen: fields.text(tag::LISTEN)?,
            advertise: fields.text(tag::ADVERTISE)?,
        })
    }
}

const START_BYTES: usize = 16;

fn start_bytes(start: Start) -> [u8; START_BYTES] {
    let mut bytes = [0; START_BYTES];
    bytes[..8].copy_from_slice(&start.life.to_le_bytes());
    bytes[8..].copy_from_slice(&start.nonce.to_le_bytes());
    bytes
}

/// From at least as many bytes as a start has.
fn start_of(bytes: &[u8]) -> Start {
    Start {
        life: u64_at(bytes, 0),
        nonce: u64_at(bytes, 8),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> NodeCard {
        NodeCard {
            incarnation: 0xABCD,
            start: Start { life: 9, nonce: 77 },
            history: (1..9)
                .map(|life| Start {
                    life,
                    nonce: life * 3,
                })
                .collect(),
            durable_lsn: 1000,
            syncs: true,
            limits: NodeLimits {
                entry_bytes_max: 16 << 20,
                frame_bytes_max: 64 << 20,
                election_timeout_ms: 500,
            },
            listen: "0.0.0.0:7400".to_owned(),
            advertise: "10.0.0.2:7400".to_owned(),
            ..NodeCard::bare(NodeId(2), 7, 16)
        }
    }

    fn written(card: &NodeCard) -> Vec<u8> {
        let mut fields = FieldWriter::default();
        card.write(&mut fields);
        fields.into_bytes()
    }

    fn read(bytes: &[u8]) -> Option<NodeCard> {
        NodeCard::read(NodeId(2), 7, &Fields::read(bytes)?)
    }

    #[test]
    fn a_card_is_read_as_it_was_written() {
        assert_eq!(read(&written(&card())), Some(card()));
        let bare = NodeCard::bare(NodeId(2), 7, 1);
        assert_eq!(read(&written(&bare)), Some(bare));
    }

    #[test]
    fn unknown_fields_and_longer_ones_are_skipped() {
        let mut later = FieldWriter::default();
        card().write(&mut later);
        later.put(900, b"of a later version");
        assert_eq!(read(&later.into_bytes()), Some(card()));
    }

    #[test]
    fn a_cut_a_doubled_or_a_missing_field_is_refused() {
        let whole = written(&card());
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "cut at {end}");
        }
        assert!(Fields::read(&[whole.clone(), whole.clone()].concat()).is_none());
        let mut rest = &whole[..];
        while let Some(head) = rest.first_chunk::<4>() {
            let len = 4 + usize::from(u16::from_le_bytes([head[2], head[3]]));
            let at = whole.len() - rest.len();
            let without = [&whole[..at], &rest[len..]].concat();
            assert_eq!(read(&without), None, "without the field at {at}");
            rest = &rest[len..];
        }
    }

    #[test]
    fn only_the_newest_starts_are_told() {
        let many = NodeCard {
            history: (1..40).map(|life| Start { life, nonce: 1 }).collect(),
            ..card()
        };
        let told = read(&written(&many)).expect("it is whole").history;
        assert_eq!(told.len(), HISTORY_MAX);
        assert_eq!(told.last().map(|start| start.life), Some(39));
    }
}
