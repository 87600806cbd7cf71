//! Who is elected, and for how long.

use std::cell::RefCell;
use std::rc::Rc;

use quorate::simulation::{Body, Stand, StateMachine};
use quorate::{NodeId, Options, Role};
use quorate_sim::config::Config;
use quorate_sim::judge::{Elections, Event, Judge, Offices, Step};
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::{Look, World};

use super::script::Script;
use super::{GROUP, says, stand};

#[test]
fn two_leaders_of_a_term_are_found() {
    let mut script = Script::new(Elections::default());
    script.elect(1, 2, 4);
    script.elect(3, 2, 5);
    script.moved(1, stand(Role::Leader, 4, 0)).expect("elected");
    script.moved(3, stand(Role::Leader, 5, 0)).expect("elected");
    script.end(1);
    says(
        script.moved(3, stand(Role::Leader, 4, 0)),
        "invariant 1, election safety",
    );
    let minority = script.moved(2, stand(Role::Leader, 6, 0));
    says(minority, "invariant 1, a majority elects");
}

#[test]
fn a_second_vote_and_a_forgotten_one_are_found() {
    let mut script = Script::new(Elections::default());
    script.elect(1, 2, 4);
    let second = script.sent(2, 3, 4, Body::VoteReply { granted: true });
    says(second, "invariant 6, one vote a term");
    script.end(2);
    let forgotten = script.open(2, stand(Role::Follower, 4, 0), &[0]);
    says(forgotten, "invariant 6, votes are kept");
    let back = script.open(2, stand(Role::Follower, 3, 0), &[0]);
    says(back, "invariant 6, terms never go back");
}

#[test]
fn a_term_that_nobody_was_asked_about_is_found() {
    let mut script = Script::new(Elections::default());
    let mut candidate = stand(Role::Candidate, 1, 0);
    candidate.vote = Some(NodeId(1));
    says(
        script.moved(1, candidate),
        "invariant 14, no term without a majority",
    );
}

/// An election timeout.
const TIMEOUT_NS: u64 = 100;

/// Node 1 leads, and was handed a frame of node 2 when its clock showed this.
fn leader_that_heard(shown_ns: u64) -> (Script<Offices>, Stand) {
    let mut script = Script::new(Offices::new(TIMEOUT_NS, true));
    let heard = Event::Heard {
        node: NodeId(1),
        from: NodeId(2),
        shown_ns,
    };
    script.tell(&heard).expect("it hears");
    (script, stand(Role::Leader, 1, 0))
}

const SILENT: &str = "invariant 14, a leader without a majority steps down";

#[test]
fn a_leader_that_hears_nobody_is_found() {
    let (mut script, leads) = leader_that_heard(1_000);
    for now_ns in [1_000, 1_200, 1_201, 1_301] {
        script.moved_at(1, leads, now_ns).expect("in time");
    }
    says(script.moved_at(1, leads, 1_302), SILENT);
}

/// A frame that arrives at 1,000 waits while the process stands still, up to 1,300. The leader hears of it then, and may lead
/// for another while: whoever counts from the arrival finds fault with it.
#[test]
fn a_leader_that_stood_still_hears_what_waited_for_it_when_it_goes_on() {
    let (mut script, leads) = leader_that_heard(1_300);
    for now_ns in [1_300, 1_401, 1_500] {
        script.moved_at(1, leads, now_ns).expect("it just heard");
    }
    let (mut script, leads) = leader_that_heard(1_000);
    script.moved_at(1, leads, 1_300).expect("not seen before");
    says(script.moved_at(1, leads, 1_401), SILENT);
}

/// The protocol looks at the time in a pass alone: after a step of the log a leader still leads that gives up in its next pass.
#[test]
fn a_step_of_the_log_gives_no_leader_the_time_to_step_down() {
    let (mut script, leads) = leader_that_heard(1_000);
    for now_ns in [1_250, 1_400, 1_900] {
        let step = script.stepped_at(1, leads, now_ns, false);
        step.expect("its worker did not look at the time");
    }
    script.moved_at(1, leads, 2_000).expect("its first look");
    let step = script.stepped_at(1, leads, 2_200, false);
    step.expect("its worker did not look again");
    says(script.moved_at(1, leads, 2_200), SILENT);
}

/// Who is handed frames of others, and when.
struct Hearing(Rc<RefCell<Vec<(usize, u64)>>>);

impl<M: StateMachine> Judge<M> for Hearing {
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        if let Step::Hears { node, .. } = step {
            self.0.borrow_mut().push((node, look.now_ns));
        }
        Ok(())
    }
}

#[test]
fn a_node_that_stands_still_hears_nothing_until_it_goes_on() {
    const MS: u64 = 1_000_000;
    let seed = 4;
    let config = Config::calm(seed, 3, 1, Options::default());
    let mut world = World::<KvWorkload>::new(seed, config, false);
    let heard = Rc::<RefCell<Vec<(usize, u64)>>>::default();
    world.add_judge(Box::new(Hearing(Rc::clone(&heard))));
    world.start_nodes().expect("empty disks");
    let led = world.run_until_holds(10_000 * MS, |world| world.leader(GROUP).is_some());
    assert_eq!(led, Ok(true));
    let leader = world.leader(GROUP).expect("somebody leads");
    // A follower was just handed something, and is about to answer.
    heard.borrow_mut().clear();
    while heard.borrow().iter().all(|it| it.0 == leader) {
        assert_eq!(world.step(world.now_ns + 1_000 * MS), Ok(true));
    }
    let stops_ns = world.now_ns;
    let goes_on_ns = stops_ns + 200 * MS;
    world.nodes[leader].paused_until_ns = goes_on_ns;
    world.run_until(goes_on_ns + MS).expect("nothing is wrong");
    let heard = heard.borrow();
    let mut later = heard.iter().filter(|it| it.0 == leader && it.1 > stops_ns);
    let first = later.next().expect("the answer waited for it");
    assert!(
        first.1 >= goes_on_ns,
        "it heard something while it stood still"
    );
}

#[test]
fn an_election_in_a_lease_is_found() {
    let mut script = Script::new(Offices::new(1_000, true));
    let mut leads = stand(Role::Leader, 1, 0);
    leads.lease_until_ns = Some(500);
    script.moved_at(1, leads, 10).expect("it leads");
    let early = script.moved_at(2, stand(Role::Leader, 2, 0), 499);
    says(early, "invariant 13, a lease keeps others away");
    script
        .moved_at(3, stand(Role::Leader, 2, 0), 500)
        .expect("the lease is over");
}

#[test]
fn an_election_after_the_holder_of_a_lease_stepped_down_for_a_later_term_is_none_in_a_lease() {
    let mut script = Script::new(Offices::new(1_000, true));
    let mut leads = stand(Role::Leader, 1, 0);
    leads.lease_until_ns = Some(500);
    script.moved_at(1, leads, 10).expect("it leads");
    let steps_down = script.moved_at(1, stand(Role::Follower, 2, 0), 100);
    steps_down.expect("it heard of a later term");
    let elected = script.moved_at(2, stand(Role::Leader, 2, 0), 200);
    elected.expect("nobody answers from the lease any more");
}
