//! A stream inside a stream: the part of an image whose length is not known before it is written.
//!
//! Frames of `length u32 | bytes`, closed by a frame of length zero. The reader is a `Read` that
//! ends where the inner stream ends, so that what reads it can neither miss the end nor read past
//! it.

use std::io::{self, Read, Write};

use thiserror::Error;

/// The most bytes that one frame holds, and so what writer and reader buffer.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024;

/// A frame announces more than any frame holds. A type of its own, so that nothing that the source
/// says of itself is taken for it.
#[derive(Debug, Error)]
#[error("a frame of an image is longer than any")]
struct TooLong;

/// Whether reading failed for a frame, and not for its source.
pub(crate) fn is_too_long(error: &io::Error) -> bool {
    let reason = error.get_ref();
    reason.and_then(|it| it.downcast_ref::<TooLong>()).is_some()
}

/// Cuts what is written to it into frames.
pub(crate) struct FrameWriter<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl<'a> FrameWriter<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            buffer: Vec::with_capacity(FRAME_BYTES_MAX),
        }
    }

    /// Writes what is buffered and the closing frame.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.write_frame()?;
        self.out.write_all(&0_u32.to_le_bytes())
    }

    fn write_frame(&mut self) -> io::Result<()> {
        assert!(self.buffer.len() <= FRAME_BYTES_MAX);
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.out
            .write_all(&(self.buffer.len() as u32).to_le_bytes())?;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for FrameWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == FRAME_BYTES_MAX {
            self.write_frame()?;
        }
        let taken = bytes.len().min(FRAME_BYTES_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Keeps the bytes: frames end where they are full, so that the same content makes the same
    /// frames however often it is flushed.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the inner stream out of its frames.
pub(crate) struct FrameReader<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    position: usize,
    ended: bool,
}

impl<'a> FrameReader<'a> {
    pub(crate) fn new(source: &'a mut dyn Read) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            position: 0,
            ended: false,
        }
    }

    fn read_frame(&mut self) -> io::Result<()> {
        let mut len = [0; 4];
        self.source.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TooLong));
        }
        self.ended = len == 0;
        self.buffer.resize(len, 0);
        self.position = 0;
        self.source.read_exact(&mut self.buffer)
    }
}

impl Read for FrameReader<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.position == self.buffer.len() && !self.ended {
            self.read_frame()?;
        }
        let rest = &self.buffer[self.position..];
        let taken = rest.len().min(target.len());
        target[..taken].copy_from_slice(&rest[..taken]);
        self.position += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(content: &[u8], piece_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = FrameWriter::new(&mut out);
        for piece in content.chunks(piece_bytes) {
            writer.write_all(piece).unwrap();
            writer.flush().unwrap();
        }
        writer.finish().unwrap();
        out
    }

    #[test]
    fn gives_back_what_was_written_and_leaves_what_follows() {
        for len in [
            0,
            1,
            FRAME_BYTES_MAX - 1,
            FRAME_BYTES_MAX,
            FRAME_BYTES_MAX + 1,
            200_000,
        ] {
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut stream = framed(&content, 977);
            assert_eq!(
                stream,
                framed(&content, 100_000),
                "frames depend on the content alone"
            );
            stream.extend_from_slice(b"next");

            let mut source = &stream[..];
            let mut back = Vec::new();
            FrameReader::new(&mut source)
                .read_to_end(&mut back)
                .unwrap();
            assert_eq!(back, content);
            assert_eq!(source, b"next");
        }
    }

    #[test]
    fn refuses_a_frame_over_the_limit_and_a_stream_that_stops() {
        let stream = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes();
        let error = FrameReader::new(&mut &stream[..])
            .read(&mut [0])
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);

        let stream = framed(b"content", 7);
        for cut in 0..stream.len() {
            let mut source = &stream[..cut];
            let error = FrameReader::new(&mut source)
                .read_to_end(&mut Vec::new())
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }
}
