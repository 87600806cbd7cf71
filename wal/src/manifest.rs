//! Which sealed segments a log consists of: two small files that are written in turn, so that one
//! of them is always whole. See `docs/format.md`.
//!
//! Invariants:
//! - A write goes to the slot that does not hold the newest manifest, and is synced.
//! - A segment is deleted or used again only when both slots do without it. So the log opens by
//!   either of them: one that rots, also the newest, costs nothing.
//! - Every segment that a manifest names was durable, batches included, before it was named.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{Put, Take, crc_bound};
use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::{BLOCK_BYTES, VERSION_MAJOR, VERSION_MINOR};
use crate::ids::{Lsn, SegmentId};
use crate::locations::SEGMENT_SLOTS_MAX;
use crate::segment::Sealed;

/// The files of the two slots.
pub(crate) const NAMES: [&str; 2] = ["MANIFEST-a", "MANIFEST-b"];

const MAGIC: [u8; 8] = *b"QRTMAN\r\n";
const HEADER_BYTES: usize = 64;
const CRC_OFFSET: usize = HEADER_BYTES - 4;
const ITEM_BYTES: usize = 32;

/// A slot takes so much from the start, so that it need not grow on a full disk.
const SLOT_BYTES_MIN: u64 = 4 * BLOCK_BYTES;
const SLOT_BYTES_MAX: u64 = (HEADER_BYTES + SEGMENT_SLOTS_MAX * ITEM_BYTES) as u64 + BLOCK_BYTES;

/// What a slot says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Grows by one with each write.
    pub(crate) generation: u64,
    /// Which log it is, see [`crate::LogOptions::identity`].
    pub(crate) identity: u64,
    /// Of the segments up to this one, those that are not listed are dead.
    pub(crate) settled: SegmentId,
    /// The segment that was written to, and is in service for sure; zero if none is.
    pub(crate) active: SegmentId,
    /// The sealed segments, oldest first.
    pub(crate) sealed: Vec<(SegmentId, Sealed)>,
}

/// What the two slots of a directory hold.
#[derive(Debug)]
pub(crate) enum Found {
    /// There are no such files, or only such as never held anything.
    Nothing,
    Manifest(Manifest),
    /// Something was written, and neither slot is whole.
    Damaged,
}

/// The two slots, open for writing.
#[derive(Debug)]
pub(crate) struct ManifestFiles {
    files: [Arc<dyn DiskFile>; 2],
    paths: [PathBuf; 2],
}

impl ManifestFiles {
    /// Opens the slots of a directory, which are made if there are none, and reads them, from the
    /// disk and not from the cache.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> Result<(Self, [Slot; 2]), OpenError> {
        let paths = NAMES.map(|name| dir.join(name));
        let mut made = false;
        let mut files = Vec::with_capacity(NAMES.len());
        for path in &paths {
            let failed = |source| OpenError::io("open", path, source);
            let file = match disk.open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    made = true;
                    disk.create(path).map_err(failed)?
                }
                other => other.map_err(failed)?,
            };
            files.push(file);
        }
        let files: [_; 2] = files.try_into().expect("there are two slots");
        let slots = Self { files, paths };
        let found = slots.read()?;
        slots.make_room(SLOT_BYTES_MIN)?;
        if made {
            disk.sync_dir(dir)
                .map_err(|source| OpenError::io("sync", dir, source))?;
        }
        Ok((slots, found))
    }

    /// The file of a slot.
    pub(crate) fn path(&self, slot: usize) -> &Path {
        &self.paths[slot]
    }

    /// Reads the slots of a directory that somebody else may write to, and changes nothing.
    pub(crate) fn look(disk: &dyn Disk, dir: &Path) -> Result<[Slot; 2], OpenError> {
        let mut slots = [Slot::Blank, Slot::Blank];
        for (slot, name) in slots.iter_mut().zip(NAMES) {
            let path = dir.join(name);
            *slot = match disk.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Slot::Blank,
                Err(source) => return Err(OpenError::io("open", &path, source)),
                Ok(file) => read_slot(file.as_ref(), &path)?,
            };
        }
        Ok(slots)
    }

    /// The newest segment that the newest manifest on the disk settles; zero without a manifest. Makes no
    /// files.
    pub(crate) fn settled(disk: &dyn Disk, dir: &Path) -> Result<SegmentId, OpenError> {
        let mut slots = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            let path = dir.join(name);
            match disk.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(OpenError::io("open", &path, source)),
                Ok(file) => slots.push(read_durable(file.as_ref(), &path)?),
            }
        }
        Ok(match newer(slots) {
            Found::Manifest(manifest) => manifest.settled,
            Found::Nothing | Found::Damaged => SegmentId(0),
        })
    }

    /// Writes a manifest over the slot of its generation and makes it durable. The space that it
    /// takes is there already unless the log has more segments than ever before; where that is not to
    /// be had, the slot stays as it was.
    pub(crate) fn write(&self, manifest: &Manifest) -> io::Result<()> {
        let bytes = manifest.encode();
        let file = &self.files[slot_of(manifest.generation)];
        let len = file.len()?;
        if len < bytes.len() as u64 {
            let zeros = vec![0; bytes.len() - len as usize];
            file.write_at(len, &[IoSlice::new(&zeros)])?;
        }
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync_data()
    }

    pub(crate) fn read(&self) -> Result<[Slot; 2], OpenError> {
        let mut slots = [Slot::Blank, Slot::Blank];
        for (slot, (file, path)) in slots.iter_mut().zip(self.files.iter().zip(&self.paths)) {
            *slot = read_durable(file.as_ref(), path)?;
        }
        Ok(slots)
    }

    fn make_room(&self, bytes: u64) -> Result<(), OpenError> {
        for (file, path) in self.files.iter().zip(&self.paths) {
            let len = file
                .len()
                .map_err(|source| OpenError::io("measure", path, source))?;
            if len >= bytes {
                continue;
            }
            let zeros = vec![0; (bytes - len) as usize];
            let made = file.write_at(len, &[IoSlice::new(&zeros)]);
            made.and_then(|()| file.sync_data())
                .map_err(|source| OpenError::io("make room in", path, source))?;
        }
        Ok(())
    }
}

/// Reads a slot from the disk: what a process that died has written may be in the cache only.
fn read_durable(file: &dyn DiskFile, path: &Path) -> Result<Slot, OpenError> {
    let failed = |action, source| OpenError::io(action, path, source);
    file.sync_data().map_err(|source| failed("sync", source))?;
    file.drop_cache()
        .map_err(|source| failed("drop the cache of", source))?;
    read_slot(file, path)
}

/// What stands in one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Blank,
    Whole(Manifest),
    Torn,
}

/// The newer of what the slots hold. A slot that is torn was being written when the other was the
/// newest, or rotted since; which of the two it is, the headers of the segments tell.
pub(crate) fn newer(slots: impl IntoIterator<Item = Slot>) -> Found {
    let mut found = Found::Nothing;
    for slot in slots {
        found = match (slot, found) {
            (Slot::Whole(new), Found::Manifest(old)) if old.generation > new.generation => {
                Found::Manifest(old)
            }
            (Slot::Whole(new), _) => Found::Manifest(new),
            (Slot::Torn, Found::Nothing) => Found::Damaged,
            (_, found) => found,
        };
    }
    found
}

pub(crate) fn slot_of(generation: u64) -> usize {
    usize::from(generation.is_multiple_of(2))
}

fn read_slot(file: &dyn DiskFile, path: &Path) -> Result<Slot, OpenError> {
    let failed = |source| OpenError::io("read", path, source);
    let len = file.len().map_err(failed)?.min(SLOT_BYTES_MAX);
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).map_err(failed)?;
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(Slot::Blank);
    }
    match Manifest::decode(&bytes) {
        Some(Ok(manifest)) => Ok(Slot::Whole(manifest)),
        Some(Err(found)) => Err(OpenError::Version {
            path: path.to_owned(),
            found,
            supported: VERSION_MAJOR,
        }),
        None => Ok(Slot::Torn),
    }
}

impl Manifest {
    /// Whether a log that goes by this needs a segment: a segment behind what is settled, or one that is
    /// listed.
    pub(crate) fn needs(&self, id: SegmentId) -> bool {
        id > self.settled || self.sealed.binary_search_by_key(&id, |it| it.0).is_ok()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut items = Vec::with_capacity(self.sealed.len() * ITEM_BYTES);
        for (segment, sealed) in &self.sealed {
            items.put_u64(segment.0);
            items.put_u64(sealed.end);
            items.put_u64(sealed.lsn.0);
            items.put_u32(sealed.chain);
            items.put_u32(0); // Reserved.
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + items.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.put_u16(VERSION_MAJOR);
        bytes.put_u16(VERSION_MINOR);
        bytes.put_u32(self.sealed.len() as u32);
        bytes.put_u64(self.generation);
        bytes.put_u64(self.identity);
        bytes.put_u64(self.settled.0);
        bytes.put_u64(self.active.0);
        bytes.put_u32(crc_bound(&[self.generation], &items));
        bytes.resize(CRC_OFFSET, 0);
        let crc = crc_bound(&[], &bytes);
        bytes.put_u32(crc);
        bytes.append(&mut items);
        debug_assert_eq!(Self::decode(&bytes), Some(Ok(self.clone())));
        bytes
    }

    /// Reads a slot; none if it is not whole, an error with the major version if that is another.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Result<Self, u16>> {
        let (header, items) = bytes.split_at_checked(HEADER_BYTES)?;
        let (header, crc) = header.split_at(CRC_OFFSET);
        let mut take = Take::new(header);
        if take.bytes(8)? != MAGIC || Take::new(crc).u32()? != crc_bound(&[], header) {
            return None;
        }
        let major = take.u16()?;
        if major != VERSION_MAJOR {
            return Some(Err(major));
        }
        take.u16()?;
        let count = take.u32()? as usize;
        let generation = take.u64()?;
        let identity = take.u64()?;
        let settled = SegmentId(take.u64()?);
        let active = SegmentId(take.u64()?);
        let items_crc = take.u32()?;
        let items = items.get(..count.checked_mul(ITEM_BYTES)?)?;
        if crc_bound(&[generation], items) != items_crc {
            return None;
        }
        let sealed: Option<Vec<_>> = items.chunks_exact(ITEM_BYTES).map(decode_item).collect();
        let sealed = sealed?;
        // What is settled ends with a segment that is in service, so that none behind it is ever given up.
        let newest = sealed.last().map_or(SegmentId(0), |last| last.0);
        let sound = sealed.is_sorted_by(|a, b| a.0 < b.0)
            && newest <= settled
            && (active > settled || (active.0 == 0 && newest == settled));
        sound.then_some(Ok(Self {
            generation,
            identity,
            settled,
            active,
            sealed,
        }))
    }
}

fn decode_item(bytes: &[u8]) -> Option<(SegmentId, Sealed)> {
    let mut take = Take::new(bytes);
    let segment = SegmentId(take.u64()?);
    let end = take.u64()?;
    let lsn = Lsn(take.u64()?);
    let chain = take.u32()?;
    let sound = segment.0 > 0 && end.is_multiple_of(BLOCK_BYTES) && end > 0;
    sound.then_some((segment, Sealed { end, chain, lsn }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

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

    fn open(disk: &MemoryDisk) -> (ManifestFiles, Found) {
        let dir = Path::new("/log");
        disk.create_dir_all(dir).expect("in memory");
        let (files, slots) = ManifestFiles::open(disk, dir).expect("the slots open");
        (files, newer(slots))
    }

    #[test]
    fn each_flipped_bit_is_noticed() {
        let bytes = manifest(3, 2).encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&damaged), None, "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..end]), None, "{end} bytes");
        }
    }

    #[test]
    fn the_newer_whole_slot_counts_and_a_torn_one_is_passed_over() {
        let disk = MemoryDisk::new();
        let (slots, found) = open(&disk);
        assert!(matches!(found, Found::Nothing));
        for generation in 1..=4 {
            // The number of segments must not matter, also when it shrinks.
            let written = manifest(generation, 600 / generation);
            slots.write(&written).expect("in memory");
            let Found::Manifest(read) = open(&disk).1 else {
                panic!("generation {generation} is not there")
            };
            assert_eq!(read, written);
        }
        let newest = &slots.files[slot_of(4)];
        newest
            .write_at(70, &[IoSlice::new(&[0xff])])
            .expect("in memory");
        let Found::Manifest(read) = open(&disk).1 else {
            panic!("the older slot is whole")
        };
        assert_eq!(read.generation, 3);
        let older = &slots.files[slot_of(3)];
        older
            .write_at(20, &[IoSlice::new(&[0xff])])
            .expect("in memory");
        assert!(matches!(open(&disk).1, Found::Damaged));
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let disk = MemoryDisk::new();
        let (slots, _) = open(&disk);
        let mut bytes = manifest(1, 0).encode();
        bytes[8] = 9;
        let crc = crc_bound(&[], &bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        slots.files[0]
            .write_at(0, &[IoSlice::new(&bytes)])
            .expect("in memory");
        let error = ManifestFiles::open(&disk, Path::new("/log")).expect_err("a newer version");
        assert!(
            matches!(error, OpenError::Version { found: 9, .. }),
            "{error}"
        );
    }
}
