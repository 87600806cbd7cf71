//! A file to write blocks to, like a segment of a log: its extents are written beforehand.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use quorate_wal::Durability;

/// As large as a segment of the log.
pub(crate) const FILE_BYTES: usize = 64 << 20;

/// Blocks are a multiple of this.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Syncs what was written, if the power may be lost.
pub(crate) struct ProbeSync(Option<Arc<File>>);

/// Written from front to back, again and again.
pub(crate) struct ProbeFile {
    file: Arc<File>,
    offset: usize,
    syncs: u64,
    durability: Durability,
}

impl ProbeSync {
    /// Whether there was anything to sync for.
    pub(crate) fn sync(self) -> io::Result<bool> {
        if let Some(file) = &self.0 {
            file.sync_data()?;
        }
        Ok(self.0.is_some())
    }
}

impl ProbeFile {
    pub(crate) fn create(path: &Path, durability: Durability) -> io::Result<Self> {
        let file = File::create_new(path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset as u64)?;
        }
        file.sync_all()?;
        Ok(Self {
            file: Arc::new(file),
            offset: 0,
            syncs: 0,
            durability,
        })
    }

    /// `pwrite`, and `fdatasync` if the power may be lost.
    pub(crate) fn append(&mut self, blocks: &[u8]) -> io::Result<()> {
        self.put(blocks)?;
        if self.durability != Durability::PowerLoss {
            return Ok(());
        }
        self.syncs += 1;
        self.file.sync_data()
    }

    /// `pwrite` alone. What is returned syncs what was written, and needs the file no more.
    pub(crate) fn write(&mut self, blocks: &[u8]) -> io::Result<ProbeSync> {
        self.put(blocks)?;
        let is_synced = self.durability == Durability::PowerLoss;
        Ok(ProbeSync(is_synced.then(|| Arc::clone(&self.file))))
    }

    fn put(&mut self, blocks: &[u8]) -> io::Result<()> {
        assert!(blocks.len() <= FILE_BYTES, "a batch fits the file");
        if self.offset + blocks.len() > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(blocks, self.offset as u64)?;
        self.offset += blocks.len();
        Ok(())
    }

    /// How often it was synced.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs
    }
}
