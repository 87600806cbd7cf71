//! The map's image: a header, then the entries in key order.
//!
//! ```text
//! offset  size  field
//!      0     4  magic      "QMAP"
//!      4     2  version    1
//!      6     2  reserved   0
//!      8     8  count      of entries
//!     16     -  entries: key_len u16, reserved u16, value_len u32, key, value
//! ```
//!
//! Invariant: equal maps have equal images, however their values were put together.

use std::io;

use bytes::Bytes;
use imbl::OrdMap;

use super::key::Key;
use super::value::Value;
use super::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::codec::{Fields, expect_end, read_array, read_bytes};
use crate::machine::{Image, RestoreError};

const MAGIC: [u8; 4] = *b"QMAP";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const ENTRY_HEAD_BYTES: usize = 8;

/// A [`Map`](super::Map) on its way into a snapshot. Shares the map's memory.
#[derive(Debug)]
pub struct MapImage {
    entries: OrdMap<Key, Value>,
}

impl MapImage {
    pub(super) fn new(entries: OrdMap<Key, Value>) -> Self {
        Self { entries }
    }
}

impl Image for MapImage {
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&VERSION.to_le_bytes());
        header[8..].copy_from_slice(&(self.entries.len() as u64).to_le_bytes());
        out.write_all(&header)?;
        for (key, value) in &self.entries {
            let key = key.as_bytes();
            assert!(key.len() <= KEY_BYTES_MAX);
            assert!(value.len() <= VALUE_BYTES_MAX);
            let mut head = [0; ENTRY_HEAD_BYTES];
            head[..2].copy_from_slice(&(key.len() as u16).to_le_bytes());
            head[4..].copy_from_slice(&(value.len() as u32).to_le_bytes());
            out.write_all(&head)?;
            out.write_all(key)?;
            value
                .pieces()
                .iter()
                .try_for_each(|piece| out.write_all(piece))?;
        }
        Ok(())
    }
}

/// Reads the entries back and checks their order and lengths.
pub(super) fn restore(source: &mut dyn io::Read) -> Result<OrdMap<Key, Value>, RestoreError> {
    let count = read_header(source)?;
    let mut entries = OrdMap::new();
    let mut previous: Option<Key> = None;
    for _ in 0..count {
        let (key, value) = read_entry(source)?;
        if previous.as_ref().is_some_and(|previous| *previous >= key) {
            return Err(RestoreError::Malformed {
                what: "its keys are not in order",
            });
        }
        previous = Some(key.clone());
        entries.insert(key, value);
    }
    expect_end(source)?;
    Ok(entries)
}

fn read_header(source: &mut dyn io::Read) -> Result<u64, RestoreError> {
    const WHAT: RestoreError = RestoreError::Malformed {
        what: "it does not begin as a map",
    };
    let header = read_array::<HEADER_BYTES>(source)?;
    let mut fields = Fields::new(&header);
    if fields.take(MAGIC.len()) != Some(&MAGIC) {
        return Err(WHAT);
    }
    let version = fields.u16().ok_or(WHAT)?;
    if version != VERSION {
        return Err(RestoreError::Unsupported {
            part: "map",
            version,
        });
    }
    if fields.u16() != Some(0) {
        return Err(WHAT);
    }
    fields.u64().ok_or(WHAT)
}

fn read_entry(source: &mut dyn io::Read) -> Result<(Key, Value), RestoreError> {
    const WHAT: RestoreError = RestoreError::Malformed {
        what: "an entry of the map is too long",
    };
    let head = read_array::<ENTRY_HEAD_BYTES>(source)?;
    let mut fields = Fields::new(&head);
    let key_len = usize::from(fields.u16().ok_or(WHAT)?);
    let reserved = fields.u16().ok_or(WHAT)?;
    let value_len = fields.u32().ok_or(WHAT)? as usize;
    if reserved != 0 || value_len > VALUE_BYTES_MAX {
        return Err(WHAT);
    }
    let key = read_bytes(source, key_len)?;
    let value = read_bytes(source, value_len)?;
    Ok((Key::from(&key[..]), Value::from(Bytes::from(value))))
}
