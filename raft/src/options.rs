//! What a group may take in time, bytes and counts.

use crate::error::OptionsError;

/// An hour: no timer of the protocol is longer, so that adding two of them to a time cannot
/// overflow in any process that lives less than centuries.
const TIMER_MAX_NS: u64 = 3_600_000_000_000;

/// The bounds and timers of one group.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a follower does without its leader at least, in nanoseconds. Each wait is drawn
    /// from `[election_timeout_ns, 2 * election_timeout_ns)`. Also how long a leader leads without
    /// hearing from a quorum.
    pub election_timeout_ns: u64,
    /// How long a replica that was part of a group before neither votes nor stands after it
    /// started, in nanoseconds; the election timeout if that is longer. Must not be below the
    /// election timeout that the replica promised before it was restarted: a lease may rest on it.
    pub restart_wait_ns: u64,
    /// How often a leader shows that it lives, in nanoseconds; at most a third of the election
    /// timeout.
    pub heartbeat_interval_ns: u64,
    /// By how much two clocks may differ in speed, in percent of elapsed time, 1 to 90. A lease
    /// lasts `promise * (100 - lease_drift_percent) / 100`, where the promise is the shortest
    /// election timeout of all members: see [`Raft::set_promise_ns`](crate::Raft::set_promise_ns).
    pub lease_drift_percent: u8,
    /// Appends that one peer may owe an answer to.
    pub inflight_messages_max: usize,
    /// Bytes of entries that one peer may owe an answer to; the last message may exceed it by an
    /// entry.
    pub inflight_bytes_max: usize,
    /// Bytes of entries in one append; a larger entry travels alone.
    pub append_bytes_max: usize,
    /// Bytes of entries that a leader takes in before they are committed; a larger proposal is
    /// taken only when nothing else waits.
    pub uncommitted_bytes_max: usize,
    /// Bytes of durable entries kept in memory for peers that lag; the rest is read from the log.
    pub cache_bytes_max: usize,
    /// Bytes of one entry's payload that a follower takes from its leader at most: what the log
    /// under it can store whatever its own tunables say. A leader must keep its proposals below
    /// what all members take; an append that exceeds this is refused and counted.
    pub entry_bytes_max: usize,
    /// Reads that may wait for their confirmation.
    pub pending_reads_max: usize,
    /// Where the random election timeouts start from; mixed with the replica's id, so replicas may
    /// share it.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            election_timeout_ns: 500_000_000,
            restart_wait_ns: 0,
            heartbeat_interval_ns: 100_000_000,
            lease_drift_percent: 10,
            inflight_messages_max: 256,
            inflight_bytes_max: 8 << 20,
            append_bytes_max: 1 << 20,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 8 << 20,
            entry_bytes_max: 32 << 20,
            pending_reads_max: 65_536,
            seed: 0,
        }
    }
}

impl Options {
    /// Whether these options can work; says which one cannot.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.heartbeat_interval_ns == 0 {
            return Err(OptionsError::Zero {
                option: "heartbeat_interval_ns",
            });
        }
        if self.election_timeout_ns.max(self.restart_wait_ns) > TIMER_MAX_NS {
            return Err(OptionsError::ElectionTimeoutTooLong {
                limit_ns: TIMER_MAX_NS,
            });
        }
        // Two heartbeats may get lost before anybody takes the leader for dead.
        if self.heartbeat_interval_ns > self.election_timeout_ns / 3 {
            return Err(OptionsError::HeartbeatTooRare {
                heartbeat_interval_ns: self.heartbeat_interval_ns,
                election_timeout_ns: self.election_timeout_ns,
            });
        }
        if !(1..=90).contains(&self.lease_drift_percent) {
            return Err(OptionsError::DriftOutOfRange {
                percent: self.lease_drift_percent,
            });
        }
        let bounds = [
            ("inflight_messages_max", self.inflight_messages_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("append_bytes_max", self.append_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("cache_bytes_max", self.cache_bytes_max),
            ("entry_bytes_max", self.entry_bytes_max),
            ("pending_reads_max", self.pending_reads_max),
        ];
        for (option, value) in bounds {
            if value == 0 {
                return Err(OptionsError::Zero { option });
            }
        }
        Ok(())
    }

    /// How long after a round was sent the leader may answer from its lease, once a quorum
    /// answered whose members all wait this long before they vote for another.
    pub(crate) fn lease_ns(&self, promise_ns: u64) -> u64 {
        promise_ns / 100 * (100 - u64::from(self.lease_drift_percent))
    }

    /// The unacknowledged bytes beyond the cache at which a follower drops appends and a leader
    /// refuses proposals: whoever sends them has a window, so only a disk that stands still gets
    /// here.
    pub(crate) fn backlog_bytes_max(&self) -> usize {
        let window_bytes = self.inflight_bytes_max.max(self.uncommitted_bytes_max);
        self.cache_bytes_max
            .saturating_add(window_bytes.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_the_lease_is_shorter_than_the_election_timeout() {
        let options = Options::default();
        assert_eq!(options.validate(), Ok(()));
        let lease_ns = options.lease_ns(options.election_timeout_ns);
        assert!(lease_ns < options.election_timeout_ns);
        assert_eq!(lease_ns, 450_000_000);
    }

    #[test]
    fn each_bad_option_is_named() {
        let bad = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.validate().expect_err("bad options").to_string()
        };
        assert!(bad(|o| o.heartbeat_interval_ns = 0).contains("heartbeat_interval_ns"));
        assert!(bad(|o| o.heartbeat_interval_ns = 200_000_000).contains("third"));
        assert!(bad(|o| o.lease_drift_percent = 0).contains("lease_drift_percent"));
        assert!(bad(|o| o.lease_drift_percent = 91).contains("lease_drift_percent"));
        assert!(bad(|o| o.election_timeout_ns = u64::MAX).contains("election_timeout_ns"));
        assert!(bad(|o| o.restart_wait_ns = u64::MAX).contains("election_timeout_ns"));
        assert!(bad(|o| o.append_bytes_max = 0).contains("append_bytes_max"));
        assert!(bad(|o| o.pending_reads_max = 0).contains("pending_reads_max"));
    }
}
