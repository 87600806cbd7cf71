//! The loads and their probes, in turn.

use std::time::Duration;

use quorate_benches::probe::{GroupCommit, QuorumProbe, RawAppend, UnderWay};
use quorate_benches::{
    AppendShape, Budget, CommittedPuts, Failure, KEY_BYTES, LogAppend, Place, Read, Reads, Sample,
    Setup, VALUE_BYTES, memory,
};
use quorate_wal::Durability;

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) slice: Duration,
    pub(crate) log: bool,
    pub(crate) puts: bool,
    pub(crate) reads: bool,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) load: &'static str,
    pub(crate) name: String,
    /// Writers or operations on their way; the horizontal axis of a plot.
    pub(crate) outstanding: usize,
    pub(crate) rounds: Vec<Round>,
}

/// What one round gave.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) sample: Sample,
    /// What the probe gave right before.
    pub(crate) probe: Option<Sample>,
    pub(crate) peak_bytes: Option<u64>,
}

pub(crate) const LOG_APPEND: &str = "log append";
pub(crate) const PUT: &str = "put, 3 replicas";
pub(crate) const READ: &str = "read";

const WRITERS: [usize; 4] = [1, 4, 16, 64];
const ENTRY_BYTES: [usize; 3] = [128, 1 << 10, 16 << 10];
const OUTSTANDING: [usize; 3] = [1, 64, 1_024];

pub(crate) struct Suite {
    place: Place,
    plan: Plan,
    cases: Vec<Case>,
}

impl Suite {
    pub(crate) fn new(place: Place, plan: Plan) -> Self {
        Self {
            place,
            plan,
            cases: Vec::new(),
        }
    }

    /// All cases, in the order in which they ran first.
    pub(crate) fn cases(&self) -> &[Case] {
        &self.cases
    }

    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        for round in 1..=self.plan.rounds {
            eprintln!("round {round} of {}", self.plan.rounds);
            if self.plan.log {
                self.log()?;
            }
            if self.plan.puts {
                self.puts()?;
            }
            if self.plan.reads {
                self.reads()?;
            }
        }
        Ok(())
    }

    fn log(&mut self) -> Result<(), Failure> {
        for entry_bytes in ENTRY_BYTES {
            for writers in WRITERS {
                let mut log =
                    LogAppend::open(&self.place, AppendShape::single(writers, entry_bytes))?;
                let budget = Budget::Time(self.plan.slice);
                let probe = if writers == 1 {
                    RawAppend::open(&self.place, log.batch_bytes()?, Durability::PowerLoss)?
                        .run(budget)?
                } else {
                    GroupCommit::open(
                        &self.place,
                        writers,
                        entry_bytes,
                        Durability::PowerLoss,
                        UnderWay::One,
                    )?
                    .run(budget)?
                };
                let plural = if writers == 1 { "" } else { "s" };
                let name = format!("{entry_bytes} B, {writers} writer{plural}");
                self.measure(LOG_APPEND, name, writers, Some(probe), |budget| {
                    log.run(budget)
                })?;
            }
        }
        Ok(())
    }

    fn puts(&mut self) -> Result<(), Failure> {
        let mut probe = QuorumProbe::open(&self.place, KEY_BYTES + VALUE_BYTES)?;
        for setup in Setup::ALL {
            let mut puts = CommittedPuts::start(&self.place, setup)?;
            for outstanding in OUTSTANDING {
                let budget = Budget::Time(self.plan.slice);
                let probed = setup
                    .is_durable()
                    .then(|| probe.run(outstanding, budget))
                    .transpose()?;
                let name = format!("{}, {outstanding} outstanding", setup.name());
                self.measure(PUT, name, outstanding, probed, |budget| {
                    puts.run(outstanding, budget)
                })?;
            }
        }
        Ok(())
    }

    fn reads(&mut self) -> Result<(), Failure> {
        let mut reads = Reads::start(&self.place)?;
        for read in Read::ALL {
            self.measure(READ, read.name(), 1, None, |budget| reads.run(read, budget))?;
        }
        Ok(())
    }

    fn measure(
        &mut self,
        load: &'static str,
        name: String,
        outstanding: usize,
        probe: Option<Sample>,
        run: impl FnOnce(Budget) -> Result<Sample, Failure>,
    ) -> Result<(), Failure> {
        memory::reset_peak();
        let sample = run(Budget::Time(self.plan.slice))?;
        let peak_bytes = memory::peak_bytes();
        eprintln!("  {load}, {name}: {:.0}/s", sample.ops_per_s());
        let round = Round {
            sample,
            probe,
            peak_bytes,
        };
        match self
            .cases
            .iter_mut()
            .find(|case| (case.load, &case.name) == (load, &name))
        {
            Some(case) => case.rounds.push(round),
            None => self.cases.push(Case {
                load,
                name,
                outstanding,
                rounds: vec![round],
            }),
        }
        Ok(())
    }
}
