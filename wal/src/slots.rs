//! Both slots of the manifest together: what they say, which is written next, and when.
//!
//! Invariant: the log opens by either slot. So nothing goes that one of them needs, a damaged one is written anew before
//! anything else is deleted, and the only one that is whole is never written over.

use std::io;
use std::path::Path;

use crate::disk::{Disk, is_shortage};
use crate::error::OpenError;
use crate::ids::SegmentId;
use crate::manifest::{Found, Manifest, ManifestFiles, Slot, newer, slot_of};
use crate::options::LogOptions;

/// The two slots, open for writing, and what they say.
#[derive(Debug)]
pub(crate) struct Manifests {
    files: ManifestFiles,
    pub(crate) pair: Pair,
}

/// What the two slots say.
#[derive(Debug)]
pub(crate) struct Pair {
    /// What the newest slot says; a default one if none says anything that counts.
    newest: Manifest,
    /// What the other slot says, if it is whole and of the generation before: an open that finds the
    /// newest one damaged goes by it.
    older: Option<Manifest>,
    next_generation: u64,
}

impl Pair {
    /// The slots as they were found, the newest one of which says this. A manifest that is not believed
    /// counts as none.
    pub(crate) fn new(slots: &[Slot; 2], newest: Option<Manifest>) -> Self {
        let older = older(slots, newest.as_ref()).cloned();
        Self {
            next_generation: newest
                .as_ref()
                .map_or(0, |it| it.generation.saturating_add(1)),
            newest: newest.unwrap_or_default(),
            older,
        }
    }

    /// Notes whether what the older slot needs is there. If not, it counts as damaged.
    pub(crate) fn trust_older(&mut self, is_right: bool) {
        self.older.take_if(|_| !is_right);
    }

    /// What the newest slot says.
    pub(crate) fn newest(&self) -> &Manifest {
        &self.newest
    }

    /// Whether there is a manifest that counts.
    pub(crate) fn has_any(&self) -> bool {
        self.newest.generation > 0 || self.older.is_some()
    }

    /// Whether the log opens by either slot.
    pub(crate) fn are_both_right(&self) -> bool {
        self.older.is_some()
    }

    /// Whether either slot needs a segment: its file must stay as it is.
    pub(crate) fn need(&self, id: SegmentId) -> bool {
        let older = self.older.as_ref();
        self.newest.needs(id) || older.is_none_or(|older| older.needs(id))
    }

    /// Whether the newest one should be written once more: the other slot is damaged, or needs one of
    /// these segments, which the newest one does without.
    pub(crate) fn is_due(&self, dead: impl IntoIterator<Item = SegmentId>) -> bool {
        let settled = self.newest.settled;
        let mut dead = dead.into_iter();
        self.has_any() && (!self.are_both_right() || dead.any(|id| id <= settled && self.need(id)))
    }

    /// Has the next manifest count before one of this generation, which was found to be gone.
    pub(crate) fn go_on_from(&mut self, generation: u64) {
        if generation < self.next_generation || generation == 0 {
            return;
        }
        let is_written = self.next_generation > 0;
        self.next_generation = generation.saturating_add(1);
        // The newest whole slot is not written over.
        if is_written && self.next_slot() == slot_of(self.newest.generation) {
            self.next_generation = self.next_generation.saturating_add(1);
        }
    }

    /// The slot that is written next.
    pub(crate) fn next_slot(&self) -> usize {
        slot_of(self.next_generation)
    }

    /// Notes that the next slot was written to.
    pub(crate) fn advance(&mut self, manifest: Manifest) {
        let is_next = self.newest.generation.checked_add(1) == Some(manifest.generation);
        self.next_generation = manifest.generation.saturating_add(1);
        let before = std::mem::replace(&mut self.newest, manifest);
        self.older = Some(before).filter(|_| is_next);
    }

    /// A manifest as the next one.
    pub(crate) fn next(&self, manifest: Manifest) -> Manifest {
        Manifest {
            generation: self.next_generation,
            ..manifest
        }
    }
}

impl Manifests {
    pub(crate) fn new(files: ManifestFiles, pair: Pair) -> Self {
        Self { files, pair }
    }

    /// Writes both slots of a log in which nothing is, before its first segment, so that later a
    /// directory without them is known to have lost them.
    pub(crate) fn write_first(&mut self, identity: u64) -> io::Result<()> {
        let manifest = Manifest {
            identity,
            ..Manifest::default()
        };
        self.write(manifest.clone())?;
        self.write(manifest)
    }

    /// Writes a manifest over the older slot and makes it durable; its generation is the next one.
    pub(crate) fn write(&mut self, manifest: Manifest) -> io::Result<()> {
        let manifest = self.pair.next(manifest);
        // If it fails, nobody knows what stands there.
        self.pair.older = None;
        self.files.write(&manifest)?;
        self.pair.advance(manifest);
        Ok(())
    }
}

/// Opens the manifest, and checks that it is that of this log.
pub(crate) fn open_manifest(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
) -> Result<(ManifestFiles, [Slot; 2]), OpenError> {
    let (files, slots) = ManifestFiles::open(disk, dir)?;
    match newest(&slots) {
        Some(manifest) if manifest.identity != options.identity => Err(OpenError::Identity {
            path: dir.to_owned(),
            found: manifest.identity,
            expected: options.identity,
        }),
        _ => Ok((files, slots)),
    }
}

/// What the newest whole slot says.
pub(crate) fn newest(slots: &[Slot; 2]) -> Option<Manifest> {
    match newer(slots.clone()) {
        Found::Manifest(manifest) => Some(manifest),
        Found::Nothing | Found::Damaged => None,
    }
}

/// What the other slot says, if it was written just before the newest.
pub(crate) fn older<'a>(slots: &'a [Slot; 2], newest: Option<&Manifest>) -> Option<&'a Manifest> {
    let newest = newest?;
    let before = newest.generation.checked_sub(1)?;
    slots.iter().find_map(|slot| match slot {
        Slot::Whole(it) if (it.generation, it.identity) == (before, newest.identity) => Some(it),
        _ => None,
    })
}

/// The slot that is not whole beside one that is, though it was written to.
pub(crate) fn damaged(slots: &[Slot; 2]) -> Option<usize> {
    match slots {
        [Slot::Torn, Slot::Whole(_)] => Some(0),
        [Slot::Whole(_), Slot::Torn] => Some(1),
        // The first manifest of all may stand alone.
        [Slot::Blank, Slot::Whole(it)] if it.generation > 1 => Some(0),
        [Slot::Whole(it), Slot::Blank] if it.generation > 1 => Some(1),
        _ => None,
    }
}

/// Writes the manifest of a fresh log, whose identity is given. In an old one a damaged slot is written anew, and so is one that
/// needs a segment which is deleted now.
pub(crate) fn write_at_open(
    manifests: &mut Manifests,
    dead: &[SegmentId],
    fresh: Option<u64>,
) -> io::Result<()> {
    if let Some(identity) = fresh {
        return manifests.write_first(identity);
    }
    // One that nobody believes is written anew when it is known what it should say.
    for _ in 0..2 {
        if !manifests.pair.is_due(dead.iter().copied()) {
            return Ok(());
        }
        match manifests.write(manifests.pair.newest().clone()) {
            Err(error) if is_shortage(&error) => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;
    use crate::ids::Lsn;
    use crate::segment::Sealed;

    fn manifest(generation: u64, sealed: u64) -> Manifest {
        let item = |id| {
            let sealed = Sealed {
                end: 8192,
                chain: id as u32,
                lsn: Lsn(10 * id),
            };
            (SegmentId(id), sealed)
        };
        Manifest {
            generation,
            identity: 7,
            settled: SegmentId(sealed),
            active: SegmentId(sealed + 1),
            sealed: (1..=sealed).map(item).collect(),
        }
    }

    fn open(disk: &MemoryDisk) -> ManifestFiles {
        let dir = Path::new("/log");
        disk.create_dir_all(dir).expect("in memory");
        ManifestFiles::open(disk, dir).expect("the slots open").0
    }

    #[test]
    fn a_segment_is_needed_until_both_slots_do_without_it() {
        let disk = MemoryDisk::new();
        let files = open(&disk);
        let pair = Pair::new(&[Slot::Blank, Slot::Blank], None);
        let mut manifests = Manifests::new(files, pair);
        manifests.write_first(7).expect("in memory");
        assert_eq!(manifests.pair.newest().generation, 1);
        assert!(manifests.pair.are_both_right());
        manifests.write(manifest(0, 2)).expect("in memory");
        let mut without = manifest(0, 2);
        without.sealed.remove(0);
        for is_needed in [true, false] {
            manifests.write(without.clone()).expect("in memory");
            assert_eq!(manifests.pair.need(SegmentId(1)), is_needed);
            assert!(manifests.pair.need(SegmentId(2)) && manifests.pair.need(SegmentId(3)));
        }
    }

    #[test]
    fn the_only_whole_slot_is_never_written_over() {
        for generation in [6, 7] {
            // What the damaged slot said may be known from a segment, or not.
            for known in [generation, generation + 1] {
                let disk = MemoryDisk::new();
                let files = open(&disk);
                let whole = manifest(generation, 2);
                files.write(&whole).expect("in memory");
                let slots = files.read().expect("in memory");
                let mut pair = Pair::new(&slots, Some(whole.clone()));
                pair.go_on_from(known);
                assert!(!pair.are_both_right() && pair.need(SegmentId(1)));
                let mut manifests = Manifests::new(files, pair);
                manifests.write(whole.clone()).expect("in memory");
                let slots = manifests.files.read().expect("in memory");
                assert_eq!(slots[slot_of(generation)], Slot::Whole(whole.clone()));
                assert!(manifests.pair.newest().generation > known);
                // At the latest after the next one each slot is the successor of the other.
                manifests.write(whole).expect("in memory");
                assert!(manifests.pair.are_both_right());
            }
        }
    }
}
