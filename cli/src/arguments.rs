//! The command line.

use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate::Consistency;
use quorate_wal::SegmentId;

use crate::text::message;

/// Quorate: a replicated, durable, exactly-once key-value store.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong usage; 3 the key \
                          is not there; 4 cas: the value is not the expected one, and nothing was changed. Of inspect, \
                          verify and repair: 0 the log is sound; 1 damage was found; 2 no answer was found, with the \
                          reason on standard error. Whoever stops reading the output ends the command quietly, by SIGPIPE.

What a terminal would obey instead of showing it, in keys, names of files and messages, is escaped.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Node(NodeArguments),
    Bench(BenchArguments),
    #[command(flatten)]
    Look(Look),
    #[command(flatten)]
    Call(Call),
}

/// What looks at the files of a node that need not run, and changes nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum Look {
    Inspect(InspectArguments),
    Verify(VerifyArguments),
    Repair(RepairArguments),
}

/// Prints what the log of a node holds: segments, groups, and who keeps which space.
///
/// Changes nothing, and may be run beside the node; what is printed is then of a moment.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The directory of the node, or of its log.
    pub(crate) dir: PathBuf,
    /// Lists the batches of a segment instead; it is named as its file is, zeros before it left out.
    #[arg(long, value_name = "SEGMENT", value_parser = parse_segment)]
    pub(crate) batches: Option<SegmentId>,
    /// Lists every group, however many there are.
    #[arg(long)]
    pub(crate) all: bool,
    /// Prints JSON, with every group.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Checks every byte that the log of a node may need, and its snapshots, and names what is damaged.
///
/// Changes nothing. Beside a running node it competes for the disk.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The directory of the node, or of its log.
    pub(crate) dir: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Says what the next start would make of the log of a node, and what can be done about damage.
///
/// Changes nothing: a log is never repaired in place.
#[derive(Debug, Args)]
pub(crate) struct RepairArguments {
    /// The directory of the node, or of its log.
    pub(crate) dir: PathBuf,
    /// Must be given: nothing else is offered.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs a node until it is stopped.
///
/// Prints changes of leadership and what happens to connections, a line each, with the time in UTC.
/// Ctrl-C or SIGTERM stops it in order, after it handed its leadership over; a second one ends it at
/// once, which is as safe as a crash: what was acknowledged is on disk.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// This node's id, one of those in the list.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: u64,
    /// Where the node keeps its files; made if it does not exist.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// All nodes of the cluster, this one included, the same list on each: 1=host:port,2=host:port,3=host:port
    #[arg(long, required = true, value_delimiter = ',', value_parser = parse_member, value_name = "ID=HOST:PORT")]
    pub(crate) cluster: Vec<Member>,
    /// How many groups the keys are spread over. Fixed when the directory is made.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(quorate::GROUPS_MAX)))]
    pub(crate) groups: u32,
    /// Where to listen, if not at this node's address in the list: behind a port mapping, or on all interfaces.
    #[arg(long, value_parser = parse_address, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Where clients reach this node, if not at its address in the list.
    #[arg(long, value_parser = parse_address, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Tells clusters apart, as decimal or 0x number. Unless given, the directory says it.
    #[arg(long, value_parser = parse_cluster_id, value_name = "ID")]
    pub(crate) cluster_id: Option<u64>,
    /// Nodes of the list that will never come: a new cluster begins without them, and turns them away for good. The same
    /// on each node.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..), value_name = "ID")]
    pub(crate) without_founders: Vec<u64>,
    /// Ends in order when standard input closes.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

fn parse_cluster_id(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let text = message(text);
    let id =
        parsed.map_err(|_| format!("\"{text}\" is no number: write it in decimal, or as 0x…"))?;
    if id == 0 {
        return Err(
            "0 is no cluster: give a number above zero, or leave the option out".to_owned(),
        );
    }
    Ok(id)
}

/// A node in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) address: String,
}

/// How to reach the cluster.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Nodes to try; one that answers is enough, it names the others. Unless given, the list that the environment has in
    /// `QUORATE_CONNECT`.
    #[arg(long, value_delimiter = ',', value_parser = parse_address, value_name = "HOST:PORT")]
    pub(crate) connect: Vec<String>,
    /// How long it may take to reach a node, and after that the call, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
}

impl Connect {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Call {
    /// Sets a key's value.
    Put {
        #[command(flatten)]
        connect: Connect,
        key: OsString,
        /// The value; "-" reads it from standard input.
        value: OsString,
    },
    /// Prints a key's value and a line break. To a file or a pipe the bytes as they are; on a terminal, what it would obey is
    /// escaped.
    Get {
        #[command(flatten)]
        connect: Connect,
        key: OsString,
        /// How fresh it must be.
        #[arg(long, value_enum, default_value_t)]
        consistency: Freshness,
        /// The bytes alone, also on a terminal, without a line break behind them.
        #[arg(long)]
        raw: bool,
    },
    /// Adds to the end of a key's value and prints the new length in bytes.
    Append {
        #[command(flatten)]
        connect: Connect,
        key: OsString,
        /// What to add; "-" reads it from standard input.
        value: OsString,
    },
    /// Removes a key.
    Delete {
        #[command(flatten)]
        connect: Connect,
        key: OsString,
    },
    /// Prints keys and values in key order, a line each, with a tab between them. Characters that control a terminal or the
    /// direction of text, backslashes and bytes that are no UTF-8 are escaped.
    Scan {
        #[command(flatten)]
        connect: Connect,
        /// Only keys that begin so.
        #[arg(long, conflicts_with_all = ["from", "to"])]
        prefix: Option<OsString>,
        /// From this key on.
        #[arg(long)]
        from: Option<OsString>,
        /// Up to this key, without it.
        #[arg(long)]
        to: Option<OsString>,
        /// At most so many.
        #[arg(long, default_value_t = 1_000)]
        limit: u32,
    },
    /// Sets a key's value if its present one is the expected one. Exit code 4 if it is not.
    #[command(group(clap::ArgGroup::new("condition").required(true).args(["expect", "absent"])))]
    Cas {
        #[command(flatten)]
        connect: Connect,
        key: OsString,
        /// The new value.
        value: OsString,
        /// The value that the key must have.
        #[arg(long, value_name = "VALUE")]
        expect: Option<OsString>,
        /// The key must be absent.
        #[arg(long)]
        absent: bool,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Freshness {
    /// Sees every write that was acknowledged before, confirmed by a majority.
    #[default]
    Linearizable,
    /// The same as long as clocks drift little: the leader answers from its lease.
    Lease,
    /// Whatever the node asked has.
    Stale,
}

impl From<Freshness> for Consistency {
    fn from(freshness: Freshness) -> Self {
        match freshness {
            Freshness::Linearizable => Self::Linearizable,
            Freshness::Lease => Self::Lease,
            Freshness::Stale => Self::Stale,
        }
    }
}

/// Puts values as fast as the cluster takes them, and prints throughput and latencies.
///
/// It puts 10,000 keys, in a prefix below "bench/" that it names and that no other key has. They are removed at the end, also
/// after Ctrl-C or a failure, as far as the cluster answers within --timeout-ms; the second Ctrl-C ends it at once.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// How many puts are on their way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    pub(crate) outstanding: u64,
    /// The size of each value.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(0..=quorate::VALUE_BYTES_MAX as u64))]
    pub(crate) value_bytes: u64,
}

fn parse_member(text: &str) -> Result<Member, String> {
    let (id, address) = text.split_once('=').ok_or("write it as ID=HOST:PORT")?;
    let id = match id.trim().parse() {
        Ok(0) | Err(_) => {
            return Err(format!(
                "\"{}\" is no node id: ids are numbers above zero",
                message(id)
            ));
        }
        Ok(id) => id,
    };
    Ok(Member {
        id,
        address: parse_address(address)?,
    })
}

fn parse_segment(text: &str) -> Result<SegmentId, String> {
    let digits = text.strip_suffix(".seg").unwrap_or(text);
    match u64::from_str_radix(digits, 16) {
        Ok(id) if id > 0 && !digits.starts_with('+') => Ok(SegmentId(id)),
        _ => Err(format!(
            "\"{}\" is no segment: name it as its file, in hexadecimal digits",
            message(text)
        )),
    }
}

pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let text = text.trim();
    let wrong = |hint: &str| Err(format!("\"{}\" is no address: {hint}", message(text)));
    if text.contains("://") || text.contains('/') {
        return wrong("write it as HOST:PORT, without a scheme or a path");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong("it has no port: write it as HOST:PORT");
    };
    if host.is_empty() {
        return wrong("it has no host: write it as HOST:PORT");
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => return wrong("its port is none of 1 to 65535: write it as HOST:PORT"),
        Ok(_) => {}
    }
    // The zone of a link behind a percent sign is the system's to know.
    let is_number = |it: &str| {
        let number = it.split('%').next().unwrap_or_default();
        number.parse::<Ipv6Addr>().is_ok()
    };
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match bare {
        Some(bare) if is_number(bare) => Ok(text.to_owned()),
        None if !host.contains(['[', ']', ':']) || is_number(host) => Ok(text.to_owned()),
        _ => wrong("write an IPv6 address as [ADDRESS]:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_segment_is_named_as_its_file_is() {
        for right in ["1f", "000000000000001f", "000000000000001f.seg"] {
            assert_eq!(parse_segment(right), Ok(SegmentId(0x1f)), "{right}");
        }
        for wrong in ["", "0", "x", "+1", ".seg", "10000000000000000"] {
            assert!(parse_segment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_address_is_told_what_is_wrong_with_it() {
        let right = ["db1:7400", "10.0.0.1:7400", "[::1]:7400", "::1:7400"];
        for right in right.into_iter().chain(["[fe80::1%2]:7400", " db1:7400 "]) {
            assert_eq!(parse_address(right).as_deref(), Ok(right.trim()), "{right}");
        }
        let cases = [
            ("", "no port"),
            ("db1", "no port"),
            (":7400", "no host"),
            ("db1:", "1 to 65535"),
            ("db1:0", "1 to 65535"),
            ("127.0.0.1:99999", "1 to 65535"),
            ("http://db1:7400", "without a scheme"),
            ("db1:7400/x", "without a scheme or a path"),
            ("[::1:7400", "[ADDRESS]:PORT"),
            ("a:b:7400", "[ADDRESS]:PORT"),
            ("[db1]:7400", "[ADDRESS]:PORT"),
        ];
        for (wrong, hint) in cases {
            let told = parse_address(wrong).expect_err(wrong);
            assert!(told.contains(hint), "{told}");
        }
    }

    #[test]
    fn members_are_numbers_with_addresses() {
        let member = |id, address: &str| {
            Ok(Member {
                id,
                address: address.to_owned(),
            })
        };
        assert_eq!(parse_member("1=db1:7400"), member(1, "db1:7400"));
        assert_eq!(parse_member("2=[::1]:7400"), member(2, "[::1]:7400"));
        for wrong in [
            "",
            "1",
            "0=db1:7400",
            "x=db1:7400",
            "1=db1",
            "1=:7400",
            "1=db1:0",
            "1=db1:70000",
        ] {
            assert!(parse_member(wrong).is_err(), "{wrong}");
        }
    }
}
