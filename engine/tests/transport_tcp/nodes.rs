//! Node to node: what arrives, what is dropped, and what happens when one goes away.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::transport::tcp::{
    CloseReason, Lane, TcpError, TcpLimits, TcpTransport, TransportEvent,
};
use quorate::transport::{
    Frame, GroupMessage, Inbox, Origin, SnapshotChunk, SnapshotTransfer, Transport,
};
use quorate_raft::{
    Body, Config, Entry, EntryKind, LogIndex, Message, NodeId, Round, SnapshotMeta, Term,
};
use quorate_wal::GroupId;

use super::support::*;

#[test]
fn what_two_nodes_send_arrives_whole_and_in_order() {
    let (one, two) = pair(TcpLimits::default());
    let large = Bytes::from((0..3_000_000_u32).map(|n| n as u8).collect::<Vec<_>>());
    let sent = [
        append(ONE, TWO, 3, &large),
        numbered(1),
        append(ONE, TWO, 4, &Bytes::new()),
    ];
    for frame in &sent {
        assert!(one.transport.send(TWO, frame.clone()));
    }
    for frame in sent {
        let (from, arrived) = two.next_frame();
        assert!(matches!(from, Origin::Node(ONE)));
        assert_eq!(arrived, frame);
    }
    assert!(two.transport.send(ONE, append(TWO, ONE, 9, &large)));
    assert_eq!(one.next_frame().1, append(TWO, ONE, 9, &large));
}

#[test]
fn snapshot_chunks_take_their_own_connection() {
    let (one, two) = pair(TcpLimits::default());
    let chunk = Frame::SnapshotChunk(SnapshotChunk {
        transfer: SnapshotTransfer {
            group: GroupId(1),
            term: Term(2),
            attempt: 3,
        },
        meta: SnapshotMeta {
            index: LogIndex(4),
            term: Term(2),
            config: Config {
                voters: vec![ONE, TWO],
            },
        },
        total_bytes: 2_000_000,
        offset_bytes: 1_000_000,
        data: Bytes::from(vec![1; 1_000_000]),
        content_crc: 5,
    });
    assert!(one.transport.send(TWO, chunk.clone()));
    assert_eq!(two.next_frame().1, chunk);
    one.wait_for(|event| match event {
        TransportEvent::Connected {
            node: TWO,
            lane: Lane::Snapshot,
        } => Some(()),
        _ => None,
    });
}

#[test]
fn a_peer_that_comes_back_is_reached_again() {
    let ((listener_one, at_one), (listener_two, at_two)) = (listener(), listener());
    let peers = [(ONE, at_one), (TWO, at_two.clone())];
    let limits = TcpLimits::default();
    let one = Node::start(ONE, listener_one, &peers, limits);
    let two = Node::start(TWO, listener_two, &peers, limits);
    one.wait_connected(TWO);
    drop(two);
    one.wait_for(|event| match event {
        TransportEvent::Disconnected { node: TWO, .. } => Some(()),
        _ => None,
    });
    assert_eq!(one.lost.recv_timeout(DEADLINE), Ok(TWO));
    let two = Node::start(TWO, TcpListener::bind(at_two).unwrap(), &peers, limits);
    one.wait_connected(TWO);
    assert!(one.transport.send(TWO, numbered(5)));
    assert_eq!(id_of(&two.next_frame().1), 5);
}

/// Answers come on the connection that the other node makes.
#[test]
fn a_connection_that_a_peer_made_and_lost_is_told_as_well() {
    let ((listener_one, at_one), (listener_two, at_two)) = (listener(), listener());
    let peers = [(ONE, at_one), (TWO, at_two)];
    let one = Node::start(ONE, listener_one, &peers, TcpLimits::default());
    // Nobody takes the connection that node 1 makes, so all that it can lose is the one that it takes.
    let _mute = listener_two;
    let hello = Hello {
        lane: 0,
        from: TWO.0,
        to: ONE.0,
        ..Hello::default()
    };
    let stream = dial(one.address(), &hello.bytes());
    one.wait_for(|event| match event {
        TransportEvent::Accepted {
            node: Some(TWO), ..
        } => Some(()),
        _ => None,
    });
    assert!(one.lost.try_recv().is_err(), "it stands");
    drop(stream);
    assert_eq!(one.lost.recv_timeout(DEADLINE), Ok(TWO));
}

#[test]
fn what_is_over_the_bound_in_frames_is_dropped() {
    let limits = TcpLimits {
        queue_frames_max: 4,
        ..patient()
    };
    let (one, _never_answers) = with_mute_peer(limits);
    let taken = (0..10)
        .map(|id| one.transport.send(TWO, numbered(id)))
        .collect::<Vec<_>>();
    assert_eq!(taken, [[true; 4].as_slice(), &[false; 6]].concat());
    assert_eq!(one.transport.stats().frames_dropped, 6);
    assert!(
        !one.transport.send(NodeId(9), numbered(1)),
        "nobody of this name"
    );
}

#[test]
fn what_is_over_the_bound_in_bytes_is_dropped_unless_it_waits_alone() {
    let limits = TcpLimits {
        queue_bytes_max: 10_000,
        ..patient()
    };
    let (one, _never_answers) = with_mute_peer(limits);
    let large = Bytes::from(vec![0; 20_000]);
    assert!(one.transport.send(TWO, request(1, large)));
    assert!(!one.transport.send(TWO, numbered(2)));

    let (other, _never_answers) = with_mute_peer(limits);
    let half = Bytes::from(vec![0; 4900]);
    let taken = (0..3).map(|id| other.transport.send(TWO, request(id, half.clone())));
    assert_eq!(taken.collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn a_raft_frame_over_the_limit_arrives_in_parts() {
    let limits = TcpLimits {
        frame_bytes_max: 10_000,
        ..TcpLimits::default()
    };
    let (one, two) = pair(limits);
    let messages: Vec<GroupMessage> = (0..20)
        .flat_map(|group| messages_of(append(ONE, TWO, group, &Bytes::from(vec![1; 3000]))))
        .collect();
    assert!(one.transport.send(TWO, Frame::Raft(messages.clone())));
    let mut arrived = Vec::new();
    let mut frames = 0;
    while arrived.len() < messages.len() {
        arrived.extend(messages_of(two.next_frame().1));
        frames += 1;
    }
    assert_eq!(arrived, messages);
    assert_eq!(frames, 7, "three messages of 3 KB fit each");

    let too_long = Bytes::from(vec![1; 10_000]);
    assert!(!one.transport.send(TWO, append(ONE, TWO, 1, &too_long)));
    assert!(!one.transport.send(TWO, request(1, too_long)));
}

#[test]
fn stop_ends_all_threads_and_frees_the_port() {
    let (one, two) = pair(TcpLimits::default());
    assert!(one.transport.send(TWO, numbered(1)));
    two.next_frame();
    let address = two.address();
    two.transport.stop();
    two.transport.stop();
    assert!(!two.transport.send(ONE, numbered(2)));
    // Its threads held the inbox, or what holds it; the test's own handle is left.
    assert_eq!(Arc::strong_count(&two.inbox), 1);
    TcpListener::bind(address).expect("the port is free");
}

#[test]
fn a_transport_that_waits_to_dial_again_stops_at_once() {
    let (listener_one, at_one) = listener();
    let (vacant, at_two) = listener();
    drop(vacant);
    // An hour between attempts: only a wait that can be interrupted ends within the test.
    let limits = TcpLimits {
        backoff_min_ms: 3_600_000,
        backoff_max_ms: 3_600_000,
        ..patient()
    };
    let one = Node::start(ONE, listener_one, &[(ONE, at_one), (TWO, at_two)], limits);
    one.wait_for(|event| match event {
        TransportEvent::Unreachable {
            node: TWO,
            reason: CloseReason::Io(_),
            ..
        } => Some(()),
        _ => None,
    });
    one.transport.stop();
    assert_eq!(Arc::strong_count(&one.inbox), 1);
}

#[test]
fn a_peer_that_calls_is_called_back_at_once() {
    let ((listener_one, at_one), (vacant, at_two)) = (listener(), listener());
    drop(vacant);
    let peers = [(ONE, at_one), (TWO, at_two.clone())];
    let limits = TcpLimits {
        backoff_min_ms: 3_600_000,
        backoff_max_ms: 3_600_000,
        ..patient()
    };
    let one = Node::start(ONE, listener_one, &peers, limits);
    one.wait_for(|event| matches!(event, TransportEvent::Unreachable { .. }).then_some(()));
    let _two = Node::start(TWO, TcpListener::bind(at_two).unwrap(), &peers, limits);
    one.wait_connected(TWO);
}

#[test]
fn a_port_in_use_is_a_typed_error() {
    let (taken, address) = listener();
    let (mut options, _) = options(ONE, &[], TcpLimits::default());
    options.listen.clone_from(&address);
    let error = TcpTransport::bind(options, Arc::new(Deaf)).err().unwrap();
    let TcpError::Listen {
        address: named,
        source,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*named, address);
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address), "{error}");
    drop(taken);
}

#[test]
fn options_that_contradict_themselves_are_a_typed_error() {
    let limits = TcpLimits::default();
    let wrong = [
        options(NodeId(0), &[], limits).0,
        options(ONE, &[(NodeId(0), String::new())], limits).0,
        options(ONE, &[(TWO, String::new()), (TWO, String::new())], limits).0,
        options(
            ONE,
            &[],
            TcpLimits {
                frame_bytes_max: 0,
                ..limits
            },
        )
        .0,
        options(
            ONE,
            &[],
            TcpLimits {
                keep_alive_ms: 4000,
                ..limits
            },
        )
        .0,
        options(
            ONE,
            &[],
            TcpLimits {
                backoff_min_ms: 2000,
                ..limits
            },
        )
        .0,
    ];
    for (case, options) in wrong.into_iter().enumerate() {
        let error = TcpTransport::bind(options, Arc::new(Deaf)).err();
        assert!(
            matches!(error, Some(TcpError::Options(_))),
            "case {case}: {error:?}"
        );
    }
}

#[test]
fn nodes_with_different_numbers_of_groups_do_not_connect() {
    let ((listener_one, at_one), (listener_two, at_two)) = (listener(), listener());
    let peers = [(ONE, at_one), (TWO, at_two)];
    let _two = Node::start(TWO, listener_two, &peers, TcpLimits::default());
    let (mut options, events) = options(ONE, &peers, TcpLimits::default());
    options.groups = GROUPS + 1;
    let _one = TcpTransport::bind_socket(options, listener_one, Arc::new(Deaf)).unwrap();
    let reason = wait_for(&events, |event| match event {
        TransportEvent::Unreachable {
            node: TWO, reason, ..
        } => Some(reason),
        _ => None,
    });
    assert_eq!(
        reason,
        CloseReason::WrongGroups {
            ours: GROUPS + 1,
            theirs: GROUPS
        }
    );
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    let limits = TcpLimits {
        silence_timeout_ms: 100,
        keep_alive_ms: 20,
        ..patient()
    };
    let (one, peer) = with_mute_peer(limits);
    let (mut stream, _) = peer.accept().unwrap();
    stream.write_all(&accept_bytes(2)).unwrap();
    let reason = one.wait_for(|event| match event {
        TransportEvent::Disconnected {
            node: TWO, reason, ..
        } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::Silent { timeout_ms: 100 });
}

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    let limits = TcpLimits {
        write_timeout_ms: 100,
        ..patient()
    };
    let (one, peer) = with_mute_peer(limits);
    let (mut stream, _) = peer.accept().unwrap();
    stream.write_all(&accept_bytes(2)).unwrap();
    one.wait_connected(TWO);
    // More than both sockets hold.
    assert!(
        one.transport
            .send(TWO, request(1, Bytes::from(vec![0; 32 << 20])))
    );
    let reason = one.wait_for(|event| match event {
        TransportEvent::Disconnected {
            node: TWO, reason, ..
        } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::WriteTimeout { timeout_ms: 100 });
}

#[test]
fn keep_alives_hold_an_idle_connection() {
    let limits = TcpLimits {
        silence_timeout_ms: 400,
        keep_alive_ms: 100,
        ..patient()
    };
    let (one, peer) = with_mute_peer(limits);
    let (mut stream, _) = peer.accept().unwrap();
    let mut hello = [0; 16];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(hello[..12], Hello::default().bytes()[..12]);
    let length = u32::from_le_bytes([hello[12], hello[13], hello[14], hello[15]]);
    stream
        .read_exact(&mut vec![0; length as usize + 4])
        .unwrap();
    stream.write_all(&accept_bytes(2)).unwrap();
    one.wait_connected(TWO);
    // Each comes after a tenth of a second: longer than a silent connection would stand.
    let keep_alive = frame_bytes(6, &[]);
    for _ in 0..8 {
        let mut heard = [0; 12];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard[..], keep_alive);
        stream.write_all(&keep_alive).unwrap();
    }
    assert_eq!(
        one.events.try_iter().count(),
        0,
        "the connection still stands"
    );
}

#[test]
fn the_side_that_listens_shows_that_it_lives_to_nodes_and_to_clerks() {
    let limits = TcpLimits {
        keep_alive_ms: 2,
        ..patient()
    };
    let (one, _mute) = with_mute_peer(limits);
    for hello in [
        Hello {
            from: 2,
            to: 1,
            ..Hello::default()
        },
        Hello::default(),
    ] {
        let mut stream = dial(one.address(), &hello.bytes());
        assert_eq!(read_answer(&mut stream).0, 1);
        stream
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        let keep_alive = frame_bytes(6, &[]);
        let deadline = Instant::now() + DEADLINE;
        let mut heard = Vec::new();
        // It answers what arrives, and not too often: so until it does, something has to arrive.
        while heard.len() < keep_alive.len() && Instant::now() < deadline {
            stream.write_all(&keep_alive).unwrap();
            let mut some = [0; 12];
            if let Ok(bytes) = stream.read(&mut some) {
                heard.extend(&some[..bytes]);
            }
        }
        assert_eq!(heard.get(..12), Some(&keep_alive[..]));
    }
}

#[test]
fn a_newer_connection_of_a_node_replaces_the_older_one() {
    let (one, two) = pair(TcpLimits::default());
    let hello = Hello {
        from: 2,
        to: 1,
        ..Hello::default()
    };
    let mut newer = dial(one.address(), &hello.bytes());
    assert_eq!(read_answer(&mut newer).0, 1);
    one.wait_for(|event| match event {
        TransportEvent::Closed {
            node: Some(TWO),
            reason: CloseReason::Replaced,
            ..
        } => Some(()),
        _ => None,
    });
    two.wait_for(|event| match event {
        TransportEvent::Disconnected { node: ONE, .. } => Some(()),
        _ => None,
    });
}

struct Deaf;

impl Inbox for Deaf {
    fn deliver(&self, _: Origin, _: Frame) {}
}

/// Limits under which nothing happens by itself within a test.
fn patient() -> TcpLimits {
    let long = 60_000;
    TcpLimits {
        handshake_timeout_ms: long,
        silence_timeout_ms: long,
        write_timeout_ms: long,
        keep_alive_ms: long / 2,
        ..TcpLimits::default()
    }
}

/// Node 1, whose only peer accepts connections and says nothing.
fn with_mute_peer(limits: TcpLimits) -> (Node, TcpListener) {
    let ((listener_one, at_one), (mute, at_two)) = (listener(), listener());
    (
        Node::start(ONE, listener_one, &[(ONE, at_one), (TWO, at_two)], limits),
        mute,
    )
}

fn append(from: NodeId, to: NodeId, group: u64, data: &Bytes) -> Frame {
    let entries = vec![
        Entry {
            index: LogIndex(11),
            term: Term(3),
            kind: EntryKind::Command,
            data: data.clone(),
        },
        Entry {
            index: LogIndex(12),
            term: Term(3),
            kind: EntryKind::Noop,
            data: Bytes::new(),
        },
    ];
    let body = Body::Append {
        prev_index: LogIndex(10),
        prev_term: Term(2),
        commit: LogIndex(9),
        round: Round(8),
        entries,
    };
    let message = Message {
        from,
        to,
        term: Term(3),
        body,
    };
    Frame::Raft(vec![GroupMessage {
        group: GroupId(group),
        message,
    }])
}

fn messages_of(frame: Frame) -> Vec<GroupMessage> {
    match frame {
        Frame::Raft(messages) => messages,
        other => panic!("not a raft frame: {other:?}"),
    }
}
