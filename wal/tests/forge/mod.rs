//! Files that say what they should not, with checksums that are right. Offsets are those of `docs/format.md`.

#![allow(dead_code, reason = "each test file uses its own part")]

use crate::common::BLOCK;

/// Bytes of the headers of a batch, a footer and a manifest.
pub(crate) const HEADER: usize = 64;
/// Bytes of a range in a footer.
const RANGE: usize = 48;
/// Bytes of a segment in a manifest.
const ITEM: usize = 32;

/// The CRC of numbers and bytes.
pub(crate) fn crc_bound(numbers: &[u64], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in numbers {
        crc.update(&number.to_le_bytes());
    }
    crc.update(bytes);
    crc.finalize()
}

/// A field of so many bytes.
pub(crate) fn get(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut field = [0; 8];
    field[..width].copy_from_slice(&bytes[at..at + width]);
    u64::from_le_bytes(field)
}

/// Sets a field of so many bytes.
pub(crate) fn put(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// The offsets of the batches of a segment, and the one behind them.
pub(crate) fn batches(bytes: &[u8]) -> (Vec<usize>, usize) {
    let id = get(bytes, 16, 8);
    let mut offsets = Vec::new();
    let mut offset = BLOCK;
    while bytes[offset..].starts_with(b"QBAT") && get(bytes, offset + 8, 8) == id {
        offsets.push(offset);
        offset += get(bytes, offset + 20, 4) as usize;
        if offset >= bytes.len() {
            break;
        }
    }
    (offsets, offset)
}

/// Makes the CRC of the header of a segment right.
pub(crate) fn fix_segment(bytes: &mut [u8]) {
    let crc = crc_bound(&[get(bytes, 16, 8)], &bytes[..BLOCK - 4]);
    put(bytes, BLOCK - 4, 4, crc.into());
}

/// Makes the CRCs of a batch right: of its descriptors, as far as there are so many, and of its header.
pub(crate) fn fix_batch(bytes: &mut [u8], offset: usize) {
    let bound = [get(bytes, 16, 8), offset as u64];
    let desc_begin = offset + HEADER;
    let desc_end = desc_begin + get(bytes, offset + 40, 4) as usize;
    if let Some(desc) = bytes.get(desc_begin..desc_end) {
        let crc = crc_bound(&bound, desc);
        put(bytes, offset + 44, 4, crc.into());
    }
    let crc = crc_bound(&bound, &bytes[offset..offset + HEADER - 4]);
    put(bytes, offset + HEADER - 4, 4, crc.into());
}

/// Makes the CRCs of a footer right: of its table, as far as there is so much, and of its header.
pub(crate) fn fix_footer(bytes: &mut [u8], end: usize) {
    let id = get(bytes, 16, 8);
    let table = end + HEADER;
    let table_end = get(bytes, end + 32, 8).saturating_add(table as u64);
    if let Some(content) = bytes.get(table..table_end as usize) {
        let crc = crc_bound(&[id, table as u64], content);
        put(bytes, end + 48, 4, crc.into());
    }
    let crc = crc_bound(&[id, end as u64], &bytes[end..end + HEADER - 4]);
    put(bytes, end + HEADER - 4, 4, crc.into());
}

/// Makes the CRCs of a manifest right.
pub(crate) fn fix_manifest(bytes: &mut [u8]) {
    let items_end = HEADER as u64 + get(bytes, 12, 4) * ITEM as u64;
    if let Some(items) = bytes.get(HEADER..items_end as usize) {
        let crc = crc_bound(&[get(bytes, 16, 8)], items);
        put(bytes, 48, 4, crc.into());
    }
    let crc = crc_bound(&[], &bytes[..HEADER - 4]);
    put(bytes, HEADER - 4, 4, crc.into());
}

/// Every number in a segment that is a length, a count, an offset or an index: where it stands and its width.
pub(crate) fn numbers(bytes: &[u8]) -> Vec<(usize, usize)> {
    // Epoch, bytes of the segment, previous segment and its end, first lsn, generation.
    let mut found = vec![(32, 4), (40, 8), (48, 8), (56, 8), (72, 8), (80, 8)];
    let (offsets, end) = batches(bytes);
    for offset in offsets {
        // Offset, bytes, lsns, descriptors, payloads, records.
        let header = [
            (16, 4),
            (20, 4),
            (24, 8),
            (32, 8),
            (40, 4),
            (48, 4),
            (52, 4),
        ];
        found.extend(header.map(|(at, width)| (offset + at, width)));
        let desc_end = offset + HEADER + get(bytes, offset + 40, 4) as usize;
        let mut record = offset + HEADER;
        while record < desc_end {
            let record_end = record + get(bytes, record + 4, 4) as usize;
            // The length, then everything as words and half words: counts, indexes, slots.
            found.push((record + 4, 4));
            found.extend((record + 8..record_end).step_by(4).map(|at| (at, 4)));
            found.extend((record + 8..record_end).step_by(8).map(|at| (at, 8)));
            record = record_end;
        }
    }
    if bytes.get(end..).is_some_and(|it| it.starts_with(b"QIDX")) {
        found.extend([(16, 8), (24, 8), (32, 8), (40, 8)].map(|(at, width)| (end + at, width)));
        let table_end = end + HEADER + get(bytes, end + 32, 8) as usize;
        for range in (end + HEADER..table_end).step_by(RANGE) {
            let fields = [(0, 8), (8, 8), (16, 8), (24, 4), (32, 8), (40, 8)];
            found.extend(fields.map(|(at, width)| (range + at, width)));
        }
    }
    found
}

/// Makes the CRCs right of whatever stands at an offset of a segment.
pub(crate) fn fix_around(bytes: &mut [u8], sound: &[u8], at: usize) {
    let (offsets, end) = batches(sound);
    if at < BLOCK {
        fix_segment(bytes);
    } else if at >= end {
        fix_footer(bytes, end);
    } else {
        let batch = offsets.iter().rfind(|offset| **offset <= at);
        fix_batch(bytes, *batch.expect("batches begin behind the header"));
    }
}
