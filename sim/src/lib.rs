//! Judges of what clients saw, for simulations and for tests on real clusters.
//!
//! Record what every client calls and is answered in a [`judge::History`], then ask:
//! - [`judge::check_linearizable`]: is there any order that explains it? Exact, for every mix of
//!   operations, up to some thousands of operations for each key.
//! - [`judge::check_appends`]: the same for appends of unique tokens and reads, in nearly linear
//!   time.
#![forbid(unsafe_code)]

pub mod judge;
