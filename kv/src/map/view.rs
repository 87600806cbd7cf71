//! What readers hold: the map as it was after some batch of commands.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use imbl::{OrdMap, ordmap};

use super::key::Key;
use super::value::Value;

/// The map at one index. Immutable; cloning costs a reference count. Reads lock nothing and delay
/// nobody.
#[derive(Clone, Debug, Default)]
pub struct MapView {
    entries: OrdMap<Key, Value>,
}

impl MapView {
    pub(super) fn new(entries: OrdMap<Key, Value>) -> Self {
        Self { entries }
    }

    /// A key's value. Shares the map's memory; a value that was appended to since it was last read
    /// is joined first, once for all readers of the view.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.entries.get(key).map(Value::bytes)
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries in key order.
    pub fn iter(&self) -> Range<'_> {
        self.bounded(Bound::Unbounded, Bound::Unbounded)
    }

    /// The entries whose keys are in a range, in key order. A range that ends before it begins is
    /// empty.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Range<'_> {
        let start = range.start_bound().map(AsRef::as_ref);
        let end = range.end_bound().map(AsRef::as_ref);
        self.bounded(start, end)
    }

    /// The entries whose keys begin with `prefix`, in key order.
    pub fn prefix(&self, prefix: &[u8]) -> Range<'_> {
        let end = prefix_end(prefix);
        self.bounded(Bound::Included(prefix), end.as_ref().map(Vec::as_slice))
    }

    fn bounded(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Range<'_> {
        Range {
            entries: self.entries.range::<_, [u8]>((start, end)),
        }
    }
}

impl<'a> IntoIterator for &'a MapView {
    type Item = (&'a [u8], Bytes);
    type IntoIter = Range<'a>;

    fn into_iter(self) -> Range<'a> {
        self.iter()
    }
}

/// Entries of a [`MapView`], from both ends. Keys are lent, values shared.
#[derive(Debug)]
pub struct Range<'a> {
    entries: ordmap::RangedIter<'a, Key, Value, imbl::shared_ptr::DefaultSharedPtr>,
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        self.entries
            .next()
            .map(|(key, value)| (key.as_bytes(), value.bytes()))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries
            .next_back()
            .map(|(key, value)| (key.as_bytes(), value.bytes()))
    }
}

impl FusedIterator for Range<'_> {}

/// Where the keys that begin with `prefix` end: before the prefix with its last byte that can be
/// raised, raised.
pub(super) fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|byte| *byte < u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    }
}
