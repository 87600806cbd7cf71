//! Which windows the timer looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::client::{Client, Link};
use crate::options::Options;
use crate::partition::Partitioner;
use crate::runtime::{Clock, Timed, Timer};

/// Takes requests and brings them nowhere.
#[derive(Default)]
struct Silent(AtomicUsize);

impl Link for Silent {
    fn send(&self, _to: NodeId, _request: Request) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn wait_applied(&self, _group: GroupId, _index: LogIndex, _id: RequestId) {}

    fn stop(&self) {}
}

/// Every 5 ms each window of each client was locked and looked at while a single call was out.
#[test]
fn only_windows_with_something_outstanding_are_ticked() {
    let clock = Clock::start();
    let timer = Timer::start(clock, false).expect("a thread");
    let link = Arc::new(Silent::default());
    let client = Client::new(
        Arc::clone(&link) as Arc<dyn Link>,
        &[NodeId(1)],
        Partitioner::hashed(1_000),
        &Options::default(),
        clock,
        timer,
        crate::client::ClientLife::without_owner(7),
    );
    let put = |group| {
        let (pending, completer) = Pending::new(|answer: Answer| answer);
        let command = CommandBuffer::put(b"key", b"value").expect("small");
        client.write(GroupId(group), command, completer);
        pending
    };
    let pending = put(3);
    assert_eq!(link.0.load(Ordering::SeqCst), 1, "a session is asked for");
    assert!(client.tick(clock.now_ns()), "something is outstanding");
    // One that becomes busy later is ticked from then on.
    let other = put(999);
    assert!(client.tick(clock.now_ns()));
    for (group, ticks) in client.ticks().into_iter().enumerate() {
        let is_busy = group == 3 || group == 999;
        assert_eq!(ticks > 0, is_busy, "group {group} was ticked {ticks} times");
    }
    client.close();
    assert_eq!(pending.wait(), Err(Error::Closed));
    assert_eq!(other.wait(), Err(Error::Closed));
    // Once more for what was busy until now, and never again.
    let _was_busy = client.tick(clock.now_ns());
    let before = client.ticks();
    assert!(!client.tick(clock.now_ns()), "nothing is outstanding");
    assert_eq!(client.ticks(), before);
}
