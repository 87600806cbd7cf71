//! The one place that translates between what the log stores and what the protocol speaks of.

use quorate_raft::{
    Config, Entry, EntryKind, HardState, LogIndex, LogReadError, LogReader, NodeId, Persist,
    Restored, SnapshotMeta, Term,
};
use quorate_wal::{GroupId, GroupState, Log, RecoveredGroup, SnapshotRef};
use serde::{Deserialize, Serialize};

use super::shard::Writes;

/// One group's entries, out of the shared log.
pub(crate) struct GroupLog<'a> {
    pub(crate) log: &'a Log,
    pub(crate) group: GroupId,
}

impl LogReader for GroupLog<'_> {
    /// Copies the payloads out of the map: what is applied lives on in the map of keys, and what is sent over the
    /// memory transport lives on in another node, and either would hold a whole segment on disk.
    fn entries(
        &mut self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, LogReadError> {
        let stored = self
            .log
            .read(self.group, from.0, to.0 + 1, bytes_max)
            .map_err(|error| LogReadError::new(error.to_string()))?;
        stored
            .into_iter()
            .map(|entry| {
                let kind = EntryKind::from_byte(entry.kind).ok_or_else(|| {
                    LogReadError::new(format!(
                        "entry {} is of kind {}, unknown here",
                        entry.index, entry.kind
                    ))
                })?;
                Ok(Entry {
                    index: LogIndex(entry.index),
                    term: Term(entry.term),
                    kind,
                    data: bytes::Bytes::copy_from_slice(&entry.payload),
                })
            })
            .collect()
    }
}

/// Adds what a core wants persisted to a batch.
pub(crate) fn add_persist(writes: &mut Writes, group: GroupId, persist: &mut Persist) {
    // The term reaches the disk no later than any entry of that term.
    if let Some(state) = persist.hard_state.take() {
        writes.batch.set_state(group, to_state(state));
    }
    if !persist.entries.is_empty() {
        let entries = persist.entries.drain(..).map(to_entry).collect();
        writes.append(group, entries);
    }
}

pub(crate) fn to_state(state: HardState) -> GroupState {
    GroupState {
        term: state.term.0,
        vote: state.vote.map_or(0, |node| node.0),
        commit: state.commit.0,
    }
}

fn to_entry(entry: Entry) -> quorate_wal::Entry {
    quorate_wal::Entry {
        index: entry.index.0,
        term: entry.term.0,
        kind: entry.kind as u8,
        payload: entry.data,
    }
}

/// What a replica starts from: what the log recovered, or nothing.
pub(crate) fn restored(
    id: NodeId,
    config: &Config,
    recovered: Option<&RecoveredGroup>,
) -> Result<Restored, String> {
    let Some(recovered) = recovered else {
        return Ok(Restored {
            id,
            config: config.clone(),
            hard_state: HardState::default(),
            snapshot: SnapshotMeta::default(),
            first_index: LogIndex(1),
            last_index: LogIndex(0),
            terms: Vec::new(),
        });
    };
    let snapshot = match &recovered.snapshot {
        None => SnapshotMeta::default(),
        Some(file) => snapshot_meta(file)?,
    };
    let state = recovered.state;
    Ok(Restored {
        id,
        config: if snapshot.index > LogIndex::ZERO {
            snapshot.config.clone()
        } else {
            config.clone()
        },
        hard_state: HardState {
            term: Term(state.term),
            vote: (state.vote != 0).then_some(NodeId(state.vote)),
            commit: LogIndex(state.commit),
        },
        first_index: LogIndex(recovered.first_index),
        last_index: LogIndex(recovered.last_index),
        terms: term_runs(recovered),
        snapshot,
    })
}

/// The runs of entries of one term, from the entry before the first on.
fn term_runs(recovered: &RecoveredGroup) -> Vec<(LogIndex, Term)> {
    let before = (recovered.first_index - 1, recovered.previous_term);
    let runs = std::iter::once(before).chain(recovered.terms.iter().copied());
    let mut terms: Vec<(LogIndex, Term)> = Vec::with_capacity(recovered.terms.len() + 1);
    for (index, term) in runs {
        // The first run may go on where the entry before it left off.
        if terms.last().is_none_or(|&(_, last)| last != Term(term)) {
            terms.push((LogIndex(index), Term(term)));
        }
    }
    terms
}

/// What a snapshot file covers, members included.
pub(crate) fn snapshot_meta(file: &SnapshotRef) -> Result<SnapshotMeta, String> {
    let config = config_from_bytes(&file.context)?;
    Ok(SnapshotMeta {
        index: LogIndex(file.index),
        term: Term(file.term),
        config,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredConfig {
    version: u8,
    voters: Vec<u64>,
}

const CONFIG_VERSION: u8 = 1;

pub(crate) fn config_to_bytes(config: &Config) -> bytes::Bytes {
    let stored = StoredConfig {
        version: CONFIG_VERSION,
        voters: config.voters.iter().map(|node| node.0).collect(),
    };
    let bytes = postcard::to_allocvec(&stored).expect("numbers in a vector always encode");
    bytes::Bytes::from(bytes)
}

pub(crate) fn config_from_bytes(bytes: &[u8]) -> Result<Config, String> {
    let stored: StoredConfig = postcard::from_bytes(bytes)
        .map_err(|error| format!("the members cannot be read: {error}"))?;
    if stored.version != CONFIG_VERSION {
        return Err(format!(
            "the members are stored in version {}, but this build knows {CONFIG_VERSION}",
            stored.version
        ));
    }
    Ok(Config {
        voters: stored.voters.into_iter().map(NodeId).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_survive_encoding_and_damage_is_an_error() {
        let config = Config {
            voters: vec![NodeId(1), NodeId(300), NodeId(u64::MAX)],
        };
        let bytes = config_to_bytes(&config);
        assert_eq!(config_from_bytes(&bytes), Ok(config));
        assert!(config_from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(
            config_from_bytes(&[9, 0])
                .expect_err("newer")
                .contains("version 9")
        );
    }
}
