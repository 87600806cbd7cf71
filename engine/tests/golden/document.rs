//! `docs/wire.md` against the decoders: it lists what they know, and nothing else.

use std::collections::BTreeSet;
use std::fs;

use quorate::transport::codec::{DecodeError, decode_body};

use crate::frames::{HEADER_BYTES, KEEP_ALIVE_KIND, Tag, places_of_tags, read};

const STATUS_KIND: u8 = 7;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    fs::read_to_string(path).expect("it is there")
}

/// The numbers in the first column of the table that begins with this line.
fn listed(document: &str, head: &str) -> BTreeSet<u8> {
    let mut lines = document.lines().skip_while(|line| !line.starts_with(head));
    assert!(lines.next().is_some(), "there is no table {head}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let number = |row: &str| row.split('|').nth(1).and_then(|it| it.trim().parse().ok());
    let mut found = BTreeSet::new();
    for row in rows {
        let number = number(row).unwrap_or_else(|| panic!("no number begins {row}"));
        assert!(found.insert(number), "{head} lists {number} twice");
    }
    found
}

/// How the table of a kind of tags begins.
fn head(tag: Tag) -> &'static str {
    match tag {
        Tag::Message => "| tag | message |",
        Tag::SnapshotAnswer => "| tag | snapshot answer |",
        Tag::Request => "| tag | request |",
        Tag::Consistency => "| tag | consistency |",
        Tag::Reply => "| tag | reply |",
        Tag::Outcome => "| tag | outcome of a command |",
    }
}

#[test]
fn the_document_lists_every_kind_of_frame() {
    let known: BTreeSet<u8> = (0..=u8::MAX)
        .filter(|&kind| {
            kind == KEEP_ALIVE_KIND
                || decode_body(kind, &[]) != Err(DecodeError::UnknownKind { kind })
        })
        .collect();
    assert_eq!(listed(&document(), "| kind | frame |"), known);
}

#[test]
fn the_document_lists_every_tag_that_is_understood() {
    let document = document();
    for (what, kind, before) in places_of_tags() {
        let is_known = |tag: &u8| {
            let decoded = decode_body(kind, &[&before[..], &[*tag]].concat());
            !matches!(decoded, Err(DecodeError::UnknownTag { tag: told, .. }) if told == *tag)
        };
        let known: BTreeSet<u8> = (0..=u8::MAX).filter(is_known).collect();
        assert_eq!(listed(&document, head(what)), known, "{what:?}");
    }
}

/// Unknown fields are skipped, so the decoder cannot be asked: what is written is looked at.
#[test]
fn the_document_lists_every_field_of_the_status_of_a_node() {
    let mut written = BTreeSet::new();
    for frame in read(2).values().filter(|frame| frame[4] == STATUS_KIND) {
        // A count of two bytes, and fields of a tag, a length of two bytes and the content.
        let mut fields = &frame[HEADER_BYTES + 2..];
        while let [tag, low, high, rest @ ..] = fields {
            written.insert(*tag);
            fields = &rest[usize::from(u16::from_le_bytes([*low, *high]))..];
        }
    }
    assert_eq!(listed(&document(), "| tag | field | content |"), written);
}
