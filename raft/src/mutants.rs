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
    /// A leader commits entries of earlier terms by counting who has them (Raft, figure 8; `LogCabin` #44).
    COMMITS_OLD_TERMS;
    /// A vote leaves before it is durable (`NuRaft` #185, camunda #1068).
    VOTES_BEFORE_DURABLE;
    /// A vote is forgotten when a leader or candidate steps down within its term (CCF PR 8094).
    FORGETS_VOTE_IN_TERM;
    /// A vote is not read back after a restart (camunda #5356, nebula #2405).
    FORGETS_VOTE_AT_RESTART;
    /// Logs are compared by length first, not by term first (openraft a48a3282).
    COMPARES_LENGTH_FIRST;
    /// A follower commits what the leader did, also where its log was not compared (openraft's change log).
    COMMITS_BEYOND_MATCH;
    /// A heartbeat commits what the follower was not known to hold (etcd-io/raft `sendHeartbeat`).
    HEARTBEAT_COMMITS_UNMATCHED;
    /// A late, shorter append cuts off what was acknowledged (openraft 9540c904, redpanda #17895).
    STALE_APPEND_CUTS;
    /// The end of a write counts entries that replaced its own (etcd #1690, cockroach #124440).
    OLD_WRITE_COUNTS_NEW_ENTRIES;
    /// A leader counts its own entries before they are durable (etcd #14370, d-engine #445).
    COUNTS_ITSELF_EARLY;
    /// Answers to an earlier term are counted (xraft #33, little-raft #44).
    COUNTS_OLD_ANSWERS;
    /// A new leader answers reads before an entry of its term is committed (etcd #7331, redisraft #18).
    READS_BEFORE_OWN_COMMIT;
    /// Reads are confirmed by answers to heartbeats that were sent before them (etcd #20418).
    OLD_ANSWERS_CONFIRM_READS;
    /// A leader confirms reads without asking anybody (d-engine #381).
    CONFIRMS_READS_ALONE;
    /// A read is answered before its index is applied (`NuRaft` #288, etcd #13464).
    READS_BEFORE_APPLIED;
    /// A lease counts from when the answer came, not from when the question left (jraft PR 34).
    LEASE_FROM_ANSWER;
    /// A leader keeps its lease while it hands over (etcd #12704).
    LEASE_SURVIVES_TRANSFER;
    /// A follower votes although it hears a leader, whose lease rests on it (thesis 4.2.3 and 6.4.1).
    VOTES_WHILE_HEARING_LEADER;
    /// Candidates do not ask beforehand whether they can win (thesis 9.6; the etcd outage at Cloudflare in 2020).
    SKIPS_PRE_VOTE;
    /// A leader that hears no quorum goes on leading (cockroach PR 104042).
    LEADS_WITHOUT_QUORUM;
    /// A peer that was probed in vain is never probed again (etcd-io/raft #31).
    PAUSED_PEER_NEVER_RESUMES;
    /// A peer to which a snapshot could not be brought waits for it for ever (hashicorp/raft #697).
    FAILED_SNAPSHOT_NEVER_RETRIED;
    /// A refused append is sent again from the same place (openraft 6d53aa12).
    IGNORES_CONFLICT_HINT;
    /// A snapshot that is older than what was committed is installed (hashicorp/raft #212, etcd #7470).
    INSTALLS_OLD_SNAPSHOTS;
    /// An installed snapshot leaves a log on disk that contradicts it (openraft #559).
    SNAPSHOT_KEEPS_CONFLICTS;
    /// What was committed before a restart is not applied again (redisraft #14).
    SKIPS_REPLAY;
    /// One message raises the term as far as it likes, also to the last one (found here, by forged messages: a group without
    /// a leader for good).
    BELIEVES_ANY_TERM;
    /// An entry of a kind that no replica can apply is stored (found here, by forged messages: committed, it halted a replica for
    /// good).
    STORES_CONFIGURATIONS;
    /// A leader's lease is as long as its own election timeout allows, whatever shorter one a peer announced (found here:
    /// a cluster of unequal options).
    LEASE_IGNORES_SHORTER_PROMISE;
    /// What a follower with a slow disk has not yet acknowledged is sent again every few heartbeats (found here: everything was
    /// sent 2.8 times at syncs of 150 ms).
    RESENDS_TO_SLOW_DISK;
    /// A replica that lacks what its leader takes for stored there goes on and votes (found here, with an older copy of a
    /// directory: an acknowledged write was lost).
    FORGOTTEN_ENTRIES_ARE_NO_LOSS;
}
