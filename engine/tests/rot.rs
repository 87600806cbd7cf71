//! Entries that rot on the disk of one node: they are neither served nor lost. The replica they belonged to stands aside,
//! says so, and comes back with a snapshot of its leader; the other groups of the node go on.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{GROUP, durable, eventually, quick, settled, small};
use quorate::{Clerk, Cluster, Consistency, Db, GroupId, NodeId, TransportKind};

const OTHER: GroupId = GroupId(1);

/// Overwrites a value in an old segment of a node's log. Panics if it stands in none.
fn rot(root: &Path, node: NodeId, value: &str) {
    let dir = root.join(node.0.to_string()).join("wal");
    let files = fs::read_dir(dir).expect("the node has a log");
    let mut segments: Vec<PathBuf> = files
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    let found = segments.iter().find_map(|path| {
        let bytes = fs::read(path).expect("readable");
        let mut windows = bytes.windows(value.len());
        let offset = windows.position(|window| window == value.as_bytes())?;
        Some((path, offset))
    });
    let (path, offset) = found.expect("the value is in the log");
    let file = fs::File::options().write(true).open(path);
    let rotten = vec![b'?'; value.len()];
    file.and_then(|file| file.write_all_at(&rotten, offset as u64))
        .expect("writable");
}

fn value(number: u32) -> String {
    format!("value number {number:04}, {}", "x".repeat(2000))
}

/// A key of a group.
fn key(clerk: &Clerk, group: GroupId, number: u32) -> String {
    let mut keys = (0..).map(|salt| format!("{number}/{salt}"));
    keys.find(|key| clerk.group_of(key) == group)
        .expect("every group has keys")
}

fn put(clerk: &Clerk, group: GroupId, numbers: std::ops::Range<u32>) {
    for number in numbers {
        clerk
            .put(key(clerk, group, number), value(number))
            .expect("a majority lives");
    }
}

fn follower(cluster: &Cluster) -> NodeId {
    let leader = cluster.leader().expect("one leads");
    let mut others = cluster.nodes().into_iter().filter(|&node| node != leader);
    others.next().expect("there are three")
}

#[test]
fn a_replica_whose_entries_rotted_stands_aside_and_comes_back_with_a_snapshot() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = small(400 << 10);
    options.log.segment_bytes_max = 64 << 10;
    let builder = Cluster::builder()
        .dir(root.path())
        .groups(2)
        .options(options);
    let cluster = builder.start().expect("it starts");
    let clerk = cluster.clerk();
    put(&clerk, GROUP, 0..60);
    put(&clerk, OTHER, 0..20);
    settled(&cluster);
    let hurt = follower(&cluster);
    cluster.crash(hurt);
    rot(root.path(), hurt, &value(7));
    cluster
        .restart(hurt)
        .expect("one group does not keep it from starting");
    let db = cluster.db(hurt).expect("it runs");
    eventually("the replica says what it lost", || {
        let trouble = db.trouble(GROUP).expect("it runs");
        trouble.is_some_and(|trouble| trouble.contains("rotted on disk"))
    });
    assert_eq!(db.trouble(OTHER), Ok(None));
    let applied = |db: &Db, group: GroupId| db.status()[group.0 as usize].applied;
    let leader = cluster
        .db(cluster.leader().expect("two others"))
        .expect("runs");
    eventually("the other group of the node goes on", || {
        applied(&db, OTHER) == applied(&leader, OTHER)
    });
    assert!(applied(&db, GROUP) < applied(&leader, GROUP));
    // What it cannot say its leader says for it, at once.
    let read = db.get(key(&clerk, GROUP, 7)).expect("the leader is well");
    assert_eq!(read.as_deref(), Some(value(7).as_bytes()));
    assert_eq!(db.count(), Ok(80));
    let view = db.view(GROUP, Consistency::Stale).expect("readable");
    assert_eq!(
        view.get(key(&clerk, GROUP, 7).as_bytes()),
        None,
        "never wrong"
    );
    // The leader takes a snapshot in time, and the log behind it goes.
    put(&clerk, GROUP, 60..400);
    eventually("the replica is back", || {
        db.trouble(GROUP) == Ok(None) && applied(&db, GROUP) == applied(&leader, GROUP)
    });
    eventually("it is equal to the leader", || {
        db.digest(GROUP).is_ok() && db.digest(GROUP) == leader.digest(GROUP)
    });
    let view = db.view(GROUP, Consistency::Stale).expect("readable");
    let found = view.get(key(&clerk, GROUP, 7).as_bytes());
    assert_eq!(found.as_deref(), Some(value(7).as_bytes()));
}

#[test]
fn a_leader_whose_old_entries_rotted_sends_its_snapshot_instead() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = small(4 << 20);
    options.log.segment_bytes_max = 64 << 10;
    options.log.recent_bytes_max = 0;
    options.cache_bytes_max = 4 << 10;
    let cluster = durable(root.path(), TransportKind::Memory, options);
    let clerk = cluster.clerk();
    clerk.put("first", "1").expect("a majority lives");
    settled(&cluster);
    let away = follower(&cluster);
    cluster.crash(away);
    put(&clerk, GROUP, 0..200);
    let leader = cluster.leader().expect("two live");
    rot(root.path(), leader, &value(7));
    cluster.restart(away).expect("it restarts");
    for number in 0..200 {
        let found = clerk.get(key(&clerk, GROUP, number)).expect("readable");
        assert_eq!(found.as_deref(), Some(value(number).as_bytes()));
    }
    let digest = |node| cluster.db(node).expect("it runs").digest(GROUP);
    eventually("the one that was away has everything", || {
        digest(away).is_ok() && digest(away) == digest(leader)
    });
}

#[test]
fn a_lone_replica_that_lost_entries_says_so_and_serves_nothing_of_the_group() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = quick();
    options.call_timeout = std::time::Duration::from_millis(500);
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 64 << 10;
    let builder = Cluster::builder()
        .nodes(1)
        .dir(root.path())
        .options(options);
    let cluster = builder.start().expect("it starts");
    put(&cluster.clerk(), GROUP, 0..60);
    let node = cluster.nodes()[0];
    cluster.crash(node);
    rot(root.path(), node, &value(7));
    cluster.restart(node).expect("it starts");
    let db = cluster.db(node).expect("it runs");
    eventually("it says what it lost", || {
        let trouble = db.trouble(GROUP).expect("it runs");
        trouble.is_some_and(|trouble| trouble.contains("rotted on disk"))
    });
    assert!(db.get("anything").is_err(), "nobody can know what it was");
    assert!(db.put("anything", "else").is_err());
}
