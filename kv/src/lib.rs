//! Placeholder.
#![forbid(unsafe_code)]
mod outcome;
pub use outcome::{Outcome, SessionId};
