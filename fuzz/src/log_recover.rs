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
    check(&read_files(&mut input), &options, true)
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
    // Damage that contradicts itself with the right checksums may be accepted, and then be other damage.
    let options = options_of(flags);
    let is_lasting = !options.accept_damage;
    check(&files, &options, is_lasting)
}

fn options_of(flags: u8) -> LogOptions {
    let mut options = options();
    options.accept_damage = flags & 1 == 1;
    options
}

fn check(files: &Files, options: &LogOptions, is_lasting: bool) -> Depth {
    let disk = disk_of(files);
    let copy = disk.fork();
    let first = content(&disk, options);
    let second = content(&copy, options);
    assert_eq!(first, second, "equal files, different logs");
    if !is_lasting {
        return depth(&first);
    }
    let mut again = content(&disk, options);
    if let (Ok(first), Ok(again)) = (&first, &mut again)
        && options.accept_damage
    {
        // A segment whose end was not known has one now, and rot in it is found by the read alone.
        again.forget_losses(first);
    }
    assert_eq!(
        first, again,
        "the first opening changed what the second finds"
    );
    let depth = depth(&first);
    match first {
        Ok(first) => first.check_writes(&disk, options),
        // A file that cannot be opened may be met after what is dead was deleted.
        Err(error) if error.starts_with("cannot ") => {}
        Err(_) => {
            let found = files_of(&disk);
            for (name, content) in files.iter().filter(|it| segment_id(it.0).is_some()) {
                assert_eq!(found.get(name), Some(content), "{name} was changed");
            }
        }
    }
    depth
}

fn depth<T, E>(opened: &Result<T, E>) -> Depth {
    if opened.is_ok() {
        Depth::Accepted
    } else {
        Depth::Refused
    }
}
