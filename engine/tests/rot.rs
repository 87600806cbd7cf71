//! Entries and snapshots that rot on the disk of one node: they are neither served nor lost. The replica they belonged to is
//! quarantined, says so, with file and offset, and comes back with a snapshot of its leader; the other groups of the node go on.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{GROUP, durable, eventually, quick, settled, small};
use quorate::{Clerk, Cluster, Consistency, Db, Error, GroupId, NodeId, TransportKind};

const OTHER: GroupId = GroupId(1);

/// Overwrites a value in an old segment of a node's log, and says where: as `Db::trouble` does. Panics if it stands in none.
fn rot(root: &Path, node: NodeId, value: &str) -> String {
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
    format!("{} at {offset}", path.display())
}

/// Flips a bit in the middle of the only snapshot of a group, and gives the file.
fn rot_snapshot(root: &Path, node: NodeId, group: GroupId) -> PathBuf {
    let path = snapshot_file(root, node, group).expect("there is a snapshot");
    let mut bytes = fs::read(&path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("writable");
    path
}

/// The only snapshot of a group on a node.
fn snapshot_file(root: &Path, node: NodeId, group: GroupId) -> Option<PathBuf> {
    let dir = root.join(node.0.to_string()).join("snap");
    let dir = dir.join(format!("{:016x}", group.0));
    let files = fs::read_dir(dir).ok()?;
    let files = files.map(|file| file.expect("readable").path());
    let is_published = |path: &PathBuf| path.extension().is_some_and(|it| it == "snap");
    let mut files: Vec<_> = files.filter(is_published).collect();
    (files.len() == 1).then(|| files.remove(0))
}

/// Has a node take a snapshot of a group.
fn snapshot(cluster: &Cluster, root: &Path, node: NodeId, group: GroupId) -> PathBuf {
    let db = cluster.db(node).expect("it runs");
    db.snapshot(group).expect("it is saved");
    // The one before may go a moment later.
    eventually("the snapshot is there", || {
        snapshot_file(root, node, group).is_some()
    });
    snapshot_file(root, node, group).expect("it was just there")
}

/// `Db::trouble` names a file and a place in it.
fn assert_names(db: &Db, group: GroupId, file: &Path) {
    eventually("the replica names the file", || {
        let trouble = db.trouble(group).expect("it runs").unwrap_or_default();
        let (_, behind) = trouble
            .split_once(&*file.to_string_lossy())
            .unwrap_or_default();
        behind.contains(" at ") && behind.contains("quarantined")
    });
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
    let place = rot(root.path(), hurt, &value(7));
    cluster
        .restart(hurt)
        .expect("one group does not keep it from starting");
    let db = cluster.db(hurt).expect("it runs");
    eventually("the replica says what it lost, and where", || {
        let trouble = db.trouble(GROUP).expect("it runs");
        trouble
            .is_some_and(|trouble| trouble.contains("rotted on disk") && is_near(&trouble, &place))
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
    let place = rot(root.path(), node, &value(7));
    cluster.restart(node).expect("it starts");
    let db = cluster.db(node).expect("it runs");
    eventually("it says what it lost, and where", || {
        let trouble = db.trouble(GROUP).expect("it runs");
        trouble
            .is_some_and(|trouble| trouble.contains("rotted on disk") && is_near(&trouble, &place))
    });
    let by_name = Error::Quarantined { group: GROUP };
    assert_eq!(db.get("anything"), Err(by_name.clone()));
    assert_eq!(db.put("anything", "else"), Err(by_name));
}

/// A trouble names the file of `place`, and an offset no further behind than the payload that rotted is long.
fn is_near(trouble: &str, place: &str) -> bool {
    let (file, offset) = place.rsplit_once(" at ").expect("it has an offset");
    let Some((_, behind)) = trouble.split_once(&format!("{file} at ")) else {
        return false;
    };
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    let found: u64 = digits.parse().expect("an offset");
    let rotten: u64 = offset.parse().expect("an offset");
    found <= rotten && rotten - found < 4_096
}

#[test]
fn a_rotten_snapshot_costs_a_node_one_group_until_its_leader_sends_another() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = small(4 << 20);
    options.trailing_entries = 1_024;
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
    snapshot(&cluster, root.path(), hurt, GROUP);
    put(&clerk, GROUP, 60..70);
    settled(&cluster);
    cluster.crash(hurt);
    let file = rot_snapshot(root.path(), hurt, GROUP);
    cluster
        .restart(hurt)
        .expect("one group does not keep it from starting");
    let db = cluster.db(hurt).expect("it runs");
    assert_names(&db, GROUP, &file);
    assert_eq!(db.trouble(OTHER), Ok(None));
    // The other group of the node goes on.
    put(&clerk, OTHER, 20..40);
    let leader = cluster
        .db(cluster.leader().expect("two others"))
        .expect("runs");
    let applied = |db: &Db, group: GroupId| db.status()[group.0 as usize].applied;
    eventually("the other group of the node goes on", || {
        applied(&db, OTHER) == applied(&leader, OTHER)
    });
    // Of this one nothing is answered from here: the leader is asked, or the call is refused.
    for consistency in [
        Consistency::Stale,
        Consistency::Lease,
        Consistency::Linearizable,
    ] {
        for number in [7, 65] {
            let found = db.get_with(key(&clerk, GROUP, number), consistency);
            assert_eq!(
                found.expect("the leader answers").as_deref(),
                Some(value(number).as_bytes())
            );
        }
        let view = db.view(GROUP, consistency).err();
        assert_eq!(view, Some(Error::Quarantined { group: GROUP }));
    }
    assert_eq!(db.count().expect("the leader answers"), 110);
    let all = db.prefix("", 1_000).expect("the leader answers");
    assert_eq!(all.len(), 110);
    assert_eq!(db.digest(GROUP), Err(Error::Quarantined { group: GROUP }));
    assert!(file.exists(), "it stays until another one is here");
    // The leader keeps all of its log, so nobody lacks its snapshot but who says that everything is gone: which a leader
    // hears when it has something to send.
    leader.snapshot(GROUP).expect("it is saved");
    put(&clerk, GROUP, 70..71);
    eventually("the replica is back", || {
        db.trouble(GROUP) == Ok(None) && applied(&db, GROUP) == applied(&leader, GROUP)
    });
    eventually("it is equal to the leader", || {
        db.digest(GROUP).is_ok() && db.digest(GROUP) == leader.digest(GROUP)
    });
    let view = db.view(GROUP, Consistency::Stale).expect("readable");
    let found = view.get(key(&clerk, GROUP, 7).as_bytes());
    assert_eq!(found.as_deref(), Some(value(7).as_bytes()));
    eventually("the rotten file went with the one that replaced it", || {
        !file.exists()
    });
}

#[test]
fn a_lone_node_with_a_rotten_or_missing_snapshot_serves_its_other_groups() {
    for is_gone in [false, true] {
        let root = tempfile::tempdir().expect("a directory");
        let builder = Cluster::builder()
            .nodes(1)
            .groups(2)
            .dir(root.path())
            .options(small(4 << 20));
        let cluster = builder.start().expect("it starts");
        let clerk = cluster.clerk();
        put(&clerk, GROUP, 0..20);
        put(&clerk, OTHER, 0..20);
        let node = cluster.nodes()[0];
        let file = snapshot(&cluster, root.path(), node, GROUP);
        snapshot(&cluster, root.path(), node, OTHER);
        settled(&cluster);
        cluster.crash(node);
        if is_gone {
            fs::remove_file(&file).expect("it is there");
        } else {
            rot_snapshot(root.path(), node, GROUP);
        }
        cluster
            .restart(node)
            .expect("one group does not keep it from starting");
        let db = cluster.db(node).expect("it runs");
        let by_name = || Error::Quarantined { group: GROUP };
        let lost = key(&clerk, GROUP, 7);
        for consistency in [
            Consistency::Stale,
            Consistency::Lease,
            Consistency::Linearizable,
        ] {
            assert_eq!(db.get_with(&lost, consistency), Err(by_name()));
        }
        assert_eq!(db.put(&lost, "else"), Err(by_name()));
        assert_eq!(db.count(), Err(by_name()));
        let trouble = db.trouble(GROUP).expect("it runs").expect("there is some");
        assert!(trouble.contains(&*file.to_string_lossy()), "{trouble}");
        assert!(trouble.contains("quarantined"), "{trouble}");
        let found = db
            .get(key(&clerk, OTHER, 7))
            .expect("the other group is served");
        assert_eq!(found.as_deref(), Some(value(7).as_bytes()));
        put(&clerk, OTHER, 20..40);
        assert_eq!(db.snapshot(GROUP), Err(by_name()));
        db.snapshot(OTHER).expect("it is saved");
        db.close();
        assert_eq!(file.exists(), !is_gone, "what is left of it stays");
    }
}

#[test]
fn a_snapshot_that_rotted_under_its_leader_is_named_and_another_one_is_sent() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = small(4 << 20);
    options.log.segment_bytes_max = 64 << 10;
    let cluster = durable(root.path(), TransportKind::Memory, options);
    let clerk = cluster.clerk();
    clerk.put("first", "1").expect("a majority lives");
    settled(&cluster);
    let away = follower(&cluster);
    cluster.crash(away);
    put(&clerk, GROUP, 0..200);
    let leader = cluster.leader().expect("two live");
    let db = cluster.db(leader).expect("it runs");
    // Twice, so that the log is cut behind the first one, and nothing is new since the last.
    snapshot(&cluster, root.path(), leader, GROUP);
    let file = rot_snapshot(root.path(), leader, GROUP);
    cluster.restart(away).expect("it restarts");
    eventually(
        "the leader names what it could not send, and replaces it",
        || {
            let trouble = db.trouble(GROUP).expect("it runs").unwrap_or_default();
            let (_, behind) = trouble
                .split_once(&*file.to_string_lossy())
                .unwrap_or_default();
            behind.contains(" at ") && behind.contains("another snapshot has taken its place")
        },
    );
    let digest = |node| cluster.db(node).expect("it runs").digest(GROUP);
    eventually("the one that was away has everything", || {
        digest(away).is_ok() && digest(away) == digest(leader)
    });
    eventually("the rotten file is gone", || !file.exists());
}

#[test]
fn a_leader_whose_snapshot_covers_too_little_takes_a_newer_one() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = small(4 << 20);
    options.trailing_entries = 1_024;
    let cluster = durable(root.path(), TransportKind::Memory, options);
    let clerk = cluster.clerk();
    put(&clerk, GROUP, 0..20);
    settled(&cluster);
    let leader = cluster.leader().expect("one leads");
    snapshot(&cluster, root.path(), leader, GROUP);
    put(&clerk, GROUP, 20..40);
    settled(&cluster);
    let hurt = follower(&cluster);
    snapshot(&cluster, root.path(), hurt, GROUP);
    cluster.crash(hurt);
    let file = rot_snapshot(root.path(), hurt, GROUP);
    cluster.restart(hurt).expect("it starts");
    let db = cluster.db(hurt).expect("it runs");
    put(&clerk, GROUP, 40..41);
    let leader = cluster.db(leader).expect("it runs");
    eventually(
        "the replica is back, though nobody asked for a snapshot",
        || {
            let digest = db.digest(GROUP);
            digest.is_ok() && digest == leader.digest(GROUP)
        },
    );
    assert_eq!(db.trouble(GROUP), Ok(None));
    eventually("the rotten file is gone", || !file.exists());
}
