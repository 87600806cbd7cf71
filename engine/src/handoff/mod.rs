//! Where one thread hands something to another that may sleep, in several steps whose order matters.
//!
//! Not here is what needs no checking of orders: state under one lock with its condition variable
//! (`transport/tcp/{queue,incoming,threads}.rs`, the stop of a node in `runtime/node.rs`), channels
//! (`runtime/jobs.rs`), and `is_busy` in `client/mod.rs`, which is changed under the window's lock
//! alone.
//!
//! The locks, flags and queues here come from [`sync`], which is either the real ones or those of a
//! model checker. With the feature `model-check` the tests in `model` run this code, not a copy of
//! it, through every interleaving of a few threads (up to a number of preemptions), and through
//! what the memory order allows a load to see.
//!
//! | module | from | to |
//! | --- | --- | --- |
//! | [`flag`] | the log's threads | a shard: look at the log |
//! | [`desk`] | any thread | a worker: actors come, get events, and go |
//! | [`slot`] | whoever has the answer | a caller that blocks or is a future |
//! | [`relay`] | any thread with a client's window | whoever completes and sends |
//! | [`leased`] | the worker of a replica | readers on other threads: view and lease |
//! | [`bell`] | callers | the timer |
//! | [`calls`] | any thread | threads that run the program's own code |
//!
//! Nothing in here knows what is handed over, except that a waiting caller gets an answer.

pub(crate) mod bell;
pub(crate) mod calls;
pub(crate) mod desk;
pub(crate) mod flag;
pub(crate) mod leased;
pub(crate) mod relay;
pub(crate) mod slot;
mod sync;

#[cfg(all(test, feature = "model-check"))]
mod model;
