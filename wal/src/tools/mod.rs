//! Looking into a log that nobody need have open: what it holds, whether all of it is sound, and
//! what the next open would make of it.
//!
//! Invariants:
//! - Nothing on disk is changed: the files are reached through [`look::ReadOnly`], which refuses
//!   every change.
//! - What an open would say is found by the code of the open itself.
//! - Memory is bounded by what an open takes, the index of one segment, and one batch.

mod batches;
mod check;
mod index;
mod inspect;
mod look;
mod repair;
mod verify;

pub use batches::{BatchInspection, Verdict, list_batches};
pub use inspect::{
    GroupInspection, GroupShare, Inspection, ManifestSlot, SegmentInspection, SegmentShare,
    SegmentState, SlotState, inspect,
};
pub use repair::{GroupLoss, RepairPlan, RepairStep, plan_repair};
pub use verify::{Cost, Note, Problem, Verification, VerifyProgress, verify};
