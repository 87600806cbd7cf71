//! Those who wait for a replica to apply an index: how long, and how many.

use super::super::reads::WAITING_MAX;
use super::*;

/// The bench's replica lets a read wait for so long.
const WAIT_NS: u64 = 1_000_000_000;

impl Bench {
    fn wait_applied(&mut self, index: u64, id: u64, who: &Arc<Heard>) {
        let sink = Arc::clone(who) as Arc<dyn ReplySink>;
        self.shard.handle(
            self.now_ns,
            Event::WaitApplied {
                group: GROUP,
                index: LogIndex(index),
                outlet: Outlet::sink(RequestId(id), sink),
            },
        );
    }

    /// Lets time pass up to a moment, as a worker does.
    fn tick_until(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        while self.shard.deadline_ns() <= now_ns {
            self.shard.tick(now_ns);
            self.shard.flush(now_ns);
        }
    }

    fn look_at<T: Send + 'static>(
        &mut self,
        look: impl FnOnce(&Replica<Map>) -> T + Send + 'static,
    ) -> T {
        let seen = Arc::new(Mutex::new(None));
        let sees = Arc::clone(&seen);
        let with = Box::new(move |replica: &Replica<Map>| *sees.lock() = Some(look(replica)));
        self.take(Event::Inspect { group: GROUP, with });
        let seen = seen.lock().take();
        seen.expect("the shard has the group")
    }

    fn waiting(&mut self) -> usize {
        self.look_at(|replica| replica.reads.waiting())
    }
}

/// Whoever waited on a replica that lagged, or had halted, was kept for ever.
#[test]
fn whoever_waits_for_an_index_is_refused_when_it_has_waited_for_long_enough() {
    let mut bench = Bench::new();
    let heard = Arc::new(Heard::default());
    let applied = bench.look_at(Replica::applied).0;
    bench.wait_applied(applied, 1, &heard);
    let here = ReplyBody::ReadIndex(LogIndex(applied));
    assert_eq!(*heard.0.lock(), [Ok(here)], "that is applied already");
    heard.0.lock().clear();

    let began_ns = bench.now_ns;
    bench.wait_applied(applied + 1, 2, &heard);
    bench.wait_applied(applied + 100, 3, &heard);
    bench.tick_until(began_ns + WAIT_NS - 1);
    assert_eq!(*heard.0.lock(), [], "it may yet be applied");
    bench.write("a");
    let here = ReplyBody::ReadIndex(LogIndex(applied + 1));
    assert_eq!(*heard.0.lock(), [Ok(here)]);
    heard.0.lock().clear();
    bench.tick_until(began_ns + WAIT_NS + SECOND_NS);
    assert_eq!(*heard.0.lock(), [Err(Refusal::Lagging)]);
    assert_eq!(bench.waiting(), 0, "nobody is kept");
}

#[test]
fn no_more_than_the_bound_wait_for_an_index() {
    let mut bench = Bench::new();
    let (heard, refused) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
    for id in 1..=WAITING_MAX as u64 {
        bench.wait_applied(1_000, id, &heard);
    }
    bench.wait_applied(1_000, 0, &refused);
    assert_eq!(*refused.0.lock(), [Err(Refusal::Lagging)]);
    assert_eq!(bench.waiting(), WAITING_MAX);
    assert!(heard.0.lock().is_empty());
    bench.tick_until(bench.now_ns + WAIT_NS);
    assert_eq!(bench.waiting(), 0);
    assert_eq!(heard.0.lock().len(), WAITING_MAX);
}

/// The leader of a group of two commits an entry of a version that nobody here knows.
fn from_the_future() -> Event<Map> {
    let term = Term(5);
    let entry = Entry {
        index: LogIndex(1),
        term,
        kind: EntryKind::Command,
        data: Bytes::from_static(&[0xFF; 40]),
    };
    let message = Message {
        from: NodeId(2),
        to: NodeId(1),
        term,
        body: Body::Append {
            prev_index: LogIndex::ZERO,
            prev_term: Term::ZERO,
            commit: LogIndex(1),
            round: Round::ZERO,
            entries: vec![entry],
        },
    };
    let message = GroupMessage {
        group: GROUP,
        message,
    };
    Event::Frame(Origin::Node(NodeId(2)), Frame::Raft(vec![message]))
}

#[test]
fn a_replica_that_has_halted_refuses_reads_at_once() {
    let voters = vec![NodeId(1), NodeId(2)];
    let mut bench = Bench::with(Arc::new(MemoryDisk::new()), u64::MAX / 4, voters);
    let heard = Arc::new(Heard::default());
    bench.wait_applied(1, 1, &heard);
    assert_eq!(*heard.0.lock(), []);
    bench.take(from_the_future());
    bench.take(Event::LogMoved);
    assert!(bench.look_at(Replica::is_halted), "it cannot apply that");
    assert_eq!(*heard.0.lock(), [Err(Refusal::Lagging)], "it never will be");
    bench.wait_applied(1, 2, &heard);
    let lagging = || Err(Refusal::Lagging);
    assert_eq!(*heard.0.lock(), [lagging(), lagging()]);
    assert_eq!(bench.waiting(), 0);
    // And nobody is taken in who asks it as if it led.
    let sink = Arc::clone(&heard) as Arc<dyn ReplySink>;
    let request = Request {
        id: RequestId(3),
        group: GROUP,
        body: RequestBody::ReadIndex,
    };
    bench.take(Event::Frame(Origin::Clerk(sink), Frame::Request(request)));
    let answer = heard.0.lock().pop();
    assert!(
        matches!(answer, Some(Err(Refusal::NotLeader { .. }))),
        "{answer:?}"
    );
}
