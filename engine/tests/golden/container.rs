//! A directory in one file, without the zeros that most of a log consists of.
//!
//! All numbers are little-endian. The file begins with the 8 bytes `QRTFILES`. Then for each file of the directory, in the
//! order of their names: the length of its path `u16`, the path in UTF-8 with `/` between its parts, the file's length `u64`,
//! the number of its extents `u32`, and for each extent its offset `u64`, its length `u32` and its bytes. What no extent
//! covers is zero.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"QRTFILES";

/// Zeros are left out in blocks of so many bytes.
const BLOCK_BYTES: usize = 256;

/// The container of everything below `dir`.
pub(crate) fn pack(dir: &Path) -> Vec<u8> {
    let mut files = BTreeMap::new();
    collect(dir, "", &mut files);
    let mut packed = MAGIC.to_vec();
    for (name, bytes) in files {
        packed.extend((name.len() as u16).to_le_bytes());
        packed.extend(name.as_bytes());
        packed.extend((bytes.len() as u64).to_le_bytes());
        let extents = extents(&bytes);
        packed.extend((extents.len() as u32).to_le_bytes());
        for (offset, extent) in extents {
            packed.extend((offset as u64).to_le_bytes());
            packed.extend((extent.len() as u32).to_le_bytes());
            packed.extend(extent);
        }
    }
    packed
}

/// Writes the files of a container into `dir`.
pub(crate) fn unpack(packed: &[u8], dir: &Path) {
    let mut rest = packed.strip_prefix(MAGIC).expect("a container");
    while !rest.is_empty() {
        let name_bytes = take(&mut rest, 2);
        let name = take(&mut rest, number(name_bytes));
        let path = dir.join(std::str::from_utf8(name).expect("UTF-8"));
        fs::create_dir_all(path.parent().expect("below `dir`")).expect("writable");
        let file = fs::File::create_new(&path).expect("each name once");
        let file_bytes = number(take(&mut rest, 8));
        file.set_len(file_bytes as u64).expect("writable");
        for _ in 0..number(take(&mut rest, 4)) {
            let offset = number(take(&mut rest, 8));
            let extent_bytes = number(take(&mut rest, 4));
            let extent = take(&mut rest, extent_bytes);
            file.write_all_at(extent, offset as u64).expect("writable");
        }
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("readable");
        let name = entry.file_name().into_string().expect("ASCII");
        let name = format!("{prefix}{name}");
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(entry.path()).expect("readable"));
        }
    }
}

/// The runs of blocks that are not all zero.
fn extents(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut extents: Vec<(usize, Vec<u8>)> = Vec::new();
    for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        let offset = at * BLOCK_BYTES;
        match extents.last_mut() {
            Some((start, extent)) if *start + extent.len() == offset => extent.extend(block),
            _ => extents.push((offset, block.to_vec())),
        }
    }
    extents
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len);
    *rest = left;
    taken
}

fn number(bytes: &[u8]) -> usize {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(wide) as usize
}

#[test]
fn a_directory_survives_its_container() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("a/b")).expect("writable");
    let mut sparse = vec![0; 3 * BLOCK_BYTES + 5];
    sparse[BLOCK_BYTES] = 7;
    fs::write(from.join("a/b/sparse"), &sparse).expect("writable");
    fs::write(from.join("a/zeros"), vec![0; 1000]).expect("writable");
    fs::write(from.join("empty"), b"").expect("writable");
    let packed = pack(&from);
    assert!(packed.len() < 2 * BLOCK_BYTES);
    unpack(&packed, &to);
    assert_eq!(pack(&to), packed);
    assert_eq!(fs::read(to.join("a/b/sparse")).expect("there"), sparse);
    assert_eq!(fs::read(to.join("a/zeros")).expect("there"), vec![0; 1000]);
}
