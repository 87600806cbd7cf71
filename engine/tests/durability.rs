//! What was acknowledged is there: after an orderly stop, after a crash of every node at once, from the log alone and from
//! a snapshot with the log behind it. And the log gives its space back, also beside groups that sleep.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{GROUP, Rng, TRANSPORTS, durable, eventually, quick, seed, settled, small};
use quorate::{Clerk, Cluster, Consistency, Db, GroupId, LogIndex, TransportKind, WriteBatch};

/// What the keys and values should be.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[test]
fn one_node_keeps_everything_over_orderly_stops() {
    let mut rng = Rng(seed("one_node_keeps_everything_over_orderly_stops"));
    let root = tempfile::tempdir().expect("a directory");
    let mut model = Model::new();
    for _ in 0..4 {
        let db = Db::open(root.path().join("data")).expect("it opens");
        assert_holds(&db, &model);
        for _ in 0..60 {
            write_something(&db, &mut model, &mut rng);
        }
        assert_holds(&db, &model);
    }
}

#[test]
fn one_node_keeps_everything_over_crashes() {
    let mut rng = Rng(seed("one_node_keeps_everything_over_crashes"));
    let root = tempfile::tempdir().expect("a directory");
    let mut options = small(8 << 10);
    options.log.segment_bytes_min = 16 << 10;
    let cluster = Cluster::builder()
        .nodes(1)
        .dir(root.path())
        .options(options)
        .start()
        .expect("it starts");
    crash_and_check(&cluster, &mut rng, 8);
}

#[test]
fn three_nodes_keep_everything_when_all_crash_at_once() {
    for transport in TRANSPORTS {
        let mut rng = Rng(seed("three_nodes_keep_everything_when_all_crash_at_once"));
        let root = tempfile::tempdir().expect("a directory");
        let cluster = durable(root.path(), transport, small(8 << 10));
        crash_and_check(&cluster, &mut rng, 5);
    }
}

#[test]
fn a_closed_cluster_is_found_again_over_another_transport() {
    let root = tempfile::tempdir().expect("a directory");
    let cluster = durable(root.path(), TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    clerk.put("k", "v").expect("a majority lives");
    settled(&cluster);
    let before = cluster
        .db(cluster.leader().expect("one leads"))
        .expect("it runs");
    let term = before.status()[0].term;
    let digest = before.digest(GROUP).expect("it runs");
    drop((before, clerk, cluster));

    let cluster = durable(root.path(), TransportKind::Tcp, quick());
    assert_eq!(
        cluster.clerk().get("k").expect("readable").as_deref(),
        Some(&b"v"[..])
    );
    settled(&cluster);
    let after = cluster
        .db(cluster.leader().expect("one leads"))
        .expect("it runs");
    assert!(
        after.status()[0].term > term,
        "a new leader begins a new term"
    );
    let found = after.digest(GROUP).expect("it runs");
    assert!(
        found.applied > digest.applied,
        "the new leader's first entry stands behind the old ones"
    );
    assert_eq!(found.digest, digest.digest);
}

#[test]
fn a_node_restarts_from_a_snapshot_and_the_log_behind_it() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("data");
    let open = || {
        Db::builder(&dir)
            .options(small(16 << 10))
            .open()
            .expect("it opens")
    };
    let db = open();
    let mut written = 0;
    let mut put = |db: &Db| {
        db.put(
            format!("key/{:02}", written % 40),
            format!("{written:0>500}"),
        )
        .expect("writable");
        written += 1;
    };
    for _ in 0..200 {
        put(&db);
    }
    let covered = db.snapshot(GROUP).expect("it is saved");
    assert_eq!(covered, db.status()[0].applied);
    eventually("snapshots were taken and the log was cut", || {
        snapshot_files(&dir) == 1 && db.stats().log.entries < 120
    });
    // These are behind every snapshot but the next, which is not due before 16 KiB more.
    for _ in 0..10 {
        put(&db);
    }
    let applied = db.status()[0].applied;
    let digest = db.digest(GROUP).expect("it runs");
    assert_eq!(digest.applied, applied);
    drop(db);

    let db = open();
    for key in 0..40 {
        let newest = (0..210)
            .rev()
            .find(|written| written % 40 == key)
            .expect("all were written");
        let value = db.get(format!("key/{key:02}")).expect("readable");
        assert_eq!(value, Some(format!("{newest:0>500}").into()), "key {key}");
    }
    assert_eq!(db.count(), Ok(40));
    assert!(
        db.status()[0].applied > applied,
        "the log behind the snapshot was replayed"
    );
    assert_eq!(db.trouble(GROUP), Ok(None));
}

#[test]
fn a_follower_that_was_away_too_long_is_brought_back_by_a_snapshot() {
    for transport in TRANSPORTS {
        let root = tempfile::tempdir().expect("a directory");
        let cluster = durable(root.path(), transport, small(32 << 10));
        let clerk = cluster.clerk();
        clerk.put("before", "1").expect("a majority lives");
        let leader = cluster.leader().expect("one leads");
        let away = cluster
            .nodes()
            .into_iter()
            .find(|&node| node != leader)
            .expect("three nodes");
        cluster.crash(away);
        for number in 0..300_u32 {
            clerk
                .put(format!("key/{:02}", number % 20), vec![number as u8; 1000])
                .expect("two live");
        }
        let leader_db = cluster.db(leader).expect("it runs");
        eventually("the log that the follower lacks is gone", || {
            leader_db.stats().log.entries < 150
        });
        cluster.restart(away).expect("it restarts");
        settled(&cluster);
        let back = cluster.db(away).expect("it runs");
        let view = back.view(GROUP, Consistency::Stale).expect("readable");
        assert_eq!(
            view.len(),
            21,
            "the view of the node that came back, itself"
        );
        assert_eq!(back.digest(GROUP), leader_db.digest(GROUP));
    }
}

#[test]
fn the_log_stays_small_beside_what_lives() {
    let root = tempfile::tempdir().expect("a directory");
    let cluster = durable(
        root.path(),
        TransportKind::Memory,
        small(SNAPSHOT_LOG_BYTES),
    );
    assert_log_stays_small(&cluster, GROUP);
}

#[test]
fn the_log_stays_small_beside_groups_that_sleep() {
    let root = tempfile::tempdir().expect("a directory");
    let builder = Cluster::builder()
        .dir(root.path())
        .groups(16)
        .options(small(SNAPSHOT_LOG_BYTES));
    let cluster = builder.start().expect("it starts");
    let clerk = cluster.clerk();
    let hot = clerk.group_of("hot");
    // Every group writes a little at first, and then no more: the oldest segments hold all of them.
    for number in 0..160 {
        clerk
            .put(format!("sleeping/{number}"), vec![7; 100])
            .expect("a majority lives");
    }
    let groups = (0..160).map(|number| clerk.group_of(format!("sleeping/{number}")));
    let slept: BTreeSet<GroupId> = groups.collect();
    assert_eq!(slept.len(), 16, "every group was written to");
    assert_log_stays_small(&cluster, hot);
    for number in 0..160 {
        let value = clerk.get(format!("sleeping/{number}")).expect("readable");
        assert_eq!(value.as_deref(), Some(&[7; 100][..]), "sleeping/{number}");
    }
    for node in cluster.nodes() {
        cluster.crash(node);
    }
    for node in cluster.nodes() {
        cluster.restart(node).expect("it restarts");
    }
    for number in 0..160 {
        let value = clerk.get(format!("sleeping/{number}")).expect("readable");
        assert_eq!(
            value.as_deref(),
            Some(&[7; 100][..]),
            "sleeping/{number}, after a crash of all"
        );
    }
}

const SNAPSHOT_LOG_BYTES: u64 = 256 << 10;

/// The live state of the hot group: 64 keys of 16 KiB.
const LIVE_BYTES: u64 = 64 * VALUE_BYTES;
const VALUE_BYTES: u64 = 16 << 10;

/// How much is written over it.
const WRITTEN_BYTES: u64 = 12 * LIVE_BYTES;

/// A node allows itself as much log as its snapshots are long (one time the live state), four times `SNAPSHOT_LOG_BYTES`
/// (1 MiB) and three segments (0.75 MiB): 2.75 MiB beside 1 MiB of live state. Above that groups are made to let go of the
/// oldest segment; above twice that writes are refused until they have. What is on its way then, and the prepared
/// segment, come on top.
const LOG_TO_LIVE_MAX: u64 = 6;

/// When all is quiet again, the log is under this many times the live state.
const LOG_TO_LIVE_AT_REST: u64 = 4;

/// Overwrites the hot group's keys again and again, and looks at the log on every node's disk all the while.
fn assert_log_stays_small(cluster: &Cluster, hot: GroupId) {
    let clerk = cluster.clerk();
    let keys: Vec<String> = (0_u64..1_000_000)
        .map(|number| format!("hot/{number}"))
        .filter(|key| clerk.group_of(key) == hot)
        .take((LIVE_BYTES / VALUE_BYTES) as usize)
        .collect();
    let dbs: Vec<Db> = cluster
        .nodes()
        .into_iter()
        .filter_map(|node| cluster.db(node))
        .collect();
    let disk_bytes = || {
        dbs.iter()
            .map(|db| db.stats().log.disk_bytes)
            .max()
            .unwrap_or(0)
    };
    let mut most_bytes = 0;
    let began = Instant::now();
    let mut written_bytes = 0;
    // Long enough that sleeping groups are looked at several times, whatever the speed of the disk.
    while written_bytes < WRITTEN_BYTES || began.elapsed() < Duration::from_secs(4) {
        let place = (written_bytes / VALUE_BYTES) as usize % keys.len();
        clerk
            .put(&keys[place], vec![place as u8; VALUE_BYTES as usize])
            .expect("a majority lives");
        written_bytes += VALUE_BYTES;
        most_bytes = most_bytes.max(disk_bytes());
        if written_bytes >= 40 * LIVE_BYTES {
            break;
        }
    }
    assert!(
        most_bytes <= LOG_TO_LIVE_MAX * LIVE_BYTES,
        "{most_bytes} bytes of log beside {LIVE_BYTES} of live state, {written_bytes} written"
    );
    eventually("the log shrinks when all is quiet", || {
        disk_bytes() <= LOG_TO_LIVE_AT_REST * LIVE_BYTES
    });
    for (place, key) in keys.iter().enumerate() {
        let value = clerk.get(key).expect("readable").expect("it was written");
        assert!(value.iter().all(|&byte| byte == place as u8) && value.len() as u64 == VALUE_BYTES);
    }
}

/// Writes through one clerk that lives as long as the cluster, crashes every node at once, and looks whether all
/// is there; several times. Each crash comes right behind the last acknowledgement.
fn crash_and_check(cluster: &Cluster, rng: &mut Rng, rounds: u32) {
    let clerk = cluster.clerk();
    let mut model = Model::new();
    for round in 0..rounds {
        for _ in 0..rng.range(5, 60) {
            write_something(&clerk, &mut model, rng);
        }
        let before: Vec<LogIndex> = cluster
            .nodes()
            .into_iter()
            .filter_map(|node| cluster.db(node))
            .map(|db| db.status()[0].commit)
            .collect();
        for node in cluster.nodes() {
            assert!(cluster.crash(node));
        }
        for node in cluster.nodes() {
            cluster
                .restart(node)
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert_holds(&clerk, &model);
        let leader = cluster
            .db(cluster.leader().expect("one leads"))
            .expect("it runs");
        assert!(leader.status()[0].commit > before.into_iter().max().unwrap_or_default());
    }
}

/// Any write, or several in one batch, on any of a few keys.
fn write_something(clerk: &Clerk, model: &mut Model, rng: &mut Rng) {
    let key = format!("key/{}", rng.range(0, 12)).into_bytes();
    let len = rng.range(0, 600) as usize;
    let value = rng.bytes(len);
    match rng.range(0, 5) {
        0 => {
            clerk.put(&key, &value).expect("a majority lives");
            model.insert(key, value);
        }
        1 => {
            let len = clerk.append(&key, &value).expect("a majority lives");
            let grown = model.entry(key).or_default();
            grown.extend_from_slice(&value);
            assert_eq!(len, grown.len() as u64);
        }
        2 => {
            let existed = clerk.delete(&key).expect("a majority lives");
            assert_eq!(existed, model.remove(&key).is_some());
        }
        3 => {
            let known = model.get(&key).cloned();
            let is_right = rng.range(0, 2) == 0;
            let expected = if is_right {
                known.clone()
            } else {
                Some(b"never written".to_vec())
            };
            let swapped = clerk
                .compare_and_swap(&key, expected, &value)
                .expect("a majority lives");
            assert_eq!(swapped.is_ok(), is_right, "{swapped:?}");
            if let Err(conflict) = swapped {
                assert_eq!(conflict.current.map(|value| value.to_vec()), known);
            } else {
                model.insert(key, value);
            }
        }
        _ => {
            let other = format!("key/{}", rng.range(0, 12)).into_bytes();
            let batch = WriteBatch::new()
                .put(&key, &value)
                .delete(&other)
                .append("log", "x");
            assert_eq!(clerk.write_batch(batch).expect("a majority lives"), Ok(()));
            model.insert(key, value);
            model.remove(&other);
            model.entry(b"log".to_vec()).or_default().push(b'x');
        }
    }
}

fn assert_holds(clerk: &Clerk, model: &Model) {
    let entries = clerk.scan::<&[u8]>(.., usize::MAX).expect("readable");
    let found: Model = entries
        .into_iter()
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    let keys = |model: &Model| -> Vec<String> {
        model
            .iter()
            .map(|(key, value)| format!("{}={}", key.escape_ascii(), value.len()))
            .collect()
    };
    assert!(
        found == *model,
        "found {:?}, expected {:?}",
        keys(&found),
        keys(model)
    );
}

/// How many files the folder of snapshots holds.
fn snapshot_files(dir: &Path) -> usize {
    fn count(dir: &Path) -> usize {
        let entries = std::fs::read_dir(dir).map(|entries| entries.filter_map(Result::ok));
        entries.map_or(0, |entries| {
            entries
                .map(|entry| {
                    if entry.path().is_dir() {
                        count(&entry.path())
                    } else {
                        1
                    }
                })
                .sum()
        })
    }
    count(&dir.join("snap"))
}
