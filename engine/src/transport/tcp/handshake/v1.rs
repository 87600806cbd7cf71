//! Version 1 of the handshake, whose clerks are served still. Its nodes are not: all nodes of a cluster are upgraded by
//! stopping all of them, since a node of version 1 has no incarnation to be told apart by.

use super::super::event::{CloseReason, Lane};
use super::super::options::ADDRESS_BYTES_MAX;
use super::{
    ACCEPT, Accept, CRC_BYTES, Hello, PREFIX_BYTES, REJECT, Timed, check_crc, encode_answer,
    reason_of, u64_at,
};
use quorate_raft::NodeId;

pub(super) const VERSION: u16 = 1;

const HELLO_BYTES: usize = 40;
const CLUSTER_STATED: u8 = 1;

/// Reads the rest of a hello, of which the first bytes are there.
pub(super) fn read_hello(reader: &mut Timed<'_>, prefix: &[u8]) -> Result<Hello, CloseReason> {
    let mut bytes = [0; HELLO_BYTES + CRC_BYTES];
    bytes[..PREFIX_BYTES].copy_from_slice(prefix);
    reader.exact(&mut bytes[PREFIX_BYTES..])?;
    check_crc(&bytes)?;
    decode_hello(&bytes)
}

fn decode_hello(bytes: &[u8; HELLO_BYTES + CRC_BYTES]) -> Result<Hello, CloseReason> {
    let lane = Lane::from_byte(bytes[12]).ok_or(CloseReason::BadHandshake)?;
    let stated = match bytes[13] {
        0 => false,
        CLUSTER_STATED => true,
        _ => return Err(CloseReason::BadHandshake),
    };
    if bytes[10..12] != [0; 2] || bytes[14..16] != [0; 2] {
        return Err(CloseReason::BadHandshake);
    }
    let node = |at| Some(NodeId(u64_at(bytes, at))).filter(|node| *node != NodeId::ZERO);
    if node(24).is_some() {
        return Err(CloseReason::Version {
            ours: super::VERSION,
            theirs: VERSION,
        });
    }
    if lane != Lane::Main {
        return Err(CloseReason::BadHandshake);
    }
    Ok(Hello {
        version: VERSION,
        cluster_id: stated.then(|| u64_at(bytes, 16)),
        from: None,
        to: node(32),
        lane,
        card: None,
    })
}

pub(super) fn encode_accept(accept: &Accept) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&accept.cluster_id.to_le_bytes());
    body.extend_from_slice(&accept.node.0.to_le_bytes());
    body.extend_from_slice(&accept.groups.to_le_bytes());
    body.extend_from_slice(&(accept.nodes.len() as u32).to_le_bytes());
    for (node, address) in &accept.nodes {
        assert!(
            address.len() <= ADDRESS_BYTES_MAX,
            "checked with the options"
        );
        body.extend_from_slice(&node.0.to_le_bytes());
        body.extend_from_slice(&(address.len() as u16).to_le_bytes());
        body.extend_from_slice(address.as_bytes());
    }
    encode_answer(VERSION, ACCEPT, 0, &body)
}

/// A reject, which all versions read. `version` is what the answer says of itself.
pub(super) fn encode_reject(version: u16, code: u8, ours: u64) -> Vec<u8> {
    encode_answer(version, REJECT, code, &ours.to_le_bytes())
}

/// The same reason as on the other side, told from this one.
pub(super) fn decode_reject(code: u8, body: &[u8], hello: &Hello) -> CloseReason {
    let Some(theirs) = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return CloseReason::BadHandshake;
    };
    reason_of(code, theirs, hello).unwrap_or(CloseReason::Refused {
        code,
        words: String::new(),
    })
}
