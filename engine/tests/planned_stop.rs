//! A node that stops in order first hands over what it leads; what is returned to whoever asks for a hand-over or a snapshot.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{DEADLINE, GROUP, TRANSPORTS, defaults, eventually, in_memory, quick, settled};
use quorate::{Cluster, Db, Error, GroupId, NodeId, Options, Role, TransferError, TransportKind};

/// Nothing but a hand-over moves leadership within a test's deadline.
fn unhurried() -> Options {
    let mut options = defaults();
    options.election_timeout = DEADLINE * 2;
    options.hand_over_timeout = DEADLINE;
    options
}

/// Does something that must end, on a thread of its own: a test that fails leaves it behind.
fn in_time<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let _late = done.send(call());
    });
    let result = wait.recv_timeout(DEADLINE);
    result.unwrap_or_else(|error| panic!("{what}: {error} after {DEADLINE:?}"))
}

fn close(db: Db) {
    in_time("to close", move || db.close());
}

/// Sets the flag also when the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_leader_that_is_closed_hands_over_all_its_groups_first_and_no_call_fails() {
    for transport in TRANSPORTS {
        let builder = Cluster::builder().transport(transport).groups(6);
        let cluster = builder.options(unhurried()).start().expect("it starts");
        let clerk = cluster.clerk();
        for key in 0..32 {
            clerk.put(format!("{key}"), "v").expect("all live");
        }
        settled(&cluster);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let clerk = cluster.clerk();
                let mut writes = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let put = clerk.put(format!("{}", writes % 32), format!("{writes}"));
                    put.expect("a majority lives");
                    writes += 1;
                }
                writes
            });
            let stops = Stops(&stop);
            close(cluster.db(NodeId(1)).expect("it runs"));
            // Not elected by their timeouts, which are far away.
            for group in 0..6 {
                let leader = cluster.leader_of(GroupId(group)).expect("one leads");
                assert_ne!(leader, NodeId(1));
            }
            for key in 0..32 {
                clerk
                    .put(format!("{key}"), "after")
                    .expect("a majority lives");
            }
            drop(stops);
            assert!(writer.join().expect("it ends") > 0);
        });
    }
}

#[test]
fn the_last_handle_of_a_leader_hands_over_when_it_is_dropped() {
    let root = tempfile::tempdir().expect("a directory");
    let addresses = common::free_addresses::<3>();
    let open = |id: u64| {
        let mut options = quick();
        options.hand_over_timeout = DEADLINE;
        let builder = Db::builder(root.path().join(id.to_string())).node(id);
        let builder = builder.cluster((1..).zip(addresses.clone()));
        builder.options(options).open().expect("it opens")
    };
    let mut nodes: Vec<Db> = (1..=3).map(open).collect();
    nodes[0].put("k", "v").expect("all live");
    let leader = nodes[0].status()[0].leader;
    let place = leader.expect("it has just answered").0 as usize - 1;
    let old = nodes.remove(place);
    let term = old.status()[0].term;
    in_time("to drop", move || drop(old));
    let leads = |node: &Db| node.status()[0].role == Role::Leader;
    assert!(nodes.iter().any(leads), "another one leads already");
    for node in &nodes {
        eventually("another one leads in the next term", || {
            let status = &node.status()[0];
            status.term.0 == term.0 + 1 && status.leader.is_some()
        });
        node.put("k", "after").expect("a majority lives");
    }
}

#[test]
fn a_leader_that_crashes_hands_nothing_over() {
    let mut options = unhurried();
    options.call_timeout = Duration::from_millis(500);
    let cluster = in_memory(TransportKind::Memory, options);
    let clerk = cluster.clerk();
    eventually("somebody leads", || clerk.put("k", "v").is_ok());
    assert!(cluster.crash(cluster.leader().expect("it answered")));
    let put = clerk.put("k", "after");
    assert!(matches!(put, Err(Error::Timeout { .. })), "{put:?}");
}

#[test]
fn a_leader_without_a_majority_of_others_waits_for_nobody() {
    for transport in TRANSPORTS {
        let mut options = quick();
        options.hand_over_timeout = Duration::from_mins(1);
        let cluster = in_memory(transport, options);
        cluster.clerk().put("k", "v").expect("all live");
        settled(&cluster);
        let leader = cluster.leader().expect("one leads");
        let others = cluster.nodes().into_iter().filter(|it| *it != leader);
        for other in others {
            assert!(cluster.crash(other));
        }
        close(cluster.db(leader).expect("it runs"));
    }
}

/// Nobody has noticed yet that they are cut off from each other.
#[test]
fn a_leader_that_nobody_answers_stops_when_its_time_to_hand_over_has_passed() {
    let mut options = unhurried();
    options.hand_over_timeout = Duration::from_millis(300);
    let cluster = in_memory(TransportKind::Memory, options);
    cluster.clerk().put("k", "v").expect("all live");
    settled(&cluster);
    let leader = cluster.leader().expect("one leads");
    let network = Arc::clone(cluster.network().expect("it has one"));
    network.isolate(leader);
    close(cluster.db(leader).expect("it runs"));
}

#[test]
fn a_hand_over_that_is_asked_for_returns_who_leads_or_why_not() {
    let cluster = in_memory(TransportKind::Memory, quick());
    cluster.clerk().put("k", "v").expect("all live");
    settled(&cluster);
    let old = cluster.leader().expect("one leads");
    let others: Vec<NodeId> = cluster
        .nodes()
        .into_iter()
        .filter(|it| *it != old)
        .collect();
    let db = |node: NodeId| cluster.db(node).expect("it runs");
    let refused = |error| Err(Error::Transfer(error));

    let to = NodeId(9);
    let unknown = refused(TransferError::UnknownNode { to });
    assert_eq!(db(old).transfer_leadership(GROUP, Some(to)), unknown);
    assert_eq!(db(old).transfer_leadership(GROUP, Some(old)), Ok(old));
    let group = GroupId(1);
    let no_group = Err(Error::NoSuchGroup { group });
    assert_eq!(db(old).transfer_leadership(group, None), no_group);
    let leader = Some(old);
    let elsewhere = refused(TransferError::NotLeader { leader });
    assert_eq!(db(others[0]).transfer_leadership(GROUP, None), elsewhere);

    // One that hears nothing does not take over, and the leader goes on.
    let network = Arc::clone(cluster.network().expect("it has one"));
    network.cut(old, others[0]);
    let (leader, to) = (db(old), others[0]);
    let cut_off = in_time("a hand-over to one that is cut off", move || {
        leader.transfer_leadership(GROUP, Some(to))
    });
    let is_named =
        matches!(cut_off, Err(Error::Transfer(TransferError::NotTaken { to: it, .. })) if it == to);
    // By its own timeout it may have been elected meanwhile, or have had the other one elected.
    let may_be = matches!(
        cut_off,
        Ok(_) | Err(Error::Transfer(TransferError::TakenByOther { .. }))
    );
    assert!(is_named || may_be, "{cut_off:?}");
    network.heal_all();

    eventually("somebody hands over to another one", || {
        let leader = cluster.leader().expect("one leads");
        let new = db(leader).transfer_leadership(GROUP, None);
        new.is_ok_and(|new| new != leader)
    });
    let db = db(cluster.leader().expect("one leads"));
    close(db.clone());
    assert_eq!(db.transfer_leadership(GROUP, None), Err(Error::Closed));
}

#[test]
fn a_snapshot_that_is_asked_for_returns_what_it_covers() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let db = cluster.db(NodeId(1)).expect("it runs");
    db.put("k", "v").expect("all live");
    settled(&cluster);
    let applied = db.status()[0].applied;
    let both = [db.snapshot_async(GROUP), db.snapshot_async(GROUP)];
    for saved in both {
        let saved = saved.wait().expect("it is saved");
        assert!(saved >= applied, "{saved} of {applied}");
    }
    db.put("k", "w").expect("all live");
    let saved = db.snapshot(GROUP).expect("it is saved");
    assert!(saved > applied, "{saved} behind {applied}");
    let group = GroupId(1);
    assert_eq!(db.snapshot(group), Err(Error::NoSuchGroup { group }));
    close(db.clone());
    assert_eq!(db.snapshot(GROUP), Err(Error::Closed));
}
