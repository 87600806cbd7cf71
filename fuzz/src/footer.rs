//! Any bytes over the footer of a sealed segment.
//!
//! The input: flags (u8), which segment (u8), then the footer. In the flags, bit 0 makes the checksums right, bit 1 takes the
//! log with moved entries.

use std::sync::OnceLock;

use crate::Depth;
use crate::content::{Content, content, drive, open, options};
use crate::files::{BLOCK_BYTES, Files, disk_of, put_file, segment_id};
use crate::fixup::fix_footer;
use crate::input::Input;
use crate::sound::{moved, sealed};

/// A sound log, what it holds, and the segments with a footer: name and offset.
type Sound = (Files, Content, Vec<(String, usize)>);

/// Opens the log and reads everything. With a footer that is not whole everything is there; with one that is whole and says
/// something else, an entry is what it was or damaged, never another one.
pub fn footer(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let (files, sound, places) = log(flags & 2 == 2);
    let (name, end) = &places[usize::from(input.u8()) % places.len()];
    let mut segment = files[name].clone().expect("a segment is no directory");
    let room = segment.len() - end;
    let footer = input.bytes(room);
    segment[*end..end + footer.len()].copy_from_slice(footer);
    let is_fixed = flags & 1 == 1;
    let id = segment_id(name).expect("it is a segment");
    let whole = is_fixed.then(|| fix_footer(id, *end, &mut segment, None));
    let disk = disk_of(files);
    put_file(&disk, name, &segment);

    let found = content(&disk, &options()).expect("a footer is only a shortcut");
    if !is_fixed {
        assert_eq!(&found, sound);
    }
    sound.check_readable(&found);
    // What is done with a log that is open goes by the same footer.
    let (log, _) = open(&disk, &options()).expect("it was open before");
    drive(&log);
    drop(log);
    let again = content(&disk, &options()).expect("it was open before");
    found.check_readable(&again);
    match whole {
        Some(None) => Depth::Refused,
        _ => Depth::Accepted,
    }
}

/// The footers of a sound log, as inputs: how seeds are made.
pub(crate) fn inputs(flags: u8) -> Vec<Vec<u8>> {
    let (files, _, places) = log(flags & 2 == 2);
    let input = |(number, (name, end)): (usize, &(String, usize))| {
        let segment = files[name].as_ref().expect("a segment is no directory");
        let footer = &segment[*end..];
        let used = footer
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        [&[flags, number as u8][..], &footer[..used]].concat()
    };
    places.iter().enumerate().map(input).collect()
}

fn log(is_moved: bool) -> &'static Sound {
    static LOGS: [OnceLock<Sound>; 2] = [OnceLock::new(), OnceLock::new()];
    LOGS[usize::from(is_moved)].get_or_init(|| {
        let files = if is_moved { moved() } else { sealed() };
        let content = content(&disk_of(&files), &options()).expect("a sound log opens");
        let place = |(name, bytes): (&String, &Option<Vec<u8>>)| {
            segment_id(name)?;
            let mut blocks = bytes.as_ref()?.chunks(BLOCK_BYTES);
            let end = blocks.position(|block| block.starts_with(b"QIDX"))? * BLOCK_BYTES;
            Some((name.clone(), end))
        };
        let places: Vec<_> = files.iter().filter_map(place).collect();
        assert!(places.len() >= 2, "few footers: {places:?}");
        (files, content, places)
    })
}
