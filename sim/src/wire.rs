//! The memory transport, as it is, between the nodes and clerks of a run.
//!
//! Its gates, ports and ways back are those of a cluster in one process. A frame that a node sends is moved, on the spot, to the
//! port of its receiver, which keeps it until the world has let it travel; a request is handed over when it arrives. Only how
//! long the way takes, and what gets lost on it, is the world's.
//!
//! Nothing is ever handed back to this transport: a frame is owned by whoever has it, and its payloads are counted
//! references. Both are checked for each frame: payloads arrive in the memory in which they were sent, so that who writes
//! there anew would be seen; and the disks, whose maps are the only memory that is used again, note who writes over what is held
//! ([`CrashDisk::trampled`](quorate_wal::testing::CrashDisk::trampled)).

use std::sync::Arc;

use parking_lot::Mutex;
use quorate::simulation::Body;
use quorate::transport::memory::{MemoryClerkLink, MemoryNetwork, MemoryTransport};
use quorate::transport::{
    ClerkInbox, ClerkLink, Frame, Inbox, Origin, Reply, Request, RequestBody, Transport,
};
use quorate::{Bytes, NodeId};

use crate::node::Sent;

/// A memory network with its clerks; nodes come and go.
pub(crate) struct Wire {
    network: Arc<MemoryNetwork>,
    clerks: Vec<Arc<MemoryClerkLink>>,
    tray: Arc<Tray>,
}

/// What was sent, by whom, until the world takes it.
#[derive(Default)]
struct Tray(Mutex<Vec<(NodeId, Sent)>>);

/// A node's end.
struct Port {
    node: NodeId,
    process: Arc<dyn Inbox>,
    tray: Arc<Tray>,
}

/// A clerk's end.
struct Desk {
    clerk: usize,
    tray: Arc<Tray>,
}

/// A node's way in.
pub(crate) struct Checked {
    transport: Arc<MemoryTransport>,
    tray: Arc<Tray>,
}

impl Wire {
    pub(crate) fn new(clerks: usize) -> Self {
        let network = MemoryNetwork::new();
        let tray = Arc::<Tray>::default();
        let clerks = (0..clerks).map(|clerk| {
            network.clerk(Arc::new(Desk {
                clerk,
                tray: Arc::clone(&tray),
            }))
        });
        Self {
            clerks: clerks.collect(),
            network,
            tray,
        }
    }

    /// Connects a process. It is taken off when it lets go of what this returns.
    pub(crate) fn attach(&self, node: NodeId, process: Arc<dyn Inbox>) -> Arc<Checked> {
        let port = Arc::new(Port {
            node,
            process,
            tray: Arc::clone(&self.tray),
        });
        Arc::new(Checked {
            transport: self.network.attach(node, port),
            tray: Arc::clone(&self.tray),
        })
    }

    /// Hands a request to a node. `false`: there is none.
    pub(crate) fn ask(&self, clerk: usize, to: NodeId, request: Request) -> bool {
        self.clerks[clerk].send(to, request)
    }

    /// What a node sent.
    pub(crate) fn take(&self, from: NodeId) -> Vec<Sent> {
        let mut tray = self.tray.0.lock();
        let all = std::mem::take(&mut *tray);
        let (taken, left) = all.into_iter().partition(|(sender, _)| *sender == from);
        *tray = left;
        let taken: Vec<(NodeId, Sent)> = taken;
        taken.into_iter().map(|(_, sent)| sent).collect()
    }
}

impl Inbox for Port {
    fn deliver(&self, from: Origin, frame: Frame) {
        match from {
            Origin::Node(from) => {
                let sent = Sent::Frame(self.node, frame);
                self.tray.0.lock().push((from, sent));
            }
            // It has travelled already, and this is its way back.
            Origin::Clerk(_) => self.process.deliver(from, frame),
        }
    }
}

impl ClerkInbox for Desk {
    fn reply(&self, from: NodeId, reply: Reply) {
        let sent = Sent::Reply(self.clerk, reply);
        self.tray.0.lock().push((from, sent));
    }

    /// The world tells clerks, each after a time of its own.
    fn disconnected(&self, _node: NodeId) {}
}

impl Transport for Checked {
    fn send(&self, to: NodeId, frame: Frame) -> bool {
        let places = places_of(&frame);
        let is_taken = self.transport.send(to, frame);
        if is_taken {
            let tray = self.tray.0.lock();
            let Some((_, Sent::Frame(_, arrived))) = tray.last() else {
                panic!("what the memory transport takes is at its receiver when it returns");
            };
            assert!(
                places == places_of(arrived),
                "the memory transport hands payloads over in the memory in which it got them"
            );
        }
        is_taken
    }

    fn stop(&self) {
        self.transport.stop();
    }
}

/// Where the payloads of a frame are in memory.
fn places_of(frame: &Frame) -> Vec<(usize, usize)> {
    let place = |bytes: &Bytes| (bytes.as_ptr() as usize, bytes.len());
    match frame {
        Frame::Raft(messages) => {
            let bodies = messages.iter().map(|it| &it.message.body);
            let entries = bodies.filter_map(|body| match body {
                Body::Append { entries, .. } => Some(entries),
                _ => None,
            });
            entries.flatten().map(|it| place(&it.data)).collect()
        }
        Frame::SnapshotChunk(chunk) => vec![place(&chunk.data)],
        Frame::Request(request) => match &request.body {
            RequestBody::Propose { command: bytes } | RequestBody::Query { query: bytes, .. } => {
                vec![place(bytes)]
            }
            RequestBody::ReadIndex => Vec::new(),
        },
        Frame::SnapshotAck(_) | Frame::Reply(_) | Frame::Status(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::GroupId;
    use quorate::transport::{ReplyBody, RequestId};

    /// Answers each request with its own payload, at once.
    struct Echo;

    impl Inbox for Echo {
        fn deliver(&self, from: Origin, frame: Frame) {
            if let (Origin::Clerk(sink), Frame::Request(request)) = (from, frame)
                && let RequestBody::Propose { command } = request.body
            {
                let result = Ok(ReplyBody::Answer(command));
                sink.reply(Reply {
                    id: request.id,
                    result,
                });
            }
        }
    }

    fn request(command: &Bytes) -> Request {
        Request {
            id: RequestId(1),
            group: GroupId(0),
            body: RequestBody::Propose {
                command: command.clone(),
            },
        }
    }

    #[test]
    fn frames_wait_for_the_world_and_requests_go_through_to_the_process() {
        let wire = Wire::new(2);
        let first = wire.attach(NodeId(1), Arc::new(Echo));
        let second = wire.attach(NodeId(2), Arc::new(Echo));
        let command = Bytes::from(vec![7; 100]);
        assert!(first.send(NodeId(2), Frame::Request(request(&command))));
        assert!(wire.take(NodeId(2)).is_empty(), "it is of node 1");
        let sent = wire.take(NodeId(1));
        let [Sent::Frame(NodeId(2), frame)] = &sent[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(places_of(frame), [(command.as_ptr() as usize, 100)]);
        assert!(wire.ask(1, NodeId(2), request(&command)));
        let sent = wire.take(NodeId(2));
        let [Sent::Reply(1, reply)] = &sent[..] else {
            panic!("{sent:?}");
        };
        let Ok(ReplyBody::Answer(answer)) = &reply.result else {
            panic!("{reply:?}");
        };
        assert_eq!(
            answer.as_ptr(),
            command.as_ptr(),
            "the same bytes came back"
        );
        drop(second);
        assert!(!wire.ask(1, NodeId(2), request(&command)), "it is gone");
        assert!(!first.send(NodeId(2), Frame::Raft(Vec::new())));
    }
}
