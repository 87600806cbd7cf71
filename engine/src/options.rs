//! What a user may tune, with defaults that suit a local network and an ordinary SSD.

use std::time::Duration;

use quorate_wal::{ENTRY_BYTES_LIMIT, LogOptions};

use crate::error::OpenError;
use crate::node::MARGIN_BYTES;

/// The least that `log.entry_bytes_max` may be, in bytes. The smallest of all members counts, and what opens a session must
/// fit.
pub(crate) const ENTRY_BYTES_MIN: u64 = 1 << 10;

/// Tunables of a node and of the clients that it serves. Every bound in the system that is not a
/// limit of a format stands here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How long a follower waits for its leader before it asks for an election; the wait is drawn between this and
    /// twice this. At most an hour. Nodes tell each other theirs, and leases rest on the shortest; a node that is opened
    /// again waits for the longest that any of them may still count on before it votes. Default 500 ms.
    pub election_timeout: Duration,
    /// How often a leader shows that it lives. At most a third of the election timeout. Default 50 ms.
    pub heartbeat_interval: Duration,
    /// By how much two machines' clocks may drift apart, in percent of the time passed; shortens the lease of
    /// [`Consistency::Lease`](crate::Consistency) reads. Default 10.
    pub clock_drift_percent: u8,
    /// How long a node that stops in order ([`Db::close`](crate::Db::close), the last handle dropped) waits at most for others
    /// to take over the groups that it leads; zero: it hands nothing over, and they elect once they miss it. It does not wait
    /// where nobody can take over. At most a minute. Default 500 ms.
    pub hand_over_timeout: Duration,
    /// How long a call may take before it fails with [`Error::Timeout`](crate::Error). Default 10 s.
    pub call_timeout: Duration,
    /// How long [`Clerk::connect_with`](crate::Clerk::connect_with) looks for a node that answers: names are looked up,
    /// connections made and answers waited for within it. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a client waits for a node's answer before it asks another one; longer each time all were asked in vain, up to
    /// `call_timeout`. Also how long a read of a [`Db`](crate::Db) waits for a replica that is behind before the leader is asked
    /// instead, up to half of `call_timeout`. Default 1 s.
    pub retry_after: Duration,
    /// How many writes one client may have outstanding in one group. Default 4,096.
    pub outstanding_max: usize,
    /// How many sessions a group keeps; the one unused for longest makes room. Default 100,000.
    pub sessions_max: u32,
    /// Bytes of log after which a group is snapshotted, at least; a group whose snapshot is larger waits for as
    /// many bytes of log as its snapshot has. Default 32 MiB.
    pub snapshot_log_bytes: u64,
    /// A snapshot is written in steps of so many bytes, each made durable before the next one begins, so that a sync of
    /// the log waits for one step at most. A multiple of 256 KiB up to 64 MiB. Default 1 MiB.
    pub snapshot_step_bytes: u64,
    /// Bytes of snapshots that are written, and read back, in a second at most, by all nodes of a process together; at
    /// least 1 MiB. `None` for as fast as the disk takes them. What is written is read back, so that a log that grows
    /// faster than half of this, beside snapshots as long as the log, meets the bound on its size and writes are
    /// refused. Default 256 MiB.
    pub snapshot_bytes_per_s: Option<u64>,
    /// The longest snapshot that this node takes from a leader, in bytes. The state of a group lives in memory, so
    /// this is far more than one has. Default 64 GiB.
    pub snapshot_bytes_max: u64,
    /// How many entries stay in the log behind a snapshot, for followers that lag a little. Default 1,024. With 0 nothing stays,
    /// not even what follows a snapshot that is on its way to a follower.
    pub trailing_entries: u64,
    /// Entries that a group's leader holds uncommitted before it refuses more, in bytes. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// Recent entries that a group keeps in memory for its followers, in bytes. Default 16 MiB.
    pub cache_bytes_max: usize,
    /// Entries in one message to a follower, in bytes. Default 1 MiB.
    pub append_bytes_max: usize,
    /// Messages with entries on their way to one follower of one group. Default 256.
    pub inflight_messages_max: usize,
    /// Bytes of entries on their way to one follower of one group. Default 32 MiB.
    pub inflight_bytes_max: usize,
    /// Frames and requests that wait for one worker before more are refused. Default 65,536.
    pub queue_max: usize,
    /// Whether wakers of futures are called where the answer is given, which saves a wake-up for each call that is awaited
    /// alone. Only for executors whose wakers return at once, as those of Tokio and smol do: one that blocks then stops all
    /// groups of a worker, and what would block in it fails with [`Error::OwnThread`](crate::Error). Default false: they
    /// are called on threads of their own.
    pub inline_wakers: bool,
    /// Threads that own the groups. Default: a quarter of the machine's processors, at least 1, at most 8.
    pub workers: usize,
    /// The log's own tunables.
    pub log: LogOptions,
}

/// The longest timer of the protocol.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// A node that is to stop does so in a time that somebody waits for.
const HAND_OVER_TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// Steps consist of whole chunks of a snapshot file.
const STEP_BYTES_MIN: u64 = 256 << 10;
const STEP_BYTES_MAX: u64 = 64 << 20;

/// With less, a snapshot of a few gigabytes takes longer than an hour.
const SNAPSHOT_RATE_MIN: u64 = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(50),
            clock_drift_percent: 10,
            hand_over_timeout: Duration::from_millis(500),
            call_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            retry_after: Duration::from_secs(1),
            outstanding_max: 4_096,
            sessions_max: 100_000,
            snapshot_log_bytes: 32 << 20,
            snapshot_step_bytes: 1 << 20,
            snapshot_bytes_per_s: Some(256 << 20),
            snapshot_bytes_max: 64 << 30,
            trailing_entries: 1_024,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 16 << 20,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 32 << 20,
            queue_max: 65_536,
            inline_wakers: false,
            workers: (processors / 4).clamp(1, 8),
            log: LogOptions::default(),
        }
    }
}

impl Options {
    /// Checks that the values fit together; every way to open a node calls it.
    pub fn validate(&self) -> Result<(), OpenError> {
        let refuse = |what: &str| {
            Err(OpenError::Options {
                reason: what.to_owned(),
            })
        };
        // Checked before it is announced to peers, who hold this node to it after it is started again.
        if self.election_timeout > ELECTION_TIMEOUT_MAX {
            return refuse("election_timeout must be at most an hour");
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 3 > self.election_timeout
        {
            return refuse(
                "heartbeat_interval must be above zero and at most a third of election_timeout",
            );
        }
        if self.hand_over_timeout > HAND_OVER_TIMEOUT_MAX {
            return refuse("hand_over_timeout must be at most a minute");
        }
        if !(1..=90).contains(&self.clock_drift_percent) {
            return refuse("clock_drift_percent must be from 1 to 90");
        }
        if self.workers == 0 || self.workers > 256 {
            return refuse("workers must be from 1 to 256");
        }
        if self.outstanding_max == 0
            || self.outstanding_max as u64 > quorate_kv::SESSION_WINDOW_MAX / 2
        {
            return refuse(
                "outstanding_max must be above zero and at most half of what a session keeps",
            );
        }
        if self.log.entry_bytes_max < ENTRY_BYTES_MIN {
            return refuse("log.entry_bytes_max must be at least 1 KiB");
        }
        if self.log.batch_bytes_max < self.log.entry_bytes_max.saturating_add(MARGIN_BYTES) {
            return refuse("log.batch_bytes_max must be at least 32 KiB above log.entry_bytes_max");
        }
        if self.snapshot_bytes_max == 0 {
            return refuse("snapshot_bytes_max must be above zero");
        }
        if self.sessions_max == 0 || self.queue_max == 0 || self.inflight_messages_max == 0 {
            return refuse("sessions_max, queue_max and inflight_messages_max must be above zero");
        }
        let is_step = self.snapshot_step_bytes.is_multiple_of(STEP_BYTES_MIN)
            && (STEP_BYTES_MIN..=STEP_BYTES_MAX).contains(&self.snapshot_step_bytes);
        if !is_step {
            return refuse("snapshot_step_bytes must be a multiple of 256 KiB, up to 64 MiB");
        }
        if self
            .snapshot_bytes_per_s
            .is_some_and(|rate| rate < SNAPSHOT_RATE_MIN)
        {
            return refuse("snapshot_bytes_per_s must be at least 1 MiB, or None");
        }
        if self.append_bytes_max == 0
            || self.uncommitted_bytes_max == 0
            || self.inflight_bytes_max == 0
        {
            return refuse("the byte windows must be above zero");
        }
        Ok(())
    }

    pub(crate) fn raft(&self, seed: u64) -> quorate_raft::Options {
        quorate_raft::Options {
            election_timeout_ns: nanos(self.election_timeout),
            heartbeat_interval_ns: nanos(self.heartbeat_interval),
            lease_drift_percent: self.clock_drift_percent,
            inflight_messages_max: self.inflight_messages_max,
            inflight_bytes_max: self.inflight_bytes_max,
            append_bytes_max: self.append_bytes_max,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            cache_bytes_max: self.cache_bytes_max,
            entry_bytes_max: ENTRY_BYTES_LIMIT as usize,
            pending_reads_max: self.queue_max,
            seed,
            ..quorate_raft::Options::default()
        }
    }
}

/// A duration as the `u64` of nanoseconds in which time is passed around.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
