use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_wal::GroupId;

use super::super::Peer;
use super::super::event::SystemError;
use super::super::incoming::{Dialled, StartId};
use super::super::link::Purpose;
use super::super::queue::Popped;
use super::*;
use crate::membership::{NodeCard, Refused, Start};
use crate::transport::codec::Batch;
use crate::transport::{FewNodes, Request, RequestBody, RequestId};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Admits everybody: what counts is the start that came last.
#[derive(Default)]
struct Latest {
    start: Mutex<Option<StartId>>,
    /// One that comes right after the next one.
    next: Mutex<Option<StartId>>,
    frames: AtomicUsize,
    /// What happens while the first frame is taken.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Inbox for Latest {
    fn deliver(&self, _from: Origin, _frame: Frame) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        if let Some(meanwhile) = self.meanwhile.lock().take() {
            meanwhile();
        }
    }

    fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        let next = self.next.lock().take();
        *self.start.lock() = next.or(Some(card.identity()));
        Ok(())
    }

    fn stands(&self, card: &NodeCard) -> bool {
        *self.start.lock() == Some(card.identity())
    }
}

/// Node 1, which has one peer.
fn server() -> (Server, Arc<Latest>) {
    let (limits, inbox) = (TcpLimits::default(), Arc::new(Latest::default()));
    let accept = Accept {
        cluster_id: 7,
        node: ONE,
        groups: 1,
        card: NodeCard::bare(ONE, 7, 1),
        nodes: vec![(ONE, String::new()), (TWO, String::new())],
    };
    let server = Server {
        accept_clerk: accept.for_clerks(),
        accept,
        limits,
        monitor: Arc::new(Monitor::new(None)),
        threads: Arc::default(),
        incoming: Incoming::new(&limits),
        inbox: Arc::clone(&inbox) as Arc<dyn Inbox>,
        heard_of: Box::new(|_| {}),
    };
    (server, inbox)
}

/// What node 2 says first, in this life.
fn hello(life: u64, lane: Lane) -> Hello {
    let start = Start { life, nonce: life };
    let card = NodeCard {
        incarnation: 22,
        start,
        ..NodeCard::bare(TWO, 7, 1)
    };
    Hello::node(card, ONE, lane)
}

fn start_of(life: u64) -> StartId {
    (22, Start { life, nonce: life })
}

/// A stream that is accepted, and its other end.
fn streams() -> (Arc<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let other_end = TcpStream::connect(address).expect("it listens");
    (
        Arc::new(listener.accept().expect("it is called").0),
        other_end,
    )
}

/// A stranger who is about to introduce itself.
fn stranger(server: &Server) -> (Entry, TcpStream) {
    let (stream, other_end) = streams();
    let entry = server.incoming.enter(&stream).expect("there is a place");
    (entry, other_end)
}

/// One that has.
fn settled(server: &Server, hello: &Hello) -> (Entry, TcpStream) {
    let (entry, other_end) = stranger(server);
    let role = server.judge(hello).expect("it is admitted");
    server.settle(&entry, hello, role).expect("it stands");
    (entry, other_end)
}

/// A connection that this side made to node 2 in this life.
fn dialled(server: &Server, life: u64, lane: Lane) -> (Arc<Queue>, Arc<TcpStream>) {
    let (queue, (stream, _)) = (Arc::new(Queue::new(&server.limits)), streams());
    assert!(queue.attach(&stream));
    let dialled = Dialled {
        start: start_of(life),
        queue: Arc::clone(&queue),
        stream: Arc::downgrade(&stream),
    };
    let settled = server
        .incoming
        .settle_dialled((TWO, lane), dialled, || true);
    settled.expect("it stands");
    (queue, stream)
}

fn end_of(queue: &Queue) -> Option<CloseReason> {
    match queue.pop(&mut Vec::new(), 1, Some(Instant::now())) {
        Popped::Ended(reason) => Some(reason),
        Popped::Work { .. } | Popped::Idle => None,
    }
}

#[test]
fn a_start_that_is_not_the_last_admitted_takes_no_place() {
    let (server, _inbox) = server();
    for (older, newer) in [(Lane::Main, Lane::Main), (Lane::Main, Lane::Snapshot)] {
        let hello = hello(5, older);
        let (late, _late_end) = stranger(&server);
        let role = server.judge(&hello).expect("it is admitted");
        // Before it takes its place, another start comes.
        let (present, _end) = settled(&server, &self::hello(6, newer));
        assert_eq!(
            server.settle(&late, &hello, role),
            Err(CloseReason::Replaced)
        );
        assert_eq!(present.check(), Ok(()), "it goes on");
    }
    // Nor does a connection that this side made to it.
    let (stream, _end) = streams();
    let late = Dialled {
        start: start_of(5),
        queue: Arc::new(Queue::new(&server.limits)),
        stream: Arc::downgrade(&stream),
    };
    let (present, _end) = settled(&server, &hello(6, Lane::Main));
    let settled = server
        .incoming
        .settle_dialled((TWO, Lane::Main), late, || false);
    assert_eq!(settled, Err(CloseReason::Replaced));
    assert_eq!(present.check(), Ok(()), "it goes on");
}

#[test]
fn another_start_of_a_node_ends_the_connections_of_the_one_before() {
    let lanes = [Lane::Main, Lane::Snapshot];
    for lane in lanes {
        for is_dialled in [false, true] {
            let (server, _inbox) = server();
            let before = lanes.map(|lane| settled(&server, &hello(5, lane)));
            let made = lanes.map(|lane| dialled(&server, 5, lane));
            assert!(before.iter().all(|(entry, _)| entry.check().is_ok()));
            assert!(made.iter().all(|(queue, _)| end_of(queue).is_none()));
            let _present = if is_dialled {
                let _made = dialled(&server, 6, lane);
                None
            } else {
                Some(settled(&server, &hello(6, lane)))
            };
            for (entry, _) in &before {
                assert_eq!(entry.check(), Err(CloseReason::Replaced), "{lane:?}");
            }
            for (queue, _) in &made {
                assert_eq!(end_of(queue), Some(CloseReason::Replaced), "{lane:?}");
            }
        }
    }
}

/// The side that dials judges what the other one shows, and gives it its place, as the listening side does.
#[test]
fn what_is_dialled_takes_its_place_as_what_is_accepted_does() {
    let (server, inbox) = server();
    let peer = Peer {
        node: TWO,
        lane: Lane::Main,
        address: String::new(),
        card: Arc::new(server.accept.card.clone()),
        groups: 1,
        inbox: Arc::downgrade(&server.inbox),
        incoming: Arc::clone(&server.incoming),
        queue: Arc::new(Queue::new(&server.limits)),
        monitor: Arc::clone(&server.monitor),
    };
    let (stream, _end) = streams();
    let accept = |life| Accept {
        node: TWO,
        card: hello(life, Lane::Main).card.expect("a node has one"),
        ..server.accept.clone()
    };
    let (before, _before_end) = settled(&server, &hello(5, Lane::Snapshot));
    *inbox.next.lock() = Some(start_of(7));
    let judged = peer.accepted(accept(6), &stream);
    assert_eq!(judged, Err(CloseReason::Replaced), "7 came in between");
    assert_eq!(before.check(), Ok(()), "6 has no place");
    assert_eq!(peer.accepted(accept(7), &stream), Ok(()));
    assert_eq!(before.check(), Err(CloseReason::Replaced));
}

#[test]
fn the_connections_of_one_start_stand_beside_each_other() {
    let (server, _inbox) = server();
    let lanes = [Lane::Main, Lane::Snapshot];
    let made = lanes.map(|lane| dialled(&server, 5, lane));
    let taken = lanes.map(|lane| settled(&server, &hello(5, lane)));
    assert!(taken.iter().all(|(entry, _)| entry.check().is_ok()));
    assert!(made.iter().all(|(queue, _)| end_of(queue).is_none()));
}

#[test]
fn no_frame_of_a_start_is_taken_once_another_one_has_its_place() {
    let (server, inbox) = server();
    let (entry, mut other_end) = settled(&server, &hello(5, Lane::Main));
    let mut batch = Batch::new();
    for id in [1, 2] {
        let request = Frame::Request(Request {
            id: RequestId(id),
            group: GroupId(0),
            body: RequestBody::Propose {
                command: Bytes::new(),
            },
        });
        batch.push(&request).expect("it is short");
    }
    // Both are there before the first one is taken.
    io::Write::write_all(&mut other_end, &batch.to_vec()).expect("it is open");
    let (newer, _newer_end) = stranger(&server);
    *inbox.meanwhile.lock() = Some(Box::new(move || {
        let role = Role::Node(TWO, Lane::Snapshot, start_of(6));
        newer.settle(role, || true).expect("it stands");
    }));
    let seen = server.serve_node(&entry, TWO, Lane::Main);
    assert_eq!(entry.reason(seen), CloseReason::Replaced);
    assert_eq!(inbox.frames.load(Ordering::Relaxed), 1);
}

#[test]
fn a_want_of_file_handles_is_told_in_words() {
    let (process, system) = (24, 23);
    for errno in [process, system] {
        let error = io::Error::from_raw_os_error(errno);
        let words = SystemError::from(error).to_string();
        assert!(words.contains("open files"), "{words}");
    }
}

#[test]
fn a_clerk_of_version_1_is_told_nothing_that_it_has_no_word_for() {
    let waits_for = FewNodes::of(&[NodeId(2)]);
    let unfounded = Refusal::Unfounded { waits_for };
    let added = [
        (unfounded, Refusal::NotLeader { leader: None }),
        (Refusal::OutOfHandles, Refusal::DiskFull),
    ];
    for (refusal, nearest) in added {
        assert_eq!(in_words_of(1, refusal), nearest);
        assert_eq!(in_words_of(2, refusal), refusal);
    }
    assert_eq!(in_words_of(1, Refusal::Busy), Refusal::Busy);
}
