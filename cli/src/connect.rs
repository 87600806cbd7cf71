//! Which nodes a call goes to, how long it may take, and what it may carry.

use std::env;

use quorate::{Clerk, KEY_BYTES_MAX, OpenError, Options, VALUE_BYTES_MAX};

use crate::Failure;
use crate::arguments::{Connect, parse_address};

/// Where the addresses come from unless the command line has them.
pub(crate) const VARIABLE: &str = "QUORATE_CONNECT";

/// Addresses, and who gave them.
#[derive(Debug)]
struct Nodes {
    addresses: Vec<String>,
    source: &'static str,
}

/// A client of the cluster, once a node answers.
pub(crate) fn clerk(connect: &Connect) -> Result<Clerk, Failure> {
    let given = env::var_os(VARIABLE);
    let nodes = nodes(connect, given.as_deref())?;
    let mut options = Options::default();
    options.call_timeout = connect.timeout();
    options.connect_timeout = connect.timeout();
    let source = nodes.source;
    Clerk::connect_with(nodes.addresses, &options).map_err(|error| match error {
        OpenError::Transport(_) => Failure::Failed(format!("{error} (addresses from {source})")),
        error => error.into(),
    })
}

/// The command line wins over the environment.
fn nodes(connect: &Connect, given: Option<&std::ffi::OsStr>) -> Result<Nodes, Failure> {
    if !connect.connect.is_empty() {
        return Ok(Nodes {
            addresses: connect.connect.clone(),
            source: "--connect",
        });
    }
    let wrong = |what: &str| Failure::Usage(format!("{VARIABLE}, in the environment: {what}"));
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Err(Failure::Usage(format!(
            "no node is named: give --connect HOST:PORT,HOST:PORT, or set {VARIABLE} to such a list"
        )));
    };
    let text = given.to_str().ok_or_else(|| wrong("it is no text"))?;
    let addresses = text.split(',').map(parse_address).collect::<Result<_, _>>();
    Ok(Nodes {
        addresses: addresses.map_err(|what| wrong(&what))?,
        source: VARIABLE,
    })
}

/// Refuses what no node would take, before any is asked.
pub(crate) fn check_key(what: &str, key: &[u8]) -> Result<(), Failure> {
    check(what, key.len(), KEY_BYTES_MAX)
}

/// The same of a value.
pub(crate) fn check_value(what: &str, value: &[u8]) -> Result<(), Failure> {
    check(what, value.len(), VALUE_BYTES_MAX)
}

fn check(what: &str, len: usize, limit: usize) -> Result<(), Failure> {
    if len <= limit {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{what} is over the limit of {limit} bytes; shorten it"
    )))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Call, Command};

    fn connect(arguments: &[&str]) -> Connect {
        let all = [&["quorate", "get", "k"], arguments].concat();
        match Arguments::parse_from(all).command {
            Command::Call(Call::Get { connect, .. }) => connect,
            other => panic!("{other:?}"),
        }
    }

    fn found(
        arguments: &[&str],
        given: Option<&str>,
    ) -> Result<(Vec<String>, &'static str), String> {
        match nodes(&connect(arguments), given.map(OsStr::new)) {
            Ok(nodes) => Ok((nodes.addresses, nodes.source)),
            Err(Failure::Usage(reason)) => Err(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flag_wins_over_the_environment() {
        let flag = found(&["--connect", "a:1,b:2"], Some("c:3"));
        let list = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(flag, Ok((list(&["a:1", "b:2"]), "--connect")));
        let variable = found(&[], Some("c:3, d:4"));
        assert_eq!(variable, Ok((list(&["c:3", "d:4"]), VARIABLE)));
        // Nobody looks at what is not used.
        assert!(found(&["--connect", "a:1"], Some("nonsense")).is_ok());
    }

    #[test]
    fn a_wrong_or_missing_list_is_told_with_where_it_belongs() {
        let wrong = found(&[], Some("c:3,nonsense")).expect_err("no port");
        assert!(
            wrong.contains(VARIABLE) && wrong.contains("\"nonsense\""),
            "{wrong}"
        );
        for none in [found(&[], None), found(&[], Some(""))] {
            let none = none.expect_err("no list");
            assert!(
                none.contains("--connect") && none.contains(VARIABLE),
                "{none}"
            );
        }
    }
}
