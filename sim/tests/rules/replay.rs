//! The judge that plays the commit order again, shown real replicas whose deeds are falsified.

use quorate::simulation::{CommandBuffer, Deed, Map, Outcome};
use quorate::{Bytes, Options};
use quorate_sim::config::Config;
use quorate_sim::judge::{Books, Judge, Replay, Step};
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::{Look, World};

use super::{GROUP, says};

/// States are compared at one of 32 indexes: among so many there are some.
const COMMANDS: u64 = 200;

/// The command that is falsified.
const FALSE_ONE: u64 = 20;

fn put(value: &str) -> Bytes {
    let command = CommandBuffer::put(b"k", value.as_bytes()).expect("short");
    command.seal_plain()
}

/// Shows a judge what three nodes do that are given one put after the other, with the deeds of each put changed.
fn show(
    judge: &mut Replay<Map>,
    value: impl Fn(u64) -> String,
    change: impl Fn(u64, &mut Bytes, &mut Outcome),
) -> Result<(), String> {
    let seed = 5;
    let config = Config::calm(seed, 3, 1, Options::default());
    let mut world = World::<KvWorkload>::new(seed, config, false);
    world.start_nodes()?;
    let led = world.run_until_holds(10_000_000_000, |world| world.leader(GROUP).is_some())?;
    assert!(led, "somebody leads");
    let leader = world.leader(GROUP).expect("somebody leads");
    let books = Books::new(3, 1);
    for number in 0..COMMANDS {
        let given = world.submit(leader, GROUP, put(&value(number)))?;
        let (index, _) = given.position.expect("it leads");
        let end_ns = world.now_ns + 1_000_000_000;
        let all_have_it = |world: &World<KvWorkload>| {
            let processes = world.nodes.iter().filter_map(|slot| slot.process.as_ref());
            processes
                .filter(|it| it.stand(GROUP).applied >= index)
                .count()
                == 3
        };
        while !all_have_it(&world) {
            assert!(world.step(end_ns)?, "a sound cluster goes on");
            for node in 0..3 {
                for (_, deed) in &mut world.nodes[node].deeds {
                    if let Deed::Applied { entry, outcome } = deed {
                        change(number, &mut entry.data, outcome);
                    }
                }
                let look = Look {
                    now_ns: world.now_ns,
                    nodes: &world.nodes,
                    config: &world.config,
                    books: &books,
                };
                judge.after(
                    &look,
                    Step::Moved {
                        node,
                        worker: Some(0),
                    },
                )?;
                // Each deed is shown once.
                world.nodes[node].deeds.clear();
            }
        }
    }
    Ok(())
}

fn nothing(_number: u64, _command: &mut Bytes, _outcome: &mut Outcome) {}

#[test]
fn what_replicas_really_did_passes() {
    let mut judge = Replay::new();
    show(&mut judge, |it| it.to_string(), nothing).expect("nothing is wrong");
}

#[test]
fn an_answer_that_the_order_of_commits_does_not_explain_is_found() {
    let falsified = show(
        &mut Replay::new(),
        |it| it.to_string(),
        |number, _, outcome| {
            if number == FALSE_ONE {
                *outcome = Outcome::Applied(Bytes::from_static(b"?"));
            }
        },
    );
    says(falsified, "invariant 15, the order of commits explains");
}

#[test]
fn a_replica_that_holds_something_else_than_was_committed_is_found() {
    let falsified = show(
        &mut Replay::new(),
        |it| it.to_string(),
        |number, command, _| {
            if number >= FALSE_ONE {
                *command = put("what no replica was told");
            }
        },
    );
    let said = falsified.expect_err("the replicas hold what they were told");
    assert!(said.starts_with("invariant 4, equal states"), "{said}");
    assert!(
        said.contains("a machine to which the same was done"),
        "{said}"
    );
}

#[test]
fn replicas_that_hold_different_states_at_one_index_are_found() {
    let mut judge = Replay::new();
    show(&mut judge, |it| it.to_string(), nothing).expect("nothing is wrong");
    let other = show(&mut judge, |it| format!("not {it}"), nothing);
    let said = other.expect_err("they are at the same indexes");
    assert!(said.starts_with("invariant 4, equal states"), "{said}");
    assert!(said.contains("the first replica that did"), "{said}");
}
