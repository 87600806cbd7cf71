//! Tagged fields: how hellos and answers are written, so that a later version adds some and this one skips them.
//!
//! A field is u16 tag, u16 length, and the bytes. Each tag stands once.

use std::collections::BTreeMap;

/// Writes fields.
#[derive(Default)]
pub(crate) struct FieldWriter {
    bytes: Vec<u8>,
}

impl FieldWriter {
    /// Adds a field of at most 64 KiB; every field of this version is bounded far below.
    pub(crate) fn put(&mut self, tag: u16, content: &[u8]) {
        let len = u16::try_from(content.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&content[..usize::from(len)]);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Fields that were read. Those with unknown tags are never asked for.
pub(crate) struct Fields<'a> {
    by_tag: BTreeMap<u16, &'a [u8]>,
}

impl<'a> Fields<'a> {
    /// `None`: a field is cut off, or stands twice.
    pub(crate) fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let mut by_tag = BTreeMap::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_first_chunk::<4>()?;
            let tag = u16::from_le_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let (content, rest) = rest.split_at_checked(len)?;
            if by_tag.insert(tag, content).is_some() {
                return None;
            }
            bytes = rest;
        }
        Some(Self { by_tag })
    }

    pub(crate) fn get(&self, tag: u16) -> Option<&'a [u8]> {
        self.by_tag.get(&tag).copied()
    }

    /// The beginning of a field. A later version may write more behind it.
    pub(crate) fn chunk<const N: usize>(&self, tag: u16) -> Option<[u8; N]> {
        self.get(tag)?.first_chunk().copied()
    }

    pub(crate) fn u64(&self, tag: u16) -> Option<u64> {
        self.chunk(tag).map(u64::from_le_bytes)
    }

    pub(crate) fn u32(&self, tag: u16) -> Option<u32> {
        self.chunk(tag).map(u32::from_le_bytes)
    }

    pub(crate) fn u8(&self, tag: u16) -> Option<u8> {
        self.chunk::<1>(tag).map(|[byte]| byte)
    }

    /// A text. `None`: absent, or no UTF-8.
    pub(crate) fn text(&self, tag: u16) -> Option<String> {
        let bytes = self.get(tag)?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    /// The fields with tags in a range.
    pub(crate) fn range(
        &self,
        tags: std::ops::RangeInclusive<u16>,
    ) -> impl Iterator<Item = &'a [u8]> {
        self.by_tag.range(tags).map(|(_, content)| *content)
    }
}
