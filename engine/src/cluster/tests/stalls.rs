//! Disks that stand still, and what the workers of their nodes do meanwhile.

use super::*;

/// No stall of a test here is meant to last longer: a disk that stands still goes on by itself a little later.
const STALL_MAX: Duration = Duration::from_secs(15);

/// The row "a disk stands still under a node with peers" of the guarantees: whatever its workers have to do goes on. Of a node
/// without peers nobody waits for an answer, and its worker writes itself.
#[test]
fn no_worker_of_a_node_with_peers_touches_the_disk() {
    for nodes in [1, 3] {
        let (cluster, troubles) = troubled(nodes, options());
        let clerk = cluster.clerk();
        for number in 0..50 {
            clerk.put(format!("{number}"), "v").expect("all is well");
        }
        for trouble in troubles {
            let users = trouble.users();
            assert!(!users.is_empty());
            assert_eq!(uses_of_workers(&trouble).is_empty(), nodes > 1, "{users:?}");
        }
    }
}

/// What workers did to a disk, by the names of the operations.
fn uses_of_workers(trouble: &Trouble) -> Vec<&'static str> {
    let users = trouble.users().into_iter();
    let of_workers = users.filter(|(thread, _)| thread.starts_with("quorate-work"));
    of_workers.map(|(_, operation)| operation).collect()
}

/// Waits until a thread waits for the disk, which stands still.
fn wait_until_one_waits(trouble: &Trouble) {
    let began = Instant::now();
    while !trouble.keeps_waiting() {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody writes");
        std::thread::yield_now();
    }
}

/// A machine that is slow must not elect anybody.
fn patient(seconds: u64) -> Options {
    Options {
        election_timeout: Duration::from_secs(seconds),
        ..options()
    }
}

/// Without the third node the leader has no majority, and so no leadership and no read, unless this one answers its heartbeats.
#[test]
fn a_follower_whose_disk_stands_still_answers_heartbeats_and_reads() {
    let options = patient(2);
    let timeout = options.election_timeout;
    let (cluster, troubles) = troubled(3, options);
    let (clerk, group) = (cluster.clerk(), GroupId(0));
    clerk.put("k", "1").expect("all is well");
    let leader = cluster.leader().expect("one leads");
    let node = other_than(&cluster, leader);
    let mut others = cluster.nodes().into_iter();
    let third = others.find(|&it| it != leader && it != node);
    let trouble = Arc::clone(&troubles[node.0 as usize - 1]);
    let struck = Struck { node, trouble };
    let term = |node| cluster.db(node).expect("it runs").status()[0].term;
    let before = term(leader);
    struck.trouble.stick(true);
    clerk.put("k", "2").expect("the others are a majority");
    wait_until_one_waits(&struck.trouble);
    cluster.crash(third.expect("there are three"));

    let (of_leader, here) = (cluster.db(leader), cluster.db(struck.node));
    let (of_leader, here) = (of_leader.expect("it runs"), here.expect("it runs"));
    let began = Instant::now();
    let (mut reads, two) = (0, Ok(Some("2".into())));
    while reads < 20 || began.elapsed() < 2 * timeout {
        assert!(began.elapsed() < STALL_MAX, "{reads} reads");
        assert_eq!(of_leader.get("k"), two);
        assert_eq!(here.get("k"), two);
        assert_eq!(clerk.get("k"), two);
        let lease = of_leader.view(group, Consistency::Lease);
        assert_eq!(lease.map(|view| view.get(b"k")), two);
        let old = here.view(group, Consistency::Stale);
        assert!(old.is_ok_and(|view| view.get(b"k").is_some()));
        reads += 1;
    }
    assert!(
        struck.trouble.keeps_waiting(),
        "it stood still all the time"
    );
    assert_eq!((term(leader), term(struck.node)), (before, before));
    assert_eq!(cluster.leader(), Ok(leader));

    // With its disk it is a majority again, and all that is so without a worker that waited.
    drop(struck);
    clerk.put("k", "3").expect("two of three disks are well");
    assert_eq!(here.get("k"), Ok(Some("3".into())));
    assert_eq!((term(leader), term(node)), (before, before));
    for trouble in [leader, node].map(|it| &troubles[it.0 as usize - 1]) {
        assert!(uses_of_workers(trouble).is_empty(), "{:?}", trouble.users());
    }
}

/// For less than an election timeout: behind that, leadership moves to a node whose disk is well.
#[test]
fn a_leader_whose_disk_stands_still_for_a_moment_goes_on_leading_and_reading() {
    let (cluster, troubles) = troubled(3, patient(3));
    let (clerk, group) = (cluster.clerk(), GroupId(0));
    clerk.put("k", "1").expect("all is well");
    let struck = Struck::leader(&cluster, &troubles);
    let db = cluster.db(struck.node).expect("it runs");
    let before = db.status()[0].term;
    struck.trouble.stick(true);
    clerk.put("k", "2").expect("the others are a majority");
    wait_until_one_waits(&struck.trouble);
    let two = Ok(Some("2".into()));
    for _ in 0..10 {
        assert_eq!(db.get("k"), two);
        assert_eq!(clerk.get("k"), two);
        let lease = db.view(group, Consistency::Lease);
        assert_eq!(lease.map(|view| view.get(b"k")), two);
    }
    assert!(
        struck.trouble.keeps_waiting(),
        "it stood still all the time"
    );
    drop(struck);
    clerk.put("k", "3").expect("all is well");
    assert_eq!(db.get("k"), Ok(Some("3".into())));
    for node in cluster.nodes() {
        let status = cluster.db(node).expect("it runs").status();
        assert_eq!(status[0].term, before, "{node:?}: {status:?}");
    }
}
