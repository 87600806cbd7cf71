//! Machines that are wrong, and the usual calls on them.
#![allow(dead_code, reason = "not every test has a use for every machine")]

use quorate::simulation::{Image, Map, MapImage, RestoreError, StateMachine};
use quorate::{Bytes, Error, MapView};
use quorate_sim::config::Config;
use quorate_sim::seed::Rng;
use quorate_sim::workload::{Call, KvWorkload, Ticket, Workload};

/// A map in which something is wrong.
#[derive(Default)]
pub(crate) struct Wrong<const BUG: u8> {
    map: Map,
    /// Commands applied by this process, which no snapshot holds.
    applied: u64,
    /// Whether it came out of a snapshot.
    is_restored: bool,
}

/// It panics at an entry.
pub(crate) const PANICS: u8 = 0;
/// What it does depends on something that is not replicated.
pub(crate) const DIFFERS: u8 = 1;
/// It answers some commands and does not apply them.
pub(crate) const FORGETS: u8 = 2;
/// Some time after it came out of a snapshot it forgets a command.
pub(crate) const AGES: u8 = 3;

impl<const BUG: u8> StateMachine for Wrong<BUG> {
    type View = MapView;
    type Image = MapImage;

    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes {
        self.applied += 1;
        assert!(BUG != PANICS || index != 40, "no machine is this wrong");
        let skips = match BUG {
            DIFFERS => self.applied.is_multiple_of(10),
            FORGETS => index.is_multiple_of(10),
            AGES => self.is_restored && self.applied == 100,
            _ => false,
        };
        if skips {
            let copy = Map::restore(&mut &written(&self.map)[..]);
            return copy.expect("it was just written").apply(index, command);
        }
        self.map.apply(index, command)
    }

    fn view(&self) -> MapView {
        self.map.view()
    }

    fn query(view: &MapView, query: &Bytes) -> Bytes {
        Map::query(view, query)
    }

    fn image(&self) -> MapImage {
        self.map.image()
    }

    fn restore(source: &mut dyn std::io::Read) -> Result<Self, RestoreError> {
        let map = Map::restore(source)?;
        Ok(Self {
            map,
            applied: 0,
            is_restored: true,
        })
    }
}

fn written(map: &Map) -> Vec<u8> {
    let mut bytes = Vec::new();
    map.image().write_to(&mut bytes).expect("memory takes it");
    bytes
}

/// The usual calls, on a wrong machine.
pub(crate) struct OnWrong<const BUG: u8>(KvWorkload);

impl<const BUG: u8> Workload for OnWrong<BUG> {
    type Machine = Wrong<BUG>;

    fn new(config: &Config) -> Self {
        Self(KvWorkload::new(config))
    }

    fn call(&mut self, clerk: usize, rng: &mut Rng, now_ns: u64) -> (Ticket, Call) {
        self.0.call(clerk, rng, now_ns)
    }

    fn last_calls(&mut self, clerk: usize, now_ns: u64) -> Vec<(Ticket, Call)> {
        self.0.last_calls(clerk, now_ns)
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
        now_ns: u64,
    ) -> Result<(), String> {
        self.0.answered(ticket, answer, now_ns)
    }

    fn judge(&self) -> Result<(), String> {
        self.0.judge()
    }

    fn calls(&self) -> u64 {
        self.0.calls()
    }
}
