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
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// A mapped file. Bytes of it keep the map alive.
#[derive(Debug)]
pub(crate) struct Mapped {
    bytes: Bytes,
    /// Counts the map, which has the other half while it lives.
    alive: Arc<()>,
}

/// The map, as bytes own it.
struct Owner {
    map: Mmap,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives the map up. What is returned tells whether somebody else still holds bytes of it.
    pub(crate) fn forget(self) -> Forgotten {
        let Self { bytes, alive } = self;
        drop(bytes);
        Forgotten { alive }
    }
}

/// A map that was given up, and is there as long as somebody holds bytes of it.
#[derive(Debug)]
pub(crate) struct Forgotten {
    alive: Arc<()>,
}

impl Forgotten {
    pub(crate) fn is_gone(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }
}

/// Maps the whole file for reading. The bytes keep the map alive.
///
/// A read error of the device while mapped bytes are read ends the process (`SIGBUS`): recovery
/// therefore reads the tail of the log through system calls, which report it.
pub(crate) fn map_whole(file: &File) -> io::Result<Mapped> {
    let alive = Arc::new(());
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        let bytes = Bytes::new();
        return Ok(Mapped { bytes, alive });
    }
    // SAFETY: A map is sound as a shared slice while the mapped bytes do not change and stay in the
    // file. The length was just taken from the file, and the file does not shrink (see above).
    // Other parts of the file may change under the map while the log grows, but callers only reach
    // bytes that were written before, and those are never written again while anybody holds bytes
    // of the map (see above, and `Forgotten`).
    let map = unsafe { MmapOptions::new().len(len).map(file)? };
    let owner = Owner {
        map,
        _alive: Arc::clone(&alive),
    };
    Ok(Mapped {
        bytes: Bytes::from_owner(owner),
        alive,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_forgotten_map_is_gone_when_no_bytes_of_it_are_held() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"quorate").expect("written");
        let mapped = map_whole(&file).expect("mapped");
        let held = mapped.bytes().slice(2..4);
        let forgotten = mapped.forget();
        assert!(!forgotten.is_gone());
        assert_eq!(held, &b"or"[..], "it stays mapped while it is held");
        assert!(!forgotten.is_gone(), "however often one asks");
        drop(held);
        assert!(forgotten.is_gone());
    }
}
