//! The one place with `unsafe`: a file as bytes in memory.
//!
//! Invariants that make a shared map sound as `Bytes`:
//! - The directory is locked against other processes, and the files in it are written by this crate
//!   alone.
//! - A mapped file never shrinks: segments and snapshots keep their size until they are removed,
//!   and a removed file keeps its blocks while a map of it lives.
//! - Bytes that were handed out are never written again: a log is only appended to, a snapshot is
//!   whole before it is read, and a segment is never used for something else while anyone holds
//!   bytes of it.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::MmapOptions;

/// Maps the whole file for reading. The bytes keep the map alive.
///
/// A read error of the device while mapped bytes are read ends the process (`SIGBUS`): recovery
/// therefore reads the tail of the log through system calls, which report it.
pub(crate) fn map_whole(file: &File) -> io::Result<Bytes> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: A map is sound as a shared slice while the mapped bytes do not change and stay in the
    // file. The length was just taken from the file, and the file does not shrink (see above).
    // Other parts of the file may change under the map while the log grows, but callers only reach
    // bytes that were written before, and those are never written again (see above).
    let map = unsafe { MmapOptions::new().len(len).map(file)? };
    Ok(Bytes::from_owner(map))
}
