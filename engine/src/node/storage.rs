//! The one place that translates between what the log stores and what the protocol speaks of.

use quorate_raft::{
    Config, Entry, EntryKind, HardState, LogIndex, LogReadError, LogReader, NodeId, Persist,
    Restored, SnapshotMeta, Term,
};
use quorate_wal::{
    Damage, DamageKind, GroupId, GroupState, Log, ReadError, RecoveredGroup, SnapshotRef,
};
use serde::{Deserialize, Serialize};

use super::writes::Writes;
use crate::mutants;

/// One group's entries, out of the shared log.
pub(crate) struct GroupLog<'a> {
    log: &'a Log,
    group: GroupId,
    /// The entry that was asked for and has rotted on disk.
    pub(crate) rotten: Option<Rotten>,
}

/// An entry that has rotted on disk, and where.
pub(crate) struct Rotten {
    pub(crate) index: LogIndex,
    /// What is wrong in which file at which offset.
    pub(crate) place: String,
}

impl<'a> GroupLog<'a> {
    pub(crate) fn new(log: &'a Log, group: GroupId) -> Self {
        Self {
            log,
            group,
            rotten: None,
        }
    }
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
            .map_err(|error| {
                if let ReadError::Corrupt {
                    file,
                    offset,
                    index,
                    kind,
                    ..
                } = &error
                {
                    self.rotten = Some(Rotten {
                        index: LogIndex(*index),
                        place: format!("{kind} in {} at {offset}", file.display()),
                    });
                }
                LogReadError::new(error.to_string())
            })?;
        // The log counts payloads alone; windows also count what carrying an entry takes.
        let fits = fitting(stored.iter().map(|entry| entry.payload.len()), bytes_max);
        stored
            .into_iter()
            .take(fits.max(1))
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

/// How many entries with payloads of these lengths fit, from the first on.
fn fitting(lens: impl Iterator<Item = usize>, bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    let fits = lens.take_while(|len| {
        bytes += len + Entry::OVERHEAD_BYTES;
        bytes <= bytes_max
    });
    fits.count()
}

/// Adds what a core wants persisted to a batch, or to several if it is large. Any of them may be the last that becomes
/// durable, so none says that something is committed which only the next one holds.
pub(crate) fn add_persist(writes: &mut Writes, group: GroupId, persist: &mut Persist) {
    let state = persist.hard_state.take().map(to_state);
    let Some(first) = persist.entries.first() else {
        if let Some(state) = state {
            writes.record().set_state(group, state);
        }
        return;
    };
    let before = first.index.0 - 1;
    let entries: Vec<_> = persist.entries.drain(..).map(to_entry).collect();
    let is_whole = writes.has_room_for(&entries) || mutants::FIRST_BATCH_COMMITS_ALL;
    // The term reaches the disk no later than any entry of that term.
    if let Some(state) = state.filter(|_| is_whole || !mutants::CUT_WRITE_LOSES_TERM) {
        let commit = if is_whole {
            state.commit
        } else {
            state.commit.min(before)
        };
        writes
            .record()
            .set_state(group, GroupState { commit, ..state });
    }
    writes.append(group, entries);
    if let Some(state) = state.filter(|state| !is_whole && state.commit > before) {
        writes.record().set_state(group, state);
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
        first_index: LogIndex(first_sound(recovered, snapshot.index)),
        last_index: LogIndex(recovered.last_index),
        terms: term_runs(recovered, first_sound(recovered, snapshot.index)),
        snapshot,
    })
}

/// The last entry that was lost behind the snapshot, and what to say of it; none if the snapshot covers all that was lost.
/// `damage` is all that the log found.
pub(crate) fn lost_behind(
    recovered: &RecoveredGroup,
    group: GroupId,
    damage: &[Damage],
    snapshot: LogIndex,
) -> Option<(LogIndex, String)> {
    let lost = recovered.lost.iter().filter(|lost| lost.1 > snapshot.0);
    let (first, last) = lost.fold(None, |all: Option<(u64, u64)>, &(first, last)| {
        let (least, most) = all.unwrap_or((first, last));
        Some((least.min(first), most.max(last)))
    })?;
    let (first, last) = (LogIndex(first), LogIndex(last));
    Some((last, lost_reason(first, last, &places(damage, group))))
}

/// So many damaged places are named at most; `quorate verify` names all.
const PLACES_MAX: usize = 3;

/// The damaged places that cost a group entries: its own, and those of which nobody knows whose they are. Where entries
/// are missing altogether, the log has no place for them, but for what is damaged instead.
fn places(damage: &[Damage], group: GroupId) -> String {
    let concerns = |it: &&Damage| it.group.is_none_or(|its| its == group);
    let is_placed = |it: &&Damage| it.kind != DamageKind::MissingEntries;
    let all: Vec<_> = damage.iter().filter(concerns).collect();
    let placed: Vec<_> = all.iter().copied().filter(is_placed).collect();
    let named = if placed.is_empty() { &all } else { &placed };
    let texts = named.iter().take(PLACES_MAX);
    let texts: Vec<_> = texts
        .map(|it| format!("{} in {} at {}", it.kind, it.file.display(), it.offset))
        .collect();
    let more = match named.len().saturating_sub(PLACES_MAX) {
        0 => String::new(),
        more => format!(", and {more} more places"),
    };
    texts.join(", ") + &more
}

/// What to say of a replica whose entries were lost, and where they were.
pub(crate) fn lost_reason(first: LogIndex, last: LogIndex, place: &str) -> String {
    format!(
        "entries {} to {} rotted on disk ({place}): this replica is quarantined until a snapshot of its leader covers them",
        first.0, last.0
    )
}

/// Where the log begins for the protocol: what was lost in front of the snapshot is nothing that anybody needs from here.
fn first_sound(recovered: &RecoveredGroup, snapshot: LogIndex) -> u64 {
    let is_lost_before = recovered.lost.iter().any(|lost| lost.0 <= snapshot.0);
    if is_lost_before {
        recovered.first_index.max(snapshot.0 + 1)
    } else {
        recovered.first_index
    }
}

/// The runs of entries of one term, from the entry before `first_index` on.
fn term_runs(recovered: &RecoveredGroup, first_index: u64) -> Vec<(LogIndex, Term)> {
    let before = (recovered.first_index - 1, recovered.previous_term);
    let all = std::iter::once(before).chain(recovered.terms.iter().copied());
    let mut runs: Vec<_> = all.collect();
    // The run that the entry before `first_index` belongs to begins with that entry.
    let begun = runs.partition_point(|run| run.0 < first_index);
    runs.drain(..begun - 1);
    runs[0].0 = first_index - 1;
    let mut terms: Vec<(LogIndex, Term)> = Vec::with_capacity(runs.len());
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
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;

    use quorate_wal::{Disk, LogOptions, MemoryDisk, WriteBatch};

    use super::*;

    #[test]
    fn entries_from_the_log_fit_into_a_window_with_what_carrying_them_takes() {
        let disk = Arc::new(MemoryDisk::new());
        let (log, _) = Log::open(disk, Path::new("/wal"), LogOptions::default()).expect("a log");
        let entry = |index| quorate_wal::Entry {
            index,
            term: 1,
            kind: EntryKind::Command as u8,
            payload: vec![0; 68].into(),
        };
        let mut batch = WriteBatch::new();
        batch.append(GroupId(1), (1..=5).map(entry).collect());
        log.submit(batch).expect("it is taken");
        log.prepare().expect("memory");
        log.drive().expect("memory");
        let mut reader = GroupLog::new(&log, GroupId(1));
        let mut read = |bytes_max| {
            let entries = reader.entries(LogIndex(1), LogIndex(5), bytes_max);
            let entries = entries.expect("they are there");
            let weight: usize = entries.iter().map(Entry::weight_bytes).sum();
            (entries.len(), weight)
        };
        assert_eq!(read(299), (2, 200));
        assert_eq!(read(300), (3, 300));
        assert_eq!(read(usize::MAX), (5, 500));
        assert_eq!(read(1), (1, 100), "one entry goes whatever it weighs");
    }

    #[test]
    fn what_was_lost_in_front_of_the_snapshot_is_left_out() {
        let recovered = RecoveredGroup {
            first_index: 3,
            last_index: 20,
            previous_term: 1,
            terms: vec![(3, 1), (5, 2), (9, 4), (15, 6)],
            lost: vec![(4, 6)],
            ..RecoveredGroup::default()
        };
        let runs = |recovered: &RecoveredGroup, snapshot| {
            let first_index = first_sound(recovered, LogIndex(snapshot));
            let runs = term_runs(recovered, first_index);
            let runs: Vec<_> = runs.iter().map(|run| (run.0.0, run.1.0)).collect();
            (first_index, runs)
        };
        let whole = (3, vec![(2, 1), (5, 2), (9, 4), (15, 6)]);
        assert_eq!(runs(&recovered, 3), whole, "the snapshot is before it");
        assert_eq!(runs(&recovered, 8), (9, vec![(8, 2), (9, 4), (15, 6)]));
        assert_eq!(runs(&recovered, 10), (11, vec![(10, 4), (15, 6)]));
        assert_eq!(runs(&recovered, 20), (21, vec![(20, 6)]));
        let lost = |snapshot| lost_behind(&recovered, GroupId(1), &[], LogIndex(snapshot));
        assert_eq!(lost(6), None);
        let (last, reason) = lost(5).expect("6 is lost");
        assert_eq!(last, LogIndex(6));
        assert!(reason.contains("entries 4 to 6"), "{reason}");
    }

    #[test]
    fn what_was_lost_is_named_with_the_places_that_are_damaged() {
        let (disk, dir) = (Arc::new(MemoryDisk::new()), Path::new("/wal"));
        let open = || Log::open(Arc::clone(&disk) as _, dir, LogOptions::default());
        let (log, _) = open().expect("a log");
        for index in 1..=10 {
            let mut batch = WriteBatch::new();
            let entry = quorate_wal::Entry {
                index,
                term: 1,
                kind: EntryKind::Command as u8,
                payload: vec![7; 600].into(),
            };
            batch.append(GroupId(1), vec![entry]);
            log.submit(batch).expect("it is taken");
            log.prepare().expect("memory");
            log.drive().expect("memory");
        }
        drop(log);
        let mut names = disk.list(dir).expect("memory").into_iter();
        let name = names.find(|name| name.contains(".seg")).expect("a segment");
        let path = dir.join(name);
        let file = disk.open(&path).expect("it is there");
        let mut bytes = vec![0; 64 << 10];
        file.read_at(0, &mut bytes).expect("memory");
        let mut windows = bytes.windows(600);
        let offset = windows.position(|window| window.iter().all(|&byte| byte == 7));
        let offset = offset.expect("a payload") as u64;
        let rot = [IoSlice::new(&[0xff; 8])];
        file.write_at(offset + 100, &rot).expect("memory");
        drop(file);
        let (_log, found) = open().expect("entries are lost, and no state");
        let (group, damage) = (&found.groups[&GroupId(1)], &found.report.damage);
        let lost = lost_behind(group, GroupId(1), damage, LogIndex(0));
        let (last, reason) = lost.expect("an entry is lost");
        assert_eq!(last, LogIndex(1));
        let place = format!("(damaged payload in {} at {offset})", path.display());
        assert!(reason.contains(&place), "{reason}");
        // Others have nothing to do with it.
        assert_eq!(places(damage, GroupId(2)), "");
    }

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
