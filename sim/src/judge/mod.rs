//! Judges of histories: what clients called, what they were answered, and in which order.

mod appends;
mod history;
mod linearizability;
mod register;

pub use appends::{AppendViolation, AppendsSeen, ClientOrder, check_appends};
pub use history::{ClientId, History, Op, OpId, Operation, Response};
pub use linearizability::{Explanation, Verdict, check_linearizable};
