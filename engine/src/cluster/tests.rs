//! Clusters on disks that get into trouble: what users see, and what they get back afterwards.

mod stalls;

use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::Consistency;
use crate::identity::SNAPSHOT_DIR;
use crate::transport::LogHealth;
use crate::trouble::{Trouble, TroubledDisk};

/// With as many workers as `QUORATE_TEST_WORKERS` says, as in `engine/tests/common`.
fn options() -> Options {
    let mut options = Options {
        election_timeout: Duration::from_millis(150),
        heartbeat_interval: Duration::from_millis(30),
        retry_after: Duration::from_millis(150),
        ..Options::default()
    };
    if let Ok(workers) = std::env::var("QUORATE_TEST_WORKERS") {
        options.workers = workers.parse().expect("QUORATE_TEST_WORKERS is a number");
    }
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 64 << 10;
    options.log.entry_bytes_max = 32 << 10;
    options.log.batch_bytes_max = 64 << 10;
    options.log.queue_bytes_max = 256 << 10;
    options
}

/// A cluster, and each node's way to make its disk misbehave.
fn troubled(nodes: u64, options: Options) -> (Cluster, Vec<Arc<Trouble>>) {
    let disks: Vec<Arc<TroubledDisk>> = (0..nodes).map(|_| Arc::default()).collect();
    let builder = Cluster::builder().nodes(nodes).options(options);
    let of = |node: NodeId| Arc::clone(&disks[node.0 as usize - 1]) as Arc<dyn Disk>;
    let cluster = builder.start_on(of).expect("it starts");
    (
        cluster,
        disks.iter().map(|disk| Arc::clone(&disk.trouble)).collect(),
    )
}

/// Whoever crashed a node of a cluster that had just been started might wait for it for ever.
#[test]
fn a_cluster_that_is_started_has_begun() {
    for transport in [TransportKind::Memory, TransportKind::Tcp] {
        let builder = Cluster::builder().transport(transport).options(options());
        let cluster = builder.start().expect("it starts");
        for node in cluster.nodes() {
            let status = cluster.db(node).expect("it runs").founding();
            assert!(status.is_founded, "{transport:?}, {node:?}: {status:?}");
        }
        cluster.crash(NodeId(1));
        let put = cluster.clerk().put("k", "v");
        assert_eq!(put, Ok(()), "a majority is enough, {transport:?}");
    }
}

#[test]
fn a_cluster_that_cannot_begin_says_who_keeps_it() {
    let root = tempfile::tempdir().expect("a directory");
    let start = |call_timeout| {
        let mut options = options();
        options.call_timeout = call_timeout;
        let builder = Cluster::builder().dir(root.path()).options(options);
        builder.start()
    };
    drop(start(Duration::from_secs(30)).expect("it starts"));
    std::fs::remove_dir_all(root.path().join("2")).expect("it can be removed");
    let error = start(Duration::from_millis(100)).expect_err("node 2 was wiped");
    let OpenError::Unfounded { node, status, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*node, NodeId(2));
    assert!(!status.refused_by.is_empty(), "{status:?}");
    let text = error.to_string();
    assert!(text.contains("within 100 ms: node 2 waits for"), "{text}");
}

/// Sessions of remote clerks had none, nor had those of a `Db` whose cluster was founded only after it was opened.
#[test]
fn the_sessions_of_each_client_have_an_owner_of_their_own() {
    let (cluster, _) = troubled(3, options());
    let group = GroupId(0);
    for number in 0..3 {
        let clerk = cluster.clerk();
        clerk.put("k", format!("{number}")).expect("all is well");
    }
    let db = cluster.db(cluster.leader().expect("one leads"));
    let db = db.expect("it runs");
    db.put("k", "v").expect("all is well");
    let found = db.inspect(group, |replica| {
        let sessions = replica.sessions();
        // A session's id is the index at which it was registered.
        let ids = (1..=sessions.last_index()).map(quorate_kv::SessionId);
        let owners: Vec<_> = ids.filter_map(|id| sessions.owner(id)).collect();
        (owners, sessions.session_count())
    });
    let (owners, sessions) = found.expect("it runs");
    assert_eq!(owners.len(), sessions, "each session has one");
    let clients: std::collections::BTreeSet<u64> = owners.iter().map(|it| it.0.get()).collect();
    assert_eq!(clients.len(), 4, "{owners:?}");
}

/// The row "a sync fails" of the guarantees.
#[test]
fn a_leader_whose_sync_fails_acknowledges_nothing_on_it_and_another_leads() {
    let (cluster, troubles) = troubled(3, options());
    let clerk = cluster.clerk();
    clerk.put("before", "1").expect("all is well");
    let failed = cluster.leader().expect("one leads");
    Trouble::set(&troubles[failed.0 as usize - 1].syncs_fail, true);
    clerk.put("after", "2").expect("the others are a majority");
    let next = cluster.leader().expect("another leads");
    assert_ne!(next, failed);
    let db = cluster.db(failed).expect("it runs, but leads no more");
    let stats = db.stats();
    assert_eq!(stats.health, LogHealth::Failed, "{stats:?}");
    assert!(stats.log_failure.is_some(), "{stats:?}");
    assert_eq!(db.status()[0].role, quorate_raft::Role::Follower);

    // The disk is replaced, the node reopened: it catches up, and nothing is missing.
    Trouble::set(&troubles[failed.0 as usize - 1].syncs_fail, false);
    cluster.crash(failed);
    cluster.restart(failed).expect("it opens");
    let db = cluster.db(failed).expect("it runs");
    assert_eq!(
        db.get("before").expect("readable").as_deref(),
        Some(&b"1"[..])
    );
    assert_eq!(
        db.get("after").expect("readable").as_deref(),
        Some(&b"2"[..])
    );
}

/// A single node has nobody to give its office to: it must say so, and never acknowledge.
#[test]
fn a_lone_node_whose_sync_fails_acknowledges_nothing_any_more() {
    let mut options = options();
    options.call_timeout = Duration::from_millis(400);
    let (cluster, troubles) = troubled(1, options);
    let clerk = cluster.clerk();
    clerk.put("before", "1").expect("all is well");
    Trouble::set(&troubles[0].syncs_fail, true);
    for _ in 0..2 {
        let error = clerk.put("after", "2").expect_err("the log failed");
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    }
    // A later sync that pretends to succeed changes nothing: the pages may be gone.
    Trouble::set(&troubles[0].syncs_fail, false);
    clerk.put("after", "3").expect_err("the log stays failed");
    let db = cluster.db(NodeId(1)).expect("it runs");
    let view = db
        .view(GroupId(0), Consistency::Stale)
        .expect("stale reads go on");
    assert_eq!(view.get(b"before").as_deref(), Some(&b"1"[..]));
}

/// The row "the disk is full" of the guarantees.
#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let mut options = options();
    options.call_timeout = Duration::from_millis(300);
    let (cluster, troubles) = troubled(1, options);
    let clerk = cluster.clerk();
    clerk.put("first", "1").expect("all is well");
    Trouble::set(&troubles[0].is_full, true);
    let refused = (0..1_000).find_map(|number| {
        let error = clerk.put(format!("key/{number}"), vec![7; 8 << 10]).err()?;
        let is_refusal = matches!(
            error,
            Error::Timeout {
                maybe_applied: false,
                cause: Obstacle::DiskFull,
                ..
            }
        );
        is_refusal.then_some(error)
    });
    let refused = refused.expect("the space that is left does not last for 8 MB");
    assert!(refused.is_retryable(), "{refused}");
    assert_eq!(
        clerk.get("first").expect("reads go on").as_deref(),
        Some(&b"1"[..])
    );

    Trouble::set(&troubles[0].is_full, false);
    let began = Instant::now();
    while clerk.put("last", "2").is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "space is back, and nothing is written"
        );
    }
    assert_eq!(
        clerk.get("last").expect("readable").as_deref(),
        Some(&b"2"[..])
    );
}

/// The disk is innocent of it, and looking for space there helps nobody.
#[test]
fn a_node_without_file_handles_says_so_and_not_that_its_disk_is_full() {
    let mut options = options();
    options.call_timeout = Duration::from_millis(300);
    let (cluster, troubles) = troubled(1, options);
    let struck = Struck {
        node: NodeId(1),
        trouble: Arc::clone(&troubles[0]),
    };
    let clerk = cluster.clerk();
    let db = cluster.db(struck.node).expect("it runs");
    clerk.put("first", "1").expect("all is well");
    assert_eq!(db.trouble(GroupId(0)), Ok(None));
    Trouble::set(&struck.trouble.has_no_handles, true);
    let error = (0..1_000).find_map(|number| {
        let put = clerk.put(format!("key/{number}"), vec![7; 8 << 10]);
        // The first one that finds no segment was taken, and may be written yet.
        put.err().filter(Error::is_retryable)
    });
    let error = error.expect("the segments at hand do not last for 8 MB");
    let Error::Timeout { cause, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(cause, Obstacle::OutOfHandles);
    let trouble = db.trouble(GroupId(0)).expect("it runs");
    let trouble = trouble.expect("it says why it takes no writes");
    for words in [&trouble, &cause.to_string()] {
        assert!(words.contains("no file handles"), "{words}");
        assert!(!words.contains("disk"), "{words}");
    }
    let health = db.stats().health;
    assert_eq!(health, LogHealth::OutOfHandles);
    let first = clerk.get("first").expect("reads go on");
    assert_eq!(first.as_deref(), Some(&b"1"[..]));
    Trouble::set(&struck.trouble.has_no_handles, false);
    let began = Instant::now();
    while clerk.put("last", "2").is_err() {
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(30), "nothing is written");
    }
    assert_eq!(db.trouble(GroupId(0)), Ok(None));
}

/// A leader that is in trouble, and what heals it when the test ends, however it ends.
struct Struck {
    node: NodeId,
    trouble: Arc<Trouble>,
}

impl Struck {
    fn leader(cluster: &Cluster, troubles: &[Arc<Trouble>]) -> Self {
        let node = cluster.leader().expect("one leads");
        let trouble = Arc::clone(&troubles[node.0 as usize - 1]);
        Self { node, trouble }
    }
}

impl Drop for Struck {
    fn drop(&mut self) {
        self.trouble.stick(false);
        Trouble::set(&self.trouble.is_full, false);
        Trouble::set(&self.trouble.has_no_handles, false);
    }
}

/// Puts until another node than this one leads; each put succeeds.
fn put_until_another_leads(cluster: &Cluster, clerk: &Clerk, old: NodeId, value_bytes: usize) {
    let began = Instant::now();
    let mut number = 0;
    while cluster.leader().is_ok_and(|leader| leader == old) {
        number += 1;
        let put = clerk.put(format!("key/{}", number % 50), vec![7; value_bytes]);
        put.expect("two of three disks are well");
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{old} leads for ever"
        );
    }
    clerk.put("after", "2").expect("another leads");
}

/// The row "a leader's disk is full" of the guarantees, on threads.
#[test]
fn a_leader_whose_disk_is_full_hands_over_and_writes_go_on() {
    let (cluster, troubles) = troubled(3, options());
    let clerk = cluster.clerk();
    clerk.put("before", "1").expect("all is well");
    let struck = Struck::leader(&cluster, &troubles);
    Trouble::set(&struck.trouble.is_full, true);
    put_until_another_leads(&cluster, &clerk, struck.node, 8 << 10);
    let db = cluster.db(struck.node).expect("it runs");
    assert_eq!(db.stats().health, LogHealth::Full, "{:?}", db.stats());
    assert_eq!(
        clerk.get("before").expect("readable").as_deref(),
        Some(&b"1"[..])
    );
}

/// The same without file handles, of which clients were told that the disk was full.
#[test]
fn a_leader_that_is_out_of_file_handles_hands_over_and_writes_go_on() {
    let (cluster, troubles) = troubled(3, options());
    let clerk = cluster.clerk();
    clerk.put("before", "1").expect("all is well");
    let struck = Struck::leader(&cluster, &troubles);
    Trouble::set(&struck.trouble.has_no_handles, true);
    put_until_another_leads(&cluster, &clerk, struck.node, 8 << 10);
    let db = cluster.db(struck.node).expect("it runs");
    let stats = db.stats();
    assert_eq!(stats.health, LogHealth::OutOfHandles, "{stats:?}");
    let before = clerk.get("before").expect("readable");
    assert_eq!(before.as_deref(), Some(&b"1"[..]));
    // With handles it is a member like any other.
    Trouble::set(&struck.trouble.has_no_handles, false);
    let began = Instant::now();
    while db.stats().health != LogHealth::Healthy {
        assert!(began.elapsed() < Duration::from_secs(30));
        clerk.put("after", "3").expect("it goes on");
    }
}

/// The row "a leader's disk stands still" of the guarantees, on threads. The status of such a log was `Healthy`.
#[test]
fn a_leader_whose_disk_stands_still_hands_over_and_says_that_it_is_stalled() {
    let (cluster, troubles) = troubled(3, options());
    let clerk = cluster.clerk();
    clerk.put("before", "1").expect("all is well");
    let struck = Struck::leader(&cluster, &troubles);
    struck.trouble.stick(true);
    put_until_another_leads(&cluster, &clerk, struck.node, 8);
    let stats = cluster.db(struck.node).expect("it runs").stats();
    assert_eq!(stats.health, LogHealth::Stalled, "{stats:?}");
    assert!(
        stats.oldest_unsynced > options().election_timeout,
        "{stats:?}"
    );
    let peer = cluster.leader().expect("another leads");
    let told = || {
        let peers = cluster.db(peer).expect("it runs").stats().peers;
        let of_struck = peers.into_iter().find(|(node, _)| *node == struck.node);
        of_struck.and_then(|(_, status)| status).map(|it| it.health)
    };
    let began = Instant::now();
    while told() != Some(LogHealth::Stalled) {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", told());
        std::thread::yield_now();
    }
}

/// Such reads failed after their whole time, and blamed a leader that was well: "the group has no leader".
#[test]
fn a_follower_whose_disk_is_full_serves_linearizable_reads_through_its_leader() {
    let mut options = options();
    options.election_timeout = Duration::from_secs(2);
    let (cluster, troubles) = troubled(3, options);
    let clerk = cluster.clerk();
    clerk.put("k", "0").expect("all is well");
    let leader = cluster.leader().expect("one leads");
    let full = other_than(&cluster, leader);
    let trouble = &troubles[full.0 as usize - 1].is_full;
    let db = cluster.db(full).expect("it runs");
    db.count().expect("all is well");
    Trouble::set(trouble, true);
    let applied = |node| cluster.db(node).expect("it runs").status()[0].applied;
    let has_fallen_behind = (0..4_000_u64).any(|number| {
        let value = vec![7; 8 << 10];
        let key = format!("key/{}", number % 100);
        clerk.put(key, value).expect("the others are a majority");
        db.stats().health == LogHealth::Full && applied(full) < applied(leader)
    });
    assert!(has_fallen_behind, "its space does not last for 32 MB");

    // It cannot catch up: what is there from here on its own replica has not seen.
    for round in 1..=20 {
        let value = round.to_string();
        clerk.put("k", &value).expect("the others are a majority");
        assert_eq!(db.get("k"), Ok(Some(value.clone().into())));
        let entries = [(Bytes::from("k"), Bytes::from(value))];
        assert_eq!(db.prefix("k", 1).as_ref().map(Vec::len), Ok(1));
        assert_eq!(db.scan("k".."k\0", 10).as_deref(), Ok(&entries[..]));
        assert_eq!(db.count(), clerk.count());
    }
    // More than the leader sends in one page.
    for number in 0..200 {
        let key = format!("large/{number:03}");
        clerk
            .put(key, vec![7; 30 << 10])
            .expect("the others are a majority");
    }
    let large = db.prefix("large/", 1_000).expect("the leader is well");
    assert_eq!(large.len(), 200);
    assert!(large.is_sorted());
    assert!(applied(full) < applied(leader), "all of it came from there");

    Trouble::set(trouble, false);
    let began = Instant::now();
    while applied(full) < applied(leader) {
        assert!(began.elapsed() < Duration::from_mins(1), "it stays behind");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(db.get("k"), Ok(Some("20".into())));
}

/// A view is of the replica here: nobody else can give it, and the cause is said.
#[test]
fn a_view_at_a_follower_whose_disk_is_full_fails_as_lagging() {
    let mut options = options();
    options.election_timeout = Duration::from_secs(2);
    options.call_timeout = Duration::from_secs(2);
    let (cluster, troubles) = troubled(3, options);
    let clerk = cluster.clerk();
    clerk.put("k", "0").expect("all is well");
    let leader = cluster.leader().expect("one leads");
    let full = other_than(&cluster, leader);
    let db = cluster.db(full).expect("it runs");
    db.view(GroupId(0), Consistency::Linearizable)
        .expect("all is well");
    Trouble::set(&troubles[full.0 as usize - 1].is_full, true);
    let error = (0..4_000_u64).find_map(|number| {
        let key = format!("key/{}", number % 100);
        let value = vec![7; 8 << 10];
        clerk.put(key, value).expect("the others are a majority");
        let is_full = db.stats().health == LogHealth::Full;
        is_full.then(|| db.view(GroupId(0), Consistency::Linearizable).err())?
    });
    let error = error.expect("its space does not last for 32 MB");
    let is_lagging = matches!(
        error,
        Error::Timeout {
            cause: Obstacle::Lagging,
            maybe_applied: false,
            ..
        }
    );
    assert!(is_lagging, "{error:?}");
    assert_eq!(db.get("k"), Ok(Some("0".into())), "others go on");
}

fn other_than(cluster: &Cluster, node: NodeId) -> NodeId {
    let mut others = cluster.nodes().into_iter().filter(|&it| it != node);
    others.next_back().expect("there are three")
}

/// A node on a disk in memory, with so much written, whose snapshots go at 1 MiB a second.
fn slow_snapshots(value_bytes: usize, values: usize) -> (Cluster, Arc<TroubledDisk>) {
    let options = Options {
        snapshot_bytes_per_s: Some(1 << 20),
        snapshot_step_bytes: 256 << 10,
        ..Options::default()
    };
    let disk = Arc::new(TroubledDisk::default());
    let builder = Cluster::builder().nodes(1).options(options);
    let cluster = builder
        .start_on(|_| Arc::clone(&disk) as Arc<dyn Disk>)
        .expect("it starts");
    let clerk = cluster.clerk();
    for number in 0..values {
        let key = format!("key {number}");
        clerk.put(key, vec![7; value_bytes]).expect("all is well");
    }
    (cluster, disk)
}

fn snapshot_files(disk: &TroubledDisk) -> Vec<String> {
    let dir = Path::new("/1").join(SNAPSHOT_DIR).join("0000000000000000");
    disk.list(&dir).unwrap_or_default()
}

/// 512 KiB are written, and read back, in four steps, of which the first has time to its credit.
#[test]
fn snapshots_keep_to_their_rate() {
    let (cluster, disk) = slow_snapshots(512 << 10, 1);
    let began = Instant::now();
    let saving = cluster.db(NodeId(1)).expect("it runs");
    let saving = saving.snapshot_async(GroupId(0));
    let is_published = || matches!(&snapshot_files(&disk)[..], [file] if !file.contains("tmp"));
    while !is_published() {
        assert!(began.elapsed() < Duration::from_mins(1), "there is none");
        std::thread::yield_now();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(saving.wait().is_ok());
}

/// At its rate the snapshot would take 16 s: 8 MiB are written, and read back.
#[test]
fn a_node_that_stops_finishes_its_snapshot_and_does_not_wait_for_its_rate() {
    let (cluster, disk) = slow_snapshots(512 << 10, 16);
    let db = cluster.db(NodeId(1)).expect("it runs");
    let saving = db.snapshot_async(GroupId(0));
    let began = Instant::now();
    db.close();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    let files = snapshot_files(&disk);
    assert!(
        matches!(&files[..], [file] if !file.contains("tmp")),
        "{files:?}"
    );
    assert_eq!(saving.wait(), Err(Error::Closed), "the log may not name it");
}
