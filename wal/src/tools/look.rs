//! The files of a log, for who may only look.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{DirLock, Disk, DiskFile, LOCK_NAME};
use crate::error::{Damage, DamageKind, OpenError};
use crate::format::{HeaderBlock, SegmentHeader, VERSION_MAJOR, parse_segment_name};
use crate::ids::SegmentId;
use crate::index::Counted;
use crate::log::recover::{Read, check_log_files, is_of_log, read_candidate, read_chain};
use crate::log::reserve;
use crate::log::sort::{Candidate, FoundManifest, Sorted, is_right_alone, sort};
use crate::manifest::{Manifest, ManifestFiles, NAMES, Slot};
use crate::options::LogOptions;
use crate::slots::{self, newest};

/// A log that is in use changes while it is looked at. A look that met a segment that was just given
/// back is taken again, so often at most: each time it is an even chance at worst, on a machine that is
/// so busy that the log writes two manifests between any two steps of a look.
const LOOKS_MAX: usize = 64;

/// The names of the reserve, while it is made and then.
const RESERVES: [&str; 2] = [reserve::TEMPORARY, reserve::NAME];

/// A disk on which nothing can be changed. Bytes are copied by system calls and not shared with a map, so
/// that a file that shrinks or a device that cannot read is an error.
#[derive(Debug)]
pub(super) struct ReadOnly<'a>(pub(super) &'a dyn Disk);

#[derive(Debug)]
struct ReadOnlyFile(Arc<dyn DiskFile>);

/// What a directory holds.
pub(super) struct Looked {
    pub(super) in_use: bool,
    pub(super) identity: u64,
    /// What the two files of the manifest say.
    pub(super) slots: [Slot; 2],
    /// The one of them that is not whole, though it was written to.
    pub(super) damaged: Option<PathBuf>,
    /// Whether the log would open by the older one of them.
    pub(super) is_older_right: bool,
    pub(super) manifest: Option<Manifest>,
    /// What the files are, as an open that accepts damage sees it.
    pub(super) sorted: Sorted,
    /// What such an open reads.
    pub(super) read: Read,
    /// What an open without it would refuse, and what was lost.
    pub(super) damage: Vec<Damage>,
    /// Segments of another log.
    pub(super) foreign: Vec<Candidate>,
    /// Bytes of the files that wait to become segments, and have no id yet.
    pub(super) reserve_bytes: u64,
    /// Names that mean nothing to the log.
    pub(super) strays: Vec<String>,
    /// The newest file.
    pub(super) last_id: SegmentId,
}

impl Looked {
    /// Whether the log opens without accepting damage.
    pub(super) fn opens(&self) -> bool {
        !self.read.is_state_lost && self.foreign.is_empty()
    }

    /// Where the batches of a segment in service end, if that is known.
    pub(super) fn end_of(&self, id: SegmentId) -> Option<u64> {
        if self.read.tail.segment == id {
            return Some(self.read.tail.at.end);
        }
        let sealed = self.counted(id)?.sealed?;
        Some(sealed.end)
    }

    /// A segment in service, and what it holds.
    pub(super) fn counted(&self, id: SegmentId) -> Option<&Counted> {
        let segments = &self.read.index.segments;
        segments.get(segments.slot_of(id)?)
    }

    /// The error with which an open refuses a directory that holds a segment of another log.
    pub(super) fn refuse_foreign(&self) -> Result<(), OpenError> {
        match self.foreign.first() {
            Some(Candidate {
                segment,
                header: HeaderBlock::Valid(header),
            }) => Err(OpenError::Identity {
                path: segment.path.clone(),
                found: header.identity,
                expected: self.identity,
            }),
            _ => Ok(()),
        }
    }
}

/// Looks at the directory of a log. What is wrong with one that is in use counts if two looks in a row
/// see it: it may be what was just being written or given back.
pub(super) fn look(disk: &ReadOnly<'_>, dir: &Path) -> Result<Looked, OpenError> {
    let mut before: Option<Vec<Damage>> = None;
    for _ in 0..LOOKS_MAX {
        check_log_files(disk, dir)?;
        let in_use = disk
            .is_locked(dir)
            .map_err(|source| OpenError::io("look at the lock of", dir, source))?;
        match look_once(disk, dir, in_use) {
            Ok(looked) => {
                let seen_twice = before.as_ref() == Some(&looked.damage);
                if !in_use || looked.damage.is_empty() || seen_twice {
                    return Ok(looked);
                }
                before = Some(looked.damage);
            }
            Err(error) if in_use && may_pass(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(OpenError::Moving {
        path: dir.to_owned(),
        looks: LOOKS_MAX,
    })
}

/// Whether an error may come from a log that moved on while it was looked at.
fn may_pass(error: &OpenError) -> bool {
    match error {
        // A file that was made ready may end where it was filled to.
        OpenError::Io { source, .. } => matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
        ),
        OpenError::Damaged { .. } | OpenError::MissingSegment { .. } => true,
        _ => false,
    }
}

fn look_once(disk: &ReadOnly<'_>, dir: &Path, in_use: bool) -> Result<Looked, OpenError> {
    // The manifest comes first: what it needs is then there, unless it was given back since.
    let found_slots = ManifestFiles::look(disk, dir)?;
    let names = check_log_files(disk, dir)?;
    let manifest = newest(&found_slots);
    let damaged = slots::damaged(&found_slots).map(|slot| slot_path(dir, slot));
    let found = FoundManifest {
        newest: manifest.as_ref(),
        damaged: damaged.as_deref(),
    };
    let mut candidates = read_candidates(disk, dir, &names, in_use)?;
    let identity = manifest
        .as_ref()
        .map(|manifest| manifest.identity)
        .or_else(|| candidates.values().rev().find_map(identity_of))
        .unwrap_or_default();
    let foreign = take_foreign(&mut candidates, identity);
    let last_id = candidates.keys().next_back().copied().unwrap_or_default();
    let options = LogOptions {
        identity,
        accept_damage: true,
        ..LogOptions::default()
    };
    let refusal = refusal(dir, candidates.clone(), found)?;
    let older = slots::older(&found_slots, manifest.as_ref());
    let is_older_right = is_right_alone(dir, candidates.clone(), older)?;
    let mut sorted = sort(dir, candidates, found, true)?;
    let mut read = read_chain(dir, &mut sorted, &options)?;
    let mut damage = std::mem::take(&mut read.report.damage);
    for refused in refusal.into_iter().rev() {
        if !damage.iter().any(|it| it.file == refused.file) {
            // The manifest is whole: it is only that it speaks of a file that is not there.
            if refused.kind == DamageKind::MissingSegment && damaged.is_none() {
                damage.retain(|it| it.kind != DamageKind::Manifest);
            }
            damage.insert(0, refused);
        }
    }
    Ok(Looked {
        in_use,
        identity,
        damaged,
        is_older_right,
        slots: found_slots,
        manifest,
        sorted,
        read,
        damage,
        foreign,
        reserve_bytes: reserve_bytes(disk, dir)?,
        strays: strays(&names),
        last_id,
    })
}

/// What an open that does not accept damage is refused for before it reads a batch.
fn refusal(
    dir: &Path,
    candidates: BTreeMap<SegmentId, Candidate>,
    found: FoundManifest<'_>,
) -> Result<Vec<Damage>, OpenError> {
    match sort(dir, candidates, found, false) {
        Ok(_) => Ok(Vec::new()),
        Err(OpenError::MissingSegment { path, .. }) => Ok(vec![Damage {
            file: path,
            offset: 0,
            group: None,
            indexes: None,
            kind: DamageKind::MissingSegment,
        }]),
        Err(OpenError::Damaged { damage }) if found.damaged.is_some() => Ok(damage),
        Err(error) => Err(error),
    }
}

fn read_candidates(
    disk: &ReadOnly<'_>,
    dir: &Path,
    names: &[String],
    in_use: bool,
) -> Result<BTreeMap<SegmentId, Candidate>, OpenError> {
    let mut candidates = BTreeMap::new();
    for id in names.iter().filter_map(|name| parse_segment_name(name)) {
        let candidate = match read_candidate(disk, dir, id, false) {
            // It was given back. Whether it is still needed, the manifest says.
            Err(error) if in_use && may_pass(&error) => continue,
            candidate => candidate?,
        };
        if let HeaderBlock::Foreign(found) = candidate.header {
            return Err(OpenError::Version {
                path: candidate.segment.path.clone(),
                found,
                supported: VERSION_MAJOR,
            });
        }
        candidates.insert(id, candidate);
    }
    Ok(candidates)
}

fn take_foreign(candidates: &mut BTreeMap<SegmentId, Candidate>, identity: u64) -> Vec<Candidate> {
    let is_foreign = |it: &Candidate| identity_of(it).is_some_and(|found| found != identity);
    let all = std::mem::take(candidates);
    let (foreign, own) = all.into_iter().partition(|(_, it)| is_foreign(it));
    *candidates = own;
    BTreeMap::into_values(foreign).collect()
}

fn identity_of(candidate: &Candidate) -> Option<u64> {
    header_of(candidate).map(|header| header.identity)
}

pub(super) fn header_of(candidate: &Candidate) -> Option<&SegmentHeader> {
    match &candidate.header {
        HeaderBlock::Valid(header) => Some(header),
        _ => None,
    }
}

fn strays(names: &[String]) -> Vec<String> {
    let is_known = |name: &str| is_of_log(name) || name == LOCK_NAME || RESERVES.contains(&name);
    let strays = names.iter().filter(|name| !is_known(name));
    strays.cloned().collect()
}

fn reserve_bytes(disk: &ReadOnly<'_>, dir: &Path) -> Result<u64, OpenError> {
    let mut bytes = 0;
    for name in RESERVES {
        let path = dir.join(name);
        bytes += match disk.open(&path).and_then(|file| file.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            other => other.map_err(|source| OpenError::io("measure", &path, source))?,
        };
    }
    Ok(bytes)
}

pub(super) fn slot_path(dir: &Path, slot: usize) -> PathBuf {
    dir.join(NAMES[slot])
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnly<'_> {
    fn create(&self, _path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.open_read(path)?;
        Ok(Arc::new(ReadOnlyFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }

    fn lock(&self, _dir: &Path) -> io::Result<DirLock> {
        refused()
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        self.0.is_locked(dir)
    }
}

impl DiskFile for ReadOnlyFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.0.prefetch(offset, len);
    }

    fn release(&self, offset: u64, len: u64) {
        self.0.release(offset, len);
    }

    fn write_at(&self, _offset: u64, _slices: &[IoSlice<'_>]) -> io::Result<()> {
        refused()
    }

    fn zero_fill(&self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }
}
