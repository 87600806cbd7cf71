//! Reads that wait for a quorum to confirm that the leader still led when they were asked (thesis
//! 6.4).
//!
//! Invariants:
//! - a read is in exactly one place: waiting for its round to begin, or in a round;
//! - rounds ascend, so do their indexes;
//! - a round's messages are sent after every read in it was asked: only replies to it or to later
//!   rounds confirm it, and replies carry the round, so no old reply can.

use std::collections::VecDeque;

use crate::ids::{LogIndex, Round};
use crate::log::release_idle;
use crate::output::ReadReady;

/// The reads of one leader in one term.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<u64>,
    rounds: VecDeque<ReadRound>,
    count: usize,
}

#[derive(Clone, Debug)]
struct ReadRound {
    round: Round,
    index: LogIndex,
    tokens: Vec<u64>,
}

impl Reads {
    /// How many reads wait for anything.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, token: u64) {
        self.waiting.push(token);
        self.count += 1;
    }

    /// Whether reads wait for a round to begin.
    pub(crate) fn want_round(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All waiting reads go with `round`, at the commit index of now.
    pub(crate) fn begin(&mut self, round: Round, index: LogIndex) {
        debug_assert!(
            self.rounds
                .back()
                .is_none_or(|last| last.round < round && last.index <= index)
        );
        let tokens = std::mem::take(&mut self.waiting);
        self.rounds.push_back(ReadRound {
            round,
            index,
            tokens,
        });
    }

    /// A quorum has answered `round`.
    pub(crate) fn confirm(&mut self, round: Round, ready: &mut VecDeque<ReadReady>) {
        while self
            .rounds
            .front()
            .is_some_and(|first| first.round <= round)
        {
            let Some(ReadRound { index, tokens, .. }) = self.rounds.pop_front() else {
                break;
            };
            self.count -= tokens.len();
            ready.extend(tokens.into_iter().map(|token| ReadReady { token, index }));
        }
    }

    /// Gives memory back while no read waits.
    pub(crate) fn release(&mut self) {
        release_idle(&mut self.rounds);
    }

    /// Gives up on all of them.
    pub(crate) fn fail(&mut self, failed: &mut Vec<u64>) {
        for round in self.rounds.drain(..) {
            failed.extend(round.tokens);
        }
        failed.append(&mut self.waiting);
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_confirms_itself_and_earlier_ones_only() {
        let mut reads = Reads::default();
        let mut confirmed = VecDeque::new();
        reads.push(1);
        reads.push(2);
        reads.begin(Round(4), LogIndex(7));
        reads.push(3);
        reads.begin(Round(6), LogIndex(9));
        reads.confirm(Round(3), &mut confirmed);
        assert!(confirmed.is_empty());
        reads.confirm(Round(5), &mut confirmed);
        let expected = [1, 2].map(|token| ReadReady {
            token,
            index: LogIndex(7),
        });
        assert_eq!(confirmed, expected);
        assert_eq!(reads.count(), 1);
    }

    #[test]
    fn failing_names_every_read_that_was_not_confirmed() {
        let mut reads = Reads::default();
        reads.push(1);
        reads.begin(Round(1), LogIndex(1));
        reads.push(2);
        let mut failed = Vec::new();
        reads.fail(&mut failed);
        assert_eq!(failed, [1, 2]);
        assert_eq!(reads.count(), 0);
    }
}
