//! Whoever breaks a rule is closed with a name for it, and nobody else notices.

use std::io::Write;
use std::net::TcpStream;

use quorate::transport::Transport;
use quorate::transport::codec::{DecodeError, FrameError};
use quorate::transport::tcp::{CloseReason, TcpLimits, TransportEvent};
use quorate_raft::NodeId;

use super::support::*;

/// What a stranger sends, and what becomes of it.
struct Case {
    name: &'static str,
    sends: Vec<u8>,
    reason: CloseReason,
}

#[test]
fn a_wrong_hello_closes_with_its_reason() {
    let (one, two) = pair(TcpLimits::default());
    let hello = Hello::default();
    let mut damaged = hello.bytes();
    damaged[24] ^= 1;
    let of_node = |from, to| Hello { from, to, ..hello };
    let cases = [
        Case {
            name: "not_quorate",
            sends: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            reason: CloseReason::NotQuorate,
        },
        Case {
            name: "version",
            sends: Hello {
                version: 9,
                ..hello
            }
            .bytes(),
            reason: CloseReason::Version { ours: 2, theirs: 9 },
        },
        Case {
            name: "bad_handshake",
            sends: damaged,
            reason: CloseReason::BadHandshake,
        },
        Case {
            name: "bad_handshake",
            sends: Hello { lane: 2, ..hello }.bytes(),
            reason: CloseReason::BadHandshake,
        },
        Case {
            name: "wrong_cluster",
            sends: Hello {
                cluster: 8,
                ..of_node(2, 1)
            }
            .bytes(),
            reason: CloseReason::WrongCluster {
                ours: CLUSTER,
                theirs: 8,
            },
        },
        Case {
            name: "wrong_node",
            sends: of_node(2, 3).bytes(),
            reason: CloseReason::WrongNode {
                expected: NodeId(3),
                found: ONE,
            },
        },
        Case {
            name: "unknown_node",
            sends: of_node(3, 1).bytes(),
            reason: CloseReason::UnknownNode { node: NodeId(3) },
        },
        Case {
            name: "unknown_node",
            sends: of_node(1, 1).bytes(),
            reason: CloseReason::UnknownNode { node: ONE },
        },
    ];
    for case in cases {
        let mut stranger = dial(one.address(), &case.sends);
        check_rejected(&one, &two, &mut stranger, &case);
    }
    assert_eq!(one.transport.stats().closes["unknown_node"], 2);
}

#[test]
fn a_wrong_frame_closes_with_its_reason() {
    let limits = TcpLimits {
        frame_bytes_max: 1000,
        ..TcpLimits::default()
    };
    let (one, two) = pair_of_three(limits);
    let raft = |from: u64, to: u64| {
        let mut body = [from.to_le_bytes(), to.to_le_bytes()].concat();
        body.extend(1_u32.to_le_bytes());
        body.extend([0; 16]);
        body.push(10);
        frame_bytes(1, &body)
    };
    let mut damaged = raft(3, 1);
    *damaged.last_mut().unwrap() ^= 1;
    let mut reserved = 0_u32.to_le_bytes().to_vec();
    reserved.extend([6, 0, 0, 1]);
    reserved.extend(crc32fast::hash(&reserved).to_le_bytes());
    let unknown = DecodeError::UnknownKind { kind: 9 };
    let cases = [
        Case {
            name: "frame_too_long",
            sends: [&1001_u32.to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat(),
            reason: FrameError::TooLong {
                bytes: 1001,
                max: 1000,
            }
            .into(),
        },
        Case {
            name: "frame_crc",
            sends: damaged,
            reason: FrameError::Crc.into(),
        },
        Case {
            name: "frame_reserved",
            sends: reserved,
            reason: FrameError::Reserved.into(),
        },
        Case {
            name: "frame_undecodable",
            sends: frame_bytes(9, &[]),
            reason: FrameError::Decode(unknown).into(),
        },
        Case {
            name: "misaddressed",
            sends: raft(2, 1),
            reason: CloseReason::Misaddressed,
        },
        Case {
            name: "misaddressed",
            sends: raft(3, 2),
            reason: CloseReason::Misaddressed,
        },
    ];
    let hello = Hello {
        from: 3,
        to: 1,
        ..Hello::default()
    };
    for case in cases {
        let mut stranger = dial(one.address(), &hello.bytes());
        assert_eq!(read_answer(&mut stranger).0, 1);
        stranger.write_all(&case.sends).unwrap();
        check_rejected(&one, &two, &mut stranger, &case);
    }
}

#[test]
fn a_frame_on_the_wrong_connection_closes_it() {
    let (one, two) = pair_of_three(TcpLimits::default());
    let empty_raft = frame_bytes(1, &[0; 20]);
    let snapshot_lane = Hello {
        from: 3,
        to: 1,
        lane: 1,
        ..Hello::default()
    };
    for hello in [Hello::default(), snapshot_lane] {
        let case = Case {
            name: "unexpected",
            sends: hello.bytes(),
            reason: CloseReason::Unexpected,
        };
        let mut stranger = dial(one.address(), &case.sends);
        assert_eq!(read_answer(&mut stranger).0, 1);
        stranger.write_all(&empty_raft).unwrap();
        check_rejected(&one, &two, &mut stranger, &case);
    }
}

#[test]
fn a_version_that_is_not_spoken_is_answered_with_the_one_that_is() {
    let (one, _two) = pair(TcpLimits::default());
    // Only the first twelve bytes: nothing more is needed to judge.
    let hello = Hello {
        version: 9,
        ..Hello::default()
    }
    .bytes();
    let mut stranger = dial(one.address(), &hello[..12]);
    assert_eq!(
        read_answer(&mut stranger),
        (2, 1, 2_u64.to_le_bytes().to_vec())
    );
    read_to_close(&mut stranger);
}

#[test]
fn a_silent_stranger_is_closed_in_time() {
    let limits = TcpLimits {
        handshake_timeout_ms: 100,
        ..TcpLimits::default()
    };
    let (one, two) = pair(limits);
    let half_a_hello = &Hello::default().bytes()[..20];
    for sends in [&[][..], half_a_hello] {
        let case = Case {
            name: "handshake_timeout",
            sends: sends.to_vec(),
            reason: CloseReason::HandshakeTimeout { timeout_ms: 100 },
        };
        let mut stranger = dial(one.address(), sends);
        check_rejected(&one, &two, &mut stranger, &case);
    }
}

#[test]
fn a_silent_clerk_is_closed_in_time() {
    let limits = TcpLimits {
        silence_timeout_ms: 300,
        keep_alive_ms: 50,
        ..TcpLimits::default()
    };
    let (one, two) = pair(limits);
    let mut clerk = dial(one.address(), &Hello::default().bytes());
    let case = Case {
        name: "silent",
        sends: Vec::new(),
        reason: CloseReason::Silent { timeout_ms: 300 },
    };
    check_rejected(&one, &two, &mut clerk, &case);
}

#[test]
fn strangers_are_bounded_and_do_not_use_up_the_places_of_nodes() {
    let limits = TcpLimits {
        handshakes_max: 2,
        clerks_max: 1,
        ..TcpLimits::default()
    };
    let (one, two) = pair(limits);
    let mut clerk = dial(one.address(), &Hello::default().bytes());
    assert_eq!(read_answer(&mut clerk).0, 1);
    let mut second = dial(one.address(), &Hello::default().bytes());
    let (kind, code, _) = read_answer(&mut second);
    assert_eq!((kind, code), (2, 5), "one clerk is all");
    read_to_close(&mut second);

    // All clerks' places are taken; a node's is its own.
    let node = Hello {
        from: 2,
        to: 1,
        lane: 1,
        ..Hello::default()
    };
    let mut node = dial(one.address(), &node.bytes());
    assert_eq!(read_answer(&mut node).0, 1);

    let silent: Vec<TcpStream> = (0..2).map(|_| dial(one.address(), &[])).collect();
    let mut refused = dial(one.address(), &[]);
    assert_eq!(
        read_answer(&mut refused),
        (2, 5, vec![0; 8]),
        "two strangers are all"
    );
    read_to_close(&mut refused);
    assert_eq!(one.transport.stats().closes["too_many"], 2);
    check_exchange(&one, &two);
    drop(silent);
}

/// The stranger is closed for this reason, the reason is counted, and the two nodes go on.
fn check_rejected(one: &Node, two: &Node, stranger: &mut TcpStream, case: &Case) {
    let local = stranger.local_addr().unwrap();
    let reason = one.wait_for(|event| match event {
        TransportEvent::Rejected { address, reason } if address == local => Some(reason),
        TransportEvent::Closed {
            address, reason, ..
        } if address == local => Some(reason),
        _ => None,
    });
    assert_eq!(reason, case.reason, "{}", case.name);
    assert_eq!(reason.name(), case.name);
    assert!(one.transport.stats().closes[case.name] > 0);
    read_to_close(stranger);
    check_exchange(one, two);
}

fn check_exchange(one: &Node, two: &Node) {
    assert!(one.transport.send(TWO, numbered(1)));
    assert_eq!(id_of(&two.next_frame().1), 1);
    assert!(two.transport.send(ONE, numbered(2)));
    assert_eq!(id_of(&one.next_frame().1), 2);
    let lost = two
        .events
        .try_iter()
        .find(|e| matches!(e, TransportEvent::Disconnected { .. }));
    assert_eq!(lost, None, "the two nodes do not notice");
}
