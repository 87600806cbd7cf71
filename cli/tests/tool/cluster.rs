//! Three nodes, each a process.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use tempfile::TempDir;

use crate::run::{Finished, Node, quorate, quorate_with_input};

struct Cluster {
    nodes: Vec<Option<Node>>,
    /// Who leads at first, counted from 0.
    leader: usize,
    list: String,
    connect: String,
    dir: TempDir,
}

#[test]
fn a_cluster_of_processes_outlives_the_death_of_its_leader() {
    let mut cluster = Cluster::start();
    cluster.succeed(&["put", "motto", "quorate"]);
    assert_eq!(cluster.succeed(&["append", "motto", "!"]), "8\n");

    let leader = cluster.leader;
    cluster.kill(leader);
    assert_eq!(cluster.succeed(&["append", "motto", "?"]), "9\n");
    assert_eq!(cluster.succeed(&["get", "motto"]), "quorate!?\n");

    // The dead one comes back from its files, and then another one may die: what it missed has reached it.
    cluster.restart(leader);
    cluster.kill((leader + 1) % 3);
    assert_eq!(cluster.succeed(&["append", "motto", "."]), "10\n");
    assert_eq!(
        cluster.succeed(&["get", "motto", "--consistency", "lease"]),
        "quorate!?.\n"
    );

    // Two of three are gone: nobody may answer, and the tool says so within its time.
    cluster.kill(leader);
    let refused = cluster.call(&["put", "motto", "alone", "--timeout-ms", "1500"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("no answer within 1500 ms"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("majority"), "{refused:?}");
}

/// As service managers and terminals end them.
#[test]
fn a_node_that_is_told_to_stop_by_a_signal_hands_over_and_ends_in_order() {
    let mut cluster = Cluster::start();
    cluster.succeed(&["put", "motto", "quorate"]);
    let leader = cluster.leader;
    cluster.nodes[leader].take().unwrap().end_by("TERM");
    assert_eq!(cluster.succeed(&["append", "motto", "!"]), "8\n");
    cluster.restart(leader);
    let other = (leader + 1) % 3;
    cluster.nodes[other].take().unwrap().end_by("INT");
    assert_eq!(cluster.succeed(&["get", "motto"]), "quorate!\n");
}

#[test]
fn every_call_does_what_it_says_and_exit_codes_tell_what_happened() {
    let cluster = Cluster::start();
    let absent = cluster.call(&["get", "nothing"]);
    assert_eq!(
        (absent.code, absent.stdout.as_str()),
        (Some(3), ""),
        "{absent:?}"
    );
    assert_eq!(cluster.call(&["delete", "nothing"]).code, Some(3));

    assert_eq!(cluster.succeed(&["put", "k/1", "one"]), "");
    assert_eq!(
        cluster.succeed_with_input(&["put", "k/2", "-"], b"tab\there"),
        ""
    );
    assert_eq!(cluster.succeed(&["get", "k/2", "--raw"]), "tab\there");
    assert_eq!(
        cluster.succeed(&["scan", "--prefix", "k/"]),
        "k/1\tone\nk/2\ttab\\there\n"
    );
    assert_eq!(
        cluster.succeed(&["scan", "--from", "k/1", "--to", "k/2"]),
        "k/1\tone\n"
    );
    assert_eq!(cluster.succeed(&["scan", "--limit", "1"]), "k/1\tone\n");

    let conflict = cluster.call(&["cas", "k/1", "two", "--expect", "zero"]);
    assert_eq!(conflict.code, Some(4), "{conflict:?}");
    assert!(
        conflict
            .stderr
            .contains("not swapped: the value is \"one\""),
        "{conflict:?}"
    );
    assert_eq!(
        cluster.call(&["cas", "k/1", "two", "--absent"]).code,
        Some(4)
    );
    cluster.succeed(&["cas", "k/1", "two", "--expect", "one"]);
    cluster.succeed(&["cas", "k/3", "three", "--absent"]);
    cluster.succeed(&["delete", "k/2"]);
    assert_eq!(cluster.succeed(&["scan"]), "k/1\ttwo\nk/3\tthree\n");
}

#[test]
fn a_node_names_strangers_and_ends_in_order() {
    let mut cluster = Cluster::start();
    let address: Vec<String> = cluster.connect.split(',').map(str::to_owned).collect();
    let mut stranger = TcpStream::connect(&address[0]).unwrap();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n").unwrap();
    let node = cluster.nodes[0].as_mut().unwrap();
    let line = node.wait_for(&["rejected"]);
    assert!(line.contains("does not speak this protocol"), "{line}");

    // A node with another list is another cluster's.
    let list = format!("{},4=127.0.0.1:{}", cluster.list, free_ports()[0]);
    let mut other = Node::start(4, &cluster.dir.path().join("4"), &list);
    other.wait_for(&["cannot reach n1: cluster"]);
    cluster.nodes[0]
        .as_mut()
        .unwrap()
        .wait_for(&["check the addresses and cluster ids"]);

    let said = cluster.nodes.remove(0).unwrap().end_in_order();
    assert!(said.len() > 2, "{said:?}");
    for line in &said {
        let (time, what) = line.split_once(' ').unwrap();
        assert!(is_rfc3339(time) && !what.is_empty(), "{line}");
    }
    assert!(
        said.is_sorted_by_key(|line| line[..24].to_owned()),
        "{said:?}"
    );
}

/// Whether it is a time in UTC with milliseconds: 2026-11-29T19:14:42.123Z.
fn is_rfc3339(time: &str) -> bool {
    let form = "0000-00-00T00:00:00.000Z";
    time.len() == form.len()
        && time.chars().zip(form.chars()).all(|(it, form)| {
            if form == '0' {
                it.is_ascii_digit()
            } else {
                it == form
            }
        })
}

#[test]
fn a_directory_is_opened_by_one_process_and_under_one_name() {
    let cluster = Cluster::start();
    let dir = cluster.dir.path().join("1");
    let dir = dir.to_str().unwrap();
    let again = quorate(&[
        "node",
        "--id",
        "1",
        "--dir",
        dir,
        "--cluster",
        &cluster.list,
    ]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(
        again.stderr.contains("in use by another process"),
        "{again:?}"
    );

    let list = cluster.list.clone();
    let data = cluster.stop();
    let dir = data.path().join("1");
    let dir = dir.to_str().unwrap();
    let misnamed = quorate(&["node", "--id", "2", "--dir", dir, "--cluster", &list]);
    assert_eq!(misnamed.code, Some(1), "{misnamed:?}");
    assert!(
        misnamed.stderr.contains("belongs to node 1"),
        "{misnamed:?}"
    );
    let resized = quorate(&[
        "node",
        "--id",
        "1",
        "--dir",
        dir,
        "--cluster",
        &list,
        "--groups",
        "2",
    ]);
    assert_eq!(resized.code, Some(1), "{resized:?}");
    assert!(resized.stderr.contains("was made for"), "{resized:?}");
}

impl Cluster {
    /// Starts three nodes, and waits until one of them leads.
    fn start() -> Self {
        let ports = free_ports();
        let list: Vec<String> = (1..)
            .zip(&ports)
            .map(|(id, port)| format!("{id}=127.0.0.1:{port}"))
            .collect();
        let connect: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let (list, connect) = (list.join(","), connect.join(","));
        let dir = tempfile::tempdir().unwrap();
        let node = |id: usize| Some(Node::start(id, &dir.path().join(id.to_string()), &list));
        let mut nodes: Vec<Option<Node>> = (1..=3).map(node).collect();
        for node in nodes.iter_mut().flatten() {
            node.wait_for(&["listens on 127.0.0.1:"]);
        }
        // Every node says it when it learns it.
        let said = nodes[0]
            .as_mut()
            .unwrap()
            .wait_for(&["group 0: leader in term", "group 0: follows n"]);
        let leader = match said.split_once("follows n") {
            Some((_, rest)) => rest.split(' ').next().unwrap().parse::<usize>().unwrap() - 1,
            None => 0,
        };
        Self {
            nodes,
            leader,
            list,
            connect,
            dir,
        }
    }

    fn kill(&mut self, place: usize) {
        self.nodes[place].take().unwrap().kill();
    }

    /// Starts a node again, and waits until it takes part.
    fn restart(&mut self, place: usize) {
        let id = place + 1;
        let mut node = Node::start(id, &self.dir.path().join(id.to_string()), &self.list);
        node.wait_for(&["group 0: follows n", "group 0: leader in term"]);
        self.nodes[place] = Some(node);
    }

    fn stop(self) -> TempDir {
        for node in self.nodes.into_iter().flatten() {
            node.end_in_order();
        }
        self.dir
    }

    fn call(&self, arguments: &[&str]) -> Finished {
        self.call_with_input(arguments, b"")
    }

    fn call_with_input(&self, arguments: &[&str], input: &[u8]) -> Finished {
        let mut all = arguments.to_vec();
        all.extend(["--connect", &self.connect]);
        quorate_with_input(&all, input)
    }

    /// What a call that must succeed prints.
    fn succeed(&self, arguments: &[&str]) -> String {
        self.succeed_with_input(arguments, b"")
    }

    fn succeed_with_input(&self, arguments: &[&str], input: &[u8]) -> String {
        let finished = self.call_with_input(arguments, input);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    }
}

/// Three ports that nobody listens on; all are held until all are known.
pub(crate) fn free_ports() -> Vec<u16> {
    let held: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}
