//! The same work without Quorate: what the disk and the threads of this machine give at best.

mod append;
mod direct;
mod file;
mod quorum;
mod tickets;
mod under_way;

pub use append::{GroupCommit, RawAppend, UnderWay};
pub use direct::DirectAppend;
pub use quorum::QuorumProbe;
pub(crate) use tickets::Tickets;
pub use under_way::TwoUnderWay;
