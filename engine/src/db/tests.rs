//! What only an insider of a node can bring about.

use std::sync::mpsc;
use std::time::Duration;

use quorate_raft::{Body, Message, Term};

use super::*;
use crate::transport::{Frame, GroupMessage, Inbox, Origin};

/// It was counted, and nobody was told.
#[test]
fn what_a_replica_refuses_is_told_to_the_observer() {
    let dir = tempfile::tempdir().expect("a directory");
    let (told, heard) = mpsc::channel();
    let db = Db::builder(dir.path().join("data"))
        .observer(move |event| {
            let _over = told.send(event.clone());
        })
        .open()
        .expect("a fresh node");
    db.put("k", "v").expect("it is alone");
    let message = Message {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(1),
        body: Body::TimeoutNow,
    };
    for _ in 0..3 {
        let messages = vec![GroupMessage {
            group: GroupId(0),
            message: message.clone(),
        }];
        let inbox = &db.inner.node.inbox;
        inbox.deliver(Origin::Node(NodeId(2)), Frame::Raft(messages));
    }
    let expected = TransportEvent::MessageRefused {
        group: GroupId(0),
        node: NodeId(2),
        reason: "its message makes no sense here".to_owned(),
    };
    let mut events = Vec::new();
    while !events.contains(&expected) {
        let event = heard.recv_timeout(Duration::from_secs(10));
        events.push(event.expect("the observer is told"));
    }
    // Nothing is told after this.
    db.close();
    drop(db);
    while let Ok(event) = heard.recv_timeout(Duration::from_secs(10)) {
        events.push(event);
    }
    let refused = |event: &&TransportEvent| matches!(event, TransportEvent::MessageRefused { .. });
    assert_eq!(events.iter().filter(refused).count(), 1, "{events:?}");
}
