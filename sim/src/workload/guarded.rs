//! A workload whose machine says so when it panics, so that a run can tell whose panic it was.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use quorate::simulation::{RestoreError, StateMachine};
use quorate::{Bytes, Error};

use super::{Call, Ticket, Workload};
use crate::config::Config;
use crate::seed::Rng;

/// What a panic of a machine is turned into.
#[derive(Debug)]
pub(crate) struct MachinePanic {
    /// Where in the machine.
    pub(crate) place: String,
    /// What it said.
    pub(crate) text: String,
}

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

/// A workload on a machine that is watched.
pub(crate) struct Guarded<W>(pub(crate) W);

/// A machine that is watched.
#[derive(Default)]
pub(crate) struct GuardedMachine<M>(M);

impl<M: StateMachine> StateMachine for GuardedMachine<M> {
    type View = M::View;
    type Image = M::Image;

    fn supports(command: &[u8]) -> bool {
        guard(|| "supports".to_owned(), || M::supports(command))
    }

    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes {
        let machine = &mut self.0;
        guard(
            || format!("apply, at index {index}"),
            || machine.apply(index, command),
        )
    }

    fn view(&self) -> M::View {
        guard(|| "view".to_owned(), || self.0.view())
    }

    fn query(view: &M::View, query: &Bytes) -> Bytes {
        guard(|| "query".to_owned(), || M::query(view, query))
    }

    fn image(&self) -> M::Image {
        guard(|| "image".to_owned(), || self.0.image())
    }

    fn restore(source: &mut dyn io::Read) -> Result<Self, RestoreError> {
        guard(|| "restore".to_owned(), || M::restore(source)).map(Self)
    }
}

fn guard<T>(place: impl FnOnce() -> String, call: impl FnOnce() -> T) -> T {
    // The machine is not used again: the run is over.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        resume_unwind(Box::new(MachinePanic {
            place: place(),
            text: text_of(panic.as_ref()).to_owned(),
        }))
    })
}

impl<W: Workload> Workload for Guarded<W> {
    type Machine = GuardedMachine<W::Machine>;

    fn new(config: &Config) -> Self {
        Self(W::new(config))
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

    fn describe(&self, ticket: Ticket, call: &Call) -> String {
        self.0.describe(ticket, call)
    }

    fn suspects(&self) -> Vec<Ticket> {
        self.0.suspects()
    }
}
