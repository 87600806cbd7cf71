//! Writing a snapshot file.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::SnapshotRef;
use crate::disk::{Disk, DiskFile};
use crate::error::SnapshotError;
use crate::mutants;

use super::format::{
    ALIGN_BYTES, CHUNK_BYTES, Footer, Frame, Identity, footer_offset, frame_offset,
};
use super::reader::SnapshotReader;
use super::{TEMPORARY, failed, failed_to_write, file_name};

/// A snapshot that is being written. Dropped before it is finished, it leaves nothing behind. It
/// holds one chunk of 256 KiB in memory, however large the snapshot is.
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    /// What the file is called now.
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    chunk: Vec<u8>,
    chunks: u64,
    step_chunks: u64,
    /// Bytes of the file that are durable, and those written.
    synced_bytes: u64,
    written_bytes: u64,
    content: crc32fast::Hasher,
    rest: Box<dyn FnMut(u64) + Send>,
    is_published: bool,
}

impl SnapshotWriter {
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        identity: Identity,
        step_chunks: u64,
    ) -> Result<Self, SnapshotError> {
        let path = dir.join(file_name(identity) + TEMPORARY);
        let file = disk
            .create(&path)
            .map_err(|error| failed_to_write("create", &path, error))?;
        let mut writer = Self {
            disk,
            dir,
            identity,
            path,
            file,
            chunk: Vec::new(),
            chunks: 0,
            step_chunks,
            synced_bytes: 0,
            written_bytes: 0,
            content: crc32fast::Hasher::new(),
            rest: Box::new(|_| ()),
            is_published: false,
        };
        writer.write_at(0, &[&identity.encode_header()])?;
        Ok(writer)
    }

    /// Has `rest` called behind each step, see [`Snapshots::with_step`](super::Snapshots::with_step),
    /// and behind each 1 MiB that is read back, with how many bytes that was. The caller's thread
    /// calls it, within [`write`](Self::write) and [`finish`](Self::finish): who wants to keep to a
    /// rate waits in it.
    pub fn rest_with(mut self, rest: impl FnMut(u64) + Send + 'static) -> Self {
        self.rest = Box::new(rest);
        self
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
    /// log. After an error there is no such snapshot, and the log must not name it.
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
        if !mutants::NAMES_UNSYNCED_SNAPSHOT {
            self.sync()?;
            // What is in the cache proves nothing about the disk.
            let dropped = self.file.drop_cache();
            dropped.map_err(|error| failed("drop the cache of", &self.path, error))?;
        }
        let (disk, path) = (self.disk.as_ref(), self.path.clone());
        SnapshotReader::open(disk, path, self.identity, bytes, crc)?.verify(&mut self.rest)?;
        self.publish()?;
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

    fn publish(&mut self) -> Result<(), SnapshotError> {
        let path = self.dir.join(file_name(self.identity));
        let renamed = self.disk.rename(&self.path, &path);
        renamed.map_err(|error| failed_to_write("rename", &self.path, error))?;
        self.path = path;
        self.disk
            .sync_dir(&self.dir)
            .map_err(|error| failed_to_write("sync", &self.dir, error))?;
        self.is_published = true;
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), SnapshotError> {
        let chunk = std::mem::take(&mut self.chunk);
        let frame = Frame {
            number: self.chunks,
            len: chunk.len() as u32,
            crc: crc32fast::hash(&chunk),
        };
        let padding_bytes = chunk.len().next_multiple_of(ALIGN_BYTES) - chunk.len();
        let padding = &[0; ALIGN_BYTES][..padding_bytes];
        let offset = frame_offset(self.chunks);
        self.write_at(offset, &[&frame.encode(self.identity), &chunk, padding])?;
        self.chunks += 1;
        self.chunk = chunk;
        self.chunk.clear();
        if self.chunks.is_multiple_of(self.step_chunks) {
            self.sync()?;
        }
        Ok(())
    }

    /// Ends a step.
    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.file
            .sync_data()
            .map_err(|error| failed_to_write("sync", &self.path, error))?;
        let step_bytes = self.written_bytes - self.synced_bytes;
        self.file.release(self.synced_bytes, step_bytes);
        self.synced_bytes = self.written_bytes;
        (self.rest)(step_bytes);
        Ok(())
    }

    /// Writes behind what was written before.
    fn write_at(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), SnapshotError> {
        debug_assert_eq!(offset, self.written_bytes);
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let written = self.file.write_at(offset, &slices);
        written.map_err(|error| failed_to_write("write", &self.path, error))?;
        self.written_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }
}

/// For producers that know nothing of snapshots. The error carries the [`SnapshotError`].
impl io::Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes).map_err(SnapshotError::into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.is_published {
            // If this fails, the file stays until the next open, and nothing names it.
            let _ = self.disk.remove(&self.path);
        }
    }
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotWriter")
            .field("path", &self.path)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
