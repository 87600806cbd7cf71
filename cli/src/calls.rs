//! One call on a cluster.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::ops::Bound;

use quorate::{Bytes, Clerk, Options};

use crate::Failure;
use crate::arguments::{Call, Connect};
use crate::text::{bytes, printable};

pub(crate) fn run(call: &Call) -> Result<(), Failure> {
    match call {
        Call::Put {
            connect,
            key,
            value,
        } => Ok(clerk(connect)?.put(bytes(key), value_of(value)?)?),
        Call::Append {
            connect,
            key,
            value,
        } => {
            let length = clerk(connect)?.append(bytes(key), value_of(value)?)?;
            Ok(writeln!(io::stdout(), "{length}")?)
        }
        Call::Get {
            connect,
            key,
            consistency,
            raw,
        } => {
            let value = clerk(connect)?.get_with(bytes(key), (*consistency).into())?;
            print_value(&value.ok_or(Failure::Absent)?, *raw)
        }
        Call::Delete { connect, key } => {
            if clerk(connect)?.delete(bytes(key))? {
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
            let clerk = clerk(connect)?;
            let limit = *limit as usize;
            let entries = match prefix {
                Some(prefix) => clerk.prefix(bytes(prefix), limit)?,
                None => clerk.scan::<&[u8]>(range(from.as_deref(), to.as_deref()), limit)?,
            };
            print_entries(&entries)
        }
        // The command line takes `--expect` or `--absent`, one of them: no expectation is the latter.
        Call::Cas {
            connect,
            key,
            value,
            expect,
            absent: _,
        } => {
            let expected = expect.as_deref().map(bytes);
            let swapped = clerk(connect)?.compare_and_swap(bytes(key), expected, bytes(value))?;
            swapped.map_err(|conflict| {
                Failure::Failed(match conflict.current {
                    Some(current) => {
                        format!("not swapped: the value is \"{}\"", printable(&current))
                    }
                    None => "not swapped: the key is not there".to_owned(),
                })
            })
        }
    }
}

/// A client of the cluster, once a node answers.
pub(crate) fn clerk(connect: &Connect) -> Result<Clerk, Failure> {
    let mut options = Options::default();
    options.call_timeout = connect.timeout();
    Ok(Clerk::connect_with(connect.connect.clone(), &options)?)
}

fn value_of(argument: &OsStr) -> Result<Cow<'_, [u8]>, Failure> {
    if argument != "-" {
        return Ok(bytes(argument).into());
    }
    let mut value = Vec::new();
    // One byte over the limit is enough for the call to be refused.
    io::stdin()
        .take(quorate::VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)?;
    Ok(value.into())
}

fn range<'a>(from: Option<&'a OsStr>, to: Option<&'a OsStr>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (
        from.map_or(Bound::Unbounded, |key| Bound::Included(bytes(key))),
        to.map_or(Bound::Unbounded, |key| Bound::Excluded(bytes(key))),
    )
}

fn print_value(value: &[u8], raw: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(value)?;
    if !raw {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn print_entries(entries: &[(Bytes, Bytes)]) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (key, value) in entries {
        writeln!(out, "{}\t{}", printable(key), printable(value))?;
    }
    Ok(out.flush()?)
}
