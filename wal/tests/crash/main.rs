//! The log on a disk that loses power, fails, fills up, lies and rots.
//!
//! The exhaustive tier (`exhaustive`, `nested`, `rot`) tries every crash of every short program and
//! every flipped bit of a small log; the other modules hold one test for each fault that has a
//! name. What is random has a seed, which every message tells; `QUORATE_SEED` runs one of them
//! again.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "../common/mod.rs"]
mod common;

mod errors;
mod exhaustive;
mod full;
mod handles;
mod lies;
mod lives;
mod model;
mod names;
mod nested;
mod proofs;
mod reclaim;
mod recovery;
mod rot;
mod slices;
mod slots;
mod snapshots;
mod stale;
mod torn;
mod unsynced;
mod world;
