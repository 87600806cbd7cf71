//! The file `PEERS`: a node's book, written whole each time. Its layout is in `docs/format.md`.

use std::path::{Path, PathBuf};

use quorate_wal::{Disk, write_atomically};

use super::book::Book;
use crate::error::OpenError;

/// The file's name in the node's directory.
pub(crate) const FILE_NAME: &str = "PEERS";

const MAGIC: [u8; 8] = *b"QRTPEERS";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;

/// More than the book of the largest cluster needs; a larger file is damaged.
const BYTES_MAX: u64 = 256 << 10;

/// Writes the book; durable when it returns.
pub(super) fn write(disk: &dyn Disk, path: &Path, book: &Book) -> Result<(), OpenError> {
    write_atomically(disk, path, &encode(book)).map_err(|source| OpenError::Io {
        path: path.to_path_buf(),
        source,
    })
}

/// Reads the book. An error if there is none: a directory never lost it in order, and a node that forgot whom it met may
/// count the promises of two directories of one peer.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Book, OpenError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => OpenError::Damaged {
            path: path.to_path_buf(),
            what: "the book of peers is gone, and the identity beside it says that there was one"
                .to_owned(),
        },
        _ => OpenError::Io {
            path: path.to_path_buf(),
            source,
        },
    };
    let file = disk.open(path).map_err(io)?;
    let len = file.len().map_err(io)?.min(BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes).map_err(io)?;
    decode(path, &bytes)
}

fn encode(book: &Book) -> Vec<u8> {
    let body = postcard::to_allocvec(book).expect("numbers in vectors and maps always encode");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Book, OpenError> {
    let damaged = |what: &str| OpenError::Damaged {
        path: PathBuf::from(path),
        what: what.to_owned(),
    };
    let (header, body) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| damaged("the book of peers is too short"))?;
    if header[..8] != MAGIC {
        return Err(damaged("this is no book of peers"));
    }
    if header[10..12] != [0, 0] {
        return Err(damaged("reserved bytes of the book of peers are set"));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(OpenError::Version {
            path: PathBuf::from(path),
            found: version,
            supported: VERSION,
        });
    }
    let crc = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if crc != crc32fast::hash(body) {
        return Err(damaged("the checksum of the book of peers does not fit"));
    }
    match postcard::take_from_bytes(body) {
        Ok((book, [])) => Ok(book),
        Ok(_) => Err(damaged("the book of peers has bytes too many")),
        Err(error) => Err(damaged(&format!("the book of peers: {error}"))),
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use quorate_raft::NodeId;
    use quorate_wal::MemoryDisk;

    use super::*;
    use crate::membership::{NodeCard, Start};

    fn book() -> Book {
        let mut book = Book::new(1, 7, 4, 0xABCD, &[1, 2, 3]);
        book.begin(77, 500);
        book.begin(78, 500);
        assert!(book.retire(3));
        book.record(&NodeCard {
            incarnation: 99,
            start: Start { life: 3, nonce: 5 },
            durable_lsn: 1 << 40,
            syncs: true,
            ..NodeCard::bare(NodeId(2), 7, 4)
        });
        book
    }

    #[test]
    fn the_book_is_read_as_it_was_written() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/n/PEERS"));
        disk.create_dir_all(Path::new("/n")).expect("memory");
        assert!(matches!(read(&disk, path), Err(OpenError::Damaged { .. })));
        write(&disk, path, &book()).expect("memory");
        assert_eq!(read(&disk, path).expect("it was written"), book());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let (path, good) = (Path::new("/n/PEERS"), encode(&book()));
        assert_eq!(decode(path, &good).expect("good"), book());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(path, &bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(decode(path, &good[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = encode(&book());
        bytes[8] = 9;
        let error = decode(Path::new("/n/PEERS"), &bytes)
            .expect_err("newer")
            .to_string();
        assert!(
            error.contains("version 9") && error.contains("up to 1"),
            "{error}"
        );
    }
}
