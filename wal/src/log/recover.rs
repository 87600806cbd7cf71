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
use std::sync::atomic::AtomicU64;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::disk::{DirLock, Disk};
use crate::error::OpenError;
use crate::format::{
    BLOCK_BYTES, HeaderBlock, SEGMENT_BYTES_LIMIT, SegmentHeader, VERSION_MAJOR,
    parse_segment_name, segment_name,
};
use crate::group::GroupLog;
use crate::ids::{Lsn, SegmentId};
use crate::index::Index;
use crate::options::LogOptions;
use crate::segment::Segment;

use super::drive::Writer;
use super::prepare::Preparer;
use super::queue::{Bounds, Queue};
use super::replay::{Candidate, Replay};
use super::{Counters, Log, Recovered, RecoveredGroup};

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
) -> Result<(Arc<Log>, Recovered), OpenError> {
    options.validate()?;
    let lock = lock_dir(disk.as_ref(), dir)?;
    let candidates = read_candidates(disk.as_ref(), dir, &options)?;
    let last_id = candidates.keys().next_back().copied().unwrap_or_default();
    let mut replay = Replay::new(&options);
    let sorted = replay.sort(candidates)?;
    replay.run(&sorted.chain)?;
    let (mut index, end) = replay.finish(dir, &sorted)?;
    let groups = index
        .groups
        .iter()
        .map(|(&group, log)| (group, recovered_group(log)))
        .collect();
    remove_dead(disk.as_ref(), &mut index)?;
    let next_id = SegmentId(last_id.0 + 1);
    let spare = keep_one(disk.as_ref(), dir, sorted.others, next_id, &options)?;
    let next_id = SegmentId(next_id.0 + u64::from(spare.is_some()));
    let bounds = |log: &RecoveredGroup| Bounds {
        first: log.first_index,
        last: log.last_index,
    };
    let recovered = Recovered {
        groups,
        report: end.report,
    };
    let bounds_of: HashMap<_, _> = recovered
        .groups
        .iter()
        .map(|(&group, log)| (group, bounds(log)))
        .collect();
    let log = Log {
        queue: Mutex::new(Queue::new(
            Lsn(end.lsn.0 + 1),
            bounds_of,
            index.checkpoint_bytes_max(),
        )),
        work: Condvar::new(),
        writer: Mutex::new(Writer::new(end.tail, end.epoch + 1)),
        index: RwLock::new(index),
        spare: Mutex::new(spare),
        preparer: Mutex::new(Preparer::new(next_id, &options)),
        prepare_work: Condvar::new(),
        prepare_wanted: Mutex::new(true),
        durable: AtomicU64::new(end.lsn.0),
        observers: RwLock::new(Vec::new()),
        counters: Counters::default(),
        dir: dir.to_owned(),
        disk,
        options,
        lock: Mutex::new(Some(lock)),
    };
    log.prepare_first()?;
    Ok((Arc::new(log), recovered))
}

impl Log {
    /// Makes the first segment ready. A full disk is no error here: the log can be read, and
    /// resumes by itself.
    fn prepare_first(&self) -> Result<(), OpenError> {
        let prepared = self.prepare_segment(&mut self.preparer.lock());
        prepared.map(drop).map_err(|error| OpenError::Io {
            action: "prepare a segment in",
            path: self.dir.clone(),
            source: io::Error::other(error.to_string()),
        })
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
/// service are synced and read from the disk: the log may end in any of them.
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
    let mut candidates = BTreeMap::new();
    let mut in_tail = true;
    for id in ids.into_iter().rev() {
        let candidate = read_candidate(disk, dir, id, in_tail)?;
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
            HeaderBlock::Valid(_) => in_tail = false,
            HeaderBlock::Blank | HeaderBlock::Invalid => {}
        }
        candidates.insert(id, candidate);
    }
    Ok(candidates)
}

fn read_candidate(
    disk: &dyn Disk,
    dir: &Path,
    id: SegmentId,
    in_tail: bool,
) -> Result<Candidate, OpenError> {
    let path = dir.join(segment_name(id));
    let failed = |action, source| OpenError::Io {
        action,
        path: path.clone(),
        source,
    };
    let file = disk.open(&path).map_err(|error| failed("open", error))?;
    if in_tail {
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
        }),
        header,
    })
}

/// Deletes the segments that a durable record gave up: a crash came before they were, or before
/// that was durable.
fn remove_dead(disk: &dyn Disk, index: &mut Index) -> Result<(), OpenError> {
    let dead: Vec<_> = index
        .segments
        .iter()
        // A segment is only given up without entries; in a damaged log that may look otherwise.
        .take_while(|counted| counted.segment.id < index.oldest && counted.live == 0)
        .map(|counted| Arc::clone(&counted.segment))
        .collect();
    for segment in dead {
        remove_file(disk, &segment.path)?;
        index.segments.remove(segment.id);
    }
    Ok(())
}

/// Keeps the newest of the files that are not in service as the next segment, and deletes the
/// others, so that opening again and again takes no space. It gets a name that was never used:
/// nothing in it passes for a batch any more.
fn keep_one(
    disk: &dyn Disk,
    dir: &Path,
    others: Vec<Candidate>,
    next_id: SegmentId,
    options: &LogOptions,
) -> Result<Option<Segment>, OpenError> {
    let mut kept = None;
    for Candidate { segment, header } in others.into_iter().rev() {
        // A file that begins with anything is not used again: under its new name that could pass for a segment in service.
        let is_blank = matches!(header, HeaderBlock::Blank);
        let fits = is_blank
            && segment.bytes >= options.segment_bytes_min
            && segment.bytes.is_multiple_of(BLOCK_BYTES);
        if kept.is_some() || !fits {
            remove_file(disk, &segment.path)?;
            continue;
        }
        let path = dir.join(segment_name(next_id));
        let failed = |action, source| OpenError::Io {
            action,
            path: segment.path.clone(),
            source,
        };
        // Its zeros may have been written by a process that died before it synced them.
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

fn recovered_group(log: &GroupLog) -> RecoveredGroup {
    RecoveredGroup {
        state: log.state,
        first_index: log.first_index(),
        last_index: log.last_index(),
        previous_term: log.previous_term(),
        terms: log.terms(),
        snapshot: log.snapshot.clone(),
    }
}
