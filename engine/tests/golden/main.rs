//! What earlier versions wrote, kept as files: directories of nodes in `v1/*.files`, frames in `v1/frames.hex` and
//! `v2/frames.hex`.
//!
//! A file of a version is never changed. Every build opens and decodes all of them. The handshake, the identity and the
//! book of peers are private to the crate, so their golden files (`handshake.hex`, `rejects.hex`, `identity.hex` and
//! `peers.hex`) are compared by tests inside it.
//!
//! What a version adds gets a file in that version's folder. `cargo test -p quorate --test golden -- --ignored` writes
//! the files that are missing and leaves those that exist as they are; `cargo test -p quorate --lib golden -- --ignored`
//! does the same inside the crate.

mod container;
mod directories;
mod document;
mod frames;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

fn path_of(version: u32, name: &str) -> PathBuf {
    let folder = format!("tests/golden/v{version}");
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(name)
}

/// Writes a golden file that does not exist yet. An existing one stays as it is.
fn write_new(version: u32, name: &str, make: impl FnOnce() -> Vec<u8>) {
    let path = path_of(version, name);
    if path.exists() {
        println!("{} exists and stays as it is", path.display());
        return;
    }
    let bytes = make();
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("writable");
    let mut file = fs::File::create_new(&path).expect("it did not exist");
    file.write_all(&bytes).expect("writable");
}
