//! Opening a log: what is on disk, what of it counts, and what is damaged.
//!
//! Invariants:
//! - Nothing on disk is changed before the whole log was read and accepted, and nothing in service
//!   is ever changed: the next segment names where the log ends, and what stands behind is dead.
//! - What was acknowledged is returned or reported as damage. What was not may be returned or cut.
//! - An error while reading is an error, never the end of the log.
//! - The disk is believed, not the cache: the tail is synced, and read again without the cache (a
//!   process may have died between a write and its sync, and a failed sync leaves pages in the
//!   cache that the disk does not have).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::disk::{DirLock, Disk, copying};
use crate::error::{Damage, DamageKind, OpenError};
use crate::format::{
    BLOCK_BYTES, HeaderBlock, SEGMENT_BYTES_LIMIT, SegmentHeader, VERSION_MAJOR,
    parse_segment_name, segment_name,
};
use crate::group::GroupLog;
use crate::ids::{GroupId, Lsn, SegmentId};
use crate::index::{Index, Stage};
use crate::locations::PiecePlace;
use crate::manifest::{self, Manifest, ManifestFiles};
use crate::mutants;
use crate::options::{Durability, LogOptions};
use crate::segment::Segment;
use crate::slots::{self, Manifests, Pair};

use super::commit::Line;
use super::drive::{Tail, Writer};
use super::prepare::{Pace, Preparer};
use super::queue::{Bounds, Queue};
use super::recent::Recent;
use super::replay::Replay;
use super::reserve;
use super::sort::{Candidate, FoundManifest, InService, Sorted, is_right_alone, sort};
use super::summary::sum_up;
use super::{Counters, Log, Recovered, RecoveredGroup, RecoveryReport};

/// Ids, lsns and generations beyond this one are none.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// What an opening does where there is no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfNone {
    /// Makes one.
    Make,
    /// Refuses, and makes no directory either.
    Refuse,
}

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    if_none: IfNone,
) -> Result<(Arc<Log>, Recovered), OpenError> {
    options.validate()?;
    let disk = copying(disk);
    if if_none == IfNone::Refuse {
        check_log_files(disk.as_ref(), dir)?;
    }
    let lock = lock_dir(disk.as_ref(), dir)?;
    let candidates = read_candidates(disk.as_ref(), dir, &options)?;
    let last_id = candidates.keys().next_back().copied().unwrap_or_default();
    let (files, found) = slots::open_manifest(disk.as_ref(), dir, &options)?;
    let mut manifest = slots::newest(&found);
    let damaged = slots::damaged(&found).map(|slot| files.path(slot).to_owned());
    let of_manifest = FoundManifest {
        newest: manifest.as_ref(),
        damaged: damaged.as_deref(),
    };
    let older = slots::older(&found, manifest.as_ref());
    let is_older_right = is_right_alone(dir, candidates.clone(), older)?;
    let mut sorted = sort(dir, candidates, of_manifest, options.accept_damage)?;
    let read = read_chain(dir, &mut sorted, &options)?;
    let next_id = next_id(last_id, &manifest.clone().unwrap_or_default());
    let generation = manifest.as_ref().map_or(0, |it| it.generation);
    let generation = generation.max(sorted.generation);
    check_numbers(dir, next_id, read.tail.at.lsn, sorted.epoch, generation)?;
    let is_fresh = manifest.is_none() && sorted.chain.is_empty();
    if is_fresh && if_none == IfNone::Refuse {
        return Err(no_log(dir, "holds no log that was ever written to"));
    }
    manifest.take_if(|_| !sorted.believes);
    let mut pair = Pair::new(&found, manifest);
    pair.trust_older(is_older_right);
    pair.go_on_from(sorted.generation);
    let mut manifests = Manifests::new(files, pair);
    let dead: Vec<_> = sorted.dead.iter().map(|it| it.segment.id).collect();
    let fresh = is_fresh.then_some(options.identity);
    let written = slots::write_at_open(&mut manifests, &dead, fresh);
    written.map_err(|source| OpenError::io("write the manifest of", dir, source))?;
    let recovered = Recovered {
        groups: read
            .index
            .groups
            .iter()
            .map(|(&group, log)| (group, recovered_group(group, log, &read.report.damage)))
            .collect(),
        report: read.report,
    };
    let pair = &manifests.pair;
    let settled = pair.newest().settled;
    let is_given_up = |it: &Candidate| it.segment.id > settled || !pair.need(it.segment.id);
    sorted.dead.retain(is_given_up);
    delete_dead(disk.as_ref(), dir, sorted.dead)?;
    let spare = keep_one(disk.as_ref(), dir, sorted.unused, next_id, &options)?;
    let next_id = SegmentId(next_id.0 + u64::from(spare.is_some()));
    let reserve = reserve::find(disk.as_ref(), dir, spare.as_ref())?;
    let generation = manifests.pair.newest().generation;
    let is_synced = options.durability == Durability::PowerLoss;
    let counters = Counters::default();
    let sealed_bytes: u64 = read.index.segments.iter().map(|it| it.segment.bytes).sum();
    counters
        .movable_bytes
        .store(sealed_bytes, Ordering::Relaxed);
    let log = Log {
        queue: Mutex::new(Queue::new(
            Lsn(read.tail.at.lsn.0 + 1),
            bounds(&recovered),
            read.index.checkpoint_bytes_max(),
        )),
        work: Condvar::new(),
        writer: Mutex::new(Writer::new(read.tail, sorted.epoch + 1)),
        index: RwLock::new(read.index),
        recent: RwLock::new(Recent::new(options.recent_bytes_max)),
        spare: Mutex::new(spare),
        preparer: Mutex::new(Preparer::new(next_id, &options, manifests, reserve)),
        pace: Pace::default(),
        waiting_bytes: AtomicU64::new(0),
        prepare_work: Condvar::new(),
        prepare_wanted: Mutex::new(true),
        durable: AtomicU64::new(read.tail.at.lsn.0),
        // What was read was synced first; without syncs only what a manifest names is vouched for.
        synced: AtomicU64::new(if is_synced { read.tail.at.lsn.0 } else { 0 }),
        manifest_generation: AtomicU64::new(generation),
        is_uncovered: AtomicBool::new(false),
        line: Line::default(),
        observers: RwLock::new(Vec::new()),
        counters,
        dir: dir.to_owned(),
        disk,
        options,
        lock: Mutex::new(Some(lock)),
    };
    log.prepare_first()?;
    Ok((Arc::new(log), recovered))
}

/// Refuses a directory without any file of a log.
pub(crate) fn check_log_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, OpenError> {
    let names = disk.list(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => no_log(dir, "does not exist"),
        io::ErrorKind::NotADirectory => no_log(dir, "is not a directory"),
        _ => OpenError::io("list", dir, source),
    })?;
    if names.is_empty() {
        return Err(no_log(dir, "is empty"));
    }
    if !names.iter().any(|name| is_of_log(name)) {
        return Err(no_log(dir, "holds no log"));
    }
    Ok(names)
}

/// Whether a name is one that only a log gives.
pub(crate) fn is_of_log(name: &str) -> bool {
    manifest::NAMES.contains(&name) || parse_segment_name(name).is_some()
}

fn no_log(dir: &Path, what: &'static str) -> OpenError {
    OpenError::NoLog {
        path: dir.to_owned(),
        what,
    }
}

/// A log that was read.
pub(crate) struct Read {
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    pub(crate) report: RecoveryReport,
    /// Whether states of groups may be older than what was acknowledged.
    pub(crate) is_state_lost: bool,
}

/// Reads the segments in service: the newest ones batch by batch from a checkpoint on, the older
/// ones by their index.
pub(crate) fn read_chain(
    dir: &Path,
    sorted: &mut Sorted,
    options: &LogOptions,
) -> Result<Read, OpenError> {
    let chain = &sorted.chain;
    let last = chain.len().saturating_sub(1);
    // Where a power cut may have taken the end of a segment, what follows it may not count.
    let unproven = chain.iter().position(|it| !it.is_proven);
    let mut begin = unproven.unwrap_or(last);
    let mut replay = Replay::new(begin_index(&chain[..begin]));
    let mut counted = begin + replay.run(&chain[begin..])?;
    // The states of all groups come from a checkpoint that counts: where the first batch was torn,
    // from one before.
    while begin > 0 && !replay.index.has_begun() {
        begin -= 1;
        replay = Replay::new(begin_index(&chain[..begin]));
        counted = begin + replay.run(&chain[begin..])?;
    }
    let mut report = RecoveryReport {
        segments: counted as u64,
        scanned_bytes: replay.scanned_bytes,
        torn_tail_bytes: replay.torn_tail_bytes,
        ..RecoveryReport::default()
    };
    let mut damage = std::mem::take(&mut sorted.damage);
    let is_state_lost = replay.is_state_lost || !damage.is_empty();
    damage.append(&mut replay.damage);
    let Replay {
        mut index, tail, ..
    } = replay;
    damage.retain(|it| it.kind != DamageKind::Payload || is_needed(&index, it));
    let sealed = &sorted.chain[..begin];
    let summaries = sum_up(sealed, options.recovery_threads)?;
    for (part, mut summary) in sealed.iter().zip(summaries).rev() {
        report.scanned_bytes += summary.scanned_bytes;
        report.indexed_segments += u64::from(summary.stage == Stage::Indexed);
        damage.append(&mut summary.damage);
        if let Some((slot, counted)) = index.segments.by_id(part.segment.id) {
            counted.stage = summary.stage;
            counted.sealed = Some(summary.sealed);
            summary.fill(&mut index, slot);
        }
    }
    add_missing(dir, &index, &mut damage);
    if is_state_lost && !options.accept_damage {
        return Err(OpenError::Damaged { damage });
    }
    report.damage = damage;
    let cut = sorted.chain.split_off(counted);
    sorted
        .dead
        .extend(cut.into_iter().map(InService::into_dead));
    Ok(Read {
        index,
        tail,
        report,
        is_state_lost,
    })
}

/// Whether it is this payload that the log of a group has: the entry may have been compacted, cut or
/// moved since.
fn is_needed(index: &Index, damage: &Damage) -> bool {
    let (Some(group), Some((first, _))) = (damage.group, damage.indexes) else {
        return true;
    };
    let Some(log) = index.groups.get(&group) else {
        return false;
    };
    if !(log.first_index()..=log.last_index()).contains(&first) {
        return false;
    }
    log.pieces(first..first + 1).any(|piece| match piece.place {
        PiecePlace::Hot(slot, spots) => {
            let counted = index.segments.get(slot);
            counted.is_some_and(|it| it.segment.path == damage.file)
                && spots.iter().any(|it| it.payload_offset() == damage.offset)
        }
        PiecePlace::Sealed(..) | PiecePlace::Nowhere => false,
    })
}

/// An index that knows these sealed segments, and not yet what is in them.
fn begin_index(sealed: &[InService]) -> Index {
    let mut index = Index::default();
    for part in sealed {
        let slot = index
            .segments
            .add(Arc::clone(&part.segment), Stage::Durable);
        slot.expect("a manifest names no more segments than there are slots");
        if let Some(sealed) = part.sealed {
            index.segments.seal(part.segment.id, sealed, Stage::Durable);
        }
    }
    index
}

/// Names the entries that are nowhere.
fn add_missing(dir: &Path, index: &Index, damage: &mut Vec<Damage>) {
    // They were in what is damaged, if that is known.
    let file = damage
        .first()
        .map_or(dir.to_owned(), |first| first.file.clone());
    for (&group, log) in &index.groups {
        for indexes in log.missing() {
            let lost = lost(
                file.clone(),
                Some((group, indexes)),
                DamageKind::MissingEntries,
            );
            damage.push(lost);
        }
    }
}

fn lost(
    file: std::path::PathBuf,
    entries: Option<(GroupId, (u64, u64))>,
    kind: DamageKind,
) -> Damage {
    Damage {
        file,
        offset: 0,
        group: entries.map(|it| it.0),
        indexes: entries.map(|it| it.1),
        kind,
    }
}

fn bounds(recovered: &Recovered) -> HashMap<GroupId, Bounds> {
    let bounds = |log: &RecoveredGroup| Bounds {
        first: log.first_index,
        last: log.last_index,
    };
    let groups = recovered.groups.iter();
    groups.map(|(&group, log)| (group, bounds(log))).collect()
}

/// Refuses numbers that leave no room for those of a process that runs for ever. No log counts so
/// far, but a file may say so.
fn check_numbers(
    dir: &Path,
    next_id: SegmentId,
    lsn: Lsn,
    epoch: u32,
    generation: u64,
) -> Result<(), OpenError> {
    let numbers = [
        ("the segment id", next_id.0, NUMBER_MAX),
        ("the lsn", lsn.0, NUMBER_MAX),
        ("the epoch", u64::from(epoch), u64::from(u32::MAX) - 1),
        ("the manifest generation", generation, NUMBER_MAX),
    ];
    for (what, found, max) in numbers {
        if found > max {
            let path = dir.to_owned();
            return Err(OpenError::Exhausted { path, what, found });
        }
    }
    Ok(())
}

impl Log {
    /// Makes the first segment ready, and the reserve. A full disk is no error here: the log can be
    /// read, and resumes by itself.
    fn prepare_first(&self) -> Result<(), OpenError> {
        let mut preparer = self.preparer.lock();
        let listed = if preparer.manifests.pair.has_any() {
            Ok(())
        } else {
            // What was accepted without a manifest must not need to be accepted again.
            self.write_manifest(&mut preparer)
        };
        listed
            .and_then(|()| self.ready_segment(&mut preparer))
            .and_then(|_| self.ready_reserve(&mut preparer))
            .map_err(|error| {
                let source = io::Error::other(error.to_string());
                OpenError::io("prepare a segment in", &self.dir, source)
            })?;
        self.waiting_bytes
            .store(preparer.waiting_bytes(), Ordering::Relaxed);
        Ok(())
    }
}

fn lock_dir(disk: &dyn Disk, dir: &Path) -> Result<DirLock, OpenError> {
    let failed = |action, source| OpenError::Io {
        action,
        path: dir.to_owned(),
        source,
    };
    disk.create_dir_all(dir)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                OpenError::NotADirectory {
                    path: dir.to_owned(),
                }
            }
            _ => failed("create", error),
        })?;
    disk.lock(dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked {
            path: dir.to_owned(),
        },
        _ => failed("lock", error),
    })
}

/// Opens every segment file and reads its first block. The files from the newest to the newest in
/// service are synced and read from the disk: the log may end in any of them. So are those before one
/// that was written without syncs, but for what a manifest vouches for: a sync of them that failed may
/// have left in the cache what the disk does not have.
fn read_candidates(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
) -> Result<BTreeMap<SegmentId, Candidate>, OpenError> {
    let names = disk.list(dir);
    let names = names.map_err(|source| OpenError::Io {
        action: "list",
        path: dir.to_owned(),
        source,
    })?;
    let mut ids: Vec<_> = names
        .iter()
        .filter_map(|name| parse_segment_name(name))
        .collect();
    ids.sort_unstable();
    let mut settled = None;
    let mut candidates = BTreeMap::new();
    let mut from_disk = true;
    for id in ids.into_iter().rev() {
        let candidate = read_candidate(disk, dir, id, from_disk)?;
        let path = &candidate.segment.path;
        match &candidate.header {
            HeaderBlock::Foreign(major) => {
                let (path, found) = (path.clone(), *major);
                return Err(OpenError::Version {
                    path,
                    found,
                    supported: VERSION_MAJOR,
                });
            }
            HeaderBlock::Valid(header) if header.identity != options.identity => {
                let (path, found) = (path.clone(), header.identity);
                return Err(OpenError::Identity {
                    path,
                    found,
                    expected: options.identity,
                });
            }
            HeaderBlock::Valid(header) if from_disk && header.unsynced => {
                let settled = match settled {
                    Some(settled) => settled,
                    None => *settled.insert(ManifestFiles::settled(disk, dir)?),
                };
                from_disk = header.prev > settled;
            }
            HeaderBlock::Valid(_) => from_disk = false,
            HeaderBlock::Blank | HeaderBlock::Invalid => {}
        }
        candidates.insert(id, candidate);
    }
    Ok(candidates)
}

pub(crate) fn read_candidate(
    disk: &dyn Disk,
    dir: &Path,
    id: SegmentId,
    from_disk: bool,
) -> Result<Candidate, OpenError> {
    let path = dir.join(segment_name(id));
    let failed = |action, source| OpenError::Io {
        action,
        path: path.clone(),
        source,
    };
    let file = disk.open(&path).map_err(|error| failed("open", error))?;
    if from_disk && !mutants::RECOVERS_FROM_CACHE {
        file.sync_data().map_err(|error| failed("sync", error))?;
        file.drop_cache()
            .map_err(|error| failed("drop the cache of", error))?;
    }
    let bytes = file.len().map_err(|error| failed("measure", error))?;
    // Offsets beyond the limit cannot be written down; no segment is longer.
    let bytes = bytes.min(SEGMENT_BYTES_LIMIT);
    let mut block = vec![0; bytes.min(BLOCK_BYTES) as usize];
    file.read_at(0, &mut block)
        .map_err(|error| failed("read", error))?;
    let header = SegmentHeader::decode(&block, id);
    Ok(Candidate {
        segment: Arc::new(Segment {
            id,
            path,
            file,
            bytes,
            recycled: false,
        }),
        header,
    })
}

/// Deletes the segments that the log does without, the newest first: each one before it leads to
/// it, so a crash in between leaves a log that is read the same way.
fn delete_dead(disk: &dyn Disk, dir: &Path, mut dead: Vec<Candidate>) -> Result<(), OpenError> {
    dead.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.segment.id));
    for Candidate { segment, header } in dead {
        remove_file(disk, &segment.path)?;
        if matches!(header, HeaderBlock::Valid(_)) {
            disk.sync_dir(dir)
                .map_err(|source| OpenError::io("sync", dir, source))?;
        }
    }
    Ok(())
}

/// The id of the next segment, which was never used before.
pub(crate) fn next_id(last_file: SegmentId, manifest: &Manifest) -> SegmentId {
    let last_id = last_file.max(manifest.settled).max(manifest.active);
    SegmentId(last_id.0.saturating_add(1))
}

/// Whether a file that is not in service can be the next segment. One that begins with anything is
/// not used again: under its new name that could pass for a segment in service.
pub(crate) fn can_be_next(candidate: &Candidate, options: &LogOptions) -> bool {
    let bytes = candidate.segment.bytes;
    matches!(candidate.header, HeaderBlock::Blank)
        && bytes >= options.segment_bytes_min
        && bytes.is_multiple_of(BLOCK_BYTES)
}

/// Keeps the newest of the files that are not in service as the next segment, and deletes the
/// others, so that opening again and again takes no space. It gets a name that was never used:
/// nothing in it passes for a batch any more.
fn keep_one(
    disk: &dyn Disk,
    dir: &Path,
    unused: Vec<Candidate>,
    next_id: SegmentId,
    options: &LogOptions,
) -> Result<Option<Segment>, OpenError> {
    let mut kept = None;
    for candidate in unused.into_iter().rev() {
        let fits = can_be_next(&candidate, options);
        let Candidate { segment, .. } = candidate;
        if kept.is_some() || !fits {
            remove_file(disk, &segment.path)?;
            continue;
        }
        let path = dir.join(segment_name(next_id));
        let failed = |action, source| OpenError::io(action, &segment.path, source);
        // The process that filled it may have died before it was done, and before it synced what it wrote.
        segment.file.give_back_rest(segment.bytes);
        segment
            .file
            .sync_data()
            .map_err(|error| failed("sync", error))?;
        disk.rename(&segment.path, &path)
            .map_err(|error| failed("rename", error))?;
        disk.sync_dir(dir)
            .map_err(|error| failed("sync the directory of", error))?;
        let file = Arc::clone(&segment.file);
        kept = Some(Segment {
            id: next_id,
            path,
            file,
            bytes: segment.bytes,
            // It may have been another segment before it was made ready.
            recycled: true,
        });
    }
    Ok(kept)
}

fn remove_file(disk: &dyn Disk, path: &Path) -> Result<(), OpenError> {
    match disk.remove(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpenError::Io {
            action: "delete",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn recovered_group(group: GroupId, log: &GroupLog, damage: &[Damage]) -> RecoveredGroup {
    let lost = damage.iter().filter(|it| it.group == Some(group));
    RecoveredGroup {
        state: log.state,
        first_index: log.first_index(),
        last_index: log.last_index(),
        previous_term: log.previous_term(),
        terms: log.terms(),
        snapshot: log.snapshot.clone(),
        lost: lost.filter_map(|it| it.indexes).collect(),
    }
}
