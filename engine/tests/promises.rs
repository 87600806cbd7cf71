//! What a node promised before it was started again, driven by hand: every step and the time are the test's.

use std::sync::Arc;
use std::time::Duration;

use quorate::simulation::{Disk, Map, SimNode, SimSetup};
use quorate::transport::memory::MemoryNetwork;
use quorate::transport::{ClerkInbox, Reply};
use quorate::{NodeId, Options};
use quorate_wal::MemoryDisk;

const MS: u64 = 1_000_000;
const LONG: Duration = Duration::from_secs(9);
const SHORT: Duration = Duration::from_millis(500);

struct NoClients;

impl ClerkInbox for NoClients {
    fn reply(&self, _from: NodeId, _reply: Reply) {}

    fn disconnected(&self, _node: NodeId) {}
}

struct Bench {
    network: Arc<MemoryNetwork>,
    disks: Vec<Arc<dyn Disk>>,
    nodes: Vec<Option<SimNode<Map>>>,
    now_ns: u64,
}

impl Bench {
    /// Three nodes, of which the first one has a long election timeout. The cluster has begun.
    fn new() -> Self {
        let mut bench = Self {
            network: MemoryNetwork::new(),
            disks: (0..3)
                .map(|_| Arc::new(MemoryDisk::new()) as Arc<dyn Disk>)
                .collect(),
            nodes: vec![None, None, None],
            now_ns: 0,
        };
        for (place, timeout) in [LONG, SHORT, SHORT].into_iter().enumerate() {
            bench.start(place, timeout);
        }
        bench.wait(Duration::from_secs(2));
        let is_founded = |node: &SimNode<Map>| node.founding().is_founded;
        assert!(bench.nodes.iter().flatten().all(is_founded));
        bench
    }

    fn start(&mut self, place: usize, election_timeout: Duration) {
        let node = NodeId(place as u64 + 1);
        let mut options = Options::default();
        options.workers = 1;
        options.election_timeout = election_timeout;
        let setup = SimSetup {
            dir: "/node".into(),
            disk: Arc::clone(&self.disks[place]),
            node,
            members: (1..=3).map(NodeId).collect(),
            groups: 1,
            options,
            seed: 7,
        };
        let opened = SimNode::open(&setup, self.now_ns, Arc::new(NoClients), |inbox| {
            self.network.attach(node, inbox)
        });
        self.nodes[place] = Some(opened.expect("it opens"));
    }

    fn stop(&mut self, place: usize) {
        let node = self.nodes[place].take();
        node.expect("it runs").stop();
    }

    /// All that the nodes do meanwhile.
    fn wait(&mut self, time: Duration) {
        let end_ns = self.now_ns + u64::try_from(time.as_nanos()).expect("a test is short");
        while self.now_ns < end_ns {
            self.now_ns += 10 * MS;
            for node in self.nodes.iter_mut().flatten() {
                node.pass(self.now_ns);
                while node.due().drive || node.due().prepare {
                    node.prepare_step().expect("memory");
                    node.log_step().expect("memory");
                    node.pass(self.now_ns);
                }
                while node.job_step() {}
            }
        }
    }

    fn promised(&self) -> Duration {
        self.nodes[0].as_ref().expect("it runs").promised()
    }
}

/// A directory that ran once with a long election timeout kept each later start waiting for it, for good.
#[test]
fn a_long_promise_is_forgotten_once_no_lease_can_rest_on_it() {
    let mut bench = Bench::new();
    bench.stop(0);
    bench.start(0, SHORT);
    assert_eq!(bench.promised(), LONG);
    bench.wait(LONG.saturating_sub(SHORT));
    assert_eq!(bench.promised(), LONG, "a lease may rest on it still");
    // So long, and as long as it takes to look again.
    bench.wait(SHORT * 3);
    assert_eq!(bench.promised(), SHORT);
    bench.stop(0);
    bench.start(0, SHORT);
    assert_eq!(bench.promised(), SHORT, "it is written down");
}

#[test]
fn a_long_promise_stays_while_a_member_did_not_accept_the_shorter_one() {
    let mut bench = Bench::new();
    bench.stop(0);
    bench.stop(2);
    bench.start(0, SHORT);
    bench.wait(LONG * 3);
    assert_eq!(bench.promised(), LONG, "node 3 may not know of it");
    bench.start(2, SHORT);
    bench.wait(LONG.saturating_sub(SHORT));
    assert_eq!(bench.promised(), LONG, "it counts from there");
    bench.wait(SHORT * 3);
    assert_eq!(bench.promised(), SHORT);
}
