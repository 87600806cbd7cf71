//! When each confirmation round was sent: what leases and reads are measured by.
//!
//! Invariants:
//! - rounds are numbered from 1 without gaps, and their times never descend;
//! - only the newest [`ROUNDS_KEPT_MAX`] times are kept: a reply to an older round still confirms
//!   reads, but earns no lease.

use std::collections::VecDeque;

use crate::ids::Round;

/// Rounds whose send time is remembered.
pub(crate) const ROUNDS_KEPT_MAX: usize = 1024;

/// The rounds a leader began in its term.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundClock {
    newest: Round,
    /// The times of the newest rounds, ending with `newest`.
    sent_ns: VecDeque<u64>,
}

impl RoundClock {
    pub(crate) fn newest(&self) -> Round {
        self.newest
    }

    /// Begins a round whose messages leave at `now_ns` or later.
    pub(crate) fn begin(&mut self, now_ns: u64) -> Round {
        debug_assert!(self.sent_ns.back().is_none_or(|last| *last <= now_ns));
        if self.sent_ns.len() == ROUNDS_KEPT_MAX {
            self.sent_ns.pop_front();
        }
        self.sent_ns.push_back(now_ns);
        self.newest = self.newest.next();
        self.newest
    }

    /// When `round` was sent, if that is still remembered.
    pub(crate) fn sent_ns(&self, round: Round) -> Option<u64> {
        let back = self.newest.0.checked_sub(round.0)? as usize;
        let place = self.sent_ns.len().checked_sub(1 + back)?;
        self.sent_ns.get(place).copied()
    }

    /// Forgets the rounds before `round`, which a quorum answered.
    pub(crate) fn forget_before(&mut self, round: Round) {
        let keep = self.newest.0.saturating_sub(round.0) as usize + 1;
        while self.sent_ns.len() > keep {
            self.sent_ns.pop_front();
        }
    }

    /// Gives back the memory of a time when many rounds were under way.
    pub(crate) fn release(&mut self) {
        const IDLE_CAPACITY: usize = 8;
        if self.sent_ns.len() <= IDLE_CAPACITY / 2 && self.sent_ns.capacity() > IDLE_CAPACITY {
            self.sent_ns.shrink_to(IDLE_CAPACITY);
        }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.sent_ns.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_send_time_of_a_round_is_known_until_forgotten() {
        let mut rounds = RoundClock::default();
        for now_ns in [10, 20, 30] {
            rounds.begin(now_ns);
        }
        assert_eq!(rounds.sent_ns(Round(1)), Some(10));
        assert_eq!(rounds.sent_ns(Round(3)), Some(30));
        assert_eq!(rounds.sent_ns(Round(0)), None);
        assert_eq!(rounds.sent_ns(Round(4)), None);
        rounds.forget_before(Round(3));
        assert_eq!(rounds.sent_ns(Round(2)), None);
        assert_eq!(rounds.sent_ns(Round(3)), Some(30));
    }

    #[test]
    fn the_times_kept_are_bounded() {
        let mut rounds = RoundClock::default();
        for now_ns in 0..3 * ROUNDS_KEPT_MAX as u64 {
            rounds.begin(now_ns);
        }
        assert_eq!(rounds.sent_ns.len(), ROUNDS_KEPT_MAX);
        assert_eq!(
            rounds.sent_ns(rounds.newest()),
            Some(3 * ROUNDS_KEPT_MAX as u64 - 1)
        );
    }
}
