//! The heaviest scenarios on real threads: the nodes of a `Cluster` with its runtime, clerks as users have them, and disks that
//! lose what was not synced when their power goes off.
//!
//! They are those that put most on a cluster: of the clerks', the ones with most clients, nodes and kinds of faults at once; of
//! Raft's, the ones with most crashes, cuts and snapshots. Over virtual time, too, they take most steps and most time of their kind.
//! The thresholds are the course's. Real time passes here, so there are fewer rounds, and no more than one seed.
//!
//! What is not as over virtual time: a command is given to a server by its own handle, which sends it again in its session where
//! the course gives it up; what a server has applied is what its replica shows.

mod clerks;
mod nodes;
mod raft;
mod servers;
mod stage;
