//! Frames gathered for one vectored write.
//!
//! Invariants:
//! - `staged` holds headers, numbers and small payloads; large payloads stand beside it as shared
//!   `Bytes`, and `pieces` gives the order. Staged bytes after `open_from` belong to no piece yet.
//! - A batch holds whole frames only: a frame that cannot be encoded leaves no trace.

use std::io::{self, IoSlice, Write};
use std::ops::Range;

use bytes::Bytes;

use super::encode::{EncodeError, Sink, kind_of, write_body};
use super::{HEADER_BYTES, HEADER_CHECKED_BYTES, kind};
use crate::transport::Frame;

/// Payloads up to this length are copied: below it an entry in the vector costs more than the copy.
const INLINE_BYTES_MAX: usize = 1024;

/// What a cleared batch keeps of its staging buffer, so that one burst is not paid for for ever.
const STAGED_KEPT_BYTES: usize = 256 * 1024;

/// Encoded frames, and how to write them at once.
pub(crate) struct Batch {
    staged: Vec<u8>,
    open_from: usize,
    pieces: Vec<Piece>,
    bytes: usize,
    frames: usize,
}

enum Piece {
    Staged(Range<usize>),
    Shared(Bytes),
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            staged: Vec::new(),
            open_from: 0,
            pieces: Vec::new(),
            bytes: 0,
            frames: 0,
        }
    }

    /// Appends a frame.
    pub(crate) fn push(&mut self, frame: &Frame) -> Result<(), EncodeError> {
        let mark = self.begin(kind_of(frame));
        match write_body(frame, self) {
            Ok(()) => {
                self.finish(&mark);
                Ok(())
            }
            Err(error) => {
                self.pieces.truncate(mark.first_piece);
                self.staged.truncate(mark.header_at);
                self.open_from = mark.header_at;
                self.bytes = mark.bytes;
                Err(error)
            }
        }
    }

    /// Appends the frame that says "still here" and nothing else.
    pub(crate) fn push_keep_alive(&mut self) {
        let mark = self.begin(kind::KEEP_ALIVE);
        self.finish(&mark);
    }

    /// How long it is on the wire.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Writes everything, in as few calls as the writer takes.
    pub(crate) fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.slices().map(IoSlice::new).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match writer.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes);
        self.slices()
            .for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }

    /// Empties it and lets go of the payloads.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
        self.staged.shrink_to(STAGED_KEPT_BYTES);
        self.pieces.clear();
        self.open_from = 0;
        self.bytes = 0;
        self.frames = 0;
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| self.slice(piece))
    }

    fn slice<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Staged(range) => &self.staged[range.clone()],
            Piece::Shared(bytes) => bytes,
        }
    }

    /// Leaves room for the header, which is known when the body is.
    fn begin(&mut self, kind: u8) -> Mark {
        assert_eq!(
            self.open_from,
            self.staged.len(),
            "the frame before is finished"
        );
        let mark = Mark {
            header_at: self.staged.len(),
            first_piece: self.pieces.len(),
            bytes: self.bytes,
        };
        self.put(&[0; HEADER_BYTES]);
        self.staged[mark.header_at + 4] = kind;
        mark
    }

    fn finish(&mut self, mark: &Mark) {
        self.close_piece();
        let length = u32::try_from(self.bytes - mark.bytes - HEADER_BYTES)
            .expect("the queue refuses a body over its limit, which is a u32");
        let header = &mut self.staged[mark.header_at..mark.header_at + HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());

        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..HEADER_CHECKED_BYTES]);
        for (at, piece) in self.pieces[mark.first_piece..].iter().enumerate() {
            let slice = self.slice(piece);
            crc.update(if at == 0 {
                &slice[HEADER_BYTES..]
            } else {
                slice
            });
        }
        let crc = crc.finalize().to_le_bytes();
        self.staged[mark.header_at + HEADER_CHECKED_BYTES..mark.header_at + HEADER_BYTES]
            .copy_from_slice(&crc);
        self.frames += 1;
    }

    fn close_piece(&mut self) {
        if self.open_from < self.staged.len() {
            self.pieces
                .push(Piece::Staged(self.open_from..self.staged.len()));
            self.open_from = self.staged.len();
        }
    }
}

/// Where a frame begins in a batch.
struct Mark {
    header_at: usize,
    first_piece: usize,
    bytes: usize,
}

impl Sink for Batch {
    fn put(&mut self, bytes: &[u8]) {
        self.staged.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    fn shared(&mut self, bytes: &Bytes) {
        if bytes.len() <= INLINE_BYTES_MAX {
            self.put(bytes);
            return;
        }
        self.close_piece();
        self.bytes += bytes.len();
        self.pieces.push(Piece::Shared(bytes.clone()));
    }
}

#[cfg(test)]
mod tests {
    use quorate_wal::GroupId;

    use super::*;
    use crate::transport::{Request, RequestBody, RequestId};

    fn propose(command: &Bytes) -> Frame {
        Frame::Request(Request {
            id: RequestId(1),
            group: GroupId(0),
            body: RequestBody::Propose {
                command: command.clone(),
            },
        })
    }

    #[test]
    fn a_large_payload_is_shared_and_a_small_one_copied() {
        let large = Bytes::from(vec![7; INLINE_BYTES_MAX + 1]);
        let small = Bytes::from(vec![8; INLINE_BYTES_MAX]);
        let mut batch = Batch::new();
        batch.push(&propose(&large)).unwrap();
        batch.push(&propose(&small)).unwrap();
        let shared: Vec<&Bytes> = batch
            .pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Shared(bytes) => Some(bytes),
                Piece::Staged(_) => None,
            })
            .collect();
        assert_eq!(shared.len(), 1);
        assert_eq!(shared[0].as_ptr(), large.as_ptr());
    }

    /// Takes a few bytes at a time, as a socket with a full buffer does.
    struct Trickle(Vec<u8>);

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(5);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_takes_little_gets_the_same_bytes() {
        let mut batch = Batch::new();
        batch.push(&propose(&Bytes::from(vec![3; 5000]))).unwrap();
        batch.push_keep_alive();
        let mut trickle = Trickle(Vec::new());
        batch.write_to(&mut trickle).unwrap();
        assert_eq!(trickle.0, batch.to_vec());
        assert_eq!(trickle.0.len(), batch.wire_bytes());
        assert_eq!(batch.frames(), 2);
    }
}
