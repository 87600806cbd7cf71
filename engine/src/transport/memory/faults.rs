//! What may happen to a frame between two ends in memory.
//!
//! Invariants:
//! - A link holds back at most one frame, and lets it go after the next one that gets through. All clerks share the links of
//!   [`Endpoint::Clerks`], so a frame that is held back keeps its own way: it arrives late, never at somebody else.
//! - What happens on a link follows from the seed, the link, and the number of frames sent on it.
//! - Nothing here has a clock: it is as late as [`Faults::advance`] was told last. What is late arrives in the order of its time,
//!   whatever became of the link meanwhile, and at most [`LATE_FRAMES_MAX`] frames are late at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_raft::NodeId;

use super::Way;
use crate::transport::Frame;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A node.
    Node(NodeId),
    /// All clerks.
    Clerks,
}

impl From<NodeId> for Endpoint {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

/// What happens on a link in one direction. Probabilities are in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFaults {
    /// Everything is lost.
    pub cut: bool,
    /// A frame is lost.
    pub drop_per_mille: u16,
    /// A frame arrives twice.
    pub duplicate_per_mille: u16,
    /// A frame is held back until the next one on this link has overtaken it.
    pub reorder_per_mille: u16,
    /// Every frame takes up to so much longer, each time as likely, and frames overtake each other. See
    /// [`MemoryNetwork::advance`](super::MemoryNetwork::advance), which must be called.
    pub delay_max: Duration,
    /// A frame that answers another one takes up to `late_max` longer still.
    pub late_per_mille: u16,
    /// How late such an answer may be.
    pub late_max: Duration,
}

/// So many frames may be late at once; what comes on top is lost, as on a wire that is full.
const LATE_FRAMES_MAX: usize = 1 << 16;

/// A frame, and who gets it in the end.
#[derive(Clone)]
pub(super) struct Parcel {
    pub(super) frame: Frame,
    pub(super) way: Way,
}

/// All faults of a network.
#[derive(Default)]
pub(super) struct Faults {
    /// Whether there may be any: what a send looks at first.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seed: u64,
    links: HashMap<(Endpoint, Endpoint), Link>,
    isolated: BTreeSet<NodeId>,
    now: Duration,
    /// What is late, by when it arrives, and which of those at one time was sent first.
    late: BTreeMap<(Duration, u64), Parcel>,
    late_ever: u64,
}

struct Link {
    faults: LinkFaults,
    dice: Dice,
    /// Of their own, so that delays shift nothing else.
    delay_dice: Dice,
    held: Option<Parcel>,
}

impl Faults {
    pub(super) fn none(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    pub(super) fn seed(&self, seed: u64) {
        let mut state = self.state.lock();
        state.seed = seed;
        for (ends, link) in &mut state.links {
            link.dice = Dice::new(seed, *ends);
            link.delay_dice = Dice::new(seed ^ DELAYS, *ends);
        }
    }

    pub(super) fn change(
        &self,
        from: Endpoint,
        to: Endpoint,
        change: impl FnOnce(&mut LinkFaults),
    ) {
        let mut state = self.state.lock();
        let seed = state.seed;
        let link = state.links.entry((from, to)).or_insert_with(|| Link {
            faults: LinkFaults::default(),
            dice: Dice::new(seed, (from, to)),
            delay_dice: Dice::new(seed ^ DELAYS, (from, to)),
            held: None,
        });
        change(&mut link.faults);
        if link.faults.reorder_per_mille == 0 {
            link.held = None;
        }
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn isolate(&self, node: NodeId) {
        self.state.lock().isolated.insert(node);
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn rejoin(&self, node: NodeId) {
        self.state.lock().isolated.remove(&node);
    }

    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.links.clear();
        state.isolated.clear();
        self.any.store(false, Ordering::Release);
    }

    /// Whether everything is lost between two nodes, in one direction at least.
    pub(super) fn is_cut(&self, one: NodeId, other: NodeId) -> bool {
        if self.none() {
            return false;
        }
        let state = self.state.lock();
        let link = |from, to| state.links.get(&(Endpoint::Node(from), Endpoint::Node(to)));
        let ways = [link(one, other), link(other, one)];
        state.isolated.contains(&one)
            || state.isolated.contains(&other)
            || ways.into_iter().flatten().any(|link| link.faults.cut)
    }

    /// What arrives, in order, when this frame is sent.
    pub(super) fn pass(&self, from: Endpoint, to: Endpoint, parcel: Parcel) -> Vec<Parcel> {
        let mut state = self.state.lock();
        if let (Endpoint::Node(from), Endpoint::Node(to)) = (from, to)
            && (state.isolated.contains(&from) || state.isolated.contains(&to))
        {
            return Vec::new();
        }
        let Some(link) = state.links.get_mut(&(from, to)) else {
            return vec![parcel];
        };
        let arriving = link.pass(parcel);
        if link.faults.is_prompt() {
            return arriving;
        }
        let delays: Vec<Duration> = arriving.iter().map(|it| link.delay(&it.frame)).collect();
        for (parcel, delay) in arriving.into_iter().zip(delays) {
            state.put_off(parcel, delay);
        }
        Vec::new()
    }

    /// It is so late now. Gives what has to arrive, in order, and says when more will.
    pub(super) fn advance(&self, now: Duration) -> (Vec<Parcel>, Option<Duration>) {
        let mut state = self.state.lock();
        state.now = state.now.max(now);
        let mut arriving = Vec::new();
        while let Some(first) = state.late.first_entry() {
            let at = first.key().0;
            if at > now {
                return (arriving, Some(at));
            }
            arriving.push(first.remove());
        }
        (arriving, None)
    }
}

impl State {
    fn put_off(&mut self, parcel: Parcel, delay: Duration) {
        if self.late.len() < LATE_FRAMES_MAX {
            self.late_ever += 1;
            let at = self.now.saturating_add(delay);
            self.late.insert((at, self.late_ever), parcel);
        }
    }
}

impl LinkFaults {
    fn is_prompt(&self) -> bool {
        self.delay_max.is_zero() && self.late_per_mille == 0
    }
}

impl Link {
    fn pass(&mut self, parcel: Parcel) -> Vec<Parcel> {
        // All dice are rolled for each frame, so that one probability does not shift the others.
        let dropped = self.dice.roll(self.faults.drop_per_mille);
        let duplicated = self.dice.roll(self.faults.duplicate_per_mille);
        let held_back = self.dice.roll(self.faults.reorder_per_mille);
        if self.faults.cut || dropped {
            return Vec::new();
        }
        if held_back && self.held.is_none() {
            self.held = Some(parcel);
            return Vec::new();
        }
        let mut arriving = Vec::with_capacity(3);
        if duplicated {
            arriving.push(parcel.clone());
        }
        arriving.push(parcel);
        arriving.extend(self.held.take());
        arriving
    }

    fn delay(&mut self, frame: &Frame) -> Duration {
        let delay = self.delay_dice.up_to(self.faults.delay_max);
        let is_late = self.delay_dice.roll(self.faults.late_per_mille);
        let late = self.delay_dice.up_to(self.faults.late_max);
        if is_late && frame.is_answer() {
            delay + late
        } else {
            delay
        }
    }
}

/// Makes other dice of a seed.
const DELAYS: u64 = 0x6465_6C61_7973;

/// `SplitMix64`: all that a fault needs of a generator.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, (from, to): (Endpoint, Endpoint)) -> Self {
        let number = |end| match end {
            Endpoint::Node(node) => node.0,
            Endpoint::Clerks => u64::MAX,
        };
        let mut dice = Self(seed ^ number(from).rotate_left(32));
        dice.0 = dice.next() ^ number(to);
        dice
    }

    fn roll(&mut self, per_mille: u16) -> bool {
        self.next() % 1000 < u64::from(per_mille)
    }

    fn up_to(&mut self, bound: Duration) -> Duration {
        let bound_us =
            u64::try_from(bound.as_micros()).map_or(u64::MAX - 1, |us| us.min(u64::MAX - 1));
        Duration::from_micros(self.next() % (bound_us + 1))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
