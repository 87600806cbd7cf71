//! Linearizable reads at a node that is behind its leader, or whose leader dies: never the past, and an answer as long as a
//! majority is well.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{DEADLINE, GROUP, TRANSPORTS, in_memory, quick, seed, settled};
use quorate::transport::memory::{LinkFaults, MemoryNetwork};
use quorate::{Cluster, Consistency, Db, Error, NodeId, TransportKind};

/// Sets a flag when it goes, also when its test fails: whoever looks at it ends.
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The hand of a network's clock, on a thread of its own until it is dropped.
struct Hand {
    stop: Option<Stop>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hand {
    fn of(network: &Arc<MemoryNetwork>) -> Self {
        let (network, stop) = (Arc::clone(network), Stop::new());
        let looks = Arc::clone(&stop.0);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            while !looks.load(Ordering::SeqCst) {
                network.advance(began.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn other(cluster: &Cluster, than: NodeId) -> NodeId {
    let nodes = cluster.nodes();
    let other = nodes.into_iter().find(|&node| node != than);
    other.expect("there are three")
}

fn number(value: Option<&[u8]>) -> u64 {
    let text = std::str::from_utf8(value.expect("it was put")).expect("digits");
    text.parse().expect("a number")
}

/// What one kind of read finds under the key.
type ReadOf = fn(&Db) -> Result<u64, Error>;

/// Reads of every kind, one after the other, each at least as new as what was acknowledged before it began.
fn read_until(db: &Db, acknowledged: &AtomicU64, left: &AtomicU64) {
    let kinds: [ReadOf; 4] = [
        |db| Ok(number(db.get("counter")?.as_deref())),
        |db| {
            Ok(number(
                db.scan("counter".., 1)?
                    .first()
                    .map(|(_, value)| &value[..]),
            ))
        },
        |db| {
            Ok(number(
                db.prefix("count", 1)?.first().map(|(_, value)| &value[..]),
            ))
        },
        |db| {
            let view = db.view(GROUP, Consistency::Linearizable)?;
            Ok(number(view.get(b"counter").as_deref()))
        },
    ];
    for read in kinds.iter().cycle() {
        let take = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        if take.is_err() {
            return;
        }
        let before = acknowledged.load(Ordering::SeqCst);
        let seen =
            read(db).expect("the leader is well, and the node is behind by less than a second");
        assert!(
            seen >= before,
            "{before} was acknowledged before a read that saw {seen}"
        );
    }
}

/// With 400 ms on the way from the leader and 60 ms of patience each read is asked several times over, and all copies are
/// answered. One read of thirty was answered from before its beginning, up to 1,462 writes ago.
#[test]
fn reads_at_a_follower_behind_a_slow_link_never_see_the_past() {
    let mut options = quick();
    // The follower hears from its leader late, and must not stand.
    options.election_timeout = DEADLINE;
    options.retry_after = Duration::from_millis(60);
    let cluster = in_memory(TransportKind::Memory, options);
    let clerk = cluster.clerk();
    clerk.put("counter", "0").expect("a majority lives");
    settled(&cluster);
    let leader = cluster.leader().expect("one leads");
    let reader = other(&cluster, leader);
    let db = cluster.db(reader).expect("it runs");
    let network = cluster.network().expect("it is in memory");
    network.seed(seed(
        "reads_at_a_follower_behind_a_slow_link_never_see_the_past",
    ));
    let _hand = Hand::of(network);
    let slow = LinkFaults {
        delay_max: Duration::from_millis(400),
        duplicate_per_mille: 100,
        ..LinkFaults::default()
    };
    network.set_faults(leader, reader, slow);
    let acknowledged = AtomicU64::new(0);
    let left = AtomicU64::new(600);
    std::thread::scope(|scope| {
        let stop = Stop::new();
        let stopped = Arc::clone(&stop.0);
        scope.spawn(|| {
            let stopped = stopped;
            for number in 1_u64.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                clerk
                    .put("counter", number.to_string())
                    .expect("a majority is well");
                acknowledged.store(number, Ordering::SeqCst);
            }
        });
        let readers: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| read_until(&db, &acknowledged, &left)))
            .collect();
        for reader in readers {
            if let Err(panic) = reader.join() {
                drop(stop);
                std::panic::resume_unwind(panic);
            }
        }
        assert!(!stop.is_set());
    });
    network.heal_all();
}

/// Requests to a leader that had died waited until its silence was long enough, though its connection was gone at once.
#[test]
fn what_a_node_asked_of_a_leader_that_died_is_asked_again_at_once() {
    for transport in TRANSPORTS {
        let mut options = quick();
        // Silence is noticed long after the test has given up.
        options.retry_after = DEADLINE * 4;
        options.call_timeout = DEADLINE * 8;
        let cluster = in_memory(transport, options);
        let clerk = cluster.clerk();
        clerk.put("k", "v").expect("a majority lives");
        settled(&cluster);
        let leader = cluster.leader().expect("one leads");
        let db = cluster.db(other(&cluster, leader)).expect("it runs");
        db.put("warm", "session").expect("a majority lives");
        let mut was_outstanding = false;
        let writes: Vec<_> = (0..2_000)
            .map(|i| db.put_async(format!("key {i}"), vec![7; 1_000]))
            .collect();
        let reads: Vec<_> = (0..200)
            .map(|_| db.get_async("k", Consistency::Linearizable))
            .collect();
        assert!(cluster.crash(leader));
        let until = Instant::now() + DEADLINE;
        let left = || until.saturating_duration_since(Instant::now());
        for write in writes {
            was_outstanding |= !write.is_ready();
            let written = write.wait_timeout(left());
            written
                .expect("it is sent again")
                .expect("a majority lives");
        }
        for read in reads {
            let read = read.wait_timeout(left());
            let value = read.expect("it is sent again").expect("a majority lives");
            assert_eq!(value.as_deref(), Some(&b"v"[..]));
        }
        assert!(was_outstanding, "{transport:?}: the leader died too late");
    }
}
