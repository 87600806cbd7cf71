//! Any bytes as commands, queries and images.
//!
//! The first byte of the input is its kind. 0: what follows is an image. Else: commands, each with its length (u16) before it.

use bytes::Bytes;
use quorate_kv::{Answer, Image, Map, Outcome, Sessions, StateMachine};

use crate::Depth;
use crate::input::Input;

/// Applies or restores them. Nothing panics; a command that would be refused has no effect, an accepted one the same on
/// every replica, and also on one that is restored from an image on the way; an image has one encoding.
pub fn command_apply(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    match input.u8() {
        0 => restore(input.rest()),
        _ => apply(&mut input),
    }
}

/// The image of a state.
pub(crate) fn image(sessions: &Sessions<Map>) -> Vec<u8> {
    let mut image = Vec::new();
    sessions
        .image()
        .write_to(&mut image)
        .expect("a vector takes every write");
    image
}

fn restore(image_bytes: &[u8]) -> Depth {
    let Ok(sessions) = Sessions::<Map>::restore(&mut &image_bytes[..]) else {
        return Depth::Refused;
    };
    assert_eq!(image(&sessions), image_bytes, "an image has two encodings");
    Depth::Accepted
}

fn apply(input: &mut Input<'_>) -> Depth {
    let mut replica = Sessions::<Map>::default();
    let mut restored = Sessions::<Map>::default();
    let mut depth = Depth::Refused;
    let mut index = 0;
    while !input.is_empty() {
        let len = usize::from(input.u16());
        let command = Bytes::copy_from_slice(input.bytes(len));
        index += 1;
        let taken = Sessions::<Map>::check(&command).is_ok();
        let before = (replica.last_index(), replica.digest());
        let outcome = replica.apply(index, &command);
        assert_eq!(restored.apply(index, &command), outcome, "replicas differ");
        match outcome {
            Outcome::Unsupported => assert_eq!(before, (replica.last_index(), replica.digest())),
            Outcome::Malformed => assert_eq!(replica.last_index(), index),
            _ => depth = Depth::Accepted,
        }
        assert_eq!(
            taken,
            !matches!(outcome, Outcome::Unsupported | Outcome::Malformed),
            "{outcome:?}"
        );
        check_answer(&Map::query(&replica.view(), &command));
        restored = Sessions::restore(&mut &image(&restored)[..])
            .expect("an image of a state can be restored");
        assert_eq!(
            restored.digest(),
            replica.digest(),
            "an image leaves something out"
        );
    }
    depth
}

/// An answer of the map is one that clients understand.
fn check_answer(answer: &Bytes) {
    let decoded = Answer::decode(answer).expect("the map's own answer");
    assert_eq!(&decoded.encode(), answer);
}
