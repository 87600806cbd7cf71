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
    /// What is written counts as durable before it is synced (NATS 2.12.1, etcd #8144).
    ACKNOWLEDGES_UNSYNCED;
    /// A read is answered before its index is applied (`NuRaft` #288, etcd #13464).
    READS_BEFORE_APPLIED;
    /// A lease, once held, is not looked at again when it is used (jraft PR 34, yugabyte #16).
    LEASE_NEVER_ENDS;
    /// Whoever waits at an index is answered by the entry of another leader (redpanda #3003).
    ANSWERS_BY_INDEX_ALONE;
    /// A proposal of unknown fate is reported as without effect (`NuRaft` #298).
    UNKNOWN_IS_REFUSED;
    /// A snapshot that is older than what was committed is installed (hashicorp/raft #212, etcd #7470).
    INSTALLS_OLD_SNAPSHOTS;
    /// The log is cut by more than the snapshot that is named (hashicorp/raft #85, RATIS-2507).
    CUTS_BEYOND_SNAPSHOT;
    /// A received snapshot is named by its transfer: a copy that is not wanted takes its file away (found
    /// by the simulator in seed 325).
    SNAPSHOT_COPIES_SHARE_A_FILE;
    /// A follower that has all of a snapshot refuses it and says no more (found by the simulator in seed 513).
    REFUSES_SNAPSHOT_SILENTLY;
    /// The first of several batches says that all of them is committed (found by the simulator).
    FIRST_BATCH_COMMITS_ALL;
    /// Term and vote are left out of a write that is cut into several batches, and it counts as durable (tried here: no test
    /// failed).
    CUT_WRITE_LOSES_TERM;
    /// A busy leader is sent all of the window again (found by the simulator in seed 281).
    RESENDS_WHOLE_WINDOW;
    /// A leader takes every copy of a command into its log, and what is out of turn (found by the simulator in plain seed
    /// 112).
    LOGS_EVERY_COPY;
    /// A frame is believed whatever its CRC says (Amazon S3 in 2008: a flipped bit in what servers told each other).
    BELIEVES_FLIPPED_BITS;
    /// Entries that the log names as lost are ignored, and the group goes on as if it had them (NATS 2.12.1: one flipped
    /// bit in a block).
    IGNORES_LOST_ENTRIES;
    /// A lease that other threads read is never withdrawn, so that a transfer leaves a valid one (found here, by changing the
    /// code: nothing noticed).
    PUBLISHED_LEASE_STAYS;
    /// A node whose log is gone is taken for a new one, and votes again (a hole that was closed here).
    TAKES_LOST_LOG_FOR_NEW;
    /// A shard does not look at the log when it is attached: a move that was told before is lost, and no other is ever told
    /// (found here by a restart with several workers).
    ATTACHES_WITHOUT_LOOKING;
    /// Whoever waits until the replica here has applied an index is answered at once (tried here: no test failed).
    WAIT_APPLIED_ANSWERS_AT_ONCE;
    /// The answer to another copy of a read's question for an index counts as the word of the replica here (found here: reads
    /// up to 1,462 writes old).
    SECOND_COPY_ENDS_LOCAL_READ;
    /// The client of a node numbers its requests alike in each life of it, and takes the answer to an earlier life for its own
    /// (found here while the reads of the replica in a process were repaired).
    LIVES_SHARE_REQUEST_IDS;
    /// A node that comes with another directory is taken for the one that was met (a hole that was closed here: an empty
    /// disk under an old id).
    IGNORES_INCARNATION;
    /// The same, and nothing else that is known of that node is compared either: neither starts nor
    /// logs give it away.
    ACCEPTS_WIPED_DIRECTORIES;
    /// A node that shows its incarnation is taken for the newest life of it, whatever was written
    /// down of its starts and its log (a hole that was closed here).
    ACCEPTS_OLDER_COPIES;
    /// The book of peers is forgotten when a node is opened again.
    FORGETS_BOOK;
    /// A node votes and acknowledges before its cluster is founded.
    VOTES_UNFOUNDED;
    /// A cluster counts as founded once a majority of its nodes have met.
    FOUNDS_BY_MAJORITY;
    /// The number and nonce of a peer's start are not compared with those that are known.
    IGNORES_LIFE;
    /// How far a peer's log was durable is not compared with what is known.
    IGNORES_DURABLE_LSN;
    /// A node that was left out at the founding is taken in when it comes.
    ACCEPTS_RETIRED;
    /// The log refuses what this node took from its leader and is larger than this node's own limit (found here: a node with
    /// smaller limits than its peers failed for good).
    OWN_LIMITS_FAIL_LOG;
    /// A leader whose disk is full or stands still goes on leading, as its heartbeats still come (found here: no write for as long
    /// as the disk was sick).
    SICK_LEADER_STAYS;
    /// A snapshot that rotted is taken for an empty machine, from which its replica goes on (NATS 2.12.1: one flipped bit in a
    /// snapshot).
    ROTTEN_SNAPSHOT_IS_EMPTY;
    /// Each attempt to bring a snapshot to a follower begins with its first byte (found here: after a pause of ten seconds all
    /// was sent again).
    TRANSFERS_BEGIN_ANEW;
    /// The log is cut without regard to a snapshot that is on its way (found here: the follower needs the next one as soon as
    /// it has this one).
    CUTS_BEHIND_TRANSFER;
    /// A read waits for the replica in its process, however far that one lags, and asks nobody else (found here: a follower
    /// with a full disk).
    WAITS_FOR_LAGGING_REPLICA;
    /// A request whose answer was lost is not sent again as long as its node answers others (found here, by reading).
    LOST_ANSWER_IS_WAITED_FOR;
    /// Whoever answers under the right number speaks for the replica in the process of a client (found here, by reading).
    ANYBODY_SPEAKS_FOR_LOCAL_REPLICA;
    /// A node whose directory a peer refused as an older copy votes when that peer is gone (found here: an acknowledged write
    /// was lost).
    OUTDATED_TAKES_PART;
}
