use std::net::TcpListener;

use super::*;
use crate::membership::{NodeLimits, OlderBy, Start};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes of an example in `docs/wire.md`.
fn example(name: &str) -> Vec<u8> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("```hex {name}\n")).unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let hex = block
        .lines()
        .flat_map(|line| line.split("  ").next().unwrap().split(' '));
    hex.map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (dialled, listener.accept().unwrap().0)
}

fn hello() -> Hello {
    Hello::clerk(Some(7), Some(NodeId(2)))
}

fn card(node: u64) -> NodeCard {
    NodeCard {
        incarnation: 0x00C0_FFEE,
        start: Start { life: 2, nonce: 9 },
        history: vec![Start { life: 1, nonce: 8 }],
        durable_lsn: 5,
        syncs: true,
        limits: NodeLimits {
            entry_bytes_max: 16 << 20,
            frame_bytes_max: 64 << 20,
            election_timeout_ms: 500,
        },
        listen: "h:1".to_owned(),
        advertise: "h:1".to_owned(),
        ..NodeCard::bare(NodeId(node), 7, 16)
    }
}

fn accept() -> Accept {
    Accept {
        cluster_id: 7,
        node: NodeId(2),
        groups: 16,
        card: card(2),
        nodes: vec![(NodeId(2), "h:1".to_owned())],
    }
}

fn node_hello() -> Hello {
    Hello::node(card(1), NodeId(2), Lane::Snapshot)
}

/// As the page shows them; printed when the page is out of date.
fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(8).map(|line| {
        let line = line.iter().map(|byte| format!("{byte:02x}"));
        line.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_documented_hello_is_the_one_sent_and_understood() {
    let sent = encode_hello(&hello());
    assert!(sent == example("hello"), "sent is\n{}", hex(&sent));
    let (dialled, accepted) = pair();
    (&dialled).write_all(&example("hello")).unwrap();
    assert_eq!(read_hello(&accepted, TIMEOUT), Ok(hello()));
}

#[test]
fn the_documented_accept_is_the_one_sent_and_understood() {
    let accept = accept().for_clerks();
    let sent = encode_accept(&accept);
    assert!(sent == example("accept"), "sent is\n{}", hex(&sent));
    let (dialled, accepted) = pair();
    (&accepted).write_all(&example("accept")).unwrap();
    assert_eq!(introduce(&dialled, &hello(), TIMEOUT), Ok(accept));
}

#[test]
fn what_a_node_says_arrives_as_it_was_said() {
    let (dialled, accepted) = pair();
    (&dialled).write_all(&encode_hello(&node_hello())).unwrap();
    assert_eq!(read_hello(&accepted, TIMEOUT), Ok(node_hello()));
}

#[test]
fn the_largest_accept_is_taken() {
    let nodes = (1..=NODES_MAX as u64).map(|id| (NodeId(id), "a".repeat(ADDRESS_BYTES_MAX)));
    let largest = Accept {
        nodes: nodes.collect(),
        ..accept()
    };
    let (dialled, accepted) = pair();
    let sent = largest.clone();
    let writer = std::thread::spawn(move || write_accept(&accepted, &sent, VERSION));
    assert_eq!(introduce(&dialled, &hello(), TIMEOUT), Ok(largest));
    writer.join().unwrap().unwrap();
}

#[test]
fn no_flipped_bit_of_a_hello_passes() {
    for whole in [encode_hello(&hello()), encode_hello(&node_hello())] {
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let passes = check_prefix(&flipped).and_then(|_| check_crc(&flipped));
            assert!(passes.is_err(), "bit {bit}");
        }
    }
}

#[test]
fn fields_that_are_not_known_are_skipped_and_missing_or_doubled_ones_refused() {
    let whole = encode_hello(&node_hello());
    let at = PREFIX_BYTES + LENGTH_BYTES;
    let body = &whole[at..whole.len() - CRC_BYTES];
    assert_eq!(decode_hello(body), Some(node_hello()));
    let unknown = [&900_u16.to_le_bytes()[..], &2_u16.to_le_bytes(), b"hi"].concat();
    assert_eq!(decode_hello(&[body, &unknown].concat()), Some(node_hello()));
    assert_eq!(decode_hello(&[body, &unknown, &unknown].concat()), None);
    let mut rest = body;
    while let Some(head) = rest.first_chunk::<4>() {
        let len = 4 + usize::from(u16_at(head, 2));
        let at = body.len() - rest.len();
        let without = [&body[..at], &rest[len..]].concat();
        assert_ne!(
            decode_hello(&without),
            Some(node_hello()),
            "without the field at {at}"
        );
        rest = &rest[len..];
    }
    for end in 0..body.len() {
        assert_ne!(
            decode_hello(&body[..end]),
            Some(node_hello()),
            "cut at {end}"
        );
    }
}

#[test]
fn a_hello_of_a_later_version_is_answered_in_this_one() {
    let mut later = encode_hello(&hello());
    later.truncate(later.len() - CRC_BYTES);
    later[8] = 9;
    let (dialled, accepted) = pair();
    (&dialled).write_all(&append_crc(later.clone())).unwrap();
    assert_eq!(read_hello(&accepted, TIMEOUT), Ok(hello()));
    // One that does not speak this version any more.
    later[10] = 8;
    let (dialled, accepted) = pair();
    (&dialled).write_all(&append_crc(later)).unwrap();
    let reason = CloseReason::Version {
        ours: VERSION,
        theirs: 9,
    };
    assert_eq!(read_hello(&accepted, TIMEOUT), Err(reason));
}

#[test]
fn a_stranger_does_not_make_this_side_read_without_end() {
    let mut long = encode_hello(&hello());
    long[PREFIX_BYTES..PREFIX_BYTES + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let (dialled, accepted) = pair();
    (&dialled).write_all(&long).unwrap();
    assert_eq!(
        read_hello(&accepted, TIMEOUT),
        Err(CloseReason::BadHandshake)
    );
}

#[test]
fn no_damaged_accept_panics_or_passes_for_another() {
    let whole = encode_accept(&accept());
    let body = &whole[ANSWER_HEADER_BYTES..whole.len() - CRC_BYTES];
    assert_eq!(decode_accept(body), Some(accept()));
    for end in 0..body.len() {
        assert_ne!(decode_accept(&body[..end]), Some(accept()), "cut at {end}");
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check_crc(&flipped).is_err(), "bit {bit}");
        // If the checksum missed it, it must not panic.
        let _whatever = decode_accept(&flipped[ANSWER_HEADER_BYTES..whole.len() - CRC_BYTES]);
    }
}

#[test]
fn each_reject_means_the_same_on_both_sides() {
    let asked = node_hello();
    let told = [
        CloseReason::TooMany,
        CloseReason::BadHandshake,
        CloseReason::UnknownNode { node: NodeId(1) },
        CloseReason::WrongNode {
            expected: NodeId(2),
            found: NodeId(3),
        },
        CloseReason::Identity(Refused::Retired { node: NodeId(1) }),
        CloseReason::Identity(Refused::OlderCopy {
            node: NodeId(1),
            cause: OlderBy::Life { known: 9, shown: 3 },
        }),
    ];
    for reason in told {
        let (dialled, accepted) = pair();
        write_reject(&accepted, &reason, VERSION).unwrap();
        assert_eq!(introduce(&dialled, &asked, TIMEOUT), Err(reason));
    }
    for version in [1, VERSION] {
        let (dialled, accepted) = pair();
        let here = CloseReason::WrongCluster { ours: 8, theirs: 7 };
        write_reject(&accepted, &here, version).unwrap();
        let there = CloseReason::WrongCluster { ours: 7, theirs: 8 };
        assert_eq!(introduce(&dialled, &asked, TIMEOUT), Err(there));
    }
    let (dialled, accepted) = pair();
    let here = CloseReason::WrongGroups {
        ours: 16,
        theirs: 4,
    };
    write_reject(&accepted, &here, VERSION).unwrap();
    let there = CloseReason::WrongGroups {
        ours: 4,
        theirs: 16,
    };
    assert_eq!(introduce(&dialled, &asked, TIMEOUT), Err(there));
}

#[test]
fn a_reason_of_a_later_version_is_told_in_its_own_words() {
    let (dialled, accepted) = pair();
    // What a terminal obeys is left out, and what turns the text around it too.
    let words = "too\x1b[31m\u{9b}\u{202e}\u{2066}\u{200f}\u{2028}\u{61c} new";
    let answer = encode_reject(200, [1; 4], words);
    (&accepted).write_all(&answer).unwrap();
    let reason = CloseReason::Refused {
        code: 200,
        words: "too[31m new".to_owned(),
    };
    assert_eq!(introduce(&dialled, &hello(), TIMEOUT), Err(reason));
}

/// A later version need only keep the first twelve bytes and the reject of code 1.
#[test]
fn a_reject_of_another_version_names_both() {
    let (dialled, accepted) = pair();
    let answer = v1::encode_reject(9, code::VERSION, 9);
    (&accepted).write_all(&answer).unwrap();
    let reason = CloseReason::Version {
        ours: VERSION,
        theirs: 9,
    };
    assert_eq!(introduce(&dialled, &hello(), TIMEOUT), Err(reason));
}

/// What a clerk of version 1 says first, and what it reads.
mod version_1 {
    use super::*;

    #[test]
    fn a_clerk_is_served_in_its_own_words() {
        let (dialled, accepted) = pair();
        (&dialled).write_all(&example("hello-v1")).unwrap();
        let read = read_hello(&accepted, TIMEOUT);
        let expected = Hello {
            version: 1,
            ..hello()
        };
        assert_eq!(read, Ok(expected));
        write_accept(&accepted, &accept(), 1).unwrap();
        let mut answer = vec![0; example("accept-v1").len()];
        (&dialled).read_exact(&mut answer).unwrap();
        assert_eq!(answer, example("accept-v1"));
    }

    #[test]
    fn a_node_is_refused_by_name() {
        let mut bytes = example("hello-v1");
        bytes.truncate(bytes.len() - CRC_BYTES);
        bytes[24] = 1;
        let (dialled, accepted) = pair();
        (&dialled).write_all(&append_crc(bytes)).unwrap();
        let reason = CloseReason::Version {
            ours: VERSION,
            theirs: 1,
        };
        assert_eq!(read_hello(&accepted, TIMEOUT), Err(reason.clone()));
        write_reject(&accepted, &reason, 1).unwrap();
        let mut answer = [0; 28];
        (&dialled).read_exact(&mut answer).unwrap();
        assert_eq!(
            (answer[10], answer[11], answer[16]),
            (REJECT, code::VERSION, VERSION as u8)
        );
    }

    #[test]
    fn no_flipped_bit_of_a_hello_passes() {
        let bytes = example("hello-v1");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (dialled, accepted) = pair();
            (&dialled).write_all(&flipped).unwrap();
            drop(dialled);
            assert!(read_hello(&accepted, TIMEOUT).is_err(), "bit {bit}");
        }
    }
}
