//! Which faults a run meets: each run draws its own set of classes (a swarm), so that rare combinations come up and no
//! class hides another.

use std::str::FromStr;

use crate::seed::{Rng, Stream};

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultClass {
    /// A process ends; what it wrote is still in the cache.
    Crash,
    /// The power of a node goes off: of what was not synced, some survives.
    PowerCut,
    /// A process stands still, in the middle of what it was about to send.
    Pause,
    /// Clocks run at rates of their own.
    ClockRate,
    /// A clock jumps ahead.
    ClockJump,
    /// Frames get lost.
    Drop,
    /// Frames come twice, the second time possibly much later.
    Duplicate,
    /// Frames take long.
    Delay,
    /// Frames overtake each other.
    Reorder,
    /// One direction between two nodes is cut.
    OneWayCut,
    /// A node is cut off from everybody, the leader preferably.
    Isolate,
    /// The nodes fall into two halves that share one node.
    Bridge,
    /// A link holds everything back and then delivers it all.
    Clog,
    /// A connection breaks in the middle of a frame.
    Reset,
    /// A bit of a frame flips.
    FlipBit,
    /// Syncs take long.
    SlowDisk,
    /// A sync does not return for seconds.
    StuckDisk,
    /// A sync fails, and what it should have written is lost.
    FailedSync,
    /// The disk is full for a while.
    FullDisk,
    /// Bits flip in what the disk holds.
    BitRot,
    /// A write that was synced never got to the disk.
    LostWrite,
    /// A write that was synced went to another place of the disk, and is missing at its own.
    MisdirectedWrite,
    /// A place holds what was written there, or to another file there, long before.
    StaleWrite,
    /// Reads return what stood there before, or what stands elsewhere.
    Misread,
    /// Everything on a disk is gone, or the identity, the log or the snapshots. Half of the time it is put back.
    Wipe,
}

/// All classes: those that damage what was durable come last.
pub const FAULT_CLASSES: [FaultClass; 25] = [
    FaultClass::Crash,
    FaultClass::PowerCut,
    FaultClass::Pause,
    FaultClass::ClockRate,
    FaultClass::ClockJump,
    FaultClass::Drop,
    FaultClass::Duplicate,
    FaultClass::Delay,
    FaultClass::Reorder,
    FaultClass::OneWayCut,
    FaultClass::Isolate,
    FaultClass::Bridge,
    FaultClass::Clog,
    FaultClass::Reset,
    FaultClass::FlipBit,
    FaultClass::SlowDisk,
    FaultClass::StuckDisk,
    FaultClass::FailedSync,
    FaultClass::FullDisk,
    FaultClass::BitRot,
    FaultClass::LostWrite,
    FaultClass::MisdirectedWrite,
    FaultClass::StaleWrite,
    FaultClass::Misread,
    FaultClass::Wipe,
];

/// How many of them damage what was durable.
const DAMAGING: usize = 6;

impl FaultClass {
    /// Whether it takes from a disk what was durable. Such faults strike a minority of the nodes only, the same in all of
    /// a run, so that the others keep all that was acknowledged.
    pub fn is_damage(self) -> bool {
        matches!(
            self,
            Self::BitRot
                | Self::LostWrite
                | Self::MisdirectedWrite
                | Self::StaleWrite
                | Self::Misread
                | Self::Wipe
        )
    }

    /// Whether it strikes at moments; the others are a quality of the whole run.
    pub fn is_event(self) -> bool {
        !matches!(
            self,
            Self::ClockRate
                | Self::Drop
                | Self::Duplicate
                | Self::Delay
                | Self::Reorder
                | Self::Reset
                | Self::FlipBit
        )
    }
}

impl FromStr for FaultClass {
    type Err = String;

    /// The class of a name, however it is capitalised.
    fn from_str(name: &str) -> Result<Self, String> {
        let names = FAULT_CLASSES.map(|class| format!("{class:?}"));
        let found = names.iter().position(|it| it.eq_ignore_ascii_case(name));
        found.map(|place| FAULT_CLASSES[place]).ok_or_else(|| {
            format!(
                "there is no class of faults named {name:?}; there are {}",
                names.join(", ")
            )
        })
    }
}

/// The faults of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmPlan {
    /// The classes that are on, in their order.
    pub classes: Vec<FaultClass>,
    /// The mean time between two faults.
    pub gap_ns: u64,
}

impl SwarmPlan {
    /// Draws the classes of a seed: none in one of eight, one alone in another of eight, else each with even odds. Beside
    /// them a quarter of the seeds has disks that damage what was durable, half of those in one way alone.
    pub fn draw(seed: u64) -> Self {
        let (passing, damaging) = FAULT_CLASSES.split_at(FAULT_CLASSES.len() - DAMAGING);
        let even_odds = |classes: &[FaultClass], rng: &mut Rng| -> Vec<FaultClass> {
            let classes = classes.iter().copied();
            classes.filter(|_| rng.permille(500)).collect()
        };
        let mut rng = Rng::of(seed, Stream::Faults);
        let mut classes = match rng.below(8) {
            0 => Vec::new(),
            1 => vec![rng.pick(passing)],
            _ => even_odds(passing, &mut rng),
        };
        let mut damage_rng = Rng::of(seed, Stream::Damage);
        classes.extend(match damage_rng.below(8) {
            0 => vec![damage_rng.pick(damaging)],
            1 => even_odds(damaging, &mut damage_rng),
            _ => Vec::new(),
        });
        Self {
            classes,
            gap_ns: rng.between(100, 1_000) * 1_000_000,
        }
    }

    /// Without any faults.
    pub fn none() -> Self {
        Self {
            classes: Vec::new(),
            gap_ns: u64::MAX,
        }
    }

    /// Whether a class is on.
    pub fn has(&self, class: FaultClass) -> bool {
        self.classes.contains(&class)
    }

    /// Whether any class is on that takes from disks what was durable.
    pub fn has_damage(&self) -> bool {
        self.classes.iter().any(|class| class.is_damage())
    }

    /// The classes that strike at moments.
    pub fn events(&self) -> Vec<FaultClass> {
        let events = self.classes.iter().copied();
        events.filter(|class| class.is_event()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_without_faults_some_have_one_and_every_class_comes_up() {
        let plans: Vec<_> = (0..4_000).map(SwarmPlan::draw).collect();
        let with = |count| plans.iter().filter(|it| it.classes.len() == count).count();
        assert!((300..450).contains(&with(0)), "{}", with(0));
        assert!((350..550).contains(&with(1)), "{}", with(1));
        let damaged = plans.iter().filter(|it| it.has_damage()).count();
        assert!((900..1_100).contains(&damaged), "{damaged}");
        for class in FAULT_CLASSES {
            let is_alone = |plan: &&SwarmPlan| plan.classes == [class];
            assert!(plans.iter().any(|plan| is_alone(&plan)), "{class:?}");
        }
    }
}
