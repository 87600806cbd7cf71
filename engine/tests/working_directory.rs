//! Nodes that were opened under a relative name belong where that name led then, wherever their process goes later. The
//! working directory is the process's own, so the test starts itself anew.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{GROUP, eventually, small};
use quorate::{Cluster, Db, LogHealth, NodeId, Options};

const ROOT: &str = "QUORATE_TEST_ROOT";

/// Enough for several segments.
const ENTRIES: u32 = 120;

#[test]
fn two_nodes_under_one_relative_name_stay_apart_and_whole() {
    let root = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("this program has a file"));
    child.args(["--ignored", "--exact", "child_goes_elsewhere"]);
    child.args(["--nocapture", "--test-threads=1"]);
    let output = child.env(ROOT, root.path()).output();
    let output = output.expect("this program starts again");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for name in ["a", "b"] {
        let dir = root.path().join(name);
        let db = open(&dir.join("data"));
        for number in 0..2 * ENTRIES {
            let found = db.get(key(number)).expect("it leads itself");
            assert_eq!(found.as_deref(), Some(value(name, number).as_bytes()));
        }
        assert_eq!(db.stats().health, LogHealth::Healthy);
        db.close();
        assert_eq!(names(&dir), ["data"], "nothing else was made there");
    }
    let cluster = Cluster::builder().dir(root.path().join("c/nodes"));
    let cluster = cluster.options(options()).start().expect("it opens");
    let found = cluster.clerk().get("k").expect("a majority lives");
    assert_eq!(found.as_deref(), Some(&b"v"[..]));
    drop(cluster);
    assert_eq!(names(&root.path().join("c")), ["nodes"]);
    assert_eq!(names(&root.path().join("elsewhere")), [""; 0]);
}

#[test]
#[ignore = "started by two_nodes_under_one_relative_name_stay_apart_and_whole in a process of its own"]
fn child_goes_elsewhere() {
    let root = std::env::var_os(ROOT).expect("the parent names a directory");
    let root = Path::new(&root);
    let go_to = |name: &str| {
        let dir = root.join(name);
        fs::create_dir_all(&dir).expect("writable");
        std::env::set_current_dir(dir).expect("it is there");
    };
    go_to("c");
    let cluster = Cluster::builder().dir("nodes").options(options());
    let cluster = cluster.start().expect("it starts");
    go_to("a");
    let a = open(Path::new("data"));
    go_to("b");
    let b = open(Path::new("data"));
    fill(&a, "a", 0..ENTRIES);
    fill(&b, "b", 0..ENTRIES);
    go_to("elsewhere");
    fill(&a, "a", ENTRIES..2 * ENTRIES);
    fill(&b, "b", ENTRIES..2 * ENTRIES);
    for (name, db) in [("a", a), ("b", b)] {
        db.snapshot(GROUP).expect("it is saved");
        let snapshots = root.join(name).join("data/snap/0000000000000000");
        eventually("a snapshot is there", || {
            snapshots.exists() && names(&snapshots).iter().any(|it| it.ends_with("snap"))
        });
        assert_eq!(db.trouble(GROUP), Ok(None));
        db.close();
    }
    // A member that is restarted is the one that it was.
    assert!(cluster.crash(NodeId(1)));
    cluster
        .restart(NodeId(1))
        .expect("its files are where they were");
    cluster.clerk().put("k", "v").expect("a majority lives");
}

fn options() -> Options {
    let mut options = small(64 << 10);
    options.log.segment_bytes_max = 64 << 10;
    options
}

fn open(dir: &Path) -> Db {
    let opened = Db::builder(dir).options(options()).open();
    opened.expect("it opens")
}

fn fill(db: &Db, name: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        db.put(key(number), value(name, number))
            .expect("it leads itself");
    }
}

fn key(number: u32) -> String {
    format!("key {number}")
}

fn value(name: &str, number: u32) -> String {
    format!("{name} {number} {}", "x".repeat(3_000))
}

fn names(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).expect("a directory");
    let names = files.map(|file| file.expect("readable").file_name());
    let names: BTreeSet<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.into_iter().collect()
}
