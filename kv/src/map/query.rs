//! The map's queries, as bytes.
//!
//! ```text
//! offset  size  field
//!      0     1  version   1
//!      1     1  kind      1 get, 2 scan, 3 count
//!      2     -  get       the key: the rest of the query
//!               scan      reverse u8: 0 or 1; start u8 and end u8: 0 unbounded, 1 included,
//!                         2 excluded; limit u32; start_len u32; start key;
//!                         end key: the rest of the query
//!               count     nothing
//! ```

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use super::answer::Answer;
use super::view::{self, MapView};
use crate::codec::Fields;

/// How many bytes of keys and values one scan answers with. It may be more by one entry: a scan
/// answers at least one entry if there is any, so that asking again makes progress.
pub const SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A question to the map.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Query {
    /// A key's value. Answered with [`Answer::Value`].
    Get {
        /// The key.
        key: Bytes,
    },
    /// The entries of a range. Answered with [`Answer::Entries`].
    Scan(Scan),
    /// How many keys there are. Answered with [`Answer::Count`].
    Count,
}

/// Which entries to read, and in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the range begins.
    pub start: Bound<Bytes>,
    /// Where it ends.
    pub end: Bound<Bytes>,
    /// How many entries to answer at most. [`SCAN_BYTES_MAX`] may cut it shorter.
    pub limit: u32,
    /// From the end of the range to its start.
    pub reverse: bool,
}

impl Scan {
    /// The keys in a range, in ascending order.
    pub fn range<K: AsRef<[u8]>>(range: impl RangeBounds<K>) -> Self {
        let owned = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
        Self {
            start: owned(range.start_bound()),
            end: owned(range.end_bound()),
            limit: u32::MAX,
            reverse: false,
        }
    }

    /// The keys that begin with `prefix`, in ascending order.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            start: Bound::Included(Bytes::copy_from_slice(prefix)),
            end: view::prefix_end(prefix).map(Bytes::from),
            limit: u32::MAX,
            reverse: false,
        }
    }

    /// Answers at most `limit` entries.
    pub fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// Answers the entries in descending order.
    pub fn reverse(self) -> Self {
        Self {
            reverse: true,
            ..self
        }
    }
}

const VERSION: u8 = 1;
const KIND_GET: u8 = 1;
const KIND_SCAN: u8 = 2;
const KIND_COUNT: u8 = 3;

const BOUND_UNBOUNDED: u8 = 0;
const BOUND_INCLUDED: u8 = 1;
const BOUND_EXCLUDED: u8 = 2;

impl Query {
    /// The encoded question for a key's value.
    pub fn get(key: &[u8]) -> Bytes {
        let mut bytes = Vec::with_capacity(2 + key.len());
        bytes.extend_from_slice(&[VERSION, KIND_GET]);
        bytes.extend_from_slice(key);
        Bytes::from(bytes)
    }

    /// The encoded question for the entries of a range.
    pub fn scan(scan: &Scan) -> Bytes {
        let (start_kind, start) = encode_bound(&scan.start);
        let (end_kind, end) = encode_bound(&scan.end);
        let mut bytes = Vec::with_capacity(13 + start.len() + end.len());
        bytes.extend_from_slice(&[VERSION, KIND_SCAN, u8::from(scan.reverse)]);
        bytes.extend_from_slice(&[start_kind, end_kind]);
        bytes.extend_from_slice(&scan.limit.to_le_bytes());
        bytes.extend_from_slice(&(start.len() as u32).to_le_bytes());
        bytes.extend_from_slice(start);
        bytes.extend_from_slice(end);
        Bytes::from(bytes)
    }

    /// The encoded question for the number of keys.
    pub fn count() -> Bytes {
        Bytes::from_static(&[VERSION, KIND_COUNT])
    }

    /// Reads a query; keys share its memory. `None` if the bytes are none of a version known here:
    /// a query changes nothing, so an unknown one need not stop the replica.
    pub fn decode(query: &Bytes) -> Option<Self> {
        let mut fields = Fields::new(query);
        if fields.u8()? != VERSION {
            return None;
        }
        match fields.u8()? {
            KIND_GET => Some(Self::Get {
                key: query.slice_ref(fields.rest()),
            }),
            KIND_SCAN => decode_scan(query, &mut fields).map(Self::Scan),
            KIND_COUNT => fields.is_empty().then_some(Self::Count),
            _ => None,
        }
    }
}

/// Answers a query on a view.
pub(super) fn answer(view: &MapView, query: &Bytes) -> Answer {
    match Query::decode(query) {
        Some(Query::Get { key }) => Answer::Value(view.get(&key)),
        Some(Query::Scan(scan)) if scan.reverse => {
            collect(view.range((scan.start, scan.end)).rev(), scan.limit)
        }
        Some(Query::Scan(scan)) => collect(view.range((scan.start, scan.end)), scan.limit),
        Some(Query::Count) => Answer::Count(view.len() as u64),
        None => Answer::Malformed,
    }
}

fn collect<'a>(mut found: impl Iterator<Item = (&'a [u8], Bytes)>, limit: u32) -> Answer {
    let mut entries = Vec::new();
    let mut bytes = 0;
    while entries.len() < limit as usize && bytes < SCAN_BYTES_MAX {
        let Some((key, value)) = found.next() else {
            return Answer::Entries {
                entries,
                more: false,
            };
        };
        bytes += key.len() + value.len();
        entries.push((Bytes::copy_from_slice(key), value));
    }
    Answer::Entries {
        entries,
        more: found.next().is_some(),
    }
}

fn encode_bound(bound: &Bound<Bytes>) -> (u8, &[u8]) {
    match bound {
        Bound::Unbounded => (BOUND_UNBOUNDED, &[]),
        Bound::Included(key) => (BOUND_INCLUDED, key),
        Bound::Excluded(key) => (BOUND_EXCLUDED, key),
    }
}

fn decode_scan(query: &Bytes, fields: &mut Fields<'_>) -> Option<Scan> {
    let reverse = match fields.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let [start_kind, end_kind] = [fields.u8()?, fields.u8()?];
    let limit = fields.u32()?;
    let start_len = fields.u32()? as usize;
    let start = query.slice_ref(fields.take(start_len)?);
    let end = query.slice_ref(fields.rest());
    Some(Scan {
        start: decode_bound(start_kind, start)?,
        end: decode_bound(end_kind, end)?,
        limit,
        reverse,
    })
}

fn decode_bound(kind: u8, key: Bytes) -> Option<Bound<Bytes>> {
    match kind {
        BOUND_UNBOUNDED if key.is_empty() => Some(Bound::Unbounded),
        BOUND_INCLUDED => Some(Bound::Included(key)),
        BOUND_EXCLUDED => Some(Bound::Excluded(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_decodes_to_itself() {
        let key = Bytes::from_static(b"key");
        assert_eq!(
            Query::decode(&Query::get(b"key")),
            Some(Query::Get { key: key.clone() })
        );
        assert_eq!(
            Query::decode(&Query::get(b"")),
            Some(Query::Get { key: Bytes::new() })
        );
        assert_eq!(Query::decode(&Query::count()), Some(Query::Count));
        let bounds = [
            Bound::Unbounded,
            Bound::Included(key.clone()),
            Bound::Excluded(Bytes::new()),
        ];
        for start in &bounds {
            for end in &bounds {
                for reverse in [false, true] {
                    let scan = Scan {
                        start: start.clone(),
                        end: end.clone(),
                        limit: 9,
                        reverse,
                    };
                    assert_eq!(Query::decode(&Query::scan(&scan)), Some(Query::Scan(scan)));
                }
            }
        }
    }

    #[test]
    fn queries_have_the_documented_bytes() {
        assert_eq!(Query::get(b"k"), &b"\x01\x01k"[..]);
        assert_eq!(Query::count(), &b"\x01\x03"[..]);
        let scan = Scan::range("a"..="bb").limit(5).reverse();
        let expected = b"\x01\x02\x01\x01\x01\x05\x00\x00\x00\x01\x00\x00\x00abb";
        assert_eq!(Query::scan(&scan), &expected[..]);
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x02\x01k",
            b"\x01\x04",
            b"\x01\x03x",
            b"\x01\x02\x02\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x02\x00\x03\x00\x05\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x02\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00end of unbounded",
            b"\x01\x02\x00\x01\x00\x05\x00\x00\x00\xff\xff\xff\xffstart",
        ] {
            assert_eq!(Query::decode(&Bytes::from_static(bytes)), None, "{bytes:?}");
        }
    }
}
