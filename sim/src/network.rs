//! The virtual network: a directed link from every node to every other, and one from every clerk to every node and back.
//!
//! Invariants:
//! - A frame between nodes may be lost, repeated, delayed, overtaken; a request is never repeated, as no transport repeats
//!   it, and nothing of a clerk.
//! - What is damaged never arrives as another frame: the codec refuses it and the connection ends.

use quorate::transport::Frame;
use quorate::transport::codec::{Arrived, FrameBuffer, encode_frame};

use crate::faults::{FaultClass, SwarmPlan};
use crate::seed::{Rng, Stream};

mod scripted;

pub use scripted::Unreliability;

const MS: u64 = 1_000_000;

/// How long a frame takes at least, and on average on top of that, where nothing is wrong.
const DELAY_MIN_NS: u64 = 50_000;
const DELAY_NS: u64 = 200_000;

/// More than any frame of a run takes.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A node, by its place.
    Node(usize),
    /// A clerk, by its place.
    Clerk(usize),
}

/// A frame on its way.
#[derive(Debug)]
pub enum Packet {
    /// As it is.
    Moved(Frame),
    /// As bytes, whole or not, sound or not.
    Bytes(Vec<u8>),
}

/// What becomes of a frame that is handed over.
#[derive(Debug, Default)]
pub struct Route {
    /// When it arrives, once or twice or not at all.
    pub arrivals: Vec<(u64, Packet)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    is_cut: bool,
    clogged_until_ns: u64,
    last_arrival_ns: u64,
}

/// A link whose last frame arrives within this holds nothing up.
const CLEAR_NS: u64 = 10 * MS;

/// What links do to frames in general.
#[derive(Clone, Copy, Debug)]
struct Quality {
    drop_permille: u32,
    duplicate_permille: u32,
    reset_permille: u32,
    flip_permille: u32,
    delay_min_ns: u64,
    delay_mean_ns: u64,
    is_in_order: bool,
    /// What a script asked for.
    scripted: Option<Unreliability>,
}

/// All links.
pub struct Network {
    rng: Rng,
    nodes: usize,
    is_encoded: bool,
    /// From node to node, from clerk to node, from node to clerk, in this order.
    links: Vec<Link>,
    quality: Quality,
    /// What they are like in trouble.
    troubled: Quality,
    /// Empty between two frames.
    buffer: FrameBuffer,
}

impl Network {
    /// The links of a run.
    pub fn new(seed: u64, nodes: usize, clerks: usize, is_encoded: bool, plan: &SwarmPlan) -> Self {
        let mut rng = Rng::of(seed, Stream::Network);
        let troubled = Quality::draw(&mut rng, plan);
        Self {
            rng,
            nodes,
            is_encoded,
            links: vec![Link::default(); nodes * nodes + 2 * nodes * clerks],
            quality: Quality::CALM,
            troubled,
            buffer: FrameBuffer::new(FRAME_BYTES_MAX),
        }
    }

    /// Sends a frame.
    pub fn send(&mut self, now_ns: u64, from: Endpoint, to: Endpoint, frame: Frame) -> Route {
        let mut route = Route::default();
        let between_nodes = matches!((from, to), (Endpoint::Node(_), Endpoint::Node(_)));
        // Drawn whatever becomes of it, so that the cut of one link does not move the others.
        let is_lost = self.rng.permille(self.quality.drop_permille);
        let repeats = self.rng.permille(self.quality.duplicate_permille);
        let delay_ns = self.delay_ns() + self.scripted_delay_ns(&frame);
        let place = self.place(from, to);
        let link = &mut self.links[place];
        if link.is_cut || is_lost {
            return route;
        }
        let mut at_ns = (now_ns + delay_ns).max(link.clogged_until_ns);
        if self.quality.is_in_order {
            at_ns = at_ns.max(link.last_arrival_ns);
            link.last_arrival_ns = at_ns;
        }
        // A request that is repeated by the network could take effect after its client was told that it did not.
        // An answer may come twice: whoever asked took the first one.
        let is_message = !matches!(frame, Frame::Request(_));
        if repeats && between_nodes && is_message {
            let late_ns = self.rng.wait(200 * MS);
            let packet = self.pack(frame.clone());
            route.arrivals.push((at_ns + late_ns, packet));
        }
        let packet = self.pack(frame);
        route.arrivals.push((at_ns, packet));
        route
    }

    /// What arrives. `None`: the connection broke in the middle of the frame, or what came is no frame.
    pub fn open(&mut self, packet: Packet) -> Option<Frame> {
        let bytes = match packet {
            Packet::Moved(frame) => return Some(frame),
            Packet::Bytes(bytes) => bytes,
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let room = self.buffer.room();
            let len = room.len().min(rest.len());
            room[..len].copy_from_slice(&rest[..len]);
            self.buffer.advance(len);
            rest = &rest[len..];
        }
        let arrived = self.buffer.next_frame();
        if let Ok(Some(Arrived::Frame(frame))) = arrived {
            return Some(frame);
        }
        // The connection ends, and with it what came of the frame.
        self.buffer = FrameBuffer::new(FRAME_BYTES_MAX);
        None
    }

    /// Cuts one direction, or mends it.
    pub fn set_cut(&mut self, from: Endpoint, to: Endpoint, is_cut: bool) {
        let place = self.place(from, to);
        self.links[place].is_cut = is_cut;
    }

    /// Holds back everything on one direction until then.
    pub fn clog(&mut self, from: Endpoint, to: Endpoint, until_ns: u64) {
        let place = self.place(from, to);
        self.links[place].clogged_until_ns = until_ns;
    }

    /// Cuts a node off from everybody, both ways.
    pub fn isolate(&mut self, node: usize) {
        for (from, to) in self.pairs() {
            if from == Endpoint::Node(node) || to == Endpoint::Node(node) {
                self.set_cut(from, to, true);
            }
        }
    }

    /// Cuts a node off from all other nodes, both ways; clerks still reach it.
    pub fn isolate_from_nodes(&mut self, node: usize) {
        for other in 0..self.nodes {
            let (node, other) = (Endpoint::Node(node), Endpoint::Node(other));
            self.set_cut(node, other, true);
            self.set_cut(other, node, true);
        }
    }

    /// Two halves that share one node: who is in no half with the other does not reach it.
    pub fn bridge(&mut self, halves: &[(bool, bool)]) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                let (a, b) = (halves[from], halves[to]);
                let is_cut = !(a.0 && b.0 || a.1 && b.1);
                self.set_cut(Endpoint::Node(from), Endpoint::Node(to), is_cut);
            }
        }
    }

    /// Mends all that was cut and lets go of what was held back.
    pub fn mend(&mut self) {
        for link in &mut self.links {
            link.is_cut = false;
            link.clogged_until_ns = 0;
        }
    }

    /// Whether what is sent now is not held up by what was sent before between nodes: one that is late keeps those behind it
    /// waiting, also once nothing happens to frames any more.
    pub fn is_clear(&self, now_ns: u64) -> bool {
        let between_nodes = &self.links[..self.nodes * self.nodes];
        let until_ns = now_ns + CLEAR_NS;
        between_nodes
            .iter()
            .all(|link| link.last_arrival_ns <= until_ns)
    }

    /// Frames get lost, repeated, delayed and damaged from here on, as the plan says.
    pub fn trouble(&mut self) {
        self.quality = self.troubled;
    }

    /// Nothing happens to frames from here on. What is on its way stays as it is.
    pub fn calm(&mut self) {
        self.mend();
        self.quality = Quality::CALM;
    }

    fn delay_ns(&mut self) -> u64 {
        self.quality.delay_min_ns + self.rng.wait(self.quality.delay_mean_ns)
    }

    fn pack(&mut self, frame: Frame) -> Packet {
        if !self.is_encoded {
            return Packet::Moved(frame);
        }
        let mut bytes =
            encode_frame(&frame, FRAME_BYTES_MAX).expect("a run has no frames over the limit");
        if self.rng.permille(self.quality.flip_permille) {
            let bit = self.rng.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if self.rng.permille(self.quality.reset_permille) {
            let len = self.rng.index(bytes.len());
            bytes.truncate(len);
        }
        Packet::Bytes(bytes)
    }

    fn pairs(&self) -> Vec<(Endpoint, Endpoint)> {
        let clerks = (self.links.len() - self.nodes * self.nodes) / (2 * self.nodes);
        let mut pairs = Vec::with_capacity(self.links.len());
        for node in 0..self.nodes {
            for other in 0..self.nodes {
                pairs.push((Endpoint::Node(node), Endpoint::Node(other)));
            }
            for clerk in 0..clerks {
                pairs.push((Endpoint::Clerk(clerk), Endpoint::Node(node)));
                pairs.push((Endpoint::Node(node), Endpoint::Clerk(clerk)));
            }
        }
        pairs
    }

    fn place(&self, from: Endpoint, to: Endpoint) -> usize {
        let nodes = self.nodes;
        match (from, to) {
            (Endpoint::Node(from), Endpoint::Node(to)) => from * nodes + to,
            (Endpoint::Clerk(clerk), Endpoint::Node(node)) => {
                nodes * nodes + 2 * (clerk * nodes + node)
            }
            (Endpoint::Node(node), Endpoint::Clerk(clerk)) => {
                nodes * nodes + 2 * (clerk * nodes + node) + 1
            }
            (Endpoint::Clerk(_), Endpoint::Clerk(_)) => unreachable!("clerks do not talk"),
        }
    }
}

impl Quality {
    const CALM: Self = Self {
        drop_permille: 0,
        duplicate_permille: 0,
        reset_permille: 0,
        flip_permille: 0,
        delay_min_ns: DELAY_MIN_NS,
        delay_mean_ns: DELAY_NS,
        is_in_order: true,
        scripted: None,
    };

    fn draw(rng: &mut Rng, plan: &SwarmPlan) -> Self {
        // All are drawn, whatever is on.
        let (drop, duplicate) = (rng.between(5, 200), rng.between(5, 300));
        let (reset, flip) = (rng.between(1, 50), rng.between(1, 50));
        let slow_ns = rng.between(1, 60) * MS;
        let on = |class, permille: u64| if plan.has(class) { permille as u32 } else { 0 };
        Self {
            drop_permille: on(FaultClass::Drop, drop),
            duplicate_permille: on(FaultClass::Duplicate, duplicate),
            reset_permille: on(FaultClass::Reset, reset),
            flip_permille: on(FaultClass::FlipBit, flip),
            delay_min_ns: DELAY_MIN_NS,
            delay_mean_ns: if plan.has(FaultClass::Delay) {
                slow_ns
            } else {
                DELAY_NS
            },
            is_in_order: !plan.has(FaultClass::Reorder),
            scripted: None,
        }
    }
}

impl Packet {
    /// A number for the trace.
    pub fn number(&self) -> u64 {
        match self {
            Self::Moved(Frame::Raft(messages)) => messages.len() as u64,
            Self::Moved(_) => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate::transport::{Reply, RequestId};
    use quorate::transport::{ReplyBody, Request, RequestBody};
    use quorate::{Bytes, GroupId};

    use super::*;
    use crate::faults::FAULT_CLASSES;

    const NODE: Endpoint = Endpoint::Node(0);
    const OTHER: Endpoint = Endpoint::Node(1);
    const CLERK: Endpoint = Endpoint::Clerk(0);

    fn network(classes: &[FaultClass], is_encoded: bool) -> Network {
        let plan = SwarmPlan {
            classes: classes.to_vec(),
            gap_ns: 1,
        };
        let mut network = Network::new(7, 3, 2, is_encoded, &plan);
        network.trouble();
        network
    }

    fn message() -> Frame {
        Frame::Raft(Vec::new())
    }

    fn request(number: u64) -> Frame {
        Frame::Request(Request {
            id: RequestId(number),
            group: GroupId(3),
            body: RequestBody::Propose {
                command: Bytes::from(vec![number as u8; 40]),
            },
        })
    }

    fn sends(network: &mut Network, from: Endpoint, to: Endpoint, count: usize) -> Vec<Route> {
        (0..count)
            .map(|_| network.send(1, from, to, message()))
            .collect()
    }

    #[test]
    fn a_calm_network_brings_each_frame_once_and_in_order() {
        for is_encoded in [false, true] {
            let mut network = network(&FAULT_CLASSES, is_encoded);
            network.calm();
            let mut last_ns = 0;
            for number in 0..500 {
                let frame = request(number);
                let mut route = network.send(number, CLERK, NODE, frame.clone());
                let (at_ns, packet) = route.arrivals.pop().expect("it arrives");
                assert!(route.arrivals.is_empty() && at_ns >= last_ns);
                assert_eq!(network.open(packet), Some(frame));
                last_ns = at_ns;
            }
        }
    }

    #[test]
    fn each_class_does_what_it_says_and_nothing_else() {
        let mut lossy = network(&[FaultClass::Drop], false);
        let sent = sends(&mut lossy, NODE, OTHER, 1_000);
        let lost = sent.iter().filter(|it| it.arrivals.is_empty()).count();
        assert!((1..300).contains(&lost), "{lost}");
        let mut repeating = network(&[FaultClass::Duplicate], false);
        let sent = sends(&mut repeating, NODE, OTHER, 1_000);
        let twice = sent.iter().filter(|it| it.arrivals.len() == 2).count();
        assert!((1..400).contains(&twice), "{twice}");
        let requests = (0..1_000).map(|number| repeating.send(1, NODE, OTHER, request(number)));
        assert!(requests.into_iter().all(|it| it.arrivals.len() == 1));
        let mut unordered = network(&[FaultClass::Reorder], false);
        let arrivals: Vec<u64> = sends(&mut unordered, NODE, OTHER, 100)
            .iter()
            .map(|it| it.arrivals[0].0)
            .collect();
        assert!(!arrivals.is_sorted());
    }

    #[test]
    fn what_is_cut_or_damaged_on_its_way_never_arrives_as_something_else() {
        for class in [FaultClass::FlipBit, FaultClass::Reset] {
            let mut network = network(&[class], true);
            let mut broken = 0;
            for number in 0..20_000 {
                let frame = request(number);
                let route = network.send(number, CLERK, NODE, frame.clone());
                for (_, packet) in route.arrivals {
                    match network.open(packet) {
                        Some(arrived) => assert_eq!(arrived, frame, "{class:?}"),
                        None => broken += 1,
                    }
                }
            }
            assert!((10..2_000).contains(&broken), "{class:?}: {broken}");
        }
    }

    #[test]
    fn cuts_are_of_one_direction_and_are_mended() {
        let mut network = network(&[], false);
        network.set_cut(NODE, OTHER, true);
        assert!(network.send(1, NODE, OTHER, message()).arrivals.is_empty());
        assert_eq!(network.send(1, OTHER, NODE, message()).arrivals.len(), 1);
        network.isolate(1);
        let reply = Frame::Reply(Reply {
            id: RequestId(1),
            result: Ok(ReplyBody::Answer(Bytes::new())),
        });
        assert!(network.send(1, OTHER, CLERK, reply).arrivals.is_empty());
        assert!(
            network
                .send(1, CLERK, OTHER, request(1))
                .arrivals
                .is_empty()
        );
        assert_eq!(network.send(1, CLERK, NODE, request(1)).arrivals.len(), 1);
        network.mend();
        assert_eq!(network.send(1, NODE, OTHER, message()).arrivals.len(), 1);
        network.bridge(&[(true, false), (true, true), (false, true)]);
        let reaches = |network: &mut Network, from, to| {
            let (from, to) = (Endpoint::Node(from), Endpoint::Node(to));
            !network.send(1, from, to, message()).arrivals.is_empty()
        };
        assert!(reaches(&mut network, 0, 1) && reaches(&mut network, 2, 1));
        assert!(!reaches(&mut network, 0, 2) && !reaches(&mut network, 2, 0));
        network.mend();
        network.clog(NODE, OTHER, 9_000_000_000);
        assert!(network.send(1, NODE, OTHER, message()).arrivals[0].0 >= 9_000_000_000);
    }
}
