//! Seeded simulation of Quorate clusters, and the judges of their histories.
//!
//! # A run
//!
//! [`run`] takes a seed and plays a cluster on one thread: the nodes are those that [`quorate::Db`] runs, opened from
//! virtual disks ([`quorate_wal::testing::CrashDisk`]), on virtual clocks, joined by a virtual network. Everything that
//! happens follows from the seed, and the same seed gives the same [trace](trace::Trace):
//!
//! - [`seed`]: one seed, and a stream of choices for each purpose.
//! - [`config`]: the shape of the run. [`faults`]: which classes of faults it meets (a swarm).
//! - [`budget`]: what a cluster may cost that has nothing to do.
//! - [`trials`]: what some runs meet beside faults.
//! - [`world`]: nodes, clerks, network and one heap of events in virtual time. [`network`], [`clock`], [`node`] are its parts.
//! - [`phases`]: boot; trouble; a random quorum must make progress while the rest is dead; all are healed and must agree;
//!   the power of all goes off, and every acknowledged write is read again.
//! - [`workload`]: what clerks call, on which machine, and which answers are right.
//! - [`reduction`] and [`shrink`](mod@shrink): what is left out of a run that fails, to make it small. [`story`] and [`picture`]: what
//!   happened in it, drawn. [`tool`]: the command line of all this, also for a machine of your own.
//! - [`judge`]: what must hold after every step, and of the whole history. [`marks`]: rare things that happened.
//!
//! # Judges of histories
//!
//! They also serve tests on real clusters. Record what every client calls and is answered in a [`judge::History`], then ask:
//! - [`judge::check_linearizable`]: is there any order that explains it? Exact, for every mix of
//!   operations, up to some thousands of operations for each key.
//! - [`judge::check_appends`]: the same for appends of unique tokens and reads, in nearly linear
//!   time.
//!
//! [`picture::write`] draws a history, and what a verdict says to look at.
#![forbid(unsafe_code)]

pub mod budget;
pub mod clock;
pub mod config;
mod damage;
pub mod faults;
pub mod judge;
pub mod marks;
pub mod network;
pub mod node;
pub mod phases;
pub mod picture;
pub mod reduction;
pub mod seed;
pub mod shrink;
pub mod story;
pub mod tool;
pub mod trace;
pub mod trials;
mod wire;
pub mod workload;
pub mod world;

pub use phases::{Failure, FailureClass, Report, run};
