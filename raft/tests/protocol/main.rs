//! Rules of the protocol, each defended by a test that bears its name, on replicas whose network,
//! disks and clocks are in the test's hands.

mod aside;
mod cluster;
mod disk;
mod elections;
mod hostile;
mod judge;
mod leases;
mod proposals;
mod random;
mod reads;
mod replication;
mod resends;
mod restoring;
mod snapshots;
mod solo;
mod transfers;
