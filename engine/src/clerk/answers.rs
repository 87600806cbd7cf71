//! What the machine's answers mean to the calls that wait for them.

use bytes::Bytes;
use quorate_kv::Answer as MapAnswer;

use super::{Conflict, Page};
use crate::error::Error;
use crate::pending::Answer;

fn decode(answer: Answer) -> Result<MapAnswer, Error> {
    MapAnswer::decode(&answer?).map_err(|_| Error::Incompatible)
}

/// The answer of a write that took its place in the log.
fn decode_applied(answer: Answer) -> Result<MapAnswer, Error> {
    MapAnswer::decode(&answer?).map_err(|_| Error::Incompatible.in_doubt())
}

/// Why a write failed that took its place in the log and was answered with something else than it should be.
fn unexpected(answer: &MapAnswer) -> Error {
    match answer {
        // Nothing was changed.
        MapAnswer::Malformed => Error::Incompatible,
        _ => Error::Incompatible.in_doubt(),
    }
}

pub(super) fn finish_done(answer: Answer) -> Result<(), Error> {
    match decode_applied(answer)? {
        MapAnswer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn finish_length(answer: Answer) -> Result<u64, Error> {
    match decode_applied(answer)? {
        MapAnswer::Length(length) => Ok(length),
        MapAnswer::TooLarge { len_bytes } => Err(value_too_large(len_bytes)),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn finish_existed(answer: Answer) -> Result<bool, Error> {
    match decode_applied(answer)? {
        MapAnswer::Existed(existed) => Ok(existed),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn finish_conditional(answer: Answer) -> Result<Result<(), Conflict>, Error> {
    match decode_applied(answer)? {
        MapAnswer::Done => Ok(Ok(())),
        MapAnswer::Conflict { step, current } => Ok(Err(Conflict { step, current })),
        MapAnswer::TooLarge { len_bytes } => Err(value_too_large(len_bytes)),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn finish_value(answer: Answer) -> Result<Option<Bytes>, Error> {
    match decode(answer)? {
        MapAnswer::Value(value) => Ok(value),
        _ => Err(Error::Incompatible),
    }
}

pub(super) fn finish_entries(answer: Answer) -> Result<Page, Error> {
    match decode(answer)? {
        MapAnswer::Entries { entries, more } => Ok((entries, more)),
        _ => Err(Error::Incompatible),
    }
}

pub(super) fn finish_count(answer: Answer) -> Result<u64, Error> {
    match decode(answer)? {
        MapAnswer::Count(count) => Ok(count),
        _ => Err(Error::Incompatible),
    }
}

fn value_too_large(len_bytes: u64) -> Error {
    let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
    let error = quorate_kv::TooLarge {
        what: "value bytes",
        len,
        limit: quorate_kv::VALUE_BYTES_MAX,
    };
    Error::TooLarge(error)
}
