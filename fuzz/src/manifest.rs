//! Any bytes as the two slots of the manifest, beside a sound log.
//!
//! The input: flags (u8), then for each slot its length (u16) and bytes. In the flags, bit 0 makes the checksums right, bit 1
//! the chains as well, bit 2 takes the log with moved entries, bit 3 accepts damage.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::Depth;
use crate::content::{Content, content, options};
use crate::files::{Files, MANIFESTS, disk_of, put_file, segment_id};
use crate::fixup::{Chains, How, fix_manifest, fix_segment};
use crate::input::Input;
use crate::sound::{moved, sealed};

/// A sound log, the chains of its segments, and what it holds.
type Sound = (Files, BTreeMap<u64, Chains>, Content);

/// Opens the log. It holds what it held, or says what of it is lost, or is refused; no entry ever comes back as another one.
/// With the right manifest in place again, everything is there that was not said to be lost.
pub fn manifest(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let (files, chains, sound) = log(flags & 4 == 4);
    let disk = disk_of(files);
    for name in MANIFESTS {
        let len = usize::from(input.u16());
        let mut slot = input.bytes(len).to_vec();
        if flags & 1 == 1 {
            let how = How {
                chains: flags & 2 == 2,
                lengths: true,
            };
            fix_manifest(&mut slot, chains, how);
        }
        put_file(&disk, name, &slot);
    }
    let mut with = options();
    with.accept_damage = flags & 8 == 8;
    let found = content(&disk, &with);
    for name in MANIFESTS {
        let slot = files[name].as_ref().expect("a manifest is no directory");
        put_file(&disk, name, slot);
    }
    let restored = content(&disk, &options());
    match (found, restored) {
        (Err(_), restored) => {
            assert_eq!(restored.as_ref(), Ok(sound), "a refused log was changed");
            Depth::Refused
        }
        (Ok(found), restored) => {
            sound.check_part(&found, &found);
            // A segment that is gone held nothing, or what was said to be lost.
            if let Ok(restored) = restored {
                sound.check_part(&restored, &found);
            }
            Depth::Accepted
        }
    }
}

/// An input with these slots: how seeds are made.
pub(crate) fn input(flags: u8, slots: [&[u8]; 2]) -> Vec<u8> {
    let mut input = vec![flags];
    for slot in slots {
        let used = slot
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let slot = &slot[..used.next_multiple_of(8).min(slot.len())];
        input.extend((slot.len() as u16).to_le_bytes());
        input.extend(slot);
    }
    input
}

fn log(is_moved: bool) -> &'static Sound {
    static LOGS: [OnceLock<Sound>; 2] = [OnceLock::new(), OnceLock::new()];
    LOGS[usize::from(is_moved)].get_or_init(|| {
        let files = if is_moved { moved() } else { sealed() };
        let content = content(&disk_of(&files), &options()).expect("a sound log opens");
        let how = How {
            chains: true,
            lengths: true,
        };
        let mut chains = BTreeMap::new();
        let mut copy = files.clone();
        for (name, bytes) in &mut copy {
            if let (Some(id), Some(bytes)) = (segment_id(name), bytes) {
                let of_segment = fix_segment(id, bytes, &chains, how);
                chains.insert(id, of_segment);
            }
        }
        assert_eq!(files, copy, "the checksums of a sound log were right");
        (files, chains, content)
    })
}
