//! A replicated state machine, here a counter, whose commands are submitted to one node (4A and 4C of 2025).
//!
//! The course's `Submit` answers "wrong leader" where the node lost its office, whether or not the command takes effect later.
//! So do nodes here, at the latest an election timeout after they lost touch with a quorum: a submission may have failed before
//! the partition heals, which the course does not demand.

use std::io::{self, Read, Write};

use quorate::simulation::{CommandBuffer, Image, Outcome, RestoreError, StateMachine};
use quorate::transport::ReplyBody;
use quorate::{Bytes, Role};
use quorate_sim::config::Config;
use quorate_sim::world::{End, Submission, SubmissionState, World};

use crate::harness::raft::{Nobody, must};
use crate::harness::watch::{log_bytes, snapshot_bytes};
use crate::harness::{ELECTION_MS, GROUP, MS, for_each_seed, options};

/// The course's `maxraftstate`, and how many times that the log may have.
const LOG_BYTES: u64 = 1_000;
const LOG_FACTOR: u64 = 2;

/// How long commands are tried until one is done, and nodes waited for that have to hold the same.
const DONE_MS: u64 = 10_000;

/// How long submissions to a node that is shut down may take to return.
const RETURN_MS: u64 = 11_000;

/// After the partition heals, submissions to the old leader return within this time.
const HEALED_MS: u64 = 1_000;

const INCREMENT: &[u8] = b"+";
const DECREMENT: &[u8] = b"-";
const NOTHING: &[u8] = b"0";

/// The counter is the same on all three nodes after each of ten increments.
#[test]
fn basic_4a() {
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        for count in 1..=10 {
            assert_eq!(rsm.increment(&ALL), count);
            rsm.wait_equal(&ALL, count);
        }
    });
}

/// Fifty increments at once are all done, and each gets another answer.
#[test]
fn concurrent_4a() {
    const COMMANDS: i64 = 50;
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        let leader = rsm.wait_leader();
        let submitted: Vec<Submission> = (0..COMMANDS)
            .map(|_| rsm.submit(leader, INCREMENT))
            .collect();
        let is_done = rsm.run_until(DONE_MS, |_| {
            submitted.iter().all(|it| value_of(it).is_some())
        });
        assert!(is_done, "fifty increments are not done");
        let mut counts: Vec<i64> = submitted.iter().filter_map(value_of).collect();
        counts.sort_unstable();
        assert!(counts.into_iter().eq(1..=COMMANDS));
        rsm.wait_equal(&ALL, COMMANDS);
    });
}

/// With the leader cut off the others go on, and it comes to hold the same when it is back.
#[test]
fn leader_failure_4a() {
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        rsm.increment(&ALL);
        let leader = rsm.wait_leader();
        rsm.world
            .network
            .set_reach(|from, to| (from == leader) == (to == leader));
        let others = rsm.others_than(leader);
        assert_eq!(rsm.increment(&others), 2);
        rsm.wait_equal(&others, 2);
        rsm.world.network.set_reach(|_, _| true);
        rsm.wait_equal(&ALL, 2);
    });
}

/// What is submitted to a leader that is cut off is never done, and returns when it is back.
#[test]
fn leader_partition_4a() {
    const COMMANDS: usize = 100;
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        rsm.increment(&ALL);
        let leader = rsm.wait_leader();
        rsm.world
            .network
            .set_reach(|from, to| (from == leader) == (to == leader));
        let submitted: Vec<Submission> = (0..COMMANDS)
            .map(|_| rsm.submit(leader, DECREMENT))
            .collect();
        assert!(
            submitted.iter().all(|it| it.position.is_some()),
            "it does not know yet"
        );
        let others = rsm.others_than(leader);
        assert_eq!(rsm.increment(&others), 2);
        must(rsm.world.run_until(rsm.world.now_ns + ELECTION_MS * MS));
        assert!(
            submitted.iter().all(|it| value_of(it).is_none()),
            "done without a quorum"
        );
        rsm.world.network.set_reach(|_, _| true);
        let has_returned = |it: &Submission| it.state() != SubmissionState::Waiting;
        let is_over = rsm.run_until(HEALED_MS, |_| submitted.iter().all(has_returned));
        assert!(is_over, "submissions to the old leader have not returned");
        assert!(
            submitted.iter().all(|it| value_of(it).is_none()),
            "overwritten, and yet done"
        );
        rsm.wait_equal(&ALL, 2);
    });
}

/// After all were down for a second, the counter goes on where it was.
#[test]
fn restart_replay_4a() {
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        for count in 1..=100 {
            assert_eq!(rsm.increment(&ALL), count);
        }
        rsm.crash_all();
        rsm.start_all();
        assert_eq!(rsm.increment(&ALL), 101);
        rsm.wait_equal(&ALL, 101);
    });
}

/// All submissions return when the nodes are shut down.
#[test]
fn shutdown_4a() {
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        shut_down_under_load(&mut rsm);
    });
}

/// All return, and the counter goes on where it was after that.
#[test]
fn restart_submit_4a() {
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, None);
        for _ in 0..100 {
            rsm.increment(&ALL);
        }
        rsm.crash_all();
        rsm.start_all();
        assert_eq!(rsm.increment(&ALL), 101);
        rsm.wait_equal(&ALL, 101);
        shut_down_under_load(&mut rsm);
        rsm.start_all();
        assert_eq!(rsm.increment(&ALL), 102);
        rsm.wait_equal(&ALL, 102);
    });
}

/// A hundred commands that change nothing are submitted, and 20 ms later the power of all nodes goes off.
fn shut_down_under_load(rsm: &mut Rsm) {
    const COMMANDS: usize = 100;
    let leader = rsm.wait_leader();
    let mut submitted = Vec::new();
    let began_ns = rsm.world.now_ns;
    for number in 0..COMMANDS {
        // Some a moment ago, so that there always are some on their way.
        must(
            rsm.world
                .run_until(began_ns + 20 * MS * number as u64 / COMMANDS as u64),
        );
        submitted.push(rsm.submit(leader, NOTHING));
    }
    rsm.crash_all();
    let has_returned = |it: &Submission| it.state() != SubmissionState::Waiting;
    let is_over = rsm.run_until(RETURN_MS, |_| submitted.iter().all(has_returned));
    assert!(is_over, "submissions have not returned");
}

/// The log stays short, and all start again from snapshots.
#[test]
fn snapshot_4c() {
    for_each_seed(|seed| {
        let mut rsm = Rsm::new(seed, Some(LOG_BYTES));
        for _ in 0..100 {
            rsm.increment(&ALL);
        }
        rsm.wait_equal(&ALL, 100);
        let log = log_bytes(&rsm.world.nodes);
        println!(
            "snapshot_4c: {log} of {} bytes of log",
            LOG_FACTOR * LOG_BYTES
        );
        assert!(log <= LOG_FACTOR * LOG_BYTES, "{log} bytes of log");
        assert!(snapshot_bytes(&rsm.world.nodes) > 0, "there is no snapshot");
        rsm.crash_all();
        rsm.start_all();
        assert_eq!(rsm.increment(&ALL), 101);
        rsm.wait_equal(&ALL, 101);
    });
}

const ALL: [usize; 3] = [0, 1, 2];

/// Three nodes with a counter.
struct Rsm {
    world: World<Nobody<Counter>>,
}

impl Rsm {
    fn new(seed: u64, log_bytes_max: Option<u64>) -> Self {
        let mut options = options();
        if let Some(bytes) = log_bytes_max {
            options.snapshot_log_bytes = bytes;
        }
        let mut world = World::new(seed, Config::calm(seed, 3, 0, options), false);
        must(world.start_nodes());
        Self { world }
    }

    fn submit(&mut self, node: usize, command: &[u8]) -> Submission {
        let command = CommandBuffer::new(command).seal_plain();
        must(self.world.submit(node, GROUP, command))
    }

    /// Submits an increment to one of these nodes after the other until it is done, and returns the count. One whose outcome is
    /// not known is not made again: it would count twice.
    fn increment(&mut self, nodes: &[usize]) -> i64 {
        let end_ns = self.world.now_ns + DONE_MS * MS;
        while self.world.now_ns < end_ns {
            let leads = |node: &&usize| {
                let process = self.world.nodes[**node].process.as_ref();
                process.is_some_and(|process| process.role(GROUP).0 == Role::Leader)
            };
            if let Some(&leader) = nodes.iter().find(leads) {
                let submission = self.submit(leader, INCREMENT);
                let has_returned = |_: &World<_>| submission.state() != SubmissionState::Waiting;
                self.run_until(DONE_MS, has_returned);
                if submission.position.is_some() {
                    return value_of(&submission).expect("an increment is done");
                }
            }
            must(self.world.run_until(self.world.now_ns + 20 * MS));
        }
        panic!("nobody takes an increment");
    }

    fn run_until(
        &mut self,
        within_ms: u64,
        holds: impl FnMut(&World<Nobody<Counter>>) -> bool,
    ) -> bool {
        must(self.world.run_until_holds(within_ms * MS, holds))
    }

    fn wait_leader(&mut self) -> usize {
        let has_leader = self.run_until(DONE_MS, |world| world.leader(GROUP).is_some());
        assert!(has_leader, "nobody leads");
        self.world.leader(GROUP).expect("somebody leads")
    }

    fn others_than(&self, node: usize) -> Vec<usize> {
        (0..self.world.nodes.len())
            .filter(|&other| other != node)
            .collect()
    }

    fn wait_equal(&mut self, nodes: &[usize], count: i64) {
        let counts = |world: &World<Nobody<Counter>>| -> Vec<Option<i64>> {
            let processes = nodes.iter().map(|&node| world.nodes[node].process.as_ref());
            processes
                .map(|process| process.map(|process| process.state(GROUP)))
                .collect()
        };
        let is_equal = self.run_until(DONE_MS, |world| {
            counts(world).iter().all(|it| *it == Some(count))
        });
        assert!(is_equal, "{:?} instead of {count}", counts(&self.world));
    }

    /// The power of all goes off for a second.
    fn crash_all(&mut self) {
        for node in ALL {
            must(self.world.kill(node, End::Power));
        }
        must(self.world.run_until(self.world.now_ns + ELECTION_MS * MS));
    }

    fn start_all(&mut self) {
        must(self.world.start_nodes());
    }
}

/// What the counter answered, if a command was done.
fn value_of(submission: &Submission) -> Option<i64> {
    let SubmissionState::Answered(Ok(ReplyBody::Outcome(Outcome::Applied(answer)))) =
        submission.state()
    else {
        return None;
    };
    let answer = answer
        .as_ref()
        .try_into()
        .expect("the counter answers with eight bytes");
    Some(i64::from_le_bytes(answer))
}

/// A number that commands change by one.
#[derive(Debug, Default)]
struct Counter(i64);

impl StateMachine for Counter {
    type View = i64;
    type Image = CounterImage;

    fn apply(&mut self, _index: u64, command: &Bytes) -> Bytes {
        match command.as_ref() {
            INCREMENT => self.0 += 1,
            DECREMENT => self.0 -= 1,
            _ => {}
        }
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn view(&self) -> i64 {
        self.0
    }

    fn query(view: &i64, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&view.to_le_bytes())
    }

    fn image(&self) -> CounterImage {
        CounterImage(self.0)
    }

    fn restore(source: &mut dyn Read) -> Result<Self, RestoreError> {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        Ok(Self(i64::from_le_bytes(bytes)))
    }
}

struct CounterImage(i64);

impl Image for CounterImage {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}
