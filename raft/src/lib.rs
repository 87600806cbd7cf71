//! Placeholder.
#![forbid(unsafe_code)]
mod ids;
mod message;
pub use ids::{LogIndex, NodeId, PersistSeq, Round, Term};
pub use message::{Body, Config, Entry, EntryKind, HardState, Message, SnapshotMeta};
