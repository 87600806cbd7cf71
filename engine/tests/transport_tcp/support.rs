//! Nodes whose inbox and events are channels, and raw connections written by hand from
//! `docs/wire.md`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use bytes::Bytes;
use quorate::transport::tcp::{TcpLimits, TcpOptions, TcpTransport, TransportEvent};
use quorate::transport::{Frame, Inbox, Origin, Request, RequestBody, RequestId};
use quorate_raft::NodeId;
use quorate_wal::GroupId;

pub(crate) const ONE: NodeId = NodeId(1);
pub(crate) const TWO: NodeId = NodeId(2);
pub(crate) const CLUSTER: u64 = 7;
pub(crate) const GROUPS: u32 = 16;

/// Long after anything that works has happened.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A node on the loopback interface.
pub(crate) struct Node {
    pub(crate) transport: Arc<TcpTransport>,
    pub(crate) frames: Receiver<(Origin, Frame)>,
    pub(crate) events: Receiver<TransportEvent>,
    /// Held by the transport too, for as long as one of its threads lives.
    pub(crate) inbox: Arc<Recorder>,
    /// Nodes whose connection was lost.
    pub(crate) lost: Receiver<NodeId>,
}

pub(crate) struct Recorder(Sender<(Origin, Frame)>, Sender<NodeId>);

impl Inbox for Recorder {
    fn deliver(&self, from: Origin, frame: Frame) {
        // The test may be over.
        let _ = self.0.send((from, frame));
    }

    fn disconnected(&self, node: NodeId) {
        let _ = self.1.send(node);
    }
}

impl Node {
    pub(crate) fn start(
        node: NodeId,
        listener: TcpListener,
        peers: &[(NodeId, String)],
        limits: TcpLimits,
    ) -> Self {
        let (options, events) = options(node, peers, limits);
        let (frames_to, frames) = mpsc::channel();
        let (lost_to, lost) = mpsc::channel();
        let inbox = Arc::new(Recorder(frames_to, lost_to));
        let transport =
            TcpTransport::bind_socket(options, listener, Arc::clone(&inbox) as Arc<dyn Inbox>)
                .unwrap();
        Self {
            transport,
            frames,
            events,
            inbox,
            lost,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub(crate) fn next_frame(&self) -> (Origin, Frame) {
        self.frames.recv_timeout(DEADLINE).unwrap()
    }

    /// Waits for an event, past others.
    pub(crate) fn wait_for<T>(&self, want: impl FnMut(TransportEvent) -> Option<T>) -> T {
        wait_for(&self.events, want)
    }

    pub(crate) fn wait_connected(&self, to: NodeId) {
        self.wait_for(|event| match event {
            TransportEvent::Connected { node, .. } if node == to => Some(()),
            _ => None,
        });
    }
}

pub(crate) fn wait_for<T>(
    events: &Receiver<TransportEvent>,
    mut want: impl FnMut(TransportEvent) -> Option<T>,
) -> T {
    loop {
        if let Some(found) = want(events.recv_timeout(DEADLINE).unwrap()) {
            return found;
        }
    }
}

pub(crate) fn options(
    node: NodeId,
    peers: &[(NodeId, String)],
    limits: TcpLimits,
) -> (TcpOptions, Receiver<TransportEvent>) {
    let (events_to, events) = mpsc::channel();
    let mut options = TcpOptions::new(node, CLUSTER, "127.0.0.1:0", peers.iter().cloned());
    options.groups = GROUPS;
    options.limits = limits;
    options.observer = Some(Arc::new(move |event: &TransportEvent| {
        let _ = events_to.send(event.clone());
    }));
    (options, events)
}

/// A socket of the loopback interface, and its address.
pub(crate) fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Nodes 1 and 2, connected in both directions.
pub(crate) fn pair(limits: TcpLimits) -> (Node, Node) {
    pair_among(&[], limits)
}

/// Nodes 1 and 2, with a third that is not there: a stranger can play it.
pub(crate) fn pair_of_three(limits: TcpLimits) -> (Node, Node) {
    let (vacant, nowhere) = listener();
    drop(vacant);
    pair_among(&[(NodeId(3), nowhere)], limits)
}

fn pair_among(others: &[(NodeId, String)], limits: TcpLimits) -> (Node, Node) {
    let ((listener_one, at_one), (listener_two, at_two)) = (listener(), listener());
    let peers = [&[(ONE, at_one), (TWO, at_two)], others].concat();
    let one = Node::start(ONE, listener_one, &peers, limits);
    let two = Node::start(TWO, listener_two, &peers, limits);
    one.wait_connected(TWO);
    two.wait_connected(ONE);
    (one, two)
}

pub(crate) fn numbered(id: u64) -> Frame {
    request(id, Bytes::new())
}

pub(crate) fn request(id: u64, command: Bytes) -> Frame {
    Frame::Request(Request {
        id: RequestId(id),
        group: GroupId(0),
        body: RequestBody::Propose { command },
    })
}

pub(crate) fn id_of(frame: &Frame) -> u64 {
    match frame {
        Frame::Request(request) => request.id.0,
        other => panic!("not a request: {other:?}"),
    }
}

/// The fields of a hello; the default is that of a clerk.
#[derive(Clone, Copy)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) lane: u8,
    pub(crate) cluster: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            version: 2,
            lane: 0,
            cluster: CLUSTER,
            from: 0,
            to: 0,
        }
    }
}

impl Hello {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.add(1, &[self.lane]);
        fields.add(2, &self.cluster.to_le_bytes());
        if self.from != 0 {
            fields.add(3, &self.from.to_le_bytes());
        }
        if self.to != 0 {
            fields.add(4, &self.to.to_le_bytes());
        }
        if self.from != 0 {
            fields.add_bare_card();
        }
        let mut bytes = b"QUORATE\n".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(u32::try_from(fields.0.len()).unwrap().to_le_bytes());
        bytes.extend(fields.0);
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }
}

/// Tagged fields by hand.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn add(&mut self, tag: u16, content: &[u8]) {
        self.0.extend(tag.to_le_bytes());
        self.0
            .extend(u16::try_from(content.len()).unwrap().to_le_bytes());
        self.0.extend(content);
    }

    /// Of a node that has no directory.
    fn add_bare_card(&mut self) {
        self.add(16, &GROUPS.to_le_bytes());
        let bytes: [(u16, usize); 5] = [(17, 8), (18, 16), (19, 0), (20, 9), (21, 24)];
        for (tag, len) in bytes {
            self.add(tag, &vec![0; len]);
        }
        self.add(22, &[1, 0, 0, 0, 1, 0, 0, 0]);
        self.add(23, &[1]);
        self.add(24, b"");
        self.add(25, b"");
    }
}

/// A connection to a node, without the transport's help.
pub(crate) fn dial(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// The kind, the code, and the body of an answer.
pub(crate) fn read_answer(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[..8], *b"QUORATE\n");
    let length = u32::from_le_bytes(header[12..].try_into().unwrap()) as usize;
    let mut rest = vec![0; length + 4];
    stream.read_exact(&mut rest).unwrap();
    rest.truncate(length);
    (header[10], header[11], rest)
}

/// The content of a field of an answer's body.
pub(crate) fn field(body: &[u8], wanted: u16) -> Vec<u8> {
    let mut rest = body;
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let [tag, len] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_le_bytes);
        let (content, behind) = behind.split_at(usize::from(len));
        if tag == wanted {
            return content.to_vec();
        }
        rest = behind;
    }
    panic!("no field {wanted}");
}

/// An accept by hand, for a node without other nodes.
pub(crate) fn accept_bytes(node: u64) -> Vec<u8> {
    let mut fields = Fields::default();
    fields.add(2, &CLUSTER.to_le_bytes());
    fields.add(3, &node.to_le_bytes());
    fields.add_bare_card();
    let mut bytes = b"QUORATE\n".to_vec();
    bytes.extend([2, 0, 1, 0]);
    bytes.extend(u32::try_from(fields.0.len()).unwrap().to_le_bytes());
    bytes.extend(fields.0);
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// A frame by hand.
pub(crate) fn frame_bytes(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend([kind, 0, 0, 0]);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes);
    crc.update(body);
    bytes.extend(crc.finalize().to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Reads to the end of the connection: returns only if the other side closes it.
pub(crate) fn read_to_close(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}
