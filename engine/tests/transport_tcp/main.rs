//! The TCP transport over real sockets of the loopback interface.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

mod clerks;
mod nodes;
mod strangers;
mod support;
