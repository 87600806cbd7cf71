//! What peers and clients may send without stopping anything: extreme numbers, forged snapshots, entries that are too
//! large, limits that differ. Nodes are driven by hand.
#![cfg(feature = "simulation")]

mod bench;
mod forged;
mod frames;
mod limits;
mod streams;
mod transfers;
