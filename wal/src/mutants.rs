//! Known bugs of this crate, for the simulator to find; `sim/mutants.sh` builds one in at a time.
//!
//! Each is a constant, false unless the feature `mutants` is on and the variable `QUORATE_MUTANT_` with
//! the name was set when the crate was compiled: nothing of them is left in an ordinary build. Each
//! says where the bug was seen before; a name that is used nowhere is a warning.

macro_rules! mutants {
    ($($(#[$source:meta])* $name:ident;)*) => {$(
        $(#[$source])*
        pub(crate) const $name: bool = cfg!(feature = "mutants")
            && option_env!(concat!("QUORATE_MUTANT_", stringify!($name))).is_some();
    )*};
}

mutants! {
    /// The log is not synced (hiqlite #361: `MS_ASYNC` does nothing on Linux).
    SKIPS_SYNC;
    /// A failed sync is tried again, and succeeds (`PostgreSQL` in 2018; cockroach #37102, rostam #94).
    RETRIES_FAILED_SYNC;
    /// After a failed write the log goes on with the next one (raft-engine #131).
    GOES_ON_AFTER_FAILURE;
    /// The name of a new segment is not durable when it is used (etcd #6368).
    SKIPS_DIRECTORY_SYNC;
    /// The tail is believed without looking at its CRCs (etcd #6378, #6379).
    BELIEVES_TORN_TAIL;
    /// What recovery read may be in the cache alone (Rebello and others, "Can applications recover from
    /// fsync failures?", 2020).
    RECOVERS_FROM_CACHE;
    /// A snapshot gets its name before it is durable (verdi-raft #51).
    NAMES_UNSYNCED_SNAPSHOT;
    /// Entries are moved over what was written meanwhile (a race of this log's own, see `Log::drop_stale_moves`).
    MOVES_OVER_NEWER_ENTRIES;
    /// What rotted is taken for a torn tail, and cut with all behind it (`LogCabin`'s `SegmentedLog.h`: "We can't
    /// distinguish between a corrupt file and a partially written entry").
    TAKES_ROT_FOR_TORN_TAIL;
    /// The chunks of a snapshot are believed without looking at their CRCs (NATS 2.12.1: one flipped bit in a
    /// snapshot).
    BELIEVES_ROTTEN_SNAPSHOT;
}
