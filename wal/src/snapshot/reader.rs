//! Reading a snapshot file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, DiskFile};
use crate::error::SnapshotError;

use super::failed;
use super::format::{
    CHUNK_BYTES, FOOTER_BYTES, FRAME_BYTES, Footer, Frame, HEADER_BYTES, Header, Identity,
    VERSION_MAJOR, footer_offset, frame_offset,
};

/// An open snapshot. Nothing that it returns was not checked. It can be read to its end even if the
/// file is deleted.
///
/// As [`io::Read`] it gives the content in order; a damaged chunk is an error of kind
/// [`io::ErrorKind::InvalidData`].
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
        let file = disk.open(&path).map_err(|error| match error.kind() {
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

    /// `len` bytes of the content. Within one chunk of 256 KiB they are not copied if the disk can
    /// do without.
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

    /// Reads everything and checks it against the CRC of the whole content too.
    pub(super) fn verify(mut self) -> Result<(), SnapshotError> {
        let mut content = crc32fast::Hasher::new();
        for number in 0..self.footer.chunks {
            content.update(&self.chunk(number)?);
        }
        if content.finalize() != self.footer.crc {
            return Err(corrupt(&self.path, 0, "the CRC of the content"));
        }
        Ok(())
    }

    fn chunk(&mut self, number: u64) -> Result<Bytes, SnapshotError> {
        if let Some((last, chunk)) = &self.last
            && *last == number
        {
            return Ok(chunk.clone());
        }
        assert!(number < self.footer.chunks);
        let offset = frame_offset(number);
        let frame = read(self.file.as_ref(), &self.path, offset, FRAME_BYTES)?;
        let len = (self.footer.bytes - number * CHUNK_BYTES).min(CHUNK_BYTES);
        let frame = Frame::decode(&frame, self.identity)
            .filter(|frame| frame.number == number && u64::from(frame.len) == len)
            .ok_or_else(|| corrupt(&self.path, offset, "the frame of a chunk"))?;
        let offset = offset + FRAME_BYTES as u64;
        let chunk = read(self.file.as_ref(), &self.path, offset, len as usize)?;
        if crc32fast::hash(&chunk) != frame.crc {
            return Err(corrupt(&self.path, offset, "the content of a chunk"));
        }
        self.last = Some((number, chunk.clone()));
        Ok(chunk)
    }
}

impl io::Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.footer.bytes - self.position;
        let in_chunk = CHUNK_BYTES - self.position % CHUNK_BYTES;
        let len = left.min(in_chunk).min(buffer.len() as u64) as usize;
        let bytes = self
            .read_at(self.position, len)
            .map_err(|error| match error {
                SnapshotError::Io { source, .. } => source,
                other => io::Error::new(io::ErrorKind::InvalidData, other),
            })?;
        buffer[..len].copy_from_slice(&bytes);
        self.position += len as u64;
        Ok(len)
    }
}

fn read(file: &dyn DiskFile, path: &Path, offset: u64, len: usize) -> Result<Bytes, SnapshotError> {
    file.read_bytes(offset, len)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(path, offset, "the file ends"),
            _ => failed("read", path, error),
        })
}

fn corrupt(path: &Path, offset: u64, what: &'static str) -> SnapshotError {
    SnapshotError::Corrupt {
        path: path.to_owned(),
        offset,
        what,
    }
}
