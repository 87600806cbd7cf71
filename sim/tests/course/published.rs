//! Published bugs, played as they were told. They need a timing, or a clock, that none of the course's scenarios brings about.

use std::cell::RefCell;
use std::rc::Rc;

use quorate::simulation::{Body, StateMachine};
use quorate::transport::Frame;
use quorate::{LogIndex, NodeId, Role, Term};
use quorate_sim::judge::{Judge, Step};
use quorate_sim::node::Sent;
use quorate_sim::world::{End, Look};

use crate::harness::clerks::{Clerks, get, text_of};
use crate::harness::raft::{Raft, must};
use crate::harness::{ELECTION_MS, GROUP, MS, for_each_seed, options};

/// How often a script tries to bring something about that chance may prevent.
const ATTEMPTS: u32 = 10;

/// How long each step of a script may take.
const STEP_MS: u64 = 20 * ELECTION_MS;

/// Raft paper, Figure 8: an entry of an earlier term that is on the disks of a majority is not committed by that, as a later
/// leader may overwrite it. The servers have the names that they have there.
#[test]
fn figure8_as_in_the_paper() {
    for_each_seed(|seed| {
        // One entry at a time, so that the second may come to a majority without the third.
        let mut options = options();
        options.append_bytes_max = 64;
        options.inflight_messages_max = 1;
        let mut raft = Raft::with(seed, 5, options, false);
        raft.one(5, true);
        let s1 = raft.check_one_leader();
        let [s2, s3, s4, s5] = [1, 2, 3, 4].map(|step| (s1 + step) % 5);

        // (a) S1 leads and brings an entry to S2 alone.
        only_reaches(&mut raft, s1, &[s2]);
        let command = vec![b'8'; 200].into();
        let old = raft.start_command(s1, command).expect("it leads");
        wait(&mut raft, |raft| {
            [s1, s2]
                .iter()
                .all(|&node| raft.view(node).durable_index >= old.index)
        });
        kill(&mut raft, &[s1]);

        // (b) S5 is elected by S3 and S4, and writes another entry to the same place.
        only_reaches(&mut raft, s5, &[s3, s4]);
        wait(&mut raft, |raft| raft.view(s5).role == Role::Leader);
        kill(&mut raft, &[s3, s4]);
        wait(&mut raft, |raft| raft.view(s5).durable_index >= old.index);
        let between = raft.view(s5).term;
        kill(&mut raft, &[s5]);
        raft.run_ms(ELECTION_MS);

        // (c) S1 is elected again, and brings its old entry to S3 and S4: with itself and S2, four of five have it. Both are
        // gone before an entry of the present term comes.
        start(&mut raft, &[s1, s3, s4]);
        only_reaches(&mut raft, s1, &[s3, s4]);
        wait(&mut raft, |raft| raft.view(s1).role == Role::Leader);
        assert!(between > old.term && raft.view(s1).term > between);
        for count in 1..=2 {
            wait(&mut raft, |raft| {
                matched(raft, s1, old.index).len() >= count
            });
            let holders = matched(&raft, s1, old.index);
            kill(&mut raft, &holders);
        }
        let view = raft.view(s1);
        assert_eq!(
            (view.role, view.last_index),
            (Role::Leader, old.index.next())
        );
        assert!(view.commit < old.index, "committed by counting");
        kill(&mut raft, &[s1]);
        raft.run_ms(ELECTION_MS);

        // (d) S5 is elected by those who have the old entry, and overwrites it.
        start(&mut raft, &[s3, s4, s5]);
        only_reaches(&mut raft, s5, &[s2, s3, s4]);
        wait(&mut raft, |raft| raft.view(s5).role == Role::Leader);
        start(&mut raft, &[s1]);
        raft.connect_each(&[0, 1, 2, 3, 4]);
        raft.one(5, true);
        for node in 0..5 {
            let is_there = raft.applied(node).iter().any(|it| it.1 == old.command);
            assert!(
                !is_there,
                "what was overwritten is applied on node {}",
                node + 1
            );
        }
    });
}

/// A leader whose clock nearly stands still is cut off, and does not notice. The others have written since: what it is asked then
/// it must not answer out of what it has.
#[test]
fn a_leader_that_does_not_know_that_it_is_cut_off_answers_no_read() {
    let [major, minor] = [0, 1];
    for_each_seed(|seed| {
        let mut clerks = Clerks::new(seed, 3, 2, None);
        let leader = clerks.wait_leader();
        for clerk in [major, minor] {
            clerks.put(clerk, "k", "old");
            clerks.check(clerk, "k", "old");
        }
        let leads = |clerks: &Clerks| {
            let process = clerks.world.nodes[leader].process.as_ref();
            process.expect("it runs").role(GROUP).0 == Role::Leader
        };
        assert!(leads(&clerks), "nothing happened that would depose it");
        let now_ns = clerks.world.now_ns;
        clerks.world.nodes[leader].clock.set_rate(100, now_ns);
        clerks.partition(|node| node == leader);
        let network = &mut clerks.world.network;
        network.set_clerk_reach(major, |node| node != leader);
        network.set_clerk_reach(minor, |node| node == leader);
        clerks.put(major, "k", "new");

        let reading = clerks.call(minor, get("k"));
        clerks.run_ms(ELECTION_MS);
        assert!(
            leads(&clerks),
            "by its own clock it is too early to give up"
        );
        assert_eq!(
            clerks.response(reading),
            None,
            "a read that nobody confirmed"
        );
        clerks.heal();
        assert_eq!(text_of(&clerks.wait(reading)), "new");
        clerks.judge();
    });
}

/// A node votes, loses power and comes back within the term. Then another candidate of the same term, which stood still before
/// its question left, asks for its vote.
#[test]
fn who_voted_and_was_restarted_does_not_vote_again() {
    for_each_seed(|seed| {
        let mut raft = Raft::new(seed, 3);
        let votes = Rc::<RefCell<Vec<Vote>>>::default();
        raft.world.add_judge(Box::new(VotesSeen(Rc::clone(&votes))));
        raft.one(3, true);
        let [voter, first, second] = [0, 1, 2];
        let stands = (0..ATTEMPTS).any(|_| both_ask(&mut raft, voter, [first, second]));
        assert!(stands, "never two candidates of one term");
        let term = raft.view(second).term;
        let wakes_ns = raft.world.now_ns + 4 * ELECTION_MS * MS;
        raft.world.nodes[second].paused_until_ns = wakes_ns;
        wait(&mut raft, |raft| raft.view(first).role == Role::Leader);
        assert_eq!(raft.view(first).term, term, "both stand in one term");

        raft.disconnect_each(&[voter, first, second]);
        kill(&mut raft, &[voter]);
        // What the new leader sent meanwhile is lost with it.
        raft.run_ms(ELECTION_MS);
        start(&mut raft, &[voter]);
        raft.run_until(wakes_ns - 1);
        raft.connect_each(&[voter, second]);
        let is_answered = |votes: &[Vote]| {
            let answers = votes
                .iter()
                .filter(|it| (it.from, it.to) == (voter, second));
            answers
                .filter(|it| it.term == term)
                .map(|it| it.granted)
                .next_back()
        };
        wait(&mut raft, |raft| {
            assert!((raft.view(second).role, raft.view(second).term) != (Role::Leader, term));
            is_answered(&votes.borrow()).is_some()
        });
        assert_eq!(
            is_answered(&votes.borrow()),
            Some(false),
            "a second vote in {term}"
        );
    });
}

/// Two nodes that reach the same third one alone ask for an election at one moment. Whether the second one becomes a candidate: the
/// third one may have been elected first.
fn both_ask(raft: &mut Raft, hub: usize, candidates: [usize; 2]) -> bool {
    // Whoever led has given up, and nobody hears a leader any more.
    raft.disconnect_each(&[0, 1, 2]);
    raft.run_ms(3 * ELECTION_MS);
    only_reaches(raft, hub, &candidates);
    for node in candidates {
        raft.world.campaign(node, GROUP);
    }
    let end_ns = raft.world.now_ns + ELECTION_MS / 4 * MS;
    while must(raft.world.step(end_ns)) {
        if raft.view(candidates[1]).role == Role::Candidate {
            return true;
        }
    }
    false
}

/// An answer to who asked for a vote.
#[derive(Clone, Copy, Debug)]
struct Vote {
    from: usize,
    to: usize,
    term: Term,
    granted: bool,
}

/// Writes down the answers of voters.
struct VotesSeen(Rc<RefCell<Vec<Vote>>>);

impl<M: StateMachine> Judge<M> for VotesSeen {
    fn after(&mut self, _look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        let Step::Sends {
            sent: Sent::Frame(_, Frame::Raft(messages)),
            ..
        } = step
        else {
            return Ok(());
        };
        let place = |node: NodeId| node.0 as usize - 1;
        for message in messages.iter().map(|it| &it.message) {
            if let Body::VoteReply { granted } = message.body {
                self.0.borrow_mut().push(Vote {
                    from: place(message.from),
                    to: place(message.to),
                    term: message.term,
                    granted,
                });
            }
        }
        Ok(())
    }
}

/// Links one node with these and cuts all others, so that nobody else finds a majority.
fn only_reaches(raft: &mut Raft, hub: usize, others: &[usize]) {
    let is_linked = |a: usize, b: usize| a == hub && others.contains(&b);
    raft.world
        .network
        .set_reach(|from, to| is_linked(from, to) || is_linked(to, from));
}

/// Lets step after step happen until this holds.
#[track_caller]
fn wait(raft: &mut Raft, holds: impl Fn(&Raft) -> bool) {
    let end_ns = raft.world.now_ns + STEP_MS * MS;
    while !holds(raft) {
        assert!(must(raft.world.step(end_ns)), "it does not come to that");
    }
}

/// The power of these goes off.
fn kill(raft: &mut Raft, nodes: &[usize]) {
    for &node in nodes {
        must(raft.world.kill(node, End::Power));
    }
}

fn start(raft: &mut Raft, nodes: &[usize]) {
    for &node in nodes {
        must(raft.world.start_node(node));
    }
}

/// The peers that a leader knows to have everything up to there.
fn matched(raft: &Raft, leader: usize, index: LogIndex) -> Vec<usize> {
    let process = raft.world.nodes[leader].process.as_ref();
    let peers = process.expect("the leader runs").peers(GROUP);
    let matched = peers.filter(|peer| peer.match_index >= index);
    matched.map(|peer| peer.id.0 as usize - 1).collect()
}
