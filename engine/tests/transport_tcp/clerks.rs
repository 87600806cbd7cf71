//! Clerks: how they find the nodes, and what they learn when one goes away.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use bytes::Bytes;
use quorate::transport::tcp::{
    CloseReason, TcpClerkLink, TcpClerkOptions, TcpError, TcpLimits, TcpTransport, TransportEvent,
};
use quorate::transport::{
    ClerkInbox, ClerkLink, Frame, Inbox, NodeCard, Origin, Reply, ReplyBody, Request, RequestBody,
    RequestId, Start, Transport,
};
use quorate_raft::NodeId;
use quorate_wal::GroupId;

use super::support::*;

#[derive(Debug, PartialEq)]
enum Heard {
    Reply(NodeId, Reply),
    Disconnected(NodeId),
}

struct Recorder(Sender<Heard>);

impl ClerkInbox for Recorder {
    fn reply(&self, from: NodeId, reply: Reply) {
        let _ = self.0.send(Heard::Reply(from, reply));
    }

    fn disconnected(&self, node: NodeId) {
        let _ = self.0.send(Heard::Disconnected(node));
    }
}

/// A node with a directory.
struct Carded;

impl Inbox for Carded {
    fn deliver(&self, _from: Origin, _frame: Frame) {}

    fn card(&self) -> Option<NodeCard> {
        Some(NodeCard {
            incarnation: 0xABCD_EF01,
            start: Start { life: 2, nonce: 99 },
            history: vec![Start { life: 1, nonce: 98 }],
            durable_lsn: 1_234,
            syncs: true,
            ..NodeCard::bare(ONE, CLUSTER, GROUPS)
        })
    }
}

struct Deaf;

impl Inbox for Deaf {
    fn deliver(&self, _from: Origin, _frame: Frame) {}
}

fn recorder() -> (Arc<Recorder>, Receiver<Heard>) {
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Recorder(sender)), receiver)
}

/// Gives up soon.
fn hasty() -> TcpClerkOptions {
    TcpClerkOptions {
        connect_timeout_ms: 200,
        ..TcpClerkOptions::default()
    }
}

#[test]
fn a_clerk_learns_all_nodes_from_one() {
    let (one, two) = pair(TcpLimits::default());
    let (inbox, heard) = recorder();
    let addresses = vec![one.address().to_string()];
    let clerk = TcpClerkLink::connect(addresses, TcpClerkOptions::default(), inbox).unwrap();
    assert_eq!(clerk.nodes(), [ONE, TWO]);
    assert_eq!(clerk.groups(), Some(GROUPS));
    for node in [&one, &two] {
        let id = if node.address() == one.address() {
            ONE
        } else {
            TWO
        };
        check_round_trip(&*clerk, id, node, &heard);
    }
    assert!(!clerk.send(NodeId(9), query(1)), "nobody of this name");
}

#[test]
fn an_address_that_leads_nowhere_is_passed_over() {
    let (one, _two) = pair(TcpLimits::default());
    let (vacant, nowhere) = listener();
    drop(vacant);
    let (inbox, heard) = recorder();
    let addresses = vec![nowhere, one.address().to_string()];
    let clerk = TcpClerkLink::connect(addresses, TcpClerkOptions::default(), inbox).unwrap();
    check_round_trip(&*clerk, ONE, &one, &heard);
}

#[test]
fn if_no_address_answers_each_is_named_with_its_failure() {
    let (vacant, nowhere) = listener();
    drop(vacant);
    let (mute, silent) = listener();
    let (inbox, _) = recorder();
    let addresses = vec![nowhere.clone(), silent.clone(), "no address".to_owned()];
    let error = TcpClerkLink::connect(addresses, hasty(), inbox)
        .err()
        .unwrap();
    let TcpError::Unreachable { failures } = &error else {
        panic!("{error}")
    };
    assert_eq!(failures.len(), 3);
    assert_eq!(failures[0].0, nowhere);
    let CloseReason::Io(refused) = &failures[0].1 else {
        panic!("{error}")
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(failures[1].0, silent);
    assert!(
        matches!(failures[1].1, CloseReason::HandshakeTimeout { .. }),
        "{error}"
    );
    assert!(matches!(failures[2].1, CloseReason::Resolve(_)), "{error}");
    assert!(error.to_string().contains(&silent), "{error}");
    drop(mute);
}

#[test]
fn a_clerk_of_another_cluster_is_told_so_without_waiting() {
    let (one, _two) = pair(TcpLimits::default());
    let (inbox, _) = recorder();
    let options = TcpClerkOptions {
        cluster_id: Some(8),
        // Would outlast the test: trying again cannot help, and is not done.
        connect_timeout_ms: 3_600_000,
        ..TcpClerkOptions::default()
    };
    let addresses = vec![one.address().to_string()];
    let error = TcpClerkLink::connect(addresses, options, inbox)
        .err()
        .unwrap();
    let TcpError::Unreachable { failures } = error else {
        panic!("{error}")
    };
    assert_eq!(
        failures[0].1,
        CloseReason::WrongCluster {
            ours: 8,
            theirs: CLUSTER
        }
    );
}

/// `u32::MAX` groups made the client's process ask for a terabyte and abort, and none at all made it panic.
#[test]
fn a_server_that_has_no_group_or_billions_is_refused() {
    for (groups, cluster_id) in [
        (0, CLUSTER),
        (u32::MAX, CLUSTER),
        (65_537, CLUSTER),
        (16, 0),
    ] {
        let (socket, address) = listener();
        let peers = [(ONE, address.clone())];
        let (mut options, _events) = options(ONE, &peers, TcpLimits::default());
        options.groups = groups;
        options.cluster_id = cluster_id;
        let server = TcpTransport::bind_socket(options, socket, Arc::new(Deaf)).unwrap();
        let (inbox, _) = recorder();
        let error = TcpClerkLink::connect(vec![address], hasty(), inbox)
            .err()
            .unwrap();
        assert!(matches!(error, TcpError::Unreachable { .. }), "{error}");
        // A clerk that knows its nodes is told the reason each time it tries.
        let (clerk, events) = told_clerk(&server.local_addr().to_string(), GROUPS);
        assert!(clerk.send(ONE, query(1)));
        assert_eq!(unreachable(&events), CloseReason::BadHandshake);
        server.stop();
    }
}

/// Whoever repeated what a clerk was shown, with a later start, passed for the node.
#[test]
fn a_clerk_is_not_shown_what_tells_one_directory_from_another() {
    let (socket, address) = listener();
    let peers = [(ONE, address.clone()), (TWO, address)];
    let (options, _events) = options(ONE, &peers, TcpLimits::default());
    let server = TcpTransport::bind_socket(options, socket, Arc::new(Carded)).unwrap();
    let answered = |hello: Hello| {
        let mut stream = dial(server.local_addr(), &hello.bytes());
        let (kind, _, body) = read_answer(&mut stream);
        assert_eq!(kind, 1, "it is accepted");
        // Incarnation, this start, those before, the log.
        [17, 18, 19, 20].map(|tag| field(&body, tag))
    };
    let nothing = [vec![0; 8], vec![0; 16], vec![], vec![0; 9]];
    assert_eq!(answered(Hello::default()), nothing);
    let node = Hello {
        from: 2,
        to: 1,
        ..Hello::default()
    };
    let shown = answered(node);
    assert_eq!(shown[0], 0xABCD_EF01_u64.to_le_bytes());
    assert!(shown.iter().zip(&nothing).all(|(it, bare)| it != bare));
    server.stop();
}

/// Keys would go to other groups than the ones that hold them.
#[test]
fn a_node_that_counts_the_groups_differently_is_refused_by_a_clerk() {
    let (one, _two) = pair(TcpLimits::default());
    let (clerk, events) = told_clerk(&one.address().to_string(), GROUPS / 2);
    assert!(clerk.send(ONE, query(1)));
    let told = unreachable(&events);
    let (ours, theirs) = (GROUPS / 2, GROUPS);
    assert_eq!(told, CloseReason::WrongGroups { ours, theirs });
    assert_eq!(clerk.groups(), Some(GROUPS / 2), "it is not misled");
}

/// A clerk of node 1 at this address, and what happens to its connections.
fn told_clerk(address: &str, groups: u32) -> (Arc<TcpClerkLink>, Receiver<TransportEvent>) {
    let (events_to, events) = mpsc::channel();
    let options = TcpClerkOptions {
        observer: Some(Arc::new(move |event: &TransportEvent| {
            let _ = events_to.send(event.clone());
        })),
        ..TcpClerkOptions::default()
    };
    let (inbox, _) = recorder();
    let nodes = [(ONE, address.to_owned())];
    let clerk = TcpClerkLink::to_nodes(nodes, groups, options, inbox);
    (clerk, events)
}

fn unreachable(events: &Receiver<TransportEvent>) -> CloseReason {
    wait_for(events, |event| match event {
        TransportEvent::Unreachable { reason, .. } => Some(reason),
        _ => None,
    })
}

#[test]
fn a_clerk_is_told_of_a_lost_node_and_finds_it_again() {
    let (listener_one, at_one) = listener();
    let peers = [(ONE, at_one.clone())];
    let one = Node::start(ONE, listener_one, &peers, TcpLimits::default());
    let (inbox, heard) = recorder();
    let clerk =
        TcpClerkLink::connect(vec![at_one.clone()], TcpClerkOptions::default(), inbox).unwrap();
    check_round_trip(&*clerk, ONE, &one, &heard);
    drop(one);
    assert_eq!(
        heard.recv_timeout(DEADLINE).unwrap(),
        Heard::Disconnected(ONE)
    );

    let one = Node::start(
        ONE,
        TcpListener::bind(at_one).unwrap(),
        &peers,
        TcpLimits::default(),
    );
    // Refused between two attempts only, which are tens of milliseconds apart here.
    while !clerk.send(ONE, query(7)) {
        std::thread::yield_now();
    }
    assert_eq!(id_of(&one.next_frame().1), 7);
}

#[test]
fn what_waited_for_a_node_that_cannot_be_reached_is_given_up_aloud() {
    let (vacant, nowhere) = listener();
    drop(vacant);
    let (inbox, heard) = recorder();
    let clerk = TcpClerkLink::to_nodes([(ONE, nowhere)], 4, TcpClerkOptions::default(), inbox);
    assert_eq!((clerk.nodes(), clerk.groups()), (vec![ONE], Some(4)));
    assert!(clerk.send(ONE, query(1)));
    assert_eq!(
        heard.recv_timeout(DEADLINE).unwrap(),
        Heard::Disconnected(ONE)
    );
}

#[test]
fn a_clerk_of_known_nodes_connects_when_it_has_something_to_say() {
    let (one, two) = pair(TcpLimits::default());
    let nodes = [
        (ONE, one.address().to_string()),
        (TWO, two.address().to_string()),
    ];
    let (inbox, heard) = recorder();
    let clerk = TcpClerkLink::to_nodes(nodes, GROUPS, TcpClerkOptions::default(), inbox);
    check_round_trip(&*clerk, TWO, &two, &heard);
    assert_eq!(clerk.stats().frames_received, 1);
}

#[test]
fn a_clerk_that_stops_ends_its_threads() {
    let (one, _two) = pair(TcpLimits::default());
    let (inbox, heard) = recorder();
    let kept = Arc::clone(&inbox);
    let addresses = vec![one.address().to_string()];
    let clerk = TcpClerkLink::connect(addresses, TcpClerkOptions::default(), inbox).unwrap();
    check_round_trip(&*clerk, ONE, &one, &heard);
    clerk.stop();
    clerk.stop();
    assert!(!clerk.send(ONE, query(3)));
    drop(clerk);
    assert_eq!(Arc::strong_count(&kept), 1);
    assert_eq!(heard.try_iter().count(), 0, "a stop is no loss");
}

fn check_round_trip(clerk: &dyn ClerkLink, id: NodeId, node: &Node, heard: &Receiver<Heard>) {
    assert!(clerk.send(id, query(5)));
    let (origin, frame) = node.next_frame();
    assert_eq!(frame, Frame::Request(query(5)));
    let Origin::Clerk(sink) = origin else {
        panic!("the request came from a clerk")
    };
    let answer = Bytes::from(vec![id.0 as u8; 100_000]);
    let reply = Reply {
        id: RequestId(5),
        result: Ok(ReplyBody::Answer(answer)),
    };
    sink.reply(reply.clone());
    assert_eq!(
        heard.recv_timeout(DEADLINE).unwrap(),
        Heard::Reply(id, reply)
    );
}

fn query(id: u64) -> Request {
    Request {
        id: RequestId(id),
        group: GroupId(3),
        body: RequestBody::Propose {
            command: Bytes::from_static(b"command"),
        },
    }
}
