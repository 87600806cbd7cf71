//! What a run looks like: how many of everything, and the options that all nodes share.

use std::time::Duration;

use quorate::{NodeId, Options};

use crate::clock::TRUE_RATE;
use crate::faults::{FaultClass, SwarmPlan};
use crate::reduction::{Reduction, ReductionError};
use crate::seed::{Rng, Stream};
use crate::trials::{TRIALS_ON, Trial, Trials};

const MS: u64 = 1_000_000;

/// How long a worker takes to notice an event, on average, if it is not slow.
pub(crate) const WAKE_NS: u64 = 10_000;

/// Which run a seed means: raised whenever a seed comes to mean another one, which a test of this file notices.
pub const SCHEME: u32 = 12;

/// Entries that are kept behind a snapshot at most where disks are damaged.
const TRAILING_MAX: u64 = 4;

/// The shape of one run.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many nodes, from 1 to 7.
    pub nodes: usize,
    /// How many groups, from 1 to 8.
    pub groups: u32,
    /// How many clerks.
    pub clerks: usize,
    /// So many nodes have a client of their own, the first ones.
    pub locals: usize,
    /// The options of every node and clerk.
    pub options: Options,
    /// Which faults strike.
    pub plan: SwarmPlan,
    /// What is left out of all this.
    pub reduction: Reduction,
    /// Whether frames are encoded and decoded on their way, as by the TCP transport, or moved.
    pub is_encoded: bool,
    /// Whether frames that are moved go through the memory transport itself.
    pub has_memory_transport: bool,
    /// Whether clerks also read under the leader's lease. Only where clocks keep to what the options say of them.
    pub has_lease_reads: bool,
    /// The slowest and the fastest clock, in parts per thousand of virtual time.
    pub rates_permille: (u64, u64),
    /// How long faults strike.
    pub trouble_ns: u64,
    /// The mean time between a clerk's answer and its next call.
    pub think_ns: u64,
    /// How long a sync takes, on average.
    pub sync_ns: u64,
    /// What it meets beside faults.
    pub trials: Trials,
    /// How long a worker takes to notice an event, on average, while faults strike.
    pub wake_ns: u64,
    /// How long each step of attaching a worker's groups takes, on average, where a node has several workers.
    pub attach_ns: u64,
}

impl Config {
    /// The run of a seed.
    pub fn draw(seed: u64) -> Self {
        let plan = SwarmPlan::draw(seed);
        let mut rng = Rng::of(seed, Stream::Shape);
        let nodes = rng.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 7]);
        let groups = rng.pick(&[1, 1, 1, 1, 2, 2, 3, 8]);
        let drift_percent = rng.pick(&[10, 50]);
        let (has_lease_reads, rates_permille) = clocks(&mut rng, &plan, drift_percent);
        let clerks = rng.between(1, 6) as usize;
        let mut options = options(&mut rng, drift_percent as u8);
        if plan.has_damage() {
            // Where snapshots come all the time nobody needs the entries that are damaged.
            let mut rng = Rng::of(seed, Stream::Damage).fork().fork();
            options.snapshot_log_bytes = rng.pick(&[options.snapshot_log_bytes, 64 << 10, 1 << 20]);
            // A replica that stands aside comes back when its leader's log reaches back less far: in a group without calls
            // that takes an election for each entry that is kept.
            options.trailing_entries = options.trailing_entries.min(TRAILING_MAX);
        }
        let mut config = Self {
            nodes,
            groups,
            clerks,
            options,
            plan,
            reduction: Reduction::default(),
            is_encoded: rng.permille(667),
            has_lease_reads,
            rates_permille,
            trouble_ns: rng.between(4, 12) * 1_000 * MS,
            think_ns: rng.between(10, 200) * MS,
            sync_ns: rng.pick(&[30_000, 200_000, 200_000, MS, 5 * MS]),
            has_memory_transport: rng.permille(500),
            locals: locals(seed, nodes),
            wake_ns: WAKE_NS,
            attach_ns: 0,
            trials: Trials::default(),
        };
        config.has_memory_transport &= !config.is_encoded;
        config.draw_workers(seed);
        config.meet(seed, &[]);
        config
    }

    /// Several workers share the groups in some runs; then they are attached one after the other, and some are slow to wake.
    fn draw_workers(&mut self, seed: u64) {
        let mut rng = Rng::of(seed, Stream::Workers);
        let workers = rng.pick(&[1, 1, 2, 3, 4]);
        let wake_ns = rng.pick(&[WAKE_NS, WAKE_NS, MS, 10 * MS]);
        let attach_ns = rng.pick(&[100_000, 2 * MS, 20 * MS]);
        if self.groups > 1 && workers > 1 {
            self.options.workers = workers.min(self.groups as usize);
            (self.wake_ns, self.attach_ns) = (wake_ns, attach_ns);
        }
    }

    /// Has the run meet those of its trials that are on, and each of `always`. Where disks are
    /// damaged it meets none, nor where there is no majority beside one node.
    pub fn meet(&mut self, seed: u64, always: &[Trial]) {
        let is_sound = !self.plan.has_damage() && self.nodes > 2;
        self.trials = if is_sound {
            Trials::draw(seed, TRIALS_ON, always)
        } else {
            Trials::default()
        };
    }

    /// The options of one node in one of its lives.
    pub fn options_of(&self, node: usize, life: u32) -> Options {
        self.trials.options_of(&self.options, node, life)
    }

    /// Where election timeouts differ, a node with the longest.
    pub(crate) fn patient_node(&self) -> Option<NodeId> {
        let timeout = |node: &usize| self.options_of(*node, 0).election_timeout;
        let longest = (0..self.nodes).max_by_key(timeout)?;
        let differs = timeout(&longest) > self.options.election_timeout;
        differs.then_some(NodeId(longest as u64 + 1))
    }

    /// Clerks, and the nodes that have a client of their own.
    pub fn callers(&self) -> usize {
        self.clerks + self.locals.min(self.nodes)
    }

    /// A cluster without faults, for scripts: nodes and clerks with these options, one group, and clocks that are true. Disk,
    /// network and encoding are as the seed draws them.
    pub fn calm(seed: u64, nodes: usize, clerks: usize, options: Options) -> Self {
        let mut config = Self::draw(seed);
        config.nodes = nodes;
        config.groups = 1;
        config.clerks = clerks;
        config.locals = 0;
        config.options = options;
        (config.wake_ns, config.attach_ns) = (WAKE_NS, 0);
        config.trials = Trials::default();
        config.plan = SwarmPlan::none();
        config.has_lease_reads = false;
        config.rates_permille = (TRUE_RATE, TRUE_RATE);
        config
    }

    /// Switches off all classes of faults but these; what else was drawn stays.
    pub fn allow_only(&mut self, classes: &[FaultClass]) {
        self.retain(|class| classes.contains(&class));
    }

    /// Leaves things out of the run. What is left draws what it drew before.
    ///
    /// # Errors
    ///
    /// If that leaves nothing to play, or asks for more than there is.
    pub fn reduce(&mut self, reduction: Reduction) -> Result<(), ReductionError> {
        reduction.check(self)?;
        self.nodes = reduction.nodes.unwrap_or(self.nodes);
        self.groups = reduction.groups.unwrap_or(self.groups);
        self.trouble_ns = reduction.trouble_ms.map_or(self.trouble_ns, |ms| ms * MS);
        // One that strikes at moments stays in the plan, from which the moments draw, and is left out when it strikes.
        self.retain(|class| class.is_event() || !reduction.without.contains(&class));
        self.reduction = reduction;
        Ok(())
    }

    fn retain(&mut self, keeps: impl Fn(FaultClass) -> bool) {
        self.plan.classes.retain(|&class| keeps(class));
        if !self.plan.has(FaultClass::ClockRate) {
            self.rates_permille = (TRUE_RATE, TRUE_RATE);
        }
    }

    /// A plain cluster of three for twenty seconds, for measuring how fast runs are.
    pub fn plain(seed: u64) -> Self {
        let mut config = Self::draw(seed);
        config.nodes = 3;
        config.groups = 1;
        config.locals = 0;
        config.trials = Trials::default();
        config.options.workers = 1;
        config.trouble_ns = 18_500 * MS;
        config
    }
}

/// Two of five runs have clients that are part of a node, on one node to all.
fn locals(seed: u64, nodes: usize) -> usize {
    let mut rng = Rng::of(seed, Stream::Locals);
    let locals = rng.between(1, nodes as u64) as usize;
    if rng.permille(400) { locals } else { 0 }
}

/// Whether leases hold, and the rates of clocks. A lease lasts `100 - drift` percent of an election timeout on the leader's
/// clock and is respected for one on each follower's; so it holds as long as no clock is faster than another one by more
/// than that, and none jumps.
fn clocks(rng: &mut Rng, plan: &SwarmPlan, drift_percent: u64) -> (bool, (u64, u64)) {
    let wants_leases = rng.permille(600);
    let holds = wants_leases && !plan.has(FaultClass::ClockJump);
    if !plan.has(FaultClass::ClockRate) {
        return (holds, (TRUE_RATE, TRUE_RATE));
    }
    if !holds {
        return (false, (TRUE_RATE / 2, TRUE_RATE * 2));
    }
    let slowest = rng.between(700, 1_000);
    (true, (slowest, slowest * 100 / (100 - drift_percent)))
}

/// Small numbers everywhere, so that what is rare in production happens all the time.
fn options(rng: &mut Rng, drift_percent: u8) -> Options {
    let ms = Duration::from_millis;
    let election_ms = rng.between(150, 500);
    let mut options = Options::default();
    options.election_timeout = ms(election_ms);
    options.heartbeat_interval = ms(election_ms / rng.between(3, 6));
    options.clock_drift_percent = drift_percent;
    options.call_timeout = ms(rng.between(1_000, 4_000));
    options.retry_after = ms(rng.between(100, 600));
    options.outstanding_max = 64;
    options.sessions_max = rng.pick(&[3, 16, 1_000]);
    options.snapshot_log_bytes = rng.pick(&[64, 512, 2 << 10, 8 << 10, 64 << 10]);
    options.trailing_entries = rng.pick(&[0, 4, 64]);
    options.uncommitted_bytes_max = rng.pick(&[4 << 10, 64 << 10]);
    options.cache_bytes_max = rng.pick(&[256, 4 << 10, 64 << 10]);
    options.append_bytes_max = rng.pick(&[64, 1 << 10, 16 << 10]);
    options.inflight_messages_max = rng.pick(&[1, 4, 64]);
    options.inflight_bytes_max = rng.pick(&[1 << 10, 64 << 10]);
    options.queue_max = rng.pick(&[64, 4_096]);
    options.workers = 1;
    options.log.segment_bytes_min = rng.pick(&[64 << 10, 128 << 10]);
    options.log.segment_bytes_max = options.log.segment_bytes_min * rng.pick(&[1, 4]);
    options.log.entry_bytes_max = 4 << 10;
    options.log.batch_bytes_max = rng.pick(&[36 << 10, 64 << 10]);
    options.log.queue_bytes_max = options.log.batch_bytes_max * rng.pick(&[1, 8]);
    options.log.recent_bytes_max = rng.pick(&[0, 4 << 10, 1 << 20]);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::run;
    use crate::seed::mix;
    use crate::workload::KvWorkload;

    /// What seeds mean in a scheme: a hash of what many of them draw, and what the traces of some come to. Between them, these
    /// have all ways in which frames travel, and damaged disks.
    const MEANING: (u32, u64, [(u64, u64); 4]) = (
        12,
        0xbbfc_c229_3acc_88ba,
        [
            (11, 0xdc43_2c1e_ae14_ce84),
            (13, 0x8673_799a_be9b_9471),
            (21, 0x7a59_a495_1b5b_1552),
            (24, 0x11de_bd43_2c69_5eb9),
        ],
    );

    #[test]
    fn what_seeds_mean_changes_with_the_scheme_alone() {
        let drawn = (0..500).fold(0, |hash, seed| {
            let text = format!("{:?}", Config::draw(seed));
            text.bytes()
                .fold(hash, |hash, it| mix(hash ^ u64::from(it)))
        });
        let (_, _, played) = MEANING;
        let played = played.map(|(seed, _)| {
            let report = run::<KvWorkload>(seed, Config::draw(seed), false);
            (seed, report.hash)
        });
        assert_eq!(
            (SCHEME, drawn, played),
            MEANING,
            "seeds mean other runs than before: raise SCHEME and put in the new numbers"
        );
    }

    #[test]
    fn every_shape_is_valid_and_leases_are_read_only_where_they_hold() {
        for seed in 0..2_000 {
            let config = Config::draw(seed);
            config.options.validate().expect("valid options");
            let (slowest, fastest) = config.rates_permille;
            assert!((500..=2_000).contains(&slowest) && (500..=2_000).contains(&fastest));
            if config.has_lease_reads {
                let drift = u64::from(config.options.clock_drift_percent);
                assert!(fastest * (100 - drift) <= slowest * 100);
                assert!(!config.plan.has(FaultClass::ClockJump));
            }
        }
    }
}
