//! The body of a node's status: tagged fields, so that a later version adds some and this one skips
//! them.

use super::decode::{DecodeError, Reader};
use super::encode::Sink;
use crate::transport::{Founding, LogHealth, NodeStatus};

mod field {
    pub(super) const HEALTH: u8 = 1;
    pub(super) const OLDEST_UNSYNCED_MS: u8 = 2;
    pub(super) const DURABLE_LSN: u8 = 3;
    pub(super) const FOUNDING: u8 = 4;
    pub(super) const FEATURE_VERSION: u8 = 5;
}

/// Every field of this version, each of which a sender states.
const FIELDS: [u8; 5] = [
    field::HEALTH,
    field::OLDEST_UNSYNCED_MS,
    field::DURABLE_LSN,
    field::FOUNDING,
    field::FEATURE_VERSION,
];

/// Tag and length.
const FIELD_BYTES_MIN: usize = 1 + 2;

const FOUNDING_COMPLETE: u8 = 1;
const FOUNDING_FOUNDED: u8 = 2;
const FOUNDING_CLOSED: u8 = 4;

pub(super) fn write_status(status: &NodeStatus, sink: &mut impl Sink) {
    sink.put(&(FIELDS.len() as u16).to_le_bytes());
    write_field(field::HEALTH, &[status.health.to_byte()], sink);
    let age = status.oldest_unsynced_ms.to_le_bytes();
    write_field(field::OLDEST_UNSYNCED_MS, &age, sink);
    write_field(field::DURABLE_LSN, &status.durable_lsn.to_le_bytes(), sink);
    let Founding {
        is_complete,
        is_closed,
        digest,
        is_founded,
    } = status.founding;
    let mut founding = [0; 9];
    founding[0] = u8::from(is_complete) * FOUNDING_COMPLETE
        + u8::from(is_founded) * FOUNDING_FOUNDED
        + u8::from(is_closed) * FOUNDING_CLOSED;
    founding[1..].copy_from_slice(&digest.to_le_bytes());
    write_field(field::FOUNDING, &founding, sink);
    let features = status.feature_version.to_le_bytes();
    write_field(field::FEATURE_VERSION, &features, sink);
}

fn write_field(tag: u8, bytes: &[u8], sink: &mut impl Sink) {
    sink.u8(tag);
    // The fields of this version have a few bytes each.
    sink.put(&(bytes.len() as u16).to_le_bytes());
    sink.put(bytes);
}

/// Fields with tags that are not known are skipped; a known one that is missing, stated twice or of
/// another length is an error. The number of fields stands in front, so that no cut goes unnoticed.
pub(super) fn read_status(reader: &mut Reader<'_>) -> Result<NodeStatus, DecodeError> {
    let count = usize::from(reader.u16()?);
    if count > reader.left_bytes() / FIELD_BYTES_MIN {
        return Err(DecodeError::Count {
            count,
            bytes: reader.left_bytes(),
        });
    }
    let mut status = NodeStatus::default();
    let mut seen = [false; 256];
    for _ in 0..count {
        let tag = reader.u8()?;
        let bytes = usize::from(reader.u16()?);
        let content = reader.take(bytes)?;
        if std::mem::replace(&mut seen[usize::from(tag)], true) {
            return Err(DecodeError::DoubledField { tag });
        }
        match tag {
            field::HEALTH => {
                let [byte] = exactly(tag, content)?;
                status.health = LogHealth::from_byte(byte);
            }
            field::OLDEST_UNSYNCED_MS => {
                status.oldest_unsynced_ms = u64::from_le_bytes(exactly(tag, content)?);
            }
            field::DURABLE_LSN => status.durable_lsn = u64::from_le_bytes(exactly(tag, content)?),
            field::FOUNDING => status.founding = read_founding(exactly(tag, content)?)?,
            field::FEATURE_VERSION => {
                status.feature_version = u32::from_le_bytes(exactly(tag, content)?);
            }
            _ => {}
        }
    }
    match FIELDS.iter().find(|tag| !seen[usize::from(**tag)]) {
        Some(&tag) => Err(DecodeError::MissingField { tag }),
        None => Ok(status),
    }
}

fn read_founding(content: [u8; 9]) -> Result<Founding, DecodeError> {
    let [flags, digest @ ..] = content;
    if flags & !(FOUNDING_COMPLETE | FOUNDING_FOUNDED | FOUNDING_CLOSED) != 0 {
        return Err(DecodeError::UnknownTag {
            what: "founding flags",
            tag: flags,
        });
    }
    Ok(Founding {
        is_complete: flags & FOUNDING_COMPLETE != 0,
        is_closed: flags & FOUNDING_CLOSED != 0,
        digest: u64::from_le_bytes(digest),
        is_founded: flags & FOUNDING_FOUNDED != 0,
    })
}

fn exactly<const N: usize>(tag: u8, content: &[u8]) -> Result<[u8; N], DecodeError> {
    content.try_into().map_err(|_| DecodeError::FieldLength {
        tag,
        bytes: content.len(),
    })
}
