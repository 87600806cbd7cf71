//! A run from beginning to end: boot; trouble; a quorum goes on without the rest; all heal and agree; the power of all goes
//! off, and everything acknowledged is read again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate::simulation::ReplicaView;

use crate::config::Config;
use crate::marks::MarkCounts;
use crate::seed::{Rng, Stream};
use crate::trace::Who;
use crate::workload::Workload;
use crate::world::{End, World};

const MS: u64 = 1_000_000;

/// How long a phase may take that must succeed, in virtual time.
const LIVENESS_NS: u64 = 60_000 * MS;

/// How many events there may be in a phase at whose end everything is at rest. Of 10,000 seeds none takes a twentieth of it;
/// what goes round in circles takes them in a few seconds, of ours and of its own.
const REST_EVENTS: u64 = 250_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The hash of its trace: the same for each run of the seed.
    pub hash: u64,
    /// Steps taken.
    pub steps: u64,
    /// Calls made.
    pub calls: u64,
    /// Virtual time that passed.
    pub virtual_ns: u64,
    /// What rare things happened.
    pub marks: MarkCounts,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// What happened, one line a step, if it was asked for.
    pub lines: Vec<String>,
}

/// What went wrong in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When, in virtual time.
    pub at_ns: u64,
    /// What.
    pub what: String,
}

/// Plays the run of a seed and a shape. A panic of what is under test is a failure of the run.
pub fn run<W: Workload>(seed: u64, config: Config, keeps_text: bool) -> Report {
    let mut world = World::<W>::new(seed, config, keeps_text);
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let what = match played {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(panic) => Some(format!("a panic: {}", text_of(panic.as_ref()))),
    };
    let at_ns = world.now_ns;
    Report {
        seed,
        hash: world.trace.hash(),
        steps: world.trace.steps(),
        calls: world.workload.calls(),
        virtual_ns: at_ns,
        marks: world.marks().counts().clone(),
        failure: what.map(|what| Failure { at_ns, what }),
        lines: world.trace.lines().to_vec(),
    }
}

fn play<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    boot(world)?;
    world.begin_trouble();
    world.start_clerks();
    world.run_until(world.now_ns + world.config.trouble_ns)?;
    world.end_trouble();
    go_on_without_the_rest(world)?;
    heal_and_agree(world)?;
    lose_power(world)?;
    world.workload.judge()
}

fn boot<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "boot");
    world.start_nodes()?;
    let has_leaders = world.run_until_holds(LIVENESS_NS, all_lead)?;
    require(has_leaders, "no leader was elected after boot")
}

/// A random quorum is healed for good, and the rest is dead: every clerk gets something done.
fn go_on_without_the_rest<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "quorum");
    world.expect_rest(REST_EVENTS);
    let nodes = world.nodes.len();
    let mut rng = Rng::of(world.seed, Stream::Faults).fork().fork();
    let mut order: Vec<usize> = (0..nodes).collect();
    for place in (1..nodes).rev() {
        order.swap(place, rng.index(place + 1));
    }
    for &node in &order[nodes / 2 + 1..] {
        world.abandon(node)?;
    }
    world.heal()?;
    let before = world.successes();
    let is_live = world.run_until_holds(LIVENESS_NS, |world| {
        let now = world.successes();
        now.iter().zip(&before).all(|(now, before)| now > before)
    })?;
    require(is_live, "a quorum that is whole makes no progress")
}

/// Everybody is back: nobody calls any more, and all replicas of a group come to hold the same.
fn heal_and_agree<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "heal");
    world.take_back();
    world.heal()?;
    world.stop_clerks();
    world.expect_rest(REST_EVENTS);
    agree(world)
}

/// The power of all nodes goes off at once. What they were told is durable is still there.
fn lose_power<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "power");
    for node in 0..world.nodes.len() {
        world.kill(node, End::Power)?;
    }
    world.heal()?;
    world.expect_rest(REST_EVENTS);
    world.last_calls(0)?;
    let is_answered = world.run_until_holds(LIVENESS_NS, |world| world.outstanding() == 0)?;
    require(
        is_answered,
        "calls are not answered after the power was off",
    )?;
    agree(world)
}

fn agree<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    let is_settled = world.run_until_holds(LIVENESS_NS, |world| {
        world.outstanding() == 0 && all_lead(world) && all_applied(world)
    })?;
    if !is_settled {
        return Err(format!(
            "replicas that are whole do not come to the same index; {} calls are open{}",
            world.outstanding(),
            standing(world)
        ));
    }
    for group in world.groups() {
        let digests = world.nodes.iter().filter_map(|slot| {
            let process = slot.process.as_ref()?;
            Some((process.digest(group), slot.id))
        });
        let digests: Vec<_> = digests.collect();
        if let Some(pair) = digests.windows(2).find(|pair| pair[0].0 != pair[1].0) {
            return Err(format!(
                "group {}: {} and {} have applied the same and hold something else",
                group.0, pair[0].1, pair[1].1
            ));
        }
        world.trace.note(
            world.now_ns,
            Who::World,
            "digest",
            digests[0].0,
            String::new,
        );
    }
    Ok(())
}

fn all_lead<W: Workload>(world: &World<W>) -> bool {
    world.groups().all(|group| world.leader(group).is_some())
}

/// Whether all replicas have applied all that any of them has in its log.
fn all_applied<W: Workload>(world: &World<W>) -> bool {
    world.groups().all(|group| {
        let views = world.nodes.iter().map(|slot| {
            let process = slot.process.as_ref();
            process.map(|process| process.view(group))
        });
        let views: Option<Vec<_>> = views.collect();
        views.is_some_and(|views| {
            let last = views.iter().map(|view| view.last_index).max();
            views.iter().all(|view| Some(view.applied) == last)
        })
    })
}

/// How all replicas stand, for whoever reads of a failure.
fn standing<W: Workload>(world: &World<W>) -> String {
    let mut lines = Vec::new();
    for slot in &world.nodes {
        let Some(process) = &slot.process else {
            lines.push(format!("\n  {}: dead", slot.id));
            continue;
        };
        lines.push(format!("\n  {}: log {:?}", slot.id, process.log().status()));
        let views = process.groups().map(|group| process.view(group));
        lines.extend(views.map(|view| format!("\n    {}", line_of(&view))));
    }
    lines.concat()
}

fn line_of(view: &ReplicaView) -> String {
    format!(
        "group {}: {:?} in {}, leader {:?}, first {} applied {} commit {} durable {} last {} snapshot {}, aside {}, trouble {:?}",
        view.group.0,
        view.role,
        view.term,
        view.leader,
        view.first_index,
        view.applied,
        view.commit,
        view.durable_index,
        view.last_index,
        view.snapshot.index,
        view.is_aside,
        view.trouble,
    )
}

fn phase<W: Workload>(world: &mut World<W>, name: &'static str) {
    world
        .trace
        .note(world.now_ns, Who::World, name, 0, String::new);
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}
