//! A run from beginning to end: boot; trouble; a quorum goes on without the rest; all heal and agree; the power of all goes
//! off, and everything acknowledged is read again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate::simulation::ReplicaView;

use crate::budget::Budget;
use crate::config::Config;
use crate::judge::Directory;
use crate::marks::{Mark, MarkCounts};
use crate::node::Harm;
use crate::seed::{Rng, Stream};
use crate::story::{Story, What};
use crate::trace::Who;
use crate::trials::{Mistake, Sickness};
use crate::workload::{Guarded, MachinePanic, Workload, text_of};
use crate::world::{End, World};

const MS: u64 = 1_000_000;

/// How long a phase may take that must succeed, in virtual time.
const LIVENESS_NS: u64 = 60_000 * MS;

/// How many events there may be in a phase at whose end everything is at rest, and while something is brought back in it. Of 2,000 seeds none takes a tenth of it; what
/// goes round in circles takes them in a few seconds.
const REST_EVENTS: u64 = 250_000;
/// How often replicas that stand aside are brought back in one phase, at most: each of eight groups on three nodes, twice.
const RETURNS_MAX: u32 = 48;

/// How long nothing is called while it is counted what that costs.
const REST_NS: u64 = 500 * MS;

/// In one of so many times in a row it costs no more than it may. Frames that trouble has delayed by seconds arrive in a bunch,
/// and each is answered (found in seed 4287); what costs too much all the time does so in each of them.
const REST_WINDOWS: u32 = 8;

/// How long one disk is sick beside others that are not.
const SICK_NS: u64 = 12_000 * MS;

/// How long clerks write while a follower's disk is slow, and it is counted what is sent.
const SLOW_NS: u64 = 5_000 * MS;

/// How long clerks call a cluster that stands still.
const STILL_NS: u64 = 3_000 * MS;

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
    /// Troubles that struck, and those that were left out among them.
    pub troubles: u32,
    /// The most calls that any clerk made, those at the end aside.
    pub calls_max: u64,
    /// What happened, one line a step, if it was asked for.
    pub lines: Vec<String>,
    /// What happened, for those who draw it, if it was asked for.
    pub story: Option<Story>,
}

/// What went wrong in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When, in virtual time.
    pub at_ns: u64,
    /// What.
    pub what: String,
}

/// In which way a run failed. Two runs failed in the same way if they broke the same invariant, or what went wrong is told in
/// the same words: numbers and what stands in quotes aside, and of several lines the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureClass(String);

impl Failure {
    /// In which way it failed.
    pub fn class(&self) -> FailureClass {
        let line = self.what.lines().next().unwrap_or_default();
        if let Some(rest) = line.strip_prefix(INVARIANT) {
            let end = rest.find(|it: char| !it.is_ascii_digit());
            let number = &rest[..end.unwrap_or(rest.len())];
            return FailureClass(format!("{INVARIANT}{number}"));
        }
        let mut words = String::new();
        let mut is_quoted = false;
        for letter in line.chars() {
            if letter == '"' {
                is_quoted = !is_quoted;
            }
            let is_number = letter.is_ascii_digit();
            if is_quoted || is_number && words.ends_with('#') {
                continue;
            }
            words.push(if is_number { '#' } else { letter });
        }
        FailureClass(words)
    }
}

/// What the texts of judges begin with.
const INVARIANT: &str = "invariant ";

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Plays the run of a seed and a shape. A panic of what is under test is a failure of the run.
pub fn run<W: Workload>(seed: u64, config: Config, keeps_text: bool) -> Report {
    let mut world = World::<Guarded<W>>::new(seed, config, keeps_text);
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let what = match played {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(panic) => Some(match panic.downcast_ref::<MachinePanic>() {
            Some(MachinePanic { place, text }) => format!("the machine panics in {place}: {text}"),
            None => format!("a panic: {}", text_of(panic.as_ref())),
        }),
    };
    let at_ns = world.now_ns;
    let mut story = world.story.take();
    if let Some(story) = story.as_mut().filter(|_| what.is_some()) {
        story.suspects.extend(world.workload.suspects());
    }
    Report {
        seed,
        hash: world.trace.hash(),
        steps: world.trace.steps(),
        calls: world.workload.calls(),
        virtual_ns: at_ns,
        marks: world.marks().counts().clone(),
        failure: what.map(|what| Failure { at_ns, what }),
        troubles: world.troubles(),
        calls_max: world.calls_max(),
        lines: world.trace.lines().to_vec(),
        story,
    }
}

fn play<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    boot(world)?;
    world.begin_trouble();
    world.start_clerks();
    trouble(world)?;
    world.end_trouble();
    write_beside_a_sick_disk(world)?;
    let phases = [
        go_on_without_the_rest,
        heal_and_agree,
        feed_a_slow_disk,
        lose_power,
    ];
    for phase in phases {
        phase(world)?;
        if world.lacks_quorum() {
            stand_still(world)?;
            break;
        }
    }
    world.workload.judge()
}

fn boot<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "boot");
    world.start_nodes()?;
    let has_leaders = world.run_until_holds(LIVENESS_NS, all_lead)?;
    require(has_leaders, "no leader was elected after boot")
}

/// Faults strike, and in some runs an operator gets something wrong meanwhile.
fn trouble<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    let end_ns = world.now_ns + world.config.trouble_ns;
    let Some(mistake) = world.config.trials.mistake else {
        return world.run_until(end_ns);
    };
    let third_ns = world.config.trouble_ns / 3;
    world.run_until(world.now_ns + third_ns)?;
    let node = (world.seed % world.nodes.len() as u64) as usize;
    match mistake {
        Mistake::Swapped => {
            world.run_until(world.now_ns + third_ns)?;
            world.swap_directories(node)?;
        }
        Mistake::Wiped => {
            world.run_until(world.now_ns + third_ns)?;
            run_misplaced(world, node, Directory::Empty, end_ns)?;
        }
        Mistake::Older => {
            let life = world.copy_directory(node)?;
            world.run_until(world.now_ns + third_ns)?;
            // Nobody could tell the copy from the original where no later start was met: that is
            // not promised.
            let is_known =
                world.run_until_holds(third_ns / 2, |world| world.is_known_since(node, life))?;
            if is_known {
                run_misplaced(world, node, Directory::Older, end_ns)?;
            }
        }
    }
    world.run_until(end_ns)
}

/// A node runs from another directory than its own for a part of the time that is left.
fn run_misplaced<W: Workload>(
    world: &mut World<W>,
    node: usize,
    directory: Directory,
    end_ns: u64,
) -> Result<(), String> {
    world.misplace(node, directory)?;
    let quarters = 1 + world.seed / world.nodes.len() as u64 % 4;
    let left_ns = end_ns.saturating_sub(world.now_ns);
    world.run_until(world.now_ns + left_ns * quarters / 4)?;
    world.replace_directory(node)
}

/// One disk is sick, and all else is whole: each group goes on taking writes.
fn write_beside_a_sick_disk<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    let Some((kind, of_leader)) = world.config.trials.sick else {
        return Ok(());
    };
    world.heal()?;
    let is_whole = holds_in_time(world, |world| {
        let is_up = world.nodes.iter().all(|slot| slot.process.is_some());
        // A full disk has no room for the card of a peer that was started again meanwhile.
        is_up && all_lead(world) && world.is_connected()
    })?;
    require(
        is_whole,
        "nodes do not meet, or elect nobody, when all was healed",
    )?;
    phase(world, "sick");
    let think_ns = world.config.think_ns;
    world.sicken(kind, of_leader, world.now_ns + SICK_NS);
    world.start_clerks();
    world.run_until_holds(SICK_NS, |world| world.stalled().is_some())?;
    let stalled = world.stalled();
    world.end_progress();
    world.config.think_ns = think_ns;
    match stalled {
        None => Ok(()),
        Some((group, for_ns)) => Err(format!(
            "group {} takes no writes beside one disk that is {kind:?}: none for {} ms{}",
            group.0,
            for_ns / MS,
            standing(world)
        )),
    }
}

/// A random quorum is healed for good, and the rest is dead: every clerk gets something done.
fn go_on_without_the_rest<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "quorum");
    world.expect_rest(REST_EVENTS);
    let nodes = world.nodes.len();
    let mut rng = Rng::of(world.seed, Stream::Faults).fork().fork();
    let order = world.soundest_first(&mut rng);
    for &node in &order[nodes / 2 + 1..] {
        world.abandon(node)?;
    }
    world.heal()?;
    let (before, local_before) = (world.successes(), world.local_successes());
    let is_live = holds_in_time(world, |world| {
        let now = world.successes();
        let clerks = now.iter().zip(&before).enumerate();
        let mut has_more =
            clerks.map(|(clerk, (now, before))| now > before || world.is_spent(clerk));
        has_more.all(|has_more| has_more) && world.locals_progress(&local_before)
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

/// One disk is slow, and everybody had everything before: what a leader took it sends each peer about once.
fn feed_a_slow_disk<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    let is_met = matches!(world.config.trials.sick, Some((Sickness::Slow, _)));
    if !is_met || world.lacks_quorum() || world.nodes.len() < 2 {
        return Ok(());
    }
    phase(world, "slow");
    let leaders = |world: &World<W>| -> Vec<_> {
        let leading = world.groups().map(|group| (group, world.leader(group)));
        let role = |node: usize, group| world.nodes[node].process.as_ref().map(|it| it.role(group));
        leading
            .map(|(group, node)| node.map(|node| (node, role(node, group))))
            .collect()
    };
    let before = (leaders(world), world.counts());
    let leader = before.0.first().copied().flatten().map_or(0, |it| it.0);
    let node = (leader + 1) % world.nodes.len();
    let interval_ns = world.config.options.heartbeat_interval.as_nanos() as u64;
    world.slow_disk(node, interval_ns * (1 + world.seed % 3));
    let think_ns = std::mem::replace(&mut world.config.think_ns, SLOW_THINK_NS);
    world.start_clerks();
    for _ in 0..SLOW_PARTS {
        world.expect_rest(REST_EVENTS);
        world.run_until(world.now_ns + SLOW_NS / SLOW_PARTS)?;
    }
    world.stop_clerks();
    world.config.think_ns = think_ns;
    // A new leader does not know what others have, and may send some of it again.
    let judged = if leaders(world) == before.0 {
        let peers = world.nodes.len() as u64 - 1;
        world.mark(Mark::FedSlowDisk);
        crate::budget::check_appended(&(world.counts() - before.1), peers)
    } else {
        Ok(())
    };
    world.heal()?;
    world.expect_rest(REST_EVENTS);
    judged
}

/// Into so many parts that is divided, each of which has bounded events, as clerks that hurry make many.
const SLOW_PARTS: u64 = 10;

/// How long clerks think meanwhile.
const SLOW_THINK_NS: u64 = 5 * MS;

/// A cluster of one or two nodes that lost something stands still rather than go on without it. What it answers must be right.
fn stand_still<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "stopped");
    world.mark(Mark::StoodStill);
    world.start_clerks();
    world.run_until(world.now_ns + STILL_NS)?;
    world.stop_clerks();
    Ok(())
}

/// What lost entries comes back with a snapshot. Clerks call meanwhile.
fn bring_back<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "aside");
    // As often as something has to be brought back, there is as much to do again.
    world.expect_rest(REST_EVENTS);
    world.start_clerks();
    world.tend_aside();
    let is_back = holds_in_time(world, |world| !world.has_aside())?;
    world.stop_clerks();
    world.expect_rest(REST_EVENTS);
    if is_back {
        phase(world, "back");
        return Ok(());
    }
    Err(format!(
        "a replica that stands aside does not come back{}",
        standing(world)
    ))
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
    world.last_local_calls()?;
    let is_answered = holds_in_time(world, |world| world.outstanding() == 0)?;
    require(
        is_answered,
        "calls are not answered after the power was off",
    )?;
    agree(world)?;
    if world.lacks_quorum() {
        return Ok(());
    }
    rest(world)
}

/// Nobody calls, and everybody has everything: what that costs is bounded.
fn rest<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    phase(world, "rest");
    // What was under way is over by then.
    world.run_until(world.now_ns + REST_NS)?;
    let budget = Budget::idle(&world.config, REST_NS);
    let mut judged = Ok(());
    for _ in 0..REST_WINDOWS {
        let before = world.counts();
        world.run_until(world.now_ns + REST_NS)?;
        judged = budget.check(&(world.counts() - before));
        if judged.is_ok() {
            break;
        }
    }
    judged
}

fn agree<W: Workload>(world: &mut World<W>) -> Result<(), String> {
    if !settle(world)? {
        return Err(format!(
            "replicas that are whole do not come to the same index; {} calls are open{}",
            world.outstanding(),
            standing(world)
        ));
    }
    if world.lacks_quorum() {
        return Ok(());
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

/// Whether all replicas come to the same index. A node finds out what its disk lost when it reads it, so more than once a
/// replica may have to be brought back first.
fn settle<W: Workload>(world: &mut World<W>) -> Result<bool, String> {
    let is_settled =
        |world: &World<W>| world.outstanding() == 0 && all_lead(world) && all_applied(world);
    for _ in 0..RETURNS_MAX {
        let is_over = holds_in_time(world, |world| world.has_aside() || is_settled(world))?;
        if !world.has_aside() || world.lacks_quorum() {
            return Ok(is_over);
        }
        bring_back(world)?;
    }
    Ok(false)
}

/// Whether something comes to hold that must; it need not where too few nodes are whole.
fn holds_in_time<W: Workload>(
    world: &mut World<W>,
    holds: impl Fn(&World<W>) -> bool,
) -> Result<bool, String> {
    world.run_until_holds(LIVENESS_NS, |world| world.lacks_quorum() || holds(world))
}

fn all_lead<W: Workload>(world: &World<W>) -> bool {
    world.groups().all(|group| world.leader(group).is_some())
}

/// Whether all replicas have applied all that any of them has in its log.
fn all_applied<W: Workload>(world: &World<W>) -> bool {
    world.groups().all(|group| {
        let kept = world.nodes.iter().filter(|slot| slot.harm != Harm::Lost);
        let views = kept.map(|slot| {
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
    if let Some(story) = &mut world.story {
        story.happens(world.now_ns, None, What::Phase(name));
    }
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::KvWorkload;

    #[test]
    fn what_is_brought_back_does_not_use_up_the_events_of_its_phase() {
        let mut world = World::<KvWorkload>::new(1, Config::plain(1), false);
        boot(&mut world).expect("fresh disks");
        world.expect_rest(0);
        bring_back(&mut world).expect("nothing stands aside");
        let until_ns = world.now_ns + 1_000 * MS;
        world.run_until(until_ns).expect("a second of heartbeats");
        assert!(world.events_since() > 0, "they are events");
    }

    fn class(what: &str) -> FailureClass {
        let what = what.to_owned();
        Failure { at_ns: 0, what }.class()
    }

    #[test]
    fn failures_are_alike_by_their_invariant_or_by_their_words() {
        let alike = [
            (
                "invariant 4, equal states: n1 of group 0",
                "invariant 4, safety: n3 applies (2, 5)",
            ),
            (
                "group 0: n1 and n22 hold something else",
                "group 12: n3 and n4 hold something else",
            ),
            ("a get of \"a\" is wrong", "a get of \"b\\x01\" is wrong"),
            ("17 calls are open\n n1: dead", "2 calls are open"),
        ];
        for (one, other) in alike {
            assert_eq!(class(one), class(other));
        }
        let unlike = [
            (
                "invariant 1, election safety",
                "invariant 14, no term without a majority",
            ),
            ("a panic: overflow", "a panic: no index 7"),
            ("no leader was elected", "a quorum makes no progress"),
        ];
        for (one, other) in unlike {
            assert_ne!(class(one), class(other));
        }
    }
}
