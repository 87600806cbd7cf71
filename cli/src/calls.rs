//! One call on a cluster.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::ops::Bound;

use quorate::Bytes;

use crate::arguments::{Call, Connect};
use crate::connect::{check_key, check_value, clerk};
use crate::text::{bytes, lines, printable};
use crate::{Failure, out};

/// The most that is printed with one write.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) fn run(call: &Call) -> Result<(), Failure> {
    match call {
        Call::Put {
            connect,
            key,
            value,
        } => {
            let (key, value) = (key_of(key)?, value_of(value)?);
            Ok(clerk(connect)?.put(key, value)?)
        }
        Call::Append {
            connect,
            key,
            value,
        } => {
            let (key, value) = (key_of(key)?, value_of(value)?);
            let length = clerk(connect)?.append(key, value)?;
            Ok(out::print(&format!("{length}\n"))?)
        }
        Call::Get {
            connect,
            key,
            consistency,
            raw,
        } => {
            let key = key_of(key)?;
            let value = clerk(connect)?.get_with(key, (*consistency).into())?;
            print_value(&value.ok_or(Failure::Absent)?, *raw)
        }
        Call::Delete { connect, key } => {
            let key = key_of(key)?;
            if clerk(connect)?.delete(key)? {
                Ok(())
            } else {
                Err(Failure::Absent)
            }
        }
        Call::Scan {
            connect,
            prefix,
            from,
            to,
            limit,
        } => {
            let limit = *limit as usize;
            match prefix {
                Some(prefix) => scan_prefix(connect, bytes(prefix), limit),
                None => scan_range(connect, from.as_deref(), to.as_deref(), limit),
            }
        }
        // The command line takes `--expect` or `--absent`, one of them: no expectation is the latter.
        Call::Cas {
            connect,
            key,
            value,
            expect,
            absent: _,
        } => swap(connect, key, value, expect.as_deref()),
    }
}

fn swap(
    connect: &Connect,
    key: &OsStr,
    value: &OsStr,
    expected: Option<&OsStr>,
) -> Result<(), Failure> {
    let (key, value) = (key_of(key)?, bytes(value));
    let expected = expected.map(bytes);
    check_value("the new value", value)?;
    check_value("the expected value", expected.unwrap_or_default())?;
    let swapped = clerk(connect)?.compare_and_swap(key, expected, value)?;
    swapped.map_err(|conflict| {
        Failure::Conflict(match conflict.current {
            Some(current) => format!("not swapped: the value is \"{}\"", printable(&current)),
            None => "not swapped: the key is not there".to_owned(),
        })
    })
}

fn scan_prefix(connect: &Connect, prefix: &[u8], limit: usize) -> Result<(), Failure> {
    check_key("the prefix", prefix)?;
    print_entries(&clerk(connect)?.prefix(prefix, limit)?)
}

fn scan_range(
    connect: &Connect,
    from: Option<&OsStr>,
    to: Option<&OsStr>,
    limit: usize,
) -> Result<(), Failure> {
    let from = from.map(bytes);
    let to = to.map(bytes);
    check_key("the key of --from", from.unwrap_or_default())?;
    check_key("the key of --to", to.unwrap_or_default())?;
    let range = (
        from.map_or(Bound::Unbounded, Bound::Included),
        to.map_or(Bound::Unbounded, Bound::Excluded),
    );
    print_entries(&clerk(connect)?.scan::<&[u8]>(range, limit)?)
}

fn key_of(argument: &OsStr) -> Result<&[u8], Failure> {
    let key = bytes(argument);
    check_key("the key", key)?;
    Ok(key)
}

fn value_of(argument: &OsStr) -> Result<Cow<'_, [u8]>, Failure> {
    let value: Cow<'_, [u8]> = if argument == "-" {
        let mut value = Vec::new();
        // One byte over the limit is enough to be refused.
        io::stdin()
            .take(quorate::VALUE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut value)?;
        value.into()
    } else {
        bytes(argument).into()
    };
    check_value("the value", &value)?;
    Ok(value)
}

/// Bytes for a program, text for a person: what a terminal would obey is escaped.
fn print_value(value: &[u8], raw: bool) -> Result<(), Failure> {
    if raw {
        return Ok(out::print_bytes(value)?);
    }
    if out::is_terminal() {
        return Ok(out::print(&(lines(value) + "\n"))?);
    }
    out::print_bytes(value)?;
    Ok(out::print_bytes(b"\n")?)
}

fn print_entries(entries: &[(Bytes, Bytes)]) -> Result<(), Failure> {
    let mut piece = String::new();
    for (key, value) in entries {
        piece.extend([&printable(key), "\t", &printable(value), "\n"]);
        if piece.len() >= PIECE_BYTES {
            out::print(&piece)?;
            piece.clear();
        }
    }
    Ok(out::print(&piece)?)
}
