//! What clerks call, and what becomes of it.

mod guarded;
mod kv;

use quorate::Error;
use quorate::simulation::{CommandBuffer, StateMachine};
use quorate::{Bytes, Consistency};

use crate::config::Config;
use crate::seed::Rng;

pub(crate) use guarded::{Guarded, MachinePanic, text_of};
pub use kv::{KvWorkload, call_of, response_of};

/// A call of a clerk.
#[derive(Debug)]
pub struct Call {
    /// What it concerns: calls on one key go to one group.
    pub key: Bytes,
    /// What is asked.
    pub kind: CallKind,
}

/// What is asked.
#[derive(Debug)]
pub enum CallKind {
    /// A command.
    Write(CommandBuffer),
    /// A query.
    Query(Consistency, Bytes),
}

/// Names a call of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A state machine, the calls that are made on it, and what answers to them are right.
pub trait Workload: Sized {
    /// The machine.
    type Machine: StateMachine;

    /// The workload of a run.
    fn new(config: &Config) -> Self;

    /// The next call of a clerk.
    fn call(&mut self, clerk: usize, rng: &mut Rng, now_ns: u64) -> (Ticket, Call);

    /// The calls that look at everything once more, at the end of a run.
    fn last_calls(&mut self, clerk: usize, now_ns: u64) -> Vec<(Ticket, Call)>;

    /// The answer to a call. An error: no machine may answer so.
    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
        now_ns: u64,
    ) -> Result<(), String>;

    /// Whether all answers together are right.
    fn judge(&self) -> Result<(), String>;

    /// How many calls were made.
    fn calls(&self) -> u64;

    /// A call in a few words, for those who read of it. Asked right after it was made.
    fn describe(&self, ticket: Ticket, call: &Call) -> String {
        let _ = ticket;
        let what = match &call.kind {
            CallKind::Write(_) => "write",
            CallKind::Query(..) => "query",
        };
        format!("{what} {}", call.key.escape_ascii())
    }

    /// The calls on which [`judge`](Self::judge) fails, the one whose answer cannot be right first, as far as they are
    /// known. Asked after a failure only, for those who draw it.
    fn suspects(&self) -> Vec<Ticket> {
        Vec::new()
    }
}
