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
    /// Snapshots do not hold the sessions (atomix #1101, `TiKV` #4716).
    SNAPSHOT_WITHOUT_SESSIONS;
    /// Snapshots do not hold the answers that are kept, so that what is sent again takes effect again (atomix #341).
    SNAPSHOT_WITHOUT_ANSWERS;
    /// A command of a session that expired takes effect (dragonboat keeps 4,096 sessions and says no more).
    EXPIRED_SESSION_EXECUTES;
    /// What is sent again takes effect again (thesis 6.3).
    RETRY_EXECUTES;
    /// Which session expires depends on when the replica was restored (copycat #232, `RaftKeeper` #58).
    EXPIRY_DEPENDS_ON_REPLICA;
    /// Answers are freed up to what was applied, not up to what the client has (thesis 6.3).
    FREES_UNACKNOWLEDGED_ANSWERS;
}
