//! What a second batch under way would be worth: two writers write one after the other, and sync at once.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_wal::Durability;
use tempfile::TempDir;

use super::file::{BLOCK_BYTES, ProbeFile};
use crate::Failure;
use crate::place::Place;
use crate::sample::{Budget, Sample, Writer, run_writers};

/// Two writers of blocks. Each writes while the other syncs.
pub struct TwoUnderWay {
    writers: Vec<OneOfTwo>,
    _dir: TempDir,
}

struct OneOfTwo {
    /// Held while blocks are written, not while they are synced.
    file: Arc<Mutex<ProbeFile>>,
    blocks: Vec<u8>,
}

impl TwoUnderWay {
    /// Makes the file. Each writes so many bytes at a time.
    pub fn open(place: &Place, batch_bytes: usize) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let file = ProbeFile::create(&dir.path().join("probe"), Durability::PowerLoss)?;
        let file = Arc::new(Mutex::new(file));
        let writer = |_| OneOfTwo {
            file: Arc::clone(&file),
            blocks: vec![0xA5; batch_bytes.next_multiple_of(BLOCK_BYTES)],
        };
        Ok(Self {
            writers: (0..2).map(writer).collect(),
            _dir: dir,
        })
    }

    /// Writes until the budget is used up.
    pub fn run(&mut self, budget: Budget) -> Result<Sample, Failure> {
        run_writers(budget, &mut self.writers)
    }
}

impl Writer for OneOfTwo {
    fn write(&mut self) -> Result<(), Failure> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write(&self.blocks)?;
        drop(file);
        written.sync()?;
        Ok(())
    }
}
