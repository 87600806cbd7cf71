//! A file that is written to through a shared map. The log does not write so; this is here to
//! measure what it would be like.
//!
//! Invariants:
//! - The file is private to this process: it was just created, in a folder that nobody else knows.
//! - It is as long as the map for as long as the map lives.

#![allow(
    unsafe_code,
    reason = "there is no safe way to map a file for writing; see the invariants above"
)]

use std::fs::File;
use std::path::Path;

use memmap2::MmapMut;
use quorate_benches::Failure;

/// As large as a segment of the log.
const FILE_BYTES: usize = 64 << 20;

pub(crate) struct MapFile {
    map: MmapMut,
    _file: File,
}

impl MapFile {
    /// Creates the file with all its extents written, like those of a log.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::FileExt;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset as u64)?;
        }
        file.sync_all()?;
        // SAFETY: nobody else writes to the file or makes it shorter while the map lives: it was
        // created here, and neither its name nor its handle leaves this type.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(Self { map, _file: file })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.map.len()
    }

    /// Stores the blocks and syncs their pages.
    pub(crate) fn write(&mut self, offset: usize, blocks: &[u8]) -> Result<(), Failure> {
        let end = offset + blocks.len();
        let room = self.map.get_mut(offset..end);
        room.ok_or("the map is too short for the blocks")?
            .copy_from_slice(blocks);
        Ok(self.map.flush_range(offset, blocks.len())?)
    }
}

#[cfg(test)]
mod tests {
    use quorate_benches::Place;

    use super::*;

    #[test]
    fn what_is_stored_in_the_map_is_in_the_file() -> Result<(), Failure> {
        let dir = Place::from_environment()?.folder()?;
        let path = dir.path().join("map");
        let mut file = MapFile::create(&path)?;
        file.write(8192, &[7; 4096])?;
        assert!(file.write(FILE_BYTES - 1, &[7; 2]).is_err());
        drop(file);
        let bytes = std::fs::read(&path)?;
        assert_eq!(bytes.len(), FILE_BYTES);
        assert!(bytes[8192..12288].iter().all(|&byte| byte == 7));
        assert!(
            bytes[..8192]
                .iter()
                .chain(&bytes[12288..])
                .all(|&byte| byte == 0)
        );
        Ok(())
    }
}
