//! The in-process transport: nothing is copied, faults do what they say, and a stopped node hears
//! nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate::transport::memory::{Endpoint, LinkFaults, MemoryNetwork, MemoryTransport};
use quorate::transport::{
    ClerkInbox, ClerkLink, Frame, Inbox, NodeCard, Origin, Refused, Reply, ReplyBody, Request,
    RequestBody, RequestId, Transport,
};
use quorate_raft::NodeId;
use quorate_wal::GroupId;

/// Whatever a test waits for comes sooner.
const DEADLINE: Duration = Duration::from_secs(10);

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

#[test]
fn a_payload_arrives_as_the_same_memory() {
    let network = MemoryNetwork::new();
    let (one, _) = attach(&network, ONE);
    let (_two, heard) = attach(&network, TWO);
    let command = Bytes::from(vec![5; 4096]);
    assert!(one.send(TWO, request(1, command.clone())));
    let (from, arrived) = heard.try_recv().unwrap();
    assert_eq!(from, Some(ONE));
    assert_eq!(command_of(&arrived).as_ptr(), command.as_ptr());
}

/// All clerks share the links to and from their end of the network. A frame that was held back on such a link
/// once came out with the next clerk's frame as its own, and two clerks shared a session.
#[test]
fn a_frame_that_was_held_back_reaches_whom_it_was_meant_for() {
    let network = MemoryNetwork::new();
    let (inbox, requests) = recorder();
    let _node = network.attach(ONE, inbox);
    let clerks: Vec<_> = (0..2)
        .map(|_| {
            let (replies_to, replies) = mpsc::channel();
            (network.clerk(Arc::new(ClerkRecorder(replies_to))), replies)
        })
        .collect();
    let hold_back = LinkFaults {
        reorder_per_mille: 1000,
        ..LinkFaults::default()
    };
    network.set_faults(Endpoint::Clerks, ONE, hold_back);
    network.set_faults(ONE, Endpoint::Clerks, hold_back);
    for (id, (clerk, _)) in (1..).zip(&clerks) {
        let Frame::Request(request) = request(id, Bytes::new()) else {
            unreachable!()
        };
        assert!(clerk.send(ONE, request));
    }
    // The first request was held back and comes behind the second; the answers likewise.
    for _ in 0..2 {
        let (origin, Frame::Request(request)) = requests.try_recv().unwrap() else {
            panic!("a request")
        };
        let Origin::Clerk(sink) = origin else {
            panic!("the request came from a clerk")
        };
        sink.reply(Reply {
            id: request.id,
            result: Ok(ReplyBody::Answer(Bytes::new())),
        });
    }
    for (id, (_, replies)) in (1..).zip(&clerks) {
        let ClerkHeard::Reply(_, reply) = replies.try_recv().unwrap() else {
            panic!("a reply")
        };
        assert_eq!(reply.id, RequestId(id));
        assert!(replies.try_recv().is_err(), "one reply each");
    }
}

#[test]
fn a_request_of_a_clerk_and_its_reply_arrive_as_the_same_memory() {
    let network = MemoryNetwork::new();
    network.announce_groups(4);
    let (inbox, requests) = recorder();
    let _node = network.attach(ONE, inbox);
    let (replies_to, replies) = mpsc::channel();
    let clerk = network.clerk(Arc::new(ClerkRecorder(replies_to)));
    assert_eq!(clerk.nodes(), [ONE]);
    assert_eq!(clerk.groups(), Some(4));

    let command = Bytes::from(vec![6; 2048]);
    let Frame::Request(request) = request(9, command.clone()) else {
        unreachable!()
    };
    assert!(clerk.send(ONE, request));
    let (origin, arrived) = requests.try_recv().unwrap();
    assert_eq!(command_of(&arrived).as_ptr(), command.as_ptr());

    let Origin::Clerk(sink) = origin else {
        panic!("the request came from a clerk")
    };
    let answer = Bytes::from(vec![7; 2048]);
    sink.reply(Reply {
        id: RequestId(9),
        result: Ok(ReplyBody::Answer(answer.clone())),
    });
    let ClerkHeard::Reply(node, reply) = replies.try_recv().unwrap() else {
        panic!("a reply")
    };
    assert_eq!((node, reply.id), (ONE, RequestId(9)));
    let Ok(ReplyBody::Answer(arrived)) = reply.result else {
        panic!("an answer")
    };
    assert_eq!(arrived.as_ptr(), answer.as_ptr());
}

#[test]
fn a_cut_is_in_one_direction_until_healed() {
    let network = MemoryNetwork::new();
    let (one, heard_one) = attach(&network, ONE);
    let (two, heard_two) = attach(&network, TWO);
    network.cut(ONE, TWO);
    assert!(one.send(TWO, numbered(1)));
    assert!(two.send(ONE, numbered(2)));
    assert_eq!(ids(&heard_two), []);
    assert_eq!(ids(&heard_one), [2]);
    network.heal(ONE, TWO);
    assert!(one.send(TWO, numbered(3)));
    assert_eq!(ids(&heard_two), [3]);
}

#[test]
fn an_isolated_node_is_cut_from_nodes_and_not_from_clerks() {
    let network = MemoryNetwork::new();
    let (one, heard_one) = attach(&network, ONE);
    let (two, heard_two) = attach(&network, TWO);
    let (replies_to, _replies) = mpsc::channel();
    let clerk = network.clerk(Arc::new(ClerkRecorder(replies_to)));
    network.isolate(ONE);
    one.send(TWO, numbered(1));
    two.send(ONE, numbered(2));
    let Frame::Request(request) = numbered(3) else {
        unreachable!()
    };
    clerk.send(ONE, request.clone());
    assert_eq!(ids(&heard_two), []);
    assert_eq!(ids(&heard_one), [3]);

    network.cut(Endpoint::Clerks, ONE);
    clerk.send(ONE, request);
    assert_eq!(ids(&heard_one), []);

    network.rejoin(ONE);
    one.send(TWO, numbered(4));
    assert_eq!(ids(&heard_two), [4]);
}

#[test]
fn dice_fall_the_same_from_one_seed_and_differently_from_another() {
    let faults = LinkFaults {
        drop_per_mille: 300,
        duplicate_per_mille: 300,
        reorder_per_mille: 300,
        ..LinkFaults::default()
    };
    let run = |seed| {
        let network = MemoryNetwork::new();
        network.seed(seed);
        network.set_faults(ONE, TWO, faults);
        let (one, _) = attach(&network, ONE);
        let (_two, heard) = attach(&network, TWO);
        for id in 0..1000 {
            one.send(TWO, numbered(id));
        }
        ids(&heard)
    };
    let arrived = run(1);
    assert_eq!(arrived, run(1));
    assert_ne!(arrived, run(2));

    let mut kinds = arrived.clone();
    kinds.sort_unstable();
    kinds.dedup();
    assert!(
        (600..800).contains(&kinds.len()),
        "about 700 of 1000 get through: {}",
        kinds.len()
    );
    assert!(
        arrived.windows(2).any(|pair| pair[0] == pair[1]),
        "some arrive twice"
    );
    assert!(
        arrived.windows(2).any(|pair| pair[0] > pair[1]),
        "some are overtaken"
    );
}

#[test]
fn a_frame_held_back_follows_the_next_one() {
    let network = MemoryNetwork::new();
    let reorder = LinkFaults {
        reorder_per_mille: 1000,
        ..LinkFaults::default()
    };
    network.set_faults(ONE, TWO, reorder);
    let (one, _) = attach(&network, ONE);
    let (_two, heard) = attach(&network, TWO);
    for id in 1..=5 {
        one.send(TWO, numbered(id));
    }
    assert_eq!(ids(&heard), [2, 1, 4, 3]);
}

#[test]
fn delayed_frames_arrive_in_the_order_of_their_time_when_it_has_come() {
    let ms = Duration::from_millis;
    let run = |seed| {
        let network = MemoryNetwork::new();
        network.seed(seed);
        let delayed = LinkFaults {
            delay_max: ms(26),
            ..LinkFaults::default()
        };
        network.set_faults(ONE, TWO, delayed);
        let (one, _) = attach(&network, ONE);
        let (_two, heard) = attach(&network, TWO);
        assert_eq!(network.advance(ms(1_000)), None);
        for id in 0..100 {
            assert!(one.send(TWO, numbered(id)));
        }
        assert_eq!(ids(&heard), [], "nothing arrives by itself");
        let first = network.advance(ms(1_000)).unwrap();
        assert!(first > ms(1_000) && first <= ms(1_026), "{first:?}");
        assert!(
            network.advance(ms(1_013)).is_some(),
            "half of them are not due"
        );
        let mut arrived = ids(&heard);
        assert!((25..75).contains(&arrived.len()), "{}", arrived.len());
        // What is on its way arrives, whatever becomes of the link.
        network.cut(ONE, TWO);
        assert_eq!(network.advance(ms(1_026)), None);
        arrived.extend(ids(&heard));
        assert_eq!(arrived.len(), 100);
        assert!(!arrived.is_sorted(), "they overtake each other");
        arrived
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn what_is_sent_when_all_time_has_passed_is_due_at_its_end() {
    let network = MemoryNetwork::new();
    let delayed = LinkFaults {
        delay_max: Duration::from_millis(26),
        ..LinkFaults::default()
    };
    network.set_faults(ONE, TWO, delayed);
    let (one, _) = attach(&network, ONE);
    let (_two, heard) = attach(&network, TWO);
    assert_eq!(network.advance(Duration::MAX), None);
    for id in 0..10 {
        assert!(one.send(TWO, numbered(id)));
    }
    assert_eq!(network.advance(Duration::MAX), None);
    assert!(ids(&heard).into_iter().eq(0..10));
}

#[test]
fn a_wire_on_which_too_much_is_late_loses_what_comes_on_top() {
    const LATE_FRAMES_MAX: usize = 1 << 16;
    let network = MemoryNetwork::new();
    let delayed = LinkFaults {
        delay_max: Duration::from_millis(26),
        ..LinkFaults::default()
    };
    network.set_faults(ONE, TWO, delayed);
    let (one, _) = attach(&network, ONE);
    let (_two, heard) = attach(&network, TWO);
    for id in 0..LATE_FRAMES_MAX as u64 + 100 {
        assert!(one.send(TWO, numbered(id)));
    }
    network.advance(Duration::from_millis(26));
    assert_eq!(heard.try_iter().count(), LATE_FRAMES_MAX);
}

#[test]
fn only_answers_are_late_and_a_process_that_died_hears_none_of_them() {
    let ms = Duration::from_millis;
    let network = MemoryNetwork::new();
    let late = LinkFaults {
        late_per_mille: 1000,
        late_max: ms(2_000),
        ..LinkFaults::default()
    };
    network.set_faults(ONE, TWO, late);
    let (one, _) = attach(&network, ONE);
    let (_two, heard) = attach(&network, TWO);
    let answer = |id| {
        Frame::Reply(Reply {
            id: RequestId(id),
            result: Ok(ReplyBody::Answer(Bytes::new())),
        })
    };
    one.send(TWO, numbered(1));
    for id in 2..12 {
        one.send(TWO, answer(id));
    }
    assert!(network.advance(ms(0)).is_some(), "answers are late");
    assert_eq!(ids(&heard), [1], "what asks is not");
    network.advance(ms(2_000));
    assert_eq!(heard.try_iter().count(), 10);
    one.send(TWO, answer(12));
    network.detach(TWO);
    let (_two, heard_later) = attach(&network, TWO);
    assert_eq!(network.advance(ms(4_000)), None);
    assert_eq!(
        heard_later.try_iter().count(),
        0,
        "it was sent to another process"
    );
}

#[test]
fn who_is_detached_neither_hears_nor_speaks() {
    let network = MemoryNetwork::new();
    let (one, _) = attach(&network, ONE);
    let (two, heard) = attach(&network, TWO);
    let (replies_to, replies) = mpsc::channel();
    let clerk = network.clerk(Arc::new(ClerkRecorder(replies_to)));
    network.detach(TWO);
    assert!(!one.send(TWO, numbered(1)));
    assert!(!two.send(ONE, numbered(2)));
    assert_eq!(ids(&heard), []);
    assert!(matches!(
        replies.try_recv().unwrap(),
        ClerkHeard::Disconnected(TWO)
    ));
    assert_eq!(clerk.nodes(), [ONE]);
}

#[test]
fn a_node_attached_again_replaces_its_former_self() {
    let network = MemoryNetwork::new();
    let (one, _) = attach(&network, ONE);
    let (old, heard_old) = attach(&network, TWO);
    let (new, heard_new) = attach(&network, TWO);
    assert!(one.send(TWO, numbered(1)));
    assert!(!old.send(ONE, numbered(2)));
    // The end of the former self must not take the new one off the network.
    old.stop();
    drop(old);
    assert!(one.send(TWO, numbered(3)));
    assert_eq!(ids(&heard_old), []);
    assert_eq!(ids(&heard_new), [1, 3]);
    new.stop();
    assert!(!one.send(TWO, numbered(4)));
}

/// An inbox that stays inside `deliver` until it is let go.
struct Slow {
    entered: Sender<()>,
    leave: Barrier,
    left: Sender<()>,
}

impl Inbox for Slow {
    fn deliver(&self, _: Origin, _: Frame) {
        self.entered.send(()).unwrap();
        self.leave.wait();
        self.left.send(()).unwrap();
    }
}

#[test]
fn stop_returns_after_the_delivery_that_runs() {
    let network = MemoryNetwork::new();
    let (one, _) = attach(&network, ONE);
    let ((entered, has_entered), (left, has_left)) = (mpsc::channel(), mpsc::channel());
    let inbox = Arc::new(Slow {
        entered,
        leave: Barrier::new(2),
        left,
    });
    let two = network.attach(TWO, Arc::clone(&inbox) as Arc<dyn Inbox>);
    let sender = thread::spawn(move || one.send(TWO, numbered(1)));
    has_entered.recv_timeout(DEADLINE).unwrap();
    let (returned, has_returned) = mpsc::channel();
    let stopper = thread::spawn(move || {
        two.stop();
        returned.send(has_left.try_recv()).unwrap();
    });
    // As long as the delivery runs, stop does not return.
    assert!(
        has_returned
            .recv_timeout(Duration::from_millis(100))
            .is_err()
    );
    inbox.leave.wait();
    has_returned
        .recv_timeout(DEADLINE)
        .unwrap()
        .expect("the delivery has ended before stop returns");
    stopper.join().unwrap();
    assert!(sender.join().unwrap());
}

/// An inbox that answers on the thread of the sender.
struct Echo {
    transport: std::sync::OnceLock<Arc<MemoryTransport>>,
}

impl Inbox for Echo {
    fn deliver(&self, origin: Origin, frame: Frame) {
        if let (Origin::Node(from), Some(transport)) = (origin, self.transport.get()) {
            transport.send(from, frame);
        }
    }
}

#[test]
fn an_inbox_may_send() {
    let network = MemoryNetwork::new();
    let (one, heard) = attach(&network, ONE);
    let echo = Arc::new(Echo {
        transport: std::sync::OnceLock::new(),
    });
    let two = network.attach(TWO, Arc::clone(&echo) as Arc<dyn Inbox>);
    echo.transport
        .set(two)
        .unwrap_or_else(|_| panic!("set once"));
    assert!(one.send(TWO, numbered(8)));
    assert_eq!(ids(&heard), [8]);
    network.detach(TWO);
}

#[test]
fn nodes_are_told_of_one_that_goes_and_not_by_itself() {
    let network = MemoryNetwork::new();
    let (told, heard) = mpsc::channel();
    let gone = |node| Gone(node, told.clone());
    let _one = network.attach(ONE, Arc::new(gone(ONE)));
    let two = network.attach(TWO, Arc::new(gone(TWO)));
    two.stop();
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(ONE, TWO)]);
    let two = network.attach(TWO, Arc::new(gone(TWO)));
    assert_eq!(heard.try_iter().count(), 0, "nobody was there before");
    let again = network.attach(TWO, Arc::new(gone(TWO)));
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(ONE, TWO)]);
    drop(two);
    assert_eq!(heard.try_iter().count(), 0, "it had been replaced");
    network.detach(TWO);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(ONE, TWO)]);
    drop(again);
}

/// Keeps who is told of whom.
struct Gone(NodeId, Sender<(NodeId, NodeId)>);

impl Inbox for Gone {
    fn deliver(&self, _from: Origin, _frame: Frame) {}

    fn disconnected(&self, node: NodeId) {
        let _ = self.1.send((self.0, node));
    }
}

fn attach(
    network: &Arc<MemoryNetwork>,
    node: NodeId,
) -> (Arc<MemoryTransport>, Receiver<(Option<NodeId>, Frame)>) {
    let (sender, receiver) = mpsc::channel();
    (network.attach(node, Arc::new(Names(sender))), receiver)
}

/// Keeps what arrives, with the name of the node it came from.
struct Names(Sender<(Option<NodeId>, Frame)>);

impl Inbox for Names {
    fn deliver(&self, from: Origin, frame: Frame) {
        let name = match from {
            Origin::Node(node) => Some(node),
            Origin::Clerk(_) => None,
        };
        // A test that does not listen has dropped the receiver.
        let _ = self.0.send((name, frame));
    }
}

fn recorder() -> (Arc<dyn Inbox>, Receiver<(Origin, Frame)>) {
    struct Recorder(Sender<(Origin, Frame)>);
    impl Inbox for Recorder {
        fn deliver(&self, from: Origin, frame: Frame) {
            self.0.send((from, frame)).unwrap();
        }
    }
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Recorder(sender)), receiver)
}

enum ClerkHeard {
    Reply(NodeId, Reply),
    Disconnected(NodeId),
}

struct ClerkRecorder(Sender<ClerkHeard>);

impl ClerkInbox for ClerkRecorder {
    fn reply(&self, from: NodeId, reply: Reply) {
        self.0.send(ClerkHeard::Reply(from, reply)).unwrap();
    }

    fn disconnected(&self, node: NodeId) {
        let _ = self.0.send(ClerkHeard::Disconnected(node));
    }
}

fn numbered(id: u64) -> Frame {
    request(id, Bytes::new())
}

fn request(id: u64, command: Bytes) -> Frame {
    Frame::Request(Request {
        id: RequestId(id),
        group: GroupId(0),
        body: RequestBody::Propose { command },
    })
}

fn command_of(frame: &Frame) -> &Bytes {
    match frame {
        Frame::Request(Request {
            body: RequestBody::Propose { command },
            ..
        }) => command,
        other => panic!("not a proposal: {other:?}"),
    }
}

fn ids(heard: &Receiver<(Option<NodeId>, Frame)>) -> Vec<u64> {
    let id = |frame| match frame {
        Frame::Request(request) => request.id.0,
        other => panic!("not a request: {other:?}"),
    };
    heard.try_iter().map(|(_, frame)| id(frame)).collect()
}

/// Shows a card, refuses one node, and counts.
struct Picky {
    id: u64,
    refuses: u64,
    shown: Mutex<Vec<u64>>,
    judged: Mutex<Vec<(NodeId, bool)>>,
    frames: Mutex<usize>,
}

impl Picky {
    fn new(id: u64, refuses: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            refuses,
            shown: Mutex::default(),
            judged: Mutex::default(),
            frames: Mutex::default(),
        })
    }
}

impl Inbox for Picky {
    fn deliver(&self, _from: Origin, _frame: Frame) {
        *self.frames.lock() += 1;
    }

    fn card(&self) -> Option<NodeCard> {
        Some(NodeCard::bare(NodeId(self.id), 7, 1))
    }

    fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        self.shown.lock().push(card.node.0);
        if card.node.0 == self.refuses {
            return Err(Refused::Retired { node: card.node });
        }
        Ok(())
    }

    fn judged(&self, by: NodeId, judged: Result<(), &Refused>) {
        self.judged.lock().push((by, judged.is_ok()));
    }
}

#[test]
fn two_nodes_show_their_cards_once_and_again_after_a_restart() {
    let network = MemoryNetwork::new();
    let (one, two) = (Picky::new(1, 0), Picky::new(2, 0));
    let from_one = network.attach(NodeId(1), Arc::clone(&one) as Arc<dyn Inbox>);
    let _from_two = network.attach(NodeId(2), Arc::clone(&two) as Arc<dyn Inbox>);
    for _ in 0..3 {
        assert!(from_one.send(NodeId(2), Frame::Raft(Vec::new())));
    }
    assert_eq!(
        (&*one.shown.lock(), &*two.shown.lock()),
        (&vec![2], &vec![1])
    );
    assert_eq!(*one.judged.lock(), [(NodeId(2), true)]);
    let again = Picky::new(2, 0);
    let _from_two = network.attach(NodeId(2), Arc::clone(&again) as Arc<dyn Inbox>);
    assert!(from_one.send(NodeId(2), Frame::Raft(Vec::new())));
    assert_eq!(
        (&*one.shown.lock(), &*again.shown.lock()),
        (&vec![2, 2], &vec![1])
    );
    assert_eq!((*two.frames.lock(), *again.frames.lock()), (3, 1));
}

#[test]
fn nothing_is_moved_between_two_nodes_of_which_one_refuses_the_other() {
    let network = MemoryNetwork::new();
    let (one, two) = (Picky::new(1, 2), Picky::new(2, 0));
    let from_one = network.attach(NodeId(1), Arc::clone(&one) as Arc<dyn Inbox>);
    let from_two = network.attach(NodeId(2), Arc::clone(&two) as Arc<dyn Inbox>);
    assert!(!from_one.send(NodeId(2), Frame::Raft(Vec::new())));
    assert!(!from_two.send(NodeId(1), Frame::Raft(Vec::new())));
    assert_eq!((*one.frames.lock(), *two.frames.lock()), (0, 0));
    assert_eq!(*two.judged.lock(), [(NodeId(1), false)]);
}

#[test]
fn two_nodes_that_do_not_reach_each_other_do_not_meet() {
    let network = MemoryNetwork::new();
    network.isolate(NodeId(2));
    let (one, two) = (Picky::new(1, 0), Picky::new(2, 0));
    let from_one = network.attach(NodeId(1), Arc::clone(&one) as Arc<dyn Inbox>);
    let _from_two = network.attach(NodeId(2), Arc::clone(&two) as Arc<dyn Inbox>);
    assert!(
        from_one.send(NodeId(2), Frame::Raft(Vec::new())),
        "it is lost on the way"
    );
    assert!(one.shown.lock().is_empty() && two.shown.lock().is_empty());
    network.rejoin(NodeId(2));
    assert!(from_one.send(NodeId(2), Frame::Raft(Vec::new())));
    assert_eq!((two.shown.lock().len(), *two.frames.lock()), (1, 1));
}

/// Node 3, whose disk stands still while it writes down that it met node 1, until the test is over.
struct Stuck {
    begins: mpsc::Sender<()>,
    ends: Mutex<mpsc::Receiver<()>>,
}

impl Inbox for Stuck {
    fn deliver(&self, _from: Origin, _frame: Frame) {}

    fn card(&self) -> Option<NodeCard> {
        Some(NodeCard::bare(NodeId(3), 7, 1))
    }

    fn admit(&self, card: &NodeCard) -> Result<(), Refused> {
        if card.node == ONE {
            let _over = self.begins.send(());
            // An error: nobody holds it up any more.
            let _ends = self.ends.lock().recv();
        }
        Ok(())
    }
}

/// All nodes of the process that met somebody waited for one disk, and so did the threads of groups that sent something.
#[test]
fn nobody_else_waits_while_two_nodes_judge_each_other() {
    let network = MemoryNetwork::new();
    let one = network.attach(NodeId(1), Picky::new(1, 0));
    let (begins, begun) = mpsc::channel();
    let (hold, ends) = mpsc::channel();
    let (met, meets) = mpsc::channel();
    let theirs = Arc::clone(&network);
    std::thread::spawn(move || {
        let ends = Mutex::new(ends);
        let stuck = theirs.attach(NodeId(3), Arc::new(Stuck { begins, ends }));
        let _over = met.send(stuck);
    });
    begun.recv_timeout(DEADLINE).expect("they meet");

    let (sent, sends) = mpsc::channel();
    let theirs = Arc::clone(&network);
    std::thread::spawn(move || {
        let two = theirs.attach(NodeId(2), Picky::new(2, 0));
        let frame = || Frame::Raft(Vec::new());
        let outcome = [
            (&one, TWO),
            (&two, ONE),
            (&two, NodeId(3)),
            (&one, NodeId(3)),
        ]
        .map(|(from, to)| from.send(to, frame()));
        let _over = sent.send(outcome);
    });
    let outcome = sends.recv_timeout(DEADLINE).expect("nobody waits");
    assert_eq!(outcome, [true, true, true, false], "but the two themselves");
    drop(hold);
    meets.recv_timeout(DEADLINE).expect("they have met");
}
