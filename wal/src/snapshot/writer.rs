//! Writing a snapshot file.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::SnapshotRef;
use crate::disk::{Disk, DiskFile};
use crate::error::SnapshotError;

use super::format::{CHUNK_BYTES, Footer, Frame, Identity, footer_offset, frame_offset};
use super::reader::SnapshotReader;
use super::{TEMPORARY, failed, file_name};

/// Synced in steps of this size, so that the log never waits for all of a snapshot at once.
const SYNC_BYTES: u64 = 8 << 20;

/// A snapshot that is being written. Dropped before it is finished, it leaves nothing behind.
#[derive(Debug)]
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    chunk: Vec<u8>,
    chunks: u64,
    unsynced_bytes: u64,
    content: crc32fast::Hasher,
    published: bool,
}

impl SnapshotWriter {
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        identity: Identity,
    ) -> Result<Self, SnapshotError> {
        let temporary = dir.join(file_name(identity) + TEMPORARY);
        let file = disk
            .create(&temporary)
            .map_err(|error| failed("create", &temporary, error))?;
        let writer = Self {
            disk,
            dir,
            identity,
            temporary,
            file,
            chunk: Vec::new(),
            chunks: 0,
            unsynced_bytes: 0,
            content: crc32fast::Hasher::new(),
            published: false,
        };
        writer.write_at(0, &[&identity.encode_header()])?;
        Ok(writer)
    }

    /// Bytes of content written so far.
    pub fn bytes(&self) -> u64 {
        self.chunks * CHUNK_BYTES + self.chunk.len() as u64
    }

    /// Adds content. After an error the snapshot can only be dropped and begun anew.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        self.content.update(bytes);
        while !bytes.is_empty() {
            let room = CHUNK_BYTES as usize - self.chunk.len();
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(head);
            bytes = tail;
            if self.chunk.len() as u64 == CHUNK_BYTES {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Makes the snapshot durable, reads it back from the disk and verifies it, and gives it its
    /// name. What is returned has no context: that is the caller's to add before it is put in the
    /// log.
    pub fn finish(mut self) -> Result<SnapshotRef, SnapshotError> {
        let bytes = self.bytes();
        if !self.chunk.is_empty() {
            self.write_chunk()?;
        }
        let crc = self.content.clone().finalize();
        let footer = Footer {
            chunks: self.chunks,
            bytes,
            crc,
        };
        let end =
            footer_offset(bytes).expect("content that was written has a size that a file can have");
        self.write_at(end, &[&footer.encode(self.identity)])?;
        self.sync()?;
        // What is in the cache proves nothing about the disk.
        let dropped = self.file.drop_cache();
        dropped.map_err(|error| failed("drop the cache of", &self.temporary, error))?;
        let temporary = self.temporary.clone();
        SnapshotReader::open(self.disk.as_ref(), temporary, self.identity, bytes, crc)?.verify()?;
        let path = self.dir.join(file_name(self.identity));
        let renamed = self.disk.rename(&self.temporary, &path);
        renamed.map_err(|error| failed("rename", &self.temporary, error))?;
        self.published = true;
        self.disk
            .sync_dir(&self.dir)
            .map_err(|error| failed("sync", &self.dir, error))?;
        let Identity {
            index, term, id, ..
        } = self.identity;
        Ok(SnapshotRef {
            index,
            term,
            id,
            bytes,
            crc,
            context: bytes::Bytes::new(),
        })
    }

    fn write_chunk(&mut self) -> Result<(), SnapshotError> {
        let crc = crc32fast::hash(&self.chunk);
        let frame = Frame {
            number: self.chunks,
            len: self.chunk.len() as u32,
            crc,
        };
        let padding = vec![0; self.chunk.len().next_multiple_of(8) - self.chunk.len()];
        let offset = frame_offset(self.chunks);
        self.write_at(
            offset,
            &[&frame.encode(self.identity), &self.chunk, &padding],
        )?;
        self.chunks += 1;
        self.unsynced_bytes += CHUNK_BYTES;
        self.chunk.clear();
        if self.unsynced_bytes >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.unsynced_bytes = 0;
        self.file
            .sync_data()
            .map_err(|error| failed("sync", &self.temporary, error))
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> Result<(), SnapshotError> {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let written = self.file.write_at(offset, &slices);
        written.map_err(|error| failed("write", &self.temporary, error))
    }
}

/// For producers that know nothing of snapshots. The error carries the [`SnapshotError`].
impl io::Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.published {
            // If this fails, the next open deletes the file.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}
