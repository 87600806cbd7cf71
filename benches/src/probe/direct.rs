//! The same blocks past the page cache (`O_DIRECT`). The log does not write so; this is here to measure what it would gain.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use quorate_wal::Durability;
use rustix::fs::OFlags;
use tempfile::TempDir;

use super::file::{BLOCK_BYTES, FILE_BYTES, ProbeFile};
use crate::Failure;
use crate::place::Place;
use crate::sample::{Budget, Sample, Writer, run_writers};

/// One writer: a copy to memory that a device may read from, `pwrite` past the page cache, and `fdatasync`.
pub struct DirectAppend {
    writer: DirectWriter,
    _dir: TempDir,
}

struct DirectWriter {
    file: File,
    blocks: Vec<u8>,
    /// Has room for the blocks on a border that the device wants.
    memory: Vec<u8>,
    offset: usize,
}

impl DirectAppend {
    /// Makes the file. None if the file system takes no such writes.
    pub fn open(place: &Place, batch_bytes: usize) -> Result<Option<Self>, Failure> {
        let dir = place.folder()?;
        let path = dir.path().join("probe");
        drop(ProbeFile::create(&path, Durability::PowerLoss)?);
        let flags = OFlags::DIRECT.bits().cast_signed();
        let opened = File::options().write(true).custom_flags(flags).open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            file => file?,
        };
        let bytes = batch_bytes.next_multiple_of(BLOCK_BYTES);
        let writer = DirectWriter {
            file,
            blocks: vec![0xA5; bytes],
            memory: vec![0; bytes + BLOCK_BYTES],
            offset: 0,
        };
        Ok(Some(Self { writer, _dir: dir }))
    }

    /// Writes until the budget is used up.
    pub fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        run_writers(budget, std::slice::from_mut(&mut self.writer))
    }
}

impl Writer for DirectWriter {
    fn write(&mut self) -> Result<(), Failure> {
        let bytes = self.blocks.len();
        if self.offset + bytes > FILE_BYTES {
            self.offset = 0;
        }
        let begin = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        let aligned = &mut self.memory[begin..begin + bytes];
        aligned.copy_from_slice(&self.blocks);
        self.file.write_all_at(aligned, self.offset as u64)?;
        self.offset += bytes;
        Ok(self.file.sync_data()?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_written_past_the_cache_is_in_the_file() -> Result<(), Failure> {
        let place = Place::from_environment()?;
        let Some(mut direct) = DirectAppend::open(&place, 5000)? else {
            return Ok(());
        };
        direct.run(Budget::Ops(3))?;
        let again = format!("/proc/self/fd/{}", direct.writer.file.as_raw_fd());
        let bytes = std::fs::read(again)?;
        assert_eq!(bytes.len(), FILE_BYTES);
        let written = bytes.iter().take_while(|&&byte| byte == 0xA5).count();
        assert_eq!(written, 3 * 8192);
        Ok(())
    }
}
