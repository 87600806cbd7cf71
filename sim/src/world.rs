//! The world of a run: nodes, clerks and the network between them, and one heap of events in virtual time.
//!
//! Invariants:
//! - Virtual time never goes back. Events at one moment happen in the order in which they were scheduled.
//! - A node's steps are taken one at a time. What it sends in a step leaves when the step is over, or, if the process stands
//!   still in the middle of it, in part then and in part when it goes on.
//! - Of each kind of step a node has one scheduled at most.
//! - A run that does not come to rest fails: see [`World::expect_rest`]. So does one that needs more memory than it may:
//!   [`SCHEDULED_MAX`], [`CALLS_MAX`], [`HELD_MAX`](crate::judge::HELD_MAX).

mod clerks;
mod counts;
mod damaged;
mod locals;
mod scripted;
mod steps;
mod trials;
mod troubles;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use quorate::simulation::StateMachine;
use quorate::transport::{Reply, Request};
use quorate::{GroupId, Role};

use crate::clock::Clock;
use crate::config::Config;
use crate::judge::{Books, Bounds, Disks, Judge, Observer, Rates, Replay, Step};
use crate::marks::{Mark, Marks};
use crate::network::{Endpoint, Network, Packet};
use crate::node::NodeSlot;
use crate::seed::{Rng, Stream};
use crate::story::{Story, What};
use crate::trace::{Trace, Who};
use crate::wire::Wire;
use crate::workload::Workload;

use clerks::Clerk;
use damaged::Damage;
use locals::{Local, LocalStep};
use trials::Progress;

pub use counts::Counts;
pub use scripted::{Submission, SubmissionState};
pub use troubles::End;

/// What a judge sees of the world.
pub struct Look<'a, M: StateMachine> {
    /// Virtual time.
    pub now_ns: u64,
    /// The nodes, by their place.
    pub nodes: &'a [NodeSlot<M>],
    /// The shape of the run.
    pub config: &'a Config,
    /// What was seen so far.
    pub books: &'a Books,
}

/// Nodes, clerks and what is between them.
pub struct World<W: Workload> {
    /// The seed of the run.
    pub seed: u64,
    /// Its shape.
    pub config: Config,
    /// Virtual time.
    pub now_ns: u64,
    /// The nodes, by their place.
    pub nodes: Vec<NodeSlot<W::Machine>>,
    /// The links.
    pub network: Network,
    /// What is called, and what was answered.
    pub workload: W,
    /// What happened.
    pub trace: Trace,
    /// What happened, for those who draw it; kept along with the text of the trace.
    pub story: Option<Story>,
    clerks: Vec<Clerk>,
    /// The clients in nodes, by the place of their node, while it runs.
    locals: Vec<Option<Local>>,
    /// How many calls of each succeeded, in all lives.
    local_successes: Vec<u64>,
    /// Reads of clients in nodes so far, and whether those clients make calls.
    local_reads: u64,
    locals_go_on: bool,
    local_rng: Rng,
    worker_rng: Rng,
    heap: BinaryHeap<Scheduled>,
    /// What is scheduled, where the heap says. The heap moves its elements about all the time.
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
    /// How many more events there may be until it is rested, and how many there might be at first.
    rest: (u64, u64),
    observer: Observer,
    judges: Vec<Box<dyn Judge<W::Machine>>>,
    schedule_rng: Rng,
    disk_rng: Rng,
    /// When there is trouble, and a stream of its own for each.
    trouble_rng: Rng,
    /// The stream of the trouble that strikes at present: leaving out another one does not move it.
    fault_rng: Rng,
    /// Troubles up to now, those that were left out among them.
    troubles: u32,
    damage: Damage,
    /// Which groups have to make progress, while that is judged.
    progress: Option<Progress>,
    counts: Counts,
    /// Whether an operator looks after replicas that stand aside.
    is_tended: bool,
    /// Whether faults strike.
    has_trouble: bool,
}

/// Something that happens at a moment.
enum Event {
    /// A pass of one of a node's workers.
    Pass(usize, usize),
    /// The next step of attaching the groups of a worker, in this life of its node.
    Attach(usize, u32, usize),
    /// A step of a node's log: write and sync.
    Log(usize),
    /// A step of a node's log: off the commit path.
    Prepare(usize),
    /// A step of a node's log: when it has rested.
    Cover(usize),
    /// A job of a node.
    Job(usize),
    /// A frame arrives at a node.
    Arrive {
        from: usize,
        /// The life of its sender.
        life: u32,
        to: usize,
        packet: Packet,
    },
    /// A request arrives at a node.
    Ask {
        clerk: usize,
        to: usize,
        request: Request,
    },
    /// A reply arrives at a clerk.
    Answer {
        clerk: usize,
        from: usize,
        reply: Reply,
    },
    /// A clerk's connection to a node broke.
    Disconnect { clerk: usize, from: usize },
    /// A clerk looks after its deadlines.
    ClerkTick(usize),
    /// A clerk has thought and makes a call.
    ClerkCall(usize),
    /// Something about the client of a node, in this life of the node.
    Local(usize, u32, LocalStep),
    /// A fault strikes.
    Trouble,
    /// A fault ends.
    Relief(Relief),
    /// A dead process is started again.
    Restart(usize),
    /// An operator looks after replicas that stand aside.
    Tend,
    /// A disk is as it was before it was wiped.
    PutBack(usize),
    /// A process whose log failed, in this life of its node, is ended and started again.
    Replace(usize, u32),
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Relief {
    /// Links are whole again.
    Network,
    /// A disk is fast again.
    Disk(usize),
    /// There is space again.
    Space(usize),
}

struct Scheduled {
    at_ns: u64,
    number: u64,
    /// Where its event is.
    place: usize,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap gives the greatest: the earliest, and of those at one moment the first scheduled.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.number).cmp(&(self.at_ns, self.number))
    }
}

impl Relief {
    /// The node whose disk is well again; `None`: the network is.
    fn node(self) -> Option<usize> {
        match self {
            Self::Network => None,
            Self::Disk(node) | Self::Space(node) => Some(node),
        }
    }
}

impl<W: Workload> World<W> {
    /// The world of a seed, with nobody running yet.
    pub fn new(seed: u64, config: Config, keeps_text: bool) -> Self {
        let mut clock_rng = Rng::of(seed, Stream::Clock);
        let mut workload_rng = Rng::of(seed, Stream::Workload);
        let (slowest, fastest) = config.rates_permille;
        let wire = config.has_memory_transport;
        let wire = wire.then(|| Arc::new(Wire::new(config.clerks)));
        let nodes = (0..config.nodes).map(|place| {
            let shown_ns = clock_rng.between(1, 1 << 40);
            let clock = Clock::new(shown_ns, clock_rng.between(slowest, fastest));
            NodeSlot::new(place, clock, &config.options, wire.clone())
        });
        let nodes: Vec<_> = nodes.collect();
        let mut trouble_rng = Rng::of(seed, Stream::Faults).fork();
        let clerks = (0..config.clerks).map(|_| Clerk::new(&config, workload_rng.fork()));
        Self {
            seed,
            now_ns: 0,
            clerks: clerks.collect(),
            locals: (0..config.nodes).map(|_| None).collect(),
            local_successes: vec![0; config.nodes],
            local_reads: 0,
            locals_go_on: false,
            local_rng: Rng::of(seed, Stream::Locals).fork(),
            worker_rng: Rng::of(seed, Stream::Workers).fork(),
            network: Network::new(
                seed,
                config.nodes,
                config.clerks,
                config.is_encoded,
                &config.plan,
            ),
            workload: W::new(&config),
            trace: Trace::new(keeps_text),
            story: keeps_text.then(Story::default),
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            scheduled: 0,
            rest: (u64::MAX, u64::MAX),
            observer: Observer::new(&config),
            judges: vec![
                Box::new(Disks::new(seed, Rates::default())),
                Box::<Replay<W::Machine>>::default(),
                Box::new(Bounds::new(&config)),
            ],
            schedule_rng: Rng::of(seed, Stream::Schedule),
            disk_rng: Rng::of(seed, Stream::Disk),
            fault_rng: trouble_rng.fork(),
            trouble_rng,
            troubles: 0,
            progress: None,
            counts: Counts::default(),
            damage: Damage::new(seed, config.nodes),
            is_tended: false,
            has_trouble: false,
            nodes,
            config,
        }
    }

    /// Adds a judge of every step.
    pub fn add_judge(&mut self, judge: Box<dyn Judge<W::Machine>>) {
        self.judges.push(judge);
    }

    /// What rare things happened.
    pub fn marks(&self) -> &Marks {
        self.observer.marks()
    }

    /// Has the run fail if more than so many events happen from here on until this is called again: what ought to come to rest
    /// does not.
    pub fn expect_rest(&mut self, within_events: u64) {
        self.rest = (within_events, within_events);
    }

    /// How many events happened since [`expect_rest`](Self::expect_rest).
    pub fn events_since(&self) -> u64 {
        self.rest.1 - self.rest.0
    }

    /// How many events are scheduled.
    pub fn scheduled(&self) -> usize {
        self.heap.len()
    }

    /// How many things the judges of every step keep.
    pub fn held(&self) -> usize {
        self.observer.held()
    }

    /// Lets the next event happen. `false`: there is none before `until_ns`, and that is the time now.
    pub fn step(&mut self, until_ns: u64) -> Result<bool, String> {
        if self.heap.peek().is_none_or(|next| next.at_ns > until_ns) {
            self.now_ns = self.now_ns.max(until_ns);
            return Ok(false);
        }
        let Some(next) = self.heap.pop() else {
            return Ok(false);
        };
        debug_assert!(next.at_ns >= self.now_ns, "time goes on");
        if self.rest.0 == 0 {
            return Err(format!(
                "the run does not come to rest: {} events have happened since it should",
                self.rest.1
            ));
        }
        self.rest.0 -= 1;
        if self.heap.len() > SCHEDULED_MAX {
            return Err(format!(
                "more is scheduled than may be: {} of {SCHEDULED_MAX} events",
                self.heap.len()
            ));
        }
        self.now_ns = next.at_ns;
        self.free.push(next.place);
        let Some(event) = self.events[next.place].take() else {
            unreachable!("what is scheduled has an event");
        };
        match event {
            Event::Pass(node, worker) => self.pass(node, worker)?,
            Event::Attach(node, life, worker) => self.attach_step(node, life, worker),
            Event::Local(node, life, step) => self.local_step(node, life, step)?,
            Event::Log(node) => self.log_step(node)?,
            Event::Prepare(node) => self.prepare_step(node)?,
            Event::Cover(node) => self.cover_step(node)?,
            Event::Job(node) => self.job_step(node)?,
            Event::Arrive {
                from,
                life,
                to,
                packet,
            } => self.arrive((from, life), to, packet)?,
            Event::Ask { clerk, to, request } => self.ask(clerk, to, request),
            Event::Answer { clerk, from, reply } => self.answer(clerk, from, reply)?,
            Event::Disconnect { clerk, from } => self.disconnect(clerk, from)?,
            Event::ClerkTick(clerk) => self.clerk_tick(clerk)?,
            Event::ClerkCall(clerk) => self.clerk_call(clerk)?,
            Event::Trouble => self.trouble()?,
            Event::Relief(relief) => self.relieve(relief),
            Event::Tend => self.tend(),
            Event::PutBack(node) => self.put_back(node)?,
            Event::Restart(node) => self.restart(node)?,
            Event::Replace(node, life) => self.replace(node, life)?,
        }
        Ok(true)
    }

    /// Lets everything happen until then.
    pub fn run_until(&mut self, until_ns: u64) -> Result<(), String> {
        while self.step(until_ns)? {}
        Ok(())
    }

    /// Lets everything happen until a condition holds, which is looked at every few milliseconds. `false`: it did not within
    /// this time.
    pub fn run_until_holds(
        &mut self,
        within_ns: u64,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<bool, String> {
        let end_ns = self.now_ns + within_ns;
        while !holds(self) {
            if self.now_ns >= end_ns {
                return Ok(false);
            }
            self.run_until((self.now_ns + LOOK_NS).min(end_ns))?;
        }
        Ok(true)
    }

    /// The leader of a group in the highest term that any live node is in as leader.
    pub fn leader(&self, group: GroupId) -> Option<usize> {
        let running = self.nodes.iter().enumerate();
        let leading = running.filter_map(|(place, slot)| {
            let (role, term) = slot.process.as_ref()?.role(group);
            (role == Role::Leader).then_some((term, place))
        });
        leading.max().map(|(_, place)| place)
    }

    /// The groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<W> {
        (0..u64::from(self.config.groups)).map(GroupId)
    }

    fn schedule(&mut self, at_ns: u64, event: Event) {
        debug_assert!(at_ns >= self.now_ns, "nothing happens in the past");
        self.scheduled += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.heap.push(Scheduled {
            at_ns,
            number: self.scheduled,
            place,
        });
    }

    /// Tells the story, if anybody listens.
    fn happens(&mut self, node: Option<usize>, what: What) {
        if let Some(story) = &mut self.story {
            story.happens(self.now_ns, node, what);
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.observer.marks_mut().hit(mark);
    }

    fn note(&mut self, who: Who, what: &'static str, number: u64, detail: impl FnOnce() -> String) {
        self.trace.note(self.now_ns, who, what, number, detail);
    }

    /// Shows a step to the judges.
    fn judge(&mut self, step: Step<'_>) -> Result<(), String> {
        self.observer.observe(self.now_ns, &self.nodes, step)?;
        let look = Look {
            now_ns: self.now_ns,
            nodes: &self.nodes,
            config: &self.config,
            books: self.observer.books(),
        };
        for judge in &mut self.judges {
            judge.after(&look, step)?;
        }
        Ok(())
    }
}

/// Events that may be scheduled at once; each takes some 200 bytes, and what it carries.
pub const SCHEDULED_MAX: usize = 100_000;

/// Calls of a run, whose history is judged when it is over.
pub const CALLS_MAX: u64 = 200_000;

/// How often a condition is looked at.
const LOOK_NS: u64 = 5_000_000;

/// A clerk and a node, as ends of a link.
fn link_to_clerk(node: usize, clerk: usize) -> (Endpoint, Endpoint) {
    (Endpoint::Node(node), Endpoint::Clerk(clerk))
}
