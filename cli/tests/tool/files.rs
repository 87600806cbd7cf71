//! Who may read the files of a node.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::free_ports;
use crate::run::{Node, quorate};

/// Everything below a directory, and itself, with its mode.
fn modes(dir: &Path, found: &mut Vec<(PathBuf, u32)>) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    found.push((dir.to_owned(), mode(dir)));
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            modes(&path, found);
        } else {
            found.push((path.clone(), mode(&path)));
        }
    }
}

/// A node whose process takes no right from what it makes.
fn open_hearted(dir: &Path, address: &str) -> Node {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "umask 0; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_quorate"),
    ]);
    command.args(Node::arguments(1, dir, &format!("1={address}")));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut node = Node::spawn(command);
    node.wait_for(&["group 0: leader in term"]);
    node
}

#[test]
fn nobody_but_their_owner_may_read_the_files_of_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("made/data");
    let address = format!("127.0.0.1:{}", free_ports()[0]);
    let node = open_hearted(&data, &address);
    let put = quorate(&["put", "key", "value", "--connect", &address]);
    assert_eq!(put.code, Some(0), "{put:?}");
    let said = node.end_in_order();
    assert!(!said.iter().any(|line| line.contains("mode")), "{said:?}");

    let mut found = Vec::new();
    modes(&dir.path().join("made"), &mut found);
    for (path, mode) in &found {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(*mode, expected, "{} {mode:o}", path.display());
    }
    let names: BTreeSet<_> = found
        .iter()
        .filter_map(|(path, _)| path.file_name()?.to_str())
        .collect();
    for name in ["wal", "snap", "IDENTITY", "PEERS", "LOCK", "MANIFEST-a"] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
}

#[test]
fn a_directory_that_others_may_enter_stays_as_it_is_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let address = format!("127.0.0.1:{}", free_ports()[0]);
    let said = open_hearted(&data, &address).end_in_order();
    let warned = said.iter().any(|line| line.contains("mode 755"));
    assert!(warned, "{said:?}");
    let mode = fs::metadata(&data).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o755);
}
