//! Any bytes as a snapshot file.
//!
//! The input: flags (u8), the size (u32) and CRC (u32) that the reference claims, then the file. In the flags, bit 0 makes the
//! checksums of the file right, bit 1 what the reference and the footer claim.

use std::io::{IoSlice, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_wal::{Disk, GroupId, MemoryDisk, SnapshotReader, SnapshotRef, Snapshots};

use crate::Depth;
use crate::fixup::{crc_bound, put_u32, u32_at};
use crate::input::Input;

const HEADER_BYTES: usize = 64;
const FRAME_BYTES: usize = 32;
const FOOTER_BYTES: usize = 48;

const DIR: &str = "/snapshots";
const GROUP: GroupId = GroupId(1);
const INDEX: u64 = 5;
const TERM: u64 = 2;
const ID: u64 = 7;

/// Reads the file. What is returned was checked; what verifies is the content that the reference names, whichever way it is
/// read, and a snapshot written from it says the same of it.
pub fn snapshot_read(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let mut claimed = SnapshotRef {
        index: INDEX,
        term: TERM,
        id: ID,
        bytes: input.u32().into(),
        crc: input.u32(),
        ..SnapshotRef::default()
    };
    let mut file = input.rest().to_vec();
    if flags & 1 == 1 {
        let crc = fix(&mut file, (flags & 2 == 2).then_some(claimed.bytes));
        claimed.crc = crc.unwrap_or(claimed.crc);
    }
    let snapshots = with_file(&file);
    let verified = snapshots.verify(GROUP, &claimed);
    let Ok(reader) = snapshots.open_reader(GROUP, &claimed) else {
        assert!(verified.is_err(), "a file that cannot be opened verifies");
        return Depth::Refused;
    };
    let content = read_to_end(reader);
    if let Err(error) = verified {
        // The chunks may be whole and still not be those of the reference.
        let is_named = content.is_ok_and(|content| crc32fast::hash(&content) == claimed.crc);
        assert!(
            !is_named,
            "the content is the one that is named, and refused: {error}"
        );
        return Depth::Refused;
    }
    let content = content.expect("what verifies can be read");
    assert_eq!(
        (content.len() as u64, crc32fast::hash(&content)),
        (claimed.bytes, claimed.crc)
    );
    check_parts(&snapshots, &claimed, &content);
    let (_, again) = write(&content);
    assert_eq!(again, claimed);
    Depth::Accepted
}

/// An input whose file is right: how seeds are made.
pub(crate) fn right_input(content: &[u8]) -> Vec<u8> {
    let (disk, named) = write(content);
    let path = only_file(&disk);
    let file = disk.open(&path).expect("it was just written");
    let len = file.len().expect("memory does not fail") as usize;
    let mut input = vec![0];
    input.extend((named.bytes as u32).to_le_bytes());
    input.extend(named.crc.to_le_bytes());
    input.extend(&file.read_bytes(0, len).expect("memory does not fail")[..]);
    input
}

/// Makes the checksums of a snapshot file right, and with the size of the content also the claims of its footer. Returns the
/// CRC of the content in that case.
fn fix(file: &mut [u8], claimed_bytes: Option<u64>) -> Option<u32> {
    let words = [GROUP.0, INDEX, TERM, ID];
    let (header, rest) = file.split_at_mut_checked(HEADER_BYTES)?;
    let crc = crc_bound(&[], &header[..HEADER_BYTES - 4]);
    put_u32(header, HEADER_BYTES - 4, crc);
    let (mut chunks, footer) = rest.split_at_mut_checked(rest.len().checked_sub(FOOTER_BYTES)?)?;
    let mut content = crc32fast::Hasher::new();
    while let Some((frame, behind)) = chunks.split_at_mut_checked(FRAME_BYTES) {
        let len = (u32_at(frame, 4) as usize).min(behind.len());
        content.update(&behind[..len]);
        put_u32(frame, 16, crc32fast::hash(&behind[..len]));
        let crc = crc_bound(&words, &frame[..FRAME_BYTES - 4]);
        put_u32(frame, FRAME_BYTES - 4, crc);
        let padded = len.next_multiple_of(8).min(behind.len());
        chunks = &mut behind[padded..];
    }
    let content = claimed_bytes.map(|bytes| {
        let crc = content.finalize();
        footer[16..24].copy_from_slice(&bytes.to_le_bytes());
        put_u32(footer, 24, crc);
        crc
    });
    let crc = crc_bound(&words, &footer[..FOOTER_BYTES - 4]);
    put_u32(footer, FOOTER_BYTES - 4, crc);
    content
}

/// The snapshots of a node whose only file has this content.
fn with_file(bytes: &[u8]) -> Snapshots {
    let (disk, _) = write(b"");
    let path = only_file(&disk);
    disk.remove(&path).expect("memory does not fail");
    let file = disk.create(&path).expect("memory does not fail");
    file.write_at(0, &[IoSlice::new(bytes)])
        .expect("memory does not fail");
    Snapshots::open(Arc::new(disk), Path::new(DIR)).expect("memory does not fail")
}

fn write(content: &[u8]) -> (MemoryDisk, SnapshotRef) {
    let disk = MemoryDisk::new();
    let snapshots =
        Snapshots::open(Arc::new(disk.clone()), Path::new(DIR)).expect("memory does not fail");
    let mut writer = snapshots
        .create(GROUP, INDEX, TERM, ID)
        .expect("memory does not fail");
    writer.write(content).expect("memory does not fail");
    (disk, writer.finish().expect("memory does not fail"))
}

fn only_file(disk: &MemoryDisk) -> PathBuf {
    let only = |dir: &Path| -> PathBuf {
        let names = disk.list(dir).expect("memory does not fail");
        assert_eq!(names.len(), 1);
        dir.join(&names[0])
    };
    only(&only(Path::new(DIR)))
}

fn read_to_end(mut reader: SnapshotReader) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    reader.read_to_end(&mut content)?;
    assert_eq!(content.len() as u64, reader.total_bytes());
    Ok(content)
}

/// Parts of the content are parts of the content, across the borders of chunks too.
fn check_parts(snapshots: &Snapshots, claimed: &SnapshotRef, content: &[u8]) {
    let mut reader = snapshots
        .open_reader(GROUP, claimed)
        .expect("it was open before");
    let len = content.len();
    for (start, end) in [(0, len), (len / 2, len), (len / 3, len / 3 * 2), (len, len)] {
        let part = reader
            .read_at(start as u64, end - start)
            .expect("what verifies can be read");
        assert_eq!(part, content[start..end]);
    }
    assert!(reader.read_at(len as u64, 1).is_err());
}
