//! Makes the checksums of log files right, whatever the files say, so that what a fuzzer changes gets past them.
//!
//! Written from `docs/format.md`, beside the code that it helps to test. What does not look like a part of a log stays as it is.

use std::collections::BTreeMap;

use crate::files::{BLOCK_BYTES, Files, MANIFESTS, segment_id};

/// What is made right beside the checksums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// The chains, which name the batches of a segment: in its successor, its footer and the manifest.
    pub(crate) chains: bool,
    /// The lengths that follow from others.
    pub(crate) lengths: bool,
}

/// The chain of the batches of a segment up to each offset where one ends.
pub(crate) type Chains = BTreeMap<u64, u32>;

const SEGMENT_MAGIC: &[u8] = b"QRTSEG\r\n";
const BATCH_MAGIC: &[u8] = b"QBAT";
const FOOTER_MAGIC: &[u8] = b"QIDX";
const BATCH_HEADER_BYTES: usize = 64;
const FOOTER_HEADER_BYTES: usize = 64;
const RANGE_BYTES: usize = 48;
const RUN_BYTES: usize = 40;
const SLOT_BYTES: usize = 8;
const KIND_RUN: u8 = 1;
const KIND_MOVED: u8 = 8;
const MANIFEST_HEADER_BYTES: usize = 64;
const MANIFEST_ITEM_BYTES: usize = 32;

/// Makes the checksums of all files right.
pub(crate) fn fix_files(files: &mut Files, how: How) {
    let mut chains = BTreeMap::new();
    // Names of segments are in the order of their ids, so a segment comes behind its predecessor.
    for (name, content) in files.iter_mut() {
        if let (Some(id), Some(bytes)) = (segment_id(name), content) {
            let of_segment = fix_segment(id, bytes, &chains, how);
            chains.insert(id, of_segment);
        }
    }
    for name in MANIFESTS {
        if let Some(Some(bytes)) = files.get_mut(name) {
            fix_manifest(bytes, &chains, how);
        }
    }
}

/// Makes the checksums of a manifest right.
pub(crate) fn fix_manifest(bytes: &mut [u8], chains: &BTreeMap<u64, Chains>, how: How) {
    if bytes.len() < MANIFEST_HEADER_BYTES {
        return;
    }
    let (header, items) = bytes.split_at_mut(MANIFEST_HEADER_BYTES);
    let count = u32_at(header, 12) as usize;
    let items_bytes = count.saturating_mul(MANIFEST_ITEM_BYTES).min(items.len());
    let items = &mut items[..items_bytes];
    for item in items.chunks_exact_mut(MANIFEST_ITEM_BYTES) {
        let of_segment = chains.get(&u64_at(item, 0));
        let chain = of_segment.and_then(|it| it.get(&u64_at(item, 8)));
        if let Some(&chain) = chain.filter(|_| how.chains) {
            put_u32(item, 24, chain);
        }
    }
    let items_crc = crc_bound(&[u64_at(header, 16)], items);
    put_u32(header, 48, items_crc);
    let crc = crc_bound(&[], &header[..60]);
    put_u32(header, 60, crc);
}

/// Makes the checksums of a segment right. Returns its chains.
pub(crate) fn fix_segment(
    id: u64,
    bytes: &mut [u8],
    others: &BTreeMap<u64, Chains>,
    how: How,
) -> Chains {
    let mut chains = Chains::new();
    if bytes.len() < BLOCK_BYTES {
        return chains;
    }
    let header = &mut bytes[..BLOCK_BYTES];
    if header.starts_with(SEGMENT_MAGIC) {
        let before = others.get(&u64_at(header, 48));
        let chain = before.and_then(|it| it.get(&u64_at(header, 56)));
        if let Some(&chain) = chain.filter(|_| how.chains) {
            put_u32(header, 64, chain);
        }
        let crc = crc_bound(&[id], &header[..BLOCK_BYTES - 4]);
        put_u32(header, BLOCK_BYTES - 4, crc);
    }
    let (epoch, first_lsn) = (u32_at(header, 32), u64_at(header, 72));
    let mut chain = crc_bound(&[id, epoch.into(), first_lsn], &[]);
    let mut offset = BLOCK_BYTES;
    chains.insert(offset as u64, chain);
    while let Some((batch_bytes, header_crc)) = fix_batch(id, offset, bytes, how) {
        chain = crc_bound(&[chain.into(), header_crc.into()], &[]);
        offset += batch_bytes;
        chains.insert(offset as u64, chain);
    }
    for (&end, &chain) in &chains {
        fix_footer(id, end as usize, bytes, how.chains.then_some(chain));
    }
    chains
}

/// Fixes the batch at an offset. Returns its length, and the CRC of its header.
fn fix_batch(id: u64, offset: usize, bytes: &mut [u8], how: How) -> Option<(usize, u32)> {
    let batch = bytes.get_mut(offset..)?;
    let (header, body) = batch.split_at_mut_checked(BATCH_HEADER_BYTES)?;
    if !header.starts_with(BATCH_MAGIC) || u64_at(header, 8) != id {
        return None;
    }
    let desc_bytes = u32_at(header, 40) as usize;
    if let Some((desc, payloads)) = body.split_at_mut_checked(desc_bytes) {
        let payload_bytes = fix_slots(desc, payloads);
        if how.lengths {
            put_u32(header, 16, offset as u32);
            put_u32(header, 48, payload_bytes);
        }
        let desc_crc = crc_bound(&[id, offset as u64], desc);
        put_u32(header, 44, desc_crc);
    }
    let payload_bytes = u32_at(header, 48) as usize;
    let used = BATCH_HEADER_BYTES + desc_bytes + payload_bytes;
    let batch_bytes = used.next_multiple_of(BLOCK_BYTES);
    if how.lengths {
        put_u32(header, 20, batch_bytes as u32);
    }
    let crc = crc_bound(&[id, offset as u64], &header[..60]);
    put_u32(header, 60, crc);
    Some((batch_bytes, crc))
}

/// Fixes the CRCs of the entries that descriptors speak of. Returns the length of all their payloads.
fn fix_slots(mut desc: &mut [u8], mut payloads: &[u8]) -> u32 {
    let mut payload_bytes = 0_u32;
    while desc.len() >= 8 {
        let len = (u32_at(desc, 4) as usize).clamp(8, desc.len());
        let (record, rest) = desc.split_at_mut(len);
        desc = rest;
        if !matches!(record[0], KIND_RUN | KIND_MOVED) || record.len() < RUN_BYTES {
            continue;
        }
        let (head, slots) = record.split_at_mut(RUN_BYTES);
        let (group, term, first) = (u64_at(head, 8), u64_at(head, 16), u64_at(head, 24));
        let kind = u64::from(head[36]);
        for (number, slot) in slots.chunks_exact_mut(SLOT_BYTES).enumerate() {
            let len = u32_at(slot, 0);
            let padded = len.checked_next_multiple_of(8).unwrap_or(u32::MAX);
            payload_bytes = payload_bytes.wrapping_add(padded);
            if let Some(payload) = payloads.get(..len as usize) {
                let index = first.wrapping_add(number as u64);
                put_u32(slot, 4, crc_bound(&[group, index, term, kind], payload));
            }
            payloads = payloads.get(padded as usize..).unwrap_or_default();
        }
    }
    payload_bytes
}

/// Fixes the footer at an offset, if one is there.
pub(crate) fn fix_footer(id: u64, end: usize, bytes: &mut [u8], chain: Option<u32>) -> Option<()> {
    let spots_of = |range: &[u8], bytes: &[u8]| {
        let (offset, count) = (u64_at(range, 32), u32_at(range, 24) as usize);
        let begin = usize::try_from(offset).ok()?;
        let spots = bytes.get(begin..begin.checked_add(count * SLOT_BYTES)?)?;
        Some(crc_bound(&[id, offset], spots))
    };
    let header = bytes.get(end..end + FOOTER_HEADER_BYTES)?;
    if !header.starts_with(FOOTER_MAGIC) {
        return None;
    }
    let table_begin = end + FOOTER_HEADER_BYTES;
    let table_bytes = usize::try_from(u64_at(header, 32)).ok()?;
    let table_end = table_begin.saturating_add(table_bytes).min(bytes.len());
    for begin in (table_begin..table_end).step_by(RANGE_BYTES) {
        let range = bytes.get(begin..begin + RANGE_BYTES)?;
        if let Some(crc) = spots_of(range, bytes) {
            put_u32(&mut bytes[begin..], 28, crc);
        }
    }
    let table_crc = crc_bound(&[id, table_begin as u64], &bytes[table_begin..table_end]);
    let header = &mut bytes[end..table_begin];
    put_u32(header, 4, chain.unwrap_or(u32_at(header, 4)));
    put_u32(header, 48, table_crc);
    let crc = crc_bound(&[id, end as u64], &header[..60]);
    put_u32(header, 60, crc);
    Some(())
}

/// The CRC of numbers and bytes, see *Conventions* in `docs/format.md`.
pub(crate) fn crc_bound(numbers: &[u64], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in numbers {
        crc.update(&number.to_le_bytes());
    }
    crc.update(bytes);
    crc.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..].first_chunk().expect("the caller looked");
    u32::from_le_bytes(*field)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..].first_chunk().expect("the caller looked");
    u64::from_le_bytes(*field)
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
