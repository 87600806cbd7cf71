//! Directories of nodes: of one that is alone, and of three that are a cluster. Both have two groups, several sealed
//! segments, a tail that no close has sealed, both slots of the manifest, and a snapshot with sessions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::{Clerk, Cluster, Consistency, Db, GroupId, NodeId, Options};

use crate::container::{pack, unpack};
use crate::{path_of, write_new};

const GROUPS: u32 = 2;
const LONE: &str = "lone.files";
const THREE: &str = "three.files";
/// What both directories hold: a key, a space and its value on each line.
const CONTENTS: &str = "contents.txt";

#[test]
fn a_lone_node_of_version_1_opens_and_has_its_contents() {
    let dir = tempfile::tempdir().expect("a directory");
    unpack(&golden(1, LONE), dir.path());
    assert_has_everything(dir.path());
    let open = || Db::builder(dir.path()).groups(GROUPS).options(options());
    let db = open().open().expect("an older version opens");
    assert_contents(&db);
    db.put("new", "entry").expect("it takes writes");
    assert_eq!(db.append("motto", "!").expect("it takes writes"), 8);
    db.close();
    let db = open().open().expect("it opens again");
    let found = db.get("new").expect("readable");
    assert_eq!(found.as_deref(), Some(&b"entry"[..]));
}

#[test]
fn three_nodes_of_version_1_open_and_have_their_contents() {
    let root = tempfile::tempdir().expect("a directory");
    unpack(&golden(1, THREE), root.path());
    for node in 1..=3 {
        assert_has_everything(&root.path().join(node.to_string()));
    }
    let cluster = Cluster::builder()
        .dir(root.path())
        .groups(GROUPS)
        .options(options());
    let cluster = cluster.start().expect("an older version opens");
    assert_contents(&cluster.clerk());
    for node in cluster.nodes() {
        let db = cluster.db(node).expect("it runs");
        for group in [GroupId(0), GroupId(1)] {
            eventually("the replica has what the others have", || {
                db.trouble(group) == Ok(None) && is_complete(&db, group)
            });
        }
    }
    cluster
        .clerk()
        .put("new", "entry")
        .expect("it takes writes");
}

/// No replica is missing a key of its group.
fn is_complete(db: &Db, group: GroupId) -> bool {
    let view = db.view(group, Consistency::Stale).expect("readable");
    contents()
        .iter()
        .filter(|(key, _)| db.group_of(key) == group)
        .all(|(key, value)| view.get(key.as_bytes()).as_deref() == Some(value.as_bytes()))
}

fn assert_contents(clerk: &Clerk) {
    for (key, value) in contents() {
        let found = clerk.get(&key).expect("readable");
        assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key}");
    }
    let count = clerk.count().expect("readable");
    assert_eq!(count, contents().len() as u64, "nothing else is there");
}

/// The fixture has all kinds of files.
fn assert_has_everything(dir: &Path) {
    let names = |folder: &str| -> Vec<String> {
        let files = fs::read_dir(dir.join(folder)).expect("a folder");
        let mut names: Vec<String> = files
            .map(|file| {
                file.expect("readable")
                    .file_name()
                    .into_string()
                    .expect("ASCII")
            })
            .collect();
        names.sort();
        names
    };
    assert!(dir.join("IDENTITY").exists());
    let log = names("wal");
    assert!(log.contains(&"MANIFEST-a".to_owned()) && log.contains(&"MANIFEST-b".to_owned()));
    let segments = log.iter().filter(|name| name.contains(".seg")).count();
    assert!(segments >= 4, "{log:?}");
    let snapshots = names("snap/0000000000000000");
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
}

fn contents() -> BTreeMap<String, String> {
    let text = String::from_utf8(golden(1, CONTENTS)).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| line.split_once(' ').expect("a key and a value"));
    lines
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn golden(version: u32, name: &str) -> Vec<u8> {
    fs::read(path_of(version, name)).expect("it is kept")
}

#[test]
#[ignore = "writes the golden files of a new version"]
fn write_directories() {
    write_new(1, LONE, || {
        let dir = tempfile::tempdir().expect("a directory");
        let db = Db::builder(dir.path()).groups(GROUPS).options(options());
        let db = db.open().expect("it opens");
        fill(&db, &[&db]);
        pack_quiet(dir.path())
    });
    write_new(1, THREE, || {
        let root = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::builder()
            .dir(root.path())
            .groups(GROUPS)
            .options(options());
        let cluster = cluster.start().expect("it starts");
        let nodes: Vec<Db> = (1..=3)
            .map(|id| cluster.db(NodeId(id)).expect("it runs"))
            .collect();
        fill(&cluster.clerk(), &nodes.iter().collect::<Vec<_>>());
        pack_quiet(root.path())
    });
    write_new(1, CONTENTS, || {
        let db = Cluster::in_memory(1).expect("it starts");
        let clerk = db.clerk();
        write(&clerk, 0..ENTRIES);
        let keys = (0..ENTRIES).map(key).chain(["motto".to_owned()]);
        let lines = keys.filter_map(|key| {
            let value = clerk.get(&key).expect("readable")?;
            let value = String::from_utf8(value.to_vec()).expect("UTF-8");
            Some(format!("{key} {value}\n"))
        });
        lines.collect::<Vec<_>>().concat().into_bytes()
    });
}

const ENTRIES: u32 = 50;

/// So many are covered by the snapshots.
const COVERED: u32 = 20;

/// Some of it before a snapshot of each group on each node, and most behind it.
fn fill(clerk: &Clerk, nodes: &[&Db]) {
    write(clerk, 0..COVERED);
    for group in [GroupId(0), GroupId(1)] {
        let applied = |db: &Db| db.status()[group.0 as usize].applied;
        eventually("all have applied the same", || {
            nodes
                .windows(2)
                .all(|pair| applied(pair[0]) == applied(pair[1]))
        });
        for db in nodes {
            db.snapshot(group).expect("it is saved");
        }
    }
    write(clerk, COVERED..ENTRIES);
}

/// Puts, a letter appended to one key with some of them, and deletes.
fn write(clerk: &Clerk, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let value = format!("value-{number}-{}", "x".repeat(2_800));
        clerk.put(key(number), value).expect("it takes writes");
        if number % 5 == 0 && number < 35 {
            let letter = &"quorate"[number as usize / 5..][..1];
            clerk.append("motto", letter).expect("it takes writes");
        }
        if number % 10 == 9 {
            assert!(clerk.delete(key(number - 5)).expect("it takes writes"));
        }
    }
}

fn key(number: u32) -> String {
    format!("key-{number:03}")
}

/// The files when nothing has changed for a while: snapshots are saved and segments prepared by threads.
fn pack_quiet(dir: &Path) -> Vec<u8> {
    let mut packed = pack(dir);
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
        let again = pack(dir);
        if again != packed {
            (packed, since) = (again, Instant::now());
        }
    }
    packed
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "not in time: {what}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.election_timeout = Duration::from_millis(200);
    options.heartbeat_interval = Duration::from_millis(20);
    options.trailing_entries = 8;
    options.log.segment_bytes_min = 32 << 10;
    options.log.segment_bytes_max = 32 << 10;
    options.log.entry_bytes_max = 16 << 10;
    options.log.batch_bytes_max = 64 << 10;
    options
}
