//! Judges of histories: what clients called, what they were answered, and in which order. And judges of every step
//! of a simulated run.
//!
//! # Judges of every step
//!
//! [`Observer`] turns steps into plain [`Event`]s and keeps [`Books`] of all lives of all nodes. Each [`Rule`] follows the
//! events and holds some of the invariants that `docs/testing.md` numbers. What needs more than events, such as the disks or
//! the machine, is a [`Judge`] of its own: [`Disks`], [`Replay`], [`Bounds`].

mod appends;
mod books;
mod bounds;
mod by_index;
mod commits;
mod directories;
mod disks;
mod elections;
mod history;
mod linearizability;
mod logs;
mod observer;
mod offices;
mod promises;
mod reads;
mod register;
mod replay;
mod sessions;
mod snapshots;
mod step;

pub use appends::{AppendViolation, AppendsSeen, ClientOrder, check_appends};
pub use books::{Books, Committed, Directory, Event, GroupBook, Place, Promise, ReplicaBook, Rule};
pub use bounds::Bounds;
pub use commits::Commits;
pub use directories::Directories;
pub use disks::{
    Disks, Rates, check_aside, check_files, check_floor, check_group, check_twice, recovered,
};
pub use elections::Elections;
pub use history::{ClientId, History, Op, OpId, Operation, Response};
pub use linearizability::{Explanation, Verdict, check_linearizable};
pub use logs::Logs;
pub use observer::{HELD_MAX, Observer};
pub use offices::Offices;
pub use promises::Promises;
pub use reads::Reads;
pub(crate) use reads::is_wait;
pub use replay::Replay;
pub use sessions::SessionRule;
pub use snapshots::SnapshotRule;
pub use step::{Judge, Step};
