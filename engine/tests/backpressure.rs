//! More work than there is room for: what is over a bound is refused at once and without effect, what is within it takes
//! effect whether or not anybody waits, and one thread may have thousands of calls on their way.

mod common;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, GROUP, TRANSPORTS, eventually, in_memory, quick, settled};
use quorate::{Bytes, Cluster, Consistency, Error, NodeId, Pending, TransportKind};

#[test]
fn a_full_window_refuses_without_effect_and_opens_again() {
    for transport in TRANSPORTS {
        let mut options = quick();
        options.outstanding_max = 8;
        let cluster = in_memory(transport, options);
        let clerk = cluster.clerk();
        clerk.put("first", "0").expect("a majority lives");
        settled(&cluster);
        let down = crash_majority(&cluster);
        let within: Vec<Pending<u64>> = (0..8).map(|_| clerk.append_async("log", "x")).collect();
        for _ in 0..3 {
            let refused = clerk.append_async("log", "never");
            assert!(refused.is_ready(), "it is refused at once");
            let error = refused.wait().expect_err("the window is full");
            assert_eq!(error, Error::Busy { outstanding: 8 });
            assert!(error.is_retryable());
        }
        let reads: Vec<Pending<Option<Bytes>>> = (0..8)
            .map(|_| clerk.get_async("log", Consistency::Linearizable))
            .collect();
        assert_eq!(clerk.get("log"), Err(Error::Busy { outstanding: 8 }));
        for node in down {
            cluster.restart(node).expect("it restarts");
        }
        let lengths: Vec<u64> = within
            .into_iter()
            .map(|append| append.wait().expect("it was taken"))
            .collect();
        assert_eq!(lengths, [1, 2, 3, 4, 5, 6, 7, 8]);
        for read in reads {
            let value = read.wait().expect("it was taken");
            assert!(value.is_none_or(|value| value.iter().all(|&byte| byte == b'x')));
        }
        assert_eq!(clerk.append("log", "y"), Ok(9), "there is room again");
        assert_eq!(clerk.get("log"), Ok(Some(Bytes::from_static(b"xxxxxxxxy"))));
    }
}

#[test]
fn one_thread_has_thousands_of_calls_on_their_way() {
    for transport in TRANSPORTS {
        let cluster = in_memory(transport, quick());
        let clerk = cluster.clerk();
        let appends: Vec<Pending<u64>> =
            (0..4096).map(|_| clerk.append_async("log", "x")).collect();
        let reads: Vec<Pending<Option<Bytes>>> = (0..4096)
            .map(|_| clerk.get_async("log", Consistency::Linearizable))
            .collect();
        for (before, append) in (0_u64..).zip(appends) {
            assert_eq!(append.wait(), Ok(before + 1), "in the order of their calls");
        }
        let mut seen = 0;
        for read in reads {
            let len = read
                .wait()
                .expect("it is answered")
                .map_or(0, |value| value.len());
            seen = seen.max(len);
            assert!(len <= 4096);
        }
        assert!(seen <= 4096);
        assert_eq!(
            clerk.get("log").map(|value| value.map(|value| value.len())),
            Ok(Some(4096))
        );
    }
}

#[test]
fn a_write_that_nobody_waits_for_takes_effect_once_and_in_order() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    for number in 0..100 {
        drop(clerk.append_async("log", format!("{number};")));
    }
    // The session keeps the order of its calls, so that this one stands behind all of them.
    clerk.append("log", "end").expect("a majority lives");
    let mut expected: Vec<u8> = (0..100)
        .flat_map(|number| format!("{number};").into_bytes())
        .collect();
    expected.extend_from_slice(b"end");
    assert_eq!(clerk.get("log"), Ok(Some(expected.into())));
}

#[test]
fn a_write_whose_clerk_is_dropped_fails_and_is_there_at_most_once() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let other = cluster.clerk();
    other.put("k", "").expect("a majority lives");
    for number in 1..=20_u64 {
        let clerk = cluster.clerk();
        let append = clerk.append_async("k", "x");
        drop(clerk);
        match append.wait() {
            Ok(_) | Err(Error::Closed) => {}
            Err(error) => panic!("{error}"),
        }
        let len = other
            .get("k")
            .expect("readable")
            .expect("it was written")
            .len() as u64;
        assert!(len <= number, "{len} appends after {number} calls");
    }
}

#[test]
fn a_call_is_a_future_for_any_executor() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    block_on(async {
        clerk.put_async("k", "a").await.expect("a majority lives");
        let (left, right) = (clerk.append_async("k", "b"), clerk.append_async("k", "c"));
        assert_eq!(right.await, Ok(3), "awaited in whatever order");
        assert_eq!(left.await, Ok(2));
        let value = clerk.get_async("k", Consistency::Linearizable).await;
        assert_eq!(value, Ok(Some(Bytes::from_static(b"abc"))));
        let swapped = clerk.compare_and_swap_async("k", Some("abc"), "d").await;
        assert_eq!(swapped, Ok(Ok(())));
        assert_eq!(clerk.delete_async("k").await, Ok(true));
    });
    // Many at once, through one waker: it is woken for what became ready.
    let appends = (0..500).map(|_| clerk.append_async("log", "x")).collect();
    let mut lengths = block_on(All {
        calls: appends,
        done: Vec::new(),
    });
    lengths.sort_unstable();
    assert_eq!(lengths, (1..=500).collect::<Vec<u64>>());
}

#[test]
fn a_future_that_is_not_ready_is_woken_by_its_answer() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    clerk.put("k", "a").expect("a majority lives");
    settled(&cluster);
    let down = crash_majority(&cluster);
    let counter = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&counter));
    let mut context = Context::from_waker(&waker);
    let mut append = pin!(clerk.append_async("k", "b"));
    assert!(append.as_mut().poll(&mut context).is_pending());
    assert_eq!(counter.0.load(Ordering::SeqCst), 0);
    for node in down {
        cluster.restart(node).expect("it restarts");
    }
    eventually("it is woken", || counter.0.load(Ordering::SeqCst) > 0);
    assert_eq!(append.poll(&mut context), Poll::Ready(Ok(2)));
}

#[test]
fn wait_timeout_gives_the_call_back_and_it_can_be_waited_for_again() {
    let cluster = in_memory(TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    clerk.put("k", "a").expect("a majority lives");
    let down = crash_majority(&cluster);
    let append = clerk.append_async("k", "b");
    let append = append
        .wait_timeout(Duration::from_millis(20))
        .expect_err("nobody can answer");
    assert!(!append.is_ready());
    for node in down {
        cluster.restart(node).expect("it restarts");
    }
    assert_eq!(
        append.wait_timeout(DEADLINE).expect("it is answered"),
        Ok(2)
    );
}

#[test]
fn over_a_leader_s_own_bounds_what_had_no_effect_is_told_from_what_may_have() {
    let mut options = quick();
    options.call_timeout = Duration::from_millis(700);
    options.uncommitted_bytes_max = 16 << 10;
    let cluster = in_memory(TransportKind::Memory, options);
    let clerks: Vec<_> = (0..20).map(|_| cluster.clerk()).collect();
    for clerk in &clerks {
        clerk.put("first", "0").expect("a majority lives");
    }
    settled(&cluster);
    let down = crash_majority(&cluster);
    let writes: BTreeMap<String, Pending<()>> = clerks
        .iter()
        .enumerate()
        .map(|(number, clerk)| {
            let key = format!("key/{number}");
            (key.clone(), clerk.put_async(key, vec![1; 2 << 10]))
        })
        .collect();
    let results: BTreeMap<String, Result<(), Error>> = writes
        .into_iter()
        .map(|(key, write)| (key, write.wait()))
        .collect();
    drop(clerks);
    for node in down {
        cluster.restart(node).expect("it restarts");
    }
    let reader = cluster.clerk();
    eventually("reads go on", || reader.get("first").is_ok());
    let mut refused = 0;
    for (key, result) in results {
        let error = result.expect_err("there was no majority");
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        if error.is_retryable() {
            refused += 1;
            assert_eq!(
                reader.get(&key),
                Ok(None),
                "{key} was said to have had no effect: {error}"
            );
        }
    }
    assert!(refused > 0, "20 writes of 2 KiB do not fit 16 KiB");
}

/// Leaves one node running, which cannot do anything alone.
fn crash_majority(cluster: &Cluster) -> Vec<NodeId> {
    let leader = cluster.leader().expect("one leads");
    let down: Vec<NodeId> = cluster
        .nodes()
        .into_iter()
        .filter(|&node| node != leader)
        .collect();
    for &node in &down {
        assert!(cluster.crash(node));
    }
    assert!(cluster.db(leader).expect("it runs").status()[0].group == GROUP);
    down
}

/// The smallest executor there is: one thread, parked between polls.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let began = Instant::now();
    while began.elapsed() < 2 * DEADLINE {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park_timeout(DEADLINE);
    }
    panic!("not within {:?}", 2 * DEADLINE);
}

/// All of several calls.
struct All {
    calls: Vec<Pending<u64>>,
    done: Vec<u64>,
}

impl Future for All {
    type Output = Vec<u64>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u64>> {
        let mut waiting = Vec::new();
        for mut call in std::mem::take(&mut self.calls) {
            match Pin::new(&mut call).poll(context) {
                Poll::Ready(result) => self.done.push(result.expect("a majority lives")),
                Poll::Pending => waiting.push(call),
            }
        }
        self.calls = waiting;
        if self.calls.is_empty() {
            Poll::Ready(std::mem::take(&mut self.done))
        } else {
            Poll::Pending
        }
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
