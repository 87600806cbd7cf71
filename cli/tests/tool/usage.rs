//! Wrong input: what is wrong with it, and exit code 2; what is right and does not work: exit code 1.

use std::io::ErrorKind;
use std::net::TcpListener;

use crate::run::{finish, quorate, quorate_with_input, tool};

#[test]
fn wrong_usage_is_named() {
    let node =
        |cluster: &'static str| vec!["node", "--id", "1", "--dir", "unused", "--cluster", cluster];
    let connected = |call: &[&'static str]| [call, &["--connect", "127.0.0.1:1"]].concat();
    let of_cluster = |id| [node("1=host:7400"), vec!["--cluster-id", id]].concat();
    let cases: [(Vec<&str>, &str); 13] = [
        (vec![], "Usage"),
        (vec!["get", "k"], "--connect"),
        (
            vec!["get", "k", "--connect", "nowhere"],
            "write it as HOST:PORT",
        ),
        (
            vec!["get", "k", "--connect", "host:99999"],
            "write it as HOST:PORT",
        ),
        (node("1"), "write it as ID=HOST:PORT"),
        (node("0=host:7400"), "numbers above zero"),
        (node("1=host"), "write it as HOST:PORT"),
        (of_cluster("0"), "give a number above zero"),
        (of_cluster("0x0"), "give a number above zero"),
        (of_cluster("x"), "write it in decimal"),
        (connected(&["put", "k"]), "<VALUE>"),
        (connected(&["cas", "k", "v"]), "--expect"),
        (connected(&["bench", "--outstanding", "0"]), "1..=4096"),
    ];
    for (arguments, named) in cases {
        let finished = quorate(&arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert!(
            finished.stderr.contains(named),
            "{arguments:?}: {finished:?}"
        );
    }
}

#[test]
fn lists_that_contradict_themselves_are_refused_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let cases = [
        ("2=127.0.0.1:1,3=127.0.0.1:2", "node 1 is not in the list"),
        ("1=127.0.0.1:1,1=127.0.0.1:2", "listed twice"),
    ];
    for (list, named) in cases {
        let finished = quorate(&[
            "node",
            "--id",
            "1",
            "--dir",
            data.to_str().unwrap(),
            "--cluster",
            list,
        ]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(named), "{finished:?}");
        assert!(!data.exists());
    }
}

#[test]
fn a_cluster_that_is_not_there_is_named_with_its_address() {
    // Nobody may listen on this port without being asked.
    let finished = quorate(&["get", "k", "--connect", "127.0.0.1:1"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("127.0.0.1:1"), "{finished:?}");
    assert!(
        finished.stderr.contains("no node could be reached"),
        "{finished:?}"
    );
}

#[test]
fn the_environment_names_the_nodes_unless_the_command_line_does() {
    let run = |arguments: &[&str], variable: Option<&str>| {
        let mut command = tool(arguments);
        command.envs(variable.map(|value| ("QUORATE_CONNECT", value)));
        finish(command, b"")
    };
    let call = ["get", "k", "--timeout-ms", "1"];
    let flag = [&call[..], &["--connect", "127.0.0.1:1"]].concat();
    for (arguments, variable, code, named) in [
        (
            &call[..],
            Some("127.0.0.1:2"),
            1,
            "(addresses from QUORATE_CONNECT)",
        ),
        (&call[..], Some("127.0.0.1:2"), 1, "127.0.0.1:2: "),
        (
            &flag[..],
            Some("127.0.0.1:2"),
            1,
            "(addresses from --connect)",
        ),
        (&flag[..], Some("nonsense"), 1, "127.0.0.1:1: "),
        (
            &call[..],
            Some("127.0.0.1:2,nonsense"),
            2,
            "QUORATE_CONNECT",
        ),
        (&call[..], Some(""), 2, "QUORATE_CONNECT"),
        (&call[..], None, 2, "set QUORATE_CONNECT"),
    ] {
        let finished = run(arguments, variable);
        assert_eq!(finished.code, Some(code), "{variable:?}: {finished:?}");
        assert!(finished.stderr.contains(named), "{named}: {finished:?}");
    }
}

/// What it waits for is told with how long it waits.
#[test]
fn the_time_of_a_call_is_the_time_to_connect_too() {
    // Takes connections, by way of the system, and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let finished = quorate(&["get", "k", "--timeout-ms", "300", "--connect", &address]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let waited = finished.stderr.split_once("no handshake within ");
    let waited = waited.and_then(|(_, it)| it.split_once(" ms"));
    let waited = waited.and_then(|(it, _)| it.parse::<u64>().ok());
    assert!(waited.is_some_and(|ms| ms <= 300), "{finished:?}");
}

#[test]
fn what_no_node_takes_is_refused_before_one_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let key = "k".repeat(quorate::KEY_BYTES_MAX + 1);
    let key = key.as_str();
    let value = "v".repeat(quorate::VALUE_BYTES_MAX + 1);
    let cases: [(&[&str], &str); 12] = [
        (
            &["put", key, "v"],
            "the key is over the limit of 65535 bytes",
        ),
        (&["append", key, "v"], "the key is over"),
        (&["get", key], "the key is over"),
        (&["get", key, "--consistency", "stale"], "the key is over"),
        (&["delete", key], "the key is over"),
        (&["cas", key, "v", "--absent"], "the key is over"),
        (&["cas", key, "v", "--expect", "x"], "the key is over"),
        (&["scan", "--prefix", key], "the prefix is over"),
        (&["scan", "--from", key], "the key of --from is over"),
        (&["scan", "--to", key], "the key of --to is over"),
        (
            &["put", "k", "-"],
            "the value is over the limit of 8388608 bytes",
        ),
        (&["append", "k", "-"], "the value is over"),
    ];
    for (arguments, named) in cases {
        let all = [arguments, &["--connect", &address]].concat();
        let finished = quorate_with_input(&all, value.as_bytes());
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(named), "{named}: {finished:?}");
    }
    let asked = listener.accept().map(|(_, from)| from);
    assert!(
        matches!(&asked, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{asked:?}"
    );
}

#[test]
fn an_address_that_cannot_be_listened_on_is_told_what_to_do_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases = [
        // Kept for examples: no machine has it.
        (
            "192.0.2.1:7400",
            "no interface of this machine has that address",
        ),
        ("nowhere.invalid:7400", "check the name"),
        (taken.as_str(), "end the process that has it"),
    ];
    for (address, hint) in cases {
        let list = format!("1={address}");
        let arguments = crate::run::Node::arguments(1, &data, &list);
        let finished = quorate(&arguments);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(hint), "{hint}: {finished:?}");
        assert!(!data.exists(), "{finished:?}");
    }
}
