//! Several workers: each group of a node goes on, whichever worker owns it and whenever its node
//! came back.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use common::{DEADLINE, TRANSPORTS, eventually, quick};
use quorate::{Clerk, Cluster, GroupId, NodeId};

const GROUPS: u32 = 16;

/// Writes to all groups until it is dropped, also when the test fails.
struct Load {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(clerk: Clerk) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            for number in 0_u64.. {
                if theirs.load(Ordering::Relaxed) {
                    return;
                }
                // A window of calls; what does not come through in time is the test's to notice.
                let puts: Vec<_> = (0..64)
                    .map(|key| clerk.put_async(format!("load {key}"), number.to_le_bytes()))
                    .collect();
                for put in puts {
                    let _late = put.wait_timeout(DEADLINE);
                }
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A key in each group.
fn keys(clerk: &Clerk) -> Vec<String> {
    let mut keys = vec![None; GROUPS as usize];
    let mut number = 0;
    while keys.iter().any(Option::is_none) {
        let key = format!("key {number}");
        let group = clerk.group_of(&key);
        keys[group.0 as usize].get_or_insert(key);
        number += 1;
    }
    keys.into_iter().flatten().collect()
}

/// A node that came back under load must vote and acknowledge in each of its groups. With another
/// one down it is needed in all of them, and a group whose shard does not hear of its log makes no
/// progress.
#[test]
fn a_node_that_comes_back_under_load_takes_part_in_each_of_its_groups() {
    for (workers, transport) in [1, 4].into_iter().zip(TRANSPORTS) {
        let mut options = quick();
        options.workers = workers;
        options.call_timeout = DEADLINE / 2;
        let cluster = Cluster::builder()
            .groups(GROUPS)
            .transport(transport)
            .options(options)
            .start()
            .expect("it starts");
        let clerk = cluster.clerk();
        let keys = keys(&clerk);
        let _load = Load::start(cluster.clerk());
        for round in 0..3_u64 {
            let node = NodeId(round % 3 + 1);
            let other = NodeId((round + 1) % 3 + 1);
            assert!(cluster.crash(node));
            cluster.restart(node).expect("it opens");
            assert!(cluster.crash(other));
            for (group, key) in (0..).map(GroupId).zip(&keys) {
                let put = clerk.put(key, round.to_le_bytes());
                assert_eq!(put, Ok(()), "{workers} workers, round {round}, {group:?}");
            }
            cluster.restart(other).expect("it opens");
            eventually("all replicas have what was written", || {
                let leaders = (0..u64::from(GROUPS)).map(|group| cluster.leader_of(GroupId(group)));
                let is_led = leaders.into_iter().all(|leader| leader.is_ok());
                is_led
                    && cluster
                        .nodes()
                        .into_iter()
                        .all(|node| has_all(&cluster, node, &keys, round))
            });
        }
    }
}

fn has_all(cluster: &Cluster, node: NodeId, keys: &[String], round: u64) -> bool {
    let Some(db) = cluster.db(node) else {
        return false;
    };
    keys.iter().all(|key| {
        let value = db.get_with(key, quorate::Consistency::Stale);
        value.is_ok_and(|value| value.as_deref() == Some(&round.to_le_bytes()[..]))
    })
}
