//! The book of peers of every version, as files that are never changed: `engine/tests/golden/v1/peers.hex`, one book a
//! line. Its fields have no tags, so a field that moves would make every directory unreadable.

use std::fs;
use std::io::Write;

use quorate_raft::NodeId;

use super::*;
use crate::membership::{NodeCard, NodeLimits, Start};

const NODE: u64 = 2;
const CLUSTER: u64 = 0x0102_0304_0506_0708;
const GROUPS: u32 = 300;

fn path_of(version: u16) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    PathBuf::from(format!("{folder}/v{version}/peers.hex"))
}

/// Of founder 1 to 4: nobody was met yet.
fn new() -> Book {
    Book::new(NODE, CLUSTER, GROUPS, 0x1112_1314_1516_1718, &[1, 2, 3, 4])
}

/// The longest election timeout was not the last one, founder 3 is left out, and 4 was never met: each standing is there.
fn started() -> Book {
    let mut book = new();
    book.begin(77, 900);
    book.begin(78, 800);
    book.begin(79, 500);
    assert!(book.retire(3));
    book.record(&card(1, 2));
    book
}

/// All were met, and one of them knows no feature but the first.
fn closed() -> Book {
    let mut book = started();
    book.record(&card(4, 1));
    book.at_stage((true, false), 1)
}

/// All know the newest feature.
fn founded() -> Book {
    let mut book = started();
    book.record(&card(4, 2));
    book.at_stage((true, true), 2)
}

/// Of another founder. No two of its numbers are the same.
fn card(node: u64, features_max: u32) -> NodeCard {
    NodeCard {
        incarnation: 0x2122_2324_2526_2700 + node,
        start: Start {
            life: 30 + node,
            nonce: 40 + node,
        },
        durable_lsn: 1 << (32 + node),
        syncs: true,
        limits: NodeLimits {
            entry_bytes_max: (16 << 20) + node,
            frame_bytes_max: (64 << 20) + node,
            election_timeout_ms: 600 + node,
        },
        features: (1, features_max),
        ..NodeCard::bare(NodeId(node), CLUSTER, GROUPS)
    }
}

fn books() -> Vec<(&'static str, Book)> {
    vec![
        ("new", new()),
        ("started", started()),
        ("closed", closed()),
        ("founded", founded()),
    ]
}

/// The lines of a version's golden file: names and bytes.
fn golden(version: u16) -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(path_of(version)).expect("it is kept");
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

#[test]
fn the_books_of_version_1_are_read_and_written() {
    let golden = golden(1);
    assert_eq!(golden.len(), books().len());
    for ((name, bytes), (known, book)) in golden.iter().zip(books()) {
        assert_eq!(name, known);
        assert_eq!(&encode(&book), bytes, "{name}");
        let found = decode(Path::new("PEERS"), bytes).expect("it is read");
        assert_eq!(found, book, "{name}");
    }
}

#[test]
#[ignore = "writes the golden file of a new version"]
fn write_books() {
    let path = path_of(VERSION);
    if path.exists() {
        return;
    }
    let mut lines = vec!["# One book a line: its name, and its bytes in hexadecimal.\n".to_owned()];
    lines.extend(books().iter().map(|(name, book)| {
        let bytes = encode(book);
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}: {}\n", digits.concat())
    }));
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("writable");
    let mut file = fs::File::create_new(path).expect("it did not exist");
    file.write_all(lines.concat().as_bytes()).expect("writable");
}
