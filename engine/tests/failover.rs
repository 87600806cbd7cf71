//! Lost leaders, lost majorities, lost replies: how long service is away, what may be answered meanwhile, and that what is
//! asked again takes effect once.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{DEADLINE, GROUP, TRANSPORTS, defaults, eventually, in_memory, quick, seed, settled};
use quorate::transport::memory::{Endpoint, LinkFaults};
use quorate::{Bytes, Cluster, Consistency, Db, Error, NodeId, Options, TransportKind};

/// Two election timeouts, each at the upper end of the draw: a follower waits between one and two
/// `Options::election_timeout` before it asks for an election.
fn two_election_timeouts(options: &Options) -> Duration {
    options.election_timeout * 2 * 2
}

#[test]
fn a_killed_leader_is_replaced_within_two_election_timeouts() {
    let options = defaults();
    for transport in TRANSPORTS {
        let cluster = in_memory(transport, options.clone());
        let clerk = cluster.clerk();
        clerk.put("k", "0").expect("a majority lives");
        for round in 1..=4 {
            settled(&cluster);
            let leader = cluster.leader().expect("one leads");
            let crashed = Instant::now();
            assert!(cluster.crash(leader));
            clerk
                .put("k", format!("{round}"))
                .expect("a majority lives");
            let away = crashed.elapsed();
            let allowed = two_election_timeouts(&options);
            assert!(
                away <= allowed,
                "{transport:?}, round {round}: {away:?} of {allowed:?}"
            );
            assert_ne!(cluster.leader().expect("one leads"), leader);
            assert_eq!(clerk.get("k"), Ok(Some(format!("{round}").into())));
            cluster.restart(leader).expect("it restarts");
        }
    }
}

/// Calls of a node that follows wait for an answer of the leader as it is killed, and turn to another node when the connection
/// closes. No timer brings them there: it fires when they fail.
#[test]
fn calls_turn_to_another_node_when_the_leaders_connection_closes() {
    let mut options = quick();
    options.call_timeout = DEADLINE;
    options.retry_after = DEADLINE;
    for transport in TRANSPORTS {
        let cluster = in_memory(transport, options.clone());
        cluster.clerk().put("k", "v").expect("a majority lives");
        for round in 0..3 {
            settled(&cluster);
            let leader = cluster.leader().expect("one leads");
            let db = cluster.db(others(&cluster, leader)[0]).expect("it runs");
            db.put("met", "v").expect("a majority lives");
            let writes = (0..512).map(|number| {
                let key = format!("{round}/{number}");
                // Taken twice, it would find its own value there.
                db.compare_and_swap_async(key, None::<&str>, "v")
            });
            let writes: Vec<_> = writes.collect();
            let reads: Vec<_> = (0..64)
                .map(|_| db.get_async("k", Consistency::Linearizable))
                .collect();
            assert!(cluster.crash(leader));
            for (number, write) in writes.into_iter().enumerate() {
                let swapped = write.wait();
                assert_eq!(swapped, Ok(Ok(())), "{transport:?}, {round}/{number}");
            }
            for read in reads {
                assert_eq!(read.wait(), Ok(Some("v".into())), "{transport:?}");
            }
            cluster.restart(leader).expect("it restarts");
        }
    }
}

#[test]
fn leadership_that_is_handed_over_moves_without_an_election_timeout() {
    let mut options = defaults();
    // Nothing but the hand-over moves it within the test's deadline.
    options.election_timeout = DEADLINE * 2;
    for transport in TRANSPORTS {
        let cluster = in_memory(transport, options.clone());
        let clerk = cluster.clerk();
        clerk.put("k", "v").expect("a majority lives");
        settled(&cluster);
        let old = cluster.leader().expect("one leads");
        let new = others(&cluster, old)[0];
        let db = cluster.db(old).expect("it runs");
        assert_eq!(db.transfer_leadership(GROUP, Some(new)), Ok(new));
        assert_eq!(db.status()[0].leader, Some(new), "it knows when it says so");
        eventually("the other node leads", || {
            cluster.db(new).expect("it runs").status()[0].leader == Some(new)
                && cluster.leader() == Ok(new)
        });
        clerk.append("k", "!").expect("a majority lives");
        assert_eq!(clerk.get("k"), Ok(Some(Bytes::from_static(b"v!"))));
    }
}

#[test]
fn calls_without_a_majority_end_at_their_deadline_and_work_again_afterwards() {
    for transport in TRANSPORTS {
        let mut options = quick();
        options.call_timeout = Duration::from_secs(1);
        let cluster = in_memory(transport, options.clone());
        let clerk = cluster.clerk();
        clerk.put("k", "before").expect("a majority lives");
        settled(&cluster);
        let survivor = cluster.leader().expect("one leads");
        let db = cluster.db(survivor).expect("it runs");
        let down = others(&cluster, survivor);
        for &node in &down {
            assert!(cluster.crash(node));
        }
        let timeout = options.call_timeout;
        std::thread::scope(|scope| {
            scope.spawn(|| ends_in_time(timeout, || clerk.put("k", "during")));
            scope.spawn(|| ends_in_time(timeout, || clerk.get("k")));
            scope.spawn(|| ends_in_time(timeout, || clerk.count()));
            scope.spawn(|| ends_in_time(timeout, || db.put("other", "during")));
            scope.spawn(|| ends_in_time(timeout, || db.get("k")));
            scope.spawn(|| ends_in_time(timeout, || db.scan::<&str>(.., 10)));
            scope.spawn(|| ends_in_time(timeout, || cluster.clerk().put("fresh", "session")));
        });
        assert_eq!(
            db.get_with("k", Consistency::Stale),
            Ok(Some(Bytes::from_static(b"before")))
        );
        for &node in &down {
            cluster.restart(node).expect("it restarts");
        }
        eventually("writes go on", || clerk.put("k", "after").is_ok());
        assert_eq!(clerk.get("k"), Ok(Some(Bytes::from_static(b"after"))));
        assert_eq!(db.get("k"), Ok(Some(Bytes::from_static(b"after"))));
    }
}

/// A call ends with a timeout at its deadline, within a tenth of it and 100 ms.
fn ends_in_time<T: std::fmt::Debug>(timeout: Duration, call: impl FnOnce() -> Result<T, Error>) {
    let began = Instant::now();
    let error = call().expect_err("there is no majority");
    let took = began.elapsed();
    let Error::Timeout {
        after_ms,
        maybe_applied,
        cause,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(u128::from(*after_ms), timeout.as_millis());
    assert_eq!(error.is_retryable(), !maybe_applied);
    assert!(error.to_string().contains(&cause.to_string()), "{error}");
    let latest = timeout + timeout / 10 + Duration::from_millis(100);
    assert!(
        timeout <= took && took <= latest,
        "{took:?} of {timeout:?} to {latest:?}: {error}"
    );
}

#[test]
fn a_leader_that_is_cut_off_never_answers_with_the_past() {
    let mut options = quick();
    options.call_timeout = Duration::from_millis(600);
    let cluster = in_memory(TransportKind::Memory, options);
    let network = Arc::clone(cluster.network().expect("a cluster over memory has one"));
    let clerk = cluster.clerk();
    clerk.put("n", "0").expect("a majority lives");
    for round in 1..=3_u64 {
        settled(&cluster);
        let old = cluster.leader().expect("one leads");
        let db = cluster.db(old).expect("it runs");
        // The newest value that somebody was told is written.
        let acknowledged = AtomicU64::new(round - 1);
        let is_over = AtomicBool::new(false);
        let answered = AtomicU64::new(0);
        std::thread::scope(|scope| {
            // Readers end also when an assertion below fails.
            let _ends = SetWhenDropped(&is_over);
            let read = |consistency| {
                let (db, acknowledged, is_over, answered) =
                    (&db, &acknowledged, &is_over, &answered);
                move || {
                    while !is_over.load(Ordering::Acquire) {
                        let newest = acknowledged.load(Ordering::Acquire);
                        match db.get_with("n", consistency) {
                            Ok(value) => {
                                let seen = number(value);
                                assert!(
                                    seen >= newest,
                                    "{consistency:?} read {seen} after {newest}"
                                );
                                answered.fetch_add(1, Ordering::AcqRel);
                            }
                            Err(error) => {
                                assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
                            }
                        }
                    }
                }
            };
            scope.spawn(read(Consistency::Lease));
            scope.spawn(read(Consistency::Linearizable));
            eventually("the old leader answers reads", || {
                answered.load(Ordering::Acquire) > 100
            });
            network.isolate(old);
            network.cut(Endpoint::Clerks, old);
            eventually("the others take a write", || {
                clerk.put("n", round.to_string()).is_ok()
            });
            acknowledged.store(round, Ordering::Release);
            // Whoever asks the old leader from here on gets nothing, or the new value.
            for consistency in [Consistency::Lease, Consistency::Linearizable] {
                match db.get_with("n", consistency) {
                    Ok(value) => assert_eq!(number(value), round, "{consistency:?}"),
                    Err(error) => assert!(matches!(error, Error::Timeout { .. }), "{error:?}"),
                }
            }
            let stale = db
                .get_with("n", Consistency::Stale)
                .expect("a stale read asks nobody");
            assert_eq!(
                number(stale),
                round - 1,
                "what is cut off cannot know better"
            );
            network.heal_all();
            eventually("the old leader sees the new value", || {
                db.get_with("n", Consistency::Stale)
                    .is_ok_and(|value| number(value) == round)
            });
            assert_eq!(db.get("n").map(number), Ok(round));
        });
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_clerk_that_reaches_only_the_leader_that_is_cut_off_gets_no_answer_from_the_past() {
    let mut options = quick();
    options.call_timeout = Duration::from_millis(700);
    let cluster = in_memory(TransportKind::Memory, options);
    let network = cluster.network().expect("a cluster over memory has one");
    let clerk = cluster.clerk();
    clerk.put("n", "0").expect("a majority lives");
    settled(&cluster);
    let old = cluster.leader().expect("one leads");
    network.isolate(old);
    eventually("another leads", || {
        cluster.leader().is_ok_and(|leader| leader != old)
    });
    let new = cluster
        .db(cluster.leader().expect("one leads"))
        .expect("it runs");
    eventually("the others take a write", || new.put("n", "1").is_ok());
    for node in others(&cluster, old) {
        network.cut(Endpoint::Clerks, node);
    }
    for consistency in [Consistency::Lease, Consistency::Linearizable] {
        let answer = clerk.get_async("n", consistency).wait();
        assert!(
            matches!(answer, Err(Error::Timeout { .. })),
            "{consistency:?}: {answer:?}"
        );
    }
    let answer = clerk.put("n", "2");
    assert!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
    network.heal_all();
    eventually("the clerk is served again", || clerk.get("n").is_ok());
}

#[test]
fn a_follower_that_is_cut_off_answers_stale_reads_and_no_others() {
    let mut options = quick();
    options.call_timeout = Duration::from_millis(500);
    let cluster = in_memory(TransportKind::Memory, options);
    let network = cluster.network().expect("a cluster over memory has one");
    let clerk = cluster.clerk();
    clerk.put("n", "0").expect("a majority lives");
    settled(&cluster);
    let leader = cluster.leader().expect("one leads");
    let follower = others(&cluster, leader)[0];
    let db = cluster.db(follower).expect("it runs");
    network.isolate(follower);
    clerk.put("n", "1").expect("two of three live");
    assert_eq!(db.get_with("n", Consistency::Stale).map(number), Ok(0));
    assert_eq!(
        db.view(GROUP, Consistency::Stale)
            .map(|view| number(view.get(b"n"))),
        Ok(0)
    );
    for consistency in [Consistency::Lease, Consistency::Linearizable] {
        let answer = db.get_with("n", consistency);
        assert!(
            matches!(answer, Err(Error::Timeout { .. })),
            "{consistency:?}: {answer:?}"
        );
    }
    assert_eq!(
        cluster.leader(),
        Ok(leader),
        "who was cut off deposed nobody"
    );
    network.heal_all();
    eventually("the follower is served again", || {
        db.get("n").map(number) == Ok(1)
    });
    assert_eq!(cluster.leader(), Ok(leader), "who came back deposed nobody");
}

#[test]
fn appends_take_effect_once_and_in_order_over_links_that_lose_double_and_reorder() {
    let seed =
        seed("appends_take_effect_once_and_in_order_over_links_that_lose_double_and_reorder");
    let mut options = quick();
    options.retry_after = Duration::from_millis(30);
    let cluster = in_memory(TransportKind::Memory, options);
    let network = cluster.network().expect("a cluster over memory has one");
    network.seed(seed);
    let bad = LinkFaults {
        drop_per_mille: 150,
        duplicate_per_mille: 150,
        reorder_per_mille: 150,
        ..LinkFaults::default()
    };
    for node in cluster.nodes() {
        network.set_faults(Endpoint::Clerks, node, bad);
        network.set_faults(node, Endpoint::Clerks, bad);
        for other in others(&cluster, node) {
            network.set_faults(
                node,
                other,
                LinkFaults {
                    drop_per_mille: 20,
                    ..bad
                },
            );
        }
    }
    let clerks: Vec<_> = (0..3).map(|_| cluster.clerk()).collect();
    std::thread::scope(|scope| {
        for (number, clerk) in clerks.iter().enumerate() {
            scope.spawn(move || {
                let (mine, shared) = (format!("mine/{number}"), "shared");
                for burst in 0..12 {
                    let appends: Vec<_> = (burst * 10..burst * 10 + 10)
                        .map(|place| {
                            let token = format!("{number}.{place};");
                            (
                                clerk.append_async(&mine, &token),
                                clerk.append_async(shared, token),
                            )
                        })
                        .collect();
                    for (mine, shared) in appends {
                        mine.wait().expect("most frames arrive");
                        shared.wait().expect("most frames arrive");
                    }
                }
            });
        }
    });
    network.heal_all();
    settled(&cluster);
    let tokens = |number: usize| -> Vec<String> {
        (0..120).map(|place| format!("{number}.{place}")).collect()
    };
    for node in cluster.nodes() {
        let db = cluster.db(node).expect("it runs");
        let split = |key: &str| -> Vec<String> {
            let value = db.get(key).expect("readable").expect("it was written");
            let text = String::from_utf8(value.to_vec()).expect("text was written");
            text.split_terminator(';').map(str::to_owned).collect()
        };
        let shared = split("shared");
        assert_eq!(shared.len(), 3 * 120, "node {node}: each token once");
        for number in 0..3 {
            assert_eq!(
                split(&format!("mine/{number}")),
                tokens(number),
                "node {node}"
            );
            let ours = shared
                .iter()
                .filter(|token| token.starts_with(&format!("{number}.")));
            assert_eq!(
                ours.cloned().collect::<Vec<_>>(),
                tokens(number),
                "node {node}: in order"
            );
        }
    }
}

#[test]
fn a_write_whose_reply_is_lost_with_its_leader_takes_effect_once() {
    for round in 0..5 {
        let cluster = in_memory(TransportKind::Memory, quick());
        let network = cluster.network().expect("a cluster over memory has one");
        let clerk = cluster.clerk();
        clerk.put("k", "").expect("a majority lives");
        let leader = cluster.leader().expect("one leads");
        let watcher = cluster.db(others(&cluster, leader)[0]).expect("it runs");
        network.cut(leader, Endpoint::Clerks);
        let append = clerk.append_async("k", format!("{round}"));
        eventually("the append is applied elsewhere", || {
            watcher
                .get_with("k", Consistency::Stale)
                .is_ok_and(|value| value.is_some_and(|v| !v.is_empty()))
        });
        assert!(!append.is_ready(), "its reply is lost");
        assert!(cluster.crash(leader));
        assert_eq!(
            append.wait(),
            Ok(1),
            "the new leader knows what was answered"
        );
        assert_eq!(clerk.get("k"), Ok(Some(format!("{round}").into())));
    }
}

fn others(cluster: &Cluster, node: NodeId) -> Vec<NodeId> {
    cluster
        .nodes()
        .into_iter()
        .filter(|&other| other != node)
        .collect()
}

fn number(value: Option<Bytes>) -> u64 {
    let value = value.expect("it was written");
    std::str::from_utf8(&value)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a number was written")
}

#[test]
fn a_handle_to_a_crashed_node_says_that_it_is_closed() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let leader = cluster.leader().expect("one leads");
    let db: Db = cluster.db(leader).expect("it runs");
    db.put("k", "v").expect("a majority lives");
    let waiting = {
        for node in others(&cluster, leader) {
            cluster.crash(node);
        }
        db.put_async("k", "never")
    };
    cluster.crash(leader);
    assert_eq!(waiting.wait(), Err(Error::Closed));
    assert_eq!(db.put("k", "w"), Err(Error::Closed));
    assert_eq!(db.get("k"), Err(Error::Closed));
    assert_eq!(db.digest(GROUP), Err(Error::Closed));
}
