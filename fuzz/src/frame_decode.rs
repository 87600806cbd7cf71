//! Any bytes from the network.
//!
//! The first byte of the input is its kind. 0: what follows is what a connection brings. Else: what follows is the body of a
//! frame of this kind, and the header is made to fit, so that the fuzzer need not find its CRC.

use quorate::transport::Frame;
use quorate::transport::codec::{Arrived, FrameBuffer, FrameError, decode_body, encode_frame};

use crate::Depth;
use crate::input::Input;

const BODY_BYTES_MAX: usize = 1 << 16;
const HEADER_BYTES: usize = 12;

/// Decodes them. However the bytes are cut into pieces, the same arrives; a frame that decodes is encoded to the bytes it came
/// from; what is no frame is an error.
pub fn frame_decode(bytes: &[u8]) -> Depth {
    let mut input = Input::new(bytes);
    match input.u8() {
        0 => stream(input.u8(), input.rest()),
        kind => body(kind, input.rest()),
    }
}

/// A frame around a body.
pub(crate) fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(HEADER_BYTES + body.len());
    wire.extend((body.len() as u32).to_le_bytes());
    wire.extend([kind, 0, 0, 0]);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&wire);
    crc.update(body);
    wire.extend(crc.finalize().to_le_bytes());
    wire.extend(body);
    wire
}

fn stream(piece_bytes: u8, wire: &[u8]) -> Depth {
    let whole = receive(wire, wire.len().max(1));
    let pieces = receive(wire, usize::from(piece_bytes).max(1));
    assert_eq!(whole, pieces, "it depends on how the bytes are cut");
    let (arrived, _) = whole;
    let mut rest = wire;
    for arrived in &arrived {
        let (used, unused) = rest.split_at(HEADER_BYTES + body_bytes(rest));
        rest = unused;
        if let Arrived::Frame(frame) = arrived {
            check_encoding(frame, used);
        }
    }
    if arrived.is_empty() {
        Depth::Refused
    } else {
        Depth::Accepted
    }
}

fn body(kind: u8, body: &[u8]) -> Depth {
    let wire = framed(kind, body);
    let (arrived, error) = receive(&wire, wire.len());
    match decode_body(kind, body) {
        _ if body.len() > BODY_BYTES_MAX => {
            assert!(matches!(error, Some(FrameError::TooLong { .. })));
            Depth::Refused
        }
        Ok(frame) => {
            check_encoding(&frame, &wire);
            assert_eq!((arrived, error), (vec![Arrived::Frame(frame)], None));
            Depth::Accepted
        }
        Err(_) if arrived == [Arrived::KeepAlive] => Depth::Accepted,
        Err(refused) => {
            let trailing = matches!(error, Some(FrameError::Decode(_)));
            assert!(
                arrived.is_empty() && trailing,
                "{refused} is missed: {arrived:?}"
            );
            Depth::Refused
        }
    }
}

fn check_encoding(frame: &Frame, wire: &[u8]) {
    let encoded = encode_frame(frame, BODY_BYTES_MAX).expect("what was decoded can be encoded");
    // Without messages it does not matter between whom they are.
    let is_empty = matches!(frame, Frame::Raft(messages) if messages.is_empty());
    // A status may have fields that are not known here: what is known has one encoding.
    if matches!(frame, Frame::Status(_)) {
        let again = decode_body(encoded[4], &encoded[HEADER_BYTES..]);
        assert_eq!(again.as_ref(), Ok(frame));
        return;
    }
    assert!(is_empty || encoded == wire, "{frame:?} has two encodings");
}

/// Everything that arrives before the bytes end, or are refused.
fn receive(wire: &[u8], piece_bytes: usize) -> (Vec<Arrived>, Option<FrameError>) {
    let mut buffer = FrameBuffer::new(BODY_BYTES_MAX);
    let mut arrived = Vec::new();
    for piece in wire.chunks(piece_bytes) {
        let mut rest = piece;
        while !rest.is_empty() {
            let room = buffer.room();
            let fits = rest.len().min(room.len());
            room[..fits].copy_from_slice(&rest[..fits]);
            buffer.advance(fits);
            rest = &rest[fits..];
        }
        loop {
            match buffer.next_frame() {
                Ok(Some(frame)) => arrived.push(frame),
                Ok(None) => break,
                Err(error) => return (arrived, Some(error)),
            }
        }
    }
    (arrived, None)
}

fn body_bytes(wire: &[u8]) -> usize {
    Input::new(wire).u32() as usize
}
