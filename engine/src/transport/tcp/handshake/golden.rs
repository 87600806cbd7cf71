//! The handshake of every version, as files that are never changed: `engine/tests/golden/v1/handshake.hex`, one hello or
//! answer a line; and the rejects that version 2 added, in `engine/tests/golden/v2/rejects.hex`.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use super::*;
use crate::membership::{NodeLimits, OlderBy, Start};

const TIMEOUT: Duration = Duration::from_secs(10);

const HANDSHAKE: &str = "handshake.hex";
const REJECTS: &str = "rejects.hex";

fn path_of(version: u16, name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    PathBuf::from(format!("{folder}/v{version}/{name}"))
}

/// The hellos and answers of a version: names and bytes.
fn golden(version: u16) -> Vec<(String, Vec<u8>)> {
    lines_of(version, HANDSHAKE)
}

/// The lines of a version's golden file: names and bytes.
fn lines_of(version: u16, name: &str) -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(path_of(version, name)).expect("it is kept");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, digits) = line.split_once(": ").expect("name and bytes");
            (name.to_owned(), unhex(digits))
        })
        .collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    (0..digits.len()).step_by(2).map(digit).collect()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let dialled = TcpStream::connect(address).expect("it listens");
    (dialled, listener.accept().expect("it was dialled").0)
}

/// What `write` sends.
fn sent(write: impl FnOnce(&TcpStream)) -> Vec<u8> {
    let (mut dialled, accepted) = pair();
    write(&accepted);
    drop(accepted);
    let mut bytes = Vec::new();
    dialled.read_to_end(&mut bytes).expect("it was closed");
    bytes
}

fn card(node: u64) -> NodeCard {
    NodeCard {
        incarnation: 0x1112_1314_1516_1718,
        start: Start { life: 2, nonce: 9 },
        history: vec![Start { life: 1, nonce: 8 }],
        durable_lsn: 5,
        syncs: true,
        limits: NodeLimits {
            entry_bytes_max: 16 << 20,
            frame_bytes_max: 64 << 20,
            election_timeout_ms: 500,
        },
        features: (1, 2),
        listen: "0.0.0.0:7400".to_owned(),
        advertise: "10.0.0.1:7400".to_owned(),
        ..NodeCard::bare(NodeId(node), 0x0102_0304_0506_0708, 16)
    }
}

fn hellos() -> Vec<(&'static str, Hello)> {
    let cluster_id = Some(0x0102_0304_0506_0708);
    vec![
        (
            "hello_node_main",
            Hello::node(card(1), NodeId(2), Lane::Main),
        ),
        (
            "hello_node_snapshot",
            Hello::node(card(1), NodeId(2), Lane::Snapshot),
        ),
        ("hello_clerk", Hello::clerk(cluster_id, Some(NodeId(2)))),
        ("hello_clerk_of_any", Hello::clerk(None, None)),
    ]
}

fn accept() -> Accept {
    Accept {
        cluster_id: 0x0102_0304_0506_0708,
        node: NodeId(2),
        groups: 16,
        card: card(2),
        nodes: vec![
            (NodeId(1), "10.0.0.1:7400".to_owned()),
            (NodeId(2), "[::1]:7400".to_owned()),
            (NodeId(3), "host.example:7400".to_owned()),
        ],
    }
}

/// What the listening side says, and what the dialling side that sent [`hellos`]' first makes of it.
fn rejects() -> Vec<(&'static str, CloseReason, CloseReason)> {
    let ours = 0x0102_0304_0506_0708;
    let version = |ours, theirs| CloseReason::Version { ours, theirs };
    let cluster = |ours, theirs| CloseReason::WrongCluster { ours, theirs };
    let node = CloseReason::WrongNode {
        expected: NodeId(2),
        found: NodeId(3),
    };
    let unknown = CloseReason::UnknownNode { node: NodeId(1) };
    vec![
        ("reject_version", version(1, 9), version(VERSION, 1)),
        ("reject_cluster", cluster(8, ours), cluster(ours, 8)),
        ("reject_node", node.clone(), node),
        ("reject_unknown_node", unknown.clone(), unknown),
        (
            "reject_too_many",
            CloseReason::TooMany,
            CloseReason::TooMany,
        ),
        (
            "reject_bad_handshake",
            CloseReason::BadHandshake,
            CloseReason::BadHandshake,
        ),
    ]
}

/// What the listening side makes of a golden hello.
fn read(bytes: &[u8]) -> Result<Hello, CloseReason> {
    let (dialled, accepted) = pair();
    (&dialled).write_all(bytes).expect("it is read");
    read_hello(&accepted, TIMEOUT)
}

/// What the dialling side makes of a golden answer.
fn answered(bytes: &[u8]) -> Result<Accept, CloseReason> {
    let (dialled, accepted) = pair();
    (&accepted).write_all(bytes).expect("it is read");
    introduce(&dialled, &hellos()[0].1, TIMEOUT)
}

/// The bytes of a golden line.
fn bytes_of<'a>(golden: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    let found = golden.iter().find(|(known, _)| known == name);
    &found.unwrap_or_else(|| panic!("{name} is kept")).1
}

/// Clerks of version 1 are served in their version. Nodes of version 1 have no incarnation, and are told so.
#[test]
fn the_handshake_of_version_1_is_understood() {
    let golden = golden(1);
    let of_version_1 = CloseReason::Version {
        ours: VERSION,
        theirs: 1,
    };
    for (name, hello) in hellos() {
        let expected = match hello.from {
            Some(_) => Err(of_version_1.clone()),
            None => Ok(Hello {
                version: 1,
                ..hello
            }),
        };
        assert_eq!(read(bytes_of(&golden, name)), expected, "{name}");
    }
    assert_eq!(answered(bytes_of(&golden, "accept")), Err(of_version_1));
    for (name, _, understood) in rejects() {
        assert_eq!(answered(bytes_of(&golden, name)), Err(understood), "{name}");
    }
    assert_eq!(golden.len(), hellos().len() + rejects().len() + 1);
}

#[test]
fn a_clerk_of_version_1_is_answered_in_version_1() {
    let golden = golden(1);
    let accepted = sent(|stream| write_accept(stream, &accept(), 1).expect("it is read"));
    assert_eq!(accepted, bytes_of(&golden, "accept"));
    for (name, reason, _) in rejects() {
        // It reads the numbers of both versions in it, whatever the answer says of itself.
        if name != "reject_version" {
            let told = sent(|stream| write_reject(stream, &reason, 1).expect("it is read"));
            assert_eq!(told, bytes_of(&golden, name), "{name}");
        }
    }
}

#[test]
fn the_handshake_of_version_2_is_understood() {
    let golden = golden(2);
    for (name, hello) in hellos() {
        assert_eq!(read(bytes_of(&golden, name)), Ok(hello), "{name}");
    }
    assert_eq!(answered(bytes_of(&golden, "accept")), Ok(accept()));
    for (name, _, understood) in rejects() {
        assert_eq!(answered(bytes_of(&golden, name)), Err(understood), "{name}");
    }
    assert_eq!(golden.len(), hellos().len() + rejects().len() + 1);
}

#[test]
fn the_handshake_of_version_2_is_the_one_sent() {
    for (name, bytes) in golden(2) {
        assert_eq!(encode(&name), bytes, "{name}");
    }
}

#[test]
fn the_rejects_that_version_2_added_are_understood_and_sent() {
    let golden = lines_of(2, REJECTS);
    for (name, sends, understood) in refusals() {
        let bytes = bytes_of(&golden, name);
        assert_eq!(answered(bytes), Err(understood), "{name}");
        assert_eq!(without_words(&told(&sends)), without_words(bytes), "{name}");
    }
    assert_eq!(golden.len(), refusals().len(), "no name but these");
}

/// Whoever adds a code adds it here too: the decoder is asked which ones it knows.
#[test]
fn every_code_of_a_reject_that_is_understood_has_a_golden_line() {
    let golden = [golden(2), lines_of(2, REJECTS)].concat();
    let rejects: Vec<_> = golden
        .iter()
        .filter(|(name, _)| name.starts_with("reject"))
        .collect();
    for code in 0..=u8::MAX {
        // By the second number an older copy shows: 1 is one of the ways.
        let is_known = reason_of(code, 2, &hellos()[0].1).is_some()
            || Refused::from_wire(code, [2, 1, 3, 4]).is_some();
        let is_kept = rejects.iter().any(|(_, bytes)| bytes[11] == code);
        assert_eq!(is_kept, is_known, "code {code}");
    }
}

/// The numbers in the first column of the tables of `docs/wire.md` that begin with this line.
fn listed(head: &str) -> Vec<u16> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    let document = fs::read_to_string(path).expect("it is there");
    let head = format!("\n{head}");
    let tables = document.split(&head).skip(1);
    let rows = tables.flat_map(|table| {
        let rows = table.lines().skip(2);
        rows.take_while(|line| line.starts_with('|'))
    });
    // What is a range is listed by its first number.
    let first = |row: &str| row.split(['|', ' ']).find_map(|it| it.parse().ok());
    rows.map(|row| first(row).unwrap_or_else(|| panic!("no number begins {row}")))
        .collect()
}

#[test]
fn the_document_lists_every_code_of_a_reject() {
    let known = (0..=u8::MAX).filter(|&code| {
        reason_of(code, 2, &hellos()[0].1).is_some()
            || Refused::from_wire(code, [2, 1, 3, 4]).is_some()
    });
    let known: Vec<u16> = known.map(u16::from).collect();
    assert_eq!(listed("| code | reason |"), known);
}

/// Unknown fields are skipped, so the decoder cannot be asked: what is written is looked at.
#[test]
fn the_document_lists_every_field_of_a_handshake() {
    let mut written = std::collections::BTreeSet::new();
    for (name, bytes) in [golden(2), lines_of(2, REJECTS)].concat() {
        // The reject that names a version has a number alone.
        if name == "reject_version" {
            continue;
        }
        let mut fields = &bytes[ANSWER_HEADER_BYTES..bytes.len() - CRC_BYTES];
        while !fields.is_empty() {
            let length = usize::from(u16_at(fields, 2));
            // The nodes of a cluster follow the first one.
            written.insert(u16_at(fields, 0).min(tag::NODES));
            fields = &fields[4 + length..];
        }
    }
    let mut listed = listed("| tag | type | field |");
    listed.sort_unstable();
    assert_eq!(listed, Vec::from_iter(written));
}

/// The header but for the length, and the numbers. The words are for people, and may be written better.
fn without_words(reject: &[u8]) -> (&[u8], [u8; 32]) {
    let body = &reject[ANSWER_HEADER_BYTES..reject.len() - CRC_BYTES];
    let fields = Fields::read(body).expect("it has fields");
    let numbers = fields.chunk(tag::NUMBERS).expect("it has numbers");
    let words = fields.text(tag::WORDS).expect("it has words");
    assert!(!words.is_empty());
    (&reject[..PREFIX_BYTES], numbers)
}

/// The rejects that version 2 added: what the listening side says, and what the dialling side makes of it.
fn refusals() -> Vec<(&'static str, CloseReason, CloseReason)> {
    let node = NodeId(1);
    let groups = |ours, theirs| CloseReason::WrongGroups { ours, theirs };
    let older = |cause| Refused::OlderCopy { node, cause };
    let (known, shown) = (0x2122_2324_2526_2728, 0x1112_1314_1516_1718);
    let refused = [
        (
            "reject_other_directory",
            Refused::OtherDirectory { node, known, shown },
        ),
        ("reject_retired", Refused::Retired { node }),
        (
            "reject_older_by_life",
            older(OlderBy::Life { known, shown }),
        ),
        (
            "reject_older_by_history",
            older(OlderBy::History { life: known }),
        ),
        ("reject_older_by_log", older(OlderBy::Log { known, shown })),
        (
            "reject_second_copy",
            Refused::SecondCopy { node, life: known },
        ),
        ("reject_life_jump", Refused::LifeJump { node, known, shown }),
        ("reject_book_not_written", Refused::NotWritten),
        (
            "reject_features",
            Refused::Features {
                node,
                theirs: 1,
                agreed: 2,
            },
        ),
    ];
    let refused = refused.into_iter().map(|(name, refused)| {
        let reason = CloseReason::Identity(refused);
        (name, reason.clone(), reason)
    });
    let wrong_groups = ("reject_groups", groups(16, 300), groups(300, 16));
    [wrong_groups].into_iter().chain(refused).collect()
}

#[test]
#[ignore = "writes the golden files of a new version"]
fn write_handshake() {
    let hellos = hellos().into_iter().map(|(name, _)| name);
    let rejects = rejects().into_iter().map(|(name, _, _)| name);
    let lines = hellos.chain(["accept"]).chain(rejects);
    write_new(HANDSHAKE, lines.map(|name| (name, encode(name))));
    let lines = refusals().into_iter();
    write_new(REJECTS, lines.map(|(name, sends, _)| (name, told(&sends))));
}

fn write_new(name: &str, named: impl Iterator<Item = (&'static str, Vec<u8>)>) {
    let path = path_of(VERSION, name);
    if path.exists() {
        return;
    }
    let mut lines =
        vec!["# One hello or answer a line: its name, and its bytes in hexadecimal.\n".to_owned()];
    lines.extend(named.map(|(name, bytes)| {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}: {}\n", digits.concat())
    }));
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("writable");
    let mut file = fs::File::create_new(path).expect("it did not exist");
    file.write_all(lines.concat().as_bytes()).expect("writable");
}

/// A reject as it is sent.
fn told(reason: &CloseReason) -> Vec<u8> {
    sent(|stream| write_reject(stream, reason, VERSION).expect("it is read"))
}

fn encode(name: &str) -> Vec<u8> {
    if let Some((_, hello)) = hellos().into_iter().find(|(known, _)| *known == name) {
        return encode_hello(&hello);
    }
    if let Some((_, reason, _)) = rejects().into_iter().find(|(known, _, _)| *known == name) {
        return told(&reason);
    }
    assert_eq!(name, "accept");
    sent(|stream| write_accept(stream, &accept(), VERSION).expect("it is read"))
}
