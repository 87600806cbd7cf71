//! The one place with `unsafe`: a file as bytes in memory.
//!
//! What those who map and share bytes see to, in this crate (no other one can ask for shared bytes, see
//! `DiskFile::share`):
//! 1. *Bytes that are shared are not written again while anybody holds them.* A log is only appended to: only
//!    what was written before is shared. A snapshot is whole before it is read. A segment is used again
//!    only when [`Forgotten::is_gone`] says that nobody holds bytes of it.
//! 2. *What is mapped does not become shorter.* Segments and snapshots keep their size until they are
//!    removed (`DiskFile::give_back_rest` cuts off nothing that was filled or mapped), and a removed
//!    file keeps its blocks while a map of it lives.
//!
//! What the environment sees to: nobody but this crate writes to or cuts the files in a directory whose log
//! is open. The lock of the directory keeps away those who ask for it, and no others: see "Not promised" in
//! `docs/guarantees.md`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

/// A mapped file. Bytes of it keep the map alive.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// None of a file without bytes, which cannot be mapped.
    map: Option<Arc<Map>>,
    /// Counts the map, which has the other half while it lives.
    alive: Arc<()>,
}

/// The map. Fields are dropped in the order in which they stand here: the memory is unmapped before `_alive`
/// says so. The other way round, [`Forgotten::is_gone`] could be true while bytes can still be read.
#[derive(Debug)]
struct Map {
    raw: MmapRaw,
    _alive: Arc<()>,
}

/// A part of a map, as bytes own it.
struct Part {
    map: Arc<Map>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.map.slice(self.range.clone())
    }
}

impl Map {
    /// The bytes of a range; a reference to nothing else is made.
    fn slice(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.raw.len());
        // SAFETY: What `from_raw_parts` asks for, one by one.
        // - The pointer is not null, and aligned, as any is for bytes. It and the bytes behind it are of one
        //   allocation: the map has `raw.len()` bytes from `raw.as_ptr()` on, and the assertion keeps the
        //   range within. So `add` stays within it too, and the range is no longer than `isize::MAX`,
        //   since no map is.
        // - The bytes can be read while the slice lives: it borrows `self`, and so the map, which unmaps only
        //   when it is dropped. They are behind the file's end at no time (2. above), where a read
        //   would end the process. They are initialised: they are those of the file.
        // - Nobody writes to them while the slice lives: nobody does through the map, which cannot be written to
        //   and gives out no other references than these; and nobody does through the file (1. above, and
        //   the environment). What is written elsewhere in the file, beside the range, is beside this
        //   slice.
        unsafe { slice::from_raw_parts(self.raw.as_ptr().add(range.start), range.len()) }
    }
}

impl Mapped {
    /// Maps the whole file for reading.
    ///
    /// A read error of the device while mapped bytes are read ends the process (`SIGBUS`): recovery
    /// therefore reads the tail of the log through system calls, which report it.
    pub(crate) fn whole(file: &File) -> io::Result<Self> {
        let alive = Arc::new(());
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if len == 0 {
            return Ok(Self { map: None, alive });
        }
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let map = Arc::new(Map {
            raw,
            _alive: Arc::clone(&alive),
        });
        Ok(Self {
            map: Some(map),
            alive,
        })
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.raw.len())
    }

    /// The bytes of a range, if all of it is mapped. They share the map, and keep it alive.
    pub(crate) fn share(&self, range: Range<usize>) -> Option<Bytes> {
        match &self.map {
            _ if range.start > range.end || range.end > self.len() => None,
            Some(map) if !range.is_empty() => {
                let map = Arc::clone(map);
                Some(Bytes::from_owner(Part { map, range }))
            }
            _ => Some(Bytes::new()),
        }
    }

    /// Copies bytes from an offset on. False if not so many are mapped there.
    pub(crate) fn copy(&self, from: usize, buffer: &mut [u8]) -> bool {
        let end = from.checked_add(buffer.len());
        let Some(end) = end.filter(|&end| end <= self.len()) else {
            return false;
        };
        if let Some(map) = &self.map {
            buffer.copy_from_slice(map.slice(from..end));
        }
        true
    }

    /// Gives the map up. What is returned tells whether somebody else still holds bytes of it.
    pub(crate) fn forget(self) -> Forgotten {
        let Self { map, alive } = self;
        drop(map);
        Forgotten { alive }
    }
}

/// A map that was given up, and is there as long as somebody holds bytes of it.
#[derive(Debug)]
pub(crate) struct Forgotten {
    alive: Arc<()>,
}

impl Forgotten {
    /// Whether the map is gone, and with it all reads of its bytes: what is written to the file after this
    /// returned true is written after them.
    pub(crate) fn is_gone(&self) -> bool {
        // Nobody makes another half of it: what says one stays one.
        let is_gone = Arc::strong_count(&self.alive) == 1;
        // The count is read without any order. The other half was given back with a release, after the memory
        // was unmapped; whoever held bytes before had given back theirs with a release, which the last one
        // acquired. This makes all of it happen before what follows here.
        fence(Ordering::Acquire);
        is_gone
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn mapped(content: &[u8]) -> Mapped {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(content).expect("written");
        Mapped::whole(&file).expect("mapped")
    }

    #[test]
    fn a_forgotten_map_is_gone_when_no_bytes_of_it_are_held() {
        let mapped = mapped(b"quorate");
        let held = mapped.share(2..4).expect("it is mapped");
        let other = held.slice(1..);
        let forgotten = mapped.forget();
        assert!(!forgotten.is_gone());
        assert_eq!(held, &b"or"[..], "it stays mapped while it is held");
        drop(held);
        assert!(!forgotten.is_gone(), "a part of it is still held");
        assert_eq!(other, &b"r"[..]);
        drop(other);
        assert!(forgotten.is_gone());
    }

    #[test]
    fn what_is_not_mapped_is_not_there() {
        let mapped = mapped(b"quorate");
        assert_eq!(mapped.share(0..7).as_deref(), Some(&b"quorate"[..]));
        assert_eq!(mapped.share(7..7).as_deref(), Some(&b""[..]));
        for range in [0..8, 7..8, 8..8, usize::MAX..usize::MAX] {
            assert_eq!(mapped.share(range), None);
        }
        let mut some = [0; 3];
        assert!(mapped.copy(4, &mut some) && &some == b"ate");
        for from in [5, 7, usize::MAX] {
            assert!(!mapped.copy(from, &mut some), "{from}");
        }
    }

    #[test]
    fn a_file_without_bytes_is_mapped_as_none() {
        let mapped = mapped(b"");
        assert_eq!(mapped.share(0..0), Some(Bytes::new()));
        assert_eq!(mapped.share(0..1), None);
        assert!(mapped.forget().is_gone());
    }
}
