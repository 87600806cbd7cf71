//! A payload is copied once, when it enters. From the leader's proposal to the value that a reader on a follower holds it
//! is the same memory, as long as the nodes share a process.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use common::{GROUP, in_memory, quick, settled};
use quorate::transport::memory::MemoryNetwork;
use quorate::transport::{Consistency, Frame, GroupMessage, Inbox, Origin, Transport};
use quorate::{Bytes, LogIndex, MapView, NodeId, Term, TransportKind};
use quorate_raft::{Body, Entry, EntryKind, Message, Round};

const MIB: usize = 1 << 20;

struct Recorder(Sender<Frame>);

impl Inbox for Recorder {
    fn deliver(&self, _from: Origin, frame: Frame) {
        self.0.send(frame).expect("the test listens");
    }
}

#[test]
fn the_entries_of_an_append_arrive_as_the_memory_that_was_sent() {
    let network = MemoryNetwork::new();
    let (leader, _) = attach(&network, NodeId(1));
    let (_follower, heard) = attach(&network, NodeId(2));
    let payloads: Vec<Bytes> = (0..4_u8).map(|fill| Bytes::from(vec![fill; MIB])).collect();
    let entries: Vec<Entry> = (1..)
        .zip(&payloads)
        .map(|(index, data)| Entry {
            index: LogIndex(index),
            term: Term(1),
            kind: EntryKind::Command,
            data: data.clone(),
        })
        .collect();
    let body = Body::Append {
        prev_index: LogIndex(0),
        prev_term: Term(0),
        commit: LogIndex(0),
        round: Round::default(),
        entries,
    };
    let message = Message {
        from: NodeId(1),
        to: NodeId(2),
        term: Term(1),
        body,
    };
    assert!(leader.send(
        NodeId(2),
        Frame::Raft(vec![GroupMessage {
            group: GROUP,
            message
        }])
    ));
    let Ok(Frame::Raft(messages)) = heard.try_recv() else {
        panic!("it is delivered within the send")
    };
    let Body::Append { entries, .. } = &messages[0].message.body else {
        panic!("an append was sent")
    };
    for (entry, payload) in entries.iter().zip(&payloads) {
        assert_eq!(entry.data.as_ptr(), payload.as_ptr());
    }
    assert_eq!(entries.len(), payloads.len());
}

#[test]
fn a_value_is_the_same_memory_on_every_node_of_a_process() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let leader = cluster
        .db(cluster.leader().expect("one leads"))
        .expect("it runs");
    let value = vec![7; MIB];
    leader.put("large", &value).expect("a majority lives");
    settled(&cluster);
    let views: Vec<MapView> = cluster
        .nodes()
        .into_iter()
        .filter_map(|node| cluster.db(node))
        .map(|db| db.view(GROUP, Consistency::Stale).expect("readable"))
        .collect();
    let values: Vec<Bytes> = views
        .iter()
        .map(|view| view.get(b"large").expect("it was applied"))
        .collect();
    assert_eq!(values.len(), 3);
    for found in &values {
        assert_eq!(found[..], value[..]);
        assert_ne!(
            found.as_ptr(),
            value.as_ptr(),
            "the caller's memory was copied when it entered"
        );
        assert_eq!(found.as_ptr(), values[0].as_ptr(), "and never again");
    }
    let read = leader
        .get("large")
        .expect("readable")
        .expect("it was written");
    assert_eq!(read.as_ptr(), values[0].as_ptr(), "not even for a reader");
}

#[test]
fn a_value_that_a_clerk_puts_is_the_same_memory_on_every_node() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    clerk.put("large", vec![8; MIB]).expect("a majority lives");
    settled(&cluster);
    let pointers: Vec<*const u8> = cluster
        .nodes()
        .into_iter()
        .filter_map(|node| cluster.db(node))
        .map(|db| db.view(GROUP, Consistency::Stale).expect("readable"))
        .map(|view| view.get(b"large").expect("it was applied").as_ptr())
        .collect();
    assert_eq!(pointers, [pointers[0]; 3]);
}

fn attach(network: &Arc<MemoryNetwork>, node: NodeId) -> (Arc<dyn Transport>, Receiver<Frame>) {
    let (give, take) = mpsc::channel();
    (network.attach(node, Arc::new(Recorder(give))), take)
}
