//! Whatever the bytes: an answer or an error, never a panic, never much memory.

use std::io;

use crate::common::{Random, Replica, append, image_bytes, run};
use bytes::Bytes;
use quorate_kv::{
    Answer, Batch, Command, CommandBuffer, Map, Query, Scan, SessionId, Sessions, StateMachine,
};

/// Random bytes, or right ones with a few of them changed, cut or doubled.
fn damaged(random: &mut Random, right: &[Bytes]) -> Bytes {
    if random.below(8) == 0 {
        return Bytes::from(random.bytes(100));
    }
    let mut bytes = random.pick(right).to_vec();
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            _ => bytes.extend_from_within(at..),
        }
    }
    Bytes::from(bytes)
}

fn right_commands() -> Vec<Bytes> {
    let session = SessionId(1);
    let batch = Batch::new()
        .expect(b"k", None)
        .put(b"k", b"v")
        .append(b"l", b"w")
        .delete(b"m");
    vec![
        Command::register(2),
        Command::close(session),
        Command::acknowledge(session, 1),
        Command::skip(session, 1, 0),
        CommandBuffer::put(b"k", b"v")
            .expect("small")
            .seal(session, 1, 0),
        append(b"k", b"v").seal(session, 2, 1),
        CommandBuffer::delete(b"k").expect("small").seal_plain(),
        CommandBuffer::compare_and_swap(b"k", Some(b"v"), b"w")
            .expect("small")
            .seal(session, 3, 0),
        CommandBuffer::batch(batch).expect("small").seal_plain(),
    ]
}

#[test]
fn any_command_gets_an_outcome() {
    let mut random = Random::new(1);
    let right = right_commands();
    let mut replica = Replica::default();
    for _ in 0..200_000 {
        let command = damaged(&mut random, &right);
        let taken = Sessions::<Map>::check(&command).is_ok();
        let before = replica.sessions.last_index();
        replica.apply(&command);
        assert!(!taken || replica.sessions.last_index() > before);
        // Without the sessions in front: the machine alone is total too.
        let mut map = Map::default();
        assert!(Answer::decode(&map.apply(1, &command)).is_ok());
        assert!(Answer::decode(&map.apply(2, &Command::operation(&command))).is_ok());
    }
    assert_eq!(
        replica.restored().sessions.digest(),
        replica.sessions.digest()
    );
}

#[test]
fn any_query_gets_an_answer_and_any_answer_decodes_or_does_not() {
    let mut random = Random::new(2);
    let mut map = Map::default();
    for key in [&b""[..], b"a", b"ab", b"\xff"] {
        run(&mut map, CommandBuffer::put(key, b"value"));
    }
    let view = map.view();
    let scan = Scan::range("a".."b").limit(3);
    let queries = [
        Query::get(b"ab"),
        Query::count(),
        Query::scan(&scan),
        Query::scan(&scan.reverse()),
        Query::scan(&Scan::prefix(b"a")),
    ];
    let answers: Vec<_> = queries
        .iter()
        .map(|query| Map::query(&view, query))
        .collect();
    for _ in 0..200_000 {
        let answer = Map::query(&view, &damaged(&mut random, &queries));
        let decoded = Answer::decode(&answer).expect("the map's own answer");
        assert_eq!(decoded.encode(), answer);
        if let Ok(decoded) = Answer::decode(&damaged(&mut random, &answers)) {
            assert_eq!(Answer::decode(&decoded.encode()), Ok(decoded));
        }
    }
}

#[test]
fn any_image_is_restored_whole_or_refused() {
    let mut random = Random::new(3);
    let mut replica = Replica::default();
    for sequence in 1..=3 {
        let session = replica.register(9);
        for token in 1..=sequence {
            replica.apply(&append(b"k", b"value").seal(session, token, 0));
        }
        replica.apply(&append(&[sequence as u8], b"value").seal_plain());
    }
    let image = Bytes::from(replica.image());
    let mut restored = 0;
    for _ in 0..100_000 {
        let bytes = damaged(&mut random, std::slice::from_ref(&image));
        if let Ok(mut sessions) = Sessions::<Map>::restore(&mut &bytes[..]) {
            restored += 1;
            assert_eq!(
                image_bytes(&sessions.image()),
                bytes,
                "an image has one encoding"
            );
            if let Some(index) = sessions.last_index().checked_add(1) {
                sessions.apply(index, &append(b"k", b"x").seal(SessionId(1), 2, 1));
            }
        }
        drop(Map::restore(&mut &bytes[..]));
    }
    assert!(
        restored > 1000,
        "only {restored} were restored: the damage is too coarse to test much"
    );
}

/// A part of an image, and then what its source says of itself.
struct Failing<'a> {
    rest: &'a [u8],
    kind: io::ErrorKind,
}

impl io::Read for Failing<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            return Err(io::Error::new(self.kind, "file 7 is damaged at 4096"));
        }
        io::Read::read(&mut self.rest, target)
    }
}

#[test]
fn what_a_source_says_of_itself_is_the_reason_that_is_given() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    replica.apply(&append(b"key", b"value").seal(session, 1, 0));
    let image = replica.image();
    for len in 0..image.len() {
        for kind in [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof] {
            let rest = &image[..len];
            let error = Sessions::<Map>::restore(&mut Failing { rest, kind });
            let error = error.err().map(|error| error.to_string());
            let reason = error.unwrap_or_default();
            assert!(
                reason.contains("file 7 is damaged at 4096"),
                "{len}: {reason}"
            );
        }
    }
}
