//! The page that describes the bytes, held against the bytes.

use quorate_kv::{
    BATCH_BYTES_MAX, BATCH_STEPS_MAX, Command, CommandBuffer, KEY_BYTES_MAX, Position,
    SCAN_BYTES_MAX, SESSION_WINDOW_BYTES_MAX, SESSION_WINDOW_MAX, SessionId, VALUE_BYTES_MAX,
};

const PAGE: &str = include_str!("../../../docs/commands.md");

#[test]
fn the_worked_example_is_what_is_written() {
    let (_, after) = PAGE
        .split_once("floor 5:\n\n```text\n")
        .expect("the page has the example");
    let (example, _) = after.split_once("```").expect("the example ends");
    let bytes: Vec<u8> = example
        .lines()
        .flat_map(|line| line.split_whitespace().skip(1))
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits"))
        .collect();
    let sealed = CommandBuffer::put(b"key", b"value")
        .unwrap()
        .seal(SessionId(258), 772, 5);
    assert_eq!(sealed, bytes);
    let position = Position {
        session: SessionId(258),
        sequence: 772,
        floor: 5,
    };
    assert_eq!(Command::decode(&bytes), Ok(Command::Apply(position)));
}

#[test]
fn the_limits_are_those_of_the_code() {
    const MIB: usize = 1024 * 1024;
    // Where a line of the document ends says nothing.
    let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    for (text, documented, limit) in [
        ("A key has at most 65,535 bytes", 65_535, KEY_BYTES_MAX),
        ("a value 8 MiB", 8 * MIB, VALUE_BYTES_MAX),
        ("at most 16,384, in at most 16 MiB", 16_384, BATCH_STEPS_MAX),
        (
            "at most 16,384, in at most 16 MiB",
            16 * MIB,
            BATCH_BYTES_MAX,
        ),
        ("reaches 4 MiB of keys and values", 4 * MIB, SCAN_BYTES_MAX),
        (
            "8,192 answers or 16 MiB",
            8_192,
            SESSION_WINDOW_MAX as usize,
        ),
        (
            "8,192 answers or 16 MiB",
            16 * MIB,
            SESSION_WINDOW_BYTES_MAX,
        ),
    ] {
        assert!(page.contains(text), "{text}");
        assert_eq!(documented, limit, "{text}");
    }
}
