//! How two ends introduce themselves (`docs/wire.md`): a hello, and an answer to it.
//!
//! Invariants:
//! - The first twelve bytes of both, magic and version, are the same in all versions for ever, and so is the reject that
//!   names a version.
//! - Behind them are tagged fields: a later version adds some, and they are skipped here.
//! - Nothing is allocated for a stranger but a buffer of a bounded size, and no read waits beyond the
//!   handshake's deadline.

mod v1;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use quorate_raft::NodeId;

use super::event::{CloseReason, Lane};
use super::options::{ADDRESS_BYTES_MAX, NODES_MAX};
use crate::membership::{FieldWriter, Fields, NodeCard, Refused};
use crate::partition::GROUPS_MAX;

/// The version of the protocol spoken here.
pub(super) const VERSION: u16 = 2;

/// The lowest version spoken here. Clerks of version 1 are served besides.
const VERSION_MIN: u16 = 2;

const MAGIC: [u8; 8] = *b"QUORATE\n";
const PREFIX_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;
const ANSWER_HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// What a stranger may make this side read.
const HELLO_BODY_BYTES_MAX: usize = 4 << 10;
/// An accept with as many nodes as there may be, each with the longest address, and a card.
const ANSWER_BODY_BYTES_MAX: usize = NODES_MAX * (4 + 8 + ADDRESS_BYTES_MAX) + HELLO_BODY_BYTES_MAX;

const ACCEPT: u8 = 1;
const REJECT: u8 = 2;

/// The tags of fields that belong to a handshake and to no card.
mod tag {
    pub(super) const LANE: u16 = 1;
    pub(super) const CLUSTER: u16 = 2;
    pub(super) const NODE: u16 = 3;
    pub(super) const TO: u16 = 4;
    pub(super) const WORDS: u16 = 5;
    pub(super) const NUMBERS: u16 = 6;
    /// The first node of the cluster; the others follow.
    pub(super) const NODES: u16 = 256;
}

/// The longest words of a reject that are sent and shown.
const WORDS_BYTES_MAX: usize = 1 << 10;

/// What the dialling side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The version in which to answer.
    pub(super) version: u16,
    /// `None`: a clerk that will take any.
    pub(super) cluster_id: Option<u64>,
    /// `None`: a clerk.
    pub(super) from: Option<NodeId>,
    /// `None`: a clerk that does not know yet whom it calls.
    pub(super) to: Option<NodeId>,
    pub(super) lane: Lane,
    /// What a node shows of itself; always there if `from` is.
    pub(super) card: Option<NodeCard>,
}

impl Hello {
    /// Of a clerk.
    pub(super) fn clerk(cluster_id: Option<u64>, to: Option<NodeId>) -> Self {
        Self {
            version: VERSION,
            cluster_id,
            from: None,
            to,
            lane: Lane::Main,
            card: None,
        }
    }

    /// Of a node.
    pub(super) fn node(card: NodeCard, to: NodeId, lane: Lane) -> Self {
        Self {
            version: VERSION,
            cluster_id: Some(card.cluster_id),
            from: Some(card.node),
            to: Some(to),
            lane,
            card: Some(card),
        }
    }
}

/// What the listening side says of itself when it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) cluster_id: u64,
    pub(super) node: NodeId,
    pub(super) groups: u32,
    /// What the node shows of itself.
    pub(super) card: NodeCard,
    pub(super) nodes: Vec<(NodeId, String)>,
}

impl Accept {
    /// The same for a clerk, who is not shown what tells one copy of a directory from another.
    pub(super) fn for_clerks(&self) -> Self {
        Self {
            card: self.card.for_clerks(),
            ..self.clone()
        }
    }
}

/// Introduces this side over a fresh stream, and reads the answer.
pub(super) fn introduce(
    stream: &TcpStream,
    hello: &Hello,
    timeout: Duration,
) -> Result<Accept, CloseReason> {
    stream
        .set_write_timeout(Some(timeout))
        .map_err(|e| CloseReason::Io(e.into()))?;
    // A listener that is full refuses before it has read; its answer is read even if the hello
    // could not be written.
    let written = (&mut &*stream).write_all(&encode_hello(hello));
    let answer = read_answer(&mut Timed::new(stream, timeout), hello);
    match (written, answer) {
        (Err(error), Err(_)) => Err(CloseReason::Io(error.into())),
        (_, answer) => answer,
    }
}

/// Reads the hello of whoever dialled.
pub(super) fn read_hello(stream: &TcpStream, timeout: Duration) -> Result<Hello, CloseReason> {
    let mut reader = Timed::new(stream, timeout);
    let mut bytes = vec![0; PREFIX_BYTES];
    reader.exact(&mut bytes)?;
    if check_prefix(&bytes)? == v1::VERSION {
        return v1::read_hello(&mut reader, &bytes);
    }
    bytes.resize(PREFIX_BYTES + LENGTH_BYTES, 0);
    reader.exact(&mut bytes[PREFIX_BYTES..])?;
    let body_bytes = u32_at(&bytes, PREFIX_BYTES) as usize;
    if body_bytes > HELLO_BODY_BYTES_MAX {
        return Err(CloseReason::BadHandshake);
    }
    let at = bytes.len();
    bytes.resize(at + body_bytes + CRC_BYTES, 0);
    reader.exact(&mut bytes[at..])?;
    check_crc(&bytes)?;
    decode_hello(&bytes[at..at + body_bytes]).ok_or(CloseReason::BadHandshake)
}

/// Tells the dialling side that it is welcome, in its version.
pub(super) fn write_accept(stream: &TcpStream, accept: &Accept, version: u16) -> io::Result<()> {
    let answer = if version == v1::VERSION {
        v1::encode_accept(accept)
    } else {
        encode_accept(accept)
    };
    (&mut &*stream).write_all(&answer)
}

/// Tells the dialling side why it is not welcome, if the protocol has a word for it. `version` is the dialling side's, 1 if
/// it is not known: every version reads that.
pub(super) fn write_reject(
    stream: &TcpStream,
    reason: &CloseReason,
    version: u16,
) -> io::Result<()> {
    let (code, numbers) = match reason {
        // The same in all versions.
        CloseReason::Version { ours, .. } => {
            let answer = v1::encode_reject(VERSION, code::VERSION, u64::from(*ours));
            return (&mut &*stream).write_all(&answer);
        }
        CloseReason::WrongCluster { ours, .. } => (code::CLUSTER, [*ours, 0, 0, 0]),
        CloseReason::WrongNode { found, .. } => (code::NODE, [found.0, 0, 0, 0]),
        CloseReason::UnknownNode { .. } => (code::UNKNOWN_NODE, [0; 4]),
        CloseReason::TooMany => (code::TOO_MANY, [0; 4]),
        CloseReason::BadHandshake => (code::BAD_HANDSHAKE, [0; 4]),
        CloseReason::WrongGroups { ours, theirs } => {
            let refused = Refused::WrongGroups {
                ours: *ours,
                theirs: *theirs,
            };
            refused.to_wire().unwrap_or((code::BAD_HANDSHAKE, [0; 4]))
        }
        CloseReason::Identity(refused) => match refused.to_wire() {
            Some(told) => told,
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    let answer = if version == v1::VERSION {
        v1::encode_reject(v1::VERSION, code, numbers[0])
    } else {
        encode_reject(code, numbers, &reason.to_string())
    };
    (&mut &*stream).write_all(&answer)
}

/// What a reject gives as its reason. Those of [`Refused`] follow.
mod code {
    pub(super) const VERSION: u8 = 1;
    pub(super) const CLUSTER: u8 = 2;
    pub(super) const NODE: u8 = 3;
    pub(super) const UNKNOWN_NODE: u8 = 4;
    pub(super) const TOO_MANY: u8 = 5;
    pub(super) const BAD_HANDSHAKE: u8 = 6;
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let mut fields = FieldWriter::default();
    fields.put(tag::LANE, &[hello.lane as u8]);
    if let Some(cluster_id) = hello.cluster_id {
        fields.put(tag::CLUSTER, &cluster_id.to_le_bytes());
    }
    if let Some(from) = hello.from {
        fields.put(tag::NODE, &from.0.to_le_bytes());
    }
    if let Some(to) = hello.to {
        fields.put(tag::TO, &to.0.to_le_bytes());
    }
    if let Some(card) = &hello.card {
        card.write(&mut fields);
    }
    let body = fields.into_bytes();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + LENGTH_BYTES + body.len() + CRC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&VERSION_MIN.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    append_crc(bytes)
}

fn decode_hello(body: &[u8]) -> Option<Hello> {
    let fields = Fields::read(body)?;
    let node = |tag| {
        fields
            .u64(tag)
            .map(NodeId)
            .filter(|node| *node != NodeId::ZERO)
    };
    let hello = Hello {
        version: VERSION,
        cluster_id: fields.u64(tag::CLUSTER),
        from: node(tag::NODE),
        to: node(tag::TO),
        lane: Lane::from_byte(fields.u8(tag::LANE)?)?,
        card: None,
    };
    let Some(from) = hello.from else {
        return (hello.lane == Lane::Main).then_some(hello);
    };
    hello.to?;
    let card = NodeCard::read(from, hello.cluster_id?, &fields)?;
    Some(Hello {
        card: Some(card),
        ..hello
    })
}

fn encode_answer(version: u16, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ANSWER_HEADER_BYTES + body.len() + CRC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.push(kind);
    bytes.push(code);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    append_crc(bytes)
}

fn encode_accept(accept: &Accept) -> Vec<u8> {
    let mut fields = FieldWriter::default();
    fields.put(tag::CLUSTER, &accept.cluster_id.to_le_bytes());
    fields.put(tag::NODE, &accept.node.0.to_le_bytes());
    accept.card.write(&mut fields);
    // The options bound their number and the lengths of their addresses.
    for (tag, (node, address)) in (tag::NODES..).zip(&accept.nodes).take(NODES_MAX) {
        let mut content = node.0.to_le_bytes().to_vec();
        content.extend_from_slice(address.as_bytes());
        fields.put(tag, &content);
    }
    encode_answer(VERSION, ACCEPT, 0, &fields.into_bytes())
}

fn encode_reject(code: u8, numbers: [u64; 4], words: &str) -> Vec<u8> {
    let mut fields = FieldWriter::default();
    fields.put(tag::NUMBERS, &numbers.map(u64::to_le_bytes).concat());
    let mut end = words.len().min(WORDS_BYTES_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    fields.put(tag::WORDS, &words.as_bytes()[..end]);
    encode_answer(VERSION, REJECT, code, &fields.into_bytes())
}

fn read_answer(reader: &mut Timed<'_>, hello: &Hello) -> Result<Accept, CloseReason> {
    let mut bytes = vec![0; ANSWER_HEADER_BYTES];
    reader.exact(&mut bytes[..PREFIX_BYTES])?;
    if bytes[..8] != MAGIC {
        return Err(CloseReason::NotQuorate);
    }
    reader.exact(&mut bytes[PREFIX_BYTES..])?;
    let body_bytes = u32_at(&bytes, 12) as usize;
    if body_bytes > ANSWER_BODY_BYTES_MAX {
        return Err(CloseReason::BadHandshake);
    }
    bytes.resize(ANSWER_HEADER_BYTES + body_bytes + CRC_BYTES, 0);
    reader.exact(&mut bytes[ANSWER_HEADER_BYTES..])?;
    check_crc(&bytes)?;
    let version = u16_at(&bytes, 8);
    let body = &bytes[ANSWER_HEADER_BYTES..bytes.len() - CRC_BYTES];
    match (bytes[10], bytes[11]) {
        // Read whatever the version: it says which version is spoken there.
        (REJECT, code) if code == code::VERSION || version == v1::VERSION => {
            Err(v1::decode_reject(code, body, hello))
        }
        (REJECT, code) => Err(decode_reject(code, body, hello)),
        (ACCEPT, 0) if (VERSION_MIN..=VERSION).contains(&version) => {
            decode_accept(body).ok_or(CloseReason::BadHandshake)
        }
        (ACCEPT, 0) => Err(CloseReason::Version {
            ours: VERSION,
            theirs: version,
        }),
        _ => Err(CloseReason::BadHandshake),
    }
}

/// The same reason as on the other side, told from this one.
fn decode_reject(code: u8, body: &[u8], hello: &Hello) -> CloseReason {
    let fields = Fields::read(body);
    let Some(numbers) = fields.as_ref().and_then(|it| it.chunk::<32>(tag::NUMBERS)) else {
        return CloseReason::BadHandshake;
    };
    let numbers = [0, 8, 16, 24].map(|at| u64_at(&numbers, at));
    if let Some(reason) = reason_of(code, numbers[0], hello) {
        return reason;
    }
    match Refused::from_wire(code, numbers) {
        Some(refused) => refused.into(),
        // In its own words, which may be anybody's: only what can be shown is.
        None => CloseReason::Refused {
            code,
            words: fields
                .and_then(|it| it.text(tag::WORDS))
                .unwrap_or_default()
                .chars()
                .filter(|it| !is_obeyed(*it))
                .take(WORDS_BYTES_MAX)
                .collect(),
        },
    }
}

/// Whether a terminal obeys a character, breaks the line or turns the direction of text, instead of showing it.
fn is_obeyed(character: char) -> bool {
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}'];
    character.is_control()
        || turns.contains(&character)
        || ('\u{2028}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character)
}

/// What the codes of the first version say; `None`: it is none of them.
fn reason_of(code: u8, theirs: u64, hello: &Hello) -> Option<CloseReason> {
    Some(match code {
        code::VERSION => CloseReason::Version {
            ours: VERSION,
            theirs: theirs as u16,
        },
        code::CLUSTER => CloseReason::WrongCluster {
            ours: hello.cluster_id.unwrap_or(0),
            theirs,
        },
        code::NODE => CloseReason::WrongNode {
            expected: hello.to.unwrap_or_default(),
            found: NodeId(theirs),
        },
        code::UNKNOWN_NODE => CloseReason::UnknownNode {
            node: hello.from.unwrap_or_default(),
        },
        code::TOO_MANY => CloseReason::TooMany,
        code::BAD_HANDSHAKE => CloseReason::BadHandshake,
        _ => return None,
    })
}

/// The only place where an accept is read and checked.
fn decode_accept(body: &[u8]) -> Option<Accept> {
    let fields = Fields::read(body)?;
    let (cluster_id, node) = (fields.u64(tag::CLUSTER)?, NodeId(fields.u64(tag::NODE)?));
    let card = NodeCard::read(node, cluster_id, &fields)?;
    let last = tag::NODES + (NODES_MAX as u16 - 1);
    let mut nodes = Vec::new();
    for content in fields.range(tag::NODES..=last) {
        let (id, address) = content.split_first_chunk()?;
        if address.len() > ADDRESS_BYTES_MAX {
            return None;
        }
        let address = std::str::from_utf8(address).ok()?;
        nodes.push((NodeId(u64::from_le_bytes(*id)), address.to_owned()));
    }
    let named = node != NodeId::ZERO && nodes.iter().all(|(node, _)| *node != NodeId::ZERO);
    (named && is_cluster(cluster_id, card.groups)).then_some(Accept {
        cluster_id,
        node,
        groups: card.groups,
        card,
        nodes,
    })
}

/// Whether these can be a cluster's id and number of groups. A client makes something for each group: what it is
/// told must be checked before it is believed.
pub(super) fn is_cluster(cluster_id: u64, groups: u32) -> bool {
    cluster_id != 0 && (1..=GROUPS_MAX).contains(&groups)
}

/// The version that both sides speak: this one's, or that of a clerk of version 1.
fn check_prefix(bytes: &[u8]) -> Result<u16, CloseReason> {
    if bytes[..8] != MAGIC {
        return Err(CloseReason::NotQuorate);
    }
    let (theirs, lowest) = (u16_at(bytes, 8), u16_at(bytes, 10));
    match theirs {
        v1::VERSION => Ok(v1::VERSION),
        _ if theirs >= VERSION_MIN && (1..=VERSION).contains(&lowest) => Ok(VERSION),
        _ => Err(CloseReason::Version {
            ours: VERSION,
            theirs,
        }),
    }
}

fn append_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn check_crc(bytes: &[u8]) -> Result<(), CloseReason> {
    let (checked, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    if crc32fast::hash(checked) == u32_at(crc, 0) {
        Ok(())
    } else {
        Err(CloseReason::BadHandshake)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        bytes[at..at + 8]
            .try_into()
            .expect("eight bytes were taken"),
    )
}

/// Reads with one deadline for all reads together, so that a byte now and then buys no time.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
    timeout: Duration,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a TcpStream, timeout: Duration) -> Self {
        Self {
            stream,
            deadline: Instant::now() + timeout,
            timeout,
        }
    }

    fn exact(&mut self, mut bytes: &mut [u8]) -> Result<(), CloseReason> {
        while !bytes.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.too_late());
            }
            self.stream
                .set_read_timeout(Some(left))
                .map_err(|e| CloseReason::Io(e.into()))?;
            match (&mut &*self.stream).read(bytes) {
                Ok(0) => return Err(CloseReason::PeerClosed),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(self.too_late()),
                Err(error) => return Err(CloseReason::Io(error.into())),
            }
        }
        Ok(())
    }

    fn too_late(&self) -> CloseReason {
        CloseReason::HandshakeTimeout {
            timeout_ms: self.timeout.as_millis() as u64,
        }
    }
}

/// A socket whose time is up says one or the other, by platform.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests;
