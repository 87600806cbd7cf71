//! What the members of a cluster take from each other at most.
//!
//! A limit is kept by whoever leads, when a command is proposed: then every member can store what the group
//! agrees on. A follower must not refuse what others have stored already, or it falls behind for good; it
//! takes whatever the format allows ([`quorate_wal::ENTRY_BYTES_LIMIT`]).

use std::sync::atomic::{AtomicU64, Ordering};

/// The limits of one node, shared by its shards.
#[derive(Debug)]
pub(crate) struct Limits {
    own_entry_bytes_max: u64,
    effective_entry_bytes_max: AtomicU64,
}

impl Limits {
    /// Until the others' limits are known, this node's own apply.
    pub(crate) fn new(entry_bytes_max: u64) -> Self {
        Self {
            own_entry_bytes_max: entry_bytes_max,
            effective_entry_bytes_max: AtomicU64::new(entry_bytes_max),
        }
    }

    /// The longest command that this node may propose.
    pub(crate) fn entry_bytes_max(&self) -> u64 {
        self.effective_entry_bytes_max.load(Ordering::Relaxed)
    }

    /// The least that any member announced last; this node's own limit counts besides.
    #[allow(
        dead_code,
        reason = "fed by the status that nodes exchange; tests feed it themselves"
    )]
    pub(crate) fn set_members_entry_bytes_max(&self, least_bytes: u64) {
        let bytes = least_bytes.min(self.own_entry_bytes_max);
        self.effective_entry_bytes_max
            .store(bytes, Ordering::Relaxed);
    }
}
