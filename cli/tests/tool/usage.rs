//! Wrong input: what is wrong with it, and exit code 2; what is right and does not work: exit code 1.

use crate::run::quorate;

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
