//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use quorate::{GROUPS_MAX, TransportKind};

use crate::text::Input;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Builds an inverted index of a text in a replicated cluster whose leaders crash all the time,
and checks every word of it.

Usage: cargo run --release --example cluster -- [OPTIONS]

Options:
  --input PATH            index this file, or all text files below this folder
                          [default: this repository's sources]
  --transport tcp|memory  how the nodes reach each other [default: tcp]
  --nodes N               1 to 15 [default: 3]
  --groups N              1 to 65536 [default: 1]
  --seconds N             keep crashing leaders for at least so long, and for one whole pass
                          over the text [default: 10]
  --dir PATH              keep the nodes' files in this folder, new or empty
                          [default: a temporary one, removed at the end of a good run]
  --help                  print this
";

const SECONDS_MAX: u32 = 24 * 60 * 60;

const NODES_MAX: u32 = 15;

/// A run, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) input: Input,
    pub(crate) transport: TransportKind,
    pub(crate) nodes: u64,
    pub(crate) groups: u32,
    pub(crate) duration: Duration,
    pub(crate) dir: Option<PathBuf>,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            input: Input::OwnSources,
            transport: TransportKind::Tcp,
            nodes: 3,
            groups: 1,
            duration: Duration::from_secs(10),
            dir: None,
        }
    }
}

/// What is wrong with the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("unknown option {option:?}; --help lists what there is")]
    Unknown { option: String },
    #[error("{option} needs a value; --help shows which")]
    NoValue { option: &'static str },
    #[error("{option} {value:?}: pass a whole number from 1 to {limit}")]
    Number {
        option: &'static str,
        value: String,
        limit: u32,
    },
    #[error("--transport {value:?}: pass tcp or memory")]
    Transport { value: String },
}

impl Args {
    /// Parses what follows the program's name; `None` if help is asked for. `--option value` and
    /// `--option=value` are the same.
    pub(crate) fn parse(
        words: impl IntoIterator<Item = String>,
    ) -> Result<Option<Self>, ArgsError> {
        let mut args = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let (option, mut attached) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = |option: &'static str| {
                attached
                    .take()
                    .or_else(|| words.next())
                    .ok_or(ArgsError::NoValue { option })
            };
            let mut number = |option, limit| to_number(option, value(option)?, limit);
            match option {
                "--nodes" => args.nodes = u64::from(number("--nodes", NODES_MAX)?),
                "--groups" => args.groups = number("--groups", GROUPS_MAX)?,
                "--seconds" => {
                    args.duration = Duration::from_secs(number("--seconds", SECONDS_MAX)?.into());
                }
                "--input" => args.input = Input::Path(value("--input")?.into()),
                "--dir" => args.dir = Some(value("--dir")?.into()),
                "--transport" => args.transport = to_transport(value("--transport")?)?,
                "--help" | "-h" if attached.is_none() => return Ok(None),
                _ => return Err(ArgsError::Unknown { option: word }),
            }
        }
        Ok(Some(args))
    }
}

fn to_number(option: &'static str, value: String, limit: u32) -> Result<u32, ArgsError> {
    match value.parse::<NonZeroU32>() {
        Ok(number) if number.get() <= limit => Ok(number.get()),
        _ => Err(ArgsError::Number {
            option,
            value,
            limit,
        }),
    }
}

fn to_transport(value: String) -> Result<TransportKind, ArgsError> {
    match value.as_str() {
        "tcp" => Ok(TransportKind::Tcp),
        "memory" => Ok(TransportKind::Memory),
        _ => Err(ArgsError::Transport { value }),
    }
}
