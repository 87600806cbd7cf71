//! What a cluster may cost that has nothing to do.

use std::time::Duration;

use crate::config::Config;
use crate::world::Counts;

/// What all nodes together may do in a given time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    passes: u64,
    messages: u64,
    bytes: u64,
}

/// Measured of three idle nodes: a group sends each peer a heartbeat and gets one answer, an interval. That takes 6.2 passes
/// in all: one for the timer of the leader, one for each heartbeat, one for each answer, and 1.2 for timers that fire in vain.
const MESSAGES_A_PEER: u64 = 2;

/// A heartbeat or its answer alone in a frame, with all around it: 61 bytes were measured.
const BYTES_A_MESSAGE: u64 = 80;

/// A worker looks at the size of its log once a second.
const OTHER_PASSES: u64 = 2;

/// Each worker looks at the health of its node, and one tells the peers of it, so often an election timeout. Each worker of a
/// peer may take the status in a pass of its own.
const LOOKS_PER_TIMEOUT: u64 = 2;

/// The status of a node in a frame.
const BYTES_A_STATUS: u64 = 160;

impl Budget {
    /// What a cluster may do that is whole and at rest, in so long a time.
    pub fn idle(config: &Config, during_ns: u64) -> Self {
        let nodes = 0..config.nodes;
        // Where nodes differ, and clocks run fast, as the fastest of them.
        let options = nodes.flat_map(|node| (0..LIVES).map(move |life| (node, life)));
        let intervals = options
            .clone()
            .map(|(node, life)| config.options_of(node, life).heartbeat_interval);
        let interval: Duration = intervals.min().unwrap_or(config.options.heartbeat_interval);
        let (_, fastest_permille) = config.rates_permille;
        let shown_ns = during_ns * fastest_permille / 1_000;
        let beats = shown_ns / (interval.as_nanos() as u64).max(1) + 2;
        let timeouts = options.map(|(node, life)| config.options_of(node, life).election_timeout);
        let timeout: Duration = timeouts.min().unwrap_or(config.options.election_timeout);
        let looks = shown_ns * LOOKS_PER_TIMEOUT / (timeout.as_nanos() as u64).max(1) + 2;
        let (groups, peers) = (u64::from(config.groups), config.nodes as u64 - 1);
        let messages = groups * beats * peers * MESSAGES_A_PEER;
        let nodes = config.nodes as u64;
        let statuses = nodes * peers * looks;
        let workers = config.options.workers as u64;
        let others = (nodes * (OTHER_PASSES + looks) + statuses) * workers;
        Self {
            // Half as much again: timers of followers fire, find that their leader was heard, and are set anew.
            passes: (groups * beats + messages) * 3 / 2 + others,
            messages,
            bytes: messages * BYTES_A_MESSAGE + statuses * BYTES_A_STATUS,
        }
    }

    /// An error says what was spent of it, and how much of that there was.
    pub fn check(&self, spent: &Counts) -> Result<(), String> {
        let of = [
            ("passes", spent.passes, self.passes),
            ("messages", spent.messages, self.messages),
            ("bytes", spent.bytes, self.bytes),
        ];
        for (what, found, bound) in of {
            if found > bound {
                return Err(format!(
                    "a cluster with nothing to do costs too much: {found} {what}, and at most {bound} may"
                ));
            }
        }
        Ok(())
    }
}

/// Whether leaders sent what they took about once to each of so many peers. An error says what they sent.
pub fn check_appended(spent: &Counts, peers: u64) -> Result<(), String> {
    let bound = spent.proposed_bytes * peers * 11 / 10 + APPENDED_BYTES_BESIDE;
    if spent.appended_bytes > bound {
        return Err(format!(
            "what leaders took is sent again and again: {} bytes of entries to {peers} peers of {} that were taken",
            spent.appended_bytes, spent.proposed_bytes
        ));
    }
    Ok(())
}

/// A command or two on their way as counting begins.
const APPENDED_BYTES_BESIDE: u64 = 1 << 10;

/// So many lives of a node are looked at where its options differ from life to life.
const LIVES: u32 = 32;
