//! The scenarios of a well-known distributed-systems course, by name, over virtual time.
//!
//! The course hands out three suites that thousands of implementations of Raft were measured against: raft (28 tests), a
//! key-value service with exactly-once clerks (23, in the form of 2023), and a replicated state machine (8, in that of 2025).
//! Here each of them is played on the nodes that `Db` runs, for several seeds, with the thresholds of the course. Names are the
//! course's, with its suffixes (raft as of 2024: 3a to 3d; clerks as of 2023: 3a and 3b; the machine: 4a and 4c).
//!
//! Besides them there are published bugs that none of these scenarios brings about (`published`), and the ten heaviest on real
//! threads (`threads`).
//!
//! How the course's terms are meant here:
//! - *Start on a server* is a request given to that node directly, which is refused unless it leads.
//! - *Crash* is a power cut: what was not synced is lost, in part or as a whole. The course's crashes lose nothing.
//! - *An index*: a new leader begins its term with an entry of its own, which no state machine sees. Where the course wants the
//!   first, second, third index, commands are counted instead of entries (`Raft::number_of`).
//! - *An RPC* is a message that wants an answer; the answer is not counted, as in the course. Bytes are those of both.
//! - *Size of the raft state*: payloads of the live entries of the log, and 32 bytes for each of them.
//! - *Size of a snapshot*: the whole file, with header and footer.
//! - *A linearizability checker that gives up* passes in the course. Here it has failed.
//! - *Long delays* of calls on dead links, which catch a leader that waits for an answer before it asks somebody else, have no
//!   meaning here: a node never waits for a message.
#![allow(clippy::doc_markdown)]

mod harness;
mod kv;
mod kv_snapshot;
mod published;
mod raft_agreement;
mod raft_election;
mod raft_persistence;
mod raft_snapshot;
mod rsm;
mod threads;
