//! How two ends introduce themselves (`docs/wire.md`): a hello, and an answer to it.
//!
//! Invariants:
//! - The first twelve bytes of both, magic and version, are the same in all versions for ever.
//! - Nothing is allocated for a stranger but a buffer of a fixed size, and no read waits beyond the
//!   handshake's deadline.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use quorate_raft::NodeId;

use super::event::{CloseReason, Lane};
use super::options::{ADDRESS_BYTES_MAX, NODES_MAX};
use crate::partition::GROUPS_MAX;

/// The version of the protocol spoken here.
pub(super) const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"QUORATE\n";
const PREFIX_BYTES: usize = 12;
const HELLO_BYTES: usize = 40;
const ANSWER_HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// An accept with as many nodes as there may be, each with the longest address.
const ANSWER_BODY_BYTES_MAX: usize = 24 + NODES_MAX * (8 + 2 + ADDRESS_BYTES_MAX);

const CLUSTER_STATED: u8 = 1;
const ACCEPT: u8 = 1;
const REJECT: u8 = 2;

/// What the dialling side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// `None`: a clerk that will take any.
    pub(super) cluster_id: Option<u64>,
    /// `None`: a clerk.
    pub(super) from: Option<NodeId>,
    /// `None`: a clerk that does not know yet whom it calls.
    pub(super) to: Option<NodeId>,
    pub(super) lane: Lane,
}

/// What the listening side says of itself when it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) cluster_id: u64,
    pub(super) node: NodeId,
    pub(super) groups: u32,
    pub(super) nodes: Vec<(NodeId, String)>,
}

/// Introduces this side over a fresh stream, and reads the answer.
pub(super) fn introduce(
    stream: &TcpStream,
    hello: &Hello,
    timeout: Duration,
) -> Result<Accept, CloseReason> {
    stream
        .set_write_timeout(Some(timeout))
        .map_err(|e| CloseReason::Io(e.kind()))?;
    // A listener that is full refuses before it has read; its answer is read even if the hello
    // could not be written.
    let written = (&mut &*stream).write_all(&encode_hello(hello));
    let answer = read_answer(&mut Timed::new(stream, timeout), hello);
    match (written, answer) {
        (Err(error), Err(_)) => Err(CloseReason::Io(error.kind())),
        (_, answer) => answer,
    }
}

/// Reads the hello of whoever dialled.
pub(super) fn read_hello(stream: &TcpStream, timeout: Duration) -> Result<Hello, CloseReason> {
    let mut reader = Timed::new(stream, timeout);
    let mut bytes = [0; HELLO_BYTES + CRC_BYTES];
    reader.exact(&mut bytes[..PREFIX_BYTES])?;
    check_prefix(&bytes)?;
    reader.exact(&mut bytes[PREFIX_BYTES..])?;
    check_crc(&bytes)?;
    decode_hello(&bytes)
}

/// Tells the dialling side that it is welcome.
pub(super) fn write_accept(stream: &TcpStream, accept: &Accept) -> io::Result<()> {
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
    (&mut &*stream).write_all(&encode_answer(ACCEPT, 0, &body))
}

/// Tells the dialling side why it is not welcome, if the protocol has a word for it.
pub(super) fn write_reject(stream: &TcpStream, reason: &CloseReason) -> io::Result<()> {
    let (code, ours) = match reason {
        CloseReason::Version { ours, .. } => (code::VERSION, u64::from(*ours)),
        CloseReason::WrongCluster { ours, .. } => (code::CLUSTER, *ours),
        CloseReason::WrongNode { found, .. } => (code::NODE, found.0),
        CloseReason::UnknownNode { .. } => (code::UNKNOWN_NODE, 0),
        CloseReason::TooMany => (code::TOO_MANY, 0),
        CloseReason::BadHandshake => (code::BAD_HANDSHAKE, 0),
        _ => return Ok(()),
    };
    (&mut &*stream).write_all(&encode_answer(REJECT, code, &ours.to_le_bytes()))
}

/// What a reject gives as its reason.
mod code {
    pub(super) const VERSION: u8 = 1;
    pub(super) const CLUSTER: u8 = 2;
    pub(super) const NODE: u8 = 3;
    pub(super) const UNKNOWN_NODE: u8 = 4;
    pub(super) const TOO_MANY: u8 = 5;
    pub(super) const BAD_HANDSHAKE: u8 = 6;
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HELLO_BYTES + CRC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.push(hello.lane as u8);
    bytes.push(if hello.cluster_id.is_some() {
        CLUSTER_STATED
    } else {
        0
    });
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&hello.cluster_id.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&hello.from.map_or(0, |node| node.0).to_le_bytes());
    bytes.extend_from_slice(&hello.to.map_or(0, |node| node.0).to_le_bytes());
    assert_eq!(bytes.len(), HELLO_BYTES);
    append_crc(bytes)
}

fn decode_hello(bytes: &[u8; HELLO_BYTES + CRC_BYTES]) -> Result<Hello, CloseReason> {
    let lane = Lane::from_byte(bytes[12]).ok_or(CloseReason::BadHandshake)?;
    let stated = match bytes[13] {
        0 => false,
        CLUSTER_STATED => true,
        _ => return Err(CloseReason::BadHandshake),
    };
    let node = |at| Some(NodeId(u64_at(bytes, at))).filter(|node| *node != NodeId::ZERO);
    let hello = Hello {
        cluster_id: stated.then(|| u64_at(bytes, 16)),
        from: node(24),
        to: node(32),
        lane,
    };
    let incomplete = hello.from.is_some() && (hello.to.is_none() || hello.cluster_id.is_none());
    let clerk_lane = hello.from.is_some() || hello.lane == Lane::Main;
    if bytes[10..12] != [0; 2] || bytes[14..16] != [0; 2] || incomplete || !clerk_lane {
        return Err(CloseReason::BadHandshake);
    }
    Ok(hello)
}

fn encode_answer(kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    assert!(
        body.len() <= ANSWER_BODY_BYTES_MAX,
        "the options bound the list of nodes"
    );
    let mut bytes = Vec::with_capacity(ANSWER_HEADER_BYTES + body.len() + CRC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(kind);
    bytes.push(code);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    append_crc(bytes)
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
    let body = &bytes[ANSWER_HEADER_BYTES..bytes.len() - CRC_BYTES];
    match bytes[10] {
        // A reject is read whatever the version: it says which version is spoken there.
        REJECT => Err(decode_reject(bytes[11], body, hello)),
        ACCEPT => {
            check_prefix(&bytes)?;
            decode_accept(body).ok_or(CloseReason::BadHandshake)
        }
        _ => Err(CloseReason::BadHandshake),
    }
}

/// The same reason as on the other side, told from this one.
fn decode_reject(code: u8, body: &[u8], hello: &Hello) -> CloseReason {
    let Some(theirs) = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return CloseReason::BadHandshake;
    };
    match code {
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
        code => CloseReason::Refused(code),
    }
}

fn decode_accept(body: &[u8]) -> Option<Accept> {
    let (fixed, mut rest) = body.split_at_checked(24)?;
    let count = u32_at(fixed, 20) as usize;
    if count > NODES_MAX {
        return None;
    }
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        let (fixed, tail) = rest.split_at_checked(10)?;
        let address_bytes = usize::from(u16::from_le_bytes([fixed[8], fixed[9]]));
        let (address, tail) = tail.split_at_checked(address_bytes)?;
        nodes.push((
            NodeId(u64_at(fixed, 0)),
            String::from_utf8(address.to_vec()).ok()?,
        ));
        rest = tail;
    }
    let accept = Accept {
        cluster_id: u64_at(fixed, 0),
        node: NodeId(u64_at(fixed, 8)),
        groups: u32_at(fixed, 16),
        nodes,
    };
    let named = accept.node != NodeId::ZERO && accept.nodes.iter().all(|n| n.0 != NodeId::ZERO);
    let is_sound = named && is_cluster(accept.cluster_id, accept.groups);
    (rest.is_empty() && is_sound).then_some(accept)
}

/// Whether these can be a cluster's id and number of groups. A client makes something for each group: what it is
/// told must be checked before it is believed.
pub(super) fn is_cluster(cluster_id: u64, groups: u32) -> bool {
    cluster_id != 0 && (1..=GROUPS_MAX).contains(&groups)
}

fn check_prefix(bytes: &[u8]) -> Result<(), CloseReason> {
    if bytes[..8] != MAGIC {
        return Err(CloseReason::NotQuorate);
    }
    match u16::from_le_bytes([bytes[8], bytes[9]]) {
        VERSION => Ok(()),
        theirs => Err(CloseReason::Version {
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
                .map_err(|e| CloseReason::Io(e.kind()))?;
            match (&mut &*self.stream).read(bytes) {
                Ok(0) => return Err(CloseReason::PeerClosed),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(self.too_late()),
                Err(error) => return Err(CloseReason::Io(error.kind())),
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
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// The bytes of an example in `docs/wire.md`.
    fn example(name: &str) -> Vec<u8> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, rest) = page.split_once(&format!("```hex {name}\n")).unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        let hex = block
            .lines()
            .flat_map(|line| line.split("  ").next().unwrap().split(' '));
        hex.map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (dialled, listener.accept().unwrap().0)
    }

    fn hello() -> Hello {
        Hello {
            cluster_id: Some(7),
            from: None,
            to: Some(NodeId(2)),
            lane: Lane::Main,
        }
    }

    fn accept() -> Accept {
        let nodes = vec![(NodeId(2), "h:1".to_owned())];
        Accept {
            cluster_id: 7,
            node: NodeId(2),
            groups: 16,
            nodes,
        }
    }

    #[test]
    fn the_documented_hello_is_the_one_sent_and_understood() {
        assert_eq!(encode_hello(&hello()), example("hello"));
        let (dialled, accepted) = pair();
        (&dialled).write_all(&example("hello")).unwrap();
        assert_eq!(read_hello(&accepted, TIMEOUT), Ok(hello()));
    }

    #[test]
    fn the_documented_accept_is_the_one_sent_and_understood() {
        let (dialled, accepted) = pair();
        write_accept(&accepted, &accept()).unwrap();
        let mut sent = vec![0; example("accept").len()];
        (&dialled).read_exact(&mut sent).unwrap();
        assert_eq!(sent, example("accept"));
        (&accepted).write_all(&example("accept")).unwrap();
        assert_eq!(introduce(&dialled, &hello(), TIMEOUT), Ok(accept()));
    }

    #[test]
    fn no_flipped_bit_of_a_hello_passes() {
        let bytes: [u8; HELLO_BYTES + CRC_BYTES] = example("hello").try_into().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let passes = check_prefix(&flipped).and_then(|()| check_crc(&flipped));
            assert!(passes.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_damaged_accept_panics_or_passes_for_another() {
        let whole = example("accept");
        let body = &whole[ANSWER_HEADER_BYTES..whole.len() - CRC_BYTES];
        assert_eq!(decode_accept(body), Some(accept()));
        for end in 0..body.len() {
            assert_eq!(decode_accept(&body[..end]), None, "cut at {end}");
        }
        for bit in 0..body.len() * 8 {
            let mut flipped = body.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(decode_accept(&flipped), Some(accept()), "bit {bit}");
        }
    }

    #[test]
    fn each_reject_means_the_same_on_both_sides() {
        let asked = Hello {
            cluster_id: Some(7),
            from: Some(NodeId(1)),
            to: Some(NodeId(2)),
            lane: Lane::Snapshot,
        };
        let told = [
            CloseReason::TooMany,
            CloseReason::BadHandshake,
            CloseReason::UnknownNode { node: NodeId(1) },
            CloseReason::WrongNode {
                expected: NodeId(2),
                found: NodeId(3),
            },
        ];
        for reason in told {
            let (dialled, accepted) = pair();
            write_reject(&accepted, &reason).unwrap();
            assert_eq!(introduce(&dialled, &asked, TIMEOUT), Err(reason));
        }
        let (dialled, accepted) = pair();
        let here = CloseReason::WrongCluster { ours: 8, theirs: 7 };
        write_reject(&accepted, &here).unwrap();
        let there = CloseReason::WrongCluster { ours: 7, theirs: 8 };
        assert_eq!(introduce(&dialled, &asked, TIMEOUT), Err(there));
    }

    /// A later version need only keep the first twelve bytes and the reject of code 1.
    #[test]
    fn a_reject_of_another_version_names_both() {
        let (dialled, accepted) = pair();
        let mut answer = encode_answer(REJECT, code::VERSION, &9_u64.to_le_bytes());
        answer[8] = 9;
        let crc = crc32fast::hash(&answer[..answer.len() - CRC_BYTES]).to_le_bytes();
        let at = answer.len() - CRC_BYTES;
        answer[at..].copy_from_slice(&crc);
        (&accepted).write_all(&answer).unwrap();
        let reason = CloseReason::Version {
            ours: VERSION,
            theirs: 9,
        };
        assert_eq!(introduce(&dialled, &hello(), TIMEOUT), Err(reason));
    }
}
