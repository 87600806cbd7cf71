//! What each version wrote, kept as files that are never changed: commands, queries, answers and images in
//! `tests/it/golden/v1.hex`, and what version 2 added in `v2.hex`, one a line. Every build reads them all.
//!
//! `cargo test -p quorate-kv --test it -- --ignored` writes the file of a new version; it leaves one
//! that exists as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use quorate_kv::{
    Answer, Batch, Command, CommandBuffer, Map, Outcome, Position, Query, Scan, SessionId,
    SessionOwner, Sessions,
};

use crate::common::image_bytes;

/// The versions, each with a file of what it added.
const VERSIONS: [u32; 2] = [1, 2];

const OWNER: SessionOwner = SessionOwner::new(0x0102_0304_0506_0708).unwrap();

const SESSION: SessionId = SessionId(258);
const POSITION: Position = Position {
    session: SESSION,
    sequence: 772,
    floor: 5,
};

#[test]
fn the_commands_of_version_1_are_read_and_written() {
    compare_commands(&read(1), commands());
}

#[test]
fn the_command_of_version_2_is_read_and_written() {
    compare_commands(&read(2), owned_commands());
}

fn compare_commands(golden: &BTreeMap<String, Bytes>, commands: Vec<(&str, Command, Bytes)>) {
    for (name, command, bytes) in commands {
        let kept = &golden[name];
        assert_eq!(Command::decode(kept), Ok(command), "{name}");
        assert_eq!(Sessions::<Map>::check(kept), Ok(command), "{name}");
        assert_eq!(&bytes, kept, "{name}");
    }
}

#[test]
fn the_operations_of_version_1_do_what_they_did() {
    let golden = read(1);
    let mut replica = Sessions::<Map>::default();
    for (index, (name, answer)) in (1..).zip(effects()) {
        let outcome = replica.apply(index, &golden[name]);
        assert_eq!(outcome, Outcome::Applied(answer.encode()), "{name}");
    }
}

#[test]
fn the_queries_of_version_1_are_read_and_written() {
    let golden = read(1);
    for (name, query, bytes) in queries() {
        assert_eq!(Query::decode(&golden[name]), Some(query), "{name}");
        assert_eq!(bytes, golden[name], "{name}");
    }
}

#[test]
fn the_answers_of_version_1_are_read_and_written() {
    let golden = read(1);
    for (name, answer) in answers() {
        assert_eq!(Answer::decode(&golden[name]), Ok(answer.clone()), "{name}");
        assert_eq!(answer.encode(), golden[name], "{name}");
    }
}

#[test]
fn the_images_of_version_1_are_restored_and_written() {
    let golden = read(1);
    compare_images(&golden, images());
    let mut restored = Sessions::<Map>::restore(&mut &golden["image_sessions"][..])
        .expect("an older version is read");
    let again = append().seal(SessionId(1), 3, 1);
    let kept_answer = Outcome::Applied(Answer::Length(12).encode());
    assert_eq!(restored.apply(100, &again), kept_answer, "a retry is known");
    let motto = restored.view().get(b"motto");
    assert_eq!(motto.as_deref(), Some(&b"quorate!suff"[..]));
}

#[test]
fn the_image_of_version_2_is_restored_and_written() {
    let golden = read(2);
    compare_images(&golden, owned_images());
    let restored = Sessions::<Map>::restore(&mut &golden["image_owned"][..]).expect("it is read");
    let owners = [1, 3, 5].map(|session| restored.owner(SessionId(session)));
    assert_eq!(owners, [Some(OWNER), None, SessionOwner::new(9)]);
}

fn compare_images(golden: &BTreeMap<String, Bytes>, images: Vec<(&str, Sessions<Map>)>) {
    for (name, sessions) in images {
        let kept = &golden[name];
        let restored = Sessions::<Map>::restore(&mut &kept[..]).expect("its version is read");
        assert_eq!(restored.digest(), sessions.digest(), "{name}");
        assert_eq!(image_bytes(&restored.image()), kept[..], "{name}");
        assert_eq!(image_bytes(&sessions.image()), kept[..], "{name}");
    }
}

#[test]
fn every_golden_line_is_compared() {
    for version in VERSIONS {
        assert_eq!(read(version).len(), all(version).len(), "v{version}");
    }
}

#[test]
#[ignore = "writes the golden file of a new version"]
fn write_golden() {
    for version in VERSIONS {
        write_new(version);
    }
}

fn write_new(version: u32) {
    let path = path_of(version);
    if path.exists() {
        return;
    }
    let mut lines =
        vec!["# One thing a line: its name, and its bytes in hexadecimal.\n".to_owned()];
    lines.extend(
        all(version)
            .iter()
            .map(|(name, bytes)| format!("{name}: {bytes:02x}\n")),
    );
    let mut file = fs::File::create_new(path).expect("it did not exist");
    file.write_all(lines.concat().as_bytes()).expect("writable");
}

fn path_of(version: u32) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden");
    PathBuf::from(format!("{folder}/v{version}.hex"))
}

fn read(version: u32) -> BTreeMap<String, Bytes> {
    let text = fs::read_to_string(path_of(version)).expect("it is kept");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, digits) = line.split_once(':').expect("name and bytes");
            let digits = digits.trim();
            let digit =
                |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
            let bytes = (0..digits.len()).step_by(2).map(digit).collect();
            (name.to_owned(), bytes)
        })
        .collect()
}

/// What a version added.
fn all(version: u32) -> Vec<(&'static str, Bytes)> {
    let (commands, images) = match version {
        1 => (commands(), images()),
        _ => (owned_commands(), owned_images()),
    };
    let mut all: Vec<_> = commands.into_iter().map(|it| (it.0, it.2)).collect();
    if version == 1 {
        all.extend(queries().into_iter().map(|it| (it.0, it.2)));
        all.extend(answers().into_iter().map(|it| (it.0, it.1.encode())));
    }
    let image = |sessions: Sessions<Map>| Bytes::from(image_bytes(&sessions.image()));
    all.extend(images.into_iter().map(|(name, it)| (name, image(it))));
    all
}

fn append() -> CommandBuffer {
    CommandBuffer::append(b"motto", b"suff").expect("within limits")
}

fn commands() -> Vec<(&'static str, Command, Bytes)> {
    let apply = Command::Apply(POSITION);
    let plain = |buffer: Result<CommandBuffer, quorate_kv::TooLarge>| {
        buffer.expect("within limits").seal_plain()
    };
    let put = CommandBuffer::put(b"key", b"value").expect("within limits");
    let swap = |expected, new| CommandBuffer::compare_and_swap(b"swap", expected, new);
    let batch = Batch::new()
        .expect(b"key", Some(b"value"))
        .expect(b"nowhere", None)
        .put(b"new", b"entry")
        .append(b"motto", b"!")
        .delete(b"key");
    vec![
        (
            "command_register",
            Command::Register { sessions_max: 64 },
            Command::register(64),
        ),
        (
            "command_close",
            Command::Close { session: SESSION },
            Command::close(SESSION),
        ),
        (
            "command_acknowledge",
            Command::Acknowledge {
                session: SESSION,
                floor: 9,
            },
            Command::acknowledge(SESSION, 9),
        ),
        (
            "command_skip",
            Command::Skip(POSITION),
            Command::skip(SESSION, 772, 5),
        ),
        ("command_apply", apply, put.seal(SESSION, 772, 5)),
        (
            "operation_put",
            Command::Plain,
            plain(CommandBuffer::put(b"key", b"value")),
        ),
        ("operation_append", Command::Plain, plain(Ok(append()))),
        (
            "operation_swap_absent",
            Command::Plain,
            plain(swap(None, b"one")),
        ),
        (
            "operation_swap",
            Command::Plain,
            plain(swap(Some(b"one"), b"two")),
        ),
        (
            "operation_batch",
            Command::Plain,
            plain(CommandBuffer::batch(batch)),
        ),
        (
            "operation_delete",
            Command::Plain,
            plain(CommandBuffer::delete(b"swap")),
        ),
    ]
}

/// The operations, one after the other, and what each answers.
fn effects() -> Vec<(&'static str, Answer)> {
    vec![
        ("operation_put", Answer::Done),
        ("operation_append", Answer::Length(4)),
        ("operation_swap_absent", Answer::Done),
        ("operation_swap", Answer::Done),
        ("operation_batch", Answer::Done),
        ("operation_delete", Answer::Existed(true)),
    ]
}

fn queries() -> Vec<(&'static str, Query, Bytes)> {
    let range = Scan::range(b"a".as_slice()..b"m".as_slice()).limit(7);
    let back = Scan::prefix(b"pre").reverse();
    let get = Query::Get {
        key: Bytes::from_static(b"key"),
    };
    vec![
        ("query_get", get, Query::get(b"key")),
        (
            "query_scan",
            Query::Scan(range.clone()),
            Query::scan(&range),
        ),
        (
            "query_scan_reverse",
            Query::Scan(back.clone()),
            Query::scan(&back),
        ),
        ("query_count", Query::Count, Query::count()),
    ]
}

fn answers() -> Vec<(&'static str, Answer)> {
    let bytes = Bytes::from_static;
    vec![
        ("answer_done", Answer::Done),
        ("answer_length", Answer::Length(12)),
        ("answer_existed", Answer::Existed(true)),
        (
            "answer_conflict",
            Answer::Conflict {
                step: 3,
                current: Some(bytes(b"now")),
            },
        ),
        (
            "answer_conflict_absent",
            Answer::Conflict {
                step: 0,
                current: None,
            },
        ),
        ("answer_too_large", Answer::TooLarge { len_bytes: 1 << 24 }),
        ("answer_malformed", Answer::Malformed),
        ("answer_value", Answer::Value(Some(bytes(b"value")))),
        ("answer_value_absent", Answer::Value(None)),
        (
            "answer_entries",
            Answer::Entries {
                entries: vec![(bytes(b"a"), bytes(b"1")), (bytes(b"b"), bytes(b""))],
                more: true,
            },
        ),
        ("answer_count", Answer::Count(42)),
    ]
}

/// States, and with them their images: an empty one, and one with two sessions and kept answers.
fn images() -> Vec<(&'static str, Sessions<Map>)> {
    let mut sessions = Sessions::<Map>::default();
    let quorate = CommandBuffer::put(b"motto", b"quorate!").expect("within limits");
    let other = CommandBuffer::put(b"other", b"").expect("within limits");
    let script = [
        Command::register(64),
        quorate.seal(SessionId(1), 1, 0),
        Command::register(64),
        Command::skip(SessionId(1), 2, 0),
        append().seal(SessionId(1), 3, 1),
        other.seal(SessionId(3), 1, 0),
    ];
    for (index, command) in (1..).zip(&script) {
        sessions.apply(index, command);
    }
    vec![
        ("image_empty", Sessions::default()),
        ("image_sessions", sessions),
    ]
}

fn owned_commands() -> Vec<(&'static str, Command, Bytes)> {
    let command = Command::RegisterOwned {
        sessions_max: 64,
        owner: OWNER,
    };
    let bytes = Command::register_owned(64, OWNER);
    vec![("command_register_owned", command, bytes)]
}

/// A state with sessions of two owners, one without an owner between them, and kept answers.
fn owned_images() -> Vec<(&'static str, Sessions<Map>)> {
    let mut sessions = Sessions::<Map>::default();
    let quorate = CommandBuffer::put(b"motto", b"quorate!").expect("within limits");
    let other = SessionOwner::new(9).expect("above zero");
    let script = [
        Command::register_owned(64, OWNER),
        quorate.seal(SessionId(1), 1, 0),
        Command::register(64),
        append().seal(SessionId(1), 2, 0),
        Command::register_owned(64, other),
        Command::skip(SessionId(5), 1, 0),
        append().seal(SessionId(3), 1, 0),
        Command::acknowledge(SessionId(3), 1),
    ];
    for (index, command) in (1..).zip(&script) {
        sessions.apply(index, command);
    }
    vec![("image_owned", sessions)]
}
