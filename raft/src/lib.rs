//! The Raft protocol for one group, as a pure state machine.
//!
//! A [`Raft`] reads no clock, opens no file and sends nothing: time comes in as an argument,
//! messages come in through [`Raft::step`], and everything that is to happen outside leaves through
//! [`Raft::output`]. The same inputs therefore always lead to the same outputs, on real threads and
//! in a simulation.
//!
//! The caller's loop is short:
//!
//! 1. hand in what happened: messages, proposals, reads, [`Raft::tick`] when
//!    [`Raft::deadline_ns`] has passed;
//! 2. ask for the [`Output`]; send its messages, write its [`Persist`], apply its entries;
//! 3. when a write is durable, say so with [`Raft::on_persisted`], and ask again.
//!
//! `docs/raft.md` shows the message flow, the contract of the output in full, and which rule of the
//! protocol each test defends.
#![forbid(unsafe_code)]

mod durability;
mod error;
mod ids;
mod invariants;
mod log;
mod message;
mod mutants;
mod options;
mod output;
mod progress;
mod quorum;
mod raft;
mod reads;
mod rejection;
mod rng;
mod rounds;
mod terms;

pub use error::{LogReadError, OptionsError, ProposeError, ReadError, RestoreError, TransferError};
pub use ids::{LogIndex, NodeId, PersistSeq, Round, Term};
pub use invariants::{Observation, Violation, check_basic, check_delta};
pub use message::{Body, Config, Entry, EntryKind, HardState, Message, SnapshotMeta};
pub use options::Options;
pub use output::{LogReader, Output, Persist, ReadReady, Role, Soft};
pub use progress::{PeerState, PeerStatus};
pub use quorum::VOTERS_MAX;
pub use raft::{Raft, Restored};
pub use rejection::{Counters, Rejection, RejectionReason};
