//! Strangers at the door: whatever comes over a node's port, the cluster goes on as if nothing were, and the node says
//! why it turned each away.
//!
//! Three nodes over TCP serve a clerk that appends all the while. Each stranger must be named by the observer with its
//! own reason, and the clerk must get on while the stranger is connected.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DEADLINE, GROUP, Rng, eventually, free_addresses, quick, seed};
use quorate::transport::codec::{FrameError, encode_frame};
use quorate::transport::tcp::{CloseReason, TransportEvent};
use quorate::transport::{Frame, GroupMessage, Reply, ReplyBody, RequestId};
use quorate::{Clerk, Db, LogIndex, NodeId, Term};
use quorate_raft::{Body, Message};

const CLUSTER_ID: u64 = 0xC1;

#[test]
fn strangers_are_named_and_harm_nobody() {
    let mut rng = Rng(seed("strangers_are_named_and_harm_nobody"));
    let cluster = Served::start();
    let clerk = Writer::start(cluster.clerk());
    let scripts = scripts(&mut rng);
    // All are held open to the end: whoever says nothing more takes its place for as long as it can.
    let mut held = Vec::new();
    for (name, bytes, is_expected) in scripts {
        clerk.gets_on(name);
        let seen = cluster.rejected.lock().expect("not poisoned").len();
        let mut stream = cluster.dial();
        // Whoever is refused early may find the door closed while it still speaks.
        let _refused_early = stream.write_all(&bytes);
        cluster.names(name, seen, is_expected);
        held.push(stream);
        clerk.gets_on(name);
    }
    for len in [0, 1, 11, 43, 44, 50] {
        let mut stream = cluster.dial();
        let bytes = [hello(Some(CLUSTER_ID), 0, 0), vec![200, 0, 0, 0, 4, 0]].concat();
        stream.write_all(&bytes[..len]).expect("this much is taken");
        stream.shutdown(Shutdown::Both).expect("open until now");
        clerk.gets_on("somebody who hangs up half way");
    }
    drop(held);
    clerk.finish(&cluster);
}

#[test]
fn whoever_falls_silent_half_way_is_named_in_time() {
    let cluster = Served::start();
    let clerk = Writer::start(cluster.clerk());
    let half_hello = hello(Some(CLUSTER_ID), 0, 0)[..20].to_vec();
    let half_frame = [
        hello(Some(CLUSTER_ID), 0, 0),
        vec![200, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4, 5],
    ]
    .concat();
    let held: Vec<TcpStream> = [half_hello, half_frame]
        .iter()
        .map(|bytes| {
            let mut stream = cluster.dial();
            stream.write_all(bytes).expect("this much is taken");
            stream
        })
        .collect();
    cluster.names("half a hello", 0, |reason| {
        matches!(reason, CloseReason::HandshakeTimeout { .. })
    });
    clerk.gets_on("half a hello");
    cluster.names("half a frame", 0, |reason| {
        matches!(reason, CloseReason::Silent { .. })
    });
    clerk.gets_on("half a frame");
    drop(held);
    clerk.finish(&cluster);
}

#[test]
fn a_node_of_another_cluster_is_refused_on_both_sides() {
    let cluster = Served::start();
    let clerk = Writer::start(cluster.clerk());
    let root = tempfile::tempdir().expect("a directory");
    let [own] = free_addresses();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let stranger = Db::builder(root.path())
        .node(2)
        .cluster([(1, cluster.addresses[0].clone()), (2, own)])
        .cluster_id(0xC2)
        .options(quick())
        .observer(move |event| {
            if let TransportEvent::Unreachable { reason, .. } = event {
                tell.lock().expect("not poisoned").push(reason.clone());
            }
        })
        .open()
        .expect("a node of another cluster opens");
    cluster.names("a node of another cluster", 0, |reason| {
        *reason
            == CloseReason::WrongCluster {
                ours: CLUSTER_ID,
                theirs: 0xC2,
            }
    });
    eventually("the stranger is told which cluster it met", || {
        let theirs = CloseReason::WrongCluster {
            ours: 0xC2,
            theirs: CLUSTER_ID,
        };
        told.lock().expect("not poisoned").contains(&theirs)
    });
    clerk.gets_on("a node of another cluster");
    let leader = stranger.status()[0].leader;
    assert_eq!(leader, None, "a node alone of two has no majority");
    drop(stranger);
    clerk.finish(&cluster);
}

type Script = (&'static str, Vec<u8>, fn(&CloseReason) -> bool);

/// What strangers say, and how each must be named.
fn scripts(rng: &mut Rng) -> Vec<Script> {
    let welcome = hello(Some(CLUSTER_ID), 0, 0);
    let after = |bytes: &[u8]| [&welcome[..], bytes].concat();
    let mut newer = hello(Some(CLUSTER_ID), 0, 0);
    newer[8..10].copy_from_slice(&9_u16.to_le_bytes());
    let mut damaged = hello(Some(CLUSTER_ID), 0, 0);
    damaged[20] ^= 1;
    let reply = Frame::Reply(Reply {
        id: RequestId(1),
        result: Ok(ReplyBody::ReadIndex(LogIndex(1))),
    });
    let reply = encode_frame(&reply, 1 << 20).expect("small");
    let mut flipped = reply.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let mut garbage = rng.bytes(4096);
    garbage[0] = 0;
    vec![
        ("garbage", garbage, |r| *r == CloseReason::NotQuorate),
        (
            "a web browser",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".to_vec(),
            |r| *r == CloseReason::NotQuorate,
        ),
        ("zeros", vec![0; 1 << 16], |r| *r == CloseReason::NotQuorate),
        ("a newer version", newer, |r| {
            matches!(r, CloseReason::Version { ours: 2, theirs: 9 })
        }),
        ("a damaged hello", damaged, |r| {
            *r == CloseReason::BadHandshake
        }),
        ("a clerk of another cluster", hello(Some(0xC3), 0, 0), |r| {
            matches!(r, CloseReason::WrongCluster { theirs: 0xC3, .. })
        }),
        (
            "a clerk who wants another node",
            hello(Some(CLUSTER_ID), 0, 2),
            |r| {
                matches!(
                    r,
                    CloseReason::WrongNode {
                        expected: NodeId(2),
                        found: NodeId(1)
                    }
                )
            },
        ),
        ("a node that nobody listed", node_hello(9, 1), |r| {
            *r == CloseReason::UnknownNode { node: NodeId(9) }
        }),
        (
            "somebody under this node's own name",
            node_hello(1, 1),
            |r| *r == CloseReason::UnknownNode { node: NodeId(1) },
        ),
        ("a frame of 4 GiB", after(&[0xFF; 12]), |r| {
            matches!(r, CloseReason::Frame(FrameError::TooLong { .. }))
        }),
        ("a flipped bit", after(&flipped), |r| {
            *r == CloseReason::Frame(FrameError::Crc)
        }),
        ("a clerk who answers", after(&reply), |r| {
            *r == CloseReason::Unexpected
        }),
        ("a clerk who votes", after(&vote()), |r| {
            *r == CloseReason::Unexpected
        }),
    ]
}

/// A vote in a term far ahead, which would depose the leader if it were believed.
fn vote() -> Vec<u8> {
    let body = Body::Vote {
        last_index: LogIndex(1 << 40),
        last_term: Term(1 << 40),
        transfer: true,
    };
    let message = Message {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(1 << 40),
        body,
    };
    let frame = Frame::Raft(vec![GroupMessage {
        group: GROUP,
        message,
    }]);
    encode_frame(&frame, 1 << 20).expect("small")
}

/// The first thing that a node says (`docs/wire.md`); one without a directory.
fn node_hello(from: u64, to: u64) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut add = |tag: u16, content: &[u8]| {
        fields.extend_from_slice(&tag.to_le_bytes());
        fields.extend_from_slice(&(content.len() as u16).to_le_bytes());
        fields.extend_from_slice(content);
    };
    add(1, &[0]);
    for (tag, number) in [(2, CLUSTER_ID), (3, from), (4, to)] {
        add(tag, &number.to_le_bytes());
    }
    add(16, &4_u32.to_le_bytes());
    let zeros: [(u16, usize); 6] = [(17, 8), (18, 16), (19, 0), (20, 9), (21, 24), (22, 8)];
    for (tag, len) in zeros {
        add(tag, &vec![0; len]);
    }
    add(23, &[1]);
    add(24, b"");
    add(25, b"");
    let mut bytes = b"QUORATE\n\x02\0\x02\0".to_vec();
    bytes.extend_from_slice(&(fields.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&fields);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The first thing that a clerk of version 1 says (`docs/wire.md`). Zero as `to`: any node.
fn hello(cluster_id: Option<u64>, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = b"QUORATE\n".to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, u8::from(cluster_id.is_some()), 0, 0]);
    bytes.extend_from_slice(&cluster_id.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&from.to_le_bytes());
    bytes.extend_from_slice(&to.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Three nodes on this machine, the first of which is watched.
struct Served {
    dbs: Vec<Db>,
    addresses: [String; 3],
    rejected: Arc<Mutex<Vec<CloseReason>>>,
    _root: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let addresses: [String; 3] = free_addresses();
        let rejected = Arc::new(Mutex::new(Vec::new()));
        let dbs = (1..=3)
            .map(|id: u64| {
                let tell = Arc::clone(&rejected);
                Db::builder(root.path().join(id.to_string()))
                    .node(id)
                    .cluster((1..).zip(addresses.iter().cloned()))
                    .cluster_id(CLUSTER_ID)
                    .options(quick())
                    .observer(move |event| {
                        if let TransportEvent::Rejected { reason, .. } = event
                            && id == 1
                        {
                            tell.lock().expect("not poisoned").push(reason.clone());
                        }
                    })
                    .open()
                    .expect("a node opens")
            })
            .collect();
        Self {
            dbs,
            addresses,
            rejected,
            _root: root,
        }
    }

    fn clerk(&self) -> Clerk {
        Clerk::connect_with(self.addresses.clone(), &quick()).expect("three nodes listen")
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.addresses[0]).expect("the node listens");
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .expect("a valid time");
        stream
    }

    /// Waits until the watched node turned somebody away for the expected reason, among the reasons from `seen` on.
    fn names(&self, stranger: &str, seen: usize, is_expected: impl Fn(&CloseReason) -> bool) {
        eventually(
            &format!("{stranger} is turned away for the right reason"),
            || {
                self.rejected.lock().expect("not poisoned")[seen..]
                    .iter()
                    .any(&is_expected)
            },
        );
    }
}

/// A clerk that appends numbers in a thread of its own.
struct Writer {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Gone once it was joined.
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Drop for Writer {
    /// The clerk ends also when an assertion fails.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _failed = thread.join();
        }
    }
}

impl Writer {
    fn start(clerk: Clerk) -> Self {
        let (done, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, ends) = (Arc::clone(&done), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Acquire) {
                let number = count.load(Ordering::Acquire);
                clerk
                    .append("log", format!("{number};"))
                    .expect("the cluster goes on");
                count.fetch_add(1, Ordering::AcqRel);
            }
            count.load(Ordering::Acquire)
        });
        let thread = Some(thread);
        Self { done, stop, thread }
    }

    /// Waits until the clerk has finished calls that began after this one.
    fn gets_on(&self, during: &str) {
        let before = self.done.load(Ordering::Acquire);
        eventually(&format!("the clerk gets on during {during}"), || {
            self.done.load(Ordering::Acquire) >= before + 2
        });
    }

    /// Ends the clerk: everything that it was told is done is there, once, on every node.
    fn finish(mut self, cluster: &Served) {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("it is joined here alone");
        let count = thread.join().expect("every call succeeded");
        let expected: Vec<u8> = (0..count)
            .flat_map(|number| format!("{number};").into_bytes())
            .collect();
        for db in &cluster.dbs {
            let value = db.get("log").expect("readable").expect("it was written");
            assert!(
                value[..] == expected[..],
                "node {} holds another value",
                db.node()
            );
        }
    }
}

#[test]
fn a_refused_caller_is_told_why_before_the_door_closes() {
    let cluster = Served::start();
    let mut stream = cluster.dial();
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a valid time");
    stream
        .write_all(&hello(Some(0xC4), 0, 0))
        .expect("a whole hello is taken");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("an answer, then the end");
    assert_eq!(&answer[..8], b"QUORATE\n");
    assert_eq!(answer[10..12], [2, 2], "a reject, because of the cluster");
    assert_eq!(
        answer[16..24],
        CLUSTER_ID.to_le_bytes(),
        "which cluster it is"
    );
}
