//! Reading a snapshot file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, DiskFile};
use crate::error::SnapshotError;
use crate::mutants;

use super::failed;
use super::format::{
    ALIGN_BYTES, CHUNK_BYTES, FOOTER_BYTES, FRAME_BYTES, Footer, Frame, HEADER_BYTES, Header,
    Identity, VERSION_MAJOR, footer_offset, frame_offset,
};

/// Who reads a snapshot from its beginning to its end has so many chunks asked for ahead, 1 MiB.
const AHEAD_CHUNKS: u64 = 4;

/// An open snapshot. Nothing that it returns was not checked. It can be read to its end even if the
/// file is deleted.
///
/// As [`io::Read`] it gives the content in order, has it read ahead, and gives the cache back behind
/// itself; a damaged chunk is an error of kind [`io::ErrorKind::InvalidData`]. It holds one chunk of
/// 256 KiB in memory, however large the snapshot is.
#[derive(Debug)]
pub struct SnapshotReader {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    identity: Identity,
    footer: Footer,
    position: u64,
    /// The chunk that was read last.
    last: Option<(u64, Bytes)>,
}

impl SnapshotReader {
    pub(super) fn open(
        disk: &dyn Disk,
        path: PathBuf,
        identity: Identity,
        bytes: u64,
        crc: u32,
    ) -> Result<Self, SnapshotError> {
        let file = disk.open_read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SnapshotError::Missing { path: path.clone() },
            _ => failed("open", &path, error),
        })?;
        let file_bytes = file
            .len()
            .map_err(|error| failed("measure", &path, error))?;
        let end = footer_offset(bytes).and_then(|offset| offset.checked_add(FOOTER_BYTES as u64));
        if end != Some(file_bytes) {
            return Err(corrupt(
                &path,
                file_bytes,
                "the size is not that of the snapshot",
            ));
        }
        match Identity::decode_header(&read(file.as_ref(), &path, 0, HEADER_BYTES)?) {
            Header::Valid(found) if found == identity => {}
            Header::Valid(_) => return Err(corrupt(&path, 0, "it is another snapshot")),
            Header::Foreign(found) => {
                return Err(SnapshotError::Version {
                    path,
                    found,
                    supported: VERSION_MAJOR,
                });
            }
            Header::Invalid => return Err(corrupt(&path, 0, "the header")),
        }
        let offset = file_bytes - FOOTER_BYTES as u64;
        let footer = read(file.as_ref(), &path, offset, FOOTER_BYTES)?;
        let expected = Footer {
            chunks: bytes.div_ceil(CHUNK_BYTES),
            bytes,
            crc,
        };
        if Footer::decode(&footer, identity) != Some(expected) {
            return Err(corrupt(&path, offset, "the footer"));
        }
        Ok(Self {
            path,
            file,
            identity,
            footer: expected,
            position: 0,
            last: None,
        })
    }

    /// Bytes of the content.
    pub fn total_bytes(&self) -> u64 {
        self.footer.bytes
    }

    /// `len` bytes of the content. Parts of the chunk of 256 KiB that was read last are not copied.
    pub fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes, SnapshotError> {
        let end = offset.saturating_add(len as u64);
        if end > self.footer.bytes {
            return Err(SnapshotError::OutOfRange {
                offset,
                end,
                bytes: self.footer.bytes,
            });
        }
        let mut joined = BytesMut::new();
        let mut at = offset;
        while at < end {
            let chunk = self.chunk(at / CHUNK_BYTES)?;
            let start = (at % CHUNK_BYTES) as usize;
            let part = chunk.slice(start..chunk.len().min(start + (end - at) as usize));
            if part.len() == len {
                return Ok(part);
            }
            at += part.len() as u64;
            joined.extend_from_slice(&part);
        }
        Ok(joined.freeze())
    }

    /// Reads everything and checks it against the CRC of the whole content too. `rest` is told how
    /// many bytes were read since it was told before.
    pub(crate) fn verify(mut self, mut rest: impl FnMut(u64)) -> Result<(), SnapshotError> {
        let mut content = crc32fast::Hasher::new();
        let mut read_bytes = 0;
        for number in 0..self.footer.chunks {
            if number.is_multiple_of(AHEAD_CHUNKS) {
                self.look_ahead(number);
                rest(std::mem::take(&mut read_bytes));
            }
            let chunk = self.chunk(number)?;
            read_bytes += chunk.len() as u64;
            content.update(&chunk);
        }
        self.look_ahead(self.footer.chunks);
        rest(read_bytes);
        if content.finalize() != self.footer.crc {
            return Err(corrupt(&self.path, 0, "the CRC of the content"));
        }
        Ok(())
    }

    /// For who reads chunk by chunk: asks for what comes behind `number`, and gives back what stands
    /// before it.
    fn look_ahead(&self, number: u64) {
        let wanted = if number == 0 {
            0
        } else {
            number + AHEAD_CHUNKS
        };
        let until = (number + 2 * AHEAD_CHUNKS).min(self.footer.chunks);
        if wanted < until {
            let start = frame_offset(wanted);
            self.file.prefetch(start, frame_offset(until) - start);
        }
        if number > 0 {
            self.file.release(0, frame_offset(number));
        }
    }

    fn chunk(&mut self, number: u64) -> Result<Bytes, SnapshotError> {
        if let Some((last, chunk)) = &self.last
            && *last == number
        {
            return Ok(chunk.clone());
        }
        assert!(number < self.footer.chunks);
        let offset = frame_offset(number);
        let len = (self.footer.bytes - number * CHUNK_BYTES).min(CHUNK_BYTES) as usize;
        let framed_len = FRAME_BYTES + len.next_multiple_of(ALIGN_BYTES);
        let mut framed = read(self.file.as_ref(), &self.path, offset, framed_len)?;
        let mut chunk = framed.split_off(FRAME_BYTES);
        let frame = Frame::decode(&framed, self.identity)
            .filter(|frame| frame.number == number && frame.len as usize == len)
            .ok_or_else(|| corrupt(&self.path, offset, "the frame of a chunk"))?;
        let offset = offset + FRAME_BYTES as u64;
        let padding = chunk.split_off(len);
        if crc32fast::hash(&chunk) != frame.crc && !mutants::BELIEVES_ROTTEN_SNAPSHOT {
            return Err(corrupt(&self.path, offset, "the content of a chunk"));
        }
        if padding.iter().any(|byte| *byte != 0) {
            let offset = offset + len as u64;
            return Err(corrupt(&self.path, offset, "the padding of a chunk"));
        }
        self.last = Some((number, chunk.clone()));
        Ok(chunk)
    }
}

impl io::Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.footer.bytes - self.position;
        // Ends at the end of a chunk at the latest, so that each window begins with a read.
        let in_chunk = CHUNK_BYTES - self.position % CHUNK_BYTES;
        let len = left.min(in_chunk).min(buffer.len() as u64) as usize;
        if len > 0 && self.position.is_multiple_of(AHEAD_CHUNKS * CHUNK_BYTES) {
            self.look_ahead(self.position / CHUNK_BYTES);
        }
        let bytes = self
            .read_at(self.position, len)
            .map_err(SnapshotError::into_io)?;
        buffer[..len].copy_from_slice(&bytes);
        self.position += len as u64;
        if len > 0 && self.position == self.footer.bytes {
            self.look_ahead(self.footer.chunks);
        }
        Ok(len)
    }
}

/// Reads through the system and not through a map, so that an error of the device, or a file that
/// somebody cut, is an error here and not the end of the process.
fn read(file: &dyn DiskFile, path: &Path, offset: u64, len: usize) -> Result<Bytes, SnapshotError> {
    let mut bytes = BytesMut::zeroed(len);
    match file.read_at(offset, &mut bytes) {
        Ok(()) => Ok(bytes.freeze()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(corrupt(path, offset, "the file ends"))
        }
        Err(error) => Err(failed("read", path, error)),
    }
}

fn corrupt(path: &Path, offset: u64, what: &'static str) -> SnapshotError {
    SnapshotError::Corrupt {
        path: path.to_owned(),
        offset,
        what,
    }
}
