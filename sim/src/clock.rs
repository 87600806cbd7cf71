//! The clock of one node: it runs at a rate of its own and may jump ahead, and never goes back.

/// A rate of 1, in parts per thousand.
pub const TRUE_RATE: u64 = 1_000;

/// A node's clock as a function of virtual time.
#[derive(Clone, Debug)]
pub struct Clock {
    /// How fast it runs, in parts per thousand of virtual time.
    rate_permille: u64,
    /// What it showed when its rate was set, and when that was.
    shown_ns: u64,
    since_ns: u64,
}

impl Clock {
    /// A clock that shows `shown_ns` at the beginning of the run.
    pub fn new(shown_ns: u64, rate_permille: u64) -> Self {
        assert!(rate_permille > 0, "a clock runs");
        Self {
            rate_permille,
            shown_ns,
            since_ns: 0,
        }
    }

    /// What it shows.
    pub fn at(&self, now_ns: u64) -> u64 {
        let passed = u128::from(now_ns - self.since_ns) * u128::from(self.rate_permille);
        self.shown_ns + (passed / u128::from(TRUE_RATE)) as u64
    }

    /// When it will show this at the latest, if its rate stays; now, if it does already.
    pub fn when(&self, shown_ns: u64, now_ns: u64) -> u64 {
        let left = u128::from(shown_ns.saturating_sub(self.shown_ns)) * u128::from(TRUE_RATE);
        let passed = u64::try_from(left.div_ceil(u128::from(self.rate_permille)));
        let at_ns = passed.map_or(u64::MAX, |passed| self.since_ns.saturating_add(passed));
        at_ns.max(now_ns)
    }

    /// Runs at another rate from now on.
    pub fn set_rate(&mut self, rate_permille: u64, now_ns: u64) {
        assert!(rate_permille > 0, "a clock runs");
        self.shown_ns = self.at(now_ns);
        self.since_ns = now_ns;
        self.rate_permille = rate_permille;
    }

    /// Jumps ahead.
    pub fn jump(&mut self, by_ns: u64) {
        self.shown_ns += by_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_what_it_said_it_would_and_never_goes_back() {
        let mut clock = Clock::new(5_000, 500);
        assert_eq!(clock.at(100), 5_050);
        clock.set_rate(2_000, 100);
        assert_eq!((clock.at(100), clock.at(101)), (5_050, 5_052));
        clock.jump(1_000);
        assert_eq!(clock.at(101), 6_052);
        for (rate, wanted) in [(333, 9_000), (1_999, 9_001), (1_000, 6_052)] {
            clock.set_rate(rate, 101);
            let at_ns = clock.when(wanted, 101);
            assert!(clock.at(at_ns) >= wanted);
            assert!(at_ns == 101 || clock.at(at_ns - 1) < wanted);
        }
        assert_eq!(clock.when(1, 200), 200, "it shows that already");
    }
}
