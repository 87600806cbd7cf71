//! Any bytes as the files of a log.
//!
//! The input: options (u8), then the files as `files.rs` reads them. In the options, bit 0 accepts damage; for
//! [`log_recover_fixed`], bit 1 leaves the chains as they are and bit 2 the lengths.

use quorate_wal::LogOptions;

use crate::Depth;
use crate::content::{content, options};
use crate::files::{Files, disk_of, files_of, read_files, segment_id};
use crate::fixup::{How, fix_files};
use crate::input::Input;

/// Opens whatever the input describes. Opening never panics; a copy of the files, and the same files again, give the same
/// result; a log that opens takes writes, and keeps them and what it held; one that does not open is as it was.
pub fn log_recover(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    let options = options_of(input.u8());
    check(&read_files(&mut input), &options)
}

/// The same, with the checksums made right before.
pub fn log_recover_fixed(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let mut files = read_files(&mut input);
    let how = How {
        chains: flags & 2 == 0,
        lengths: flags & 4 == 0,
    };
    fix_files(&mut files, how);
    check(&files, &options_of(flags))
}

fn options_of(flags: u8) -> LogOptions {
    let mut options = options();
    options.accept_damage = flags & 1 == 1;
    options
}

fn check(files: &Files, options: &LogOptions) -> Depth {
    let disk = disk_of(files);
    let copy = disk.deep_clone();
    let first = content(&disk, options);
    let second = content(&copy, options);
    assert_eq!(first, second, "equal files, different logs");
    let again = content(&disk, options);
    assert_eq!(
        first, again,
        "the first opening changed what the second finds"
    );
    match first {
        Ok(first) => {
            first.check_writes(&disk, options);
            Depth::Accepted
        }
        Err(_) => {
            let found = files_of(&disk);
            for (name, content) in files.iter().filter(|it| segment_id(it.0).is_some()) {
                assert_eq!(&found[name], content, "{name} was changed");
            }
            Depth::Refused
        }
    }
}
