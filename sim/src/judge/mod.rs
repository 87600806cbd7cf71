//! Judges of histories: what clients called, what they were answered, and in which order. And judges of every step
//! of a simulated run.

mod appends;
mod history;
mod invariants;
mod linearizability;
mod register;

pub use appends::{AppendViolation, AppendsSeen, ClientOrder, check_appends};
pub use history::{ClientId, History, Op, OpId, Operation, Response};
pub use invariants::{Judge, Ledger, Step};
pub use linearizability::{Explanation, Verdict, check_linearizable};
